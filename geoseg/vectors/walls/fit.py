"""Buildings with straight walls: every outline fitted, checked against the raw one, and settled with its neighbours."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely

from geoseg.vectors.metric import Metric
from geoseg.vectors.patches import AnyPatches, Patches
from geoseg.vectors.threads import in_threads
from geoseg.vectors.walls.borders import borders, narrow_gaps
from geoseg.vectors.walls.building import NOTHING, ROOM, fit_buildings
from geoseg.vectors.walls.direction import leanings, votes
from geoseg.vectors.walls.frames import Frames
from geoseg.vectors.walls.neighbours import settle
from geoseg.vectors.walls.outlines import polygons, ring_areas
from geoseg.vectors.walls.ring import Tuning

Angles = Literal["ortho", "ortho45", "any"]
"""Right angles; diagonals too; and walls of any direction where the outline insists."""
METHODS = ("walls", "circle", "rectangle", "simplified", "raw")
"""How an outline was found. The first three are the kinds of `fit_buildings`."""
SIMPLIFIED, RAW = 3, 4
REACH_M = 60.0
"""How far away neighbours are asked for their direction."""
LEAST_IOU = 0.75
"""A fit that shares less with the raw outline is no fit of it."""
FARTHEST, FARTHEST_M = 6.0, 1.8  # pixels, metres
"""A sharp corner further from the raw outline than the larger of both is a spike: two walls that are all but parallel
meet somewhere."""
SHARP = np.radians(45)
"""A smaller angle is sharp. Rounded off, right ones may be further from the outline."""
LIKE = 0.1
"""Share of the area that may lie between a fit and its outline without a closer look."""
TUNING = Tuning()
_VERTICES = 1 << 17  # in one batch


@dataclass(frozen=True, slots=True, eq=False)
class Footprints:
    """Outlines of buildings, one for each patch, in the same order."""

    shapes: np.ndarray
    """(p,) shapely Polygon in metres, valid; no two overlap."""
    method: np.ndarray
    """(p,) uint8 index into `METHODS`."""
    angle: np.ndarray
    """(p,) float64 degrees anticlockwise from east, 0 to 90: most walls run along or across."""


def fit_walls(
    patches: AnyPatches,
    metric: Metric,
    *,
    angles: Angles = "any",
    min_wall_m: float = 1.5,
    min_hole_m2: float = 4.0,
    tuning: Tuning = TUNING,
) -> Footprints:
    """Give buildings straight walls, right angles and sharp corners, as far as their outlines agree.

    An outline is cut into walls so that their number and the distance of its vertices to them are least together. What
    a circle describes better becomes one; what is too small to have walls becomes a rectangle in the direction of its
    neighbours. A fit that is invalid, less like the raw outline than an IoU of 0.75, or has a sharp corner that shoots
    out, gives way to the outline simplified by two pixels; where that is no better, to the raw one; `method` tells.
    Then walls that neighbours share become one line, those a narrow gap apart too, and what still overlaps is cut off.
    A building's fit depends on itself and on the directions round it only, never on batches.

    Args:
        patches: Sub-pixel outlines of buildings.
        metric: Of their raster.
        angles: Which walls there may be.
        min_wall_m: Shorter walls are not made, nor those under three pixels.
        min_hole_m2: Smaller holes are filled.
        tuning: What is weighed against what.
    """
    if not len(patches):
        return Footprints(np.empty(0, dtype=object), np.empty(0, np.uint8), np.empty(0))
    frames = Frames.of(patches, metric)
    tuning = _asked(tuning, angles, min_wall_m / metric.gsd)

    def voted(first: int, stop: int) -> np.ndarray:
        part, there = patches.slice(first, stop), frames.slice(first, stop)
        return votes(there.inward(part), part.ring_offsets, part.patch_offsets)

    def fitted(first: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        part, there, here = patches.slice(first, stop), frames.slice(first, stop), slice(first, stop)
        return _fit(part, there, own[here], around[here], min_hole_m2, tuning)

    batches = list(patches.spans(_VERTICES))
    own = np.concatenate(in_threads(lambda batch: voted(*batch), batches))
    around = leanings(own, frames.origin, REACH_M)
    fits = in_threads(lambda batch: fitted(*batch), batches)
    shapes, method, angle = (np.concatenate(column) for column in zip(*fits, strict=True))
    shared = borders(patches, frames)
    shared += narrow_gaps(shapes, metric.gsd, shared)
    return Footprints(settle(shapes, angle, shared, metric.gsd), method, angle)


def _asked(tuning: Tuning, angles: Angles, shortest: float) -> Tuning:
    return tuning._replace(
        diagonal=np.inf if angles == "ortho" else tuning.diagonal,
        free=tuning.free if angles == "any" else np.inf,
        shortest=max(shortest, tuning.shortest),
    )


def _fit(
    patches: Patches, frames: Frames, own: np.ndarray, around: np.ndarray, min_hole_m2: float, tuning: Tuning
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shapes, methods and angles of a batch."""
    xy, rings, first = frames.inward(patches), patches.ring_offsets, patches.patch_offsets[:-1]
    corners, counts, kinds, directions, between = fit_buildings(
        xy, rings, patches.patch_offsets, *_leaning(own, around, tuning), tuning
    )
    kept = ring_areas(xy, rings) * frames.gsd**2 >= min_hole_m2
    kept[first] = True
    lost = np.bitwise_or.reduceat(kept & (kinds == NOTHING), first)
    counts = np.where(kept & ~np.repeat(lost, np.diff(patches.patch_offsets)), counts, 0)
    used = np.arange(ROOM) < counts[:, None]
    placed = frames.outward(corners[used], np.repeat(patches.ring_patch, counts))
    shapes = polygons(placed, np.cumsum(counts) - counts, counts, patches.patch_offsets)
    placed = frames.outward(xy, np.repeat(patches.ring_patch, np.diff(rings)))
    raw = polygons(placed, rings[:-1], np.where(kept, np.diff(rings), 0), patches.patch_offsets)
    most = max(FARTHEST * frames.gsd, FARTHEST_M) if np.isfinite(tuning.free) else np.inf
    method = _guarded(shapes, raw, kinds[first].astype(np.uint8), between * frames.gsd**2, frames.gsd, most)
    return shapes, method, np.degrees(directions) % 90


