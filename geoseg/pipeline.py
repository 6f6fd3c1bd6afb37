"""predict_scene(): scene -> windows -> batches -> model -> blend -> raster -> polygons.

The only module that knows the order. Everything that can be refused is refused before the first pixel is predicted, and
nothing appears under an output's name before all outputs are complete.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from geoseg import __version__
from geoseg.checkpoint import Header, load_checkpoint, resolve_model
from geoseg.engine import CellTask, Keep, close_readers
from geoseg.errors import CheckpointError, SceneError, UsageError
from geoseg.outputs import Outputs
from geoseg.parallel import Backend, Threads, ordered_map
from geoseg.predict import PROBABILITY_SCALE, Placement
from geoseg.preflight import open_scene, plan_for, warn_of_differences
from geoseg.qgis import class_raster_style, polygon_style
from geoseg.raster import RasterProfile, check_free_space, check_storable, write_cog
from geoseg.spool import Spool
from geoseg.targets import labelled_area
from geoseg.vectors import check_names, layer_name, polygonize, write_layers
from geoseg.windows import Plan, Window

_MAX_THREADS = 8
"""Threads of the default backend: each holds the activations of a cell."""

Progress = Callable[[int, int], None]
"""Called with (cells done, cells in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """The files a prediction writes."""

    labels: Path
    """Class raster: uint8, 255 = nodata."""
    vectors: Path | None = None
    """GeoPackage with a polygon layer per class."""
    confidence: Path | None = None
    """Probability of the chosen class: uint8, 0..254 = p * 254, 255 = nodata."""
    probabilities: Path | None = None
    """The same for every class, one band each."""

    def __post_init__(self) -> None:
        for name in ("labels", "vectors", "confidence", "probabilities"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, Path(value))

    @classmethod
    def beside_caller(cls, scene: str, model: str, labels: Path | None = None, **others: Path | None) -> "Products":
        """With `<scene>_<model>.tif` in the working directory where no class raster is named."""
        return cls(labels=labels or Path(f"{Path(scene).stem}_{Path(model).stem}.tif"), **others)

    def paths(self) -> dict[str, Path]:
        """By name, the class raster first, without those that were not asked for."""
        named = {name: getattr(self, name) for name in ("labels", "vectors", "confidence", "probabilities")}
        return {name: path for name, path in named.items() if path is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides pixels beside scene and checkpoint. None, or "auto" for device and precision: geoseg knows."""

    bands: tuple[str | int, ...] | None = None
    """Band numbers (from 1) or names, in the checkpoint's order; by default matched by name."""
    nodata: float | None = None
    """Overrides the value the scene declares as nodata."""
    aoi: Path | None = None
    """Polygons outside of which nothing is predicted."""
    tile_size: int | None = None
    """Side of what the network sees, in pixels."""
    overlap: int | None = None
    """Pixels shared by neighbouring tiles: twice the halo."""
    batch_size: int | None = None
    """Tiles in one forward pass."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16."""


DEFAULTS = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What was written, and how."""

    paths: dict[str, Path]
    """By product: labels, vectors, confidence, probabilities."""
    shape: tuple[int, int]
    """(height, width) of the rasters."""
    cells: int
    """Cells in all."""
    resumed: int
    """Cells found in the spool of an interrupted run."""
    classes: tuple[str, ...]
    """Class names, by index."""
    placement: Placement
    """Device, precision and batch size."""
    tile_size: int
    """Side of a full tile."""
    overlap: int
    """Pixels shared by neighbouring tiles."""
    features: dict[str, int]
    """Polygons per layer, when vectors were asked for."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "paths": {name: str(path) for name, path in self.paths.items()}}


def predict_scene(
    scene: str | Path,
    model: str | Path = "unet",
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
        scene: Path or URL of a raster.
        model: A built-in model's name or the path of a checkpoint.
        products: What to write; by default `<scene>_<model>.tif` in the working directory.
        settings: What decides pixels.
        backend: Who computes: threads of this process by default, or a Dask cluster.
        resume: Go on with the interrupted run beside the output, if there is one.
        overwrite: Replace outputs that exist, when the new ones are complete.
        progress: Called after every batch of cells.

    Returns:
        What was written, and how.

    Raises:
        UsageError: If options do not fit together, or an output exists.
        SceneError: If the scene cannot be opened or read.
        BandError: If the scene lacks the model's bands.
        CheckpointError: If the model cannot be used.
        OutputError: If an output cannot be written.
    """
    run = _prepare(str(scene), str(model), products, settings, overwrite)
    spool = Spool.open(run.spool_folder, run.fingerprint, resume=resume, overwrite=overwrite)
    with run.outputs, spool:
        resumed = len(spool.done)
        try:
            _predict_cells(run.task, spool, backend or default_backend(run.task.placement), progress)
        except (SceneError, CheckpointError):
            # A damaged input stays damaged: nothing is left to go on with. A network may come back.
            if Path(run.task.scene.path).exists():
                spool.remove()
            raise
        _write_rasters(run, spool)
        features = _write_vectors(run)
        run.outputs.commit()
        spool.remove()
    return run.prediction(resumed, features)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A prediction that nothing stands against any more."""

    products: Products
    outputs: Outputs
    scene: dict[str, Any]
    """The scene's fingerprint."""
    task: CellTask
    header: Header
    profile: RasterProfile
    """Of the class raster; the others differ from it in what they hold."""

    @property
    def spool_folder(self) -> Path:
        """Beside the class raster."""
        labels = self.products.labels
        return labels.with_name(labels.name + ".partial")

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the cells depend on; an interrupted run goes on only where all of it is the same."""
        task = self.task
        return {
            "scene": self.scene,
            "checkpoint": task.sha256,
            "plan": asdict(task.plan),
            "placement": asdict(task.placement),
            "products": asdict(task.keep),
            "aoi": task.area and hashlib.sha256(Path(task.area).read_bytes()).hexdigest(),
            "geoseg": __version__,
        }

    def prediction(self, resumed: int, features: dict[str, int]) -> Prediction:
        """What is said of the finished run."""
        plan = self.task.plan
        return Prediction(
            paths=self.products.paths(),
            shape=plan.shape,
            cells=len(plan),
            resumed=resumed,
            classes=tuple(item.name for item in self.header.classes),
            placement=self.task.placement,
            tile_size=plan.cell_side + 2 * plan.halo,
            overlap=2 * plan.halo,
            features=features,
        )


def _prepare(scene: str, model: str, products: Products | None, settings: Settings, overwrite: bool) -> _Run:
    """Everything that can be refused before the first pixel."""
    checkpoint = resolve_model(model).absolute()
    header = load_checkpoint(checkpoint).header
    products = products or Products.beside_caller(scene, model)
    with open_scene(scene, header, settings.bands, settings.nodata) as source:
        inputs: list[str | Path] = [checkpoint, source.source.path, *([settings.aoi] if settings.aoi else [])]
        # QGIS lists all 256 entries of a colour table; the style beside the raster names the classes alone.
        labels = products.labels
        files = {**products.paths(), "style": labels.with_suffix(".qml")}
        # The spool's lock keeps a second run of that name out.
        outputs = Outputs(files, inputs=inputs, overwrite=overwrite, run=str(labels.absolute()))
        _check_endings(products, source.path)
        if products.vectors:
            check_names(layer_name(item.name) for item in header.classes[1:])
        warn_of_differences(scene, source, header)
        if settings.aoi:
            labelled_area(settings.aoi, source.grid)  # refused now rather than by the first worker
        fingerprint = source.source.fingerprint()
        task = CellTask(
            scene=source.source,
            version=json.dumps(fingerprint, sort_keys=True),
            checkpoint=str(checkpoint),
            sha256=header.sha256,
            plan=plan_for(source.grid.shape, header, settings.tile_size, settings.overlap),
            placement=Placement.resolve(settings.device, settings.precision, settings.batch_size),
            keep=Keep(confidence=products.confidence is not None, probabilities=products.probabilities is not None),
            area=str(Path(settings.aoi).absolute()) if settings.aoi else None,
        )
        bands = task.keep.confidence + len(header.classes) * task.keep.probabilities
        check_free_space(products.labels.parent, source.grid.window.area, probability_bands=bands)
        profile = RasterProfile(
            grid=source.grid,
            gcps=source.gcps,
            rpcs=source.rpcs,
            classes=header.classes,
            tags=_tags(task, header),
        )
        check_storable(profile)
    return _Run(products=products, outputs=outputs, scene=fingerprint, task=task, header=header, profile=profile)


def _check_endings(products: Products, scene: str) -> None:
    """Endings that say what is written, and no style that QGIS would apply to the scene itself."""
    for name, path in products.paths().items():
        endings = (".gpkg",) if name == "vectors" else (".tif", ".tiff")
        if path.suffix.lower() not in endings:
            raise UsageError(
                f"{path} is to hold a {'GeoPackage' if name == 'vectors' else 'GeoTIFF'}. Expected a name that ends in "
                f"{' or '.join(endings)}. Try {path.with_suffix(endings[0])}."
            )
    style = products.labels.with_suffix(".qml")
    if style.absolute() == Path(scene).with_suffix(".qml").absolute():
        raise UsageError(
            f"{products.labels} differs from the scene {scene} in its ending alone: QGIS would style the scene as "
            "classes. Expected another name or folder."
        )


def _tags(task: CellTask, header: Header) -> dict[str, str]:
    """What decided the pixels: no paths and no time of day, so that equal runs give equal bytes."""
    said = {
        "VERSION": __version__,
        "CHECKPOINT": header.sha256,
        "ARCH": header.arch,
        "BANDS": ",".join(map(str, task.scene.bands)),
        "NODATA_OVERRIDE": task.scene.nodata,
        "CELL_SIDE": task.plan.cell_side,
        "HALO": task.plan.halo,
        "DEVICE": task.placement.device.partition(":")[0],
        "PRECISION": task.placement.precision,
        "BATCH_SIZE": None if task.placement.device == "cpu" else task.placement.batch_size,
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
    size = placement.batch_size
    for _, group in groupby(todo, key=lambda index: plan.tile(plan.cell(index)).shape):
        cells = list(group)
        yield from (tuple(cells[start : start + size]) for start in range(0, len(cells), size))


def _write_rasters(run: _Run, spool: Spool) -> None:
    names = [item.name for item in run.header.classes]
    bands = {"labels": ["class"], "confidence": ["probability of the class"], "probabilities": names}
    for product in (name for name in run.products.paths() if name in bands):
        path = run.outputs.staged(product)
        profile = run.profile
        if product != "labels":
            profile = replace(profile, classes=(), bands=bands[product], scale=1 / PROBABILITY_SCALE)
        write_cog(path, _stored(run.task.plan, spool, product), profile)
        if path.with_name(path.name + ".aux.xml").exists():
            run.outputs.staged(product, ".aux.xml")
    style = class_raster_style({value: (item.name, item.color) for value, item in enumerate(run.header.classes)})
    run.outputs.staged("style").write_text(style, encoding="utf-8")


def _stored(plan: Plan, spool: Spool, product: str) -> Iterator[tuple[Window, np.ndarray]]:
    for index, cell in enumerate(plan):
        yield cell, spool.read(index, only=product)[product]


def _write_vectors(run: _Run) -> dict[str, int]:
    """Polygons of every class but the first, the background; returns their number by layer."""
    if run.products.vectors is None:
        return {}
    classes = run.header.classes
    frames = polygonize(
        run.outputs.staged("labels"),
        {value: item.name for value, item in enumerate(classes) if value},
        confidence=run.outputs.staged("confidence") if run.products.confidence else None,
        source=f"{run.header.arch} {run.task.sha256[:12]}",
    )
    layers = {layer_name(name): frame for name, frame in frames.items()}
    styles = {layer_name(item.name): polygon_style(item.color) for item in classes}
    write_layers(run.outputs.staged("vectors"), layers, styles=styles)
    return {name: len(frame) for name, frame in layers.items()}
