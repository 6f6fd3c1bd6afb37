"""Losses of the overlap between prediction and truth: Tversky, Dice, Jaccard, and what was made of them.

All are functions of three sums per class, over the batch or over each image: hit (the probability where the class is
true), predicted and actual. Binary and multilabel heads have two classes a plane, no and yes: a one-logit head has the
loss of the softmax over both. A class that does not occur has no overlap to measure: its false positives are misses of
the classes that do, and are punished there. So background predicted as building costs 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from geoseg.losses.inputs import (
    Classes,
    Planes,
    Task,
    check_choice,
    check_range,
    prepare,
    region_weights,
    regions,
    wide,
)
from geoseg.losses.planes import overlap_sums

Average = Literal["macro", "micro"]
_SHIFT = 1e-6
"""Moves the root of `focal_tversky` off the place where its slope is infinite."""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What each class shares with the truth; (G, R) float64, G groups of pixels: 1, or one an image."""

    hit: Tensor
    predicted: Tensor
    actual: Tensor
    weights: Tensor
    """(R,)."""

    def overlap(self, alpha: float, beta: float, smooth: float, average: Average) -> tuple[Tensor, Tensor]:
        """The Tversky index of each group and class, and what it counts for: (G, R), or (G, 1) if micro."""
        hit, predicted, actual, share = self.hit, self.predicted, self.actual, shares(self.actual, self.weights)
        if average == "micro":
            hit, predicted, actual = ((x * self.weights).sum(1, keepdim=True) for x in (hit, predicted, actual))
            share = share.sum(1, keepdim=True)
        # Only with beta = 0 and a class that is nowhere predicted is the denominator near 0.
        whole = hit + alpha * (predicted - hit) + beta * (actual - hit) + smooth
        return (hit + smooth) / whole.clamp_min(1e-6), share


def shares(actual: Tensor, weights: Tensor) -> Tensor:
    """What the loss of each class of each group counts for: 0 for classes that do not occur; all sum to 1, or to 0.

    Args:
        actual: (G, R) pixels of each class.
        weights: (R,) class weights.
    """
    share = (actual > 0) * weights.to(actual.dtype)
    total = share.sum(1, keepdim=True)
    share = share / torch.where(total > 0, total, 1)
    return share / (total > 0).sum().clamp_min(1)


def overlap_of(problem: Classes | Planes, class_weights: Sequence[float] | Tensor | None, per_image: bool) -> Sums:
    """The sums of a problem."""
    if isinstance(problem, Planes):
        hit, predicted, actual = overlap_sums(problem)
    else:
        probs, truth, known = regions(problem)
        # Rows in float32, their sums in float64: as exact as float64, and as fast as float32.
        hit, predicted, actual = (
            plane.sum(-1).sum(-1, dtype=wide(probs)) for plane in (probs * truth, probs * known, truth)
        )
    if not per_image:
        hit, predicted, actual = (plane.sum(0, keepdim=True) for plane in (hit, predicted, actual))
    return Sums(hit, predicted, actual, region_weights(class_weights, problem).to(hit.dtype))


