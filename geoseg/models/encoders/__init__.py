"""Encoders: networks that make features of several strides from an image. Without classifiers, and without weights."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from geoseg.errors import ShapeError, UsageError
from geoseg.models.encoders.efficientnet import EfficientNetLite, efficientnet_lite0
from geoseg.models.encoders.encoder import Encoder
from geoseg.models.encoders.from_timm import TimmEncoder
from geoseg.models.encoders.resnet import ResNet, resnet18, resnet34, resnet50, resnet101
from geoseg.models.encoders.vgg import VGG, vgg16, vgg16_bn

__all__ = [
    "CUTTABLE",
    "ENCODERS",
    "VGG",
    "EfficientNetLite",
    "Encoder",
    "ResNet",
    "TimmEncoder",
    "adapt_first_conv",
    "build_encoder",
]

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "efficientnet_lite0": efficientnet_lite0,
}
"""Name of an encoder -> its builder, called with `in_channels`, `width` and the encoder's own arguments."""

CUTTABLE = frozenset({"efficientnet_lite0"})
"""Encoders with an argument `depth`: how many of their strides they keep."""


def build_encoder(name: str, in_channels: int, *, width: int = 64, **options: Any) -> Encoder:
    """An encoder with fresh weights.

    Args:
        name: A key of ENCODERS, or `timm:` and a name of the timm library (extra `geoseg[timm]`).
        in_channels: Channels of the image, at least 1.
        width: Channels of the first layer. timm's networks have the one width of their name, and want 64 here.
        options: The encoder's own arguments.

    Raises:
        UsageError: If there is no such encoder, or it does not take these arguments.
    """
    kind, _, rest = str(name).partition(":")
    if kind == "timm" and rest and width != 64:
        raise UsageError(f"width={width} does not change encoder={name!r}. Choose a narrower network of timm by name.")
    if not (kind == "timm" and rest) and name not in ENCODERS:
        near = get_close_matches(str(name), ENCODERS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"encoder={name!r} is unknown. {hint}Expected one of: {', '.join(ENCODERS)}, timm:<name>.")
    try:
        return (
            TimmEncoder(rest, in_channels, **options) if rest else ENCODERS[name](in_channels, width=width, **options)
        )
    except TypeError as err:
        raise UsageError(f"encoder {name} cannot be built with {options} ({err}).") from err


def adapt_first_conv(weight: Tensor, in_channels: int, *, shuffle: int = 1) -> Tensor:
    """The weight of a first convolution for red, green and blue, made into one for `in_channels` bands.

    Three bands keep the weight as it is. Otherwise each band gets the mean of the three kernels, scaled by
    3 / in_channels, so that the response to an image with the same value in every band stays what it was. Where squares
    of pixels are channels, each pixel of a square gets an equal part: the convolution of the image of their means.

    Args:
        weight: (K, 3, h, w) float.
        in_channels: Bands, at least 1.
        shuffle: Side of the squares of pixels that are channels.

    Returns:
        (K, in_channels * shuffle**2, h, w) of the same dtype.

    Raises:
        ShapeError: If the weight is not that of a convolution of three bands.
    """
    if weight.ndim != 4 or weight.shape[1] != 3:
        raise ShapeError(
            f"first convolution of shape {tuple(weight.shape)} does not read 3 bands. Expected (K, 3, h, w)."
        )
    if in_channels != 3:
        weight = (weight.mean(1, keepdim=True) * (3 / in_channels)).repeat(1, in_channels, 1, 1)
    return weight if shuffle == 1 else weight.repeat_interleave(shuffle**2, dim=1) / shuffle**2
