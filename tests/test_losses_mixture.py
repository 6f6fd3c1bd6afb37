"""Mixtures of tasks, class weights by rule, gradient shares; what is said of each loss; probabilities as logits."""

import warnings

import pytest
import torch

from geoseg.errors import UsageError
from geoseg.losses import (
    ADVICE,
    LOSSES,
    REGRESSION,
    Loss,
    class_weights_from,
    cross_entropy,
    dice,
    distance_maps,
    focal,
    inputs,
    loss_info,
    mse,
    parse_mixture,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class TestText:
    def test_words(self):
        logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
        value = parse_mixture("dice(average=micro,per_image=true)")(logits, target)
        assert value == dice(logits, target, average="micro", per_image=True)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("dice(average=mikro)", "average='mikro' is unknown. Did you mean 'micro'"),
            ("dice(per_image=1)", "per_image=1 is unknown"),
            ("dice(per_image=yes)", "is no number"),
            ("dice(task=binry)", "Did you mean 'binary'"),
            ("focal(class_weights=inverze)", "Did you mean 'inverse'"),
            ("focal(alpha=2)", "alpha=2 is out of range"),
            ("cross_entropy,mse", r"cross_entropy \(multiclass\) and mse \(regression\)"),
            ("dice(task=binary),focal", "one kind in a head"),
            ("boundary(distances=3)", "no option 'distances'"),
            ("mse(valid=3)", "no option 'valid'. Expected some of: nodata"),
            ("boundry", "Did you mean 'boundary'"),
        ],
    )
    def test_refused(self, text, message):
        with pytest.raises(UsageError, match=message):
            parse_mixture(text)

    def test_task_of_the_head(self):
        logits, target = torch.randn(2, 1, 4, 4), torch.randint(0, 2, (2, 4, 4))
        value = parse_mixture("dice:1,focal(alpha=0.7):2", task="binary")(logits, target)
        expected = dice(logits, target, task="binary") + 2 * focal(logits, target, alpha=0.7, task="binary")
        assert value == pytest.approx(expected.item())
        labels = parse_mixture("bce(class_weights=[1,2,5])", task="multilabel")
        assert labels.task == "multilabel"
        assert parse_mixture("mse", task="binary").task == "regression"
        assert torch.isfinite(labels(torch.randn(1, 3, 2, 2), torch.randint(0, 2, (1, 3, 2, 2))))

    def test_regression(self):
        prediction, target = torch.randn(2, 1, 3, 3), torch.randn(2, 3, 3)
        assert parse_mixture("mse:2,huber(delta=2)")(prediction, target) > 2 * mse(prediction, target)

    @pytest.mark.parametrize("name", LOSSES)
    def test_every_loss_can_be_written(self, name):
        assert parse_mixture(name).factors == {name: 1.0}

    def test_number_of_classes(self):
        mixture = parse_mixture("dice:1,focal(class_weights=[1,2,3])")
        mixture.check(3)
        with pytest.raises(UsageError, match="Expected 2 numbers"):
            mixture.check(2)


class TestRules:
    COUNTS = (900, 100, 0)

    @pytest.mark.parametrize(
        ("rule", "expected"),
        [("inverse", [0.2, 1.8, 1.8]), ("sqrt_inverse", [0.5, 1.5, 1.5]), ([2, 6, 1], [0.5, 1.5, 0.25])],
    )
    def test_by_hand(self, rule, expected):
        assert class_weights_from(self.COUNTS, rule) == pytest.approx(expected)

    def test_effective(self):
        raw = [(1 - 0.99) / (1 - 0.99**n) for n in (900, 100)]
        expected = [2 * value / sum(raw) for value in raw]
        assert class_weights_from((900, 100), "effective", beta=0.99) == pytest.approx(expected)
        assert class_weights_from((5, 7), "effective", beta=0) == pytest.approx([1, 1])
        huge = class_weights_from((10**12, 10**9), "effective")
        assert huge[1] / huge[0] == pytest.approx(632.4, rel=1e-2)

    def test_edges(self):
        assert class_weights_from((0, 0), "inverse") == [1, 1]
        assert max(class_weights_from((10**15, 1), "inverse")) <= 1e6
        assert class_weights_from((0, 5), [3, 0]) == [3, 0]

    @pytest.mark.parametrize(
        ("counts", "rule", "message"),
        [((1, -1), "inverse", "counts"), ((), "inverse", "counts"), ((1, 1), "invers", "Did you mean 'inverse'"),
         ((1, 1), [1], "Expected 2 numbers"), ((1, 1), [1, -1], "out of range")],
    )  # fmt: skip
    def test_refused(self, counts, rule, message):
        with pytest.raises(UsageError, match=message):
            class_weights_from(counts, rule)

    def test_in_a_mixture(self):
        logits, target = torch.randn(1, 2, 6, 6), torch.randint(0, 2, (1, 6, 6))
        mixture = parse_mixture("cross_entropy(class_weights=inverse):1,dice:1")
        assert mixture.needs_counts
        mixture.check(2)
        with pytest.raises(UsageError, match="needs the pixels of each class"):
            mixture(logits, target)
        mixture.count([900, 100])
        expected = cross_entropy(logits, target, class_weights=[0.2, 1.8])
        assert mixture.terms(logits, target)["cross_entropy"] == pytest.approx(expected.item())

    def test_merged_classes(self):
        logits, target = torch.randn(1, 2, 6, 6), torch.randint(0, 2, (1, 6, 6))
        loss = Loss("cross_entropy", class_weights=[1.0, 5.0, 3.0])
        assert loss(logits, target, known=(1,)) == cross_entropy(logits, target, class_weights=[5, 2])


