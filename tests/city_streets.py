"""Streets as a reference has them: what looks joined is joined. Metres, x right, y down."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import shapely
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from shapely.ops import substring

from geoseg.synthetic.streets import Streets

NEAR_M = 2.0
"""Surfaces closer than this look like one."""


WELD = 0.6
"""Of their width: junctions closer than this look like one."""


def join_streets(streets: Streets, rng: np.random.Generator) -> Streets:
    """Junctions within each other become one, ends in or beside another street's surface junctions with it.

    One side street in ten ends blind, far from everything.
    """
    found = _without_doubles(_welded(_joined(_welded(streets))))
    length = shapely.length(found.lines)
    blind = (rng.random(len(length)) < 0.1) & ~found.main & (length > 70)
    found.lines[blind] = [substring(line, 0, 0.6, normalized=True) for line in found.lines[blind]]
    return found


def _welded(streets: Streets) -> Streets:
    """Nodes closer than a street is wide made one; what lies between them goes."""
    ends = np.concatenate([shapely.get_coordinates(shapely.get_point(streets.lines, k)) for k in (0, -1)])
    reach = WELD * np.tile(streets.width, 2)
    first, second = shapely.STRtree(shapely.points(ends)).query(
        shapely.points(ends), predicate="dwithin", distance=float(reach.max())
    )
    near = np.hypot(*(ends[first] - ends[second]).T) < np.maximum(np.minimum(reach[first], reach[second]), 0.1)
    links = csr_array((np.ones(near.sum()), (first[near], second[near])), shape=(len(ends), len(ends)))
    count, node = connected_components(links, directed=False)
    each = np.bincount(node, minlength=count)
    middle = np.column_stack([np.bincount(node, ends[:, k], count) / each for k in (0, 1)])
    node = node.reshape(2, -1)
    lines, kept = streets.lines.copy(), []
    for index, line in enumerate(lines):
        start, stop = node[:, index]
        xy = shapely.get_coordinates(line)
        xy[0], xy[-1] = middle[start], middle[stop]
        lines[index] = shapely.LineString(xy)
        if start != stop or line.length > 6 * streets.width[index]:
            kept.append(index)
    return _of(streets, lines[kept], np.array(kept, np.int64))


def _without_doubles(streets: Streets) -> Streets:
    """Without streets most of which runs in the surface of wider ones that they do not meet."""
    lines, half = streets.lines, streets.width / 2
    first, second = shapely.STRtree(lines).query(lines, predicate="dwithin", distance=float(half.max()))
    later = (half[second] > half[first]) | ((half[second] == half[first]) & (second < first))
    later &= ~shapely.intersects(lines[first], lines[second])
    first, second = first[later], second[later]
    wide = shapely.buffer(lines[second], half[second] + half[first] * 0.5, quad_segs=4)
    inside = shapely.length(shapely.intersection(lines[first], wide))
    share = np.zeros(len(lines))
    np.maximum.at(share, first, inside / shapely.length(lines[first]))
    kept = np.flatnonzero(share < 0.6)
    return _of(streets, lines[kept], kept)


def _joined(streets: Streets) -> Streets:
    lines, width = streets.lines.copy(), streets.width
    loose = _loose(lines)
    cuts: dict[int, list[float]] = {}
    tree = shapely.STRtree(lines)
    for street, side in zip(*np.nonzero(loose), strict=True):
        tip = shapely.get_point(lines[street], -int(side))
        reach = NEAR_M + width[street] / 2 + width / 2
        near = tree.query(tip, predicate="dwithin", distance=float(reach.max()))
        others = [k for k in near if k != street and shapely.distance(lines[k], tip) < reach[k]]
        if not others:
            continue
        other = min(others, key=lambda k: (shapely.distance(streets.lines[k], tip), k))
        at = shapely.line_locate_point(streets.lines[other], tip)
        foot = shapely.get_coordinates(shapely.line_interpolate_point(streets.lines[other], at))
        xy = shapely.get_coordinates(lines[street])
        lines[street] = shapely.LineString(np.concatenate([xy, foot] if side else [foot, xy]))
        cuts.setdefault(int(other), []).append(float(at))
    pieces, of = [], []
    for index, line in enumerate(lines):
        grown = shapely.line_locate_point(line, shapely.get_point(streets.lines[index], 0))
        at = [0.0, *sorted(grown + cut for cut in cuts.get(index, [])), line.length]
        parts = [substring(line, a, b) for a, b in pairwise(at) if b - a > 1e-6]
        pieces += parts
        of += [index] * len(parts)
    return _of(streets, np.array(pieces, dtype=object), np.array(of))


def _loose(lines: np.ndarray) -> np.ndarray:
    """(S, 2) bool: whether no other street begins or ends where the first, the last point of each lies."""
    ends = np.stack([shapely.get_coordinates(shapely.get_point(lines, k)) for k in (0, -1)], axis=1)
    _, node, count = np.unique(ends.reshape(-1, 2).round(2), axis=0, return_inverse=True, return_counts=True)
    return (count[node] == 1).reshape(-1, 2)


def _of(streets: Streets, lines: np.ndarray, index: np.ndarray) -> Streets:
    """Lines that come of the streets with these indices."""
    return replace(streets, lines=lines, width=streets.width[index], main=streets.main[index], dirt=streets.dirt[index])
