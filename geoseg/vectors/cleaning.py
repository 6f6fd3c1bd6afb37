"""Cleaning of class rasters before they are outlined: small patches and holes, ragged edges, thin parts.

Each step goes over the raster in strips, with as many rows above and below as its outcome depends on, and leaves a
compressed copy: memory is that of some rows and of a few percent of the raster, and the result does not depend on the
strips. Probabilities are left as they are.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import zstandard
from scipy import ndimage

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.pixels import NODATA
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import Planes
from geoseg.vectors.small import replace_small
from geoseg.windows import Window

_ROWS = 512  # of a strip
_PASSES = 8
"""Small patches among small ones are replaced from outside in; what is left after so many layers stays."""

Step = Callable[[Planes, Window], tuple[np.ndarray, int]]
"""Of planes and a strip: the strip's new labels, and how much of it waits for the step to be repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaning:
    """What to clean, in this order. All of it off: the raster as it is."""

    majority: int = 0
    """Radius in pixels: every pixel takes the most common class of the square round it, its own before others."""
    opening: int = 0
    """Radius in pixels: parts of a patch in which no disc of this radius fits become what else is common round them."""
    min_pixels: int = 0
    """Patches of the chosen classes smaller than this become the most common class round them."""
    fill_pixels: int = 0
    """Patches of any class smaller than this that lie within one chosen class (holes) become this class."""

    def __post_init__(self) -> None:
        for name in ("majority", "opening", "min_pixels", "fill_pixels"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}={getattr(self, name)} is negative. Expected a number of pixels, 0 for none.")

    def __bool__(self) -> bool:
        return bool(self.majority or self.opening or self.min_pixels > 1 or self.fill_pixels > 1)


