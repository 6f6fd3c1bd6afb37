"""Labelled ground to score a model on: a window of a scene and what is known of it, predicted by `predict_scene`."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from PIL import Image

from geoseg.compare.bootstrap import Estimate, estimate, figures, resample
from geoseg.evaluate.vectors import evaluate_vectors
from geoseg.metrics import IGNORE
from geoseg.metrics.reliability import Reliability
from geoseg.pipeline import Products, predict_scene
from geoseg.scene import Scene
from geoseg.settings import Settings
from geoseg.targets import labelled_area, read_labels
from geoseg.windows import Window

CLASSES = ("background", "building", "road")
DUBAI = np.full(256, IGNORE, np.uint8)
DUBAI[1:6] = (1, 2, 0, 0, 0)
"""Values of dubai's label rasters: 1 building, 2 road, 3 land, 4 vegetation, 5 water."""
COLORS = np.array([(26, 26, 26), (230, 25, 75), (255, 225, 25), *[(128, 128, 128)] * 253], np.uint8)
TILE = 256
"""Side in pixels of what the bootstrap draws."""
AROUND = 256
"""Pixels round a window that are predicted with it: more than any of the models sees."""
SHIFTED = {"nairobi_a": (-8, -9)}
"""Scenes whose labels were drawn on other imagery: pixels right and down by which they have to be moved."""

MOVED = ", labels moved"
"""End of the name of their line, when they are."""


@dataclass(frozen=True)
class Ground:
    """A window and its truth."""

    row: str
    """The line of the table it counts in."""
    scene: Path
    labels: Path
    window: Window | None = None
    """None: the whole scene."""
    area: Path | None = None
    known: tuple[int, ...] = (1,)
    """Classes that the labels know."""
    shift: tuple[int, int] = (0, 0)
    """Pixels right and down by which the labels are moved."""

    def pixels(self) -> tuple[Window, np.ndarray, np.ndarray]:
        """The window, its (3, H, W) uint8 and the (H, W) target."""
        with Scene.open(self.scene) as scene:
            window = self.window or Window(row=0, col=0, height=scene.grid.height, width=scene.grid.width)
            tile = scene.read(window)
            if self.labels.suffix == ".png":
                with rasterio.open(self.labels) as file:
                    target = DUBAI[file.read(1)]
            else:
                right, down = self.shift
                grid = replace(scene.grid, transform=scene.grid.transform @ Affine.translation(-right, -down))
                target = read_labels(self.labels, grid=grid, class_names=CLASSES).target(window)
            if self.area:
                target = np.where(labelled_area(self.area, scene.grid).valid(window), target, IGNORE)
        return window, tile.data, np.where(tile.valid, target, IGNORE).astype(np.uint8)


@dataclass
class Tally:
    """What counts in one line of the table."""

    tiles: dict[int, list[np.ndarray]] = field(default_factory=dict)
    """Of each known class 2 x 2 counts: not of the class, of the class; row = target, column = predicted."""
    reliability: Reliability = field(default_factory=lambda: Reliability(CLASSES))
    shapes: dict[str, list[float]] = field(default_factory=dict)
    """Scores of the buildings as objects: one of each scene."""

    def iou(self, index: int) -> Estimate | None:
        """IoU of a class with its interval; None where the labels do not know the class, or have none."""
        if index not in self.tiles:
            return None
        matrices = np.stack(self.tiles[index])
        draws = figures(resample(matrices[None])[0])["iou"][:, 1]
        return estimate(float(figures(matrices.sum(axis=0))["iou"][1]), draws)

    def ece(self, index: int) -> float | None:
        """Calibration error of a class."""
        return self.reliability.errors()[CLASSES[index]] if index in self.tiles else None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        found: dict[str, Any] = {name: sum(values) / len(values) for name, values in self.shapes.items()}
        for index in self.tiles:
            iou = self.iou(index)
            found[CLASSES[index]] = {
                "iou": iou.value if iou else None,
                "tiles": len(self.tiles[index]),
                "interval": list(iou.ends) if iou else None,
                "ece": self.ece(index),
            }
        return found


