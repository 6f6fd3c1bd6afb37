"""Walls placed together: what an outline is off by changes slowly along it, round corners too.

A network that draws a wall too far out there mostly does so on the other side of the corner as well. Least squares wall
by wall takes such errors for the wall's place. Taken as a process that changes slowly, they cancel where walls meet.
"""

import numpy as np
from numba import njit

from geoseg.vectors.walls.segment import FREE

_TIMES = 3
_MOST_TURN = 0.1


@njit(cache=True, nogil=True)
def place(
    u: np.ndarray,
    v: np.ndarray,
    begins: np.ndarray,
    states: np.ndarray,
    lines: np.ndarray,
    found: np.ndarray,
    trim: float,
    reach: float,
    bound: float,
    far: float,
    stiff: float,
    grain: float,
) -> tuple[np.ndarray, float]:
    """Lines moved, and turned together, so that errors along the outline are likeliest.

    Errors are an Ornstein-Uhlenbeck process along the closed outline: two vertices a distance d apart have errors of
    correlation exp(-d / `reach`), also where a corner lies between them. Free walls turn by themselves.

    Args:
        u: (n,) float64 vertices.
        v: (n,) float64.
        begins: (w,) indices where walls begin, ascending.
        states: (w,) their states.
        lines: (w, 4) as `fit_lines` gives them.
        found: (w, 2) corners where they begin.
        trim: Distance from corners within which vertices are not asked: networks round corners off.
        reach: Over which errors are alike.
        bound: Steps of the errors that are larger, in standard deviations, count with constant force only.
        far: How far a wall may move.
        stiff: Weight of the direction that walls have; very large where it is settled.
        grain: Of the variance, what no two vertices share.

    Returns:
        (w, 4) lines, and by how many radians those that are not free have turned; `lines` and 0 where there are too few
        vertices, or a wall would move far.

    Source: generalised least squares: Aitken 1936, Proc. R. Soc. Edinburgh 55, 42-48; its whitening for a process of
    first order: Prais and Winsten 1954, Cowles Commission Discussion Paper 383; the bound: Huber 1964, Ann. Math.
    Statist. 35 (1), 73-101.
    """
    n, count = len(u), len(begins)
    walls, off, along, where = np.empty(n, np.int64), np.empty(n), np.empty(n), np.empty(n)
    centre_u, centre_v = found[:, 0].mean(), found[:, 1].mean()
    ahead = np.empty((count, 2))
    size, walked = 0, 0.0
    for k in range(count):
        after = (k + 1) % count
        du, dv = lines[k, 2], lines[k, 3]
        start = (found[k, 0] - lines[k, 0]) * du + (found[k, 1] - lines[k, 1]) * dv
        stop = (found[after, 0] - lines[k, 0]) * du + (found[after, 1] - lines[k, 1]) * dv
        if stop < start:
            du, dv, start, stop = -du, -dv, -start, -stop
        ahead[k, 0], ahead[k, 1] = du, dv
        cut = min(trim, (stop - start) / 4)
        # Of a wall that turns with the others, from the foot of the centre; of a free one, from its own point.
        origin = 0.0 if states[k] == FREE else (centre_u - lines[k, 0]) * du + (centre_v - lines[k, 1]) * dv
        first = size
        for i in range(begins[k], begins[after] if after else begins[0] + n):
            a, b = u[i % n] - lines[k, 0], v[i % n] - lines[k, 1]
            s = a * du + b * dv
            if start + cut <= s <= stop - cut and size < n:
                walls[size], off[size], along[size] = k, du * b - dv * a, s - origin
                where[size] = walked + s - start
                size += 1
        if size - first < 2:
            return lines, 0.0
        walked += stop - start
    turns = np.full(count, count)  # the unknown that a wall turns by
    unknowns = count + 1
    for k in range(count):
        if states[k] == FREE:
            turns[k], unknowns = unknowns, unknowns + 1
    solution = _solved(
        walls[:size], off[:size], along[:size], where[:size], walked, turns, unknowns, reach, bound, stiff, grain
    )
    if np.abs(solution[count:]).max() > _MOST_TURN or np.abs(solution[:count]).max() > far:
        return lines, 0.0
    moved = lines.copy()
    for k in range(count):
        du, dv = ahead[k]
        origin = 0.0 if states[k] == FREE else (centre_u - lines[k, 0]) * du + (centre_v - lines[k, 1]) * dv
        turn = solution[turns[k]]
        step = solution[k] - turn * origin
        moved[k, 0], moved[k, 1] = lines[k, 0] - step * dv, lines[k, 1] + step * du
        cosine, sine = np.cos(turn), np.sin(turn)
        moved[k, 2] = cosine * lines[k, 2] - sine * lines[k, 3]
        moved[k, 3] = sine * lines[k, 2] + cosine * lines[k, 3]
    return moved, solution[count]


@njit(cache=True, nogil=True)
def _solved(
    walls: np.ndarray,
    off: np.ndarray,
    along: np.ndarray,
    where: np.ndarray,
    length: float,
    turns: np.ndarray,
    unknowns: int,
    reach: float,
    bound: float,
    stiff: float,
    grain: float,
) -> np.ndarray:
    """(unknowns,) by how much walls move to their left, then by how much they turn: all together, and each free one.

    Args:
        walls: (m,) wall of each vertex, round the outline.
        off: (m,) how far it is to the left of the wall.
        along: (m,) where along the wall, from the point that the wall turns about.
        where: (m,) where along the outline.
        length: Of the outline.
        turns: (w,) the unknown that a wall turns by.
        unknowns: How many there are.
        reach: See `place`.
        bound: See `place`.
        stiff: See `place`.
        grain: See `place`.
    """
    size = len(walls)
    solution: np.ndarray = np.zeros(unknowns)
    at, row = np.empty(4, np.int64), np.empty(4)
    for _ in range(_TIMES):
        normal, right = 1e-9 * np.eye(unknowns), np.zeros(unknowns)
        for k in range(len(turns), unknowns):
            normal[k, k] += stiff
        for i in range(size):
            j = (i + 1) % size
            gap = where[j] - where[i] + (length if j == 0 else 0.0)
            alike = np.exp(-max(gap, 0.0) / reach)
            scale = 1 / np.sqrt(1 - alike * alike + grain)
            at[0], at[1], at[2], at[3] = walls[j], turns[walls[j]], walls[i], turns[walls[i]]
            row[0], row[1], row[2], row[3] = scale, scale * along[j], -alike * scale, -alike * scale * along[i]
            value = scale * (off[j] - alike * off[i])
            left = value
            for a in range(4):
                left -= row[a] * solution[at[a]]
            weight = 1.0 if abs(left) <= bound else bound / abs(left)
            for a in range(4):
                right[at[a]] += weight * row[a] * value
                for b in range(4):
                    normal[at[a], at[b]] += weight * row[a] * row[b]
        solution = np.linalg.solve(normal, right)
    return solution
