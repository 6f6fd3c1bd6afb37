"""Attention U-Net.

Source: Oktay et al. 2018, "Attention U-Net: Learning Where to Look for the Pancreas", arXiv:1804.03999, figures 1 and
2, equations 1 and 2. As there, the finest skip has no gate, the gating signal of a skip is what the decoder has made of
the next coarser level, and the coefficients are computed on that level's grid and resampled. Four things differ: the
net is of two dimensions, without deep supervision, upsamples by transposed convolutions as U-Net does, and has batch
normalisation unless norm="none".
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.models.inputs import check_counts, check_image, crop_like, pad_to_multiple
from geoseg.models.unet import Norm, PlainEncoder, check_norm, double_conv, initialise


class AttentionUNet(nn.Module):
    """Attention U-Net (2018): a U-Net whose skips pass only where the coarser level attends to.

    At the paper's width of 64 and depth of 4 it has 33 million parameters.
    """

    bounded = True
    """A logit depends on 8 * 2**depth - 7 pixels on each side and no more (121 at depth 4)."""

    def __init__(
        self, in_channels: int, classes: int, *, width: int = 64, depth: int = 4, norm: Norm = "batch"
    ) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image, at least 1.
            classes: Channels of the logits, at least 1.
            width: Channels of the top level, doubled at each level below, 1 to 1024; 64 is the paper's.
            depth: Number of poolings, 1 to 8; there is one gate less than that. 4 is that of the authors' code.
            norm: "batch" puts batch normalisation between each 3x3 convolution and its ReLU; "none" does not.

        Raises:
            UsageError: If an argument is out of its range.
        """
        super().__init__()
        check_counts("attention_unet", in_channels=in_channels, classes=classes, width=width)
        check_counts("attention_unet", most=8, depth=depth)
        check_norm("attention_unet", norm)
        self.in_channels = in_channels
        self.stride: int = 2**depth
        self.encoder = PlainEncoder(in_channels, width, depth, norm)
        # Each level has twice the channels of the next finer one, also after concatenation.
        skips = self.encoder.channels[-2::-1]
        self.attention_maps = depth - 1
        """One for each gate."""
        self.gates = nn.ModuleList(Gate(channels, 2 * channels) for channels in skips[:-1])
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * a, a, kernel_size=2, stride=2) for a in skips)
        self.levels = nn.ModuleList(double_conv(2 * a, a, norm) for a in skips)
        self.head = nn.Conv2d(width, classes, kernel_size=1)
        self.apply(initialise)

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
        logits, _ = self._decode(image)
        return logits

    def forward_with_attention(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and what each gate lets through.

        Args:
            image: As in `forward`.

        Returns:
            Logits (N, K, H, W), and for each gate, the finest first, (N, 1, H, W) in [0, 1]: the coefficients of
            equation 2, resampled bilinearly to the image's size.

        Raises:
            ShapeError: If the image is not (N, in_channels, H, W).
        """
        logits, gates = self._decode(image)
        finest_first = enumerate(reversed(gates), start=1)
        maps = [F.interpolate(gate, scale_factor=2**level, mode="bilinear") for level, gate in finest_first]
        return logits, [crop_like(gate, image) for gate in maps]

    def _decode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the coefficients of each gate, the coarsest first."""
        check_image(image, self.in_channels)
        *skips, x = self.encoder(pad_to_multiple(image, self.stride))
        coefficients = []
        for up, level, gate in zip(self.ups, self.levels, [*self.gates, None], strict=True):
            skip = skips.pop()
            if gate is not None:
                coefficients.append(gate(skip, x))
                skip = skip * coefficients[-1]
            x = level(torch.cat([skip, up(x)], dim=1))
        return crop_like(self.head(x), image), coefficients


class Gate(nn.Module):
    """The additive attention gate of figure 2: how much of a skip to let through at each pixel.

    q = psi(relu(W_x x + W_g g + b_g)) + b_psi on the grid of g, and the coefficient is the sigmoid of q, upsampled.
    """

    def __init__(self, skip_channels: int, gating_channels: int) -> None:
        """Build. The features between have as many channels as the skip, as in the authors' code."""
        super().__init__()
        self.skip = nn.Conv2d(skip_channels, skip_channels, kernel_size=2, stride=2, bias=False)
        self.gating = nn.Conv2d(gating_channels, skip_channels, kernel_size=1)
        self.relu = nn.ReLU(inplace=True)
        self.psi = nn.Conv2d(skip_channels, 1, kernel_size=1)
        self.sigmoid = nn.Sigmoid()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Coefficients (N, 1, H, W) in [0, 1] of a skip (N, C, H, W) and a signal (N, 2 C, H / 2, W / 2)."""
        q = self.psi(self.relu(self.skip(skip) + self.gating(gating)))
        return cast(Tensor, self.up(self.sigmoid(q)))
