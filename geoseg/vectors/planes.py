"""Planes: what vectors are made from, read by windows: classes, and the probability of each where it is known."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import rasterio
from rasterio.io import DatasetReader

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.pixels import NODATA, PROBABILITY_SCALE
from geoseg.scene.georeference import grid_of
from geoseg.vectors.classes import check_shares, open_class_raster, open_probabilities, read_labels, read_window
from geoseg.windows import Window


class Planes(Protocol):
    """A class raster, with probabilities or without. Windows lie within the grid."""

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""

    @property
    def classes(self) -> Mapping[int, str]:
        """All classes by pixel value, the background included."""

    @property
    def source(self) -> str:
        """What made the raster, such as the model's name; may be empty."""

    @property
    def step(self) -> int:
        """Rows that are read in one go without reading any twice."""

    def labels(self, window: Window) -> np.ndarray:
        """(h, w) uint8 class values; 255 without data."""

    def probability(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) uint8 probability of a class times 254, 255 without data; None where it is not known."""

    def margin(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) float32: probability of a class less that of the most likely other one, -1 to 1.

        NaN without data; None where probabilities are not known.
        """


def margin_of(probabilities: np.ndarray, index: int) -> np.ndarray:
    """(h, w) float32 margin of a class over the best other one, of (classes, h, w) stored probabilities."""
    own = probabilities[index].astype(np.int16)
    others = np.delete(probabilities, index, axis=0)
    best = others.max(axis=0).astype(np.int16) if len(others) else PROBABILITY_SCALE - own
    found = (own - best).astype(np.float32) / PROBABILITY_SCALE
    found[probabilities[index] == NODATA] = np.nan
    return found


@dataclass(frozen=True, eq=False)
class PlanesOver:
    """Other planes, but for what a class derived from this one says."""

    planes: Planes
    """The others."""

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self.planes.grid

    @property
    def classes(self) -> Mapping[int, str]:
        """All classes by pixel value."""
        return self.planes.classes

    @property
    def source(self) -> str:
        """What made the raster."""
        return self.planes.source

    @property
    def step(self) -> int:
        """Rows that are read in one go."""
        return self.planes.step

    def labels(self, window: Window) -> np.ndarray:
        """(h, w) uint8 class values; 255 without data."""
        return self.planes.labels(window)

    def probability(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) uint8 probability of a class times 254; None where it is not known."""
        return self.planes.probability(window, value)

    def margin(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) float32 margin over the best other class; None where probabilities are not known."""
        return self.planes.margin(window, value)


@dataclass(frozen=True, eq=False)
class ArrayPlanes:
    """Planes in memory."""

    values: np.ndarray
    """(H, W) uint8 class values, 255 without data."""
    grid: Grid
    """Where the pixels lie."""
    classes: Mapping[int, str]
    """All classes by pixel value."""
    probabilities: np.ndarray | None = None
    """(classes, H, W) uint8, in the order of `classes`."""
    source: str = ""
    """What made them."""
    step: int = 512
    """Rows that are read in one go."""

    def labels(self, window: Window) -> np.ndarray:
        """(h, w) uint8 class values; 255 without data."""
        return self.values[window.slices()]

    def probability(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) uint8 probability of a class times 254; None where it is not known."""
        if self.probabilities is None:
            return None
        plane: np.ndarray = self.probabilities[list(self.classes).index(value)][window.slices()]
        return plane

    def margin(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) float32 margin over the best other class; None where probabilities are not known."""
        if self.probabilities is None:
            return None
        return margin_of(self.probabilities[(slice(None), *window.slices())], list(self.classes).index(value))


class RasterPlanes:
    """Planes in GeoTIFFs: a class raster, and a raster with the probability of each class. A context manager.

    Threads may read at the same time: one waits for the other, as GDAL's handles are for one thread each.
    """

    def __init__(self, raster: str | Path, classes: Mapping[int, str], probabilities: str | Path | None = None) -> None:
        """Open them.

        Args:
            raster: A class raster of one band.
            classes: All classes by pixel value, the background included.
            probabilities: A band of uint8 for each class, in this order, on the same pixels.

        Raises:
            SceneError: If one cannot be read, or is no such raster; if the bands are no shares of certainty.
            UsageError: If they do not lie on the same pixels, or the probabilities are of another number of classes.
        """
        self.classes = dict(classes)
        self._stack, self._lock = ExitStack(), Lock()
        self._paths = raster, probabilities
        self._probabilities: DatasetReader | None = None
        with self._stack as opening:
            self._labels = opening.enter_context(open_class_raster(raster))
            if probabilities is not None:
                self._probabilities = opening.enter_context(open_probabilities(probabilities))
                _check_alike(raster, self._labels, probabilities, self._probabilities, len(self.classes))
                check_shares(probabilities, self._probabilities)
            self._stack = opening.pop_all()
        self.grid = grid_of(self._labels)
        tags = self._labels.tags()
        self.source = f"{tags.get('GEOSEG_ARCH', '')} {tags.get('GEOSEG_CHECKPOINT', '')[:12]}".strip()
        self.step = min(max(16, self._labels.block_shapes[0][0]), 1024)

    def labels(self, window: Window) -> np.ndarray:
        """(h, w) uint8 class values; 255 without data."""
        with self._lock:
            return read_labels(self._paths[0], self._labels, _placed(window))

    def probability(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) uint8 probability of a class times 254; None where it is not known."""
        if self._probabilities is None:
            return None
        return self._shares(self._probabilities, list(self.classes).index(value) + 1, window)

    def margin(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) float32 margin over the best other class; None where probabilities are not known."""
        if self._probabilities is None:
            return None
        return margin_of(self._shares(self._probabilities, None, window), list(self.classes).index(value))

    def _shares(self, dataset: DatasetReader, bands: int | None, window: Window) -> np.ndarray:
        with self._lock:
            return read_window(self._paths[1] or dataset.name, dataset, bands, _placed(window))

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Into the stack, so that read errors inside the block are translated.
        self._stack.__exit__(kind, error, traceback)


def _placed(window: Window) -> rasterio.windows.Window:
    return rasterio.windows.Window(window.col, window.row, window.width, window.height)


def _check_alike(
    raster: str | Path, labels: DatasetReader, path: str | Path, probabilities: DatasetReader, classes: int
) -> None:
    if probabilities.shape != labels.shape:
        raise UsageError(
            f"{path} is {probabilities.width}x{probabilities.height} pixels, {raster} {labels.width}x{labels.height}. "
            "Expected the probabilities of the same run."
        )
    if not probabilities.transform.almost_equals(labels.transform, 1e-9):
        raise UsageError(
            f"{path} and {raster} lie apart: their transforms are {tuple(probabilities.transform)[:6]} and "
            f"{tuple(labels.transform)[:6]}. Expected the probabilities of the same run."
        )
    if probabilities.count != classes:
        raise UsageError(
            f"{path} has {probabilities.count} bands, {raster} {classes} classes. Expected a band for each class, as "
            "'geoseg predict --probabilities' writes them."
        )
