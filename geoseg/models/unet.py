"""U-Net.

Source: Ronneberger, Fischer and Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
arXiv:1505.04597, figure 1. Three things differ from the paper unless asked for: convolutions pad with zeros, so that
the output has the size of the input (`padding="valid"` is the paper's); batch normalisation (Ioffe and Szegedy 2015,
arXiv:1502.03167) follows each 3x3 convolution (`norm="none"`); the top level has 16 channels (`width=64`). The paper's
dropout at the end of the contracting path is left out. Another network may take the contracting path's place, as in
Iglovikov and Shvets 2018, arXiv:1801.05746, figure 1.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models.encoders import CUTTABLE, Encoder, build_encoder
from geoseg.models.initial import he_normal
from geoseg.models.inputs import check_counts, check_image

Norm = Literal["none", "batch"]
Padding = Literal["same", "valid"]


class UNet(nn.Module):
    """U-Net (2015): a contracting path, an expanding path, and a skip between the two at every level.

    Depth 4 and width 16, 32 or 64 (the paper's) have 1.9, 7.8 or 31 million parameters.
    """

    bounded: bool = True
    """A logit depends on 7 * 2**depth - 5 pixels on each side and no more (107 at depth 4), `shuffle` times as many and
    one less than that factor more.

    With an encoder it is the encoder's: those of timm may pool globally.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: int | None = None,
        depth: int = 4,
        norm: Norm = "batch",
        padding: Padding = "same",
        encoder: str = "plain",
        encoder_depth: int | None = None,
        shuffle: int = 1,
    ) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image, at least 1.
            classes: Channels of the logits, at least 1.
            width: Channels of the top level, doubled at each level below, 1 to 1024; 16 if not given. With an encoder,
                channels of its first layer, and the decoder is that of a plain network a quarter as wide; 64 if not
                given, which is what published weights fit.
            depth: Number of poolings, 1 to 8. An encoder has its own.
            norm: "batch" puts batch normalisation between each 3x3 convolution and its ReLU; "none" is the paper's.
                An encoder has its own.
            padding: "same" pads the convolutions with zeros; "valid" does not, as in the paper: the logits are smaller
                than the image by `margin` on each side. The same weights give the same logits far from the border if
                the image of "same" begins 2 pixels before a multiple of `stride`, where the first pooling begins.
            encoder: "plain" for the paper's contracting path, or a name of `ENCODERS`, or `timm:` and a name of timm.
            encoder_depth: How many of its strides an encoder keeps that can be cut (`efficientnet_lite0`, 1 to 5); if
                not given, all of them.
            shuffle: Side of the squares of pixels that become channels before the first layer, and pixels again after
                the last, 1 to 8: 2 does a quarter of the work at every level, and sees twice as far. Source: Shi et
                al. 2016, arXiv:1609.05158, eq. 4. Only of the padded network.

        Raises:
            UsageError: If an argument is out of its range, or does not go with the encoder.
        """
        super().__init__()
        plain = encoder == "plain"
        width = (16 if plain else 64) if width is None else width
        check_counts("unet", in_channels=in_channels, classes=classes, width=width)
        check_counts("unet", most=8, depth=depth)
        check_norm("unet", norm)
        check_counts("unet", most=8, shuffle=shuffle)
        if padding not in ("same", "valid"):
            raise UsageError(f"padding={padding!r} is unknown (unet). Expected 'same' or 'valid'.")
        if not plain and (depth != 4 or padding != "same"):
            wrong = f"depth={depth}" if depth != 4 else f"padding={padding!r}"
            raise UsageError(f"{wrong} does not go with encoder={encoder!r} (unet). Leave it out, or take 'plain'.")
        if encoder_depth is not None:
            check_counts("unet", most=5, encoder_depth=encoder_depth)
        if encoder_depth is not None and encoder not in CUTTABLE:
            raise UsageError(
                f"encoder_depth={encoder_depth} does not go with encoder={encoder!r} (unet). Expected "
                f"{' or '.join(sorted(CUTTABLE))}, or leave it out."
            )
        if shuffle != 1 and padding != "same":
            raise UsageError(
                f"shuffle={shuffle} does not go with padding={padding!r} (unet). Leave it out, or take 'same'."
            )
        self.in_channels, self.shuffle = in_channels, shuffle
        self.valid = padding == "valid"
        self.encoder: PlainEncoder | Encoder = (
            PlainEncoder(in_channels * shuffle**2, width, depth, norm, padding)
            if plain
            else build_encoder(
                encoder,
                in_channels * shuffle**2,
                width=width,
                **({} if encoder_depth is None else {"depth": encoder_depth}),
            )
        )
        if isinstance(self.encoder, Encoder):
            self.encoder.shuffle = shuffle
        self.stride: int = shuffle * self.encoder.strides[-1]
        self.bounded = plain or bool(self.encoder.bounded)
        self.margin: int = 6 * 2**depth - 4 if self.valid else 0
        self.decoder = Decoder(
            self.encoder.channels, self.encoder.strides, width if plain else width / 4, norm, padding
        )
        self.head = nn.Conv2d(self.decoder.channels[-1], classes * shuffle**2, kernel_size=1)
        for part in (self.encoder, self.decoder, self.head):
            if plain or part is not self.encoder:
                part.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        A size that does not fit is padded below and to the right by repeating the last row and column, and the logits
        are cropped again; one that does takes the direct path. The sizes that fit are the multiples of `stride`, or
        4 less than those with padding="valid".

        Args:
            image: (N, C, H, W) float, normalised; H and W more than 2 * margin. `channels_last` stays `channels_last`.

        Returns:
            Logits (N, K, H - 2 * margin, W - 2 * margin) of the image's dtype.

        Raises:
            ShapeError: If the image is not (N, in_channels, H, W), or too small.
        """
        check_image(image, self.in_channels)
        height, width = (size - 2 * self.margin for size in image.shape[-2:])
        if self.valid and min(height, width) < 1:
            least = 2 * self.margin + 1
            raise ShapeError(
                f"image of shape {tuple(image.shape)} is too small for unpadded convolutions. Expected at least "
                f"{least}x{least} pixels."
            )
        # Unpadded, the first two convolutions take 4 pixels; what is left must be halved at each level.
        lacking = [-(size + 4 * self.valid) % self.stride for size in image.shape[-2:]]
        if any(lacking):
            image = F.pad(image, (0, lacking[1], 0, lacking[0]), mode="replicate")
        if self.shuffle == 1:
            logits: Tensor = self.head(self.decoder(self.encoder(image)))
        else:
            last = image.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if last else torch.contiguous_format
            blocks = F.pixel_unshuffle(image, self.shuffle).contiguous(memory_format=layout)
            logits = F.pixel_shuffle(self.head(self.decoder(self.encoder(blocks))), self.shuffle)
            logits = logits.contiguous(memory_format=layout)
        return logits[..., :height, :width] if any(lacking) else logits


