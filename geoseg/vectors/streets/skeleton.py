"""The skeleton of the streets: a list of pixels, each with the distance to the side, found in tiles with a halo."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numba import njit

from geoseg.pixels import PROBABILITY_SCALE
from geoseg.vectors.planes import Planes
from geoseg.vectors.streets.rules import Footprints
from geoseg.vectors.streets.surface import scores, surface
from geoseg.vectors.streets.thinning import carve, thin
from geoseg.vectors.threads import Runner, in_threads
from geoseg.windows import Window

TILE = 4096
"""Side of the square of pixels that is thinned in one go."""
AT_ONCE = 4
"""Tiles under way at the same time, at most: they fill the memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """Pixels of the skeleton in reading order: all that is kept of the raster."""

    row: np.ndarray
    """(n,) int32."""
    col: np.ndarray
    """(n,) int32."""
    radius: np.ndarray
    """(n,) float32: metres from the pixel's centre to the side of the surface."""
    prob: np.ndarray
    """(n,) float32: probability of the class there, 0 to 1; NaN without data."""
    shape: tuple[int, int]
    """(height, width) of the raster."""


def find_skeleton(
    planes: Planes, value: int, prints: Footprints, *, tile: int = TILE, run: Runner = in_threads
) -> Skeleton:
    """Thin the surface of a class.

    The same pixels for any side of the tiles: each tile is read with all the context on which its pixels depend. Tiles
    are thinned in threads, and read one at a time: not all planes can be read by several threads.

    Args:
        planes: Class raster, with probabilities or without.
        value: The class of the streets.
        prints: Sizes in pixels.
        tile: Side of a tile; memory grows with its square, and with the length of the streets.
        run: Calls a function on all tiles.
    """
    lock = Lock()
    found = run(
        lambda core: _thinned(planes, value, prints, core, lock),
        _tiles(planes.grid.shape, tile),
        AT_ONCE,
    )
    row, col, radius, prob = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(row.astype(np.int64) * planes.grid.width + col)
    return Skeleton(row[order], col[order], radius[order], prob[order], planes.grid.shape)


def _tiles(shape: tuple[int, int], side: int) -> Iterator[Window]:
    for row in range(0, shape[0], side):
        for col in range(0, shape[1], side):
            yield Window(row=row, col=col, height=min(side, shape[0] - row), width=min(side, shape[1] - col))


def _thinned(
    planes: Planes, value: int, prints: Footprints, core: Window, reading: Lock
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Row, column, radius and probability of the pixels of the skeleton within one tile."""
    window = core.expand(prints.halo).intersection(planes.grid.window)
    assert window is not None  # noqa: S101 -- a tile lies within the grid
    with reading:
        plane, own = scores(planes, window, value)
    whole = surface(plane, prints)
    inside = core.slices(window)
    if not whole[inside].any():
        empty = np.empty(0, np.int32)
        return empty, empty, empty.astype(np.float32), empty.astype(np.float32)
    streets = whole.copy()
    carve(streets, *prints.core)
    lines = thin(streets, prints.rounds)
    row, col = (at.astype(np.int32) for at in np.nonzero(lines[inside]))
    down, right = core.row - window.row, core.col - window.col
    limit = 1.5 * max(half * metres for half, metres in zip(prints.core, prints.scale, strict=True))
    radius = _radius(whole, row + down, col + right, prints.scale[0], prints.scale[1], limit)
    prob = own[row + down, col + right].astype(np.float32) / np.float32(PROBABILITY_SCALE)
    prob[prob > 1] = math.nan
    return row + np.int32(core.row), col + np.int32(core.col), radius, prob


@njit(cache=True, nogil=True)
def _radius(
    mask: np.ndarray, rows: np.ndarray, cols: np.ndarray, across: float, down: float, limit: float
) -> np.ndarray:
    """(n,) float32 metres from pixels inside a mask to its side: half a pixel less than to the next pixel outside.

    Args:
        mask: (h, w) uint8, 1 inside.
        rows: (n,) int of the pixels.
        cols: (n,) int of the pixels.
        across: Metres per pixel along a row.
        down: Metres per pixel along a column.
        limit: The most to look for, and the answer where there is nothing nearer.
    """
    height, width = mask.shape
    out = np.empty(len(rows), np.float32)
    half = 0.5 * math.sqrt(across * down)
    for k in range(len(rows)):
        best = (limit + half) ** 2
        step = 0
        while (step * down) ** 2 < best:
            for sign in (-1, 1):
                row = rows[k] + sign * step
                if row < 0 or row >= height:
                    continue
                reach = 0
                far = (step * down) ** 2
                while far + (reach * across) ** 2 < best:
                    left, right = cols[k] - reach, cols[k] + reach
                    if (left >= 0 and not mask[row, left]) or (right < width and not mask[row, right]):
                        best = far + (reach * across) ** 2
                        break
                    reach += 1
            step += 1
        out[k] = math.sqrt(best) - half
    return out
