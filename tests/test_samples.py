"""Samples: pure functions of seed and index, image and target on the same pixels, nothing learnt beyond the edge."""

import json

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geoseg.batches import mirror
from geoseg.errors import ResumeError
from geoseg.grid import Grid
from geoseg.losses import outline_distances
from geoseg.metrics import IGNORE
from geoseg.training.samples import Ground, Samples, cut, statistics
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
    learnt = target != IGNORE
    assert (code[rows, cols][learnt] == target[learnt]).all()
    assert ((code % 3 > 0)[rows, cols] == sample["valid"].numpy()).all()
    # What lies beyond the ground is mirrored and never learnt.
    assert learnt.sum() == min(side, height) * min(side, width)


@given(top=sizes, left=sizes, height=sizes, width=sizes, side=st.integers(1, 48), how=st.sampled_from(["", "balance"]))
def test_samples_are_cut_from_the_frame_or_round_it(top, left, height, width, side, how):
    frame = Window(row=top, col=left, height=height, width=width)
    where = coordinates(top + height + side, left + width + side)
    target = np.full(where.shape[1:], IGNORE, np.uint8)
    target[frame.slices()] = 1
    ground = make_ground(where, target, frame=frame)
    sample = Samples([ground], tile_size=side, seed=top, **({how: 1.0} if how else {}))[0]
    assert (sample["target"] == 1).sum() == min(side, height) * min(side, width)


@given(
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
    bands=st.integers(1, 9),
    shape=st.tuples(sizes, sizes),
    start=st.tuples(st.integers(-90, 90), st.integers(-90, 90)),
    side=st.integers(1, 90),
    tile=st.integers(2, 40),  # torch itself fails to make a single pixel of three bands of uint8
    seed=st.integers(0, 99),
)
def test_a_window_is_what_indices_say_pixel_by_pixel(dtype, bands, shape, start, side, tile, seed):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 250, (bands, *shape)).astype(dtype)
    target, valid = rng.integers(0, 3, shape, dtype=np.uint8), rng.random(shape) < 0.5
    heights, distances = rng.random((2, *shape), dtype=np.float32), rng.random((1, *shape)).astype(np.float16)
    ground = make_ground(data, target, valid, further={"height": heights}, distances=distances)
    for array in (data, target, valid, heights, distances):
        array.flags.writeable = False
    window = Window(row=start[0], col=start[1], height=side, width=side)
    sample = cut(ground, window, tile)
    every = ((np.arange(tile) + 0.5) * side / tile).astype(int)
    at = [origin + every for origin in start]
    shown = np.ix_(*(mirror(origin, origin + side, size)[every] for origin, size in zip(start, shape, strict=True)))
    rows, cols = ((a >= 0) & (a < size) for a, size in zip(at, shape, strict=True))
    inside = rows[:, None] & cols
    np.testing.assert_array_equal(sample["target"], np.where(inside, target[shown], IGNORE))
    np.testing.assert_array_equal(sample["valid"], valid[shown])
    np.testing.assert_array_equal(sample["further_height"], np.where(inside, heights[:, *shown], np.nan))
    far = np.where(inside, distances[:, *shown], 0).astype(np.float32)
    np.testing.assert_allclose(sample["distances"], far * np.float32(tile / side), rtol=1e-6)
    whole = np.ix_(*(mirror(origin, origin + side, size) for origin, size in zip(start, shape, strict=True)))
    image = torch.from_numpy(data[:, *whole].astype(np.uint8 if dtype == np.uint8 else np.float32))
    known = torch.from_numpy(valid[whole])
    if side != tile and not known.all():  # what has no data counts for nothing
        planes = torch.cat([image.float() * known, known[None].float()])
        planes = torch.nn.functional.interpolate(planes[None], size=(tile, tile), mode="bilinear", antialias=True)[0]
        image = (planes[:-1] / planes[-1:].clamp_min(1e-6)).nan_to_num()
        error = (sample["image"].float() - image)[:, sample["valid"]].abs()
        assert (error.max() if error.numel() else 0) <= (0.5001 if dtype == np.uint8 else 1e-3)
        return
    if side != tile:
        image = torch.nn.functional.interpolate(image[None], size=(tile, tile), mode="bilinear", antialias=True)[0]
    assert torch.equal(sample["image"], image)


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


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("side", [20, 50])
def test_zooming_keeps_pixels_without_data_out_of_the_others(dtype, side):
    data = np.full((5, 48, 48), 100, dtype)
    valid = np.random.default_rng(0).random((48, 48)) < 0.7
    data[:, ~valid] = 0 if dtype == np.uint8 else -9999
    sample = cut(make_ground(data, valid=valid), Window(row=3, col=-2, height=side, width=side), 32)
    assert sample["image"].dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    assert 0.5 < sample["valid"].float().mean() < 0.9
    assert torch.allclose(sample["image"][:, sample["valid"]].float(), torch.tensor(100.0), rtol=1e-5)


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
    target = np.full((200, 200), IGNORE, np.uint8)
    target[:40, :40] = 1
    samples = Samples([make_ground(np.zeros((1, 200, 200), np.uint8), target)], tile_size=16, seed=0)
    labelled = [bool((samples[index]["target"] != IGNORE).any()) for index in range(100)]
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


