"""Seams: what a class raster alone tells of walls between buildings that touch.

A network that sees a wall between two roofs seldom sees all of it: a slit runs in from one side, or from both, or there
is a row of holes. Where such gaps lie on one straight line, in the direction of the outline or across, and what faces
each other over it is a patch all the way, the line is a seam. A wing of a house that is met by no slit has none.
"""

import numpy as np
from numba import njit

from geoseg.pixels import NODATA, PROBABILITY_SCALE
from geoseg.vectors.cores import flood

REACH = 3
"""Pixels from a seam's line to where its patch must be on both sides."""
LEAST, LEAST_M = 4, 1.2  # pixels, metres
"""Along a seam that is gaps, at least as much as the larger of both."""
SHARE = 0.12
"""Of a seam's length that is gaps, at least: the rest is where the network took two roofs for one."""
OTHER, GROUND, PATCH = range(3)
_BREAK = 2  # pixels along a line where nothing faces each other, for all that it goes on
_MARGIN = 1.5  # pixels by which a seam is longer than that
_ROUND = 4  # pixels: slopes of the border are taken from a disc, for a square has directions of its own
_SEAM = 1  # stored probability
_BESIDE = 4  # rows: what lies so close is the same seam


@njit(cache=True, nogil=True)
def sureness(labels: np.ndarray, value: int, box: np.ndarray, first: np.ndarray, least: int) -> np.ndarray:
    """(h, w) uint8: how sure pixels are of their class as stored probabilities are, all but none along seams.

    Args:
        labels: (h, w) uint8, with the pixels round the patches.
        value: The class.
        box: (patches, 4) int (left, top, right, bottom) of the patches that are asked for.
        first: (patches, 2) int (row, col) of a pixel of each.
        least: Pixels along a seam that are gaps, at least.
    """
    found = np.where(labels == value, np.uint8(PROBABILITY_SCALE), np.uint8(0))
    for k in range(len(box)):
        left, top = max(box[k, 0] - 1, 0), max(box[k, 1] - 1, 0)
        near = labels[top : box[k, 3] + 1, left : box[k, 2] + 1]
        ground = surroundings(near, first[k, 0] - top, first[k, 1] - left)
        if between(ground) + between(ground.T) < least:
            continue
        angle = heading(ground)
        upright = turned(ground, angle)
        for turn, frame in enumerate((upright, np.ascontiguousarray(upright.T))):
            for seam in seams(frame, least):
                _draw(found[top : box[k, 3] + 1, left : box[k, 2] + 1], ground, angle, upright.shape, seam, turn == 1)
    return found


@njit(cache=True, nogil=True)
def surroundings(labels: np.ndarray, row: int, col: int) -> np.ndarray:
    """(h, w) uint8: where there is the patch of a pixel, and what lies round most of it."""
    height, width = labels.shape
    marks = np.full(labels.shape, -1, np.int32)
    stack = np.empty((labels.size, 2), np.int32)
    size = flood(labels == labels[row, col], marks, stack, row, col, 0)
    found, votes = np.full(labels.shape, OTHER, np.uint8), np.zeros(256, np.int64)
    for k in range(size):
        i, j = np.int64(stack[k, 0]), np.int64(stack[k, 1])
        found[i, j] = PATCH
        for a, b in ((i - 1, j), (i, j - 1), (i, j + 1), (i + 1, j)):
            if 0 <= a < height and 0 <= b < width and marks[a, b] != 0 and labels[a, b] != NODATA:
                votes[labels[a, b]] += 1
    ground = np.argmax(votes)
    for y in range(height):
        for x in range(width):
            if marks[y, x] != 0 and labels[y, x] == ground:
                found[y, x] = GROUND
    return found


@njit(cache=True, nogil=True)
def between(ground: np.ndarray) -> int:
    """Pixels of the ground in short gaps along rows, as a slit in any direction has along rows or columns."""
    height, width = ground.shape
    count = 0
    for i in range(height):
        last, open_ = -width, 0
        for j in range(width):
            if ground[i, j] == PATCH:
                count += open_ if j - last <= 3 * REACH else 0
                last, open_ = j, 0
            else:
                open_ += ground[i, j] == GROUND
    return count


@njit(cache=True, nogil=True)
def heading(ground: np.ndarray) -> float:
    """Radians from rightwards to downwards that most of a patch's outline runs along, or across.

    A quarter of the argument of the sum of |g|^2 exp(4i phi) over slopes g of its border, phi their directions.
    """
    height, width = ground.shape
    real = imaginary = 0.0
    for i in range(height):
        for j in range(width):
            if ground[i, j] != PATCH or _deep(ground, i, j):
                continue
            x = y = 0.0
            for a in range(max(i - _ROUND, 0), min(i + _ROUND + 1, height)):
                for b in range(max(j - _ROUND, 0), min(j + _ROUND + 1, width)):
                    if ground[a, b] == PATCH and (a - i) ** 2 + (b - j) ** 2 <= _ROUND * (_ROUND + 1):
                        x, y = x + b - j, y + a - i
            size = x * x + y * y
            if size > 0:
                one, two = x * x - y * y, 2 * x * y
                real += (one * one - two * two) / size
                imaginary += 2 * one * two / size
    return np.arctan2(imaginary, real) / 4


