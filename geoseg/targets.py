"""Targets from vector files: polygons with classes, burnt onto a grid window by window.

A pixel belongs to a polygon when its centre lies inside. Polygons are brought to pixel coordinates once and rounded to
1/256 pixel, beside the pixel centres: from there on every step of the burning is exact, so that a window's target is
the same however the scene is cut, and polygons that share a wall neither overlap nor leave a gap.
"""

import logging
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from affine import Affine
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from shapely.errors import GEOSException
from shapely.geometry import mapping

from geoseg.errors import LabelsError, UsageError
from geoseg.grid import Grid
from geoseg.windows import Window

log = logging.getLogger(__name__)

InvalidGeometry = Literal["error", "fix", "skip"]
"""What happens to self-crossing and otherwise invalid polygons."""

CLASS_FIELDS = ("class", "kind", "label", "type", "name")
"""Fields looked at for class names, in this order, when none is named."""

_FORMATS = {
    b"SQLite format 3\0": "GPKG",
    b"\x00\x00\x27\x0a": "ESRI Shapefile",
    b"fgb\x03": "FlatGeobuf",
}
"""First bytes of the accepted binary formats; GeoJSON is told by its first brace."""
_FORMAT_NAMES = "GeoPackage, GeoJSON, FlatGeobuf or Shapefile"
_STEPS = 256.0
"""Steps per pixel that vertices are rounded to."""
_POLYGON, _MULTIPOLYGON = 3, 6


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


@dataclass(frozen=True, eq=False)
class VectorLabels:
    """Labelled polygons on a grid. Pixels of no polygon are the first class, the background."""

    grid: Grid
    """The grid windows belong to."""
    class_names: tuple[str, ...]
    """All classes; a pixel of the target is an index into them."""
    present: tuple[str, ...]
    """The classes other than the background that polygons have, in class order."""
    polygons: PixelPolygons = field(repr=False)
    """What is burnt."""

    def target(self, window: Window) -> np.ndarray:
        """(height, width) uint8 class indices, 0 = background. Equal to that window of the whole grid's target.

        Where classes overlap the earlier in `class_names` wins, the background never: a building over a road is a
        building.
        """
        return self.polygons.burn(window)


@dataclass(frozen=True, eq=False)
class LabelledArea:
    """The ground on which labels are complete. Outside, nothing is known, which is not the background."""

    polygons: PixelPolygons = field(repr=False)
    """What is burnt."""

    def valid(self, window: Window) -> np.ndarray:
        """(height, width) bool, True = labelled."""
        return self.polygons.burn(window) != 0


def is_vector_file(path: str | os.PathLike[str]) -> bool:
    """Whether the file's first bytes are those of a vector format that labels are read from.

    Raises:
        LabelsError: If the path is missing, cannot be read or is no regular file.
    """
    return _sniff(Path(path)) is not None


def read_labels(
    path: str | os.PathLike[str],
    *,
    grid: Grid,
    class_names: Sequence[str],
    class_field: str | None = None,
    default_class: str | None = None,
    layer: str | None = None,
    invalid_geometry: InvalidGeometry = "error",
) -> VectorLabels:
    """Read polygons and their classes, reprojected to the grid's CRS.

    A feature's class is the value of `class_field` (case does not matter); without that option, of a field named class,
    kind, label or type that holds names of classes; without such a field, the class its layer is named after
    ("buildings"); failing that `default_class`; failing that the only class besides the background, or "building".
    Values that are no class count as background, with one warning.

    Args:
        path: GeoPackage, GeoJSON, FlatGeobuf or Shapefile.
        grid: Where pixels lie. Without a CRS on one side, coordinates are taken as they are if the extents overlap.
        class_names: Two classes or more, the background first.
        class_field: The field that holds class names.
        default_class: The class of features that no field or layer name tells.
        layer: The layer to read; all layers with a geometry when None.
        invalid_geometry: Refuse invalid polygons, make them valid, or leave them out.

    Raises:
        LabelsError: If the file cannot be read, has no polygons, holds points or lines, or lies outside the grid.
        UsageError: If `class_field`, `default_class` or `layer` names nothing there is.
    """
    path, names = Path(path), tuple(class_names)
    if len(names) < 2 or len(names) > 255:
        raise UsageError(f"class_names={list(names)}: expected 2 to 255 names, the background first.")
    if default_class is not None and default_class not in names:
        raise UsageError(f"default_class={default_class!r} is no class. Expected one of {', '.join(names)}.")
    frames = _read(path, layer, invalid_geometry)
    codes = [_class_codes(frame, path, names, class_field, default_class) for frame in frames]
    polygons, values = _pixel_polygons(_on_grid(frames, path, grid), np.concatenate(codes), grid)
    # The earlier class is burnt later and wins; the background is what nothing is burnt on.
    order = np.argsort(-values.astype(np.int16), kind="stable")
    order = order[values[order] != 0]
    return VectorLabels(
        grid=grid,
        class_names=names,
        present=tuple(name for code, name in enumerate(names) if code and code in values),
        polygons=PixelPolygons(polygons=polygons[order], values=values[order]),
    )


