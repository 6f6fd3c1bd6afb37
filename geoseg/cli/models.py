"""`geoseg models`: what is built in, and what a checkpoint says of itself."""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import click

from geoseg.cli.options import GeosegCommand, json_option, log_options


@click.command(cls=GeosegCommand)
@click.argument("model", required=False, metavar="[NAME|PATH]")
@json_option
@log_options
def models(model: str | None, as_json: bool) -> None:
    """List the trained models that ship with geoseg, and the architectures that can be trained.

    With a model's NAME or the PATH of a checkpoint: what it says of itself, with its model card, after checking the
    whole file. With an architecture's NAME: its arguments and their defaults, and where it is published.
    """
    from geoseg.checkpoint import builtin_models
    from geoseg.models import MODELS

    if model is not None:
        said = _one(model)
        if as_json:
            click.echo(json.dumps(said, indent=2))
            return
        card = said.pop("card", "")
        click.echo(_table(_leaves(said)))
        if card:
            click.echo("\n" + "\n".join(map(_printable, card.splitlines())))
        return
    trained = [{"name": name, **_checkpoint(path)} for name, path in builtin_models().items()]
    architectures = [_architecture(name) for name in MODELS]
    if as_json:
        click.echo(json.dumps({"models": trained, "architectures": architectures}, indent=2))
        return
    click.echo("Trained models, for geoseg predict --model NAME:")
    columns = ("name", "architecture", "classes", "parameters", "m per pixel", "MB", "licence")
    click.echo(_table([columns, *map(_summary, trained)]) if trained else "none in this installation")
    click.echo("\nArchitectures, for geoseg train --arch NAME (here with their defaults, 3 bands and 3 classes):")
    about = ("name", "parameters", "kMAC per pixel", "stride", "receptive radius", "good for")
    click.echo(_table([about, *map(_row, architectures)]))


def _one(model: str) -> dict[str, Any]:
    """A trained model or an architecture; where both have the name, the architecture is below the model."""
    from geoseg.checkpoint import builtin_models, resolve_model
    from geoseg.models import MODELS

    if model not in MODELS:
        return _checkpoint(resolve_model(model))
    architecture = {**_architecture(model), **_about(MODELS[model])}
    if model not in builtin_models():
        return architecture
    return {**_checkpoint(resolve_model(model)), "architecture": architecture}


def _checkpoint(path: Path) -> dict[str, Any]:
    """Path, bytes and parameters of a checkpoint, and its header."""
    from geoseg.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    parameters = sum(parameter.numel() for parameter in checkpoint.build().parameters())
    header = checkpoint.header.model_dump(mode="json")
    if checkpoint.header.gsd:
        header["gsd"] = checkpoint.header.gsd._asdict()
    return {"path": str(path), "bytes": path.stat().st_size, "parameters": parameters, **header}


def _architecture(name: str) -> dict[str, Any]:
    """What a network costs and how far it sees. It is built without memory, and nothing is computed."""
    import torch

    from geoseg.models import GOOD_FOR, build_model
    from geoseg.models.cost import macs_per_pixel, parameters
    from geoseg.models.receptive import receptive_radius

    with torch.device("meta"):
        network = build_model(name, in_channels=3, classes=3)
    return {
        "name": name,
        "parameters": parameters(network),
        "macs_per_pixel": round(macs_per_pixel(network)),
        "stride": network.stride,
        "receptive_radius": receptive_radius(network) if network.bounded else None,
        "good_for": GOOD_FOR[name],
    }


def _about(builder: Callable[..., Any]) -> dict[str, Any]:
    """What the docstrings say: what it is, the paper, and each argument with its default."""
    network: Any = builder if isinstance(builder, type) else get_type_hints(builder)["return"]
    paper = re.search(r"Source: (.*?arXiv:[\d.]+\d)", inspect.getdoc(inspect.getmodule(builder)) or "", re.DOTALL)
    said = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", inspect.getdoc(network.__init__) or "", re.MULTILINE)
    words = {name: " ".join(text.split()) for name, text in said}
    own = [one for one in inspect.signature(builder).parameters.values() if one.kind is one.KEYWORD_ONLY]
    return {
        "about": (builder.__doc__ or "").partition("\n")[0],
        "paper": " ".join(paper[1].split()) if paper else None,
        "arguments": {one.name: {"default": one.default, "about": words.get(one.name, "")} for one in own},
    }


def _row(said: dict[str, Any]) -> list[Any]:
    """A row of the table of architectures."""
    radius = "unbounded" if said["receptive_radius"] is None else said["receptive_radius"]
    millions, kmac = f"{said['parameters'] / 1e6:.1f} M", f"{said['macs_per_pixel'] / 1e3:.0f}"
    return [said["name"], millions, kmac, said["stride"], radius, said["good_for"]]


def _summary(said: dict[str, Any]) -> list[Any]:
    """A row of the table of trained models."""
    classes = ", ".join(item["name"] for head in said["heads"].values() for item in head["classes"])
    gsd = f"{said['gsd']['min']:g} to {said['gsd']['max']:g}" if said["gsd"] else "unknown"
    licence = said["licence"] or "unknown"
    return [said["name"], said["arch"], classes, said["parameters"], gsd, f"{said['bytes'] / 1e6:.1f}", licence]


def _leaves(said: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The fields of nested objects in order, with dots between the levels of their names."""
    for key, value in said.items():
        if key == "arguments":
            yield from ((f"{prefix}{key}.{name}", f"{one['default']}: {one['about']}") for name, one in value.items())
        elif isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif key == "classes":
            yield f"{prefix}{key}", ", ".join(f"{item['name']} {item['color']}" for item in value)
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join("..".join(map(str, i)) if isinstance(i, list) else str(i) for i in value)
        else:
            yield f"{prefix}{key}", str(value) if value not in (None, "", {}) else "-"


def _printable(text: str) -> str:
    """What a checkpoint says, without its control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def _table(rows: Iterable[Iterable[Any]]) -> str:
    """Columns as wide as their widest entry."""
    texts = [[_printable(str(entry)) for entry in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in texts)
    return "\n".join(line.rstrip() for line in lines)
