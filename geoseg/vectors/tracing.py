"""Tracing: planes read strip by strip and swept over, and what is found put in order."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from geoseg.errors import UsageError
from geoseg.pixels import NODATA
from geoseg.vectors.planes import Planes
from geoseg.vectors.runs import FIRST_COL, FIRST_ROW, LAST_ROW, PIXELS, START, STOP, VALUE
from geoseg.vectors.sweep import Part, Sweep
from geoseg.windows import Window

MAX_PATCHES = 5_000_000
"""More patches than this are noise, and would fill the memory."""
_STRIP = 8 << 20  # bytes of labels and probabilities read in one go, unless the planes come in higher strips


def swept(
    planes: Planes,
    values: Collection[int],
    keep: Callable[[np.ndarray, np.ndarray], Any],
    *,
    subpixel: bool,
    junctions: bool,
    min_pixels: int,
    strip_rows: int | None,
    max_patches: int,
) -> tuple[list[Part], np.ndarray, np.ndarray]:
    """Sweep over all planes, as `trace` says; rings, runs and chances as `Sweep.finish` gives them."""
    chosen = np.zeros(256, np.bool_)
    if any(not 0 <= value <= 255 for value in values) or len(set(values)) == 256:
        raise UsageError(f"class values {sorted(values)} do not fit a class raster. Expected at most 255 of 0..255.")
    chosen[list(values)] = True
    read = planes.classes if subpixel else values
    pixel = Window(row=0, col=0, height=1, width=1)
    known = [value for value in read if planes.probability(pixel, value) is not None]
    plane = np.full(256, -1, np.int64)
    plane[known] = np.arange(len(known))
    outside = NODATA if not chosen[NODATA] else int(np.flatnonzero(~chosen)[-1])
    plane[outside] = -1  # what is there has no probability
    sweep = Sweep(
        planes.grid.width,
        chosen,
        plane,
        subpixel=subpixel,
        junctions=junctions,
        known=bool(known),
        min_pixels=min_pixels,
        max_patches=max_patches,
        keep=keep,
    )
    for labels, probabilities, row in _strips(planes, outside, known, strip_rows):
        sweep.take(labels, probabilities, row)
    return sweep.finish(planes.grid.height)


def _strips(
    planes: Planes, outside: int, known: list[int], rows: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Labels with the row above and a margin, probabilities likewise, and the strip's row; a row below the last."""
    height, width = planes.grid.shape
    fit = _STRIP // (width * (1 + len(known))) // planes.step * planes.step
    rows = min(rows or max(fit, planes.step), height)
    labels = np.full((1 + rows, (width + 8) // 8 * 8), outside, np.uint8)
    probabilities = np.zeros((len(known), 1 + rows, width) if known else (1, 1, 0), np.uint8)
    for row in range(0, height, rows):
        window = Window(row=row, col=0, height=min(rows, height - row), width=width)
        there = slice(1, 1 + window.height)
        labels[there, :width] = planes.labels(window)
        for index, value in enumerate(known):
            found = planes.probability(window, value)
            if found is not None:
                probabilities[index, there] = found
        yield labels[: 1 + window.height], probabilities, row
        labels[0] = labels[window.height]
        if known:
            probabilities[:, 0] = probabilities[:, window.height]
    labels[1] = outside
    yield labels[:2], probabilities, height


def in_order(parts: list[Part], patches: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rings of a sweep, which of them are wanted in which order (outlines before holes), and offsets by patch."""
    rings = np.concatenate([np.empty((0, 3), np.int32), *(found for _, found, _ in parts)])
    x, y = np.concatenate([np.empty((0, 2), np.int32), *(corners for *_, corners in parts)]).T
    order = np.lexsort((x, y, rings[:, 2], rings[:, 1]))
    order = order[np.searchsorted(rings[order, 1], 0) :]  # holes of patches left out come first, with label -1
    return rings, order, np.searchsorted(rings[order, 1], np.arange(patches + 1))


def counted(runs: np.ndarray, chances: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of patches, by name."""
    box = np.column_stack([runs[:, START], runs[:, FIRST_ROW], runs[:, STOP], runs[:, LAST_ROW] + 1])
    return {
        "value": runs[:, VALUE].astype(np.int32),
        "pixels": runs[:, PIXELS].copy(),
        "first": runs[:, [FIRST_ROW, FIRST_COL]].astype(np.int32),
        "box": box.astype(np.int32),
        "prob": chances[:, 0].copy(),
        "prob_min10": chances[:, 1].copy(),
    }
