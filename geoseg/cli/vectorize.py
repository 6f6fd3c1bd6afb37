"""`geoseg vectorize`: buildings, streets and areas from a class raster."""

import json
from pathlib import Path
from typing import Any

import click

from geoseg.cli.options import (
    READABLE,
    GeosegCommand,
    entries,
    json_option,
    log_options,
    name_list,
    overwrite_option,
    review_option,
    value_names,
)
from geoseg.endings import check_vector_ending
from geoseg.outputs import check_place

_METRES = click.FloatRange(min=0)
_WHOLE = ("probabilities", "values", "classes", "review", "resume", "overwrite")
"""Options that say more than how classes are outlined."""


def _kinds(_: click.Context, __: click.Parameter, value: str | None) -> dict[str, str] | None:
    if value is None:
        return None
    pairs = [entry.rpartition("=")[::2] for entry in entries(value)]
    if not all(name.strip() and kind.strip() for name, kind in pairs):
        raise click.BadParameter(
            f"{value!r} has an entry without a class or a kind. Expected building=building,water=area."
        )
    names = [name.strip() for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise click.BadParameter(f"{value!r} names {twice[0]!r} twice. Expected each class once.")
    return {name.strip(): kind.strip() for name, kind in pairs}


@click.command(cls=GeosegCommand, short_help="Buildings, streets and areas from a class raster.")
@click.argument("raster", type=READABLE)
@click.option("--probabilities", type=READABLE, help="Raster of every class's probability, of the same run.")
@click.option(
    "-o", "--output", type=READABLE, help=".gpkg, .fgb, .geojson, .parquet or .shp.  [default: <raster>.gpkg]"
)
@click.option(
    "--values",
    multiple=True,
    callback=value_names,
    metavar="VALUE=CLASS,...",
    help="What the values of the raster mean: 1=building,2=road. Others are not outlined, nor is 0 if called "
    "background, nodata, other or the like.  [default: its own names, or class_1, class_2, ...]",
)
@click.option(
    "--classes",
    callback=name_list,
    metavar="NAMES",
    help="Classes to outline: building,road; with a comma in a name: '\"water, ice\",road'.  [default: all but the "
    "background]",
)
@click.option(
    "--kinds",
    callback=_kinds,
    metavar="CLASS=KIND,...",
    help="What classes are: building, road or area; with a comma in a name: '\"water, ice=area\"'.  [default: by their "
    "names]",
)
@click.option("--raw", is_flag=True, help="The pixels' own outlines: nothing fitted, nothing left out.")
@click.option("--min-area-m2", type=_METRES, help="Leave out smaller polygons.  [default: 5; 0 with --raw]")
@click.option("--min-hole-m2", type=_METRES, help="Fill smaller holes in buildings.  [default: 4]")
@click.option(
    "--angles", type=click.Choice(["ortho", "ortho45", "any"]), help="Between the walls of a building.  [default: any]"
)
@click.option(
    "--split-touching/--no-split-touching",
    default=None,
    help="Tell touching buildings apart: where probabilities dip, without them along slits.  [default: split]",
)
@click.option("--min-spur-m", type=_METRES, help="Leave out shorter dead ends of streets.  [default: 8]")
@click.option(
    "--bridge-m", type=_METRES, help="Bridge gaps in streets up to this, but not through buildings.  [default: 15]"
)
@click.option("--max-width-m", type=_METRES, help="What is wider in all directions is no street.  [default: 30]")
@click.option(
    "--simplify-m", type=_METRES, help="How far simplified lines may lie off.  [default: 1; borders of areas 0.5]"
)
@click.option("--aoi", type=READABLE, help="Polygons within which pixels are outlined, by their centres.")
@click.option(
    "--gsd", type=click.FloatRange(min=0, min_open=True), help="Metres per pixel, if the raster has no CRS to tell."
)
@review_option
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@overwrite_option
@json_option
@log_options
def vectorize(raster: Path, as_json: bool, **given: Any) -> None:
    """Outline the classes of RASTER: layers of polygons and lines, styled for QGIS.

    Buildings get straight walls. Roads become surfaces, and centrelines with widths that form a network. Other classes
    share their borders. With --probabilities outlines are finer than pixels, and touching buildings are told apart.

    Lengths and areas are metres on the ground in any CRS. An interrupted run goes on with --resume. The paths written
    are printed on stdout.

    \b
    geoseg vectorize scene_unet.tif --probabilities scene_p.tif -o scene.gpkg
    geoseg vectorize landcover.tif --values 1=forest,4=roof --kinds roof=building -o landcover.fgb
    """  # noqa: D301  click's own sign: keep the lines that follow as they are
    output = given.pop("output") or Path(f"{raster.stem}.gpkg")
    check_place(output)
    check_vector_ending(output)
    from geoseg.vectors import OutlineOptions, vectorize_raster  # takes seconds

    whole = {name: given.pop(name) for name in _WHOLE}
    options = OutlineOptions(**{name: value for name, value in given.items() if value is not None})
    done = vectorize_raster(raster, output, options=options, **whole)
    click.echo(json.dumps(done.to_dict(), indent=2) if as_json else "\n".join(map(str, done.paths)))
