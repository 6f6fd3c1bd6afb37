"""What every network asks of its arguments and of its image."""

from torch import Tensor
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError


def check_counts(arch: str, *, most: int = 4096, **values: int) -> None:
    """Check that every value is a whole number from 1 to `most`; a `width` only to 1024.

    Raises:
        UsageError: If one is not.
    """
    for name, value in values.items():
        largest = 1024 if name == "width" else most
        if type(value) is not int or not 1 <= value <= largest:
            raise UsageError(f"{name}={value!r} is out of range ({arch}). Expected a whole number from 1 to {largest}.")


def check_flags(arch: str, **values: bool) -> None:
    """Check that every value is True or False.

    Raises:
        UsageError: If one is not.
    """
    for name, value in values.items():
        if type(value) is not bool:
            raise UsageError(f"{name}={value!r} is no truth value ({arch}). Expected true or false.")


def check_image(image: Tensor, in_channels: int) -> None:
    """Check that an image is (N, in_channels, H, W).

    Raises:
        ShapeError: If it is not.
    """
    if image.ndim != 4 or image.shape[1] != in_channels:
        raise ShapeError(
            f"image of shape {tuple(image.shape)} does not fit the model. Expected (N, {in_channels}, H, W)."
        )


def pad_to_multiple(image: Tensor, stride: int) -> Tensor:
    """The image with its last row and column repeated until height and width are multiples of `stride`.

    Args:
        image: (N, C, H, W), H and W at least 1. A multiple comes back as it is.
        stride: At least 1.
    """
    below, right = -image.shape[-2] % stride, -image.shape[-1] % stride
    return F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image


def crop_like(logits: Tensor, image: Tensor) -> Tensor:
    """The upper left part of the logits, of the image's height and width."""
    return logits[..., : image.shape[-2], : image.shape[-1]]
