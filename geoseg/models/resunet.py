"""Deep Residual U-Net (ResUNet).

Source: Zhang, Liu and Wang 2018, "Road Extraction by Deep Residual U-Net", arXiv:1711.10684, figure 2 and table 1. The
residual unit: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027, figure 4 (e). The paper
leaves two things open. It upsamples without saying how: here by repeating the nearest pixel, which has no weights. And
as every unit changes the number of channels, its identity is a 1x1 convolution with the unit's stride (He et al. 2015,
arXiv:1512.03385, option B); the paper's count of 7.8 million parameters is without those.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from geoseg.models.initial import he_normal
from geoseg.models.inputs import check_counts, check_image, crop_like, pad_to_multiple
from geoseg.models.pointwise import StridedPointwise


class ResUNet(nn.Module):
    """ResUNet (2018): a U-Net of residual units that stride instead of pooling, made for roads.

    At the paper's width of 64 and depth of 3 it has 8.2 million parameters.
    """

    bounded = True
    """A logit depends on 6 * 2**depth - 4 pixels on each side and no more (44 at depth 3)."""

    def __init__(self, in_channels: int, classes: int, *, width: int = 64, depth: int = 3) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image, at least 1.
            classes: Channels of the logits, at least 1.
            width: Channels of the top level, doubled at each level below, 1 to 1024; 64 is the paper's.
            depth: Number of halvings, 1 to 8; 3 is the paper's.

        Raises:
            UsageError: If an argument is out of its range.
        """
        super().__init__()
        check_counts("resunet", in_channels=in_channels, classes=classes, width=width)
        check_counts("resunet", most=8, depth=depth)
        self.in_channels = in_channels
        self.stride: int = 2**depth
        channels = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            [
                ResidualUnit(in_channels, width, first=True),
                *(ResidualUnit(a, b, stride=2) for a, b in pairwise(channels)),
            ]
        )
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.decoder = nn.ModuleList(ResidualUnit(a + b, b) for a, b in pairwise(channels[::-1]))
        self.head = nn.Conv2d(width, classes, kernel_size=1)
        self.apply(he_normal)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        A size that is no multiple of `stride` is padded below and to the right by repeating the last row and column,
        and the logits are cropped again.

        Args:
            image: (N, C, H, W) float, normalised; H and W at least 1. `channels_last` stays `channels_last`.

        Returns:
            Logits (N, K, H, W) of the image's dtype.

        Raises:
            ShapeError: If the image is not (N, in_channels, H, W).
        """
        check_image(image, self.in_channels)
        x, skips = pad_to_multiple(image, self.stride), []
        for unit in self.encoder:
            x = unit(x)
            skips.append(x)
        skips.pop()
        for unit in self.decoder:
            x = unit(torch.cat([skips.pop(), self.up(x)], dim=1))
        return crop_like(self.head(x), image)


class ResidualUnit(nn.Module):
    """Twice batch normalisation, ReLU and 3x3 convolution (the first with the stride), beside the identity.

    The first unit of all reads the image, and begins with its convolution (figure 2).
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, first: bool = False) -> None:
        super().__init__()
        self.identity = StridedPointwise(in_channels, out_channels, stride=stride)
        # The first ReLU is not in place: the identity reads what it reads.
        before = [] if first else [nn.BatchNorm2d(in_channels), nn.ReLU()]
        self.residual = nn.Sequential(
            *before,
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)."""
        y: Tensor = self.residual(x) + self.identity(x)
        return y