def labelled_area(path: str | os.PathLike[str], grid: Grid) -> LabelledArea:
    """Read the polygons within which labels are complete.

    Raises:
        LabelsError: As `read_labels`; invalid polygons are refused.
    """
    path = Path(path)
    geometries = _on_grid(_read(path, None, "error"), path, grid)
    polygons, values = _pixel_polygons(geometries, np.ones(len(geometries), np.uint8), grid)
    return LabelledArea(polygons=PixelPolygons(polygons=polygons, values=values))


def _sniff(path: Path) -> str | None:
    """The OGR driver that the first bytes ask for. Nothing but a regular file is ever opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise LabelsError(f"{path} is not a file. Expected {_FORMAT_NAMES}.")
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError as err:
        raise LabelsError(f"{path} does not exist. Check the path.") from err
    except OSError as err:
        raise LabelsError(f"{path} cannot be read ({err.strerror}). Check the path and its permissions.") from err
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        return "GeoJSON"
    return next((driver for magic, driver in _FORMATS.items() if head.startswith(magic)), None)


def _read(path: Path, layer: str | None, invalid_geometry: InvalidGeometry) -> list[gpd.GeoDataFrame]:
    """One frame of usable polygons for each layer that has any, its name in `attrs`."""
    driver = _sniff(path)
    if driver is None:
        raise LabelsError(f"{path} is no vector file of an accepted format. Expected {_FORMAT_NAMES}.")
    # Only an absolute path is sure to be taken for a file, not for a connection string.
    source = str(path.absolute())
    try:
        with _warnings_logged(path):
            # Tables without a geometry (QGIS keeps styles in one) are no layers of labels.
            found = {str(name): str(kind) for name, kind in pyogrio.list_layers(source) if kind is not None}
            layers = list(found)
            if layer is not None and layer not in layers:
                raise UsageError(f"layer={layer!r} is not in {path.name}. Expected one of {', '.join(layers)}.")
            frames = [_read_layer(source, driver, name) for name in ([layer] if layer else _solid(found, path))]
    except (DataSourceError, DataLayerError, GEOSException) as err:
        raise LabelsError(f"{path} cannot be read ({err}). Expected {_FORMAT_NAMES}.") from err
    frames = [_usable(frame, path, invalid_geometry) for frame in frames]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        raise LabelsError(f"{path} has no polygons. Expected at least one.")
    return frames


def _solid(layers: dict[str, str], path: Path) -> list[str]:
    """The layers that may hold polygons, where any does: lines and points beside them are other things."""
    flat = [name for name, kind in layers.items() if "Line" in kind or "Point" in kind]
    if not flat or len(flat) == len(layers):
        return list(layers)
    log.info("%s: layers without polygons (%s) are left aside", path, ", ".join(flat))
    return [name for name in layers if name not in flat]


@contextmanager
def _warnings_logged(path: Path) -> Iterator[None]:
    """GDAL's warnings become one line of the log each."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        yield
    for message in dict.fromkeys(str(warning.message).split(". ")[0] for warning in said):
        log.warning("%s: %s", path, message)


