"""From a class raster to vector layers: the whole way, all files or none."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geoseg import __version__
from geoseg.errors import SceneError, UsageError, listed, nearest
from geoseg.grid import Grid
from geoseg.outputs import Outputs
from geoseg.pixels import NODATA
from geoseg.scene import Scene
from geoseg.targets import LabelledArea, is_vector_file, labelled_area
from geoseg.targets.files import REVIEW
from geoseg.vectors.classes import read_classes
from geoseg.vectors.compiled import tell_of_compiling
from geoseg.vectors.features import Feature, Outliner, layer_names
from geoseg.vectors.formats import VectorFiles, vector_files, write_vectors
from geoseg.vectors.journal import Journal
from geoseg.vectors.kinds import is_background, kinds_of
from geoseg.vectors.limited import LimitedPlanes
from geoseg.vectors.metric import Metric, warn_of_unused
from geoseg.vectors.options import OutlineOptions
from geoseg.vectors.planes import Planes, RasterPlanes
from geoseg.vectors.review import check_verdicts, least_certain
from geoseg.vectors.review_style import review_style
from geoseg.vectors.rows import trace_rows
from geoseg.vectors.shapefile import digest

log = logging.getLogger(__name__)

DEFAULTS = OutlineOptions()


@dataclass(frozen=True, slots=True)
class Vectors:
    """What was written."""

    paths: tuple[Path, ...]
    """The files of the layers: one, but for formats that hold a single layer."""
    features: dict[str, int]
    """Features by layer."""

    @property
    def path(self) -> Path:
        """The first of the files, or the only one."""
        return self.paths[0]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        named = {"vectors" if len(self.paths) == 1 else path.stem: str(path) for path in self.paths}
        return {"paths": named, "features": self.features}


def vectorize_raster(
    raster: str | Path,
    output: str | Path | None = None,
    *,
    probabilities: str | Path | None = None,
    values: Mapping[int, str] | None = None,
    classes: Sequence[str] | None = None,
    options: OutlineOptions = DEFAULTS,
    review: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Vectors:
    """Outline the classes of a class raster, of geoseg or of another program.

    Buildings get straight walls; roads surfaces and centrelines that form a network; other classes share their borders.
    Memory is that of the finished shapes and of some rows; the outlines of pixels lie in a file meanwhile. Of raw ones
    only the fields are in memory. What is finished of the layers is kept in the folder `<output>.partial` until the
    output is complete; raw outlines are traced again, but not measured again.

    Args:
        raster: GeoTIFF of one band; its classes are whole numbers from 0 to 254.
        output: File to write, in the format of its ending; by default `<raster>.gpkg` in the working directory.
        probabilities: GeoTIFF of the same run with a uint8 band for each class; outlines follow it finer than pixels.
        values: What the values of the raster mean, instead of what it says of them itself. Others are not outlined,
            nor is a value 0 that is called background, nodata, other or the like.
        classes: Names of the classes to outline; by default all, but value 0 only if `values` names it.
        options: How.
        review: A further layer `review` of so many features, and so many cells, that the run is least certain of.
        resume: Go on with the interrupted run beside the output, if there is one.
        overwrite: Replace outputs that exist, when the new ones are complete.

    Raises:
        OutputExistsError: If there is an interrupted run, and neither `resume` nor `overwrite` is given.
        ResumeError: If the interrupted run was of another raster, or of other options.
        UsageError: If a class or kind is not there, values have one name, an output exists, the ending is unknown,
            `min_area_m2` or `min_hole_m2` is given where nothing tells the size of a pixel, or a review is asked for
            without probabilities, or in another format than GeoPackage.
        SceneError: If a raster cannot be read or is of another kind.
        LabelsError: If the area of interest cannot be read, or lies elsewhere.
        OutputError: If an output cannot be written.
    """
    raster = Path(raster)
    output = Path(output or f"{raster.stem}.gpkg")
    known = _classes(raster, options, values or {})
    chosen = _choose(raster, known, classes, values)
    names = {value: name for value, (name, _) in known.items()}
    with RasterPlanes(raster, names, probabilities) as planes:
        run = Outlining({value: names[value] for value in chosen}, dict(known.values()), options)
        run.check(planes.grid)
        layers = run.layers
        if review is not None:
            if probabilities is None:
                raise UsageError(
                    f"review={review} without probabilities: nothing says what is uncertain. Expected them of the same "
                    "run. Give --probabilities FILE, as geoseg predict --probabilities writes it."
                )
            check_review(review, output, layers)
            layers.append(REVIEW)
        if overwrite:
            check_verdicts(output)
        files = vector_files(output, layers, crs=planes.grid.crs)
        read = [path for path in (raster, probabilities, options.aoi) if path]
        # The journal's lock keeps a second run of that name out.
        outputs = Outputs(files.paths, inputs=read, overwrite=overwrite, run=str(output.absolute()))
        journal = Journal.beside(output, _fingerprint(raster, probabilities, run), resume=resume, overwrite=overwrite)
        with journal.kept(), outputs:
            found = run.outline(planes, output.parent, journal)
            if review is not None:
                found[REVIEW] = run.review(found, planes, review)
            features = write_features(files, found, outputs)
            outputs.commit()
            journal.remove()
    return Vectors(tuple(dict.fromkeys(files.layers.values())), features)


@dataclass(frozen=True, slots=True)
class Outlining:
    """Classes that are to become layers."""

    chosen: Mapping[int, str]
    """Classes by pixel value."""
    colors: Mapping[str, str]
    """"#rrggbb" by class."""
    options: OutlineOptions = DEFAULTS
    """How."""

    @property
    def kinds(self) -> dict[str, str]:
        """Kind by class.

        Raises:
            UsageError: If the options name another class, or no kind.
        """
        return kinds_of(list(self.chosen.values()), self.options.kinds)

    @property
    def layers(self) -> list[str]:
        """The names of all layers."""
        kinds = self.kinds
        return [
            layer for name in self.chosen.values() for layer in layer_names(name, kinds[name], raw=self.options.raw)
        ]

    def check(self, grid: Grid) -> None:
        """Refuse what cannot be done, before a pixel is read.

        Raises:
            UsageError: If areas are given where nothing tells the size of a pixel, or an area of interest and a class
                of value 255.
            LabelsError: If the area of interest cannot be read, or lies elsewhere.
        """
        given = [name for name in ("min_area_m2", "min_hole_m2") if getattr(self.options, name)]
        if given and Metric(grid, self.options.gsd).unit != "m":
            raise UsageError(
                f"{given[0]}={getattr(self.options, given[0]):g} means nothing without a CRS. Expected the size of a "
                "pixel: give --gsd METRES."
            )
        if self.options.aoi and NODATA in self.chosen:
            raise UsageError(
                f"class={self.chosen[NODATA]!r} has the pixel value {NODATA}, which an area of interest needs for what "
                "lies outside. Expected another value. Change it in the raster, or leave out the area."
            )
        self._area(grid)

    def outline(self, planes: Planes, folder: Path | None = None, journal: Journal | None = None) -> dict[str, Feature]:
        """All layers by name.

        Args:
            planes: What to outline.
            folder: Where what memory need not hold goes; by default that of temporary files.
            journal: Of what is finished already.
        """
        tell_of_compiling(trace_rows)
        if area := self._area(planes.grid):
            planes = LimitedPlanes(planes, area)
        outliner = Outliner(planes, Metric(planes.grid, self.options.gsd), self.options, folder, journal or Journal())
        return outliner.outline(self.chosen, self.kinds, self.colors)

    def review(self, features: Mapping[str, Feature], planes: Planes, count: int) -> Feature:
        """The layer of what the planes, which have probabilities, are least certain of."""
        if area := self._area(planes.grid):
            planes = LimitedPlanes(planes, area)
        kinds = self.kinds
        names = [name for name in self.chosen.values() if kinds[name] != "road"]  # streets are one large polygon
        areas = {layer: features[layer].frame for name in names for layer in layer_names(name, kinds[name], raw=True)}
        frame = least_certain(areas, planes, Metric(planes.grid, self.options.gsd), count, area)
        return Feature(frame, review_style(planes.classes.values()))

    def _area(self, grid: Grid) -> LabelledArea | None:
        if not self.options.aoi:
            return None
        return labelled_area(self.options.aoi, grid, what="the area of interest")


def write_features(files: VectorFiles, features: Mapping[str, Feature], outputs: Outputs) -> dict[str, int]:
    """Write layers under temporary names, see `write_vectors`; returns features by layer."""
    styles = {layer: feature.style for layer, feature in features.items()}
    return write_vectors(files, {layer: feature.frame for layer, feature in features.items()}, outputs, styles=styles)


def check_review(count: int, output: Path, layers: Sequence[str]) -> None:
    """Refuse a layer of the `count` least certain features that cannot stand beside these layers in this file.

    Raises:
        UsageError: If it is of no features, the file holds a single layer, or one has the name already.
    """
    if count < 1:
        raise UsageError(f"review={count} is no number of features. Expected 1 or more.")
    if output.suffix.lower() != ".gpkg":
        raise UsageError(
            f"{output} cannot hold a review. Expected a GeoPackage, in which it lies beside what it is of. "
            f"Try {output.stem}.gpkg."
        )
    if REVIEW in map(str.casefold, layers):
        raise UsageError(f"a class is called {REVIEW!r}, as the layer of the review. Expected another name.")


def _fingerprint(raster: Path, probabilities: str | Path | None, run: Outlining) -> dict[str, Any]:
    """What the layers depend on, in the user's words; a run goes on only where all of it is the same."""
    found: dict[str, Any] = {"geoseg": __version__, "the classes": run.chosen}
    for name, path in (("the raster", raster), ("--probabilities", probabilities)):
        if path is not None:
            with Scene.open(path) as scene:
                found[name] = scene.fingerprint()
    for name, value in asdict(run.options).items():
        found[f"--{name.replace('_', '-')}"] = value
    aoi = run.options.aoi
    return found | {"--aoi": aoi and digest(Path(aoi))}


