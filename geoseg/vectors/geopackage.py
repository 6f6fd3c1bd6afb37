"""From classes to a GeoPackage: a styled layer of polygons for each class, and the whole way from a class raster."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas

from geoseg.errors import SceneError, UsageError, nearest
from geoseg.outputs import Outputs
from geoseg.qgis import polygon_style
from geoseg.scene import Scene
from geoseg.vectors.classes import read_classes
from geoseg.vectors.layer import layer_name, write_layers
from geoseg.vectors.polygonize import polygonize

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Vectors:
    """What was written."""

    path: Path
    """The GeoPackage."""
    features: dict[str, int]
    """Polygons per layer."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"paths": {"vectors": str(self.path)}, "features": self.features}


def write_polygons(
    path: Path, frames: Mapping[str, geopandas.GeoDataFrame], colors: Mapping[str, str]
) -> dict[str, int]:
    """Write what `polygonize` returned: a layer for each class, in its colour.

    Args:
        path: File to write; give a temporary name and rename it.
        frames: Polygons by class name.
        colors: "#rrggbb" by class name.

    Returns:
        Polygons by layer.

    Raises:
        OutputError: If the file cannot be written.
    """
    layers = {layer_name(name): frame for name, frame in frames.items()}
    styles = {layer_name(name): polygon_style(colors[name]) for name in frames}
    write_layers(path, layers, styles=styles)
    return {name: len(frame) for name, frame in layers.items()}


def vectorize_raster(
    raster: str | Path,
    output: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    min_area_m2: float = 0,
    gsd: float | None = None,
    overwrite: bool = False,
) -> Vectors:
    """Outline the classes of a class raster, of geoseg or of another program, into a GeoPackage.

    Args:
        raster: GeoTIFF of one uint8 band.
        output: File to write; by default `<raster>.gpkg` in the working directory.
        classes: Names of the classes to outline; by default all but value 0.
        min_area_m2: Smaller polygons are left out, in square metres on the ground.
        gsd: Metres per pixel, for `min_area_m2` where the raster has no CRS to tell.
        overwrite: Replace the output if it exists, when the new one is complete.

    Raises:
        UsageError: If a class is not there, the output exists, or `min_area_m2` lacks a `gsd`.
        SceneError: If the raster cannot be read or is no class raster.
        OutputError: If the output cannot be written.
    """
    raster = Path(raster)
    output = Path(output or f"{raster.stem}.gpkg")
    if output.suffix.lower() != ".gpkg":
        raise UsageError(f"{output} is to hold a GeoPackage. Expected a name ending in .gpkg. Try {output.stem}.gpkg.")
    with Outputs({"vectors": output}, inputs=[raster], overwrite=overwrite) as outputs:
        chosen = _choose(raster, _classes(raster, min_area_m2, gsd), classes)
        names = {value: name for value, (name, _) in chosen.items()}
        frames = polygonize(raster, names, min_area_m2=min_area_m2, gsd=gsd)
        features = write_polygons(outputs.staged("vectors"), frames, dict(chosen.values()))
        outputs.commit()
    return Vectors(output, features)


def _classes(raster: Path, min_area_m2: float, gsd: float | None) -> dict[int, tuple[str, str]]:
    """The raster's classes by pixel value. What its georeference means for the outcome is said in the log."""
    with Scene.open(raster) as scene:
        if scene.grid.crs is None and scene.grid.transform.is_identity:
            log.warning("%s has no georeference: polygons are in pixels (column, row).", raster)
        if gsd is not None and scene.grid.gsd is not None:
            log.warning(
                "--gsd %g is not used: %s has a CRS, by which a pixel is %.3g m wide.", gsd, raster, scene.grid.gsd
            )
        elif gsd is not None and not min_area_m2:
            log.warning("--gsd %g is not used: it is for --min-area-m2 alone.", gsd)
        names = scene.class_names
    return read_classes(raster, names)


def _choose(
    raster: Path, classes: Mapping[int, tuple[str, str]], wanted: Sequence[str] | None
) -> dict[int, tuple[str, str]]:
    """The classes to outline, in the raster's order: those wanted, or all but value 0."""
    if wanted is None:
        chosen = {value: found for value, found in classes.items() if value}
        if not chosen:
            raise SceneError(f"{raster} holds nothing but background. Expected a class to outline.")
        return chosen
    known = [name for name, _ in classes.values()]
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"class={name!r} is not in {raster}.{nearest(name, known)} Expected some of {', '.join(known)}."
            )
    return {value: found for value, found in classes.items() if found[0] in wanted}
