"""The receptive radius: how many pixels on each side of a pixel its logits depend on, measured on the network itself.

Back-propagating one logit through the trained network gives too little: a max pooling passes the gradient to one pixel
of four, a dead ReLU to none, opposite weights cancel, and far pixels underflow in float32 (U-Net of depth 4: 94 instead
of 107). So the question is put to a *twin* that computes in float64 with positive weights only: average for max
pooling, no activation, no normalisation. There a pixel's gradient is zero exactly where no path leads.

The twin's convolutions average over their input channels, apply one positive kernel and repeat the plane, so the answer
costs the same for a network of any width.
"""

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from geoseg.errors import ShapeError, UsageError

_LARGEST = 8192
"""Side of the largest image tried before a network's context counts as unbounded."""


def receptive_radius(model: nn.Module) -> int:
    """The largest distance, in rows or columns, from a pixel to one that its logits can depend on.

    The maximum over all positions of a pixel relative to the network's stride: after upsampling, neighbouring pixels
    look out of different corners of the same coarse one. U-Net of depth d: 7 * 2**d - 5.

    Args:
        model: (N, C, H, W) -> (N, K, H, W), with `stride` and `bounded`; built of modules (a pooling or normalisation
            called as a function is not seen). It is left as it is. Groups of channels count as mixed, so that a
            network whose groups never meet gets an upper bound.

    Returns:
        Pixels, at least 0.

    Raises:
        UsageError: If the context is unbounded.
        ShapeError: If logits and image differ in height or width.
    """
    if not model.bounded:
        raise _unbounded(model)
    with torch.inference_mode(False), torch.enable_grad():
        twin = _twin(model)
        return max(_reach(twin, cast(int, model.stride), axis) for axis in (2, 3))


def _reach(twin: nn.Module, stride: int, axis: int) -> int:
    """The radius along one axis: rows (2) or columns (3)."""
    channels = next((module.in_channels for module in twin.modules() if isinstance(module, _Reach)), 1)
    side = max(16 * stride, 64)
    while side <= _LARGEST:
        # Long along the axis and narrow across it: what happens across does not change how far a path leads along.
        shape = [1, channels, 4 * stride, 4 * stride]
        shape[axis] = side
        image = torch.ones(shape, dtype=torch.float64, requires_grad=True)
        logits = twin(image)
        if logits.shape[2:] != image.shape[2:]:
            raise ShapeError(f"logits {tuple(logits.shape)} of an image {tuple(shape)}. Expected one height and width.")
        middle = side // 2 // stride * stride
        reached = [_reached(logits, image, axis, position) for position in range(middle, middle + stride)]
        # A strided convolution may skip up to stride - 1 pixels at the edge.
        if min(first for first, _ in reached) >= stride and max(last for _, last in reached) < side - stride:
            return max(max(p - first, last - p) for p, (first, last) in enumerate(reached, start=middle))
        side *= 2
    raise _unbounded(twin)


def _reached(logits: Tensor, image: Tensor, axis: int, position: int) -> tuple[int, int]:
    """First and last position along `axis` of the image that the logits at `position` depend on."""
    total = logits.select(axis, position).sum()
    if not total.requires_grad:
        return position, position  # constant logits depend on nothing
    (gradient,) = torch.autograd.grad(total, image, retain_graph=True)
    positions = gradient.movedim(axis, 0).flatten(1).ne(0).any(1).nonzero()
    return (int(positions[0]), int(positions[-1])) if len(positions) else (position, position)


def _unbounded(model: nn.Module) -> UsageError:
    return UsageError(f"{type(model).__name__} has unbounded context. Expected a network of bounded receptive radius.")


class _Reach(nn.Module):
    """Stands for a convolution: mean of the channels, one positive kernel, repeated to as many channels as before."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        geometry = ["stride", "padding", "padding_mode"]
        geometry += ["output_padding"] if isinstance(conv, nn.ConvTranspose2d) else []
        shape = {name: getattr(conv, name) for name in geometry}
        # Dilated kernels are filled: else their outer entries could fall beyond the image without touching its edge.
        shape["kernel_size"] = _extent(conv.kernel_size, conv.dilation)
        self.conv = type(conv)(1, 1, **shape, bias=False, dtype=torch.float64).requires_grad_(False)
        self.conv.weight.fill_(1 / self.conv.weight.numel())

    def forward(self, x: Tensor) -> Tensor:
        plane: Tensor = self.conv(x.mean(1, keepdim=True))
        return plane.expand(-1, self.out_channels, -1, -1)


def _average(pool: nn.MaxPool2d) -> nn.Module:
    return nn.AvgPool2d(_extent(pool.kernel_size, pool.dilation), pool.stride, pool.padding, ceil_mode=pool.ceil_mode)


def _extent(kernel_size: int | tuple[int, ...], dilation: int | tuple[int, ...]) -> tuple[int, int]:
    """Height and width from a kernel's first to its last entry."""
    size, step = (value if isinstance(value, tuple) else (value, value) for value in (kernel_size, dilation))
    return step[0] * (size[0] - 1) + 1, step[1] * (size[1] - 1) + 1


def _identity(_: nn.Module) -> nn.Module:
    return nn.Identity()


_STANDS_FOR: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Conv2d: _Reach,
    nn.ConvTranspose2d: _Reach,
    nn.MaxPool2d: _average,
    nn.BatchNorm2d: _identity,
    nn.ReLU: _identity,
    nn.LeakyReLU: _identity,
    nn.GELU: _identity,
    nn.SiLU: _identity,
    nn.Dropout: _identity,
    nn.Dropout2d: _identity,
}


def _twin(model: nn.Module) -> nn.Module:
    """A copy of the model with each module replaced by what stands for it; the rest in float64."""
    twin = copy.deepcopy(model).cpu().double().eval().requires_grad_(False)
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in _STANDS_FOR:
                setattr(parent, name, _STANDS_FOR[type(child)](child))
    return twin
