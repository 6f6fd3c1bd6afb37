"""Patches: the outlines of all edge-connected pixels of one class, with what is counted of them, in flat arrays."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from numba import njit

from geoseg.errors import UsageError
from geoseg.scores import NODATA
from geoseg.vectors.planes import Planes
from geoseg.vectors.rings import SCALE
from geoseg.vectors.runs import FIRST_COL, FIRST_ROW, LAST_ROW, PIXELS, START, STOP, VALUE
from geoseg.vectors.sweep import Part, Sweep
from geoseg.windows import Window

MAX_PATCHES = 5_000_000
"""More patches than this are noise, and would fill the memory."""
_STRIP = 8 << 20  # bytes of labels and probabilities read in one go, unless the planes come in higher strips


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Patches in the order of their first pixels, row by row.

    The rings of patch `i` are `patch_offsets[i]` to `patch_offsets[i + 1]`: its outline, then its holes from above and
    from the left; the vertices of ring `j` are `ring_offsets[j]` to `ring_offsets[j + 1]`, the first one not repeated
    at the end. Rings begin at their uppermost leftmost vertex and keep the patch on their right-hand side, as seen on
    the screen (x to the right, y down): holes run the other way round.
    """

    points: np.ndarray
    """(vertices, 2) int32 column and row in 1/1024 pixel."""
    marked: np.ndarray
    """(vertices,) bool: where three labels meet; of sub-pixel rings only those traced with `junctions`."""
    ring_offsets: np.ndarray
    """(rings + 1,) int64 first vertex of each ring."""
    patch_offsets: np.ndarray
    """(patches + 1,) int64 first ring of each patch."""
    value: np.ndarray
    """(patches,) int32 class."""
    pixels: np.ndarray
    """(patches,) int64 number of pixels."""
    first: np.ndarray
    """(patches, 2) int32 row and column of the first pixel."""
    box: np.ndarray
    """(patches, 4) int32 (left, top, right, bottom) in pixels: the box round its pixels."""
    prob: np.ndarray
    """(patches,) float64 mean probability of the class, 0 to 1; NaN where not known."""
    prob_min10: np.ndarray
    """(patches,) float64 its 10th percentile: a tenth of the pixels has at most this."""

    def __len__(self) -> int:
        return len(self.value)

    @property
    def xy(self) -> np.ndarray:
        """(vertices, 2) float64 pixel coordinates (column, row)."""
        return self.points / SCALE

    @property
    def ring_patch(self) -> np.ndarray:
        """(rings,) int64 the patch of each ring."""
        return np.repeat(np.arange(len(self)), np.diff(self.patch_offsets))

    @property
    def holes(self) -> np.ndarray:
        """(patches,) int64 number of holes."""
        return np.diff(self.patch_offsets) - 1

    def slice(self, start: int, stop: int) -> "Patches":
        """Patches `start` to `stop`, without a copy."""
        rings = slice(self.patch_offsets[start], self.patch_offsets[stop])
        vertices = slice(self.ring_offsets[rings.start], self.ring_offsets[rings.stop])
        return Patches(
            self.points[vertices],
            self.marked[vertices],
            self.ring_offsets[rings.start : rings.stop + 1] - vertices.start,
            self.patch_offsets[start : stop + 1] - rings.start,
            *(field[start:stop] for field in self._counted()),
        )

    def select(self, wanted: np.ndarray) -> "Patches":
        """The patches for which this (patches,) bool array is true, or with these (n,) indices, in that order."""
        index = np.flatnonzero(wanted) if wanted.dtype == bool else wanted
        patch_offsets, rings = _ranges(self.patch_offsets, index)
        ring_offsets, vertices = _ranges(self.ring_offsets, rings)
        return Patches(
            self.points[vertices],
            self.marked[vertices],
            ring_offsets,
            patch_offsets,
            *(field[index] for field in self._counted()),
        )

    def batches(self, vertices: int = 1 << 20) -> Iterator["Patches"]:
        """All of them in parts of about so many vertices, at least one patch each."""
        ends = self.ring_offsets[self.patch_offsets]
        start = 0
        while start < len(self):
            stop = max(start + 1, int(np.searchsorted(ends, ends[start] + vertices, "right")) - 1)
            yield self.slice(start, stop)
            start = stop

    def polygons(self, transform: Affine | None = None) -> np.ndarray:
        """(patches,) shapely polygons in pixel coordinates, or in those of a transform."""
        closed, offsets = _closed(self.points, self.ring_offsets)
        if transform is not None:
            closed = np.column_stack(transform @ (closed[:, 0], closed[:, 1]))
        found: np.ndarray = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, closed, (offsets, self.patch_offsets)
        )
        return found

    def _counted(self) -> tuple[np.ndarray, ...]:
        return self.value, self.pixels, self.first, self.box, self.prob, self.prob_min10


