"""The centreline Dice loss: is the skeleton of each inside the other?"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geoseg.errors import UsageError
from geoseg.losses.inputs import Task, check_range, prepare, region_weights, regions
from geoseg.losses.overlap import overlap_of, shares


def cldice(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    iterations: int = 10,
    smooth: float = 1.0,
    class_weights: Sequence[float] | Tensor | None = None,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Centreline Dice loss: the Dice loss, mixed with one of skeletons, which a gap in a thin road costs much.

    The skeleton is found by `iterations` soft erosions and dilations: at least half the width of the widest road, in
    pixels. By itself it is blind to wide areas; so the Dice loss is part of it, as in the paper. Every class that
    occurs counts, the background's skeleton too (it tells where roads are wrongly joined): `class_weights=[0,1]` leaves
    it out, and saves its cost. Costs about a hundred times what the others do. An all-ignored batch gives 0 with a
    zero gradient.

    Args:
        logits: (N, K, H, W) float, before softmax or sigmoid; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`; or (N, K, H, W) one-hot. Other tasks: `prepare`.
        alpha: Share of the skeletons, 0 to 1; the rest is the Dice loss.
        iterations: Whole number from 1 to 100.
        smooth: Pixels added above and below the lines of both skeleton ratios, above 0.
        class_weights: One number a class (`binary`: no and yes; `multilabel`: one a label), 0 to a million, of the
            skeletons alone.
        task: `multiclass`, `binary` or `multilabel`.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ShapeError: If `target` does not fit `logits`.
        LabelsError: If a class index is out of range, or a share is neither 0 nor 1.
        UsageError: If an option is out of range.

    Source: Shit et al. 2020, arXiv:2003.07311, eq. 1 and 2, algorithms 1 and 2; the mixture with soft Dice is its L_c.
    """
    check_range("alpha", alpha, 0, 1)
    check_range("smooth", smooth, 1e-6, 1e6)
    if type(iterations) is not int or not 1 <= iterations <= 100:
        raise UsageError(f"iterations={iterations!r} is out of range. Expected a whole number from 1 to 100.")
    problem = prepare(logits, target, task=task, ignore_index=ignore_index, soft="cldice")
    sums = overlap_of(problem, None, per_image=False)
    overlap, share = sums.overlap(0.5, 0.5, 0.0, "macro")
    area = (share * (1 - overlap)).sum().to(problem.logits.dtype)
    share = shares(sums.actual, region_weights(class_weights, problem))[0]
    chosen = share.nonzero()[:, 0]
    if not alpha or not len(chosen):
        return area
    probs, truth, known = (plane[:, chosen] for plane in regions(problem))
    probs = probs * known
    with torch.no_grad():
        true_lines = skeleton(truth, known, iterations)
    lines = skeleton(probs, known, iterations)
    precision = ((lines * truth).sum((0, 2, 3)) + smooth) / (lines.sum((0, 2, 3)) + smooth)
    recall = ((true_lines * probs).sum((0, 2, 3)) + smooth) / (true_lines.sum((0, 2, 3)) + smooth)
    missed = 1 - 2 * precision * recall / (precision + recall)
    # A class so wide that it has no skeleton is left to the Dice loss.
    missed = torch.where(true_lines.sum((0, 2, 3)) > 0, missed, (1 - overlap[0, chosen]).to(missed.dtype))
    return (1 - alpha) * area + alpha * (share[chosen] * missed).sum().to(area.dtype)


def skeleton(planes: Tensor, known: Tensor, iterations: int) -> Tensor:
    """Soft skeletons: what every opening takes away, gathered while the planes are eroded.

    Args:
        planes: (N, R, H, W) float in [0, 1].
        known: (N, R, H, W) bool; other pixels neither erode nor widen their neighbours.
        iterations: Erosions.

    Returns:
        (N, R, H, W) in [0, 1]; 0 where unknown.

    Source: Shit et al. 2020, arXiv:2003.07311, algorithm 1.
    """
    found: Tensor = _Skeleton.apply(planes.flatten(0, 1), known.flatten(0, 1), iterations)
    return found.view(planes.shape)


_ROWS = (
    ((..., slice(1, None), slice(None)), (..., slice(None, -1), slice(None))),
    ((..., slice(None, -1), slice(None)), (..., slice(1, None), slice(None))),
)
"""Where a pixel has a neighbour above, or below; and that neighbour."""
_COLUMNS = (
    ((..., slice(None), slice(1, None)), (..., slice(None), slice(None, -1))),
    ((..., slice(None), slice(None, -1)), (..., slice(None), slice(1, None))),
)
"""The same to the left and right."""
_BLOCK = 65536
"""Pixels that are worked on together on a CPU, unless a plane has more."""
_Neighbours = tuple[tuple[Any, Any], ...]


