"""The receptive radius: how many pixels on each side of a pixel its logits depend on, measured on the network itself.

Back-propagating one logit through the trained network gives too little: a max pooling passes the gradient to one pixel
of four, a dead ReLU to none, opposite weights cancel, and far pixels underflow in float32 (U-Net of depth 4: 94 instead
of 107). So the question is put to a *twin* that computes in float64 with positive weights only: average for max
pooling, no activation, no normalisation. There a pixel's gradient is zero exactly where no path leads.

The twin's layers average over their input channels, apply one positive kernel and repeat the plane, so the answer costs
nearly the same for a network of any width. Where a stand-in cannot be exact it reaches further, never less.
"""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError

_LARGEST = 10240
"""Side of the largest image tried before a network's context counts as unbounded: radii up to about 4000."""

Span = tuple[int, int] | None
"""First and last position of the image that a logit depends on; None where it depends on nothing."""


def receptive_radius(model: nn.Module) -> int:
    """The largest distance, in rows or columns, from a pixel to one that its logits can depend on.

    The maximum over all positions of a pixel relative to the network's stride: after upsampling, neighbouring pixels
    look out of different corners of the same coarse one. U-Net of depth d: 7 * 2**d - 5.

    Args:
        model: (N, C, H, W) -> (N, K, H - 2 * margin, W - 2 * margin), with `stride`, `bounded` and, if it is not 0,
            `margin`; built of modules (a pooling, a normalisation, or an activation other than ReLU, called as a
            function is not seen). It is left as it is. Groups of channels count as mixed, so that a network whose
            groups never meet gets an upper bound.

    Returns:
        Pixels, at least 0.

    Raises:
        UsageError: If the context is unbounded, or the network has a layer of torch whose reach is not known here.
        ShapeError: If logits and image (less the margin) differ in height or width.
    """
    if not model.bounded:
        raise _unbounded(model)
    stride, margin = cast(int, model.stride), cast(int, getattr(model, "margin", 0))
    with torch.inference_mode(False), torch.enable_grad():
        twin = _twin(model)
        channels = _image_channels(model)
        radii = [_reach(twin, channels, stride, margin, axis) for axis in (2, 3)]
    if None in radii:
        raise _unbounded(model)
    return max(cast(list[int], radii))


def _reach(twin: nn.Module, channels: int, stride: int, margin: int, axis: int) -> int | None:
    """The radius along one axis, rows (2) or columns (3); None if no image is large enough."""
    side = max(20 * stride, 64)
    while side <= _LARGEST:
        # Long along the axis and narrow across it: what happens across does not change how far a path leads along.
        shape = [1, channels, *[max(stride, 16) + 2 * margin] * 2]
        shape[axis] = side + 2 * margin
        image = torch.ones(shape, dtype=torch.float64, device="cpu", requires_grad=True)
        span = cache(_spans(twin(image), image, margin, axis))
        low = side // 2 // stride * stride
        radius = _furthest(span, low, low + stride - 1)
        # Else it was cut off: what reaches the border comes this close, as strides may skip the outermost pixels.
        if radius <= side // 2 - 2 * stride:
            return radius
        side *= 2
    return None


def _spans(logits: Tensor, image: Tensor, margin: int, axis: int) -> Callable[[int], Span]:
    """What the logits at a position along `axis` depend on, as a function; positions count from the first logit."""
    if any(a != b - 2 * margin for a, b in zip(logits.shape[2:], image.shape[2:], strict=True)):
        less = f" less {margin} on each side" if margin else ""
        raise ShapeError(
            f"logits {tuple(logits.shape)} of an image {tuple(image.shape)}. Expected one height and width{less}."
        )

    def span(position: int) -> Span:
        total = logits.select(axis, position).sum()
        if not total.requires_grad:
            return None  # constant logits
        (gradient,) = torch.autograd.grad(total, image, retain_graph=True)
        found = gradient.movedim(axis, 0).flatten(1).ne(0).any(1).nonzero()
        return (int(found[0]) - margin, int(found[-1]) - margin) if len(found) else None

    return span


