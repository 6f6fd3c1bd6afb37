"""predict_scene(): scene -> windows -> batches -> model -> blend -> raster -> polygons.

The only module that knows the order. Everything that can be refused is refused before the first pixel is predicted, and
nothing appears under an output's name before all outputs are complete.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geoseg.checkpoint import load_checkpoint, resolve_model
from geoseg.engine import CellTask, Keep
from geoseg.outputs import Outputs
from geoseg.parallel import Backend
from geoseg.predict import Placement
from geoseg.spool import Spool

log = logging.getLogger(__name__)

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

    @classmethod
    def beside_caller(cls, scene: str, model: str, labels: Path | None = None, **others: Path | None) -> "Products":
        """With `<scene>_<model>.tif` in the working directory where no class raster is named."""
        return cls(labels=labels or Path(f"{Path(scene).stem}_{Path(model).stem}.tif"), **others)

    def paths(self) -> dict[str, Path]:
        """By name, the class raster first, without those that were not asked for."""
        named = {name: getattr(self, name) for name in ("labels", "vectors", "confidence", "probabilities")}
        return {name: Path(path) for name, path in named.items() if path is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides pixels beside the scene and the checkpoint. None or "auto": geoseg knows."""

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
    checkpoint = resolve_model(str(model))
    header = load_checkpoint(checkpoint).header
    products = products or Products.beside_caller(str(scene), str(model))
    placement = Placement.resolve(settings.device, settings.precision, settings.batch_size)
    with open_scene(scene, header, settings) as source:
        _warn(source, header)
        outputs = Outputs(products.paths(), inputs=_inputs(source, checkpoint, settings), overwrite=overwrite)
        task = CellTask(
            scene=source.source,
            checkpoint=str(checkpoint),
            sha256=header.sha256,
            plan=plan_for(source.grid.shape, header, settings),
            placement=placement,
            keep=Keep(confidence=bool(products.confidence), probabilities=bool(products.probabilities)),
            area=str(Path(settings.aoi).absolute()) if settings.aoi else None,
        )
        profile = _profile(source, header, task)
    spool = Spool.open(_spool_path(products.labels), _fingerprint(task), resume=resume, overwrite=overwrite)
    with outputs, spool:
        resumed = len(spool.done)
        _predict_cells(task, spool, backend or default_backend(placement), progress)
        features = _write(products, outputs, spool, task.plan, header, profile)
        outputs.commit()
        spool.remove()
    return Prediction(...)
