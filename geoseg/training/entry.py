"""Entry: the decoded pixels of some pieces in one flat file, and an index of where each lies and what it comes to."""

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import numpy as np

from geoseg.errors import ShapeError
from geoseg.losses import outline_distances
from geoseg.losses.boundary import FAR
from geoseg.training.pieces import Decoded, Piece
from geoseg.training.summary import Summary, Tally, Values
from geoseg.windows import Window

_ALIGN = 64
_STRIP_BYTES = 32 << 20
_LEAST_ROWS = 256
"""Fewer rows are not decoded in one go: blocks of files would be decoded over and over."""
_BLOCK = 1 << 20
"""Bytes under one checksum."""
_LOOKED_AT = 16
"""Blocks compared with their checksums when an entry is opened, evenly spread: a whole one would take too long."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The arrays of one piece, views of the entry's pixels, and what they come to."""

    data: np.ndarray
    valid: np.ndarray
    target: np.ndarray
    further: dict[str, np.ndarray]
    distances: np.ndarray | None
    summary: Summary


@dataclass(slots=True)
class _Layout:
    """Where the arrays of one piece lie: name -> (offset, dtype, shape)."""

    places: dict[str, tuple[int, str, tuple[int, ...]]] = field(default_factory=dict)
    end: int = 0

    def add(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        offset = -(-self.end // _ALIGN) * _ALIGN
        self.places[name] = offset, dtype, shape
        self.end = offset + math.prod(shape) * np.dtype(dtype).itemsize


def bytes_needed(pieces: Sequence[Piece], further: Mapping[str, int], planes: Sequence[int]) -> int:
    """What the pixels of some pieces take.

    Args:
        pieces: Whose.
        further: Bands of each further head.
        planes: Of distances, for each piece.
    """
    end = 0
    for piece, count in zip(pieces, planes, strict=True):
        end = _layout(piece, further, count, end).end
    return end


def _layout(piece: Piece, further: Mapping[str, int], planes: int, start: int) -> _Layout:
    layout, shape = _Layout(end=start), piece.grid.shape
    layout.add("data", piece.dtype.str, (len(piece.bands), *shape))
    layout.add("valid", "|b1", shape)
    layout.add("target", "|u1", shape)
    for name, bands in further.items():
        layout.add(f"further/{name}", "<f4", (bands, *shape))
    if planes:
        layout.add("distances", "<f2", (planes, *shape))
    return layout


def build(
    pieces: Mapping[str, Piece], further: Mapping[str, int], planes: Sequence[int], classes: int, file: BinaryIO
) -> bytes:
    """Decode pieces into a file, strip by strip.

    Args:
        pieces: By key.
        further: Bands of each further head.
        planes: Of distances, for each piece.
        classes: Number of classes, if `planes` are not 0.
        file: Open for reading and writing; on the disk or in memory.

    Returns:
        The index, for `stored`.
    """
    end, found = 0, {}
    for (key, piece), count in zip(pieces.items(), planes, strict=True):
        layout = _layout(piece, further, count, end)
        summary = _Writer(piece, layout, further, file).write()
        if count:
            _write_distances(piece, layout, classes, file)
        positions = np.concatenate([*summary.positions.values(), np.zeros((0, 2), np.int32)])
        layout.add("positions", "<i4", positions.shape)
        file.seek(layout.places["positions"][0])
        file.write(positions.astype("<i4").tobytes())
        found[key] = {"places": layout.places, "summary": _written(summary)}
        end = layout.end
    file.seek(0, os.SEEK_END)
    file.write(b"\0" * (end - file.tell()))
    index = json.dumps({"bytes": end, "pieces": found, "checksums": list(_checksums(file, end))}).encode()
    return b"%08x\n%s" % (zlib.crc32(index), index)


class _Writer:
    """Decodes one piece."""

    def __init__(self, piece: Piece, layout: _Layout, further: Mapping[str, int], file: BinaryIO) -> None:
        self.piece, self.layout, self.file = piece, layout, file
        self.further = dict(further)
        self.tally = Tally(len(piece.bands), piece.dtype, piece.grid.shape, further)

    def write(self) -> Summary:
        height, width = self.piece.grid.shape
        row_bytes = width * (len(self.piece.bands) * self.piece.dtype.itemsize + 2 + 4 * sum(self.further.values()))
        step = max(_LEAST_ROWS, _STRIP_BYTES // row_bytes // _LEAST_ROWS * _LEAST_ROWS)
        for row in range(0, height, step):
            window = Window(row=row, col=0, height=min(step, height - row), width=width)
            strip = self.piece.read(window)
            self._check(strip, window)
            self._put("data", row, strip.data)
            self._put("valid", row, strip.valid)
            self._put("target", row, strip.target)
            for name in self.further:
                self._put(f"further/{name}", row, strip.further[name])
            self.tally.add(row, strip.data, strip.valid, strip.target, strip.further)
        return self.tally.summary()

    def _check(self, strip: Decoded, window: Window) -> None:
        wanted = {"data": (len(self.piece.bands), *window.shape), "valid": window.shape, "target": window.shape}
        wanted |= {name: (bands, *window.shape) for name, bands in self.further.items()}
        given = {"data": strip.data, "valid": strip.valid, "target": strip.target} | dict(strip.further)
        for name, shape in wanted.items():
            if name not in given or given[name].shape != shape:
                had = given[name].shape if name in given else "nothing"
                raise ShapeError(f"{self.piece.name}: {name} of a strip is {had}. Expected {shape}.")
        if strip.data.dtype != self.piece.dtype:
            raise ShapeError(f"{self.piece.name}: pixels are {strip.data.dtype}. Expected {self.piece.dtype}.")

    def _put(self, name: str, row: int, strip: np.ndarray) -> None:
        offset, dtype, shape = self.layout.places[name]
        line = shape[-1] * np.dtype(dtype).itemsize
        for band, plane in enumerate(strip.reshape(-1, *strip.shape[-2:])):
            self.file.seek(offset + (band * shape[-2] + row) * line)
            self.file.write(np.ascontiguousarray(plane, dtype).data)


def _write_distances(piece: Piece, layout: _Layout, classes: int, file: BinaryIO) -> None:
    (start, _, (height, width)), (offset, _, _) = layout.places["target"], layout.places["distances"]
    step = max(_LEAST_ROWS, _STRIP_BYTES // width)
    for row in range(0, height, step):
        first, stop = max(row - FAR - 1, 0), min(row + step, height)
        last = min(stop + FAR + 1, height)
        file.seek(start + first * width)
        target = np.frombuffer(file.read((last - first) * width), np.uint8).reshape(-1, width)
        found = outline_distances(target, piece.known, classes)[:, row - first : stop - first]
        for band, plane in enumerate(found):
            file.seek(offset + (band * height + row) * width * 2)
            file.write(np.ascontiguousarray(plane, "<f2").data)


def stored(index: bytes, pixels: Any) -> dict[str, Stored]:
    """The arrays of every piece by key, as views of `pixels`.

    Args:
        index: Of `build`.
        pixels: The file, as a buffer.

    Raises:
        ValueError: If either is damaged, as far as can be seen in a moment.
    """
    checksum, _, text = index.partition(b"\n")
    if checksum != b"%08x" % zlib.crc32(text):
        raise ValueError("checksum of the index")
    content = json.loads(text)
    if len(pixels) != content["bytes"]:
        raise ValueError(f"{len(pixels)} bytes of pixels instead of {content['bytes']}")
    checksums = content["checksums"]
    for number in sorted({round(at) for at in np.linspace(0, len(checksums) - 1, _LOOKED_AT)} if checksums else ()):
        if zlib.crc32(pixels[number * _BLOCK : (number + 1) * _BLOCK]) != checksums[number]:
            raise ValueError(f"checksum of block {number} of the pixels")
    return {key: _stored(piece, pixels) for key, piece in content["pieces"].items()}


def _stored(piece: dict[str, Any], pixels: Any) -> Stored:
    arrays = {
        name: np.frombuffer(pixels, dtype, math.prod(shape), offset).reshape(shape)
        for name, (offset, dtype, shape) in piece["places"].items()
    }
    further = {name.partition("/")[2]: plane for name, plane in arrays.items() if name.startswith("further/")}
    summary = _read(piece["summary"], arrays["positions"])
    return Stored(arrays["data"], arrays["valid"], arrays["target"], further, arrays.get("distances"), summary)


def _checksums(file: BinaryIO, size: int) -> Iterator[int]:
    file.seek(0)
    return (zlib.crc32(file.read(_BLOCK)) for _ in range(0, size, _BLOCK))


def _written(summary: Summary) -> dict[str, Any]:
    """A summary as JSON has it, but for the positions themselves."""
    return {
        "counts": _sparse(summary.counts.tolist()),
        "usable": summary.usable,
        "moments": [summary.mean, summary.square, summary.low, summary.high],
        "further": {
            name: asdict(values) | {"counts": [_sparse(own) for own in values.counts]}
            for name, values in summary.further.items()
        },
        "positions": [(value, len(where)) for value, where in summary.positions.items()],
    }


def _read(written: dict[str, Any], positions: np.ndarray) -> Summary:
    mean, square, low, high = (tuple(values) for values in written["moments"])
    further = {
        name: Values(**(values | {"counts": tuple(tuple(_dense(own)) for own in values["counts"])}))
        for name, values in written["further"].items()
    }
    ends = np.cumsum([count for _, count in written["positions"]]).tolist()
    spans = zip(written["positions"], [0, *ends], ends, strict=False)
    where = {value: positions[start:end] for (value, _), start, end in spans}
    counts = np.array(_dense(written["counts"]), np.int64)
    return Summary(counts, written["usable"], mean, square, low, high, further, where)


def _sparse(counts: Iterable[int]) -> list[tuple[int, int]]:
    return [(value, count) for value, count in enumerate(counts) if count]


def _dense(counts: Iterable[tuple[int, int]]) -> list[int]:
    found = [0] * 256
    for value, count in counts:
        found[value] = count
    return found
