"""One ring made straight: segmentation, turn, lines and corners in turn until they agree."""

from typing import NamedTuple

import numpy as np
from numba import njit

from geoseg.vectors.walls.breaks import candidates
from geoseg.vectors.walls.lines import corners, fit_lines, moved_breaks, resist, turn_of
from geoseg.vectors.walls.segment import FREE, prefix_sums, segment
from geoseg.vectors.walls.together import place

_LEAST, _MOST = 0.3, 8.0
"""Bounds of the growth of penalties."""


class Tuning(NamedTuple):
    """What is weighed against what, in pixels. A wall must save its penalty in squared distances over sigma squared."""

    sigma: float = 0.9
    """How far outlines of a network are from walls: noise of one vertex."""
    wall: float = 40.0
    """Penalty of a wall along or across; the noise of neighbouring vertices is alike, hence the height."""
    diagonal: float = 80.0
    """On top for a diagonal wall; infinite where none is wanted."""
    free: float = 120.0
    """On top for a wall of any other direction; infinite where none is wanted."""
    vertices: float = 200.0
    """Of a ring whose penalties are as given; they grow with its length, as there is more noise, and slower."""
    circle: float = 240.0
    """Penalty of a circle."""
    trim: int = 0
    """Vertices at either end of a wall that are not asked where it lies."""
    bound: float = 2.0
    """Distance from which on a vertex pulls a wall with constant force only."""
    shortest: float = 3.0
    """Length of a wall, at least."""
    tolerance: float = 0.8
    """Of the candidates for breaks."""
    lean: float = 100.0
    """Weight of the direction of neighbours, in squared pixels summed over vertices."""
    rounded: float = 2.0
    """From corners: how far outlines are rounded off, and not asked when walls are placed together."""
    reach: float = 10.0
    """Over which an outline is off alike, round corners too; 0: every wall is placed by itself."""
    step: float = 1.5
    """Standard deviations from which on a step of that pulls with constant force only."""
    far: float = 1.0
    """How far a wall may be moved by that: further, the outline is no such wall's."""
    grain: float = 0.005
    """Of the variance of such errors, what neighbouring vertices do not share."""
    stiff: float = 100.0
    """Weight of the direction found before, in squared pixels per squared radian."""


@njit(cache=True, nogil=True)
def straighten(
    x: np.ndarray, y: np.ndarray, direction: float, prior: tuple[float, float], tuning: Tuning, dearer: float
) -> tuple[np.ndarray, float, float]:
    """Corners of the walls of a closed ring.

    Args:
        x: (n,) float64 in pixels, n >= 8; the first point is a break: take one that is surely a corner.
        y: (n,) float64 in pixels.
        direction: Radians, to start from.
        prior: Weight times cosine and sine of twice the angle from `direction` to the one leaned towards; (0, 0): none.
            With an infinite weight the direction stays as it is.
        tuning: What is weighed against what.
        dearer: How many times as dear walls are.

    Returns:
        (w, 2) corners in pixels, none where fewer than three walls are left; the direction in radians; the cost of the
        segmentation, to be compared with that of another shape.
    """
    penalty = np.full(5, 1.0 * tuning.wall)
    penalty[2:4] += tuning.diagonal
    penalty[FREE] += tuning.free
    penalty *= dearer * weight(len(x), tuning)
    for _ in range(3):
        u, v = _turned(x, y, -direction, 1 / tuning.sigma)
        sums = prefix_sums(u, v)
        at = candidates(u, v, tuning.tolerance / tuning.sigma)
        begins, states, cost = segment(sums, at, penalty, int(0.6 * tuning.shortest))
        turn = _turn(sums, begins, states, prior, tuning)
        direction += turn
        prior = _less(prior, turn)
        if abs(turn) < 2e-3:
            break
    u, v = _turned(x, y, -direction, 1 / tuning.sigma)
    begins, states = _joined(begins, states, len(u))
    found, turn = _settled(u, v, begins, states, tuning, 1e12 if np.isinf(prior[0]) else tuning.stiff)
    direction_found = direction
    direction += turn
    back_x, back_y = _turned(found[:, 0], found[:, 1], direction_found, tuning.sigma)
    return np.stack((back_x, back_y), axis=1), direction, cost


@njit(cache=True, nogil=True)
def weight(vertices: int, tuning: Tuning) -> float:
    """By how much penalties are higher for a ring of so many vertices."""
    return min(max(vertices / tuning.vertices, _LEAST), _MOST)


