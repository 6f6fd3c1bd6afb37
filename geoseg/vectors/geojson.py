"""GeoJSON: longitude and latitude with seven decimals, exteriors counter-clockwise.

Source: Butler et al. 2016, The GeoJSON Format, RFC 7946, sections 3.1.6 (rings), 4 (coordinates) and 11.2 (decimals).
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pandas import Series
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geoseg.errors import OutputError, UsageError
from geoseg.vectors.chunks import chunks
from geoseg.vectors.ogr import column_values, read_back, writing
from geoseg.vectors.table import AnyTable, Table

DECIMALS = 7
"""Of a coordinate: a centimetre on the ground."""


def to_degrees(crs: CRS | None, path: Path) -> Transformer:
    """The way from a CRS to longitude and latitude of WGS 84.

    Raises:
        UsageError: If there is no CRS, or one that has no place on Earth.
    """
    try:
        if crs is not None:
            return Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
        reason = "there is no CRS to find them by"
    except ProjError as err:
        reason = f"there is no way to them from the CRS {crs.name!r} ({err})" if crs is not None else str(err)
    raise UsageError(
        f"{path}: GeoJSON holds longitude and latitude, and {reason}. Expected a CRS on Earth. Write a .gpkg, or give "
        "the raster its CRS (gdal_edit.py -a_srs)."
    )


def write_geojson(path: Path, layer: str, frame: AnyTable) -> None:
    """Write a layer as a FeatureCollection, one feature a line. NaN and missing values become null.

    Shapes that cross the 180th meridian are not cut there. A polygon that rounding would make invalid is repaired on
    the grid of rounded coordinates, where that leaves something of it.

    Args:
        path: File to make.
        layer: Said in the member "name".
        frame: Shapes with a CRS, and their fields.

    Raises:
        UsageError: If the CRS is none or has no place on Earth.
        OutputError: If a shape lies where degrees cannot say, or the file cannot be written.
    """
    table = Table.of(frame)
    prepare = _preparation(to_degrees(table.crs, path), path)
    with writing(path):
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write(f'{{"type":"FeatureCollection","name":{_text(layer)},"features":[')
            for number, feature in enumerate(_features(table, prepare)):
                file.write(f"{',' if number else ''}\n{feature}")
            file.write("\n]}\n")
        read_back(path, len(table), counted=True)


def _preparation(degrees: Transformer, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    def moved(xy: np.ndarray) -> np.ndarray:
        found = np.column_stack(degrees.transform(xy[:, 0], xy[:, 1]))
        if not (fits := np.abs(found) <= (360, 90)).all():  # neither infinite nor NaN
            raise OutputError(
                f"{path}: coordinates such as {xy[~fits.all(axis=1)][0].tolist()} have no longitude and latitude. "
                "Expected shapes inside the area of their CRS. Write a .gpkg."
            )
        return found.round(DECIMALS) + 0.0  # no -0.0

    def prepare(shapes: np.ndarray) -> np.ndarray:
        placed = shapely.transform(shapes, moved)
        broken = ~shapely.is_valid(placed)
        if broken.any():
            exact = shapely.transform(shapes[broken], lambda xy: np.column_stack(degrees.transform(xy[:, 0], xy[:, 1])))
            repaired = shapely.set_precision(shapely.make_valid(exact), 10.0**-DECIMALS)
            repaired = shapely.transform(repaired, lambda xy: xy.round(DECIMALS) + 0.0)
            same = (shapely.get_dimensions(repaired) == shapely.get_dimensions(exact)) & ~shapely.is_empty(repaired)
            placed[broken] = np.where(same, repaired, [_sound(shape) for shape in placed[broken]])
        return shapely.orient_polygons(placed)

    return prepare


def _sound(shape: shapely.Geometry) -> shapely.Geometry:
    """What is valid of a shape too small to be repaired by whole decimals; as it is, if they closed all of it."""
    parts = shapely.get_parts(shapely.make_valid(shape))
    kept = parts[shapely.get_dimensions(parts) == shapely.get_dimensions(shape)]
    return shapely.union_all(kept) if len(kept) else shape


def _features(table: Table, prepare: Callable[[np.ndarray], np.ndarray]) -> Iterator[str]:
    names = list(table.fields)
    for rows, shapes in chunks(table, prepare):
        columns = [_json_values(rows[name]) for name in names]
        values = zip(*columns, strict=True) if names else ((),) * len(rows)
        for shape, row in zip(shapely.to_geojson(shapes), values, strict=True):
            properties = _text(dict(zip(names, row, strict=True)))
            yield f'{{"type":"Feature","properties":{properties},"geometry":{shape or "null"}}}'


def _json_values(column: Series) -> list[Any]:
    values = column_values(column)
    missing = column.isna().to_numpy()
    return [None if gone else value for value, gone in zip(values.tolist(), missing, strict=True)]


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
