"""Junctions put where their arms meet, each arm seen from outside the junction's own surface."""

import numpy as np

from geoseg.vectors.streets.graph import Graph, Street

_CLEAR = 1.3
"""Radii of the junction within which the skeleton bends towards the other arms."""
_REACH_M = 14.0
"""Length of an arm that tells its direction."""


def settle(graph: Graph) -> None:
    """Move each junction to the point nearest to the lines along its arms; the arms go straight to it. In place.

    Source: least-squares intersection of lines, sum of n (n^T (x - p)) over arms with normal n through p.
    """
    own = {number: _own_radius(street) for number, street in graph.streets.items()}
    radius = {
        node: max(own[number] for number in graph.at(node)) for node in sorted(graph.nodes) if graph.degree(node) > 2
    }
    spots = {node: _meeting(graph, node, size) for node, size in radius.items()}
    for number, street in graph.streets.items():
        graph.streets[number] = _trimmed(street, *(_CLEAR * radius.get(node, 0.0) for node in street.ends))
    for node, spot in spots.items():
        graph.move(node, spot)


def _own_radius(street: Street) -> float:
    """Half the width of a street, metres: the median of what is not beside its ends, where junctions make it wider."""
    along = street.along()
    inner = street.radius[(along > 5) & (along < along[-1] - 5)]
    inner = np.sort(inner[np.isfinite(inner)])
    if not len(inner):
        inner = np.sort(street.radius[np.isfinite(street.radius)])
    return float(inner[len(inner) // 2]) if len(inner) else 0.0


def _meeting(graph: Graph, node: int, radius: float) -> np.ndarray:
    """(2,) metres where the arms of a node meet; at most a radius and a half from where it is."""
    here = graph.nodes[node]
    clear = _CLEAR * radius
    # A little weight on where it is: arms in one line say nothing of the place along them.
    matrix, right = 0.02 * np.eye(2), np.zeros(2)
    for _, street in graph.arms(node):
        along = street.along()
        points = street.xy[(along >= clear) & (along <= clear + _REACH_M)] - here
        if len(points) < 3 or np.hypot(*(points[-1] - points[0])) < 2:
            continue
        middle = points.mean(axis=0)
        _, vectors = np.linalg.eigh((points - middle).T @ (points - middle))
        normal = np.outer(vectors[:, 0], vectors[:, 0])
        matrix, right = matrix + normal, right + normal @ middle
    moved = np.linalg.solve(matrix, right)
    far = float(np.hypot(*moved))
    return here + moved * min(1.0, 1.5 * radius / far if far else 1.0)


def _trimmed(street: Street, first: float, last: float) -> Street:
    """A street without its points within so many metres of its first and last, which stay; at least a third stays."""
    along = street.along()
    total = along[-1]
    most = total / 3
    kept = (along >= min(first, most)) & (along <= total - min(last, most))
    kept[[0, -1]] = True
    return Street(street.ends, street.xy[kept], street.radius[kept], street.prob[kept], street.bridged)
