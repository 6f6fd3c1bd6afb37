"""What every loss does first: check the shapes, compute in float32, tell ignored pixels from the others.

A problem is either `Classes` (three classes or more, one of which is true) or `Planes` (yes or no: a binary head, the
labels of a multilabel head, and two classes, whose softmax is a sigmoid of the difference).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from geoseg.errors import LabelsError, ShapeError, UsageError, nearest

Task = Literal["multiclass", "binary", "multilabel"]
TASKS: tuple[Task, ...] = ("multiclass", "binary", "multilabel")
"""One of K classes is true; one logit says yes or no; each of K logits says yes or no."""

_EXPECTED = {
    "multiclass": "(N, K, H, W) with K of at least 2, and (N, H, W), or (N, K, H, W) for shares of the classes",
    "binary": "(N, 1, H, W), and (N, H, W)",
    "multilabel": "(N, K, H, W), and the same",
}
_FEW = 16
"""Pixels of which nothing can be told: small numbers may sum to 1 by chance."""
_warned: list[bool] = []


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Pixels of which each has one of K >= 3 classes, or shares of them."""

    logits: Tensor
    """(N, K, H, W) float32 or float64."""
    target: Tensor
    """(N, H, W) int64 in [0, K), 0 where unknown; or (N, K, H, W) shares of the logits' dtype, 0 where unknown."""
    known: Tensor
    """(N, H, W) bool, True = has a class."""

    @property
    def hard(self) -> bool:
        """Whether the target is one class a pixel, and not shares."""
        return self.target.ndim == 3

    def truth(self) -> Tensor:
        """(N, K, H, W): the share of each class in each pixel; 0 where unknown."""
        if not self.hard:
            return self.target
        index = torch.arange(self.logits.shape[1], device=self.target.device).view(1, -1, 1, 1)
        return (torch.where(self.known, self.target, -1)[:, None] == index).to(self.logits.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Questions answered by yes or no, one a plane."""

    logits: Tensor
    """(N, L, H, W) log-odds of yes; or, of a pair, (N, 2, H, W): log-odds are the second minus the first."""
    code: Tensor
    """(N, L, H, W): uint8 with 0 unknown, 1 no, 2 yes; or the share of yes, of the logits' dtype, -1 unknown."""
    pair: bool
    """Whether there are two logits for one plane."""
    labels: bool
    """Whether the planes are labels, each with one weight, and not two classes with a weight each."""

    @property
    def hard(self) -> bool:
        """Whether the target is yes or no, and not shares."""
        return self.code.dtype == torch.uint8

    def odds(self) -> Tensor:
        """(N, L, H, W) log-odds of yes."""
        return self.logits[:, 1:] - self.logits[:, :1] if self.pair else self.logits

    def answers(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Share of yes, and 1 where known (else 0), as floats, of a part of `code`.

        By arithmetic: comparisons and masks of bools are several times slower.
        """
        if self.hard:
            number = code.to(self.logits.dtype)
            return (number - 1).clamp_min_(0), number.clamp_max_(1)
        return code.clamp_min(0), (code >= 0).to(code.dtype)


def prepare(
    logits: Tensor, target: Tensor, *, task: Task = "multiclass", ignore_index: int = 255, soft: str = ""
) -> Classes | Planes:
    """Logits and target as the losses want them.

    Args:
        logits: (N, K, H, W) float, before softmax or sigmoid.
        target: `multiclass`: (N, H, W) whole numbers in [0, K), or `ignore_index`; or (N, K, H, W) shares that sum to 1
            (one-hot included), all of them `ignore_index`, NaN or 0 where nothing is known. `binary`: (N, H, W) or
            (N, 1, H, W) of 0, 1, `ignore_index`, or float shares of 1 (NaN is ignored). `multilabel`: the same,
            (N, K, H, W).
        task: What the logits mean.
        ignore_index: The value of pixels without a class.
        soft: The name of a loss that takes no shares but 0 and 1; empty if it does.

    Returns:
        `Planes` for yes or no, two classes included, else `Classes`; float32 (float64 stays float64).

    Raises:
        ShapeError: If `target` does not fit `logits`, or its numbers are of the wrong kind.
        LabelsError: If a class index or a share is out of range.
        UsageError: If `task` or `ignore_index` is wrong.
    """
    check_choice("task", task, TASKS)
    if type(ignore_index) is not int:
        raise UsageError(f"ignore_index={ignore_index!r} is out of range. Expected a whole number.")
    _check_shapes(logits, target, task)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if task != "multiclass":
        code = _yes_or_no(target.view(len(target), -1, *target.shape[-2:]), logits, ignore_index)
        problem: Classes | Planes = Planes(logits, code, pair=False, labels=task == "multilabel")
    else:
        notice_probabilities(logits)
        problem = _shares(logits, target, ignore_index) if target.ndim == 4 else _indices(logits, target, ignore_index)
    if soft and not problem.hard:
        raise LabelsError(f"target has shares between 0 and 1. Expected hard classes: {soft} takes no others.")
    return problem


def _check_shapes(logits: Tensor, target: Tensor, task: Task) -> None:
    size, got = tuple(logits.shape), tuple(target.shape)
    plain = (*size[:1], *size[2:])
    fits = {
        "multiclass": got in (plain, size) and len(size) == 4 and size[1] > 1,
        "binary": got in (plain, size) and len(size) == 4 and size[1] == 1,
        "multilabel": got == size and len(size) == 4 and size[1] > 0,
    }[task]
    if not fits:
        raise ShapeError(
            f"logits {size} and target {got} do not fit together for task={task!r}. Expected {_EXPECTED[task]}."
        )
    if task == "multiclass" and got == plain and (target.is_floating_point() or target.dtype == torch.bool):
        raise ShapeError(f"target is {target.dtype}. Expected whole numbers: class indices.")


def _indices(logits: Tensor, target: Tensor, ignore_index: int) -> Classes | Planes:
    """The problem of one class index a pixel."""
    code = _code(target, logits.shape[1], ignore_index)
    if logits.shape[1] == 2:
        return Planes(logits, code[:, None], pair=True, labels=False)
    return Classes(logits, (code.long() - 1).clamp_min_(0), code > 0)


def _code(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Class indices plus 1, and 0 for ignored pixels: uint8 up to 255 classes, else int64.

    Raises:
        LabelsError: If an index is out of range.
    """
    if not target.numel():
        return target.to(torch.uint8)
    low, high = map(int, torch.aminmax(target))
    if classes < 256 and ignore_index == 255 and low >= 0 and high <= 255:
        code = target.to(torch.uint8) + 1  # 255 becomes 0; small numbers are many times faster to look at
    else:
        code = torch.where(target == ignore_index, 0, target.long() + 1)
        low, high = int(torch.where(target == ignore_index, 0, target.long()).min()), int(code.max()) - 1
    if low < 0 or int(code.max()) > classes:
        wrong = low if low < 0 else int(code.max()) - 1
        raise LabelsError(f"target has class {wrong}. Expected 0 to {classes - 1}, or {ignore_index} for no class.")
    return code.to(torch.uint8) if classes < 256 else code


def _yes_or_no(target: Tensor, logits: Tensor, ignore_index: int) -> Tensor:
    """The code of planes: of whole numbers, or of shares if any lies between 0 and 1."""
    if not target.is_floating_point():
        return _code(target.to(torch.uint8) if target.dtype == torch.bool else target, 2, ignore_index)
    unknown = (target == ignore_index) | target.isnan()
    share = torch.where(unknown, 0, target).to(logits.dtype)
    _check_shares(share)
    if ((share == 0) | (share == 1)).all():
        return torch.where(unknown, 0, share + 1).to(torch.uint8)
    return torch.where(unknown, -1, share)


def _shares(logits: Tensor, target: Tensor, ignore_index: int) -> Classes | Planes:
    """The problem of shares of K classes a pixel; one-hot ones become indices."""
    share = target.to(logits.dtype)
    unknown = ((share == ignore_index) | share.isnan()).all(1) | (share == 0).all(1)
    share = torch.where(unknown[:, None], 0, share)
    _check_shares(share)
    if not torch.where(unknown, 1, (share.sum(1) - 1).abs() < 1e-3).all():
        raise LabelsError("target has shares that do not sum to 1. Expected the shares of all classes of a pixel.")
    if ((share == 0) | (share == 1)).all():
        return _indices(logits, torch.where(unknown, ignore_index, share.argmax(1)), ignore_index)
    if logits.shape[1] == 2:
        return Planes(logits, torch.where(unknown, -1, share[:, 1])[:, None], pair=True, labels=False)
    return Classes(logits, share, ~unknown)


def _check_shares(share: Tensor) -> None:
    if share.numel() and not ((share >= 0) & (share <= 1)).all():
        raise LabelsError(
            f"target has values from {float(share.min()):g} to {float(share.max()):g}. Expected shares from 0 to 1."
        )


def regions(problem: Classes | Planes) -> tuple[Tensor, Tensor, Tensor]:
    """Probability, truth and known of every class, as (N, R, H, W).

    R is the number of classes; planes have two regions each, no and yes.
    """
    if isinstance(problem, Classes):
        known = problem.known[:, None].expand_as(problem.logits)
        return problem.logits.softmax(1), problem.truth(), known
    odds = problem.odds()
    yes, known = problem.answers(problem.code)
    return (
        torch.stack([-odds, odds], 2).sigmoid().flatten(1, 2),
        torch.stack([known - yes, yes], 2).flatten(1, 2),
        (known > 0).repeat_interleave(2, 1),
    )


def notice_probabilities(logits: Tensor) -> None:
    """Warn, once a process, of logits that lie in [0, 1] and sum to 1: a softmax was taken where none belongs."""
    few = logits.detach()[:1, :, :1, :64]
    if _warned or logits[:, 0].numel() < _FEW or not _probable(few) or not _probable(logits.detach()):
        return
    _warned.append(True)
    warnings.warn(
        "The logits look like probabilities: all in [0, 1], and the channels sum to 1. Losses take what comes before "
        "the softmax. Leave it out of the model.",
        stacklevel=4,
    )


def _probable(logits: Tensor) -> bool:
    return bool(((logits >= 0) & (logits <= 1)).all() and ((logits.sum(1) - 1).abs() < 1e-3).all())


def region_weights(class_weights: Sequence[float] | Tensor | None, problem: Classes | Planes) -> Tensor:
    """(R,) weights of the regions: one a class, or each label's twice, for no and for yes; ones if None.

    Raises:
        UsageError: If there are not as many as classes, or one is not from 0 to a million.
    """
    labels = isinstance(problem, Planes) and problem.labels
    count = problem.logits.shape[1] if labels or isinstance(problem, Classes) else 2
    given = weights_per_class(class_weights, count, problem.logits)
    return given.repeat_interleave(2) if labels else given


def weights_per_class(class_weights: Sequence[float] | Tensor | str | None, count: int, like: Tensor) -> Tensor:
    """The class weights as a (count,) tensor beside `like`, ones if None.

    Raises:
        UsageError: If there are not `count` of them, or one is not from 0 to a million.
    """
    if class_weights is None:
        return torch.ones(count, dtype=like.dtype, device=like.device)
    if isinstance(class_weights, str):
        raise UsageError(f"class_weights={class_weights!r} needs the pixels of each class. Expected {count} numbers.")
    given = torch.as_tensor(class_weights, dtype=like.dtype, device=like.device)
    if given.shape != (count,) or not ((given >= 0) & (given <= 1e6)).all():
        raise UsageError(f"class_weights={given.tolist()} does not fit. Expected {count} numbers from 0 to 1000000.")
    return given


def wide(tensor: Tensor) -> torch.dtype:
    """The dtype of long sums: float64 where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def check_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Refuse a loss's option that is no number from `low` to `high`.

    Raises:
        UsageError: If it is.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= high
        or value == float("inf")
    ):
        most = f"from {low:g} to {high:g}" if high < float("inf") else f"of at least {low:g}"
        raise UsageError(f"{name}={value!r} is out of range. Expected a number {most}.")


def check_choice(name: str, value: object, options: Sequence[object]) -> None:
    """Refuse a loss's option that is none of `options`.

    Raises:
        UsageError: If it is not.
    """
    if not any(value is option or (value == option and isinstance(value, str)) for option in options):
        near = nearest(value, map(str, options)) if isinstance(value, str) else ""
        raise UsageError(f"{name}={value!r} is unknown.{near} Expected {' or '.join(map(str, options))}.")
