"""Outlines kept where there is data: what walls were drawn beyond the raster, or over its gaps, is cut off."""

from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.pixels import NODATA
from geoseg.vectors.metric import Metric
from geoseg.vectors.patches import trace
from geoseg.vectors.planes import Planes, PlanesOver
from geoseg.vectors.walls.neighbours import whole
from geoseg.windows import Window

_LEEWAY = 1.0  # pixels that a wall may lie over a gap: the border of a gap is no truer than that
_HAIR = 0.15  # pixels


def keep_inside(shapes: np.ndarray, planes: Planes, metric: Metric, *, min_gap: int = 1) -> np.ndarray:
    """Outlines without what lies beyond the raster, or more than a pixel inside a gap of its data.

    Args:
        shapes: (p,) valid shapely polygons in metres.
        planes: What they were made from.
        metric: Of its grid.
        min_gap: Pixels; smaller gaps are no reason to cut.

    Returns:
        (p,) valid polygons; of one that is cut into parts, the largest.
    """
    height, width = planes.grid.shape
    pixels = _sound(shapely.transform(shapes, metric.to_pixels))
    bounds = shapely.bounds(pixels)
    over = np.flatnonzero(((bounds[:, :2] < 0) | (bounds[:, 2:] > (width, height))).any(axis=1))
    cut = {int(p): _within(pixels[p], shapely.box(0, 0, width, height)) for p in over}
    gaps = _gaps(planes, min_gap)
    for p, gap in sorted(shapely.STRtree(gaps).query(pixels, "intersects").T.tolist()):
        before = cut.get(p, pixels[p])
        near = shapely.intersection(gaps[gap], shapely.box(*bounds[p]))
        cut[p] = whole(shapely.difference(before, near), before)
    found, there = shapes.copy(), list(cut)
    found[there] = _sound(shapely.transform(np.array(list(cut.values()), dtype=object), metric.to_metres))
    return found


def _sound(shapes: np.ndarray) -> np.ndarray:
    """Polygons after a transform: what touched itself before may cross itself by a rounding now."""
    for p in np.flatnonzero(~shapely.is_valid(shapes)):
        shapes[p] = whole(shapely.make_valid(shapes[p]), shapes[p])
    return shapes


def _within(shape: shapely.Polygon, frame: shapely.Polygon) -> shapely.Polygon:
    """What of a polygon lies within a frame, without a corner for each wall that leans out of it by a hair."""
    cut = whole(shapely.intersection(shape, frame), shape)
    simple: shapely.Polygon = shapely.simplify(cut, _HAIR)
    return simple if shapely.difference(simple, cut).area < 1e-9 else cut


def _gaps(planes: Planes, least: int) -> np.ndarray:
    """(g,) shapely polygons in pixels in which there is no data: their borders straight, shrunk by the leeway."""
    if NODATA in planes.classes:  # a mask of 0 and 255, of another program: a class as any other
        return np.empty(0, dtype=object)
    patches = trace(_LabelsAlone(planes), [NODATA], subpixel=True, min_pixels=least)
    straight = shapely.simplify(patches.polygons(), _LEEWAY / 2)
    parts: np.ndarray = shapely.get_parts(shapely.buffer(straight, -_LEEWAY, join_style="mitre"))
    return parts[~shapely.is_empty(parts)]


@dataclass(frozen=True, eq=False)
class _LabelsAlone(PlanesOver):
    """Other planes without their probabilities, which say nothing of gaps and take longer to read."""

    def probability(self, window: Window, value: int) -> None:
        """None: not known here."""

    def margin(self, window: Window, value: int) -> None:
        """None: not known here."""
