"""A synthetic city to measure vectors on: exact outlines, and the planes that a network would have given of them.

The outlines are those of `geoseg.synthetic`, towns whose blocks are mixed as in a large city; nothing is painted. The
planes are drawn from them by `tests.city_planes`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import shapely
from affine import Affine
from pyproj import CRS

from geoseg.grid import Grid
from geoseg.synthetic.layout import lay_out
from geoseg.synthetic.plane import rotation
from geoseg.synthetic.streets import Streets, draw_streets
from geoseg.synthetic.style import CLIMATES, draw_style
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import ArrayPlanes
from tests.city_faults import find_faults
from tests.city_planes import CLASSES, Drawing, draw_planes
from tests.city_streets import join_streets

BLOCKS = {"houses": 6.0, "slabs": 1.5, "courtyards": 0.6, "terraces": 0.6, "halls": 1.5, "village": 1, "park": 0.8}
"""Kinds of blocks, and how often each is met."""
LEAST_M2 = 20.0
"""Smaller buildings are left out."""
UTM_SCALE = 0.9996
"""Of the central meridian, on which the city lies: with it a pixel measures on the ground what was asked for."""


@dataclass(frozen=True, eq=False)
class City:
    """What a network sees of a city, and what is true of it."""

    planes: ArrayPlanes
    """Labels, and the probabilities of background, building and road; some pixels have no data."""
    metric: Metric
    """Of the planes' grid. All shapes are in its metres, clipped to where there is data."""
    buildings: np.ndarray
    """(B,) shapely Polygon."""
    roads: np.ndarray
    """(R,) shapely LineString: centrelines between junctions."""
    width_m: np.ndarray
    """(R,) float64 width of each of `roads`."""
    surfaces: np.ndarray
    """(S,) shapely Polygon: the streets' surface."""
    area: shapely.Polygon
    """Where there is data. Its border cuts through buildings and roads."""


def make_city(side: int, gsd: float = 0.3, seed: int = 0, noise: float = 1.0) -> City:
    """A city of `side` x `side` pixels; the same arguments give the same bytes.

    Args:
        side: Of the planes in pixels; 5000 at 0.3 m hold some 3000 buildings and 45 km of road.
        gsd: Metres per pixel. The network's faults along outlines grow with it, as they are pixels wide.
        seed: Which city.
        noise: How bad the network is: 0 blurs a little and does nothing else, 1 is usual.
    """
    extent = side * gsd
    style = draw_style(np.random.default_rng([seed, 0]))
    style = replace(style, climate=CLIMATES["europe"], blocks=BLOCKS, scale=1.6)
    rng = np.random.default_rng([seed, 1])
    streets = join_streets(draw_streets((extent, extent), style, rng), rng)
    layout = lay_out(streets, style, np.random.default_rng([seed, 2]))
    kept = shapely.area(layout.footprints) >= LEAST_M2
    footprints = np.array(list(_varied(layout.footprints[kept], np.random.default_rng([seed, 3]))), dtype=object)
    valid = _valid(extent, np.random.default_rng([seed, 4]))
    drawing = Drawing(
        buildings=footprints,
        surface=shapely.get_parts(layout.surface),
        faults=find_faults(footprints, streets, noise, np.random.default_rng([seed, 5])),
        valid=valid,
    )
    labels, probabilities = draw_planes(drawing, side, gsd, noise, seed)
    step = gsd * UTM_SCALE
    grid = Grid((side, side), Affine(step, 0, 500_000, 0, -step, 4_000_000), CRS.from_epsg(32637).to_wkt())
    planes = ArrayPlanes(labels, grid, CLASSES, probabilities, source="city")
    return _true(planes, Metric(grid), footprints, streets, layout.surface, valid, gsd)


def _true(
    planes: ArrayPlanes,
    metric: Metric,
    footprints: np.ndarray,
    streets: Streets,
    surface: shapely.Geometry,
    valid: shapely.Polygon,
    gsd: float,
) -> City:
    """Everything clipped to where there is data, in the metres of `metric`."""

    def placed(shapes: np.ndarray) -> np.ndarray:
        return shapely.transform(shapes, lambda xy: metric.to_metres(xy / gsd))

    shapely.prepare(valid)
    whole = shapely.contains_properly(valid, footprints)
    cut = shapely.get_parts(shapely.intersection(footprints[~whole], valid))
    cut = cut[(shapely.get_type_id(cut) == 3) & (shapely.area(cut) > LEAST_M2 / 4)]
    lines, of = shapely.get_parts(shapely.intersection(streets.lines, valid), return_index=True)
    seen = (shapely.get_type_id(lines) == 1) & (shapely.length(lines) > 0.5)
    ground = shapely.get_parts(surface.intersection(valid))
    return City(
        planes=planes,
        metric=metric,
        buildings=placed(np.concatenate([footprints[whole], cut])),
        roads=placed(lines[seen]),
        width_m=streets.width[of[seen]],
        surfaces=placed(ground[shapely.get_type_id(ground) == 3]),
        area=placed(valid),
    )


def _varied(footprints: np.ndarray, rng: np.random.Generator) -> Iterator[shapely.Polygon]:
    """One in twenty-five loses a corner or two at 45 degrees, one in eighty is round: parts of what stood there."""
    chance = rng.random(len(footprints))
    for footprint, luck in zip(footprints, chance, strict=True):
        ring = shapely.get_coordinates(footprint.exterior)[:-1]
        sides = np.hypot(*np.diff(np.concatenate([ring, ring[:1]]), axis=0).T)
        if len(ring) != 4 or sides.min() < 7 or luck > 0.0525:
            yield footprint
        elif luck < 0.0125:
            yield footprint.centroid.buffer(0.48 * sides.min(), quad_segs=16)
        else:
            yield _chamfered(ring, 1 + int(luck < 0.03), rng.uniform(0.2, 0.4) * sides.min())


def _chamfered(ring: np.ndarray, corners: int, cut: float) -> shapely.Polygon:
    points = []
    for i, corner in enumerate(ring):
        if i >= corners:
            points.append(corner)
            continue
        points += [
            corner + (other - corner) * cut / np.hypot(*(other - corner))
            for other in (ring[i - 1], ring[(i + 1) % len(ring)])
        ]
    return shapely.Polygon(points)


def _valid(extent: float, rng: np.random.Generator) -> shapely.Polygon:
    """Where there is data: all but a slant corner, a wedge along one side, and a hole."""
    frame = shapely.box(0, 0, extent, extent)
    corner, wedge = rng.uniform(0.04, 0.1, 2) * extent, rng.uniform(0.004, 0.012) * extent
    hole = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.008 * extent @ rotation(rng.uniform(0, 1))
    missing = [
        shapely.Polygon([(0, 0), (corner[0], 0), (0, corner[1])]),
        shapely.Polygon([(extent, 0), (extent, extent), (extent - wedge, extent)]),
        shapely.Polygon(hole + rng.uniform(0.3, 0.7, 2) * extent),
    ]
    found: shapely.Polygon = frame.difference(shapely.union_all(missing))
    return found
