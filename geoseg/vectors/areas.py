"""Areas: polygons of several classes, simplified together so that neighbours still share their borders exactly.

Borders are simplified, not polygons: every border once, from node to node, and the polygons are put together of what is
left. No gap opens and nothing overlaps, as long as borders do not run into each other: those that would are simplified
less, down to the pixels' own outline.
"""

from dataclasses import dataclass, field

import numpy as np
import shapely

from geoseg.errors import UsageError
from geoseg.vectors.arcs import Arcs, assemble, find_arcs, swept, thin
from geoseg.vectors.metric import Metric
from geoseg.vectors.patches import AnyPatches
from geoseg.vectors.threads import in_threads

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


def fit_areas(patches: AnyPatches, metric: Metric, *, tolerance_m: float) -> Areas:
    """Simplify polygons of several classes without gaps, overlaps or lost holes.

    No vertex of the pixels' outline is further than the tolerance from the border that replaces it. Patches never
    vanish, however small. The result depends on the patches alone. Memory is that of the simplified borders.

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
    borders = _Borders(arcs, metric)
    tolerance, changed = np.full(len(arcs), float(tolerance_m)), np.arange(len(arcs))
    bad = borders.draw(changed, tolerance)
    order = _order(arcs, borders.place, borders.raw_beside)
    while tolerance_m and len(changed):
        bad = np.union1d(bad, _collapsed(borders))
        bad = np.union1d(bad, _crossing(borders, changed))
        bad = np.union1d(bad, _turned(arcs, order, _order(arcs, borders.place, borders.beside)))
        changed = bad[tolerance[bad] > 0].astype(np.int64)
        tolerance[changed] /= 2
        tolerance[tolerance < _FINEST * metric.gsd] = 0
        bad = borders.draw(changed, tolerance)
    closed, offsets = assemble(*borders.flat(), arcs.use, arcs.forward, arcs.use_offsets)
    polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, closed, (offsets, patches.patch_offsets))
    least = np.minimum.reduceat(tolerance[arcs.use], arcs.use_offsets[patches.patch_offsets[:-1]])
    # Raw is a patch of which every vertex is still there.
    vertices = np.diff(offsets[patches.patch_offsets]) - np.diff(patches.patch_offsets)
    raw = vertices == np.diff(patches.ring_offsets[patches.patch_offsets])
    return Areas(polygons, np.where(raw, "raw", "simplified"), least)


@dataclass(slots=True, eq=False)
class _Borders:
    """The arcs as they are drawn; what was left out is on disk and looked at again only where it matters."""

    arcs: Arcs
    metric: Metric
    place: np.ndarray = field(init=False)
    """(nodes, 2) float64 metres."""
    lines: np.ndarray = field(init=False)
    """(arcs,) shapely LineString in metres."""
    area: np.ndarray = field(init=False)
    """(arcs,) float64 signed area between the pixels' outline and the straight way back."""
    left: np.ndarray = field(init=False)
    """(arcs,) float64 the same of what is drawn."""
    beside: np.ndarray = field(init=False)
    """(arcs, 2, 2) float64 the vertices next to both ends."""
    raw_beside: np.ndarray = field(init=False)
    """The same of the pixels' outline."""
    _nodes: shapely.STRtree = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.arcs)
        self.place = self.metric.to_metres(self.arcs.nodes)
        self.lines = np.empty(count, object)
        self.area, self.left = np.full(count, np.nan), np.empty(count)
        self.beside, self.raw_beside = np.empty((count, 2, 2)), np.empty((count, 2, 2))
        self._nodes = shapely.STRtree(shapely.points(self.place))

    def draw(self, chosen: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
        """Draw some arcs by the (arcs,) tolerances. Those of them that now have a node on their other side."""
        jumping = in_threads(lambda batch: self._draw(batch, tolerance[batch]), self.arcs.batches(chosen))
        return np.concatenate([np.empty(0, np.int64), *jumping])

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) float64 vertices of all arcs as they are drawn, and (arcs + 1,) int64 offsets."""
        ends = np.cumsum(shapely.get_num_coordinates(self.lines), dtype=np.int64)
        return shapely.get_coordinates(self.lines), np.concatenate([np.zeros(1, np.int64), ends])

    def _draw(self, batch: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
        points, offsets = self.arcs.points(batch)
        xy = self.metric.to_metres(points)
        begins, stops = offsets[:-1], offsets[1:] - 1
        xy[begins], xy[stops] = self.place[self.arcs.ends[batch]].swapaxes(0, 1)  # the same to the last bit for all
        keep = np.ones(len(xy), np.bool_)
        thin(xy, offsets, tolerance, keep)
        index = np.flatnonzero(keep)
        kept = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.add.reduceat(keep, begins, dtype=np.int64))])
        self.area[batch], self.left[batch] = _areas(xy, offsets), _areas(xy[index], kept)
        self.raw_beside[batch] = np.stack([xy[begins + 1], xy[stops - 1]], axis=1)
        self.beside[batch] = np.stack([xy[index[kept[:-1] + 1]], xy[index[kept[1:] - 2]]], axis=1)
        self.lines[batch] = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, xy[index], (kept,))
        return batch[self._jumping(batch, xy, offsets, index)]

    def _jumping(self, batch: np.ndarray, xy: np.ndarray, offsets: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Arcs that leave an end of another one on their other side: an island beside a border, for one."""
        arc = np.searchsorted(offsets, index, side="right") - 1
        chords = np.flatnonzero((arc[:-1] == arc[1:]) & (np.diff(index) > 1))
        begin, last, arc = index[chords], index[chords + 1], arc[chords]
        if not len(chords):
            return arc
        # Between the vertices of one chord and those of the next nothing is left out: the bounds are of each chord
        # alone.
        ranges = np.column_stack([begin, last + 1]).ravel()
        padded = np.concatenate([xy, xy[-1:]])
        low, high = np.minimum.reduceat(padded, ranges)[::2], np.maximum.reduceat(padded, ranges)[::2]
        boxes = shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])
        chord, node = self._nodes.query(boxes)
        own = (self.arcs.ends[batch[arc[chord]]] == node[:, None]).any(axis=1)
        chord, node = chord[~own], node[~own]
        over = swept(xy, begin[chord], last[chord], self.place[node])
        return np.unique(arc[chord[over]])


