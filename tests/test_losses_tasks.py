"""Binary and multilabel heads, shares as targets, boundary and skeletons: for every loss of classes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.errors import LabelsError, ShapeError, UsageError
from geoseg.losses import LOSSES, REGRESSION, boundary, cldice, distance_maps, lovasz_hinge
from geoseg.losses.skeleton import skeleton

OF_CLASSES = [name for name in LOSSES if name not in REGRESSION]
HARD = ("lovasz", "lovasz_hinge", "lovasz_sort", "boundary", "cldice")
SOFT = [name for name in OF_CLASSES if name not in HARD]
ALL = pytest.mark.parametrize("name", OF_CLASSES)
TASKS = pytest.mark.parametrize("task", ["binary", "multilabel"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(1)


def some(task, shape=(2, 7, 5), labels=3, ignored=0.2, dtype=torch.float32):
    size = (shape[0], 1 if task == "binary" else labels, *shape[1:])
    target = torch.randint(0, 2, shape if task == "binary" else size)
    target[torch.rand(target.shape) < ignored] = 255
    return torch.randn(size, dtype=dtype), target


def value_and_gradient(name, logits, target, **options):
    leaf = logits.clone().requires_grad_()
    loss = LOSSES[name](leaf, target, **options)
    loss.backward()
    return loss.detach(), leaf.grad


class TestIdentities:
    @ALL
    def test_one_logit_is_the_softmax_over_no_and_yes(self, name):
        logits, target = some("binary")
        pair = torch.cat([torch.zeros_like(logits), logits], 1)
        if name == "bce":  # one against the rest has two sigmoids
            pair = torch.cat([-logits, logits], 1)
        one, two = value_and_gradient(name, logits, target, task="binary"), value_and_gradient(name, pair, target)
        assert one[0] == pytest.approx(two[0].item(), rel=1e-5)
        if name != "bce":
            assert torch.allclose(one[1], two[1][:, 1:], atol=1e-7)

    @ALL
    def test_three_classes_of_which_one_never_occurs_are_two(self, name):
        """The path of two classes and the path of many agree."""
        if name in ("bce", "lovasz_hinge", "boundary"):
            pytest.skip("each channel counts by itself")
        logits, target = some("binary")
        two = torch.cat([logits / 2, -logits], 1)
        three = torch.cat([two, torch.full_like(logits, -200)], 1)
        first, second = value_and_gradient(name, two, target), value_and_gradient(name, three, target)
        assert first[0] == pytest.approx(second[0].item(), rel=2e-5)
        assert torch.allclose(first[1], second[1][:, :2], atol=1e-6)

    @ALL
    def test_one_label_is_a_binary_head(self, name):
        logits, target = some("binary")
        binary = LOSSES[name](logits, target, task="binary")
        assert LOSSES[name](logits, target[:, None], task="multilabel") == pytest.approx(binary.item(), rel=1e-6)
        assert LOSSES[name](logits, target[:, None], task="binary") == binary

    @ALL
    def test_labels_are_the_mean_of_binary_heads(self, name):
        if name == "generalized_dice":
            pytest.skip("is one score of all labels")
        logits, target = some("multilabel", ignored=0)
        each = [LOSSES[name](logits[:, i : i + 1], target[:, i], task="binary").item() for i in range(3)]
        assert LOSSES[name](logits, target, task="multilabel") == pytest.approx(sum(each) / 3, rel=1e-5)
        if name != "boundary":
            weighted = LOSSES[name](logits, target, task="multilabel", class_weights=[1, 0, 3])
            assert weighted == pytest.approx((each[0] + 3 * each[2]) / 4, rel=1e-4) or name == "cldice"

    @TASKS
    def test_pixel_losses_are_torchs(self, task):
        logits, target = some(task)
        truth = target.view_as(logits)
        known = truth != 255
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], truth[known].float())
        for name, options in (("bce", {}), ("cross_entropy", {}), ("focal", {"gamma": 0})):
            assert LOSSES[name](logits, target, task=task, **options) == pytest.approx(expected.item(), rel=1e-5)

    def test_alpha_of_labels(self):
        logits, target = some("multilabel", ignored=0)
        one = LOSSES["focal"](logits, target, task="multilabel", alpha=0.8)
        assert LOSSES["focal"](logits, target, task="multilabel", alpha=[0.8] * 3) == pytest.approx(one.item())
        factor = torch.where(target == 1, 0.8, 0.2)
        plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
        expected = (factor * (1 - torch.exp(-plain)) ** 2 * plain).mean()
        assert one == pytest.approx(expected.item(), rel=1e-5)

    def test_hinge_of_certain_predictions_is_twice_one_minus_iou(self):
        target, labels = torch.randint(0, 2, (2, 2, 6, 6))
        ious = [((labels == c) & (target == c)).sum() / ((labels == c) | (target == c)).sum() for c in range(2)]
        logits = labels[:, None].float() * 2 - 1
        assert lovasz_hinge(logits, target, task="binary") == pytest.approx(2 - sum(ious).item(), rel=1e-5)

    def test_hinge_histogram_is_close_to_the_sort(self):
        logits, target = some("binary", (2, 64, 64), ignored=0)
        errors = (1 - logits[:, 0] * (2 * target - 1)).clamp_min(0).flatten().numpy()
        expected = 0.0
        for c in range(2):
            own, order = (target == c).flatten().numpy(), np.argsort(-errors, kind="stable")
            jaccard = 1 - (own.sum() - np.cumsum(own[order])) / (own.sum() + np.cumsum(~own[order]))
            expected += float((errors[order] * np.diff(jaccard, prepend=0.0)).sum()) / 2
        assert lovasz_hinge(logits, target, task="binary") == pytest.approx(expected, rel=1e-3)


class TestFinite:
    @ALL
    @TASKS
    def test_all_ignored_is_zero_with_a_zero_gradient(self, name, task):
        logits, target = some(task)
        loss, gradient = value_and_gradient(name, logits, torch.full_like(target, 255), task=task)
        assert loss == 0
        assert torch.equal(gradient, torch.zeros_like(logits))

    @ALL
    @TASKS
    def test_nothing_there_taken_for_something_costs_much_and_pulls_back(self, name, task):
        logits, target = some(task, (2, 8, 8))
        loss, gradient = value_and_gradient(name, torch.full_like(logits, 6.0), torch.zeros_like(target), task=task)
        assert loss > 0.9
        assert (gradient > 0).all()

    @ALL
    @TASKS
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("size", [1.0, 1e4])
    def test_half_precision_and_huge_logits(self, name, task, dtype, size):
        logits, target = some(task)
        logits = (logits.sign() * size).to(dtype)
        loss, gradient = value_and_gradient(name, logits, target, task=task)
        assert loss.dtype == torch.float32
        assert loss.ndim == 0
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()

    @ALL
    @TASKS
    @settings(max_examples=30)
    @given(data=st.data())
    def test_every_target(self, name, task, data):
        values = st.lists(st.sampled_from([0, 1, 255]), min_size=4, max_size=4)
        target = torch.tensor(data.draw(values), dtype=torch.uint8).view(1, 2, 2)
        target = target if task == "binary" else target[None]
        size = data.draw(st.sampled_from([0.0, 1.0, 30.0, 200.0, 1e4]))
        logits = torch.tensor(data.draw(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=4, max_size=4))) * size
        options = {"task": task} | ({"iterations": 2} if name == "cldice" else {})
        loss, gradient = value_and_gradient(name, logits.view(1, 1, 2, 2), target, **options)
        assert torch.isfinite(loss)
        assert loss > -1e-6
        assert torch.isfinite(gradient).all()

    @ALL
    @TASKS
    def test_gradient_against_float64_finite_differences(self, name, task):
        logits, target = some(task, (1, 4, 3), dtype=torch.float64)
        leaf = (logits / 3).requires_grad_()
        options = {"task": task} | ({"iterations": 1} if name == "cldice" else {})
        assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, target, **options), leaf, eps=1e-7, atol=1e-6)

    @ALL
    @TASKS
    def test_target_stays_as_it_is(self, name, task):
        logits, target = some(task)
        small = target.to(torch.uint8)
        LOSSES[name](logits, small, task=task)
        assert torch.equal(small.long(), target)


class TestShares:
    @ALL
    def test_one_hot_is_the_class(self, name):
        target = torch.randint(0, 3, (2, 6, 5))
        shares = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
        target[0, :2], shares[0, :, :2] = 255, 0
        shares = shares.float()
        shares[0, :, 1] = 255
        logits = torch.randn(2, 3, 6, 5)
        expected = LOSSES[name](logits, target).item()
        assert LOSSES[name](logits, shares) == pytest.approx(expected, rel=1e-6)
        shares[0, :, 1] = torch.nan
        assert LOSSES[name](logits, shares) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("name", SOFT)
    @pytest.mark.parametrize("classes", [2, 3])
    def test_shares_nearly_hard_cost_nearly_the_same(self, name, classes):
        target = torch.randint(0, classes, (2, 6, 5))
        shares = torch.nn.functional.one_hot(target, classes).movedim(-1, 1).float()
        shares = shares * (1 - 2e-4) + 2e-4 / classes
        shares[:, :, 0], target[:, 0] = torch.nan, 255
        logits = torch.randn(2, classes, 6, 5)
        first, second = value_and_gradient(name, logits, shares), value_and_gradient(name, logits, target)
        assert first[0] == pytest.approx(second[0].item(), rel=5e-3)
        assert torch.allclose(first[1], second[1], atol=2e-4)

    @pytest.mark.parametrize("name", SOFT)
    @TASKS
    def test_shares_of_yes(self, name, task):
        logits, target = some(task)
        shares = torch.where(target == 255, torch.nan, target * (1 - 2e-4) + 1e-4)
        expected = LOSSES[name](logits, target, task=task).item()
        assert LOSSES[name](logits, shares, task=task) == pytest.approx(expected, rel=5e-3)
        assert LOSSES[name](logits, target.float(), task=task) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("name", SOFT)
    @pytest.mark.parametrize("classes", [2, 3])
    def test_gradient(self, name, classes):
        shares = torch.rand(1, classes, 3, 3, dtype=torch.float64).softmax(1)
        leaf = torch.randn(1, classes, 3, 3, dtype=torch.float64).requires_grad_()
        options = {"class_weights": [0.3, 1, 2][:classes]} if name != "generalized_dice" else {}
        assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, shares, **options), leaf, eps=1e-7, atol=1e-6)

    def test_soft_cross_entropy_is_torchs(self):
        logits, shares = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4).softmax(1)
        expected = torch.nn.functional.cross_entropy(logits, shares, label_smoothing=0.2)
        value = LOSSES["cross_entropy"](logits, shares, label_smoothing=0.2)
        assert value == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("name", HARD)
    def test_hard_losses_refuse_shares(self, name):
        with pytest.raises(LabelsError, match=f"{name} takes no others"):
            LOSSES[name](torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 0.5))

    def test_shares_out_of_range(self):
        with pytest.raises(LabelsError, match="do not sum to 1"):
            LOSSES["dice"](torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5))
        with pytest.raises(LabelsError, match="from 0 to 1"):
            LOSSES["dice"](torch.zeros(1, 1, 2, 2), torch.full((1, 2, 2), 1.5), task="binary")


class TestRefused:
    @ALL
    @pytest.mark.parametrize(
        ("task", "logits", "target"),
        [
            ("binary", (1, 2, 4, 4), (1, 4, 4)),
            ("binary", (1, 1, 4, 4), (1, 4, 5)),
            ("multilabel", (1, 3, 4, 4), (1, 4, 4)),
            ("multilabel", (1, 3, 4, 4), (1, 2, 4, 4)),
        ],
    )
    def test_shapes(self, name, task, logits, target):
        with pytest.raises(ShapeError, match=f"task='{task}'"):
            LOSSES[name](torch.zeros(logits), torch.zeros(target, dtype=torch.int64), task=task)

    @ALL
    @TASKS
    def test_values(self, name, task):
        logits, target = some(task)
        with pytest.raises(LabelsError, match=r"class 2\. Expected 0 to 1"):
            LOSSES[name](logits, torch.full_like(target, 2), task=task)

    @ALL
    def test_options(self, name):
        logits, target = some("binary")
        with pytest.raises(UsageError, match="Did you mean 'binary'"):
            LOSSES[name](logits, target, task="binry")


class TestBoundary:
    def test_distances_by_hand(self):
        target = torch.tensor([[[0, 1, 1, 1, 0, 255, 255, 0]]])
        maps = distance_maps((1, 2, 1, 8), target)
        assert maps[0, 1, 0].tolist() == [0.5, -0.5, -1.5, -0.5, 0.5, 0, 0, 3.5]
        assert torch.equal(maps[:, :1], -maps[:, 1:])

    def test_a_class_that_is_not_there_begins_beyond_the_tile(self):
        maps = distance_maps((1, 3, 3, 3), torch.zeros(1, 3, 3, dtype=torch.int64))
        expected = torch.tensor([[0.5, 0.5, 0.5], [0.5, 1.5, 0.5], [0.5, 0.5, 0.5]])
        assert torch.equal(maps[0], torch.stack([-expected, expected, expected]))

    def test_value_by_hand(self):
        probs = torch.tensor([0.1, 0.8, 0.6, 0.3])
        logits = torch.logit(probs).view(1, 1, 1, 4)
        target = torch.tensor([[[0, 1, 1, 0]]])
        expected = (0.5 * 0.1 + 0.5 * 0.2 + 0.5 * 0.4 + 0.5 * 0.3) / 4
        assert boundary(logits, target, task="binary") == pytest.approx(expected)

    @pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
    def test_distances_given(self, task):
        logits, target = some("binary" if task == "binary" else "multilabel")
        if task == "multiclass":
            target = torch.where(target[:, 0] == 255, 255, target[:, 0] + target[:, 1] % 2)
        maps = distance_maps(logits.shape, target, task=task)
        value = boundary(logits, target, task=task)
        assert boundary(logits, target, maps, task=task) == value
        assert boundary(logits, target, maps * 2, task=task) == pytest.approx(2 * value.item())
        with pytest.raises(ShapeError, match="what distance_maps gives"):
            boundary(logits, target, maps[..., :-1], task=task)

    def test_far_mistakes_cost_more(self):
        target = torch.zeros(1, 9, 30, dtype=torch.int64)
        target[:, :, :5] = 1
        near, far = torch.full((2, 1, 1, 9, 30), -20.0)
        near[..., :5], far[..., :5] = 20, 20
        near[..., 4, 6], far[..., 4, 25] = 20, 20
        assert boundary(far, target, task="binary") > 5 * boundary(near, target, task="binary") > 0


class TestSkeleton:
    def test_bar_becomes_a_line_inside_it(self):
        bar = torch.zeros(1, 1, 9, 20)
        bar[..., 3:6, 2:18] = 1
        lines = skeleton(bar, torch.ones_like(bar, dtype=torch.bool), 5)
        assert (lines <= bar).all()
        assert lines[0, 0, 4, 4:16].min() == 1
        assert lines[0, 0, 3, 4:16].max() == 0

    def test_a_gap_costs_more_than_a_thinner_road(self):
        target = torch.zeros(1, 15, 40, dtype=torch.int64)
        target[:, 6:9] = 1
        gap, thin = torch.where(target == 1, 20.0, -20.0).repeat(2, 1, 1)[:, None, None]
        gap[..., 6:9, 18:22] = -20
        thin[..., 6, :12] = -20
        assert (gap > 0).sum() == (thin > 0).sum()
        options = {"task": "binary", "alpha": 1.0, "class_weights": [0, 1]}
        assert cldice(gap, target, **options) > 2 * cldice(thin, target, **options)

    @pytest.mark.parametrize("value", [0, 1.5, True, 101])
    def test_iterations(self, value):
        with pytest.raises(UsageError, match="iterations"):
            cldice(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.int64), iterations=value)
