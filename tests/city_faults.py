"""What a network gets wrong of a city, as outlines: what it misses, makes up, runs together and loses under trees."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.synthetic.plane import rotation
from geoseg.synthetic.shapes import rectangle
from geoseg.synthetic.streets import Streets

MISSED = 0.008
"""Share of buildings that are not seen; twice as many of the small ones."""
SMALL_M2 = 45.0
INVENTED = 0.015
"""False alarms for each building."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Outlines in the metres of the drawing."""

    missed: np.ndarray
    """(B,) bool, of the buildings."""
    invented: np.ndarray
    """Rings that look like buildings."""
    bites: np.ndarray
    """Polygons over edges of buildings: trees."""
    seams: np.ndarray
    """Polygons along walls that buildings share: where they are told apart."""
    gaps: np.ndarray
    """Polygons over streets: crowns, shadow."""
    blobs: np.ndarray
    """Polygons that look like street: yards, drives, paths."""


def find_faults(buildings: np.ndarray, streets: Streets, noise: float, rng: np.random.Generator) -> Faults:
    """Draw the faults; their number goes with `noise`."""
    area = shapely.area(buildings)
    missed = rng.random(len(buildings)) < noise * MISSED * np.where(area < SMALL_M2, 2, 1)
    return Faults(
        missed=missed,
        invented=_array(_invented(streets, rng.poisson(noise * INVENTED * len(buildings)), rng)),
        bites=_array(_bites(buildings, noise, rng)),
        seams=_seams(buildings, rng),
        gaps=_array(_gaps(streets, noise, rng)),
        blobs=_array(_blobs(streets, noise, rng)),
    )


def _array(shapes: Iterator[shapely.Polygon]) -> np.ndarray:
    found = list(shapes)
    out = np.empty(len(found), dtype=object)
    out[:] = found
    return out


def _invented(streets: Streets, count: int, rng: np.random.Generator) -> Iterator[shapely.Polygon]:
    left, top, right, foot = streets.box.bounds
    for _ in range(count):
        size, at = rng.uniform(2.5, 7.5, 2), rng.uniform((left, top), (right, foot))
        yield shapely.Polygon(rectangle(*size) @ rotation(rng.uniform(0, np.pi)) + at)


def _bites(buildings: np.ndarray, noise: float, rng: np.random.Generator) -> Iterator[shapely.Polygon]:
    """A crown over an edge of one building in nine."""
    for building in buildings[rng.random(len(buildings)) < 0.11 * noise]:
        at = building.exterior.interpolate(rng.uniform(0, 1), normalized=True)
        yield at.buffer(rng.uniform(0.7, 1.9), quad_segs=4)


def _seams(buildings: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Along shared walls, of which a network sees most."""
    first, second = shapely.STRtree(buildings).query(buildings, predicate="dwithin", distance=0.05)
    pair = first < second
    first, second = first[pair], second[pair]
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    walls = shapely.intersection(shapely.buffer(buildings[first], 0.06, quad_segs=1), buildings[second])
    found = shapely.buffer(walls, rng.uniform(0.1, 0.55, len(walls)), quad_segs=1)
    parts = shapely.get_parts(found)
    return parts[(shapely.get_type_id(parts) == 3) & (shapely.area(parts) > 0.01)]


def _spots(
    streets: Streets, every_m: float, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Places on centrelines, one in so many metres."""
    for line, width in zip(streets.lines, streets.width, strict=True):
        along = np.sort(rng.uniform(0, line.length, rng.poisson(line.length / every_m)))
        if not len(along):
            continue
        at = shapely.get_coordinates(shapely.line_interpolate_point(line, along))
        ahead = shapely.get_coordinates(shapely.line_interpolate_point(line, np.minimum(along + 0.5, line.length)))
        back = shapely.get_coordinates(shapely.line_interpolate_point(line, np.maximum(along - 0.5, 0)))
        for point, step in zip(at, ahead - back, strict=True):
            yield point, step / max(np.hypot(*step), 1e-9), float(width)


def _box(at: np.ndarray, ahead: np.ndarray, along: float, across: float) -> shapely.Polygon:
    return shapely.Polygon(rectangle(along, across) @ np.array([ahead, [-ahead[1], ahead[0]]]) + at)


def _gaps(streets: Streets, noise: float, rng: np.random.Generator) -> Iterator[shapely.Polygon]:
    if noise <= 0:
        return
    for at, ahead, width in _spots(streets, 900 / noise, rng):
        yield _box(at, ahead, min(3 + rng.exponential(4.5), 24), width + 3)
    for at, ahead, width in _spots(streets, 80 / noise, rng):
        side = np.array([-ahead[1], ahead[0]]) * rng.choice([-1, 1])
        yield shapely.Point(at + side * (width / 2 + rng.normal(0.3, 0.7))).buffer(rng.uniform(0.8, 2.6), quad_segs=4)


def _blobs(streets: Streets, noise: float, rng: np.random.Generator) -> Iterator[shapely.Polygon]:
    if noise <= 0:
        return
    for at, ahead, width in _spots(streets, 300 / noise, rng):  # yards and lay-bys
        side = np.array([-ahead[1], ahead[0]]) * rng.choice([-1, 1])
        deep = rng.uniform(1.5, 6)
        yield _box(at + side * (width + deep) / 2, ahead, rng.uniform(3, 12), deep)
    for at, ahead, width in _spots(streets, 300 / noise, rng):  # drives
        side = np.array([-ahead[1], ahead[0]]) * rng.choice([-1, 1])
        deep = rng.uniform(3, 14)
        yield _box(at + side * (width + deep) / 2, ahead, rng.uniform(1.8, 3.2), deep)
    for at, ahead, _ in _spots(streets, 900 / noise, rng):  # paths in the open
        yield _box(at + rng.normal(0, 35, 2), ahead, rng.uniform(6, 28), rng.uniform(2, 4))
