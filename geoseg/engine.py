"""The engine: scene windows in, finished cells out. The same code predicts files and validates a model in training.

A cell's result is a pure function of (scene, checkpoint, settings, cell): read the cell with its halo, one forward pass,
crop. Nothing is summed across cells, so order, workers, kills and resumes cannot change a byte.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from geoseg.batches import Reader, read_tile
from geoseg.checkpoint import load_checkpoint
from geoseg.errors import CheckpointError, SceneError
from geoseg.predict import Placement, Runner, Scores
from geoseg.scene import Scene, SceneSource
from geoseg.targets import LabelledArea, labelled_area
from geoseg.windows import Plan, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What is kept beside the labels."""

    confidence: bool = False
    """The chosen class's probability."""
    probabilities: bool = False
    """Every class's probability."""


LABELS_ONLY = Keep()


def cells(
    reader: Reader,
    runner: Runner,
    plan: Plan,
    windows: Sequence[Window],
    *,
    keep: Keep = LABELS_ONLY,
    area: LabelledArea | None = None,
) -> Iterator[Scores]:
    """Predict some cells of a plan. A cell without a valid pixel costs no forward pass.

    Args:
        reader: The scene; a tile is read from it for each cell.
        runner: The network on its device.
        plan: How the scene is cut.
        windows: Cells of the plan: a batch.
        keep: What to keep beside the labels.
        area: Outside of it everything is nodata, though the network sees it as context.

    Yields:
        Scores of each cell, in the order of `windows`.
    """
    for _, group in groupby(windows, key=lambda cell: plan.tile(cell).shape):
        yield from _same_shape(reader, runner, plan, list(group), keep, area)


def _same_shape(
    reader: Reader, runner: Runner, plan: Plan, batch: list[Window], keep: Keep, area: LabelledArea | None
) -> Iterator[Scores]:
    flags = {"confidence": keep.confidence, "probabilities": keep.probabilities}
    tiles, valid, busy = [], [], []
    for index, cell in enumerate(batch):
        wanted = area.valid(cell) if area else np.ones(cell.shape, bool)
        if not wanted.any():
            continue
        tile = read_tile(reader, plan.tile(cell))
        wanted &= tile.valid[plan.halo : plan.halo + cell.height, plan.halo : plan.halo + cell.width]
        if wanted.any():
            tiles.append(tile)
            valid.append(wanted)
            busy.append(index)
    done = dict(zip(busy, runner(tiles, valid, halo=plan.halo, **flags), strict=True))
    for index, cell in enumerate(batch):
        yield done.get(index) or Scores.nodata(cell.shape, classes=runner.classes, **flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTask:
    """`cells` for workers: carries paths and numbers, opens scene and model on first use, returns arrays."""

    scene: SceneSource
    checkpoint: str
    """Path of the checkpoint."""
    sha256: str
    """Of the checkpoint's tensors: a file replaced during the run is noticed."""
    plan: Plan
    placement: Placement
    keep: Keep = LABELS_ONLY
    area: str | None = None
    """Path of the polygons outside of which everything is nodata."""

    def __call__(self, indices: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
        """The arrays of `Scores` of these cells of the plan, by name."""
        reader, area = _open(self.scene, self.area)
        if reader.grid.shape != self.plan.shape:
            raise SceneError(f"{self.scene.path} has changed since the run began. Expected the same file. Start again.")
        runner = load_runner(self.checkpoint, self.sha256, self.placement)
        windows = [self.plan.cell(index) for index in indices]
        return [s.arrays() for s in cells(reader, runner, self.plan, windows, keep=self.keep, area=area)]


_local = threading.local()
_loading = threading.Lock()


def _open(scene: SceneSource, area: str | None) -> tuple[Scene, LabelledArea | None]:
    """This thread's own handle (GDAL's are not to be shared), kept from task to task."""
    if getattr(_local, "key", None) != (scene, area):
        # Convolutions of several threads share the cores better when each uses one; OpenMP keeps this per thread.
        torch.set_num_threads(1)
        if old := getattr(_local, "scene", None):
            old.close()
        _local.key = None
        _local.scene = scene.open()
        _local.area = labelled_area(area, _local.scene.grid) if area else None
        _local.key = (scene, area)
    return _local.scene, _local.area


def load_runner(checkpoint: str | Path, sha256: str, placement: Placement) -> Runner:
    """The checkpoint's network on its device; loaded once per process.

    Raises:
        CheckpointError: If the file's tensors are not those of `sha256`.
        DeviceError: If this machine lacks the device.
    """
    with _loading:
        return _load_runner(str(checkpoint), sha256, placement)


@lru_cache(maxsize=1)
def _load_runner(path: str, sha256: str, placement: Placement) -> Runner:
    checkpoint = load_checkpoint(path)
    header = checkpoint.header
    if header.sha256 != sha256:
        raise CheckpointError(f"{path} has changed since the run began. Expected the same file. Start again.")
    return Runner(
        checkpoint.build(),
        mean=header.mean,
        std=header.std,
        classes=len(header.classes),
        temperature=header.temperature,
        placement=placement,
    )
