"""`geoseg models`: what is built in, and what a checkpoint says of itself."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from geoseg.cli.options import GeosegCommand, json_option, log_options


@click.command(cls=GeosegCommand)
@click.argument("model", required=False, metavar="[NAME|PATH]")
@json_option
@log_options
def models(model: str | None, as_json: bool) -> None:
    """List the trained models that ship with geoseg, and the architectures that can be trained.

    With a model's NAME or the PATH of a checkpoint: what it says of itself, after checking the whole file.
    """
    from geoseg.checkpoint import builtin_models, resolve_model

    if model is not None:
        said = _checkpoint(resolve_model(model))
        click.echo(json.dumps(said, indent=2) if as_json else _table(_leaves(said)))
        return
    trained = [{"name": name, **_checkpoint(path)} for name, path in builtin_models().items()]
    architectures = _architectures()
    if as_json:
        click.echo(json.dumps({"models": trained, "architectures": architectures}, indent=2))
        return
    click.echo("Trained models, for geoseg predict --model NAME:")
    columns = ("name", "architecture", "classes", "parameters", "m per pixel", "MB", "licence")
    click.echo(_table([columns, *map(_summary, trained)]) if trained else "none in this installation")
    click.echo("\nArchitectures, for geoseg train --arch NAME (here with their defaults, 3 bands and 3 classes):")
    click.echo(_table([list(architectures[0]), *(item.values() for item in architectures)]))


def _checkpoint(path: Path) -> dict[str, Any]:
    """Path, bytes and parameters of a checkpoint, and its header."""
    from geoseg.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    parameters = sum(parameter.numel() for parameter in checkpoint.build().parameters())
    header = checkpoint.header.model_dump(mode="json")
    if checkpoint.header.gsd:
        header["gsd"] = checkpoint.header.gsd._asdict()
    return {"path": str(path), "bytes": path.stat().st_size, "parameters": parameters, **header}


def _architectures() -> list[dict[str, Any]]:
    from geoseg.models import MODELS, build_model
    from geoseg.models.receptive import receptive_radius

    found = []
    for name, builder in MODELS.items():
        network = build_model(name, in_channels=3, classes=3)
        found.append(
            {
                "name": name,
                "parameters": sum(parameter.numel() for parameter in network.parameters()),
                "stride": network.stride,
                "receptive_radius": receptive_radius(network) if network.bounded else None,
                "about": (builder.__doc__ or "").partition("\n")[0],
            }
        )
    return found


def _summary(said: dict[str, Any]) -> list[Any]:
    """A row of the table of trained models."""
    classes = ", ".join(item["name"] for head in said["heads"].values() for item in head["classes"])
    gsd = f"{said['gsd']['min']:g} to {said['gsd']['max']:g}" if said["gsd"] else "unknown"
    licence = said["licence"] or "unknown"
    return [said["name"], said["arch"], classes, said["parameters"], gsd, f"{said['bytes'] / 1e6:.1f}", licence]


def _leaves(said: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The fields of nested objects in order, with dots between the levels of their names."""
    for key, value in said.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif key == "classes":
            yield f"{prefix}{key}", ", ".join(f"{item['name']} {item['color']}" for item in value)
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join("..".join(map(str, i)) if isinstance(i, list) else str(i) for i in value)
        else:
            yield f"{prefix}{key}", str(value) if value not in (None, "", {}) else "-"


def _table(rows: Iterable[Iterable[Any]]) -> str:
    """Columns as wide as their widest entry. What a checkpoint says is printed without its control characters."""
    texts = [["".join(c if c.isprintable() else " " for c in str(entry)) for entry in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in texts)
    return "\n".join(line.rstrip() for line in lines)
