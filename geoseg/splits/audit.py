"""The leak audit: from each validation tile to the nearest pixel that is learnt."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from geoseg.grid import Grid
from geoseg.windows import Window

_GEOD = Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True)
class Place:
    """A rectangle of pixels that is learnt from, or validated on."""

    name: str
    """For messages."""
    file: str
    """What its window is a window of: places of one file are compared by pixels."""
    window: Window
    """Its pixels."""
    grid: Grid
    """Of the file."""


@dataclass(frozen=True, slots=True)
class Distance:
    """From a validation place to the nearest pixel that is learnt; 0 where they touch or overlap."""

    name: str
    """Of the place."""
    value: float | None
    """None where it cannot be known: nothing tells how the files lie to each other."""
    unit: str
    """`m`, or `px` without a CRS."""


def audit(train: Sequence[Place], val: Sequence[Place]) -> list[Distance]:
    """The distance of each validation place to the nearest training place.

    Places of one file are compared on its own grid. Those of different files by the boxes round them on the ground:
    a turned grid seems nearer than it is. Files without a CRS lie nowhere, and are compared with themselves only.
    """
    boxes = ground_boxes([place.grid for place in (*train, *val)], [place.window for place in (*train, *val)])
    learnt, held = boxes[: len(train)], boxes[len(train) :]
    files = np.array([place.file for place in train])
    pixels = np.array([_pixel_box(place.window) for place in train]).reshape(-1, 4)
    found = []
    for place, box in zip(val, held, strict=True):
        same = files == place.file
        gsd = place.grid.gsd
        near = _apart(pixels[same], np.array(_pixel_box(place.window))) * (gsd or 1)
        others = _apart(learnt[~same], box)
        known = np.concatenate([near, others[np.isfinite(others)] if gsd else np.empty(0)])
        found.append(Distance(place.name, float(known.min()) if len(known) else None, "m" if gsd else "px"))
    return found


def _pixel_box(window: Window) -> tuple[int, int, int, int]:
    return window.col, window.row, window.stop_col, window.stop_row


def _apart(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(N,) distances of boxes (left, bottom, right, top) to one; NaN where either is."""
    away = np.maximum(boxes[:, :2] - box[2:], box[:2] - boxes[:, 2:])
    return np.asarray(np.linalg.norm(np.maximum(away, 0), axis=1))


def ground_boxes(grids: Sequence[Grid], windows: Sequence[Window] | None = None) -> np.ndarray:
    """(N, 4) left, bottom, right, top of grids, or windows of them, in metres of one plane; NaN without a CRS.

    Grids of one projected CRS keep its axes, scaled to metres on the ground; others meet on a plane that is true in
    the middle of them. Good for how far apart neighbours are, not for distances across a continent.
    """
    windows = windows or [grid.window for grid in grids]
    boxes = np.full((len(grids), 4), np.nan)
    placed = [index for index, grid in enumerate(grids) if grid.gsd is not None]
    if not placed:
        return boxes
    own = np.array([grids[index].window_bounds(windows[index]) for index in placed])
    names = {grids[index].crs or "" for index in placed}
    if len(names) == 1 and not _degrees(next(iter(names))):
        scales = [grids[index].gsd / abs(grids[index].transform.determinant) ** 0.5 for index in placed]
        boxes[placed] = own * float(np.median(scales))
        return boxes
    for row, index in enumerate(placed):
        to_degrees = _to_degrees(grids[index].crs or "")
        own[row] = to_degrees.transform_bounds(*own[row])
    east, north = (float(np.median((own[:, at] + own[:, at + 2]) / 2)) for at in (0, 1))
    _, _, across = _GEOD.inv(east, north, east + 1e-3, north)
    _, _, up = _GEOD.inv(east, north, east, north + 1e-3)
    boxes[placed] = own * (np.array([across, up, across, up]) / 1e-3)
    return boxes


@cache
def _degrees(crs: str) -> bool:
    try:
        return bool(CRS.from_user_input(crs).is_geographic)
    except ProjError:
        return False


@cache
def _to_degrees(crs: str) -> Transformer:
    return Transformer.from_crs(CRS.from_user_input(crs), "EPSG:4326", always_xy=True)
