"""The only vector writer: layers into one GeoPackage, styled, the same bytes for the same input."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
from pandas import Series
from pyogrio import errors, raw

from geoseg.errors import OutputError, UsageError

EPOCH = "2000-01-01T00:00:00.000Z"
"""The time that stands for every "last changed": the same input gives the same bytes."""

_LAYER_NAMES = {"building": "buildings", "road": "road_surfaces"}
_RESERVED = ("gpkg_", "sqlite_", "rtree_")
_DATASET_OPTIONS = {"VERSION": "1.3"}  # what QGIS 3.22 and GDAL 3.6 know in full
_OGR_ERRORS = (
    errors.DataSourceError,
    errors.DataLayerError,
    errors.CRSError,
    errors.FeatureError,
    errors.GeometryError,
    errors.FieldError,
)


def layer_name(class_name: str) -> str:
    """The layer a class goes to: "building" to "buildings", "road" to "road_surfaces", any other to its own name."""
    return _LAYER_NAMES.get(class_name, class_name)


def write_layers(
    path: str | Path, layers: Mapping[str, geopandas.GeoDataFrame], *, styles: Mapping[str, str] | None = None
) -> None:
    """Write polygon layers to a new GeoPackage, each with the style QGIS shows it in.

    The bytes depend on the layers and styles alone. The file appears under `path` while it is written: give a temporary
    name and rename it. After an error nothing is left.

    Args:
        path: File to create; one that exists is replaced.
        layers: Frame by layer name, in the order to write, of one geometry type each. One without rows becomes a layer
            without features, with all its fields. The CRS is kept as the frame states it; none is written as undefined.
        styles: QML by layer name, stored in the table `layer_styles` as the layer's default style.

    Raises:
        UsageError: If two layers differ only in case, or a name is one GeoPackage keeps for itself.
        OutputError: If the file cannot be written.
    """
    path, styles = Path(path), {name: qml for name, qml in (styles or {}).items() if name in layers}
    check_names(layers)
    try:
        path.unlink(missing_ok=True)
        with _fixed_time(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
            warnings.filterwarnings("ignore", ".*file(name)? extension", RuntimeWarning)  # of a temporary name
            for name, frame in layers.items():
                _write_layer(path, name, frame)
            _write_styles(path, styles)
            _check(path, layers, styles)
    except BaseException as err:
        for leftover in (path, *(path.with_name(path.name + end) for end in ("-journal", "-wal", "-shm"))):
            with suppress(OSError):
                leftover.unlink()
        if isinstance(err, (*_OGR_ERRORS, OSError)) and not isinstance(err, OutputError):
            raise OutputError(f"{path} cannot be written ({err}). Expected a writable folder with space left.") from err
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


@contextmanager
def _fixed_time() -> Iterator[None]:
    """GDAL stamps `EPOCH` in place of the time of day."""
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": EPOCH})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


def _write_layer(path: Path, name: str, frame: geopandas.GeoDataFrame) -> None:
    # Not write_dataframe: it swaps the CRS for the EPSG code that looks most like it.
    fields = [field for field in frame.columns if field != frame.geometry.name]
    raw.write(
        path,
        frame.geometry.to_wkb().to_numpy(object),
        [_values(frame[field]) for field in fields],
        fields,
        layer=name,
        driver="GPKG",
        geometry_type=str(frame.geom_type.iloc[0]) if len(frame) else "Polygon",
        crs=frame.crs.to_wkt() if frame.crs else None,
        dataset_options=_DATASET_OPTIONS,
    )


def _values(column: Series) -> np.ndarray:
    """A column as OGR takes it: text as objects, numbers as they are."""
    return column.to_numpy() if column.dtype.kind in "iufb" else column.to_numpy(object)


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


def _check(path: Path, layers: Mapping[str, geopandas.GeoDataFrame], styles: Mapping[str, str]) -> None:
    """A disk that fills up while the spatial index is built goes unreported: look for what must be there."""
    expected = {name: len(frame) for name, frame in layers.items()} | ({"layer_styles": len(styles)} if styles else {})
    for name, rows in expected.items():
        info = pyogrio.read_info(path, layer=name, force_feature_count=True)
        indexed = name == "layer_styles" or info["capabilities"]["fast_spatial_filter"]
        if info["features"] != rows or not indexed:
            raise OutputError(
                f"{path} holds {info['features']} of {rows} rows of {name} {'with' if indexed else 'without'} an index "
                "after writing. Expected all of them. Is the disk full?"
            )
