"""Shapefile: several files a layer, and limits that are told.

Source: ESRI Shapefile Technical Description, July 1998; dBASE III+ for the limits of names and text.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import shapely

from geoseg.errors import OutputError
from geoseg.vectors.chunks import chunks
from geoseg.vectors.ogr import read_back, write_layer, writing
from geoseg.vectors.table import AnyTable, Table

SIDES = (".shx", ".dbf", ".cpg", ".prj")
"""Files beside the `.shp`, of which only a layer with a CRS has the last."""

STALE = (".sbn", ".sbx", ".qix", ".ind", ".idm", ".prj")
"""Files of an earlier Shapefile of the same name, by which programs would read the new one wrongly."""

_OPTIONS = {"ENCODING": "UTF-8", "DBF_DATE_LAST_UPDATE": "2000-01-01", "2GB_LIMIT": "YES"}
_NAME_BYTES = 10
_TEXT_BYTES = 254
_MAX_BYTES = 2**31 - 1


def write_shapefile(path: Path, layer: str, frame: AnyTable) -> list[str]:
    """Write a layer as a Shapefile: `path` and, beside it, files of the same stem with the endings of `SIDES`.

    Args:
        path: The file that ends in .shp.
        layer: Its name, which tells the type of a layer without rows.
        frame: Shapes and their fields.

    Returns:
        What was lost: fields with shorter names as "perimeter_m as perimeter_", fields with cut text as "source cut".

    Raises:
        OutputError: If it cannot be written, or would be larger than 2 GB.
    """
    table = Table.of(frame)
    size = shapefile_bytes(table)
    if size > _MAX_BYTES:
        raise OutputError(
            f"{path} would hold {size / 1e9:.1f} GB of shapes. Expected at most 2 GB, where Shapefile ends. Write a "
            ".gpkg or .fgb."
        )
    fields = [str(field) for field in table.fields]
    short = dict(zip(fields, short_names(fields), strict=True))
    told = [f"{name} as {cut}" for name, cut in short.items() if cut != name]
    told += [f"{name} cut" for name in fields if _is_long(table.fields[name])]
    with writing(path):
        write_layer(
            path,
            layer,
            replace(table, fields=table.fields.rename(columns=short)),
            "ESRI Shapefile",
            layer_options=_OPTIONS,
        )
        read_back(path, len(table))
        _check_sizes(path, size, len(table))
    return told


def short_names(names: Iterable[str]) -> list[str]:
    """Names of at most 10 bytes, no two alike in any case: cut, and numbered where that makes two the same."""
    names = list(names)
    kept = {name.lower() for name in names if len(name.encode()) <= _NAME_BYTES}  # these keep theirs
    taken: set[str] = set()
    short = []
    for name in names:
        cut, number = _cut(name, _NAME_BYTES), 0
        while cut.lower() in taken or (cut != name and cut.lower() in kept):
            number += 1
            cut = f"{_cut(name, _NAME_BYTES - 1 - len(str(number)))}_{number}"
        taken.add(cut.lower())
        short.append(cut)
    return short


def shapefile_bytes(frame: AnyTable) -> int:
    """Size of the `.shp` file, by the layout of its records."""
    table, size = Table.of(frame), 100
    plain = table.kinds <= {"Point", "MultiPoint"}
    for _, shapes in chunks(table):
        parts = shapely.get_parts(shapes)
        rings = len(parts) + int(shapely.get_num_interior_rings(parts).sum())
        size += (12 if plain else 52) * len(shapes) + (0 if plain else 4 * rings)
        size += 16 * int(shapely.get_num_coordinates(shapes).sum())
    return size


def _check_sizes(path: Path, size: int, rows: int) -> None:
    """GDAL says nothing of a last block that found no room, and reads the shapes in it as missing."""
    with path.with_suffix(".dbf").open("rb") as file:
        header, record = np.frombuffer(file.read(12), "<u2")[4:6].tolist()
    expected = {".shp": size, ".shx": 100 + 8 * rows, ".dbf": header + record * rows}
    for ending, needed in expected.items():
        found = path.with_suffix(ending).stat().st_size
        if found < needed:
            raise OutputError(
                f"{path.with_suffix(ending)} holds {found} of {needed} bytes after writing. Expected all of them. Is "
                "the disk full?"
            )


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def _is_long(column: pd.Series) -> bool:
    """Whether text of a field is longer than dBASE has room for."""
    if column.dtype.kind in "iufb":
        return False
    return any(len(str(text).encode()) > _TEXT_BYTES for text in column.dropna().unique())


def digest(path: Path) -> str:
    """sha256 of a vector file, and of those beside it that are parts of it, in hexadecimal digits."""
    sides = SIDES if path.suffix.lower() == ".shp" else ()
    parts = [path, *(path.with_suffix(side) for ending in sides for side in (ending, ending.upper()))]
    whole = hashlib.sha256()
    for part in parts:
        if part.is_file():
            whole.update(part.suffix.encode() + hashlib.sha256(part.read_bytes()).digest())
    return whole.hexdigest()
