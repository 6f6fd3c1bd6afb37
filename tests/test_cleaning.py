"""Cleaning of class rasters: small patches, holes, ragged edges; the same however the raster is read."""

import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.vectors.cleaning import Cleaning, clean, pixels_below
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import ArrayPlanes
from geoseg.windows import Window

label_arrays = arrays(
    np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 12)), elements=st.sampled_from([0, 0, 1, 1, 2, 255])
)


def planes(labels, step=512):
    labels = np.asarray(labels, np.uint8)
    grid = Grid(shape=labels.shape, transform=Affine.identity(), crs=None)
    return ArrayPlanes(labels, grid, {0: "background", 1: "building", 2: "road"}, step=step)


def cleaned(labels, values=(1,), **cleaning):
    source = planes(labels)
    return clean(source, values, Cleaning(**cleaning)).labels(source.grid.window)


def picture(text):
    """Labels drawn with digits, `#` for nodata."""
    return np.array([[255 if sign == "#" else int(sign) for sign in line] for line in text.split()], np.uint8)


@settings(deadline=None)
@given(
    label_arrays,
    st.integers(1, 9),
    st.sampled_from([{"min_pixels": 4}, {"min_pixels": 30}, {"fill_pixels": 9}, {"opening": 1}, {"majority": 2}]),
)
def test_strips_do_not_matter(labels, step, cleaning):
    import geoseg.vectors.cleaning as module

    whole = cleaned(labels, (1, 2), **cleaning)
    rows, module._ROWS = module._ROWS, 1
    try:
        source = planes(labels, step)
        cut = clean(source, (1, 2), Cleaning(**cleaning))
        assert cut is source or cut.step == step
        assert np.array_equal(cut.labels(source.grid.window), whole)
    finally:
        module._ROWS = rows
    assert np.array_equal(whole == 255, labels == 255)


@settings(deadline=None)
@given(label_arrays, st.integers(2, 12))
def test_small_patches_go_and_large_ones_only_grow(labels, least):
    found = cleaned(labels, (1,), min_pixels=least)
    components, count = ndimage.label(labels == 1)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    large = (components > 0) & (sizes[components] >= least)
    small = (components > 0) & ~large
    assert (found[large] == 1).all()
    assert np.array_equal(found[~small], labels[~small])
    grown = ndimage.binary_dilation(small) & ~small
    for index in np.unique(components[small]):
        patch = components == index
        round_it = labels[ndimage.binary_dilation(patch) & ~patch]
        if (round_it != 255).any():  # all round it is of other classes, and these are not small
            votes = _edges(labels, patch)
            assert (found[patch] == votes.argmax()).all()
        else:
            assert (found[patch] == 1).all()
    assert grown.any() or not small.any() or small.all()


def _edges(labels, patch):
    """How many edges of a patch's pixels are shared with each other class."""
    votes = np.zeros(255, int)
    padded, mask = np.pad(labels, 1, constant_values=255), np.pad(patch, 1)
    for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
        beside = np.roll(padded, shift, axis)[mask & ~np.roll(mask, shift, axis)]
        votes += np.bincount(beside, minlength=256)[:255]
    return votes


def test_the_most_common_neighbour_wins():
    labels = picture("00022 01022 01222 00222")
    assert np.array_equal(cleaned(labels, min_pixels=3), picture("00022 00022 00222 00222"))
    labels = picture("02222 01222 02222")
    assert np.array_equal(cleaned(labels, min_pixels=3), picture("02222 02222 02222"))


def test_small_patches_in_small_ones_go_from_outside_in():
    labels = picture("0000000 0022200 0021200 0022200 0000000")
    assert not cleaned(labels, (1, 2), min_pixels=9).any()
    assert np.array_equal(cleaned(labels, (1,), min_pixels=9)[2], picture("0022200")[0])


def test_what_has_no_neighbour_stays():
    labels = picture("### #1# ###")
    assert np.array_equal(cleaned(labels, min_pixels=9), labels)
    assert np.array_equal(cleaned(picture("11 11"), min_pixels=9), picture("11 11"))


def test_holes_are_filled():
    labels = picture("11111111 10110011 11110011 11111111")
    assert np.array_equal(cleaned(labels, fill_pixels=2), picture("11111111 11110011 11110011 11111111"))
    assert (cleaned(labels, fill_pixels=5) == 1).all()


@pytest.mark.parametrize(
    "drawn",
    ["1111 1001 1101", "11111 1#011 11111", "11111 11021 11111", "22222 20222 22222"],
    ids=["at the edge", "beside nodata", "between two classes", "of another class"],
)
def test_what_is_no_hole_stays(drawn):
    labels = picture(drawn)
    assert np.array_equal(cleaned(labels, fill_pixels=9) == 0, labels == 0)


