"""What every loss does first: check the shapes, compute in float32, tell ignored pixels from the others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from geoseg.errors import LabelsError, ShapeError, UsageError


def prepare(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, target and valid as the losses want them.

    Args:
        logits: (N, K, H, W) float, K at least 2.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`.
        ignore_index: The value of pixels without a class.

    Returns:
        Logits (N, K, H, W) float32 (float64 stays float64), target (N, H, W) int64, and valid (N, H, W) bool, True =
        has a class.

    Raises:
        ShapeError: If `target` is not (N, H, W) of `logits`, or not of whole numbers.
        LabelsError: If a class index is out of range.
        UsageError: If `ignore_index` is no whole number.
    """
    if logits.ndim != 4 or logits.shape[1] < 2 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ShapeError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit together. "
            "Expected (N, K, H, W) with K of at least 2, and (N, H, W)."
        )
    if type(ignore_index) is not int:
        raise UsageError(f"ignore_index={ignore_index!r} is out of range. Expected a whole number.")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ShapeError(f"target is {target.dtype}. Expected whole numbers: class indices.")
    target = target.long()
    valid = target != ignore_index
    if target.numel():
        low, high = torch.aminmax(torch.where(valid, target, 0))
        if low < 0 or high >= logits.shape[1]:
            raise LabelsError(
                f"target has class {int(low if low < 0 else high)}. "
                f"Expected 0 to {logits.shape[1] - 1}, or {ignore_index} for no class."
            )
    return logits if logits.dtype == torch.float64 else logits.float(), target, valid


def one_hot(target: Tensor, valid: Tensor, classes: int) -> Tensor:
    """(N, K, H, W) bool: True where the pixel has that class; all False where it is ignored."""
    index = torch.arange(classes, device=target.device).view(1, -1, 1, 1)
    return (torch.where(valid, target, -1)[:, None] == index).contiguous()


def weights_per_class(class_weights: Sequence[float] | Tensor | None, logits: Tensor) -> Tensor | None:
    """The class weights as a (K,) tensor beside the logits, or None.

    Raises:
        UsageError: If there are not K of them, or one is not from 0 to a million.
    """
    if class_weights is None:
        return None
    given = torch.as_tensor(class_weights, dtype=logits.dtype, device=logits.device)
    if given.shape != (logits.shape[1],) or not ((given >= 0) & (given <= 1e6)).all():
        raise UsageError(
            f"class_weights={given.tolist()} does not fit. Expected {logits.shape[1]} numbers from 0 to 1000000."
        )
    return given


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
