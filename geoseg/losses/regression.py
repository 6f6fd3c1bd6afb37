"""Losses of a predicted number: heights, shares, yields. Pixels without a value do not count."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import huber_loss, l1_loss, mse_loss, smooth_l1_loss, softplus

from geoseg.errors import ShapeError, UsageError
from geoseg.losses.inputs import check_range


def mse(logits: Tensor, target: Tensor, *, valid: Tensor | None = None, nodata: float | None = None) -> Tensor:
    """Mean squared error: large errors count most, the mean is what is learnt.

    A batch without a value gives 0 with a zero gradient.

    Args:
        logits: (N, C, H, W) float, the prediction itself, or (N, H, W); computed in float32 whatever comes in.
        target: The same shape, or without a channel axis of 1; numbers that are not finite are ignored.
        valid: The target's shape, bool, True = count; None: all that are finite.
        nodata: A value of the target that is ignored, too.

    Returns:
        Scalar float32, at least 0, in squares of the target's unit.

    Raises:
        ShapeError: If `target` or `valid` do not fit `logits`.
        UsageError: If `nodata` is no number.

    Source: Legendre 1805, Nouvelles methodes pour la determination des orbites des cometes, appendix.
    """
    prediction, truth, known = _prepare(logits, target, valid, nodata)
    return _mean(mse_loss(prediction, truth, reduction="sum"), known)


def rmse(logits: Tensor, target: Tensor, *, valid: Tensor | None = None, nodata: float | None = None) -> Tensor:
    """Root of the mean squared error: as `mse`, in the target's unit; the gradient does not fade as errors shrink.

    Arguments and errors as `mse`. Without any error the gradient, which does not exist there, is 0.

    Returns:
        Scalar float32, at least 0, in the target's unit.

    Source: Willmott & Matsuura 2005, doi:10.3354/cr030079.
    """
    prediction, truth, known = _prepare(logits, target, valid, nodata)
    square = _mean(mse_loss(prediction, truth, reduction="sum"), known)
    return torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)


def mae(logits: Tensor, target: Tensor, *, valid: Tensor | None = None, nodata: float | None = None) -> Tensor:
    """Mean absolute error: wild targets count no more than others, the median is what is learnt.

    Arguments and errors as `mse`.

    Returns:
        Scalar float32, at least 0, in the target's unit.

    Source: Willmott & Matsuura 2005, doi:10.3354/cr030079.
    """
    prediction, truth, known = _prepare(logits, target, valid, nodata)
    return _mean(l1_loss(prediction, truth, reduction="sum"), known)


def huber(
    logits: Tensor,
    target: Tensor,
    *,
    delta: float = 1.0,
    valid: Tensor | None = None,
    nodata: float | None = None,
) -> Tensor:
    """Huber loss: half the square of errors up to delta, a line of slope delta beyond.

    Other arguments and errors as `mse`.

    Args:
        logits: The prediction.
        target: What it should be.
        delta: In the target's unit, a millionth to a million.
        valid: As in `mse`.
        nodata: As in `mse`.

    Returns:
        Scalar float32, at least 0.

    Source: Huber 1964, doi:10.1214/aoms/1177703732, section 4 (example iii).
    """
    check_range("delta", delta, 1e-6, 1e6)
    prediction, truth, known = _prepare(logits, target, valid, nodata)
    return _mean(huber_loss(prediction, truth, reduction="sum", delta=delta), known)


def smooth_l1(
    logits: Tensor,
    target: Tensor,
    *,
    beta: float = 1.0,
    valid: Tensor | None = None,
    nodata: float | None = None,
) -> Tensor:
    """Smooth L1 loss: the Huber loss divided by beta, so that the slope of large errors is 1.

    Other arguments and errors as `mse`.

    Args:
        logits: The prediction.
        target: What it should be.
        beta: Errors up to it are squared; in the target's unit, a millionth to a million.
        valid: As in `mse`.
        nodata: As in `mse`.

    Returns:
        Scalar float32, at least 0, in the target's unit.

    Source: Girshick 2015, arXiv:1504.08083, eq. 3.
    """
    check_range("beta", beta, 1e-6, 1e6)
    prediction, truth, known = _prepare(logits, target, valid, nodata)
    return _mean(smooth_l1_loss(prediction, truth, reduction="sum", beta=beta), known)


def log_cosh(logits: Tensor, target: Tensor, *, valid: Tensor | None = None, nodata: float | None = None) -> Tensor:
    """Logarithm of the hyperbolic cosine: half the square of small errors, the size of large ones, smooth throughout.

    Arguments and errors as `mse`. Written as |e| + softplus(-2 |e|) - log 2, which no error overflows.

    Returns:
        Scalar float32, at least 0.

    Source: Green 1990, doi:10.1109/42.52985, section III (log cosh as the potential).
    """
    prediction, truth, known = _prepare(logits, target, valid, nodata)
    return _mean(_LogCosh.apply(prediction - truth), known)


class _LogCosh(torch.autograd.Function):
    """The sum of log cosh, whose slope is the hyperbolic tangent."""

    @staticmethod
    def forward(ctx: Any, error: Tensor) -> Tensor:
        ctx.save_for_backward(error)
        size = error.abs()
        return (softplus(size * -2).add_(size).sub_(math.log(2))).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> Tensor:
        return ctx.saved_tensors[0].tanh().mul_(factor)


def _prepare(
    logits: Tensor, target: Tensor, valid: Tensor | None, nodata: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction and target of the same shape, 0 where no value is known, and where one is, as bool."""
    size = tuple(logits.shape)
    shapes = (size, (size[0], *size[2:]) if len(size) == 4 and size[1] == 1 else size)
    if (
        len(size) not in (3, 4)
        or tuple(target.shape) not in shapes
        or (valid is not None and (valid.shape != target.shape or valid.dtype != torch.bool))
    ):
        given = "none" if valid is None else f"{tuple(valid.shape)} {valid.dtype}"
        raise ShapeError(
            f"prediction {size}, target {tuple(target.shape)} and valid {given} do not fit together. Expected "
            "(N, C, H, W) or (N, H, W), the same or without a channel axis of 1, and bool of the target's shape."
        )
    if nodata is not None and (isinstance(nodata, bool) or not isinstance(nodata, int | float)):
        raise UsageError(f"nodata={nodata!r} is no number. Expected one, or none.")
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    truth = target.to(dtype).view(size)
    known = truth.isfinite()
    if nodata is not None:
        known &= truth != nodata
    if valid is not None:
        known &= valid.view(size)
    return torch.where(known, logits.to(dtype), 0), torch.where(known, truth, 0), known


def _mean(total: Tensor, known: Tensor) -> Tensor:
    return total / known.sum().clamp_min(1)
