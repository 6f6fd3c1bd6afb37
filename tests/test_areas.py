"""Areas: what neighbours share stays shared, nothing vanishes, nothing depends on how the raster was cut."""

from collections import Counter

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.vectors.arcs import find_arcs
from geoseg.vectors.areas import AREA_CHANGE, Areas, _order, _turned, fit_areas
from geoseg.vectors.metric import Metric
from geoseg.vectors.patches import Patches, trace
from geoseg.vectors.planes import ArrayPlanes

CLASSES = {0: "background", 1: "building", 2: "road", 3: "water"}


def planes_of(labels):
    labels = np.asarray(labels, np.uint8)
    return ArrayPlanes(labels, Grid(labels.shape, Affine.identity(), None), CLASSES)


def fitted(labels, tolerance, values=(0, 1, 2, 3), **options) -> tuple[Patches, Areas]:
    planes = planes_of(labels)
    patches = trace(planes, values, subpixel=False, junctions=True, **options)
    return patches, fit_areas(patches, Metric(planes.grid), tolerance_m=tolerance)


def smooth_labels(side, seed, classes=4):
    """Blobs of several classes, with islands and holes."""
    rng = np.random.default_rng(seed)
    fields = rng.standard_normal((classes, side, side))
    for _ in range(6):
        fields = (fields + np.roll(fields, 1, 1) + np.roll(fields, -1, 1) + np.roll(fields, 1, 2)) / 4
    return fields.argmax(axis=0).astype(np.uint8)


def check_cover(patches, areas, tolerance):
    """Valid, without gaps or overlaps among what was traced, all patches there with their holes, close to the raw."""
    assert len(areas.polygons) == len(patches)
    assert shapely.is_valid(areas.polygons).all()
    assert (shapely.area(areas.polygons) > 0).all()
    assert (shapely.get_num_interior_rings(areas.polygons) == patches.holes).all()
    assert shapely.coverage_is_valid(areas.polygons)
    union = shapely.union_all(areas.polygons).area
    assert union == pytest.approx(shapely.area(areas.polygons).sum(), abs=1e-6)
    assert (areas.tolerance_m <= tolerance).all()


def deviation(patches, areas, metric):
    """How far vertices of the pixels' outlines are from the border that replaces them, at most."""
    raw = shapely.transform(patches.polygons(), metric.to_metres)
    points, of = shapely.get_coordinates(raw, return_index=True)
    return shapely.distance(shapely.points(points), shapely.boundary(areas.polygons)[of]).max()


@settings(max_examples=60, deadline=None)
@given(
    labels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 3)),
    tolerance=st.sampled_from([0.0, 0.5, 1.0, 2.5, 20.0]),
)
def test_noise_stays_a_cover(labels, tolerance):
    patches, areas = fitted(labels, tolerance)
    check_cover(patches, areas, tolerance)
    assert shapely.area(areas.polygons).sum() <= labels.size + 1e-6
    if tolerance == 0:
        assert shapely.area(areas.polygons) == pytest.approx(patches.pixels)
        assert (areas.method == "raw").all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), tolerance=st.sampled_from([0.7, 1.5, 4.0]))
def test_blobs_stay_a_cover(seed, tolerance):
    labels = smooth_labels(48, seed)
    patches, areas = fitted(labels, tolerance)
    check_cover(patches, areas, tolerance)
    assert deviation(patches, areas, Metric(planes_of(labels).grid)) <= tolerance + 1e-9
    assert len(shapely.get_coordinates(areas.polygons)) < len(patches.points)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), left_out=st.integers(0, 3))
def test_classes_left_out_leave_their_room(seed, left_out):
    labels = smooth_labels(40, seed)
    patches, areas = fitted(labels, 2.0, [value for value in range(4) if value != left_out])
    check_cover(patches, areas, 2.0)


@settings(max_examples=60, deadline=None)
@given(
    labels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3)),
    values=st.sets(st.integers(0, 3), min_size=1),
)
def test_marked_is_where_not_two_pieces_of_border_meet(labels, values):
    patches = trace(planes_of(labels), values, subpixel=False, junctions=True)
    pieces = set()
    for begin, stop in zip(patches.ring_offsets[:-1], patches.ring_offsets[1:], strict=True):
        ring = [tuple(point) for point in patches.points[begin:stop].tolist()]
        pieces |= {frozenset(piece) for piece in zip(ring, [*ring[1:], ring[0]], strict=True)}
    meeting = Counter(point for piece in pieces for point in piece)
    assert patches.marked.tolist() == [meeting[tuple(point)] != 2 for point in patches.points.tolist()]


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 3.0])
def test_strips_leave_no_trace(tolerance):
    labels = smooth_labels(60, 5)
    found = [shapely.to_wkb(fitted(labels, tolerance, strip_rows=rows)[1].polygons).tolist() for rows in (1, 7, 60)]
    assert found[0] == found[1] == found[2]


