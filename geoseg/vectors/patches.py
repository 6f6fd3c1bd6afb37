"""Patches: the outlines of all edge-connected pixels of one class, with what is counted of them, in flat arrays."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self, TypeVar

import numpy as np
import shapely
from affine import Affine
from numba import njit

from geoseg.vectors.planes import Planes
from geoseg.vectors.rings import SCALE
from geoseg.vectors.sweep import Part
from geoseg.vectors.tracing import MAX_PATCHES, counted, in_order, swept

Some = TypeVar("Some", bound="AnyPatches")


@dataclass(frozen=True, slots=True, eq=False)
class AnyPatches(ABC):
    """Patches in the order of their first pixels, row by row. What derives from this says where the vertices are.

    The rings of patch `i` are `patch_offsets[i]` to `patch_offsets[i + 1]`: its outline, then its holes from above and
    from the left; the vertices of ring `j` are `ring_offsets[j]` to `ring_offsets[j + 1]`, the first one not repeated
    at the end. Rings begin at their uppermost leftmost vertex and keep the patch on their right-hand side, as seen on
    the screen (x to the right, y down): holes run the other way round.
    """

    ring_offsets: np.ndarray
    """(rings + 1,) int64 vertices before each ring."""
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

    @property
    @abstractmethod
    def places(self) -> np.ndarray:
        """(rings,) int64 place of the first vertex of each ring, as `vertices` takes it."""

    @abstractmethod
    def vertices(self, places: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) int32 points and (n,) bool marks of so many vertices from each of some places on."""

    @abstractmethod
    def select(self, wanted: np.ndarray) -> Self:
        """The patches for which this (patches,) bool array is true, or with these (n,) indices, in that order."""

    def load(self, wanted: np.ndarray) -> "Patches":
        """The same with their vertices in memory."""
        rings, found = self._chosen(wanted)
        points, marked = self.vertices(self.places[rings], np.diff(found["ring_offsets"]))
        return Patches(points=points, marked=marked, **found)

    def slice(self, start: int, stop: int) -> "Patches":
        """Patches `start` to `stop`, with their vertices in memory."""
        return self.load(np.arange(start, stop))

    def __len__(self) -> int:
        return len(self.value)

    @property
    def ring_patch(self) -> np.ndarray:
        """(rings,) int64 the patch of each ring."""
        return np.repeat(np.arange(len(self)), np.diff(self.patch_offsets))

    @property
    def holes(self) -> np.ndarray:
        """(patches,) int64 number of holes."""
        return np.diff(self.patch_offsets) - 1

    def spans(self, vertices: int) -> Iterator[tuple[int, int]]:
        """The first patch of each part of about so many vertices, at least one patch, and one past its last."""
        return spans(self.ring_offsets[self.patch_offsets], vertices)

    def _chosen(self, wanted: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The rings of some patches, and the fields of these."""
        index = np.flatnonzero(wanted) if wanted.dtype == bool else wanted
        patch_offsets, rings = _ranges(self.patch_offsets, index)
        ring_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(self.ring_offsets)[rings])])
        found = {name: getattr(self, name)[index] for name in _COUNTED}
        return rings, {"ring_offsets": ring_offsets, "patch_offsets": patch_offsets} | found


_COUNTED = tuple(each.name for each in fields(AnyPatches)[2:])


@dataclass(frozen=True, slots=True, eq=False)
class Patches(AnyPatches):
    """Patches with their vertices in memory."""

    points: np.ndarray
    """(vertices, 2) int32 column and row in 1/1024 pixel."""
    marked: np.ndarray
    """(vertices,) bool: where not two borders of patches meet, but three or four; with `junctions` all of these."""

    @property
    def xy(self) -> np.ndarray:
        """(vertices, 2) float64 pixel coordinates (column, row)."""
        return self.points / SCALE

    @property
    def places(self) -> np.ndarray:
        """(rings,) int64 place of the first vertex of each ring, as `vertices` takes it."""
        return self.ring_offsets[:-1]

    def vertices(self, places: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) int32 points and (n,) bool marks of so many vertices from each of some places on."""
        ends = np.cumsum(counts)
        index = np.arange(ends[-1] if len(ends) else 0) + np.repeat(places - (ends - counts), counts)
        return self.points[index], self.marked[index]

    def select(self, wanted: np.ndarray) -> "Patches":
        """The patches for which this (patches,) bool array is true, or with these (n,) indices, in that order."""
        return self.load(wanted)

    def slice(self, start: int, stop: int) -> "Patches":
        """Patches `start` to `stop`, without a copy."""
        rings = slice(self.patch_offsets[start], self.patch_offsets[stop])
        vertices = slice(self.ring_offsets[rings.start], self.ring_offsets[rings.stop])
        return Patches(
            ring_offsets=self.ring_offsets[rings.start : rings.stop + 1] - vertices.start,
            patch_offsets=self.patch_offsets[start : stop + 1] - rings.start,
            points=self.points[vertices],
            marked=self.marked[vertices],
            **{name: getattr(self, name)[start:stop] for name in _COUNTED},
        )

    def batches(self, vertices: int = 1 << 20) -> Iterator["Patches"]:
        """All of them in parts of about so many vertices, at least one patch each."""
        return (self.slice(start, stop) for start, stop in self.spans(vertices))

    def polygons(self, transform: Affine | None = None) -> np.ndarray:
        """(patches,) shapely polygons in pixel coordinates, or in those of a transform."""
        closed, offsets = _closed(self.points, self.ring_offsets)
        if transform is not None:
            closed = np.column_stack(transform @ (closed[:, 0], closed[:, 1]))
        found: np.ndarray = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, closed, (offsets, self.patch_offsets)
        )
        return found


