"""Cuts between pieces of a patch: walls stay, what only looks darker is mended."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.vectors import cuts


def mended(pieces: np.ndarray, shares: np.ndarray, *, least: int, pixel_m2: float = 1) -> np.ndarray:
    """With pixels so large that no piece is a small building."""
    return cuts.mended(pieces, shares, least=least, pixel_m2=pixel_m2)


def halves(at: np.ndarray, width: int = 60) -> np.ndarray:
    """Two pieces, left and right of a column that may differ from row to row."""
    return np.where(np.arange(width) < at[:, None], 1, 2).astype(np.int32)


def probability(at: np.ndarray, dip: int, width: int = 60) -> np.ndarray:
    """254 everywhere, but for a dip of three columns about the same."""
    return np.where(np.abs(np.arange(width) - at[:, None]) < 2, dip, 254).astype(np.uint8)


def test_straight_and_dark_is_a_wall():
    at = np.full(40, 30)
    found = mended(halves(at), probability(at, 160), least=20)
    np.testing.assert_array_equal(found, halves(at))


def test_hardly_darker_is_none():
    at = np.full(40, 30)
    assert (mended(halves(at), probability(at, 240), least=20) == 1).all()


def test_crooked_is_none():
    at = 30 + np.rint(5 * np.sin(np.arange(40) / 3)).astype(int)
    dark = probability(at, 160)
    assert (mended(halves(at), dark, least=20) == 1).all()
    slant = 20 + np.arange(40) // 2  # straight, though not along the pixels
    assert mended(halves(slant), probability(slant, 160), least=20).max() == 2


def test_small_piece_joins_the_neighbour_it_is_least_apart_from():
    pieces = np.repeat([[1] * 30 + [2] * 4 + [3] * 30], 8, axis=0).astype(np.int32)
    shares = np.full(pieces.shape, 254, np.uint8)
    shares[:, 29:31], shares[:, 33:35] = 140, 180
    found = mended(pieces, shares, least=40)
    np.testing.assert_array_equal(found[0], [1] * 30 + [2] * 34)
    np.testing.assert_array_equal(mended(pieces, shares, least=32), pieces)


def test_what_is_left_is_judged_again():
    """A corner of two cuts is crooked, each of them alone is not: the piece on either side was one."""
    pieces = np.ones((40, 60), np.int32)
    pieces[:, 30:], pieces[20:, 30:] = 2, 3
    shares = np.full(pieces.shape, 254, np.uint8)
    shares[:, 29:31] = 150
    np.testing.assert_array_equal(mended(pieces, shares, least=20), np.where(pieces > 1, 2, 1))


def test_ground_outside_stays_outside():
    pieces = np.zeros((20, 40), np.int32)
    pieces[5:15, 5:18], pieces[5:15, 22:35] = 1, 2
    found = mended(pieces, np.where(pieces > 0, 254, 0).astype(np.uint8), least=4)
    np.testing.assert_array_equal(found, pieces)


@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_pieces_are_only_joined(seed, count):
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, 24, (count, 2))
    cells = np.indices((24, 24)).transpose(1, 2, 0)[:, :, None] - seeds
    _, pieces = np.unique(np.hypot(*cells.transpose(3, 0, 1, 2)).argmin(axis=2), return_inverse=True)
    pieces = (pieces.reshape(24, 24) + 1).astype(np.int32)
    shares = rng.integers(100, 255, (24, 24)).astype(np.uint8)
    found = mended(pieces, shares, least=30)
    assert sorted(np.unique(found)) == list(range(1, found.max() + 1))
    for piece in np.unique(pieces):
        assert len(np.unique(found[pieces == piece])) == 1
    assert found.max() == 1 or np.bincount(found.ravel())[1:].min() >= 30


def test_small_house_needs_a_darker_wall_than_a_large_one():
    at = np.full(40, 30)
    pieces, shares = halves(at), probability(at, 160)  # 2400 pixels; .63 along the cut
    assert mended(pieces, shares, least=20, pixel_m2=0.06).max() == 2  # 144 m2
    assert mended(pieces, shares, least=20, pixel_m2=0.03).max() == 1  # 72 m2
    assert mended(pieces, probability(at, 100), least=20, pixel_m2=0.03).max() == 2


def test_wall_is_judged_by_what_lies_beside_it_at_last():
    """The left piece is too small for the wall right of it, until it has joined its other half."""
    pieces = np.repeat([[1] * 20 + [2] * 10 + [3] * 30], 40, axis=0).astype(np.int32)
    shares = np.full(pieces.shape, 254, np.uint8)
    shares[:, 29:31] = 160
    alone = np.maximum(pieces - 1, 0).astype(np.int32)
    assert mended(alone, shares, least=20, pixel_m2=0.045).max() == 1  # 72 m2
    np.testing.assert_array_equal(mended(pieces, shares, least=20, pixel_m2=0.045), np.where(pieces < 3, 1, 2))


@pytest.mark.parametrize("share", [140, 200, 225])
def test_roof_that_is_unsure_all_over_is_not_cut(share):
    at = np.full(40, 30)
    flat = np.full((40, 60), share, np.uint8)
    assert mended(halves(at), flat, least=20).max() == 1
    assert mended(halves(at), np.where(probability(at, 1) == 1, share - 25, flat).astype(np.uint8), least=20).max() == 2
