"""The Lovasz losses: IoU itself as a loss, by a histogram of errors or by sorting them.

For one class let e be each pixel's error (softmax: 1 - p where the pixel has the class, p elsewhere; hinge: how far the
logit falls short of 1 on its side). Take the pixels in order of falling error and let D_k be the Jaccard loss 1 - I/U
if exactly the first k were wrong. The loss is the sum over k of e_k (D_k - D_{k-1}): linear in the errors, with weights
that depend on their order only.

Source: Berman et al. 2018, arXiv:1705.08790, eq. 8, 9 and algorithm 1.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from geoseg.losses.entropy import one_against_rest
from geoseg.losses.inputs import Classes, Planes, Task, check_choice, prepare, region_weights, regions, wide
from geoseg.losses.overlap import shares
from geoseg.losses.planes import Flat, Sloped

_BINS = 1024


def lovasz(
    logits: Tensor,
    target: Tensor,
    *,
    per_image: bool = False,
    class_weights: Sequence[float] | Tensor | None = None,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Lovasz-softmax loss, averaged over the classes that occur in the target; IoU over the whole batch.

    Instead of sorting the errors they are counted in 1024 bins; inside a bin the order is not known, and a pixel's
    weight is the mean of the two extreme orders. Loss and gradient are within about 0.1 % of `lovasz_sort`, many times
    faster. On hard predictions it is the mean of 1 - IoU. An all-ignored batch gives 0 with a zero gradient.

    Args:
        logits: (N, K, H, W) float, before softmax or sigmoid; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`; or (N, K, H, W) one-hot. Other tasks: `prepare`.
        per_image: IoU of each image, and the mean of the images that have a class; not of the batch.
        class_weights: One number a class (`binary`: no and yes; `multilabel`: one a label), 0 to a million.
        task: `multiclass`, `binary` or `multilabel`; the latter two are the softmax over no and yes.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ShapeError: If `target` does not fit `logits`.
        LabelsError: If a class index is out of range, or a share is neither 0 nor 1.
        UsageError: If an option is out of range.

    Source: Berman et al. 2018, arXiv:1705.08790, eq. 11.
    """
    check_choice("per_image", per_image, (False, True))
    problem = prepare(logits, target, task=task, ignore_index=ignore_index, soft="lovasz")
    weights = region_weights(class_weights, problem)
    if isinstance(problem, Planes):
        return _of_planes(problem, weights, per_image, torch.sigmoid, lambda error: error, _slope_of_sigmoid)
    truth = problem.truth()
    errors = (problem.logits.softmax(1) - truth).abs()
    with torch.no_grad():
        code = (truth.int() + 1) * problem.known[:, None]
        # One slot for each (class or unknown, bin) of each plane. int32 is twice as fast as int64.
        slot = (errors * (_BINS - 1e-3)).int().add_(code, alpha=_BINS)
        slot = slot.flatten(2).add_(_offsets(truth.shape[0] * truth.shape[1], slot).view(*truth.shape[:2], 1)).flatten()
        counts = torch.bincount(slot, minlength=3 * _BINS * truth.shape[0] * truth.shape[1])
        table = _of_classes(counts.view(*truth.shape[:2], 3, _BINS), weights, per_image)
        each = table.to(errors.dtype).flatten().index_select(0, slot).view_as(errors)
    return (errors * each).sum()


