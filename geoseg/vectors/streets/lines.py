"""Lines: streets from pixel to pixel made smooth, and simple; their ends where the surface ends."""

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter1d

from geoseg.vectors.metric import Metric
from geoseg.vectors.streets.graph import Graph, Street
from geoseg.vectors.streets.tips import cut_back, find_tips

_STEP = 0.2
"""Metres between the points that are smoothed, for each metre of standard deviation."""


def draw_lines(graph: Graph, smooth_m: float, simplify_m: float) -> np.ndarray:
    """(s,) shapely LineString of a graph's streets in metres, smooth and simple; their ends stay where they are."""
    lines = np.array([shapely.LineString(_smooth(street, smooth_m)) for street in graph.streets.values()], dtype=object)
    simple: np.ndarray = shapely.simplify(lines, simplify_m, preserve_topology=False)
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


def reach_ends(graph: Graph, metric: Metric) -> None:
    """Let dead ends go on to where the surface ends, and no further than the raster; in place."""
    width, height = metric.grid.width, metric.grid.height
    for tip in find_tips(graph, metric):
        # A street that leaves the raster ends on its border, not short of it.
        line = np.linspace(0, 2.2 * tip.radius, 45)[:, None] * tip.ahead + tip.xy
        pixels = metric.to_pixels(line)
        inside = ((pixels >= 0) & (pixels <= (width, height))).all(axis=1)
        end = tip.end
        if not inside.all():
            end = line[max(0, int(inside.argmin()) - 1)]
        if np.hypot(*(end - tip.xy)) > 0:
            cut_back(graph, tip, end)
