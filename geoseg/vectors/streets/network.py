"""Network: the streets of a class raster as lines with a width, between nodes. Reads as the steps go."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
import shapely

from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import Planes
from geoseg.vectors.streets.chains import chain
from geoseg.vectors.streets.crossings import cross, cross_bridges
from geoseg.vectors.streets.extent import Extent
from geoseg.vectors.streets.graph import Graph
from geoseg.vectors.streets.junctions import settle
from geoseg.vectors.streets.lines import draw_lines, keep_inside, reach_ends
from geoseg.vectors.streets.pruning import contract, drop_small, drop_unseen, prune
from geoseg.vectors.streets.rules import Footprints, Rules
from geoseg.vectors.streets.skeleton import TILE, Skeleton, find_skeleton
from geoseg.vectors.streets.strokes import pool
from geoseg.vectors.streets.tips import bridge
from geoseg.vectors.streets.widths import APART_M, measure
from geoseg.vectors.threads import Runner, in_threads


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Streets between nodes. Coordinates and lengths are metres; pixels, where nothing tells how wide a pixel is."""

    lines: np.ndarray
    """(s,) shapely LineString, from node to node; in the order of their first points, from the top left."""
    width_m: np.ndarray
    """(s,) float64: the median, drawn towards what goes straight on; NaN where it cannot be told."""
    width_p10: np.ndarray
    """(s,) float64: a tenth of the street is narrower."""
    width_p90: np.ndarray
    """(s,) float64: a tenth of the street is wider."""
    length_m: np.ndarray
    """(s,) float64."""
    prob: np.ndarray
    """(s,) float64 mean probability of the class along the line, NaN where it is not known."""
    prob_min10: np.ndarray
    """(s,) float64: a tenth of the line has less."""
    from_node: np.ndarray
    """(s,) int64 row of `nodes` at the first point."""
    to_node: np.ndarray
    """(s,) int64 row of `nodes` at the last point."""
    bridged: np.ndarray
    """(s,) bool: part of the line spans a gap."""
    nodes: np.ndarray
    """(n, 2) float64 where streets meet or end."""
    degree: np.ndarray
    """(n,) int64 ends of streets at each node."""


def find_streets(
    planes: Planes,
    value: int,
    metric: Metric,
    rules: Rules | None = None,
    *,
    solid: Collection[int] = (),
    tile: int = TILE,
    run: Runner = in_threads,
) -> Network:
    """Find the network of streets.

    Args:
        planes: A class raster, with probabilities or without.
        value: The class of the streets.
        metric: Of the planes' grid.
        rules: What makes a street.
        solid: Classes through which no gap is bridged, such as buildings.
        tile: Side in pixels of what is looked at in one go. The network does not depend on it.
        run: Calls a function on all tiles; always the same ones for the same arguments.

    Returns:
        The network; without streets, where there are none.
    """
    rules = rules or Rules()
    prints = Footprints.of(rules, metric)
    extent = Extent(planes, metric, tuple(solid))
    graph = _graph(find_skeleton(planes, value, prints, tile=tile, run=run), metric)
    drop_unseen(graph, rules.closing_m)
    prune(graph, 0, extent)
    contract(graph)
    bridge(graph, extent, rules.bridge_m, sides=False)
    prune(graph, rules.min_spur_m, extent)
    contract(graph)
    bridge(graph, extent, rules.bridge_m, sides=True)
    cross_bridges(graph)
    prune(graph, rules.min_spur_m, extent)
    contract(graph)
    settle(graph)
    drop_small(graph, rules.min_part_m, rules.min_width_m)
    reach_ends(graph, extent)
    keep_inside(graph, metric)
    lines = cross(graph, partial(draw_lines, smooth_m=rules.smooth_m, simplify_m=rules.simplify_m))
    profiles = measure(planes, value, metric, prints, lines, tile=tile, run=run)
    return _network(graph, lines, *profiles)


def _graph(skeleton: Skeleton, metric: Metric) -> Graph:
    """The graph of a skeleton, whose pixels are not needed any more."""
    return Graph.of(skeleton, chain(skeleton), metric)


def _network(graph: Graph, lines: np.ndarray, of: np.ndarray, width: np.ndarray) -> Network:
    """The graph as arrays: nodes and streets from the top left on."""
    names = list(graph.nodes)
    xy = np.array([graph.nodes[node] for node in names]).reshape(-1, 2)
    order = np.lexsort((xy[:, 0], -xy[:, 1]))
    row = {names[at]: index for index, at in enumerate(order)}
    streets = list(graph.streets.values())
    ends = np.array([[row[node] for node in street.ends] for street in streets], np.int64).reshape(-1, 2)
    first = np.lexsort((np.arange(len(ends)), ends[:, 1], ends[:, 0]))
    stop = np.searchsorted(of, np.arange(len(streets) + 1))
    profiles = [width[stop[k] : stop[k + 1]] for k in first]
    widths = np.array([_shares(part, (0.5, 0.1, 0.9)) for part in profiles]).reshape(-1, 3)
    seen = np.array([APART_M * np.isfinite(part).sum() for part in profiles])
    middle = pool(lines[first], ends[first], widths[:, 0], seen)
    prob = np.array([(_mean(streets[k].prob), *_shares(streets[k].prob, (0.1,))) for k in first]).reshape(-1, 2)
    return Network(
        lines=lines[first],
        width_m=middle,
        width_p10=np.fmin(widths[:, 1], middle),
        width_p90=np.fmax(widths[:, 2], middle),
        length_m=shapely.length(lines[first]),
        prob=prob[:, 0],
        prob_min10=prob[:, 1],
        from_node=ends[first, 0],
        to_node=ends[first, 1],
        bridged=np.array([streets[k].bridged for k in first], bool),
        nodes=xy[order],
        degree=np.bincount(ends.ravel(), minlength=len(xy)),
    )


def _shares(values: np.ndarray, shares: tuple[float, ...]) -> tuple[float, ...]:
    """Quantiles of what is known, NaN of nothing."""
    known = values[np.isfinite(values)]
    return tuple(np.quantile(known, shares)) if len(known) else (np.nan,) * len(shares)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
