"""Rings of patches, grown edge by edge while the rows of a class raster go by; never a picture of all of them.

A crack is the edge between two neighbouring pixels of different labels; four of them meet in a corner of the pixel
lattice. Every chosen pixel beside a crack walks along it with itself on the right-hand side: down its right edge, up
its left one. Chains of cracks are linked lists with both ends known, so that a corner adds a vertex, joins two chains
or closes a ring in constant time, and a closed ring leaves for the output and frees its vertices.

Coordinates are whole numbers of 1/`SCALE` pixel: nothing rounds differently anywhere. What belongs together lies in
one row of an array, which is what the processor's cache likes, and arrays are passed one by one, because numba counts
references to those in a tuple at every call.

`nodes` is (n, 6) int32, a vertex a row:
    `X`, `Y`: its coordinates;
    `AFTER`: the next vertex; of a free row the next free one;
    `MATE`: at both ends of an open chain the other end;
    `TWIN`: where a label meets itself across a corner the vertex of the other pixel, else -1;
    `MARK`: 1 where more than two borders of chosen labels meet.
`closed` is (m, 2) int32: a vertex and the run label of every ring that is closed.
`state` is (4,) int64: `FREE`, the first free row or -1; `FREED`, how many there are; `USED`, rows ever used; `CLOSED`,
how many rings are closed.
`corner` is (6, 4) int64: what lies round a corner, by its edges clockwise as seen on the screen (`TOP`, `RIGHT`,
`BOTTOM`, `LEFT`):
    `LABEL`: of the pixel that follows the edge;
    `INTO`: end of the chain on the edge's other side, that comes in towards the corner;
    `OUT`: end of the chain on that pixel's side, that goes out from the corner;
    `COL`, `ROW`: the edge's vertex of a sub-pixel ring;
    `OWN`: the corner's own vertex in the chain of that pixel, or -1.
"""

import numpy as np

from geoseg.vectors.kernels import inlined, kernel
from geoseg.vectors.runs import PIXELS, root_of

SCALE = 1024
"""Steps of a coordinate in a pixel."""
_KEPT = SCALE // 64  # a vertex stays this far from the pixel's centre: neighbouring segments never touch
TOP, RIGHT, BOTTOM, LEFT = range(4)
X, Y, AFTER, MATE, TWIN, MARK = range(6)
LABEL, INTO, OUT, COL, ROW, OWN = range(6)
FREE, FREED, USED, CLOSED = range(4)


