"""Layers into one GeoPackage, styled, the same bytes for the same input."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from pyogrio import raw

from geoseg.errors import OutputError, UsageError
from geoseg.vectors.ogr import EPOCH, read_back, write_layer, writing
from geoseg.vectors.table import AnyTable

_LAYER_NAMES = {"building": "buildings", "road": "road_surfaces"}
_RESERVED = ("gpkg_", "sqlite_", "rtree_")
_DATASET_OPTIONS = {"VERSION": "1.3"}  # what QGIS 3.22 and GDAL 3.6 know in full


def layer_name(class_name: str) -> str:
    """The layer a class goes to: "building" to "buildings", "road" to "road_surfaces", any other to its own name."""
    return _LAYER_NAMES.get(class_name, class_name)


def write_layers(path: str | Path, layers: Mapping[str, AnyTable], *, styles: Mapping[str, str] | None = None) -> None:
    """Write layers of polygons, lines or points to a new GeoPackage, each with the style QGIS shows it in.

    The bytes depend on the layers and styles alone. Shapes are converted some at a time: memory is that of the frames.
    The file appears under `path` while it is written: give a temporary name and rename it. After an error nothing is
    left.

    Args:
        path: File to create; one that exists is replaced.
        layers: Frame by layer name, in the order to write. One with polygons and multi-polygons becomes a layer of
            multi-polygons; one without rows a layer without features, with all its fields: of lines if named "roads",
            of points if named "road_nodes", else of polygons. The CRS is kept as the frame states it; none is written
            as undefined.
        styles: QML by layer name, stored in the table `layer_styles` as the layer's default style.

    Raises:
        UsageError: If two layers differ only in case, a name is one GeoPackage keeps for itself, or a layer mixes
            points, lines and polygons.
        OutputError: If the file cannot be written.
    """
    path, styles = Path(path), {name: qml for name, qml in (styles or {}).items() if name in layers}
    check_names(layers)
    try:
        with writing(path):
            path.unlink(missing_ok=True)
            for name, frame in layers.items():
                write_layer(path, name, frame, "GPKG", dataset_options=_DATASET_OPTIONS)
            _write_styles(path, styles)
            _check(path, layers, styles)
    except BaseException:
        for leftover in (path, *(path.with_name(path.name + end) for end in ("-journal", "-wal", "-shm"))):
            with suppress(OSError):
                leftover.unlink()
        raise


def check_names(layers: Iterable[str]) -> None:
    """Refuse layer names that cannot stand together in one GeoPackage.

    Raises:
        UsageError: If two differ only in case, or one is a name that GeoPackage keeps for itself.
    """
    seen = {"layer_styles"}
    for name in layers:
        if name.lower() in seen or not name or name.lower().startswith(_RESERVED):
            raise UsageError(
                f"layer {name!r} cannot be in a GeoPackage beside {', '.join(sorted(seen))}. Expected names that "
                f"differ in more than case and do not begin with {', '.join(_RESERVED)}. Rename the class."
            )
        seen.add(name.lower())


def _write_styles(path: Path, styles: Mapping[str, str]) -> None:
    """The table QGIS looks for, as QGIS itself makes it."""
    if not styles:
        return
    rows = len(styles)
    blank = np.full(rows, "", object)
    columns = {
        "f_table_catalog": blank,
        "f_table_schema": blank,
        "f_table_name": np.array(list(styles), object),
        "f_geometry_column": np.full(rows, "geom", object),
        "styleName": np.array(list(styles), object),
        "styleQML": np.array(list(styles.values()), object),
        "styleSLD": blank,
        "useAsDefault": np.ones(rows, bool),
        "description": blank,
        "owner": blank,
        "ui": blank,
        "update_time": np.full(rows, np.datetime64(EPOCH.removesuffix("Z"), "ms")),
    }
    raw.write(
        path,
        None,
        list(columns.values()),
        list(columns),
        layer="layer_styles",
        driver="GPKG",
        layer_options={"FID": "id"},
        gdal_tz_offsets={"update_time": np.full(rows, 100)},  # GDAL's number for UTC
    )


def _check(path: Path, layers: Mapping[str, AnyTable], styles: Mapping[str, str]) -> None:
    """A disk that fills up while the spatial index is built goes unreported: look for what must be there."""
    for name, frame in layers.items():
        if not read_back(path, len(frame), name)["capabilities"]["fast_spatial_filter"]:
            raise OutputError(f"{path} holds {name} without an index after writing. Expected one. Is the disk full?")
    if styles:
        read_back(path, len(styles), "layer_styles")
