"""Features: shapes of classes from vector files, predicted and true, in metres on one plane."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geoseg.errors import LabelsError, UsageError
from geoseg.targets.classes import column_named, no_column
from geoseg.targets.files import REVIEW, opened

log = logging.getLogger(__name__)

_CLASS_OF_LAYER = {"buildings": "building", "roads": "road", "road_surfaces": "road"}
_WIDTH_FIELDS = ("width_m", "width")
_NUMBER = r"^\s*(\d+(?:[.,]\d+)?)\s*(?:m|metres?|meters?)?\s*$"


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Shapes of one class and one dimension, polygons or lines."""

    shapes: np.ndarray
    """(N,) geometries in metres."""
    ids: np.ndarray
    """(N,) int64 feature ids in the file."""
    width_m: np.ndarray
    """(N,) float64 metres on the ground, NaN where the file does not say."""

    @classmethod
    def joined(cls, some: Sequence["Features"]) -> "Features":
        """Those of several layers; of none an empty one."""
        empty = cls(np.empty(0, object), np.empty(0, np.int64), np.empty(0))
        together = (empty, *some)
        return cls(
            np.concatenate([each.shapes for each in together]),
            np.concatenate([each.ids for each in together]),
            np.concatenate([each.width_m for each in together]),
        )


@dataclass(frozen=True, eq=False)
class Plane:
    """Where a point of any CRS lies in metres: east and north of a centre, areas true.

    A Lambert azimuthal equal-area projection of WGS 84: lengths are true to 1 in 10 000 within 150 km. Without a CRS,
    coordinates are taken as they are.
    Source: Snyder 1987, Map Projections: A Working Manual, USGS Professional Paper 1395, p. 182.
    """

    crs: CRS | None
    """Of shapes that do not state their own, and of what is written."""
    centre: tuple[float, float] = (0.0, 0.0)
    """Longitude and latitude."""

    @classmethod
    def about(cls, frames: Sequence[gpd.GeoDataFrame], path: Path, crs: CRS | None = None) -> "Plane":
        """The plane about the extent of some layers of a file.

        Args:
            frames: With at least one feature.
            path: For messages.
            crs: Theirs, if they do not state it.

        Raises:
            LabelsError: If coordinates are not those of the declared CRS.
        """
        crs = next((CRS(frame.crs) for frame in frames if frame.crs is not None), crs)
        if crs is None:
            return cls(None)
        bounds = shapely.total_bounds(np.concatenate([frame.geometry.to_numpy() for frame in frames]))
        corners = np.array([[bounds[0], bounds[1]], [bounds[2], bounds[3]]])
        degrees = _moved(corners, Transformer.from_crs(crs, "EPSG:4326", always_xy=True))
        lon, lat = degrees.mean(axis=0)
        if not (np.isfinite(degrees).all() and abs(lat) <= 90 and np.abs(degrees[:, 0]).max() <= 400):
            raise LabelsError(
                f"{path} declares {crs.name} but spans ({', '.join(f'{value:.10g}' for value in bounds)}) (left, "
                "bottom, right, top). Expected coordinates of that CRS. Declare the one it was drawn in."
            )
        return cls(crs, (float(lon), float(lat)))

    def placed(self, frame: gpd.GeoDataFrame, path: Path) -> np.ndarray:
        """The shapes of a layer in metres.

        Raises:
            LabelsError: If they cannot be brought there.
        """
        shapes: np.ndarray = frame.geometry.to_numpy()
        if self.crs is None:
            return shapes
        if frame.crs is None:
            log.warning("%s has no CRS: %s is assumed", path, self.crs.name)
        try:
            ground = Transformer.from_crs(CRS(frame.crs or self.crs), self._local, always_xy=True)
        except ProjError as err:
            raise LabelsError(f"{path} cannot be brought to metres ({err}). Reproject it first.") from err
        shapes = shapely.transform(shapes, lambda xy: _moved(xy, ground))
        if len(shapes) and not np.isfinite(shapely.total_bounds(shapes)).all():
            raise LabelsError(f"{path} has coordinates that its CRS cannot express. Check the CRS it declares.")
        return shapes

    def back(self, shapes: np.ndarray) -> np.ndarray:
        """Shapes in metres in coordinates of `crs`."""
        if self.crs is None:
            return shapes
        there = Transformer.from_crs(self._local, self.crs, always_xy=True)
        return np.asarray(shapely.transform(shapes, lambda xy: _moved(xy, there)))

    @cached_property
    def _local(self) -> CRS:
        lon, lat = self.centre
        return CRS.from_proj4(f"+proj=laea +lon_0={lon:.9f} +lat_0={lat:.9f} +datum=WGS84 +units=m +no_defs")


