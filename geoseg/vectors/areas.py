"""Areas: polygons of several classes, simplified together so that neighbours still share their borders exactly.

Borders are simplified, not polygons: every border once, from node to node, and the polygons are put together of what is
left. No gap opens and nothing overlaps, as long as borders do not run into each other: those that would are simplified
less, down to the pixels' own outline.
"""

from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.errors import UsageError
from geoseg.vectors.arcs import Arcs, assemble, find_arcs, swept, thin
from geoseg.vectors.metric import Metric
from geoseg.vectors.patches import Patches

AREA_CHANGE = 0.2
"""A patch whose border touches no other keeps its area within this: small islands stay what they are."""
_FINEST = 0.35
"""Pixels: a finer tolerance removes nothing of a staircase, so the outline is left as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Areas:
    """Simplified polygons, in the order of the patches."""

    polygons: np.ndarray
    """(patches,) shapely Polygon in metres."""
    method: np.ndarray
    """(patches,) str: `simplified`, or `raw` where nothing could be left out."""
    tolerance_m: np.ndarray
    """(patches,) float64: the least tolerance of its borders; less than asked for where borders are close."""


def fit_areas(patches: Patches, metric: Metric, *, tolerance_m: float) -> Areas:
    """Simplify polygons of several classes without gaps, overlaps or lost holes.

    No vertex of the pixels' outline is further than the tolerance from the border that replaces it. Patches never
    vanish, however small. The result depends on the patches alone.

    Args:
        patches: Exact outlines of all classes wanted, traced together with `junctions`.
        metric: From their pixels to metres.
        tolerance_m: At least 0; 0 leaves the pixels' outlines. In pixels, where the metric has no metres.

    Raises:
        UsageError: If the tolerance is negative or no number.
    """
    if not 0 <= tolerance_m < np.inf:
        raise UsageError(f"tolerance_m={tolerance_m} is no tolerance. Expected 0 or more metres. Try 1.")
    arcs = find_arcs(patches)
    if not len(arcs):
        return Areas(np.empty(0, dtype=object), np.empty(0, dtype=str), np.empty(0))
    xy = np.ascontiguousarray(metric.to_metres(arcs.points)[arcs.at])
    keep = np.ones(len(xy), np.bool_)
    tolerance = np.full(len(arcs), float(tolerance_m))
    order = _order(arcs, xy, keep)
    changed = np.arange(len(arcs)) if tolerance_m else np.empty(0, np.int64)
    while len(changed):
        thin(xy, arcs.offsets, tolerance, changed, keep)
        bad = np.union1d(_collapsed(arcs, xy, keep), _crossing(arcs, xy, keep, changed))
        bad = np.union1d(bad, _jumping(arcs, xy, keep, changed))
        bad = np.union1d(bad, _turned(arcs, order, _order(arcs, xy, keep)))
        changed = bad[tolerance[bad] > 0].astype(np.int64)
        tolerance[changed] /= 2
        tolerance[tolerance < _FINEST * metric.gsd] = 0
    closed, offsets = assemble(xy, arcs.offsets, keep, arcs.use, arcs.forward, arcs.use_offsets)
    polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, closed, (offsets, patches.patch_offsets))
    least = np.minimum.reduceat(tolerance[arcs.use], arcs.use_offsets[patches.patch_offsets[:-1]])
    # Raw is a patch of which every vertex is still there.
    vertices = np.diff(offsets[patches.patch_offsets]) - np.diff(patches.patch_offsets)
    raw = vertices == np.diff(patches.ring_offsets[patches.patch_offsets])
    return Areas(polygons, np.where(raw, "raw", "simplified"), least)


def _collapsed(arcs: Arcs, xy: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Arcs of rings that are no rings any more, and closed arcs that lost or gained much of their area."""
    kept = np.add.reduceat(keep, arcs.offsets[:-1], dtype=np.int64)
    corners = np.add.reduceat(kept[arcs.use] - 1, arcs.use_offsets[:-1])
    rings = np.repeat(corners < 3, np.diff(arcs.use_offsets))
    area = _areas(xy, arcs.offsets)
    index = np.flatnonzero(keep)
    left = _areas(xy[index], np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)]))
    closed = arcs.ends[:, 0] == arcs.ends[:, 1]
    changed = closed & (np.abs(left - area) > AREA_CHANGE * np.abs(area))
    return np.union1d(arcs.use[rings], np.flatnonzero(changed))


