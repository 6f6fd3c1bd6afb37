"""Random changes to a batch: geometry moves all planes of a sample together, light changes the image alone.

Chance comes from one generator on the CPU, so that a step's changes are the same wherever they are computed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from kornia.filters import gaussian_blur2d
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from geoseg.config import AugmentationConfig

_BLUR = (0.3, 1.3)
"""Standard deviations of the blur, in pixels."""
_KERNEL = 7
"""Side of its kernel, in pixels: reaches beyond two standard deviations of the strongest."""
_COARSEST = 2.0
"""How much larger a coarsened image's pixels are at most."""
_UNKNOWN: Mapping[str, float] = {"target": 255, "distances": 0}
"""What a plane says where nothing is known; all others, but the image and what is valid in it, say NaN."""


def move(planes: Mapping[str, Tensor], config: AugmentationConfig, generator: Generator) -> dict[str, Tensor]:
    """Flip, turn and rotate each sample at random, all its planes in the same way.

    Flips and quarter turns move pixels and change none. A rotation shows beyond the edge what lies inside it,
    mirrored, but `target` is 255 there, `distances` 0 and every further plane NaN: nothing is learnt from it. It
    interpolates the image between valid pixels alone; all other planes take the nearest pixel.

    Args:
        planes: By name: `image` (N, C, S, S) uint8 or float; `valid` (N, S, S) bool, all True if missing; and others,
            (N, S, S) or (N, B, S, S), of any dtype (float, if neither `target` nor `distances`). What has fewer than
            three dimensions, such as `ground`, is handed on.
        config: `flips` and `rotation`.
        generator: Where chance comes from, on the CPU.

    Returns:
        The same names and shapes; `image` is float32 if `config.rotation` is above 0.
    """
    moved = dict(planes)
    count = len(planes["image"])
    if config.flips:
        kinds = torch.randint(8, (count,), generator=generator).tolist()
        moved |= {name: _turn_each(plane, kinds) for name, plane in moved.items() if plane.ndim > 2}
    if config.rotation:
        moved = rotate(moved, _between(-config.rotation, config.rotation, count, generator))
    return moved


def turn(planes: Tensor, kind: int) -> Tensor:
    """One of the eight flips and quarter turns of the last two, equal, dimensions; kind 0 changes nothing."""
    turned = torch.rot90(planes, kind % 4, (-2, -1))
    return turned.flip(-1) if kind >= 4 else turned


def _turn_each(plane: Tensor, kinds: list[int]) -> Tensor:
    return torch.stack([turn(sample, kind) for sample, kind in zip(plane, kinds, strict=True)])


def rotate(planes: Mapping[str, Tensor], degrees: Tensor) -> dict[str, Tensor]:
    """Rotate each sample about its centre, counter-clockwise as `turn` does.

    Args:
        planes: As `move` has them.
        degrees: (N,) angles.

    Returns:
        As `move`; `image` as float32.
    """
    image = planes["image"].float()
    side = image.shape[-1]
    # One grid for all planes: kornia's rotate would make one for each. Its corners are the centres of the outermost
    # pixels, as `batches.mirror` mirrors.
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    zero = torch.zeros_like(cos)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3).to(image)
    grid = affine_grid(matrix, list(image.shape), align_corners=True)
    outside = (grid.abs() > 1 + 1 / max(side - 1, 1)).any(-1)
    # float32 counts the pixels of 4096 x 4096 exactly.
    pixels = torch.arange(side * side, device=image.device, dtype=torch.float32).view(1, 1, side, side)
    nearest = _read(pixels.expand(len(image), -1, -1, -1), grid, "nearest").long().flatten(1)
    moved = {"image": _through(image, _holes(planes.get("valid")), partial(_read, grid=grid, mode="bilinear"))}
    for name, plane in planes.items():
        if name == "image":
            continue
        if plane.ndim < 3:
            moved[name] = plane
            continue
        flat = plane.reshape(len(plane), -1, side * side)
        picked = flat.gather(2, nearest[:, None].expand(-1, flat.shape[1], -1)).view(plane.shape)
        beyond = outside if plane.ndim == 3 else outside[:, None]
        moved[name] = picked if name == "valid" else picked.masked_fill_(beyond, _UNKNOWN.get(name, torch.nan))
    return {name: moved[name] for name in planes}


def _read(planes: Tensor, grid: Tensor, mode: str) -> Tensor:
    return grid_sample(planes, grid, mode=mode, padding_mode="reflection", align_corners=True)


def _holes(valid: Tensor | None) -> Tensor | None:
    """The same, or None where all is valid: cheap to know on the CPU alone, elsewhere the device would have to wait."""
    return None if valid is None or (valid.device.type == "cpu" and bool(valid.all())) else valid


def _through(image: Tensor, valid: Tensor | None, change: Callable[[Tensor], Tensor]) -> Tensor:
    """What a linear filter makes of an image, as if only its valid pixels were there."""
    if valid is None:
        return change(image)
    known = valid[:, None]
    seen = change(torch.cat([image.masked_fill(~known, 0), known.to(image)], 1))
    return seen[:, :-1] / seen[:, -1:].clamp_min(1e-6)


