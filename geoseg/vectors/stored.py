"""Stored patches: what is counted of patches in memory, their outlines on disk, loaded some at a time."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from geoseg.vectors.patches import COLUMNS, Patches, spans
from geoseg.vectors.planes import Planes
from geoseg.vectors.store import Store
from geoseg.vectors.tracing import MAX_PATCHES, counted, in_order, swept


@dataclass(frozen=True, slots=True, eq=False)
class StoredPatches:
    """As `Patches`, but for the vertices: of them it knows the place."""

    store: Store
    """Where the vertices are."""
    places: np.ndarray
    """(rings,) int64 place of the first vertex of each ring."""
    ring_offsets: np.ndarray
    """(rings + 1,) int64 vertices before each ring, as if they were one behind the other."""
    patch_offsets: np.ndarray
    """(patches + 1,) int64 first ring of each patch."""
    value: np.ndarray
    """(patches,) int32 class."""
    pixels: np.ndarray
    """(patches,) int64 number of pixels."""
    first: np.ndarray
    """(patches, 2) int32 row and column of the first pixel."""
    box: np.ndarray
    """(patches, 4) int32 (left, top, right, bottom) in pixels."""
    prob: np.ndarray
    """(patches,) float64 mean probability."""
    prob_min10: np.ndarray
    """(patches,) float64 its 10th percentile."""

    def __len__(self) -> int:
        return len(self.value)

    @property
    def holes(self) -> np.ndarray:
        """(patches,) int64 number of holes."""
        return np.diff(self.patch_offsets) - 1

    def slice(self, start: int, stop: int) -> Patches:
        """Patches `start` to `stop`, loaded."""
        rings = slice(self.patch_offsets[start], self.patch_offsets[stop])
        offsets = self.ring_offsets[rings.start : rings.stop + 1]
        points, marked = self.vertices(self.places[rings], np.diff(offsets))
        columns = (getattr(self, name)[start:stop] for name in COLUMNS)
        return Patches(
            points, marked, offsets - offsets[0], self.patch_offsets[start : stop + 1] - rings.start, *columns
        )

    def part(self, start: int, stop: int) -> "StoredPatches":
        """Patches `start` to `stop`, not loaded."""
        wanted = np.zeros(len(self), np.bool_)
        wanted[start:stop] = True
        return self.select(wanted)

    def spans(self, vertices: int) -> Iterator[tuple[int, int]]:
        """The first patch of each part of about so many vertices, at least one patch, and one past its last."""
        return spans(self.ring_offsets[self.patch_offsets], vertices)

    def vertices(self, places: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) int32 points and (n,) bool marks of so many vertices from each of some places on."""
        return self.store.read(places, counts)

    @classmethod
    def join(cls, store: Store, parts: Sequence["StoredPatches"]) -> "StoredPatches":
        """All patches of parts that lie in one store, in the order of their first pixels."""
        counts = [np.diff(part.patch_offsets) for part in parts]
        first = np.concatenate([part.first for part in parts])
        order = np.lexsort((first[:, 1], first[:, 0]))
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])
        rings = np.concatenate([part.places for part in parts])
        sizes = np.concatenate([np.diff(part.ring_offsets) for part in parts])
        number = np.diff(ends)[order]
        patch_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(number)])
        ring = np.arange(patch_offsets[-1]) + np.repeat(ends[order] - patch_offsets[:-1], number)
        return cls(
            store,
            rings[ring],
            np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[ring])]),
            patch_offsets,
            *(np.concatenate([getattr(part, name) for part in parts])[order] for name in COLUMNS),
        )

    def select(self, wanted: np.ndarray) -> "StoredPatches":
        """The patches for which this (patches,) bool array is true."""
        rings = np.repeat(wanted, np.diff(self.patch_offsets))
        sizes, numbers = np.diff(self.ring_offsets)[rings], np.diff(self.patch_offsets)[wanted]
        return StoredPatches(
            self.store,
            self.places[rings],
            np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(numbers)]),
            *(getattr(self, name)[wanted] for name in COLUMNS),
        )


def trace_into(
    store: Store,
    planes: Planes,
    values: Collection[int],
    *,
    subpixel: bool,
    junctions: bool = False,
    min_pixels: int = 1,
    strip_rows: int | None = None,
    max_patches: int = MAX_PATCHES,
) -> StoredPatches:
    """What `trace` finds, its vertices put into a store as soon as rings are closed. Arguments and errors are alike."""
    parts, runs, chances = swept(
        planes,
        values,
        store.append,
        subpixel=subpixel,
        junctions=junctions,
        min_pixels=min_pixels,
        strip_rows=strip_rows,
        max_patches=max_patches,
    )
    rings, order, patch_offsets = in_order(parts, len(runs))
    places = [place + np.cumsum(found[:, 0], dtype=np.int64) - found[:, 0] for place, found, _ in parts]
    ring_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(rings[order, 0], dtype=np.int64)])
    place = np.concatenate([np.empty(0, np.int64), *places])[order]
    return StoredPatches(store, place, ring_offsets, patch_offsets, *counted(runs, chances))


def stored(store: Store, patches: Patches) -> StoredPatches:
    """Patches with their vertices put into a store."""
    place = store.append(patches.points, patches.marked.view(np.uint8))
    columns = (getattr(patches, name) for name in COLUMNS)
    offsets = patches.ring_offsets
    return StoredPatches(store, offsets[:-1] + place, offsets, patches.patch_offsets, *columns)


AnyPatches = Patches | StoredPatches
"""Patches, wherever their vertices are."""
