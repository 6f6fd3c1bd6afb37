"""Random fields that are a function of place: any window of the scene gets the values that the whole scene has."""

import numpy as np
from scipy.sparse import csr_array

from geoseg.windows import Window

LATTICE = 96
"""Nodes of a field's lattice; it repeats after as many cells."""
GRAIN = 1021
"""Side of the tile of white noise that is repeated over the scene; a prime, so that it never locks to other periods."""
FIELDS = {"meadow": 14.0, "lawn": 3.5, "tuft": 0.9, "stain": 5.0, "grime": 0.8, "leaf": 0.7, "light": 90.0}
"""The smooth fields, and how many metres their blobs are wide."""


class Noise:
    """Smooth and white noise of one scene."""

    def __init__(self, gsd: float, rng: np.random.Generator) -> None:
        self._cell = {name: max(size / gsd, 1.0) for name, size in FIELDS.items()}
        self._nodes = {name: rng.standard_normal((LATTICE, LATTICE), dtype=np.float32) for name in FIELDS}
        self._origin = {name: rng.uniform(0, LATTICE, 2) for name in FIELDS}
        self._grain = rng.standard_normal((GRAIN, GRAIN), dtype=np.float32)

    def smooth(self, window: Window, name: str) -> np.ndarray:
        """(height, width) float32 of mean 0 and standard deviation about 1: one of `FIELDS`."""
        (row, col), cell = self._origin[name], self._cell[name]
        rows = _spline(np.arange(window.row, window.stop_row) / cell + row)
        cols = _spline(np.arange(window.col, window.stop_col) / cell + col)
        # Sparse products sum each pixel on its own; dense ones differ in the last bit with the rows and the threads.
        field: np.ndarray = rows @ (cols @ self._nodes[name]).T
        return field

    def white(self, window: Window, shift: int) -> np.ndarray:
        """(height, width) float32, independent from pixel to pixel; another shift gives other noise."""
        rows = (np.arange(window.row, window.stop_row) + 331 * shift) % GRAIN
        cols = (np.arange(window.col, window.stop_col) + 173 * shift) % GRAIN
        return np.take(self._grain[rows], cols, axis=1)


def _spline(at: np.ndarray) -> csr_array:
    """(len(at), LATTICE) float32: the cubic B-spline's share of every node at each place, wrapping round.

    Source: Unser 1999, Splines: a perfect fit for signal and image processing, IEEE Signal Processing Magazine 16(6).
    """
    base = np.floor(at).astype(np.int64)
    t = at - base
    shares = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    # Of white noise a cubic B-spline keeps 0.479 of the variance: bring it back.
    shares = (shares / np.sqrt(0.479)).astype(np.float32)
    nodes = (base[:, None] + np.arange(-1, 3)) % LATTICE
    return csr_array((shares.ravel(), nodes.ravel(), np.arange(len(at) + 1) * 4), shape=(len(at), LATTICE))
