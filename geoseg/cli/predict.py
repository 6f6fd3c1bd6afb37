"""`geoseg predict`: a class raster, and polygons, from a scene."""

import json
from typing import Any

import click

from geoseg.cli.options import (
    READABLE,
    GeosegCommand,
    json_option,
    log_options,
    overwrite_option,
    progress_bar,
)


class AutoInt(click.ParamType):
    """A positive whole number, or `auto`, which becomes None: geoseg knows."""

    name = "integer or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """`auto` or digits."""
        if value is None or isinstance(value, int):
            return value
        if value.lower() == "auto":
            return None
        try:
            number = int(value)
        except ValueError:
            number = -1
        if number < 0:
            self.fail(f"{value!r} is neither a whole number nor 'auto'.", param, ctx)
        return number


def _bands(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str | int, ...] | None:
    if value is None:
        return None
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise click.BadParameter(f"{value!r} has an empty entry. Expected for example 1,2,3 or red,green,blue.")
    return tuple(int(name) if name.lstrip("-").isdigit() else name for name in names)


@click.command(cls=GeosegCommand, short_help="Class raster, and polygons, from a scene.")
@click.argument("scene", type=click.Path())
@click.option("-m", "--model", default="unet", show_default=True, help="A built-in model, or the path of a checkpoint.")
@click.option("-o", "--output", type=READABLE, help="Class raster (COG).  [default: <scene>_<model>.tif]")
@click.option("--vectors", type=READABLE, help="GeoPackage with a layer of polygons per class.")
@click.option("--confidence", type=READABLE, help="Raster of the chosen class's probability (uint8, 254 = certain).")
@click.option("--probabilities", type=READABLE, help="Raster of every class's probability (uint8, a band each).")
@click.option("--bands", callback=_bands, metavar="LIST", help="Bands by number or name: 1,2,3 or red,green,blue.")
@click.option("--nodata", type=float, help="Value of pixels without data, instead of what the scene declares.")
@click.option("--aoi", type=READABLE, help="Polygons outside of which nothing is predicted.")
@click.option(
    "--tile-size",
    type=AutoInt(),
    metavar="N|auto",
    default="auto",
    help="Side of what the network sees.  [default: auto]",
)
@click.option(
    "--overlap",
    type=AutoInt(),
    metavar="N|auto",
    default="auto",
    help="Pixels neighbouring tiles share.  [default: auto]",
)
@click.option(
    "--batch-size", type=AutoInt(), metavar="N|auto", default="auto", help="Tiles in one forward pass.  [default: auto]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the forward pass.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes (a local Dask cluster).")
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, for example tcp://host:8786.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@overwrite_option
@json_option
@log_options
def predict(scene: str, **options: Any) -> None:
    """Predict SCENE: a class raster, and polygons with --vectors.

    Memory hardly grows with the scene. An interrupted run goes on with --resume. The paths written are printed on
    stdout.

    \b
    geoseg predict scene.tif --model unet --vectors scene.gpkg
    """  # noqa: D301  click's own sign: keep the lines that follow as they are
    from geoseg.parallel import backend_from
    from geoseg.pipeline import Products, Settings, predict_scene
    from geoseg.predict import tune_malloc, tune_worker

    tune_malloc()
    backend = None  # predict_scene knows how many threads
    if options["workers"] is not None or options["scheduler"] is not None:
        backend = backend_from(workers=options["workers"], scheduler=options["scheduler"], setup=tune_worker)
    others = {name: options[name] for name in ("vectors", "confidence", "probabilities")}
    products = Products.beside_caller(scene, options["model"], labels=options["output"], **others)
    names = ("bands", "nodata", "aoi", "tile_size", "overlap", "batch_size", "device", "precision")
    with progress_bar("cells") as progress:
        done = predict_scene(
            scene,
            options["model"],
            products=products,
            settings=Settings(**{name: options[name] for name in names}),
            backend=backend,
            resume=options["resume"],
            overwrite=options["overwrite"],
            progress=progress,
        )
    click.echo(json.dumps(done.to_dict(), indent=2) if options["as_json"] else "\n".join(map(str, done.paths.values())))
