"""A label raster looked at through the pixels of a scene: on the same lattice, or resampled to it."""

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geoseg.errors import LabelsError
from geoseg.grid import Grid, same_crs
from geoseg.scene import Scene
from geoseg.windows import Window

_DRIFT = 0.01
"""Pixels by which two lattices may part over the whole scene and still count as one."""
_MOST_AT_ONCE = 1 << 24
"""Pixels of the raster that are read at once."""


class LabelGrid:
    """A raster of one band and the grid of a scene that it is to be read on.

    A pixel of the scene takes what the raster has under the pixel's centre. Nothing depends on how the scene is cut.
    """

    def __init__(self, raster: Scene, grid: Grid) -> None:
        """Lay an open raster on a grid.

        Raises:
            LabelsError: With both extents if it lies elsewhere, or cannot be placed.
        """
        self.raster = raster
        self.grid = grid
        self.remarks: list[str] = []
        """What a user should know of how they lie to each other, a sentence each."""
        self._same = grid.shape == raster.grid.shape and raster.grid.crs is None and raster.grid.in_pixels
        if self._same:
            if not grid.in_pixels:
                self.remarks.append(f"{raster.path} has no georeference: it is laid on the scene pixel by pixel.")
        else:
            self._to_raster = self._transformer()
            self._same_crs = self._to_raster is None
            self._check_extent()
        self._offset = (0, 0) if self._same else self._whole_offset()
        if self._offset is None:
            self.remarks.append(f"{raster.path} is on other pixels than the scene: it is resampled.")

    def nearest(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The values at the pixels' centres, and where there is one: both (h, w), the second bool.

        Raises:
            SceneError: If they cannot be read.
        """
        if self._offset is not None:
            return self._shifted(window, self._offset)
        cols, rows = self._positions(window)
        rows, cols = np.floor(rows), np.floor(cols)
        return self._picked(rows, cols)

    def bilinear(self, window: Window) -> np.ndarray:
        """(h, w) float32: the values interpolated at the pixels' centres; NaN where any of those around is missing.

        Raises:
            SceneError: If they cannot be read.
        """
        if self._offset is not None:
            values, known = self._shifted(window, self._offset)
            return np.where(known, values, np.nan).astype(np.float32)
        cols, rows = self._positions(window)
        height, width = self.raster.grid.shape
        inside = (rows >= 0) & (rows <= height) & (cols >= 0) & (cols <= width)
        # Half a pixel at the edge has neighbours on one side only.
        rows, cols = np.clip(rows - 0.5, 0, height - 1), np.clip(cols - 0.5, 0, width - 1)
        top, left = np.floor(rows), np.floor(cols)
        total = np.zeros(window.shape)
        for down in (0, 1):
            for right in (0, 1):
                share = np.abs(1 - down - (rows - top)) * np.abs(1 - right - (cols - left))
                values, known = self._picked(np.minimum(top + down, height - 1), np.minimum(left + right, width - 1))
                total += np.where(share > 0, share * np.where(known, values, np.nan), 0)
        return np.where(inside, total, np.nan).astype(np.float32)

    def _transformer(self) -> Transformer | None:
        """From the scene's CRS to the raster's; None where they are one."""
        ours, theirs = self.grid.crs, self.raster.grid.crs
        if ours is None or theirs is None:
            if ours is not theirs:
                lacking = self.raster.path if theirs is None else "the scene"
                self.remarks.append(f"{lacking} has no CRS: that of the other, scene or labels, is assumed.")
            return None
        if same_crs(ours, theirs):
            return None
        try:
            return Transformer.from_crs(CRS.from_user_input(ours), CRS.from_user_input(theirs), always_xy=True)
        except ProjError as err:
            raise LabelsError(
                f"{self.raster.path} cannot be brought to the scene's CRS ({err}). Reproject it."
            ) from err

    def _check_extent(self) -> None:
        rows, cols = (np.linspace(0, length, 9) for length in self.grid.shape)
        at_cols, at_rows = self._placed(*(axis.ravel() for axis in np.meshgrid(cols, rows)))
        height, width = self.raster.grid.shape
        known = np.isfinite(at_cols) & np.isfinite(at_rows)
        outside = not known.any() or (
            at_cols[known].min() >= width or at_cols[known].max() <= 0 or at_rows[known].min() >= height
            or at_rows[known].max() <= 0
        )  # fmt: skip
        if outside:
            raise LabelsError(
                f"{self.raster.path} lies outside the scene: it is {self.raster.grid.described}, the scene "
                f"{self.grid.described}. Expected labels on the scene. Check the CRS of both."
            )

    def _whole_offset(self) -> tuple[int, int] | None:
        """(rows, columns) from the raster's first pixel to the scene's, where both are on one lattice."""
        if not self._same_crs:
            return None
        row, col, drift = self.raster.grid.place_of(self.grid)
        return (row, col) if drift <= _DRIFT else None

    def _placed(self, cols: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of the scene as those of the raster."""
        place = self.grid.transform
        x, y = place.a * cols + place.b * rows + place.c, place.d * cols + place.e * rows + place.f
        if self._to_raster is not None:
            x, y = self._to_raster.transform(x, y)
        back = ~self.raster.grid.transform
        return back.a * x + back.b * y + back.c, back.d * x + back.e * y + back.f

    def _positions(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of the raster under the centres of a window's pixels; -9 where there is no such place."""
        rows, cols = np.mgrid[window.row : window.stop_row, window.col : window.stop_col] + 0.5
        cols, rows = self._placed(cols.ravel(), rows.ravel())
        lost = ~(np.isfinite(cols) & np.isfinite(rows))
        cols[lost] = rows[lost] = -9.0
        return cols.reshape(window.shape), rows.reshape(window.shape)

    def _picked(self, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The raster's pixels at whole rows and columns, and where they are usable."""
        height, width = self.raster.grid.shape
        inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        if inside.any() and np.ptp(rows[inside]) * np.ptp(cols[inside]) > _MOST_AT_ONCE:  # far finer than the scene
            axis = int(np.argmax(rows.shape))
            halves = zip(np.array_split(rows, 2, axis), np.array_split(cols, 2, axis), strict=True)
            values, known = zip(*(self._picked(*half) for half in halves), strict=True)
            return np.concatenate(values, axis), np.concatenate(known, axis)
        values, known = np.zeros(rows.shape, self.raster.dtype), np.zeros(rows.shape, bool)
        if inside.any():
            rows, cols = rows[inside].astype(np.int64), cols[inside].astype(np.int64)
            top, left = int(rows.min()), int(cols.min())
            part = Window(row=top, col=left, height=int(rows.max()) - top + 1, width=int(cols.max()) - left + 1)
            tile = self.raster.read(part)
            values[inside] = tile.data[0][rows - top, cols - left]
            known[inside] = tile.valid[rows - top, cols - left]
        return values, known

    def _shifted(self, window: Window, offset: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """A window of the same lattice; beyond the raster's edge nothing is known."""
        place = Window(row=window.row + offset[0], col=window.col + offset[1], height=window.height, width=window.width)
        values, known = np.zeros(window.shape, self.raster.dtype), np.zeros(window.shape, bool)
        inside = place.intersection(self.raster.grid.window)
        if inside is not None:
            tile = self.raster.read(inside)
            values[inside.slices(place)], known[inside.slices(place)] = tile.data[0], tile.valid
        return values, known
