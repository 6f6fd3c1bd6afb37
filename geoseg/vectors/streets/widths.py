"""Widths: across each street, from side to side, where the scores fall to one half."""

import math
from threading import Lock

import numpy as np
import shapely
from numba import njit

from geoseg.pixels import NODATA
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import Planes
from geoseg.vectors.streets.rules import Footprints
from geoseg.vectors.streets.skeleton import AT_ONCE
from geoseg.vectors.streets.surface import LEVEL, scores
from geoseg.vectors.threads import Runner, in_threads
from geoseg.windows import Window

APART_M = 2.0
"""Metres between the profiles across a street."""
_CLEAR_M = 8.0
"""Metres at either end of a street without profiles, if it is three times as long."""


def measure(
    planes: Planes,
    value: int,
    metric: Metric,
    prints: Footprints,
    lines: np.ndarray,
    *,
    tile: int,
    run: Runner = in_threads,
) -> tuple[np.ndarray, np.ndarray]:
    """Profiles across lines.

    Args:
        planes: What the lines were made from.
        value: The class of the streets.
        metric: Between pixels and metres.
        prints: Sizes in pixels.
        lines: (s,) shapely LineString in metres.
        tile: Side of the tiles of the raster that are looked at in one go; the result does not depend on it.
        run: Calls a function on all tiles.

    Returns:
        (p,) int64 line of each profile, ascending, and (p,) float64 its width in metres; NaN where the profile does not
        start on the street, the street is wider than the rules allow, or another line crosses the profile. What has no
        data is no street, but in a gap that the surface was closed over.
    """
    at, ahead, of = _stations(lines)
    if not len(at):
        return of, np.empty(0)
    across = np.column_stack([-ahead[:, 1], ahead[:, 0]])
    here = metric.to_pixels(at)
    # One metre to the left, in pixels: profiles are straight on the ground, and short.
    aside = (metric.to_pixels(at + across) - metric.to_pixels(at - across)) / 2
    most = max(half * metres for half, metres in zip(prints.core, prints.scale, strict=True)) * 1.5
    gap = 2 * (len(prints.disc) // 2) * prints.scale[1]  # what the surface was closed over
    halo = math.ceil(most / min(prints.scale)) + 2
    left, right = np.full((2, len(at)), np.nan)
    lattice = np.floor(here / tile).astype(np.int64)
    order = np.lexsort((lattice[:, 0], lattice[:, 1]))
    changes = np.flatnonzero(np.any(np.diff(lattice[order], axis=0) != 0, axis=1)) + 1
    groups, lock = np.split(order, changes), Lock()

    def look(index: int) -> tuple[np.ndarray, ...]:
        group = groups[index]
        low, high = np.floor(here[group].min(axis=0)).astype(int), np.ceil(here[group].max(axis=0)).astype(int)
        box = Window(row=low[1], col=low[0], height=max(1, high[1] - low[1]), width=max(1, high[0] - low[0]))
        window = box.expand(halo).intersection(planes.grid.window)
        if window is None:
            return tuple(np.full((2, len(group)), np.nan))
        with lock:
            plane = scores(planes, window, value)[0]
        corner, start = (window.col, window.row), here[group] - 0.5
        return tuple(_reach(plane, *corner, start, way * aside[group], most, gap) for way in (1, -1))

    for group, (one, other) in zip(groups, run(look, range(len(groups)), AT_ONCE), strict=True):
        left[group], right[group] = one, other
    width = left + right
    width[_crossed(lines, of, at + across * left[:, None], at - across * right[:, None])] = np.nan
    return of, width


def _crossed(lines: np.ndarray, of: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(k,) int64 profiles, from left to right, that another line than their own crosses: they run into its street."""
    known = np.flatnonzero(np.isfinite(left[:, 0]) & np.isfinite(right[:, 0]))
    profiles = shapely.linestrings(np.stack([left[known], right[known]], axis=1))
    profile, line = shapely.STRtree(lines).query(profiles, predicate="intersects")
    return np.unique(known[profile[line != of[known[profile]]]])


def _stations(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points along lines, (p, 2) metres, the (p, 2) unit vectors along them there, and the (p,) lines they are on."""
    length = shapely.length(lines)
    count = np.maximum(1, np.round(length / APART_M)).astype(np.int64)
    of = np.repeat(np.arange(len(lines)), count)
    place = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
    far = (place + 0.5) / count[of] * length[of]
    # Junctions and rounded ends are of another width.
    clear = (far > _CLEAR_M) & (far < length[of] - _CLEAR_M) | (length[of] < 3 * _CLEAR_M)
    far, of = far[clear], of[clear]
    points, line = shapely.get_coordinates(lines, return_index=True)
    first = np.searchsorted(line, np.arange(len(lines) + 1))
    near = [_along(points, first, of, np.clip(far + step, 0, length[of])) for step in (-0.5, 0.0, 0.5)]
    ahead = near[2] - near[0]
    size = np.hypot(*ahead.T)
    good = size > 0
    return near[1][good], ahead[good] / size[good, None], of[good]


@njit(cache=True, nogil=True)
def _along(points: np.ndarray, first: np.ndarray, of: np.ndarray, far: np.ndarray) -> np.ndarray:
    """(p, 2) points on lines: what `shapely.line_interpolate_point` says to the last bit, without an object for each.

    Args:
        points: (n, 2) vertices of all lines.
        first: (s + 1,) int64 the first vertex of each.
        of: (p,) int64 a line, of two vertices or more.
        far: (p,) how far along it.
    """
    out = np.empty((len(of), 2))
    for k in range(len(of)):
        at, stop, done = first[of[k]], first[of[k] + 1] - 1, 0.0
        out[k] = points[at if far[k] <= 0 else stop]
        while at < stop and far[k] > 0:
            x, y = points[at, 0], points[at, 1]
            across, down = points[at + 1, 0] - x, points[at + 1, 1] - y
            size = math.sqrt(across * across + down * down)
            if done + size > far[k]:
                share = (far[k] - done) / size
                out[k, 0], out[k, 1] = across * share + x, down * share + y
                break
            done += size
            at += 1
    return out


@njit(cache=True, nogil=True)
def _reach(
    plane: np.ndarray, first_col: int, first_row: int, start: np.ndarray, step: np.ndarray, most: float, gap: float
) -> np.ndarray:
    """(n,) float64 metres along straight lines to where a plane falls to half; NaN if it starts lower or never does.

    Args:
        plane: (h, w) uint8 scores, 255 without data: there a street ends, but for gaps beyond which it goes on.
        first_col: Column of the raster in which the plane begins.
        first_row: Its row.
        start: (n, 2) column and row in the raster, whole at the centres of pixels.
        step: (n, 2) of one metre.
        most: Metres to look.
        gap: Metres of a gap without data, at most.
    """
    height, width = plane.shape
    level = float(LEVEL)
    out = np.full(len(start), np.nan)
    for k in range(len(start)):
        stride = 0.5 / max(abs(step[k, 0]), abs(step[k, 1]))
        last, far, since, side = 0.0, 0.0, 0.0, np.nan
        while far <= most:
            x, y = start[k, 0] + far * step[k, 0], start[k, 1] + far * step[k, 1]
            # Whole numbers are taken off, not the plane's corner: the same rounding wherever the plane begins.
            left, top = math.floor(x), math.floor(y)
            u, v = x - left, y - top
            col, row = left - first_col, top - first_row
            if not (-0.5 <= col + u <= width - 0.5 and -0.5 <= row + v <= height - 0.5):
                break
            right, below = min(max(col + 1, 0), width - 1), min(max(row + 1, 0), height - 1)
            col, row = min(max(col, 0), width - 1), min(max(row, 0), height - 1)
            a, b, c, d = plane[row, col], plane[row, right], plane[below, col], plane[below, right]
            missing = max(a, b, c, d) == NODATA
            if missing:
                a, b, c, d = _or_none(a), _or_none(b), _or_none(c), _or_none(d)
            found = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)
            if found > level:
                since, side = far, np.nan
            else:
                if last > level:
                    side = far - stride * (level - found) / (last - found)
                if not missing or far - since > gap:
                    break
            last = found
            far += stride
        out[k] = side
    return out


@njit(cache=True, nogil=True)
def _or_none(score: int) -> int:
    """A score; 0 without data."""
    return 0 if score == NODATA else score
