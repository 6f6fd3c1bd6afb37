"""FCN-32s, FCN-16s and FCN-8s on VGG-16.

Source: Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation", arXiv:1411.4038,
figure 3 and section 4; the authors' `voc-fcn8s/net.py` for the layers' names and sizes. What differs:

- The authors pad the image by 100 and crop the scores to fit. Here fc6 pads with 3 zeros, so that every score map lies
  on the grid of its stride, and tiles agree with the whole image.
- The last upsampling, which the paper fixes to bilinear weights, is `nn.Upsample`: the same numbers, but for the
  outermost half stride of a scene, where it repeats the border and a transposed convolution fades to zero. Those by 2
  are transposed convolutions with bilinear first weights that are learned, as the paper says (the authors' code fixes
  them too). Each class has its own kernel.
- The 2016 journal version's scaling of pool3 and pool4 is left out, as in the conference paper.
"""

import torch
from torch import Tensor, nn

from geoseg.models.encoders import VGG
from geoseg.models.initial import bilinear_kernel, he_normal
from geoseg.models.inputs import check_counts, check_flags, check_image, crop_like, pad_to_multiple


class FCN32s(nn.Module):
    """FCN-32s (2015): VGG-16 with its fully connected layers as convolutions, scores upsampled 32 times.

    At the paper's width of 64 the three nets have 134 million parameters, most of them in fc6.
    """

    bounded = True
    stride = 32

    def __init__(self, in_channels: int, classes: int, *, width: int = 64, norm: bool = False) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image, at least 1.
            classes: Channels of the logits, at least 1.
            width: Channels of VGG's first stage, 1 to 1024; fc6 and fc7 have 64 times as many. 64 is the paper's.
            norm: Batch normalisation in VGG; without it is the paper's.

        Raises:
            UsageError: If an argument is out of its range.
        """
        super().__init__()
        arch = type(self).__name__.lower()
        check_counts(arch, in_channels=in_channels, classes=classes, width=width)
        check_flags(arch, norm=norm)
        self.in_channels = in_channels
        self.encoder = VGG(in_channels, width=width, norm=norm, pooled=True)
        self.fc6 = nn.Conv2d(8 * width, 64 * width, kernel_size=7, padding=3)
        self.fc7 = nn.Conv2d(64 * width, 64 * width, kernel_size=1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.score_fr = nn.Conv2d(64 * width, classes, kernel_size=1)
        for layer in (self.fc6, self.fc7, self.score_fr):
            he_normal(layer)
        nn.init.kaiming_normal_(self.fc7.weight, nonlinearity="relu")
        self._add_upsampling(width, classes)

    def _add_upsampling(self, width: int, classes: int) -> None:
        self.upscore = _upsample(32)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        A size that is no multiple of 32 is padded below and to the right by repeating the last row and column, and the
        logits are cropped again.

        Args:
            image: (N, C, H, W) float, normalised; H and W at least 1. `channels_last` stays `channels_last`.

        Returns:
            Logits (N, K, H, W) of the image's dtype.

        Raises:
            ShapeError: If the image is not (N, in_channels, H, W).
        """
        check_image(image, self.in_channels)
        pool3, pool4, pool5 = self.encoder(pad_to_multiple(image, self.stride))[2:]
        x = self.dropout(self.relu(self.fc6(pool5)))
        x = self.dropout(self.relu(self.fc7(x)))
        return crop_like(self._upsampled(self.score_fr(x), pool4, pool3), image)

    def _upsampled(self, score: Tensor, pool4: Tensor, pool3: Tensor) -> Tensor:
        logits: Tensor = self.upscore(score)
        return logits


class FCN16s(FCN32s):
    """FCN-16s (2015): the scores, upsampled twice, meet those of pool4."""

    def _add_upsampling(self, width: int, classes: int) -> None:
        self.upscore2 = _twice(classes)
        self.score_pool4 = _score(8 * width, classes)
        self.upscore16 = _upsample(16)

    def _upsampled(self, score: Tensor, pool4: Tensor, pool3: Tensor) -> Tensor:
        fused = self.upscore2(score) + self.score_pool4(pool4)
        logits: Tensor = self.upscore16(fused)
        return logits


class FCN8s(FCN32s):
    """FCN-8s (2015): the scores meet those of pool4, and again upsampled twice, those of pool3."""

    def _add_upsampling(self, width: int, classes: int) -> None:
        self.upscore2 = _twice(classes)
        self.score_pool4 = _score(8 * width, classes)
        self.upscore_pool4 = _twice(classes)
        self.score_pool3 = _score(4 * width, classes)
        self.upscore8 = _upsample(8)

    def _upsampled(self, score: Tensor, pool4: Tensor, pool3: Tensor) -> Tensor:
        fused = self.upscore2(score) + self.score_pool4(pool4)
        fused = self.upscore_pool4(fused) + self.score_pool3(pool3)
        logits: Tensor = self.upscore8(fused)
        return logits


def _twice(classes: int) -> nn.ConvTranspose2d:
    """Upsampling by 2, each class by its own kernel, bilinear at first and learned."""
    layer = nn.ConvTranspose2d(classes, classes, kernel_size=4, stride=2, padding=1, groups=classes, bias=False)
    with torch.no_grad():
        layer.weight.copy_(bilinear_kernel(2))
    return layer


def _score(in_channels: int, classes: int) -> nn.Conv2d:
    """Scores of a pooling, zero at first: the net begins with the predictions of the coarser one (section 4.2)."""
    layer = nn.Conv2d(in_channels, classes, kernel_size=1)
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _upsample(factor: int) -> nn.Upsample:
    return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
