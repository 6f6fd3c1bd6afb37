"""The scenes of a run with their labels: all that can be refused is refused before the first pixel is read."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from geoseg.errors import BandError, LabelsError, SceneError, UsageError
from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.scene import Scene, SceneSource
from geoseg.targets import LabelledArea, labelled_area
from geoseg.tiles.files import check_storable
from geoseg.tiles.labels import Legend, Truth, VectorTruth, legend_of, open_truth, shortened
from geoseg.tiles.options import LabelOptions, TileOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A scene that has been looked at: all of it can be read, and its labels lie on it."""

    name: str
    source: SceneSource
    grid: Grid
    labels: Path
    area: LabelledArea | None
    truth: Truth | None
    """The labels, if they were read whole."""


def survey(
    scenes: Sequence[str],
    labels: Sequence[Path],
    areas: Sequence[Path | None],
    tiles: TileOptions,
    about: LabelOptions,
) -> tuple[Legend, list[Site]]:
    """Look at all scenes and labels, and settle the classes.

    Args:
        scenes: Rasters.
        labels: A file for each.
        areas: Polygons outside of which nothing is known, or None, for each.
        tiles: How scenes are cut.
        about: How targets follow from labels.

    Raises:
        UsageError: If options make no sense or do not go together.
        SceneError: If a raster cannot be read, or is placed by other things than a transform.
        BandError: If the scenes differ in their number of bands.
        LabelsError: If labels cannot be read or lie elsewhere.
    """
    legend = legend_of(labels, about)
    if legend.valued and tiles.keep_empty < 1:
        raise UsageError("keep_empty: targets are values, of which none is the background. Leave it out.")
    sites = [
        _surveyed(scene, name, path, area, legend, tiles, about)
        for scene, name, path, area in zip(scenes, _names(scenes), labels, areas, strict=True)
    ]
    return _agreed(legend, sites, about)


def _names(scenes: Sequence[str]) -> list[str]:
    """A short name for each scene; equal ones are numbered."""
    names: list[str] = []
    for scene in scenes:
        stem = Path(scene.partition("?")[0]).stem or "scene"
        number, name = 1, stem
        while name.casefold() in map(str.casefold, names):  # names of files, which may not tell case
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


def _surveyed(
    path: str, name: str, labels: Path, area: Path | None, legend: Legend, tiles: TileOptions, about: LabelOptions
) -> Site:
    """Everything that can be refused without looking at pixels."""
    with ExitStack() as opened:
        scene = opened.enter_context(Scene.open(path, bands=tiles.bands, nodata=tiles.nodata))
        if scene.gcps or (scene.rpcs and scene.grid.transform.is_identity):
            raise SceneError(
                f"{path} is placed by {'ground control points' if scene.gcps else 'RPCs'}, which tiles cannot carry. "
                f"Expected a transform. Give it one: gdalwarp {path} warped.tif."
            )
        check_storable(path, scene.grid)
        truth = open_truth(labels, scene.grid, legend, about, opened)
        for remark in truth.remarks:
            log.warning("%s", remark)
        return Site(
            name,
            scene.source,
            scene.grid,
            labels,
            labelled_area(area, scene.grid) if area else None,
            truth,
        )


def _agreed(legend: Legend, sites: list[Site], about: LabelOptions) -> tuple[Legend, list[Site]]:
    """The classes that the labels have together; sites differ in number of bands are refused."""
    first = sites[0]
    for site in sites:
        if len(site.source.bands) != len(first.source.bands):
            raise BandError(
                f"{site.source.path} has {len(site.source.bands)} bands, {first.source.path} "
                f"{len(first.source.bands)}. Expected the same everywhere. Choose them with --bands."
            )
    truths = [site.truth for site in sites if site.truth]
    short = shortened(legend, truths, about)
    if len(short.names) < 2 and not short.valued:
        raise LabelsError(f"{first.labels} has no feature of a class. Expected some. Name them with --classes.")
    present = {name for truth in truths for name in truth.present}
    if missing := [name for name in short.names[1:] if name not in present]:
        log.warning("No labels are of class %s.", " or ".join(missing))
    table = np.full(256, IGNORE, np.uint8)
    table[: len(legend.names)] = [short.names.index(name) if name in short.names else 0 for name in legend.names]
    return short, [
        replace(site, truth=replace(site.truth, table=table) if isinstance(site.truth, VectorTruth) else None)
        for site in sites
    ]
