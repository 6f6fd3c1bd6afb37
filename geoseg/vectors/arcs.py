"""Arcs: the borders between patches, each of which is there once however many outlines run along it.

An arc runs from node to node. Nodes are the points in which not exactly two pieces of border meet: where three labels
meet, where patches touch across a corner. An outline without nodes is one closed arc.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from geoseg.vectors.patches import AnyPatches, spans
from geoseg.vectors.rings import SCALE

BATCH = 1 << 20
"""Vertices that are looked at in one go."""
_START, _COUNT, _BEGIN, _FIRST_LOW, _FIRST_HIGH, _LOW, _HIGH = range(7)


@dataclass(frozen=True, slots=True, eq=False)
class Arcs:
    """The borders of patches, and how the rings of these are put together of them. Vertices stay where they are."""

    outlines: AnyPatches
    """Of the patches."""
    place: np.ndarray
    """(arcs,) int64 place of the first vertex, in the ring in which the arc was met first."""
    count: np.ndarray
    """(arcs,) int64 number of vertices, both ends included."""
    ring: np.ndarray
    """(arcs,) int64 that ring."""
    nodes: np.ndarray
    """(nodes, 2) float64 pixel coordinates of the ends of arcs, in reading order, each once."""
    ends: np.ndarray
    """(arcs, 2) int64 index in `nodes` of the first and the last vertex; equal if the arc is closed."""
    use: np.ndarray
    """(uses,) int64 the arcs of one ring behind the other."""
    forward: np.ndarray
    """(uses,) bool: whether the ring runs the arc's way."""
    use_offsets: np.ndarray
    """(rings + 1,) int64 first of each ring in `use`."""

    def __len__(self) -> int:
        return len(self.place)

    def batches(self, chosen: np.ndarray) -> Iterator[np.ndarray]:
        """The chosen arcs in parts of about `BATCH` vertices, at least one arc each."""
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.count[chosen])])
        return (chosen[first:stop] for first, stop in spans(ends, BATCH))

    def points(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) float64 pixel coordinates of the vertices of some arcs, and (arcs + 1,) int64 offsets."""
        outlines, ring, count = self.outlines, self.ring[chosen], self.count[chosen]
        begin = outlines.places[ring]
        size = np.diff(outlines.ring_offsets)[ring]
        # What is left beyond the ring's last vertex goes on from its first.
        straight = np.minimum(count, begin + size - self.place[chosen])
        places = np.column_stack([self.place[chosen], begin]).ravel()
        points, _ = outlines.vertices(places, np.column_stack([straight, count - straight]).ravel())
        return points / SCALE, np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])


def find_arcs(outlines: AnyPatches) -> Arcs:
    """Cut outlines into arcs.

    Args:
        outlines: Exact, traced with `junctions`: neighbours have the same vertices along their border.
    """
    sizes = np.diff(outlines.ring_offsets)
    parts, numbers = [np.empty((0, 7), np.int64)], [np.zeros(1, np.int64)]
    for first, stop in spans(outlines.ring_offsets, BATCH):
        points, marked = outlines.vertices(outlines.places[first:stop], sizes[first:stop])
        offsets = outlines.ring_offsets[first : stop + 1] - outlines.ring_offsets[first]
        found, number = _cut(points, marked, offsets)
        found[:, _START] += np.repeat(outlines.places[first:stop], number)
        parts.append(found)
        numbers.append(number)
    cut, number = np.concatenate(parts), np.concatenate(numbers)
    # A piece belongs to one arc only: the arc's name is the least of its pieces.
    order = np.lexsort((cut[:, _HIGH], cut[:, _LOW]))
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(cut[order][:, [_LOW, _HIGH]], axis=0) != 0).any(axis=1)
    first_use, use = order[new], np.empty(len(order), np.int64)
    use[order] = np.cumsum(new) - 1
    names = [_BEGIN, _FIRST_LOW, _FIRST_HIGH]
    forward = (cut[:, names] == cut[first_use[use]][:, names]).all(axis=1)
    use_offsets = np.cumsum(number)
    following = np.arange(1, len(cut) + 1)
    following[use_offsets[1:] - 1] = use_offsets[:-1]
    ends = np.column_stack([cut[first_use, _BEGIN], cut[following[first_use], _BEGIN]])
    keys, nodes = np.unique(ends, return_inverse=True)
    return Arcs(
        outlines,
        cut[first_use, _START],
        cut[first_use, _COUNT] + 1,
        np.repeat(np.arange(len(number) - 1), number[1:])[first_use],
        np.column_stack([keys & 0xFFFFFFFF, keys >> 32]) / SCALE,
        nodes.reshape(-1, 2),
        use,
        forward,
        use_offsets,
    )


@njit(cache=True, nogil=True)
def _key(point):  # type: ignore[no-untyped-def]
    """A number for a point, by row and column."""
    return np.int64(point[1]) << 32 | np.int64(point[0])


@njit(cache=True, nogil=True)
def _cut(points, is_node, ring_offsets):  # type: ignore[no-untyped-def]
    """The uses of arcs, and how many there are of each ring.

    Per use: its first vertex in the ring, how many pieces it has, its first point, its first and its least piece (by
    the lower of two points, then by the other).
    """
    rings = len(ring_offsets) - 1
    number = np.zeros(rings, np.int64)
    for ring in range(rings):
        for vertex in range(ring_offsets[ring], ring_offsets[ring + 1]):
            number[ring] += is_node[vertex]
        number[ring] = max(number[ring], 1)
    uses, use = np.zeros((number.sum(), 7), np.int64), -1
    for ring in range(rings):
        begin, stop = ring_offsets[ring], ring_offsets[ring + 1]
        first = begin
        for vertex in range(begin, stop):
            if (is_node[vertex] and not is_node[first]) or (
                is_node[vertex] == is_node[first] and _key(points[vertex]) < _key(points[first])
            ):
                first = vertex
        for step in range(stop - begin):
            vertex = begin + (first - begin + step) % (stop - begin)
            here, there = _key(points[vertex]), _key(points[begin + (vertex - begin + 1) % (stop - begin)])
            low, high = min(here, there), max(here, there)
            if step == 0 or is_node[vertex]:
                use += 1
                uses[use, _START], uses[use, _BEGIN] = vertex - begin, here
                uses[use, _FIRST_LOW], uses[use, _FIRST_HIGH] = low, high
                uses[use, _LOW], uses[use, _HIGH] = low, high
            elif low < uses[use, _LOW] or (low == uses[use, _LOW] and high < uses[use, _HIGH]):
                uses[use, _LOW], uses[use, _HIGH] = low, high
            uses[use, _COUNT] += 1
    return uses, number


@njit(cache=True, nogil=True)
def thin(xy, offsets, tolerance, keep):  # type: ignore[no-untyped-def]
    """Mark in `keep` the vertices that are left of arcs: none left out is further off than the tolerance.

    Both ends stay, and with tolerance 0 everything.

    Source: Douglas and Peucker 1973, Cartographica 10(2).
    """
    stack = np.empty((64, 2), np.int64)
    for arc in range(len(tolerance)):
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
def assemble(xy, offsets, use, forward, use_offsets):  # type: ignore[no-untyped-def]
    """Closed rings of the vertices of their arcs: (vertices, 2) float64, and offsets by ring."""
    ends = np.zeros(len(use_offsets), np.int64)
    for ring in range(len(use_offsets) - 1):
        count = 1
        for k in range(use_offsets[ring], use_offsets[ring + 1]):
            count += offsets[use[k] + 1] - offsets[use[k]] - 1
        ends[ring + 1] = ends[ring] + count
    out = np.empty((ends[-1], 2), np.float64)
    for ring in range(len(use_offsets) - 1):
        at = ends[ring]
        for k in range(use_offsets[ring], use_offsets[ring + 1]):
            begin, stop = offsets[use[k]], offsets[use[k] + 1]
            for step in range(stop - begin - 1):  # the last vertex is the first one of the next arc
                out[at] = xy[begin + step] if forward[k] else xy[stop - 1 - step]
                at += 1
        out[at] = out[ends[ring]]
    return out, ends
