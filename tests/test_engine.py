"""The exactness rules of cells, over random sizes, halos, bands, dtypes and holes."""

from functools import cache

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from geoseg.batches import ArrayReader, mirror
from geoseg.blend import taper
from geoseg.checkpoint import ClassInfo, Head
from geoseg.engine import cells
from geoseg.errors import CheckpointError, DeviceError
from geoseg.grid import Grid
from geoseg.layers import LABELS_ONLY, Keep
from geoseg.models import build_model
from geoseg.models.receptive import receptive_radius
from geoseg.pixels import NODATA
from geoseg.predict import Placement, Runner
from geoseg.scores import Decision
from geoseg.windows import Plan, TaperedPlan

FLOAT32 = Placement(device="cpu", precision="float32")


class Constant(nn.Module):
    """Class 1 of 3 everywhere."""

    stride = 1

    def forward(self, x):
        return torch.tensor([0.0, 2.0, 1.0]).view(1, 3, 1, 1).expand(len(x), 3, *x.shape[2:])


class Identity(nn.Module):
    """The class is the pixel's value."""

    stride = 1
    classes = 7

    def forward(self, x):
        return -((x[:, :1] - torch.arange(self.classes).view(1, -1, 1, 1)) ** 2)


class Fragile(nn.Module):
    """Breaks when anything non-finite reaches it."""

    stride = 1

    def forward(self, x):
        assert torch.isfinite(x).all()
        return torch.cat([x[:, :1], -x[:, :1]], dim=1)


def runner_for(model, channels=1, classes=3):
    return make_runner(model, [0.0] * channels, [1.0] * channels, classes)


def make_runner(model, mean, std, classes, **decision):
    heads = {"main": Head(classes=tuple(ClassInfo(name=f"class {i}", color="#000000") for i in range(classes)))}
    return Runner(model, mean=mean, std=std, decision=Decision(heads=heads, **decision), placement=FLOAT32)


def reader_for(data, valid):
    return ArrayReader(data=data, valid=valid, grid=Grid(shape=valid.shape, transform=Affine.identity(), crs=None))


def predict(reader, runner, plan, keep=LABELS_ONLY, batch=1, area=None):
    """The whole scene, cell by cell; every pixel is written exactly once."""
    labels = np.full(plan.shape, 77, np.uint8)
    extras = {}
    windows = list(plan)
    for start in range(0, len(windows), batch):
        part = windows[start : start + batch]
        for cell, scores in zip(part, cells(reader, runner, plan, part, keep=keep, area=area), strict=True):
            assert (labels[cell.slices()] == 77).all()
            labels[cell.slices()] = scores["labels"]
            for name, array in scores.items():
                whole = extras.setdefault(name, np.zeros((*array.shape[:-2], *plan.shape), np.uint8))
                whole[..., *cell.slices()] = array
    return labels, extras


@cache
def radius_of(depth):
    return receptive_radius(build_model("unet", in_channels=1, classes=2, width=1, depth=depth))


@st.composite
def scenes(draw, channels=None, dtypes=(np.uint8, np.int16, np.uint16, np.float32, np.float64), top=7):
    """Small scenes of any size from 1x1, one row or column included, with holes, or nothing but a hole."""
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = rng.integers(0, top, (channels or draw(st.integers(1, 4)), height, width)).astype(
        draw(st.sampled_from(dtypes))
    )
    holes = draw(st.sampled_from([0.0, 0.3, 1.0]))
    return data, rng.random((height, width)) >= holes


