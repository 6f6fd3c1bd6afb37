"""`geoseg vectorize`: polygons from a class raster."""

import json
import logging
from pathlib import Path

import click

from geoseg.cli.options import READABLE, GeosegCommand, json_option, log_options, overwrite_option
from geoseg.errors import SceneError, UsageError

log = logging.getLogger(__name__)


@click.command(cls=GeosegCommand, short_help="Polygons from a class raster.")
@click.argument("raster", type=READABLE)
@click.option("-o", "--output", type=READABLE, help="GeoPackage.  [default: <raster>.gpkg]")
@click.option(
    "--classes", metavar="NAMES", help="Classes to outline: building,road.  [default: all but the background]"
)
@click.option("--min-area-m2", type=click.FloatRange(min=0), default=0, help="Leave out what is smaller on the ground.")
@click.option(
    "--gsd", type=click.FloatRange(min=0, min_open=True), help="Metres per pixel, if the raster has no CRS to tell."
)
@overwrite_option
@json_option
@log_options
def vectorize(
    raster: Path,
    output: Path | None,
    classes: str | None,
    min_area_m2: float,
    gsd: float | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Outline the classes of RASTER: a GeoPackage with a layer of polygons for each, styled for QGIS.

    Polygons follow the pixels exactly. Areas and lengths are metres on the ground in any CRS. The path written is
    printed on stdout.

    Example: geoseg vectorize scene_unet.tif -o scene.gpkg --classes building
    """
    from geoseg.outputs import Outputs
    from geoseg.qgis import polygon_style
    from geoseg.vectors import layer_name, polygonize, write_layers

    output = output or Path(f"{raster.stem}.gpkg")
    if output.suffix.lower() != ".gpkg":
        raise UsageError(f"{output} is to hold a GeoPackage. Expected a name ending in .gpkg. Try {output.stem}.gpkg.")
    with Outputs({"vectors": output}, inputs=[raster], overwrite=overwrite) as outputs:
        chosen = _choose(raster, _classes(raster), classes)
        names = {value: name for value, (name, _) in chosen.items()}
        frames = polygonize(raster, names, min_area_m2=min_area_m2, gsd=gsd)
        layers = {layer_name(name): frame for name, frame in frames.items()}
        styles = {layer_name(name): polygon_style(color) for name, color in chosen.values()}
        write_layers(outputs.staged("vectors"), layers, styles=styles)
        outputs.commit()
    features = {name: len(frame) for name, frame in layers.items()}
    found = {"paths": {"vectors": str(output)}, "features": features}
    click.echo(json.dumps(found, indent=2) if as_json else output)


def _classes(raster: Path) -> dict[int, tuple[str, str]]:
    """The raster's classes by pixel value; a line on stderr if it lies nowhere."""
    from geoseg.scene import Scene
    from geoseg.vectors import read_classes

    with Scene.open(raster) as scene:
        if scene.grid.crs is None and scene.grid.transform.is_identity:
            log.warning("%s has no georeference: polygons are in pixels (column, row).", raster)
        names = scene.class_names
    return read_classes(raster, names)


def _choose(raster: Path, classes: dict[int, tuple[str, str]], wanted: str | None) -> dict[int, tuple[str, str]]:
    """The classes to outline, in the raster's order: those wanted, or all but value 0."""
    if wanted is None:
        chosen = {value: found for value, found in classes.items() if value}
        if not chosen:
            raise SceneError(f"{raster} holds nothing but background. Expected a class to outline.")
        return chosen
    asked = [name.strip() for name in wanted.split(",")]
    known = [name for name, _ in classes.values()]
    for name in asked:
        if name not in known:
            raise UsageError(f"--classes {name!r} is no class of {raster}. Expected some of {', '.join(known)}.")
    return {value: found for value, found in classes.items() if found[0] in asked}
