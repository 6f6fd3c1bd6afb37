"""`geoseg compare`: runs side by side."""

import json
from pathlib import Path

import click

from geoseg.cli.options import READABLE, GeosegCommand, json_option, log_options, overwrite_option


@click.command(cls=GeosegCommand)
@click.argument("runs", nargs=-1, required=True, type=READABLE, metavar="RUN...")
@click.option("--figure", type=READABLE, metavar="FILE", help="Draw the IoU of each class with intervals as a PNG.")
@click.option(
    "--device", default="auto", show_default=True, help="Where speed is measured: auto, cpu, cuda, cuda:N or mps."
)
@overwrite_option
@json_option
@log_options
def compare(runs: tuple[Path, ...], figure: Path | None, device: str, overwrite: bool, as_json: bool) -> None:
    """Put RUNs side by side: folders that geoseg train wrote, on the validation tiles and classes that they share.

    IoU, F1, precision, sensitivity (recall) and specificity of each class, accuracy and kappa, with 95 % intervals by
    bootstrap over the tiles; differences to the first RUN, paired tile by tile; calibration error, size and speed.

    An interval says how much may be left to the choice of these tiles. It says nothing of another seed or another city,
    and as tiles of one scene are not independent, it is too narrow.

    \b
    geoseg compare runs/unet runs/resunet --figure compared.png
    """  # noqa: D301  click's own sign: keep the lines that follow as they are
    from geoseg.compare import check_figure, compare_runs

    if figure:
        check_figure(figure, overwrite)
    found = compare_runs(runs, device=device)
    if figure:
        found.draw(figure)
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else found.table())
