"""What an encoder is."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn


class Encoder(nn.Module):
    """An image (N, in_channels, H, W), H and W multiples of the last stride, to its features at every level."""

    name: str
    """Key of `ENCODERS`."""
    in_channels: int
    shuffle: int = 1
    """Side of the squares of pixels that are channels of its input, band by band."""
    channels: list[int]
    """Of each feature map, the finest first."""
    strides: list[int]
    """The factor each feature map is downsampled by."""
    bounded: bool = True
    """Whether a feature depends on a bounded neighbourhood only."""
    first_conv: ClassVar[str]
    """Name of the convolution that reads the image."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features (N, channels[i], H / strides[i], W / strides[i]), the finest first."""
        raise NotImplementedError

    def published(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a published classification net by this encoder's names, without the classifier's."""
        return {name: tensor for name, tensor in given.items() if not name.startswith(("fc.", "classifier."))}
