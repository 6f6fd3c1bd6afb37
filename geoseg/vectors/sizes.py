"""Sizes of patches on the ground: area and perimeter of millions of vertices without projecting every one of them."""

import math

import numpy as np
from numba import njit

from geoseg.grid import Grid
from geoseg.vectors.metric import Metric
from geoseg.vectors.patches import Patches
from geoseg.vectors.rings import SCALE

_APART_M = 50
"""Between projected points. Between them the ground is taken to be plane; scale and angles of a projection change over
half this way by its part of the Earth's radius (times tan(latitude) at worst), some millionths."""
_MOST = 1_000_000  # projected points


def sizes(patches: Patches, grid: Grid) -> dict[str, np.ndarray]:
    """Area and perimeter: on the ground where there is a CRS, else in pixels.

    Returns:
        `area_m2` and `perimeter_m`, (patches,) float64 to the third decimal, or `area_px` and `perimeter_px`.
    """
    apart, lattice = _lattice(grid)
    area, perimeter = _measure(patches.points, patches.ring_offsets, patches.patch_offsets, apart, lattice)
    if grid.gsd is None:
        return {"area_px": area, "perimeter_px": perimeter}
    return {"area_m2": area.round(3), "perimeter_m": perimeter.round(3)}


def _lattice(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """(2,) pixels to the right and down between points of a lattice on the grid, and their (rows, cols, 2) metres."""
    if grid.gsd is None:
        side = 2.0 ** math.ceil(math.log2(max(grid.shape)))  # exact in binary: an area is a whole number of pixels
        return np.array([side, side]), np.array([[[0, 0], [side, 0]], [[0, side], [side, side]]])
    apart = max(_APART_M / grid.gsd, 1, math.sqrt(grid.width * grid.height / _MOST))
    rows, cols = (math.ceil(side / apart) for side in grid.shape)
    x, y = np.meshgrid(np.linspace(0, grid.width, cols + 1), np.linspace(0, grid.height, rows + 1))
    placed = Metric(grid).to_metres(np.column_stack([x.ravel(), y.ravel()]))
    return np.array([grid.width / cols, grid.height / rows]), placed.reshape(rows + 1, cols + 1, 2)


@njit(cache=True, nogil=True)
def _measure(points, ring_offsets, patch_offsets, apart, lattice):  # type: ignore[no-untyped-def]
    """(patches,) area and length of the rings, their vertices placed between the lattice's points bilinearly."""
    patches = len(patch_offsets) - 1
    area, length = np.zeros(patches), np.zeros(patches)
    for patch in range(patches):
        for ring in range(patch_offsets[patch], patch_offsets[patch + 1]):
            start, stop = ring_offsets[ring], ring_offsets[ring + 1]
            first_x, first_y = _placed(points[start, 0], points[start, 1], apart, lattice)
            last_x, last_y, twice = 0.0, 0.0, 0.0  # relative to the first vertex: digits are kept
            for vertex in range(start + 1, stop):
                x, y = _placed(points[vertex, 0], points[vertex, 1], apart, lattice)
                x, y = x - first_x, y - first_y
                twice += last_x * y - x * last_y
                length[patch] += math.hypot(x - last_x, y - last_y)
                last_x, last_y = x, y
            length[patch] += math.hypot(last_x, last_y)
            area[patch] += abs(twice) / 2 if ring == patch_offsets[patch] else -abs(twice) / 2
    return area, length


@njit(cache=True, nogil=True)
def _placed(x, y, apart, lattice):  # type: ignore[no-untyped-def]
    """Where a vertex lies on the ground."""
    right, down = x / (SCALE * apart[0]), y / (SCALE * apart[1])
    col, row = min(int(right), lattice.shape[1] - 2), min(int(down), lattice.shape[0] - 2)
    right, down = right - col, down - row
    found_x = found_y = 0.0
    for step in range(4):
        weight = (right if step & 1 else 1 - right) * (down if step & 2 else 1 - down)
        found_x += weight * lattice[row + (step >> 1), col + (step & 1), 0]
        found_y += weight * lattice[row + (step >> 1), col + (step & 1), 1]
    return found_x, found_y
