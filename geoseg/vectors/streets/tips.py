"""Tips: how dead ends go on, seen from before the skeleton rounds them off; and the gaps between them bridged."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from scipy.spatial import KDTree

from geoseg.vectors.metric import Metric
from geoseg.vectors.streets.extent import Extent
from geoseg.vectors.streets.graph import Graph, Street
from geoseg.vectors.streets.rules import to_border

_REACH_M = 16.0
"""Length of street by which a dead end's direction is told, or three times its radius."""
_WIDEST_ANGLE = np.deg2rad(45)
"""Furthest that a bridge may turn from the direction of the dead end it leaves."""
_BORDER_M = 40.0
"""Dead ends nearer than this to the border of the raster may be cut off by it."""
_STRAIGHT_ANGLE = np.deg2rad(20)
"""The same of a bridge that goes straight on."""
_STRAIGHT = 1.7
"""How much longer a gap may be where the street goes straight on."""
_ONTO = 3.2
"""Widths of a street that it may end before the side of another one, if it is to meet it: others end there."""
_ONTO_WIDE_M = 2.6
"""Least width of such a street, unless it is long: a path or a drive ends where it likes."""
_ONTO_LONG_M = 50.0
"""Metres from which on it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Tip:
    """A dead end."""

    node: int
    """At the end."""
    street: int
    """That ends there."""
    at: int
    """Point of the street, counted from this end, from which on its width is its own."""
    xy: np.ndarray
    """(2,) metres of that point."""
    ahead: np.ndarray
    """(2,) unit vector in which the street would go on."""
    radius: float
    """Half the street's width, metres."""

    @property
    def end(self) -> np.ndarray:
        """(2,) metres where the surface ends."""
        return self.xy + self.radius * self.ahead


def find_tips(graph: Graph, metric: Metric) -> list[Tip]:
    """The dead ends of a graph, by node."""
    nodes = [node for node in sorted(graph.nodes) if graph.degree(node) == 1]
    far = to_border(np.array([graph.nodes[node] for node in nodes]).reshape(-1, 2), metric)
    return [
        _tip(node, *next(graph.arms(node)), metric if border < _BORDER_M else None)
        for node, border in zip(nodes, far, strict=True)
    ]


