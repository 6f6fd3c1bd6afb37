"""Formats: the ending of a name says how layers are written, and into which files, told before any work is done."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyproj import CRS

from geoseg.endings import check_vector_ending
from geoseg.errors import OutputExistsError
from geoseg.outputs import Outputs
from geoseg.targets.parquet import pyarrow
from geoseg.vectors import shapefile
from geoseg.vectors.geojson import to_degrees, write_geojson
from geoseg.vectors.layer import check_names, write_layers
from geoseg.vectors.ogr import read_back, write_layer, writing
from geoseg.vectors.parquet import write_parquet
from geoseg.vectors.table import AnyTable

log = logging.getLogger(__name__)

_RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".png", ".jpg", ".img")


@dataclass(frozen=True, slots=True)
class VectorFiles:
    """Where layers go."""

    layers: dict[str, Path]
    """File by layer: one for all in a GeoPackage, one for each in other formats."""
    paths: dict[str, Path]
    """Every file that may be written, for `Outputs`: those of the layers first, then what lies beside them."""
    names: dict[str, str]
    """By layer, the name of its file in `paths`; files beside it are called so too, and their ending."""


def vector_files(
    path: str | Path, layers: Iterable[str], *, crs: Any, key: str = "vectors", others: Iterable[Path] = ()
) -> VectorFiles:
    """Say which files layers will be written to, and refuse what the format cannot hold.

    A GeoPackage takes all layers. In any other format a single layer goes to `path` itself, each of several to a file
    of its own: out.fgb with buildings and roads becomes out_buildings.fgb and out_roads.fgb. Beside each lies a style
    for QGIS, out_buildings.qml, unless there is one already or a raster of that name would take it for its own.

    Args:
        path: File asked for, whose ending, in any case, is one of `geoseg.endings.VECTORS`.
        layers: Names of the layers, at least one.
        crs: Of the shapes, as pyproj takes it; None: there is none.
        key: What the first file is called in `paths`.
        others: Further files the run writes: their styles are left to them.

    Raises:
        UsageError: If the ending is unknown, the names cannot stand together in a GeoPackage, GeoJSON is asked for
            without a CRS that leads to degrees, or Parquet without pyarrow.
        OutputExistsError: If beside a Shapefile lie parts of an earlier one that would not be replaced.
    """
    path, names = Path(path), list(layers)
    ending = check_vector_ending(path)
    crs = CRS.from_user_input(crs) if crs else None
    if ending == ".gpkg":
        check_names(names)
        return VectorFiles(dict.fromkeys(names, path), {key: path}, dict.fromkeys(names, key))
    if ending in (".geojson", ".json"):
        to_degrees(crs, path)
    elif ending == ".parquet":
        pyarrow(path)
    keys = {name: f"{key}:{name}" if index else key for index, name in enumerate(names)}
    files = {name: path.with_name(f"{stem}{path.suffix}") for name, stem in _stems(path.stem, names).items()}
    paths = {keys[name]: file for name, file in files.items()}
    taken = [file.absolute() for file in others]
    for name, file in files.items():
        if ending == ".shp":
            paths |= {f"{keys[name]}{side}": file.with_suffix(side) for side in _shapefile_sides(file, crs)}
        if _style_is_free(file, taken):
            paths[f"{keys[name]}.qml"] = file.with_suffix(".qml")
    return VectorFiles(files, paths, keys)


def write_vectors(
    files: VectorFiles,
    frames: Mapping[str, AnyTable],
    outputs: Outputs,
    *,
    styles: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Write layers under their temporary names, and open them again to see that they are complete.

    The same frames and styles give the same bytes in every format. Shapes are converted some at a time. A layer without
    rows is kept with its fields, but for GeoJSON, which says fields by feature only.

    Args:
        files: What `vector_files` said.
        frames: Frame by layer, every layer of `files`, in the order to write.
        outputs: Made with `files.paths` among its paths; not committed here.
        styles: QML by layer name.

    Returns:
        Features by layer.

    Raises:
        OutputError: If a file cannot be written, or not read afterwards, or is too large for its format.
        UsageError: If a layer mixes points, lines and polygons.
    """
    frames = {name: frames[name] for name in files.names}
    styles = styles or {}
    ending = check_vector_ending(next(iter(files.layers.values())))
    if ending == ".gpkg":
        write_layers(outputs.staged(next(iter(files.names.values()))), frames, styles=styles)
    elif ending == ".shp":
        _write_shapefiles(files, frames, outputs)
    else:
        for name, frame in frames.items():
            _WRITERS[ending](outputs.staged(files.names[name]), name, frame)
    for name, qml in styles.items():
        if (key := f"{files.names.get(name)}.qml") in files.paths:
            staged = outputs.staged(key)
            with writing(staged):
                staged.write_text(qml, encoding="utf-8", newline="\n")
    return {name: len(frame) for name, frame in frames.items()}


