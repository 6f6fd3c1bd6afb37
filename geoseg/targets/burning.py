"""Polygons in pixel coordinates, burnt window by window.

A pixel belongs to a polygon when its centre lies inside. Polygons are brought to pixel coordinates once and rounded to
1/256 pixel, beside the pixel centres: from there on every step of the burning is exact, so that a window's target is
the same however the scene is cut, and polygons that share a wall neither overlap nor leave a gap.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize
from shapely.geometry import mapping

from geoseg.grid import Grid
from geoseg.windows import Window

POLYGON, MULTIPOLYGON = 3, 6
"""shapely's type ids of what can be burnt."""
_STEPS = 256.0
"""Steps per pixel that vertices are rounded to."""


@dataclass(frozen=True, eq=False)
class PixelPolygons:
    """Polygons in pixel coordinates of a grid, each with a value to burn, found through a spatial index."""

    polygons: np.ndarray
    """(N,) simple polygons, x = column, y = row."""
    values: np.ndarray
    """(N,) uint8, what each polygon burns. Where polygons overlap the later one wins."""

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.polygons)

    def burn(self, window: Window) -> np.ndarray:
        """(height, width) uint8: the value of the last polygon that holds the pixel's centre, or 0."""
        box = shapely.box(window.col, window.row, window.stop_col, window.stop_row)
        found = np.sort(self._tree.query(box))
        if not len(found):
            return np.zeros(window.shape, np.uint8)
        burnt: np.ndarray = rasterize(
            [(mapping(self.polygons[i]), int(self.values[i])) for i in found],
            out_shape=window.shape,
            transform=Affine.translation(window.col, window.row),
            fill=0,
            dtype=np.uint8,
        )
        return burnt


def pixel_polygons(geometries: np.ndarray, values: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Geometries in CRS coordinates as simple polygons in pixel coordinates, and each one's value."""
    for _ in range(2):  # a collection may hold multipolygons
        geometries, source = shapely.get_parts(geometries, return_index=True)
        values = values[source]
    solid = shapely.get_type_id(geometries) == POLYGON
    to_pixel = ~grid.transform

    def to_steps(points: np.ndarray) -> np.ndarray:
        x, y = points.T
        cols = to_pixel.a * x + to_pixel.b * y + to_pixel.c
        rows = to_pixel.d * x + to_pixel.e * y + to_pixel.f
        # Half a step off in y: no vertex ever lies at the height of pixel centres, where GDAL's rule depends on the
        # direction of the ring.
        return np.stack([np.round(cols * _STEPS), np.floor(rows * _STEPS) + 0.5], axis=1) / _STEPS

    return shapely.transform(geometries[solid], to_steps), values[solid]
