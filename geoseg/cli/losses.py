"""`geoseg losses`: what a model can be trained by, and which one when."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

from geoseg.cli.options import GeosegCommand, json_option, log_options


@click.command(cls=GeosegCommand)
@click.argument("name", required=False)
@json_option
@log_options
def losses(name: str | None, as_json: bool) -> None:
    """List the losses of geoseg train --loss, and which to take when.

    With the NAME of one: its formula, paper and options.
    """
    from dataclasses import asdict

    from geoseg.losses import ADVICE, LOSSES, loss_info

    if name is not None:
        said = asdict(loss_info(name))
        click.echo(json.dumps(said, indent=2) if as_json else _table(_lines(said)))
        return
    known = [loss_info(each) for each in LOSSES]
    advice = [{"when": when, "loss": mixture} for when, mixture in ADVICE]
    if as_json:
        click.echo(json.dumps({"losses": [asdict(info) for info in known], "advice": advice}, indent=2))
        return
    for kind, title in (("classes", "Losses of classes:"), ("regression", "Losses of numbers:")):
        rows = [(info.name, info.formula, info.when) for info in known if info.kind == kind]
        click.echo(f"{title}\n{_table([('name', 'formula', 'for'), *rows])}\n")
    click.echo("To begin with, for geoseg train --loss:")
    click.echo(_table(item.values() for item in advice))


def _lines(said: dict[str, Any]) -> list[Sequence[str]]:
    """One field a line; an option as it is written in a mixture."""
    options = ", ".join(f"{key}={_written(value)}" for key, value in said["options"].items())
    return [(key, options or "-") if key == "options" else (key, value) for key, value in said.items()]


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()


def _table(rows: Iterable[Iterable[str]]) -> str:
    """Columns as wide as their widest entry."""
    texts = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in texts)
    return "\n".join(line.rstrip() for line in lines)
