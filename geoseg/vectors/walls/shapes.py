"""Shapes that compete with walls: a circle, and a rectangle for what is too small to have walls."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def fit_circle(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float]:
    """Circle of least squared algebraic distances: centre x, y, radius, and the sum of squared distances to it.

    Source: Kasa 1976, IEEE Trans. Instrum. Meas. IM-25, 8-14.
    """
    mean_x, mean_y = x.mean(), y.mean()
    xx = xy = yy = xz = yz = z = 0.0
    for i in range(len(x)):
        a, b = x[i] - mean_x, y[i] - mean_y
        c = a * a + b * b
        xx, xy, yy = xx + a * a, xy + a * b, yy + b * b
        xz, yz, z = xz + a * c, yz + b * c, z + c
    determinant = 2 * (xx * yy - xy * xy)
    if determinant <= 1e-9 * z * z:
        return mean_x, mean_y, 0.0, np.inf
    a, b = (yy * xz - xy * yz) / determinant, (xx * yz - xy * xz) / determinant
    radius = np.sqrt(a * a + b * b + z / len(x))
    a, b = a + mean_x, b + mean_y
    off = 0.0
    for i in range(len(x)):
        off += (np.sqrt((x[i] - a) ** 2 + (y[i] - b) ** 2) - radius) ** 2
    return a, b, radius, off


@njit(cache=True, nogil=True)
def moments(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float, float, float]:
    """Of a polygon: area (negative where clockwise), centroid x and y, and the second moments xx, yy, xy about it.

    The moments are of unit area: those of a rectangle of w by h are w^2 / 12, h^2 / 12 and 0.

    Source: Green's theorem; Steger 1996, On the calculation of arbitrary moments of polygons, eq. 6-11.
    """
    area = mx = my = xx = yy = xy = 0.0
    n = len(x)
    left, low = x[0], y[0]
    for i in range(n):
        a, b = x[i] - left, y[i] - low
        c, d = x[(i + 1) % n] - left, y[(i + 1) % n] - low
        cross = a * d - c * b
        area += cross / 2
        mx, my = mx + (a + c) * cross / 6, my + (b + d) * cross / 6
        xx, yy = xx + (a * a + a * c + c * c) * cross / 12, yy + (b * b + b * d + d * d) * cross / 12
        xy += (a * (2 * b + d) + c * (b + 2 * d)) * cross / 24
    if area == 0:
        return 0.0, left, low, 0.0, 0.0, 0.0
    mx, my = mx / area, my / area
    return area, mx + left, my + low, xx / area - mx * mx, yy / area - my * my, xy / area - mx * my


@njit(cache=True, nogil=True)
def fit_rectangle(x: np.ndarray, y: np.ndarray, direction: float) -> np.ndarray:
    """(4, 2) corners of the rectangle in `direction` that has a ring's centroid, area and ratio of second moments."""
    area, centre_x, centre_y, xx, yy, xy = moments(x, y)
    c, s = np.cos(direction), np.sin(direction)
    along = max(c * c * xx + s * s * yy + 2 * c * s * xy, 1e-12)
    across = max(s * s * xx + c * c * yy - 2 * c * s * xy, 1e-12)
    ratio = min(max(np.sqrt(along / across), 0.05), 20.0)
    w, h = np.sqrt(abs(area) * ratio) / 2, np.sqrt(abs(area) / ratio) / 2
    found = np.empty((4, 2))
    for k, (a, b) in enumerate(((-w, -h), (w, -h), (w, h), (-w, h))):
        found[k, 0], found[k, 1] = centre_x + c * a - s * b, centre_y + s * a + c * b
    return found


@njit(cache=True, nogil=True)
def squares_to(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> float:
    """Squared distances, summed, of points to a closed polygon."""
    total, n = 0.0, len(corners)
    for i in range(len(x)):
        best = np.inf
        for k in range(n):
            left, low = corners[k, 0], corners[k, 1]
            dx, dy = corners[(k + 1) % n, 0] - left, corners[(k + 1) % n, 1] - low
            size = dx * dx + dy * dy
            t = ((x[i] - left) * dx + (y[i] - low) * dy) / size if size > 0 else 0.0
            t = min(max(t, 0.0), 1.0)
            best = min(best, (x[i] - left - t * dx) ** 2 + (y[i] - low - t * dy) ** 2)
        total += best
    return total