def trace(
    planes: Planes,
    values: Collection[int],
    *,
    subpixel: bool,
    junctions: bool = False,
    min_pixels: int = 1,
    strip_rows: int | None = None,
    max_patches: int = MAX_PATCHES,
) -> Patches:
    """Outline every edge-connected patch of the classes `values`.

    Exact outlines follow the pixels' edges, with a vertex at every turn. Sub-pixel ones have one vertex for each pixel
    edge, moved across it to where the class and its neighbour are equally probable: by margins, interpolated between
    the two pixels' centres; half way where probabilities are not known. Both are valid, and patches do not overlap;
    neighbouring patches have the same vertices on their common border, but for sub-pixel ones where pixels touch only
    across a corner. Memory is that of the rings and some rows; the result does not depend on strips.

    Args:
        planes: What to outline. Probabilities are used where there are any.
        values: Pixel values to outline; not all 256.
        subpixel: Sub-pixel outlines.
        junctions: Give every patch that takes part a marked vertex where three labels meet (nodata and what is beyond
            the raster are labels, too), also where its outline goes straight on. Sub-pixel outlines meet there in one
            point; without this they leave a triangle free. Not where two of the pixels touch across the corner.
        min_pixels: Smaller patches are left out.
        strip_rows: Rows to read at a time; by default what suits the planes.
        max_patches: The most patches to keep.

    Raises:
        UsageError: If there are more patches than `max_patches`, or `values` are not of 0..255 or all of these.
    """
    chosen = np.zeros(256, np.bool_)
    if any(not 0 <= value <= 255 for value in values) or len(set(values)) == 256:
        raise UsageError(f"class values {sorted(values)} do not fit a class raster. Expected at most 255 of 0..255.")
    chosen[list(values)] = True
    read = planes.classes if subpixel else values
    pixel = Window(row=0, col=0, height=1, width=1)
    known = [value for value in read if planes.probability(pixel, value) is not None]
    plane = np.full(256, -1, np.int64)
    plane[known] = np.arange(len(known))
    outside = NODATA if not chosen[NODATA] else int(np.flatnonzero(~chosen)[-1])
    plane[outside] = -1  # what is there has no probability
    sweep = Sweep(
        planes.grid.width,
        chosen,
        plane,
        subpixel=subpixel,
        junctions=junctions,
        known=bool(known),
        min_pixels=min_pixels,
        max_patches=max_patches,
    )
    for labels, probabilities, row in _strips(planes, outside, known, strip_rows):
        sweep.take(labels, probabilities, row)
    return _ordered(*sweep.finish(planes.grid.height))


