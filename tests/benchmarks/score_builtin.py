"""Scores of a model on every held-back real window of the labelled imagery, by predict and evaluate themselves.

    GEOSEG_DATA=<folder> python tests/benchmarks/score_builtin.py [MODEL] [--pictures FOLDER]

Each scene is predicted whole, and the held-back window of its class raster is compared with the labels. Beside it
stands the best that a threshold on brightness can do, in either direction and chosen on that very window: a rule that
has seen the answer, and still the least that a model must beat. All background has an IoU of 0.
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
import rasterio.errors
from PIL import Image

from geoseg.evaluate import evaluate_prediction
from geoseg.metrics import IGNORE
from geoseg.pipeline import Products, predict_scene
from geoseg.predict import tune_malloc
from geoseg.scene import Scene
from geoseg.targets import labelled_area, read_labels
from geoseg.windows import Window

CLASSES = ("background", "building", "road")
DUBAI = np.full(256, IGNORE, np.uint8)
DUBAI[1:6] = (1, 2, 0, 0, 0)
"""Values of dubai's label rasters: 1 building, 2 road, 3 land, 4 vegetation, 5 water."""
COLORS = np.array([(26, 26, 26), (230, 25, 75), (255, 225, 25), *[(128, 128, 128)] * 253], np.uint8)


@dataclass(frozen=True)
class Held:
    """A held-back window and its truth."""

    row: str
    """The line of the table it counts in."""
    scene: Path
    labels: Path
    window: Window
    area: Path | None = None
    known: tuple[int, ...] = (1,)
    """Classes that the labels know."""

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """(3, H, W) uint8 and the (H, W) target."""
        with Scene.open(self.scene) as scene:
            tile = scene.read(self.window)
            if self.labels.suffix == ".png":
                with rasterio.open(self.labels) as file:
                    target = DUBAI[file.read(1)]
            else:
                target = read_labels(self.labels, grid=scene.grid, class_names=CLASSES).target(self.window)
            if self.area:
                target = np.where(labelled_area(self.area, scene.grid).valid(self.window), target, IGNORE)
        return tile.data, np.where(tile.valid, target, IGNORE).astype(np.uint8)


@dataclass
class Tally:
    """Sums over the windows of one line of the table."""

    hits: dict[int, float] = field(default_factory=dict)
    union: dict[int, float] = field(default_factory=dict)
    grey: dict[tuple[int, bool], np.ndarray] = field(default_factory=dict)
    """Pixels by brightness, of the class and of none of it."""

    def iou(self, index: int) -> float | None:
        """Of the model; None where the labels have nothing of the class."""
        truth = self.grey.get((index, True))
        return self.hits[index] / self.union[index] if truth is not None and truth.sum() else None

    def threshold(self, index: int) -> float:
        """The largest IoU that a threshold on brightness gives."""
        yes, no = self.grey[index, True], self.grey[index, False]
        both = ((yes, no), (yes[::-1], no[::-1]))
        return max(float((y.cumsum() / np.maximum(yes.sum() + n.cumsum(), 1)).max()) for y, n in both)


def held_back(data: Path) -> Iterator[Held]:
    """The validation windows of the split that lies beside the imagery."""
    split = json.loads((data / "split.json").read_text())
    for folder in ("oam_buildings", "rio_spacenet1"):
        for name, (x0, y0, x1, y1) in split[folder]["val"].items():
            window = Window(row=y0, col=x0, height=y1 - y0, width=x1 - x0)
            (labels,) = (data / folder).glob(f"{name}_buildings*.geojson")
            area = next((data / folder).glob(f"{name}_labelled_area*.geojson"), None)
            yield Held(name, data / folder / f"{name}.tif", labels, window, area)
    for scene in sorted((data / "dubai").glob("tile*/part[59].jpg")):
        with rasterio.open(scene) as file:
            window = Window(row=0, col=0, height=file.height, width=file.width)
        labels = scene.with_name(f"{scene.stem}_mask.png")
        yield Held(f"dubai {scene.parent.name}", scene, labels, window, known=(1, 2))


def score(held: Held, model: str, folder: Path, tally: Tally, pictures: Path | None) -> None:
    """Predict, evaluate, and add to the line's sums."""
    predicted = folder / f"{held.row}_{held.scene.stem}.tif"
    if not predicted.exists():
        predict_scene(held.scene, model, products=Products(labels=predicted))
    data, target = held.pixels()
    reference = held.labels
    if held.labels.suffix == ".png":
        reference = folder / "reference.tif"
        with rasterio.open(
            reference,
            "w",
            driver="GTiff",
            count=1,
            height=len(target),
            width=target.shape[1],
            dtype="uint8",
            nodata=IGNORE,
        ) as file:
            file.write(target, 1)
    scores = evaluate_prediction(predicted, reference, window=held.window, labelled_area=held.area).scores
    grey = data.mean(axis=0).astype(np.uint8)
    for index in held.known:
        one = scores[CLASSES[index]]
        hits = (one.recall or 0) * one.support
        tally.hits[index] = tally.hits.get(index, 0) + hits
        tally.union[index] = tally.union.get(index, 0) + one.support + one.predicted - hits
        for of_class in (True, False):
            chosen = (target != IGNORE) & ((target == index) == of_class)
            counts = np.bincount(grey[chosen], minlength=256)
            tally.grey[index, of_class] = tally.grey.get((index, of_class), 0) + counts
    if pictures:
        with Scene.open(predicted) as scene:
            labels = scene.read(held.window).data[0]
        strips = [data.transpose(1, 2, 0), COLORS[target], COLORS[labels]]
        side_by_side = np.concatenate(strips, axis=1 if data.shape[1] >= data.shape[2] else 0)
        Image.fromarray(side_by_side).save(pictures / f"{held.row}_{held.scene.stem}.png")


def main() -> None:
    """Print the table; exit with 3 when a building score does not beat its threshold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="unet")
    parser.add_argument("--pictures", type=Path, help="folder for image, target and prediction side by side")
    options = parser.parse_args()
    tune_malloc()
    # dubai has no georeference, and its references here need none.
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    lines: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as folder:
        for held in held_back(Path(os.environ["GEOSEG_DATA"])):
            score(held, options.model, Path(folder), lines.setdefault(held.row, Tally()), options.pictures)
    print("| held-back window of | building IoU | best threshold | road IoU | best threshold |\n|---|---|---|---|---|")
    worse = []
    for name, tally in lines.items():
        cells = []
        for index in (1, 2):
            iou = tally.iou(index) if index in tally.hits else None
            cells += ["n/a" if iou is None else f"{iou:.3f}", "" if iou is None else f"{tally.threshold(index):.3f}"]
            worse += [name] if index == 1 and iou is not None and iou <= tally.threshold(1) else []
        print(f"| {name} | {' | '.join(cells)} |")
    if worse:
        print(f"not above the best threshold: {', '.join(worse)}", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
