"""Distances to outlines found once for whole ground: equal to those of a sample, whatever blocks they are found in."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.errors import ShapeError
from geoseg.losses import boundary, distance_maps, outline_distances, parse_mixture, planes_of
from geoseg.losses.boundary import FAR
from geoseg.training.objective import merge_unknown

MODULE = sys.modules[boundary.__module__]
"""The module: the package has the function under its name."""


def blobs(shape, seed, classes=3, unknown=0.1):
    """(H, W) uint8 patches of classes, some of them 255."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, classes, (-(-shape[0] // 5), -(-shape[1] // 5)), dtype=np.uint8)
    target = small.repeat(5, 0).repeat(5, 1)[: shape[0], : shape[1]].copy()
    target[rng.random(shape) < unknown] = 255
    return target


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    classes=st.integers(2, 5),
    known=st.sets(st.integers(0, 4), min_size=1),
    seed=st.integers(0, 99),
)
def test_of_ground_no_larger_than_a_sample_they_are_the_samples_own(shape, classes, known, seed):
    told = sorted(value for value in known if value < classes) or [0]
    target = blobs(shape, seed, classes)
    logits = torch.zeros(1, classes, *shape)
    merged, index = merge_unknown(logits, torch.from_numpy(target).long()[None], told)
    own = distance_maps(merged.shape, index)[0].numpy()
    found = outline_distances(target, told, classes)
    assert found.dtype == np.float16
    assert len(found) == planes_of(merged.shape[1])
    for plane, value in zip(found, own[-1:] if merged.shape[1] == 2 else own, strict=True):
        if (value > 0).any() and (value < 0).any():
            np.testing.assert_allclose(plane, np.clip(value, -FAR, FAR), rtol=1e-3)
        else:
            np.testing.assert_array_equal(plane, np.sign(value) * FAR)


@settings(max_examples=8)
@given(block=st.integers(50, 90), seed=st.integers(0, 9))
def test_blocks_leave_no_trace(block, seed):
    target = blobs((230, 170), seed, classes=9, unknown=0.02)
    target[:100, 60:] = 0  # nothing near
    whole = outline_distances(target, (0, 3), 9)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MODULE, "_BLOCK", block)
        np.testing.assert_array_equal(outline_distances(target, (0, 3), 9), whole)
    assert (whole[0, 20, 135], whole[1, 20, 135]) == (-FAR, FAR)


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_one_plane_of_two_classes_is_enough(task):
    torch.manual_seed(0)
    target = blobs((20, 24), 1, classes=2)
    index = torch.from_numpy(target).long()[None]
    logits = torch.randn(1, 2 if task == "multiclass" else 1, 20, 24)
    plane = torch.from_numpy(outline_distances(target, (0, 1), 2))[None]
    assert plane.shape == (1, 1, 20, 24)
    assert boundary(logits, index, plane, task=task) == pytest.approx(
        boundary(logits, index, task=task).item(), rel=1e-3
    )


def test_planes_of_another_number_are_refused():
    logits, index = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    for planes in (1, 2, 4):
        with pytest.raises(ShapeError, match="do not fit"):
            boundary(logits, index, torch.zeros(1, planes, 4, 4))


@pytest.mark.parametrize("known", [(0, 1, 2), (1,), (0, 2)])
def test_a_mixture_takes_the_planes_it_needs(known):
    torch.manual_seed(0)
    target = blobs((20, 20), 3)
    logits, index = merge_unknown(torch.randn(1, 3, 20, 20), torch.from_numpy(target).long()[None], known)
    own = torch.from_numpy(outline_distances(target, known, 3)).float()[None]
    filled = torch.cat([own, torch.zeros(1, 3 - own.shape[1], 20, 20)], 1)
    mixture = parse_mixture("dice:1,boundary:0.1")
    assert mixture.wants_distances
    assert not parse_mixture("dice").wants_distances
    plain, given_own, given_more = (
        mixture.terms(logits, index, known=known, distances=distances) for distances in (None, own, filled)
    )
    assert given_own["boundary"] == given_more["boundary"] == pytest.approx(plain["boundary"].item(), rel=1e-3)
    assert given_own["dice"] == plain["dice"]


def test_a_binary_head_takes_the_only_plane():
    torch.manual_seed(0)
    target = blobs((20, 20), 3, classes=2)
    logits, index = torch.randn(1, 1, 20, 20), torch.from_numpy(target).long()[None]
    distances = torch.from_numpy(outline_distances(target, (0, 1), 2)).float()[None]
    mixture = parse_mixture("boundary", task="binary")
    found = mixture.terms(logits, index, known=(0, 1), distances=distances)["boundary"]
    assert found == pytest.approx(boundary(logits, index, task="binary").item(), rel=1e-3)
