"""Sheets of pictures: augmented samples over their targets, validation windows and what was predicted there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.metrics import IGNORE
from geoseg.training.figures import picture
from geoseg.training.figures.canvas import Sheet, sheet, shorten
from geoseg.training.figures.keys import Bars, Entry, Key, Legend, Scale
from geoseg.training.figures.picture import CONFUSED, INVENTED, MISSED

_CELL = 256
"""Side of a picture in pixels; smaller ones are repeated, larger ones made smaller."""
_GAP, _MARGIN, _LINE, _PAD = 8, 16, 30, 18
"""Pixels between pictures, round the sheet, of a line of text, between blocks of pictures."""
_COLUMNS = 4
_SAMPLES, _ROWS = 16, 12
"""How many are drawn at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A validation window, as a row of `samples`."""

    title: str
    """Which it is, such as "worst: kampala_a, IoU 0.31"."""
    image: np.ndarray
    """(C, H, W), the scene's own values."""
    valid: np.ndarray
    """(H, W) bool, True = usable."""
    target: np.ndarray
    """(H, W) class indices, 255 where unknown; float values, NaN where unknown, for a regression."""
    predicted: np.ndarray
    """(H, W), of the same kind."""
    known: tuple[int, ...] | None = None
    """The classes that the labels tell apart; any other means any of the others. None: all."""