def cut(ground: Ground, folder: Path, index: int) -> Ground:
    """The window of a ground, and pixels around it, as a scene of its own: no more than that is predicted."""
    if ground.window is None:
        return ground
    with rasterio.open(ground.scene) as file:
        whole = Window(row=0, col=0, height=file.height, width=file.width)
        seen = ground.window.expand(AROUND).intersection(whole)
        assert seen is not None
        rows, cols = (seen.row, seen.stop_row), (seen.col, seen.stop_col)
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "crs": file.crs, "photometric": "RGB"}
        transform = file.transform * Affine.translation(seen.col, seen.row)
        path = folder / f"{ground.scene.stem}_{index}.tif"
        with rasterio.open(path, "w", **profile, width=seen.width, height=seen.height, transform=transform) as part:
            part.write(file.read([1, 2, 3], window=(rows, cols)))
            part.write_mask(file.dataset_mask(window=(rows, cols)))
    window = replace(ground.window, row=ground.window.row - seen.row, col=ground.window.col - seen.col)
    return replace(ground, scene=path, window=window)


def score(ground: Ground, model: str | Path, tally: Tally, settings: Settings, pictures: Path | None = None) -> None:
    """Predict the scene, and count its window."""
    window, data, target = ground.pixels()
    with tempfile.TemporaryDirectory() as folder:
        shapes = ground.labels.suffix == ".geojson" and ground.shift == (0, 0)
        vectors = Path(folder) / "shapes.gpkg" if shapes else None
        products = Products(labels=Path(folder) / "labels.tif", vectors=vectors, probabilities=Path(folder) / "p.tif")
        predict_scene(ground.scene, model, products=products, settings=settings)
        with Scene.open(products.labels) as scene:
            found, grid = scene.read(window).data[0], scene.grid
        with rasterio.open(products.probabilities) as file:
            p = file.read(window=((window.row, window.stop_row), (window.col, window.stop_col))) / np.float32(254)
        if vectors:
            corners = [grid.transform * xy for xy in ((window.col, window.row), (window.stop_col, window.stop_row))]
            box = shapely.box(*np.sort(np.array(corners), axis=0).ravel())
            gpd.GeoSeries([box], crs=grid.crs).to_file(Path(folder) / "area.gpkg")
            scores = evaluate_vectors(
                vectors, ground.labels, classes=["building"], labelled_area=Path(folder) / "area.gpkg"
            ).scores["building"]
            for name in ("f1", "reference", "mean_iou", "boundary_iou", "polis_m"):
                value = getattr(scores.objects, name)
                if value is not None:
                    tally.shapes.setdefault(name, []).append(value)
    known = target != IGNORE
    for index in ground.known:
        truth, told = target == index, found == index
        tally.reliability.update(index, p[index][known], truth[known])
        for row in range(0, window.height, TILE):
            for col in range(0, window.width, TILE):
                part = np.s_[row : row + TILE, col : col + TILE]
                pairs = (2 * truth[part] + told[part])[known[part]]
                tally.tiles.setdefault(index, []).append(np.bincount(pairs, minlength=4).reshape(2, 2))
    if pictures:
        strips = [data.transpose(1, 2, 0), COLORS[target], COLORS[found]]
        side_by_side = np.concatenate(strips, axis=1 if data.shape[1] >= data.shape[2] else 0)
        Image.fromarray(side_by_side).save(pictures / f"{ground.row}_{ground.scene.stem}.png".replace(" ", "_"))


def grounds(data: Path, folds: dict[str, Any], fold: str) -> Iterator[Ground]:
    """What the run of a fold has not seen: its city, the held windows of the others, its half of Rio, its tiles."""
    out = folds["folds"][fold]
    for name, held in folds["held"].items():
        left_out = name in out["out"]
        (labels,) = (data / "oam_buildings").glob(f"{name}_buildings*.geojson")
        area = next((data / "oam_buildings").glob(f"{name}_labelled_area*.geojson"), None)
        window = _window(folds["labelled"][name] if left_out else held)
        row, scene = f"{'city' if left_out else 'held'} {name}", data / "oam_buildings" / f"{name}.tif"
        yield Ground(row, scene, labels, window, area)
        if name in SHIFTED:
            yield Ground(f"{row}{MOVED}", scene, labels, window, area, shift=SHIFTED[name])
    rio = data / "rio_spacenet1"
    window = _window(folds["labelled"]["rio_west"] if out["rio"] == "all" else folds["rio"][out["rio"]])
    yield Ground(f"rio {out['rio']}", rio / "rio_west.tif", rio / "rio_west_buildings.geojson", window)
    for tile in out["dubai"]:
        for scene in sorted((data / "dubai" / tile).glob("part?.jpg")):
            yield Ground(f"dubai {tile}", scene, scene.with_name(f"{scene.stem}_mask.png"), known=(1, 2))


def _window(box: list[int]) -> Window:
    col0, row0, col1, row1 = box
    return Window(row=row0, col=col0, height=row1 - row0, width=col1 - col0)
