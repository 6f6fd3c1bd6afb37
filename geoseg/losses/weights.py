"""Class weights from the pixels of each class."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from geoseg.errors import UsageError
from geoseg.losses.inputs import check_choice, check_range

Rule = Literal["inverse", "sqrt_inverse", "effective"]
RULES: tuple[Rule, ...] = ("inverse", "sqrt_inverse", "effective")
"""One over the pixels; one over their root; one over the effective number of samples."""

_MOST = 1e6


def class_weights_from(
    counts: Sequence[int], rule: Rule | Sequence[float], *, beta: float | None = None
) -> list[float]:
    """One weight a class, of mean 1 over the classes that occur.

    Args:
        counts: Pixels of each class, at least 0.
        rule: `inverse`: 1 / n, every class counts as much as any other. `sqrt_inverse`: 1 / sqrt(n), half-way to that.
            `effective`: (1 - beta) / (1 - beta^n), as `inverse` for classes of fewer pixels than 1 / (1 - beta), and
            alike for those of more. Or the weights themselves, one a class, which are only brought to a mean of 1.
        beta: Of `effective`, 0 to below 1. None: 1 - 1 / n of the largest class, so that the rule tells classes apart
            at any size of data set.

    Returns:
        A weight for each class. One that does not occur has that of the rarest class that does (its own number, if
        numbers are given): finite, and no smaller than any other's. All 1 when none occurs. At most a million.

    Raises:
        UsageError: If a count is negative, the rule is unknown, or there are not as many numbers as counts.

    Source: Cui et al. 2019, arXiv:1901.05555, eq. 4 (`effective`).
    """
    pixels = np.array(counts, dtype=np.float64)
    if pixels.ndim != 1 or not len(pixels) or not np.isfinite(pixels).all() or (pixels < 0).any():
        raise UsageError(f"counts={list(counts)} is out of range. Expected the pixels of each class, at least 0.")
    present = pixels > 0
    if not isinstance(rule, str):
        for value in rule:
            check_range("class_weights", value, 0, _MOST)
        if len(rule) != len(pixels):
            raise UsageError(f"class_weights={list(rule)} does not fit. Expected {len(pixels)} numbers.")
        given = np.array(rule, dtype=np.float64)
    else:
        check_choice("class_weights", rule, RULES)
        if not present.any():
            return [1.0] * len(pixels)
        given = _by_rule(np.where(present, pixels, pixels[present].min()), rule, beta)
    mean = given[present].mean() if present.any() else 1.0
    return np.minimum(given / (mean if mean > 0 else 1.0), _MOST).tolist()


def _by_rule(pixels: np.ndarray, rule: Rule, beta: float | None) -> np.ndarray:
    """Weights by rule, of any scale, of classes that all have pixels."""
    if rule == "inverse":
        return 1 / pixels
    if rule == "sqrt_inverse":
        return 1 / np.sqrt(pixels)
    if beta is None:
        beta = 1 - 1 / pixels.max()
    check_range("beta", beta, 0, 1 - 1e-15)
    # 1 - beta^n, by its logarithm: beta is so near 1 that the power is rounded.
    return 1 / -np.expm1(pixels * np.log(max(beta, 1e-300)))
