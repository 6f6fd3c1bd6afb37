"""APLS, average path length similarity: whether one gets from here to there on both networks, and how far it is."""

from dataclasses import dataclass

import numpy as np
import shapely
from scipy.sparse import csgraph, csr_array

from geoseg.metrics.network import Network

SNAP_M = 4.0
"""Metres that a control point may lie from the other network and still be on it; the value of SpaceNet."""
SPACING_M = 50.0
"""The most metres from one control point of an edge to the next; the value of SpaceNet."""
SOURCES = 256
"""Control points from which paths are measured in one direction; more are drawn from."""
_AT_ONCE = 32
"""Sources whose paths are in memory at once."""
_LEAST_M = 1e-9
"""Length of an edge of none: to a sparse graph, 0 means no edge."""
_SAME_M = 1e-6
"""Paths that differ by less are equally long."""


@dataclass(frozen=True, slots=True)
class Apls:
    """Similarity of two networks; None where a network holds no path."""

    score: float | None
    """Harmonic mean of both directions, in [0, 1]; 0 if one of them is."""
    of_reference: float | None
    """How well the paths of the reference are predicted, in [0, 1]."""
    of_predicted: float | None
    """How well the predicted paths are in the reference, in [0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """Points on the edges of a network."""

    edge: np.ndarray
    """(C,) intp edge; -1 where a point is on none."""
    along_m: np.ndarray
    """(C,) float64 metres from the edge's beginning."""
    xy: np.ndarray
    """(C, 2) float64 metres, where the points are meant to be."""


def apls(
    predicted: Network, reference: Network, *, snap_m: float = SNAP_M, spacing_m: float = SPACING_M,
    sources: int = SOURCES,
) -> Apls:  # fmt: skip
    """Average path length similarity.

        C = 1 - 1/N sum over paths a-b of min{1, |L(a, b) - L(a', b')| / L(a, b)}
        APLS = 2 / (1 / C_reference + 1 / C_predicted)

    over the N paths between control points a and b of one network: its nodes, and points along its edges no more than
    `spacing_m` apart. a' is the nearest point of the other network; where there is none within `snap_m`, or no way from
    a' to b', the path counts as wholly wrong (1). Each network is once the one and once the other.

    Paths that are missing are counted, all of them. Lengths are compared from all control points, or from `sources` of
    them drawn with a fixed seed, to all others: the same networks have the same score, always.

    Args:
        predicted: Network in metres.
        reference: Network in metres.
        snap_m: See above, at least 0.
        spacing_m: See above, above 0.
        sources: Control points from which lengths are compared, at least 1.

    Source: Van Etten et al. 2018, SpaceNet: A Remote Sensing Dataset and Challenge Series, arXiv:1807.01232, the
    definition of APLS. Its code puts control points on bent edges only; here they are on all.
    """
    forth = _similarity(reference, predicted, snap_m, spacing_m, sources)
    back = _similarity(predicted, reference, snap_m, spacing_m, sources)
    if forth is None or back is None:  # of a network without paths, everything is missing or nothing is to be had
        return Apls(None if forth is None else 0.0, forth, back)
    return Apls(2 * forth * back / (forth + back) if forth + back else 0.0, forth, back)


def _similarity(truth: Network, other: Network, snap_m: float, spacing_m: float, sources: int) -> float | None:
    """1 minus the mean penalty over the paths of `truth`; None if it has no path."""
    places = _control_points(truth, spacing_m)
    snapped = _snapped(places, other, snap_m)
    graph, copies = _graph(truth, places), _graph(other, snapped)
    island = csgraph.connected_components(graph, directed=False)[1][: len(places.xy)]
    total = _pairs(island)
    if not total:
        return None
    found = np.flatnonzero(snapped.edge >= 0)
    there = csgraph.connected_components(copies, directed=False)[1][found]
    # Paths that both have lie on one island here and on one there.
    both = np.unique(np.column_stack((island[found], there)), axis=0, return_inverse=True)[1].reshape(-1)
    kept = np.bincount(both)[both] > 1 if len(both) else np.zeros(0, bool)
    found, both = found[kept], both[kept]
    shared = _pairs(both)
    if not shared:
        return 0.0
    starts = np.arange(len(found))
    if len(starts) > sources:
        starts = np.sort(np.random.default_rng(0).choice(starts, sources, replace=False))
    penalty, counted = 0.0, 0
    for first in range(0, len(starts), _AT_ONCE):
        some = starts[first : first + _AT_ONCE]
        lengths = csgraph.dijkstra(graph, directed=False, indices=found[some])[:, found]
        others = csgraph.dijkstra(copies, directed=False, indices=found[some])[:, found]
        paths = both[some][:, None] == both[None, :]
        paths[np.arange(len(some)), some] = False
        gap = np.abs(lengths[paths] - others[paths])
        gap[gap < _SAME_M] = 0
        penalty += float(np.minimum(gap / lengths[paths], 1).sum())
        counted += int(paths.sum())
    return shared / total * (1 - penalty / counted)


