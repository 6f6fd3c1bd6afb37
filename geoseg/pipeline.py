"""predict_scene(): scene -> windows -> batches -> model -> blend -> raster -> polygons.

The only module that knows the order. Everything that can be refused is refused before the first pixel is predicted, and
nothing appears under an output's name before all outputs are complete.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np

from geoseg import __version__
from geoseg.checkpoint import Checkpoint, Header, load_checkpoint, resolve_model
from geoseg.engine import CellTask, close_readers
from geoseg.errors import CheckpointError, SceneError, UsageError
from geoseg.grid import Grid
from geoseg.outlines import Outlines, is_class_raster, planes_of
from geoseg.outputs import Outputs
from geoseg.parallel import Backend, Threads, ordered_map
from geoseg.pixels import PROBABILITY_SCALE
from geoseg.plans import plan_for
from geoseg.predict import Placement
from geoseg.preflight import agreed, open_scene, open_stack, resampled, warn_of_differences
from geoseg.products import Products
from geoseg.qgis import class_raster_style
from geoseg.raster import RasterProfile, check_free_space, check_storable, write_cog
from geoseg.scene import Scene
from geoseg.scene.resampled import Resampled
from geoseg.scene.stack import Stack
from geoseg.scores import Keep, Layer, layers_of
from geoseg.settings import DEFAULTS, Settings
from geoseg.spool import Spool
from geoseg.targets import labelled_area
from geoseg.vectors import check_ending
from geoseg.vectors.cleaning import Cleaning, pixels_below
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import Planes
from geoseg.windows import Plan, TaperedPlan, Window

__all__ = ["DEFAULTS", "Prediction", "Products", "Settings", "default_backend", "predict_scene"]

_MAX_THREADS = 8
"""Threads of the default backend: each holds the activations of a cell."""

Progress = Callable[[int, int], None]
"""Called with (cells done, cells in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What was written, and how."""

    paths: dict[str, Path]
    """By product: labels (values, of a regression), vectors, confidence, probabilities, attention; `labels_<head>` and
    so on where the network has several heads, `vectors_<layer>` where a file holds a single layer."""
    side_files: tuple[Path, ...]
    """What lies beside them and belongs to them: the QGIS style, the class names as GDAL reads them."""
    shape: tuple[int, int]
    """(height, width) of the rasters."""
    cells: int
    """Cells in all."""
    resumed: int
    """Cells found in the spool of an interrupted run."""
    classes: tuple[str, ...]
    """Class names of the first head that has any, by index."""
    placement: Placement
    """Device, precision and batch size."""
    tile_size: int
    """Side of a full tile."""
    overlap: int
    """Pixels shared by neighbouring tiles."""
    features: dict[str, int]
    """Features by layer, when vectors were asked for."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        paths = {name: str(path) for name, path in self.paths.items()}
        return {**asdict(self), "paths": paths, "side_files": list(map(str, self.side_files))}


def predict_scene(
    scene: str | Path | Sequence[str | Path],
    model: str | Path | Sequence[str | Path] = "unet",
    *,
    products: Products | None = None,
    settings: Settings = DEFAULTS,
    backend: Backend | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Prediction:
    """Predict a scene: class raster and whatever else `products` names, all of it or nothing.

    Memory depends on the cell, the model and the number of workers, not on the scene. The bytes written depend on the
    scene, the checkpoint, the settings and the kind of device, and on nothing else.

    Args:
        scene: Path or URL of a raster; several are one stack, such as the dates of a series: their bands are taken
            file after file, and a pixel that is missing in one of them is nodata.
        model: A built-in model's name or the path of a checkpoint; of several, the mean of their probabilities.
        products: What to write; by default `<scene>_<model>.tif`, of the first scene, in the working directory.
        settings: What decides pixels.
        backend: Who computes: threads of this process by default, or a Dask cluster.
        resume: Go on with the interrupted run beside the output, if there is one.
        overwrite: Replace outputs that exist, when the new ones are complete.
        progress: Called after every batch of cells.

    Returns:
        What was written, and how.

    Raises:
        UsageError: If options do not fit together, or an output exists.
        SceneError: If the scene cannot be opened or read, or those of a stack differ in size, CRS, transform or type.
        BandError: If the scene lacks the model's bands.
        CheckpointError: If the model cannot be used.
        OutputError: If an output cannot be written.
    """
    models = [model] if isinstance(model, str | Path) else list(model)
    scenes = list(scene) if isinstance(scene, Sequence) and not isinstance(scene, str) else [scene]
    run = _prepare([str(path) for path in scenes], [str(name) for name in models], products, settings, overwrite)
    spool = Spool.open(run.spool_folder, run.fingerprint, resume=resume, overwrite=overwrite)
    with run.outputs, spool:
        resumed = len(spool.done)
        try:
            _predict_cells(run.task, spool, backend or default_backend(run.task.placement), progress)
        except (SceneError, CheckpointError):
            # A damaged input stays damaged: nothing is left to go on with. A network may come back.
            if all(Path(path).exists() for path in run.task.scene.paths):
                spool.remove()
            raise
        planes = planes_of(spool, run.task.plan, run.profile.grid, run.header, run.layers, run.cleaning)
        _write_rasters(run, spool, planes)
        features = run.outlines.write(run.outputs, planes) if run.outlines else {}
        placed = run.outputs.commit()
        spool.remove()
    return run.prediction(resumed, features, placed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A prediction that nothing stands against any more."""

    products: Products
    outputs: Outputs
    scene: dict[str, Any]
    """The scene's fingerprint."""
    task: CellTask
    header: Header
    """Of the model, or what the members of an ensemble agree on."""
    layers: dict[str, Layer]
    """What the cells hold, by name; most of them are shown by a raster."""
    outlines: Outlines | None
    """What becomes of `products.vectors`."""
    cleaning: Cleaning
    """What is done to the class rasters when all cells are there."""
    profile: RasterProfile
    """Of the class raster; the others differ from it in what they hold."""

    @property
    def spool_folder(self) -> Path:
        """Beside the class raster."""
        labels = self.products.paths()["labels"]
        return labels.with_name(labels.name + ".partial")

    @property
    def files(self) -> dict[str, Path]:
        """Every file that was asked for, by name; the class raster, or the first of several, comes first."""
        rasters = self.products.rasters(self.layers)
        main = {name: path for name, path in rasters.items() if self.layers[name].kind in ("labels", "values")}
        return main | (self.outlines.paths if self.outlines else {}) | rasters

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the cells depend on, in the user's words; a run goes on only where all of it is the same."""
        task, plan, scene = self.task, self.task.plan, dict(self.scene)
        return {
            "--model": self.header.sha256,
            "--bands": scene.pop("bands"),
            "--nodata": scene.pop("nodata"),
            "--aoi": task.area and hashlib.sha256(Path(task.area).read_bytes()).hexdigest(),
            "--tile-size": plan.tile_size,
            "--overlap": plan.overlap,
            "--blend": "taper" if isinstance(plan, TaperedPlan) else "crop",
            **{f"--{name.replace('_', '-')}": value for name, value in asdict(task.placement).items()},
            **{f"--{name}": value for name, value in asdict(task.keep).items()},
            "the scene": scene,
            "geoseg": __version__,
        }

    def prediction(self, resumed: int, features: dict[str, int], placed: Sequence[Path]) -> Prediction:
        """What is said of the finished run."""
        plan, paths = self.task.plan, self.files
        return Prediction(
            paths=paths,
            side_files=tuple(path for path in placed if path not in paths.values()),
            shape=plan.shape,
            cells=len(plan),
            resumed=resumed,
            classes=tuple(item.name for item in self.header.classes),
            placement=self.task.placement,
            tile_size=plan.tile_size,
            overlap=plan.overlap,
            features=features,
        )


def _prepare(
    scenes: list[str], models: list[str], products: Products | None, settings: Settings, overwrite: bool
) -> _Run:
    """Everything that can be refused before the first pixel."""
    if not isinstance(settings, Settings) or not isinstance(products, Products | None):
        raise UsageError("products or settings are of the wrong kind. Expected Products(labels=PATH) and Settings().")
    if len(set(models)) < max(len(models), 1):
        said = f"{models[0]} is named twice" if models else "no model is named"
        raise UsageError(f"--model: {said}. Expected at least one, and different ones.")
    if not scenes:
        raise UsageError("no scene is given. Expected at least one.")
    products = products or Products.beside_caller(scenes[0], models)
    checkpoints = {name: load_checkpoint(resolve_model(name).absolute()) for name in models}
    header = agreed({name: checkpoint.header for name, checkpoint in checkpoints.items()})
    layers = layers_of(header.heads, products.keep, attention_maps=_attention_maps(checkpoints, products.keep))
    with _open(scenes, header, settings) as source:
        paths = [resolve_model(name).absolute() for name in models]
        read = [*paths, *source.source.paths, settings.aoi]
        vectors = {"vectors": Path(products.vectors)} if products.vectors else {}
        outputs = _outputs(products, layers, vectors, read, overwrite)
        _check_endings(products, layers, scenes)
        if outlines := _outlines(products, layers, header, source.grid):  # their files may be others than the one named
            outputs = _outputs(products, layers, outlines.files.paths, read, overwrite)
        warn_of_differences(source.path, source, [item.header for item in checkpoints.values()])
        if settings.aoi:
            labelled_area(settings.aoi, source.grid)  # refused now rather than by the first worker
        cleaning = _cleaning(source.grid, settings, source.path)
        fingerprint = source.source.fingerprint()
        plan = plan_for(
            source.grid.shape, header, settings.number("tile_size"), settings.number("overlap"), settings.blend
        )
        _check_margin(plan, max(checkpoint.margin for checkpoint in checkpoints.values()))
        task = CellTask(
            scene=source.source,
            version=json.dumps(fingerprint, sort_keys=True),
            checkpoints=tuple(zip(map(str, paths), [item.header.sha256 for item in checkpoints.values()], strict=True)),
            plan=plan,
            placement=Placement.resolve(settings.device, settings.precision, settings.number("batch_size")),
            keep=products.keep,
            area=str(Path(settings.aoi).absolute()) if settings.aoi else None,
        )
        check_free_space(products.disk_needs(layers), source.grid.window.area)
        tags = _tags(task, header, settings)
        profile = RasterProfile(grid=source.grid, gcps=source.gcps, rpcs=source.rpcs, tags=tags)
        check_storable(profile)
    return _Run(
        products=products,
        outputs=outputs,
        scene=fingerprint,
        task=task,
        header=header,
        layers=layers,
        outlines=outlines,
        cleaning=cleaning,
        profile=profile,
    )


def _open(scenes: Sequence[str], header: Header, settings: Settings) -> Scene | Stack | Resampled:
    if len(scenes) == 1:
        scene: Scene | Stack = open_scene(scenes[0], header, settings.bands, settings.nodata)
    else:
        scene = open_stack(scenes, header, settings.bands, settings.nodata)
    return resampled(scene, header) if settings.resample else scene


def _attention_maps(checkpoints: Mapping[str, Checkpoint], keep: Keep) -> int:
    if not keep.attention:
        return 0
    name, checkpoint = next(iter(checkpoints.items()))
    maps = getattr(checkpoint.build(), "attention_maps", 0)
    if len(checkpoints) > 1 or not maps:
        said = "several models" if len(checkpoints) > 1 else f"{name} ({checkpoint.header.arch})"
        raise UsageError(f"--attention: {said} cannot show attention. Expected one model with attention gates.")
    return int(maps)


def _outlines(products: Products, layers: Mapping[str, Layer], header: Header, grid: Grid) -> Outlines | None:
    if products.vectors is None:
        return None
    others = [*products.rasters(layers).values(), *_styles(products, layers).values()]
    return Outlines.prepare(Path(products.vectors), header, layers, grid, others, products.review)


def _styles(products: Products, layers: Mapping[str, Layer]) -> dict[str, Path]:
    """QGIS lists all 256 entries of a colour table; the style beside each class raster names the classes alone."""
    rasters = products.rasters(layers)
    return {f"style of {n}": path.with_suffix(".qml") for n, path in rasters.items() if is_class_raster(layers[n])}


def _outputs(
    products: Products,
    layers: Mapping[str, Layer],
    vectors: Mapping[str, Path],
    inputs: Sequence[str | Path | None],
    overwrite: bool,
) -> Outputs:
    """The names of all files, checked: the rasters, the style beside each class raster, and the vectors."""
    files = products.rasters(layers) | _styles(products, layers) | dict(vectors)
    # The spool's lock keeps a second run of that name out.
    run = str(products.paths()["labels"].absolute())
    read = [path for path in inputs if path]
    return Outputs(files, inputs=read, overwrite=overwrite, run=run)


def _cleaning(grid: Grid, settings: Settings, scene: str) -> Cleaning:
    if not (settings.min_patch_m2 or settings.fill_holes_m2):
        return Cleaning()
    if grid.gsd is None:
        name = "min-patch-m2" if settings.min_patch_m2 else "fill-holes-m2"
        raise UsageError(
            f"--{name} means nothing without a CRS ({scene}). Expected a scene on the ground. Leave it out, or clean "
            "with geoseg vectorize --gsd METRES."
        )
    metric = Metric(grid)
    return Cleaning(
        min_pixels=pixels_below(settings.min_patch_m2, metric), fill_pixels=pixels_below(settings.fill_holes_m2, metric)
    )


def _check_margin(plan: Plan, margin: int) -> None:
    if plan.halo < margin:
        raise UsageError(
            f"--overlap {plan.overlap}: a network without padding says nothing of the outer {margin} pixels of what it "
            f"sees. Expected cropped tiles that overlap by at least {2 * margin}. Leave --overlap and --blend out."
        )


def _check_endings(products: Products, layers: Mapping[str, Layer], scenes: Sequence[str]) -> None:
    """Endings that say what is written, and no style that QGIS would apply to a scene itself."""
    for name, path in products.paths().items():
        if name == "vectors":
            check_ending(path)
        elif path.suffix.lower() not in (".tif", ".tiff"):
            raise UsageError(
                f"{path} is to hold a GeoTIFF. Expected a name that ends in .tif or .tiff. "
                f"Try {path.with_suffix('.tif')}."
            )
    styled = [path for name, path in products.rasters(layers).items() if is_class_raster(layers[name])]
    for scene, path in product(scenes, styled):
        if path.with_suffix(".qml").absolute() == Path(scene).with_suffix(".qml").absolute():
            raise UsageError(
                f"{path} differs from the scene {scene} in its ending alone: QGIS would style the scene as "
                "classes. Expected another name or folder."
            )


def _tags(task: CellTask, header: Header, settings: Settings) -> dict[str, str]:
    """What decided the pixels: no paths and no time of day, so that equal runs give equal bytes."""
    said = {
        "VERSION": __version__,
        "CHECKPOINT": header.sha256,
        "ARCH": header.arch,
        "BANDS": ",".join(map(str, task.scene.bands)),
        "NODATA_OVERRIDE": task.scene.nodata,
        "TILE_SIZE": task.plan.tile_size,
        "OVERLAP": task.plan.overlap,
        "BLEND": "taper" if isinstance(task.plan, TaperedPlan) else "crop",
        "DEVICE": task.placement.device.partition(":")[0],
        "PRECISION": task.placement.precision,
        "BATCH_SIZE": None if task.placement.device == "cpu" else task.placement.batch_size,
        "MIN_PATCH_M2": settings.min_patch_m2 or None,
        "FILL_HOLES_M2": settings.fill_holes_m2 or None,
        "LICENCE": header.licence or None,
        "ORIGIN": header.origin or None,
    }
    return {f"GEOSEG_{name}": str(value) for name, value in said.items() if value is not None}


def default_backend(placement: Placement) -> Threads:
    """Threads of this process: on the CPU one forward pass each, on a GPU readers that keep it busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Threads(min(cores, _MAX_THREADS) if placement.device == "cpu" else 4)


def _predict_cells(task: CellTask, spool: Spool, backend: Backend, progress: Progress) -> None:
    """Fill the spool with the cells that it lacks."""
    plan = task.plan
    batches = list(_batches(plan, [index for index in range(len(plan)) if index not in spool.done], task.placement))
    progress(len(spool.done), len(plan))
    try:
        with closing(ordered_map(task, batches, backend=backend)) as results:
            for batch, result in zip(batches, results, strict=True):
                for index, arrays in zip(batch, result, strict=True):
                    spool.write(index, arrays)
                progress(len(spool.done), len(plan))
    finally:
        close_readers()


def _batches(plan: Plan, todo: Sequence[int], placement: Placement) -> Iterator[tuple[int, ...]]:
    """Neighbouring cells whose tiles have one shape, as many as one forward pass takes."""
    if isinstance(plan, TaperedPlan):  # a cell of it is several tiles
        yield from ((index,) for index in todo)
        return
    size = placement.batch_size
    for _, group in groupby(todo, key=lambda index: plan.tile(plan.cell(index)).shape):
        cells = list(group)
        yield from (tuple(cells[start : start + size]) for start in range(0, len(cells), size))


def _write_rasters(run: _Run, spool: Spool, planes: Mapping[str, Planes]) -> None:
    for name in run.products.rasters(run.layers):
        path, layer = run.outputs.staged(name), run.layers[name]
        cleaned = run.cleaning and name in planes
        cells = _strips(planes[name]) if cleaned else _stored(run.task.plan, spool, name)
        write_cog(path, cells, _profile(run, layer))
        if path.with_name(path.name + ".aux.xml").exists():
            run.outputs.staged(name, ".aux.xml")
        if is_class_raster(layer):
            classes = run.header.heads[layer.head].classes
            style = class_raster_style({value: (item.name, item.color) for value, item in enumerate(classes)})
            run.outputs.staged(f"style of {name}").write_text(style, encoding="utf-8")


def _strips(planes: Planes) -> Iterator[tuple[Window, np.ndarray]]:
    height, width = planes.grid.shape
    for row in range(0, height, planes.step):
        window = Window(row=row, col=0, height=min(planes.step, height - row), width=width)
        yield window, planes.labels(window)


def _profile(run: _Run, layer: Layer) -> RasterProfile:
    """What is said of a layer's raster."""
    profile = replace(run.profile, dtype=np.dtype(layer.dtype).name, nodata=layer.nodata, averaged=not layer.categories)
    if layer.kind == "labels":
        if layer.bands:
            return replace(profile, bands=layer.bands)
        return replace(profile, classes=run.header.heads[layer.head].classes)
    if layer.kind == "values":
        return replace(profile, bands=[layer.head], units=run.header.heads[layer.head].unit)
    return replace(profile, bands=layer.bands or ["probability of the class"], scale=1 / PROBABILITY_SCALE)


def _stored(plan: Plan, spool: Spool, layer: str) -> Iterator[tuple[Window, np.ndarray]]:
    for index, cell in enumerate(plan):
        yield cell, spool.read(index, only=layer)[layer]