def join(parts: Sequence[Some]) -> Some:
    """All patches of all parts, in the order of their first pixels. Those of stored ones lie in one store."""
    columns = {
        each.name: [getattr(part, each.name) for part in parts]
        for each in fields(parts[0])
        if isinstance(getattr(parts[0], each.name), np.ndarray)
    }
    for name in ("ring_offsets", "patch_offsets"):
        ends = np.cumsum([0, *(offsets[-1] for offsets in columns[name][:-1])])
        moved = [offsets[1:] + end for offsets, end in zip(columns[name], ends, strict=True)]
        columns[name] = [np.zeros(1, np.int64), *moved]
    whole = replace(parts[0], **{name: np.concatenate(column) for name, column in columns.items()})
    return whole.select(np.lexsort((whole.first[:, 1], whole.first[:, 0])))


def spans(ends: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Parts of about a size, of things of which `ends` are the sizes summed up: the first, and one past the last."""
    start = 0
    while start < len(ends) - 1:
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + size, "right")) - 1)
        yield start, stop
        start = stop


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
    found = swept(
        planes,
        values,
        lambda points, marks: (points.copy(), marks.copy()),
        subpixel=subpixel,
        junctions=junctions,
        min_pixels=min_pixels,
        strip_rows=strip_rows,
        max_patches=max_patches,
    )
    return _ordered(*found)


def _ordered(parts: list[Part], runs: np.ndarray, chances: np.ndarray) -> Patches:
    """Patches of the rings of a sweep. Empties `parts`."""
    rings, order, patch_offsets = in_order(parts, len(runs))
    ring_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(rings[order, 0], dtype=np.int64)])
    place = np.full(len(rings), -1, np.int64)
    place[order] = ring_offsets[:-1]
    points, marked = np.empty((ring_offsets[-1], 2), np.int32), np.empty(ring_offsets[-1], np.bool_)
    done = len(rings)
    while parts:
        (part_points, part_marks), found, _ = parts.pop()
        done -= len(found)
        _put(part_points, part_marks, found, place[done : done + len(found)], points, marked)
    return Patches(
        ring_offsets=ring_offsets,
        patch_offsets=patch_offsets,
        points=points,
        marked=marked,
        **counted(runs, chances),
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