def test_staircase_becomes_a_line():
    rows, cols = np.indices((40, 40))
    patches, areas = fitted(np.where(rows > cols / 2 + 5, 1, 2), 1.0)
    # Four corners of the raster or three, and the two ends of the border.
    assert shapely.get_num_coordinates(areas.polygons).tolist() == [5, 5]
    assert shapely.area(areas.polygons) == pytest.approx(patches.pixels, rel=0.03)


def test_islands_smaller_than_the_tolerance_stay():
    labels = np.zeros((30, 30))
    labels[10, 10], labels[20:22, 20:23], labels[5:25, 28] = 1, 2, 3
    patches, areas = fitted(labels, 8.0)
    check_cover(patches, areas, 8.0)
    small = patches.pixels < 30
    assert small.sum() == 3
    assert shapely.area(areas.polygons[small]) == pytest.approx(patches.pixels[small], rel=AREA_CHANGE)


def test_border_does_not_jump_over_an_island():
    # A bay of water with an island in it: the shore's straight way leaves the island on land.
    labels = np.zeros((30, 40))
    labels[15:] = 3
    labels[11:15, 10:30] = 3
    labels[12, 20] = 1
    patches, areas = fitted(labels, 6.0)
    check_cover(patches, areas, 6.0)
    island, sea = (areas.polygons[patches.value == value][0] for value in (1, 3))
    assert shapely.Polygon(sea.exterior).contains(island)


def test_thin_strip_keeps_its_sides_apart():
    # Both sides of the strip have the same ends: simplified on its own each would be the same straight line.
    rows, cols = np.indices((40, 60))
    wave = np.round(20 + 4 * np.sin(cols / 60 * np.pi)).astype(int)
    labels = np.where(rows < wave, 1, 2)
    labels[(rows == wave) & (cols > 3) & (cols < 56)] = 3
    patches, areas = fitted(labels, 5.0)
    check_cover(patches, areas, 5.0)
    assert (patches.value == 3).sum() >= 1
    assert areas.tolerance_m[patches.value == 3].max() < 5


def test_a_side_that_turns_over_another_is_noticed():
    # An arch of class 3 over class 2: with its outer side drawn straight from foot to foot, it would stand on its head.
    labels = np.where(np.indices((20, 30))[0] < 12, 1, 2)
    labels[8:12, 8:22] = 3
    labels[10:12, 10:20] = 2
    arcs = find_arcs(trace(planes_of(labels), (1, 2, 3), subpixel=False, junctions=True))
    xy, offsets = arcs.points(np.arange(len(arcs)))
    beside = np.stack([xy[offsets[:-1] + 1], xy[offsets[1:] - 2]], axis=1)
    before = _order(arcs, arcs.nodes, beside)
    sides = [k for k in range(len(arcs)) if {8.0, 22.0} == set(arcs.nodes[arcs.ends[k], 0])]
    outer = min(sides, key=lambda k: xy[offsets[k] : offsets[k + 1], 1].min())
    assert len(sides) == 2
    assert not len(_turned(arcs, before, before))
    beside[outer] = arcs.nodes[arcs.ends[outer][::-1]]
    assert set(sides) <= set(_turned(arcs, before, _order(arcs, arcs.nodes, beside)))


def test_nodata_and_hole_stay_free():
    labels = np.full((30, 30), 1)
    labels[:, :4] = 255
    labels[10:20, 12:22] = 255
    _, areas = fitted(labels, 2.0)
    assert len(areas.polygons) == 1
    assert areas.polygons[0].area == pytest.approx(26 * 30 - 100)
    assert len(areas.polygons[0].interiors) == 1


def test_metres_of_the_ground():
    labels = smooth_labels(50, 3)
    grid = Grid(labels.shape, Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), "EPSG:32633")
    planes, metric = ArrayPlanes(labels, grid, CLASSES), Metric(grid)
    patches = trace(planes, range(4), subpixel=False, junctions=True)
    areas = fit_areas(patches, metric, tolerance_m=0.6)
    check_cover(patches, areas, 0.6)
    assert deviation(patches, areas, metric) <= 0.6 + 1e-9
    assert shapely.area(areas.polygons).sum() == pytest.approx(25**2, rel=1e-2)


def test_nothing_gives_nothing():
    patches, areas = fitted(np.full((5, 5), 255), 1.0)
    assert len(patches) == len(areas.polygons) == len(areas.method) == 0


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_no_tolerance(tolerance):
    with pytest.raises(UsageError, match="is no tolerance"):
        fitted([[1, 2]], tolerance)
