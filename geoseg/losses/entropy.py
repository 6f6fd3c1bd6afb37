"""Losses of each pixel's log-probability: cross-entropy and focal."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as torch_cross_entropy

from geoseg.losses.inputs import check_range, prepare, weights_per_class


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Sequence[float] | Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = 255,
) -> Tensor:
    """Cross-entropy: minus the log-probability of the true class, averaged over the pixels that have one.

    An all-ignored batch gives 0 with a zero gradient.

    Args:
        logits: (N, K, H, W) float, before softmax; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`.
        class_weights: One number a class, 0 to a million; the mean is weighted by that of the pixel's class.
        label_smoothing: Share of the target spread evenly over all classes, 0 to 1.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32, at least 0.

    Raises:
        ShapeError: If `target` is not (N, H, W) of `logits`.
        LabelsError: If a class index is out of range.
        UsageError: If an option is out of range.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7 (label smoothing).
    """
    check_range("label_smoothing", label_smoothing, 0, 1)
    logits, target, valid = prepare(logits, target, ignore_index)
    weight = weights_per_class(class_weights, logits)
    total = torch_cross_entropy(
        logits, target, weight, ignore_index=ignore_index, reduction="sum", label_smoothing=label_smoothing
    )
    return total / _at_least_something(_importance(target, valid, weight).sum())


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    class_weights: Sequence[float] | Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Focal loss: cross-entropy times (1 - p)^gamma, so that pixels already learnt count little.

    gamma = 0 is the cross-entropy. An all-ignored batch gives 0 with a zero gradient.

    Args:
        logits: (N, K, H, W) float, before softmax; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`.
        gamma: 0 to 100.
        class_weights: One number a class, 0 to a million (the paper's alpha); the mean is weighted by them.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32, at least 0.

    Raises:
        ShapeError: If `target` is not (N, H, W) of `logits`.
        LabelsError: If a class index is out of range.
        UsageError: If an option is out of range.

    Source: Lin et al. 2017, arXiv:1708.02002, eq. 5.
    """
    check_range("gamma", gamma, 0, 100)
    logits, target, valid = prepare(logits, target, ignore_index)
    weight = weights_per_class(class_weights, logits)
    entropy = torch_cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    # The power's slope is infinite at 0 for gamma below 1, and infinity times 0 is no number.
    miss = (-torch.expm1(-entropy)).clamp_min(1e-12)
    importance = _importance(target, valid, weight)
    return (miss**gamma * entropy * importance).sum() / _at_least_something(importance.sum())


def _importance(target: Tensor, valid: Tensor, weight: Tensor | None) -> Tensor:
    """(N, H, W): what each pixel counts for in the mean, 0 where it is ignored."""
    return valid if weight is None else weight[torch.where(valid, target, 0)] * valid


def _at_least_something(total: Tensor) -> Tensor:
    """A divisor: 1 where the sum is 0."""
    return torch.where(total > 0, total, torch.ones_like(total))
