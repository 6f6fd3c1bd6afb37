"""Losses of each pixel's log-probability: cross-entropy, one against the rest, and focal."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.nn.functional import log_softmax, softplus

from geoseg.errors import UsageError
from geoseg.losses.inputs import (
    Classes,
    Planes,
    Task,
    check_range,
    prepare,
    region_weights,
    weights_per_class,
)
from geoseg.losses.planes import pixel_mean


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Sequence[float] | Tensor | None = None,
    label_smoothing: float = 0.0,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Cross-entropy: minus the log-probability of the true class, averaged over the pixels that have one.

    Soft targets count each class by its share. An all-ignored batch gives 0 with a zero gradient.

    Args:
        logits: (N, K, H, W) float, before softmax or sigmoid; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`; or (N, K, H, W) shares. Other tasks: `prepare`.
        class_weights: One number a class (`binary`: two; `multilabel`: one a label), 0 to a million; the mean is
            weighted by that of the pixel's class.
        label_smoothing: Share of the target spread evenly over all classes, 0 to 1.
        task: `multiclass`, `binary` or `multilabel`; the latter two are the softmax over no and yes.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32, at least 0.

    Raises:
        ShapeError: If `target` does not fit `logits`.
        LabelsError: If a class index or a share is out of range.
        UsageError: If an option is out of range.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7 (label smoothing).
    """
    check_range("label_smoothing", label_smoothing, 0, 1)
    problem = prepare(logits, target, task=task, ignore_index=ignore_index)
    weights = region_weights(class_weights, problem)
    if isinstance(problem, Planes):
        ones = torch.ones_like(weights)
        return pixel_mean(problem, _entropy, importance=weights, factors=ones, smoothing=label_smoothing)
    importance = _importance(problem, weights)
    if problem.hard:
        known = torch.where(problem.known, problem.target, -100)
        total = torch_cross_entropy(problem.logits, known, weights, reduction="sum", label_smoothing=label_smoothing)
    else:
        each = torch_cross_entropy(
            problem.logits, problem.target, weights, reduction="none", label_smoothing=label_smoothing
        )
        total = torch.where(problem.known, each, 0).sum()
    return total / _at_least_something(importance.sum())


