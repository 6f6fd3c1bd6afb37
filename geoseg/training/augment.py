"""Random changes to a batch: geometry moves image and target together, light and noise change the image alone."""

import torch
from torch import Generator, Tensor

from geoseg.config import AugmentationConfig


def turn(planes: Tensor, kind: int) -> Tensor:
    """One of the eight flips and quarter turns of the last two, equal, dimensions; kind 0 changes nothing."""
    turned = torch.rot90(planes, kind % 4, (-2, -1))
    return turned.flip(-1) if kind >= 4 else turned


def turn_batch(planes: list[Tensor], generator: Generator) -> list[Tensor]:
    """Each sample flipped and turned at random, in the same way in all `planes`, (N, ..., S, S) each."""
    kinds = torch.randint(8, (len(planes[0]),), generator=generator).tolist()
    return [torch.stack([turn(sample, kind) for sample, kind in zip(p, kinds, strict=True)]) for p in planes]


def change_light(image: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Brightness, contrast, colour cast, gamma, blur and noise, each sample in its own way.

    Args:
        image: (N, C, H, W) float32, the value range as 0..1.
        config: How strong.
        generator: Where chance comes from, on the CPU.

    Returns:
        The same shape; values may leave 0..1 by the noise.
    """
    n, channels = image.shape[:2]

    def draw(strength: float, *shape: int) -> Tensor:
        return ((torch.rand(shape, generator=generator) * 2 - 1) * strength).to(image.device)

    gain = 1 + draw(config.contrast, n, 1, 1, 1)
    shift = draw(config.brightness, n, 1, 1, 1) + draw(config.color, n, channels, 1, 1)
    middle = image.mean((1, 2, 3), keepdim=True)
    image = (image * gain).add_(middle * (1 - gain) + shift).clamp_(1e-4, 1)
    if config.gamma:
        image = image.pow_(draw(config.gamma, n, 1, 1, 1).exp())
    blurred = (torch.rand(n, generator=generator) < config.blur).to(image.device)
    if blurred.any():
        image[blurred] = _blur(image[blurred])
    if config.noise:
        strength = draw(config.noise, n, 1, 1, 1).abs()
        image = image.addcmul_(strength, torch.randn(image.shape, generator=generator).to(image.device))
    return image


def _blur(image: Tensor) -> Tensor:
    """Binomial, 3x3: neighbours weigh 1, 2, 1 along each axis."""
    for axis in (-2, -1):
        size = image.shape[axis]
        before = torch.cat([image.narrow(axis, 0, 1), image.narrow(axis, 0, size - 1)], axis)
        after = torch.cat([image.narrow(axis, 1, size - 1), image.narrow(axis, size - 1, 1)], axis)
        image = before.add_(after).add_(image, alpha=2).mul_(0.25)
    return image
