"""Threads: one for each core, for work on arrays that leaves the interpreter to the others."""

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from geoseg.parallel import Inline, Threads, ordered_map

MOST = 8
"""Threads at most: each holds what it works on."""

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[T], R], items: Iterable[T], most: int = MOST) -> list[R]:
    """What a function makes of each item, in the order of the items; several are under way at the same time.

    Args:
        function: Safe to be called from several threads. What it makes of an item depends on nothing else.
        items: Numbers or windows: an error names them.
        most: Threads at most; there are no more than cores.
    """
    count = min(cores(), most)
    return list(ordered_map(function, items, backend=Threads(count) if count > 1 else Inline()))
