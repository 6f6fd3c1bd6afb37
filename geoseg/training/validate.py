"""Validation: the live network on held-back ground, predicted as `geoseg predict` does it."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.checkpoint import Header
from geoseg.engine import cells
from geoseg.layers import LABELS_ONLY, Keep
from geoseg.metrics import IGNORE, ConfusionMatrix, TileScore, mean_known, write_tiles
from geoseg.plans import plan_for
from geoseg.predict import Placement, Runner
from geoseg.scores import Decision, Scores
from geoseg.training.calibrate import Calibration, Choice, calibrate
from geoseg.training.ground import Ground
from geoseg.training.sums import LOGITS, Loss, Sums, main_head, mean_foreground

__all__ = ["Loss", "Validation", "mean_foreground", "validate"]

_SAMPLED, _SAMPLED_THOROUGHLY = 1 << 18, 1 << 20
"""Labelled pixels, on a lattice, whose probabilities are looked at: these cost time, and their figures gain nothing."""
_SAMPLED_LOGITS = 1 << 23
"""The same for the logits of all classes: 32 MiB."""


@dataclass(frozen=True, slots=True)
class Validation:
    """How well a network does on held-back ground."""

    iou: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """IoU per class on the ground of each source by name and, as "all", on all of them together (one confusion matrix).
    Empty without ground, or without a head of exclusive classes."""
    further: dict[str, float | None] = field(default_factory=dict)
    """Of further heads: `<head>.<class>` is an IoU; `<head>.rmse`, `.mae` and `.bias` are in the values' unit, `.r2` is
    the share of their variance that is explained."""
    score: float | None = None
    """Mean over the heads, higher is better: of classes the mean IoU after the background, of labels the mean IoU, of
    values 1 - MSE / variance of the training values. None without ground."""
    matrix: ConfusionMatrix | None = None
    """Of the head of exclusive classes, over all ground; None without ground or such a head."""
    tiles: tuple[TileScore, ...] = ()
    """The same of each tile of at most 512 pixels a side, which the ground is cut into evenly; of those with truth."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """Every figure by its column of metrics.csv: `iou_<class>`, `f1_<class>`, `precision_<class>`, `recall_<class>`,
    `iou_mean` (after the background), `accuracy`, `kappa`, `ece` (class-wise, see `Reliability`), `val_loss` if it was
    asked for, and `further`. None for what cannot be had."""
    calibration: Calibration | None = None
    """Of a thorough validation; None where no class is known."""

    def save_tiles(self, path: str | Path) -> None:
        """Write `tiles` as a table that `geoseg.metrics.read_tiles` reads; nothing where there are none.

        Raises:
            OutputError: If it cannot be written.
        """
        if self.matrix is not None:
            write_tiles(Path(path), self.matrix.classes, self.tiles)


def validate(
    network: nn.Module,
    header: Header,
    grounds: Sequence[Ground],
    placement: Placement,
    *,
    thorough: bool = False,
    loss: Loss | None = None,
) -> Validation:
    """Predict the cells of held-back ground as `geoseg predict` does it, and score every head.

    Where labels do not know a class, a prediction of it counts as "any of the others", as the target does there.

    Args:
        network: With the header's channels; it is not changed.
        header: Its temperature and thresholds hold.
        grounds: What is predicted, in their order.
        placement: Where and how.
        thorough: Find temperature and thresholds, too, and score the network with them: what the header says of them
            before does not count. Where there are labels to be taken or not, this predicts everything twice.
        loss: Adds `val_loss`: its mean over the labelled pixels.
    """
    if not grounds:
        return Validation()
    if not thorough:
        return _run(network, header, grounds, placement, loss=loss)
    plain = header.model_copy(update={"temperature": 1.0, "thresholds": {}})
    sample: list[Choice] = []
    found = _run(network, plain, grounds, placement, loss=loss, sample=sample)
    calibration = calibrate(sample, header.heads, main_head(header))
    if calibration is None:
        return found
    if calibration.thresholds:
        found = _run(network, calibration.applied(header), grounds, placement, loss=loss)
    # Thresholds aside, a temperature changes nothing but the probabilities.
    ece = {"ece": mean_known(list(calibration.ece_after.values()))}
    return replace(found, metrics=found.metrics | ece, calibration=calibration)


class _Live(Runner):
    """Gives the logits of every n-th pixel of every n-th row along with what is kept."""

    every = 1

    def scores(self, z: Tensor, valid: np.ndarray, keep: Keep = LABELS_ONLY) -> Scores:
        """As `Predictor.scores`."""
        height, width = valid.shape
        with torch.inference_mode():
            some = z[:, : height : self.every, : width : self.every].float().cpu().contiguous().numpy()
        return super().scores(z, valid, keep) | {LOGITS: some}


def _run(
    network: nn.Module,
    header: Header,
    grounds: Sequence[Ground],
    placement: Placement,
    *,
    loss: Loss | None,
    sample: list[Choice] | None = None,
) -> Validation:
    every = _every(header, grounds, thorough=sample is not None)
    sums = Sums(header, every, loss, sample)
    plans = [plan_for(ground.target.shape, header) for ground in grounds]
    # An accelerator pads every batch: of tiles in files of their own each would be mostly nothing.
    batch_size = min(placement.batch_size, max(map(len, plans)))
    runner = _Live(
        copy.deepcopy(network),  # which is folded and cast
        mean=header.mean,
        std=header.std,
        decision=Decision(heads=header.heads, temperature=header.temperature, thresholds=header.thresholds),
        placement=replace(placement, batch_size=batch_size),
    )
    runner.every = 1 if loss else every
    for index, (ground, plan) in enumerate(zip(grounds, plans, strict=True)):
        for window, found in zip(plan, cells(ground.reader, runner, plan, list(plan)), strict=True):
            sums.add(index, ground, window, found)
    return _summary(sums)


def _every(header: Header, grounds: Sequence[Ground], *, thorough: bool) -> int:
    """The step of the lattice of pixels whose probabilities are looked at."""
    labelled = sum(map(_labelled, grounds))
    most = min(_SAMPLED_THOROUGHLY if thorough else _SAMPLED, _SAMPLED_LOGITS // header.channels)
    return max(1, math.ceil(math.sqrt(labelled / most)))


def _labelled(ground: Ground) -> int:
    return ground.summary.labelled if ground.summary else int(np.count_nonzero(ground.target != IGNORE))


def _summary(sums: Sums) -> Validation:
    shares: list[float | None] = []
    iou: dict[str, dict[str, float | None]] = {}
    metrics: dict[str, float | None] = {}
    total = None
    if sums.main:
        total = ConfusionMatrix(sums.classes)
        for matrix in sums.sources.values():
            total.merge(matrix)
        iou = {name: _iou(matrix) for name, matrix in ({"all": total} | sums.sources).items()}
        shares.append(mean_foreground(iou["all"]))
        metrics |= _columns(total)
    further: dict[str, float | None] = {}
    for name, head in sums.further.items():
        own, share = head.scores()
        further |= {f"{name}.{what}": value for what, value in own.items()}
        shares.append(share)
    if sums.reliability.classes:
        metrics["ece"] = sums.reliability.error()
    if sums.loss:
        metrics["val_loss"] = sums.lost / sums.pixels if sums.pixels else None
    tiles = tuple(tile for tile in sums.tiles.values() if tile.matrix.any())
    return Validation(iou, further, mean_known(shares), total, tiles, metrics | further)


def _columns(matrix: ConfusionMatrix) -> dict[str, float | None]:
    scores = matrix.scores()
    found = {
        f"{what}_{item.name}": getattr(item, what)
        for what in ("iou", "f1", "precision", "recall")
        for item in scores.classes
    }
    return found | {
        "iou_mean": mean_foreground(_iou(matrix)),
        "accuracy": scores.accuracy,
        "kappa": scores.kappa,
    }


def _iou(matrix: ConfusionMatrix) -> dict[str, float | None]:
    return {item.name: item.iou for item in matrix.scores().classes}
