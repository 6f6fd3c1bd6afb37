"""Store: vertices of rings in a file without a name, so that memory need not hold the outlines of a whole raster."""

import os
import tempfile
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from numba import njit

from geoseg.errors import OutputError

_GAP = 4096
"""Vertices that are read in vain rather than asked for in two goes."""


class Store:
    """Vertices one behind the other, each known by its place. Threads may read at the same time.

    The file goes with the object, or with the process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Begin without vertices.

        Args:
            folder: Where there is room; by default that of the system for temporary files.

        Raises:
            OutputError: If the folder cannot be written.
        """
        self._folder = folder or Path(tempfile.gettempdir())
        try:
            self._points = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 -- it goes with the object
            self._marks = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as err:
            raise self._unwritten(err) from err
        self._size, self._lock = 0, Lock()

    def append(self, points: np.ndarray, marks: np.ndarray) -> int:
        """Add (n, 2) int32 vertices and their (n,) uint8 marks; the place of the first.

        Raises:
            OutputError: If the disk is full.
        """
        if not len(points):
            return self._size
        try:
            with self._lock:
                for file, values in ((self._points, points), (self._marks, marks)):
                    file.seek(0, os.SEEK_END)
                    rest = np.ascontiguousarray(values).data.cast("B")
                    while len(rest):  # more than 2 GB are not written in one go
                        rest = rest[file.write(rest) or 0 :]
        except OSError as err:
            raise self._unwritten(err) from err
        self._size += len(points)
        return self._size - len(points)

    def read(self, starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) int32 vertices and (n,) bool marks of ranges, one behind the other as asked for.

        Args:
            starts: (r,) int64 place of the first vertex of each.
            counts: (r,) int64 how many.
        """
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        points, marks = np.empty((ends[-1], 2), np.int32), np.empty(ends[-1], np.uint8)
        order = np.argsort(starts, kind="stable")
        order = order[counts[order] > 0]
        stops = np.maximum.accumulate((starts + counts)[order])
        breaks = np.flatnonzero(starts[order][1:] > stops[:-1] + _GAP) + 1
        for span in np.split(order, breaks) if len(order) else []:
            first, last = int(starts[span[0]]), int((starts[span] + counts[span]).max())
            for file, out in ((self._points, points), (self._marks, marks)):
                rows = np.empty((last - first, *out.shape[1:]), out.dtype)
                with self._lock:
                    _fill(file, rows, first)
                _gather(rows.reshape(len(rows), -1), starts[span] - first, counts[span], ends[span], _flat(out))
        return points, marks.view(np.bool_)

    def _unwritten(self, err: OSError) -> OutputError:
        return OutputError(
            f"{self._folder} cannot hold the outlines ({err.strerror or err}). Expected a writable folder with room."
        )


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def _fill(file: BinaryIO, rows: np.ndarray, first: int) -> None:
    """Read rows from a place on."""
    rest = rows.data.cast("B")
    file.seek(first * (rows.nbytes // len(rows)))
    while len(rest):
        count = file.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise EOFError(f"{len(rest)} bytes of the outlines are missing")
        rest = rest[count:]


@njit(cache=True, nogil=True)
def _gather(rows, starts, counts, ends, out):  # type: ignore[no-untyped-def]
    """Copy ranges of rows to where each belongs in `out`."""
    for k in range(len(starts)):
        for row in range(counts[k]):
            for column in range(out.shape[1]):
                out[ends[k] + row, column] = rows[starts[k] + row, column]
