"""VGG-16, plain and with batch normalisation.

Source: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
arXiv:1409.1556, table 1, configuration D; without the three fully connected layers. Batch normalisation: Ioffe and
Szegedy 2015, arXiv:1502.03167. Parameters have torchvision's names (`features.0.weight` ...), so that its files fit.
"""

from typing import ClassVar

from torch import Tensor, nn

from geoseg.models.encoders.encoder import Encoder
from geoseg.models.initial import he_normal
from geoseg.models.inputs import check_counts, check_flags

_STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Channels in units of the width, and the number of 3x3 convolutions, up to each pooling."""


class VGG(Encoder):
    """VGG-16's thirteen convolutions and five poolings; strides 1 to 32.

    By default the features before each pooling, and last those after the fifth: conv1_2, conv2_2, conv3_3, conv4_3,
    conv5_3 and pool5 in the paper's words. `pooled` gives those after each pooling instead: pool1 to pool5.
    """

    first_conv: ClassVar[str] = "features.0"

    def __init__(self, in_channels: int, *, width: int = 64, norm: bool = False, pooled: bool = False) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image, at least 1.
            width: Channels of the first stage, then 2, 4, 8 and 8 times that; 64 is the paper's.
            norm: Whether batch normalisation stands between each convolution and its ReLU.
            pooled: Which features `forward` gives: see the class.

        Raises:
            UsageError: If an argument is out of its range.
        """
        super().__init__()
        self.name = "vgg16_bn" if norm else "vgg16"
        check_counts(self.name, in_channels=in_channels, width=width)
        check_flags(self.name, norm=norm, pooled=pooled)
        self.in_channels = in_channels
        channels = [factor * width for factor, _ in _STAGES]
        self.channels = channels if pooled else [*channels, channels[-1]]
        self.strides = [2, 4, 8, 16, 32] if pooled else [1, 2, 4, 8, 16, 32]
        self.pooled = pooled
        self.features = nn.Sequential()
        self.pools: list[int] = []
        """Names of the poolings within `features`."""
        for size, (_, count) in zip(channels, _STAGES, strict=True):
            for _ in range(count):
                self.features.append(nn.Conv2d(in_channels, size, kernel_size=3, padding=1))
                if norm:
                    self.features.append(nn.BatchNorm2d(size))
                self.features.append(nn.ReLU(inplace=True))
                in_channels = size
            self.pools.append(len(self.features))
            self.features.append(nn.MaxPool2d(2))
        self.apply(he_normal)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The features before each pooling and after the last, or after each pooling; the finest first."""
        x, features = image, []
        for index, pool in enumerate(self.pools):
            x = self.stage(index, x)
            if not self.pooled:
                features.append(x)
            x = getattr(self.features, str(pool))(x)
            if self.pooled or pool == self.pools[-1]:
                features.append(x)
        return features

    def stage(self, index: int, x: Tensor) -> Tensor:
        """The convolutions of stage `index`, 0 to 4, up to its pooling."""
        first, last = (self.pools[index - 1] if index else -1), self.pools[index]
        # By name, not by position: folding takes layers out.
        for name, layer in self.features.named_children():
            if first < int(name) < last:
                x = layer(x)
        return x


def vgg16(in_channels: int, *, width: int = 64, pooled: bool = False) -> VGG:
    """VGG-16 as published."""
    return VGG(in_channels, width=width, pooled=pooled)


def vgg16_bn(in_channels: int, *, width: int = 64, pooled: bool = False) -> VGG:
    """VGG-16 with batch normalisation."""
    return VGG(in_channels, width=width, norm=True, pooled=pooled)