def _leaning(own: np.ndarray, around: np.ndarray, tuning: Tuning) -> tuple[np.ndarray, np.ndarray]:
    """Directions to start from, and what neighbours want of them as `straighten` takes it."""
    directions = np.angle(own + tuning.lean * around) / 4
    off = (np.angle(around) - 4 * directions) / 4
    off -= np.round(off / (np.pi / 2)) * (np.pi / 2)
    weight = tuning.lean / tuning.sigma**2 * np.abs(around) ** 2
    return directions, np.stack([weight * np.cos(2 * off), weight * np.sin(2 * off)], axis=1)


def _guarded(
    shapes: np.ndarray, raw: np.ndarray, method: np.ndarray, between: np.ndarray, gsd: float, most: float
) -> np.ndarray:
    """Put the simplified outline, or the raw one, in the place of shapes that are none or not like it; the methods.

    Intersections are asked for only where neither the area nor the square metres between outlines promise likeness.
    No sharp corner may lie further than `most` from the raw outline.
    """
    wrong = ~shapely.is_valid(shapes) | shapely.is_empty(shapes)
    area, goal = shapely.area(shapes), shapely.area(raw)
    asked = np.flatnonzero(~wrong & (np.maximum(np.abs(area - goal), between) > LIKE * goal))
    common = shapely.area(shapely.intersection(shapes[asked], raw[asked]))
    wrong[asked[common < LEAST_IOU * (area[asked] + goal[asked] - common)]] = True
    there = np.flatnonzero(~wrong)
    wrong[there] = _spiked(shapes[there], raw[there], most)
    shapes[wrong] = shapely.simplify(raw[wrong], 2 * gsd)
    method[wrong] = SIMPLIFIED
    left = np.flatnonzero(wrong)
    broken = left[~shapely.is_valid(shapes[left]) | shapely.is_empty(shapes[left])]
    shapes[broken], method[broken] = raw[broken], RAW
    common = shapely.area(shapely.intersection(shapes[left], raw[left]))
    unlike = left[common < LEAST_IOU * (shapely.area(shapes[left]) + goal[left] - common)]
    shapes[unlike], method[unlike] = raw[unlike], RAW
    return method


def _spiked(shapes: np.ndarray, raw: np.ndarray, most: float) -> np.ndarray:
    """(p,) bool: whether a sharp corner of a shape lies further than `most` from its raw outline."""
    corners, of = shapely.get_coordinates(shapely.get_exterior_ring(shapes), return_index=True)
    first = np.searchsorted(of, np.arange(len(shapes)))
    stop = np.searchsorted(of, np.arange(len(shapes)), "right")
    before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
    before[first] = corners[stop - 2]  # the last corner is the first one again
    after[stop - 1] = corners[first + 1]
    one, two = before - corners, after - corners
    sharp = (one * two).sum(axis=1) > np.cos(SHARP) * np.hypot(*one.T) * np.hypot(*two.T)
    corners, of = corners[sharp], of[sharp]
    far = shapely.distance(shapely.points(corners), shapely.boundary(raw)[of]) > most
    spiked: np.ndarray = np.bincount(of[far], minlength=len(shapes)) > 0
    return spiked
