"""Pixels for the eye: any bands as colours, classes in theirs, outlines, what is wrong."""

from collections.abc import Mapping, Sequence

import numpy as np

from geoseg.metrics import IGNORE

UNKNOWN_LIGHT, UNKNOWN_STRIPE = "#ffffff", "#a8a8a8"
"""Where nothing is known, and where there is no data, there are grey stripes on white."""

MISSED, INVENTED, CONFUSED = "#0072b2", "#d55e00", "#cc79a7"
"""A class taken for the background; the background for a class; one class for another."""

_COLORS = ("red", "green", "blue")


def color_bands(bands: int, names: Sequence[str] = ()) -> list[int]:
    """Which bands to show as red, green and blue: those of these names, else the first three, else the first."""
    if bands < 3:
        return [0]
    places = {name.lower(): index for index, name in reversed(list(enumerate(names)))}
    colors = [places.get(name) for name in _COLORS]
    return [index for index in colors if index is not None] if None not in colors else [0, 1, 2]


def stretch_limits(image: np.ndarray, valid: np.ndarray, bands: Sequence[str] = ()) -> np.ndarray:
    """The values to show as black and white: the 1st and the 99th percentile of each band.

    Red, green and blue share theirs, so that colours stay what they are.

    Args:
        image: (..., C, H, W).
        valid: (..., H, W) bool.
        bands: Their names.

    Returns:
        (C, 2) float64; 0 and 1 for a band without a valid, finite value, a little apart for a constant one.
    """
    limits = np.empty((image.shape[-3], 2))
    for band in range(image.shape[-3]):
        values = image[..., band, :, :][valid]
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, (1, 99)) if values.size else (0.0, 1.0)
        limits[band] = (low, high) if high > low else (low - 1, low + 1)
    if tuple(name.lower() for name in bands) == _COLORS:
        limits[:] = limits[:, 0].min(), limits[:, 1].max()
    return limits


def stretched(image: np.ndarray, valid: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 in 0..1 of (1 or 3, H, W) values; stripes where they are not valid."""
    low, high = limits[:, :1, None], limits[:, 1:, None]
    shown = np.clip((np.nan_to_num(image.astype(np.float64)) - low) / (high - low), 0, 1)
    shown = np.broadcast_to(shown, (3, *image.shape[1:])).transpose(1, 2, 0).astype(np.float32)
    return np.where(valid[..., None], shown, stripes(valid.shape))


def colored(labels: np.ndarray, classes: Mapping[str, str]) -> np.ndarray:
    """(H, W, 3) float32 in 0..1: each class in its colour, stripes where unknown."""
    table = np.ones((256, 3), np.float32)
    table[: len(classes)] = [rgb(color) for color in classes.values()]
    return np.where((labels == IGNORE)[..., None], stripes(labels.shape), table[labels])


def outlined(picture: np.ndarray, labels: np.ndarray, classes: Mapping[str, str], width: int = 1) -> np.ndarray:
    """The picture with a line in its colour along the inside of each area of a class after the first.

    Not where it meets the unknown: an area does not end there.
    """
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for step in range(1, width + 1):
            near, far = _slices(axis, step), _slices(axis, step, end=True)
            border = (labels[near] != labels[far]) & (labels[near] != IGNORE) & (labels[far] != IGNORE)
            edge[near] |= border
            edge[far] |= border
    edge &= labels != 0
    return np.where(edge[..., None], colored(labels, classes), picture)


def _slices(axis: int, step: int, end: bool = False) -> tuple[slice, ...]:
    part = slice(step, None) if end else slice(None, -step)
    return (part, slice(None)) if axis == 0 else (slice(None), part)


def mistakes(
    picture: np.ndarray,
    target: np.ndarray,
    predicted: np.ndarray,
    known: Sequence[int] | None,
    count: int,
) -> np.ndarray:
    """(H, W, 3): wrong pixels in the colour of their mistake over a pale, grey picture; stripes where unknown.

    Args:
        picture: (H, W, 3) float in 0..1.
        target: (H, W) class indices, 255 where unknown.
        predicted: (H, W) class indices, 255 where there is no data.
        known: The classes that the target tells apart; any other means any of the others. None: all.
        count: Of the classes; the first is the background.
    """
    others = [index for index in range(count) if known is not None and index not in known]
    merged = np.arange(256)
    merged[others] = others[0] if others else 0
    truth, guess = merged[target], merged[predicted]
    wrong = truth != guess
    background = merged[0]
    shown = np.repeat(0.55 + 0.4 * picture.mean(axis=2, keepdims=True), 3, axis=2)
    for chosen, color in (
        (wrong, CONFUSED),
        (wrong & (guess == background), MISSED),
        (wrong & (truth == background), INVENTED),
    ):
        shown[chosen] = rgb(color)
    unknown = (target == IGNORE) | (predicted == IGNORE)
    return np.where(unknown[..., None], stripes(target.shape), shown)


def rgb(color: str) -> tuple[float, float, float]:
    """Shares of red, green and blue of #rrggbb."""
    red, green, blue = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def stripes(shape: tuple[int, ...]) -> np.ndarray:
    """(H, W, 3) diagonal stripes, coarse enough to be seen when the picture is made smaller."""
    period = max(6, max(shape) // 24)
    rows, cols = np.indices(shape, sparse=True)
    dark = (rows + cols) % period < max(1, period // 5)
    return np.where(dark[..., None], rgb(UNKNOWN_STRIPE), rgb(UNKNOWN_LIGHT)).astype(np.float32)
