"""`geoseg predict`: a class raster, and polygons, from each scene."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.options import (
    READABLE,
    GeosegCommand,
    json_option,
    log_options,
    overwrite_option,
    progress_bar,
    review_option,
)
from geoseg.errors import UsageError

if TYPE_CHECKING:
    from geoseg.products import Products

_FILES = ("output", "vectors", "confidence", "probabilities", "attention")
"""Options that name a file to write."""


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
            self.fail(f"{value!r} is neither a whole number of at least 0 nor 'auto'.", param, ctx)
        return number


def _bands(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str | int, ...] | None:
    if value is None:
        return None
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise click.BadParameter(f"{value!r} has an empty entry. Expected for example 1,2,3 or red,green,blue.")
    return tuple(int(name) if name.lstrip("-").isdigit() else name for name in names)


@contextmanager
def _resumable(progress: Callable[[int, int], None]) -> Iterator[Callable[[int, int], None]]:
    """The same callback; a user who interrupts is told how many cells are finished, and how to go on with them."""
    finished, cells = 0, 0

    def counted(done: int, total: int) -> None:
        nonlocal finished, cells
        finished, cells = done, total
        progress(done, total)

    try:
        yield counted
    except KeyboardInterrupt as stop:
        if finished:
            stop.add_note(f"{finished} of {cells} cells are finished. Go on with --resume.")
        raise


@contextmanager
def _told(scene: str, number: int, count: int) -> Iterator[None]:
    """Whatever ends a run over several scenes says at which one it did."""
    try:
        yield
    except BaseException as err:
        if count > 1:
            before = " Those before it are finished: leave them out to go on." if number > 1 else ""
            err.add_note(f"This was scene {number} of {count}: {scene}.{before}")
        raise


def _runs(scenes: tuple[str, ...], options: dict[str, Any]) -> "list[tuple[list[str], Products]]":
    """What is predicted, all scenes as one or each by itself, and the files to write of it."""
    from geoseg.products import Products

    models, named = options["models"], {name: options[name] for name in _FILES if options[name]}
    if options["stack"] or len(scenes) == 1:
        labels, review = named.pop("output", None), options["review"]
        return [(list(scenes), Products.beside_caller(scenes[0], models, labels=labels, review=review, **named))]
    if named:
        raise UsageError(
            f"--{next(iter(named))} names one file for {len(scenes)} scenes. Expected --stack, which reads them as "
            "one scene, or one scene at a time."
        )
    if options["review"] is not None:
        raise UsageError("--review is a layer of --vectors, which several scenes have none of. Predict one at a time.")
    runs = [([scene], Products.beside_caller(scene, models)) for scene in scenes]
    _check_apart(scenes, [products.paths()["labels"] for _, products in runs])
    return runs


def _check_apart(scenes: Sequence[str], outputs: Sequence[Path]) -> None:
    """Refuse scenes of which one's output would be another's, or another scene."""
    for number, (scene, path) in enumerate(zip(scenes, outputs, strict=True)):
        if path in outputs[:number]:
            raise UsageError(
                f"{scenes[outputs.index(path)]} and {scene} would both be written to {path}. "
                "Expected different names. Predict one at a time, with --output."
            )
        for other in scenes:
            if path.exists() and Path(other).exists() and path.samefile(other):
                raise UsageError(
                    f"{other} is one of the scenes, and what is made of {scene} would be written there. "
                    "Expected no earlier result among the scenes. Leave it out."
                )


@click.command(cls=GeosegCommand, short_help="Class raster, and polygons, from a scene.")
@click.argument("scenes", nargs=-1, required=True, type=click.Path(), metavar="SCENE...")
@click.option("--stack", is_flag=True, help="Read the scenes as one: files on one grid, such as dates, in this order.")
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    default=["unet"],
    show_default="unet",
    help="A built-in model, or the path of a checkpoint; of several, the mean of their probabilities.",
)
@click.option("-o", "--output", type=READABLE, help="Class raster (COG).  [default: <scene>_<model>.tif]")
@click.option("--vectors", type=READABLE, help="Buildings, streets and areas: .gpkg, .fgb, .geojson, ...")
@review_option
@click.option("--confidence", type=READABLE, help="Raster of the chosen class's probability (uint8, 254 = certain).")
@click.option("--probabilities", type=READABLE, help="Raster of every class's probability (uint8, a band each).")
@click.option("--attention", type=READABLE, help="Raster of a model's attention maps (uint8, a band each).")
@click.option(
    "--min-patch-m2", type=click.FloatRange(min=0), default=0, help="Replace smaller patches by what is round them."
)
@click.option("--fill-holes-m2", type=click.FloatRange(min=0), default=0, help="Fill smaller holes in patches.")
@click.option("--bands", callback=_bands, metavar="LIST", help="Bands by number or name: 1,2,3 or red,green,blue.")
@click.option("--nodata", type=float, help="Value of pixels without data, instead of what the scene declares.")
@click.option("--aoi", type=READABLE, help="Polygons outside of which nothing is predicted.")
@click.option(
    "--gsd", type=click.FloatRange(min=0, min_open=True), help="Metres per pixel, of scenes that have no CRS to tell."
)
@click.option(
    "--resample/--no-resample",
    default=True,
    help="Whether a scene of finer or coarser pixels than the model knows is brought to ones that it does, and so is "
    "the output.  [default: resample]",
)
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
    "--blend",
    type=click.Choice(["auto", "crop", "taper"]),
    default="auto",
    show_default=True,
    help="How tiles meet: crop is exact where the model's context is bounded, taper fades.",
)
@click.option(
    "--tta",
    is_flag=True,
    help="Test-time augmentation: the mean over eight views of each tile, turned and mirrored. A little better, for "
    "eight forward passes instead of one.",
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
def predict(scenes: tuple[str, ...], **options: Any) -> None:
    """Predict SCENE: a class raster, and polygons with --vectors. Several: in turn, or as one with --stack.

    Memory does not grow with the scene. An interrupted run goes on with --resume. The paths written are printed on
    stdout; --json names the files beside them, too.

    \b
    geoseg predict scene.tif --model unet --vectors scene.gpkg
    geoseg predict may.tif july.tif --stack --model run/model.safetensors
    """  # noqa: D301  click's own sign: keep the lines that follow as they are
    from geoseg.preflight import check_files
    from geoseg.settings import Settings

    runs = _runs(scenes, options)
    names = (
        "bands",
        "nodata",
        "aoi",
        "gsd",
        "resample",
        "tile_size",
        "overlap",
        "blend",
        "tta",
        "batch_size",
        "device",
        "precision",
        "min_patch_m2",
        "fill_holes_m2",
    )
    settings = Settings(**{name: options[name] for name in names})
    for _, products in runs:
        products.check()
    check_files(scenes)  # a slip in the last name need not come up hours later
    # Torch takes seconds to import: slips in names need not wait for it, either.
    from geoseg.parallel import backend_from
    from geoseg.pipeline import predict_scene
    from geoseg.predict import tune_malloc, tune_worker

    tune_malloc()
    backend = None  # predict_scene knows how many threads
    if options["workers"] is not None or options["scheduler"] is not None:
        backend = backend_from(workers=options["workers"], scheduler=options["scheduler"], setup=tune_worker)
    said = []
    for number, (scene, products) in enumerate(runs, start=1):
        told = _told(scene[0], number, len(runs))
        with told, progress_bar("cells") as progress, _resumable(progress) as counted:
            done = predict_scene(
                scene,
                options["models"],
                products=products,
                settings=settings,
                backend=backend,
                resume=options["resume"],
                overwrite=options["overwrite"],
                progress=counted,
            )
        said.append(done.to_dict())
        if not options["as_json"]:
            click.echo("\n".join(map(str, done.paths.values())))
    if options["as_json"]:
        click.echo(json.dumps(said if len(said) > 1 else said[0], indent=2))