class PlainEncoder(nn.Module):
    """The contracting path: double convolutions with a 2x2 max pooling before each but the first."""

    def __init__(self, in_channels: int, width: int, depth: int, norm: Norm, padding: Padding = "same") -> None:
        super().__init__()
        self.channels = [width * 2**level for level in range(depth + 1)]
        self.strides = [2**level for level in range(depth + 1)]
        self.levels = nn.ModuleList(
            double_conv(a, b, norm, padding) for a, b in pairwise([in_channels, *self.channels])
        )
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of every level, the finest first: (N, width * 2**level, H / 2**level, W / 2**level).

        Unpadded, each level has 4 rows and columns less than that.
        """
        features = [self.levels[0](image)]
        for level in self.levels[1:]:
            features.append(level(self.pool(features[-1])))
        return features


class Decoder(nn.Module):
    """The expanding path: 2x2 transposed convolution, concatenation with the skip, double convolution.

    From the stride of the coarsest features to that of the image in steps of 2, with a skip wherever the encoder has
    features of that stride.
    """

    def __init__(
        self, encoded: list[int], strides: list[int], width: float, norm: Norm, padding: Padding = "same"
    ) -> None:
        """Build for an encoder's features.

        Args:
            encoded: Channels of the features, the finest first.
            strides: Their strides, powers of two.
            width: Channels of the finest level, doubled at each level below; at least 1 in effect.
            norm: As in UNet.
            padding: As in UNet.
        """
        super().__init__()
        skips = dict(zip(strides[:-1], encoded, strict=False))
        steps = [2**level for level in reversed(range(strides[-1].bit_length() - 1))]
        self.channels = [max(1, int(width * step)) for step in steps]
        self.skips = [step in skips for step in steps]
        self.crops = padding == "valid"
        before_and_after = list(pairwise([encoded[-1], *self.channels]))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, kernel_size=2, stride=2) for a, b in before_and_after)
        self.levels = nn.ModuleList(
            double_conv(channels + skips.get(step, 0), channels, norm, padding)
            for step, channels in zip(steps, self.channels, strict=True)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features of the finest level, (N, width, H, W), from the encoder's, the finest first."""
        *skips, x = features
        for up, level, has_skip in zip(self.ups, self.levels, self.skips, strict=True):
            x = up(x)
            if has_skip:
                skip = skips.pop()
                x = torch.cat([_centre(skip, x) if self.crops else skip, x], dim=1)
            x = level(x)
        return x


def double_conv(in_channels: int, out_channels: int, norm: Norm, padding: Padding = "same") -> nn.Sequential:
    """Twice: 3x3 convolution, normalisation if any, ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        # Batch normalisation has its own shift: a bias before it would be taken out again.
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=int(padding == "same"), bias=norm == "none"))
        if norm == "batch":
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def initialise(module: nn.Module) -> None:
    """Kaiming-normal weights and no bias, also for a 2x2 transposed convolution of stride 2. For `apply`.

    Source: He et al. 2015, arXiv:1502.01852, eq. 10.
    """
    if isinstance(module, nn.ConvTranspose2d):
        # An output pixel sees one input pixel, so that the fan-in is the input channels. No ReLU follows.
        nn.init.normal_(module.weight, std=module.in_channels**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    he_normal(module)


def check_norm(arch: str, norm: str) -> None:
    """Check that a normalisation is known.

    Raises:
        UsageError: If it is not.
    """
    if norm not in ("none", "batch"):
        raise UsageError(f"norm={norm!r} is unknown ({arch}). Expected 'none' or 'batch'.")


def _centre(skip: Tensor, x: Tensor) -> Tensor:
    """The middle of a skip, of the height and width of `x`."""
    height, width = x.shape[-2:]
    above, left = (skip.shape[-2] - height) // 2, (skip.shape[-1] - width) // 2
    return skip[..., above : above + height, left : left + width]
