"""The engine: scene windows in, finished cells out. The same code predicts files and validates a model in training.

A cell's result is a pure function of (scene, checkpoint, settings, cell): read the cell with its halo, one forward
pass, crop; or, where the network's context is unbounded, blend all tiles that touch the cell. Nothing is summed across
cells, so order, workers, kills and resumes cannot change a byte.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
import torch

from geoseg.batches import Reader, Tile, read_tile
from geoseg.blend import add, taper
from geoseg.checkpoint import load_checkpoint
from geoseg.errors import CheckpointError, SceneError
from geoseg.layers import LABELS_ONLY, Keep
from geoseg.predict import VIEWS, Ensemble, Placement, Predictor, Runner, View
from geoseg.scene import Scene, SceneSource
from geoseg.scene.resampled import Resampled, ResampledSource
from geoseg.scene.stack import Stack, StackSource
from geoseg.scores import Decision, Scores
from geoseg.targets import LabelledArea, labelled_area
from geoseg.windows import Plan, TaperedPlan, Window


def cells(
    reader: Reader,
    runner: Predictor,
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
    if isinstance(plan, TaperedPlan):
        yield from (_blended(reader, runner, plan, cell, keep, area) for cell in windows)
        return
    for _, group in groupby(windows, key=lambda cell: plan.tile(cell).shape):
        yield from _same_shape(reader, runner, plan, list(group), keep, area)


def _same_shape(
    reader: Reader, runner: Predictor, plan: Plan, batch: list[Window], keep: Keep, area: LabelledArea | None
) -> Iterator[Scores]:
    tiles, valid, busy = [], [], []
    for index, cell in enumerate(batch):
        wanted = _wanted(cell, area)
        if not wanted.any():
            continue
        tile = read_tile(reader, plan.tile(cell))
        wanted &= tile.valid[plan.halo : plan.halo + cell.height, plan.halo : plan.halo + cell.width]
        if wanted.any():
            tiles.append(tile)
            valid.append(wanted)
            busy.append(index)
    done = dict(zip(busy, runner(tiles, valid, halo=plan.halo, keep=keep), strict=True))
    for index, cell in enumerate(batch):
        yield done.get(index) or runner.nothing(cell.shape, keep)


@torch.inference_mode()
def _blended(
    reader: Reader, runner: Predictor, plan: TaperedPlan, cell: Window, keep: Keep, area: LabelledArea | None
) -> Scores:
    wanted = _wanted(cell, area)
    weights = taper(plan.tile_size, plan.overlap).to(runner.device)
    sums = torch.zeros((runner.channels(keep), *cell.shape), device=runner.device)
    windows = plan.tiles(cell)
    for start in range(0, len(windows), runner.step):
        tiles = {}
        for window in windows[start : start + runner.step]:
            both = window.intersection(cell)
            if both is None or not wanted[both.slices(cell)].any():
                continue
            tile = read_tile(reader, window)
            # A tile over no wanted pixel adds to nothing that is kept.
            wanted[both.slices(cell)] &= tile.valid[both.slices(window)]
            if wanted[both.slices(cell)].any():
                tiles[window] = tile
        for window, logits in zip(tiles, runner.logits(list(tiles.values()), halo=None, keep=keep), strict=True):
            add(sums, cell, logits, window, weights)
    return runner.scores(sums, wanted, keep) if wanted.any() else runner.nothing(cell.shape, keep)


def _wanted(cell: Window, area: LabelledArea | None) -> np.ndarray:
    return area.valid(cell) if area else np.ones(cell.shape, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTask:
    """`cells` for workers: carries paths and numbers, opens scene and model on first use, returns arrays."""

    scene: SceneSource | StackSource | ResampledSource
    version: str
    """Of the scene's files: a handle is never kept from one version to the next."""
    checkpoints: tuple[tuple[str, str], ...]
    """Path and sha256 of each network's checkpoint: a file replaced during the run is noticed."""
    plan: Plan
    placement: Placement
    keep: Keep = LABELS_ONLY
    area: str | None = None
    """Path of the polygons outside of which everything is nodata."""

    def __call__(self, indices: tuple[int, ...]) -> list[Scores]:
        """The scores of these cells of the plan."""
        reader, area = _open(self.scene, self.version, self.area, self.placement.device)
        if reader.grid.shape != self.plan.shape:
            raise SceneError(f"{self.scene.path} has changed since the run began. Expected the same file. Start again.")
        runner = load_predictor(self.checkpoints, self.placement)
        windows = [self.plan.cell(index) for index in indices]
        return list(cells(reader, runner, self.plan, windows, keep=self.keep, area=area))