def bce(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Sequence[float] | Tensor | None = None,
    label_smoothing: float = 0.0,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Binary cross-entropy: each channel by itself says yes or no, averaged over channels and the pixels with a class.

    In a binary or multilabel head it is the cross-entropy. Of K classes each is one against the rest, by a sigmoid
    and not a softmax: probabilities need not sum to 1. Soft targets count yes by its share. An all-ignored batch gives
    0 with a zero gradient.

    Args:
        logits: (N, K, H, W) float, before the sigmoid; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`; or (N, K, H, W) shares. Other tasks: `prepare`.
        class_weights: One number a channel (`binary`: no and yes), 0 to a million; the mean is weighted by them.
        label_smoothing: Share of the target spread evenly over no and yes, 0 to 1.
        task: `multiclass`, `binary` or `multilabel`.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32, at least 0.

    Raises:
        ShapeError: If `target` does not fit `logits`.
        LabelsError: If a class index or a share is out of range.
        UsageError: If an option is out of range.

    Source: Bishop 2006, Pattern Recognition and Machine Learning, eq. 4.90.
    """
    check_range("label_smoothing", label_smoothing, 0, 1)
    planes = one_against_rest(prepare(logits, target, task=task, ignore_index=ignore_index))
    weights = region_weights(class_weights, planes)
    return pixel_mean(planes, _entropy, importance=weights, factors=torch.ones_like(weights), smoothing=label_smoothing)


def one_against_rest(problem: Classes | Planes) -> Planes:
    """Each channel as a plane of its own."""
    if isinstance(problem, Planes):
        if not problem.pair:
            return problem
        code = problem.code
        other = (3 - code) * (code > 0) if problem.hard else torch.where(code < 0, -1, 1 - code)
        return Planes(problem.logits, torch.cat([other, code], 1), pair=False, labels=True)
    truth, known = problem.truth(), problem.known[:, None]
    code = ((truth + 1) * known).to(torch.uint8) if problem.hard else torch.where(known, truth, -1)
    return Planes(problem.logits, code, pair=False, labels=True)


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | Sequence[float] | None = None,
    class_weights: Sequence[float] | Tensor | None = None,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Focal loss: cross-entropy times (1 - p)^gamma, so that pixels already learnt count little.

    gamma = 0 is the cross-entropy. Soft targets count each class by its share. An all-ignored batch gives 0 with a zero
    gradient.

    Args:
        logits: (N, K, H, W) float, before softmax or sigmoid; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`; or (N, K, H, W) shares. Other tasks: `prepare`.
        gamma: 0 to 100.
        alpha: The paper's factor, which the mean is not divided by: of two classes (`binary` and `multilabel`
            included) that of the second or of yes, 0 to 1, the other one has 1 - alpha; or one number a class.
        class_weights: One number a class (`binary`: two; `multilabel`: one a label), 0 to a million; the mean is
            weighted by them.
        task: `multiclass`, `binary` or `multilabel`; the latter two are the softmax over no and yes.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32, at least 0.

    Raises:
        ShapeError: If `target` does not fit `logits`.
        LabelsError: If a class index or a share is out of range.
        UsageError: If an option is out of range.

    Source: Lin et al. 2017, arXiv:1708.02002, eq. 5.
    """
    check_range("gamma", gamma, 0, 100)
    problem = prepare(logits, target, task=task, ignore_index=ignore_index)
    weights, factors = region_weights(class_weights, problem), _alphas(alpha, problem)
    if isinstance(problem, Planes):

        def term(odds: Tensor) -> tuple[Tensor, Tensor]:
            loss, miss = _entropy(odds)
            return _focus(loss, miss, gamma)

        return pixel_mean(problem, term, importance=weights, factors=factors)
    importance = _importance(problem, weights)
    if problem.hard:
        entropy = torch_cross_entropy(problem.logits, problem.target, reduction="none")
        total = (_Focus.apply(entropy, gamma) * importance * factors[problem.target]).sum()
    else:
        entropy = -log_softmax(problem.logits, 1)
        share = problem.target * (weights * factors).view(1, -1, 1, 1)
        total = (_Focus.apply(entropy, gamma) * share).sum()
    return total / _at_least_something(importance.sum())


class _Focus(torch.autograd.Function):
    """Entropy times (1 - p)^gamma."""

    @staticmethod
    def forward(ctx: Any, entropy: Tensor, gamma: float) -> Tensor:
        miss = -torch.expm1(-entropy)
        # By the entropy the slope is that by the log-odds, divided by the miss; both go to 0 together.
        loss, rise = _focus(entropy.clone(), miss, gamma)
        tiny = miss < 1e-12
        ctx.save_for_backward(torch.where(tiny, 1.0 if gamma == 0 else 0.0, rise / torch.where(tiny, 1, miss)))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        return factor * ctx.saved_tensors[0], None


def _entropy(odds: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of the truth, and its slope 1 - p, by the log-odds of being wrong."""
    return softplus(odds), odds.sigmoid_()


def _focus(entropy: Tensor, miss: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal loss, and its slope by the log-odds of being wrong: finite for every gamma. Changes `entropy`."""
    power = miss.square() if gamma == 2 else miss**gamma
    rise = torch.addcmul(miss, 1 - miss, entropy, value=gamma).mul_(power)
    return entropy.mul_(power), rise


def _alphas(alpha: float | Sequence[float] | None, problem: Classes | Planes) -> Tensor:
    """(R,) factors of the regions."""
    regions = 2 * problem.code.shape[1] if isinstance(problem, Planes) else problem.logits.shape[1]
    like = problem.logits
    if alpha is None:
        return torch.ones(regions, dtype=like.dtype, device=like.device)
    if not isinstance(alpha, int | float):
        count = regions // 2 if isinstance(problem, Planes) and problem.labels else regions
        for value in alpha:
            check_range("alpha", value, 0, 1 if count < regions else 1e6)
        if len(alpha) != count:
            raise UsageError(f"alpha={list(alpha)} does not fit. Expected {count} numbers.")
        given = weights_per_class(alpha, count, like)
        return given if count == regions else torch.stack([1 - given, given], 1).flatten()
    check_range("alpha", alpha, 0, 1)
    if isinstance(problem, Classes):
        raise UsageError(f"alpha={alpha} does not fit {regions} classes. Expected a list of {regions} numbers.")
    return torch.tensor([1 - alpha, alpha], dtype=like.dtype, device=like.device).repeat(regions // 2)


def _importance(problem: Classes, weights: Tensor) -> Tensor:
    """(N, H, W): what each pixel counts for in the mean, 0 where it is ignored."""
    if problem.hard:
        return weights[problem.target] * problem.known
    return (problem.target * weights.view(1, -1, 1, 1)).sum(1)


def _at_least_something(total: Tensor) -> Tensor:
    """A divisor: 1 where the sum is 0."""
    return torch.where(total > 0, total, torch.ones_like(total))