def _write_flatgeobuf(path: Path, layer: str, frame: AnyTable) -> None:
    with writing(path):
        write_layer(path, layer, frame, "FlatGeobuf")
        read_back(path, len(frame))


_WRITERS: dict[str, Callable[[Path, str, AnyTable], None]] = {
    ".fgb": _write_flatgeobuf,
    ".geojson": write_geojson,
    ".json": write_geojson,
    ".parquet": write_parquet,
}


def _write_shapefiles(files: VectorFiles, frames: Mapping[str, AnyTable], outputs: Outputs) -> None:
    """Each under one stem, as the driver wants it, then by the names of `outputs`; its limits are told once."""
    told: list[str] = []
    for name, frame in frames.items():
        key = files.names[name]
        staged = outputs.staged(key)
        made = staged.with_name(f"{staged.name}.parts.shp")  # begins like `staged`: `outputs` clears it away
        told += shapefile.write_shapefile(made, name, frame)
        with writing(staged):
            made.replace(staged)
            for side in shapefile.SIDES:
                if f"{key}{side}" in files.paths and made.with_suffix(side).exists():
                    made.with_suffix(side).replace(outputs.staged(f"{key}{side}"))
    first = next(iter(files.layers.values()))
    log.warning(
        "%s: a Shapefile holds one layer, names of 10 characters, text of 254 bytes, and 2 GB%s. Write a .gpkg to keep "
        "everything.",
        first if len(files.layers) == 1 else f"{first} and {len(files.layers) - 1} more",
        f" ({', '.join(dict.fromkeys(told))})" if told else "",
    )


def _shapefile_sides(file: Path, crs: CRS | None) -> list[str]:
    sides = [side for side in shapefile.SIDES if crs is not None or side != ".prj"]
    for ending in shapefile.STALE:
        stale = file.with_suffix(ending)
        if ending not in sides and stale.exists():
            raise OutputExistsError(
                f"{stale} exists, a part of an earlier Shapefile that would be read with the new one. Expected it gone."
                " Delete it, or choose another name."
            )
    return sides


def _stems(stem: str, layers: list[str]) -> dict[str, str]:
    """By layer, the name of its file without the ending: unlike in more than case, without signs that mean a folder."""
    if len(layers) == 1:
        return {layers[0]: stem}
    found: dict[str, str] = {}
    for layer in layers:
        plain = re.sub(r"[^\w-]+", "_", layer)
        choices = (f"{stem}_{plain}{f'_{number}' if number > 1 else ''}" for number in range(1, len(layers) + 1))
        taken = {other.lower() for other in found.values()}
        found[layer] = next(choice for choice in choices if choice.lower() not in taken)
    return found


def _style_is_free(file: Path, others: list[Path]) -> bool:
    """Whether a `.qml` of this stem is neither there, perhaps its user's, nor would be a raster's."""
    rasters = [file.with_suffix(ending) for ending in _RASTERS]
    written = {other.with_suffix("") for other in others if other.suffix.lower() in (*_RASTERS, ".qml")}
    return file.absolute().with_suffix("") not in written and not any(
        beside.exists() for beside in (file.with_suffix(".qml"), *rasters)
    )