@njit(cache=True, nogil=True)
def _deep(ground: np.ndarray, i: int, j: int) -> bool:
    """Whether the pixels beside one are of the patch, too."""
    height, width = ground.shape
    if not (0 < i < height - 1 and 0 < j < width - 1):
        return False
    beside = ground[i - 1, j], ground[i, j - 1], ground[i, j + 1], ground[i + 1, j]
    return min(beside) == PATCH


@njit(cache=True, nogil=True)
def turned(ground: np.ndarray, angle: float) -> np.ndarray:
    """The same in a frame whose rows run in a direction, with room for `REACH` round it."""
    height, width = ground.shape
    c, s = np.cos(angle), np.sin(angle)
    columns = int(np.ceil(width * abs(c) + height * abs(s))) + 2 * REACH
    rows = int(np.ceil(width * abs(s) + height * abs(c))) + 2 * REACH
    found = np.full((rows, columns), OTHER, np.uint8)
    for i in range(rows):
        for j in range(columns):
            a, b = j - (columns - 1) / 2, i - (rows - 1) / 2
            x, y = int(np.floor(c * a - s * b + width / 2)), int(np.floor(s * a + c * b + height / 2))
            if 0 <= x < width and 0 <= y < height:
                found[i, j] = ground[y, x]
    return found


@njit(cache=True, nogil=True)
def seams(frame: np.ndarray, least: int) -> np.ndarray:
    """(n, 5) float64 row, first and last column of the seams along a frame's rows; then how they were found.

    Of such as lie beside each other the one that lies deepest in the gaps, of equals the first.
    """
    known, count = np.empty((16, 5)), 0
    for row in range(REACH, len(frame) - REACH):
        start, last, facing, gaps, depth, cells, side = -1, 0, 0, 0, 0, 0, 0
        edge = before = gap = False
        for col in range(frame.shape[1]):
            if frame[row - REACH, col] == PATCH and frame[row + REACH, col] == PATCH:
                if start < 0:
                    start, facing, gaps, depth, cells, side = col, 0, 0, 0, 0, 0
                    edge = gap = False
                before, gap = gap, False
                for off in range(1 - REACH, REACH):
                    if frame[row + off, col] == GROUND:
                        gap, depth, cells, side = True, depth + REACH - abs(off), cells + 1, side + off
                last, facing, gaps = col, facing + 1, gaps + gap
                edge = edge or (gap and facing == 2)
            elif start >= 0 and col - last > _BREAK:
                # A gap in the second or the last but one column: a hole in a roof is no slit, nor is a step of pixels.
                if gaps >= max(least, SHARE * facing) and (edge or before):
                    if count == len(known):
                        known = np.concatenate((known, known))
                    known[count, 0], known[count, 1], known[count, 2] = row + side / cells, start, last
                    known[count, 3], known[count, 4] = depth, row
                    count += 1
                start = -1
    taken, chosen = np.zeros(frame.shape, np.bool_), np.zeros(count, np.bool_)
    for k in np.argsort(-known[:count, 3], kind="mergesort"):
        row, start, stop = int(known[k, 4]), int(known[k, 1]), int(known[k, 2]) + 1
        if not taken[row, start:stop].any():
            taken[max(row - _BESIDE, 0) : row + _BESIDE + 1, start:stop] = chosen[k] = True
    return known[:count][chosen]


@njit(cache=True, nogil=True)
def _draw(
    found: np.ndarray, ground: np.ndarray, angle: float, shape: tuple[int, int], seam: np.ndarray, across: bool
) -> None:
    """Make pixels of a patch unsure along a seam of its frame, so many that edges join none over it."""
    height, width = ground.shape
    c, s = np.cos(angle), np.sin(angle)
    steps = int(2 * (seam[2] - seam[1] + 2 * _MARGIN)) + 1
    for k in range(steps):
        for off in (-0.5, 0.0, 0.5):
            a, b = seam[1] - _MARGIN + k / 2, seam[0] + off
            if across:
                a, b = b, a
            a, b = a - (shape[1] - 1) / 2, b - (shape[0] - 1) / 2
            x, y = int(np.floor(c * a - s * b + width / 2)), int(np.floor(s * a + c * b + height / 2))
            if 0 <= x < width and 0 <= y < height and ground[y, x] == PATCH:
                found[y, x] = _SEAM
