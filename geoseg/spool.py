"""Spool: the journal of a run. One compressed file per finished cell, in a folder beside the output."""

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import zstandard

from geoseg.errors import OutputError, OutputExistsError, ResumeError
from geoseg.lock import LOCK, take_lock, writing_to

_RUN, _CELL = "run.json", "cell-{:08d}.zst"
_MAGIC = b"GSC1"
_GLANCE = 16
"""Characters of a setting up to which an error repeats it."""
_OURS = re.compile(r"lock|run\.(json|part)|cell-\d+\.(zst|part)")


class Spool:
    """A folder of finished cells, owned by one process at a time. Written by the parent only."""

    def __init__(self, folder: Path, lock: BinaryIO, unit: str = "cell", inputs: str = "scene, model") -> None:
        """Use `Spool.open`."""
        self.folder = folder
        self._lock, self._unit, self._inputs = lock, unit, inputs
        self._compressor = zstandard.ZstdCompressor(level=1, write_checksum=True)
        self.done: set[int] = set()
        """Indices of the finished cells."""

    @classmethod
    def open(
        cls,
        folder: Path,
        fingerprint: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        unit: str = "cell",
        inputs: str = "scene, model",
    ) -> "Spool":
        """Begin a run, or go on with one.

        Args:
            folder: Made if it is not there; its parent exists.
            fingerprint: What the cells depend on, as JSON has it, under the names that a user knows.
            resume: Go on with the cells that are there. Nothing to go on with is not an error.
            overwrite: Throw away the cells that are there.
            unit: What a cell is to the user, for messages.
            inputs: What the user gives a run beside options, for messages.

        Raises:
            OutputExistsError: If another process works on it, there are cells and neither flag is given, or the folder
                holds what no run of geoseg has put there.
            ResumeError: If the cells are those of another scene, checkpoint or other settings.
            OutputError: If the folder cannot be written.
        """
        with writing_to(folder):
            folder.mkdir(exist_ok=True)
            if foreign := sorted(path.name for path in folder.iterdir() if not _OURS.fullmatch(path.name)):
                raise OutputExistsError(
                    f"{folder} holds {foreign[0]}, which is of no interrupted run. Expected a free name. Move it away."
                )
            spool = cls(folder, take_lock(folder), unit, inputs)
            try:
                spool._begin(dict(fingerprint), resume, overwrite)
            except BaseException:
                spool.close()
                raise
        return spool

    def _begin(self, fingerprint: dict[str, Any], resume: bool, overwrite: bool) -> None:
        found = sorted(self.folder.glob("cell-*.zst"))
        if found and not (resume or overwrite):
            raise OutputExistsError(
                f"{self.folder} holds {len(found)} finished {self._unit}s of an interrupted run. "
                "Expected --resume to go on with them, or --overwrite to start again."
            )
        if found and resume:
            self._compare(fingerprint)
            for path in found:
                with contextlib.suppress(OutputError):  # a damaged cell is predicted again
                    index = int(path.stem.removeprefix("cell-"))
                    self.read(index)
                    self.done.add(index)
            return
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()
        _write(self.folder / _RUN, json.dumps(fingerprint, indent=1, sort_keys=True).encode())

    def _compare(self, fingerprint: dict[str, Any]) -> None:
        try:
            before = json.loads((self.folder / _RUN).read_text())
        except (OSError, ValueError) as err:
            raise ResumeError(
                f"{self.folder / _RUN}, which says what run the {self._unit}s are of, cannot be read ({err}). Expected "
                "it as it was written. Use --overwrite to start again."
            ) from err
        now = json.loads(json.dumps(fingerprint))
        changed = [key for key in now | before if before.get(key) != now.get(key)]
        if changed:
            said = ", ".join(f"{key} {_difference(before.get(key), now.get(key))}" for key in changed)
            raise ResumeError(
                f"{self.folder} is of another run: {said}. Expected the first run's {self._inputs} and options. "
                "Repeat them, or use --overwrite to start again."
            )

    def write(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a finished cell: on disk when this returns, or not there at all.

        Raises:
            OutputError: If it cannot be written, for example because the disk is full.
        """
        parts = [self._compressor.compress(np.ascontiguousarray(array).data) for array in arrays.values()]
        sizes = map(len, parts)
        layout = json.dumps([[n, a.dtype.str, a.shape, next(sizes)] for n, a in arrays.items()]).encode()
        # zstd guards the arrays, this the layout.
        head = _MAGIC + len(layout).to_bytes(4, "little") + zlib.crc32(layout).to_bytes(4, "little")
        with writing_to(self.folder):
            _write(self.folder / _CELL.format(index), b"".join([head, layout, *parts]))
        self.done.add(index)

    def read(self, index: int, only: str | None = None) -> dict[str, np.ndarray]:
        """A finished cell's arrays by name, all or one of them.

        Raises:
            OutputError: If the file is damaged.
        """
        path = self.folder / _CELL.format(index)
        try:
            with path.open("rb") as file:
                return dict(_arrays(file, only))
        except (OSError, ValueError, MemoryError, zstandard.ZstdError) as err:
            raise OutputError(
                f"{path} is damaged ({err}). Expected the {self._unit} as it was written. Start again."
            ) from err

    def remove(self) -> None:
        """Delete the folder: the run is complete, or its cells are of no use."""
        # The lock goes last and while it is held, or cells that another process has begun to write would go, too.
        with contextlib.suppress(OSError):
            for path in self.folder.glob("*"):
                if path.name != LOCK:
                    path.unlink()
            (self.folder / LOCK).unlink()
        self._lock.close()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        """Let another process have the folder. One that holds no cells is removed."""
        if not self._lock.closed and not any(self.folder.glob("cell-*.zst")):
            self.remove()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _difference(before: Any, now: Any) -> str:
    """As "was 84, now 44" if that can be read at a glance."""
    plain = {"true": "on", "false": "off", "null": "none"}
    was, is_now = (plain.get(text, text.strip('"')) for text in (json.dumps(before), json.dumps(now)))
    return f"was {was}, now {is_now}" if max(len(was), len(is_now)) <= _GLANCE else "differs"


def _arrays(file: BinaryIO, only: str | None) -> Iterator[tuple[str, np.ndarray]]:
    if file.read(4) != _MAGIC:
        raise ValueError("not a cell file")
    size, checksum = (int.from_bytes(file.read(4), "little") for _ in range(2))
    layout = file.read(size)
    if zlib.crc32(layout) != checksum:
        raise ValueError("checksum of the layout")
    for name, dtype, shape, size in json.loads(layout):
        if only not in (None, name):
            file.seek(size, os.SEEK_CUR)
            continue
        content = zstandard.ZstdDecompressor().decompress(file.read(size))
        yield name, np.frombuffer(content, dtype).reshape(shape)


def _write(path: Path, content: bytes) -> None:
    """Under another name, to the disk, then by rename."""
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
