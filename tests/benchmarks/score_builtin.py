"""Scores of a model on every held-back real window of the labelled imagery, by the product's own path.

    GEOSEG_DATA=<folder> python tests/benchmarks/score_builtin.py [MODEL] [--windows FILE]

Each scene is predicted whole by `predict_scene`, then the held-back window of its class raster is compared with the
labels. Beside it stands the best that a threshold on brightness can do, chosen on that very window, in either
direction: a rule that has seen the answer, and still the least that a model must beat. All background has IoU 0.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geoseg.config import FolderSource, SceneSource, TrainConfig, load_config, resolve_path
from geoseg.metrics import ConfusionMatrix
from geoseg.pipeline import Products, Settings, predict_scene
from geoseg.predict import tune_malloc
from geoseg.scene import Scene
from geoseg.training.grounds import load_data
from geoseg.training.samples import IGNORED, Ground

CONFIG = Path(__file__).parents[2] / "configs" / "unet_builtin.yaml"


@dataclass(frozen=True, slots=True)
class Held:
    """A held-back window."""

    name: str
    path: Path
    ground: Ground


def best_threshold(ground: Ground, index: int) -> float:
    """The largest IoU of class `index` that any threshold on the grey level gives, in either direction."""
    learnt = ground.target != IGNORED
    grey = ground.data.mean(axis=0).astype(np.uint8)[learnt]
    truth = ground.target[learnt] == index
    yes, no = (np.bincount(grey[part], minlength=256) for part in (truth, ~truth))
    best = 0.0
    for hits, alarms in ((np.cumsum(yes), np.cumsum(no)), (np.cumsum(yes[::-1]), np.cumsum(no[::-1]))):
        best = max(best, float((hits / np.maximum(yes.sum() + alarms, 1)).max()))
    return best
