"""predict_scene(): scene -> windows -> batches -> model -> blend -> raster -> polygons.

The only module that knows the order. Everything that can be refused is refused before the first pixel is predicted, and
nothing appears under an output's name before all outputs are complete.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.engine import CellTask, close_readers
from geoseg.errors import CheckpointError, SceneError
from geoseg.layers import Layer
from geoseg.outlines import is_class_raster, planes_of
from geoseg.parallel import Backend, Threads, ordered_map
from geoseg.pixels import PROBABILITY_SCALE
from geoseg.predict import Placement
from geoseg.products import Products
from geoseg.qgis import class_raster_style
from geoseg.raster import RasterProfile, write_cog
from geoseg.run import Run, prepare
from geoseg.settings import DEFAULTS, Settings
from geoseg.spool import Spool
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
    run = prepare([str(path) for path in scenes], [str(name) for name in models], products, settings, overwrite)
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
    return _prediction(run, resumed, features, placed)


def _prediction(run: Run, resumed: int, features: dict[str, int], placed: Sequence[Path]) -> Prediction:
    """What is said of the finished run."""
    plan, paths = run.task.plan, run.files
    return Prediction(
        paths=paths,
        side_files=tuple(path for path in placed if path not in paths.values()),
        shape=plan.shape,
        cells=len(plan),
        resumed=resumed,
        classes=tuple(item.name for item in run.header.classes),
        placement=run.task.placement,
        tile_size=plan.tile_size,
        overlap=plan.overlap,
        features=features,
    )


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


def _write_rasters(run: Run, spool: Spool, planes: Mapping[str, Planes]) -> None:
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


def _profile(run: Run, layer: Layer) -> RasterProfile:
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
