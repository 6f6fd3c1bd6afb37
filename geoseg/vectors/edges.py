"""Edges: how sure a network is along an outline or a line, where it is least sure.

The mean over a feature hides a wall that was guessed. What the probability is just inside the outline tells it, and the
worst few metres of it are what a person has to look at.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import shapely
from numba import njit

from geoseg.pixels import NODATA, PROBABILITY_SCALE
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import Planes
from geoseg.windows import Window

STRETCH_M = 5.0
"""Length of a stretch: a wall of a small house. A shorter one is noise, a longer one hides a missing corner."""
LEAST_STRETCH = 6
"""Pixels along a stretch, however wide they are."""
NO_GSD_STRETCH = 16
"""Pixels along a stretch where nothing says how wide they are."""
_INSIDE = 2.0
"""Pixels from the outline inwards. On the outline itself all classes are as probable as one another."""
_VERTICES = 1 << 20
"""Of shapes that are looked at in one go."""
_BYTES = 8 << 20
"""Of probabilities read in one go, unless the planes come in higher strips."""
_FINE = 256
"""Steps between two stored probabilities: sums of whole numbers do not depend on their order."""
_UNKNOWN = 65535
_FAR = 1 << 30


def weakest_stretches(
    shapes: np.ndarray, planes: Planes, value: int, metric: Metric, *, clear_m: np.ndarray | None = None
) -> np.ndarray:
    """The mean probability of a class along the weakest stretch of each outline or line.

    Points lie a pixel apart: along outlines and round holes two pixels inside the shape, or in the middle of what is
    narrower; along lines on them. A stretch is 5 m long, but no less than 6 pixels, nor more than all there is.

    Args:
        shapes: (n,) shapely Polygon, or (n,) LineString, in the coordinates of the grid's transform.
        planes: With probabilities or without.
        value: Their class.
        metric: Of the planes' grid.
        clear_m: (n,) how much of each line is passed over at either end, as far as a stretch is left; all by default
            looked at. NaN is none.

    Returns:
        (n,) float64, 0 to 1; NaN where no probability is known.
    """
    found = np.full(len(shapes), np.nan)
    if not len(shapes) or planes.probability(Window(row=0, col=0, height=1, width=1), value) is None:
        return found
    stretch = max(LEAST_STRETCH, round(STRETCH_M / metric.gsd)) if metric.unit == "m" else NO_GSD_STRETCH
    clear = np.zeros(len(shapes)) if clear_m is None else np.nan_to_num(clear_m) / metric.gsd
    back = ~planes.grid.transform
    vertices = shapely.get_num_coordinates(shapes)
    for start, stop in _batches(vertices):
        kind, points, offsets = shapely.to_ragged_array(shapes[start:stop])
        closed = kind == shapely.GeometryType.POLYGON
        first = offsets[1][:-1] if closed else np.arange(stop - start)
        xy = np.column_stack(back @ (points[:, 0], points[:, 1]))
        samples, ends = _samples(xy, offsets[0], first, planes, value, closed)
        skip = np.zeros(len(ends) - 1, np.int64) if closed else np.ceil(clear[start:stop]).astype(np.int64)
        low = _lowest(samples, ends, skip, stretch, closed)
        found[start:stop] = np.fmin.reduceat(low, first)
    return found


def _batches(vertices: np.ndarray) -> Iterator[tuple[int, int]]:
    """Shapes in parts of about so many vertices, at least one each."""
    part = np.cumsum(vertices) // _VERTICES
    yield from pairwise([0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(vertices)])


def _samples(
    xy: np.ndarray, offsets: np.ndarray, first: np.ndarray, planes: Planes, value: int, closed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The probability at points along chains: (s,) uint16 in 1/256 of what is stored, and (chains + 1,) int64 ends."""
    height, width = planes.grid.shape
    hole = np.ones(len(offsets) - 1, np.bool_)
    hole[first] = False
    count, way = _counted(xy, offsets, hole, first, _INSIDE if closed else 0.0)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])
    out = np.full(ends[-1], _UNKNOWN, np.uint16)
    bounds = np.column_stack(
        [np.minimum.reduceat(xy[:, 1], offsets[:-1]) - _INSIDE, np.maximum.reduceat(xy[:, 1], offsets[:-1]) + _INSIDE]
    )
    left = int(np.clip(np.floor(xy[:, 0].min() - 3), 0, width - 1))
    right = int(np.clip(np.ceil(xy[:, 0].max() + 3), left + 1, width))
    top, bottom = int(max(0, np.floor(bounds[:, 0].min()))), int(min(height, np.ceil(bounds[:, 1].max()) + 1))
    rows = max(planes.step, _BYTES // (right - left) // planes.step * planes.step)
    for row in range(top // rows * rows, bottom, rows):
        stop = min(row + rows, height)
        near = np.flatnonzero((bounds[:, 1] >= row - 1) & (bounds[:, 0] <= stop + 1))
        if not len(near):
            continue
        high = max(0, row - 1)
        window = Window(row=high, col=left, height=min(stop + 1, height) - high, width=right - left)
        plane = planes.probability(window, value)
        if plane is not None:
            # What lies beyond the raster, by a rounding or by a wall that leans out of it, takes its border's.
            first_row, last_row = row if row else -_FAR, stop if stop < height else height + _FAR
            _look(xy, offsets, near, way, ends, plane, high, left, first_row, last_row, out)
    return out, ends


@njit(cache=True, nogil=True)
def _counted(xy, offsets, hole, first, most):  # type: ignore[no-untyped-def]
    """(c,) int64 points along each chain, and (c,) float64 how far to the right of it they lie, in pixels."""
    chains = len(offsets) - 1
    count, way = np.empty(chains, np.int64), np.empty(chains, np.float64)
    lengths, areas = np.zeros(len(first)), np.zeros(len(first))
    shape = -1
    for c in range(chains):
        shape += not hole[c]
        length, area = 0.0, 0.0
        for v in range(offsets[c], offsets[c + 1] - 1):
            dx, dy = xy[v + 1, 0] - xy[v, 0], xy[v + 1, 1] - xy[v, 1]
            length += np.sqrt(dx * dx + dy * dy)
            area += ((xy[v, 0] - xy[offsets[c], 0]) * dy - (xy[v, 1] - xy[offsets[c], 1]) * dx) / 2
        count[c] = max(1, round(length))
        way[c] = 1.0 if (area > 0) != hole[c] else -1.0
        lengths[shape] += length
        areas[shape] += -abs(area) if hole[c] else abs(area)
    shape = -1
    for c in range(chains):
        shape += not hole[c]
        way[c] *= min(most, areas[shape] / lengths[shape]) if lengths[shape] > 0 else 0.0
    return count, way


@njit(cache=True, nogil=True)
def _look(xy, offsets, near, way, ends, plane, top, left, row, stop, out):  # type: ignore[no-untyped-def]
    """Fill in the probability at those points that lie between two rows."""
    height, width = plane.shape
    for c in near:
        first, last = offsets[c], offsets[c + 1] - 1
        length = 0.0
        for v in range(first, last):
            dx, dy = xy[v + 1, 0] - xy[v, 0], xy[v + 1, 1] - xy[v, 1]
            length += np.sqrt(dx * dx + dy * dy)
        count = ends[c + 1] - ends[c]
        step = length / count
        k, done = 0, 0.0
        for v in range(first, last):
            dx, dy = xy[v + 1, 0] - xy[v, 0], xy[v + 1, 1] - xy[v, 1]
            size = np.sqrt(dx * dx + dy * dy)
            while k < count and ((k + 0.5) * step <= done + size or v == last - 1):
                share = ((k + 0.5) * step - done) / size if size > 0 else 0.0
                # To the right as seen on the screen, where y points down.
                x = xy[v, 0] + share * dx - (way[c] * dy / size if size > 0 else 0.0)
                y = xy[v, 1] + share * dy + (way[c] * dx / size if size > 0 else 0.0)
                if row <= y < stop:
                    out[ends[c] + k] = _at(plane, x - 0.5, y - 0.5, left, top, height, width)
                k += 1
            done += size


@njit(cache=True, nogil=True)
def _at(plane, x, y, left, top, height, width):  # type: ignore[no-untyped-def]
    """The plane between four pixels, of those that have data."""
    col, row = np.floor(x), np.floor(y)
    u, v = x - col, y - row
    total, weight = 0.0, 0.0
    for down in range(2):
        for across in range(2):
            i = min(max(int(row) + down - top, 0), height - 1)
            j = min(max(int(col) + across - left, 0), width - 1)
            if plane[i, j] != NODATA:
                share = (v if down else 1 - v) * (u if across else 1 - u)
                total += share * plane[i, j]
                weight += share
    return np.uint16(round(total / weight * _FINE)) if weight > 0 else np.uint16(_UNKNOWN)


@njit(cache=True, nogil=True)
def _lowest(samples, ends, skip, stretch, closed):  # type: ignore[no-untyped-def]
    """(c,) float64 the least mean of so many neighbouring points of each chain, at least half of them known."""
    out = np.full(len(ends) - 1, np.nan)
    for c in range(len(ends) - 1):
        count = ends[c + 1] - ends[c]
        long = min(stretch, count)
        passed = min(skip[c], (count - long) // 2)
        first, count = ends[c] + passed, count - 2 * passed
        total, known, least = 0, 0, np.inf
        for k in range(count + long - 1 if closed else count):
            new = samples[first + k % count]
            if new != _UNKNOWN:
                total += new
                known += 1
            if k >= long:
                old = samples[first + (k - long) % count]
                if old != _UNKNOWN:
                    total -= old
                    known -= 1
            if k >= long - 1 and 2 * known >= long:
                least = min(least, total / known)
        if least < np.inf:
            out[c] = least / (_FINE * PROBABILITY_SCALE)
    return out
