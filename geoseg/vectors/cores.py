"""Cores: the places of a patch that are sure to be a building."""

import numpy as np
from numba import njit

from geoseg.pixels import NODATA


@njit(cache=True, nogil=True)
def count_cores(
    labels: np.ndarray,
    probability: np.ndarray,
    value: int,
    box: np.ndarray,
    first: np.ndarray,
    level: int,
    least: int,
) -> np.ndarray:
    """(patches,) int64 number of cores of each, by its (left, top, right, bottom) and the (row, col) of a pixel."""
    found = np.zeros(len(box), np.int64)
    for k in range(len(box)):
        left, top, right, bottom = box[k]
        inside = labels[top:bottom, left:right] == value
        sure = probability[top:bottom, left:right]
        found[k] = find_cores(inside, sure, first[k, 0] - top, first[k, 1] - left, level, least)[1]
    return found


@njit(cache=True, nogil=True)
def find_cores(
    inside: np.ndarray, probability: np.ndarray, row: int, col: int, level: int, least: int
) -> tuple[np.ndarray, int]:
    """Cores of the patch that has a pixel: (h, w) int32, 1, 2, ... in cores, 0 elsewhere in it, -1 outside; how many.

    Args:
        inside: (h, w) bool, pixels of the class, other patches among them.
        probability: (h, w) uint8.
        row: Of a pixel of the patch.
        col: Of the same.
        level: Probability of a core, at least.
        least: Pixels of a core, at least.
    """
    height, width = inside.shape
    found = np.full((height, width), -1, np.int32)
    stack = np.empty((height * width, 2), np.int32)
    flood(inside, found, stack, row, col, 0)
    sure = np.zeros((height, width), np.bool_)
    for i in range(height):
        for j in range(width):
            sure[i, j] = found[i, j] == 0 and level <= probability[i, j] < NODATA
    sure = _thick(sure)
    count = 0
    for i in range(height):
        for j in range(width):
            if not sure[i, j] or found[i, j]:
                continue
            size = flood(sure, found, stack, i, j, count + 1)
            if size >= least:
                count += 1
                continue
            for k in range(size):
                found[stack[k, 0], stack[k, 1]] = 0
                sure[stack[k, 0], stack[k, 1]] = False
    return found, count


@njit(cache=True, nogil=True)
def _thick(inside: np.ndarray) -> np.ndarray:
    """Pixels whose eight neighbours are inside, too: bridges of one or two pixels join no cores."""
    height, width = inside.shape
    found = np.zeros((height, width), np.bool_)
    for i in range(1, height - 1):
        for j in range(1, width - 1):
            found[i, j] = (
                inside[i, j]
                and inside[i - 1, j - 1]
                and inside[i - 1, j]
                and inside[i - 1, j + 1]
                and inside[i, j - 1]
                and inside[i, j + 1]
                and inside[i + 1, j - 1]
                and inside[i + 1, j]
                and inside[i + 1, j + 1]
            )
    return found


@njit(cache=True, nogil=True)
def flood(inside: np.ndarray, found: np.ndarray, stack: np.ndarray, row: int, col: int, mark: int) -> int:
    """Mark what hangs together with a pixel by edges; `stack` lists it afterwards."""
    height, width = inside.shape
    found[row, col] = mark
    stack[0, 0], stack[0, 1] = row, col
    done, size = 0, 1
    while done < size:
        i, j = np.int64(stack[done, 0]), np.int64(stack[done, 1])
        done += 1
        for a, b in ((i - 1, j), (i, j - 1), (i, j + 1), (i + 1, j)):
            if 0 <= a < height and 0 <= b < width and inside[a, b] and found[a, b] != mark:
                found[a, b] = mark
                stack[size, 0], stack[size, 1] = a, b
                size += 1
    return size
