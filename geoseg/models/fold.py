"""Folding batch normalisation into the convolution before it: fewer passes over memory, the same function."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geoseg.models.depthwise import Depthwise
from geoseg.models.pointwise import StridedPointwise


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy of `model` for inference, with Conv2d -> BatchNorm2d pairs as one convolution.

    Pairs are neighbours in a Sequential, and in any other module what its class names in `folds`, such as
    `folds: ClassVar[tuple[tuple[str, str], ...]] = (("conv1", "bn1"),)`, where the first's only use is by the second.

    In evaluation mode batch normalisation is y = (x - mean) / sqrt(var + eps) * gamma + beta with fixed numbers, which
    a convolution's weight and bias take in. Equal to the original up to rounding (float32: about 1e-6 of the logits).

    Args:
        model: Any network; its own modules and parameters are left as they are.

    Returns:
        The copy, in evaluation mode. A network without such pairs comes back unfolded.
    """
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential):
            _fold_pairs(module)
        for conv, norm in getattr(type(module), "folds", ()):
            _fold_named(module, conv, norm)
    return folded


def _fold_pairs(layers: nn.Sequential) -> None:
    previous: tuple[str, nn.Module] | None = None
    for name, layer in list(layers.named_children()):
        if previous and (fused := _fold(previous[1], layer)):
            setattr(layers, previous[0], fused)
            delattr(layers, name)
        previous = name, layer


def _fold_named(module: nn.Module, conv: str, norm: str) -> None:
    if fused := _fold(getattr(module, conv), getattr(module, norm)):
        setattr(module, conv, fused)
        setattr(module, norm, nn.Identity())


def _fold(conv: nn.Module, norm: nn.Module) -> nn.Conv2d | None:
    """The two as one convolution, or None where they cannot be."""
    if not isinstance(conv, nn.Conv2d) or type(conv) not in (nn.Conv2d, StridedPointwise, Depthwise):
        return None
    if type(norm) is not nn.BatchNorm2d or not norm.track_running_stats:
        return None
    # In float64, so that the only rounding is the last one.
    dtype = conv.weight.dtype
    with torch.no_grad():
        return fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype)
