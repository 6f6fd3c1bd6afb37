"""Network: lines on the ground as a graph of junctions and dead ends, whatever way they were cut when drawn."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from shapely import Geometry

_GRAIN_M = 0.01
"""Lines that come within a centimetre of each other meet."""


@dataclass(frozen=True, eq=False)
class Network:
    """Edges between nodes. A node is a dead end, a junction, or, once on a loop without either, its beginning."""

    nodes: np.ndarray
    """(N, 2) float64 metres, ordered by x, then y."""
    edges: np.ndarray
    """(E,) line strings from node to node."""
    ends: np.ndarray
    """(E, 2) intp nodes at the beginning and the end of each edge; the same twice for a loop."""

    @classmethod
    def of(cls, lines: np.ndarray, *, area: Geometry | None = None) -> "Network":
        """The network of lines.

        Where lines cross or touch there is a junction: a network seen from above, in which bridges are crossings. Lines
        that go on in each other are one edge, and a line drawn twice is one line.

        Args:
            lines: (L,) line strings or multi line strings in metres; none is fine.
            area: What lies outside of it is cut off.
        """
        lines = np.asarray(lines, object)
        if area is not None:
            lines = shapely.intersection(lines, area)
        noded = shapely.union_all(_only_lines(lines), grid_size=_GRAIN_M)
        edges = _only_lines(np.array([shapely.line_merge(noded)], object))
        # The order of a union is GEOS's own affair.
        edges = edges[np.lexsort(shapely.bounds(edges).T[::-1])] if len(edges) else edges
        tips = np.concatenate((_tip(edges, 0), _tip(edges, -1)))
        nodes, index = np.unique(tips, axis=0, return_inverse=True)
        return cls(nodes, edges, index.reshape(2, -1).T)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(E,) float64 metres of each edge."""
        return np.asarray(shapely.length(self.edges))

    @cached_property
    def degree(self) -> np.ndarray:
        """(N,) int64 ends of edges that meet in each node; a loop has two."""
        return np.bincount(self.ends.ravel(), minlength=len(self.nodes))

    @property
    def junctions(self) -> np.ndarray:
        """(J, 2) float64 metres, where three ends or more meet."""
        return self.nodes[self.degree >= 3]

    @property
    def dead_ends(self) -> np.ndarray:
        """(D, 2) float64 metres, where one edge ends alone."""
        return self.nodes[self.degree == 1]


def _only_lines(shapes: np.ndarray) -> np.ndarray:
    """The line strings in any geometries, those of no length left out."""
    parts = shapely.get_parts(shapely.get_parts(shapes))
    return np.asarray(parts[(shapely.get_dimensions(parts) == 1) & (shapely.length(parts) > 0)])


def _tip(edges: np.ndarray, at: int) -> np.ndarray:
    return np.asarray(shapely.get_coordinates(shapely.get_point(edges, at))).reshape(-1, 2)
