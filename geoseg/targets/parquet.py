"""GeoParquet as a source of features, by way of pyarrow, which is an extra.

Source: GeoParquet specification 1.1.0, https://geoparquet.org/releases/v1.1.0/.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import shapely
from pyogrio.errors import DataSourceError
from pyproj.exceptions import CRSError

from geoseg.errors import UsageError


def pyarrow(path: Path) -> Any:
    """The library, without which there is no Parquet.

    Args:
        path: File it is needed for.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as err:
        raise UsageError(
            f"{path} needs pyarrow, which is not installed ({err}). Expected geoseg with its extra. Run "
            "`pip install 'geoseg[parquet]'`, or use a .gpkg or .fgb."
        ) from err


def parquet_kind(path: Path) -> str:
    """The type of geometry of the features, such as "MultiPolygon"; "Unknown" of several or none.

    Raises:
        UsageError: If pyarrow is not installed.
        DataSourceError: If the file cannot be read.
    """
    arrow = pyarrow(path)
    try:
        geo = json.loads((arrow.parquet.read_schema(path).metadata or {})[b"geo"])
        kinds = set(geo["columns"][geo["primary_column"]]["geometry_types"])
    except KeyError as err:
        raise DataSourceError("it is no GeoParquet: nothing says what its geometry is") from err
    except (ValueError, OSError) as err:
        raise DataSourceError(str(err)) from err
    return str(kinds.pop()) if len(kinds) == 1 else "Unknown"


def read_parquet(path: Path) -> gpd.GeoDataFrame:
    """All features with their fields, in two dimensions, numbered from 0.

    Raises:
        DataSourceError: If the file cannot be read.
    """
    try:
        frame = gpd.read_parquet(path, partitioning=None)
    except (ValueError, OSError, CRSError, shapely.errors.GEOSException) as err:
        raise DataSourceError(str(err)) from err
    frame = frame.reset_index(drop=frame.index.names == [None])
    frame.attrs.clear()
    return frame.set_geometry(shapely.force_2d(frame.geometry.array), crs=frame.crs)
