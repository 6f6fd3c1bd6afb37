"""Lines: streets from pixel to pixel made smooth, and simple; their ends where the surface ends, or the data."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter1d

from geoseg.vectors.metric import Metric
from geoseg.vectors.streets.extent import Extent
from geoseg.vectors.streets.graph import Graph, Street
from geoseg.vectors.streets.tips import Tip, cut_back, find_tips

_STEP = 0.2
"""Metres between the points that are smoothed, for each metre of standard deviation."""


def draw_lines(streets: Iterable[Street], smooth_m: float, simplify_m: float) -> np.ndarray:
    """(s,) shapely LineString of streets in metres, smooth and simple; their ends stay where they are."""
    lines = np.array([shapely.LineString(_smooth(street, smooth_m)) for street in streets], dtype=object)
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


def keep_inside(graph: Graph, metric: Metric) -> None:
    """Move nodes that were put beyond the raster's border onto it; in place."""
    nodes = list(graph.nodes)
    pixels = metric.to_pixels(np.array([graph.nodes[node] for node in nodes]).reshape(-1, 2))
    clipped = np.clip(pixels, 0, (metric.grid.width, metric.grid.height))
    for index in np.flatnonzero((clipped != pixels).any(axis=1)):
        graph.move(nodes[index], metric.to_metres(clipped[index : index + 1])[0])


def reach_ends(graph: Graph, extent: Extent) -> None:
    """Let dead ends go on to where the surface ends, and no further than there is data; in place."""
    for tip in find_tips(graph, extent.metric):
        # A street that leaves the data ends on its border, not short of it.
        line = np.linspace(0, 2.2 * tip.radius, 45)[:, None] * tip.ahead + tip.xy
        known = extent.has_data(line)
        if not known[0]:
            _withdraw(graph, extent, tip)
            continue
        end = tip.end if known.all() else line[max(0, int(known.argmin()) - 1)]
        if np.hypot(*(end - tip.xy)) > 0:
            cut_back(graph, tip, end)


def _withdraw(graph: Graph, extent: Extent, tip: Tip) -> None:
    """Let a dead end in a gap of the data, over which the surface was closed, end before the gap; in place."""
    _, street = next(graph.arms(tip.node))
    known = extent.has_data(street.xy)
    first = int(known.argmax())
    if known[first] and first < len(street.xy) - 2:
        cut_back(graph, replace(tip, at=first + 1), street.xy[first])
