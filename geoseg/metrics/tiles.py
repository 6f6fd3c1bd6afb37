"""Tile scores: the confusion matrix of each tile of the validation ground, as a table on disk."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geoseg.errors import OutputError, UsageError
from geoseg.windows import Window

_PLACE = ("source", "name", "col", "row", "width", "height")


@dataclass(frozen=True, slots=True, eq=False)
class TileScore:
    """What was predicted on one tile of validation ground."""

    source: str
    """Short name of the source it belongs to."""
    name: str
    """The file it was cut from."""
    left_col: int
    """Column of its first pixel in the file, or, where that has a transform, counted from the CRS's origin."""
    top_row: int
    """Row of its first pixel, counted as `left_col`."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""
    matrix: np.ndarray
    """(K, K) int64 pixel counts, row = target, column = predicted. Where the labels do not tell some classes apart, all
    of these count as the first of them."""
    ground: int = -1
    """Which of the validation grounds it lies in; -1 when read from a file."""
    window: Window | None = None
    """Its pixels in the ground; None when read from a file."""

    @property
    def place(self) -> tuple[str, str, int, int, int, int]:
        """What is equal of one tile in several runs."""
        return self.source, self.name, self.left_col, self.top_row, self.width, self.height


def write_tiles(path: Path, classes: Sequence[str], tiles: Sequence[TileScore]) -> None:
    """Write a row for each tile: its place, then the counts, columns `<target>><predicted>` row by row of the matrix.

    Raises:
        OutputError: If the file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*_PLACE, *(f"{target}>{predicted}" for target in classes for predicted in classes)])
            writer.writerows([*tile.place, *tile.matrix.ravel().tolist()] for tile in tiles)
        part.replace(path)
    except OSError as err:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written ({err.strerror}). Expected a writable folder with room.") from err


def read_tiles(path: Path) -> tuple[tuple[str, ...], list[TileScore]]:
    """The classes and the tiles of a table that `write_tiles` wrote.

    Raises:
        UsageError: If it cannot be read, or is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        count = math.isqrt(len(header) - len(_PLACE))
        # `name>name` is twice the name and a sign; the names themselves may hold that sign.
        classes = tuple(text[: len(text) // 2] for text in header[len(_PLACE) :: count + 1])
        expected = [*_PLACE, *(f"{target}>{predicted}" for target in classes for predicted in classes)]
        if header != expected:
            raise ValueError("its columns are others")
        return classes, [_tile(row, count) for row in rows]
    except OSError as err:
        raise UsageError(f"{path} cannot be read ({err.strerror}). Expected the table of a finished run.") from err
    except (ValueError, csv.Error) as err:
        raise UsageError(
            f"{path} is no table of tiles ({err}). Expected the file as geoseg train wrote it. Train again."
        ) from err


def _tile(row: list[str], count: int) -> TileScore:
    source, name, *numbers = row
    col, line, width, height, *counts = map(int, numbers)
    if len(counts) != count * count or min(counts) < 0:
        raise ValueError(f"a row has {len(counts)} counts, not {count * count} of at least 0")
    return TileScore(source, name, col, line, width, height, np.array(counts, np.int64).reshape(count, count))
