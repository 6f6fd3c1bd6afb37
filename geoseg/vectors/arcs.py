"""Arcs: the borders between patches, each of which is there once however many outlines run along it.

An arc runs from node to node. Nodes are the points in which not exactly two pieces of border meet: where three labels
meet, where patches touch across a corner. An outline without nodes is one closed arc.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from geoseg.vectors.patches import Patches
from geoseg.vectors.rings import SCALE


@dataclass(frozen=True, slots=True, eq=False)
class Arcs:
    """The borders of patches, and how the rings of these are put together of them."""

    points: np.ndarray
    """(points, 2) float64 pixel coordinates, in reading order, each once."""
    at: np.ndarray
    """(vertices,) int64 index in `points` of the vertices of one arc behind the other, both ends included."""
    offsets: np.ndarray
    """(arcs + 1,) int64 first vertex of each arc in `at`."""
    use: np.ndarray
    """(uses,) int64 the arcs of one ring behind the other."""
    forward: np.ndarray
    """(uses,) bool: whether the ring runs the arc's way."""
    use_offsets: np.ndarray
    """(rings + 1,) int64 first of each ring in `use`."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def ends(self) -> np.ndarray:
        """(arcs, 2) int64 index in `points` of the first and the last vertex; equal if the arc is closed."""
        return np.column_stack([self.at[self.offsets[:-1]], self.at[self.offsets[1:] - 1]])


def find_arcs(patches: Patches) -> Arcs:
    """Cut outlines into arcs.

    Args:
        patches: Exact outlines, traced with `junctions`: neighbours have the same vertices along their border.
    """
    points, point = _distinct(patches.points)
    after = np.arange(1, len(point) + 1)
    starts, stops = patches.ring_offsets[:-1], patches.ring_offsets[1:]
    after[stops - 1] = starts
    low, high = np.minimum(point, point[after]), np.maximum(point, point[after])
    pieces, piece = np.unique(low * len(points) + high, return_inverse=True)
    meeting = np.bincount(np.concatenate(np.divmod(pieces, max(len(points), 1))), minlength=len(points))
    start, count, key, use_offsets = _cut(point, piece, patches.ring_offsets, meeting != 2)
    # A piece belongs to one arc only: the arc's name is the least of its pieces.
    _, first, use = np.unique(key, return_index=True, return_inverse=True)
    ring = np.repeat(np.arange(len(starts)), np.diff(use_offsets))
    forward = (point[start] == point[start[first[use]]]) & (piece[start] == piece[start[first[use]]])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(count[first] + 1)])
    begin = starts[ring[first]]
    each = count[first] + 1
    # Vertices of an arc follow each other round the ring in which it was met first.
    step = np.arange(offsets[-1]) + np.repeat(start[first] - begin - offsets[:-1], each)
    at = point[step % np.repeat((stops - starts)[ring[first]], each) + np.repeat(begin, each)]
    return Arcs(points / SCALE, at, offsets, use, forward, use_offsets)


def _distinct(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each point once, by row and column; and which of these each vertex is."""
    key = points[:, 1].astype(np.int64) << 32 | points[:, 0].astype(np.int64)
    found, point = np.unique(key, return_inverse=True)
    return np.column_stack([found & 0xFFFFFFFF, found >> 32]), point


@njit(cache=True, nogil=True)
def _cut(point, piece, ring_offsets, is_node):  # type: ignore[no-untyped-def]
    """Per use of an arc: its first vertex, how many pieces it has, and the least of them; and offsets by ring."""
    rings = len(ring_offsets) - 1
    use_offsets = np.zeros(rings + 1, np.int64)
    for ring in range(rings):
        nodes = 0
        for vertex in range(ring_offsets[ring], ring_offsets[ring + 1]):
            nodes += is_node[point[vertex]]
        use_offsets[ring + 1] = use_offsets[ring] + max(nodes, 1)
    start = np.empty(use_offsets[rings], np.int64)
    count, key = np.zeros(use_offsets[rings], np.int64), np.empty(use_offsets[rings], np.int64)
    for ring in range(rings):
        begin, stop = ring_offsets[ring], ring_offsets[ring + 1]
        first = begin
        for vertex in range(begin, stop):
            here, best = point[vertex], point[first]
            if (is_node[here] and not is_node[best]) or (is_node[here] == is_node[best] and here < best):
                first = vertex
        use = use_offsets[ring] - 1
        for step in range(stop - begin):
            vertex = begin + (first - begin + step) % (stop - begin)
            if step == 0 or is_node[point[vertex]]:
                use += 1
                start[use], key[use] = vertex, piece[vertex]
            count[use] += 1
            key[use] = min(key[use], piece[vertex])
    return start, count, key, use_offsets


