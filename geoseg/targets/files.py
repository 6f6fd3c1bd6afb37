"""Vector files, told by content: their layers of usable features."""

import logging
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from shapely.errors import GEOSException

from geoseg.errors import LabelsError, UsageError
from geoseg.targets.burning import MULTIPOLYGON, POLYGON
from geoseg.targets.parquet import parquet_kind, read_parquet

log = logging.getLogger(__name__)

InvalidGeometry = Literal["error", "fix", "skip"]
"""What happens to self-crossing and otherwise invalid polygons."""

_FORMATS = {
    b"SQLite format 3\0": "GPKG",
    b"\x00\x00\x27\x0a": "ESRI Shapefile",
    b"fgb\x03": "FlatGeobuf",
    b"PAR1": "Parquet",
}
"""First bytes of the accepted binary formats; GeoJSON is told by its first brace."""
_FORMAT_NAMES = "GeoPackage, GeoJSON, FlatGeobuf, Shapefile or GeoParquet"
_ENDINGS = (".gpkg", ".geojson", ".fgb", ".shp", ".parquet")
_PICTURES = (b"II", b"MM", b"\x89PNG", b"\xff\xd8", b"\x00\x00\x00\x0cjP")
"""First bytes of TIFF, PNG, JPEG and JPEG 2000."""
REVIEW = "review"
"""The layer of geoseg's own vectors that shows others' features again, for verdicts."""
_LINES = (1, 2, 5)
"""shapely's type ids of lines, rings and several lines."""


def is_vector_file(path: str | os.PathLike[str]) -> bool:
    """Whether the file's first bytes are those of a vector format that labels are read from.

    Raises:
        LabelsError: If the path is missing, cannot be read or is no regular file; or its name ends as that of a vector
            file, and it is neither that nor a raster.
    """
    path = Path(path)
    if (found := _sniff(path)) is None and path.suffix.lower() in _ENDINGS and not _is_picture(path):
        what = "is empty" if not path.stat().st_size else f"is no vector file, whatever its ending {path.suffix} says"
        raise LabelsError(f"{path} {what}. Expected {_FORMAT_NAMES}. Was it copied as a whole?")
    return found is not None


def are_lines(frame: gpd.GeoDataFrame) -> np.ndarray:
    """(N,) bool, True where a feature is a line or several."""
    return np.isin(shapely.get_type_id(frame.geometry.to_numpy()), _LINES)


def layer_kinds(path: Path) -> dict[str, str]:
    """The type of geometry of each layer that has one, by name, such as "MultiPolygon".

    Raises:
        LabelsError: If the file cannot be read.
        UsageError: If it needs a library that is not installed.
    """
    with opened(path) as file:
        return file.kinds()


@dataclass(frozen=True, slots=True)
class VectorFile:
    """A file of an accepted format."""

    path: Path
    """Absolute: only then is it sure to be taken for a file, not for a connection string."""
    driver: str
    """Of OGR, but for Parquet."""

    def kinds(self) -> dict[str, str]:
        """The type of geometry of each layer that has one, by name."""
        if self.driver == "Parquet":
            return {self.path.stem: parquet_kind(self.path)}
        # Tables without a geometry (QGIS keeps styles in one) are no layers of labels.
        return {str(name): str(kind) for name, kind in pyogrio.list_layers(self.path) if kind is not None}

    def read(self, layer: str) -> gpd.GeoDataFrame:
        """The features of a layer as they are, in two dimensions, their ids as index; the layer's name in `attrs`."""
        if self.driver == "Parquet":
            frame = read_parquet(self.path)
        elif (found := pyogrio.read_info(self.path, layer=layer)["driver"]) != self.driver:
            raise DataSourceError(f"it is {found}, not {self.driver}")
        else:
            # "fix" closes open rings, which OGR warns of; what else is wrong with a ring is found and treated later.
            frame = pyogrio.read_dataframe(self.path, layer=layer, fid_as_index=True, force_2d=True, on_invalid="fix")
        frame.attrs["layer"] = layer
        return frame


@contextmanager
def opened(path: Path) -> Iterator[VectorFile]:
    """A vector file. What goes wrong in the block is told of it, and GDAL's warnings become one line of the log each.

    Raises:
        LabelsError: If it is none, or cannot be read.
        UsageError: If it needs a library that is not installed.
    """
    if (driver := _sniff(path)) is None:
        raise LabelsError(f"{path} is no vector file of an accepted format. Expected {_FORMAT_NAMES}.")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", RuntimeWarning)
            yield VectorFile(path.absolute(), driver)
    except (DataSourceError, DataLayerError, GEOSException) as err:
        reason = str(err).rpartition("; ")[2]  # without the statements of SQL that GDAL tried
        raise LabelsError(f"{path} cannot be read ({reason}). Expected {_FORMAT_NAMES}.") from err
    for message in dict.fromkeys(str(warning.message).split(". ")[0] for warning in said):
        log.warning("%s: %s", path, message)


