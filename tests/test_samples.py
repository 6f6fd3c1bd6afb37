"""Samples: pure functions of seed and index, image and target on the same pixels, nothing learnt beyond the edge."""

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geoseg.grid import Grid
from geoseg.training.samples import IGNORED, Epochs, Ground, Samples, cut, statistics
from geoseg.windows import Window


def make_ground(
    data: np.ndarray, target: np.ndarray | None = None, valid: np.ndarray | None = None, **fields
) -> Ground:
    """Ground of these pixels: by default all valid and all background."""
    shape = data.shape[1:]
    return Ground(
        name=fields.pop("name", "some.tif"),
        source="some",
        data=data,
        valid=np.ones(shape, bool) if valid is None else valid,
        target=np.zeros(shape, np.uint8) if target is None else target,
        grid=Grid(shape, Affine.identity(), None),
        known=fields.pop("known", (0, 1)),
        **fields,
    )


def coordinates(height: int, width: int) -> np.ndarray:
    """(2, H, W) float32: row and column."""
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).astype(np.float32)


sizes = st.integers(1, 40)


@given(height=sizes, width=sizes, side=st.integers(1, 48), seed=st.integers(0, 999))
def test_unzoomed_image_target_and_valid_show_the_same_pixels(height, width, side, seed):
    where = coordinates(height, width)
    code = ((where[0] * 31 + where[1] * 7) % 200).astype(np.uint8)
    ground = make_ground(where, code, code % 3 > 0)
    sample = Samples([ground], tile_size=side, seed=seed)[0]
    rows, cols = sample["image"].long().numpy()
    target = sample["target"].numpy()
    learnt = target != IGNORED
    assert (code[rows, cols][learnt] == target[learnt]).all()
    assert ((code % 3 > 0)[rows, cols] == sample["valid"].numpy()).all()
    # What lies beyond the ground is mirrored and never learnt.
    assert learnt.sum() == min(side, height) * min(side, width)


@given(side=st.integers(20, 60), tile=st.integers(16, 40), row=st.integers(0, 30), col=st.integers(0, 30))
def test_zoomed_image_and_target_agree_within_a_pixel(side, tile, row, col):
    where = coordinates(100, 100)
    window = Window(row=row, col=col, height=side, width=side)
    by_row = cut(make_ground(where, where[0].astype(np.uint8)), window, tile)
    by_col = cut(make_ground(where, where[1].astype(np.uint8)), window, tile)
    inner = slice(2, -2)
    tolerance = max(1.0, side / tile)
    for axis, sample in enumerate((by_row, by_col)):
        difference = sample["image"][axis, inner, inner] - sample["target"][inner, inner].float()
        assert difference.abs().max() <= tolerance
        assert abs(float(difference.mean())) < 0.51 * tolerance


def test_zooming_out_averages_instead_of_skipping():
    data = np.zeros((1, 64, 64), np.uint8)
    data[:, ::2, ::2] = 200
    sample = cut(make_ground(data), Window(row=0, col=0, height=64, width=64), 16)
    inner = sample["image"][0, 2:-2, 2:-2].float()
    assert inner.std() < 2
    assert abs(float(inner.mean()) - 50) < 3


def test_the_same_index_gives_the_same_sample_and_another_one_another():
    rng = np.random.default_rng(0)
    grounds = [make_ground(rng.integers(0, 255, (3, 60, 50), dtype=np.uint8), zoom=(0.7, 1.5)) for _ in range(2)]
    first, again = (Samples(grounds, tile_size=16, seed=5) for _ in range(2))
    again[3]
    for key, value in first[7].items():
        assert torch.equal(value, again[7][key])
    assert not torch.equal(first[7]["image"], first[8]["image"])
    assert not torch.equal(first[7]["image"], Samples(grounds, tile_size=16, seed=6)[7]["image"])


def test_samples_are_uint8_for_uint8_ground_and_float32_else():
    for dtype, wanted in ((np.uint8, torch.uint8), (np.uint16, torch.float32), (np.float64, torch.float32)):
        ground = make_ground(np.ones((2, 9, 9), dtype), zoom=(1.5, 1.5))
        assert Samples([ground], tile_size=8, seed=0)[0]["image"].dtype == wanted


def test_values_that_are_not_finite_become_zero():
    data = np.full((1, 8, 8), np.nan, np.float32)
    sample = cut(make_ground(data, valid=np.zeros((8, 8), bool)), Window(row=0, col=0, height=8, width=8), 8)
    assert torch.equal(sample["image"], torch.zeros(1, 8, 8))
    assert not sample["valid"].any()


def test_grounds_are_drawn_by_their_share():
    grounds = [make_ground(np.zeros((1, 8, 8), np.uint8), share=share) for share in (3.0, 1.0)]
    samples = Samples(grounds, tile_size=4, seed=0)
    drawn = [int(samples[index]["ground"]) for index in range(400)]
    assert 0.7 < drawn.count(0) / 400 < 0.8


def test_windows_are_drawn_where_something_is_labelled():
    target = np.full((200, 200), IGNORED, np.uint8)
    target[:40, :40] = 1
    samples = Samples([make_ground(np.zeros((1, 200, 200), np.uint8), target)], tile_size=16, seed=0)
    labelled = [bool((samples[index]["target"] != IGNORED).any()) for index in range(100)]
    # One window in twenty-five would be by chance; up to eight tries find more.
    assert sum(labelled) > 15


def test_every_pixel_of_the_ground_is_reached():
    ground = make_ground(coordinates(11, 13))
    seen = np.zeros((11, 13), bool)
    samples = Samples([ground], tile_size=4, seed=0)
    for index in range(800):
        rows, cols = samples[index]["image"].long().numpy()
        seen[rows, cols] = True
    assert seen.all()


def test_epochs_follow_each_other_without_repeating():
    epochs = Epochs(3)
    seen = []
    for epoch in range(3):
        epochs.set_epoch(epoch)
        assert len(epochs) == 3
        seen += list(epochs)
    assert seen == list(range(9))


def test_statistics_are_those_of_valid_pixels_by_share():
    data = np.stack([np.full((4, 4), 10.0), np.arange(16.0).reshape(4, 4)])
    data[:, 0, 0] = 1e9
    valid = np.ones((4, 4), bool)
    valid[0, 0] = False
    other = make_ground(np.full((2, 4, 4), 30.0), share=3.0)
    found = statistics([make_ground(data, valid=valid), other])
    assert found.mean[0] == pytest.approx(0.25 * 10 + 0.75 * 30)
    assert found.mean[1] == pytest.approx(0.25 * np.arange(1, 16).mean() + 0.75 * 30)
    assert found.std[0] == pytest.approx(np.sqrt(0.25 * 100 + 0.75 * 900 - 25**2))
    assert found.value_range == ((10.0, 30.0), (1.0, 30.0))


def test_statistics_of_a_constant_band_and_of_nan_are_usable():
    data = np.full((1, 4, 4), 7.0, np.float32)
    data[0, 1, 1] = np.nan
    found = statistics([make_ground(data)])
    assert (found.mean, found.std, found.value_range) == ((7.0,), (1.0,), ((7.0, 7.0),))
