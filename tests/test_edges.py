"""The weakest stretch of outlines and lines, against a second way to find it."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS
from scipy.ndimage import map_coordinates

from geoseg.grid import Grid
from geoseg.vectors import edges
from geoseg.vectors.edges import LEAST_STRETCH, NO_GSD_STRETCH, STRETCH_M, weakest_stretches
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import ArrayPlanes

INSIDE = edges._INSIDE
UTM = CRS.from_epsg(32633).to_wkt()


def planes_of(own, *, gsd=0.5, step=16, transform=None):
    """Planes of one class of this probability, 0 to 1, NaN without data; 0.5 m by 0.5 m, y upwards."""
    stored = np.where(np.isnan(own), 255, np.round(254 * np.nan_to_num(own))).astype(np.uint8)
    transform = transform or Affine(gsd, 0, 500_000, 0, -gsd, 5_000_000)
    grid = Grid(own.shape, transform, UTM)
    both = np.stack([np.where(stored == 255, stored, 254 - stored), stored])
    labels = np.where(stored == 255, 255, 1).astype(np.uint8)
    return ArrayPlanes(labels, grid, {0: "no", 1: "building"}, both, step=step)


def on_ground(planes, *shapes):
    """Shapes in pixels, column and row, in the coordinates of the grid."""
    return shapely.transform(
        np.array(shapes, object), lambda xy: np.column_stack(planes.grid.transform @ (xy[:, 0], xy[:, 1]))
    )


def weakest(planes, *shapes, **clear):
    return weakest_stretches(on_ground(planes, *shapes), planes, 1, Metric(planes.grid), **clear)


def by_hand(own, shape, stretch):
    """The same of one shape, a point at a time."""
    if shape.geom_type == "Polygon":
        shape = shapely.orient_polygons(shape)  # the inside to the left, y upwards
        chains, depth = [shape.exterior, *shape.interiors], min(INSIDE, shape.area / shape.length)
    else:
        chains, depth = [shape], 0.0
    least = np.inf
    for chain in chains:
        count = max(1, round(chain.length))
        xy = np.array(chain.coords)
        along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
        far = (np.arange(count) + 0.5) * chain.length / count
        at = np.clip(np.searchsorted(along, far) - 1, 0, len(xy) - 2)
        ahead = np.diff(xy, axis=0)[at] / np.diff(along)[at, None]
        points = xy[at] + (far - along[at])[:, None] * ahead + depth * np.column_stack([-ahead[:, 1], ahead[:, 0]])
        found = map_coordinates(254 * own, [points[:, 1] - 0.5, points[:, 0] - 0.5], order=1, mode="nearest") / 254
        size = min(stretch, count)
        if chain.is_ring:
            found = np.concatenate([found, found[: size - 1]])
        least = min(least, np.convolve(found, np.full(size, 1 / size), "valid").min())
    return least


def test_a_wall_that_was_guessed_is_found_where_the_mean_hides_it():
    own = np.full((60, 60), 0.9)
    own[:, :24] = 0.3  # the western wall stands in it
    planes = planes_of(own)
    house, other = shapely.box(20, 10, 50, 40), shapely.box(30, 10, 50, 40)
    low = weakest(planes, house, other)
    assert low == pytest.approx([76 / 254, 229 / 254], abs=1e-3)


def test_a_short_dip_counts_by_its_share_of_the_stretch():
    own = np.full((60, 60), 0.8)
    own[20:25, :] = 0.2  # five pixels of the ten of 5 m
    planes, house = planes_of(own), shapely.box(10, 10, 50, 40)
    assert round(STRETCH_M / 0.5) == 10
    assert weakest(planes, house)[0] == pytest.approx(0.5, abs=0.01)
    coarse = planes_of(own, gsd=2)  # no fewer than six pixels
    assert weakest(coarse, house)[0] == pytest.approx((5 * 0.2 + 0.8) / LEAST_STRETCH, abs=0.01)
    nowhere = ArrayPlanes(planes.values, Grid(own.shape, Affine.identity(), None), planes.classes, planes.probabilities)
    expected = (5 * 0.2 + 0.8 * (NO_GSD_STRETCH - 5)) / NO_GSD_STRETCH
    assert weakest(nowhere, house)[0] == pytest.approx(expected, abs=0.01)


def test_round_a_courtyard_and_through_the_start_of_the_ring():
    own = np.full((80, 80), 0.9)
    own[34:46, 30 - 4 : 30] = 0.1  # west of the courtyard, on the building
    court = shapely.Polygon(shapely.box(10, 10, 70, 70).exterior, [shapely.box(30, 30, 50, 50).exterior])
    planes = planes_of(own)
    assert weakest(planes, court)[0] == pytest.approx(0.1, abs=0.01)
    assert weakest(planes, shapely.box(10, 10, 70, 70))[0] == pytest.approx(0.9, abs=0.01)
    own = np.full((80, 80), 0.9)
    own[8:18, 8:18] = 0.1  # round the corner at which the ring begins
    for ring in (shapely.box(10, 10, 70, 70, ccw=True), shapely.box(10, 10, 70, 70, ccw=False)):
        corner = [shapely.Polygon(np.roll(ring.exterior.coords[:-1], k, axis=0)) for k in range(4)]
        assert weakest(planes_of(own), *corner) == pytest.approx([0.1] * 4, abs=0.01)


def test_what_is_narrow_is_looked_at_along_its_middle():
    own = np.zeros((40, 60))
    own[20:22] = 0.8
    planes = planes_of(own)
    assert weakest(planes, shapely.box(5, 20, 55, 22))[0] > 0.55
    own[18:24] = 0.8
    assert weakest(planes_of(own), shapely.box(5, 20, 55, 22))[0] == pytest.approx(0.8, abs=0.01)


def test_along_a_line_on_it():
    own = np.full((40, 60), 0.9)
    own[:, 30:40] = 0.4
    planes = planes_of(own)
    lines = [shapely.LineString(points) for points in ([(5, 20), (55, 20)], [(5, 5), (25, 20)], [(28, 2), (28.4, 2)])]
    assert weakest(planes, *lines) == pytest.approx([0.4, 0.9, 0.9], abs=0.01)


def test_the_ends_of_a_line_are_passed_over_as_far_as_a_stretch_is_left():
    own = np.full((40, 60), 0.9)
    own[:, 45:] = 0.4  # where the street ends
    line, planes = shapely.LineString([(5, 20), (55, 20)]), planes_of(own)
    assert weakest(planes, line)[0] == pytest.approx(0.4, abs=0.01)
    assert weakest(planes, line, clear_m=np.array([5.0]))[0] == pytest.approx(0.9, abs=0.06)
    assert weakest(planes, line, clear_m=np.array([5.5]))[0] == pytest.approx(0.9, abs=0.01)
    assert weakest(planes, line, clear_m=np.array([900.0]))[0] == pytest.approx(0.9, abs=0.01)
    assert weakest(planes, line, clear_m=np.array([np.nan]))[0] == pytest.approx(0.4, abs=0.01)


def test_nothing_known_is_nan():
    own = np.full((40, 60), 0.7)
    own[:, 30:] = np.nan
    planes = planes_of(own)
    here, gap, half = shapely.box(5, 5, 20, 20), shapely.box(40, 5, 55, 20), shapely.box(20, 5, 45, 20)
    assert weakest(planes, here, gap, half) == pytest.approx([0.7, np.nan, 0.7], abs=0.01, nan_ok=True)
    bare = ArrayPlanes(planes.values, planes.grid, planes.classes)
    assert np.isnan(weakest(bare, here)).all()
    assert weakest(planes).shape == (0,)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([1, 7, 16, 100]), st.booleans())
def test_equal_to_a_point_at_a_time_however_the_raster_is_read(seed, step, turned):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(31, 70, 2)
    own = np.round(254 * rng.random((height, width))) / 254
    transform = Affine.translation(500_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
    planes = planes_of(own, step=step, transform=transform if turned else None)
    angles = np.sort(rng.random(7)) * 2 * np.pi
    middle, size = rng.uniform(10, 25, 2), rng.uniform(4, 40)
    star = np.column_stack([np.cos(angles), np.sin(angles)]) * rng.uniform(0.5, 1, (7, 1)) * size + middle
    polygon = shapely.Polygon(star)
    shapes = [polygon] if polygon.is_valid and polygon.area > 1 else [shapely.box(2, 2, 9, 17)]
    line = shapely.LineString(rng.uniform(1, 30, (5, 2)))
    for shape in (*shapes, line):
        expected = by_hand(own, shape, 10)
        assert weakest(planes, shape)[0] == pytest.approx(expected, abs=2e-3)
        again = planes_of(own, step=rng.integers(1, 80), transform=planes.grid.transform)
        assert weakest(again, shape)[0] == weakest(planes, shape)[0]


def test_many_shapes_at_a_time_are_as_each_by_itself(monkeypatch):
    rng = np.random.default_rng(3)
    planes = planes_of(rng.random((200, 200)), step=16)
    corner, size = rng.uniform(0, 170, (2, 50)), rng.uniform(3, 30, (2, 50))
    boxes = shapely.box(*corner, *(corner + size))
    together = weakest(planes, *boxes)
    monkeypatch.setattr(edges, "_VERTICES", 12)
    monkeypatch.setattr(edges, "_BYTES", 500)
    assert (weakest(planes, *boxes) == together).all()
    assert (np.concatenate([weakest(planes, box) for box in boxes]) == together).all()