class _Skeleton(torch.autograd.Function):
    """Skeletons of (P, H, W) planes, one after the other on a CPU, so that a plane stays in its cache.

    Kept for the way back are the planes alone: what lies between is computed again, instead of held for all of them.
    """

    @staticmethod
    def forward(ctx: Any, planes: Tensor, known: Tensor, iterations: int) -> Tensor:
        ctx.save_for_backward(planes, known)
        ctx.iterations = iterations
        return torch.cat([_lines(part, there, iterations)[0] for part, there in _parts(planes, known)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        parts = _parts(factor, *ctx.saved_tensors)
        return torch.cat([_slope(by, part, there, ctx.iterations) for by, part, there in parts]), None, None


def _parts(*planes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    first = planes[0]
    many = max(1, _BLOCK // max(1, first[0].numel())) if first.device.type == "cpu" else len(first)
    return zip(*(plane.split(max(1, many)) for plane in planes), strict=True)


def _lines(planes: Tensor, known: Tensor, iterations: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The skeleton, the planes after each erosion (filled where unknown), and what each opening takes away."""
    known = known.to(planes.dtype)
    eroded, taken = [_filled(planes, known, 1)], []
    rest = torch.ones_like(planes)
    for _ in range(iterations + 1):
        smaller = _filled(_extreme(eroded[-1], (*_ROWS, *_COLUMNS), torch.minimum), known, 1)
        opened = _extreme(_extreme(smaller * known, _ROWS, torch.maximum), _COLUMNS, torch.maximum)
        taken.append((eroded[-1] - opened).clamp_min_(0).mul_(known))
        rest.mul_(1 - taken[-1])
        eroded.append(smaller)
    return 1 - rest, eroded, taken


def _slope(factor: Tensor, planes: Tensor, known: Tensor, iterations: int) -> Tensor:
    """The gradient by the planes, from that by their skeleton. Where neighbours are equal they share it."""
    _, eroded, taken = _lines(planes, known, iterations)
    known = known.to(planes.dtype)
    before = [torch.ones_like(planes)]
    for each in taken[:-1]:
        before.append(before[-1] * (1 - each))
    after, slope = factor.clone(), torch.zeros_like(planes)
    for step in reversed(range(iterations + 1)):
        by_taken = (after * before[step]).mul_((taken[step] > 0).to(planes.dtype))
        after.mul_(1 - taken[step])
        # What is taken away is the plane less its opening, which is made from the next erosion.
        own = eroded[step + 1] * known
        middle = _extreme(own, _ROWS, torch.maximum)
        opened = _extreme(middle, _COLUMNS, torch.maximum)
        by_opening = _spread(middle, opened, -by_taken, _COLUMNS)
        slope.add_(_spread(own, middle, by_opening, _ROWS)).mul_(known)
        smallest = _extreme(eroded[step], (*_ROWS, *_COLUMNS), torch.minimum)
        slope = _spread(eroded[step], smallest, slope, (*_ROWS, *_COLUMNS)).add_(by_taken)
    return slope.mul_(known)


def _filled(planes: Tensor, known: Tensor, value: float) -> Tensor:
    """`value` where `known` is 0."""
    return (planes - value).mul_(known).add_(value)


def _extreme(planes: Tensor, neighbours: _Neighbours, which: Callable[..., Tensor]) -> Tensor:
    """The largest or smallest of each pixel and its neighbours."""
    out = planes.clone()
    for here, there in neighbours:
        which(out[here], planes[there], out=out[here])
    return out


def _spread(planes: Tensor, extreme: Tensor, factor: Tensor, neighbours: _Neighbours) -> Tensor:
    """The gradient by the planes from that by their extreme: to those that are equal to it, in equal shares."""
    same = [torch.eq(planes, extreme, out=torch.empty_like(planes))]
    count = same[0].clone()
    for here, there in neighbours:
        same.append(torch.eq(planes[there], extreme[here], out=torch.empty_like(planes[there])))
        count[here] += same[-1]
    share = factor / count
    out = same[0] * share
    for (here, there), equal in zip(neighbours, same[1:], strict=True):
        out[there].addcmul_(equal, share[here])
    return out
