"""Buildings drawn as a good network gives them: exact coverage, blurred."""

import numpy as np
import shapely
import shapely.affinity
from affine import Affine
from rasterio import features
from scipy.ndimage import gaussian_filter

from geoseg.grid import Grid
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import ArrayPlanes

GSD = 0.3
CLASSES = {0: "background", 1: "building"}
_FINE = 8


def draw_buildings(
    shapes: list[shapely.Polygon], side: int = 128, *, blur: float = 1.0, seams: list[shapely.Polygon] | None = None
) -> ArrayPlanes:
    """Planes of buildings in pixel coordinates; seams are 0.6 less probable, before the blur."""
    fine = Affine.scale(1 / _FINE)
    cover = np.zeros((side * _FINE, side * _FINE), np.float32)
    for outlines, value in ((shapes, 1.0), (seams or [], -0.6)):
        if outlines:
            cover += value * features.rasterize(outlines, cover.shape, transform=fine).astype(np.float32)
    cover = np.clip(cover, 0, 1).reshape(side, _FINE, side, _FINE).mean(axis=(1, 3))
    own = np.rint(254 * gaussian_filter(cover, blur)).astype(np.uint8)
    return planes_of((own > 127).astype(np.uint8), np.stack([254 - own, own]))


def planes_of(labels: np.ndarray, probabilities: np.ndarray | None = None) -> ArrayPlanes:
    """Planes without a CRS: metres are pixels times `GSD`."""
    return ArrayPlanes(labels, Grid(labels.shape, Affine.identity(), None), CLASSES, probabilities)


def metric_of(planes: ArrayPlanes) -> Metric:
    """With `GSD`."""
    return Metric(planes.grid, GSD)


def in_metres(shape: shapely.Polygon, metric: Metric) -> shapely.Polygon:
    """A shape in pixel coordinates, in metres."""
    return shapely.transform(shape, metric.to_metres)


def iou(one: shapely.Polygon, two: shapely.Polygon) -> float:
    """Intersection over union."""
    return one.intersection(two).area / one.union(two).area


def placed(points: list[tuple[float, float]], degrees: float, at: tuple[float, float] = (64, 64)) -> shapely.Polygon:
    """A polygon turned about its centroid and moved there."""
    shape = shapely.affinity.rotate(shapely.Polygon(points), degrees, origin="centroid")
    return shapely.affinity.translate(shape, at[0] - shape.centroid.x, at[1] - shape.centroid.y)
