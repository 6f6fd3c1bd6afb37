"""What a run ends with: a calibrated checkpoint, a table of validation tiles, and pictures."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate

from geoseg.checkpoint import Header, load_checkpoint, save_checkpoint
from geoseg.config import TrainConfig
from geoseg.engine import cells
from geoseg.metrics import IGNORE, TileScore
from geoseg.plans import plan_for
from geoseg.predict import Placement, Runner
from geoseg.scores import Decision
from geoseg.training.folder import BATCH, CHECKPOINT, CONFUSION, CURVES, METRICS, SAMPLES, TILES, RunFolder
from geoseg.training.journal import metrics_of
from geoseg.training.samples import FURTHER, Ground, Samples
from geoseg.training.task import Segmentation
from geoseg.training.validate import Validation, mean_foreground, validate
from geoseg.windows import Window

log = logging.getLogger(__name__)

_EACH = 3
"""How many of the worst, the middling and the best tiles are drawn."""
_SIDE = 512
"""Of a window that is drawn where no tile is scored."""
_SHEET = 16
"""Samples on the contact sheet."""
_LABELLED = 0.25
"""A tile of which less is labelled is not drawn, unless there is no other."""


def finish(folder: RunFolder, config: TrainConfig, val: Sequence[Ground], placement: Placement, best: int) -> None:
    """Calibrate the best network as it was saved, write its scores by tile, draw the run.

    Args:
        folder: Of the run; holds a checkpoint and metrics.csv.
        config: The run.
        val: Validation ground; without it, only the curves are drawn.
        placement: Where the network runs.
        best: The epoch of the checkpoint, from 1.

    Raises:
        OutputError: If a file cannot be written.
    """
    from geoseg.training.figures import confusion, curves

    path = folder.path
    classes = _classes(config)
    curves(path / CURVES, path / METRICS, classes, best=best)
    if not val:
        return
    saved = load_checkpoint(path / CHECKPOINT)
    network = saved.build()
    scores = validate(network, saved.header, val, placement, thorough=True)
    header = saved.header.model_copy(update={"metrics": metrics_of(scores)})
    if scores.calibration:
        header = scores.calibration.applied(header)
        log.info(
            "Calibrated: temperature %.3f, negative log-likelihood %.4f instead of %.4f.",
            header.temperature,
            scores.calibration.nll_after,
            scores.calibration.nll_before,
        )
    save_checkpoint(path / CHECKPOINT, header, saved.state_dict)
    scores.save_tiles(path / TILES)
    if scores.matrix is not None:
        confusion(path / CONFUSION, scores.matrix.matrix, list(classes))
    draw_samples(folder, config, header, network, val, scores, placement)


def draw_samples(
    folder: RunFolder,
    config: TrainConfig,
    header: Header,
    network: nn.Module,
    val: Sequence[Ground],
    scores: Validation,
    placement: Placement,
) -> None:
    """Draw the worst, the middling and the best tiles of validation ground: image, target, prediction, error."""
    from geoseg.training.figures import Shown, samples

    runner = Runner(
        network,
        mean=header.mean,
        std=header.std,
        decision=Decision(heads=header.heads, temperature=header.temperature, thresholds=header.thresholds),
        placement=placement,
    )
    name = config.main_head or next((name for name, head in header.heads.items() if head.task == "regression"), None)
    if name is None:
        return
    kind = "labels" if config.main_head else "values"
    rows = []
    for title, index, window in _chosen(scores.tiles, val):
        ground = val[index]
        truth = ground.target if config.main_head else np.where(ground.valid, ground.further[name][0], np.nan)
        rows.append(
            Shown(
                title=title,
                image=np.asarray(ground.data[:, *window.slices()]),
                valid=np.asarray(ground.valid[window.slices()]),
                target=np.asarray(truth[window.slices()]),
                predicted=_predicted(
                    runner, header, ground, window, kind if len(header.heads) == 1 else f"{kind}_{name}"
                ),
                known=ground.known if config.main_head else None,
            )
        )
    classes = _classes(config)
    samples(folder.path / SAMPLES, rows, classes, bands=header.bands, unit=header.heads[name].unit)


def _chosen(tiles: Sequence[TileScore], val: Sequence[Ground]) -> Iterator[tuple[str, int, Window]]:
    """Title, ground and window of what is drawn."""
    if not tiles:
        for index, ground in enumerate(val[: 3 * _EACH]):
            height, width = (min(size, _SIDE) for size in ground.target.shape)
            row, col = ((size - side) // 2 for size, side in zip(ground.target.shape, (height, width), strict=True))
            yield ground.name, index, Window(row=row, col=col, height=height, width=width)
        return
    known = [tile for tile in tiles if tile.matrix.sum() >= _LABELLED * tile.width * tile.height] or tiles
    # Of a tile without anything to find there is nothing to see when nothing is found.
    telling = [tile for tile in known if tile.matrix.sum() > tile.matrix[0, 0]] or known
    # Where nothing is drawn, a single wrong pixel is an IoU of 0: of equal scores, more wrong pixels are worse.
    ranked = sorted(telling, key=lambda tile: (_score(tile), _right(tile)))
    each = min(_EACH, -(-len(ranked) // 3))
    middle = len(ranked) // 2 - each // 2
    parts = {"worst": range(each), "middling": range(middle, middle + each)}
    parts["best"] = range(max(0, len(ranked) - each), len(ranked))
    drawn: set[int] = set()
    for word, places in parts.items():
        for place in places:
            if place < len(ranked) and place not in drawn:
                drawn.add(place)
                tile = ranked[place]
                if tile.window is not None:
                    where = f"{Path(tile.name).name}, column {tile.window.col}, row {tile.window.row}"
                    yield f"{word}: {where}, mean IoU {_score(tile):.2f}", tile.ground, tile.window


def _score(tile: TileScore) -> float:
    """Mean IoU of the classes after the background, of those there are; of the background where it is all there is."""
    hit, either = np.diag(tile.matrix), tile.matrix.sum(0) + tile.matrix.sum(1) - np.diag(tile.matrix)
    iou = {str(at): float(h / e) if e else None for at, (h, e) in enumerate(zip(hit, either, strict=True))}
    return next((value for value in (mean_foreground(iou), iou["0"]) if value is not None), 0.0)


def _right(tile: TileScore) -> float:
    """The share of pixels that are right."""
    return float(np.trace(tile.matrix) / max(tile.matrix.sum(), 1))


def _predicted(runner: Runner, header: Header, ground: Ground, window: Window, kind: str) -> np.ndarray:
    """(h, w) of what the network says there, as `geoseg predict` would write it."""
    plan = plan_for(ground.target.shape, header)
    found: np.ndarray | None = None
    for cell in plan:
        if (common := cell.intersection(window)) is None:
            continue
        (scores,) = cells(ground.reader, runner, plan, [cell])
        values = np.asarray(scores[kind])
        if found is None:
            found = np.full(window.shape, IGNORE if values.dtype == np.uint8 else np.nan, values.dtype)
        found[common.slices(window)] = values[common.slices(cell)]
    assert found is not None  # noqa: S101  the cells of a plan cover the ground
    return found


def draw_batch(folder: RunFolder, task: Segmentation, samples: Samples, header: Header) -> None:
    """Draw the first samples as the network will see them, over their targets: the last chance to notice nonsense."""
    from geoseg.training.figures import contact_sheet

    config = task.config
    images, valid, targets = [], [], []
    name = config.main_head or next(iter(header.heads))
    for first in range(0, _SHEET, min(_SHEET, config.batch_size)):
        batch = default_collate([samples[index] for index in range(first, first + min(_SHEET, config.batch_size))])
        task.seed(batch)
        image, usable, planes = task.changed(batch)
        images.append(image)
        valid.append(usable)
        targets.append(planes["target"] if config.main_head else planes[f"{FURTHER}{name}"][:, 0])
    shown, target, there = (torch.cat(parts)[:_SHEET].numpy() for parts in (images, targets, valid))
    unit = header.heads[name].unit
    contact_sheet(folder.path / BATCH, shown, target, _classes(config), valid=there, bands=header.bands, unit=unit)


def _classes(config: TrainConfig) -> dict[str, str]:
    """Colours by name; none without exclusive classes."""
    return dict(zip(config.class_names, config.class_colors, strict=True)) if config.main_head else {}