def _strips(
    planes: Planes, outside: int, known: list[int], rows: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Labels with the row above and a margin, probabilities likewise, and the strip's row; a row below the last."""
    height, width = planes.grid.shape
    fit = _STRIP // (width * (1 + len(known))) // planes.step * planes.step
    rows = min(rows or max(fit, planes.step), height)
    labels = np.full((1 + rows, (width + 8) // 8 * 8), outside, np.uint8)
    probabilities = np.zeros((len(known), 1 + rows, width) if known else (1, 1, 0), np.uint8)
    for row in range(0, height, rows):
        window = Window(row=row, col=0, height=min(rows, height - row), width=width)
        there = slice(1, 1 + window.height)
        labels[there, :width] = planes.labels(window)
        for index, value in enumerate(known):
            found = planes.probability(window, value)
            if found is not None:
                probabilities[index, there] = found
        yield labels[: 1 + window.height], probabilities, row
        labels[0] = labels[window.height]
        if known:
            probabilities[:, 0] = probabilities[:, window.height]
    labels[1] = outside
    yield labels[:2], probabilities, height


def _ordered(parts: list[Part], runs: np.ndarray, chances: np.ndarray) -> Patches:
    """Patches of the rings of a sweep: in the order of the patches, outlines before holes. Empties `parts`."""
    rings = np.concatenate([np.empty((0, 3), np.int32), *(found for _, _, found in parts)])
    corners = [points[np.cumsum(found[:, 0]) - found[:, 0]] for points, _, found in parts]
    x, y = np.concatenate([np.empty((0, 2), np.int32), *corners]).T
    order = np.lexsort((x, y, rings[:, 2], rings[:, 1]))
    order = order[np.searchsorted(rings[order, 1], 0) :]  # holes of patches left out come first, with label -1
    ring_offsets = np.zeros(len(order) + 1, np.int64)
    np.cumsum(rings[order, 0], out=ring_offsets[1:])
    place = np.full(len(rings), -1, np.int64)
    place[order] = ring_offsets[:-1]
    points, marked = np.empty((ring_offsets[-1], 2), np.int32), np.empty(ring_offsets[-1], np.bool_)
    done = len(rings)
    while parts:
        part_points, part_marks, found = parts.pop()
        done -= len(found)
        _put(part_points, part_marks, found, place[done : done + len(found)], points, marked)
    return Patches(
        points,
        marked,
        ring_offsets,
        np.searchsorted(rings[order, 1], np.arange(len(runs) + 1)),
        runs[:, VALUE].astype(np.int32),
        runs[:, PIXELS].copy(),
        runs[:, [FIRST_ROW, FIRST_COL]].astype(np.int32),
        np.column_stack([runs[:, START], runs[:, FIRST_ROW], runs[:, STOP], runs[:, LAST_ROW] + 1]).astype(np.int32),
        chances[:, 0].copy(),
        chances[:, 1].copy(),
    )


@njit(cache=True, nogil=True)
def _put(points, marks, rings, place, out, marked):  # type: ignore[no-untyped-def]
    """Copy rings to where they belong; those without a place are left out."""
    at = 0
    for ring in range(len(rings)):
        count = rings[ring, 0]
        if place[ring] >= 0:
            for vertex in range(count):
                out[place[ring] + vertex, 0] = points[at + vertex, 0]
                out[place[ring] + vertex, 1] = points[at + vertex, 1]
                marked[place[ring] + vertex] = marks[at + vertex] != 0
        at += count


@njit(cache=True, nogil=True)
def _closed(points, offsets):  # type: ignore[no-untyped-def]
    """Rings with the first vertex repeated at the end, and their offsets."""
    rings = len(offsets) - 1
    closed, ends = np.empty((len(points) + rings, 2), np.float64), np.empty(rings + 1, np.int64)
    ends[0] = 0
    for ring in range(rings):
        start, count = offsets[ring], offsets[ring + 1] - offsets[ring]
        for vertex in range(count + 1):
            for axis in range(2):
                closed[ends[ring] + vertex, axis] = points[start + vertex % count, axis] / SCALE
        ends[ring + 1] = ends[ring] + count + 1
    return closed, ends


def _ranges(offsets: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of these parts set one behind the other, and the indices of what is in them."""
    counts = offsets[index + 1] - offsets[index]
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return ends, np.arange(ends[-1]) + np.repeat(offsets[index] - ends[:-1], counts)
