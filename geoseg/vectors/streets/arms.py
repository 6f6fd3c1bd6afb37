"""Arms: streets as they come into a junction, each seen from outside the junction's own surface."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from geoseg.vectors.streets.graph import Graph, Street

_WIDER_M = 0.2
"""Metres, or a tenth, by which half a street may be wider than elsewhere and still be clear of a junction."""
_CLEAR = 1.3
"""Radii of the junction within which the skeleton bends towards the other arms, whatever its own width says."""
_FURTHEST = 6.0
"""Radii of the junction from which on an arm is clear of it, whatever its width says."""
_REACH_M = 14.0
"""Least length of an arm that tells its direction."""
_LEAST_M = 2.0
"""What is shorter tells none."""
_STAY = 0.004
"""Weight of where a junction was, against 1 of an arm seen from near: arms in one line say nothing along them."""


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """A street as it comes into a junction."""

    street: int
    """Its number."""
    end: int
    """0 if the street begins at the junction, -1 if it ends there."""
    radius: float
    """Half its width where it is clear of the junction, metres."""
    clear: float
    """Metres along it from the junction's node to where it is as wide as elsewhere."""
    away: np.ndarray
    """(2,) unit vector of the line along it, away from the junction; 0 without one."""
    middle: np.ndarray
    """(2,) metres, on that line."""
    weight: float
    """How well the line is known where the junction is: 0 for not at all."""

    @classmethod
    def of(cls, number: int, end: int, street: Street, own: float, radius: float) -> Self:
        """The arm of a street seen from the junction, of half a width of `own`; the widest there has `radius`."""
        along = street.along()
        half = along[-1] / 2
        size = max(1, int(np.searchsorted(along, 2 * _FURTHEST * radius + _REACH_M, side="right"))) + 1
        along, xy, known = _filled(along[:size], street.xy[:size], street.radius[:size])
        wide = known > own + max(_WIDER_M, 0.1 * own)
        wide[along < _CLEAR * radius] = True
        wide[(along > _FURTHEST * radius) | (along > half)] = False
        at = int(wide.argmin())
        clear = float(along[at])
        points = xy[at : int(np.searchsorted(along, clear + max(_REACH_M, clear), side="right"))]
        chord = points[-1] - points[0]
        span = math.hypot(*chord)
        if span < _LEAST_M:
            return cls(number, end, own, clear, np.zeros(2), xy[at], 0.0)
        middle = points.mean(axis=0)
        # Variance of a line through points of its span, so far before its middle.
        variance = (1 + 12 * ((clear + span / 2) / span) ** 2) / span
        return cls(number, end, own, clear, _course(points - middle, chord), middle, 1 / variance)


def _filled(along: np.ndarray, xy: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same line with points no further apart than tells a direction: each stands for as much of the way."""
    pieces = np.maximum(1, np.ceil(np.diff(along) / _LEAST_M)).astype(np.int64)
    if (pieces == 1).all():
        return along, xy, radius
    before = np.repeat(np.arange(len(pieces)), pieces)
    share = (np.arange(len(before)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) / pieces[before]
    at = np.append(along[before] + share * np.diff(along)[before], along[-1])
    line = np.column_stack([np.interp(at, along, xy[:, axis]) for axis in (0, 1)])
    return at, line, np.append(radius[before], radius[-1])


def _course(points: np.ndarray, chord: np.ndarray) -> np.ndarray:
    """(2,) unit vector of the least-squares line through (k, 2) points round 0, the way that the chord goes."""
    (xx, xy), (_, yy) = points.T @ points
    turn = math.atan2(2 * xy, xx - yy) / 2
    course = np.array([math.cos(turn), math.sin(turn)])
    return course if course @ chord >= 0 else -course


def find_arms(graph: Graph, nodes: Iterable[int], own: dict[int, float]) -> dict[int, list[Arm]]:
    """The arms of junctions.

    Args:
        graph: Of streets.
        nodes: Of which those are looked at that are junctions.
        own: Half the widths of streets by number, as far as they are known; more are added.
    """
    found: dict[int, list[Arm]] = {}
    for node in nodes:
        if node not in graph.nodes or graph.degree(node) < 3:
            continue
        numbers = sorted(set(graph.at(node)))
        for number in numbers:
            if number not in own:
                own[number] = _own_radius(graph.streets[number])
        radius = max(own[number] for number in numbers)
        found[node] = []
        for number in numbers:
            street = graph.streets[number]
            for end in (0, -1):
                if street.ends[end] == node:
                    seen = street if end == 0 else street.reversed()
                    found[node].append(Arm.of(number, end, seen, own[number], radius))
    return found


def _own_radius(street: Street) -> float:
    """Half the width of a street, metres: the median of what is not beside its ends, where junctions make it wider."""
    along = street.along()
    inner = street.radius[(along > 5) & (along < along[-1] - 5)]
    inner = np.sort(inner[np.isfinite(inner)])
    if not len(inner):
        inner = np.sort(street.radius[np.isfinite(street.radius)])
    return float(inner[len(inner) // 2]) if len(inner) else 0.0


def meeting(here: np.ndarray, arms: list[Arm]) -> np.ndarray:
    """(2,) metres of the point nearest to the lines along arms; not further from `here` than the arms are clear.

    Source: weighted least-squares intersection of lines, sum of w n (n^T (x - p)) over arms with normal n through p.
    """
    matrix, right = _STAY * np.eye(2), np.zeros(2)
    for arm in arms:
        across = np.array([-arm.away[1], arm.away[0]])
        normal = arm.weight * np.outer(across, across)
        matrix, right = matrix + normal, right + normal @ (arm.middle - here)
    moved = np.linalg.solve(matrix, right)
    far = float(np.hypot(*moved))
    most = max(1.2 * arm.clear for arm in arms)
    return here + moved * min(1.0, most / far if far else 1.0)
