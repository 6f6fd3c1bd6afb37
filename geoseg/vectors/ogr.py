"""The door to GDAL's vector drivers: one frame into one layer, errors in geoseg's words, a look at what was written."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
from pandas import Series
from pyogrio import errors, raw

from geoseg.errors import OutputError
from geoseg.vectors.chunks import WkbChunks, geometry_type
from geoseg.vectors.table import AnyTable, Table

EPOCH = "2000-01-01T00:00:00.000Z"
"""The time that stands for every "last changed": the same input gives the same bytes."""

_ERRORS = (
    errors.DataSourceError,
    errors.DataLayerError,
    errors.CRSError,
    errors.FeatureError,
    errors.GeometryError,
    errors.FieldError,
)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Write a file with a fixed date, and without GDAL's remarks on what geoseg means or tells itself.

    Raises:
        OutputError: In place of what GDAL or the file system says.
    """
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": EPOCH})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
            warnings.filterwarnings("ignore", ".*file(name)? extension", RuntimeWarning)
            warnings.filterwarnings("ignore", "(?s).*has been truncated to", RuntimeWarning)  # shapefile.py tells it
            yield
    except OutputError:
        raise
    except (*_ERRORS, OSError) as err:
        raise OutputError(f"{path} cannot be written ({err}). Expected a writable folder with space left.") from err
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


def write_layer(
    path: Path,
    layer: str,
    frame: AnyTable,
    driver: str,
    *,
    layer_options: Mapping[str, str] | None = None,
    dataset_options: Mapping[str, str] | None = None,
) -> None:
    """Add a layer to a file of a format that holds several, or make the file. The CRS is kept as the frame states it.

    Args:
        path: File to write.
        layer: Name of the layer.
        frame: Shapes of one type, or of one and its multi-part kin, and their fields.
        driver: GDAL's name of the format.
        layer_options: Of the driver.
        dataset_options: Of the driver, for a file that is not there yet.
    """
    # Not write_dataframe: it swaps the CRS for the EPSG code that looks most like it.
    table = Table.of(frame)
    kind = geometry_type(layer, table)
    raw.write(
        path,
        WkbChunks(table.shapes),
        [column_values(table.fields[field]) for field in table.fields],
        list(table.fields),
        layer=layer,
        driver=driver,
        geometry_type=kind,
        promote_to_multi=kind.startswith("Multi"),
        crs=table.crs.to_wkt() if table.crs else None,
        dataset_options=dict(dataset_options or {}),
        layer_options=dict(layer_options or {}),
    )


def column_values(column: Series) -> np.ndarray:
    """A column as OGR takes it: text as objects, numbers as they are."""
    return column.to_numpy() if column.dtype.kind in "iufb" else column.to_numpy(object)


def read_back(path: Path, rows: int, layer: str | None = None, *, counted: bool = False) -> dict[str, Any]:
    """Open what was written, which a full disk may have cut short without a word.

    Args:
        path: The file.
        rows: Features it must hold.
        layer: Layer to look at, where there are several.
        counted: Whether the number is found by reading them all, not said by the file: then the last one is there.

    Returns:
        What pyogrio says of the layer.

    Raises:
        OutputError: If there are more or fewer, or the last one cannot be read.
    """
    try:
        info: dict[str, Any] = pyogrio.read_info(path, layer=layer, force_feature_count=True)
        last_is_there = counted or not rows or len(_fids(path, rows - 1, layer)) == 1
    except (*_ERRORS, OSError) as err:
        raise OutputError(f"{path} cannot be read after writing ({err}). Is the disk full?") from err
    if info["features"] != rows or not last_is_there:
        raise OutputError(
            f"{path} holds {info['features']} of {rows} features{f' of {layer}' if layer else ''} after writing. "
            "Expected all of them. Is the disk full?"
        )
    return info


def _fids(path: Path, index: int, layer: str | None) -> np.ndarray:
    """Of the feature in a place, if there is one."""
    fids: np.ndarray = raw.read(path, layer=layer, columns=[], skip_features=index, max_features=1, return_fids=True)[1]
    return fids