def _read_layer(source: str, driver: str, layer: str) -> gpd.GeoDataFrame:
    if (found := pyogrio.read_info(source, layer=layer)["driver"]) != driver:
        raise DataSourceError(f"it is {found}, not {driver}")
    # "fix" closes open rings, which OGR warns of; whatever else is wrong with a ring is found and treated later.
    frame = pyogrio.read_dataframe(source, layer=layer, fid_as_index=True, force_2d=True, on_invalid="fix")
    frame.attrs["layer"] = layer
    return frame


def _usable(frame: gpd.GeoDataFrame, path: Path, invalid_geometry: InvalidGeometry) -> gpd.GeoDataFrame:
    """Polygons only: empty ones dropped, invalid ones treated as asked, anything else refused."""
    layer = frame.attrs["layer"]
    geometries = frame.geometry.to_numpy()
    solid = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    frame, types = frame[solid], shapely.get_type_id(geometries[solid])
    others = ~np.isin(types, (_POLYGON, _MULTIPOLYGON))
    if others.any():
        kinds = ", ".join(sorted(set(frame.geom_type[others])))
        raise LabelsError(
            f"{path} layer {layer!r} holds {others.sum()} features that are no polygons ({kinds}): how wide they are "
            "on the ground is unknown. Expected polygons. Buffer lines by half their width, or choose with --layer."
        )
    invalid = ~frame.geometry.is_valid
    if not invalid.any():
        return frame
    if invalid_geometry == "error":
        ids = ", ".join(map(str, frame.index[invalid][:5])) + (", ..." if invalid.sum() > 5 else "")
        reason = shapely.is_valid_reason(frame.geometry[invalid].iloc[0])
        raise LabelsError(
            f"{path} layer {layer!r} holds {invalid.sum()} invalid polygons (feature {ids}; the first: {reason}). "
            "Expected valid ones. Repair the file, or have them fixed or skipped with --invalid-geometry fix|skip."
        )
    log.warning("%s: %d invalid polygons %s", path, invalid.sum(), "fixed" if invalid_geometry == "fix" else "skipped")
    if invalid_geometry == "skip":
        return frame[~invalid]
    frame = frame.set_geometry(frame.geometry.where(~invalid, frame.geometry.make_valid()))
    # What collapses to a line or a point has no inside left; the collections' polygons are taken out later.
    return frame[shapely.area(frame.geometry.values) > 0]


def _class_codes(
    frame: gpd.GeoDataFrame, path: Path, names: tuple[str, ...], class_field: str | None, default_class: str | None
) -> np.ndarray:
    """(N,) uint8 class index of each feature of a layer."""
    code_of = {name.casefold(): code for code, name in enumerate(names)}
    column = _class_column(frame, path, code_of, class_field)
    if column is not None:
        values = frame[column].astype(str).str.strip()
        codes = values.str.casefold().map(code_of)
        if unknown := sorted(set(values[codes.isna()])):
            shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            count = int(codes.isna().sum())
            if count == len(frame):
                raise LabelsError(
                    f"{path} field {column!r} holds {shown}. Expected names of classes ({', '.join(names)}). "
                    "Choose the field with --class-field."
                )
            log.warning("%s: %d features of other classes (%s) count as %s", path, count, shown, names[0])
        return codes.fillna(0).to_numpy(np.uint8)
    layer = frame.attrs["layer"].casefold()
    named = next((code for name, code in code_of.items() if layer in (name, f"{name}s")), None)
    if named is None:
        named = names.index(default_class or _only_class(path, names))
    return np.full(len(frame), named, np.uint8)


def _class_column(frame: gpd.GeoDataFrame, path: Path, code_of: dict[str, int], class_field: str | None) -> str | None:
    """The column that holds class names."""
    if class_field is not None:
        if class_field not in frame.columns:
            fields = ", ".join(name for name in frame.columns if name != frame.geometry.name) or "none"
            raise UsageError(f"class field={class_field!r} is not in {path.name}. Its fields: {fields}.")
        return class_field
    columns = {str(name).casefold(): str(name) for name in frame.columns}
    for wanted in CLASS_FIELDS:
        column = columns.get(wanted)
        if column is not None and frame[column].astype(str).str.strip().str.casefold().isin(code_of).any():
            return column
    return None