def lovasz_hinge(
    logits: Tensor,
    target: Tensor,
    *,
    per_image: bool = False,
    class_weights: Sequence[float] | Tensor | None = None,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Lovasz hinge: as `lovasz`, of how far each logit falls short of 1 on its side, without a sigmoid.

    For heads of yes or no. Two classes are told apart by the difference of their logits; of K > 2 classes each is one
    against the rest. Both yes and no count, each where it occurs, so that a tile without yes punishes every false alarm
    (the paper's loss has yes alone). A pixel that is wrong by a margin of 1 costs twice what it costs in the IoU.

    Args:
        logits: (N, K, H, W) float, before the sigmoid; computed in float32 whatever comes in.
        target: As in `lovasz`, like all that follow.
        per_image: IoU of each image.
        class_weights: One number a class (`binary`: no and yes; `multilabel`: one a label), 0 to a million.
        task: `multiclass`, `binary` or `multilabel`.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32, at least 0.

    Raises:
        ShapeError: If `target` does not fit `logits`.
        LabelsError: If a class index is out of range, or a share is neither 0 nor 1.
        UsageError: If an option is out of range.

    Source: Berman et al. 2018, arXiv:1705.08790, section 3.1, eq. 9 and 10.
    """
    check_choice("per_image", per_image, (False, True))
    problem = prepare(logits, target, task=task, ignore_index=ignore_index, soft="lovasz_hinge")
    weights = region_weights(class_weights, problem)
    if isinstance(problem, Classes):
        problem, weights = one_against_rest(problem), weights.repeat_interleave(2)
    return _of_planes(
        problem,
        weights,
        per_image,
        lambda odds: (odds + 1).clamp_min_(0),
        lambda error: error / (error + 1),  # any number that grows with the error will do to sort by
        torch.sign,
    )


def _slope_of_sigmoid(error: Tensor) -> Tensor:
    return (1 - error).mul_(error)


def _of_planes(
    planes: Planes,
    weights: Tensor,
    per_image: bool,
    error_of: Callable[[Tensor], Tensor],
    place_of: Callable[[Tensor], Tensor],
    slope_of: Callable[[Tensor], Tensor],
) -> Tensor:
    """The loss of both regions of planes: no and yes have the same errors, and one histogram.

    Args:
        planes: The problem.
        weights: (2 L,) class weights.
        per_image: Whether each image has its own loss.
        error_of: From log-odds of being wrong to the error.
        place_of: From error to a number in [0, 1] that grows with it.
        slope_of: From error to its slope by the log-odds.
    """
    flat = Flat(planes)
    errors = flat.empty()
    slots = torch.empty(errors.shape, dtype=torch.int32, device=errors.device)
    counts = torch.zeros(flat.rows, 3 * _BINS, dtype=torch.int64, device=errors.device)
    for index, odds, yes, known in flat:
        error = errors[index].copy_(error_of(odds * known.sub_(yes, alpha=2)))
        slot = slots[index]
        slot.copy_(place_of(error) * (_BINS - 1e-3)).add_(flat.code[index], alpha=_BINS)
        if len(slot) > 1:
            slot.add_(_offsets(len(slot), slot)[:, None])
        counts[index[0]] += torch.bincount(slot.flatten(), minlength=3 * _BINS * len(slot)).view(len(slot), 3 * _BINS)
    labels = planes.code.shape[1]
    both = counts.view(len(planes.code), labels, 3, _BINS)
    both = torch.stack([both[:, :, [0, 2, 1]], both], 2).flatten(1, 2)
    tables = _of_classes(both, weights, per_image).view(len(both), labels, 2, 3, _BINS)
    table = (tables[:, :, 0][:, :, [0, 2, 1]] + tables[:, :, 1]).to(errors.dtype).view(flat.rows, 3 * _BINS)
    sums = flat.sums(1)[0]
    for index, _, yes, known in flat:
        error = errors[index]
        each = table[index[0]].flatten().index_select(0, slots[index].flatten()).view_as(error)
        sums[index[0]] += (each * error).sum(-1)
        torch.mul(slope_of(error).mul_(each), known.sub_(yes, alpha=2), out=error)
    return Sloped.apply(planes.logits, sums.sum().to(errors.dtype), errors, planes.pair)


def _offsets(planes: int, like: Tensor) -> Tensor:
    """(planes,) where the slots of each plane begin."""
    return torch.arange(0, 3 * _BINS * planes, 3 * _BINS, dtype=like.dtype, device=like.device)


def _of_classes(counts: Tensor, class_weights: Tensor, per_image: bool) -> Tensor:
    """What an error weighs in the whole loss, by image, class, whether the pixel is of the class, and bin.

    Args:
        counts: (N, R, 3, bins) int64 pixels: unknown, of other classes, of the class.
        class_weights: (R,).
        per_image: Whether each image has its own loss.

    Returns:
        (N, R, 3, bins) float64; 0 for unknown pixels.
    """
    groups = counts if per_image else counts.sum(0, keepdim=True)
    share = shares(groups[:, :, 2].sum(-1).to(wide(counts)), class_weights)
    weights = _weights(groups[:, :, 1:]) * share[..., None, None]
    return torch.cat([torch.zeros_like(weights[:, :, :1]), weights], 2).expand(counts.shape)


def _weights(counts: Tensor) -> Tensor:
    """What an error weighs, by class, by whether the pixel is of the class, and by bin.

    A bin of F pixels of the class and G others takes intersection and union from I0, U0 to I1 = I0 - F, U1 = U0 + G,
    and the Jaccard loss by I0/U0 - I1/U1. With the F first that is F / U0 + G I1 / (U0 U1), with the G first
    F / U1 + G I0 / (U0 U1): the weights are the means of both, and their sum is exact.

    Args:
        counts: (G, R, 2, bins) int64 pixels: [..., 0, :] of other classes, [..., 1, :] of the class.

    Returns:
        (G, R, 2, bins) float64; of no meaning for classes without a pixel.
    """
    other, own = counts.to(wide(counts)).flip(-1).unbind(-2)
    size = own.sum(-1, keepdim=True)
    later_i, later_u = size - own.cumsum(-1), size + other.cumsum(-1)
    first_i, first_u = later_i + own, later_u - other
    # A class without a pixel has a union of 0 to start with.
    first_u, later_u = first_u.clamp_min(1), later_u.clamp_min(1)
    weight_own = (1 / first_u + 1 / later_u) / 2
    weight_other = (first_i + later_i) / 2 / (first_u * later_u)
    return torch.stack([weight_other, weight_own], -2).flip(-1)


def lovasz_sort(
    logits: Tensor,
    target: Tensor,
    *,
    per_image: bool = False,
    class_weights: Sequence[float] | Tensor | None = None,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Lovasz-softmax loss with the exact order of the errors; slow, for reference.

    Arguments, result and errors as `lovasz`. The weights are computed in float64: as differences of nearly equal
    numbers they are off by percents in float32.

    Source: Berman et al. 2018, arXiv:1705.08790, algorithm 1.
    """
    check_choice("per_image", per_image, (False, True))
    problem = prepare(logits, target, task=task, ignore_index=ignore_index, soft="lovasz_sort")
    probs, truth, known = regions(problem)
    if not per_image:
        probs, truth, known = (x.movedim(1, 0).flatten(1)[None] for x in (probs, truth, known))
    else:
        probs, truth, known = (x.flatten(2) for x in (probs, truth, known))
    share = shares(truth.sum(-1), region_weights(class_weights, problem))
    total = probs.sum() * 0
    for group, region in (share > 0).nonzero().tolist():
        of = known[group, region]
        own = truth[group, region][of]
        falling, order = (probs[group, region][of] - own).abs().sort(descending=True, stable=True)
        sorted_own = own[order].to(wide(own))
        intersection = sorted_own.sum() - sorted_own.cumsum(0)
        union = sorted_own.sum() + (1 - sorted_own).cumsum(0)
        jaccard = 1 - intersection / union
        weights = jaccard.diff(prepend=jaccard.new_zeros(1)).to(falling.dtype)
        total = total + share[group, region] * (falling * weights).sum()
    return total
