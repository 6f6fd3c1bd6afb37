"""A town as files: a scene and its exact labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd

from geoseg.config import PALETTE
from geoseg.errors import OutputError
from geoseg.outputs import Outputs
from geoseg.qgis import polygon_style
from geoseg.raster import BLOCK, RasterProfile, write_cog
from geoseg.synthetic.town import CLASSES, Town
from geoseg.vectors import write_layers
from geoseg.windows import Plan, Window

COLORS = dict(zip(CLASSES, PALETTE, strict=False))
"""Colours of the classes in styles and pictures."""


@dataclass(frozen=True, slots=True)
class TownFiles:
    """Where a town was written."""

    scene: Path
    """RGB Cloud Optimized GeoTIFF, nodata 0 in all three bands."""
    labels: Path
    """GeoPackage. Layer labels: all polygons with a field `class`; buildings, roads, centrelines: each with its own."""

    @classmethod
    def within(cls, folder: str | Path) -> "TownFiles":
        """scene.tif and labels.gpkg in `folder`."""
        return cls(Path(folder) / "scene.tif", Path(folder) / "labels.gpkg")


def write_town(folder: str | Path, town: Town, *, overwrite: bool = False) -> TownFiles:
    """Write a town's picture and labels, both or neither; the same town gives the same bytes.

    Args:
        folder: Where to; made if missing, its parent must exist.
        town: What `draw_town` returned.
        overwrite: Replace files that exist.

    Raises:
        OutputExistsError: If a file exists, and `overwrite` is not given.
        OutputError: If the folder or a file cannot be written.
    """
    make_folder(folder)
    files = TownFiles.within(folder)
    with Outputs({"scene": files.scene, "labels": files.labels}, overwrite=overwrite) as outputs:
        profile = RasterProfile(grid=town.grid, nodata=0, bands=("red", "green", "blue"))
        write_cog(outputs.staged("scene"), _cells(town), profile)
        labels = pd.concat([frame[["class", "geometry"]] for frame in (town.buildings, town.roads)], ignore_index=True)
        layers = {
            "labels": gpd.GeoDataFrame(labels, crs=town.grid.crs),
            "buildings": town.buildings,
            "roads": town.roads,
            "centrelines": town.centrelines,
        }
        styles = {"buildings": polygon_style(COLORS["building"]), "roads": polygon_style(COLORS["road"])}
        write_layers(outputs.staged("labels"), layers, styles=styles)
        outputs.commit()
    return files


def make_folder(folder: str | Path) -> None:
    """Make a folder unless it is there.

    Raises:
        OutputError: If it cannot be made, or the name belongs to a file.
    """
    try:
        Path(folder).mkdir(exist_ok=True)
    except OSError as err:
        raise OutputError(
            f"folder {folder} cannot be made ({err.strerror}). Expected a new name in an existing, writable folder."
        ) from err


def _cells(town: Town) -> Iterator[tuple[Window, np.ndarray]]:
    for cell in Plan(shape=town.grid.shape, cell_side=BLOCK):
        rows, cols = cell.slices()
        yield cell, town.image[:, rows, cols]
