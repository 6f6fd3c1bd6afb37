"""`geoseg train`: a model from labelled tiles, or from a scene with a vector layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.options import READABLE, GeosegCommand, log_options, name_list, overwrite_option
from geoseg.errors import UsageError

if TYPE_CHECKING:
    from geoseg.training.journal import Epoch

_FLAGS = {
    "arch": "arch",
    "classes": "classes",
    "pretrained": "pretrained",
    "loss": "loss",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "tile_size": "tile_size",
    "lr": "optimizer.lr",
    "val": "data.val",
    "seed": "seed",
}
"""Option -> key of the configuration."""


@click.command(cls=GeosegCommand, short_help="Train a model from labelled tiles or a scene with a vector layer.")
@click.argument("data", nargs=-1, type=click.Path())
@click.option("-o", "--output", required=True, type=READABLE, help="Run folder to write.")
@click.option("--config", type=READABLE, help="YAML file with everything that can be set; options here win over it.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Set any key, for example optimizer.lr=1e-3."
)
@click.option("--labels", type=click.Path(), help="Vector layer, or label raster, of the scenes given as DATA.")
@click.option("--labelled-area", type=click.Path(), help="Polygons outside of which nothing is learnt.")
@click.option("--stack", is_flag=True, help="DATA are the dates of one scene: all bands of the first come first.")
@click.option("--class-field", help="Attribute of --labels that names the class.")
@click.option(
    "--classes",
    callback=name_list,
    metavar="NAMES",
    help="Class names by index, background first.  [default: those of --init, else background,building,road]",
)
@click.option("--val", type=float, help="Share kept for validation.  [default: 0.2]")
@click.option("--arch", help="Architecture.  [default: that of --init, else unet]")
@click.option("--init", metavar="MODEL", help="Start from a built-in model or a checkpoint.")
@click.option(
    "--pretrained",
    is_flag=True,
    default=None,
    help="Begin with an encoder of torchvision's ImageNet weights; those of a file by --set pretrained=FILE.",
)
@click.option("--loss", help="Weighted mixture, for example cross_entropy:1,dice:0.5.")
@click.option("--epochs", type=int, help="Validations.  [default: 20]")
@click.option("--batch-size", type=int, help="Samples in a step.  [default: 8]")
@click.option("--lr", type=float, help="Highest learning rate.  [default: 0.001]")
@click.option("--tile-size", type=int, help="Side of a sample in pixels.  [default: 256]")
@click.option("--seed", type=int, help="Of everything random.  [default: 0]")
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
    changes, typed = _changes(options)
    if output.absolute() in [Path(name).absolute() for name in data]:
        raise UsageError(f"output={output} is the data folder. Expected another one: its files would be replaced.")
    if data:
        changes = {"data.sources": _sources(data, options)} | changes
    elif options["labels"]:
        raise UsageError("--labels without a scene. Expected: geoseg train SCENE --labels FILE -o RUN.")
    elif config is None:
        raise UsageError("nothing to learn from. Expected DATA, or --config with data.sources.")

    from geoseg.config import load_config

    if options["init"] and config is None:
        from geoseg.training.fit import checkpoint_keys

        changes = checkpoint_keys(options["init"]) | changes
    settings = load_config(config, changes, typed=typed)  # refused before anything heavy is imported

    from geoseg.predict import tune_malloc
    from geoseg.training.fit import train_model

    tune_malloc()
    path = train_model(
        settings,
        output,
        device=options["device"],
        init=options["init"],
        overwrite=options["overwrite"],
        on_epoch=_say(bool(click.get_current_context().meta.get("geoseg.quiet"))),
    )
    click.echo(path)


def _changes(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What the options set, by key of the configuration, and what was typed to set it."""
    from geoseg.config import parse_change

    changes: dict[str, Any] = {}
    typed = {}
    for name, key in _FLAGS.items():
        if (value := options[name]) is not None:
            said = f"{value:g}" if isinstance(value, float) else ",".join(value) if name == "classes" else value
            typed[key] = f"--{name.replace('_', '-')} {said}"
            changes[key] = [{"name": item} for item in value] if name == "classes" else value
    for text in options["changes"]:
        key, changes[key] = parse_change(text)
        typed[key] = f"--set {text}"
    return changes, typed


def _sources(data: tuple[str, ...], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Folders and scenes as a configuration has them, by absolute path."""
    about = {name: options[name] for name in ("labels", "labelled_area", "class_field") if options[name]}
    about |= {name: str(Path(about[name]).absolute()) for name in ("labels", "labelled_area") if name in about}
    if options["stack"]:
        folders = [name for name in data if Path(name).is_dir()]
        if folders or "labels" not in about:
            wrong = f"data={folders[0]} is a folder" if folders else "no --labels are given"
            raise UsageError(f"--stack: {wrong}. Expected scenes on one grid, with --labels.")
        return [{"scene": [str(Path(name).absolute()) for name in data], **about}]
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
        further = "  ".join(f"{name} {value:.4g}" for name, value in epoch.further.items() if value is not None)
        minutes, seconds = divmod(round(epoch.seconds), 60)
        line = f"epoch {epoch.number}/{epoch.of}  loss {epoch.loss:.4f}  {scores and 'IoU ' + scores}"
        saved = "  saved" if epoch.saved else ""
        line += further and f"  {further}"
        click.echo(f"{line}  {epoch.samples_per_s:.1f} samples/s  {minutes}:{seconds:02d}{saved}", err=True)

    return (lambda epoch: None) if quiet else say
