"""Buildings made straight, many at a time: every ring by itself, holes in the direction of their outline."""

import numpy as np
from numba import njit

from geoseg.vectors.walls.breaks import MOST, farthest
from geoseg.vectors.walls.ring import Tuning, straighten, weight
from geoseg.vectors.walls.shapes import fit_circle, fit_rectangle, moments, squares_to

WALLS, CIRCLE, RECTANGLE, NOTHING = range(4)
"""What became of a ring."""
ROOM = MOST + 2
"""Corners of a ring, at most."""
SIDES = 64
"""Corners that a circle is drawn with."""
_SHARP = np.cos(np.radians(25))
"""A sharper corner is seldom one of a building: fewer walls are tried then."""
_LEAST = 12  # vertices: what has fewer has no walls to tell


@njit(cache=True, nogil=True)
def fit_buildings(
    xy: np.ndarray,
    rings: np.ndarray,
    patches: np.ndarray,
    directions: np.ndarray,
    leans: np.ndarray,
    tuning: Tuning,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Straight outlines of patches.

    Args:
        xy: (n, 2) float64 vertices in pixels of equal sides, rings open.
        rings: (r + 1,) int64 first vertex of each ring.
        patches: (p + 1,) int64 first ring of each patch: its outline, then its holes.
        directions: (p,) float64 radians to start from.
        leans: (p, 2) float64 what neighbours want, see `straighten`.
        tuning: What is weighed against what.

    Returns:
        (r, `ROOM`, 2) corners in pixels, (r,) how many there are, (r,) what each ring became, (p,) directions, and
        (p,) about how many square pixels lie between a patch's outline and its fit.
    """
    found = np.empty((len(rings) - 1, ROOM, 2))
    counts = np.zeros(len(rings) - 1, np.int64)
    kinds = np.full(len(rings) - 1, NOTHING)
    angles, between = directions.copy(), np.zeros(len(directions))
    for p in range(len(patches) - 1):
        lean = (leans[p, 0], leans[p, 1])
        for ring in range(patches[p], patches[p + 1]):
            first, last = rings[ring], rings[ring + 1]
            corners, angle, kinds[ring] = fit_ring(xy[first:last, 0], xy[first:last, 1], angles[p], lean, tuning)
            counts[ring] = len(corners)
            found[ring, : len(corners)] = corners
            off = squares_to(xy[first:last, 0], xy[first:last, 1], corners)
            between[p] += np.sqrt(off * (last - first))  # root mean square, times a pixel of length a vertex
            if ring == patches[p]:
                angles[p] = angle
                lean = (np.inf, 0.0)
    return found, counts, kinds, angles, between


@njit(cache=True, nogil=True)
def fit_ring(
    x: np.ndarray, y: np.ndarray, direction: float, lean: tuple[float, float], tuning: Tuning
) -> tuple[np.ndarray, float, int]:
    """Corners of one ring, its direction, and what it became; a hole, whose direction is settled, becomes something."""
    start, n = farthest(x, y), len(x)
    left, low = x[start], y[start]
    a, b = np.empty(n), np.empty(n)
    for i in range(n):
        a[i], b[i] = x[(start + i) % n] - left, y[(start + i) % n] - low
    if n < _LEAST:
        corners, kind = fit_rectangle(a, b, direction), RECTANGLE
    else:
        corners, direction, kind = _best(a, b, direction, lean, tuning)
    if crosses(corners):
        corners, kind = fit_rectangle(a, b, direction), NOTHING if np.isfinite(lean[0]) else RECTANGLE
    for k in range(len(corners)):
        corners[k, 0] += left
        corners[k, 1] += low
    return corners, direction, kind


@njit(cache=True, nogil=True)
def _best(
    x: np.ndarray, y: np.ndarray, direction: float, lean: tuple[float, float], tuning: Tuning
) -> tuple[np.ndarray, float, int]:
    """The cheapest of walls, a circle and a rectangle."""
    corners, found, cost = straighten(x, y, direction, lean, tuning, 1.0)
    for dearer in (2.0, 4.0):
        if len(corners) < 4 or not (crosses(corners) or sharpest(corners) > _SHARP):
            break
        corners, found, _ = straighten(x, y, direction, lean, tuning, dearer)
    direction = found
    scale, dear = 1 / tuning.sigma**2, weight(len(x), tuning)
    centre_x, centre_y, radius, off = fit_circle(x, y)
    if off * scale + dear * tuning.circle < cost:
        return circle(centre_x, centre_y, radius), direction, CIRCLE
    if len(corners) < 4:
        box = fit_rectangle(x, y, direction)
        if len(corners) < 3 or squares_to(x, y, box) * scale + 4 * dear * tuning.wall < cost:
            return box, direction, RECTANGLE
    return corners, direction, WALLS


@njit(cache=True, nogil=True)
def circle(x: float, y: float, radius: float) -> np.ndarray:
    """(`SIDES`, 2) corners of a regular polygon with the area of a circle."""
    step = 2 * np.pi / SIDES
    out = radius * np.sqrt(step / np.sin(step))
    corners = np.empty((SIDES, 2))
    for k in range(SIDES):
        corners[k, 0], corners[k, 1] = x + out * np.cos(k * step), y + out * np.sin(k * step)
    return corners


@njit(cache=True, nogil=True)
def crosses(corners: np.ndarray) -> bool:
    """Whether a closed polygon touches itself, or has no area."""
    n = len(corners)
    if n < 3 or moments(corners[:, 0], corners[:, 1])[0] == 0:
        return True
    if n == SIDES:
        return False  # a circle
    for i in range(n):
        a, b = corners[i], corners[(i + 1) % n]
        for j in range(i + 2, n):
            if i == 0 and j == n - 1:
                continue
            c, d = corners[j], corners[(j + 1) % n]
            if _side(a, b, c) * _side(a, b, d) <= 0 and _side(c, d, a) * _side(c, d, b) <= 0:
                return True
    return False


@njit(cache=True, nogil=True)
def sharpest(corners: np.ndarray) -> float:
    """Cosine of the smallest angle between neighbouring walls."""
    n, most = len(corners), -1.0
    for i in range(n):
        ax, ay = corners[i - 1, 0] - corners[i, 0], corners[i - 1, 1] - corners[i, 1]
        bx, by = corners[(i + 1) % n, 0] - corners[i, 0], corners[(i + 1) % n, 1] - corners[i, 1]
        size = np.sqrt((ax * ax + ay * ay) * (bx * bx + by * by))
        if size > 0:
            most = max(most, (ax * bx + ay * by) / size)
    return most


@njit(cache=True, nogil=True)
def _side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    side: float = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    return side
