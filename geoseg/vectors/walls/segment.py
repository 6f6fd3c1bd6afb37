"""A ring cut into walls: the best of all ways to do it, by dynamic programming."""

import numpy as np
from numba import njit

ALONG, ACROSS, RISING, FALLING, FREE = range(5)
"""What a wall is to the building's direction: along, across, one of the diagonals, or neither."""


@njit(cache=True, nogil=True)
def prefix_sums(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(2n + 1, 5) sums of u, v, uu, vv, uv over the points before each, the ring twice round."""
    n = len(u)
    sums = np.zeros((2 * n + 1, 5))
    for k in range(2 * n):
        a, b = u[k % n], v[k % n]
        sums[k + 1, 0] = sums[k, 0] + a
        sums[k + 1, 1] = sums[k, 1] + b
        sums[k + 1, 2] = sums[k, 2] + a * a
        sums[k + 1, 3] = sums[k, 3] + b * b
        sums[k + 1, 4] = sums[k, 4] + a * b
    return sums


@njit(cache=True, nogil=True)
def scatter(sums: np.ndarray, first: int, last: int) -> tuple[float, float, float, float, float]:
    """Mean of u and v, and the scatter uu, vv, uv about it, of the points from `first` to `last` inclusive."""
    count = last - first + 1
    u = (sums[last + 1, 0] - sums[first, 0]) / count
    v = (sums[last + 1, 1] - sums[first, 1]) / count
    uu = sums[last + 1, 2] - sums[first, 2] - count * u * u
    vv = sums[last + 1, 3] - sums[first, 3] - count * v * v
    uv = sums[last + 1, 4] - sums[first, 4] - count * u * v
    return u, v, uu, vv, uv


@njit(cache=True, nogil=True)
def trimmed(first: int, last: int, trim: int) -> tuple[int, int]:
    """A run of points less `trim` at either end, but never less than its middle half."""
    cut = min(trim, (last - first + 1) // 4)
    return first + cut, last - cut


@njit(cache=True, nogil=True)
def squares(sums: np.ndarray, first: int, last: int, out: np.ndarray) -> None:
    """Squared distances, summed, of a run of points to the best line in each of the five states.

    A free line is the one of least squares: the smaller eigenvalue of the scatter.
    """
    _, _, uu, vv, uv = scatter(sums, first, last)
    half, apart = (uu + vv) / 2, (uu - vv) / 2
    out[0], out[1], out[2], out[3] = vv, uu, half - uv, half + uv
    out[4] = half - np.sqrt(apart * apart + uv * uv)


@njit(cache=True, nogil=True)
def segment(sums: np.ndarray, at: np.ndarray, penalty: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Cut a closed ring into walls so that squared distances plus penalties are least.

    Neighbouring walls never have the same state, unless both are free. The first candidate is always a break.

    Args:
        sums: `prefix_sums` of the ring, in units of its noise: a squared distance of 1 is one sigma.
        at: (k,) ascending indices of candidate breaks, 0 first.
        penalty: (5,) cost of a wall in each state; infinite where a state is not wanted.
        least: Points between the ends of a wall, at least.

    Returns:
        (w,) indices where walls begin, (w,) their states, and the cost of the whole.
    """
    n, last = (len(sums) - 1) // 2, len(at)
    cost = np.full((last + 1, 5), np.inf)
    came = np.zeros((last + 1, 5), np.int64)  # 8 * the break before + its state
    best = np.zeros((last + 1, 2))  # of the cheapest state, and of the cheapest other one
    which = np.zeros((last + 1, 2), np.int64)
    off = np.empty(5)
    most = 4 * penalty.min()
    for j in range(1, last + 1):
        end = at[j] if j < last else n
        for i in range(j - 1, -1, -1):
            if end - at[i] < least and not (i == 0 and j == last):
                continue
            squares(sums, at[i], end, off)
            if off[4] > most + cost[j].min():  # longer only costs more
                break
            for state in range(5):
                other = 1 if which[i, 0] == state and i > 0 and state < 4 else 0
                found = best[i, other] + off[state] + penalty[state]
                if found < cost[j, state]:
                    cost[j, state] = found
                    came[j, state] = 8 * i + which[i, other]
        _two_best(cost[j], best[j], which[j])
    return _walked(at, came, cost[last])


@njit(cache=True, nogil=True)
def _two_best(cost: np.ndarray, best: np.ndarray, which: np.ndarray) -> None:
    best[:] = np.inf
    for state in range(5):
        if cost[state] < best[0]:
            best[1], which[1] = best[0], which[0]
            best[0], which[0] = cost[state], state
        elif cost[state] < best[1]:
            best[1], which[1] = cost[state], state


@njit(cache=True, nogil=True)
def _walked(at: np.ndarray, came: np.ndarray, final: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Back from the end to the first break."""
    last = len(at)
    begins, states = np.empty(last, np.int64), np.empty(last, np.int64)
    j, state, count = last, int(np.argmin(final)), 0
    total = final[state]
    while j > 0:
        before = came[j, state]
        begins[count], states[count] = at[before // 8], state
        j, state = before // 8, before % 8
        count += 1
    return begins[:count][::-1].copy(), states[:count][::-1].copy(), total
