"""A scene of the labelled imagery, where its buildings are known, and what a model says of it."""

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import yaml
from rasterio.enums import Resampling
from rasterio.features import geometry_mask

from geoseg.pipeline import Products, predict_scene
from geoseg.settings import DEFAULTS
from tests.benchmarks.folds import FOLDS

TOGETHER = 10
"""Buildings that are drawn in one place."""


@dataclass(frozen=True)
class City:
    """A scene, and in its CRS the buildings and the ground on which they are all known."""

    scene: Path
    buildings: gpd.GeoDataFrame
    labelled: shapely.Geometry

    @classmethod
    def named(cls, name: str) -> "City":
        """A scene in the folder that GEOSEG_DATA names, from a drone or a satellite, and its window of folds.yaml."""
        data = Path(os.environ["GEOSEG_DATA"])
        (folder,) = (
            data / kind for kind in ("oam_buildings", "rio_spacenet1") if (data / kind / f"{name}.tif").exists()
        )
        with rasterio.open(folder / f"{name}.tif") as file:
            crs, transform = file.crs, file.transform
        box = yaml.safe_load(FOLDS.read_text())["labelled"][name]
        labelled = shapely.MultiPoint([transform * box[:2], transform * box[2:]]).envelope
        for area in folder.glob(f"{name}_labelled_area*.geojson"):
            labelled &= gpd.read_file(area).to_crs(crs).union_all()
        (labels,) = folder.glob(f"{name}_buildings*.geojson")
        return cls(folder / f"{name}.tif", gpd.read_file(labels).to_crs(crs), labelled)

    @property
    def truth(self) -> np.ndarray:
        """(H, W) bool: building."""
        return self.inside(self.buildings.geometry)

    @property
    def known(self) -> np.ndarray:
        """(H, W) bool: within the scene and the labelled ground."""
        with rasterio.open(self.scene) as file:
            valid: np.ndarray = file.dataset_mask() > 0
        return valid & self.inside([self.labelled])

    def inside(self, shapes: "gpd.GeoSeries | list[shapely.Geometry]") -> np.ndarray:
        """(H, W) bool: pixels whose middle lies in one of the shapes."""
        with rasterio.open(self.scene) as file:
            return ~geometry_mask(shapes, file.shape, file.transform)

    def draw(self, count: int, seed: int) -> tuple[gpd.GeoDataFrame, gpd.GeoSeries] | None:
        """About `count` buildings, ten in a place, and the squares they lie in.

        None if the city has less than twice as many.
        """
        x, y = shapely.get_coordinates(shapely.centroid(self.buildings.geometry.to_numpy())).T
        free = shapely.contains_xy(self.labelled, x, y)
        if free.sum() < 2 * count:
            return None
        rng = np.random.default_rng(seed)
        squares, places = shapely.Polygon(), max(1, count // TOGETHER)
        for _ in range(places):
            at = rng.choice(np.flatnonzero(free))
            reach = np.sort(np.maximum(abs(x - x[at]), abs(y - y[at]))[free])[count // places - 1]
            squares |= shapely.box(x[at] - reach, y[at] - reach, x[at] + reach, y[at] + reach) & self.labelled
            free &= ~shapely.contains_xy(squares, x, y)
        drawn = self.buildings[self.buildings.intersects(squares)][["geometry"]]
        return drawn.reset_index(drop=True), gpd.GeoSeries([squares], crs=self.buildings.crs)

    def coarser(self, factor: float, path: Path) -> "City":
        """The city with pixels `factor` times as large, as means of its own; its scene is written to `path`."""
        with rasterio.open(self.scene) as file:
            height, width = (max(1, round(side / factor)) for side in file.shape)
            profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "crs": file.crs, "height": height}
            data = file.read([1, 2, 3], out_shape=(3, height, width), resampling=Resampling.average)
            valid = file.dataset_mask(out_shape=(height, width))
            transform = file.transform * file.transform.scale(file.width / width, file.height / height)
        with rasterio.open(path, "w", **profile, width=width, transform=transform, photometric="RGB") as file:
            file.write(data)
            file.write_mask(valid)
        return replace(self, scene=path)

    def predicted(self, model: str | Path, *, resample: bool = True) -> np.ndarray:
        """(H, W) bool: building, says the model."""
        with tempfile.TemporaryDirectory() as folder:
            labels = Path(folder) / "labels.tif"
            settings = replace(DEFAULTS, resample=resample)
            predict_scene(self.scene, model, products=Products(labels=labels), settings=settings)
            with rasterio.open(labels) as file:
                found: np.ndarray = file.read(1) == 1
        return found

    def iou(self, found: np.ndarray, ground: np.ndarray) -> float:
        """Of buildings, on this ground."""
        truth = self.truth
        return float((found & truth & ground).sum() / max(1, ((found | truth) & ground).sum()))
