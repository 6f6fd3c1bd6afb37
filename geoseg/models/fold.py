"""Folding batch normalisation into the convolution before it: fewer passes over memory, the same function."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy of `model` for inference, with every Conv2d -> BatchNorm2d pair of a Sequential as one convolution.

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
    return folded


def _fold_pairs(layers: nn.Sequential) -> None:
    previous: tuple[str, nn.Module] | None = None
    for name, layer in list(layers.named_children()):
        if previous and type(previous[1]) is nn.Conv2d and type(layer) is nn.BatchNorm2d and layer.track_running_stats:
            setattr(layers, previous[0], _fold(previous[1], layer))
            delattr(layers, name)
        previous = name, layer


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    # In float64, so that the only rounding is the last one.
    dtype = conv.weight.dtype
    with torch.no_grad():
        return fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype)
