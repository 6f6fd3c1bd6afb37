"""Sweep: the rows of a class raster from top to bottom, a strip at a time, with all that is under way carried on.

A strip may be as low as a row: rings and patches come out the same. Room is made when it runs out: closed rings leave,
run labels that are no longer needed are forgotten, and only then the arrays grow.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from geoseg.errors import UsageError
from geoseg.vectors.rings import FREED, USED, harvest
from geoseg.vectors.rows import trace_rows
from geoseg.vectors.runs import LABELS, STACK, VACANT, compact, settle

_FIRST = 1 << 16  # vertices and labels there is room for at first

Part = tuple[Any, np.ndarray, np.ndarray]
"""What keeping vertices and marks gave; the rings, as `harvest` gives them; and the first vertex of each."""


class Sweep:
    """A sweep over a raster, strip by strip."""

    def __init__(
        self,
        width: int,
        chosen: np.ndarray,
        plane: np.ndarray,
        *,
        subpixel: bool,
        junctions: bool,
        known: bool,
        min_pixels: int,
        max_patches: int,
        keep: Callable[[np.ndarray, np.ndarray], Any],
    ) -> None:
        """Begin above the first row.

        Args:
            width: Of the raster.
            chosen: (256,) bool: labels to trace.
            plane: (256,) int64 index of each label's probabilities, or -1.
            subpixel: Vertices on cracks, not on corners.
            junctions: Vertices where three labels meet.
            known: Whether there will be probabilities.
            min_pixels: Smaller patches are left out.
            max_patches: More patches than this are an error.
            keep: Told the vertices and marks of closed rings, in arrays that are not theirs to keep.
        """
        self._keep = keep
        self._chosen, self._plane = chosen, plane
        self._min_pixels, self._max_patches = min_pixels, max_patches
        self._how = np.array([subpixel, junctions, 0, 1])
        self._carried, self._corner = np.full((3, width + 1), -1, np.int64), np.full((6, 4), -1, np.int64)
        self._nodes = np.empty((_FIRST + 12 * (width + 1), 6), np.int32)
        self._closed = np.empty((_FIRST + 2 * (width + 1), 2), np.int32)
        self._state = np.array([-1, 0, 0, 0])
        self._runs, self._chances = np.empty((_FIRST + 2 * width, 9), np.int64), np.empty((_FIRST + 2 * width, 2))
        slots = 2 * (width + 1) if known else 0  # of the patches of two rows
        self._histograms, self._given = np.zeros((slots, 257), np.int64), np.zeros(STACK + slots, np.int64)
        self._given[VACANT], self._given[STACK:] = slots, np.arange(slots - 1, -1, -1)
        self._found: list[Part] = []

    def take(self, strip: np.ndarray, planes: np.ndarray, row: int) -> None:
        """Go over a strip.

        Args:
            strip: (1 + h, P) uint8 as for `trace_rows`.
            planes: (K, 1 + h, width) uint8, or (1, 1, 0).
            row: Of the raster, of the strip's first row.

        Raises:
            UsageError: If there are too many patches.
        """
        how, words = self._how, strip.view(np.uint64)
        how[2:] = row, 1
        while True:
            trace_rows(
                how,
                self._chosen,
                self._plane,
                self._nodes,
                self._closed,
                self._state,
                self._runs,
                self._chances,
                self._histograms,
                self._given,
                self._carried,
                self._corner,
                strip,
                words,
                planes,
            )
            if how[3] == len(strip):
                return
            self._make_room(row + int(how[3]) - 1)

    def finish(self, rows: int) -> tuple[list[Part], np.ndarray, np.ndarray]:
        """After a last strip of one row outside the raster.

        Returns:
            The rings in parts, whose labels are rows of the next; `runs` and `chances` of the patches in the order of
            their first pixels. Rings of patches left out have the label -1.

        Raises:
            UsageError: If there are too many patches.
        """
        self._harvest()
        self._compact(rows + 2)
        used = self._given[LABELS]
        return self._found, self._runs[:used], self._chances[:used]

    def _make_room(self, row: int) -> None:
        """For at least one row more."""
        width = self._carried.shape[1] - 1
        self._harvest()
        capacity = len(self._nodes)
        if capacity - self._state[USED] + self._state[FREED] < max(12 * (width + 1), capacity // 4):
            self._nodes = _longer(self._nodes, capacity + capacity // 2)
        if len(self._runs) - self._given[LABELS] < width + 1:
            self._compact(row)
            if self._given[LABELS] > len(self._runs) // 2:
                self._runs = _longer(self._runs, 2 * len(self._runs))
                self._chances = _longer(self._chances, len(self._runs))

    def _harvest(self) -> None:
        points, marks, rings = harvest(self._nodes, self._closed, self._state, self._runs, self._min_pixels)
        if len(rings):
            corners = points[np.cumsum(rings[:, 0]) - rings[:, 0]]
            self._found.append((self._keep(points, marks), rings.copy(), corners))  # without the room they lie in

    def _compact(self, row: int) -> None:
        settle(self._runs, self._chances, self._histograms, self._given, row)
        renamed = compact(self._runs, self._chances, self._histograms, self._given, row, self._min_pixels)
        renamed = np.append(renamed, np.int32(-1))  # for -1, and for what is carried from runs of other labels
        for _, rings, _ in self._found:
            rings[:, 1] = renamed[rings[:, 1]]
        self._carried[2] = renamed[np.clip(self._carried[2], -1, len(renamed) - 1)]
        if self._given[LABELS] > self._max_patches:
            raise UsageError(
                f"the class raster has more than {self._max_patches} patches. Expected a raster that is less speckled. "
                "Leave the small ones out with --min-area-m2."
            )


def _longer(array: np.ndarray, length: int) -> np.ndarray:
    """The same with room for so many rows."""
    grown = np.empty((length, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