class SharedReader:
    """One handle of a scene, or one of each file of a stack, for all threads of a process; one read at a time.

    GDAL keeps decoded blocks per handle: threads with handles of their own would each decode the blocks that the
    halos of neighbouring cells share, and decode little faster for it beside a forward pass on the CPU.
    """

    def __init__(self, scene: Scene | Stack | Resampled) -> None:
        """Take over `scene`."""
        self._scene, self._turn = scene, threading.Lock()
        self.grid = scene.grid

    def read(self, window: Window) -> Tile:
        """As `Scene.read`."""
        with self._turn:
            return self._scene.read(window)


_local = threading.local()
_loading = threading.Lock()


def _open(
    scene: SceneSource | StackSource | ResampledSource, version: str, area: str | None, device: str
) -> tuple[Reader, LabelledArea | None]:
    """The scene and the area, kept from task to task.

    On the CPU all threads share them; an accelerator waits for its readers, so there each thread has its own handle.
    """
    # Forward passes of several threads share the cores better with one thread each; OpenMP keeps this per thread.
    torch.set_num_threads(1)
    if device == "cpu":
        with _loading:
            return _open_shared(scene, version, area)
    if getattr(_local, "key", None) != (scene, version, area):
        reader = scene.open()
        _local.opened = reader, labelled_area(area, reader.grid) if area else None
        _local.key = (scene, version, area)
    opened: tuple[Reader, LabelledArea | None] = _local.opened
    return opened


@lru_cache(maxsize=1)
def _open_shared(
    scene: SceneSource | StackSource | ResampledSource, version: str, area: str | None
) -> tuple[Reader, LabelledArea | None]:
    reader = SharedReader(scene.open())
    return reader, labelled_area(area, reader.grid) if area else None


def close_readers() -> None:
    """Let go of the files that tasks in this process keep open. Threads of their own close theirs when they end."""
    with _loading:
        _open_shared.cache_clear()


def load_predictor(checkpoints: tuple[tuple[str, str], ...], placement: Placement) -> Predictor:
    """The network of a checkpoint, or the ensemble of several, on its device; loaded once per process.

    Args:
        checkpoints: Path and sha256 of each.
        placement: Where and how it runs.

    Raises:
        CheckpointError: If a file's tensors are not those of its sha256.
        DeviceError: If this machine lacks the device.
    """
    with _loading:
        return _load_predictor(checkpoints, placement)


@lru_cache(maxsize=1)
def _load_predictor(checkpoints: tuple[tuple[str, str], ...], placement: Placement) -> Predictor:
    runners = [_load_runner(path, sha256, placement) for path, sha256 in checkpoints]
    for runner in runners:  # one forward pass at a time, whoever's it is
        runner.turn = runners[0].turn
    if placement.tta:
        return Ensemble([View(runner, *view) for runner in runners for view in VIEWS])
    return runners[0] if len(runners) == 1 else Ensemble(runners)


def _load_runner(path: str, sha256: str, placement: Placement) -> Runner:
    checkpoint = load_checkpoint(path)
    header = checkpoint.header
    if header.sha256 != sha256:
        raise CheckpointError(f"{path} has changed since the run began. Expected the same file. Start again.")
    return Runner(
        checkpoint.build(),
        mean=header.mean,
        std=header.std,
        decision=Decision(heads=header.heads, temperature=header.temperature, thresholds=header.thresholds),
        placement=placement,
    )