def _areas(xy: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(arcs,) signed area between each arc and the straight way back."""
    # About the first vertex: coordinates are large, and islands small.
    x, y = (xy - np.repeat(xy[offsets[:-1]], np.diff(offsets), axis=0)).T
    turns = np.append(x[:-1] * y[1:] - x[1:] * y[:-1], 0.0)
    turns[offsets[1:] - 1] = 0
    found: np.ndarray = np.add.reduceat(turns, offsets[:-1]) / 2
    return found


def _crossing(arcs: Arcs, xy: np.ndarray, keep: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Arcs that meet themselves or another one elsewhere than in their nodes; of the latter one at least is new."""
    kept = np.add.reduceat(keep, arcs.offsets[:-1], dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    lines = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, xy[keep], (offsets,))
    itself = changed[~shapely.is_simple(lines[changed])]
    first, second = shapely.STRtree(lines).query(lines[changed], predicate="intersects")
    first = changed[first]
    other = first != second
    first, second = first[other], second[other]
    shared = shapely.intersection(lines[first], lines[second])
    nodes = _common_ends(arcs.ends, first, second)
    bad = (shapely.get_dimensions(shared) > 0) | (shapely.get_num_coordinates(shared) != nodes)
    return np.union1d(itself, np.concatenate([first[bad], second[bad]]))


def _common_ends(ends: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) in how many points the ends of two arcs coincide."""
    a, b = ends[first], ends[second]
    begins = (a[:, 0] == b[:, 0]) | (a[:, 0] == b[:, 1])
    stops = ((a[:, 1] == b[:, 0]) | (a[:, 1] == b[:, 1])) & (a[:, 0] != a[:, 1])
    return begins.astype(np.int64) + stops


def _jumping(arcs: Arcs, xy: np.ndarray, keep: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Arcs that leave an end of another one on their other side: an island beside a border, for one."""
    index = np.flatnonzero(keep)
    arc = np.searchsorted(arcs.offsets, index, side="right") - 1
    chords = np.flatnonzero((arc[:-1] == arc[1:]) & (np.diff(index) > 1) & np.isin(arc[:-1], changed))
    begin, last, arc = index[chords], index[chords + 1], arc[chords]
    if not len(chords):
        return arc
    # Between the vertices of one chord and those of the next nothing is left out: the bounds are of each chord alone.
    ranges = np.column_stack([begin, last + 1]).ravel()
    padded = np.concatenate([xy, xy[-1:]])
    low, high = np.minimum.reduceat(padded, ranges)[::2], np.maximum.reduceat(padded, ranges)[::2]
    nodes = np.unique(arcs.ends)
    place = np.empty((arcs.at.max() + 1, 2))
    place[arcs.at] = xy
    boxes = shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])
    chord, node = shapely.STRtree(shapely.points(place[nodes])).query(boxes)
    own = (arcs.ends[arc[chord]] == nodes[node][:, None]).any(axis=1)
    chord, node = chord[~own], node[~own]
    over = swept(xy, begin[chord], last[chord], place[nodes[node]])
    return np.unique(arc[chord[over]])


def _order(arcs: Arcs, xy: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """(2 arcs,) which end of an arc follows each one round its node: beginnings first, then the other ends."""
    index = np.flatnonzero(keep)
    begins, stops = (np.searchsorted(index, at) for at in (arcs.offsets[:-1], arcs.offsets[1:] - 1))
    here = np.concatenate([arcs.offsets[:-1], arcs.offsets[1:] - 1])
    there = index[np.concatenate([begins + 1, stops - 1])]
    x, y = (xy[there] - xy[here]).T
    node = arcs.ends.T.ravel()
    by_angle = np.lexsort((np.arctan2(y, x), node))
    first = np.searchsorted(node[by_angle], node[by_angle], side="left")
    last = np.append(np.diff(node[by_angle]) != 0, True)
    following = np.empty(len(node), np.int64)
    following[by_angle] = by_angle[np.where(last, first, np.minimum(np.arange(len(node)) + 1, len(node) - 1))]
    return following


def _turned(arcs: Arcs, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Arcs at nodes round which arcs have another order than before: one has turned over another."""
    node = arcs.ends.T.ravel()
    turned = np.unique(node[before != after])
    return np.flatnonzero(np.isin(arcs.ends, turned).any(axis=1))
