"""The direction of a building: what most of its outline runs along or across, and what its neighbours do."""

import numpy as np
from numba import njit
from scipy.spatial import cKDTree

_CHORDS = (3, 5, 8)
"""Lengths of the chords that vote, in points."""
_NEIGHBOURS = 12


@njit(cache=True, nogil=True)
def vote(x: np.ndarray, y: np.ndarray, lengths: tuple[int, int, int]) -> tuple[float, float]:
    """Sum of |c|^2 exp(4i phi) over the chords c of a closed ring, phi their headings; real and imaginary part.

    A quarter of its argument is the direction; right angles do not change it.
    """
    n = len(x)
    real, imaginary = 0.0, 0.0
    for length in lengths:
        if 2 * length > n:
            break
        for i in range(n):
            j = (i + length) % n
            dx, dy = x[j] - x[i], y[j] - y[i]
            a, b = dx * dx - dy * dy, 2 * dx * dy  # |c|^2 exp(2i phi)
            size = dx * dx + dy * dy
            if size > 0:
                real += (a * a - b * b) / size
                imaginary += 2 * a * b / size
    return real, imaginary


@njit(cache=True, nogil=True)
def votes(xy: np.ndarray, rings: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """(p,) complex128: the votes of the exterior of each patch, in the units of `xy` squared."""
    found = np.empty(len(patches) - 1, np.complex128)
    for p in range(len(found)):
        ring = xy[rings[patches[p]] : rings[patches[p] + 1]]
        real, imaginary = vote(ring[:, 0], ring[:, 1], _CHORDS)
        found[p] = complex(real, imaginary)
    return found


def leanings(votes: np.ndarray, centres: np.ndarray, reach: float) -> np.ndarray:
    """(p,) complex128: what the buildings round each one agree on, of absolute value 0 (nothing) to 1.

    The mean of the directions of up to 12 nearest within `reach`, weighted by how clear they are themselves and by a
    Gaussian of the distance; its argument is four times the direction.

    Args:
        votes: (p,) complex128.
        centres: (p, 2) float64.
        reach: In the units of `centres`.
    """
    if len(votes) < 2:
        return np.zeros(len(votes), np.complex128)
    count = min(_NEIGHBOURS + 1, len(votes))
    distance, index = cKDTree(centres).query(centres, count, distance_upper_bound=reach)
    own = np.arange(len(votes))[:, None]
    near = np.isfinite(distance) & (index != own)
    index = np.where(near, index, own)
    weight = np.where(near, np.exp(-2 * (np.where(near, distance, 0) / reach) ** 2), 0) * np.abs(votes)[index]
    total = weight.sum(axis=1)
    mean = (weight * np.exp(1j * np.angle(votes))[index]).sum(axis=1)
    agreed: np.ndarray = np.divide(mean, total, out=np.zeros(len(votes), np.complex128), where=total > 0)
    return agreed