def rare_ground(**fields) -> Ground:
    """400 pixels a side, of which 20 are class 2; elsewhere stripes of 0 and 1."""
    target = np.zeros((400, 400), np.uint8)
    target[:, 300:] = 1
    target[200:204, 100:105] = 2
    data = np.random.default_rng(0).integers(0, 255, (3, 400, 400), dtype=np.uint8)
    return make_ground(data, target, known=(0, 1, 2), **fields)


class TestBalance:
    def test_every_class_is_as_likely(self):
        def shares(balance):
            samples = Samples([rare_ground()], tile_size=32, seed=0, balance=balance)
            return [np.mean([bool((samples[i]["target"] == value).any()) for i in range(300)]) for value in range(3)]

        assert shares(0)[2] < 0.05
        assert min(shares(1)) > 0.3
        assert 0.1 < shares(0.5)[2] < 0.3

    @pytest.mark.parametrize("zoom", [(1.0, 1.0), (0.5, 2.0)])
    def test_windows_stay_inside_and_move_round_the_pixel(self, zoom):
        samples = Samples([rare_ground(zoom=zoom)], tile_size=64, seed=1, balance=1)
        where = set()
        for index in range(200):
            window = samples._view(index)[1].window
            assert window.intersection(samples.grounds[0].grid.window) == window
            where.add((window.row, window.col))
        assert len(where) > 150

    def test_every_pixel_of_a_class_is_reached(self):
        samples = Samples([rare_ground()], tile_size=3, seed=0, balance=1)
        seen = np.zeros((400, 400), bool)
        for index in range(2000):
            seen[samples._view(index)[1].window.slices()] = True
        assert seen[200:204, 100:105].all()

    def test_of_classes_that_labels_do_not_tell_apart_nothing_is_drawn(self):
        known = make_ground(np.zeros((1, 50, 50), np.uint8), np.ones((50, 50), np.uint8), known=(1,))
        samples = Samples([known, rare_ground()], tile_size=8, seed=0, balance=1)
        assert [value for value, _ in samples.classes] == [0, 1, 2]
        zeros = dict(samples.classes)[0]
        assert zeros[0] == 0

    def test_grounds_without_a_share_are_not_drawn(self):
        samples = Samples([rare_ground(share=0.0), rare_ground()], tile_size=8, seed=0, balance=1)
        assert {int(samples[index]["ground"]) for index in range(50)} == {1}

    def test_ground_smaller_than_a_sample(self):
        small = make_ground(np.zeros((1, 5, 7), np.uint8), np.ones((5, 7), np.uint8))
        sample = Samples([small], tile_size=16, seed=0, balance=1)[3]
        assert int((sample["target"] == 1).sum()) == 35


def taught(samples: Samples, epochs: int = 1, size: int = 64) -> Samples:
    """Samples after epochs in which windows were the harder the nearer they are to (100, 300)."""
    for epoch in range(epochs):
        indices = range(epoch * size, (epoch + 1) * size)
        windows = [samples._view(index)[1].window for index in indices]
        losses = [1 / (1 + abs(w.row + 16 - 100) + abs(w.col + 16 - 300)) for w in windows]
        samples.learn(list(indices), losses)
    return samples


