"""FCN on a dilated ResNet, torchvision's fcn_resnet50 and fcn_resnet101.

Source: Long, Shelhamer and Darrell 2015, arXiv:1411.4038, for scores by convolution and bilinear upsampling; Chen et
al. 2017, arXiv:1706.05587, figure 3, for dilation in place of the last two strides; Zhao et al. 2016, arXiv:1612.01105,
figure 4, for the auxiliary head. Layers, names and first weights are torchvision's, so that its files fit. What
differs: the scores are upsampled by exactly 8, after padding the image to a multiple of 8, not to the image's size.
"""

from torch import Tensor, nn

from geoseg.errors import UsageError
from geoseg.models.encoders import build_encoder
from geoseg.models.inputs import check_counts, check_flags, check_image, crop_like, pad_to_multiple


class FCNResNet(nn.Module):
    """A ResNet of stride 8 and a head of two convolutions; in training a second head beside it on the third stage.

    At width 64, with 21 classes and the auxiliary head: 35 (ResNet-50) and 54 million parameters (ResNet-101).
    """

    bounded = True
    stride = 8

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        encoder: str = "resnet50",
        width: int = 64,
        auxiliary: bool = True,
    ) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image, at least 1.
            classes: Channels of the logits, at least 1.
            encoder: A ResNet by its name in ENCODERS.
            width: Channels of the ResNet's stem, 1 to 1024; 64 is the published one.
            auxiliary: Whether there is an auxiliary head. It is of use in training only.

        Raises:
            UsageError: If an argument is out of its range.
        """
        super().__init__()
        check_counts("fcn_resnet", in_channels=in_channels, classes=classes, width=width)
        check_flags("fcn_resnet", auxiliary=auxiliary)
        if not str(encoder).startswith("resnet"):
            raise UsageError(f"encoder={encoder!r} is no ResNet (fcn_resnet). Expected resnet50 or its like.")
        self.in_channels = in_channels
        self.backbone = build_encoder(encoder, in_channels, width=width, dilated=2)
        *_, third, fourth = self.backbone.channels
        self.classifier = FCNHead(fourth, classes)
        self.aux_classifier = FCNHead(third, classes) if auxiliary else None
        self.upsample = nn.Upsample(scale_factor=8, mode="bilinear", align_corners=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, in training mode too; the auxiliary head is left out.

        A size that is no multiple of 8 is padded below and to the right by repeating the last row and column, and the
        logits are cropped again.

        Args:
            image: (N, C, H, W) float, normalised; H and W at least 1. `channels_last` stays `channels_last`.

        Returns:
            Logits (N, K, H, W) of the image's dtype.

        Raises:
            ShapeError: If the image is not (N, in_channels, H, W).
        """
        return self._logits(self.classifier, self._features(image)[-1], image)

    def forward_with_auxiliary(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the auxiliary head's of the third stage, both (N, K, H, W). For training.

        Torchvision adds the auxiliary loss with weight 0.5, the paper with 0.4.

        Raises:
            ShapeError: If the image is not (N, in_channels, H, W).
            UsageError: If the network was built without the auxiliary head.
        """
        if self.aux_classifier is None:
            raise UsageError("this network has no auxiliary head (fcn_resnet). Build it with auxiliary=true.")
        third, fourth = self._features(image)[-2:]
        return self._logits(self.classifier, fourth, image), self._logits(self.aux_classifier, third, image)

    def _features(self, image: Tensor) -> list[Tensor]:
        check_image(image, self.in_channels)
        features: list[Tensor] = self.backbone(pad_to_multiple(image, self.stride))
        return features

    def _logits(self, head: nn.Module, features: Tensor, image: Tensor) -> Tensor:
        return crop_like(self.upsample(head(features)), image)


class FCNHead(nn.Sequential):
    """3x3 convolution to a quarter of the channels, batch normalisation, ReLU, dropout, scores."""

    def __init__(self, in_channels: int, classes: int) -> None:
        inter = max(1, in_channels // 4)
        super().__init__(
            nn.Conv2d(in_channels, inter, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(inter),
            nn.ReLU(inplace=True),
            nn.Dropout(0.1),
            nn.Conv2d(inter, classes, kernel_size=1),
        )


def fcn_resnet50(in_channels: int, classes: int, *, width: int = 64, auxiliary: bool = True) -> FCNResNet:
    """FCN on ResNet-50; see FCNResNet."""
    return FCNResNet(in_channels, classes, encoder="resnet50", width=width, auxiliary=auxiliary)


def fcn_resnet101(in_channels: int, classes: int, *, width: int = 64, auxiliary: bool = True) -> FCNResNet:
    """FCN on ResNet-101; see FCNResNet."""
    return FCNResNet(in_channels, classes, encoder="resnet101", width=width, auxiliary=auxiliary)
