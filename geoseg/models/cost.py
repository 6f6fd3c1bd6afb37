"""What a network costs: its parameters, and the multiply-accumulates of a forward pass."""

import copy
from typing import Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    """Number of trained numbers: weights, biases, and scales and shifts of normalisations; not running statistics."""
    return sum(parameter.numel() for parameter in model.parameters())


def macs_per_pixel(model: nn.Module, *, side: int = 512) -> float:
    """Multiply-accumulates of one forward pass for each pixel of the logits, in evaluation mode.

    Convolutions, transposed convolutions, linear layers and matrix products count; biases, normalisations, activations,
    poolings and interpolations, which are few beside them, do not. Nothing is computed: the pass is of shapes only.

    Args:
        model: (N, C, H, W) -> (N, K, H - 2 * margin, W - 2 * margin), with `in_channels`, and `margin` if it is not 0.
            It is left as it is.
        side: Height and width of the logits. It matters where it is no multiple of the network's stride, where
            convolutions are unpadded, and where every pixel looks at every other.
    """
    counted = _without_data(model).eval()
    long = side + 2 * getattr(model, "margin", 0)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        counted(torch.empty(1, cast(int, model.in_channels), long, long, device="meta"))
    # The counter counts a multiplication and an addition as two.
    return counter.get_total_flops() / 2 / side**2


def _without_data(model: nn.Module) -> nn.Module:
    """A copy whose tensors have a shape, and no memory."""
    shapes: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = torch.empty_like(tensor, device="meta", dtype=torch.float32 if tensor.is_floating_point() else None)
        shapes[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, shapes)
