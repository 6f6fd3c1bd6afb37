"""`geoseg train`: a model from labelled tiles, or from a scene with a vector layer."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.options import READABLE, GeosegCommand, log_options, name_list, overwrite_option
from geoseg.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from geoseg.config import TrainConfig
    from geoseg.training.progress import Epoch, Step

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
    "split": "data.split",
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
@click.option(
    "--add",
    multiple=True,
    type=click.Path(),
    help="GeoPackage of geoseg vectorize --review with verdicts: labels of the scenes given as DATA. Repeatable.",
)
@click.option("--labelled-area", type=click.Path(), help="Polygons outside of which nothing is learnt.")
@click.option("--stack", is_flag=True, help="DATA are the dates of one scene: all bands of the first come first.")
@click.option("--layer", metavar="NAME", help="Layer of --labels.  [default: all]")
@click.option("--class-field", help="Attribute of --labels that names the class.")
@click.option("--line-width-m", type=float, help="How wide lines in --labels are, where no field says it.")
@click.option("--width-field", help="Attribute of --labels that holds the width of lines in metres.")
@click.option(
    "--invalid-geometry",
    type=click.Choice(["error", "fix", "skip"]),
    help="What to do with invalid polygons in --labels.  [default: error]",
)
@click.option(
    "--classes",
    callback=name_list,
    metavar="NAMES",
    help="Class names by index, background first.  [default: those of --init, else background,building,road]",
)
@click.option("--val", type=float, help="Share kept for validation.  [default: 0.2]")
@click.option(
    "--split",
    type=click.Choice(["blocks", "scene", "manifest", "random"]),
    help="How that share is chosen: blocks of ground with a gap round them, whole scenes, as manifest.csv says, or "
    "tile by tile, although neighbours show the same ground.  [default: manifest where there is one, else blocks]",
)
@click.option("--arch", help="Architecture.  [default: that of --init, else unet]")
@click.option(
    "--init",
    metavar="MODEL",
    help="Start from a built-in model or a checkpoint; of other bands or classes, those of the same name go on.",
)
@click.option(
    "--pretrained",
    is_flag=True,
    default=None,
    help="Begin with an encoder of ImageNet weights; those of a file by --set pretrained=FILE.",
)
@click.option("--loss", help="Weighted mixture, for example cross_entropy:1,dice:0.5.")
@click.option("--epochs", type=int, help="Validations.  [default: 20]")
@click.option("--batch-size", type=int, help="Samples in a step.  [default: 8]")
@click.option("--lr", type=float, help="Highest learning rate.  [default: 0.001]")
@click.option("--tile-size", type=int, help="Side of a sample in pixels.  [default: 256]")
@click.option("--seed", type=int, help="Of everything random.  [default: 0]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share each batch, on the cores or GPUs of this machine.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on after the last whole epoch of the run in the output folder; without DATA and --config, as its "
    "config.yaml says. Only --epochs, patience, the pixel cache, device and workers may be others.",
)
@overwrite_option
@log_options
def train(data: tuple[str, ...], output: Path, config: Path | None, **options: Any) -> None:
    """Train on DATA and write a run folder: the best checkpoint, its configuration, metrics and pictures.

    DATA are folders of tiles, such as geoseg tile writes, with images/ and labels/ (equal names; class indices, 255
    unknown), or scenes with --labels or --add. The path of the checkpoint is printed on stdout.

    \b
    geoseg train tiles/ -o run --classes background,building
    geoseg train scene.tif --labels drawn.gpkg --init unet -o run
    geoseg train scene.tif --add reviewed.gpkg --init run/model.safetensors -o better
    geoseg train -o run --resume
    """  # noqa: D301  click's own sign: keep the lines that follow as they are
    settings = _settings(data, output, config, options)  # refused before anything heavy is imported

    from geoseg.predict import tune_malloc
    from geoseg.training.fit import train_model

    tune_malloc()
    quiet = bool(click.get_current_context().meta.get("geoseg.quiet"))
    with _located(config, options["changes"]), _report(quiet) as (on_epoch, on_step):
        path = train_model(
            settings,
            output,
            device=options["device"],
            init=options["init"],
            overwrite=options["overwrite"],
            resume=options["resume"],
            processes=options["workers"],
            on_epoch=on_epoch,
            on_step=on_step,
        )
    click.echo(path)


def _settings(data: tuple[str, ...], output: Path, config: Path | None, options: dict[str, Any]) -> "TrainConfig":
    """The configuration that the call asks for."""
    from geoseg.config import load_config

    changes, typed = _changes(options)
    if options["resume"] and options["overwrite"]:
        raise UsageError("--resume and --overwrite: one keeps the run that is there, the other does not. Choose one.")
    if output.absolute() in [Path(name).absolute() for name in data]:
        raise UsageError(f"output={output} is the data folder. Expected another one: its files would be replaced.")
    if data:
        changes = {"data.sources": _sources(data, options)} | changes
    elif said := [name for name in ("labels", "add") if options[name]]:
        raise UsageError(f"--{said[0]} without a scene. Expected: geoseg train SCENE --{said[0]} FILE -o RUN.")
    elif options["resume"] and config is None:
        if not (output / "config.yaml").is_file():
            raise UsageError(f"output={output} holds no run to go on with. Expected its config.yaml, or DATA to begin.")
        return load_config(output / "config.yaml", changes, typed=typed)
    elif config is None:
        raise UsageError("nothing to learn from. Expected DATA, or --config with data.sources.")
    defaults: dict[str, Any] = {}
    if options["init"]:
        from geoseg.training.start import checkpoint_keys

        defaults = checkpoint_keys(options["init"])
        if (arch := options["arch"]) and arch != defaults["arch"]:
            raise UsageError(
                f"--init {options['init']} is of architecture {defaults['arch']!r}, the run of {arch!r} (--arch). "
                "Leave one of them out."
            )
    settings = load_config(config, changes, defaults=defaults, typed=typed)
    if data and settings.main_head is None and len(settings.heads) == 1:
        # Labels are of classes; where the one head has none, what was given as labels are its targets.
        (head,) = settings.heads
        sources = changes["data.sources"]
        if options["add"]:
            raise UsageError(f"--add: verdicts name classes, and head {head!r} has none. Leave it out.")
        aimed = [{**one, "labels": None, "targets": {head: one.get("labels", "labels/{stem}.*")}} for one in sources]
        settings = load_config(config, changes | {"data.sources": aimed}, defaults=defaults, typed=typed)
    return settings


@contextmanager
def _located(config: Path | None, changes: Sequence[str]) -> "Iterator[None]":
    """What an architecture refuses is said with where it stands: in the file, or on the command line."""
    try:
        yield
    except ConfigError as err:
        key = str(err).partition("=")[0]
        if not key.startswith("arch_args"):
            raise
        typed = [change for change in changes if change.startswith((f"{key}=", "arch_args="))]
        where = f"--set {typed[-1]}: " if typed else f"{config}: " if config else ""
        raise ConfigError(f"{where}{err}") from err


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
    names = ("labels", "labelled_area", "layer", "class_field", "line_width_m", "width_field", "invalid_geometry")
    about = {name: options[name] for name in names if options[name] is not None}
    about |= {name: str(Path(about[name]).absolute()) for name in ("labels", "labelled_area") if name in about}
    if options["add"]:
        about["add"] = [str(Path(name).absolute()) for name in options["add"]]
    labelled = "labels" in about or "add" in about
    if "add" in about and "labelled_area" in about and "labels" not in about:
        raise UsageError("--labelled-area without --labels: it says where those are complete. Leave it out.")
    if options["stack"]:
        folders = [name for name in data if Path(name).is_dir()]
        if folders or not labelled:
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
        elif labelled:
            sources.append({"scene": str(path), **about})
        else:
            raise UsageError(
                f"data={name} is no folder. Expected a folder with images/ and labels/, or a scene with --labels or "
                "--add."
            )
    return sources


@contextmanager
def _report(quiet: bool) -> "Iterator[tuple[Callable[[Epoch], None], Callable[[Step], None] | None]]":
    """What is called after an epoch and after a step: a line on stderr for each epoch; on a terminal a bar below it."""
    if quiet:
        yield (lambda epoch: None), None
        return
    if not sys.stderr.isatty():
        yield (lambda epoch: click.echo(_line(epoch), err=True)), None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.fields[epoch]}"), BarColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, epoch="", said="reading data")

        def show(step: "Step") -> None:
            done, total = (step.epoch - 1) * step.of + step.number, step.epochs * step.of
            bar.update(task, completed=done, total=total, epoch=f"epoch {step.epoch}/{step.epochs}", said=_words(step))

        yield (lambda epoch: bar.console.print(_line(epoch), markup=False, highlight=False, soft_wrap=True)), show


def _words(step: "Step") -> str:
    """What stands beside the bar."""
    best = "" if step.best is None else f"  best {step.metric} {step.best:.4g}"
    return f"loss {step.loss:.4f}  {step.samples_per_s:.1f} samples/s{best}  {_time(step.eta_s)} left"


def _line(epoch: "Epoch") -> str:
    """What is said of an epoch."""
    scores = "  ".join(f"{name} {value:.3f}" for name, value in list(epoch.iou.items())[1:] if value is not None)
    further = "  ".join(f"{name} {value:.4g}" for name, value in epoch.further.items() if value is not None)
    best = "" if epoch.saved or epoch.best is None else f"best {epoch.metric} {epoch.best:.4g}"
    parts = [
        f"epoch {epoch.number}/{epoch.of}",
        f"loss {epoch.loss:.4f}",
        scores and f"IoU {scores}",
        further,
        f"{epoch.samples_per_s:.1f} samples/s",
        _time(epoch.seconds),
        "saved" if epoch.saved else best,
    ]
    return "  ".join(filter(None, parts))


def _time(seconds: float) -> str:
    """Hours, where there are any, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