def _tip(node: int, number: int, street: Street, metric: Metric | None) -> Tip:
    """One dead end; with the metric, if the border of the raster is near."""
    along = street.along()
    near = street.radius[along <= 30]
    near = np.sort(near[np.isfinite(near)])
    radius = float(near[len(near) // 2]) if len(near) else 0.0
    # The skeleton of an end runs off into a corner, or stops short of a round one; so it does where the raster ends.
    rounded = along <= min(4 * radius, along[-1] / 2)
    whole = rounded & (street.radius >= 0.85 * radius)
    if metric is not None:
        whole[rounded] &= to_border(street.xy[rounded], metric) >= radius
    at = int(whole.argmax())
    seen = (along >= along[at]) & (along <= along[at] + max(_REACH_M, 3 * radius))
    points = street.xy[seen] if seen.sum() > 1 else street.xy
    return Tip(node, number, at, street.xy[at], _direction(points), radius)


def _direction(points: np.ndarray) -> np.ndarray:
    """(2,) unit vector of the least-squares line through (k, 2) points, from the last towards the first."""
    centred = points - points.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    ahead: np.ndarray = vectors[:, 1]
    return ahead if ahead @ (points[0] - points[-1]) >= 0 else -ahead


def cut_back(graph: Graph, tip: Tip, end: np.ndarray, *, bridged: bool = False) -> None:
    """Let a dead end go from `Tip.at` straight to another point, in place; across a gap, if `bridged`."""
    number, street = next(graph.arms(tip.node))
    at = min(tip.at, len(street.xy) - 2) if street.ends[1] != tip.node else 0
    radius, prob = (np.nan, np.nan) if bridged else (street.radius[at], street.prob[at])
    graph.nodes[tip.node] = end
    graph.replace(
        number,
        Street(
            street.ends,
            np.concatenate([[end], street.xy[at:]]),
            np.concatenate([[radius], street.radius[at:]]),
            np.concatenate([[prob], street.prob[at:]]),
            street.bridged or bridged,
        ),
    )


def bridge(graph: Graph, extent: Extent, bridge_m: float, *, sides: bool) -> None:
    """Join dead ends with what they point at, the cheapest first; in place.

    Args:
        graph: Changed in place.
        extent: Of its raster: nothing is joined through what is solid.
        bridge_m: Longest gap; between dead ends that point straight at each other, `_STRAIGHT` times as long.
        sides: Also join dead ends with the side of a street; otherwise only such as point straight at each other.
    """
    if not bridge_m:
        return
    tips = find_tips(graph, extent.metric)
    offers = [*_between(tips, graph, bridge_m, _WIDEST_ANGLE if sides else _STRAIGHT_ANGLE)]
    if sides:
        offers += _onto(tips, graph, bridge_m)
    offers.sort(key=lambda offer: offer[0])
    used: set[int] = set()
    pieces: dict[int, list[int]] = {}
    for _, index, other, street, spot in offers:
        if index in used or other in used:
            continue
        if extent.is_blocked(tips[index].xy, spot if other is None else tips[other].xy):
            continue
        used |= {index} if other is None else {index, other}
        if other is not None:
            cut_back(graph, tips[index], spot, bridged=True)
            cut_back(graph, tips[other], spot, bridged=True)
            graph.merge(tips[other].node, tips[index].node)
        elif (node := _node_at(graph, pieces.setdefault(street, [street]), spot)) != tips[index].node:
            cut_back(graph, tips[index], graph.nodes[node], bridged=True)
            graph.merge(tips[index].node, node)
    graph.tidy()


_Offer = tuple[tuple[float, int, int], int, int | None, int, np.ndarray]
"""Cost with what settles ties; a tip; another tip, or the street whose side is met; the point where they meet."""


def _between(tips: list[Tip], graph: Graph, most: float, widest: float) -> Iterator[_Offer]:
    """Pairs of tips that point at each other."""
    if len(tips) < 2:
        return
    ends = np.array([tip.end for tip in tips])
    for first, second in sorted(KDTree(ends).query_pairs(_STRAIGHT * most)):
        a, b = tips[first], tips[second]
        if a.street == b.street and graph.streets[a.street].length < 3 * most:
            continue
        across = b.xy - a.xy
        reach = float(np.hypot(*across))
        if reach < 1e-6:
            continue
        turns = [np.arccos(np.clip(across @ way / reach, -1, 1)) for way in (a.ahead, -b.ahead)]
        gap = float(np.hypot(*(b.end - a.end)))
        straight = max(turns) <= _STRAIGHT_ANGLE and 0.5 <= (a.radius + 0.3) / (b.radius + 0.3) <= 2
        if not straight and (max(turns) > widest or gap > most):
            continue
        if max(graph.streets[tip.street].length for tip in (a, b)) < gap:
            continue
        yield (gap * (1 + 2 * sum(turns)), first, second), first, second, -1, (a.end + b.end) / 2


def _onto(tips: list[Tip], graph: Graph, most: float) -> Iterator[_Offer]:
    """Tips that point at the side of another street: cost, the tip, None, and the point there."""
    numbers = list(graph.streets)
    tree = shapely.STRtree([shapely.LineString(graph.streets[number].xy) for number in numbers])
    widest = max((float(np.nanmax(street.radius, initial=0)) for street in graph.streets.values()), default=0)
    for index, tip in enumerate(tips):
        length = graph.streets[tip.street].length
        if 2 * tip.radius < _ONTO_WIDE_M and length < _ONTO_LONG_M:
            continue
        furthest = min(most, length / 2, _ONTO * 2 * tip.radius)
        best: tuple[float, int, np.ndarray] | None = None
        for turn in (0.0, -0.2, 0.2):
            way = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ tip.ahead
            ray = shapely.LineString([tip.xy, tip.xy + (tip.radius + most + widest) * way])
            for hit in sorted(tree.query(ray, "intersects")):
                if numbers[hit] == tip.street:
                    continue
                street = graph.streets[numbers[hit]]
                crossing = shapely.intersection(ray, tree.geometries[hit])
                points = shapely.get_coordinates(crossing)
                far = np.hypot(*(points - tip.xy).T)
                spot = points[int(far.argmin())]
                nearest = int(np.hypot(*(street.xy - spot).T).argmin())
                gap = max(0.0, float(far.min()) - tip.radius - float(np.nan_to_num(street.radius[nearest])))
                if gap <= furthest and (best is None or gap * (1 + 2 * abs(turn)) < best[0]):
                    best = gap * (1 + 2 * abs(turn)), numbers[hit], spot
        if best is not None:
            yield (best[0] + 1.0, index, -1), index, None, *best[1:]


def _node_at(graph: Graph, pieces: list[int], spot: np.ndarray) -> int:
    """The node at a point of a street, of which `pieces` are left: one of its ends, or a new one."""
    near = [(float(np.hypot(*(graph.streets[piece].xy - spot).T).min()), piece) for piece in pieces]
    number = min(near)[1]
    street = graph.streets[number]
    at = int(np.hypot(*(street.xy - spot).T).argmin())
    if at in (0, len(street.xy) - 1):
        return street.ends[0 if at == 0 else 1]
    node = graph.split(number, at)
    pieces.remove(number)
    pieces += graph.at(node)
    return node
