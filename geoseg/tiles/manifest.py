"""The manifest: a line for each tile, as a table and as footprints on the map."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS

from geoseg.grid import Grid
from geoseg.tiles.files import store
from geoseg.tiles.style import footprint_style
from geoseg.vectors.layer import write_layers
from geoseg.windows import Window

_WORLD = "EPSG:4326"
"""CRS of the footprints of scenes in several."""


@dataclass(frozen=True, slots=True, eq=False)
class TileEntry:
    """One tile that was kept."""

    name: str
    """Of both files, without ending."""
    scene: str
    """Short name of its scene."""
    grid: Grid
    """Of the scene."""
    window: Window
    """Its pixels in the scene; it may stick out of one that is smaller."""
    known: int
    """Pixels that are usable and labelled."""
    counts: np.ndarray
    """(K,) int64 of them in each class; empty where targets are values."""

    @property
    def image(self) -> str:
        """Path of the image in the folder."""
        return f"images/{self.name}.tif"

    @property
    def labels(self) -> str:
        """Path of the target in the folder."""
        return f"labels/{self.name}.tif"


def write_manifest(
    folder: Path, entries: Sequence[TileEntry], split: np.ndarray, names: Sequence[str], gsd: float | None
) -> None:
    """Write manifest.csv and manifest.gpkg.

    Args:
        folder: Where to.
        entries: The tiles.
        split: (N,) text: train, val or none.
        names: Of the classes; none where targets are values.
        gsd: Metres per pixel of scenes whose CRS does not tell.

    Raises:
        OutputError: If they cannot be written.
        UsageError: If a class has a name that a table cannot have for a column.
    """
    columns: dict[str, list[object]] = {
        "image": [entry.image for entry in entries],
        "labels": [entry.labels for entry in entries],
        "scene": [entry.scene for entry in entries],
        "split": [str(part) for part in split],
    }
    bounds = [entry.grid.window_bounds(entry.window) for entry in entries]
    for index, side in enumerate(("left", "bottom", "right", "top")):
        columns[side] = [box[index] for box in bounds]
    columns["crs"] = [crs_name(entry.grid.crs) for entry in entries]
    columns["width"] = [entry.window.width for entry in entries]
    columns["height"] = [entry.window.height for entry in entries]
    columns["gsd"] = [_rounded(entry.grid.gsd or gsd) for entry in entries]
    columns["valid"] = [round(entry.known / entry.window.area, 6) for entry in entries]
    for index, name in enumerate(names):
        columns[f"share_{name}"] = [round(int(entry.counts[index]) / entry.known, 6) for entry in entries]
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))
    store(folder / "manifest.csv", text.getvalue().encode())
    _write_footprints(folder / "manifest.gpkg", entries, columns)


@cache
def crs_name(wkt: str | None) -> str:
    """EPSG:32637 where a CRS is just that, else its WKT; nothing where there is none."""
    if wkt is None:
        return ""
    code = CRS.from_user_input(wkt).to_epsg(min_confidence=100)
    return f"EPSG:{code}" if code else wkt


def _rounded(gsd: float | None) -> float | None:
    return None if gsd is None else float(f"{gsd:.6g}")


def _write_footprints(path: Path, entries: Sequence[TileEntry], columns: dict[str, list[object]]) -> None:
    """Outlines of the tiles, in the scenes' CRS where they have one in common; those without any in a layer apart."""
    shapes = np.array([_outline(entry) for entry in entries], object)
    crs = np.array([entry.grid.crs or "" for entry in entries], object)
    frame = gpd.GeoDataFrame(columns, geometry=shapes)
    placed = sorted(set(crs) - {""})
    layers = {}
    if placed:
        frames = [frame[crs == one].set_crs(CRS.from_user_input(one)) for one in placed]
        common = frames if len(frames) == 1 else [one.to_crs(_WORLD) for one in frames]
        layers["tiles"] = gpd.pd.concat(common).sort_index()
    if (crs == "").any():
        layers["tiles_without_crs" if placed else "tiles"] = frame[crs == ""]
    layers = {name: layer.rename_geometry("geom") for name, layer in layers.items()}
    write_layers(path, layers, styles=dict.fromkeys(layers, footprint_style()))


def _outline(entry: TileEntry) -> shapely.Polygon:
    window = entry.window
    corners = [
        (window.col, window.row), (window.stop_col, window.row), (window.stop_col, window.stop_row),
        (window.col, window.stop_row),
    ]  # fmt: skip
    return shapely.Polygon([entry.grid.transform @ corner for corner in corners])
