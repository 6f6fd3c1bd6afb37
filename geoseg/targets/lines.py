"""Lines with a width become polygons: true metres on the ground, in a CRS of metres, feet or degrees alike."""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.enums import TransformDirection

from geoseg.errors import LabelsError, UsageError
from geoseg.grid import Grid
from geoseg.targets.classes import column_named, no_column

_WIDTH_FIELDS = ("width_m", "width")
"""Fields looked at for the widths of lines when nothing is said of them, in this order."""
_NUMBER = re.compile(r"\s*(\d+(?:[.,]\d+)?)\s*(?:m|metres?|meters?)?\s*")
_LONGEST_M = 200.0
"""A straight line in one CRS bends in another: 5 mm on 200 m."""


@dataclass(frozen=True, slots=True)
class Widths:
    """How wide lines are on the ground."""

    metres: float | None = None
    """Of lines that say nothing themselves."""
    field: str | None = None
    """Attribute with a line's own width in metres."""

    def __post_init__(self) -> None:
        if self.metres is not None and not 0 < self.metres < math.inf:
            raise UsageError(f"line_width_m={self.metres:g}: expected metres above 0.")

    @property
    def given(self) -> bool:
        """Whether anything is said, so that lines beside polygons are wanted, too."""
        return self.metres is not None or self.field is not None

    def of(self, frame: gpd.GeoDataFrame, path: Path) -> np.ndarray:
        """(N,) float metres of each line of a layer.

        Raises:
            LabelsError: If a line has no width, and none is given for such.
            UsageError: If the layer has no field of that name.
        """
        column = self._column(frame, path)
        if column is None and self.metres is None:
            raise LabelsError(
                f"{path} layer {frame.attrs['layer']!r} holds {len(frame)} lines: how wide they are on the ground is "
                "unknown. Expected a width in metres: --line-width-m (line_width_m of a source), or a field that holds "
                "it, --width-field (width_field)."
            )
        own = np.array([_metres(value) for value in frame[column]]) if column else np.full(len(frame), np.nan)
        widths = np.where(np.isnan(own), np.nan if self.metres is None else self.metres, own)
        if (missing := np.isnan(widths)).any():
            ids = ", ".join(map(str, frame.index[missing][:5])) + (", ..." if missing.sum() > 5 else "")
            raise LabelsError(
                f"{path} field {column!r} says no width above 0 of {missing.sum()} lines (feature {ids}). "
                "Expected metres, such as 6.5. Give the width of the others with --line-width-m."
            )
        return widths

    def _column(self, frame: gpd.GeoDataFrame, path: Path) -> str | None:
        if self.field is None:
            return None if self.given else next(filter(None, (column_named(frame, f) for f in _WIDTH_FIELDS)), None)
        column = column_named(frame, self.field)
        if column is None:
            raise no_column(frame, "width field", self.field, path)
        return column


def _metres(value: object) -> float:
    """A width as people and OpenStreetMap write it (6, "6.5", "6 m"); NaN for none, and for what is not above 0."""
    found = _NUMBER.fullmatch(str(value))
    number = float(found[1].replace(",", ".")) if found else math.nan
    return number if number > 0 else math.nan


class Reach:
    """How long a metre is about a grid: an azimuthal equidistant projection, true to 1e-4 within 150 km of its centre.

    Source: Snyder 1987, Map Projections: A Working Manual, USGS 1395, chapter 25.
    """

    def __init__(self, grid: Grid, gsd: float | None = None) -> None:
        """Of a grid; `gsd` is metres per pixel where its CRS does not tell."""
        self.grid = grid
        self.unit = math.sqrt(abs(grid.transform.determinant))
        """Side of a pixel in units of the CRS."""
        self.gsd = grid.gsd or gsd
        """Metres per pixel, or None."""

    @cached_property
    def _transformer(self) -> Transformer | None:
        """To metres about the grid's centre; None where the CRS is of no place on Earth."""
        if self.grid.crs is None or self.grid.gsd is None:
            return None
        crs = CRS.from_user_input(self.grid.crs)
        x, y = self.grid.transform @ (self.grid.width / 2, self.grid.height / 2)
        lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
        local = CRS.from_proj4(f"+proj=aeqd +lat_0={lat:.9f} +lon_0={lon:.9f} +datum=WGS84 +units=m +no_defs")
        return Transformer.from_crs(crs, local, always_xy=True)

    def buffered(self, lines: np.ndarray, metres: np.ndarray) -> np.ndarray:
        """Polygons of all ground within so many metres of each line, in the grid's CRS; empty ones beyond the grid.

        Raises:
            UsageError: If nothing says how long a metre is.
        """
        if self.gsd is None:
            raise UsageError(
                "the width of lines is in metres, and the scene has no CRS that says how long one is. "
                "Expected metres per pixel. Give them with --gsd."
            )
        if self._transformer is None:
            return np.asarray(shapely.buffer(lines, metres * self.unit / self.gsd))
        local = shapely.transform(lines, self._to_local)
        near = shapely.distance(self._frame, local) <= metres
        fine = shapely.segmentize(lines[near], _LONGEST_M * self.unit / self.gsd)
        grown = np.full(len(lines), shapely.Polygon(), object)
        grown[near] = shapely.transform(
            shapely.buffer(shapely.transform(fine, self._to_local), metres[near]), self._from_local
        )
        return grown

    @cached_property
    def _frame(self) -> shapely.Geometry:
        """The grid's ground in metres; its sides may bend, so that the hull of some of their points is taken."""
        corners = [(0, 0), (self.grid.width, 0), (self.grid.width, self.grid.height), (0, self.grid.height)]
        outline = shapely.Polygon([self.grid.transform @ corner for corner in corners])
        fine = shapely.segmentize(outline, max(self.grid.shape) * self.unit / 8)
        return shapely.convex_hull(shapely.transform(fine, self._to_local))

    def _to_local(self, points: np.ndarray) -> np.ndarray:
        return self._moved(points, TransformDirection.FORWARD)

    def _from_local(self, points: np.ndarray) -> np.ndarray:
        return self._moved(points, TransformDirection.INVERSE)

    def _moved(self, points: np.ndarray, direction: TransformDirection) -> np.ndarray:
        transformer = self._transformer
        if transformer is None:  # for the type checker: asked for with a CRS only
            return points
        return np.stack(transformer.transform(points[:, 0], points[:, 1], direction=direction), axis=1)
