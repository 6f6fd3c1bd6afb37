"""Scan conversion: polygons to pixels, exactly at pixel centres or with anti-aliased edges.

Every edge is cut by horizontal scan lines; what it adds to all pixels right of the crossing is put down once, and one
running sum along each row does the rest. The cost follows the outlines, not the number of polygons, and a window of the
scene gives the very pixels that the whole scene would.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.windows import Window

SUBROWS = 4
"""Scan lines per pixel row when edges are anti-aliased; along a row the coverage is exact."""


@dataclass(frozen=True, slots=True)
class Edges:
    """The edges of many polygons in pixel coordinates (x = column, y = row), every polygon wound the same way."""

    ends: np.ndarray
    """(E, 4) float64: x0, y0, x1, y1."""
    owner: np.ndarray
    """(E,) int64: the polygon an edge belongs to."""


def edges_of_rings(rings: Iterable[np.ndarray]) -> Edges:
    """Edges of simple polygons without holes, each a (K, 2) array of corners, open, in either direction."""
    rings = list(rings)
    counts = np.array([len(ring) for ring in rings], np.int64)
    return _oriented(np.concatenate([np.zeros((0, 2)), *rings]), counts, np.arange(len(rings)), np.ones(len(rings)))


def edges_of_polygons(polygons: Iterable[shapely.Polygon]) -> Edges:
    """Edges of shapely polygons, holes included; `owner` counts the polygons."""
    rings, owner = shapely.get_rings(np.array(list(polygons), dtype=object), return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    counts = np.bincount(ring, minlength=len(rings))
    closing = np.cumsum(counts)[counts > 0] - 1
    winding = np.where(np.diff(owner, prepend=-1) > 0, 1.0, -1.0)
    return _oriented(np.delete(points, closing, axis=0), np.maximum(counts - 1, 0), owner, winding)


def _oriented(points: np.ndarray, counts: np.ndarray, owner: np.ndarray, winding: np.ndarray) -> Edges:
    """Close each ring and turn it to the wanted winding: shells positive, holes negative. Empty rings have no edges."""
    drawn = counts > 0
    counts, owner, winding = counts[drawn], owner[drawn], winding[drawn]
    starts = np.cumsum(counts) - counts
    following = np.arange(1, len(points) + 1)
    following[starts + counts - 1] = starts
    ends = np.concatenate([points, points[following]], axis=1)
    x0, y0, x1, y1 = ends.T
    area = np.bincount(np.repeat(np.arange(len(counts)), counts), x0 * y1 - x1 * y0)
    turn = np.repeat(area * winding < 0, counts)
    ends[turn] = ends[turn][:, [2, 3, 0, 1]]
    return Edges(ends, np.repeat(owner, counts))


def _crossings(edges: Edges, window: Window, subrows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where edges meet the window's scan lines: row, x from the window's left, direction (+1, -1), owner."""
    x0, y0, x1, y1 = edges.ends.T
    first, last = window.row * subrows, window.stop_row * subrows
    top = np.clip(np.ceil(np.minimum(y0, y1) * subrows - 0.5), first, last).astype(np.int64)
    bottom = np.clip(np.ceil(np.maximum(y0, y1) * subrows - 0.5), first, last).astype(np.int64)
    seen = np.flatnonzero(bottom > top)
    lines = bottom[seen] - top[seen]
    edge = np.repeat(seen, lines)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(lines) - lines, lines) + top[edge]
    y = (line + 0.5) / subrows
    slope = (x1[seen] - x0[seen]) / (y1[seen] - y0[seen])
    x = x0[edge] + (y - y0[edge]) * np.repeat(slope, lines) - window.col
    direction = np.where(y1 < y0, 1.0, -1.0)[edge]
    return line // subrows - window.row, x, direction, edges.owner[edge]


def cover(edges: Edges, values: np.ndarray, window: Window) -> np.ndarray:
    """Sum over the polygons of value x the share of each pixel that they cover, edges anti-aliased.

    Args:
        edges: The outlines; polygons may overlap, their sums add up.
        values: (C, polygons) float, what each polygon brings per channel.
        window: The pixels wanted, inside or outside of the outlines.

    Returns:
        (C, height, width) float32.
    """
    height, width = window.shape
    row, x, direction, owner = _crossings(edges, window, SUBROWS)
    x = np.clip(x, 0.0, width)
    col = x.astype(np.int64)
    right = x - col
    at = row * (width + 2) + col
    at = np.concatenate([at, at + 1])
    shares = np.concatenate([1 - right, right]) * np.tile(direction, 2) / SUBROWS
    owner = np.tile(owner, 2)
    out = np.empty((len(values), height, width), np.float32)
    for channel, value in enumerate(values):
        steps = np.bincount(at, shares * value[owner], height * (width + 2))
        np.cumsum(steps.reshape(height, -1)[:, :width], axis=1, out=out[channel], dtype=np.float32)
    return out


def inside(edges: Edges, window: Window) -> np.ndarray:
    """Which pixel centres lie in any of the polygons.

    Args:
        edges: The outlines; polygons may touch and overlap.
        window: The pixels wanted.

    Returns:
        (height, width) bool.
    """
    height, width = window.shape
    row, x, direction, _ = _crossings(edges, window, subrows=1)
    col = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    steps = np.bincount(row * (width + 1) + col, direction, height * (width + 1))
    return np.cumsum(steps.reshape(height, -1)[:, :width], axis=1) > 0.5
