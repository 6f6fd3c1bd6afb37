"""Lattice: where a reference raster lies on the pixels of the predicted one, and the windows both are read in."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from geoseg.batches import Tile
from geoseg.errors import LabelsError, UsageError
from geoseg.grid import same_crs
from geoseg.scene import Scene
from geoseg.windows import Plan, Window

log = logging.getLogger(__name__)

SIDE = 2048
"""Side of the windows that are compared, in pixels."""
_DRIFT = 0.01
"""Pixels by which two grids may part over the whole scene and still count as one lattice."""


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A raster on the pixel lattice of another one."""

    path: str
    """As given."""
    scene: Scene
    """The open raster."""
    row: int = 0
    """Row of its first pixel in the other raster."""
    col: int = 0
    """Column of its first pixel in the other raster."""

    def read(self, window: Window) -> Tile:
        """The pixels of a window of the other raster; zeros that are not valid beyond this one's edge.

        Raises:
            SceneError: If they cannot be read.
        """
        height, width = self.scene.grid.shape
        inside = window.intersection(Window(row=self.row, col=self.col, height=height, width=width))
        if inside == window:
            return self._own(window)
        data = np.zeros((len(self.scene.bands), *window.shape), self.scene.dtype)
        valid = np.zeros(window.shape, bool)
        if inside is not None:
            tile, part = self._own(inside), inside.slices(window)
            data[:, *part], valid[part] = tile.data, tile.valid
        return Tile(data, valid)

    def _own(self, window: Window) -> Tile:
        return self.scene.read(replace(window, row=window.row - self.row, col=window.col - self.col))


def place(path: str, scene: Scene, predicted: Placed) -> Placed:
    """A reference raster, if it lies on the predicted raster's lattice; a whole-pixel offset is fine.

    Raises:
        LabelsError: With both grids, if it does not.
    """
    grid, other = predicted.scene.grid, scene.grid
    if grid.shape == other.shape and other.crs is None and other.in_pixels:
        if not grid.in_pixels:
            log.warning("%s has no georeference: it is laid on %s pixel by pixel", path, predicted.path)
        return Placed(path, scene)
    row, col, drift = grid.place_of(other)
    if not same_crs(grid.crs, other.crs) or drift > _DRIFT:
        raise LabelsError(
            f"{path} is not on the pixel lattice of {predicted.path}: {other.described}, not {grid.described}. "
            f"Expected the same CRS and pixels. Bring it there first: rio warp {path} OUT.tif --like {predicted.path}."
        )
    if Window(row=row, col=col, height=other.height, width=other.width).intersection(grid.window) is None:
        raise LabelsError(f"{path} lies outside {predicted.path}: {other.described}, not {grid.described}.")
    return Placed(path, scene, row, col)


def region(predicted: Placed, window: Window | None) -> Window:
    """What is to be compared: the window, or the whole predicted raster.

    Raises:
        UsageError: If the window sticks out.
    """
    grid = predicted.scene.grid
    if window is None:
        return grid.window
    if window.intersection(grid.window) != window:
        raise UsageError(
            f"window={window.col},{window.row},{window.width},{window.height} sticks out of {predicted.path} "
            f"({grid.width} x {grid.height} pixels). Expected COL,ROW,WIDTH,HEIGHT inside it."
        )
    return window


def parts(whole: Window) -> Iterator[Window]:
    """Windows that cover a region once."""
    for cell in Plan(shape=whole.shape, cell_side=SIDE):
        yield replace(cell, row=cell.row + whole.row, col=cell.col + whole.col)
