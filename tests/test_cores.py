"""Cores: places round the peaks of the probability, against scikit-image's h-maxima."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import local_maxima, reconstruction

from geoseg.pixels import NODATA
from geoseg.vectors.cores import DIP, ODDS, find_cores

SURE = 234


def heights(inside: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """What is flooded, by scipy: of the patch, the lowest of 3 x 3 pixels."""
    patch = np.where(inside & (probability < NODATA), probability, 0)
    return np.minimum(ndimage.minimum_filter(patch, 3, mode="constant"), SURE)


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 4), st.integers(6, 40), st.integers(6, 40))
@settings(max_examples=150, deadline=None)
def test_as_many_as_there_are_maxima_of_that_dynamics(seed, smooth, height, width):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(height, width)), smooth)
    probability = np.clip(150 + 60 * noise / noise.std(), 0, 254).astype(np.uint8)
    inside = label(probability > 100, connectivity=1) == 1
    if not inside.any():
        return
    row, col = np.argwhere(inside)[0]
    found, count = find_cores(inside, probability, row, col, SURE, 1)

    high = heights(inside, probability)
    odds = ODDS[high]
    # What rises less than DIP above what surrounds it is cut off; a hair less, so that what rises just so far stays.
    cut = reconstruction(odds - (DIP - 1e-9), odds, footprint=ndimage.generate_binary_structure(2, 1))
    peaks, wanted = label(
        local_maxima(np.pad(cut, 1, constant_values=cut.min()), connectivity=1)[1:-1, 1:-1] & (high > 0),
        connectivity=1,
        return_num=True,
    )
    assert count == wanted
    assert set(np.unique(found[found > 0])) == set(range(1, count + 1))
    # Each peak is in a core of its own, and outside nothing is marked.
    assert len(set(found[peaks > 0])) == count
    np.testing.assert_array_equal(found == -1, ~inside)


def two(peak: int, dip: int, left: int = 18) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of a patch and five darker columns between them."""
    probability = np.zeros((24, 48), np.uint8)
    probability[2:22, 4:44] = peak
    probability[2:22, 4 + left : 9 + left] = dip
    return probability > 0, probability


@pytest.mark.parametrize(("peak", "dip", "count"), [(250, 235, 1), (250, 200, 2), (200, 190, 1), (200, 160, 2)])
def test_what_falls_deep_enough_is_told_apart_however_sure_it_is(peak, dip, count):
    inside, probability = two(peak, dip)
    found, n = find_cores(inside, probability, 3, 5, SURE, 4)
    assert n == count
    if count == 2:
        assert found[12, 12] != found[12, 36]
        assert found[:, 22:27].max() == 0  # nothing of the dip itself


def test_small_peak_is_no_core():
    inside, probability = two(250, 160, left=5)  # of 3 columns, 18 rows
    assert find_cores(inside, probability, 3, 5, SURE, 54)[1] == 2
    found, count = find_cores(inside, probability, 3, 5, SURE, 54 + 5 * 18)
    assert count == 1
    assert found[12, 36] == 1


def test_bright_spot_makes_no_core_of_the_roof_round_it():
    """A roof with a seam that is hardly darker, and on both sides of it a spot that is far brighter."""
    inside, probability = two(190, 189)
    probability[8:15, 8:15] = probability[8:15, 33:40] = 250  # of which 5 x 5 count
    assert find_cores(inside, probability, 3, 5, SURE, 26)[1] == 1
    assert find_cores(inside, probability, 3, 5, SURE, 25)[1] == 2


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 3), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_turned_or_mirrored_there_are_as_many(seed, smooth, least):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(30, 40)), smooth)
    probability = np.clip(190 + 40 * noise / noise.std(), 0, 254).astype(np.uint8)
    inside = label(probability > 127, connectivity=1) == 1
    counts = set()
    for turns in range(4):
        for flip in (1, -1):
            mask, share = (np.ascontiguousarray(np.rot90(x, turns)[:, ::flip]) for x in (inside, probability))
            row, col = np.argwhere(mask)[0]
            counts.add(find_cores(mask, share, row, col, SURE, least)[1])
    assert len(counts) == 1


def test_narrow_bridge_joins_nothing():
    inside = np.zeros((20, 40), np.bool_)
    inside[2:18, 2:16] = inside[2:18, 24:38] = inside[9:11, 16:24] = True
    probability = np.where(inside, 254, 0).astype(np.uint8)
    assert find_cores(inside, probability, 3, 3, SURE, 4)[1] == 2
    inside[8:11, 16:24], probability[8:11, 16:24] = True, 254
    assert find_cores(inside, probability, 3, 3, SURE, 4)[1] == 1


def test_other_patches_and_missing_pixels_are_not_flooded():
    inside, probability = two(250, 200)
    inside[:, 24] = False
    found, count = find_cores(inside, probability, 3, 5, SURE, 4)
    assert count == 1
    assert (found[:, 24:] == -1).all()
    probability[3:21, 10:12] = NODATA
    assert find_cores(inside, probability, 3, 5, SURE, 4)[1] == 2


def test_thin_patch_has_none():
    inside = np.zeros((10, 30), np.bool_)
    inside[4:6, 2:28] = True
    assert find_cores(inside, np.where(inside, 254, 0).astype(np.uint8), 4, 2, SURE, 1)[1] == 0