def _moved(xy: np.ndarray, transformer: Transformer) -> np.ndarray:
    return np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))


def read_predicted(path: Path, layer: str | None = None) -> list[gpd.GeoDataFrame]:
    """The layers of a prediction, as they are: invalid polygons are what is to be counted, and none is an answer, too.

    Args:
        path: GeoPackage, GeoJSON, FlatGeobuf, Shapefile or GeoParquet.
        layer: The layer to read; all of polygons or lines when None.

    Returns:
        Frames of polygons and lines, feature ids as index, the layer's name in `attrs`; some may have no rows.

    Raises:
        LabelsError: If the file cannot be read.
        UsageError: If there is no such layer.
    """
    with opened(path) as file:
        found = file.kinds()
        if layer is not None and layer not in found:
            raise UsageError(f"layer={layer!r} is not in {path.name}. Expected one of {', '.join(found)}.")
        drawn = [name for name, kind in found.items() if "Point" not in kind and name != REVIEW]
        frames = [file.read(name) for name in ([layer] if layer else drawn)]
    return [_drawn(frame) for frame in frames]


def _drawn(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Polygons and lines that are not empty."""
    shapes = frame.geometry.to_numpy()
    kept = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes)) & (shapely.get_dimensions(shapes) > 0)
    return frame[kept]


def stated_classes(frame: gpd.GeoDataFrame) -> np.ndarray:
    """(N,) str: the class of each feature of a layer as geoseg writes it; "" where nothing says it.

    In `name` where `class` holds pixel values, else in `class`, else by the layer's name.
    """
    column, name = column_named(frame, "class"), column_named(frame, "name")
    if column is not None and name is not None and frame[column].dtype.kind in "iuf":
        column = name
    if column is not None and frame[column].dtype.kind not in "iuf":
        return frame[column].fillna("").astype(str).str.strip().to_numpy(str)
    return np.full(len(frame), _CLASS_OF_LAYER.get(frame.attrs["layer"].casefold(), ""))


def layer_class(frame: gpd.GeoDataFrame) -> str | None:
    """The class that all features of a layer are of, if its name or geoseg's fields say so; also of one without any."""
    if (known := _CLASS_OF_LAYER.get(frame.attrs["layer"].casefold())) is not None:
        return known
    column, name = column_named(frame, "class"), column_named(frame, "name")
    if column is None or name is None or frame[column].dtype.kind not in "iuf":
        return None
    found = np.unique(stated_classes(frame))
    return str(found[0]) if len(found) == 1 else (None if len(found) else str(frame.attrs["layer"]))


def widths(frame: gpd.GeoDataFrame, path: Path, field: str | None = None, metres: float | None = None) -> np.ndarray:
    """(N,) float64 metres: of a field, or `metres` where it says none; NaN where nothing does.

    Raises:
        UsageError: If there is no such field.
    """
    column = next(filter(None, (column_named(frame, name) for name in ([field] if field else _WIDTH_FIELDS))), None)
    if field is not None and column is None:
        raise no_column(frame, "width field", field, path)
    other = np.nan if metres is None else metres
    if column is None:
        return np.full(len(frame), other)
    said = frame[column].astype(str).str.extract(_NUMBER, expand=False).str.replace(",", ".")
    numbers = pd.to_numeric(said, errors="coerce").to_numpy(np.float64)
    return np.where(numbers > 0, numbers, other)
