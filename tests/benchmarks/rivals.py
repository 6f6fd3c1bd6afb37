"""What else makes vectors of the same planes: the usual chains, each from labels to shapes in metres."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

import geopandas as gpd
import numpy as np
import shapely
from rasterio import features
from skimage.morphology import skeletonize

from geoseg.vectors.patches import trace
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.streets import find_streets
from geoseg.vectors.touching import trace_apart
from geoseg.vectors.walls.fit import fit_walls
from tests.city import City

BUILDING, ROAD = 1, 2
LEAST_M2 = 8.0
"""Smaller polygons are left out of all chains: less than half of the city's smallest building."""
SIMPLIFY_M = 1.0
INT16 = 32_767
"""sknw counts in 16 bits."""


@dataclass(frozen=True, slots=True)
class Streets:
    """Lines in metres, and their widths where a chain tells them."""

    lines: np.ndarray
    width_m: np.ndarray | None = None


class Missing(Exception):
    """A chain cannot run here, and why."""


def library(name: str) -> object:
    """An optional library; `Missing` where it is not installed."""
    try:
        return import_module(name)
    except ImportError as err:
        raise Missing(f"{name} is not installed (pip install 'geoseg[benchmark]')") from err


def _large(polygons: np.ndarray) -> np.ndarray:
    return polygons[shapely.area(polygons) >= LEAST_M2]


def _outlines(city: City) -> np.ndarray:
    """Of GDAL's polygonizer, in metres."""
    found = (city.planes.values == BUILDING).astype(np.uint8)
    shapes = features.shapes(found, mask=found == 1, connectivity=4)
    rings = [(shapely.Polygon(shape["coordinates"][0], shape["coordinates"][1:])) for shape, _ in shapes]
    return shapely.transform(np.array(rings, dtype=object), city.metric.to_metres)


def raw(city: City) -> np.ndarray:
    return _large(_outlines(city))


def simplified(city: City) -> np.ndarray:
    return _large(shapely.simplify(_outlines(city), SIMPLIFY_M))


def rectangles(city: City) -> np.ndarray:
    return _large(shapely.minimum_rotated_rectangle(_outlines(city)))


def regularised(city: City) -> np.ndarray:
    """buildingregulariser in one process, else as it comes."""
    made = library("buildingregulariser")
    frame = gpd.GeoDataFrame(geometry=raw(city), crs="EPSG:32637")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = made.regularize_geodataframe(frame, num_cores=1)  # type: ignore[attr-defined]
    parts = shapely.get_parts(found.geometry.to_numpy())
    return _large(parts[shapely.get_type_id(parts) == 3])


def traced(city: City) -> np.ndarray:
    """geoseg's own sub-pixel outlines, nothing fitted."""
    patches = trace(city.planes, [BUILDING], subpixel=True)
    return _large(shapely.transform(patches.polygons(), city.metric.to_metres))


def walls(city: City, *, split: bool = True) -> np.ndarray:
    """geoseg: touching buildings told apart, outlines traced, walls fitted."""
    least = int(0.5 * LEAST_M2 / city.metric.gsd**2)
    if split:
        patches = trace_apart(city.planes, BUILDING, gsd=city.metric.gsd, min_pixels=least)
    else:
        patches = trace(city.planes, [BUILDING], subpixel=True, min_pixels=least)
    return _large(fit_walls(patches, city.metric).shapes)


def without_probabilities(city: City) -> City:
    """The city as a class raster alone."""
    planes = ArrayPlanes(city.planes.values, city.planes.grid, city.planes.classes, source=city.planes.source)
    return replace(city, planes=planes)


def skeleton(city: City) -> Streets:
    """skeletonize, sknw, simplify: a line for each edge of the graph."""
    made = library("sknw")
    if max(city.planes.grid.shape) > INT16:
        raise Missing(f"sknw counts in 16 bits: no more than {INT16} pixels a side")
    found = skeletonize(city.planes.values == ROAD)
    graph = made.build_sknw(found.astype(np.uint16), multi=True)  # type: ignore[attr-defined]
    lines = []
    for start, stop, edge in graph.edges(data=True):
        ends = (graph.nodes[node]["o"][None] for node in (start, stop))
        rows_cols = np.concatenate([next(ends), edge["pts"], next(ends)])
        lines.append(shapely.LineString(city.metric.to_metres(rows_cols[:, ::-1] + 0.5)))
    return Streets(shapely.simplify(np.array(lines, dtype=object), 0.5))


def streets(city: City) -> Streets:
    """geoseg."""
    network = find_streets(city.planes, ROAD, city.metric, solid=(BUILDING,))
    return Streets(network.lines, network.width_m)


def polygonized(city: City) -> int:
    """GDAL's polygonizer on both classes, without shapely."""
    values = city.planes.values
    return sum(1 for _ in features.shapes(values, mask=(values == BUILDING) | (values == ROAD), connectivity=4))


def polygonized_by_geoseg(city: City) -> int:
    return len(trace(city.planes, [BUILDING, ROAD], subpixel=True))


BUILDINGS: dict[str, Callable[[City], np.ndarray]] = {
    "features.shapes (raw pixels)": raw,
    "features.shapes + simplify 1 m": simplified,
    "minimum rotated rectangle": rectangles,
    "buildingregulariser": regularised,
    "geoseg, traced only": traced,
    "geoseg walls": walls,
    "geoseg walls, nothing split": lambda city: walls(city, split=False),
    "geoseg walls, labels alone": lambda city: walls(without_probabilities(city)),
}
ROADS: dict[str, Callable[[City], Streets]] = {
    "skeletonize + sknw + simplify .5 m": skeleton,
    "geoseg streets": streets,
    "geoseg streets, labels alone": lambda city: streets(without_probabilities(city)),
}
POLYGONS: dict[str, Callable[[City], int]] = {
    "features.shapes": polygonized,
    "geoseg trace": polygonized_by_geoseg,
}


def chosen(names: Sequence[str], known: dict) -> dict:
    """The chains whose name holds one of `names`; all without names."""
    return {name: chain for name, chain in known.items() if not names or any(part in name for part in names)}
