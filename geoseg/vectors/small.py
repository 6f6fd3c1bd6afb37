"""Small patches of a class raster, found by filling them: what they become is decided by what lies round them."""

import numpy as np
from numba import njit

from geoseg.pixels import NODATA

_UNSEEN, _LARGE, _SMALL, _CUT, _DONE = range(5)
"""Of a pixel: what is known of its patch. Large, or no hole at all; cut: small as far as seen."""


@njit(cache=True, nogil=True)
def replace_small(labels, chosen, pixels, holes, above, below, start, stop):  # type: ignore[no-untyped-def]
    """Replace edge-connected patches of fewer than so many pixels.

    Only pixels that are not in small patches themselves count as surroundings: of several small patches side by side
    the outer ones are replaced first, the others the next time. The most common class wins, of equals the lowest value.

    Args:
        labels: (h, width) uint8, 255 without data.
        chosen: (256,) bool: the classes to replace; of holes, those that fill them.
        pixels: From this number on a patch is large.
        holes: Replace patches of any class, but only if all pixels round them, small patches included, are of one
            chosen class; not at the raster's edge, nor beside nodata.
        above: Whether the raster goes on above these rows.
        below: Whether it goes on below.
        start: First row that is wanted.
        stop: One past the last.

    Returns:
        (stop - start, width) uint8; how many small patches wait for those round them; whether the rows above and below
        are enough to decide all this.
    """
    height, width = labels.shape
    seen = np.zeros(labels.shape, np.uint8)
    queue = np.empty((pixels + 4, 2), np.int32)  # up to three more are put there than make a patch large
    for row in range(height):
        for col in range(width):
            label = labels[row, col]
            if seen[row, col] == _UNSEEN and label != NODATA:
                left = col > 0 and labels[row, col - 1] == label and seen[row, col - 1] == _LARGE
                if left or not (holes or chosen[label]):
                    seen[row, col] = _LARGE
                else:
                    _size(labels, seen, queue, chosen, pixels, holes, row, col, above, below)
    found, votes, waiting = labels[start:stop].copy(), np.zeros(256, np.int64), 0
    for row in range(start, stop):
        for col in range(width):
            if seen[row, col] == _CUT:
                return found, 0, False
            if seen[row, col] == _SMALL:
                count, decided = _vote(labels, seen, queue, votes, row, col, holes)
                if not decided:
                    return found, 0, False
                best = np.argmax(votes)
                waiting += votes[best] == 0
                if votes[best] > 0 and (not holes or (count > 0 and chosen[best] and votes[best] == votes.sum())):
                    for index in range(abs(count)):
                        if start <= queue[index, 0] < stop:
                            found[queue[index, 0] - start, queue[index, 1]] = best
    return found, waiting, True


@njit(cache=True, nogil=True)
def _size(labels, seen, queue, chosen, pixels, holes, row, col, above, below):  # type: ignore[no-untyped-def]
    """Note of all pixels of a patch, or of as many as make it large or no hole, what is known of it."""
    height, width = labels.shape
    label, count, done, known = labels[row, col], 1, 0, _SMALL
    around = NODATA  # the class that a hole lies in
    queue[0, 0], queue[0, 1] = row, col
    seen[row, col] = _DONE
    while done < count and known != _LARGE:
        at_row, at_col = queue[done, 0], queue[done, 1]
        done += 1
        if (at_row == 0 and above) or (at_row == height - 1 and below):
            known = _CUT
        for side in range(4):
            next_row, next_col = at_row + (0, 0, 1, -1)[side], at_col + (1, -1, 0, 0)[side]
            if not (0 <= next_row < height and 0 <= next_col < width):
                if holes and not (above if next_row < 0 else below and next_row == height):
                    known = _LARGE
                continue
            beside = labels[next_row, next_col]
            if beside != label:
                if holes and around != beside and not (chosen[beside] and around == NODATA):
                    known = _LARGE
                around = beside
                continue
            if seen[next_row, next_col] == _LARGE:
                known = _LARGE
            elif seen[next_row, next_col] == _UNSEEN:
                seen[next_row, next_col] = _DONE
                queue[count, 0], queue[count, 1] = next_row, next_col
                count += 1
        if count >= pixels:
            known = _LARGE
    for index in range(count):
        seen[queue[index, 0], queue[index, 1]] = known


@njit(cache=True, nogil=True)
def _vote(labels, seen, queue, votes, row, col, holes):  # type: ignore[no-untyped-def]
    """Count the labels of the pixels round a small patch.

    Returns:
        How many pixels the patch has, negative if it lies at the raster's edge or beside nodata, and whether what lies
        round it is known.
    """
    height, width = labels.shape
    label, count, done, open_side = labels[row, col], 1, 0, False
    votes[:] = 0
    queue[0, 0], queue[0, 1] = row, col
    seen[row, col] = _DONE
    while done < count:
        at_row, at_col = queue[done, 0], queue[done, 1]
        done += 1
        for side in range(4):
            next_row, next_col = at_row + (0, 0, 1, -1)[side], at_col + (1, -1, 0, 0)[side]
            if not (0 <= next_row < height and 0 <= next_col < width) or labels[next_row, next_col] == NODATA:
                open_side = True
            elif labels[next_row, next_col] != label:
                if seen[next_row, next_col] == _CUT and not holes:
                    return count, False
                if holes or seen[next_row, next_col] == _LARGE:
                    votes[labels[next_row, next_col]] += 1
            elif seen[next_row, next_col] == _SMALL:
                seen[next_row, next_col] = _DONE
                queue[count, 0], queue[count, 1] = next_row, next_col
                count += 1
    return -count if open_side else count, True
