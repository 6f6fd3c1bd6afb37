"""GeoParquet, by way of pyarrow, which is an extra.

Source: GeoParquet specification 1.1.0, https://geoparquet.org/releases/v1.1.0/.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geoseg.errors import OutputError
from geoseg.targets.parquet import pyarrow
from geoseg.vectors.chunks import chunks, geometry_type
from geoseg.vectors.ogr import column_values, writing
from geoseg.vectors.table import AnyTable, Table


def write_parquet(path: Path, layer: str, frame: AnyTable) -> None:
    """Write a layer as GeoParquet 1.1: shapes as well-known binary, the CRS as PROJJSON, NaN as missing.

    Args:
        path: File to make.
        layer: Its name, which tells the type of a layer without rows.
        frame: Shapes and their fields.

    Raises:
        UsageError: If pyarrow is not installed.
        OutputError: If the file cannot be written.
    """
    arrow = pyarrow(path)
    table = Table.of(frame)
    names = list(table.fields)
    types = [_arrow_type(arrow, table.fields[name].dtype) for name in names]
    schema = arrow.schema([*zip(names, types, strict=True), ("geometry", arrow.binary())])
    schema = schema.with_metadata({"geo": json.dumps(_metadata(layer, table), sort_keys=True)})
    with writing(path):
        with arrow.parquet.ParquetWriter(path, schema, compression="zstd") as file:
            for rows, shapes in chunks(table):
                columns = [
                    arrow.array(column_values(rows[name]), kind, from_pandas=True)
                    for name, kind in zip(names, types, strict=True)
                ]
                columns.append(arrow.array(shapely.to_wkb(shapes), arrow.binary()))
                file.write_table(arrow.Table.from_arrays(columns, schema=schema))
        found = _rows(arrow, path)
        if found != len(table):
            raise OutputError(f"{path} holds {found} of {len(table)} features after writing. Is the disk full?")


def _arrow_type(arrow: Any, dtype: Any) -> Any:
    return arrow.from_numpy_dtype(dtype) if dtype.kind in "iufb" else arrow.string()


def _metadata(layer: str, table: Table) -> dict[str, Any]:
    """The value of the key "geo". A CRS of null is an unknown one; to leave it out would mean degrees."""
    types = sorted(table.kinds) or [geometry_type(layer, table)]
    column = {"encoding": "WKB", "geometry_types": types, "crs": table.crs.to_json_dict() if table.crs else None}
    if bounds := [shapely.total_bounds(shapes) for _, shapes in chunks(table)]:
        column["bbox"] = [*np.fmin.reduce(bounds)[:2].tolist(), *np.fmax.reduce(bounds)[2:].tolist()]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _rows(arrow: Any, path: Path) -> int:
    """Rows that can be read: every page of every column is, in its turn."""
    try:
        with arrow.parquet.ParquetFile(path) as file:
            return sum(batch.num_rows for batch in file.iter_batches())
    except arrow.ArrowInvalid as err:
        raise OutputError(f"{path} cannot be read after writing ({err}). Is the disk full?") from err
