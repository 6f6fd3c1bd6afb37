"""Touching buildings told apart: patches are split where the probability dips between two places.

A class raster alone is split along its seams.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np
from skimage.segmentation import watershed

from geoseg.errors import UsageError
from geoseg.pixels import NODATA, PROBABILITY_SCALE
from geoseg.vectors.cores import find_cores
from geoseg.vectors.cuts import mended
from geoseg.vectors.patches import AnyPatches, Patches, join, trace
from geoseg.vectors.planes import Planes, PlanesOver
from geoseg.vectors.retracing import retrace
from geoseg.vectors.seams import LEAST, LEAST_M, sureness
from geoseg.vectors.store import Store
from geoseg.vectors.stored import StoredPatches, stored, trace_into
from geoseg.vectors.threads import in_threads
from geoseg.windows import Window

log = logging.getLogger(__name__)

SURE = 0.92
"""Probability from which on pixels are alike: a fall counts from here on."""
LEAST_CORE_M2 = 2.0
"""A smaller core is a bright spot."""
LEAST_PIECE_M2 = 10.0
"""A smaller piece is none."""
_COLORS = 8
"""Values borrowed for pieces, so that neighbouring ones differ."""
_BAND = 1024  # rows of patches that are looked at in one go; a larger patch is read by itself
_BANDS = 8  # bands of which the pieces are held in memory at the same time
_LARGEST = 1 << 25
"""Pixels of a box: what is larger stays whole, for no building is, and it would fill the memory."""

_Pieces = tuple[int, np.ndarray, np.ndarray, np.ndarray]
"""A split patch: which one, rows and columns of its pixels of another value than the class, and their values."""


@dataclass(frozen=True, eq=False)
class SplitPlanes(PlanesOver):
    """Planes in which pieces of split patches have values of their own: `values[0]` is the class itself."""

    values: tuple[int, ...]
    """All values of the class."""
    rows: np.ndarray
    """(n,) int32 ascending: pixels of another value than `values[0]`."""
    cols: np.ndarray
    """(n,) int32."""
    value: np.ndarray
    """(n,) uint8 of them."""
    cut: np.ndarray
    """(k,) int64 ascending: the patches that were split."""

    @cached_property
    def classes(self) -> Mapping[int, str]:
        """All classes by pixel value, the borrowed values too."""
        known = dict(self.planes.classes)
        return known | dict.fromkeys(self.values, known[self.values[0]])

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


def trace_apart(planes: Planes, value: int, *, gsd: float, min_pixels: int = 1) -> Patches:
    """Sub-pixel outlines of a class, its patches split into buildings.

    Without probabilities patches are split along their seams only. Pieces have the same vertices on their common
    border; all have `value`.

    Args:
        planes: What to outline.
        value: The class.
        gsd: Metres per pixel.
        min_pixels: Smaller patches and pieces are left out.
    """
    whole = trace(planes, [value], subpixel=True, min_pixels=min_pixels)
    split = split_touching(planes, value, whole, gsd=gsd)
    if not len(split.cut):
        return whole
    kept = np.ones(len(whole), np.bool_)
    kept[split.cut] = False
    pieces = [retrace(split, split.values, whole.box[k], whole.first[k], min_pixels) for k in split.cut]
    return join([whole.select(kept), *pieces])


def trace_apart_into(store: Store, planes: Planes, value: int, *, gsd: float, min_pixels: int = 1) -> StoredPatches:
    """What `trace_apart` finds, its vertices put into a store. Arguments are alike."""
    whole = trace_into(store, planes, [value], subpixel=True, min_pixels=min_pixels)
    kept, parts = np.ones(len(whole), np.bool_), []
    bands = list(_bands(whole.box))
    for group in (bands[k : k + _BANDS] for k in range(0, len(bands), _BANDS)):
        start, stop = group[0][0], group[-1][1]
        split = split_touching(planes, value, whole.part(start, stop), gsd=gsd)
        if not len(split.cut):
            continue
        cut = split.cut + start
        kept[cut] = False
        pieces = [retrace(split, split.values, whole.box[k], whole.first[k], min_pixels) for k in cut]
        parts.append(stored(store, join(pieces)))
    return join([whole.select(kept), *parts]) if parts else whole


def split_touching(planes: Planes, value: int, patches: AnyPatches, *, gsd: float) -> SplitPlanes:
    """Split patches with two cores or more between them.

    A core is a place round a peak of the probability, down to where it meets another one. Every other pixel of its
    patch goes to the core from which it is reached first when the probability falls.

    Args:
        planes: Where probabilities are not known, those of `geoseg.vectors.seams` take their place.
        value: The class.
        patches: Of this class, in the order of their first pixels.
        gsd: Metres per pixel.

    Raises:
        UsageError: If the raster uses so many values that there are none to borrow.

    Source: Meyer 1994, Topographic distance and watershed lines, Signal Processing 38 (1), 113-125.
    """
    spare = [other for other in range(NODATA - 1, 0, -1) if other not in planes.classes][: _COLORS - 1]
    if not spare:
        raise UsageError("class raster uses all 255 values. Expected some unused ones. Give --no-split-touching.")
    values, lock = (value, *spare), Lock()
    level = int(np.ceil(SURE * PROBABILITY_SCALE))
    gaps = max(LEAST, round(LEAST_M / gsd))
    least = max(round(LEAST_CORE_M2 / gsd**2), 4), round(LEAST_PIECE_M2 / gsd**2)

    def look(first: int, stop: int) -> list[_Pieces]:
        box = patches.box[first:stop]
        width, height = (box[:, 2:] - box[:, :2]).astype(np.int64).T
        for k in np.flatnonzero(width * height > _LARGEST):
            log.warning("a patch of %d x %d pixels stays whole: no building is so large", width[k], height[k])
        two = patches.pixels[first:stop] >= 2 * least[1]  # as many as two pieces have
        there = first + np.flatnonzero(two & (width * height <= _LARGEST))
        if not len(there):
            return []
        box, inside = patches.box[there], patches.first[there]
        window = _around(box).expand(1).intersection(planes.grid.window) or _around(box)
        corner = np.array([window.col, window.row])
        with lock:  # not all planes can be read by several threads
            probability = planes.probability(window, value)
            labels = planes.labels(window)
        if probability is None:
            probability = sureness(labels, value, box - np.tile(corner, 2), inside - corner[::-1], gaps)
        cut = _cut(labels, probability, window, box, inside, values, level, least, gsd**2)
        return [(int(there[k]), rows, cols, changed) for k, rows, cols, changed in cut]

    found = [pieces for band in in_threads(lambda band: look(*band), _bands(patches.box)) for pieces in band]
    none: np.ndarray = np.empty(0, np.int64)
    _, *parts = zip(*found, strict=True) if found else [[]] * 4
    rows, cols, changed = (np.concatenate([none, *part]) for part in parts)
    order = np.lexsort((cols, rows))
    return SplitPlanes(
        planes,
        values,
        rows[order].astype(np.int32),
        cols[order].astype(np.int32),
        changed[order].astype(np.uint8),
        np.array([k for k, *_ in found], np.int64),
    )


def _bands(box: np.ndarray) -> Iterator[tuple[int, int]]:
    """The first patch of each part that is looked at in one go, and one past its last."""
    tops, bottoms = box[:, 1], box[:, 3]
    start = 0
    while start < len(box):
        large = bottoms[start] - tops[start] > _BAND
        stop = start + 1
        while (
            not large and stop < len(box) and tops[stop] < tops[start] + _BAND and bottoms[stop] - tops[stop] <= _BAND
        ):
            stop += 1
        yield start, stop
        start = stop


def _around(box: np.ndarray) -> Window:
    """The window round these boxes."""
    left, top = (int(edge) for edge in box[:, :2].min(axis=0))
    right, bottom = (int(edge) for edge in box[:, 2:].max(axis=0))
    return Window(row=top, col=left, height=bottom - top, width=right - left)


def _cut(
    labels: np.ndarray,
    probability: np.ndarray,
    window: Window,
    box: np.ndarray,
    first: np.ndarray,
    values: tuple[int, ...],
    level: int,
    least: tuple[int, int],
    pixel_m2: float,
) -> Iterator[_Pieces]:
    """Those of the patches in a window, by boxes and first pixels, that have two cores or more and a wall between.

    `least` are the pixels of a core, and of a piece.
    """
    corner = np.array([window.col, window.row])
    box, first = box - np.tile(corner, 2), first - corner[::-1]
    for k in range(len(box)):
        left, top, right, bottom = box[k]
        here = (slice(top, bottom), slice(left, right))
        row, col = first[k] - (top, left)
        pieces, count = find_cores(labels[here] == values[0], probability[here], row, col, level, least[0])
        if count < 2:
            continue
        pieces = mended(_grown(pieces, probability[here]), probability[here], least=least[1], pixel_m2=pixel_m2)
        if pieces.max() < 2:
            continue
        colors = np.array(values, np.uint8)[_colored(pieces, int(pieces.max()), len(values))]
        rows, cols = np.nonzero(pieces > 0)
        changed = colors[pieces[rows, cols]]
        other = changed != values[0]
        yield int(k), rows[other] + top + window.row, cols[other] + left + window.col, changed[other]


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
    ends = np.searchsorted(near[0], np.arange(count + 2))
    found = np.full(count + 1, -1)
    for piece in range(1, count + 1):
        taken = set(found[near[1, ends[piece] : ends[piece + 1]]].tolist())
        found[piece] = next((color for color in range(colors) if color not in taken), colors - 1)
    return found
