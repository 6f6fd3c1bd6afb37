"""Stored patches: what is counted of patches in memory, their outlines on disk, loaded some at a time."""

from collections.abc import Collection
from dataclasses import dataclass, fields

import numpy as np

from geoseg.vectors.patches import AnyPatches, Patches
from geoseg.vectors.planes import Planes
from geoseg.vectors.store import Store
from geoseg.vectors.tracing import MAX_PATCHES, counted, in_order, swept


@dataclass(frozen=True, slots=True, eq=False)
class StoredPatches(AnyPatches):
    """Patches with their vertices in a store."""

    store: Store
    """Where the vertices are."""
    begins: np.ndarray
    """(rings,) int64 place of the first vertex of each ring."""

    @property
    def places(self) -> np.ndarray:
        """(rings,) int64 the same, as `vertices` takes it."""
        return self.begins

    def vertices(self, places: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) int32 points and (n,) bool marks of so many vertices from each of some places on."""
        return self.store.read(places, counts)

    def select(self, wanted: np.ndarray) -> "StoredPatches":
        """The patches for which this (patches,) bool array is true, or with these (n,) indices, in that order."""
        rings, found = self._chosen(wanted)
        return StoredPatches(store=self.store, begins=self.begins[rings], **found)

    def part(self, start: int, stop: int) -> "StoredPatches":
        """Patches `start` to `stop`, not loaded."""
        return self.select(np.arange(start, stop))


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
    begins = np.concatenate([np.empty(0, np.int64), *places])[order]
    return StoredPatches(
        ring_offsets=ring_offsets, patch_offsets=patch_offsets, store=store, begins=begins, **counted(runs, chances)
    )


def stored(store: Store, patches: Patches) -> StoredPatches:
    """Patches with their vertices put into a store."""
    place = store.append(patches.points, patches.marked.view(np.uint8))
    same = {each.name: getattr(patches, each.name) for each in fields(AnyPatches)}
    return StoredPatches(store=store, begins=patches.places + place, **same)
