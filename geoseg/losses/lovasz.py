"""The Lovasz-softmax loss: IoU itself as a loss, by a histogram of errors or by sorting them.

For one class let e be each pixel's error (1 - p where the pixel has the class, p elsewhere). Take the pixels in order
of falling error and let D_k be the Jaccard loss 1 - I/U if exactly the first k were wrong. The loss is the sum over k
of e_k (D_k - D_{k-1}): linear in the errors, with weights that depend on their order only.

Source: Berman et al. 2018, arXiv:1705.08790, eq. 8, 9 and algorithm 1.
"""

import torch
from torch import Tensor

from geoseg.losses.inputs import one_hot, prepare

_BINS = 1024


def lovasz(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Lovasz-softmax loss, averaged over the classes that occur in the target; IoU over the whole batch.

    Instead of sorting the errors they are counted in 1024 bins; inside a bin the order is not known, and a pixel's
    weight is the mean of the two extreme orders. Loss and gradient are within about 0.1 % of `lovasz_sort`, many times
    faster. On hard predictions it is the mean of 1 - IoU. An all-ignored batch gives 0 with a zero gradient.

    Args:
        logits: (N, K, H, W) float, before softmax; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ShapeError: If `target` is not (N, H, W) of `logits`.
        LabelsError: If a class index is out of range.

    Source: Berman et al. 2018, arXiv:1705.08790, eq. 11.
    """
    logits, target, valid = prepare(logits, target, ignore_index)
    classes = logits.shape[1]
    truth = one_hot(target, valid, classes)
    errors = _errors(logits, truth)
    with torch.no_grad():
        # One slot for each (class, is of the class, bin), and a last one for ignored pixels. int32 is twice as fast.
        last = 2 * _BINS * classes
        slot = (errors * _BINS).int().clamp_(0, _BINS - 1).add_(truth.int(), alpha=_BINS)
        slot += torch.arange(0, last, 2 * _BINS, dtype=torch.int32, device=slot.device).view(1, -1, 1, 1)
        slot = torch.where(valid[:, None], slot, last).flatten()
        counts = torch.bincount(slot, minlength=last + 1)[:last]
        weight = _weights(counts.view(classes, 2, _BINS)).flatten().to(errors.dtype)
        weight = torch.cat([weight, weight.new_zeros(1)]).index_select(0, slot)
    return (errors * weight.view_as(errors)).sum()


def _weights(counts: Tensor) -> Tensor:
    """What an error weighs, by class, by whether the pixel is of the class, and by bin.

    A bin of F pixels of the class and G others takes intersection and union from I0, U0 to I1 = I0 - F, U1 = U0 + G,
    and the Jaccard loss by I0/U0 - I1/U1. With the F first that is F / U0 + G I1 / (U0 U1), with the G first
    F / U1 + G I0 / (U0 U1): the weights are the means of both, and their sum is exact.

    Args:
        counts: (K, 2, bins) int64 pixels: [:, 0] of other classes, [:, 1] of the class.

    Returns:
        (K, 2, bins) float64; 0 for classes without a pixel.
    """
    other, own = counts.double().flip(-1).unbind(1)
    size = own.sum(-1, keepdim=True)
    later_i, later_u = size - own.cumsum(-1), size + other.cumsum(-1)
    first_i, first_u = later_i + own, later_u - other
    # A class without a pixel has a union of 0 to start with, and is left out below.
    first_u, later_u = first_u.clamp_min(1), later_u.clamp_min(1)
    weight_own = (1 / first_u + 1 / later_u) / 2
    weight_other = (first_i + later_i) / 2 / (first_u * later_u)
    present = (size > 0).double()
    weight = torch.stack([weight_other, weight_own], 1).flip(-1)
    return weight * (present / present.sum().clamp_min(1))[:, None]


def lovasz_sort(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Lovasz-softmax loss with the exact order of the errors; slow, for reference.

    Arguments, result and errors as `lovasz`. The weights are computed in float64: as differences of nearly equal
    numbers they are off by percents in float32.

    Source: Berman et al. 2018, arXiv:1705.08790, algorithm 1.
    """
    logits, target, valid = prepare(logits, target, ignore_index)
    truth = one_hot(target, valid, logits.shape[1])
    errors = _errors(logits, truth).movedim(1, 0)[:, valid]
    losses = []
    for error, own in zip(errors, truth.movedim(1, 0)[:, valid], strict=True):
        if not own.any():
            continue
        falling, order = error.sort(descending=True, stable=True)
        sorted_own = own[order].double()
        intersection = sorted_own.sum() - sorted_own.cumsum(0)
        union = sorted_own.sum() + (1 - sorted_own).cumsum(0)
        jaccard = 1 - intersection / union
        losses.append((falling * jaccard.diff(prepend=jaccard.new_zeros(1)).to(falling.dtype)).sum())
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def _errors(logits: Tensor, truth: Tensor) -> Tensor:
    """(N, K, H, W): 1 - p where the pixel has the class, p elsewhere."""
    return (logits.softmax(1) - truth.to(logits.dtype)).abs()
