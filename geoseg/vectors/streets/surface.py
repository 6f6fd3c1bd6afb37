"""The surface of the streets in a window: smoothed, closed, without small holes. Integers only, exact for any cut."""

import numpy as np
from numba import njit

from geoseg.pixels import NODATA, PROBABILITY_SCALE
from geoseg.vectors.planes import Planes
from geoseg.vectors.streets.rules import Footprints
from geoseg.windows import Window

LEVEL = PROBABILITY_SCALE // 2
"""Score on the edge of a street: as likely as the best other class."""


def scores(planes: Planes, window: Window, value: int) -> tuple[np.ndarray, np.ndarray]:
    """How much a class leads over the best other one, and its own probability.

    Returns:
        Two (h, w) uint8, 255 without data. The first is 254 where the class is certain, 127 where it is as likely as
        the best other one, 0 where it is impossible; the second the probability times 254. Of labels alone, both are
        254 or 0.
    """
    own = planes.probability(window, value)
    if own is None:
        labels = planes.labels(window)
        own = np.where(labels == value, np.uint8(PROBABILITY_SCALE), np.uint8(0))
        if NODATA not in planes.classes:  # else a mask of 0 and 255, of another program
            own[labels == NODATA] = NODATA
        return own, own
    others = [other for other in planes.classes if other != value]
    if len(others) < 2:  # the other class is what is left to certainty
        return own, own
    best = np.zeros_like(own)
    for other in others:
        found = planes.probability(window, other)
        if found is not None:
            np.maximum(best, found, out=best)
    return _lead(own, best), own


@njit(cache=True, nogil=True)
def _lead(own: np.ndarray, best: np.ndarray) -> np.ndarray:
    """(h, w) uint8 half of 254 + own - best, 255 where there is no data."""
    out = np.empty(own.shape, np.uint8)
    for row in range(own.shape[0]):
        for col in range(own.shape[1]):
            lead = (np.int32(own[row, col]) - np.int32(best[row, col]) + 255) >> 1
            out[row, col] = 255 if own[row, col] == 255 else lead
    return out


def smooth(plane: np.ndarray, prints: Footprints) -> np.ndarray:
    """A plane of scores under a Gaussian that leaves out what has no data and what is outside.

    Returns:
        (h, w) uint16: 64 times the score, 16256 at most; 0 where nothing near has data, and far from any score above
        the level.
    """
    across, down = prints.taps
    if len(across) == len(down) == 1:
        return np.where(plane == NODATA, np.uint16(0), plane.astype(np.uint16) * np.uint16(64))
    side = max(32, len(across), len(down))
    active = _active(plane, side, LEVEL)
    sums = _sums(plane.shape[0], down), _sums(plane.shape[1], across)
    valid = plane != NODATA
    if valid.all():
        total = _blurred(plane, across, down, active, side)
        return _divided(total, *sums, total, np.zeros_like(active), side)
    total = _blurred(np.where(valid, plane, np.uint8(0)), across, down, active, side)
    partly = active & _active(np.where(valid, np.uint8(0), np.uint8(1)), side, 0)
    return _divided(total, *sums, _blurred(valid.view(np.uint8), across, down, partly, side), partly, side)


