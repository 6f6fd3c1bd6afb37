"""Junctions put where their arms meet; those of two streets that do not meet in one point made two."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import shapely

from geoseg.vectors.streets.arms import Arm, find_arms, meeting
from geoseg.vectors.streets.crossings import find_crossings
from geoseg.vectors.streets.graph import Graph, Street
from geoseg.vectors.streets.pruning import unite

_ROUNDS = 3
"""Times that junctions are put in place and those that come to lie in each other made one."""
_HAIR = 1e-6  # metres
_APART = 1.2
"""Of the width of the narrower street: junctions nearer to each other are one."""
_APART_M = 4.5
"""And junctions that lie in the same surface are two from this distance on."""
_BEYOND = 1.6
"""Clear lengths of the street that goes through within which such a place is believed."""
_THROUGH = np.deg2rad(35)
"""Furthest that a street turns in a junction and still goes through it."""


def settle(graph: Graph) -> None:
    """Move each junction to the point nearest to the lines along its arms; the arms go straight to it. In place."""
    own: dict[int, float] = {}
    part(graph, own)
    arms: dict[int, list[Arm]] = {}
    spots: dict[int, np.ndarray] = {}
    stale: Iterable[int] = sorted(graph.nodes)
    for last in range(_ROUNDS, -1, -1):
        fresh = find_arms(graph, stale, own)
        arms |= fresh
        spots |= {node: meeting(graph.nodes[node], found) for node, found in fresh.items()}
        united = _unite_passed(graph, arms, spots) if last else []
        if not united:
            break
        arms = {node: found for node, found in arms.items() if node in graph.nodes}
        spots = {node: spots[node] for node in arms}
        stale = united
    # An arm does not go back to a junction that has moved along it.
    clear = {
        (arm.street, arm.end): max(arm.clear, float((spots[node] - graph.nodes[node]) @ arm.away) + arm.radius)
        for node, found in arms.items()
        for arm in found
    }
    for number, street in graph.streets.items():
        graph.streets[number] = _trimmed(street, clear.get((number, 0), 0.0), clear.get((number, -1), 0.0))
    for node, spot in spots.items():
        graph.move(node, spot)
    # A loop that was shorter than its junction is wide has come to nothing.
    nothing = [n for n, street in graph.streets.items() if street.ends[0] == street.ends[1] and street.length < _HAIR]
    for number in nothing:
        graph.remove(number)
    if nothing:
        graph.tidy()


def _unite_passed(graph: Graph, arms: dict[int, list[Arm]], spots: dict[int, np.ndarray]) -> list[int]:
    """Make one of junctions that come to lie in or behind each other; the nodes of which something has changed."""
    narrowest = {node: min(arm.radius for arm in found) for node, found in arms.items()}
    changed: set[int] = set()
    for number, street in list(graph.streets.items()):
        if number not in graph.streets:
            continue
        first, second = street.ends
        if first == second or first in changed or second in changed or not (first in spots and second in spots):
            continue
        before, after = graph.nodes[second] - graph.nodes[first], spots[second] - spots[first]
        far, narrow = float(np.hypot(*after)), min(narrowest[first], narrowest[second])
        if street.length < 12 * narrow and (far < _APART * 2 * narrow or before @ after <= 0):
            changed.add(unite(graph, number, narrow))
    if changed:
        near = {node for at in changed for number in graph.at(at) for node in graph.streets[number].ends}
        graph.tidy()
        changed |= near | {node for node in graph.nodes if node in spots and graph.degree(node) != len(arms[node])}
    return sorted(changed)


def part(graph: Graph, own: dict[int, float]) -> None:
    """Make several of a junction at whose through street others end in different places; in place.

    Args:
        graph: Of streets.
        own: Half the widths of streets by number, as far as they are known; more are added.
    """
    crossings = [node for node in sorted(graph.nodes) if graph.degree(node) > 3]
    for node, arms in find_arms(graph, crossings, own).items():
        if len({arm.street for arm in arms}) < len(arms):
            continue
        through = _through(arms)
        if through is None:
            continue
        sides = [arm for arm in arms if arm not in through and arm.weight]
        if len(sides) < 2:
            continue
        spots = [meeting(graph.nodes[node], [*through, arm]) for arm in sides]
        course = through[1].away - through[0].away
        course /= np.hypot(*course)
        place = np.array([(spot - graph.nodes[node]) @ course for spot in spots])
        if place.min() < -_BEYOND * through[0].clear or place.max() > _BEYOND * through[1].clear:
            continue
        order = np.argsort(place, kind="stable")
        gaps = np.diff(place[order])
        most = max(_APART_M, _APART * 2 * max(arm.radius for arm in sides))
        if gaps.max() < most:
            continue
        groups = [[sides[k] for k in group] for group in np.split(order, np.flatnonzero(gaps >= most) + 1)]
        middles = [np.mean([spots[sides.index(arm)] for arm in group], axis=0) for group in groups]
        if not _tangled(through, groups, middles):
            _spread(graph, node, through, groups, middles)


def _through(arms: list[Arm]) -> tuple[Arm, Arm] | None:
    """The two arms that go on in each other: the widest of those that turn little; the first lies before the second."""
    best, most = None, 0.0
    for index, first in enumerate(arms):
        for second in arms[index + 1 :]:
            if not (first.weight and second.weight):
                continue
            turn = np.arccos(np.clip(-first.away @ second.away, -1, 1))
            size = min(first.radius, second.radius) * (1 - turn / _THROUGH / 2)
            if turn < _THROUGH and size > most:
                best, most = (first, second), size
    return best


def _tangled(through: tuple[Arm, Arm], groups: list[list[Arm]], spots: list[np.ndarray]) -> bool:
    """Whether arms would cross each other, or the street that goes through, on their way to places of their own."""
    course = shapely.LineString([through[0].middle, *spots, through[1].middle])
    ways = [shapely.LineString([spot, arm.middle]) for spot, group in zip(spots, groups, strict=True) for arm in group]
    return any(shapely.crosses(one, course) for one in ways) or bool(find_crossings(np.array(ways, dtype=object)))


def _spread(
    graph: Graph, node: int, through: tuple[Arm, Arm], groups: list[list[Arm]], spots: list[np.ndarray]
) -> None:
    """Give each group of arms a node of its own, along the street that goes through from the one arm to the other."""
    nodes = [node, *(graph.add_node(spot) for spot in spots[1:])]
    graph.move(node, spots[0])
    moved = [(arm, to) for to, group in zip(nodes, groups, strict=True) for arm in group if to != node]
    for arm, to in [*moved, (through[1], nodes[-1])]:
        graph.turn(arm.street, arm.end, to)
    radius = (through[0].radius + through[1].radius) / 2
    first = graph.streets[through[0].street]
    prob = float(first.prob[through[0].end])
    for a, b in pairwise(nodes):
        line = np.array([graph.nodes[a], graph.nodes[b]])
        graph.add(Street((a, b), line, np.full(2, radius), np.full(2, prob)))


def _trimmed(street: Street, first: float, last: float) -> Street:
    """A street without its points within so many metres of its first and last, which stay; at least a third stays."""
    along = street.along()
    total = along[-1]
    most = total / 3
    kept = (along >= min(first, most)) & (along <= total - min(last, most))
    kept[[0, -1]] = True
    return Street(street.ends, street.xy[kept], street.radius[kept], street.prob[kept], street.bridged)
