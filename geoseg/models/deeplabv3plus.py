"""DeepLabV3+.

Source: Chen, Zhu, Papandreou, Schroff and Adam 2018, "Encoder-Decoder with Atrous Separable Convolution for Semantic
Image Segmentation", arXiv:1802.02611, figure 2; the pyramid: Chen et al. 2017, arXiv:1706.05587, figure 5. What
differs: the encoder is a plain ResNet rather than the modified Xception, all convolutions are ordinary ones rather than
separable, and the last stage has dilation 2 throughout (no multi-grid). Stride 16 and rates 6, 12, 18 as in the paper.
"""

import torch
from torch import Tensor, nn

from geoseg.errors import ShapeError, UsageError
from geoseg.models.encoders import build_encoder
from geoseg.models.initial import he_normal
from geoseg.models.inputs import check_counts, check_flags, check_image, crop_like, pad_to_multiple


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ (2018): an encoder of stride 16, convolutions of four dilations side by side, a small decoder.

    The paper's pyramid also has the mean over the whole image. With it a logit depends on every pixel, tiles differ
    from the whole, and `bounded` is False; `image_pooling=False` leaves it out. At width 64 with ResNet-50 it has
    40 million parameters.
    """

    stride = 16

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        encoder: str = "resnet50",
        width: int = 64,
        image_pooling: bool = True,
    ) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image, at least 1.
            classes: Channels of the logits, at least 1.
            encoder: A ResNet by its name in ENCODERS, or `timm:<name>` of a network with features of strides 4 and 16.
            width: Channels of the encoder's first layer, 1 to 1024; the pyramid and the decoder have 4 times as many,
                and 3/4 of it remain of the fine features: 64, 256 and 48 are the paper's.
            image_pooling: Whether the pyramid has the mean over the image.

        Raises:
            UsageError: If an argument is out of its range.
        """
        super().__init__()
        check_counts("deeplabv3plus", in_channels=in_channels, classes=classes, width=width)
        check_flags("deeplabv3plus", image_pooling=image_pooling)
        if not str(encoder).startswith(("resnet", "timm:")):
            raise UsageError(
                f"encoder={encoder!r} cannot be dilated (deeplabv3plus). Expected a ResNet or timm:<name>."
            )
        self.in_channels = in_channels
        self.encoder = build_encoder(encoder, in_channels, width=width, dilated=1)
        if 4 not in self.encoder.strides or self.encoder.strides[-1] != 16:
            raise UsageError(
                f"encoder={encoder!r} has strides {self.encoder.strides} (deeplabv3plus). Expected 4 and, last, 16."
            )
        self.bounded = self.encoder.bounded and not image_pooling
        self._fine = self.encoder.strides.index(4)
        size, few = 4 * width, max(1, 3 * width // 4)
        self.pyramid = Pyramid(self.encoder.channels[-1], size, image_pooling)
        self.reduce = _convolution(self.encoder.channels[self._fine], few, kernel_size=1)
        self.upsample = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
        self.refine = nn.Sequential(
            *_convolution(size + few, size, kernel_size=3), *_convolution(size, size, kernel_size=3)
        )
        self.head = nn.Conv2d(size, classes, kernel_size=1)
        for module in (self.pyramid, self.reduce, self.refine, self.head):
            module.apply(he_normal)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        A size that is no multiple of 16 is padded below and to the right by repeating the last row and column, and the
        logits are cropped again.

        Args:
            image: (N, C, H, W) float, normalised; H and W at least 1. `channels_last` stays `channels_last`. In
                training mode with image pooling, N must be at least 2: a batch of one has no statistics of means.

        Returns:
            Logits (N, K, H, W) of the image's dtype.

        Raises:
            ShapeError: If the image is not (N, in_channels, H, W), or alone in training with image pooling.
        """
        check_image(image, self.in_channels)
        features = self.encoder(pad_to_multiple(image, self.stride))
        coarse, fine = self.pyramid(features[-1]), self.reduce(features[self._fine])
        del features  # the finest are large
        x = self.refine(torch.cat([self.upsample(coarse), fine], dim=1))
        return crop_like(self.upsample(self.head(x)), image)


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3 convolutions, the mean of the image; a 1x1 over all."""

    def __init__(self, in_channels: int, out_channels: int, image_pooling: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [_convolution(in_channels, out_channels, kernel_size=1)]
            + [_convolution(in_channels, out_channels, kernel_size=3, dilation=rate) for rate in (6, 12, 18)]
        )
        if image_pooling:
            self.branches.append(ImagePooling(in_channels, out_channels))
        self.project = nn.Sequential(
            *_convolution(len(self.branches) * out_channels, out_channels, kernel_size=1), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, out_channels, h, w)."""
        y: Tensor = self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
        return y


class ImagePooling(nn.Module):
    """The mean over the image through a 1x1 convolution, everywhere."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.project = _convolution(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, out_channels, h, w)."""
        if self.training and len(x) == 1:
            raise ShapeError("a batch of one image cannot train image pooling (deeplabv3plus). Expected at least 2.")
        y: Tensor = self.project(self.mean(x))
        return y.expand(-1, -1, *x.shape[-2:])


def _convolution(in_channels: int, out_channels: int, *, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
