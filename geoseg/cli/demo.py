"""`geoseg demo`: a synthetic town, end to end."""

import logging
from pathlib import Path
from typing import Any

import click

from geoseg.cli.options import READABLE, GeosegCommand, log_options, overwrite_option, progress_bar

log = logging.getLogger(__name__)


@click.command(cls=GeosegCommand, short_help="A synthetic town, end to end.")
@click.argument("folder", metavar="[DIR]", default="demo", type=READABLE)
@click.option("--size", type=click.IntRange(64, 8192), default=1536, show_default=True, help="Side in pixels.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which town.")
@click.option("--gsd", type=click.FloatRange(0.1, 1.0), default=0.3, show_default=True, help="Ground metres per pixel.")
@click.option("-m", "--model", default="unet", show_default=True, help="A built-in model, or the path of a checkpoint.")
@overwrite_option
@log_options
def demo(folder: Path, size: int, seed: int, gsd: float, model: str, overwrite: bool) -> None:
    """Draw a town that no model was trained on, predict and vectorize it, and score that against its exact labels.

    In DIR (default: demo): scene.tif and labels.gpkg, the town; prediction.tif and prediction.gpkg; before_after.png.
    The scores and the paths are printed on stdout.
    """
    from geoseg.checkpoint import resolve_model
    from geoseg.evaluate import evaluate
    from geoseg.outputs import Outputs
    from geoseg.pipeline import Products, predict_scene
    from geoseg.predict import tune_malloc
    from geoseg.synthetic import DEMO_SEED, draw_town
    from geoseg.synthetic.files import TownFiles, make_folder, write_town
    from geoseg.synthetic.picture import before_after

    tune_malloc()
    resolve_model(model)
    make_folder(folder)
    files = TownFiles.within(folder)
    products = Products(labels=folder / "prediction.tif", vectors=folder / "prediction.gpkg")
    picture = folder / "before_after.png"
    named = {"picture": picture, "scene": files.scene, "truth": files.labels, **products.paths()}
    with Outputs(named, overwrite=overwrite) as outputs:  # all are checked now, before anything is drawn
        log.info("drawing a town of %d x %d pixels at %g m", size, size, gsd)
        town = draw_town((size, size), gsd, DEMO_SEED + seed)
        write_town(folder, town, overwrite=overwrite)
        log.info("predicting with %s", model)
        with progress_bar("cells") as progress:
            predict_scene(files.scene, model, products=products, overwrite=overwrite, progress=progress)
        log.info("scoring")
        evaluation = evaluate(products.labels, files.labels, layer="labels")
        before_after(outputs.staged("picture"), town, _town_classes(products.labels))
        outputs.commit()
    click.echo(evaluation.table())
    click.echo()
    click.echo("\n".join(map(str, (files.scene, files.labels, *products.paths().values(), picture))))


def _town_classes(path: Path) -> Any:
    """(H, W) uint8: the predicted class raster in the town's class indices; other classes count as background."""
    import numpy as np

    from geoseg.scene import Scene
    from geoseg.synthetic import CLASSES, IGNORE

    with Scene.open(path) as scene:
        tile = scene.read(scene.grid.window)
        names = scene.class_names
    index = np.zeros(256, np.uint8)
    for value, name in enumerate(names):
        index[value] = CLASSES.index(name) if name in CLASSES else 0
    return np.where(tile.valid, index[tile.data[0]], IGNORE).astype(np.uint8)
