"""Polygons from flat arrays of rings, some of them left out."""

import numpy as np
import shapely


def ring_areas(xy: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(r,) float64 areas of open rings, in the units of `xy` squared; all at least one vertex."""
    after = np.arange(1, len(xy) + 1)
    after[offsets[1:] - 1] = offsets[:-1]
    x, y = xy.T
    # Vertices from the ring's first one: far from the origin products of coordinates lose the small area.
    start = np.repeat(offsets[:-1], np.diff(offsets))
    x, y = x - x[start], y - y[start]
    areas: np.ndarray = np.abs(np.add.reduceat(x * y[after] - x[after] * y, offsets[:-1])) / 2
    return areas


def polygons(xy: np.ndarray, starts: np.ndarray, counts: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Polygons of patches that have an outline; empty ones of those that have none.

    Args:
        xy: (n, 2) float64.
        starts: (r,) int64 where each ring begins in `xy`.
        counts: (r,) int64 its vertices, the first one not repeated; 0: left out.
        patches: (p + 1,) int64 first ring of each patch, its outline; at least one each.

    Returns:
        (p,) shapely Polygon, valid or not.
    """
    first = patches[:-1]
    there = counts[first] > 0
    counts = np.where(np.repeat(there, np.diff(patches)), counts, 0)
    closed = np.where(counts > 0, counts + 1, 0)
    ends = np.cumsum(closed)
    ring = np.repeat(np.arange(len(counts)), closed)
    place = np.arange(ends[-1] if len(ends) else 0) - (ends - closed)[ring]
    points = xy[starts[ring] + place % np.maximum(counts, 1)[ring]]
    rings_of = np.add.reduceat(counts > 0, first, dtype=np.int64)[there]
    found = np.full(len(first), shapely.Polygon(), dtype=object)
    found[there] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        points,
        (np.append(0, np.cumsum(closed[counts > 0])), np.append(0, np.cumsum(rings_of))),
    )
    return found
