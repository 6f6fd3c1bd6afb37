"""Metric: from pixels to metres on the ground, in which shapes are fitted and measured, and on to the raster's CRS."""

import logging
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from affine import Affine
from pyproj import CRS, Transformer

from geoseg.grid import Grid

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Metric:
    """Plane coordinates on the ground round the centre of a grid: x to the east, y to the north.

    A Lambert azimuthal equal-area projection of WGS 84: areas are true anywhere, lengths to 1 in 10 000 and angles to
    the hundredth of a degree within 150 km; there and back again is a millimetre or two. Web mercator, degrees and feet
    all become metres. A raster without a usable CRS is measured in pixels, or in pixels times `gsd`, y upwards.

    Source: Snyder 1987, Map Projections: A Working Manual, USGS Professional Paper 1395, p. 182.
    """

    grid: Grid
    """Of the pixels."""
    given_gsd: float | None = None
    """Metres per pixel, where the CRS does not tell."""

    @property
    def unit(self) -> str:
        """`m`, or `px` where nothing says how wide a pixel is."""
        return "m" if self.grid.gsd is not None or self.given_gsd is not None else "px"

    @property
    def gsd(self) -> float:
        """Units per pixel."""
        return self.grid.gsd or self.given_gsd or 1.0

    def to_metres(self, xy: np.ndarray) -> np.ndarray:
        """Of (n, 2) pixel coordinates, column then row: (n, 2) float64, east and north of the grid's centre."""
        if self._to_ground is None:
            return (xy - self._centre) * (self.gsd, -self.gsd)
        placed = _moved(xy, self.grid.transform)
        return np.column_stack(self._to_ground.transform(placed[:, 0], placed[:, 1]))

    def to_pixels(self, xy: np.ndarray) -> np.ndarray:
        """The way back: (n, 2) pixel coordinates."""
        if self._to_ground is None:
            return xy / (self.gsd, -self.gsd) + self._centre
        return _moved(self.to_crs(xy), ~self.grid.transform)

    def to_crs(self, xy: np.ndarray) -> np.ndarray:
        """Of (n, 2) metres: (n, 2) coordinates of the grid's CRS; of its transform, where there is no CRS."""
        if self._to_ground is None:
            return _moved(self.to_pixels(xy), self.grid.transform)
        placed = np.column_stack(self._to_ground.transform(xy[:, 0], xy[:, 1], direction="INVERSE"))
        if self._turn:  # degrees on beyond the antimeridian, as the raster counts them
            middle = (self.grid.transform @ tuple(self._centre))[0]
            placed[:, 0] -= self._turn * np.round((placed[:, 0] - middle) / self._turn)
        return placed

    @cached_property
    def _turn(self) -> float:
        """What longitudes repeat after, in the unit of the CRS; 0 where x is no longitude."""
        crs = CRS.from_user_input(self.grid.crs)
        return 2 * math.pi / crs.axis_info[0].unit_conversion_factor if crs.is_geographic else 0.0

    @cached_property
    def _centre(self) -> np.ndarray:
        return np.array([self.grid.width / 2, self.grid.height / 2])

    @cached_property
    def _to_ground(self) -> Transformer | None:
        if self.grid.gsd is None:
            return None
        lon, lat = Transformer.from_crs(self.grid.crs, "EPSG:4326", always_xy=True).transform(
            *(self.grid.transform @ tuple(self._centre))
        )
        return Transformer.from_crs(self.grid.crs, f"+proj=laea +lon_0={lon} +lat_0={lat} +datum=WGS84", always_xy=True)


def warn_of_unused(gsd: float | None, path: str | Path, grid: Grid) -> None:
    """One line, where metres per pixel are given, and a file's CRS tells them already."""
    if gsd is not None and grid.gsd is not None:
        log.warning("--gsd %g is not used: %s has a CRS, by which a pixel is %.3g m wide.", gsd, path, grid.gsd)


def _moved(xy: np.ndarray, transform: Affine) -> np.ndarray:
    """(n, 2) coordinates through an affine transform."""
    a, b, c, d, e, f = transform[:6]
    return xy @ np.array([[a, d], [b, e]]) + (c, f)
