"""Crossings: where two streets cross, as bridges do over what hides a crossing, they meet in a node."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import shapely

from geoseg.vectors.streets.graph import Graph, Street

_HAIR = 0.01  # metres
_BEHIND_M = 1.0  # behind the last crossing a street that is untied goes its own way again; twice as far each round
_ROUNDS = 6  # what is cut or untied is drawn anew, and may then cross something else


def find_crossings(lines: np.ndarray, of: np.ndarray | None = None) -> list[tuple[int, int]]:
    """Pairs of (s,) shapely LineString that cross each other elsewhere than in their ends, in their order.

    Of (s,) bool at least one of a pair is; None: all are.
    """
    asked = np.arange(len(lines)) if of is None else np.flatnonzero(of)
    one, two = shapely.STRtree(lines).query(lines[asked], predicate="crosses")
    return sorted({(min(a, b), max(a, b)) for a, b in zip(asked[one].tolist(), two.tolist(), strict=True)})


def cross_bridges(graph: Graph) -> None:
    """Cut streets where bridged ones cross them, in place; a class raster knows no flyovers."""
    bridged = np.array([street.bridged for street in graph.streets.values()])
    lines = graph.lines()
    _cut_all(graph, lines, find_crossings(lines, bridged))


def cross(graph: Graph, draw: Callable[[list[Street]], np.ndarray]) -> np.ndarray:
    """Cut streets where others cross them, in place.

    Of two that leave a node and cross behind it, one goes there straight instead.

    Args:
        graph: Of streets.
        draw: Makes (s,) shapely LineString of streets: these shall not cross.

    Returns:
        What `draw` makes of its streets then.
    """
    drawn: dict[int, tuple[np.ndarray, shapely.LineString]] = {}

    def redraw() -> np.ndarray:
        """The lines of all streets, of which those are drawn that have changed."""
        new = [n for n, street in graph.streets.items() if n not in drawn or drawn[n][0] is not street.xy]
        for number, line in zip(new, draw([graph.streets[number] for number in new]), strict=True):
            drawn[number] = graph.streets[number].xy, line
        return np.array([drawn[number][1] for number in graph.streets], dtype=object)

    lines = redraw()
    for turn in range(_ROUNDS):
        pairs, numbers = find_crossings(lines), list(graph.streets)
        if not pairs:
            break
        apart: list[tuple[int, int]] = []
        untied: set[int] = set()
        for a, b in pairs:
            both = numbers[a], numbers[b]
            if untied & set(both):
                continue
            tied = set(graph.streets[both[0]].ends) & set(graph.streets[both[1]].ends)
            if tied and turn < _ROUNDS - 1:
                spots = shapely.points(shapely.get_coordinates(shapely.intersection(lines[a], lines[b])))
                untied.add(_untie(graph, both, lines[[a, b]], spots, _BEHIND_M * 2**turn))
            else:
                apart.append((a, b))
        _cut_all(graph, lines, apart)
        lines = redraw()
    return lines


def _cut_all(graph: Graph, lines: np.ndarray, pairs: list[tuple[int, int]]) -> None:
    """Cut streets in nodes where pairs of lines, which are drawn from them, cross."""
    numbers = list(graph.streets)
    cuts: dict[int, list[tuple[float, int]]] = {}
    for pair in pairs:
        for spot in shapely.get_coordinates(shapely.intersection(*lines[list(pair)])):
            node = graph.add_node(spot)
            for number in (numbers[index] for index in pair):
                line = shapely.LineString(graph.streets[number].xy)
                along = float(shapely.line_locate_point(line, shapely.Point(spot)))
                cuts.setdefault(number, []).append((along, node))
    for number, places in cuts.items():
        _cut(graph, number, sorted(places))
    if cuts:
        _close_hairs(graph)


def _untie(graph: Graph, both: tuple[int, int], drawn: np.ndarray, spots: np.ndarray, behind: float) -> int:
    """Let that of two streets which makes the larger detour, else the shorter, go straight from their common node.

    Until so many metres behind the last of (k,) shapely Point where the two lines drawn of them cross. Returns its
    number.
    """
    (node, *_) = sorted(set(graph.streets[both[0]].ends) & set(graph.streets[both[1]].ends))
    detours = []
    for number, line in zip(both, drawn, strict=True):
        street = graph.streets[number]
        if street.ends[0] != node:
            street, line = street.reversed(), line.reverse()
        along = shapely.line_locate_point(line, spots)
        last = int(along.argmax())
        far = float(np.hypot(*(shapely.get_coordinates(spots[last])[0] - graph.nodes[node])))
        detours.append((round(float(along[last]) - far, 1), -street.length, number, street, float(along[last])))
    *_, number, street, clear = max(detours, key=lambda detour: detour[:3])
    kept = street.along() > clear + behind
    kept[:2], kept[-1] = (True, False), True
    graph.replace(number, Street(street.ends, street.xy[kept], street.radius[kept], street.prob[kept], street.bridged))
    return number


def _cut(graph: Graph, number: int, places: list[tuple[float, int]]) -> None:
    """Cut a street at nodes so many metres along it."""
    street, along = graph.streets[number], graph.streets[number].along()
    graph.remove(number)
    stops = [(0.0, street.ends[0]), *places, (along[-1], street.ends[1])]
    for (first, start), (last, stop) in pairwise(stops):
        inner = (along > first) & (along < last)
        at = np.concatenate([[first], along[inner], [last]])
        xy = np.concatenate([[graph.nodes[start]], street.xy[inner], [graph.nodes[stop]]])
        radius, prob = (np.interp(at, along, values) for values in (street.radius, street.prob))
        graph.add(Street((start, stop), xy, radius, prob, street.bridged))


def _close_hairs(graph: Graph) -> None:
    """Make one node of two that no more than a rounding lies between."""
    for number, street in list(graph.streets.items()):
        if street.length < _HAIR:
            first, last = graph.streets[number].ends
            graph.remove(number)
            if first != last:
                graph.merge(last, first)
    graph.tidy()
