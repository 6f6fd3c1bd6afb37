"""Between units: ground that one of them is validated on is learnt from none, however many show it."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from pyproj import Transformer

from geoseg.splits import ground_boxes
from geoseg.training.sources.units import Part
from geoseg.windows import Window

log = logging.getLogger(__name__)

_SPACING = 8
"""Points along an edge that is brought to another CRS, where it is a curve."""


def close_between(sources: Sequence[Sequence[Part]], said: Sequence[Part], gap: int) -> list[list[Part]]:
    """The parts, where what others are validated on, and a gap of so many of their pixels round it, is not learnt.

    Scenes may overlap, be neighbours, or be dates of the same place. Parts without a CRS lie nowhere and stay. The gap
    is halved until half of what was learnt still is.

    Args:
        sources: The parts of each source.
        said: Further parts, of which the configuration or a list says what they are for: these stay as they are.
        gap: In pixels.
    """
    parts = [part for own in sources for part in own]
    before = _area(parts)
    while True:
        closed = _closed(parts, [*parts, *said], gap)
        left = _area(closed)
        if left >= before / 2 or not gap:
            break
        gap //= 2
    if before and not left:
        log.warning("All scenes show the ground that some are validated on: it is learnt all the same.")
        closed = parts
    elif left < before:
        lost = 100 * (1 - left / before)
        log.info("%.0f %% of the training ground lie within %d pixels of other images' validation ground.", lost, gap)
    rest = iter(closed)
    return [[next(rest) for _ in own] for own in sources]


def _area(parts: Sequence[Part]) -> int:
    """Pixels that are learnt."""
    return sum(window.area for part in parts if part.split == "train" for window in part.learnt)


def _closed(parts: Sequence[Part], held: Sequence[Part], gap: int) -> list[Part]:
    """The parts without what those of `held` that are for validation show; `held` begins with the parts."""
    boxes = ground_boxes([part.unit.grid for part in held], [part.window for part in held])
    learnt = np.array([part.split == "train" for part in parts], bool)
    holes: dict[int, list[Window]] = {}
    for at, part in enumerate(held):
        if part.split == "train" or np.isnan(boxes[at]).any():
            continue
        reach = gap * (part.unit.grid.gsd or 0)
        away = np.maximum(boxes[:, :2] - boxes[at, 2:], boxes[at, :2] - boxes[:, 2:]).max(axis=1)
        for other in np.flatnonzero(learnt & (away[: len(parts)] < reach)).tolist():
            if parts[other].unit is not part.unit and (hole := _seen_from(part, parts[other], reach)):
                holes.setdefault(other, []).append(hole)
    return [
        replace(part, without=(*part.without, *holes[at])) if at in holes else part for at, part in enumerate(parts)
    ]


def _seen_from(val: Part, train: Part, reach: float) -> Window | None:
    """The window of a validation part in the pixels of another unit, with `reach` metres more on each side."""
    there, here = val.unit.grid, train.unit.grid
    window, steps = val.window, np.linspace(0, 1, _SPACING)
    edge = np.concatenate([np.stack([steps, np.full_like(steps, side)]) for side in (0, 1)], axis=1)
    cols, rows = np.concatenate([edge, edge[::-1]], axis=1)
    x, y = there.transform @ (window.col + cols * window.width, window.row + rows * window.height)
    if there.crs != here.crs:
        x, y = _between(there.crs or "", here.crs or "").transform(x, y)
    cols, rows = ~here.transform @ (np.asarray(x), np.asarray(y))
    if not (np.isfinite(cols).all() and np.isfinite(rows).all()):
        return None
    margin = math.ceil(reach / (here.gsd or reach or 1))
    left, top = math.floor(cols.min() + 1e-3) - margin, math.floor(rows.min() + 1e-3) - margin
    right, bottom = math.ceil(cols.max() - 1e-3) + margin, math.ceil(rows.max() - 1e-3) + margin
    return Window(row=top, col=left, height=bottom - top, width=right - left).intersection(train.window)


@cache
def _between(there: str, here: str) -> Transformer:
    return Transformer.from_crs(there, here, always_xy=True)
