"""Cores: places round a peak of the probability, each of them a building if a wall lies between it and the next."""

import numpy as np
from numba import njit

from geoseg.pixels import NODATA, PROBABILITY_SCALE

DIP = 0.4
"""Log-odds by which the probability falls between two cores, at least."""
ODDS = np.log((np.arange(256) + 0.5) / np.maximum(PROBABILITY_SCALE + 0.5 - np.arange(256), 0.5))
"""Log-odds of stored probabilities."""


@njit(cache=True, nogil=True)
def find_cores(
    inside: np.ndarray, probability: np.ndarray, row: int, col: int, level: int, least: int
) -> tuple[np.ndarray, int]:
    """Cores of the patch that has a pixel: (h, w) int32, 1, 2, ... in cores, 0 elsewhere in it, -1 outside; how many.

    The patch is flooded from its peaks down. A pixel is as high as the lowest of its eight neighbours and itself, so
    that bridges of one or two pixels join nothing; a lake's surface is as high as it was when the lake had `least`
    pixels, so that a bright spot makes none. Where two lakes meet that have both sunk by `DIP` or more since, what each
    had flooded above that level is a core.

    Args:
        inside: (h, w) bool, pixels of the class, other patches among them.
        probability: (h, w) uint8.
        row: Of a pixel of the patch.
        col: Of the same.
        level: Probability from which on all are alike.
        least: Pixels of a core, at least.

    Source: dynamics of Grimaud 1992, A new measure of contrast, Proc. SPIE 1769, 292-305, after an opening by area
    (Vincent 1993, Grayscale area openings and closings, Proc. EURASIP workshop on mathematical morphology, 22-27).
    """
    height, width = inside.shape
    found = np.full((height, width), -1, np.int32)
    flood(inside, found, np.empty((height * width, 2), np.int32), row, col, 0)
    heights = _lowest(found, probability, level)
    level_of, mark_of = heights.ravel(), found.ravel()
    order = _falling(level_of)
    # Trees of pixels: lakes, and what was one core of them. A lake with cores counts no pixels, but is -1, -2, ...
    lake, part = np.full(height * width, -1, np.int32), np.full(height * width, -1, np.int32)
    pixels, tops = np.ones(height * width, np.int32), np.zeros(height * width, np.uint8)
    shores, count = np.zeros(len(order) + 1, np.uint8), 0
    for at in order:
        lake[at] = part[at] = at
        i, j, shore = at // width, at % width, level_of[at]
        if least <= 1:
            tops[at] = shore
        for a, b in ((i - 1, j), (i, j - 1), (i, j + 1), (i + 1, j)):
            if not (0 <= a < height and 0 <= b < width) or lake[a * width + b] < 0:
                continue
            one, two = _root(lake, at), _root(lake, a * width + b)
            if one == two:
                continue
            if pixels[two] < 0 or (pixels[one] > 0 and tops[two] > tops[one]):
                one, two = two, one
            lake[two] = one
            apart = pixels[two] >= least and _deep(tops[two], shore)
            if pixels[one] > 0 and not apart:
                part[two] = one
                pixels[one] += pixels[two]
                if not tops[one] and pixels[one] >= least:
                    tops[one] = shore
            elif apart:
                for each in (one, two):
                    if pixels[each] > 0:
                        count += 1
                        pixels[each], shores[count] = -count, shore
    for at in order:
        if lake[at] == at and pixels[at] >= least:
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
