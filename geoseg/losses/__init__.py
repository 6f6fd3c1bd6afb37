"""Losses: functions of (logits, target), a thin module round them, and weighted mixtures.

Every function takes logits (N, K, H, W) before the softmax and a target (N, H, W) of class indices, computes in
float32 whatever comes in, and returns a finite scalar for every target: nothing but ignored pixels gives 0 with a zero
gradient. `task` says what the logits mean: `multiclass`, `binary` (one logit) or `multilabel`. The losses of
`REGRESSION` take a predicted number instead.
"""

from geoseg.losses.boundary import boundary, distance_maps, outline_distances, planes_of
from geoseg.losses.entropy import bce, cross_entropy, focal
from geoseg.losses.info import ADVICE, LossInfo, loss_info
from geoseg.losses.inputs import TASKS, Task
from geoseg.losses.lovasz import lovasz, lovasz_hinge, lovasz_sort
from geoseg.losses.mixture import LOSSES, REGRESSION, Loss, Mixture, loss_options, parse_mixture
from geoseg.losses.overlap import dice, focal_tversky, generalized_dice, jaccard, tversky
from geoseg.losses.regression import huber, log_cosh, mae, mse, rmse, smooth_l1
from geoseg.losses.skeleton import cldice
from geoseg.losses.weights import RULES, class_weights_from

__all__ = [
    "ADVICE",
    "LOSSES",
    "REGRESSION",
    "RULES",
    "TASKS",
    "Loss",
    "LossInfo",
    "Mixture",
    "Task",
    "bce",
    "boundary",
    "class_weights_from",
    "cldice",
    "cross_entropy",
    "dice",
    "distance_maps",
    "focal",
    "focal_tversky",
    "generalized_dice",
    "huber",
    "jaccard",
    "log_cosh",
    "loss_info",
    "loss_options",
    "lovasz",
    "lovasz_hinge",
    "lovasz_sort",
    "mae",
    "mse",
    "outline_distances",
    "parse_mixture",
    "planes_of",
    "rmse",
    "smooth_l1",
    "tversky",
]