def contact_sheet(
    path: Path,
    image: Any,
    target: Any,
    classes: Mapping[str, str],
    *,
    valid: Any = None,
    bands: Sequence[str] = (),
    unit: str = "",
) -> None:
    """Draw augmented samples, each over its target, with the target's outlines on the image.

    Args:
        path: PNG to write; replaced if it is there.
        image: (N, C, S, S), in any units; the first 16 samples are drawn, all in one stretch, so that changes of light
            show.
        target: (N, S, S) class indices, 255 where unknown; floats, NaN where unknown, with no `classes`.
        classes: Colours by name; none for a regression.
        valid: (N, S, S) bool; None: all.
        bands: Names of the C bands: red, green and blue are shown as such, without them the first three.
        unit: Of the values of a regression.

    Raises:
        OutputError: If the file cannot be written.
    """
    pixels, labels = np.asarray(image)[:_SAMPLES], np.asarray(target)[:_SAMPLES]
    usable = np.ones(labels.shape, bool) if valid is None else np.asarray(valid)[:_SAMPLES].astype(bool)
    chosen = picture.color_bands(pixels.shape[1], bands)
    pixels = pixels[:, chosen]
    limits = picture.stretch_limits(pixels, usable, [bands[index] for index in chosen] if bands else ())
    columns = min(_COLUMNS, len(pixels))
    width = _LINE + columns * (_CELL + _GAP) - _GAP
    scale = Scale.of(labels, "viridis")
    key: Key = Bars([("target", unit, scale)], width)
    if classes:
        key = Legend(_class_entries(classes, bool((~usable).any() or (labels == IGNORE).any())), width)
    block = 2 * _CELL + _GAP + _PAD
    rows = -(-len(pixels) // columns)
    with sheet(path, width + 2 * _MARGIN, rows * block + key.height + 2 * _MARGIN) as page:
        for index, sample in enumerate(pixels):
            row, column = divmod(index, columns)
            left, top = _MARGIN + _LINE + column * (_CELL + _GAP), _MARGIN + row * block
            shown = picture.stretched(sample, usable[index], limits)
            below = picture.colored(labels[index], classes) if classes else scale.painted(labels[index])
            if classes:
                shown = _outlined(shown, labels[index], classes)
            for name, panel, at in (("image", shown, top), ("target", below, top + _CELL + _GAP)):
                page.picture(left, at, _CELL, panel)
                if column == 0:
                    place = _MARGIN + _LINE // 2, at + _CELL // 2
                    page.text(*place, name, rotation=90, ha="center", va="center", weight="bold")
        key.draw(page, _MARGIN + _LINE, _MARGIN + rows * block)


def samples(
    path: Path,
    rows: Sequence[Shown],
    classes: Mapping[str, str],
    *,
    bands: Sequence[str] = (),
    unit: str = "",
) -> None:
    """Draw validation windows, a row each: image, target, prediction, error.

    Args:
        path: PNG to write; replaced if it is there.
        rows: At least one; the first 12 are drawn.
        classes: Colours by name; none for a regression.
        bands: Names of the bands: red, green and blue are shown as such, without them the first three.
        unit: Of the values of a regression.

    Raises:
        OutputError: If the file cannot be written.
    """
    rows = list(rows)[:_ROWS]
    width = 4 * (_CELL + _GAP) - _GAP
    images = [_stretched(row, bands) for row in rows]
    if classes:
        panels = [_class_panels(row, image, classes) for row, image in zip(rows, images, strict=True)]
        unknown = any(bool((_told(row) == IGNORE).any() or (~row.valid).any()) for row in rows)
        key: Key = Legend([*_class_entries(classes, unknown), *_error_entries(len(classes))], width)
    else:
        values = Scale.of([plane for row in rows for plane in (row.target, row.predicted)], "viridis")
        differences = [row.predicted - row.target for row in rows]
        errors = Scale.of(differences, "RdBu_r", symmetric=True)
        panels = [
            [image, *(values.painted(plane) for plane in (row.target, row.predicted)), errors.painted(difference)]
            for row, image, difference in zip(rows, images, differences, strict=True)
        ]
        key = Bars([("target, prediction", unit, values), ("prediction - target", unit, errors)], width)
    heights = [round(min(1.0, image.shape[0] / image.shape[1]) * _CELL) for image in images]
    tops = np.cumsum([_MARGIN + _LINE, *(_LINE + height + _PAD for height in heights)]).tolist()
    with sheet(path, width + 2 * _MARGIN, tops[-1] + key.height + _MARGIN) as page:
        _head(page)
        for row, pictures, top, height in zip(rows, panels, tops, heights, strict=False):
            page.text(_MARGIN, top + _LINE // 2, shorten(row.title, width, 9), va="center")
            for column, pixels in enumerate(pictures):
                left, middle = _MARGIN + column * (_CELL + _GAP), top + _LINE + height // 2
                page.picture(left, middle - _CELL // 2, _CELL, pixels)
        key.draw(page, _MARGIN, tops[-1])


def _outlined(shown: np.ndarray, labels: np.ndarray, classes: Mapping[str, str]) -> np.ndarray:
    """The picture with the outlines of its target, in lines as thin on small samples as on large ones."""
    side = max(labels.shape)
    times = max(1, _CELL // side)
    large, target = (plane.repeat(times, 0).repeat(times, 1) for plane in (shown, labels))
    return picture.outlined(large, target, classes, max(1, round(side / _CELL)))


def _head(page: Sheet) -> None:
    for column, name in enumerate(("image", "target", "prediction", "error")):
        middle = _MARGIN + column * (_CELL + _GAP) + _CELL // 2
        page.text(middle, _MARGIN + _LINE // 2, name, ha="center", va="center", weight="bold", fontsize=10)


def _stretched(row: Shown, bands: Sequence[str]) -> np.ndarray:
    chosen = picture.color_bands(len(row.image), bands)
    image = row.image[chosen]
    limits = picture.stretch_limits(image, row.valid, [bands[index] for index in chosen] if bands else ())
    return picture.stretched(image, row.valid, limits)


def _class_panels(row: Shown, image: np.ndarray, classes: Mapping[str, str]) -> list[np.ndarray]:
    predicted = np.where(row.valid, row.predicted, IGNORE).astype(np.uint8)
    wrong = picture.mistakes(image, row.target, predicted, row.known, len(classes))
    return [image, picture.colored(_told(row), classes), picture.colored(predicted, classes), wrong]


def _told(row: Shown) -> np.ndarray:
    """(H, W) the classes that the labels tell; of a class that they do not, no more is known than which it is not."""
    return row.target if row.known is None else np.where(np.isin(row.target, row.known), row.target, IGNORE)


def _class_entries(classes: Mapping[str, str], unknown: bool) -> list[Entry]:
    return [Entry(name, color) for name, color in classes.items()] + ([Entry("unknown", None)] if unknown else [])


def _error_entries(count: int) -> list[Entry]:
    entries = [Entry("error: missed", MISSED), Entry("error: not there", INVENTED)]
    return entries + ([Entry("error: wrong class", CONFUSED)] if count > 2 else [])