def read_layers(
    path: Path,
    *,
    layer: str | None,
    invalid_geometry: InvalidGeometry | None = None,
    lines: bool = False,
    empty: bool = False,
) -> list[gpd.GeoDataFrame]:
    """One frame of usable features for each layer that has any, its name in `attrs`.

    Args:
        path: GeoPackage, GeoJSON, FlatGeobuf, Shapefile or GeoParquet.
        layer: The layer to read; all layers with a geometry when None.
        invalid_geometry: Refuse invalid polygons, make them valid, or leave them out. None: refuse them, of a file that
            has no options of its own.
        lines: Whether lines beside polygons are wanted, too.
        empty: Whether a layer without features is an answer: no frames.

    Returns:
        Frames of polygons and lines, none of them empty.

    Raises:
        LabelsError: If the file cannot be read or has no polygons and no lines, or points among them.
        UsageError: If `layer` names nothing there is, or the file needs a library that is not installed.
    """
    with opened(path) as file:
        found = file.kinds()
        if layer is not None and layer not in found:
            raise UsageError(f"layer={layer!r} is not in {path.name}. Expected one of {', '.join(found)}.")
        frames = [file.read(name) for name in ([layer] if layer else _chosen(found, path, lines))]
    frames = [_usable(frame, path, invalid_geometry) for frame in frames]
    frames = [frame for frame in frames if len(frame)]
    if not frames and not empty:
        raise LabelsError(f"{path} has no polygons. Expected at least one.")
    return frames


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(_PICTURES)


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


def _chosen(layers: dict[str, str], path: Path, lines: bool) -> list[str]:
    """The layers that may hold polygons, where any does: points, and lines unless wanted, are other things there."""
    if len(layers) > 1:  # what is to be reviewed stands in the others, too
        layers = {name: kind for name, kind in layers.items() if name != REVIEW}
    aside = ("Point",) if lines else ("Point", "Line")
    flat = [name for name, kind in layers.items() if any(word in kind for word in aside)]
    if not flat or len(flat) == len(layers):
        return list(layers)
    log.info("%s: layers without polygons (%s) are left aside", path, ", ".join(flat))
    return [name for name in layers if name not in flat]


def _usable(frame: gpd.GeoDataFrame, path: Path, invalid_geometry: InvalidGeometry | None) -> gpd.GeoDataFrame:
    """Polygons and lines only: empty ones dropped, invalid polygons treated as asked, anything else refused."""
    layer = frame.attrs["layer"]
    geometries = frame.geometry.to_numpy()
    frame = frame[~(shapely.is_missing(geometries) | shapely.is_empty(geometries))]
    lines = are_lines(frame)
    # A line of no length is no line.
    frame, lines = frame[(kept := ~lines | (shapely.length(frame.geometry.to_numpy()) > 0))], lines[kept]
    others = ~lines & ~np.isin(shapely.get_type_id(frame.geometry.to_numpy()), (POLYGON, MULTIPOLYGON))
    if others.any():
        kinds = ", ".join(sorted(set(frame.geom_type[others])))
        raise LabelsError(
            f"{path} layer {layer!r} holds {others.sum()} features that are no polygons and no lines ({kinds}). "
            + (
                "Expected outlines, or centrelines with a width. Leave them out, or choose another layer with --layer."
                if invalid_geometry
                else "Expected outlines. Leave them out."
            )
        )
    invalid = ~frame.geometry.is_valid & ~lines
    if not invalid.any():
        return frame
    if invalid_geometry in ("error", None):
        ids = ", ".join(map(str, frame.index[invalid][:5])) + (", ..." if invalid.sum() > 5 else "")
        reason = shapely.is_valid_reason(frame.geometry[invalid].iloc[0])
        raise LabelsError(
            f"{path} layer {layer!r} holds {invalid.sum()} invalid polygons (feature {ids}; the first: {reason}). "
            "Expected valid ones. Repair the file"
            + (", or have them fixed or skipped with --invalid-geometry fix|skip." if invalid_geometry else ".")
        )
    log.warning("%s: %d invalid polygons %s", path, invalid.sum(), "fixed" if invalid_geometry == "fix" else "skipped")
    if invalid_geometry == "skip":
        return frame[~invalid]
    frame = frame.set_geometry(frame.geometry.where(~invalid, frame.geometry.make_valid()))
    # What collapses to a line or a point has no inside left; the collections' polygons are taken out later.
    return frame[lines | (shapely.area(frame.geometry.values) > 0)]
