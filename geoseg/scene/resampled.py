"""Resampled: a scene at the ground sample distance of a model, where its own is none that the model knows.

Finer pixels are averaged in squares, coarser ones are interpolated, both by whole numbers: so every pixel is the same
whatever window it is read in, and the pixels of the scene lie within those of the output, or the other way round.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from geoseg.batches import Tile
from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.scene import Scene, SceneSource
from geoseg.scene.base import OpenedScenes, SourceOfScenes
from geoseg.scene.stack import Stack, StackSource
from geoseg.windows import Window

SLACK = 1.5
"""Factor beyond the ground sample distances seen in training that is nothing to speak of."""
LARGEST_GROWTH = 4
"""Pixels on a side that a pixel is made into, at most: beyond that there is nothing left to see."""
_HARDLY = 0.05
_STRIP_PIXELS = 1 << 23
"""Of the scene that are in memory at a time, beside the tile they become."""


@dataclass(frozen=True)
class Factor:
    """How many pixels become one, or one becomes, on a side."""

    shrink: int = 1
    """Squares of so many pixels are averaged."""
    grow: int = 1
    """Each pixel becomes a square of so many."""

    def __bool__(self) -> bool:
        return (self.shrink, self.grow) != (1, 1)

    @property
    def pixels(self) -> float:
        """Pixels of the scene, on a side, in one of the result."""
        return self.shrink / self.grow


def factor_for(gsd: float, least: float, most: float, best: float) -> Factor:
    """What brings a ground sample distance among those a model knows.

    Fine ones go to the nearest to the best that a whole number reaches; coarse ones as far as they must, since nothing
    is seen in them that was not there before.

    Args:
        gsd: Metres per pixel of the scene.
        least: The finest that the model knows.
        most: The coarsest.
        best: Where it is best.

    Returns:
        No change within SLACK of what is known, or where LARGEST_GROWTH does not help.
    """
    if gsd < least / SLACK:
        down, up = max(1, math.floor(best / gsd)), max(1, math.ceil(best / gsd))
        near = min((down, up), key=lambda shrink: abs(math.log(gsd * shrink / best)))
        return Factor(shrink=near)
    if gsd > most * SLACK:
        grow = math.ceil(gsd / most - _HARDLY)  # true metres differ by some per mille over a zone of UTM
        return Factor(grow=grow) if grow <= LARGEST_GROWTH else Factor()
    return Factor()


@dataclass(frozen=True)
class ResampledSource(SourceOfScenes):
    """All that is needed to open a resampled scene again, in another thread or process."""

    scene: SceneSource | StackSource
    """What is resampled."""
    factor: Factor
    """How."""

    @property
    def parts(self) -> tuple[SceneSource, ...]:
        """Of the files."""
        return self.scene.parts

    def open(self) -> "Resampled":
        """The scene, with handles of its own.

        Raises:
            SceneError: If a file cannot be opened.
        """
        return Resampled(self.scene.open(), self.factor)


class Resampled(OpenedScenes):
    """A scene, or a stack, seen with other pixels, open for reading: a Reader. One per thread.

    A pixel made of several is the mean of the valid ones, and valid where at least half of them are. One of several
    made of a pixel is interpolated bilinearly among the valid ones round it, and valid where that pixel is.
    """

    def __init__(self, scene: Scene | Stack, factor: Factor) -> None:
        """Take over an open scene."""
        self.scene, self.factor = scene, factor
        """What is resampled, and how."""

    @property
    def parts(self) -> tuple[Scene, ...]:
        """The files, as they are."""
        return self.scene.parts

    @cached_property
    def grid(self) -> Grid:
        """Of the new pixels. The last row and column may reach beyond the scene."""
        pixels, grid = self.factor.pixels, self.scene.grid
        shape = (math.ceil(grid.height / pixels), math.ceil(grid.width / pixels))
        points = grid.transform.is_identity and (self.scene.gcps or self.scene.rpcs)  # which say where it lies
        return Grid(shape, grid.transform if points else grid.transform @ Affine.scale(pixels), grid.crs)

    @property
    def source(self) -> ResampledSource:
        """What opens this scene again."""
        return ResampledSource(self.scene.source, self.factor)

    @property
    def gcps(self) -> tuple[list[GroundControlPoint], Any] | None:
        """As of the scene, in the new pixels."""
        if self.scene.gcps is None:
            return None
        points, crs = copy.deepcopy(self.scene.gcps)
        for point in points:
            point.row, point.col = point.row / self.factor.pixels, point.col / self.factor.pixels
        return points, crs

    @property
    def rpcs(self) -> RPC | None:
        """As of the scene, in the new pixels; the coefficients count from the middle of a pixel."""
        if self.scene.rpcs is None:
            return None
        rpcs, pixels = copy.deepcopy(self.scene.rpcs), self.factor.pixels
        rpcs.line_off, rpcs.samp_off = ((off + 0.5) / pixels - 0.5 for off in (rpcs.line_off, rpcs.samp_off))
        rpcs.line_scale, rpcs.samp_scale = rpcs.line_scale / pixels, rpcs.samp_scale / pixels
        return rpcs

    def fingerprint(self) -> dict[str, Any]:
        """See `ResampledSource.fingerprint`."""
        return self.scene.fingerprint() | {"resampled": [self.factor.shrink, self.factor.grow]}

    def read(self, window: Window) -> Tile:
        """The new pixels of a window that lies inside the grid, in the scene's own dtype.

        Raises:
            UsageError: If the window sticks out of the grid.
            SceneError: If a block under it cannot be read; names file, rows and columns.
        """
        if window.intersection(self.grid.window) != window:
            raise UsageError(f"{window} sticks out of {self.path} ({self.grid.width}x{self.grid.height} pixels).")
        parts = [self._shrunk(part) if self.factor.shrink > 1 else self._grown(part) for part in self._strips(window)]
        return Tile(
            data=np.concatenate([part.data for part in parts], axis=1),
            valid=np.concatenate([part.valid for part in parts]),
        )

    def _strips(self, window: Window) -> Iterator[Window]:
        rows = max(1, _STRIP_PIXELS // math.ceil(window.width * self.factor.pixels**2))
        for row in range(window.row, window.stop_row, rows):
            yield Window(row=row, col=window.col, height=min(rows, window.stop_row - row), width=window.width)

    def _shrunk(self, window: Window) -> Tile:
        k = self.factor.shrink
        wanted = Window(row=window.row * k, col=window.col * k, height=window.height * k, width=window.width * k)
        inside = wanted.intersection(self.scene.grid.window)
        assert inside is not None  # noqa: S101 - the grid has no pixel without one of the scene's
        tile = self.scene.read(inside)
        lacking = [(0, want - have) for want, have in zip(wanted.shape, tile.valid.shape, strict=True)]
        valid = np.pad(tile.valid, lacking).reshape(window.height, k, window.width, k)
        there = np.pad(np.ones_like(tile.valid), lacking).reshape(valid.shape).sum(axis=(1, 3), dtype=np.int32)
        counts = valid.sum(axis=(1, 3), dtype=np.int32)
        data = np.empty((len(tile.data), *window.shape), tile.data.dtype)
        for plane, of in zip(tile.data, data, strict=True):
            # An invalid pixel may hold anything, NaN too.
            kept = np.where(valid, np.pad(plane, lacking).reshape(valid.shape), 0)
            of[...] = _as(kept.sum(axis=(1, 3), dtype=np.float64) / np.maximum(counts, 1), of.dtype)
        return Tile(data=data, valid=2 * counts >= np.maximum(there, 1))

    def _grown(self, window: Window) -> Tile:
        k, whole = self.factor.grow, self.scene.grid
        rows, cols = (
            _Taps.of(window.row, window.height, k, whole.height),
            _Taps.of(window.col, window.width, k, whole.width),
        )
        tile = self.scene.read(
            Window(row=rows.first, col=cols.first, height=rows.stop - rows.first, width=cols.stop - cols.first)
        )
        weights = tile.valid.astype(np.float64)
        total = cols.applied(rows.applied(weights, 0), 1)
        data = np.empty((len(tile.data), *window.shape), tile.data.dtype)
        for plane, of in zip(tile.data, data, strict=True):
            kept = np.where(tile.valid, plane, 0).astype(np.float64)
            found = cols.applied(rows.applied(kept, 0), 1) / np.where(total > 0, total, 1)
            of[...] = _as(found, of.dtype)
        return Tile(data=data, valid=tile.valid[np.ix_(rows.own, cols.own)])


@dataclass(frozen=True, eq=False)
class _Taps:
    """The two pixels of the scene between which each new pixel of one axis lies, and how near it is to the second."""

    first: int
    stop: int
    """The pixels of the scene that are needed."""
    low: np.ndarray
    high: np.ndarray
    share: np.ndarray
    """Counted from `first`; the share of the second."""
    own: np.ndarray
    """The pixel it lies in."""

    @classmethod
    def of(cls, start: int, count: int, grow: int, size: int) -> "_Taps":
        at = np.arange(start, start + count)
        # Of middles of pixels; in whole numbers, so that no window sees another rounding.
        twice = 2 * at + 1 - grow
        low, rest = np.divmod(twice, 2 * grow)
        pair = np.clip(np.stack([low, low + 1]), 0, size - 1)
        first, stop = int(pair[0, 0]), int(pair[1, -1]) + 1
        return cls(first, stop, pair[0] - first, pair[1] - first, rest / (2 * grow), at // grow - first)

    def applied(self, plane: np.ndarray, axis: int) -> np.ndarray:
        """Interpolate along an axis."""
        share = self.share[:, None] if axis == 0 else self.share
        found: np.ndarray = plane.take(self.low, axis) * (1 - share) + plane.take(self.high, axis) * share
        return found


def _as(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return (np.rint(values) if dtype.kind in "iu" else values).astype(dtype)