@njit(cache=True, nogil=True)
def _active(plane: np.ndarray, side: int, least: int) -> np.ndarray:
    """Blocks of the plane in or beside which a score is above `least`: elsewhere no mean of scores can be."""
    rows, cols = -(-plane.shape[0] // side), -(-plane.shape[1] // side)
    out = np.zeros((rows, cols), np.uint8)
    for i in range(rows):
        for j in range(cols):
            found = False
            for row in range(i * side, min((i + 1) * side, plane.shape[0])):
                most = 0
                for col in range(j * side, min((j + 1) * side, plane.shape[1])):
                    score = plane[row, col] if plane[row, col] != 255 else 0
                    most = max(most, score)
                if most > least:
                    found = True
                    break
            if found:
                out[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = 1
    return out


def _sums(size: int, taps: np.ndarray) -> np.ndarray:
    """(size,) uint32 sums of the weights that lie inside, for each pixel of a row."""
    half = len(taps) // 2
    return np.convolve(np.ones(size, np.uint32), taps, "full")[half : half + size].astype(np.uint32)


@njit(cache=True, nogil=True)
def _blurred(plane: np.ndarray, across: np.ndarray, down: np.ndarray, active: np.ndarray, side: int) -> np.ndarray:
    """(h, w) uint32 weighted sums in the active blocks, 0 elsewhere; what is outside counts as 0."""
    height, width = plane.shape
    out = np.zeros((height, width), np.uint32)
    right, below = len(across) // 2, len(down) // 2
    column = np.zeros(width + 2 * right, np.uint16)
    for row in range(height):
        blocks, block = active[row // side], 0
        while block < len(blocks):
            if not blocks[block]:
                block += 1
                continue
            first = block * side
            while block < len(blocks) and blocks[block]:
                block += 1
            stop = min(block * side, width)
            low, high = max(0, first - right), min(width, stop + right)
            column[low + right : high + right] = 0
            for tap in range(max(0, below - row), min(len(down), height + below - row)):
                weight = np.uint16(down[tap])
                source, target = plane[row + tap - below, low:high], column[low + right : high + right]
                for col in range(len(source)):
                    target[col] += np.uint16(source[col]) * weight
            for tap in range(len(across)):
                share = np.uint32(across[tap])
                values, sums = column[first + tap : stop + tap], out[row, first:stop]
                for col in range(len(sums)):
                    sums[col] += np.uint32(values[col]) * share
    return out


@njit(cache=True, nogil=True)
def _divided(
    total: np.ndarray, down: np.ndarray, across: np.ndarray, weight: np.ndarray, partly: np.ndarray, side: int
) -> np.ndarray:
    """(h, w) uint16 means times 64; 0 where no pixel near has data.

    Args:
        total: (h, w) uint32 weighted sums.
        down: (h,) uint32 sums of the weights of a column that lie inside.
        across: (w,) the same of a row.
        weight: (h, w) uint32 sums of the weights of the pixels with data; read where not all have.
        partly: Blocks of this kind.
        side: Of a block, in pixels.
    """
    out = np.zeros(total.shape, np.uint16)
    for row in range(total.shape[0]):
        for block in range(partly.shape[1]):
            some = partly[row // side, block] != 0
            for col in range(block * side, min((block + 1) * side, total.shape[1])):
                found = total[row, col]
                if not found:
                    continue
                share = weight[row, col] if some else down[row] * across[col]
                if share == 65536:
                    out[row, col] = (found + 512) >> 10
                else:
                    out[row, col] = (found * 64 + share // 2) // share
    return out


def surface(plane: np.ndarray, prints: Footprints) -> np.ndarray:
    """Where streets are: smoothed scores above a level, closed by a disc, with small holes filled.

    Args:
        plane: (h, w) uint8 scores, 255 without data.
        prints: Sizes in pixels.

    Returns:
        (h, w) uint8, 1 on streets. Exact from `Footprints.halo` pixels on from a side that is not the scene's own.
    """
    found = ((smooth(plane, prints) > 64 * LEVEL) & (plane != NODATA)).view(np.uint8)
    if not found.any():
        return found
    if len(prints.disc) > 1:
        found = _grown(_grown(found, 1, prints.disc), 0, prints.disc)
    if prints.fill:
        _fill(found, prints.fill, prints.span)
    return found


@njit(cache=True, nogil=True)
def _grown(mask: np.ndarray, value: int, disc: np.ndarray) -> np.ndarray:
    """The mask with the pixels of one value dilated by a disc. What is outside is of neither value."""
    height, width = mask.shape
    out = mask.copy()
    half = len(disc) // 2
    for row in range(height):
        for col in range(width):
            if mask[row, col] != value:
                continue
            # Only the rim adds anything.
            if (
                (row == 0 or mask[row - 1, col] == value)
                and (row == height - 1 or mask[row + 1, col] == value)
                and (col == 0 or mask[row, col - 1] == value)
                and (col == width - 1 or mask[row, col + 1] == value)
            ):
                continue
            for down in range(max(-half, -row), min(half, height - 1 - row) + 1):
                reach = disc[down + half]
                for x in range(max(0, col - reach), min(width, col + reach + 1)):
                    out[row + down, x] = value
    return out


@njit(cache=True, nogil=True)
def _fill(mask: np.ndarray, most: int, span: int) -> None:
    """Fill 4-connected holes of at most `most` pixels, `span` high and wide, that do not touch the sides; in place."""
    height, width = mask.shape
    seen = np.zeros(mask.shape, np.uint8)  # 1 a hole under way or filled, 2 part of one that is too large
    stack = np.empty((most + 1, 2), np.int32)
    for row in range(1, height):
        for col in range(1, width):
            if mask[row, col] or seen[row, col] or not mask[row, col - 1] or not mask[row - 1, col]:
                continue
            count, done, small = 1, 0, True
            low, high, top = col, col, row
            stack[0, 0], stack[0, 1] = row, col
            seen[row, col] = 1
            while done < count and small:
                r, c = stack[done, 0], stack[done, 1]
                done += 1
                low, high = min(low, c), max(high, c)
                if r == 0 or c == 0 or r == height - 1 or c == width - 1 or r - top >= span or high - low >= span:
                    small = False
                    break
                for step in range(4):
                    y = r + (step == 0) - (step == 1)
                    x = c + (step == 2) - (step == 3)
                    if mask[y, x] or seen[y, x] == 1:
                        continue
                    if seen[y, x] == 2 or count > most - 1:
                        small = False
                        break
                    seen[y, x] = 1
                    stack[count, 0], stack[count, 1] = y, x
                    count += 1
            for k in range(count):
                if small:
                    mask[stack[k, 0], stack[k, 1]] = 1
                else:
                    seen[stack[k, 0], stack[k, 1]] = 2
