"""Augmentation: geometry moves everything together, light leaves the target alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.config import AugmentationConfig
from geoseg.training.augment import change_light, light_range, move, rotate, turn

STILL = AugmentationConfig(flips=False, zoom=(1, 1), brightness=0, contrast=0, gamma=0, color=0, noise=0, blur=0)
ALWAYS = 0.999999
LIGHT = dict.fromkeys(("brightness", "contrast", "gamma", "color", "noise"), 0.3)
LIGHT |= dict.fromkeys(("blur", "coarsen", "channel_dropout"), ALWAYS)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(**strengths: object) -> AugmentationConfig:
    return STILL.model_copy(update=strengths)


def coordinates(n: int, side: int) -> torch.Tensor:
    """(N, 2, S, S) float32: row and column of each pixel."""
    axis = torch.arange(side, dtype=torch.float32)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(n, -1, -1, -1).clone()


def planes(n: int, side: int) -> dict[str, torch.Tensor]:
    """An image that shows where each pixel was, and all that a sample may hold beside it, derived from that."""
    where = coordinates(n, side)
    number = where[:, 0] * side + where[:, 1]
    return {
        "image": where,
        "target": (number % 251).to(torch.uint8),
        "valid": torch.ones(n, side, side, dtype=torch.bool),
        "distances": torch.stack([number, -number], 1),
        "further_height": number[:, None].clone(),
        "ground": torch.arange(n),
        "index": torch.arange(n) + 100,
    }


# Geometry


def test_the_eight_turns_are_all_different_and_the_first_changes_nothing():
    image = torch.arange(9).view(1, 3, 3)
    turns = [turn(image, kind).flatten().tolist() for kind in range(8)]
    assert turns[0] == image.flatten().tolist()
    assert len({tuple(one) for one in turns}) == 8


@given(n=st.integers(1, 5), side=st.integers(1, 9), seed=st.integers(0, 1000))
def test_flips_and_turns_move_all_planes_together_and_lose_no_pixel(n, side, seed):
    before = planes(n, side)
    before["valid"] = before["further_height"][:, 0] % 2 == 0
    after = move(before, only(flips=True), chance(seed))
    number = after["image"][:, 0] * side + after["image"][:, 1]
    assert torch.equal((number % 251).to(torch.uint8), after["target"])
    assert torch.equal(number % 2 == 0, after["valid"])
    assert torch.equal(torch.stack([number, -number], 1), after["distances"])
    assert torch.equal(number, after["further_height"][:, 0])
    assert torch.equal(after["ground"], before["ground"])
    assert torch.equal(after["index"], before["index"])
    for name, plane in before.items():
        assert after[name].dtype == plane.dtype
        assert after[name].shape == plane.shape
    for sample in number:
        assert sorted(sample.flatten().tolist()) == list(range(side * side))


def test_samples_of_a_batch_are_turned_differently():
    moved = move(planes(64, 3), only(flips=True), chance())["target"]
    assert len({tuple(sample.flatten().tolist()) for sample in moved}) == 8


def test_without_flips_and_rotation_nothing_moves():
    before = planes(3, 5)
    after = move(before, STILL, chance())
    assert all(torch.equal(after[name], plane) for name, plane in before.items())


@pytest.mark.parametrize("side", [2, 9, 64, 255])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_rotation_by_quarters_is_the_quarter_turn(side, quarters):
    before = planes(2, side)
    after = rotate(before, torch.tensor([90.0 * quarters, 90.0 * quarters - 360]))
    for name, plane in before.items():
        wanted = turn(plane, quarters) if plane.ndim > 2 else plane
        torch.testing.assert_close(after[name], wanted, atol=1e-4 * side, rtol=0)
        if name != "image":
            assert torch.equal(after[name], wanted), name


@given(side=st.integers(8, 80), degrees=st.floats(-180, 180), flips=st.booleans(), seed=st.integers(0, 99))
def test_image_and_all_planes_show_the_same_place_after_a_rotation(side, degrees, flips, seed):
    after = rotate(move(planes(1, side), only(flips=flips), chance(seed)), torch.tensor([degrees]))
    inside = ~after["further_height"].isnan()[0, 0]
    number = after["further_height"][0, 0][inside]
    row, col = torch.div(number, side, rounding_mode="floor"), number % side
    # The nearest pixel's centre is at most half a pixel off on each axis. Half-pixel shifts would show here.
    assert (after["image"][0, 0][inside] - row).abs().max() <= 0.5 + 1e-3
    assert (after["image"][0, 1][inside] - col).abs().max() <= 0.5 + 1e-3
    assert torch.equal(after["target"][0][inside].float(), number % 251)
    assert torch.equal(after["distances"][0, 0][inside], number)
    assert torch.equal(after["distances"][0, 1][inside], -number)


@given(side=st.integers(8, 80), degrees=st.floats(-180, 180))
def test_the_centre_stays_and_pixels_move_by_the_angle(side, degrees):
    """Against the formula: a pixel at (x, y) from the centre shows what was at (x, y) turned clockwise."""
    after = rotate(planes(1, side), torch.tensor([degrees]))["image"][0]
    y, x = coordinates(1, side)[0] - (side - 1) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # As on paper, with y upwards, a counter-clockwise turn: new = R(a) old, so old = R(-a) new.
    old_x, old_y = cos * x - sin * y, sin * x + cos * y
    inside = (old_x.abs() <= (side - 1) / 2) & (old_y.abs() <= (side - 1) / 2)
    torch.testing.assert_close(after[0][inside], (old_y + (side - 1) / 2)[inside], atol=1e-3, rtol=0)
    torch.testing.assert_close(after[1][inside], (old_x + (side - 1) / 2)[inside], atol=1e-3, rtol=0)


def test_beyond_the_edge_the_image_is_mirrored_and_nothing_is_known():
    side = 33
    after = rotate(planes(1, side), torch.tensor([45.0]))
    beyond = after["target"][0] == 255
    assert beyond[0, 0]
    assert not beyond[side // 2, side // 2]
    assert 0.1 < beyond.float().mean() < 0.25  # the four corners: 1 - (2 sqrt 2 - 2) = 17 %
    assert after["further_height"][0, 0][beyond].isnan().all()
    assert (after["distances"][0][:, beyond] == 0).all()
    assert after["valid"].all()
    image = after["image"]
    assert torch.isfinite(image).all()
    assert image.min() >= -1e-3
    assert image.max() <= side - 1 + 1e-3
    # The corner lies (sqrt 2 - 1) * 16 = 6.6 pixels outside: it shows what lies as far inside.
    expected = 16 - (16 * math.sqrt(2) - 2 * (16 * math.sqrt(2) - 16))
    assert {round(v, 2) for v in image[0, :, 0, 0].tolist()} & {round(expected, 2), round(32 - expected, 2)}


def test_invalid_pixels_do_not_bleed_into_valid_ones():
    """Valid ground is flat, invalid ground far away and not even finite: any mixture of them would show."""
    side = 48
    before = planes(4, side)
    holes = torch.rand(4, side, side, generator=chance(1)) < 0.3
    before["image"] = torch.full((4, 3, side, side), 7.0)
    before["image"][holes[:, None].expand(-1, 3, -1, -1)] = torch.nan
    before["valid"] = ~holes
    after = move(before, only(rotation=180, flips=True), chance(2))
    kept = after["valid"][:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(after["image"][kept], torch.full_like(after["image"][kept], 7.0))
    assert 0.6 < after["valid"].float().mean() < 0.8


def test_unknown_values_stay_unknown_and_spread_to_none():
    side = 40
    before = planes(3, side)
    before["further_height"][:, :, 10:20, 5:30] = torch.nan
    hidden = coordinates(3, side)
    after = rotate(before, torch.tensor([10.0, -33.0, 120.0]))
    tracked = rotate({"image": hidden, "further_row": hidden[:, :1], "further_col": hidden[:, 1:]},
                     torch.tensor([10.0, -33.0, 120.0]))  # fmt: skip
    row, col = tracked["further_row"], tracked["further_col"]
    expected = row.isnan() | ((row >= 10) & (row < 20) & (col >= 5) & (col < 30))
    assert torch.equal(after["further_height"].isnan(), expected)


def test_uint8_images_of_any_bands_are_interpolated():
    image = torch.randint(0, 256, (2, 13, 20, 20), dtype=torch.uint8, generator=chance())
    target = torch.zeros(2, 20, 20, dtype=torch.uint8)
    after = move({"image": image, "target": target}, only(rotation=20), chance())
    assert after["image"].dtype == torch.float32
    assert after["image"].shape == image.shape
    assert set(after) == {"image", "target"}
    assert after["image"].min() >= 0
    assert after["image"].max() <= 255
    assert (after["image"] % 1 != 0).any()


def test_rotations_keep_within_the_angle_and_differ():
    side = 65
    after = move(planes(32, side), only(rotation=15), chance())["image"]
    # What lies right of the centre, 16 pixels off, tells the angle.
    dy, dx = after[:, 0, 32, 48] - 32, after[:, 1, 32, 48] - 32
    angles = torch.rad2deg(torch.atan2(dy, dx))
    assert angles.abs().max() <= 15.01
    assert angles.min() < -8
    assert angles.max() > 8
    assert len(set(angles.tolist())) == 32


def test_the_same_seed_moves_the_same():
    config = only(flips=True, rotation=40)
    a, b, c = (move(planes(4, 16), config, chance(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a[name].nan_to_num(-1), b[name].nan_to_num(-1)) for name in a)
    assert not torch.equal(a["image"], c["image"])


# Light


@pytest.mark.parametrize("bands", [1, 3, 4, 13])
@pytest.mark.parametrize("masked", [False, True])
def test_without_any_strength_the_image_stays(bands, masked):
    image = torch.rand(3, bands, 32, 40, generator=chance()) * 3 - 1
    valid = torch.rand(3, 32, 40) < 0.7 if masked else None
    kept = slice(None) if valid is None else valid[:, None].expand_as(image)
    assert torch.equal(change_light(image.clone(), STILL, chance(), valid)[kept], image[kept])


@pytest.mark.parametrize("bands", [1, 3, 4, 13])
@pytest.mark.parametrize("name", LIGHT)
def test_each_change_alone_changes_samples_differently_and_stays_finite(name, bands):
    image = torch.rand(1, bands, 32, 32, generator=chance()).expand(6, -1, -1, -1).clone()
    changed = change_light(image.clone(), only(**{name: LIGHT[name]}), chance())
    assert changed.shape == image.shape
    assert changed.dtype == torch.float32
    assert torch.isfinite(changed).all()
    if name == "channel_dropout" and bands == 1:
        assert torch.equal(changed, image)  # else nothing would be left to see
        return
    assert all(not torch.equal(after, before) for after, before in zip(changed, image, strict=True))
    different = {tuple(sample.flatten().tolist()) for sample in changed}
    assert len(different) > 1 if name == "channel_dropout" else len(different) == 6
    if name != "noise":
        assert changed.min() >= -1e-6
        assert changed.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", LIGHT)
def test_a_sample_does_not_depend_on_the_others(name):
    """Only the first sample is the same in both batches."""
    a, b = torch.rand(4, 3, 32, 32, generator=chance(1)), torch.rand(4, 3, 32, 32, generator=chance(2)) * 5
    b[0] = a[0]
    config = only(**{name: LIGHT[name]})
    torch.testing.assert_close(change_light(a, config, chance())[0], change_light(b, config, chance())[0])


@pytest.mark.parametrize("name", [*LIGHT, "all"])
def test_the_same_seed_gives_the_same_light(name):
    image = torch.rand(4, 4, 32, 32)
    config = only(**(LIGHT if name == "all" else {name: LIGHT[name]}))
    a, b, c = (change_light(image.clone(), config, chance(seed)) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("name", [name for name in LIGHT if name != "noise"])
def test_invalid_pixels_have_no_say_in_what_the_others_become(name):
    image = torch.rand(4, 3, 32, 32, generator=chance(5)) * 0.5 + 0.2
    valid = torch.rand(4, 32, 32, generator=chance(6)) < 0.8
    invalid = ~valid[:, None].expand(-1, 3, -1, -1)
    config = only(**{name: LIGHT[name]})
    results = [
        change_light(image.masked_fill(invalid, fill), config, chance(), valid) for fill in (0.0, 9999.0, torch.nan)
    ]
    for result in results[1:]:
        torch.testing.assert_close(results[0][~invalid], result[~invalid])


def test_a_flat_image_stays_flat_when_blurred_and_coarsened_beside_a_hole():
    image = torch.full((2, 3, 32, 32), 0.4)
    valid = torch.ones(2, 32, 32, dtype=torch.bool)
    valid[:, 10:20, 8:30] = False
    image.masked_fill_(~valid[:, None], 0.0)
    after = change_light(image, only(blur=ALWAYS, coarsen=ALWAYS), chance(), valid)
    kept = after[valid[:, None].expand(-1, 3, -1, -1)]
    torch.testing.assert_close(kept, torch.full_like(kept, 0.4))


def test_a_sample_without_a_valid_pixel_stays_finite():
    image, valid = torch.zeros(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.bool)
    assert torch.isfinite(change_light(image, only(**LIGHT), chance(), valid)).all()


def test_a_colour_cast_moves_bands_apart_and_brightness_does_not():
    image = torch.full((4, 3, 32, 32), 0.5)
    cast = change_light(image.clone(), only(color=0.1), chance()).mean((2, 3))
    assert (cast.amax(1) - cast.amin(1) > 1e-3).all()
    bright = change_light(image.clone(), only(brightness=0.1), chance()).mean((2, 3))
    assert (bright.amax(1) - bright.amin(1) < 1e-6).all()


def test_contrast_keeps_the_mean_of_a_sample():
    image = torch.rand(6, 3, 32, 32, generator=chance()) * 0.2 + 0.4
    after = change_light(image.clone(), only(contrast=0.5), chance())
    torch.testing.assert_close(after.mean((1, 2, 3)), image.mean((1, 2, 3)))
    spread = after.std((1, 2, 3)) / image.std((1, 2, 3))
    assert spread.min() >= 0.5
    assert spread.max() <= 1.5
    assert spread.max() - spread.min() > 0.2


def test_contrast_keeps_the_mean_of_what_is_valid():
    image = torch.rand(6, 3, 32, 32, generator=chance()) * 0.2 + 0.4
    valid = torch.zeros(6, 32, 32, dtype=torch.bool)
    valid[:, 5:15, 5:20] = True
    kept = (slice(None), slice(None), slice(5, 15), slice(5, 20))
    after = change_light(image.clone(), only(contrast=0.5), chance(), valid)
    torch.testing.assert_close(after[kept].mean((1, 2, 3)), image[kept].mean((1, 2, 3)))


def test_values_beyond_the_usual_range_are_kept():
    """Of 16-bit imagery, 0..1 is where nearly all values lie; a glint of 5 must not become 1, as it does not when
    the network is used."""
    image = torch.rand(3, 2, 32, 32, generator=chance()) * 0.5 + 0.25
    image[:, :, 4, 4], image[:, :, 5, 5] = 5.0, -2.0
    for name in ("gamma", "brightness", "contrast"):
        after = change_light(image.clone(), only(**{name: 0.1}), chance())
        assert after[:, :, 4, 4].min() > 4, name
        assert after[:, :, 5, 5].max() < -1.5, name
    bent = change_light(image.clone(), only(gamma=0.5), chance())
    assert not torch.equal(bent, image)
    for place in (4, 5):
        torch.testing.assert_close(bent[:, :, place, place], image[:, :, place, place])


def test_blur_smooths_within_its_bounds_and_keeps_the_sum():
    image = torch.zeros(16, 1, 33, 33)
    image[..., 16, 16] = 1.0
    after = change_light(image, only(blur=ALWAYS), chance())
    torch.testing.assert_close(after.sum((1, 2, 3)), torch.ones(16))
    across = torch.arange(33) - 16.0
    deviation = (after.sum(2)[:, 0] * across**2).sum(1).sqrt()
    assert deviation.min() > 0.05
    assert deviation.max() <= 1.3
    assert deviation.max() - deviation.min() > 0.4
    torch.testing.assert_close(after, after.transpose(-1, -2))


def test_coarsening_takes_fine_detail_and_leaves_a_ramp():
    board = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float().expand(8, 1, 64, 64).clone()
    coarse = change_light(board.clone(), only(coarsen=ALWAYS), chance())
    assert (coarse.std((1, 2, 3)) < 0.95 * board.std((1, 2, 3))).all()
    ramp = torch.linspace(0, 1, 64).expand(8, 1, 64, 64).clone()
    after = change_light(ramp.clone(), only(coarsen=ALWAYS), chance())
    torch.testing.assert_close(after[..., 4:-4], ramp[..., 4:-4], atol=0.2 / 64, rtol=0)  # 0.2 px


def test_one_band_is_lost_and_any_may_be():
    image = torch.rand(64, 4, 32, 32, generator=chance())
    after = change_light(image.clone(), only(channel_dropout=ALWAYS), chance())
    flat = after.amax((2, 3)) - after.amin((2, 3)) < 1e-6
    assert (flat.sum(1) == 1).all()
    assert flat.any(0).all()
    torch.testing.assert_close(after.mean((2, 3)), image.mean((2, 3)))


@pytest.mark.parametrize("name", ["blur", "coarsen", "channel_dropout"])
def test_a_share_of_the_samples_is_changed(name):
    image = torch.rand(400, 2, 8, 8, generator=chance())
    after = change_light(image.clone(), only(**{name: 0.25}), chance())
    changed = (after != image).flatten(1).any(1).float().mean()
    assert 0.17 < changed < 0.33


def test_the_usual_range_leaves_glints_out_and_keeps_all_of_an_8_bit_image():
    assert light_range([110.0], [60.0], [(0.0, 255.0)]) == ((0.0, 255.0),)
    assert light_range([1000.0], [300.0], [(1.0, 65535.0)]) == ((100.0, 1900.0),)
    assert light_range([5.0], [1.0], [(5.0, 5.0)]) == ((4.0, 6.0),)  # a constant band