@inlined
def crossing(probabilities, plane, row, col, down, right, here, there):  # type: ignore[no-untyped-def]
    """Where between two pixels their labels are equally probable: -SCALE/2 (the first's centre) to SCALE/2.

    Half way where probabilities are not known or do not agree with the labels. Both pixels' chains ask the same way
    round, so that neighbouring patches share their vertices.

    Args:
        probabilities: (K, h, w) uint8, 255 where not known.
        plane: (256,) int64 index of each label's probability, or -1.
        row: Of the first pixel.
        col: Of the first pixel.
        down: 1 if the second pixel lies below, else 0.
        right: 1 if it lies to the right, else 0.
        here: Label of the first pixel.
        there: Label of the second one.
    """
    own, other = plane[here], plane[there]
    if own < 0 or other < 0:
        return 0
    own_here, own_there = np.int64(probabilities[own, row, col]), np.int64(probabilities[own, row + down, col + right])
    other_here = np.int64(probabilities[other, row, col])
    other_there = np.int64(probabilities[other, row + down, col + right])
    before, behind = own_here - other_here, own_there - other_there
    if 255 in (own_here, own_there, other_here, other_there) or before < 0 or behind > 0 or before == behind:
        return 0
    found = int((before * SCALE + (before - behind) // 2) // (before - behind))
    if found < _KEPT:
        found = _KEPT
    if found > SCALE - _KEPT:
        found = SCALE - _KEPT
    return found - SCALE // 2


@inlined
def _new(nodes, state, x, y, mark):  # type: ignore[no-untyped-def]
    """A chain of one vertex."""
    node = state[FREE]
    if node >= 0:
        state[FREE] = nodes[node, AFTER]
        state[FREED] -= 1
    else:
        node = state[USED]
        state[USED] += 1
    nodes[node, X] = x
    nodes[node, Y] = y
    nodes[node, MATE] = node
    nodes[node, TWIN] = -1
    nodes[node, MARK] = mark
    return node


@inlined
def extend(nodes, state, end, x, y, forward):  # type: ignore[no-untyped-def]
    """Add a vertex behind the last one of a chain (`forward`) or before its first one; returns the new end."""
    node = _new(nodes, state, x, y, 0)
    mate = nodes[end, MATE]
    if forward:
        nodes[end, AFTER] = node
    else:
        nodes[node, AFTER] = end
    nodes[mate, MATE] = node
    nodes[node, MATE] = mate
    return node


@inlined
def _join(nodes, closed, state, tail, head, label):  # type: ignore[no-untyped-def]
    """Join the end of a chain to the beginning of another, or of itself: then a ring is closed."""
    nodes[tail, AFTER] = head
    first, last = nodes[tail, MATE], nodes[head, MATE]
    if first == head:
        closed[state[CLOSED], 0] = head
        closed[state[CLOSED], 1] = label
        state[CLOSED] += 1
    else:
        nodes[first, MATE] = last
        nodes[last, MATE] = first


@inlined
def meet(nodes, closed, state, corner, chosen, row, col, subpixel, junctions, left, right):  # type: ignore[no-untyped-def]
    """Lead the chains of all chosen pixels round a corner through it.

    Pixels between one edge and the next clockwise are of one label; their chain comes in along the second edge and goes
    out along the first. Pixels that touch only across the corner stay apart.

    Args:
        nodes: Room for 12 more vertices is needed.
        closed: Room for 2 more rings is needed.
        state: Of both.
        corner: Its labels, and the chains of the top and the left edge; those of the right and the bottom one are set.
        chosen: (256,) bool by label.
        row: Of the corner.
        col: Of the corner.
        subpixel: A vertex for each crack, else one for each turn.
        junctions: A vertex also where a chain goes straight past the meeting of two others.
        left: Run label of the pixel above to the left.
        right: Run label of the pixel above to the right.
    """
    x, y = col * SCALE, row * SCALE
    edges, borders, own = 0, 0, False
    for edge in range(4):
        label, before = corner[LABEL, edge], corner[LABEL, (edge + 3) & 3]
        edges += label != before
        borders += label != before and (chosen[label] or chosen[before])
        corner[OWN, edge] = -1
    mark = np.int64(borders > 2)
    if edges > 2:
        one, other = corner[LABEL, TOP] == corner[LABEL, BOTTOM], corner[LABEL, RIGHT] == corner[LABEL, LEFT]
        own = junctions and not (one and other) and not (subpixel and (one or other))
        if subpixel and own:
            x, y = _middle(corner, edges)
    for out in range(4):
        if corner[LABEL, out] == corner[LABEL, (out + 3) & 3] or not chosen[corner[LABEL, out]]:
            continue
        steps = 1
        while corner[LABEL, (out + steps) & 3] == corner[LABEL, out]:
            steps += 1
        into = (out + steps) & 3
        vertex = own or (not subpixel and (steps & 1) == 1)
        run = left if into == TOP else right
        _lead(nodes, closed, state, corner, into, out, subpixel, vertex, x, y, mark, run)
    if edges == 4 and not subpixel:
        for edge in range(2):
            if corner[LABEL, edge] == corner[LABEL, edge + 2] and corner[OWN, edge] >= 0:
                nodes[corner[OWN, edge], TWIN] = corner[OWN, edge + 2]
                nodes[corner[OWN, edge + 2], TWIN] = corner[OWN, edge]


@inlined
def _lead(nodes, closed, state, corner, into, out, subpixel, vertex, x, y, mark, run):  # type: ignore[no-untyped-def]
    """Lead one chain in along one edge and out along another, through a vertex of the corner's own if wanted."""
    tail = np.int64(-1)
    if into in (TOP, LEFT):
        tail = corner[INTO, into]
    elif subpixel:
        tail = _new(nodes, state, corner[COL, into], corner[ROW, into], 0)
        corner[INTO, into] = tail
    if vertex:
        if tail < 0:
            tail = corner[INTO, into] = _new(nodes, state, x, y, mark)
        else:
            tail = extend(nodes, state, tail, x, y, True)
            nodes[tail, MARK] = mark
        corner[OWN, out] = tail
    if out in (TOP, LEFT):
        if tail < 0:
            corner[INTO, into] = corner[OUT, out]
        else:
            _join(nodes, closed, state, tail, corner[OUT, out], run)
    elif subpixel:
        corner[OUT, out] = extend(nodes, state, tail, corner[COL, out], corner[ROW, out], True)
    else:
        corner[OUT, out] = tail


@kernel
def _middle(corner, edges):  # type: ignore[no-untyped-def]
    """The mean of the vertices of the edges that meet: inside the square of the four pixels' centres."""
    x, y = np.int64(0), np.int64(0)
    for edge in range(4):
        if corner[LABEL, edge] != corner[LABEL, (edge + 3) & 3]:
            x += corner[COL, edge]
            y += corner[ROW, edge]
    return x // edges, y // edges


def harvest(
    nodes: np.ndarray, closed: np.ndarray, state: np.ndarray, runs: np.ndarray, min_pixels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take the closed rings out of the lists, split where they touch themselves, and free their vertices.

    The chains of a patch keep two of its pixels that touch only across a corner apart. If they prove to be of one ring,
    that ring is cut in two at this corner: an outline and a hole, or two holes, that share one point. Pixels of a patch
    hang together by their edges, so such cuts never cross each other.

    Args:
        nodes: Vertices.
        closed: Rings.
        state: Of both; no ring is closed afterwards.
        runs: Their patches; the pixels of a patch are all counted once its outline is closed.
        min_pixels: Outlines of smaller patches are left out.

    Returns:
        (n, 2) int32 x, y of the rings' vertices, each from its uppermost leftmost one on, right-hand side inside;
        (n,) uint8 marks; (rings, 3) int32 number of vertices, run label, and 1 for a hole.
    """
    room = state[USED] - state[FREED]  # memory that is not written to is not taken
    points, marks = np.empty((room, 2), np.int32), np.empty(room, np.uint8)
    rings, at = np.empty((room // 4 + 1, 3), np.int32), np.zeros(2, np.int64)  # at: vertices and rings so far
    _gather(nodes, closed, state, runs, min_pixels, np.empty((room, 4), np.int32), points, marks, rings, at)
    return points[: at[0]], marks[: at[0]], rings[: at[1]]


@kernel
def _gather(nodes, closed, state, runs, min_pixels, stack, points, marks, rings, at):  # type: ignore[no-untyped-def]
    """`harvest`, into these arrays."""
    for index in range(state[CLOSED]):
        first, label = int(closed[index, 0]), root_of(runs, np.int64(closed[index, 1]))
        small = runs[label, PIXELS] < min_pixels
        node, height = first, 0
        while True:
            twin = int(nodes[node, TWIN])
            stack[height, 0], stack[height, 1] = nodes[node, X], nodes[node, Y]
            stack[height, 2], stack[height, 3] = nodes[node, MARK], twin
            height += 1
            if twin >= 0:
                nodes[twin, TWIN] = -1 - height  # how high the stack is without what comes now
            elif twin < -1 and -1 - twin <= height and stack[-2 - twin, 3] == node:  # so it was seen in this ring
                _take(stack, -1 - twin, height, label, small, points, marks, rings, at)
                height = -1 - twin
            following = int(nodes[node, AFTER])
            nodes[node, AFTER] = state[FREE]
            state[FREE] = node
            state[FREED] += 1
            node = following
            if node == first:
                break
        _take(stack, 0, height, label, small, points, marks, rings, at)
    state[CLOSED] = 0


@kernel
def _take(stack, begin, end, label, small, points, marks, rings, at):  # type: ignore[no-untyped-def]
    """Write the ring in this part of the stack, unless it is the outline of a small patch."""
    first, before, area = begin, end - 1, 0
    for index in range(begin, end):
        x, y = int(stack[index, 0]), int(stack[index, 1])
        area += int(stack[before, 0]) * y - x * int(stack[before, 1])
        before = index
        if y < stack[first, 1] or (y == stack[first, 1] and x < stack[first, 0]):
            first = index
    if small and area > 0:
        return
    to = at[0]
    for part in range(2):
        for index in range(begin if part else first, first if part else end):
            points[to, 0], points[to, 1], marks[to] = stack[index, 0], stack[index, 1], stack[index, 2]
            to += 1
    rings[at[1], 0], rings[at[1], 1], rings[at[1], 2] = to - at[0], label, area < 0
    at[0] = to
    at[1] += 1
