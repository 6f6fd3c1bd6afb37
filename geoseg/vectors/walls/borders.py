"""Borders: what two patches have in common, and the narrow gaps that stand for a wall between them."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import shapely

from geoseg.vectors.patches import AnyPatches
from geoseg.vectors.rings import SCALE
from geoseg.vectors.walls.frames import Frames

WIDEST, WIDEST_M = 3.5, 1.0  # pixels, metres
"""A gap is narrow where it is less than both. Networks leave seams between buildings that touch, and blur them."""
_FACING = np.cos(np.radians(15))
_SHARE = 0.5
"""Of the shorter wall, at least, that must face the other one."""
_POINTS = 8
_MOST_PAIRS = 1 << 22  # of walls of two neighbours: such outlines are no buildings, and memory is finite
_VERTICES = 1 << 20  # loaded in one go


@dataclass(frozen=True, slots=True, eq=False)
class Border:
    """What two patches share."""

    one: int
    """Patch; `one` < `two`."""
    two: int
    """Patch."""
    points: np.ndarray
    """(n, 2) float64 in metres, n >= 3."""


def borders(patches: AnyPatches, frames: Frames) -> list[Border]:
    """Of all pairs of patches that have three vertices or more in common, in the order of the patches.

    Pieces of a split patch share the middles of cracks: other vertices need not be looked at. Outlines are loaded some
    at a time; what waits for another patch are the vertices below its first row.
    """
    # Key (row, then column), number, and patch of each middle of a crack: those that wait for a twin, and pairs found.
    waiting, pairs = np.empty((0, 3), np.int64), [np.empty((0, 4), np.int64)]
    tops = np.append(np.minimum.accumulate(patches.box[::-1, 1])[::-1], np.int32(2**31 - 1)).astype(np.int64)
    for start, stop in patches.spans(_VERTICES):
        part = patches.slice(start, stop)
        middle = np.flatnonzero((part.points * 2 % SCALE == 0).all(axis=1))
        points = part.points[middle].astype(np.int64)
        of = start + part.ring_patch[np.searchsorted(part.ring_offsets, middle, "right") - 1]
        number = middle + patches.ring_offsets[patches.patch_offsets[start]]
        here = np.concatenate([waiting, np.column_stack([points[:, 1] << 32 | points[:, 0], number, of])])
        here = here[np.argsort(here[:, 0], kind="stable")]
        twice = np.flatnonzero(np.diff(here[:, 0]) == 0)
        found = np.column_stack([here[twice], here[twice + 1, 2]])
        pairs.append(found[found[:, 2] != found[:, 3]])
        waiting = here[here[:, 0] >> 32 >= tops[stop] * SCALE]
        waiting = waiting[~np.isin(waiting[:, 0], found[:, 0])]
    key, number, first, second = np.concatenate(pairs).T
    one, two = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((number, two, one))
    key, one, two = key[order], one[order], two[order]
    starts = np.flatnonzero(np.diff(one, prepend=-1) | np.diff(two, prepend=-1))
    shared: list[Border] = []
    for a, b in pairwise([*starts.tolist(), len(one)]):
        if b - a >= 3:
            xy = np.column_stack([key[a:b] & 0xFFFFFFFF, key[a:b] >> 32]) / SCALE
            shared.append(Border(int(one[a]), int(two[a]), frames.placed(xy, np.full(b - a, one[a]))))
    return shared


def narrow_gaps(shapes: np.ndarray, gsd: float, known: list[Border]) -> list[Border]:
    """The middles of narrow gaps between buildings, in the order of the buildings.

    Args:
        shapes: (p,) valid shapely polygons in metres.
        gsd: Metres per pixel.
        known: Pairs that have a border already.
    """
    widest = min(WIDEST * gsd, WIDEST_M)
    done = {(border.one, border.two) for border in known}
    one, two = shapely.STRtree(shapes).query(shapes, "dwithin", distance=widest)
    order = np.lexsort((two, one))
    bounds = shapely.bounds(shapes) + np.array([-2, -2, 2, 2]) * widest
    walls = lru_cache(maxsize=64)(lambda p: _walls(shapes[p]))
    found = []
    for p, q in zip(one[order].tolist(), two[order].tolist(), strict=True):
        if p < q and (p, q) not in done:
            points = _middle(_within(walls(p), bounds[q]), _within(walls(q), bounds[p]), widest)
            if points is not None:
                found.append(Border(p, q, points))
    return found


def _walls(shape: shapely.Polygon) -> tuple[np.ndarray, np.ndarray]:
    """(w, 2) beginnings and (w, 2) ends of the outer walls, anticlockwise."""
    ring = shapely.get_coordinates(shape.exterior)
    if not shapely.is_ccw(shape.exterior):
        ring = ring[::-1]
    return ring[:-1], ring[1:]


def _within(walls: tuple[np.ndarray, np.ndarray], bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The walls that reach into a box: what lies elsewhere faces nothing in it."""
    low, high = np.minimum(*walls), np.maximum(*walls)
    kept = ((low <= bounds[2:]) & (high >= bounds[:2])).all(axis=1)
    return walls[0][kept], walls[1][kept]


def _middle(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray], widest: float
) -> np.ndarray | None:
    """(n, 2) points midway between the two walls that face each other along most of the way, closer than `widest`."""
    start, step = ours[0], ours[1] - ours[0]
    length, size = np.hypot(*step.T), np.hypot(*(theirs[1] - theirs[0]).T)
    kept, seen = length > 0, size > 0
    if np.count_nonzero(kept) * np.count_nonzero(seen) > _MOST_PAIRS:
        return None
    start, length, size = start[kept], length[kept], size[seen]
    ahead = step[kept] / length[:, None]
    from_, to = theirs[0][seen], theirs[1][seen]
    facing = -(ahead @ (to - from_).T) >= _FACING * size
    # Along our wall, and away from it: the beginnings and ends of theirs.
    along = [np.einsum("wc,wvc->wv", ahead, xy[None] - start[:, None]) for xy in (to, from_)]
    outward = np.column_stack([ahead[:, 1], -ahead[:, 0]])
    away = [np.einsum("wc,wvc->wv", outward, xy[None] - start[:, None]) for xy in (to, from_)]
    low, high = np.maximum(along[0], 0), np.minimum(along[1], length[:, None])
    gap = sum(away) / 2
    common = np.where(facing & (np.abs(gap) <= widest), high - low, 0)
    common[common < _SHARE * np.minimum(length[:, None], size[None])] = 0
    if not common.size or common.max() <= 0:
        return None
    w, v = np.unravel_index(int(np.argmax(common)), common.shape)
    if gap[w, v] > widest:
        return None
    at = np.linspace(low[w, v], high[w, v], _POINTS)
    # Half the way to the other wall, which may not be quite parallel.
    slope = (away[1][w, v] - away[0][w, v]) / max(along[1][w, v] - along[0][w, v], 1e-9)
    off = (away[0][w, v] + (at - along[0][w, v]) * slope) / 2
    points: np.ndarray = start[w] + at[:, None] * ahead[w] + off[:, None] * outward[w]
    return points
