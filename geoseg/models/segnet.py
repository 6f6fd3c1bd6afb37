"""SegNet.

Source: Badrinarayanan, Kendall and Cipolla 2017, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation", arXiv:1511.00561, figure 2; the authors' `segnet_train.prototxt` for the decoder's channels. Two things
differ: a size that is no multiple of 32 is padded rather than refused, and there is no local contrast normalisation
of the image, which is the reader's affair.
"""

from itertools import pairwise

from torch import Tensor, nn

from geoseg.models.encoders import VGG
from geoseg.models.initial import he_normal
from geoseg.models.inputs import check_counts, check_image, crop_like, pad_to_multiple


class SegNet(nn.Module):
    """SegNet (2017): VGG-16 with batch normalisation, and its mirror image that unpools where the maxima were.

    No skips: the decoder learns of the fine levels only which pixel of four was the largest. So where two of the four
    are equal but for rounding, the logits of a tile and of the whole image may part. At the paper's width of 64 it has
    29 million parameters.
    """

    bounded = True
    stride = 32

    def __init__(self, in_channels: int, classes: int, *, width: int = 64) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image, at least 1.
            classes: Channels of the logits, at least 1.
            width: Channels of the first stage, 1 to 1024; 64 is the paper's.

        Raises:
            UsageError: If an argument is out of its range.
        """
        super().__init__()
        check_counts("segnet", in_channels=in_channels, classes=classes, width=width)
        self.in_channels = in_channels
        self.encoder = VGG(in_channels, width=width, norm=True)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.decoder = nn.ModuleList(
            [
                _convolutions(8 * width, 8 * width, 8 * width, 8 * width),
                _convolutions(8 * width, 8 * width, 8 * width, 4 * width),
                _convolutions(4 * width, 4 * width, 4 * width, 2 * width),
                _convolutions(2 * width, 2 * width, width),
                _convolutions(width, width),
            ]
        )
        self.head = nn.Conv2d(width, classes, kernel_size=3, padding=1)
        self.decoder.apply(he_normal)
        self.head.apply(he_normal)

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
        x, maxima = pad_to_multiple(image, self.stride), []
        for stage in range(5):
            x, where = self.pool(self.encoder.stage(stage, x))
            maxima.append(where)
        for layers in self.decoder:
            x = layers(self.unpool(x, maxima.pop()))
        return crop_like(self.head(x), image)


def _convolutions(*channels: int) -> nn.Sequential:
    """3x3 convolution, batch normalisation and ReLU from each of the numbers of channels to the next."""
    layers = nn.Sequential()
    for before, after in pairwise(channels):
        layers.extend(
            [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        )
    return layers
