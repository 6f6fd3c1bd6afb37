"""Logits to what is stored, for every kind of head, against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.checkpoint import ClassInfo, Head
from geoseg.errors import CheckpointError
from geoseg.layers import Keep, layers_of
from geoseg.pixels import NODATA
from geoseg.scores import Decision, MeanLogits, argmax_planes

EVERYTHING = Keep(confidence=True, probabilities=True)


def classes(*names):
    return tuple(ClassInfo(name=name, color="#000000") for name in names)


def multiclass(count):
    return Head(classes=classes(*(f"class {index}" for index in range(count))))


BINARY = Head(task="binary", classes=classes("background", "building"))
FLAGS = Head(task="multilabel", classes=classes("cloud", "shadow", "water"))
HEIGHT = Head(task="regression", scale=10.0, offset=100.0, unit="m")


def whole(z):
    return np.ones(z.shape[1:], bool)


@settings(max_examples=40)
@given(
    count=st.integers(1, 255),
    levels=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_argmax_by_planes_is_argmax_and_the_first_of_equals_wins(count, levels, seed, dtype):
    planes = np.random.default_rng(seed).integers(-levels, levels, (count, 5, 3)).astype(np.float32)  # many are equal
    labels, best = argmax_planes(torch.from_numpy(planes).to(dtype))
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels.numpy(), planes.argmax(0))
    np.testing.assert_array_equal(best.float().numpy(), planes.max(0))


@settings(max_examples=25)
@given(
    channels=st.integers(2, 6),
    height=st.sampled_from([1, 7, 63, 64, 65, 130]),
    seed=st.integers(0, 2**31),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_scores_are_the_softmax_in_254_steps(channels, height, seed, temperature):
    z = np.random.default_rng(seed).normal(0, 4, (channels, height, 5)).astype(np.float32)
    valid = z[0] > -4
    decision = Decision(heads={"main": multiclass(channels)}, temperature=temperature)
    scores = decision.scores(torch.from_numpy(z), valid, EVERYTHING)
    expected = torch.softmax(torch.from_numpy(z).double() / temperature, 0).numpy()
    np.testing.assert_array_equal(scores["labels"], np.where(valid, z.argmax(0), NODATA))
    for name, wanted in {"confidence": expected.max(0), "probabilities": expected}.items():
        got = scores[name]
        assert got.dtype == np.uint8
        assert (got[..., ~valid] == NODATA).all()
        assert got[..., valid].max(initial=0) <= 254
        assert np.abs(got[..., valid] - wanted[..., valid] * 254).max(initial=0) <= 0.5 + 1e-3


def test_an_even_choice_is_exactly_one_half():
    z = torch.zeros(2, 3, 3)
    scores = Decision(heads={"main": multiclass(2)}).scores(z, whole(z), Keep(confidence=True))
    assert (scores["confidence"] == 127).all()


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        (Keep(), ["labels"]),
        (Keep(confidence=True), ["labels", "confidence"]),
        (Keep(probabilities=True), ["labels", "probabilities"]),
    ],
)
def test_only_what_is_asked_for_is_kept(keep, names):
    z = torch.zeros(2, 3, 3)
    assert list(Decision(heads={"main": multiclass(2)}).scores(z, whole(z), keep)) == names


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31), temperature=st.sampled_from([0.5, 1.0, 3.0]), threshold=st.sampled_from([0.2, 0.5, 0.9])
)
def test_one_logit_is_the_second_class_from_its_threshold(seed, temperature, threshold):
    z = np.random.default_rng(seed).normal(0, 3, (1, 9, 5)).astype(np.float32)
    valid = z[0] > -3
    decision = Decision(heads={"main": BINARY}, temperature=temperature, thresholds={"building": threshold})
    scores = decision.scores(torch.from_numpy(z), valid, EVERYTHING)
    p = 1 / (1 + np.exp(-z[0].astype(float) / temperature))
    clear = valid & (np.abs(p - threshold) > 1e-6)
    assert np.array_equal(scores["labels"][clear], (p > threshold)[clear])
    assert (scores["labels"][~valid] == NODATA).all()
    chosen = np.where(p > threshold, p, 1 - p)
    assert np.abs(scores["confidence"] - chosen * 254)[clear].max(initial=0) <= 0.5 + 1e-3
    assert np.abs(scores["probabilities"] - np.stack([1 - p, p]) * 254)[:, valid].max(initial=0) <= 0.5 + 1e-3


def test_one_logit_says_what_two_say():
    """A softmax over (0, z) is the sigmoid of z."""
    z = torch.randn(1, 20, 20, generator=torch.Generator().manual_seed(0))
    one = Decision(heads={"main": BINARY}).scores(z, whole(z), EVERYTHING)
    two = Decision(heads={"main": multiclass(2)}).scores(torch.cat([torch.zeros_like(z), z]), whole(z), EVERYTHING)
    assert np.array_equal(one["labels"], two["labels"])
    for name in ("confidence", "probabilities"):
        assert np.abs(one[name].astype(int) - two[name]).max() <= 1


def test_labels_of_their_own_have_a_band_each():
    z = torch.tensor([-2.0, 3.0, 0.5]).view(3, 1, 1).expand(3, 4, 5)
    valid = whole(z)
    valid[0, 0] = False
    decision = Decision(heads={"flags": FLAGS}, thresholds={"water": 0.8})
    scores = decision.scores(z, valid, EVERYTHING)
    assert scores["labels"].shape == (3, 4, 5)
    assert scores["labels"][:, 1, 1].tolist() == [0, 1, 0]
    p = 1 / (1 + np.exp([2.0, -3.0, -0.5]))
    assert scores["probabilities"][:, 1, 1].tolist() == [round(254 * value) for value in p]
    assert scores["confidence"][:, 1, 1].tolist() == [round(254 * value) for value in (1 - p[0], p[1], 1 - p[2])]
    assert all((array[:, 0, 0] == NODATA).all() for array in scores.values())


def test_values_are_scaled_and_missing_ones_are_nan():
    z = torch.linspace(-1, 1, 20).view(1, 4, 5)
    valid = whole(z)
    valid[2] = False
    scores = Decision(heads={"height": HEIGHT}).scores(z, valid, EVERYTHING)
    assert list(scores) == ["values"]
    assert scores["values"].dtype == np.float32
    np.testing.assert_allclose(scores["values"][valid], (z[0].numpy() * 10 + 100)[valid], rtol=1e-6)
    assert np.isnan(scores["values"][~valid]).all()


def test_several_heads_have_the_channels_in_their_order():
    heads = {"surface": multiclass(3), "height": HEIGHT, "flags": FLAGS, "built": BINARY}
    decision = Decision(heads=heads)
    assert decision.channels == 3 + 1 + 3 + 1
    z = torch.randn(8, 70, 3, generator=torch.Generator().manual_seed(0))
    scores = decision.scores(z, whole(z), Keep(probabilities=True))
    assert list(scores) == [
        "labels_surface", "probabilities_surface", "values_height", "labels_flags", "probabilities_flags",
        "labels_built", "probabilities_built",
    ]  # fmt: skip
    alone = {"surface": z[:3], "height": z[3:4], "flags": z[4:7], "built": z[7:]}
    for name, head in heads.items():
        for kind, array in Decision(heads={name: head}).scores(alone[name], whole(z), Keep(probabilities=True)).items():
            assert np.array_equal(scores[f"{kind}_{name}"], array)


def test_layers_say_what_the_arrays_are():
    heads = {"surface": multiclass(3), "height": HEIGHT, "flags": FLAGS, "built": BINARY}
    keep = Keep(confidence=True, probabilities=True, attention=True)
    z = torch.rand(8 + 2, 4, 6)
    scores = Decision(heads=heads).scores(z, whole(z), keep, attention_maps=2)
    layers = layers_of(heads, keep, attention_maps=2)
    assert list(layers) == list(scores)
    for name, layer in layers.items():
        empty = layer.empty((4, 6))
        assert (empty.shape, empty.dtype) == (scores[name].shape, scores[name].dtype)
        assert np.isnan(empty).all() if math.isnan(layer.nodata) else (empty == layer.nodata).all()
    np.testing.assert_array_equal(scores["attention"], (z[8:] * 254).round())


@pytest.mark.parametrize("head", [multiclass(2), BINARY, FLAGS, HEIGHT])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_refused(head, value):
    z = torch.zeros(head.channels, 100, 4)
    z[-1, 99, 3] = value
    with pytest.raises(CheckpointError, match="non-finite"):
        Decision(heads={"main": head}).scores(z, whole(z))


def test_the_mean_of_several_networks():
    heads = {"surface": multiclass(3), "flags": FLAGS, "height": HEIGHT}
    other = heads | {"height": HEIGHT.model_copy(update={"scale": 2.0, "offset": 0.0})}
    decisions = [Decision(heads=heads, temperature=2.0), Decision(heads=other)]
    a, b = torch.randn(2, 7, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    both = MeanLogits()
    for z, decision in zip((a, b), decisions, strict=True):
        both.add(z, decision)
    mean = both.logits()
    surface = ((a[:3] / 2).softmax(0) + b[:3].softmax(0)) / 2
    torch.testing.assert_close(mean[:3].softmax(0).double(), surface, atol=1e-6, rtol=0)
    flags = ((a[3:6] / 2).sigmoid() + b[3:6].sigmoid()) / 2
    torch.testing.assert_close(mean[3:6].sigmoid().double(), flags, atol=1e-6, rtol=0)
    torch.testing.assert_close(mean[6].double(), (a[6] * 10 + 100 + b[6] * 2) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", [BINARY, FLAGS], ids=["binary", "multilabel"])
def test_an_infinite_yes_is_not_hidden_by_a_mean(head):
    both = MeanLogits()
    both.add(torch.zeros((head.channels, 4, 4)), Decision(heads={"main": head}))
    with pytest.raises(CheckpointError, match="non-finite"):
        both.add(torch.full((head.channels, 4, 4), torch.inf), Decision(heads={"main": head}))


def test_values_too_large_for_a_float_are_refused():
    head = Head(task="regression", scale=1e30)
    with pytest.raises(CheckpointError, match="non-finite"):
        Decision(heads={"height": head}).scores(torch.full((1, 4, 4), 1e20), np.ones((4, 4), bool))
