"""Metric: the column of metrics.csv that says which epoch is the best."""

import math
from dataclasses import replace

import numpy as np

from geoseg.checkpoint import Header
from geoseg.errors import ConfigError, nearest
from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.predict import Placement
from geoseg.training.ground import Ground
from geoseg.training.progress import Epoch
from geoseg.training.sources import Data
from geoseg.training.task import Segmentation
from geoseg.training.validate import validate


def check_metric(task: Segmentation, header: Header, data: Data, placement: Placement) -> None:
    """Refuse a metric that no epoch will have, before the first.

    Raises:
        ConfigError: If there is no such column, or it needs validation ground and there is none.
    """
    config, objective = task.config, task.objective
    trained = ["loss", *objective.heads.named_terms(), *(objective.loss.factors if objective.main else ())]
    columns = ["score", "val_loss", *_scored(task, header, data.train[0], placement)]
    if config.metric in (*trained, *(columns if data.val else ())):
        return
    if not data.val and config.metric == "score" and config.patience is None:
        return  # the last epoch is the best
    if not data.val and config.metric in columns:
        what = f"patience={config.patience}" if config.metric == "score" else f"metric={config.metric!r}"
        raise ConfigError(
            f"{what} needs validation ground, and there is none. Expected data.val above 0, or a source to "
            "validate on. Else leave it out, or choose metric=loss."
        )
    known = trained + (columns if data.val else [])
    raise ConfigError(
        f"metric={config.metric!r} is no column of metrics.csv.{nearest(config.metric, known)} Expected one of: "
        f"{', '.join(known)}."
    )


def _scored(task: Segmentation, header: Header, some: Ground, placement: Placement) -> list[str]:
    """What validation has to say, found by a pixel of which nothing is known: that costs no forward pass."""
    further = {name: np.full((len(plane), 1, 1), np.nan, np.float32) for name, plane in some.further.items()}
    grid = Grid((1, 1), some.grid.transform, some.grid.crs)
    nothing = replace(
        some,
        data=some.data[:, :1, :1],
        valid=np.zeros((1, 1), bool),
        target=np.full((1, 1), IGNORE, np.uint8),
        grid=grid,
        further=further,
        distances=None,
        summary=None,
    )
    return list(validate(task.average.network, header, [nothing], placement).metrics)


def value_of(epoch: Epoch) -> float | None:
    """What the epoch has of the metric that the configuration names; None for nothing finite."""
    value = epoch.columns.get(epoch.metric)
    return value if value is None or math.isfinite(value) else None
