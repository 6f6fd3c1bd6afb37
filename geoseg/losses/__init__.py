"""Losses: functions of (logits, target), a thin module round them, and weighted mixtures.

Every function takes logits (N, K, H, W) before the softmax and a target (N, H, W) of class indices, computes in
float32 whatever comes in, and returns a finite scalar for every target: nothing but ignored pixels gives 0 with a zero
gradient.
"""

from geoseg.losses.entropy import cross_entropy, focal
from geoseg.losses.lovasz import lovasz, lovasz_sort
from geoseg.losses.mixture import LOSSES, Loss, Mixture, parse_mixture
from geoseg.losses.overlap import dice, tversky

__all__ = [
    "LOSSES",
    "Loss",
    "Mixture",
    "cross_entropy",
    "dice",
    "focal",
    "lovasz",
    "lovasz_sort",
    "parse_mixture",
    "tversky",
]
