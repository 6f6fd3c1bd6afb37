"""score_roads(): hand-made streets with known answers."""

import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import LineString, MultiLineString, box

from geoseg.metrics.roads import Pieces, match_points, score_roads

NONE = np.array([], object)


def array(*shapes) -> np.ndarray:
    return np.array(shapes, object)


ROAD = LineString([(0, 0), (100, 0)])
TOWN = array(ROAD, LineString([(50, -40), (50, 40)]), LineString([(80, 0), (80, 60), (20, 60)]))


def test_identity_is_perfect():
    widths = np.array([6.0, 4.0, 8.0])
    scores = score_roads(TOWN, TOWN, predicted_width_m=widths, reference_width_m=widths)
    for name in ("precision", "recall", "f1", "quality", "junction_precision", "junction_recall", "junction_f1"):
        assert getattr(scores, name) == 1, name
    assert (scores.apls, scores.apls_of_reference, scores.apls_of_predicted) == (1, 1, 1)
    assert (scores.junctions, scores.dead_ends) == (scores.reference_junctions, scores.reference_dead_ends) == (2, 5)
    assert scores.offset_m == pytest.approx(0, abs=1e-9)
    assert scores.width_error_m == pytest.approx(0, abs=1e-9)
    json.dumps(scores.to_dict(), allow_nan=False)


def test_a_street_half_found_and_one_too_many():
    """60 of 100 m, 1 m beside the truth, and 20 m elsewhere. The end reaches as far as the buffer's quarter circle."""
    predicted = array(LineString([(0, 1), (60, 1)]), LineString([(0, 50), (20, 50)]))
    scores = score_roads(predicted, array(ROAD), buffer_m=2)
    assert (scores.predicted_m, scores.reference_m) == (80, 100)
    assert scores.precision == 60 / 80
    assert scores.recall == pytest.approx((60 + 2) / 100)  # sqrt(4 - 1) = 1.7 m further, in pieces of 1 m
    assert scores.quality == pytest.approx(60 / (80 + 38))
    assert scores.f1 == pytest.approx(2 * 0.75 * 0.62 / 1.37)
    assert scores.offset_m == pytest.approx(1)
    assert scores.vertices_per_km == pytest.approx(4 / 0.08)
    assert score_roads(predicted, array(ROAD), buffer_m=0.99).precision == 0


def test_junctions():
    """One of two is predicted, 3 m off, and one where there is none."""
    predicted = array(ROAD, LineString([(53, 0), (53, 40)]), LineString([(20, 0), (20, 40)]))
    scores = score_roads(predicted, TOWN)
    assert (scores.junctions, scores.reference_junctions) == (2, 2)
    assert (scores.junction_precision, scores.junction_recall, scores.junction_f1) == (0.5, 0.5, 0.5)
    assert (scores.dead_ends, scores.reference_dead_ends) == (4, 5)
    assert score_roads(predicted, TOWN, junction_m=2.9).junction_f1 == 0


def test_widths():
    """50 m that are 2 m too wide and 50 m that are 1 m too narrow; of the rest nothing is known."""
    predicted = array(LineString([(0, 0), (50, 0)]), LineString([(50, 0), (100, 0)]), LineString([(0, 30), (90, 30)]))
    reference = array(ROAD, LineString([(0, 30), (90, 30)]))
    widths = {"predicted_width_m": np.array([8.0, 5, 7]), "reference_width_m": np.array([6.0, np.nan])}
    scores = score_roads(predicted, reference, **widths)
    assert scores.width_error_m == pytest.approx(1.5)
    assert scores.width_bias_m == pytest.approx(0.5)
    assert score_roads(predicted, reference).width_error_m is None


def test_nothing_predicted_and_nothing_there():
    scores = score_roads(NONE, TOWN)
    assert (scores.precision, scores.recall, scores.f1, scores.quality, scores.apls) == (None, 0, 0, 0, 0)
    assert (scores.junction_recall, scores.junction_precision, scores.vertices_per_km) == (0, None, None)
    scores = score_roads(TOWN, NONE)
    assert (scores.precision, scores.recall, scores.f1, scores.apls, scores.junction_f1) == (0, None, None, None, None)
    scores = score_roads(NONE, NONE)
    assert (scores.precision, scores.recall, scores.predicted_m) == (None, None, 0)


def test_the_border_of_the_labelled_area_punishes_nobody():
    area = box(-10, -50, 70, 80)
    cut = shapely.intersection(TOWN, area)
    scores = score_roads(TOWN, cut, area=area)
    assert (scores.precision, scores.recall, scores.apls, scores.junction_f1) == (1, 1, 1, 1)
    assert scores.predicted_m == scores.reference_m == pytest.approx(70 + 80 + 50)
    assert scores.dead_ends == scores.reference_dead_ends == 4  # not where the border cuts
    beyond = array(*TOWN, LineString([(200, 0), (300, 0)]))
    assert score_roads(beyond, cut, area=area) == scores


def test_pieces_are_equal_and_whole():
    pieces = Pieces.of(array(LineString([(0, 0), (2.5, 0)]), MultiLineString([[(0, 9), (0, 10)], [(0, 5), (0, 5.2)]])))
    assert pieces.line.tolist() == [0, 0, 0, 1, 1]
    assert pieces.part.tolist() == [0, 0, 0, 1, 2]
    assert pieces.length_m.tolist() == pytest.approx([2.5 / 3] * 3 + [1, 0.2])
    assert pieces.start_m.tolist() == pytest.approx([0, 2.5 / 3, 5 / 3, 0, 0])
    assert shapely.get_x(pieces.middle[1]) == pytest.approx(1.25)
    index, distance = pieces.nearest(array(LineString([(0, 3), (9, 3)])), 3.0)
    assert index.tolist() == [0, 0, 0, -1, 0]
    assert distance[[0, 3, 4]].tolist() == pytest.approx([3, np.inf, 2.1])


def test_points_are_matched_the_nearest_first():
    pairs = match_points(np.array([[0.0, 0], [2, 0]]), np.array([[1.5, 0], [50, 0]]), 5)
    assert pairs.tolist() == [[1, 0]]
    assert match_points(np.array([[0.0, 0]]), np.array([[5.0, 0]]), 5).tolist() == [[0, 0]]
    assert match_points(np.empty((0, 2)), np.empty((0, 2)), 5).shape == (0, 2)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(shift=st.tuples(st.floats(-6, 6), st.floats(-6, 6)), seed=st.integers(0, 5))
def test_swapping_the_sides_and_reordering(shift, seed):
    predicted = shapely.transform(TOWN, lambda xy: xy + shift)
    scores, swapped = score_roads(predicted, TOWN), score_roads(TOWN, predicted)
    assert scores.precision == pytest.approx(swapped.recall)
    assert scores.junction_precision == pytest.approx(swapped.junction_recall)
    assert (scores.apls_of_predicted, scores.apls) == pytest.approx((swapped.apls_of_reference, swapped.apls))
    order = np.random.default_rng(seed).permutation(len(TOWN))
    again = score_roads(predicted[order], shapely.reverse(TOWN[order]))
    for name, value in scores.to_dict().items():
        assert again.to_dict()[name] == pytest.approx(value, abs=0.02), name
