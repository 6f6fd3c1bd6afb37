"""Sums over planes of yes or no, a block at a time: what is computed of a pixel stays in the processor's cache.

The slopes are written down, not found by automatic differentiation: a pass over memory costs more than a sigmoid.
So they are finite for every logit, and cannot be differentiated again.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geoseg.losses.inputs import Planes, wide

Index = tuple[slice, slice]
"""Which planes, and which of their pixels."""

_BLOCK = 65536
"""Pixels: 256 KiB of float32."""


def blocks(planes: int, pixels: int, device: torch.device) -> Iterator[Index]:
    """Parts that cover all pixels of all planes: small ones on a CPU, a single one elsewhere."""
    if device.type != "cpu":
        yield slice(0, planes), slice(0, pixels)
        return
    many = max(1, _BLOCK // max(1, pixels))
    for plane in range(0, planes, many):
        for start in range(0, pixels, _BLOCK):
            yield slice(plane, min(plane + many, planes)), slice(start, min(start + _BLOCK, pixels))


class Flat:
    """Planes as rows of pixels, (N L, H W), and what is asked of a block of them."""

    def __init__(self, planes: Planes) -> None:
        """Views of the planes, without their gradient."""
        self.planes = planes
        count, labels, *size = planes.code.shape
        self.rows, self.pixels = count * labels, size[0] * size[1]
        shape = (count, 2, self.pixels) if planes.pair else (self.rows, self.pixels)
        self.logits = planes.logits.detach().contiguous().view(shape)
        self.code = planes.code.contiguous().view(self.rows, self.pixels)

    def __iter__(self) -> Iterator[tuple[Index, Tensor, Tensor, Tensor]]:
        """Index, log-odds, share of yes and known of each block; the last three (rows, pixels) floats."""
        for index in blocks(self.rows, self.pixels, self.logits.device):
            yes, known = self.planes.answers(self.code[index])
            yield index, self.odds(index), yes, known

    def odds(self, index: Index) -> Tensor:
        """Log-odds of a block; not to be changed."""
        if self.planes.pair:
            return self.logits[index[0], 1, index[1]] - self.logits[index[0], 0, index[1]]
        return self.logits[index]

    def empty(self) -> Tensor:
        """(N L, H W) of the logits' dtype, to be filled."""
        return self.logits.new_empty(self.rows, self.pixels)

    def sums(self, count: int) -> Tensor:
        """(count, N L) zeros to sum in."""
        return torch.zeros(count, self.rows, dtype=wide(self.logits), device=self.logits.device)


class Sloped(torch.autograd.Function):
    """A scalar whose slope by the log-odds is known."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, slope: Tensor, pair: bool) -> Tensor:
        """`value`, a scalar; `slope` (N L, H W)."""
        ctx.save_for_backward(slope)
        ctx.size, ctx.pair = logits.shape, pair
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        """The slope times what the scalar counts for."""
        (slope,) = ctx.saved_tensors
        if not ctx.pair:
            return (slope * factor).view(ctx.size), None, None, None
        out = slope.new_empty(len(slope), 2, slope.shape[1])
        torch.mul(slope, factor, out=out[:, 1])
        torch.mul(slope, -factor, out=out[:, 0])
        return out.view(ctx.size), None, None, None


class _Overlap(torch.autograd.Function):
    """Hit and predicted, and what needs no gradient: actual and known; (2, N, L) each."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, planes: Planes) -> tuple[Tensor, Tensor]:
        flat = Flat(planes)
        probs, sums = flat.empty(), flat.sums(4)
        for index, odds, yes, known in flat:
            part = torch.sigmoid(odds, out=probs[index])
            for place, plane in enumerate((part * yes, part * known, yes, known)):
                sums[place, index[0]] += plane.sum(-1)
        ctx.save_for_backward(probs)
        ctx.flat = flat
        soft, counts = sums.view(2, 2, *planes.code.shape[:2])
        ctx.mark_non_differentiable(counts)
        return soft, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factors: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (probs,), flat = ctx.saved_tensors, ctx.flat
        hit, predicted = factors.reshape(2, -1, 1).to(probs.dtype)
        out = torch.empty_like(flat.logits)
        for index in blocks(flat.rows, flat.pixels, probs.device):
            yes, known = flat.planes.answers(flat.code[index])
            slope = known.mul_(predicted[index[0]]).addcmul_(yes, hit[index[0]])
            part = probs[index]
            slope.mul_(part).mul_(1 - part)
            if flat.planes.pair:
                out[index[0], 1, index[1]] = slope
                torch.neg(slope, out=out[index[0], 0, index[1]])
            else:
                out[index] = slope
        return out.view(flat.planes.logits.shape), None


def overlap_sums(planes: Planes) -> tuple[Tensor, Tensor, Tensor]:
    """What the regions of planes, no and yes, share with the truth.

    Returns:
        Hit (the sum of probabilities where the region is true), predicted (the sum where anything is known) and actual
        (pixels that are true): (N, 2 L) float64 each.
    """
    (hit, predicted), (actual, known) = _Overlap.apply(planes.logits, planes)
    return (
        torch.stack([known - actual - predicted + hit, hit], -1).flatten(1),
        torch.stack([known - predicted, predicted], -1).flatten(1),
        torch.stack([known - actual, actual], -1).flatten(1),
    )


def pixel_mean(
    planes: Planes,
    term: Callable[[Tensor], tuple[Tensor, Tensor]],
    *,
    importance: Tensor,
    factors: Tensor,
    smoothing: float = 0.0,
) -> Tensor:
    """The mean over all known pixels of a term of the log-odds of being wrong.

    Args:
        planes: The problem.
        term: From log-odds of being wrong to the pixel's loss, and that loss's slope; both are then changed in place.
        importance: (2 L,) what a pixel of no and of yes counts for in the mean.
        factors: (2 L,) what its loss is multiplied by besides.
        smoothing: Share of the target that is spread evenly over no and yes.

    Returns:
        Scalar of the logits' dtype; 0 when nothing is known, or nothing counts.
    """
    flat, labels = Flat(planes), planes.code.shape[1]
    slope, sums = flat.empty(), flat.sums(2)
    weights = torch.stack([importance * factors, importance]).view(2, labels, 2).movedim(1, 0)
    weights = weights.repeat(len(planes.code), 1, 1)[..., None]  # (N L, 2, 2, 1): row, with factors or not, no or yes
    plain = bool((weights == 1).all())
    for index, odds, yes, known in flat:
        row = weights[index[0]]
        no = known - yes
        sums[1, index[0]] += (known if plain else no * row[:, 1, 0] + yes * row[:, 1, 1]).sum(-1)
        out = slope[index]
        if planes.hard and not smoothing:
            counts = known if plain else no * row[:, 0, 0] + yes * row[:, 0, 1]
            sign = no.sub_(yes)  # 0 where nothing is known
            loss, rise = term(odds * sign)
            sums[0, index[0]] += loss.mul_(counts).sum(-1)
            torch.mul(rise, sign if plain else sign.mul_(counts), out=out)
            continue
        spread = known * (smoothing / 2)
        out.zero_()
        for share, weight, side in ((no, row[:, 0, 0], 1), (yes, row[:, 0, 1], -1)):
            loss, rise = term(odds * side)
            share = share.mul(1 - smoothing).add_(spread).mul_(weight)
            sums[0, index[0]] += loss.mul_(share).sum(-1)
            out.addcmul_(rise, share, value=side)
    total, count = sums.sum(1).to(slope.dtype)
    return Sloped.apply(planes.logits, total, slope, planes.pair) / torch.where(count > 0, count, 1)
