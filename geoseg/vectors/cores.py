"""Cores: places round a peak of the probability, each of them a building if a wall lies between it and the next."""

import numpy as np
from numba import njit

from geoseg.pixels import NODATA, PROBABILITY_SCALE

DIP = 0.4
"""Log-odds by which the probability falls between two cores, at least."""
ODDS = np.log((np.arange(256) + 0.5) / np.maximum(PROBABILITY_SCALE + 0.5 - np.arange(256), 0.5))
"""Log-odds of stored probabilities."""


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

    The patch is flooded from its peaks down. A pixel is as high as the lowest of its eight neighbours and itself, so
    that bridges of one or two pixels join nothing. Where two lakes meet that are both `DIP` deep or more, each was a
    core up to there.

    Args:
        inside: (h, w) bool, pixels of the class, other patches among them.
        probability: (h, w) uint8.
        row: Of a pixel of the patch.
        col: Of the same.
        level: Probability from which on all are alike.
        least: Pixels of a core and its shore, at least.

    Source: Grimaud 1992, A new measure of contrast: the dynamics, Proc. SPIE 1769, 292-305.
    """
    height, width = inside.shape
    found = np.full((height, width), -1, np.int32)
    flood(inside, found, np.empty((height * width, 2), np.int32), row, col, 0)
    heights = _lowest(found, probability, level)
    level_of, mark_of = heights.ravel(), found.ravel()
    order = _falling(level_of)
    # Trees of pixels: lakes, and what was one core of them. A lake with cores counts no pixels, but is -1, -2, ...
    lake, part = np.full(height * width, -1, np.int32), np.full(height * width, -1, np.int32)
    pixels, shores, count = np.ones(height * width, np.int32), np.zeros(len(order) + 1, np.uint8), 0
    for at in order:
        lake[at] = part[at] = at
        i, j, shore = at // width, at % width, level_of[at]
        for a, b in ((i - 1, j), (i, j - 1), (i, j + 1), (i + 1, j)):
            if not (0 <= a < height and 0 <= b < width) or lake[a * width + b] < 0:
                continue
            one, two = _root(lake, at), _root(lake, a * width + b)
            if one == two:
                continue
            if pixels[two] < 0 or (pixels[one] > 0 and level_of[two] > level_of[one]):
                one, two = two, one
            lake[two] = one
            apart = _deep(level_of[two], shore) and pixels[two] >= least
            if pixels[one] > 0 and not (apart and pixels[one] >= least):
                part[two] = one
                pixels[one] += pixels[two]
                continue
            for each in (one, two):
                if apart and pixels[each] > 0:
                    count += 1
                    pixels[each], shores[count] = -count, shore
    for at in order:
        if lake[at] == at and pixels[at] >= least and _deep(level_of[at], 0):
            count += 1
            pixels[at] = -count
    for at in order:
        core = -pixels[_root(part, at)]
        if core > 0 and level_of[at] > shores[core]:
            mark_of[at] = core
    return found, count


@njit(cache=True, nogil=True)
def _lowest(found: np.ndarray, probability: np.ndarray, level: int) -> np.ndarray:
    """(h, w) uint8: of pixels that are not -1 the lowest probability of 3 x 3, 0 at the rim, and `level` at most."""
    height, width = found.shape
    lowest = np.zeros((height, width), np.uint8)
    for i in range(1, height - 1):
        for j in range(1, width - 1):
            least = level if found[i, j] >= 0 else 0
            for a in range(i - 1, i + 2):
                for b in range(j - 1, j + 2):
                    known = found[a, b] >= 0 and probability[a, b] < NODATA
                    least = min(least, int(probability[a, b]) if known else 0)
            lowest[i, j] = least
    return lowest


@njit(cache=True, nogil=True)
def _falling(heights: np.ndarray) -> np.ndarray:
    """(n,) int32 indices of what is above 0, the highest first."""
    start = np.zeros(257, np.int64)
    for value in heights:
        start[255 - value] += 1
    last = 0
    for k in range(256):
        start[k], last = last, last + start[k]
    order = np.empty(start[255], np.int32)
    for at, value in enumerate(heights):
        if value:
            order[start[255 - value]] = at
            start[255 - value] += 1
    return order


@njit(cache=True, nogil=True)
def _root(above: np.ndarray, at: int) -> int:
    """The root of a tree; what was passed hangs higher afterwards."""
    while above[at] != at:
        above[at] = above[above[at]]
        at = above[at]
    return at


@njit(cache=True, nogil=True)
def _deep(peak: int, shore: int) -> bool:
    return ODDS[peak] - ODDS[shore] >= DIP


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
