"""Augmentation: geometry moves everything together, light leaves the target alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.config import AugmentationConfig
from geoseg.training.augment import change_light, turn, turn_batch

STILL = AugmentationConfig(flips=False, zoom=(1, 1), brightness=0, contrast=0, gamma=0, color=0, noise=0, blur=0)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(n: int, side: int) -> torch.Tensor:
    """(N, 2, S, S): row and column of each pixel."""
    return torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).expand(n, -1, -1, -1)


def test_the_eight_turns_are_all_different_and_the_first_changes_nothing():
    image = torch.arange(9).view(1, 3, 3)
    turns = [turn(image, kind).flatten().tolist() for kind in range(8)]
    assert turns[0] == image.flatten().tolist()
    assert len({tuple(one) for one in turns}) == 8


@given(n=st.integers(1, 5), side=st.integers(1, 9), seed=st.integers(0, 1000))
def test_image_target_and_valid_move_together(n, side, seed):
    where = coordinates(n, side)
    target = where[:, 0] * side + where[:, 1]
    image, moved, valid = turn_batch([where, target, target % 2 == 0], chance(seed))
    assert torch.equal(image[:, 0] * side + image[:, 1], moved)
    assert torch.equal(valid, moved % 2 == 0)
    for sample in moved:
        assert sorted(sample.flatten().tolist()) == list(range(side * side))


def test_samples_of_a_batch_are_turned_differently():
    (moved,) = turn_batch([coordinates(64, 3)], chance())
    assert len({tuple(sample.flatten().tolist()) for sample in moved}) == 8


def test_without_any_strength_the_image_stays():
    image = torch.rand(3, 4, 7, 5).clamp(1e-4, 1)
    torch.testing.assert_close(change_light(image.clone(), STILL, chance()), image)


@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma", "color", "noise", "blur"])
def test_each_change_alone_changes_samples_differently_and_stays_finite(name):
    strength = 0.9 if name == "blur" else 0.3
    image = torch.rand(1, 3, 16, 16).mul(0.5).add(0.25).expand(8, -1, -1, -1).clone()
    changed = change_light(image.clone(), STILL.model_copy(update={name: strength}), chance())
    assert changed.shape == image.shape
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, image)
    if name != "blur":
        assert len({float(sample[0, 0, 0]) for sample in changed}) == 8


def test_a_colour_cast_moves_bands_apart_and_brightness_does_not():
    image = torch.full((4, 3, 6, 6), 0.5)
    cast = change_light(image.clone(), STILL.model_copy(update={"color": 0.1}), chance()).mean((2, 3))
    assert (cast.amax(1) - cast.amin(1) > 1e-3).all()
    bright = change_light(image.clone(), STILL.model_copy(update={"brightness": 0.1}), chance()).mean((2, 3))
    assert (bright.amax(1) - bright.amin(1) < 1e-6).all()


@given(height=st.integers(1, 8), width=st.integers(1, 8))
def test_blur_keeps_a_flat_image_and_the_sum_of_a_point(height, width):
    always = STILL.model_copy(update={"blur": 0.999999})
    flat = torch.full((1, 2, height, width), 0.25)
    torch.testing.assert_close(change_light(flat.clone(), always, chance()), flat)


def test_blur_is_the_binomial_kernel():
    image = torch.full((1, 1, 5, 5), 1e-4)
    image[..., 2, 2] = 1.0
    always = STILL.model_copy(update={"blur": 0.999999})
    blurred = change_light(image, always, chance())[0, 0, 1:4, 1:4]
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    torch.testing.assert_close(blurred, kernel, atol=2e-4, rtol=0)


def test_the_same_seed_gives_the_same_changes():
    image = torch.rand(4, 3, 8, 8)
    strong = AugmentationConfig()
    assert torch.equal(change_light(image.clone(), strong, chance(3)), change_light(image.clone(), strong, chance(3)))
    assert not torch.equal(
        change_light(image.clone(), strong, chance(3)), change_light(image.clone(), strong, chance(4))
    )
