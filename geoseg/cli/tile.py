"""`geoseg tile`: labelled tiles from scenes and a vector layer or a label raster."""

import json
from pathlib import Path
from typing import Any

import click

from geoseg.cli.options import (
    READABLE,
    GeosegCommand,
    json_option,
    log_options,
    name_list,
    overwrite_option,
    progress_bar,
    value_names,
)
from geoseg.errors import UsageError

_TILES = ("tile_size", "overlap", "min_valid", "keep_empty", "bands", "nodata", "split", "val", "gap", "seed")
_LABELS = (
    "classes", "class_field", "layer", "values", "line_width_m", "width_field", "contact", "invalid_geometry", "gsd",
)  # fmt: skip
_SHARE = click.FloatRange(min=0, max=1)
_HELD = click.FloatRange(min=0, max=1, max_open=True)


def _bands(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str | int, ...] | None:
    names = name_list(ctx, param, value)
    return names and tuple(int(name) if name.isdecimal() else name for name in names)


@click.command(cls=GeosegCommand, short_help="Labelled tiles from scenes and a vector layer or a label raster.")
@click.argument("scenes", nargs=-1, metavar="SCENE...", type=click.Path())
@click.option(
    "--labels",
    multiple=True,
    required=True,
    type=READABLE,
    help="Vector layer of polygons or lines, raster of classes, or raster of floats (targets of a regression). One for "
    "all scenes, or repeated, one for each.",
)
@click.option("-o", "--output", required=True, type=READABLE, help="Folder to write.")
@click.option("--tile-size", type=int, default=512, show_default=True, help="Side of a tile in pixels.")
@click.option("--overlap", type=int, default=0, show_default=True, help="Pixels that neighbouring tiles share.")
@click.option(
    "--min-valid",
    type=_SHARE,
    default=0.1,
    show_default=True,
    help="Leave out tiles of which a smaller share is usable and labelled.",
)
@click.option(
    "--keep-empty",
    type=_SHARE,
    default=1.0,
    show_default=True,
    metavar="SHARE",
    help="Share of the tiles without any class but the background that is kept.",
)
@click.option(
    "--classes",
    callback=name_list,
    metavar="NAMES",
    help="Classes besides the background.  [default: building,road, as far as they are there; of a raster its own]",
)
@click.option("--class-field", metavar="NAME", help="Field that holds class names.")
@click.option("--layer", metavar="NAME", help="Layer of a vector file.  [default: all]")
@click.option(
    "--values",
    multiple=True,
    callback=value_names,
    metavar="VALUE=CLASS,...",
    help="What the values of a label raster mean: 0=background,255=building. Others are unknown.  [default: class "
    "indices, 255 unknown]",
)
@click.option(
    "--line-width-m",
    type=click.FloatRange(min=0, min_open=True),
    help="Width of lines in metres on the ground, where --width-field has none.",
)
@click.option("--width-field", metavar="NAME", help="Field with a line's width in metres.  [default: width_m or width]")
@click.option("--contact", is_flag=True, help="Paint a class 'contact' where buildings touch, or nearly.")
@click.option(
    "--invalid-geometry",
    type=click.Choice(["error", "fix", "skip"]),
    default="error",
    show_default=True,
    help="What to do with invalid polygons.",
)
@click.option(
    "--labelled-area",
    multiple=True,
    type=READABLE,
    metavar="FILE",
    help="Polygons outside of which nothing is known. One file for all scenes, or one for each.",
)
@click.option("--bands", callback=_bands, metavar="LIST", help="Bands by number or name: 1,2,3 or red,green,blue.")
@click.option("--nodata", type=float, help="Value of pixels without data, instead of what the scenes declare.")
@click.option(
    "--gsd", type=click.FloatRange(min=0, min_open=True), help="Metres per pixel, of scenes that have no CRS to tell."
)
@click.option(
    "--split",
    type=click.Choice(["blocks", "scene", "random"]),
    default="blocks",
    show_default=True,
    help="What is held back for validation: blocks of neighbouring tiles with a gap round them, whole scenes, or tiles "
    "anywhere.",
)
@click.option("--val", type=_HELD, default=0.2, show_default=True, help="Share held back for validation.")
@click.option(
    "--gap", type=click.IntRange(min=0), help="Pixels between training and validation blocks.  [default: half a tile]"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random.")
@overwrite_option
@json_option
@log_options
def tile(scenes: tuple[str, ...], labels: tuple[Path, ...], output: Path, as_json: bool, **options: Any) -> None:
    """Cut SCENEs and their labels into tiles that `geoseg train` and other programs learn from.

    The folder gets images/ and labels/ (GeoTIFFs of equal names, in place on the map; 255 is unknown), manifest.csv and
    manifest.gpkg (footprints, class shares and split). Tiles are of one size: the last ones are shifted inwards, and
    scenes smaller than a tile filled up with no data. The folder's path is printed on stdout.

    \b
    geoseg tile town.tif --labels buildings.gpkg -o tiles
    geoseg tile a.tif b.tif --labels roads.geojson --classes road --line-width-m 6 --keep-empty 0.2 -o tiles
    geoseg train tiles -o run --classes background,road
    """  # noqa: D301  click's own sign: keep the lines that follow as they are
    if not scenes:
        raise UsageError("no scenes. Expected: geoseg tile SCENE... --labels FILE -o DIR.")
    from geoseg.tiles import LabelOptions, TileOptions, tile_scenes

    tiles = TileOptions(**{name: options[name] for name in _TILES})
    about = LabelOptions(**{name: options[name] for name in _LABELS})
    with progress_bar("windows") as on_progress:
        done = tile_scenes(
            scenes,
            labels,
            output,
            tiles=tiles,
            about=about,
            areas=options["labelled_area"],
            overwrite=options["overwrite"],
            on_progress=on_progress,
        )
    if not click.get_current_context().meta.get("geoseg.quiet"):
        click.echo(done.summary(), err=True)
    click.echo(json.dumps(done.to_dict(), indent=2) if as_json else done.folder)
