"""Touching buildings told apart: patches are split where the probability dips between two places that are sure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numba import njit
from skimage.segmentation import watershed

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.scores import NODATA, PROBABILITY_SCALE
from geoseg.vectors.patches import Patches, trace
from geoseg.vectors.planes import Planes
from geoseg.windows import Window

SURE = 0.92
"""Probability from which on pixels are the core of a building."""
LEAST_CORE_M2 = 5.0
"""A smaller core is a bright spot."""
_COLORS = 8
"""Values borrowed for pieces, so that neighbouring ones differ."""
_BAND = 1024  # rows of patches that are looked at in one go; a larger patch is read by itself


@dataclass(frozen=True, eq=False)
class SplitPlanes:
    """Planes in which pieces of split patches have values of their own: `values[0]` is the class itself."""

    planes: Planes
    """What was split."""
    values: tuple[int, ...]
    """All values of the class."""
    rows: np.ndarray
    """(n,) int32 ascending: pixels of another value than `values[0]`."""
    cols: np.ndarray
    """(n,) int32."""
    value: np.ndarray
    """(n,) uint8 of them."""

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self.planes.grid

    @cached_property
    def classes(self) -> Mapping[int, str]:
        """All classes by pixel value, the borrowed values too."""
        known = dict(self.planes.classes)
        return known | dict.fromkeys(self.values, known[self.values[0]])

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
        found = self.planes.labels(window).copy()
        first, last = np.searchsorted(self.rows, (window.row, window.stop_row))
        row, col = self.rows[first:last] - window.row, self.cols[first:last] - window.col
        inside = (col >= 0) & (col < window.width)
        found[row[inside], col[inside]] = self.value[first:last][inside]
        return found

    def probability(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) uint8 probability of a class times 254."""
        return self.planes.probability(window, self._own(value))

    def margin(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) float32 margin over the best other class."""
        return self.planes.margin(window, self._own(value))

    def _own(self, value: int) -> int:
        return self.values[0] if value in self.values else value


def trace_apart(planes: Planes, value: int, *, gsd: float, sure: float = SURE, min_pixels: int = 1) -> Patches:
    """Sub-pixel outlines of a class, its patches split into buildings.

    Without probabilities patches stay whole. Pieces have the same vertices on their common border; all have `value`.

    Args:
        planes: What to outline.
        value: The class.
        gsd: Metres per pixel.
        sure: See `split_touching`.
        min_pixels: Smaller patches and pieces are left out.
    """
    whole = trace(planes, [value], subpixel=True, min_pixels=min_pixels)
    split = split_touching(planes, value, whole, gsd=gsd, sure=sure)
    if not len(split.rows):
        return whole
    found = trace(split, split.values, subpixel=True, min_pixels=min_pixels)
    return replace(found, value=np.full_like(found.value, value))


def split_touching(planes: Planes, value: int, patches: Patches, *, gsd: float, sure: float = SURE) -> SplitPlanes:
    """Split patches with two cores or more between them.

    A core is a connected area of pixels of the class that are, with all their neighbours, at least as probable as
    `sure`. Every other pixel of its patch goes to the core from which it is reached first when the probability falls.

    Args:
        planes: With probabilities; without, nothing is split.
        value: The class.
        patches: Of this class, in the order of their first pixels.
        gsd: Metres per pixel.
        sure: Probability of a core.

    Raises:
        UsageError: If the raster uses so many values that there are none to borrow.

    Source: Meyer 1994, Topographic distance and watershed lines, Signal Processing 38 (1), 113-125.
    """
    spare = [other for other in range(NODATA - 1, 0, -1) if other not in planes.classes][: _COLORS - 1]
    if not spare:
        raise UsageError("class raster uses all 255 values. Expected some unused ones. Give --no-split-touching.")
    values = (value, *spare)
    least, level = max(round(LEAST_CORE_M2 / gsd**2), 4), int(np.ceil(sure * PROBABILITY_SCALE))
    found = []
    for labels, probability, row, col, (left, top) in _looked_at(planes, value, patches):
        pieces, cores = find_cores(labels == value, probability, row, col, level, least)
        if cores > 1:
            pieces = _grown(pieces, probability)
            colors = np.array(values, np.uint8)[_colored(pieces, cores, len(values))]
            rows, cols = np.nonzero(pieces > 0)
            changed = colors[pieces[rows, cols]]
            other = changed != value
            found.append((rows[other] + top, cols[other] + left, changed[other]))
    none: np.ndarray = np.empty(0, np.int64)
    rows, cols, changed = (np.concatenate([none, *part]) for part in zip(*found, strict=True)) if found else [none] * 3
    order = np.lexsort((cols, rows))
    return SplitPlanes(
        planes, values, rows[order].astype(np.int32), cols[order].astype(np.int32), changed[order].astype(np.uint8)
    )


def _looked_at(
    planes: Planes, value: int, patches: Patches
) -> Iterator[tuple[np.ndarray, np.ndarray, int, int, tuple[int, int]]]:
    """Of each patch: labels and probability in its box, its first pixel there, and where the box lies."""
    tops, bottoms = patches.box[:, 1], patches.box[:, 3]
    start = 0
    while start < len(patches):
        large = bottoms[start] - tops[start] > _BAND
        stop = start + 1
        while (
            not large
            and stop < len(patches)
            and tops[stop] < tops[start] + _BAND
            and bottoms[stop] - tops[stop] <= _BAND
        ):
            stop += 1
        here = slice(start, stop)
        left, top = int(patches.box[here, 0].min()), int(tops[start])
        right, bottom = int(patches.box[here, 2].max()), int(bottoms[here].max())
        window = Window(row=top, col=left, height=bottom - top, width=right - left)
        probability = planes.probability(window, value)
        if probability is None:
            return
        labels = planes.labels(window)
        for k in range(start, stop):
            a, b, c, d = (int(edge) for edge in patches.box[k])
            there = (slice(b - top, d - top), slice(a - left, c - left))
            row, col = (int(at) for at in patches.first[k])
            yield labels[there], probability[there], row - b, col - a, (a, b)
        start = stop


@njit(cache=True, nogil=True)
def find_cores(
    inside: np.ndarray, probability: np.ndarray, row: int, col: int, level: int, least: int
) -> tuple[np.ndarray, int]:
    """Cores of the patch that has a pixel: (h, w) int32, 1, 2, ... in cores, 0 elsewhere in it, -1 outside; how many.

    Args:
        inside: (h, w) bool, pixels of the class, other patches among them.
        probability: (h, w) uint8.
        row: Of a pixel of the patch.
        col: Of the same.
        level: Probability of a core, at least.
        least: Pixels of a core, at least.
    """
    height, width = inside.shape
    found = np.full((height, width), -1, np.int32)
    stack = np.empty((height * width, 2), np.int32)
    _flood(inside, found, stack, row, col, 0)
    sure = np.zeros((height, width), np.bool_)
    for i in range(height):
        for j in range(width):
            sure[i, j] = found[i, j] == 0 and level <= probability[i, j] < NODATA
    sure = _thick(sure)
    count = 0
    for i in range(height):
        for j in range(width):
            if not sure[i, j] or found[i, j]:
                continue
            size = _flood(sure, found, stack, i, j, count + 1)
            if size >= least:
                count += 1
                continue
            for k in range(size):
                found[stack[k, 0], stack[k, 1]] = 0
                sure[stack[k, 0], stack[k, 1]] = False
    return found, count


@njit(cache=True, nogil=True)
def _thick(inside: np.ndarray) -> np.ndarray:
    """Pixels whose eight neighbours are inside, too: bridges of one or two pixels join no cores."""
    height, width = inside.shape
    found = np.zeros((height, width), np.bool_)
    for i in range(1, height - 1):
        for j in range(1, width - 1):
            found[i, j] = inside[i - 1 : i + 2, j - 1 : j + 2].all()
    return found


@njit(cache=True, nogil=True)
def _flood(inside: np.ndarray, found: np.ndarray, stack: np.ndarray, row: int, col: int, mark: int) -> int:
    """Mark what hangs together with a pixel by edges; `stack` lists it afterwards."""
    height, width = inside.shape
    found[row, col] = mark
    stack[0, 0], stack[0, 1] = row, col
    done, size = 0, 1
    while done < size:
        i, j = np.int64(stack[done, 0]), np.int64(stack[done, 1])
        done += 1
        for a, b in ((i - 1, j), (i, j - 1), (i, j + 1), (i + 1, j)):
            if 0 <= a < height and 0 <= b < width and inside[a, b] and found[a, b] != mark:
                found[a, b] = mark
                stack[size, 0], stack[size, 1] = a, b
                size += 1
    return size


def _grown(cores: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """(h, w) int32 pieces 1, 2, ... that cover the patch; 0 outside."""
    grown: np.ndarray = watershed(-probability.astype(np.int16), np.maximum(cores, 0), mask=cores >= 0)
    return grown


def _colored(pieces: np.ndarray, count: int, colors: int) -> np.ndarray:
    """(count + 1,) int: a colour for each piece, so that neighbours differ as far as there are enough."""
    pairs: list[list[np.ndarray]] = []
    for one, two in ((pieces[1:], pieces[:-1]), (pieces[:, 1:], pieces[:, :-1])):
        beside = (one != two) & (one > 0) & (two > 0)
        pairs += [one[beside], two[beside]], [two[beside], one[beside]]
    near = np.unique(np.concatenate(pairs, axis=1), axis=1)
    found = np.full(count + 1, -1)
    for piece in range(1, count + 1):
        taken = set(found[near[1, near[0] == piece]].tolist())
        found[piece] = next((color for color in range(colors) if color not in taken), colors - 1)
    return found