@njit(cache=True, nogil=True)
def _turned(x: np.ndarray, y: np.ndarray, angle: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    return cosine * x - sine * y, sine * x + cosine * y


@njit(cache=True, nogil=True)
def _turn(
    sums: np.ndarray, begins: np.ndarray, states: np.ndarray, prior: tuple[float, float], tuning: Tuning
) -> float:
    if np.isinf(prior[0]):
        return 0.0
    cosine, sine = turn_of(sums, begins, states, tuning.trim)
    turn: float = 0.5 * np.arctan2(sine + prior[1], cosine + prior[0])
    return min(max(turn, -0.2), 0.2)


@njit(cache=True, nogil=True)
def _less(prior: tuple[float, float], turn: float) -> tuple[float, float]:
    """A prior as it looks after the frame has turned."""
    if np.isinf(prior[0]):
        return prior
    cosine, sine = np.cos(2 * turn), np.sin(2 * turn)
    return prior[0] * cosine + prior[1] * sine, prior[1] * cosine - prior[0] * sine


@njit(cache=True, nogil=True)
def _joined(begins: np.ndarray, states: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The last wall and the first one made one, where the first break turns out to be none."""
    count = len(begins)
    if count < 4 or states[0] != states[count - 1] or states[0] == FREE:
        return begins, states
    begins = np.append(begins[1 : count - 1], begins[count - 1])
    states = np.append(states[1 : count - 1], states[count - 1])
    return begins, states


@njit(cache=True, nogil=True)
def _settled(
    u: np.ndarray, v: np.ndarray, begins: np.ndarray, states: np.ndarray, tuning: Tuning, stiff: float
) -> tuple[np.ndarray, float]:
    """Corners after breaks have moved to them and walls that came out too short are gone; how far walls turned."""
    sums = prefix_sums(u, v)
    shortest = tuning.shortest / tuning.sigma
    for _ in range(70):
        if len(begins) < 3:
            return np.empty((0, 2)), 0.0
        for _again in range(2):
            found = corners(u, v, begins, fit_lines(sums, begins, states, tuning.trim))
            begins, states, found = _ordered(moved_breaks(u, v, begins, found), states, found, len(u))
        lines = fit_lines(sums, begins, states, tuning.trim)
        resist(u, v, begins, states, lines, tuning.trim, tuning.bound / tuning.sigma)
        found = corners(u, v, begins, lines)
        worst = _shortest(u, v, begins, found, shortest)
        if worst < 0:
            return _together(u, v, begins, states, lines, found, tuning, stiff)
        begins, states = _without(begins, states, worst, len(u))
    return np.empty((0, 2)), 0.0


@njit(cache=True, nogil=True)
def _together(
    u: np.ndarray,
    v: np.ndarray,
    begins: np.ndarray,
    states: np.ndarray,
    lines: np.ndarray,
    found: np.ndarray,
    tuning: Tuning,
    stiff: float,
) -> tuple[np.ndarray, float]:
    """Corners after walls have been placed together, if none comes out too short; how far walls turned."""
    if tuning.reach <= 0:
        return found, 0.0
    turned = 0.0
    for _ in range(2):
        lines, turn = place(
            u,
            v,
            begins,
            states,
            lines,
            found,
            tuning.rounded / tuning.sigma,
            tuning.reach / tuning.sigma,
            tuning.step,
            tuning.far / tuning.sigma,
            stiff,
            tuning.grain,
        )
        moved = corners(u, v, begins, lines)
        if _shortest(u, v, begins, moved, tuning.shortest / tuning.sigma) >= 0:
            break
        found, turned = moved, turned + turn
    return found, turned


@njit(cache=True, nogil=True)
def _ordered(
    begins: np.ndarray, states: np.ndarray, found: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Breaks within 0..n, ascending."""
    begins = begins % n
    order = np.argsort(begins)
    return begins[order], states[order], found[order]


@njit(cache=True, nogil=True)
def _shortest(u: np.ndarray, v: np.ndarray, begins: np.ndarray, found: np.ndarray, least: float) -> int:
    """The wall that is shortest of those that are too short, or run backwards; -1: none."""
    count, n = len(begins), len(u)
    best, worst = least, -1
    for k in range(count):
        after = (k + 1) % count
        du, dv = found[after, 0] - found[k, 0], found[after, 1] - found[k, 1]
        length = np.sqrt(du * du + dv * dv)
        a, b = begins[k] % n, begins[after] % n
        if du * (u[b] - u[a]) + dv * (v[b] - v[a]) < 0:
            length = -length
        if length < best:
            best, worst = length, k
    return worst


@njit(cache=True, nogil=True)
def _without(begins: np.ndarray, states: np.ndarray, wall: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """One wall fewer; its neighbours meet in its middle, or become one where they are parallel."""
    count = len(begins)
    after = (wall + 1) % count
    if states[wall - 1] == states[after] and states[after] != FREE:
        kept = np.ones(count, np.bool_)
        kept[wall] = kept[after] = False
        return begins[kept], states[kept]
    end = begins[after] if after else begins[0] + n
    moved = begins.copy()
    moved[after] = ((begins[wall] + end) // 2) % n
    kept = np.ones(count, np.bool_)
    kept[wall] = False
    begins, states = moved[kept], states[kept]
    order = np.argsort(begins)
    return begins[order], states[order]
