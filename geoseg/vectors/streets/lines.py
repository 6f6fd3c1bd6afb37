"""Lines: streets from pixel to pixel made smooth, and simple; their ends where the surface ends, or the data."""

from dataclasses import replace

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter1d

from geoseg.pixels import NODATA
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import Planes
from geoseg.vectors.streets.graph import Graph, Street
from geoseg.vectors.streets.tips import Tip, cut_back, find_tips
from geoseg.windows import Window

_STEP = 0.2
"""Metres between the points that are smoothed, for each metre of standard deviation."""


def draw_lines(graph: Graph, smooth_m: float, simplify_m: float) -> np.ndarray:
    """(s,) shapely LineString of a graph's streets in metres, smooth and simple; their ends stay where they are."""
    lines = np.array([shapely.LineString(_smooth(street, smooth_m)) for street in graph.streets.values()], dtype=object)
    simple: np.ndarray = shapely.simplify(lines, simplify_m, preserve_topology=False)
    gone = shapely.length(simple) == 0  # a loop that is smaller than the tolerance
    simple[gone] = lines[gone]
    return simple


def _smooth(street: Street, sigma: float) -> np.ndarray:
    """(k, 2) points of a street under a Gaussian along it; mirrored through its ends, which so stay."""
    along = street.along()
    if not sigma or along[-1] <= 0:
        return street.xy
    steps = max(2, round(along[-1] / (_STEP * sigma)))
    at = np.linspace(0, along[-1], steps + 1)
    even = np.column_stack([np.interp(at, along, street.xy[:, axis]) for axis in (0, 1)])
    # What is left after the straight line between the ends is 0 there: mirrored with its sign it stays so.
    straight = np.linspace(even[0], even[-1], len(even))
    rest = even - straight
    odd = np.concatenate([rest, -rest[-2:0:-1]])
    wide = sigma / (along[-1] / steps)
    smooth: np.ndarray = straight + gaussian_filter1d(odd, wide, axis=0, mode="wrap")[: len(rest)]
    smooth[[0, -1]] = even[[0, -1]]
    return smooth


def reach_ends(graph: Graph, planes: Planes, metric: Metric) -> None:
    """Let dead ends go on to where the surface ends, and no further than there is data; in place."""
    for tip in find_tips(graph, metric):
        # A street that leaves the data ends on its border, not short of it.
        line = np.linspace(0, 2.2 * tip.radius, 45)[:, None] * tip.ahead + tip.xy
        known = _has_data(planes, metric.to_pixels(line))
        if not known[0]:
            _withdraw(graph, planes, metric, tip)
            continue
        end = tip.end if known.all() else line[max(0, int(known.argmin()) - 1)]
        if np.hypot(*(end - tip.xy)) > 0:
            cut_back(graph, tip, end)


def _withdraw(graph: Graph, planes: Planes, metric: Metric, tip: Tip) -> None:
    """Let a dead end in a gap of the data, over which the surface was closed, end before the gap; in place."""
    _, street = next(graph.arms(tip.node))
    known = _has_data(planes, metric.to_pixels(street.xy))
    first = int(known.argmax())
    if known[first] and first < len(street.xy) - 2:
        cut_back(graph, replace(tip, at=first + 1), street.xy[first])


def _has_data(planes: Planes, pixels: np.ndarray) -> np.ndarray:
    """(n,) bool, whether (n, 2) pixel coordinates lie where there is data; the raster's own border still does."""
    size = np.array([planes.grid.width, planes.grid.height])
    inside = np.asarray(((pixels >= 0) & (pixels <= size)).all(axis=1))
    at = np.clip(np.floor(pixels).astype(np.int64), 0, size - 1)
    low, high = at.min(axis=0), at.max(axis=0) + 1
    window = Window(row=int(low[1]), col=int(low[0]), height=int(high[1] - low[1]), width=int(high[0] - low[0]))
    col, row = (at - low).T
    if NODATA in planes.classes:  # a mask of 0 and 255, of another program
        return inside
    known: np.ndarray = inside & (planes.labels(window)[row, col] != NODATA)
    return known
