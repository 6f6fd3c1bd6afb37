"""score_objects(): hand-made towns with known answers."""

import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon, box
from shapely.affinity import translate

from geoseg.metrics.objects import score_objects

NONE = np.array([], object)


def array(*shapes) -> np.ndarray:
    return np.array(shapes, object)


def town() -> np.ndarray:
    """Nine houses 10 m wide, 20 m apart."""
    return np.array([box(x, y, x + 10, y + 10) for x in (0, 20, 40) for y in (0, 20, 40)], object)


def test_identity_is_perfect():
    scores = score_objects(town(), town())
    assert (scores.predicted, scores.reference, scores.found) == (9, 9, 9)
    ones = ("precision", "recall", "f1", "mean_iou", "boundary_iou", "vertex_ratio", "c_iou", "corners_right")
    for name in (*ones, "area_iou", "area_precision", "area_recall"):
        assert getattr(scores, name) == 1, name
    for name in ("polis_m", "hausdorff_m", "area_bias", "invalid", "overlapping"):
        assert getattr(scores, name) == 0, name
    json.dumps(scores.to_dict(), allow_nan=False)


def test_a_miss_and_two_false_alarms():
    predicted = np.concatenate((town()[1:], array(box(100, 0, 110, 10), box(100, 20, 110, 30))))
    scores = score_objects(predicted, town())
    assert (scores.predicted, scores.reference, scores.found) == (10, 9, 8)
    assert scores.precision == 0.8
    assert scores.recall == pytest.approx(8 / 9)
    assert scores.f1 == pytest.approx(16 / 19)
    assert scores.area_iou == pytest.approx(800 / 1100)
    assert (scores.area_precision, scores.area_recall) == pytest.approx((0.8, 8 / 9))
    assert scores.mean_iou == 1  # of those found


def test_a_house_too_wide():
    """12 x 10 for 10 x 10."""
    scores = score_objects(array(box(0, 0, 12, 10)), array(box(0, 0, 10, 10)))
    assert scores.mean_iou == pytest.approx(10 / 12)
    assert scores.area_bias == pytest.approx(0.2)
    assert scores.polis_m == pytest.approx(2 * 2 / 4 / 2)  # its own far corners; the others lie on its sides
    assert scores.hausdorff_m == pytest.approx(2)
    assert (scores.vertex_ratio, scores.corners_right) == (1, 1)


def test_too_many_corners():
    octagon = array(shapely.segmentize(box(0, 0, 10, 10), 5))
    scores = score_objects(octagon, array(box(0, 0, 10, 10)))
    assert (scores.mean_iou, scores.vertex_ratio, scores.corners_right) == (1, 2, 0)
    assert scores.c_iou == pytest.approx(1 - 4 / 12)


def test_invalid_and_overlapping_are_counted():
    bow_tie = Polygon([(100, 0), (110, 10), (110, 0), (100, 10)])
    predicted = np.concatenate((town(), array(translate(town()[0], 2), bow_tie)))
    scores = score_objects(predicted, town())
    assert (scores.invalid, scores.overlapping) == (1, 2)
    assert (scores.found, scores.predicted) == (9, 11)
    assert scores.area_precision == pytest.approx(900 / (900 + 20 + 50))  # each square metre once


def test_nothing_predicted_and_nothing_there():
    scores = score_objects(NONE, town())
    assert (scores.precision, scores.recall, scores.f1, scores.area_iou, scores.polis_m) == (None, 0, 0, 0, None)
    scores = score_objects(town(), NONE)
    assert (scores.precision, scores.recall, scores.f1, scores.area_iou) == (0, None, None, None)
    scores = score_objects(NONE, NONE)
    assert (scores.precision, scores.recall, scores.f1, scores.predicted) == (None, None, None, 0)


def test_the_border_of_the_labelled_area_punishes_nobody():
    """The area cuts the last row of houses, which the reference has up to the border only."""
    area = box(-5, -5, 55, 45)
    reference = shapely.intersection(town(), area)
    scores = score_objects(town(), reference, area=area)
    assert (scores.found, scores.predicted, scores.reference) == (6, 6, 6)
    assert scores.f1 == 1
    assert scores.area_iou == 1
    # What lies beyond is nobody's business either.
    further = np.concatenate((town(), array(box(200, 0, 210, 10))))
    assert score_objects(further, reference, area=area) == scores
    assert score_objects(town(), further, area=area).f1 == 1


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    moves=st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=9, max_size=9),
    order=st.permutations(range(9)),
)
def test_bounds_and_order(moves, order):
    predicted = np.array([translate(house, *move) for house, move in zip(town(), moves, strict=True)], object)
    scores = score_objects(predicted, town())
    shuffled = score_objects(predicted[list(order)], town())
    for name, value in scores.to_dict().items():
        assert shuffled.to_dict()[name] == pytest.approx(value), name
        if value is not None and not name.endswith("_m"):
            assert value >= 0 or name == "area_bias"
    dissolved = shapely.union_all(predicted), shapely.union_all(town())
    expected = dissolved[0].intersection(dissolved[1]).area / dissolved[0].union(dissolved[1]).area
    assert scores.area_iou == pytest.approx(expected, rel=1e-3)  # overlaps below 0.01 m2 are not dissolved
