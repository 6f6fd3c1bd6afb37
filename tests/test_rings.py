"""Rings of patches: exact and sub-pixel outlines, however the raster is cut, valid, and those GDAL finds."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.features import rasterize, shapes
from scipy import ndimage

from geoseg.grid import Grid
from geoseg.vectors.patches import trace
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.rings import SCALE

VALUES = [1, 2]
label_arrays = arrays(
    np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.sampled_from([0, 1, 1, 2, 255])
)


def planes(labels, probabilities=None):
    labels = np.asarray(labels, np.uint8)
    grid = Grid(shape=labels.shape, transform=Affine.identity(), crs=None)
    return ArrayPlanes(labels, grid, {0: "background", 1: "building", 2: "road"}, probabilities)


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (3, *shape)).astype(np.uint8)


def burn(patches, shape):
    pairs = list(zip(patches.polygons(), patches.value, strict=True))
    return rasterize(pairs, shape, dtype=np.uint8) if pairs else np.zeros(shape, np.uint8)


def same(one, two):
    return all(
        np.array_equal(getattr(one, name), getattr(two, name), equal_nan=name.startswith("prob"))
        for name in one.__slots__
    )


@settings(deadline=None)
@given(label_arrays, st.booleans(), st.booleans(), st.booleans(), st.integers(1, 9))
def test_strips_do_not_matter(labels, subpixel, junctions, known, rows):
    source = planes(labels, noise(labels.shape) if known else None)
    whole = trace(source, VALUES, subpixel=subpixel, junctions=junctions)
    cut = trace(source, VALUES, subpixel=subpixel, junctions=junctions, strip_rows=rows)
    assert same(whole, cut)


@settings(deadline=None)
@given(label_arrays)
@example(np.indices((7, 9)).sum(0).astype(np.uint8) % 2)
@example(np.full((5, 4), 255, np.uint8))
@example(np.ones((1, 1), np.uint8))
def test_exact_rings_are_those_of_gdal(labels):
    patches = trace(planes(labels), VALUES, subpixel=False)
    polygons = patches.polygons()
    expected = [
        (value, shapely.Polygon(rings["coordinates"][0], rings["coordinates"][1:]).normalize().wkt)
        for rings, value in shapes(labels, mask=np.isin(labels, VALUES), connectivity=4)
    ]
    assert sorted(zip(patches.value, shapely.to_wkt(shapely.normalize(polygons), trim=True), strict=True)) == sorted(
        (int(value), shapely.to_wkt(shapely.from_wkt(wkt), trim=True)) for value, wkt in expected
    )
    assert shapely.is_valid(polygons).all()
    assert np.array_equal(burn(patches, labels.shape), np.where(np.isin(labels, VALUES), labels, 0))


@settings(deadline=None)
@given(label_arrays, st.booleans(), st.booleans())
def test_sub_pixel_rings_are_valid_and_stay_within_half_a_pixel(labels, known, junctions):
    source = planes(labels, noise(labels.shape, 1) if known else None)
    exact = trace(source, VALUES, subpixel=False)
    patches = trace(source, VALUES, subpixel=True, junctions=junctions)
    assert shapely.is_valid(patches.polygons()).all()
    assert np.array_equal(patches.first, exact.first)
    assert np.array_equal(patches.pixels, exact.pixels)
    centres = np.argwhere(np.isin(labels, VALUES))[:, ::-1] + 0.5
    inside = [polygon.contains(shapely.points(centres)).sum() for polygon in patches.polygons()]
    assert list(inside) == list(patches.pixels)
    if len(patches) and not junctions:
        assert np.abs(patches.xy - np.round(patches.xy * 2) / 2).max() < 0.5


def every_pattern(height, width):
    """(rows, cols) labels of all patterns of three labels of this size, apart from each other."""
    count = height * width
    cells = (np.arange(3**count)[:, None] // 3 ** np.arange(count)) % 3
    cells = np.pad(cells.reshape(-1, height, width), ((0, 0), (0, 1), (0, 1)))
    return (
        cells.reshape(3 ** (count // 3), -1, height + 1, width + 1)
        .swapaxes(1, 2)
        .reshape(3 ** (count // 3) * (height + 1), -1)
    )


@pytest.mark.parametrize("junctions", [False, True])
def test_every_pattern_of_3_by_3_pixels_is_valid(junctions):
    """All that can meet in a corner, with every neighbour it can have."""
    labels = every_pattern(3, 3).astype(np.uint8)
    exact = trace(planes(labels), VALUES, subpixel=False, junctions=junctions)
    assert shapely.is_valid(exact.polygons()).all()
    assert np.array_equal(burn(exact, labels.shape), labels)
    for known in (None, noise(labels.shape, 2)):
        assert shapely.is_valid(
            trace(planes(labels, known), VALUES, subpixel=True, junctions=junctions).polygons()
        ).all()


@pytest.mark.parametrize("junctions", [False, True])
def test_neighbours_never_overlap(junctions):
    labels = every_pattern(2, 3).astype(np.uint8)
    polygons = trace(
        planes(labels, noise(labels.shape, 3)), [0, *VALUES], subpixel=True, junctions=junctions
    ).polygons()
    one, two = shapely.STRtree(polygons).query(polygons, "intersects")
    one, two = one[one < two], two[one < two]
    assert len(one) > 1000
    assert shapely.area(shapely.intersection(polygons[one], polygons[two])).max() < 1e-9


def test_junctions_leave_no_gap_where_three_labels_meet():
    labels = np.array([[1, 1, 1, 2, 2, 2]] * 3 + [[0] * 6] * 3, np.uint8)
    for junctions, gap in ((True, 0), (False, 0.25)):
        patches = trace(planes(labels), [0, *VALUES], subpixel=True, junctions=junctions)
        union = shapely.union_all(patches.polygons())
        hole = shapely.box(2, 2, 4, 4).difference(union).area
        assert hole == pytest.approx(gap, abs=1e-9)


def test_one_pixel():
    exact = trace(planes([[0, 0, 0], [0, 1, 0]]), [1], subpixel=False)
    assert exact.xy.tolist() == [[1, 1], [2, 1], [2, 2], [1, 2]]
    half = trace(planes([[0, 0, 0], [0, 1, 0]]), [1], subpixel=True)
    assert half.xy.tolist() == [[1.5, 1], [2, 1.5], [1.5, 2], [1, 1.5]]


def test_a_vertex_lies_where_the_probabilities_are_equal():
    own = np.array([[254, 191, 64, 0]], np.uint8)  # + 1/4 and - 1/4 of 254: half way less nothing
    patches = trace(planes([[1, 1, 0, 0]], np.stack([254 - own, own, 0 * own])), [1], subpixel=True)
    assert patches.xy[:, 0].max() == pytest.approx(2, abs=1 / 127)
    own = np.array([[254, 254, 100, 0]], np.uint8)
    patches = trace(planes([[1, 1, 0, 0]], np.stack([254 - own, own, 0 * own])), [1], subpixel=True)
    # Margins of 254 and -54 at 1.5 and 2.5.
    assert patches.xy[:, 0].max() == pytest.approx(1.5 + 254 / 308, abs=0.6 / SCALE)


def test_labels_that_disagree_with_their_probabilities_get_the_middle():
    own = np.array([[10, 10, 10]], np.uint8)
    patches = trace(planes([[0, 1, 0]], np.stack([254 - own, own, 0 * own])), [1], subpixel=True)
    assert patches.xy.tolist() == [[1.5, 0], [2, 0.5], [1.5, 1], [1, 0.5]]


def test_outlines_begin_in_their_uppermost_corner_and_go_clockwise_on_the_screen():
    labels = np.ones((5, 5), np.uint8)
    labels[2, 2] = labels[3, 3] = 0
    patches = trace(planes(labels), [1], subpixel=False)
    assert patches.ring_offsets.tolist() == [0, 4, 8, 12]
    assert patches.xy[:4].tolist() == [[0, 0], [5, 0], [5, 5], [0, 5]]
    # Two holes that touch in a corner, each for itself, the other way round.
    assert patches.xy[4:8].tolist() == [[2, 2], [2, 3], [3, 3], [3, 2]]
    assert patches.xy[8:].tolist() == [[3, 3], [3, 4], [4, 4], [4, 3]]


def test_a_ring_that_touches_itself_becomes_an_outline_and_a_hole():
    labels = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)
    patches = trace(planes(labels), [1], subpixel=False)
    assert patches.holes.tolist() == [1]
    assert patches.xy[4 + 2 :].tolist() == [[1, 1], [1, 2], [2, 2], [2, 1]]
    assert shapely.is_valid(patches.polygons()).all()


def test_three_labels_meet_in_a_marked_vertex_of_all():
    labels = np.array([[1, 2], [0, 0]], np.uint8)
    source = planes(labels)
    for subpixel in (False, True):
        patches = trace(source, [0, 1, 2], subpixel=subpixel, junctions=True)
        meeting = {tuple(xy) for xy in patches.xy[patches.marked]}
        inner = [xy for xy in meeting if 0.5 < xy[0] < 1.5 and 0.5 < xy[1] < 1.5]
        assert len(inner) == 1
        assert sum((patches.xy == inner[0]).all(1)) == 3
    plain = trace(source, [0], subpixel=False)
    assert len(plain.xy) == 4
    assert len(trace(source, [0], subpixel=False, junctions=True).xy) == 4 + 1


def test_a_spiral():
    labels = np.zeros((101, 101), np.uint8)
    row, col, down, right, length = 50, 50, 0, 1, 2
    while 0 <= row < 101 and 0 <= col < 101:
        for _ in range(length):
            if 0 <= row < 101 and 0 <= col < 101:
                labels[row, col] = 1
            row, col = row + down, col + right
        down, right, length = right, -down, length + 2
    assert ndimage.label(labels)[1] == 1
    patches = trace(planes(labels), [1], subpixel=False, strip_rows=3)
    assert len(patches) == 1
    assert patches.polygons()[0].is_valid
    assert np.array_equal(burn(patches, labels.shape), labels)


def test_wider_than_a_short_integer():
    labels = np.zeros((3, 40_000), np.uint8)
    labels[1, 39_990:] = 1
    labels[:, 33_000] = 2
    patches = trace(planes(labels), VALUES, subpixel=False)
    assert patches.xy.max() == 40_000
    assert np.array_equal(burn(patches, labels.shape), labels)


def test_a_class_that_fills_the_scene_and_none_at_all():
    full = trace(planes(np.ones((9, 17), np.uint8)), [1], subpixel=False)
    assert full.xy.tolist() == [[0, 0], [17, 0], [17, 9], [0, 9]]
    assert len(trace(planes(np.full((9, 17), 255)), VALUES, subpixel=True)) == 0
    assert len(trace(planes(np.ones((2, 2))), [77], subpixel=False)) == 0
