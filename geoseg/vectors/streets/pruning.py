"""Pruning: spurs that bumps in the outline leave, junctions that one crossing falls into, and parts too small."""

import heapq

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.vectors.streets.extent import Extent
from geoseg.vectors.streets.graph import Graph, Street

SHARE = 0.75
"""Of the width of a street: shorter spurs and shorter distances between junctions come from its width alone."""

BULGE = 0.6
"""The same while a stub may still be the other side of a gap."""
NARROW = 0.6
"""Of the width of the street it leaves: a narrower dead end is a drive, unless it is long."""
NARROW_M = 3.2
"""A dead end narrower than this is one too."""
_CUT_OFF = 1.5
"""Half widths from where the data ends within which that cuts a street off."""
_UNSEEN = 0.5
"""Share of a street without data from which on it is none."""
_STRAIGHT_ON = np.deg2rad(18)
"""Furthest that a street turns in a crossing, if two junctions are to be one."""


def drop_unseen(graph: Graph, closing_m: float) -> None:
    """Take out streets that run along in a gap without data, over which the surface was closed; in place.

    What merely crosses such a gap, which is at most two radii of the closing wide, is kept.
    """
    for number, street in list(graph.streets.items()):
        if street.length > 4 * closing_m and np.isnan(street.prob).mean() > _UNSEEN:
            graph.remove(number)
    graph.tidy()


def prune(graph: Graph, min_spur_m: float, extent: Extent) -> None:
    """Take out dead ends that are too short, the shortest first; what a spur had cut in two becomes one again.

    Args:
        graph: Changed in place.
        min_spur_m: Shortest dead end, unless the street that it leaves is wide, or the end of the data cuts it off:
            nothing says how long that one is. 0: whatever is longer than `BULGE` of it.
        extent: Where there is data.
    """
    queue = [(street.length, number) for number, street in graph.streets.items()]
    heapq.heapify(queue)
    while queue:
        length, number = heapq.heappop(queue)
        if number not in graph.streets or length >= _limit(graph, number, min_spur_m, extent):
            continue
        ends = graph.streets[number].ends
        graph.remove(number)
        for node in ends:
            joined = graph.join(node)
            if joined is not None:
                heapq.heappush(queue, (graph.streets[joined].length, joined))
    graph.tidy()


def _limit(graph: Graph, number: int, min_spur_m: float, extent: Extent) -> float:
    """How long a street has to be: 0 unless it is a dead end that leaves a junction.

    A spur is measured from the side of the street it leaves. One that is much narrower than that street is a drive or a
    path up to twice the length.
    """
    street = graph.streets[number]
    degrees = [graph.degree(node) for node in street.ends]
    if min(degrees) != 1 or max(degrees) < 3:
        return 0
    street = street if degrees[0] > 1 else street.reversed()
    radius = float(np.nan_to_num(street.radius[0]))
    if not min_spur_m:
        return 2 * BULGE * radius
    own = _half_width(street, radius)
    parent = max(_half_width(arm, radius) for other, arm in graph.arms(street.ends[0]) if other != number)
    narrow = own < NARROW * parent or 2 * own < NARROW_M
    least = 2 * SHARE * radius
    # What hangs on a bridge alone has to be more than a blob beside the street.
    whole = max(radius + min_spur_m * (2 if narrow or street.bridged else 1), least)
    if street.length >= whole:
        return whole
    # The line of what is cut off straight ends about half its width before the edge.
    edge = extent.far_from_edge(street.xy[-1], _CUT_OFF * own)
    return least - edge if edge <= _CUT_OFF * own else whole


def _half_width(street: Street, clear: float) -> float:
    """Half the median width of a street from so many metres on, or of all of it, if it is shorter."""
    along = street.along()
    own = street.radius[along > clear]
    own = own[np.isfinite(own)] if len(own) > 2 else street.radius[np.isfinite(street.radius)]
    return float(np.median(own)) if len(own) else 0.0


