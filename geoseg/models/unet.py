"""U-Net.

Source: Ronneberger, Fischer and Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
arXiv:1505.04597, figure 1. Two things differ from the paper: convolutions pad with zeros, so that the output has the
size of the input, and batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) may follow each 3x3 convolution.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError

Norm = Literal["none", "batch"]


class UNet(nn.Module):
    """U-Net (2015): a contracting path, an expanding path, and a skip between the two at every level.

    Depth 4 and width 16, 32 or 64 (the paper's) have 1.9, 7.8 or 31 million parameters.
    """

    bounded = True
    """A logit depends on 7 * 2**depth - 5 pixels on each side and no more (107 at depth 4)."""

    def __init__(
        self, in_channels: int, classes: int, *, width: int = 16, depth: int = 4, norm: Norm = "batch"
    ) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image, at least 1.
            classes: Channels of the logits, at least 1.
            width: Channels of the top level, doubled at each level below, 1 to 1024.
            depth: Number of poolings, 1 to 8.
            norm: "batch" puts batch normalisation between each 3x3 convolution and its ReLU; "none" is the paper's.

        Raises:
            UsageError: If an argument is out of its range.
        """
        super().__init__()
        for name, value, most in (
            ("in_channels", in_channels, 4096),
            ("classes", classes, 4096),
            ("width", width, 1024),
            ("depth", depth, 8),
        ):
            if type(value) is not int or not 1 <= value <= most:
                raise UsageError(f"{name}={value!r} is out of range (unet). Expected a whole number from 1 to {most}.")
        if norm not in ("none", "batch"):
            raise UsageError(f"norm={norm!r} is unknown (unet). Expected 'none' or 'batch'.")
        channels = [width * 2**level for level in range(depth + 1)]
        self.in_channels = in_channels
        self.stride: int = 2**depth
        self.encoder = Encoder([in_channels, *channels], norm)
        self.decoder = Decoder(channels[::-1], norm)
        self.head = nn.Conv2d(width, classes, kernel_size=1)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        A size that is no multiple of `stride` is padded below and to the right by repeating the last row and column,
        and the logits are cropped again; a multiple takes the direct path.

        Args:
            image: (N, C, H, W) float, normalised; H and W at least 1. `channels_last` stays `channels_last`.

        Returns:
            Logits (N, K, H, W) of the image's dtype.

        Raises:
            ShapeError: If the image is not (N, in_channels, H, W).
        """
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ShapeError(
                f"image of shape {tuple(image.shape)} does not fit the model. Expected (N, {self.in_channels}, H, W)."
            )
        height, width = image.shape[-2:]
        below, right = -height % self.stride, -width % self.stride
        if below or right:
            image = F.pad(image, (0, right, 0, below), mode="replicate")
        logits: Tensor = self.head(self.decoder(self.encoder(image)))
        return logits[..., :height, :width] if below or right else logits


class Encoder(nn.Module):
    """The contracting path: double convolutions with a 2x2 max pooling before each but the first."""

    def __init__(self, channels: list[int], norm: Norm) -> None:
        super().__init__()
        self.levels = nn.ModuleList(double_conv(a, b, norm) for a, b in pairwise(channels))
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of every level, the finest first: (N, width * 2**level, H / 2**level, W / 2**level)."""
        features = [self.levels[0](image)]
        for level in self.levels[1:]:
            features.append(level(self.pool(features[-1])))
        return features


class Decoder(nn.Module):
    """The expanding path: 2x2 transposed convolution, concatenation with the skip, double convolution."""

    def __init__(self, channels: list[int], norm: Norm) -> None:
        super().__init__()
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, kernel_size=2, stride=2) for a, b in pairwise(channels))
        self.levels = nn.ModuleList(double_conv(a, b, norm) for a, b in pairwise(channels))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features of the finest level, (N, width, H, W)."""
        *skips, x = features
        for up, level, skip in zip(self.ups, self.levels, reversed(skips), strict=True):
            x = level(torch.cat([skip, up(x)], dim=1))
        return x


def double_conv(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Twice: 3x3 convolution, normalisation if any, ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        # Batch normalisation has its own shift: a bias before it would be taken out again.
        layers.append(nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=norm == "none"))
        if norm == "batch":
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _initialise(module: nn.Module) -> None:
    # He et al. 2015, arXiv:1502.01852, eq. 10: variance gain / fan-in, with gain 2 before a ReLU. An output pixel of a
    # 2x2 transposed convolution of stride 2 sees one input pixel, so the fan-in there is the input channels.
    if isinstance(module, nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=module.in_channels**-0.5)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if module.kernel_size == (1, 1) else "relu")
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