class TestHard:
    @staticmethod
    def make(hard=0.5, **fields) -> Samples:
        return Samples([rare_ground(zoom=(0.8, 1.25))], tile_size=32, seed=0, hard=hard, **fields)

    @staticmethod
    def near(samples) -> float:
        windows = [samples._view(index)[1].window for index in range(1000, 1300)]
        return float(np.mean([abs(w.row + 16 - 100) + abs(w.col + 16 - 300) < 100 for w in windows]))

    def test_windows_are_drawn_where_the_loss_was_high(self):
        before, after = self.near(self.make()), self.near(taught(self.make(), epochs=3))
        assert before < 0.2
        assert 0.45 < after < 0.75

    def test_nothing_is_learnt_where_it_is_not_asked_for(self):
        plain, told = self.make(hard=0), taught(self.make(hard=0))
        assert told.state_dict() == plain.state_dict()
        assert torch.equal(plain[7]["image"], told[7]["image"])

    def test_a_sample_depends_on_seed_index_and_what_was_learnt(self):
        first, again = (taught(self.make(balance=0.3), epochs=2) for _ in range(2))
        for index in (500, 3, 77):
            again[index + 1]
            for key, value in first[index].items():
                assert torch.equal(value, again[index][key])

    def test_it_goes_on_from_its_state(self):
        whole = taught(self.make(), epochs=3)
        half = taught(self.make(), epochs=2)
        resumed = self.make()
        resumed.load_state_dict(json.loads(json.dumps(half.state_dict())))
        indices = range(128, 192)
        losses = []
        for index in indices:
            assert torch.equal(resumed[index]["image"], half[index]["image"])
            window = resumed._view(index)[1].window
            losses.append(1 / (1 + abs(window.row + 16 - 100) + abs(window.col + 16 - 300)))
        resumed.learn(list(indices), losses)
        assert resumed.state_dict() == whole.state_dict()
        assert torch.equal(resumed[200]["image"], whole[200]["image"])

    def test_order_and_losses_that_are_not_finite_do_not_matter(self):
        one, other = self.make(), self.make()
        one.learn([3, 1, 2, 9], [0.3, 0.1, 0.2, float("nan")])
        other.learn([1, 2, 3], [0.1, 0.2, 0.3])
        assert one.state_dict() == other.state_dict()
        assert len(one.pool) == 1
        one.learn([4], [float("inf")])
        assert one.state_dict()["hard"][0][:4] == other.state_dict()["hard"][0][:4]

    def test_what_was_hard_and_no_longer_is_is_forgotten(self):
        samples = self.make(hard=1)
        samples.learn(list(range(16)), [1.0] * 16)
        pool = [hard[:4] for hard in samples.pool]
        samples.learn(list(range(16, 80)), [0.01] * 64)
        assert not any(hard[:4] in pool for hard in samples.pool)

    def test_state_of_other_ground_is_refused(self):
        state = self.make().state_dict()
        with pytest.raises(ResumeError, match="1 pieces of ground, now there are 2"):
            Samples([rare_ground()] * 2, tile_size=32, seed=0, hard=0.5).load_state_dict(state)


class TestDistances:
    def test_they_are_cut_and_divided_by_the_zoom(self):
        ground = rare_ground()
        whole = outline_distances(ground.target, ground.known, 3)
        ground = rare_ground(distances=whole)
        same = cut(ground, Window(row=180, col=90, height=64, width=64), 64)
        np.testing.assert_array_equal(same["distances"], whole[:, 180:244, 90:154])
        coarse = cut(ground, Window(row=180, col=90, height=128, width=128), 64)
        np.testing.assert_array_equal(coarse["distances"], whole[:, 181:308:2, 91:218:2] / np.float16(2))

    def test_samples_of_ground_with_fewer_classes_are_filled_up(self):
        full = rare_ground(distances=np.ones((3, 400, 400), np.float16))
        one = make_ground(np.zeros((3, 40, 40), np.uint8), known=(1,), distances=np.ones((1, 40, 40), np.float16))
        samples = Samples([full, one], tile_size=8, seed=0)
        found = {int(samples[index]["ground"]): samples[index]["distances"] for index in range(20)}
        assert found[0].shape == found[1].shape == (3, 8, 8)
        assert (found[1][0] == 1).all()
        assert (found[1][1:] == 0).all()

    def test_without_them_a_sample_has_none(self):
        assert "distances" not in Samples([rare_ground()], tile_size=8, seed=0)[0]


def test_a_sample_tells_its_index_and_the_loader_stacks_all():
    loader = torch.utils.data.DataLoader(Samples([rare_ground()], tile_size=8, seed=0), batch_size=3, sampler=range(6))
    batch = list(loader)[1]
    assert batch["index"].tolist() == [3, 4, 5]
    assert batch["index"].dtype == batch["ground"].dtype == torch.int64
