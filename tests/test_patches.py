"""Patches: what is counted of them, their order and selection, and the bound on their number."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.vectors.patches import trace
from geoseg.vectors.planes import ArrayPlanes

label_arrays = arrays(
    np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.sampled_from([0, 1, 255])
)


def planes(labels, probabilities=None):
    labels = np.asarray(labels, np.uint8)
    grid = Grid(shape=labels.shape, transform=Affine.identity(), crs=None)
    return ArrayPlanes(labels, grid, {0: "background", 1: "building"}, probabilities)


def speckled(side=60, seed=3):
    rng = np.random.default_rng(seed)
    return (rng.random((side, side)) < 0.5).astype(np.uint8), rng.integers(0, 256, (2, side, side)).astype(np.uint8)


@settings(deadline=None)
@given(label_arrays, st.integers(0, 9))
def test_counts_are_those_of_scipy(labels, seed):
    stored = np.random.default_rng(seed).integers(0, 256, (2, *labels.shape)).astype(np.uint8)
    patches = trace(planes(labels, stored), [1], subpixel=False, strip_rows=3)
    components, count = ndimage.label(labels == 1)
    assert len(patches) == count
    for index, (rows, cols) in enumerate(ndimage.find_objects(components)):
        inside = components == index + 1
        assert patches.pixels[index] == inside.sum()
        assert patches.first[index].tolist() == np.argwhere(inside)[0].tolist()
        assert patches.box[index].tolist() == [cols.start, rows.start, cols.stop, rows.stop]
        known = stored[1][inside & (stored[1] != 255)]
        if not known.size:
            assert np.isnan([patches.prob[index], patches.prob_min10[index]]).all()
            continue
        assert patches.prob[index] == pytest.approx(known.mean() / 254)
        assert patches.prob_min10[index] == np.percentile(known, 10, method="inverted_cdf") / 254


def test_without_probabilities_there_are_none():
    patches = trace(planes([[1]]), [1], subpixel=False)
    assert np.isnan(patches.prob).all()
    assert np.isnan(patches.prob_min10).all()


@pytest.mark.parametrize("least", [2, 5, 100_000])
def test_small_patches_are_left_out_while_tracing(least):
    labels, stored = speckled()
    whole = trace(planes(labels, stored), [1], subpixel=False)
    wanted = whole.select(whole.pixels >= least)
    found = trace(planes(labels, stored), [1], subpixel=False, min_pixels=least, strip_rows=7)
    for name in whole.__slots__:
        assert np.array_equal(getattr(found, name), getattr(wanted, name), equal_nan=True), name


def test_parts_and_selections_hold_the_same_polygons():
    labels, stored = speckled()
    patches = trace(planes(labels, stored), [1], subpixel=True)
    polygons = patches.polygons()
    parts = list(patches.batches(100))
    assert len(parts) > 3
    assert shapely.equals_exact(np.concatenate([part.polygons() for part in parts]), polygons).all()
    assert np.array_equal(np.concatenate([part.pixels for part in parts]), patches.pixels)
    index = np.array([5, 2, 9])
    assert shapely.equals_exact(patches.select(index).polygons(), polygons[index]).all()
    assert shapely.equals_exact(patches.slice(3, 6).polygons(), polygons[3:6]).all()
    assert np.bincount(patches.ring_patch).tolist() == (1 + patches.holes).tolist()


def test_polygons_are_placed_by_a_transform():
    transform = Affine(0.3, 0.1, 500, 0.2, -0.3, 700)
    patches = trace(planes([[1, 1]]), [1], subpixel=False)
    placed = patches.polygons(transform)[0]
    assert placed.equals(shapely.Polygon([transform @ xy for xy in [(0, 0), (2, 0), (2, 1), (0, 1)]]))


def test_a_chessboard_is_an_error_that_says_what_to_do():
    labels = np.indices((700, 700)).sum(0).astype(np.uint8) % 2
    with pytest.raises(UsageError, match="--min-area-m2"):
        trace(planes(labels), [1], subpixel=False, max_patches=100_000)
    assert len(trace(planes(labels), [1], subpixel=False, max_patches=100_000, min_pixels=2)) == 0
    assert len(trace(planes(labels), [1], subpixel=False)) == labels.sum()


def test_impossible_values():
    for values in ([300], range(256)):
        with pytest.raises(UsageError, match=r"of 0\.\.255"):
            trace(planes([[1]]), values, subpixel=False)


def test_class_255_can_be_outlined():
    patches = trace(planes([[0, 255, 255, 0]]), [0, 255], subpixel=False)
    assert patches.value.tolist() == [0, 255, 0]
    assert patches.pixels.tolist() == [1, 2, 1]