def _classes(raster: Path, options: OutlineOptions, values: Mapping[int, str]) -> dict[int, tuple[str, str]]:
    """The raster's classes by pixel value. What its georeference means for the outcome is said in the log."""
    if not raster.is_dir() and is_vector_file(raster):
        raise SceneError(f"{raster} is a file of polygons or lines. Expected a class raster (GeoTIFF).")
    with Scene.open(raster) as scene:
        if scene.grid.crs is None and scene.grid.in_pixels:
            log.warning("%s has no georeference: shapes are in pixels, where QGIS shows it.", raster)
        warn_of_unused(options.gsd, raster, scene.grid)
        names = scene.class_names
    return read_classes(raster, names, values)


def _choose(
    raster: Path,
    classes: Mapping[int, tuple[str, str]],
    wanted: Sequence[str] | None,
    values: Mapping[int, str] | None,
) -> list[int]:
    """The values to outline, in the raster's order: those wanted, or all that are named but the background."""
    if wanted is None:
        chosen = [value for value in classes if (value in values if values else value)]
        if chosen[:1] == [0] and is_background(classes[0][0]):
            del chosen[0]
        if not chosen:
            raise SceneError(f"{raster} holds nothing but background. Expected a class to outline.")
        return chosen
    known = [name for name, _ in classes.values()]
    if not wanted:
        raise UsageError(f"classes={list(wanted)} names no class of {raster}. Expected some of {listed(known)}.")
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"class={name!r} is not in {raster}.{nearest(name, known)} Expected some of {listed(known)}."
            )
    return [value for value, (name, _) in classes.items() if name in wanted]
