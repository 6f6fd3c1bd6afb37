"""`geoseg vectorize`: polygons from a class raster."""

import json
from pathlib import Path
from typing import Any

import click

from geoseg.cli.options import READABLE, GeosegCommand, json_option, log_options, name_list, overwrite_option


@click.command(cls=GeosegCommand, short_help="Polygons from a class raster.")
@click.argument("raster", type=READABLE)
@click.option("-o", "--output", type=READABLE, help="GeoPackage.  [default: <raster>.gpkg]")
@click.option(
    "--classes",
    callback=name_list,
    metavar="NAMES",
    help="Classes to outline: building,road.  [default: all but the background]",
)
@click.option("--min-area-m2", type=click.FloatRange(min=0), default=0, help="Leave out what is smaller on the ground.")
@click.option(
    "--gsd", type=click.FloatRange(min=0, min_open=True), help="Metres per pixel, if the raster has no CRS to tell."
)
@overwrite_option
@json_option
@log_options
def vectorize(raster: Path, as_json: bool, **options: Any) -> None:
    """Outline the classes of RASTER: a GeoPackage with a layer of polygons for each, styled for QGIS.

    Polygons follow the pixels exactly. Areas and lengths are metres on the ground in any CRS. The path written is
    printed on stdout.

    Example: geoseg vectorize scene_unet.tif -o scene.gpkg --classes building
    """
    from geoseg.vectors import vectorize_raster

    done = vectorize_raster(raster, **options)
    click.echo(json.dumps(done.to_dict(), indent=2) if as_json else done.path)
