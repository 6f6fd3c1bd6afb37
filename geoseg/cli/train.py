"""`geoseg train`: a model from labelled tiles, or from a scene with a vector layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.options import READABLE, GeosegCommand, log_options, overwrite_option
from geoseg.errors import UsageError

if TYPE_CHECKING:
    from geoseg.training.journal import Epoch

_FLAGS = {
    "arch": "arch",
    "loss": "loss",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "tile_size": "tile_size",
    "lr": "optimizer.lr",
    "val": "data.val",
    "seed": "seed",
}
"""Option -> key of the configuration."""


def _class_list(_: click.Context, __: click.Parameter, value: str | None) -> list[dict[str, str]] | None:
    return None if value is None else [{"name": name.strip()} for name in value.split(",")]


@click.command(cls=GeosegCommand, short_help="Train a model from labelled tiles or a scene with a vector layer.")
@click.argument("data", nargs=-1, type=click.Path())
@click.option("-o", "--output", required=True, type=READABLE, help="Run folder to write.")
@click.option("--config", type=READABLE, help="YAML file with everything that can be set; options here win over it.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Set any key, for example optimizer.lr=1e-3."
)
@click.option("--labels", type=click.Path(), help="Vector layer, or label raster, of the scenes given as DATA.")
@click.option("--labelled-area", type=click.Path(), help="Polygons outside of which nothing is learnt.")
@click.option("--class-field", help="Attribute of --labels that names the class.")
@click.option("--classes", callback=_class_list, metavar="LIST", help="Class names by index, background first.")
@click.option("--val", type=click.FloatRange(0, 1, max_open=True), help="Share kept for validation.  [default: 0.2]")
@click.option("--arch", help="Architecture.  [default: unet]")
@click.option("--init", metavar="MODEL", help="Start from a built-in model or a checkpoint.")
@click.option("--loss", help="Weighted mixture, for example cross_entropy:1,dice:0.5.")
@click.option("--epochs", type=click.IntRange(min=1), help="Validations.  [default: 20]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Samples in a step.  [default: 8]")
@click.option("--lr", type=float, help="Highest learning rate.  [default: 0.001]")
@click.option("--tile-size", type=click.IntRange(min=32), help="Side of a sample in pixels.  [default: 256]")
@click.option("--seed", type=click.IntRange(min=0), help="Of everything random.  [default: 0]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@overwrite_option
@log_options
def train(data: tuple[str, ...], output: Path, config: Path | None, **options: Any) -> None:
    """Train on DATA and write a run folder: model.safetensors, config.yaml, metrics.csv.

    DATA are folders with images/ and labels/ (equal names; class indices, 255 unknown), or scenes with --labels. The
    path of the checkpoint is printed on stdout.

    \b
    geoseg train tiles/ -o run --classes background,building
    geoseg train scene.tif --labels drawn.gpkg --init unet -o run
    """  # noqa: D301  click's own sign: keep the lines that follow as they are
    changes = {key: options[name] for name, key in _FLAGS.items() if options[name] is not None}
    if options["classes"]:
        changes["classes"] = options["classes"]
    if output.absolute() in [Path(name).absolute() for name in data]:
        raise UsageError(f"output={output} is the data folder. Expected another one: its files would be replaced.")
    if data:
        changes["data.sources"] = _sources(data, options)
    elif options["labels"]:
        raise UsageError("--labels without a scene. Expected: geoseg train SCENE --labels FILE -o RUN.")
    elif config is None:
        raise UsageError("nothing to learn from. Expected DATA, or --config with data.sources.")

    from geoseg.config import load_config, parse_change
    from geoseg.predict import tune_malloc
    from geoseg.training.fit import checkpoint_keys
    from geoseg.training.fit import train as fit

    tune_malloc()
    if options["init"] and config is None:
        changes = checkpoint_keys(options["init"]) | changes
    settings = load_config(config, changes | dict(parse_change(change) for change in options["changes"]))
    path = fit(
        settings,
        output,
        device=options["device"],
        init=options["init"],
        overwrite=options["overwrite"],
        on_epoch=_say(bool(click.get_current_context().meta.get("geoseg.quiet"))),
    )
    click.echo(path)


def _sources(data: tuple[str, ...], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Folders and scenes as a configuration has them, by absolute path."""
    about = {name: options[name] for name in ("labels", "labelled_area", "class_field") if options[name]}
    about |= {name: str(Path(about[name]).absolute()) for name in ("labels", "labelled_area") if name in about}
    sources = []
    for name in data:
        path = Path(name).absolute()
        if path.is_dir():
            if about:
                raise UsageError(f"data={name} is a folder, which has its own labels/. Expected a scene with --labels.")
            sources.append({"folder": str(path)})
        elif "labels" in about:
            sources.append({"scene": str(path), **about})
        else:
            raise UsageError(
                f"data={name} is no folder. Expected a folder with images/ and labels/, or a scene with --labels."
            )
    return sources


def _say(quiet: bool) -> "Any":
    """A line on stderr for each epoch."""

    def say(epoch: "Epoch") -> None:
        scores = "  ".join(f"{name} {value:.3f}" for name, value in list(epoch.iou.items())[1:] if value is not None)
        minutes, seconds = divmod(round(epoch.seconds), 60)
        line = f"epoch {epoch.number}/{epoch.of}  loss {epoch.loss:.4f}  {scores and 'IoU ' + scores}"
        saved = "  saved" if epoch.saved else ""
        click.echo(f"{line}  {epoch.samples_per_s:.1f} samples/s  {minutes}:{seconds:02d}{saved}", err=True)

    return (lambda epoch: None) if quiet else say