def _pairs(group: np.ndarray) -> int:
    """Ordered pairs of different members of one group."""
    sizes = np.bincount(group) if len(group) else np.zeros(0, np.int64)
    return int((sizes * (sizes - 1)).sum())


def _control_points(network: Network, spacing_m: float) -> _Places:
    """Every node once, on an edge of its own, and points inside the edges that cut them into equal pieces."""
    pieces = np.maximum(np.ceil(network.lengths / spacing_m).astype(np.int64), 1)
    loop = network.ends[:, 0] == network.ends[:, 1]
    pieces[loop] = np.maximum(pieces[loop], 3)
    inner = pieces - 1
    edge = np.repeat(np.arange(len(inner)), inner)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(inner) - inner, inner) + 1
    along = network.lengths[edge] * step / pieces[edge]
    _, at = np.unique(network.ends.ravel(), return_index=True)  # every node ends some edge
    nodes, last = at // 2, at % 2 == 1
    edge = np.concatenate((nodes, edge))
    along = np.concatenate((np.where(last, network.lengths[nodes], 0.0), along))
    points = shapely.line_interpolate_point(network.edges[edge], along)
    return _Places(edge.astype(np.intp), along, np.asarray(shapely.get_coordinates(points)).reshape(-1, 2))


def _snapped(places: _Places, network: Network, snap_m: float) -> _Places:
    """The same points on another network, where it is near enough."""
    points = shapely.points(places.xy)
    edge, along = np.full(len(points), -1, np.intp), np.zeros(len(points))
    if len(network.edges) and len(points):
        tree = shapely.STRtree(network.edges)
        near = tree.query_nearest(points, max_distance=snap_m * (1 + 1e-9) + 1e-9, all_matches=True)
        near = near[:, np.lexsort(near[::-1])]
        point, first = np.unique(near[0], return_index=True)  # at a junction several are equally near: the first
        edge[point] = near[1][first]
        along[point] = shapely.line_locate_point(network.edges[edge[point]], points[point])
    return _Places(edge, along, places.xy)


def _graph(network: Network, places: _Places) -> csr_array:
    """Symmetric graph of metres: node i is place i, after the places come the network's own nodes."""
    count, on = len(places.edge), np.flatnonzero(places.edge >= 0)
    edges = np.arange(len(network.edges))
    edge = np.concatenate((edges, places.edge[on], edges))
    along = np.concatenate((np.zeros(len(edges)), places.along_m[on], network.lengths))
    node = np.concatenate((network.ends[:, 0] + count, on, network.ends[:, 1] + count))
    rank = np.repeat([0, 1, 2], [len(edges), len(on), len(edges)])
    order = np.lexsort((rank, along, edge))
    edge, along, node = edge[order], along[order], node[order]
    same = edge[1:] == edge[:-1]
    tail, head = node[:-1][same], node[1:][same]
    metres = np.maximum(np.diff(along)[same], _LEAST_M)
    return _shortest(tail, head, metres, count + len(network.nodes))


def _shortest(tail: np.ndarray, head: np.ndarray, metres: np.ndarray, size: int) -> csr_array:
    """A sparse graph; of several edges between the same nodes the shortest: scipy itself would add them up."""
    low, high = np.minimum(tail, head), np.maximum(tail, head)
    order = np.lexsort((metres, high, low))
    low, high, metres = low[order], high[order], metres[order]
    kept = np.ones(len(low), bool)
    kept[1:] = (np.diff(low) != 0) | (np.diff(high) != 0)
    rows, cols, values = low[kept], high[kept], metres[kept]
    return csr_array(
        (np.concatenate((values, values)), (np.concatenate((rows, cols)), np.concatenate((cols, rows)))),
        shape=(size, size),
    )
