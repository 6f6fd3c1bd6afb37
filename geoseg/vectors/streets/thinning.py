"""Thinning: a surface down to lines one pixel wide, in a bounded number of rounds; and how wide it was there."""

import numpy as np
from numba import njit

_ROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""(row, column) of the neighbours P2..P9 of the paper: north first, clockwise."""


def _table() -> np.ndarray:
    """(256,) uint8: bit 1 if the first sub-iteration removes a pixel with these neighbours, bit 2 if the second does.

    Source: Zhang and Suen 1984, A fast parallel algorithm for thinning digital patterns, CACM 27(3), p. 236-239,
    conditions (a) to (d) and (c') to (d').
    """
    table = np.zeros(256, np.uint8)
    for code in range(256):
        p = [(code >> k) & 1 for k in range(8)]
        turns = sum(p[k] == 0 and p[(k + 1) % 8] == 1 for k in range(8))
        if not 2 <= sum(p) <= 6 or turns != 1:
            continue
        north, east, south, west = p[0], p[2], p[4], p[6]
        first = not north * east * south and not east * south * west
        second = not north * east * west and not north * south * west
        table[code] = first + 2 * second
    return table


TABLE = _table()


def thin(mask: np.ndarray, rounds: int) -> np.ndarray:
    """The skeleton of a mask, 8-connected.

    A pixel depends on no other that is more than 2 * rounds away.

    Args:
        mask: (h, w) uint8, 1 inside. What is outside the array is taken to be 0.
        rounds: Most rounds of two sub-iterations.

    Returns:
        (h, w) uint8, 1 on the skeleton.

    Source: Zhang and Suen 1984 (see `_table`); here only pixels on the rim are looked at again.
    """
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.uint8)
    padded[1:-1, 1:-1] = mask
    _peel(padded.ravel(), padded.shape[1], TABLE, rounds)
    return (padded[1:-1, 1:-1] != 0).view(np.uint8)


@njit(cache=True, nogil=True)
def _peel(flat: np.ndarray, width: int, table: np.ndarray, rounds: int) -> None:
    """Thin in place. Bit 1 is inside; 2 and 4 are set while the first and the second sub-iteration have yet to look."""
    steps = np.array([-width, 1 - width, 1, 1 + width, width, width - 1, -1, -1 - width])
    lists = (np.empty(1024, np.int64), np.empty(1024, np.int64))
    first, second = lists
    sizes = np.zeros(2, np.int64)
    for at in range(width, len(flat) - width):
        if flat[at] and not (flat[at - 1] and flat[at + 1] and flat[at - width] and flat[at + width]):
            if sizes[0] == len(first):
                first = np.concatenate((first, np.empty(sizes[0], np.int64)))
            first[sizes[0]] = at
            sizes[0] += 1
    for k in range(sizes[0]):
        flat[first[k]] = 7
    second, sizes[1] = first[: sizes[0]].copy(), sizes[0]
    for _ in range(rounds):
        first, second = _pass(flat, steps, table, 1, first, second, sizes)
        second, first = _pass(flat, steps, table, 2, second, first, sizes)
        if sizes[0] == 0 and sizes[1] == 0:
            return


@njit(cache=True, nogil=True)
def _pass(
    flat: np.ndarray,
    steps: np.ndarray,
    table: np.ndarray,
    bit: int,
    mine: np.ndarray,
    other: np.ndarray,
    sizes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """One sub-iteration over its list; pixels beside those that go are put on both lists, which may have to grow."""
    width = steps[4]
    flag, size, more = np.uint8(2 * bit), sizes[bit - 1], sizes[2 - bit]
    keep = np.uint8(7 - flag)
    gone = 0
    for k in range(size):
        at = mine[k]
        if not flat[at]:
            continue
        code = (
            (flat[at - width] != 0)
            | (flat[at - width + 1] != 0) << 1
            | (flat[at + 1] != 0) << 2
            | (flat[at + width + 1] != 0) << 3
            | (flat[at + width] != 0) << 4
            | (flat[at + width - 1] != 0) << 5
            | (flat[at - 1] != 0) << 6
            | (flat[at - width - 1] != 0) << 7
        )
        if table[code] & bit:
            mine[gone] = at
            gone += 1
        else:
            flat[at] &= keep
    for k in range(gone):
        flat[mine[k]] = 0
    left = mine[:gone].copy()
    if len(mine) < 8 * gone:
        mine = np.empty(16 * gone, np.int64)
    if len(other) < more + 8 * gone:
        other = np.concatenate((other[:more], np.empty(more + 16 * gone, np.int64)))
    size = 0
    for k in range(gone):
        for n in range(8):
            at = left[k] + steps[n]
            state = flat[at]
            if state and not state & flag:
                mine[size] = at
                size += 1
            if state and not state & (6 - flag):
                other[more] = at
                more += 1
            if state:
                flat[at] = 7
    sizes[bit - 1], sizes[2 - bit] = size, more
    return mine, other


@njit(cache=True, nogil=True)
def carve(mask: np.ndarray, across: int, down: int) -> bool:
    """Take out of a mask, in place, the pixels round which a whole box of it lies. What is outside counts as inside.

    Args:
        mask: (h, w) uint8, 1 inside.
        across: Half the width of the box.
        down: Half its height.

    Returns:
        Whether there were any.
    """
    height, width = mask.shape
    wide = np.full(width, down, np.int64)  # rows up to this one in which the whole width of the box is inside
    out = np.zeros(mask.shape, np.uint8)
    found = False
    for row in range(height + down):
        last = -across - 1  # column of the last pixel outside the mask
        for col in range(width + across):
            if row < height and col < width and not mask[row, col]:
                last = col
            at = col - across
            if at >= 0:
                wide[at] = wide[at] + 1 if last < at - across else 0
                if row >= down and wide[at] > 2 * down:
                    out[row - down, at] = 1
                    found = True
    if found:
        for row in range(height):
            for col in range(width):
                if out[row, col]:
                    mask[row, col] = 0
    return found