def change_light(
    image: Tensor, config: AugmentationConfig, generator: Generator, valid: Tensor | None = None
) -> Tensor:
    """Resolution, blur, contrast, brightness, colour cast, gamma, noise and lost bands, each sample in its own way.

    What a sample becomes does not depend on the others of the batch, only on its place in it. Light saturates at 0
    and 1, or at the sample's own extremes where they lie further out; gamma bends what lies between 0 and 1.

    Args:
        image: (N, C, H, W) float32, finite where valid, the usual range of values as 0..1 (see `light_range`); used up.
        config: How strong; without any strength nothing changes.
        generator: Where chance comes from, on the CPU.
        valid: (N, H, W) bool; None: all. Invalid pixels have no say in what the others become; what they become
            themselves means nothing.

    Returns:
        The same shape; values leave their range only by the noise.
    """
    valid = _holes(valid)
    if valid is not None:
        image.masked_fill_(~valid[:, None], 0.0)
    if chosen := _chosen(config.coarsen, len(image), generator):
        factors = _between(1, _COARSEST, len(chosen), generator).tolist()
        for index, factor in zip(chosen, factors, strict=True):
            own = None if valid is None else valid[[index]]
            image[[index]] = _through(image[[index]], own, partial(_coarsen, factor=factor))
    if chosen := _chosen(config.blur, len(image), generator):
        sigma = _between(*_BLUR, len(chosen), generator)[:, None].expand(-1, 2).to(image.device)
        blur = partial(gaussian_blur2d, kernel_size=(_KERNEL, _KERNEL), sigma=sigma)
        image[chosen] = _through(image[chosen], None if valid is None else valid[chosen], blur)
    image = _relight(image, config, generator, valid)
    if config.noise:
        strength = _between(0, config.noise, len(image), generator).view(-1, 1, 1, 1).to(image.device)
        image.addcmul_(strength, _normal(image, generator))
    if config.channel_dropout and image.shape[1] > 1:  # without its only band, a sample would show nothing
        chosen = _chosen(config.channel_dropout, len(image), generator)
        lost = torch.randint(image.shape[1], (len(chosen),), generator=generator).tolist()
        means = _means(image, valid)
        for index, band in zip(chosen, lost, strict=True):
            image[index, band] = means[index, band]
    return image


def light_range(
    mean: Sequence[float], std: Sequence[float], value_range: Sequence[tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    """What `change_light` should see as 0 and 1: the values seen in training, at most three deviations off the mean.

    The full range of 16-bit imagery is set by few glints: shifted by a share of it, all the rest would turn black.

    Args:
        mean: Of the training pixels, per band.
        std: Their deviation, above 0.
        value_range: Their lowest and highest value.

    Returns:
        (low, high) per band, with low < high.
    """
    ranges = []
    for middle, deviation, (low, high) in zip(mean, std, value_range, strict=True):
        ends = max(low, middle - 3 * deviation), min(high, middle + 3 * deviation)
        ranges.append(ends if ends[0] < ends[1] else (middle - deviation, middle + deviation))
    return tuple(ranges)


def _relight(image: Tensor, config: AugmentationConfig, generator: Generator, valid: Tensor | None) -> Tensor:
    """Contrast, brightness, colour cast and gamma."""
    n, bands = image.shape[:2]

    def draw(strength: float, *shape: int) -> Tensor:
        return _between(-strength, strength, shape, generator).to(image.device)

    if config.contrast or config.brightness or config.color:
        low, high = image.flatten(1).amin(1).clamp_max_(0), image.flatten(1).amax(1).clamp_min_(1)
        gain = 1 + draw(config.contrast, n, 1, 1, 1)
        shift = draw(config.brightness, n, 1, 1, 1) + draw(config.color, n, bands, 1, 1)
        middle = _means(image, valid).mean(1).view(-1, 1, 1, 1)
        image = image.mul_(gain).add_(middle * (1 - gain) + shift)
        image = image.clamp_(low.view(-1, 1, 1, 1), high.view(-1, 1, 1, 1))
    if config.gamma:
        bent = image.clamp(0, 1)
        image.sub_(bent)
        image.add_(bent.pow_(draw(config.gamma, n, 1, 1, 1).exp()))
    return image


def _coarsen(planes: Tensor, factor: float) -> Tensor:
    """What pixels `factor` times as large would see, as smooth as an interpolation makes it."""
    height, width = planes.shape[-2:]
    size = max(round(height / factor), 1), max(round(width / factor), 1)
    coarse = interpolate(planes, size=size, mode="bilinear", antialias=True)
    return interpolate(coarse, size=(height, width), mode="bilinear")


def _means(image: Tensor, valid: Tensor | None) -> Tensor:
    """(N, C): the mean of each band over the valid pixels, 0 without any."""
    if valid is None:
        return image.mean((2, 3))
    weights = valid.flatten(1).to(image)
    sums = (image.flatten(2) @ weights[:, :, None])[:, :, 0]
    return sums / weights.sum(1, keepdim=True).clamp_min(1)


def _normal(image: Tensor, generator: Generator) -> Tensor:
    """Standard normal noise, drawn where the image lies."""
    if image.device.type == "cpu":
        return torch.randn(image.shape, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.randn(image.shape, generator=Generator(image.device).manual_seed(seed), device=image.device)


def _between(low: float, high: float, shape: int | tuple[int, ...], generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _chosen(share: float, count: int, generator: Generator) -> list[int]:
    """Which samples something happens to."""
    return (torch.rand(count, generator=generator) < share).nonzero().flatten().tolist() if share else []
