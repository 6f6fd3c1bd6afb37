"""The confusion matrix against tables counted by hand and against its own symmetries."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoseg.errors import ShapeError, UsageError
from geoseg.metrics import ConfusionMatrix

NAMES = ("background", "building", "road", "water")


def confusion(target, predicted, classes=NAMES) -> ConfusionMatrix:
    matrix = ConfusionMatrix(classes)
    matrix.update(np.asarray(target, np.uint8), np.asarray(predicted, np.uint8))
    return matrix


def maps(classes: int = 3):
    """Pairs of target and prediction, 255 among both."""
    values = st.sampled_from([*range(classes), 255])
    shape = st.tuples(st.integers(0, 9), st.integers(1, 9))
    return shape.flatmap(
        lambda s: st.tuples(hnp.arrays(np.uint8, s, elements=values), hnp.arrays(np.uint8, s, elements=values))
    )


def test_by_hand():
    """Twelve pixels: the matrix and every figure of it worked out on paper.

    target    0 0 0 0 0 1 1 1 2 2 255 1
    predicted 0 0 0 1 2 1 1 0 2 1  0 255
    """
    matrix = confusion([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 255, 1], [0, 0, 0, 1, 2, 1, 1, 0, 2, 1, 0, 255])
    np.testing.assert_array_equal(matrix.matrix, [[3, 1, 1, 0], [1, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    scores = matrix.scores()
    assert (scores.pixels, scores.ignored, scores.unpredicted) == (10, 1, 1)
    expected = {
        #             IoU    F1     precision recall specificity target predicted
        "background": (3 / 6, 6 / 9, 3 / 4, 3 / 5, 4 / 5, 5, 4),
        "building": (2 / 5, 4 / 7, 2 / 4, 2 / 3, 5 / 7, 3, 4),
        "road": (1 / 3, 2 / 4, 1 / 2, 1 / 2, 7 / 8, 2, 2),
        "water": (None, None, None, None, 1.0, 0, 0),
    }
    for name, (iou, f1, precision, recall, specificity, support, predicted) in expected.items():
        got = scores[name]
        figures = (got.iou, got.f1, got.precision, got.recall, got.specificity)
        assert figures == pytest.approx((iou, f1, precision, recall, specificity)), name
        assert (got.support, got.predicted) == (support, predicted)
    assert scores.absent == ("water",)
    assert scores.accuracy == pytest.approx(6 / 10)
    assert scores.balanced_accuracy == pytest.approx((3 / 5 + 2 / 3 + 1 / 2) / 3)
    assert scores.mean_iou == pytest.approx((3 / 6 + 2 / 5 + 1 / 3) / 3)
    assert scores.mean_f1 == pytest.approx((6 / 9 + 4 / 7 + 2 / 4) / 3)
    chance = (5 * 4 + 3 * 4 + 2 * 2) / 100
    assert scores.kappa == pytest.approx((0.6 - chance) / (1 - chance))


def test_cohens_own_example():
    """Kappa of a two-by-two table known in closed form: po = .7, pe = .5 -> .4."""
    matrix = ConfusionMatrix(("no", "yes"))
    matrix.matrix[:] = [[20, 5], [10, 15]]
    assert matrix.scores().kappa == pytest.approx(0.4)


def test_false_alarms_of_an_absent_class():
    """Water is not there but predicted once: precision 0, background loses recall, no mean counts water."""
    scores = confusion([0, 0, 0, 1], [0, 0, 3, 1]).scores()
    water = scores["water"]
    assert (water.iou, water.f1, water.recall) == (None, None, None)
    assert water.precision == 0
    assert water.specificity == 0.75
    assert scores["background"].recall == pytest.approx(2 / 3)
    assert scores.absent == ("road", "water")
    assert scores.mean_iou == pytest.approx((2 / 3 + 1) / 2)


def test_nothing_to_score_is_not_zero():
    for matrix in (ConfusionMatrix(NAMES), confusion([255, 255], [0, 1]), confusion([0, 1], [255, 255])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = matrix.scores()
        assert scores.pixels == 0
        assert {scores.accuracy, scores.balanced_accuracy, scores.kappa, scores.mean_iou, scores.mean_f1} == {None}
        assert scores.absent == NAMES
        assert "n/a" in scores.table()


def test_one_class_only():
    scores = confusion([0, 0], [0, 0]).scores()
    assert scores["background"].iou == 1
    assert scores["background"].specificity is None
    assert scores.kappa is None
    assert scores.accuracy == scores.mean_iou == 1


@given(maps())
def test_a_map_against_itself_is_perfect(pair):
    target, _ = pair
    scores = confusion(target, target).scores()
    assert scores.unpredicted == 0
    for score in scores.classes:
        if score.support:
            assert score.iou == score.f1 == score.precision == score.recall == 1
    if scores.pixels:
        assert scores.accuracy == scores.mean_iou == scores.mean_f1 == scores.balanced_accuracy == 1
        assert scores.kappa in (1, None)


@given(maps(), st.integers(0, 9))
def test_merging_parts_is_counting_all(pair, cut):
    target, predicted = pair
    whole = confusion(target, predicted)
    upper, lower = confusion(target[:cut], predicted[:cut]), confusion(target[cut:], predicted[cut:])
    upper.merge(lower)
    np.testing.assert_array_equal(upper.matrix, whole.matrix)
    assert upper.scores() == whole.scores()
    assert whole.scores().pixels + whole.ignored + whole.unpredicted == target.size


@given(maps(), st.randoms(use_true_random=False))
def test_order_of_pixels_and_of_classes_does_not_matter(pair, random):
    target, predicted = (values.reshape(-1) for values in pair)
    scores = confusion(target, predicted).scores()
    order = list(range(target.size))
    random.shuffle(order)
    assert confusion(target[order], predicted[order]).scores() == scores
    swap = np.arange(256, dtype=np.uint8)
    swap[:3] = [2, 0, 1]
    names = ("building", "road", "background", "water")
    renamed = confusion(swap[target], swap[predicted], names).scores()
    assert renamed["building"] == scores["building"]
    assert renamed.mean_iou == pytest.approx(scores.mean_iou)
    assert renamed.kappa == pytest.approx(scores.kappa)


@given(maps())
def test_relations_between_figures(pair):
    for score in confusion(*pair).scores().classes:
        for value in (score.iou, score.f1, score.precision, score.recall, score.specificity):
            assert value is None or 0 <= value <= 1
        if score.iou is not None:
            assert score.f1 == pytest.approx(2 * score.iou / (1 + score.iou))


@settings(max_examples=20)
@given(maps())
def test_any_integer_dtype_and_stride(pair):
    target, predicted = pair
    expected = confusion(target, predicted)
    matrix = ConfusionMatrix(NAMES)
    matrix.update(target.astype(np.int64).T, np.asfortranarray(predicted.astype(np.int16)).T)
    np.testing.assert_array_equal(matrix.matrix, expected.matrix)


def test_more_pixels_than_a_block():
    rng = np.random.default_rng(1)
    target, predicted = rng.integers(0, 4, (2, 700, 801), dtype=np.uint8)
    matrix = confusion(target, predicted).matrix
    expected = [[((target == i) & (predicted == j)).sum() for j in range(4)] for i in range(4)]
    np.testing.assert_array_equal(matrix, expected)


def test_counts_beyond_32_bits_do_not_overflow():
    matrix = ConfusionMatrix(("no", "yes"))
    matrix.matrix[:] = [[20 * 10**10, 5 * 10**10], [10 * 10**10, 15 * 10**10]]
    assert matrix.scores().kappa == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("target", "predicted", "message"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), r"\(2, 2\) and prediction of \(2, 3\)"),
        (np.full(3, 4, np.uint8), np.zeros(3, np.uint8), r"target holds 4, which is no class. Expected 0 to 3, or 255"),
        (np.zeros(3, np.uint8), np.full(3, 9, np.uint8), "prediction holds 9"),
        (np.full(3, -1), np.zeros(3, np.uint8), "target holds values from -1 to -1"),
        (np.zeros(3), np.zeros(3, np.uint8), "target of float64"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_counted(target, predicted, message):
    matrix = ConfusionMatrix(NAMES)
    with pytest.raises(ShapeError, match=message):
        matrix.update(target, predicted)
    assert not matrix.matrix.any()


def test_classes_must_make_sense():
    for classes in ((), ("a", "a"), tuple(map(str, range(256)))):
        with pytest.raises(UsageError):
            ConfusionMatrix(classes)
    with pytest.raises(ShapeError, match="cannot be added"):
        ConfusionMatrix(("a", "b")).merge(ConfusionMatrix(("b", "a")))
    with pytest.raises(UsageError, match="'hut' is not scored"):
        ConfusionMatrix(("a", "b")).scores()["hut"]


def test_as_json_and_as_a_table():
    scores = confusion([0, 0, 0, 1, 255], [0, 0, 2, 1, 0]).scores()
    values = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert values["classes"]["building"]["iou"] == 1
    assert values["classes"]["road"]["iou"] is None
    assert values["absent"] == ["road", "water"]
    assert values["pixels"] == 4
    lines = scores.table().splitlines()
    assert lines[0].split() == [
        "class",
        "IoU",
        "F1",
        "precision",
        "recall",
        "specificity",
        *["target", "px", "predicted", "px"],
    ]
    assert lines[3].split() == ["road", "n/a", "n/a", "0.0000", "n/a", "0.7500", "0", "1"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[-1] == "absent from the reference and in no mean: road, water"
