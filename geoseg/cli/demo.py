"""`geoseg demo`: a synthetic town, end to end."""

from pathlib import Path

import click

from geoseg.cli.options import READABLE, GeosegCommand, log_options, overwrite_option, progress_bar


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
    from geoseg.demo import run_demo
    from geoseg.predict import tune_malloc

    tune_malloc()
    with progress_bar("cells") as progress:
        done = run_demo(folder, model, size=size, seed=seed, gsd=gsd, overwrite=overwrite, progress=progress)
    click.echo(done.evaluation.table())
    click.echo()
    click.echo("\n".join(map(str, done.paths)))
