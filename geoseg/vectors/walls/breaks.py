"""Where walls may meet: a few points of an outline, its corners among them."""

import numpy as np
from numba import njit

MOST = 64
"""Of candidates on a ring: what an exact segmentation costs grows with their square."""


@njit(cache=True, nogil=True)
def farthest(x: np.ndarray, y: np.ndarray) -> int:
    """Index of the point farthest from the mean of all: a corner of any polygon."""
    mean_x, mean_y = x.mean(), y.mean()
    best, at = -1.0, 0
    for i in range(len(x)):
        distance = (x[i] - mean_x) ** 2 + (y[i] - mean_y) ** 2
        if distance > best:
            best, at = distance, i
    return at


@njit(cache=True, nogil=True)
def candidates(x: np.ndarray, y: np.ndarray, tolerance: float) -> np.ndarray:
    """Candidates for breaks of a closed ring whose first point is one of them.

    Douglas-Peucker; the tolerance grows until at most `MOST` points are left.

    Args:
        x: (n,) float64, the ring open.
        y: (n,) float64.
        tolerance: How far the ring may be from the candidates' polygon, in its units.

    Returns:
        Ascending indices into the ring, 0 first; one alone for a ring of one point.

    Source: Douglas and Peucker 1973, Cartographica 10 (2), 112-122.
    """
    n = len(x)
    if n < 3:
        return np.zeros(1, np.int64)
    opposite, best = 1, -1.0
    for i in range(1, n):
        distance = (x[i] - x[0]) ** 2 + (y[i] - y[0]) ** 2
        if distance > best:
            best, opposite = distance, i
    while True:
        kept = np.zeros(n + 1, np.bool_)
        kept[0] = kept[opposite] = kept[n] = True
        _keep(x, y, 0, opposite, tolerance, kept)
        _keep(x, y, opposite, n, tolerance, kept)
        if kept[:n].sum() <= MOST:
            return np.flatnonzero(kept[:n])
        tolerance *= 1.3


@njit(cache=True, nogil=True)
def _keep(x: np.ndarray, y: np.ndarray, first: int, last: int, tolerance: float, kept: np.ndarray) -> None:
    """Mark what Douglas-Peucker keeps between two points; index n is the first point again."""
    n = len(x)
    stack = np.empty((n + 2, 2), np.int64)
    stack[0, 0], stack[0, 1] = first, last
    depth = 1
    while depth:
        depth -= 1
        a, b = stack[depth, 0], stack[depth, 1]
        dx, dy = x[b % n] - x[a], y[b % n] - y[a]
        length = np.sqrt(dx * dx + dy * dy)
        best, at = tolerance, -1
        for i in range(a + 1, b):
            off_x, off_y = x[i] - x[a], y[i] - y[a]
            off = abs(dx * off_y - dy * off_x) / length if length > 0 else np.sqrt(off_x * off_x + off_y * off_y)
            if off > best:
                best, at = off, i
        if at >= 0:
            kept[at] = True
            stack[depth, 0], stack[depth, 1] = a, at
            stack[depth + 1, 0], stack[depth + 1, 1] = at, b
            depth += 2
