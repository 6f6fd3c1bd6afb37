"""Grid: where pixels lie on the ground. Shape, transform and CRS; no pixels."""

import math
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache

from affine import Affine
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from geoseg.windows import Window

_GEOD = Geod(ellps="WGS84")

IN_PIXELS = Affine(1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
"""Of a raster without a transform: x is the column, y falls by 1 from row to row, from 0; as QGIS shows it."""


@dataclass(frozen=True)
class Grid:
    """The pixel lattice of a raster on the ground."""

    shape: tuple[int, int]
    """(height, width)."""
    transform: Affine
    """From (column, row) of a pixel's upper left corner to CRS coordinates; of no georeference: `in_pixels`."""
    crs: str | None
    """WKT of the coordinate reference system, exactly as the file states it, or None."""

    @property
    def height(self) -> int:
        """Rows."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.shape[1]

    @property
    def window(self) -> Window:
        """The whole grid as a window."""
        return Window(row=0, col=0, height=self.height, width=self.width)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in CRS units, also of a rotated or south-up grid."""
        return self.window_bounds(self.window)

    @property
    def in_pixels(self) -> bool:
        """Whether the transform says nothing: `IN_PIXELS`, or the identity, with rows upwards or control points."""
        return self.transform.is_identity or self.transform == IN_PIXELS

    @property
    def described(self) -> str:
        """For a message: size, CRS and transform."""
        name = CRS.from_user_input(self.crs).name if self.crs else "no CRS"
        numbers = ", ".join(f"{value:.10g}" for value in self.transform[:6])
        return f"{self.width} x {self.height} pixels in {name} with transform ({numbers})"

    def window_bounds(self, window: Window) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of a window in CRS units: the box round its four corners."""
        corners = [
            self.transform @ (col, row)
            for row in (window.row, window.stop_row)
            for col in (window.col, window.stop_col)
        ]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def window_transform(self, window: Window) -> Affine:
        """The transform of a window's own pixels."""
        return self.transform @ Affine.translation(window.col, window.row)

    def place_of(self, other: "Grid") -> tuple[int, int, float]:
        """Row and column of another grid's first pixel in this one, and by how many pixels any of its corners is off.

        Both are taken to be of one CRS. The third is 0 where they are parts of one lattice, infinite where that has no
        answer.
        """
        if self.transform.is_degenerate:
            return 0, 0, math.inf
        offset = ~self.transform @ other.transform
        if not all(map(math.isfinite, offset[:6])):
            return 0, 0, math.inf
        row, col = round(offset.f), round(offset.c)
        corners = [(0, 0), (other.width, 0), (0, other.height), (other.width, other.height)]
        off = max(
            abs(got - want) for x, y in corners for got, want in zip(offset @ (x, y), (x + col, y + row), strict=True)
        )
        return row, col, off

    @cached_property
    def gsd(self) -> float | None:
        """Ground sample distance: true metres per pixel at the scene's centre, or None where no CRS tells it.

        The square root of the ground area of one pixel on the WGS 84 ellipsoid, so that degrees, feet and web mercator
        (whose units are 1/cos(latitude) too long) all give metres on the ground.
        """
        to_degrees = self._to_degrees
        if to_degrees is None:
            return None
        col, row = self.width / 2, self.height / 2
        # A pixel is centimetres wide: ten of them keep the geodesic sum well above rounding.
        span = 10.0
        ring = [(col, row), (col + span, row), (col + span, row + span), (col, row + span)]
        xs, ys = zip(*(self.transform @ corner for corner in ring), strict=True)
        lons, lats = to_degrees.transform(xs, ys)
        if not all(map(math.isfinite, (*lons, *lats))) or max(map(abs, lats)) > 90:
            return None
        area, _ = _GEOD.polygon_area_perimeter(lons, lats)
        return math.sqrt(abs(area)) / span if area else None

    @cached_property
    def _to_degrees(self) -> Transformer | None:
        """From CRS coordinates to WGS 84 (longitude, latitude); None without a CRS or for an unearthly one."""
        return None if self.crs is None else _transformer(self.crs, threading.get_ident())


def same_crs(first: str | None, second: str | None) -> bool:
    """Whether two CRS mean the same ground, however they are written, or both are missing."""
    if first is None or second is None or first == second:
        return first == second
    return bool(CRS.from_user_input(first).equals(CRS.from_user_input(second), ignore_axis_order=True))


@lru_cache(maxsize=64)
def _transformer(crs: str, thread: int) -> Transformer | None:
    """To WGS 84, one for each thread. A thousand tiles have one CRS, and PROJ takes its time to find the way."""
    try:
        return Transformer.from_crs(CRS.from_user_input(crs), "EPSG:4326", always_xy=True)
    except ProjError:  # a local CRS, or one of another planet
        return None