def _only_class(path: Path, names: tuple[str, ...]) -> str:
    """The class of features that say nothing of it."""
    if len(names) == 2:
        return names[1]
    if "building" not in names:
        raise LabelsError(
            f"{path} does not say of its features whether they are {' or '.join(names[1:])}. "
            "Expected a field with class names. Name it with --class-field."
        )
    log.warning("%s does not say the classes of its features: all are taken for building", path)
    return "building"


def _on_grid(frames: list[gpd.GeoDataFrame], path: Path, grid: Grid) -> np.ndarray:
    """The geometries of all frames in the grid's CRS, at least partly inside its extent."""
    geometries = np.concatenate([_reprojected(frame, path, grid) for frame in frames])
    left, bottom, right, top = bounds = shapely.total_bounds(geometries)
    west, south, east, north = grid.bounds
    if not (left < east and right > west and bottom < north and top > south):
        raise LabelsError(
            f"{path} lies outside the scene: it spans {_extent(bounds)}, the scene {_extent(grid.bounds)} "
            "(left, bottom, right, top in the scene's CRS). Expected polygons on the scene. Check the file's CRS."
        )
    if grid.crs is None and any(frame.crs is not None for frame in frames):
        log.warning("the scene has no CRS: the coordinates of %s are taken as they are", path)
    elif grid.crs is not None and any(frame.crs is None for frame in frames):
        log.warning("%s has no CRS: the scene's is assumed", path)
    return geometries


def _reprojected(frame: gpd.GeoDataFrame, path: Path, grid: Grid) -> np.ndarray:
    if grid.crs is not None and frame.crs is not None:
        bounds = frame.total_bounds
        # A little beyond a full turn is met in honest files; metres are thousands.
        if frame.crs.is_geographic and np.abs(bounds).max() > 400:
            raise LabelsError(
                f"{path} declares degrees ({frame.crs.name}) but spans {_extent(bounds)}; the scene spans "
                f"{_extent(grid.bounds)} (left, bottom, right, top). Expected degrees. Declare the CRS it was drawn in."
            )
        try:
            crs = CRS.from_user_input(grid.crs)
            if not frame.crs.equals(crs, ignore_axis_order=True):
                frame = frame.to_crs(crs)
        except ProjError as err:
            raise LabelsError(
                f"{path} cannot be brought from {frame.crs.name} to the scene's CRS ({err}). Reproject it first."
            ) from err
    geometries = frame.geometry.to_numpy()
    if not np.isfinite(shapely.total_bounds(geometries)).all():
        raise LabelsError(f"{path} has coordinates that the scene's CRS cannot express. Check the labels' CRS.")
    return geometries


def _extent(bounds: Sequence[float] | np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.10g}" for value in bounds) + ")"


def _pixel_polygons(geometries: np.ndarray, values: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Geometries in CRS coordinates as simple polygons in pixel coordinates, and each one's value."""
    for _ in range(2):  # a collection may hold multipolygons
        geometries, source = shapely.get_parts(geometries, return_index=True)
        values = values[source]
    solid = shapely.get_type_id(geometries) == _POLYGON
    to_pixel = ~grid.transform

    def to_steps(points: np.ndarray) -> np.ndarray:
        x, y = points.T
        cols = to_pixel.a * x + to_pixel.b * y + to_pixel.c
        rows = to_pixel.d * x + to_pixel.e * y + to_pixel.f
        # Half a step off in y: no vertex ever lies at the height of pixel centres, where GDAL's rule depends on the
        # direction of the ring.
        return np.stack([np.round(cols * _STEPS), np.floor(rows * _STEPS) + 0.5], axis=1) / _STEPS

    return shapely.transform(geometries[solid], to_steps), values[solid]