class CleanPlanes:
    """Planes with other labels, which are kept compressed."""

    def __init__(self, planes: Planes, step: Step) -> None:
        """Apply a step to all strips of some planes."""
        self._planes: Planes = planes._planes if isinstance(planes, CleanPlanes) else planes
        self.step = max(planes.step, _ROWS // planes.step * planes.step)
        self.grid: Grid = planes.grid
        self.classes: Mapping[int, str] = planes.classes
        self.source = planes.source
        self.waiting = 0
        self._last: tuple[int, np.ndarray] | None = None
        self._strips: list[bytes] = []
        compressor = zstandard.ZstdCompressor(level=1)
        for row in range(0, self.grid.height, self.step):
            height = min(self.step, self.grid.height - row)
            window = Window(row=row, col=0, height=height, width=self.grid.width)
            found, waiting = step(planes, window)
            self.waiting += waiting
            packed = compressor.compress(np.ascontiguousarray(found).data)
            self._strips.append(bytes(memoryview(packed)))  # a copy, without the room that was kept for what is packed

    def labels(self, window: Window) -> np.ndarray:
        """(h, w) uint8 class values; 255 without data."""
        found = np.empty(window.shape, np.uint8)
        for index in range(window.row // self.step, (window.stop_row - 1) // self.step + 1):
            strip, top = self._strip(index), index * self.step
            start, stop = max(window.row, top), min(window.stop_row, top + len(strip))
            found[start - window.row : stop - window.row] = strip[
                start - top : stop - top, window.col : window.stop_col
            ]
        return found

    def probability(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) uint8 probability of a class times 254, as it was before cleaning."""
        return self._planes.probability(window, value)

    def margin(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) float32 margin over the best other class, as it was before cleaning."""
        return self._planes.margin(window, value)

    def _strip(self, index: int) -> np.ndarray:
        last = self._last  # looked at once: another thread may put its own there at any time
        if last is None or last[0] != index:
            raw = zstandard.ZstdDecompressor().decompress(self._strips[index])
            self._last = last = index, np.frombuffer(raw, np.uint8).reshape(-1, self.grid.width)
        return last[1]


def pixels_below(area_m2: float, metric: Metric) -> int:
    """The least number of pixels that are not smaller than an area (in `metric.unit` squared).

    Of an area beyond the raster's, one more than it has.
    """
    return int(min(np.ceil(area_m2 / metric.gsd**2 - 1e-9), _more_than_all(metric.grid)))


def pixels_in(area_m2: float, metric: Metric) -> int:
    """The whole pixels that fit into an area, at least 1; of an area beyond the raster's, one more than it has."""
    return max(1, int(min(area_m2 / metric.gsd**2, _more_than_all(metric.grid))))


def _more_than_all(grid: Grid) -> int:
    return grid.height * grid.width + 1


def clean(planes: Planes, values: Collection[int], cleaning: Cleaning) -> Planes:
    """The planes with cleaned labels. Pixels without data stay so, and no others lose theirs.

    Args:
        planes: What to clean; the same is given back where nothing is to be done.
        values: The chosen classes.
        cleaning: What to do.
    """
    chosen = np.zeros(256, np.bool_)
    chosen[list(values)] = True
    chosen[NODATA] = False
    if cleaning.majority:
        planes = CleanPlanes(planes, lambda old, strip: _majority(old, strip, cleaning.majority))
    if cleaning.opening:
        planes = CleanPlanes(planes, lambda old, strip: _opened(old, strip, chosen, cleaning.opening))
    before, waiting = 0, -int(cleaning.min_pixels > 1)
    for _ in range(_PASSES):
        if waiting and waiting != before:
            cleaned = CleanPlanes(planes, lambda old, strip: _without(old, strip, chosen, cleaning.min_pixels, False))
            planes, before, waiting = cleaned, waiting, cleaned.waiting
    if cleaning.fill_pixels > 1:
        planes = CleanPlanes(planes, lambda old, strip: _without(old, strip, chosen, cleaning.fill_pixels, True))
    return planes


def _surroundings(planes: Planes, strip: Window, rows: int) -> tuple[np.ndarray, int]:
    """The labels of a strip with up to so many rows above and below, and the strip's first row in them."""
    top, bottom = max(0, strip.row - rows), min(planes.grid.height, strip.stop_row + rows)
    return planes.labels(Window(row=top, col=0, height=bottom - top, width=strip.width)), strip.row - top


def _without(planes: Planes, strip: Window, chosen: np.ndarray, pixels: int, holes: bool) -> tuple[np.ndarray, int]:
    """Look far enough to see small patches as a whole; that is not far, unless one is a long thread."""
    pixels = min(pixels, _more_than_all(planes.grid))
    rows = min(16 + 4 * int(np.sqrt(pixels)), _ROWS)
    while True:
        labels, first = _surroundings(planes, strip, rows)
        above, below = strip.row - first > 0, strip.row - first + len(labels) < planes.grid.height
        found, waiting, decided = replace_small(
            labels, chosen, min(pixels, labels.size + 1), holes, above, below, first, first + strip.height
        )
        if decided:
            return found, waiting
        rows *= 2


def _majority(planes: Planes, strip: Window, radius: int) -> tuple[np.ndarray, int]:
    labels, first = _surroundings(planes, strip, radius)
    value, most, own = _most_common(labels, labels != NODATA, radius)
    found = np.where((own < most) & (labels != NODATA), value, labels)
    return found[first : first + strip.height], 0


def _opened(planes: Planes, strip: Window, chosen: np.ndarray, radius: int) -> tuple[np.ndarray, int]:
    """As if what lies at the raster's edge went on beyond it."""
    labels, first = _surroundings(planes, strip, 3 * radius + 2)
    across = np.arange(-radius, radius + 1) ** 2
    disc = across[:, None] + across <= radius * (radius + 0.5)  # without single pixels sticking out
    thin = np.zeros(labels.shape, np.bool_)
    for label in np.flatnonzero(chosen):
        mask = labels == label
        if mask.any():
            wide = ndimage.binary_opening(np.pad(mask, 2 * radius, mode="edge"), disc)
            thin |= mask & ~wide[2 * radius : -2 * radius, 2 * radius : -2 * radius]
    value, most, _ = _most_common(labels, ~thin & (labels != NODATA), radius + 1)
    return np.where(thin & (most > 0), value, labels)[first : first + strip.height], 0


def _most_common(labels: np.ndarray, counted: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the pixels counted in the square round each: the most common label, how many have it, and its own."""
    value, own = labels.copy(), np.zeros(labels.shape, np.int32)
    most: np.ndarray = np.zeros(labels.shape, np.int32)
    ones = np.ones(2 * radius + 1, np.int32)
    for label in np.flatnonzero(np.bincount(labels[counted], minlength=256)).tolist():
        here = (labels == label) & counted
        count = here.astype(np.int32)
        for axis in range(2):
            count = ndimage.convolve1d(count, ones, axis=axis, mode="constant")
        own[here] = count[here]
        value[count > most] = label
        most = np.maximum(most, count)
    return value, most, own