def _furthest(span: Callable[[int], Span], low: int, high: int) -> int:
    """The largest distance from a position in [low, high] to an end of its span.

    Every layer's window moves on with the position, never back, so neither do the ends of a span. What lies between
    two positions is bounded by theirs, and need not be looked at if that is no more than what was found already.
    """
    found = max(_distance(span(position), position) for position in (low, high))
    open_ranges = [(low, high)]
    while open_ranges:
        low, high = open_ranges.pop()
        first, last = span(low), span(high)
        if high - low < 2 or (first and last and max(high - 1 - first[0], last[1] - low - 1) <= found):
            continue
        middle = (low + high) // 2
        found = max(found, _distance(span(middle), middle))
        open_ranges += [(low, middle), (middle, high)]
    return found


def _distance(ends: Span, position: int) -> int:
    return max(position - ends[0], ends[1] - position) if ends else 0


def _unbounded(model: nn.Module) -> UsageError:
    return UsageError(f"{type(model).__name__} has unbounded context. Expected a network of bounded receptive radius.")


def _image_channels(model: nn.Module) -> int:
    """Channels of the image: what the model says, else its first convolution."""
    layers = (layer.in_channels for layer in model.modules() if isinstance(layer, _CONVOLUTIONS))
    return cast(int, getattr(model, "in_channels", None) or next(layers, 1))


def _twin(model: nn.Module) -> nn.Module:
    """A copy of the model with each layer replaced by what stands for it, and the same positive number in all weights.

    The layers themselves are not copied: a large network's weights would be many.
    """
    stand_ins = {id(layer): made for layer in model.modules() if (made := _stand_in(layer, model))}
    twin = copy.deepcopy(model, cast(dict[int, Any], stand_ins)).cpu().double().eval().requires_grad_(False)
    for parameter in twin.parameters():
        parameter.fill_(1 / parameter[0].numel() if parameter.ndim > 1 else 1.0)
    return twin


def _stand_in(layer: nn.Module, model: nn.Module) -> nn.Module | None:
    """What stands for a layer, or for one derived from it; None for what is kept: containers and networks' own modules.

    Raises:
        UsageError: If it is a layer of torch that is not known here.
    """
    for kind in type(layer).__mro__:
        if kind in _STANDS_FOR:
            return _STANDS_FOR[kind](layer)
    if type(layer).__module__.startswith("torch.nn.modules") and not isinstance(layer, _KEPT):
        raise UsageError(
            f"{type(model).__name__} has a layer {type(layer).__name__} whose reach is not known. "
            "Expected one of models/receptive.py; or declare the network unbounded."
        )
    return None


class _Plane(nn.Module):
    """Mean of the channels through a layer of one channel, repeated to as many channels as the original makes."""

    def __init__(self, layer: nn.Module, channels: int | None = None) -> None:
        super().__init__()
        self.layer, self.channels = layer, channels

    def forward(self, x: Tensor, *size: Any, **named: Any) -> Tensor:
        # Divided once it is one plane: the gradient of `mean` would divide every channel.
        plane: Tensor = self.layer(x.sum(1, keepdim=True) / x.shape[1], *size, **named)
        return plane.expand(-1, self.channels or x.shape[1], *plane.shape[2:])


class _PlaneAndIndices(_Plane):
    """A pooling that says where its maxima were. They depend on the same pixels, so the same plane stands for both."""

    def forward(self, x: Tensor, *size: Any, **named: Any) -> Any:
        pooled = super().forward(x)
        return pooled, pooled


class _Unpooled(_Plane):
    """A value may come to lie anywhere in its window, and that it does depends on what the indices depend on."""

    def forward(self, x: Tensor, indices: Tensor, output_size: Any = None) -> Any:
        unpooled = super().forward(x + indices)
        if output_size is None:
            return unpooled
        missing = [wanted - had for wanted, had in zip(output_size[-2:], unpooled.shape[-2:], strict=True)]
        return F.pad(unpooled, (0, missing[1], 0, missing[0]))


class _Mixed(nn.Module):
    """Mean over some dimensions, repeated to their size: every entry depends on all of them."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims, keepdim=True).expand_as(x)


class _Everywhere(nn.Module):
    """Every value depends on every pixel. `size`, if given, is the output's: a number, or one for each dimension."""

    def __init__(self, size: Any = None) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        dims = tuple(range(2, x.ndim))
        wanted = self.size if isinstance(self.size, tuple) else (self.size,) * len(dims)
        sizes = [had if want is None else want for want, had in zip(wanted, x.shape[2:], strict=True)]
        return x.mean((1, *dims), keepdim=True).expand(-1, x.shape[1], *sizes)


