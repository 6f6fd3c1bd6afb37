"""Losses: values by hand, identities, gradients against finite differences, and finite on every target."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.errors import LabelsError, ShapeError, UsageError
from geoseg.losses import (
    LOSSES,
    REGRESSION,
    Loss,
    Mixture,
    bce,
    cross_entropy,
    dice,
    focal,
    focal_tversky,
    generalized_dice,
    jaccard,
    lovasz,
    lovasz_hinge,
    lovasz_sort,
    parse_mixture,
    planes,
    tversky,
)

OF_CLASSES = [name for name in LOSSES if name not in REGRESSION]
ALL = pytest.mark.parametrize("name", OF_CLASSES)
SURE = 40.0
"""A logit so far above 0 that the softmax is 1 in float32."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def some(classes=3, shape=(2, 7, 5), ignored=0.2, dtype=torch.float32):
    logits = torch.randn(shape[0], classes, *shape[1:], dtype=dtype) * 2
    target = torch.randint(0, classes, shape)
    target[torch.rand(shape) < ignored] = 255
    return logits, target


def hard(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits that predict `labels` with certainty."""
    return torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float() * 2 * SURE - SURE


def value_and_gradient(name, logits, target, **options):
    logits = logits.clone().requires_grad_()
    loss = LOSSES[name](logits, target, **options)
    loss.backward()
    return loss.detach(), logits.grad


def pixels(values) -> torch.Tensor:
    """Logits (1, K, 1, n) of two or more classes whose softmax is `values`: one row of probabilities a pixel."""
    return torch.tensor(values).log().T[None, :, None, :]


class TestByHand:
    LOGITS = pixels([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    TARGET = torch.tensor([[[0, 1, 1]]])

    def test_cross_entropy(self):
        expected = -(math.log(0.8) + math.log(0.4) + math.log(0.7)) / 3
        assert cross_entropy(self.LOGITS, self.TARGET) == pytest.approx(expected)

    def test_cross_entropy_with_class_weights(self):
        expected = -(1 * math.log(0.8) + 3 * math.log(0.4) + 3 * math.log(0.7)) / 7
        assert cross_entropy(self.LOGITS, self.TARGET, class_weights=[1, 3]) == pytest.approx(expected)

    def test_cross_entropy_with_label_smoothing(self):
        terms = [0.9 * math.log(true) + 0.1 * math.log(false) for true, false in [(0.8, 0.2), (0.4, 0.6), (0.7, 0.3)]]
        assert cross_entropy(self.LOGITS, self.TARGET, label_smoothing=0.2) == pytest.approx(-sum(terms) / 3)

    def test_focal(self):
        expected = -sum((1 - p) ** 2 * math.log(p) for p in (0.8, 0.4, 0.7)) / 3
        assert focal(self.LOGITS, self.TARGET) == pytest.approx(expected)
        weighted = -sum(w * (1 - p) ** 2 * math.log(p) for w, p in ((1, 0.8), (3, 0.4), (3, 0.7))) / 7
        assert focal(self.LOGITS, self.TARGET, class_weights=[1, 3]) == pytest.approx(weighted)

    def test_tversky(self):
        # Class 0: TP .8, FP .6 + .3, FN .2. Class 1: TP .4 + .7, FP .2, FN .6 + .3.
        overlaps = [0.8 / (0.8 + 0.3 * 0.9 + 0.7 * 0.2), 1.1 / (1.1 + 0.3 * 0.2 + 0.7 * 0.9)]
        assert tversky(self.LOGITS, self.TARGET) == pytest.approx(1 - sum(overlaps) / 2)

    def test_dice(self):
        overlaps = [2 * 0.8 / (1 + 1.7), 2 * 1.1 / (2 + 1.3)]
        assert dice(self.LOGITS, self.TARGET) == pytest.approx(1 - sum(overlaps) / 2)

    def test_jaccard(self):
        ious = [0.8 / (1 + 1.7 - 0.8), 1.1 / (2 + 1.3 - 1.1)]
        assert jaccard(self.LOGITS, self.TARGET) == pytest.approx(1 - sum(ious) / 2)

    def test_generalized_dice(self):
        # w is 1 for class 0 (one pixel) and 1/4 for class 1 (two).
        score = 2 * (0.8 + 1.1 / 4) / (1 + 1.7 + (2 + 1.3) / 4)
        assert generalized_dice(self.LOGITS, self.TARGET) == pytest.approx(1 - score)

    def test_focal_tversky(self):
        overlaps = [0.8 / (0.8 + 0.3 * 0.9 + 0.7 * 0.2), 1.1 / (1.1 + 0.3 * 0.2 + 0.7 * 0.9)]
        expected = sum((1 - overlap) ** 0.75 for overlap in overlaps) / 2
        assert focal_tversky(self.LOGITS, self.TARGET) == pytest.approx(expected, abs=1e-4)

    def test_bce(self):
        yes = [[0.8, 0.4, 0.3], [0.1, 0.6, 0.7]]
        logits = torch.logit(torch.tensor(yes))[None, :, None]
        terms = [0.8, 1 - 0.4, 1 - 0.3, 1 - 0.1, 0.6, 0.7]
        assert bce(logits, self.TARGET) == pytest.approx(-sum(map(math.log, terms)) / 6)
        weighted = -(sum(map(math.log, terms[:3])) + 3 * sum(map(math.log, terms[3:]))) / 12
        assert bce(logits, self.TARGET, class_weights=[1, 3]) == pytest.approx(weighted)

    def test_focal_with_alpha(self):
        terms = [(0.25, 0.8), (0.75, 0.4), (0.75, 0.7)]
        expected = -sum(alpha * (1 - p) ** 2 * math.log(p) for alpha, p in terms) / 3
        assert focal(self.LOGITS, self.TARGET, alpha=0.75) == pytest.approx(expected)
        assert focal(self.LOGITS, self.TARGET, alpha=[0.25, 0.75]) == pytest.approx(expected)

    def test_options_of_overlap(self):
        hit, predicted, actual = (0.8, 1.1), (1.7, 1.3), (1, 2)
        dices = [2 * (h + 1) / (p + a + 2) for h, p, a in zip(hit, predicted, actual, strict=True)]
        assert dice(self.LOGITS, self.TARGET, smooth=1) == pytest.approx(1 - sum(dices) / 2)
        assert dice(self.LOGITS, self.TARGET, average="micro") == pytest.approx(1 - 2 * sum(hit) / (3 + 3))
        plain = [2 * h / (p + a) for h, p, a in zip(hit, predicted, actual, strict=True)]
        weighted = 1 - (plain[0] + 3 * plain[1]) / 4
        assert dice(self.LOGITS, self.TARGET, class_weights=[1, 3]) == pytest.approx(weighted)
        assert dice(self.LOGITS, self.TARGET, class_weights=[0, 1]) == pytest.approx(1 - plain[1])

    def test_lovasz_hinge(self):
        # Log-odds 0.5 of yes, -1 of yes, 3 of no: errors 0.5, 2, 4, falling: no 4, yes 2, yes 0.5.
        logits = torch.tensor([0.5, -1.0, 3.0]).view(1, 1, 1, 3)
        target = torch.tensor([[[1, 1, 0]]])
        yes = 4 * (1 / 3) + 2 * (2 / 3 - 1 / 3) + 0.5 * (1 - 2 / 3)
        no = 4 * 1.0
        assert lovasz_hinge(logits, target, task="binary") == pytest.approx((yes + no) / 2, rel=1e-5)

    @pytest.mark.parametrize("name", ["lovasz", "lovasz_sort"])
    def test_lovasz(self, name):
        # Errors of class 1: .2 (other), .6 (own), .3 (own); falling: own .6, own .3, other .2.
        # Jaccard losses of their prefixes: 1/2, 1, 1. Class 0: own .2, other .6 and .3: 1/2, 2/3, 1.
        one = 0.6 * 0.5 + 0.3 * 0.5
        zero = 0.6 * 0.5 + 0.3 * (2 / 3 - 1 / 2) + 0.2 * (1 - 2 / 3)
        assert LOSSES[name](self.LOGITS, self.TARGET) == pytest.approx((zero + one) / 2, rel=1e-5)


class TestIdentities:
    def test_tversky_of_halves_is_dice(self):
        logits, target = some()
        probs = logits.softmax(1).movedim(1, -1)[target != 255]
        truth = torch.nn.functional.one_hot(target[target != 255], 3)
        by_definition = 1 - (2 * (probs * truth).sum(0) / (probs.sum(0) + truth.sum(0))).mean()
        assert tversky(logits, target, alpha=0.5, beta=0.5) == pytest.approx(by_definition.item(), rel=1e-5)
        assert dice(logits, target) == pytest.approx(by_definition.item(), rel=1e-5)

    @pytest.mark.parametrize("class_weights", [None, [0.5, 1, 4]])
    def test_focal_of_gamma_0_is_cross_entropy(self, class_weights):
        logits, target = some()
        plain = value_and_gradient("cross_entropy", logits, target, class_weights=class_weights)
        of_gamma_0 = value_and_gradient("focal", logits, target, gamma=0, class_weights=class_weights)
        assert torch.allclose(of_gamma_0[0], plain[0], rtol=1e-5)
        assert torch.allclose(of_gamma_0[1], plain[1], atol=1e-7)

    def test_jaccard_follows_from_dice(self):
        logits, target = some()
        for only in ([1, 0, 0], [0, 1, 0], [0, 0, 1]):
            score = 1 - dice(logits, target, class_weights=only)
            assert jaccard(logits, target, class_weights=only) == pytest.approx((1 - score / (2 - score)).item())

    @pytest.mark.parametrize("name", ["focal_tversky", "jaccard"])
    def test_special_cases_of_tversky(self, name):
        logits, target = some()
        options = {"gamma": 1} if name == "focal_tversky" else {}
        same = {"alpha": 1, "beta": 1} if name == "jaccard" else {}
        first = value_and_gradient(name, logits, target, **options)
        second = value_and_gradient("tversky", logits, target, **same)
        assert first[0] == pytest.approx(second[0].item(), rel=1e-5)
        assert torch.allclose(first[1], second[1], atol=1e-7)

    @pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "focal_tversky", "generalized_dice", "lovasz"])
    def test_per_image_is_the_mean_of_images(self, name):
        logits, target = some(3, (3, 6, 5))
        target[1] = 255
        expected = sum(LOSSES[name](logits[i : i + 1], target[i : i + 1]) for i in (0, 2)) / 2
        assert LOSSES[name](logits, target, per_image=True) == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("classes", [2, 4])
    def test_equal_class_weights_change_nothing(self, classes):
        logits, target = some(classes)
        for name in OF_CLASSES:
            if name not in ("generalized_dice", "boundary"):
                plain = LOSSES[name](logits, target)
                assert LOSSES[name](logits, target, class_weights=[3] * classes) == pytest.approx(
                    plain.item(), rel=1e-5
                )

    def test_blocks_do_not_matter(self, monkeypatch):
        logits, target = some(2, (3, 9, 7))
        for name in OF_CLASSES:
            monkeypatch.setattr(planes, "_BLOCK", 65536)
            whole = value_and_gradient(name, logits, target)
            monkeypatch.setattr(planes, "_BLOCK", 10)
            parts = value_and_gradient(name, logits, target)
            assert parts[0] == pytest.approx(whole[0].item(), rel=1e-5)
            assert torch.allclose(parts[1], whole[1], atol=1e-7)

    @pytest.mark.parametrize("name", ["lovasz", "lovasz_sort"])
    def test_lovasz_of_hard_predictions_is_one_minus_iou(self, name):
        _, target = some(ignored=0)
        labels = torch.randint(0, 3, target.shape)
        ious = [((labels == c) & (target == c)).sum() / ((labels == c) | (target == c)).sum() for c in range(3)]
        assert LOSSES[name](hard(labels, 3), target) == pytest.approx(1 - sum(ious).item() / 3, abs=1e-6)

    @pytest.mark.parametrize("classes", [2, 5])
    def test_lovasz_histogram_is_close_to_the_sort(self, classes):
        logits, target = some(classes, (2, 64, 64), dtype=torch.float64)
        fast, exact = (value_and_gradient(name, logits, target) for name in ("lovasz", "lovasz_sort"))
        assert fast[0] == pytest.approx(exact[0].item(), rel=1e-3)
        assert (fast[1] - exact[1]).norm() < 0.01 * exact[1].norm()

    @ALL
    def test_perfect_prediction_costs_nothing(self, name):
        _, target = some(ignored=0)
        assert LOSSES[name](hard(target, 3), target) == pytest.approx(0, abs=1e-6)

    @ALL
    def test_ignored_pixels_do_not_count(self, name):
        logits, target = some()
        other = torch.where((target == 255)[:, None], torch.randn_like(logits) * 9, logits)
        first, second = (value_and_gradient(name, z, target) for z in (logits, other))
        assert first[0] == pytest.approx(second[0].item(), rel=1e-6)
        assert torch.equal(first[1].movedim(1, -1)[target == 255], torch.zeros((target == 255).sum(), 3))
        cropped = LOSSES[name](logits[:, :, :4], target[:, :4])
        padded = target.clone()
        padded[:, 4:] = 255
        assert LOSSES[name](logits, padded) == pytest.approx(cropped.item(), rel=1e-5)

    @ALL
    def test_order_of_pixels_and_classes_does_not_matter(self, name):
        logits, target = some(ignored=0)
        expected = LOSSES[name](logits, target).item()
        assert LOSSES[name](logits.flip(-1, -2), target.flip(-1, -2)) == pytest.approx(expected, rel=1e-5)
        assert LOSSES[name](logits.flip(1), 2 - target) == pytest.approx(expected, rel=1e-5)


OPTIONS = {
    "cross_entropy": [{"label_smoothing": 0.1, "class_weights": [0.2, 1, 3]}],
    "bce": [{"label_smoothing": 0.1, "class_weights": [0.2, 1, 3]}],
    "focal": [{"gamma": 0.5, "class_weights": [0.2, 1, 3]}, {"gamma": 3, "alpha": [0.1, 0.5, 2]}],
    "dice": [{"smooth": 1.0, "average": "micro", "class_weights": [0.2, 1, 3]}],
    "tversky": [{"alpha": 0.2, "beta": 0.9, "per_image": True}],
    "focal_tversky": [{"gamma": 3}, {"gamma": 0.5}],
    "generalized_dice": [{"smooth": 1.0, "per_image": True}],
    "lovasz": [{"per_image": True, "class_weights": [0.2, 1, 3]}],
    "boundary": [{"class_weights": [0.2, 1, 3]}],
    "cldice": [{"alpha": 0.9, "iterations": 2, "class_weights": [0, 1, 1]}],
}


@pytest.mark.parametrize(
    ("name", "options"), [(name, each) for name in OF_CLASSES for each in [{}, *OPTIONS.get(name, ())]]
)
@pytest.mark.parametrize("classes", [2, 3])
def test_gradient_against_float64_finite_differences(name, options, classes):
    torch.manual_seed(3)
    logits, target = some(classes, (2, 3, 2), ignored=0.1, dtype=torch.float64)
    options = {key: value[:classes] if isinstance(value, list) else value for key, value in options.items()}
    options = {"iterations": 1} | options if name == "cldice" else options
    leaf = (logits / 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, target, **options), leaf, eps=1e-7, atol=1e-6)
    assert value_and_gradient(name, logits, target, **options)[1].abs().max() > 1e-3


class TestFinite:
    @ALL
    def test_all_ignored_is_zero_with_a_zero_gradient(self, name):
        logits, target = some()
        loss, gradient = value_and_gradient(name, logits, torch.full_like(target, 255))
        assert loss == 0
        assert torch.equal(gradient, torch.zeros_like(logits))

    @ALL
    def test_background_taken_for_building_costs_much_and_pulls_back(self, name):
        logits = torch.zeros(2, 3, 8, 8)
        logits[:, 1] = 6.0
        loss, gradient = value_and_gradient(name, logits, torch.zeros(2, 8, 8, dtype=torch.int64))
        assert loss > 0.9
        assert (gradient[:, 0] < 0).all()
        assert (gradient[:, 1] > 0).all()

    @ALL
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("size", [1.0, 1e4])
    def test_half_precision_and_huge_logits(self, name, dtype, size):
        logits = (torch.randn(2, 3, 6, 6).sign() * size).to(dtype)
        target = torch.randint(0, 3, (2, 6, 6))
        loss, gradient = value_and_gradient(name, logits, target)
        assert loss.dtype == torch.float32
        assert loss.ndim == 0
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert loss == pytest.approx(LOSSES[name](logits.float(), target).item(), rel=1e-5)

    @ALL
    @pytest.mark.parametrize("value", [0, 1, 255])
    def test_one_pixel(self, name, value):
        loss, gradient = value_and_gradient(name, torch.randn(1, 2, 1, 1) / 9, torch.full((1, 1, 1), value))
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert (gradient.abs().sum() > 0) == (value != 255)

    @ALL
    @settings(max_examples=60)
    @given(data=st.data())
    def test_every_target(self, name, data):
        classes = data.draw(st.integers(2, 4))
        values = st.sampled_from([*range(classes), 255])
        target = torch.tensor(data.draw(st.lists(values, min_size=1, max_size=6)), dtype=torch.uint8)[None, None]
        scale = data.draw(st.sampled_from([0.0, 1.0, 30.0, 200.0, 1e4]))
        signs = data.draw(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=classes, max_size=classes))
        logits = (torch.tensor(signs) * scale).view(1, -1, 1, 1).expand(1, classes, *target.shape[1:])
        options = {"beta": data.draw(st.sampled_from([0.0, 0.7]))} if name == "tversky" else {}
        options |= {"gamma": data.draw(st.sampled_from([0.0, 0.3, 2.0]))} if name == "focal" else {}
        options |= {"gamma": data.draw(st.sampled_from([0.01, 1.0, 100.0]))} if name == "focal_tversky" else {}
        options |= {"iterations": 2} if name == "cldice" else {}
        loss, gradient = value_and_gradient(name, logits, target, **options)
        assert torch.isfinite(loss)
        assert loss > -1e-6
        assert torch.isfinite(gradient).all()

    @ALL
    def test_no_pixels_at_all(self, name):
        loss, _ = value_and_gradient(name, torch.zeros(0, 2, 4, 4), torch.zeros(0, 4, 4, dtype=torch.uint8))
        assert loss == 0

    @ALL
    def test_descent_learns(self, name):
        """From the wrong answer everywhere, gradient steps lead to the right one."""
        _, target = some(ignored=0.1)
        logits = torch.zeros(2, 3, 7, 5, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.5)
        for _ in range(60):
            optimizer.zero_grad()
            LOSSES[name](logits, target).backward()
            optimizer.step()
        assert (logits.argmax(1) == target)[target != 255].all()


class TestRefused:
    @ALL
    @pytest.mark.parametrize(
        ("logits", "target"),
        [((2, 3, 4, 4), (2, 4, 5)), ((2, 3, 4, 4), (2, 2, 4, 4)), ((3, 4, 4), (4, 4)), ((2, 1, 4, 4), (2, 4, 4))],
    )
    def test_shapes(self, name, logits, target):
        with pytest.raises(ShapeError, match="do not fit together"):
            LOSSES[name](torch.zeros(logits), torch.zeros(target, dtype=torch.int64))

    @ALL
    @pytest.mark.parametrize("value", [3, 254, -1])
    def test_class_out_of_range(self, name, value):
        with pytest.raises(LabelsError, match=f"class {value}"):
            LOSSES[name](torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), value))

    @ALL
    def test_probabilities_as_target(self, name):
        with pytest.raises(ShapeError, match="whole numbers"):
            LOSSES[name](torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2))

    @ALL
    def test_another_ignore_index(self, name):
        logits, target = some()
        expected = LOSSES[name](logits, target)
        assert LOSSES[name](logits, torch.where(target == 255, -100, target), ignore_index=-100) == expected
        only_2 = torch.where(target == 0, 0, torch.where(target == 255, 0, target))
        without_0 = torch.where(only_2 == 0, 255, only_2)
        assert LOSSES[name](logits, only_2, ignore_index=0) == LOSSES[name](logits, without_0)


class TestMixture:
    TEXT = "focal:1,tversky(alpha=0.3,beta=0.7):1,lovasz:0.5"

    def test_value_and_terms(self):
        logits, target = some()
        mixture = parse_mixture(self.TEXT)
        expected = {
            "focal": focal(logits, target),
            "tversky": tversky(logits, target),
            "lovasz": lovasz(logits, target),
        }
        assert mixture.terms(logits, target) == expected
        total = expected["focal"] + expected["tversky"] + 0.5 * expected["lovasz"]
        assert mixture(logits, target) == pytest.approx(total.item())
        assert mixture.total(expected) == pytest.approx(total.item())
        assert mixture.factors == {"focal": 1.0, "tversky": 1.0, "lovasz": 0.5}

    def test_gradient_is_the_weighted_sum(self):
        logits, target = some()
        leaf = logits.clone().requires_grad_()
        parse_mixture("dice:3,cross_entropy:0.25")(leaf, target).backward()
        first, second = (value_and_gradient(name, logits, target)[1] for name in ("dice", "cross_entropy"))
        assert torch.allclose(leaf.grad, 3 * first + 0.25 * second, atol=1e-7)

    @pytest.mark.parametrize(
        ("text", "same"),
        [
            ("dice", "dice:1"),
            (" dice : 2 , focal( gamma = 1.5 ) ", "dice:2,focal(gamma=1.5):1"),
            ("focal()", "focal"),
            ("cross_entropy(class_weights=[1,2, 5],label_smoothing=1e-1):2e0", None),
        ],
    )
    def test_forms_of_the_text(self, text, same):
        logits, target = some()
        value = parse_mixture(text)(logits, target)
        if same is None:
            assert value == 2 * cross_entropy(logits, target, class_weights=[1, 2, 5], label_smoothing=0.1)
        else:
            assert value == parse_mixture(same)(logits, target)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "cannot be read"),
            ("focal:1,", "cannot be read"),
            (",focal", "cannot be read"),
            ("focal 1", "cannot be read"),
            ("focal(gamma=2", "cannot be read"),
            ("focal(gamma=2)):1", "cannot be read"),
            ("focal:x", "is no number"),
            ("focal:true", "is no number"),
            ("focal:0", "the factor of focal=0 is out of range"),
            ("focal:-1", "out of range"),
            ("focal:NaN", "out of range"),
            ("focal:[1]", "out of range"),
            ("focl:1", r"'focl' is unknown\. Did you mean 'focal'"),
            (
                "focal(gama=2)",
                r"no option 'gama'\. Did you mean 'gamma'\? Expected some of: gamma, alpha, class_weights",
            ),
            ("focal(gamma=-1)", r"gamma=-1 is out of range\. Expected a number from 0"),
            ("focal(gamma=NaN)", "out of range"),
            ("focal(gamma=[1])", "out of range"),
            ("focal(gamma)", "is no option"),
            ("focal(gamma=1,gamma=2)", "is no option"),
            ("focal(gamma=two)", "is no number"),
            ("focal(class_weights=3)", "does not fit"),
            ("focal(class_weights=[1,-2])", "does not fit"),
            ("focal(ignore_index=[1])", "out of range"),
            ("tversky(alpha=1e308)", "out of range"),
            ("focal(logits=1)", "no option"),
            ("focal,focal(gamma=1)", "each loss once"),
        ],
    )
    def test_refused_text(self, text, message):
        with pytest.raises(UsageError, match=message):
            parse_mixture(text)

    def test_modules(self):
        assert repr(Loss("tversky", alpha=0.2)) == "Loss(tversky(alpha=0.2))"
        with pytest.raises(UsageError, match="at least one term"):
            Mixture([])
        assert list(Mixture([(Loss("dice"), 1.0)]).parameters()) == []

    def test_channels_last_and_uint8(self):
        logits, target = some()
        mixture = parse_mixture(self.TEXT)
        changed = mixture(logits.contiguous(memory_format=torch.channels_last), target.to(torch.uint8))
        assert changed == pytest.approx(mixture(logits, target).item(), rel=1e-6)


def test_lovasz_sort_has_the_weights_of_float64():
    """Against Jaccard losses counted in whole numbers; as differences of float32 the weights are off by percents."""
    logits, target = some(2, (1, 256, 256), ignored=0)
    _, gradient = value_and_gradient("lovasz_sort", logits, target)
    leaf = logits.double().requires_grad_()
    probs, losses = leaf.softmax(1)[0].flatten(1), []
    for c in range(2):
        own = (target == c).flatten().numpy()
        errors = torch.where(torch.from_numpy(own), 1 - probs[c], probs[c])
        order = np.argsort(-errors.detach().numpy(), kind="stable")
        intersection = own.sum() - np.cumsum(own[order])
        union = own.sum() + np.cumsum(~own[order])
        weights = np.diff(1 - intersection / union, prepend=0.0)
        losses.append((errors[order.copy()] * torch.from_numpy(weights)).sum())
    torch.stack(losses).mean().backward()
    assert (gradient - leaf.grad).norm() < 1e-4 * leaf.grad.norm()
    assert lovasz(logits, target) == pytest.approx(lovasz_sort(logits, target).item(), rel=1e-3)
