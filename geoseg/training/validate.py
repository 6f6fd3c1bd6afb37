"""Validation: the live network on held-back ground, predicted as `geoseg predict` does it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from geoseg.checkpoint import Head, Header
from geoseg.engine import cells
from geoseg.metrics import ConfusionMatrix
from geoseg.plans import plan_for
from geoseg.predict import Placement, Runner
from geoseg.scores import Decision, Scores
from geoseg.training.samples import Ground
from geoseg.windows import Window


@dataclass(frozen=True, slots=True)
class Validation:
    """How well a network does on held-back ground."""

    iou: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """IoU per class on the ground of each source by name and, as "all", on all of them together (one confusion matrix).
    Empty without ground, or without a head of exclusive classes."""
    further: dict[str, float | None] = field(default_factory=dict)
    """Of further heads: `<head>.<class>` is an IoU; `<head>.rmse` and `<head>.mae` are in the values' unit."""
    score: float | None = None
    """Mean over the heads, higher is better: of classes the mean IoU after the background, of labels the mean IoU, of
    values 1 - MSE / variance of the training values. None without ground."""


def validate(
    network: nn.Module,
    header: Header,
    grounds: Sequence[Ground],
    placement: Placement,
) -> Validation:
    """Predict the cells of held-back ground as `geoseg predict` does it, and score every head.

    Where labels do not know a class, a prediction of it counts as "any of the others", as the target does there.
    """
    if not grounds:
        return Validation()
    # The runner folds and casts what it is given.
    model, decision = copy.deepcopy(network), Decision(heads=header.heads)
    runner = Runner(model, mean=header.mean, std=header.std, decision=decision, placement=placement)
    main = next((name for name, head in header.heads.items() if head.exclusive), None)  # as `TrainConfig.main_head`
    names = [item.name for item in header.heads[main].classes] if main else []
    matrices: dict[str, ConfusionMatrix] = {}
    further = {name: _Further(head) for name, head in header.heads.items() if name != main}
    for ground in grounds:
        plan = plan_for(ground.target.shape, header)
        same = np.arange(256, dtype=np.uint8)
        others = [index for index in range(len(names)) if index not in ground.known]
        same[others] = others[0] if others else 0
        for window, found in zip(plan, cells(ground.reader, runner, plan, list(plan)), strict=True):
            if main:
                matrix = matrices.setdefault(ground.source, ConfusionMatrix(names))
                matrix.update(same[ground.target[window.slices()]], same[_of(found, header, "labels", main)])
            for name, sums in further.items():
                sums.add(_of(found, header, sums.kind, name), ground, name, window)
    return _summary(matrices, names, further)


def _of(found: Scores, header: Header, kind: str, head: str) -> np.ndarray:
    return found[kind if len(header.heads) == 1 else f"{kind}_{head}"]


class _Further:
    """Sums over all ground of one further head."""

    def __init__(self, head: Head) -> None:
        self.head, self.kind = head, "values" if head.task == "regression" else "labels"
        self.count = self.square = self.absolute = 0.0
        self.hits, self.union = (np.zeros(len(head.classes)) for _ in range(2))

    def add(self, found: np.ndarray, ground: Ground, name: str, window: Window) -> None:
        """Take in one cell."""
        truth = ground.further[name][:, *window.slices()]
        known = ~np.isnan(truth) & ground.valid[window.slices()]
        if self.kind == "values":
            error = (found - truth[0]).astype(np.float64)[known[0]]
            self.count += error.size
            self.square += float(np.square(error).sum())
            self.absolute += float(np.abs(error).sum())
            return
        if self.head.exclusive:
            values = np.arange(len(self.head.classes))[:, None, None]
            yes, true = (found == values) & known, (truth == values) & known
        else:
            yes, true = (found == 1) & known, (truth == 1) & known
        self.hits += (yes & true).sum((1, 2))
        self.union += (yes | true).sum((1, 2))

    def scores(self) -> tuple[dict[str, float | None], float | None]:
        """By name, and the head's share of the score."""
        if self.kind == "values":
            if not self.count:
                return {"rmse": None, "mae": None}, None
            mean = self.square / self.count
            own: dict[str, float | None] = {"rmse": mean**0.5, "mae": self.absolute / self.count}
            return own, 1 - mean / self.head.scale**2
        iou = [float(h / u) if u else None for h, u in zip(self.hits, self.union, strict=True)]
        own = {item.name: value for item, value in zip(self.head.classes, iou, strict=True)}
        return own, mean_foreground(own) if self.head.exclusive else _mean(iou)


def _summary(
    matrices: Mapping[str, ConfusionMatrix], names: Sequence[str], further: Mapping[str, _Further]
) -> Validation:
    shares: list[float | None] = []
    iou = {}
    if matrices:
        total = ConfusionMatrix(names)
        for matrix in matrices.values():
            total.merge(matrix)
        iou = {name: _iou(matrix) for name, matrix in ({"all": total} | dict(matrices)).items()}
        shares.append(mean_foreground(iou["all"]))
    numbers: dict[str, float | None] = {}
    for name, sums in further.items():
        own, share = sums.scores()
        numbers |= {f"{name}.{what}": value for what, value in own.items()}
        shares.append(share)
    return Validation(iou, numbers, _mean(shares))


def _iou(matrix: ConfusionMatrix) -> dict[str, float | None]:
    return {item.name: item.iou for item in matrix.scores().classes}


def mean_foreground(iou: dict[str, float | None]) -> float | None:
    """Mean over all classes but the first, of those that are there; None if none is."""
    return _mean(list(iou.values())[1:])


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