def contract(graph: Graph) -> None:
    """Make one of junctions that lie closer together than the street is wide, the nearest first; in place."""
    queue = [(street.length, number) for number, street in graph.streets.items()]
    heapq.heapify(queue)
    while queue:
        length, number = heapq.heappop(queue)
        street = graph.streets.get(number)
        if street is None or street.ends[0] == street.ends[1]:
            continue
        if min(graph.degree(node) for node in street.ends) < 3:
            continue
        # A bridge has no radius: of what lies between two of them nothing is junction.
        widest = float(np.nanmax(street.radius[[0, -1]], initial=0))
        if length >= 2 * SHARE * widest and not (length < 6 * widest and _is_crossing(graph, number, 2 * widest)):
            continue
        unite(graph, number, widest)
    graph.tidy()


def unite(graph: Graph, number: int, radius: float) -> int:
    """Make one node of the two that a street lies between, without it and without rings no wider than the junction.

    Args:
        graph: Changed in place.
        number: Of the street.
        radius: Of the junction, metres.

    Returns:
        The node, in the middle of both, nearer to that where more streets meet.
    """
    first, second = graph.streets[number].ends
    weight = np.array([graph.degree(first), graph.degree(second)], float)
    middle = (weight[0] * graph.nodes[first] + weight[1] * graph.nodes[second]) / weight.sum()
    graph.remove(number)
    graph.merge(second, first)
    graph.move(first, middle)
    for loop in sorted(set(graph.at(first))):
        ring = graph.streets[loop]
        if ring.ends == (first, first) and ring.length < 4 * radius:
            graph.remove(loop)
    return first


def _is_crossing(graph: Graph, number: int, clear: float) -> bool:
    """Whether a street is but the middle of a slanting crossing: each arm at one end goes on in one at the other."""
    sides = []
    for node in graph.streets[number].ends:
        arms = [arm for other, arm in graph.arms(node) if other != number]
        if len(arms) != 2:
            return False
        sides.append([_course(arm, clear) for arm in arms])
    (a, b), (c, d) = sides
    return any(max(_bend(*pair) for pair in pairs) < _STRAIGHT_ON for pairs in (((a, c), (b, d)), ((a, d), (b, c))))


def _course(street: Street, clear: float) -> np.ndarray:
    """(2, 2) points of a street, `clear` metres from its beginning and 14 metres further on, or at its end."""
    along = street.along()
    at = np.minimum([clear, clear + 14], [along[-1] / 2, along[-1]])
    return np.column_stack([np.interp(at, along, street.xy[:, axis]) for axis in (0, 1)])


def _bend(first: np.ndarray, second: np.ndarray) -> float:
    """How far one goes straight on in another, both outwards: the larger angle to the line between them, radians."""
    across = second[0] - first[0]
    turns = []
    for way, line in ((first[0] - first[1], across), (second[1] - second[0], across)):
        size = np.hypot(*way) * np.hypot(*line)
        turns.append(np.arccos(np.clip(way @ line / size, -1, 1)) if size else np.pi)
    return float(max(turns))


def drop_small(graph: Graph, min_part_m: float, min_width_m: float) -> None:
    """Take out connected parts whose streets have a smaller length in all, or a smaller mean width; in place."""
    names = {node: index for index, node in enumerate(graph.nodes)}
    ends = np.array([[names[node] for node in street.ends] for street in graph.streets.values()], int).reshape(-1, 2)
    length = np.array([street.length for street in graph.streets.values()])
    size = (len(names), len(names))
    _, part = connected_components(
        coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=size), directed=False
    )
    of = part[ends[:, 0]]
    total = np.bincount(of, length, len(names) + 1)
    width = np.array([2 * _half_width(street, 0) for street in graph.streets.values()])
    mean = np.bincount(of, length * width, len(names) + 1) / np.maximum(total, 1e-9)
    small_parts = (total < min_part_m) | (mean < min_width_m)
    for number, small in zip(list(graph.streets), small_parts[of], strict=True):
        if small:
            graph.remove(number)
    graph.tidy()
