"""The demo: a synthetic town that no model was trained on, drawn, predicted, vectorized and scored."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geoseg.checkpoint import resolve_model
from geoseg.evaluate import Evaluation, evaluate_prediction
from geoseg.metrics import IGNORE
from geoseg.outputs import Outputs
from geoseg.pipeline import Products, predict_scene
from geoseg.scene import Scene
from geoseg.synthetic import CLASSES, DEMO_SEED, draw_town
from geoseg.synthetic.files import TownFiles, make_folder, write_town
from geoseg.synthetic.picture import before_after

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Demo:
    """What was written, and how good it is."""

    paths: tuple[Path, ...]
    """Scene, labels, class raster, polygons, picture."""
    evaluation: Evaluation
    """The prediction against the exact labels."""


def run_demo(
    folder: str | Path,
    model: str | Path = "unet",
    *,
    size: int = 1536,
    seed: int = 0,
    gsd: float = 0.3,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Demo:
    """Draw a town, predict and vectorize it, and score that against its exact labels.

    Args:
        folder: Where to; made if missing, its parent must exist.
        model: A built-in model's name or the path of a checkpoint that knows red, green and blue.
        size: Side of the town in pixels.
        seed: Which town.
        gsd: Ground metres per pixel.
        overwrite: Replace files that exist.
        progress: Called with (cells done, cells in all) while the scene is predicted.

    Raises:
        UsageError: If the model is unknown, or a file exists and `overwrite` is not given.
        GeosegError: As `predict_scene`.
    """
    resolve_model(model)
    make_folder(folder)
    files, folder = TownFiles.within(folder), Path(folder)
    raster, picture = folder / "prediction.tif", folder / "before_after.png"
    products = Products(labels=raster, vectors=folder / "prediction.gpkg")
    named = {"picture": picture, "scene": files.scene, "truth": files.labels, **products.paths()}
    with Outputs(named, overwrite=overwrite) as outputs:  # all are checked now, before anything is drawn
        log.info("drawing a town of %d x %d pixels at %g m", size, size, gsd)
        town = draw_town((size, size), gsd, DEMO_SEED + seed)
        write_town(folder, town, overwrite=overwrite)
        log.info("predicting with %s", model)
        predict_scene(files.scene, model, products=products, overwrite=overwrite, progress=progress)
        log.info("scoring")
        evaluation = evaluate_prediction(raster, files.labels, layer="labels")
        before_after(outputs.staged("picture"), town, _town_classes(raster))
        outputs.commit()
    return Demo((files.scene, files.labels, *products.paths().values(), picture), evaluation)


def _town_classes(path: Path) -> np.ndarray:
    """(H, W) uint8: the predicted class raster in the town's class indices; other classes count as background."""
    with Scene.open(path) as scene:
        tile = scene.read(scene.grid.window)
        names = scene.class_names
    index = np.zeros(256, np.uint8)
    for value, name in enumerate(names):
        index[value] = CLASSES.index(name) if name in CLASSES else 0
    return np.where(tile.valid, index[tile.data[0]], IGNORE).astype(np.uint8)