def test_a_hole_of_any_class_and_over_many_rows():
    labels = np.ones((400, 3), np.uint8)
    labels[1:-1, 1] = 2
    source = planes(labels, 16)
    assert (clean(source, (1,), Cleaning(fill_pixels=399)).labels(source.grid.window) == 1).all()
    kept = clean(source, (1,), Cleaning(fill_pixels=398)).labels(source.grid.window)
    assert np.array_equal(kept, labels)


@settings(deadline=None)
@given(label_arrays, st.sampled_from(["min_pixels", "fill_pixels"]), st.sampled_from([1, 2**31, 10**30]))
def test_limits_beyond_the_raster_mean_all(labels, name, more):
    whole = cleaned(labels, (1, 2), **{name: labels.size + 1})
    assert np.array_equal(cleaned(labels, (1, 2), **{name: labels.size + more}), whole)


@pytest.mark.parametrize("cleaning", [{"min_pixels": 1500}, {"fill_pixels": 10**9}])
def test_memory_follows_what_is_looked_at_not_the_limit(cleaning):
    labels = np.zeros((4000, 500), np.uint8)
    labels[1:-1:4, 1:-1:4] = 1
    labels[:, 100] = 2  # large wherever it is seen from
    source = planes(labels)
    tracemalloc.start()
    found = clean(source, (1, 2), Cleaning(**cleaning))
    assert tracemalloc.get_traced_memory()[1] < 4 * labels.size  # all of it would be ten times as much
    tracemalloc.stop()
    kept = found.labels(source.grid.window)
    assert np.array_equal(kept == 2, labels == 2)
    assert (kept == 1).any() == ("fill_pixels" in cleaning)


def test_majority():
    labels = picture("00000 00100 00000 11111 11011 11111 1111# 11111")
    expected = picture("00000 00000 00000 11111 11111 11111 1111# 11111")
    assert np.array_equal(cleaned(labels, majority=1)[[1, 4, 6]], expected[[1, 4, 6]])


def test_opening_removes_what_is_thin_only():
    labels = np.zeros((20, 30), np.uint8)
    labels[4:14, 5:15] = 1
    labels[8, 15:28] = 1
    found = cleaned(labels, opening=2)
    assert not found[8, 16:].any()
    assert (found[6:12, 5:15] == 1).all()
    assert (found[:, :4] == 0).all()
    assert np.array_equal(cleaned(np.ones((9, 9)), opening=3), np.ones((9, 9)))


def test_nothing_to_do_gives_the_planes_back():
    source = planes([[1]])
    assert clean(source, [1], Cleaning()) is source
    assert not Cleaning()
    assert Cleaning(fill_pixels=2)
    with pytest.raises(UsageError, match="opening=-1 is negative"):
        Cleaning(opening=-1)


def test_pixels_of_an_area():
    metric = Metric(Grid(shape=(10, 10), transform=Affine.identity(), crs=None), 0.5)
    assert pixels_below(2.5, metric) == 10
    assert pixels_below(2.51, metric) == 11
    assert pixels_below(25, metric) == 100
    assert pixels_below(25.1, metric) == pixels_below(1e300, metric) == 101  # more than there are


def test_windows_and_probabilities_of_the_copy():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (50, 40)).astype(np.uint8)
    stored = rng.integers(0, 255, (3, 50, 40)).astype(np.uint8)
    grid = planes(labels).grid
    source = ArrayPlanes(labels, grid, {0: "a", 1: "b", 2: "c"}, stored, step=16)
    found = clean(source, [1, 2], Cleaning(min_pixels=3))
    whole = found.labels(grid.window)
    part = grid.window.expand(-7)
    assert np.array_equal(found.labels(part), whole[7:-7, 7:-7])
    assert np.array_equal(found.probability(part, 2), stored[2, 7:-7, 7:-7])
    assert np.array_equal(found.margin(part, 1), source.margin(part, 1))
    assert (found.classes, found.grid, found.source) == (source.classes, grid, "")


def test_several_threads_read_the_copy():
    labels = np.repeat(np.arange(8, dtype=np.uint8) % 3, 512)[:, None] * np.ones((1, 4), np.uint8)
    copy = clean(planes(labels), [1], Cleaning(majority=1))
    strips = [Window(row=row, col=0, height=512, width=4) for row in range(0, 8 * 512, 512)]
    before = [copy.labels(strip) for strip in strips]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda at: (at, copy.labels(strips[at])), [at % 8 for at in range(4000)]))
    finally:
        sys.setswitchinterval(interval)
    assert all(np.array_equal(array, before[at]) for at, array in found)
