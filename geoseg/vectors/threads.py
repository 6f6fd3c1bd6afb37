"""Threads: one for each core, for work on arrays that leaves the interpreter to the others."""

import os
from collections.abc import Callable, Generator, Iterable
from typing import Protocol, TypeVar

import numpy as np

from geoseg.parallel import Inline, Threads, ordered_map

MOST = 8
"""Threads at most: each holds what it works on."""

T = TypeVar("T")
R = TypeVar("R")
Arrays = tuple[np.ndarray, ...]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Runner(Protocol):
    """A way to call a function on many items, such as `in_threads`."""

    def __call__(self, function: Callable[[T], Arrays], items: Iterable[T], most: int = ...) -> list[Arrays]:
        """What the function makes of each item, in the order of the items."""


def in_threads(function: Callable[[T], R], items: Iterable[T], most: int = MOST) -> list[R]:
    """What a function makes of each item, in the order of the items; several are under way at the same time.

    Args:
        function: Safe to be called from several threads. What it makes of an item depends on nothing else.
        items: Numbers or windows: an error names them.
        most: Threads at most; there are no more than cores.
    """
    return list(from_threads(function, items, most))


def from_threads(function: Callable[[T], R], items: Iterable[T], most: int = MOST) -> Generator[R, None, None]:
    """The same one by one, as soon as it is there."""
    count = min(cores(), most)
    return ordered_map(function, items, backend=Threads(count) if count > 1 else Inline())