@njit(cache=True, nogil=True)
def thin(xy, offsets, tolerance, chosen, keep):  # type: ignore[no-untyped-def]
    """Mark in `keep` the vertices that are left of the `chosen` arcs: none left out is further off than the tolerance.

    Both ends stay, and with tolerance 0 everything.

    Source: Douglas and Peucker 1973, Cartographica 10(2).
    """
    stack = np.empty((64, 2), np.int64)
    for arc in chosen:
        begin, last = offsets[arc], offsets[arc + 1] - 1
        keep[begin : last + 1] = tolerance[arc] <= 0
        keep[begin] = keep[last] = True
        if tolerance[arc] <= 0:
            continue
        stack[0], size = (begin, last), 1
        while size > 0:
            size -= 1
            i, j = stack[size]
            far, most = -1, tolerance[arc] * tolerance[arc]
            for k in range(i + 1, j):
                off = _squared(xy[k], xy[i], xy[j])
                if off > most:
                    far, most = k, off
            if far < 0:
                continue
            keep[far] = True
            if size + 2 > len(stack):
                stack = np.concatenate((stack, np.empty_like(stack)))
            stack[size], stack[size + 1] = (i, far), (far, j)
            size += 2


@njit(cache=True, nogil=True)
def _squared(p, a, b):  # type: ignore[no-untyped-def]
    """Squared distance of a point to a segment."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = dx * dx + dy * dy
    t = 0.0
    if length > 0:
        t = min(max(((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / length, 0.0), 1.0)
    ex, ey = p[0] - a[0] - t * dx, p[1] - a[1] - t * dy
    return ex * ex + ey * ey


@njit(cache=True, nogil=True)
def swept(xy, begin, last, where):  # type: ignore[no-untyped-def]
    """(n,) bool: whether point k of `where` lies between the vertices begin[k] to last[k] and the straight way."""
    found = np.zeros(len(begin), np.bool_)
    for k in range(len(begin)):
        x, y = where[k]
        previous = last[k]
        for vertex in range(begin[k], last[k] + 1):
            (x0, y0), (x1, y1) = xy[previous], xy[vertex]
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                found[k] = not found[k]
            previous = vertex
    return found


@njit(cache=True, nogil=True)
def assemble(xy, offsets, keep, use, forward, use_offsets):  # type: ignore[no-untyped-def]
    """Closed rings of the kept vertices of their arcs: (vertices, 2) float64, and offsets by ring."""
    kept = np.zeros(len(offsets) - 1, np.int64)
    for arc in range(len(kept)):
        kept[arc] = keep[offsets[arc] : offsets[arc + 1]].sum()
    ends = np.zeros(len(use_offsets), np.int64)
    for ring in range(len(use_offsets) - 1):
        count = 1
        for k in range(use_offsets[ring], use_offsets[ring + 1]):
            count += kept[use[k]] - 1
        ends[ring + 1] = ends[ring] + count
    out = np.empty((ends[-1], 2), np.float64)
    for ring in range(len(use_offsets) - 1):
        at = ends[ring]
        for k in range(use_offsets[ring], use_offsets[ring + 1]):
            begin, stop = offsets[use[k]], offsets[use[k] + 1]
            for step in range(stop - begin - 1):  # the last vertex is the first one of the next arc
                vertex = begin + step if forward[k] else stop - 1 - step
                if keep[vertex]:
                    out[at] = xy[vertex]
                    at += 1
        out[at] = out[ends[ring]]
    return out, ends
