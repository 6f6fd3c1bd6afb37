"""Narrow gaps between buildings stand for a wall they share; wide ones stay."""

import numpy as np
import pytest
import shapely
import shapely.affinity

from geoseg.vectors.walls.borders import Border, narrow_gaps
from geoseg.vectors.walls.neighbours import settle

GSD = 0.3


def pair(gap: float, degrees: float = 0.0, tilt: float = 0.0, depth: float = 8.0) -> np.ndarray:
    """A house and an annex, walls `gap` metres apart, the annex turned by `tilt`."""
    annex = shapely.affinity.rotate(shapely.box(10 + gap, 0, 15 + gap, depth), tilt, origin=(10 + gap, depth / 2))
    shapes = [shapely.affinity.rotate(shape, degrees, origin=(0, 0)) for shape in (shapely.box(0, 0, 10, 8), annex)]
    return np.array(shapes, dtype=object)


def closed(shapes: np.ndarray, degrees: float = 0.0) -> np.ndarray:
    return settle(shapes, np.full(len(shapes), degrees % 90), narrow_gaps(shapes, GSD, []), GSD)


@pytest.mark.parametrize("degrees", [0, 31, 117])
@pytest.mark.parametrize("gap", [0.1, 0.6, 0.95])
def test_a_narrow_gap_becomes_a_shared_wall(degrees, gap):
    one, two = closed(pair(gap, degrees), degrees)
    assert one.distance(two) < 1e-6
    assert one.intersection(two).area < 1e-6
    assert one.buffer(1e-6).intersection(two.exterior).length > 7.9
    assert one.area == pytest.approx(80 + 4 * gap)
    assert two.area == pytest.approx(40 + 4 * gap)


def test_a_wide_gap_stays():
    shapes = pair(1.1)
    assert narrow_gaps(shapes, GSD, []) == []
    assert all(a.equals(b) for a, b in zip(closed(shapes), shapes, strict=True))


def test_what_is_narrow_depends_on_the_pixel():
    assert len(narrow_gaps(pair(0.6), 0.3, [])) == 1
    assert narrow_gaps(pair(0.6), 0.1, []) == []


def test_only_walls_that_face_each_other_are_shared():
    assert len(narrow_gaps(pair(0.5, tilt=4), GSD, [])) == 1
    assert narrow_gaps(pair(0.5, tilt=30), GSD, []) == []
    beside = np.array([shapely.box(0, 0, 10, 8), shapely.box(10.5, 6.5, 20, 15)], dtype=object)  # past each other
    assert narrow_gaps(beside, GSD, []) == []
    corner = np.array([shapely.box(0, 0, 10, 8), shapely.box(10.4, 8.4, 20, 15)], dtype=object)
    assert narrow_gaps(corner, GSD, []) == []


def test_known_pairs_are_left_out():
    shapes = pair(0.5)
    assert narrow_gaps(shapes, GSD, [Border(0, 1, np.zeros((3, 2)))]) == []


def test_clockwise_rings_are_the_same():
    shapes = pair(0.6)
    (one,), (two,) = narrow_gaps(shapes, GSD, []), narrow_gaps(shapely.reverse(shapes), GSD, [])
    np.testing.assert_allclose(np.sort(one.points, axis=0), np.sort(two.points, axis=0))
    np.testing.assert_allclose(one.points[:, 0], 10.3)
