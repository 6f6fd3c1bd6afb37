"""Graph: streets between nodes while they are being put right. Lines in metres, each with its width as it goes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.vectors.metric import Metric
from geoseg.vectors.streets.chains import Chains
from geoseg.vectors.streets.skeleton import Skeleton


@dataclass(slots=True, eq=False)
class Street:
    """A line between two nodes."""

    ends: tuple[int, int]
    """Nodes at its first and last point; the same one twice for a ring."""
    xy: np.ndarray
    """(k, 2) float64 metres, k >= 2."""
    radius: np.ndarray
    """(k,) float64 metres from the line to the side of the street; NaN on a bridge."""
    prob: np.ndarray
    """(k,) float64 probability of the class, 0 to 1; NaN where it is not known."""
    bridged: bool = False
    """Whether part of it spans a gap."""

    @property
    def length(self) -> float:
        """Metres."""
        return float(np.hypot(*np.diff(self.xy, axis=0).T).sum())

    def reversed(self) -> "Street":
        """The same street from its other end."""
        return Street(self.ends[::-1], self.xy[::-1], self.radius[::-1], self.prob[::-1], self.bridged)

    def along(self) -> np.ndarray:
        """(k,) metres from the first point."""
        return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(self.xy, axis=0).T))])


class Graph:
    """Nodes and the streets between them. Numbers are given in order and never twice."""

    def __init__(self) -> None:
        self.nodes: dict[int, np.ndarray] = {}
        """(2,) metres by node."""
        self.streets: dict[int, Street] = {}
        self._at: dict[int, list[int]] = {}
        self._next_node = self._next_street = 0

    @classmethod
    def of(cls, skeleton: Skeleton, chains: Chains, metric: Metric) -> "Graph":
        """The graph of a skeleton: a node in the middle of its pixels, a street for each chain."""
        graph = cls()
        xy = metric.to_metres(np.column_stack([skeleton.col + 0.5, skeleton.row + 0.5]))
        part = np.flatnonzero(chains.node >= 0)
        of = chains.node[part]
        count = np.bincount(of)
        for middle in np.column_stack([np.bincount(of, xy[part, axis]) / count for axis in (0, 1)]):
            graph.add_node(middle)
        radius, prob = skeleton.radius.astype(np.float64), skeleton.prob.astype(np.float64)
        for first, stop in zip(chains.start[:-1], chains.start[1:], strict=True):
            pixel = chains.pixel[first:stop]
            ends = int(chains.node[pixel[0]]), int(chains.node[pixel[-1]])
            line = xy[pixel]
            line[0], line[-1] = graph.nodes[ends[0]], graph.nodes[ends[1]]
            graph.add(Street(ends, line, radius[pixel], prob[pixel]))
        return graph

    def add_node(self, xy: np.ndarray) -> int:
        """A new node without streets."""
        node, self._next_node = self._next_node, self._next_node + 1
        self.nodes[node], self._at[node] = xy, []
        return node

    def add(self, street: Street) -> int:
        """A new street between nodes that are there."""
        number, self._next_street = self._next_street, self._next_street + 1
        self.streets[number] = street
        for node in street.ends:
            self._at[node].append(number)
        return number

    def remove(self, number: int) -> None:
        """Take out a street; its nodes stay while another street ends there."""
        for node in self.streets.pop(number).ends:
            self._at[node].remove(number)

    def replace(self, number: int, street: Street) -> None:
        """Put a street between the same two nodes in another's place, under its number."""
        self.streets[number] = street if street.ends == self.streets[number].ends else street.reversed()

    def lines(self) -> np.ndarray:
        """(s,) shapely LineString of all streets, in their order."""
        return np.array([shapely.LineString(street.xy) for street in self.streets.values()], dtype=object)

    def degree(self, node: int) -> int:
        """Ends of streets at a node."""
        return len(self._at[node])

    def at(self, node: int) -> list[int]:
        """Streets at a node, one that begins and ends there twice."""
        return self._at[node]

    def arms(self, node: int) -> Iterator[tuple[int, Street]]:
        """Each end of a street at a node, with the street seen from there; a ring from both its ends."""
        for number in sorted(set(self._at[node])):
            street = self.streets[number]
            if street.ends[0] == node:
                yield number, street
            if street.ends[1] == node:
                yield number, street.reversed()

    def join(self, node: int) -> int | None:
        """Make one street of the two that meet at a node and nothing else does; its number, or None."""
        if self.degree(node) != 2 or self._at[node][0] == self._at[node][1]:
            return None
        first, second = (self.streets[number] for number in self._at[node])
        first = first if first.ends[1] == node else first.reversed()
        second = second if second.ends[0] == node else second.reversed()
        for number in list(self._at[node]):
            self.remove(number)
        return self.add(
            Street(
                (first.ends[0], second.ends[1]),
                np.concatenate([first.xy, second.xy[1:]]),
                np.concatenate([first.radius, second.radius[1:]]),
                np.concatenate([first.prob, second.prob[1:]]),
                first.bridged or second.bridged,
            )
        )

    def tidy(self) -> None:
        """Join what can be joined, and forget nodes without streets."""
        for node in list(self.nodes):
            self.join(node)
            if not self._at[node]:
                del self._at[node], self.nodes[node]

    def move(self, node: int, xy: np.ndarray) -> None:
        """Put a node elsewhere; the ends of its streets go with it."""
        self.nodes[node] = xy
        for number in self._at[node]:
            street = self.streets[number]
            line = street.xy.copy()
            for end, which in zip(street.ends, (0, -1), strict=True):
                if end == node:
                    line[which] = xy
            street.xy = line

    def turn(self, number: int, end: int, node: int) -> None:
        """Let a street begin (end 0) or end (end -1) at another node."""
        street = self.streets[number]
        ends, line = list(street.ends), street.xy.copy()
        self._at[ends[end]].remove(number)
        ends[end], line[end] = node, self.nodes[node]
        street.ends, street.xy = (ends[0], ends[1]), line
        self._at[node].append(number)

    def merge(self, node: int, into: int) -> None:
        """Let all streets of one node end at another, and forget the one."""
        for number in sorted(set(self._at[node])):
            street = self.streets[number]
            line, radius, prob = street.xy, street.radius, street.prob
            if street.ends[0] == node:
                line = np.concatenate([self.nodes[into][None], line])
                radius, prob = np.concatenate([radius[:1], radius]), np.concatenate([prob[:1], prob])
            if street.ends[1] == node:
                line = np.concatenate([line, self.nodes[into][None]])
                radius, prob = np.concatenate([radius, radius[-1:]]), np.concatenate([prob, prob[-1:]])
            street.xy, street.radius, street.prob = line, radius, prob
            street.ends = (
                into if street.ends[0] == node else street.ends[0],
                into if street.ends[1] == node else street.ends[1],
            )
        self._at[into] += self._at.pop(node)
        del self.nodes[node]

    def split(self, number: int, at: int) -> int:
        """Cut a street in two at one of its inner points; the new node there."""
        street = self.streets[number]
        self.remove(number)
        node = self.add_node(street.xy[at])
        for part, ends in ((slice(0, at + 1), (street.ends[0], node)), (slice(at, None), (node, street.ends[1]))):
            self.add(Street(ends, street.xy[part], street.radius[part], street.prob[part], street.bridged))
        return node