def tversky(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 0.0,
    average: Average = "macro",
    per_image: bool = False,
    class_weights: Sequence[float] | Tensor | None = None,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Tversky loss: one minus overlap, with false positives and false negatives weighted apart.

    TP, FP and FN of a class are sums of probabilities; the loss is the mean of 1 - TP / (TP + alpha FP + beta FN) over
    the classes that occur in the target.

    alpha = beta = 0.5 is the Dice loss, alpha = beta = 1 the Jaccard loss. Soft targets are multiplied with the
    probabilities: equal shares then cost more than 0. An all-ignored batch gives 0 with a zero gradient.

    Args:
        logits: (N, K, H, W) float, before softmax or sigmoid; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`; or (N, K, H, W) shares. Other tasks: `prepare`.
        alpha: Weight of false positives, 0 to 1000.
        beta: Weight of false negatives, 0 to 1000.
        smooth: Pixels added above and below the line: evens out tiny classes. 0 to a million.
        average: `macro`: the mean of the classes' losses. `micro`: one loss of the sums over all classes.
        per_image: Take the sums over each image, and the mean of the images that have a class; not over the batch.
        class_weights: One number a class (`binary`: no and yes; `multilabel`: one a label), 0 to a million. Classes of
            weight 0 are left out; where no other class occurs the loss is 0.
        task: `multiclass`, `binary` or `multilabel`.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ShapeError: If `target` does not fit `logits`.
        LabelsError: If a class index or a share is out of range.
        UsageError: If an option is out of range.

    Source: Salehi et al. 2017, arXiv:1706.05721, eq. 3.
    """
    check_range("alpha", alpha, 0, 1000)
    check_range("beta", beta, 0, 1000)
    check_overlap(smooth, average, per_image)
    problem = prepare(logits, target, task=task, ignore_index=ignore_index)
    overlap, share = overlap_of(problem, class_weights, per_image).overlap(alpha, beta, smooth, average)
    return (share * (1 - overlap)).sum().to(problem.logits.dtype)


def dice(
    logits: Tensor,
    target: Tensor,
    *,
    smooth: float = 0.0,
    average: Average = "macro",
    per_image: bool = False,
    class_weights: Sequence[float] | Tensor | None = None,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Dice loss: one minus the F1 score of probabilities, averaged over the classes that occur in the target.

    Arguments, result, errors and absent classes as `tversky`, which it is with alpha = beta = 0.5.

    Source: Milletari et al. 2016, arXiv:1606.04797, section 3, without the squares in the denominator.
    """
    return tversky(
        logits,
        target,
        alpha=0.5,
        beta=0.5,
        smooth=smooth,
        average=average,
        per_image=per_image,
        class_weights=class_weights,
        task=task,
        ignore_index=ignore_index,
    )


def jaccard(
    logits: Tensor,
    target: Tensor,
    *,
    smooth: float = 0.0,
    average: Average = "macro",
    per_image: bool = False,
    class_weights: Sequence[float] | Tensor | None = None,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Jaccard loss: one minus the IoU of probabilities, averaged over the classes that occur in the target.

    Arguments, result, errors and absent classes as `tversky`, which it is with alpha = beta = 1. Of one class with Dice
    coefficient D the loss is 1 - D / (2 - D).

    Source: Rahman & Wang 2016, doi:10.1007/978-3-319-50835-1_22, section 3.
    """
    return tversky(
        logits,
        target,
        alpha=1.0,
        beta=1.0,
        smooth=smooth,
        average=average,
        per_image=per_image,
        class_weights=class_weights,
        task=task,
        ignore_index=ignore_index,
    )


def focal_tversky(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    smooth: float = 0.0,
    average: Average = "macro",
    per_image: bool = False,
    class_weights: Sequence[float] | Tensor | None = None,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Focal Tversky loss: the Tversky loss of each class to the power 1 / gamma.

    gamma = 1 is the Tversky loss; above 1 the slope grows as a class is learnt, below 1 it is the badly learnt classes
    that pull. The power's slope is infinite at 0 for gamma above 1: it is moved by a millionth, so that the gradient
    is finite for every gamma, and a perfect prediction still costs 0.

    Args:
        logits: (N, K, H, W) float, before softmax or sigmoid; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`; or (N, K, H, W) shares. Other tasks: `prepare`.
        alpha: Weight of false positives, 0 to 1000.
        beta: Weight of false negatives, 0 to 1000.
        gamma: 0.01 to 100.
        smooth: As in `tversky`, like all that follow.
        average: `macro` or `micro`.
        per_image: Sums over each image, not over the batch.
        class_weights: One number a class.
        task: `multiclass`, `binary` or `multilabel`.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ShapeError: If `target` does not fit `logits`.
        LabelsError: If a class index or a share is out of range.
        UsageError: If an option is out of range.

    Source: Abraham & Khan 2018, arXiv:1810.07842, eq. 4.
    """
    check_range("alpha", alpha, 0, 1000)
    check_range("beta", beta, 0, 1000)
    check_range("gamma", gamma, 0.01, 100)
    check_overlap(smooth, average, per_image)
    problem = prepare(logits, target, task=task, ignore_index=ignore_index)
    overlap, share = overlap_of(problem, class_weights, per_image).overlap(alpha, beta, smooth, average)
    power = 1 / gamma
    miss = (1 - overlap).clamp_min(0) + _SHIFT
    focused = (miss**power - _SHIFT**power) / ((1 + _SHIFT) ** power - _SHIFT**power)
    return (share * focused).sum().to(problem.logits.dtype)


def generalized_dice(
    logits: Tensor,
    target: Tensor,
    *,
    smooth: float = 0.0,
    per_image: bool = False,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Generalized Dice loss: one Dice score of all classes, each counted by one over the square of its pixels.

    So a class of few pixels counts as much as a large one. A class that does not occur counts 0. An all-ignored batch
    gives 0 with a zero gradient.

    Args:
        logits: (N, K, H, W) float, before softmax or sigmoid; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`; or (N, K, H, W) shares. Other tasks: `prepare`.
        smooth: Pixels added to each class above and below the line, 0 to a million.
        per_image: Take the sums over each image, and the mean of the images that have a class; not over the batch.
        task: `multiclass`, `binary` or `multilabel`.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ShapeError: If `target` does not fit `logits`.
        LabelsError: If a class index or a share is out of range.
        UsageError: If an option is out of range.

    Source: Sudre et al. 2017, arXiv:1707.03237, eq. 1 and 2 (the loss, and w = 1 / (sum of the class's pixels)^2).
    """
    check_overlap(smooth, "macro", per_image)
    problem = prepare(logits, target, task=task, ignore_index=ignore_index)
    sums = overlap_of(problem, None, per_image)
    present = sums.actual > 0
    # Relative to the rarest class: numbers of the size of 1.
    rarest = torch.where(present, sums.actual, torch.inf).amin(1, keepdim=True)
    weights = torch.where(present, rarest / torch.where(present, sums.actual, 1), 0).square()
    above = (weights * (sums.hit + smooth)).sum(1)
    below = (weights * (sums.predicted + sums.actual + 2 * smooth)).sum(1)
    some = present.any(1)
    loss = torch.where(some, 1 - 2 * above / torch.where(some, below, 1), 0)
    return (loss.sum() / some.sum().clamp_min(1)).to(problem.logits.dtype)


def check_overlap(smooth: float, average: str, per_image: bool) -> None:
    """Refuse options that the losses of this page share.

    Raises:
        UsageError: If one is out of range.
    """
    check_range("smooth", smooth, 0, 1e6)
    check_choice("average", average, ("macro", "micro"))
    check_choice("per_image", per_image, (False, True))
