"""Planes of a prediction under way: read from the cells in its spool, before or without a raster of them."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from geoseg.grid import Grid
from geoseg.pixels import NODATA
from geoseg.spool import Spool
from geoseg.vectors.planes import margin_of
from geoseg.windows import Plan, Window

_CACHED = 256 << 20
"""Bytes of decoded cells that are kept: a row of them, so that none is decoded twice, where this is enough."""


@dataclass(frozen=True, eq=False)
class SpoolPlanes:
    """The layers of one head, cell by cell. Threads may read at the same time."""

    spool: Spool
    """All cells are finished."""
    plan: Plan
    """Where the cells lie."""
    grid: Grid
    """Where the pixels lie."""
    classes: Mapping[int, str]
    """All classes by pixel value."""
    layer: str
    """Name of the layer of labels."""
    probabilities: str | None = None
    """Name of the layer of probabilities; None where it is not kept."""
    source: str = ""
    """What made them."""
    _cells: OrderedDict[tuple[int, str], np.ndarray] = field(default_factory=OrderedDict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def step(self) -> int:
        """Rows of a cell."""
        return self.plan.cell_side

    def labels(self, window: Window) -> np.ndarray:
        """(h, w) uint8 class values; 255 without data."""
        return self._read(window, self.layer)

    def probability(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) uint8 probability of a class times 254; None where it is not known."""
        if self.probabilities is None:
            return None
        found: np.ndarray = self._read(window, self.probabilities)[list(self.classes).index(value)]
        return found

    def margin(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) float32 margin over the best other class; None where probabilities are not known."""
        if self.probabilities is None:
            return None
        return margin_of(self._read(window, self.probabilities), list(self.classes).index(value))

    def _read(self, window: Window, layer: str) -> np.ndarray:
        found: np.ndarray | None = None
        for index in self._touched(window):
            cell, stored = self.plan.cell(index), self._cell(index, layer)
            if found is None:
                found = np.full((*stored.shape[:-2], *window.shape), NODATA, np.uint8)
            shared = cell.intersection(window)
            if shared is not None:
                found[(..., *shared.slices(window))] = stored[(..., *shared.slices(cell))]
        if found is None:
            raise ValueError(f"{window} lies outside {self.plan.shape}")
        return found

    def _touched(self, window: Window) -> Iterator[int]:
        side, cols = self.plan.cell_side, self.plan.cols
        for row in range(window.row // side, (window.stop_row - 1) // side + 1):
            for col in range(window.col // side, (window.stop_col - 1) // side + 1):
                yield row * cols + col

    def _cell(self, index: int, layer: str) -> np.ndarray:
        key = index, layer
        with self._lock:
            if key not in self._cells:
                stored = self.spool.read(index, only=layer)[layer]
                while self._cells and sum(each.nbytes for each in self._cells.values()) + stored.nbytes > _CACHED:
                    self._cells.popitem(last=False)
                self._cells[key] = stored
            self._cells.move_to_end(key)
            return self._cells[key]
