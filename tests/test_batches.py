"""Mirroring, fill and normalisation against numpy."""

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geoseg.batches import ArrayReader, Tile, mirror, read_tile, to_batch
from geoseg.errors import ShapeError
from geoseg.grid import Grid
from geoseg.windows import Window


def reader(data, valid=None):
    valid = np.ones(data.shape[1:], bool) if valid is None else valid
    return ArrayReader(data=data, valid=valid, grid=Grid(shape=valid.shape, transform=Affine.identity(), crs=None))


@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 40))
def test_mirror_is_numpys_reflect(size, before, after):
    expected = np.pad(np.arange(size), (before, after), mode="reflect")
    assert np.array_equal(mirror(-before, size + after, size), expected)


@given(st.integers(1, 40), st.integers(1, 13), st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 40))
def test_read_tile_equals_the_padded_whole(height, width, row, col, side):
    rng = np.random.default_rng(height * 100 + width)
    data = rng.integers(0, 255, (2, height, width), dtype=np.uint8)
    valid = rng.random((height, width)) > 0.5
    tile = read_tile(reader(data, valid), Window(row=row, col=col, height=side, width=side))
    pad = [(60, 100), (60, 100)]
    inside = slice(60 + row, 60 + row + side), slice(60 + col, 60 + col + side)
    assert np.array_equal(tile.data, np.pad(data, [(0, 0), *pad], mode="reflect")[:, *inside])
    assert np.array_equal(tile.valid, np.pad(valid, pad, mode="reflect")[inside])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_to_batch_normalises(dtype):
    data = np.arange(2 * 5 * 7).reshape(2, 5, 7).astype(dtype)
    batch = to_batch([Tile(data, np.ones((5, 7), bool))] * 3, [3.0, 4.0], [2.0, 5.0], torch.float32)
    expected = (data.astype(np.float64) - np.array([3, 4])[:, None, None]) / np.array([2, 5])[:, None, None]
    assert batch.shape == (3, 2, 5, 7)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(batch[1].numpy(), expected, rtol=1e-6)


def test_invalid_and_non_finite_become_the_training_mean():
    data = np.array([[[1.0, np.nan, np.inf, -np.inf, 1e38, 5.0]]], np.float32)
    valid = np.array([[True, True, True, True, True, False]])
    batch = to_batch([Tile(data, valid)], [1.0], [1.0], torch.bfloat16)
    assert torch.isfinite(batch).all()
    assert batch.flatten().tolist() == [0, 0, 0, 0, 64, 0]


def test_tiles_must_agree():
    tile = Tile(np.zeros((2, 3, 3), np.uint8), np.ones((3, 3), bool))
    other = Tile(np.zeros((2, 3, 4), np.uint8), np.ones((3, 4), bool))
    with pytest.raises(ShapeError, match="one shape"):
        to_batch([tile, other], [0, 0], [1, 1], torch.float32)
    with pytest.raises(ShapeError, match="3 channels"):
        to_batch([tile], [0, 0, 0], [1, 1, 1], torch.float32)
    with pytest.raises(ShapeError, match="Expected"):
        Tile(np.zeros((2, 3, 3), np.uint8), np.ones((3, 4), bool))
