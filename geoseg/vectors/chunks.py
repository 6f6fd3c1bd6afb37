"""Chunks: shapes on their way into a file, some at a time, so that no writer holds a second copy of a layer."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
import pandas as pd
import shapely

from geoseg.errors import UsageError
from geoseg.vectors.table import AnyTable, Shapes, Table

CHUNK = 16384
"""Shapes that a writer holds at a time. No file's bytes depend on it, but for the row groups of a Parquet file."""

_EMPTY = {"roads": "LineString", "road_nodes": "Point"}
"""Type of a layer without rows, by its name; any other is of polygons."""


class WkbChunks(Sequence[bytes]):
    """The shapes of a layer as well-known binary, made a chunk at a time as they are asked for in order.

    pyogrio takes each shape once, in order, by its index. So one call writes a whole layer, with one transaction and
    one spatial index, and the file has the bytes it would have had from an array of them all.
    """

    def __init__(self, shapes: Shapes) -> None:
        """Of these."""
        self._shapes = shapes
        self._start = 0
        self._ready = np.empty(0, object)

    def __len__(self) -> int:
        return len(self._shapes)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return list(shapely.to_wkb(self._shapes[index]))
        if not 0 <= index < len(self):
            raise IndexError(index)  # the end, to whoever iterates
        if not 0 <= index - self._start < len(self._ready):
            self._start = index - index % CHUNK
            self._ready = shapely.to_wkb(self._shapes[self._start : self._start + CHUNK])
        found: bytes = self._ready[index - self._start]
        return found


def chunks(
    frame: AnyTable, prepare: Callable[[np.ndarray], np.ndarray] = lambda shapes: shapes
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Some rows at a time: their fields, and their shapes after `prepare`. A frame without rows gives nothing."""
    table = Table.of(frame)
    for start, stop in pairwise([*range(0, len(table), CHUNK), len(table)]):
        yield table.fields.iloc[start:stop], prepare(table.shapes[start:stop])


def geometry_type(layer: str, frame: AnyTable) -> str:
    """The type of a layer's shapes, such as "Polygon"; "MultiPolygon" where both stand side by side.

    Args:
        layer: Name of the layer, which tells what a layer without rows is meant to hold.
        frame: Its rows.

    Raises:
        UsageError: If points, lines and polygons are mixed.
    """
    found = sorted(Table.of(frame).kinds, key=lambda kind: (len(kind), kind))
    if not found:
        return _EMPTY.get(layer, "Polygon")
    if len({kind.removeprefix("Multi") for kind in found}) > 1:
        raise UsageError(
            f"layer {layer!r} mixes {' and '.join(found)}. Expected points, lines or polygons alone. Give each a layer "
            "of its own."
        )
    return found[-1]