class TestGradientShares:
    def test_shares(self):
        logits = torch.randn(2, 3, 6, 6, requires_grad=True)
        target = torch.randint(0, 3, (2, 6, 6))
        mixture = parse_mixture("cross_entropy:1,dice:3")
        terms = mixture.terms(logits, target)
        norms = [
            float(torch.autograd.grad(factor * terms[name], logits, retain_graph=True)[0].norm())
            for name, factor in mixture.factors.items()
        ]
        shares = mixture.gradient_shares(terms, logits)
        assert list(shares.values()) == pytest.approx([norm / sum(norms) for norm in norms])
        mixture.total(terms).backward()
        assert logits.grad is not None

    def test_a_term_that_drowns_the_others_is_seen(self):
        logits, target = torch.randn(1, 2, 6, 6, requires_grad=True), torch.randint(0, 2, (1, 6, 6))
        mixture = parse_mixture("dice:1,cross_entropy:1000")
        assert mixture.gradient_shares(mixture.terms(logits, target), logits)["cross_entropy"] > 0.99

    def test_no_gradient_at_all(self):
        logits = torch.randn(1, 2, 2, 2, requires_grad=True)
        mixture = parse_mixture("dice:1,focal:1")
        ignored = torch.full((1, 2, 2), 255)
        assert mixture.gradient_shares(mixture.terms(logits, ignored), logits) == {"dice": 0, "focal": 0}
        assert mixture.gradient_shares({"dice": torch.zeros(())}, logits) == {"dice": 0}


def test_distances_reach_the_boundary_alone():
    logits, target = torch.randn(1, 2, 6, 6), torch.randint(0, 2, (1, 6, 6))
    maps = distance_maps(logits.shape, target)
    mixture = parse_mixture("dice:1,boundary:0.01")
    plain, doubled = mixture.terms(logits, target), mixture.terms(logits, target, distances=2 * maps)
    assert doubled["dice"] == plain["dice"]
    assert doubled["boundary"] == pytest.approx(2 * plain["boundary"].item())


class TestProbabilities:
    def test_noticed_once(self, monkeypatch):
        monkeypatch.setattr(inputs, "_warned", [])
        probs, target = torch.randn(1, 3, 8, 8).softmax(1), torch.zeros(1, 8, 8, dtype=torch.int64)
        with pytest.warns(UserWarning, match="look like probabilities"):
            dice(probs, target)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dice(probs, target)

    def test_logits_are_not_mistaken(self, monkeypatch):
        monkeypatch.setattr(inputs, "_warned", [])
        target = torch.zeros(1, 8, 8, dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for logits in (torch.randn(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), torch.rand(1, 3, 8, 8)):
                dice(logits, target)


class TestInfo:
    @pytest.mark.parametrize("name", LOSSES)
    def test_everything_is_said(self, name):
        info = loss_info(name)
        assert info.kind == ("regression" if name in REGRESSION else "classes")
        for text in (info.summary, info.formula, info.source, info.when):
            assert text
            assert "\n" not in text
        assert not {"logits", "target", "distances", "valid"} & set(info.options)

    @pytest.mark.parametrize(("when", "text"), ADVICE)
    def test_advice_can_be_followed(self, when, text):
        value = parse_mixture(text)(torch.randn(1, 2, 8, 8), torch.randint(0, 2, (1, 8, 8)))
        assert torch.isfinite(value)
