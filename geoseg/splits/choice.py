"""What makes one choice of validation ground better than another."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_UNLEARNT, _UNSEEN = 100.0, 10.0
"""Cost of a class that training, and that validation lacks."""
_SHARE = 4.0
"""Cost of validation ground that is none of what was asked for."""

MOST_BLOCKS = 16
"""More blocks tell no more of a scene: they grow instead."""
DRAWS, MOVES = 24, 160
"""Choices drawn at random, and changes tried on the best of them."""


def cost(val: np.ndarray, lost: np.ndarray, total: np.ndarray, share: float) -> float:
    """How bad a choice is; 0 for a validation part of just the share, alike in its classes, that spoils nothing.

    Args:
        val: (K,) pixels of each class held back.
        lost: (K,) pixels that cannot be learnt: those held back, and those in the gap round them.
        total: (K,) pixels in all, more than 0 together.
        share: What `val` should be of `total`, above 0.
    """
    there = total > 0
    whole = float(total.sum())
    parts = val[there] / total[there]
    off = abs(float(val.sum()) / whole / share - 1)
    unlike = float(np.minimum(np.abs(parts / share - 1), 1).mean())
    spoilt = float((lost - val).sum()) / whole
    missing = _UNLEARNT * int((lost[there] >= total[there]).sum()) + _UNSEEN * int((val[there] == 0).sum())
    return missing + _SHARE * min(off, 1) + unlike + spoilt


def search(
    draw: Callable[[], T], change: Callable[[T], T], price: Callable[[T], float], *, draws: int, moves: int
) -> tuple[T, float]:
    """The cheapest of some choices drawn at random, made cheaper by changes, and what it costs."""
    best = draw()
    least = price(best)
    for one in (draw() for _ in range(draws - 1)):
        if (worth := price(one)) < least:
            best, least = one, worth
    for _ in range(moves):
        one = change(best)
        if (worth := price(one)) < least:
            best, least = one, worth
    return best, least


def rarest(val: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(K,) chances to look for a class next: the more, the less of it is held back; 0 for classes that do not occur."""
    parts = np.where(total > 0, 1 / (1e-3 + val / np.maximum(total, 1)), 0)
    return np.asarray(parts / parts.sum())


def numbers(most: int) -> Sequence[int]:
    """How many blocks are tried."""
    return [n for n in (1, 2, 3, 4, 6, 8, 12, MOST_BLOCKS) if n <= max(most, 1)]
