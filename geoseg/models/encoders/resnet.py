"""ResNet-18, -34, -50 and -101.

Source: He, Zhang, Ren and Sun 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, table 1 and
figure 5; without the pooling and the fully connected layer at the end. As in torchvision, whose parameter names and
files these are, a bottleneck strides in its 3x3 convolution, not in its first 1x1. Dilation in place of stride:
Yu, Koltun and Funkhouser 2017, arXiv:1705.09914, without their degridding layers.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from geoseg.errors import UsageError
from geoseg.models.encoders.encoder import Encoder
from geoseg.models.inputs import check_counts
from geoseg.models.pointwise import StridedPointwise


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity (figure 5, left)."""

    expansion: ClassVar[int] = 1
    folds: ClassVar[tuple[tuple[str, str], ...]] = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, in_channels: int, width: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width, 1, dilations[1])
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, expansion * width, H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        y: Tensor = self.relu(x + identity)
        return y


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside the identity (figure 5, right)."""

    expansion: ClassVar[int] = 4
    folds: ClassVar[tuple[tuple[str, str], ...]] = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, in_channels: int, width: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, dilations[0])
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, expansion * width, H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        y: Tensor = self.relu(x + identity)
        return y


class ResNet(Encoder):
    """A stem of stride 2 and four stages of residual blocks, of strides 4, 8, 16 and 32.

    Features: after the stem (before its pooling), then after each stage. The last one or two stages may be dilated
    in place of their stride, torchvision's `replace_stride_with_dilation`.
    """

    first_conv: ClassVar[str] = "conv1"
    folds: ClassVar[tuple[tuple[str, str], ...]] = (("conv1", "bn1"),)

    def __init__(
        self,
        name: str,
        in_channels: int,
        block: type[BasicBlock | Bottleneck],
        blocks: Sequence[int],
        *,
        width: int = 64,
        dilated: int = 0,
    ) -> None:
        """Build with torchvision's first weights: Kaiming-normal by fan-out.

        Args:
            name: Key of `ENCODERS`.
            in_channels: Channels of the image, at least 1.
            block: The residual block.
            blocks: How many of them in each of the four stages.
            width: Channels of the stem; 64 is the paper's.
            dilated: How many of the last stages have dilation in place of stride, 0 to 2.

        Raises:
            UsageError: If an argument is out of its range.
        """
        super().__init__()
        check_counts(name, in_channels=in_channels, width=width)
        if type(dilated) is not int or not 0 <= dilated <= 2:
            raise UsageError(f"dilated={dilated!r} is out of range ({name}). Expected 0, 1 or 2.")
        self.name, self.in_channels = name, in_channels
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        # Dilation of each stage, times its stride, doubles from stage to stage.
        dilations = [1, 1, 1 + (dilated > 1), max(1, 2 * dilated)]
        self.strides = [2, *(2 ** (stage + 2) // dilation for stage, dilation in enumerate(dilations))]
        self.channels = [width, *(width * 2**stage * block.expansion for stage in range(4))]
        stages = [
            _stage(
                block,
                blocks[stage],
                in_channels=self.channels[stage],
                width=width * 2**stage,
                stride=self.strides[stage + 1] // self.strides[stage] if stage else 1,
                dilations=(dilations[max(stage - 1, 0)], dilations[stage]),
            )
            for stage in range(4)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.apply(_initialise)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features after the stem and after each stage, the finest first."""
        features = [self.relu(self.bn1(self.conv1(image)))]
        x = self.maxpool(features[0])
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


def resnet18(in_channels: int, *, width: int = 64, dilated: int = 0) -> ResNet:
    """ResNet-18."""
    return ResNet("resnet18", in_channels, BasicBlock, (2, 2, 2, 2), width=width, dilated=dilated)


def resnet34(in_channels: int, *, width: int = 64, dilated: int = 0) -> ResNet:
    """ResNet-34."""
    return ResNet("resnet34", in_channels, BasicBlock, (3, 4, 6, 3), width=width, dilated=dilated)


def resnet50(in_channels: int, *, width: int = 64, dilated: int = 0) -> ResNet:
    """ResNet-50."""
    return ResNet("resnet50", in_channels, Bottleneck, (3, 4, 6, 3), width=width, dilated=dilated)


def resnet101(in_channels: int, *, width: int = 64, dilated: int = 0) -> ResNet:
    """ResNet-101."""
    return ResNet("resnet101", in_channels, Bottleneck, (3, 4, 23, 3), width=width, dilated=dilated)


def _stage(
    block: type[BasicBlock | Bottleneck],
    count: int,
    *,
    in_channels: int,
    width: int,
    stride: int,
    dilations: tuple[int, int],
) -> nn.Sequential:
    """Residual blocks; the first has the stride.

    Its strided convolution still reads the grid of the stage above, and so has that stage's dilation, the first of
    the two; all that follows has this stage's own.
    """
    first = block(in_channels, width, stride, dilations)
    rest = [block(width * block.expansion, width, 1, (dilations[1], dilations[1])) for _ in range(count - 1)]
    return nn.Sequential(first, *rest)


def _conv3x3(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Makes the identity fit where size or channels change."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        StridedPointwise(in_channels, out_channels, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def _initialise(module: nn.Module) -> None:
    # He et al. 2015, arXiv:1502.01852, eq. 14: by fan-out, the variance of the gradients is kept.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