def _collapsed(borders: _Borders) -> np.ndarray:
    """Arcs of rings that are no rings any more, and closed arcs that lost or gained much of their area."""
    arcs = borders.arcs
    kept = shapely.get_num_coordinates(borders.lines)
    corners = np.add.reduceat(kept[arcs.use] - 1, arcs.use_offsets[:-1])
    rings = np.repeat(corners < 3, np.diff(arcs.use_offsets))
    closed = arcs.ends[:, 0] == arcs.ends[:, 1]
    changed = closed & (np.abs(borders.left - borders.area) > AREA_CHANGE * np.abs(borders.area))
    return np.union1d(arcs.use[rings], np.flatnonzero(changed))


def _areas(xy: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(arcs,) signed area between each arc and the straight way back."""
    # About the first vertex: coordinates are large, and islands small.
    x, y = (xy - np.repeat(xy[offsets[:-1]], np.diff(offsets), axis=0)).T
    turns = np.append(x[:-1] * y[1:] - x[1:] * y[:-1], 0.0)
    turns[offsets[1:] - 1] = 0
    found: np.ndarray = np.add.reduceat(turns, offsets[:-1]) / 2
    return found


def _crossing(borders: _Borders, changed: np.ndarray) -> np.ndarray:
    """Arcs that meet themselves or another one elsewhere than in their nodes; of the latter one at least is new."""
    lines = borders.lines
    itself = changed[~shapely.is_simple(lines[changed])]
    first, second = shapely.STRtree(lines).query(lines[changed], predicate="intersects")
    first = changed[first]
    other = first != second
    first, second = first[other], second[other]
    shared = shapely.intersection(lines[first], lines[second])
    nodes = _common_ends(borders.arcs.ends, first, second)
    bad = (shapely.get_dimensions(shared) > 0) | (shapely.get_num_coordinates(shared) != nodes)
    return np.union1d(itself, np.concatenate([first[bad], second[bad]]))


def _common_ends(ends: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) in how many points the ends of two arcs coincide."""
    a, b = ends[first], ends[second]
    begins = (a[:, 0] == b[:, 0]) | (a[:, 0] == b[:, 1])
    stops = ((a[:, 1] == b[:, 0]) | (a[:, 1] == b[:, 1])) & (a[:, 0] != a[:, 1])
    return begins.astype(np.int64) + stops


def _order(arcs: Arcs, place: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """(2 arcs,) which end of an arc follows each one round its node: beginnings first, then the other ends.

    Args:
        arcs: All.
        place: (nodes, 2) where nodes are.
        beside: (arcs, 2, 2) the vertices next to both ends of each arc.
    """
    node = arcs.ends.T.ravel()
    x, y = (beside.swapaxes(0, 1).reshape(-1, 2) - place[node]).T
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
