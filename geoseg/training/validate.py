"""Validation: the live network on held-back ground, predicted as `geoseg predict` does it."""

import copy
from collections.abc import Sequence

import numpy as np
from torch import nn

from geoseg.checkpoint import Header
from geoseg.engine import cells
from geoseg.metrics import ConfusionMatrix
from geoseg.predict import Placement, Runner
from geoseg.preflight import plan_for
from geoseg.scores import Decision
from geoseg.training.samples import Ground


def validate(
    network: nn.Module, header: Header, grounds: Sequence[Ground], placement: Placement
) -> dict[str, dict[str, float | None]]:
    """IoU per class on the ground of each source by name and, as "all", on all of them together (one confusion matrix).

    Cells of the ground are predicted as `geoseg predict` does it. Where labels do not know a class, a prediction of it
    counts as "any of the others", as the target does there.
    """
    if not grounds:
        return {}
    names = [item.name for item in header.classes]
    # The runner folds and casts what it is given.
    model = copy.deepcopy(network)
    decision = Decision(heads=header.heads)
    runner = Runner(model, mean=header.mean, std=header.std, decision=decision, placement=placement)
    matrices: dict[str, ConfusionMatrix] = {}
    for ground in grounds:
        matrix = matrices.setdefault(ground.source, ConfusionMatrix(names))
        plan = plan_for(ground.target.shape, header)
        same = np.arange(256, dtype=np.uint8)
        others = [index for index in range(len(names)) if index not in ground.known]
        same[others] = others[0] if others else 0
        for window, cell in zip(plan, cells(ground.reader, runner, plan, list(plan)), strict=True):
            matrix.update(same[ground.target[window.slices()]], same[cell["labels"]])
    total = ConfusionMatrix(names)
    for matrix in matrices.values():
        total.merge(matrix)
    return {name: _iou(matrix) for name, matrix in ({"all": total} | matrices).items()}


def _iou(matrix: ConfusionMatrix) -> dict[str, float | None]:
    return {item.name: item.iou for item in matrix.scores().classes}


def mean_foreground(iou: dict[str, float | None]) -> float | None:
    """Mean over all classes but the first, of those that are there; None if none is."""
    there = [value for value in list(iou.values())[1:] if value is not None]
    return sum(there) / len(there) if there else None