def _convolution(conv: Any) -> nn.Module:
    """Zeros for any padding: a scene's border is no matter here."""
    geometry = {"stride": conv.stride, "padding": conv.padding, "bias": False, "dtype": torch.float64, "device": "cpu"}
    # Dilated kernels are filled: else their outer entries could fall beyond the image without touching its edge.
    size = _extent(conv.kernel_size, conv.dilation)
    if conv.transposed:
        geometry["output_padding"] = conv.output_padding
        kind: Any = nn.ConvTranspose3d if len(size) == 3 else nn.ConvTranspose2d
    else:
        kind = nn.Conv3d if len(size) == 3 else nn.Conv2d
    return _Plane(kind(1, 1, size, **geometry), conv.out_channels)


def _pooling(pool: Any, *, kind: Any = nn.AvgPool2d, dims: int = 2) -> nn.Module:
    size = _extent(pool.kernel_size, getattr(pool, "dilation", 1), dims)
    average = kind(size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode)
    return (_PlaneAndIndices if getattr(pool, "return_indices", False) else _Plane)(average)


def _pooling_3d(pool: Any) -> nn.Module:
    return _pooling(pool, kind=nn.AvgPool3d, dims=3)


def _unpooling(pool: Any) -> nn.Module:
    options: Any = {"stride": pool.stride, "padding": pool.padding, "bias": False}
    return _Unpooled(nn.ConvTranspose2d(1, 1, pool.kernel_size, **options, dtype=torch.float64, device="cpu"))


def _extent(kernel_size: Any, dilation: Any, dims: int = 2) -> tuple[int, ...]:
    """Pixels from a kernel's first to its last entry, along each dimension."""
    sizes, steps = (value if isinstance(value, tuple) else (value,) * dims for value in (kernel_size, dilation))
    return tuple(step * (size - 1) + 1 for size, step in zip(sizes, steps, strict=True))


def _upsampling(up: Any) -> nn.Module:
    if up.size is not None or up.align_corners:
        # The factor depends on the size of the image, so that no two tiles agree.
        return nn.Sequential(_Everywhere(), copy.deepcopy(up))
    if up.mode == "bicubic":
        # Some of its weights are negative. Four pixels: two by two neighbours of the bilinear two.
        near = nn.AvgPool2d(3, stride=1, padding=1)
        return _Plane(nn.Sequential(near, nn.Upsample(scale_factor=up.scale_factor, mode="bilinear")))
    return _Plane(copy.deepcopy(up))


def _normalisation(norm: Any) -> nn.Module:
    """With running statistics it is a fixed scale and shift; else the statistics are those of the image."""
    return nn.Identity() if getattr(norm, "track_running_stats", False) else _Everywhere()


def _identity(_: nn.Module) -> nn.Module:
    return nn.Identity()


_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)
_NORMALISATIONS = (nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm)
_POINTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Tanhshrink, nn.Softsign),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)
_ADAPTIVE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d)

_STANDS_FOR: dict[type, Callable[[Any], nn.Module]] = {
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(_NORMALISATIONS, _normalisation),
    **dict.fromkeys(_POINTWISE, _identity),
    **dict.fromkeys(_ADAPTIVE, lambda pool: _Everywhere(pool.output_size)),
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d), _pooling),
    **dict.fromkeys((nn.MaxPool3d, nn.AvgPool3d), _pooling_3d),
    nn.MaxUnpool2d: _unpooling,
    nn.Upsample: _upsampling,
    # Its zeros come from beyond the scene's border just as well.
    nn.ReflectionPad2d: lambda pad: nn.ZeroPad2d(pad.padding),
    nn.Softmax: lambda softmax: _Mixed(softmax.dim),
    nn.LogSoftmax: lambda softmax: _Mixed(softmax.dim),
    nn.Softmax2d: lambda _: _Mixed(1),
    nn.LayerNorm: lambda norm: _Mixed(*range(-len(norm.normalized_shape), 0)),
}

_KEPT = (
    *(nn.Identity, nn.Linear, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
    *(nn.ZeroPad2d, nn.ConstantPad2d, nn.ReplicationPad2d, nn.ZeroPad3d, nn.ConstantPad3d, nn.ReplicationPad3d),
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict),
)
