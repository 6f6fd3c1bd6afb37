"""Walls as straight lines: least squares through their points, corners where they meet."""

import numpy as np
from numba import njit

from geoseg.vectors.walls.segment import FREE, scatter, trimmed

_QUARTER = np.pi / 4
_PARALLEL = 0.25
"""Sine of the angle, in radians, under which two walls are too parallel to meet in a corner."""


@njit(cache=True, nogil=True)
def heading(state: int) -> float:
    """Angle of a wall to the building's direction, in radians."""
    if state == 1:
        return 2 * _QUARTER
    if state == 2:
        return _QUARTER
    return 3 * _QUARTER if state == 3 else 0.0


@njit(cache=True, nogil=True)
def turn_of(sums: np.ndarray, begins: np.ndarray, states: np.ndarray, trim: int) -> tuple[float, float]:
    """How the frame of a ring ought to turn, as the pair whose half angle is the turn, in closed form.

    With the scatter (uu, vv, uv) of a wall that heads h in the frame, its squared distances after a turn of t are
    (uu + vv) / 2 - (uu - vv) / 2 cos 2(h + t) - uv sin 2(h + t); of the sum over walls the minimum over t is
    atan2(sine, cosine) / 2.

    Returns:
        cosine, sine: sums over all walls that are not free. Pairs of several rings, or a prior's, may be added.
    """
    n, count = (len(sums) - 1) // 2, len(begins)
    cosine, sine = 0.0, 0.0
    for k in range(count):
        if states[k] == FREE:
            continue
        end = begins[k + 1] if k + 1 < count else begins[0] + n
        a, b = trimmed(begins[k], end, trim)
        _, _, uu, vv, uv = scatter(sums, a, b)
        twice = 2 * heading(states[k])
        half = (uu - vv) / 2
        cosine += half * np.cos(twice) + uv * np.sin(twice)
        sine += uv * np.cos(twice) - half * np.sin(twice)
    return cosine, sine


@njit(cache=True, nogil=True)
def fit_lines(sums: np.ndarray, begins: np.ndarray, states: np.ndarray, trim: int) -> np.ndarray:
    """(w, 4) lines of walls: a point (u, v) and a unit direction (du, dv), by least squares through trimmed runs."""
    n, count = (len(sums) - 1) // 2, len(begins)
    lines = np.empty((count, 4))
    for k in range(count):
        end = begins[k + 1] if k + 1 < count else begins[0] + n
        a, b = trimmed(begins[k], end, trim)
        u, v, uu, vv, uv = scatter(sums, a, b)
        angle = 0.5 * np.arctan2(2 * uv, uu - vv) if states[k] == FREE else heading(states[k])
        lines[k, 0], lines[k, 1] = u, v
        lines[k, 2], lines[k, 3] = np.cos(angle), np.sin(angle)
    return lines


@njit(cache=True, nogil=True)
def resist(
    u: np.ndarray, v: np.ndarray, begins: np.ndarray, states: np.ndarray, lines: np.ndarray, trim: int, bound: float
) -> None:
    """Fit lines again, in place, so that dents and bumps pull less.

    Points farther off than `bound` weigh as the inverse of their distance.

    Source: Huber 1964, Ann. Math. Statist. 35 (1), 73-101, by iteratively reweighted least squares.
    """
    n, count = len(u), len(begins)
    for k in range(count):
        end = begins[k + 1] if k + 1 < count else begins[0] + n
        a, b = trimmed(begins[k], end, trim)
        for _ in range(4):
            total = su = sv = suu = svv = suv = 0.0
            for i in range(a, b + 1):
                p, q = u[i % n] - lines[k, 0], v[i % n] - lines[k, 1]
                off = abs(lines[k, 2] * q - lines[k, 3] * p)
                weight = 1.0 if off <= bound else bound / off
                total, su, sv = total + weight, su + weight * p, sv + weight * q
                suu, svv, suv = suu + weight * p * p, svv + weight * q * q, suv + weight * p * q
            su, sv = su / total, sv / total
            if states[k] == FREE:
                angle = 0.5 * np.arctan2(2 * (suv - total * su * sv), suu - svv - total * (su * su - sv * sv))
                lines[k, 2], lines[k, 3] = np.cos(angle), np.sin(angle)
            lines[k, 0] += su
            lines[k, 1] += sv


@njit(cache=True, nogil=True)
def corner(one: np.ndarray, two: np.ndarray, near_u: float, near_v: float) -> tuple[float, float]:
    """Where two lines meet; where they hardly do, midway between the places on them nearest to a point."""
    cross = one[2] * two[3] - one[3] * two[2]
    if abs(cross) >= _PARALLEL:
        t = ((two[0] - one[0]) * two[3] - (two[1] - one[1]) * two[2]) / cross
        return one[0] + t * one[2], one[1] + t * one[3]
    s = (near_u - one[0]) * one[2] + (near_v - one[1]) * one[3]
    t = (near_u - two[0]) * two[2] + (near_v - two[1]) * two[3]
    return (one[0] + s * one[2] + two[0] + t * two[2]) / 2, (one[1] + s * one[3] + two[1] + t * two[3]) / 2


@njit(cache=True, nogil=True)
def corners(u: np.ndarray, v: np.ndarray, begins: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """(w, 2) corners: the one where each wall begins."""
    count = len(begins)
    found = np.empty((count, 2))
    for k in range(count):
        at = begins[k] % len(u)
        found[k, 0], found[k, 1] = corner(lines[k - 1], lines[k], u[at], v[at])
    return found


@njit(cache=True, nogil=True)
def moved_breaks(u: np.ndarray, v: np.ndarray, begins: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Breaks where the ring is nearest to its corners, each no farther than halfway along the walls beside it.

    Ascending; the first may be negative or the last beyond the ring, which is then turned by the caller.
    """
    n, count = len(u), len(begins)
    moved = np.empty(count, np.int64)
    for k in range(count):
        before = begins[k - 1] if k else begins[count - 1] - n
        after = begins[k + 1] if k + 1 < count else begins[0] + n
        low, high = (before + begins[k]) // 2 + 1, (begins[k] + after) // 2
        best, at = np.inf, begins[k]
        for i in range(low, high + 1):
            distance = (u[i % n] - found[k, 0]) ** 2 + (v[i % n] - found[k, 1]) ** 2
            if distance < best:
                best, at = distance, i
        moved[k] = at
    return moved
