"""Boundary metrics: hand-made pairs with known answers."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon, box
from shapely.affinity import rotate, translate

from geoseg.metrics.boundary import boundary_iou, c_iou, corner_counts, corners, hausdorff, polis

SQUARE = box(0, 0, 10, 10)
RING = Polygon(SQUARE.exterior, [box(4, 4, 6, 6).exterior])
L = Polygon([(0, 0), (12, 0), (12, 5), (6, 5), (6, 9), (0, 9)])


def array(*shapes) -> np.ndarray:
    return np.array(shapes, object)


@pytest.mark.parametrize("shape", [SQUARE, RING, L, rotate(L, 33), shapely.MultiPolygon([SQUARE, box(20, 0, 30, 10)])])
def test_identity_is_perfect(shape):
    one = array(shape)
    assert polis(one, one) == pytest.approx([0], abs=1e-12)
    assert hausdorff(one, one) == pytest.approx([0], abs=1e-12)
    assert boundary_iou(one, one) == pytest.approx([1])
    assert c_iou(one, one, np.ones(1)) == [1]


def test_boundary_iou_of_a_larger_square():
    """Strips 1 m wide inside 10 x 10 and 12 x 12 about one centre touch, and share nothing."""
    larger = box(-1, -1, 11, 11)
    assert boundary_iou(array(larger), array(SQUARE)) == pytest.approx([0], abs=1e-12)
    # With strips 2 m wide: (100 - 64) of 80 and 64 are shared.
    assert boundary_iou(array(larger), array(SQUARE), width_m=2) == pytest.approx([36 / (80 + 64 - 36)])


def test_boundary_iou_of_what_is_all_strip():
    assert boundary_iou(array(box(0, 0, 2, 1)), array(box(1, 0, 3, 1))) == pytest.approx([1 / 3])


def test_polis_of_a_shift():
    """Shifted by 1 along x: of the four corners of either, two lie 1 away and two on the other's sides."""
    assert polis(array(translate(SQUARE, 1)), array(SQUARE)) == pytest.approx([0.5])


def test_polis_of_a_corner_too_many():
    """A peak of 3 m in the middle of a side: one of five corners is 3 away, the square's own corners are on it."""
    peak = Polygon([(0, 0), (10, 0), (10, 10), (5, 13), (0, 10)])
    assert polis(array(peak), array(SQUARE)) == pytest.approx([3 / 5 / 2])
    assert polis(array(SQUARE), array(peak)) == pytest.approx([3 / 5 / 2])


def test_polis_counts_holes():
    """The hole's corners are 4 sqrt(2) - or 4 - from the exterior: 4 along a side. Nothing else is apart."""
    assert polis(array(RING), array(SQUARE)) == pytest.approx([4 * 4 / 8 / 2])


def test_hausdorff_is_the_farthest():
    peak = Polygon([(0, 0), (10, 0), (10, 10), (5, 13), (0, 10)])
    assert hausdorff(array(peak), array(SQUARE)) == pytest.approx([3])
    assert hausdorff(array(translate(SQUARE, 3, 4)), array(SQUARE)) == pytest.approx([5])
    # The farthest is the middle of a side: no corner of either is more than 4 from the other.
    notch = Polygon([(0, 0), (20, 0), (20, 10), (14, 10), (10, 6), (6, 10), (0, 10)])
    assert hausdorff(array(box(0, 0, 20, 10)), array(notch)) == pytest.approx([4])


def test_c_iou_of_four_corners_against_six():
    found = c_iou(array(SQUARE, SQUARE), array(L, RING), np.array([0.8, 0.9]))
    assert found == pytest.approx([0.8 * (1 - 2 / 10), 0.9 * (1 - 4 / 12)])


def test_corners_leave_out_the_last_of_a_ring():
    points, owner = corners(array(RING, L))
    assert owner.tolist() == [0] * 8 + [1] * 6
    assert points[:4].tolist() == shapely.get_coordinates(SQUARE)[:4].tolist()
    assert corner_counts(array(RING, SQUARE)).tolist() == [8, 4]


def test_no_pairs():
    none = array()
    for metric in (polis, hausdorff, boundary_iou):
        assert metric(none, none).tolist() == []
    assert c_iou(none, none, np.empty(0)).tolist() == []


@settings(max_examples=25, deadline=None, derandomize=True)
@given(x=st.floats(-4, 4), y=st.floats(-4, 4), angle=st.floats(0, 90))
def test_symmetric_and_moved_together(x, y, angle):
    first, second = array(L), array(translate(rotate(L, angle), x, y))
    turned = array(rotate(first[0], 71, origin=(3, 3))), array(rotate(second[0], 71, origin=(3, 3)))
    for metric in (polis, hausdorff, boundary_iou):
        found = metric(first, second)
        assert found == pytest.approx(metric(second, first), abs=1e-9)
        assert found == pytest.approx(metric(*turned), abs=1e-3)
    assert polis(first, second) <= hausdorff(first, second) + 1e-9