@st.composite
def plans_for(draw, shape, stride=1, least_halo=0):
    return Plan(
        shape=shape,
        cell_side=stride * draw(st.integers(1, 70 // stride)),
        halo=stride * draw(st.integers(-(-least_halo // stride), 30 // stride + -(-least_halo // stride))),
        stride=stride,
    )


@settings(max_examples=40)
@given(st.data())
def test_a_constant_model_gives_that_constant_on_every_valid_pixel(data):
    pixels, valid = data.draw(scenes())
    plan = data.draw(plans_for(valid.shape))
    runner = runner_for(Constant(), channels=len(pixels))
    labels, _ = predict(reader_for(pixels, valid), runner, plan, batch=data.draw(st.integers(1, 5)))
    assert np.array_equal(labels, np.where(valid, 1, NODATA))


@settings(max_examples=40)
@given(st.data())
def test_an_identity_model_gives_the_input_back(data):
    pixels, valid = data.draw(scenes(channels=1))
    plan = data.draw(plans_for(valid.shape))
    runner = runner_for(Identity(), classes=7)
    labels, _ = predict(reader_for(pixels, valid), runner, plan, batch=data.draw(st.integers(1, 5)))
    assert np.array_equal(labels, np.where(valid, pixels[0], NODATA))


@settings(max_examples=25)
@given(st.data())
def test_tiles_equal_the_whole_scene(data):
    depth, channels = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    pixels, valid = data.draw(scenes(channels=channels, top=200))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    model = build_model("unet", in_channels=channels, classes=3, width=2, depth=depth, norm="none").eval()
    plan = data.draw(plans_for(valid.shape, stride=model.stride, least_halo=radius_of(depth)))
    reader = reader_for(pixels, valid)

    # The whole scene at once, mirrored by numpy, through the bare model.
    halo = plan.halo
    extra = [(halo, halo + -side % model.stride) for side in valid.shape]
    whole = np.where(valid, (pixels.astype(np.float64) - 50) / 20, 0.0).astype(np.float32)
    whole = np.pad(whole, [(0, 0), *extra], mode="reflect")
    with torch.inference_mode():
        logits = model(torch.from_numpy(whole)[None])[0, :, halo:, halo:][:, : valid.shape[0], : valid.shape[1]]
    expected = np.where(valid, logits.argmax(0).numpy(), NODATA)
    first, second = logits.topk(2, dim=0).values
    clear = ((first - second) > 1e-5 * logits.abs().max()).numpy() | ~valid

    runner = make_runner(model, [50] * channels, [20] * channels, 3)
    labels, _ = predict(reader, runner, plan)
    assert np.array_equal(labels[clear], expected[clear])


@settings(max_examples=20)
@given(st.data())
def test_non_finite_pixels_never_reach_the_network(data):
    pixels, valid = data.draw(scenes(channels=2, dtypes=(np.float32, np.float64)))
    pixels[:, ~valid] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    plan = data.draw(plans_for(valid.shape))
    labels, _ = predict(reader_for(pixels, valid), runner_for(Fragile(), channels=2, classes=2), plan)
    assert np.array_equal(labels == NODATA, ~valid)


def test_probabilities_are_the_softmax_and_nodata_is_apart():
    pixels = np.array([[[0, 1, 2, 6]]], np.uint8)
    valid = np.array([[True, True, True, False]])
    plan = Plan(shape=(1, 4), cell_side=2)
    keep = Keep(confidence=True, probabilities=True)
    labels, extras = predict(reader_for(pixels, valid), runner_for(Identity(), classes=7), plan, keep=keep)
    logits = torch.from_numpy(-((pixels[0].astype(float) - np.arange(7)[:, None, None]) ** 2))
    expected = (torch.softmax(logits, 0) * 254).round().numpy()
    assert np.array_equal(extras["probabilities"][:, valid], expected[:, valid])
    assert np.array_equal(extras["confidence"][valid], expected.max(0)[valid])
    assert (extras["probabilities"][:, ~valid] == NODATA).all()
    assert (extras["confidence"][~valid] == NODATA).all()
    assert labels.tolist() == [[0, 1, 2, NODATA]]


def test_temperature_softens_probabilities_and_leaves_labels():
    reader = reader_for(np.array([[[1, 3]]], np.uint8), np.ones((1, 2), bool))
    plan, keep = Plan(shape=(1, 2), cell_side=2), Keep(confidence=True)
    sharp, soft = (make_runner(Identity(), [0], [1], 7, temperature=t) for t in (1.0, 4.0))
    (a,), (b,) = (list(cells(reader, r, plan, list(plan), keep=keep)) for r in (sharp, soft))
    assert np.array_equal(a["labels"], b["labels"])
    assert (b["confidence"] < a["confidence"]).all()


def test_empty_cells_cost_no_forward_pass():
    calls = []

    class Counting(Constant):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    valid = np.zeros((8, 12), bool)
    valid[0, 5] = True  # only the middle of three cells has a valid pixel
    labels, _ = predict(
        reader_for(np.ones((1, 8, 12), np.uint8), valid),
        runner_for(Counting()),
        Plan(shape=(8, 12), cell_side=4, halo=2),
    )
    assert sum(calls) == 1
    assert labels[0, 5] == 1
    assert (labels == NODATA).sum() == valid.size - 1


def test_outside_the_area_is_nodata_but_still_context():
    class LeftHalf:
        def valid(self, window):
            return np.broadcast_to(np.arange(window.col, window.stop_col) < 5, window.shape).copy()

    pixels = np.random.default_rng(0).integers(0, 200, (1, 20, 20)).astype(np.uint8)
    reader = reader_for(pixels, np.ones((20, 20), bool))
    torch.manual_seed(0)
    model = build_model("unet", in_channels=1, classes=3, width=2, depth=1, norm="none").eval()
    plan = Plan(shape=(20, 20), cell_side=8, halo=10, stride=2)
    everywhere, _ = predict(reader, runner_for(model), plan)
    limited, _ = predict(reader, runner_for(model), plan, area=LeftHalf())
    assert np.array_equal(limited[:, :5], everywhere[:, :5])
    assert (limited[:, 5:] == NODATA).all()


def test_out_of_memory_halves_the_batch_and_then_the_tile(caplog):
    class Small(nn.Module):
        """A U-Net on a device where one tile of 48x48 just fits."""

        stride = 2

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.unet = build_model("unet", in_channels=1, classes=3, width=2, depth=1, norm="none").eval()
            self.limit = 10**9

        def forward(self, x):
            if len(x) * x.shape[-1] * x.shape[-2] > self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return self.unet(x)

    pixels = np.random.default_rng(0).integers(0, 200, (1, 70, 70)).astype(np.uint8)
    reader = reader_for(pixels, np.ones((70, 70), bool))
    plan = Plan(shape=(70, 70), cell_side=70, halo=10, stride=2)
    runner = make_runner(Small(), [100], [50], 3)
    expected, _ = predict(reader, runner, plan)
    runner.model.limit = 48 * 48
    labels, _ = predict(reader, runner, plan)
    assert np.array_equal(labels, expected)
    assert "cut in two" in caplog.text

    runner.step = 4
    small = Plan(shape=(70, 70), cell_side=26, halo=10, stride=2)
    labels, _ = predict(reader, runner, small, batch=9)
    assert np.array_equal(labels, expected)
    assert "halved" in caplog.text


def test_non_finite_logits_are_refused():
    class Broken(Constant):
        def forward(self, x):
            return super().forward(x) * float("nan")

    reader = reader_for(np.ones((1, 4, 4), np.uint8), np.ones((4, 4), bool))
    with pytest.raises(CheckpointError, match="non-finite"):
        predict(reader, runner_for(Broken()), Plan(shape=(4, 4), cell_side=4))


# ---- unbounded context


class Unbounded(nn.Module):
    """Every logit depends on all that the network sees: on its mean, and on its own pixel."""

    stride, bounded = 2, False

    def forward(self, x):
        x = x[:, :1]
        return torch.cat([x - x.mean((2, 3), keepdim=True), 0.3 * x, 0.2 - x], dim=1)


@st.composite
def tapers_for(draw, shape, stride=1):
    step = stride * draw(st.integers(max(1, 8 // stride), 40 // stride))
    return TaperedPlan(
        shape=shape,
        cell_side=step * draw(st.integers(1, 3)),
        stride=stride,
        step=step,
        fade=stride * draw(st.integers(0, step // stride)),
    )


def blended_whole(model, pixels, valid, plan, mean, std):
    """All tiles of the lattice over the whole scene, weighted and summed in float64."""
    sums = np.zeros((3, *plan.shape))
    weights = taper(plan.tile_size, plan.overlap).numpy()
    filled = np.where(valid, (pixels.astype(np.float64) - mean) / std, 0.0).astype(np.float32)
    starts = [range(-plan.fade, length, plan.step) for length in plan.shape]
    side = plan.tile_size
    for row in starts[0]:
        for col in starts[1]:
            rows, cols = (mirror(at, at + side, n) for at, n in zip((row, col), plan.shape, strict=True))
            with torch.inference_mode():
                logits = model(torch.from_numpy(filled[:, rows][:, :, cols])[None])[0].numpy()
            inside = [slice(max(at, 0), min(at + side, n)) for at, n in zip((row, col), plan.shape, strict=True)]
            part = [slice(i.start - at, i.stop - at) for i, at in zip(inside, (row, col), strict=True)]
            sums[:, inside[0], inside[1]] += (logits * weights)[:, part[0], part[1]]
    return sums


@settings(max_examples=30)
@given(st.data())
def test_blended_cells_equal_the_blended_whole_scene(data):
    pixels, valid = data.draw(scenes(channels=1, top=200))
    plan = data.draw(tapers_for(valid.shape, stride=2))
    runner = make_runner(Unbounded(), [90], [60], 3)
    labels, _ = predict(reader_for(pixels, valid), runner, plan, batch=data.draw(st.integers(1, 3)))
    sums = blended_whole(Unbounded(), pixels, valid, plan, 90, 60)
    first, second = np.sort(sums, axis=0)[:-3:-1]
    clear = (first - second > 1e-4) | ~valid
    assert np.array_equal(labels[clear], np.where(valid, sums.argmax(0), NODATA)[clear])


@settings(max_examples=20)
@given(st.data())
def test_blended_bytes_do_not_depend_on_the_cell(data):
    pixels, valid = data.draw(scenes(channels=1, top=200))
    plan = data.draw(tapers_for(valid.shape, stride=2))
    other = TaperedPlan(shape=plan.shape, cell_side=4 * plan.step, stride=2, step=plan.step, fade=plan.fade)
    keep = Keep(probabilities=True)
    runner = make_runner(Unbounded(), [90], [60], 3)
    one, two = (predict(reader_for(pixels, valid), runner, p, keep=keep)[1]["probabilities"] for p in (plan, other))
    assert np.array_equal(one, two)


@settings(max_examples=20)
@given(st.data())
def test_constant_and_identity_survive_the_taper(data):
    pixels, valid = data.draw(scenes(channels=1))
    plan = data.draw(tapers_for(valid.shape))
    labels, _ = predict(reader_for(pixels, valid), runner_for(Constant()), plan)
    assert np.array_equal(labels, np.where(valid, 1, NODATA))
    labels, _ = predict(reader_for(pixels, valid), runner_for(Identity(), classes=7), plan)
    assert np.array_equal(labels, np.where(valid, pixels[0], NODATA))


def test_tiles_over_nothing_wanted_cost_no_forward_pass_and_change_nothing():
    calls = []

    class Counting(Unbounded):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    class LeftHalf:
        def valid(self, window):
            return np.broadcast_to(np.arange(window.col, window.stop_col) < 20, window.shape).copy()

    pixels = np.random.default_rng(0).integers(0, 200, (1, 40, 40)).astype(np.uint8)
    valid = np.ones((40, 40), bool)
    valid[:24] = False
    plan = TaperedPlan(shape=(40, 40), cell_side=16, step=8, fade=4, stride=2)
    runner = make_runner(Counting(), [90], [60], 3)
    everywhere, _ = predict(reader_for(pixels, valid), runner, plan)
    many = sum(calls)
    calls.clear()
    limited, _ = predict(reader_for(pixels, valid), runner, plan, area=LeftHalf())
    assert 0 < sum(calls) < 0.7 * many
    assert np.array_equal(limited[:, :20], everywhere[:, :20])
    assert (limited[:, 20:] == NODATA).all()
    calls.clear()
    nothing, _ = predict(reader_for(pixels, np.zeros_like(valid)), runner, plan)
    assert not calls
    assert (nothing == NODATA).all()


def test_a_tile_of_unbounded_context_is_never_cut():
    class Full(Unbounded):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    reader = reader_for(np.ones((1, 40, 40), np.uint8), np.ones((40, 40), bool))
    for plan in (
        TaperedPlan(shape=(40, 40), cell_side=16, step=8, fade=4, stride=2),
        Plan(shape=(40, 40), cell_side=16, halo=4, stride=2),
    ):
        with pytest.raises(DeviceError, match="does not fit into the memory"):
            predict(reader, runner_for(Full()), plan)
