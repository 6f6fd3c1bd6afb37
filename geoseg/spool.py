"""Spool: the journal of a run. One compressed file per finished cell, in a folder beside the output."""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import zstandard

from geoseg.errors import OutputError, OutputExistsError, ResumeError

try:
    import fcntl
except ImportError:  # not on Windows, where a file that another process has open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

_RUN, _LOCK, _CELL = "run.json", "lock", "cell-{:08d}.zst"
_MAGIC = b"GSC1"


class Spool:
    """A folder of finished cells, owned by one process at a time. Written by the parent only."""

    def __init__(self, folder: Path, lock: BinaryIO) -> None:
        """Use `Spool.open`."""
        self.folder = folder
        self._lock = lock
        self._compressor = zstandard.ZstdCompressor(level=1, write_checksum=True)
        self.done: set[int] = set()
        """Indices of the finished cells."""

    @classmethod
    def open(
        cls, folder: Path, fingerprint: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> "Spool":
        """Begin a run, or go on with one.

        Args:
            folder: Made if it is not there; its parent exists.
            fingerprint: What the cells depend on, as JSON has it.
            resume: Go on with the cells that are there. Nothing to go on with is not an error.
            overwrite: Throw away the cells that are there.

        Raises:
            OutputExistsError: If another process works on it, or there are cells and neither flag is given.
            ResumeError: If the cells are those of another scene, checkpoint or other settings.
            OutputError: If the folder cannot be written.
        """
        with _translated(folder):
            folder.mkdir(exist_ok=True)
            spool = cls(folder, _take_lock(folder))
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
                f"{self.folder} holds {len(found)} finished cells of an interrupted run. "
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
            if path.name != _LOCK:
                path.unlink()
        _write(self.folder / _RUN, json.dumps(fingerprint, indent=1, sort_keys=True).encode())

    def _compare(self, fingerprint: dict[str, Any]) -> None:
        try:
            before = json.loads((self.folder / _RUN).read_text())
        except (OSError, ValueError):
            before = {}
        now = json.loads(json.dumps(fingerprint))
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            raise ResumeError(
                f"{self.folder} is of another run: {', '.join(changed)} differ. Expected the same scene, checkpoint and "
                "settings. Use --overwrite to start again."
            )

    def write(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a finished cell: on disk when this returns, or not there at all.

        Raises:
            OutputError: If it cannot be written, for example because the disk is full.
        """
        layout = json.dumps([[name, array.dtype.str, array.shape] for name, array in arrays.items()]).encode()
        parts = [_MAGIC, len(layout).to_bytes(4, "little"), layout]
        parts += [self._compressor.compress(np.ascontiguousarray(array).data) for array in arrays.values()]
        sizes = b"".join(len(part).to_bytes(8, "little") for part in parts[3:])
        with _translated(self.folder):
            _write(self.folder / _CELL.format(index), b"".join([*parts[:3], sizes, *parts[3:]]))
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
        except (OSError, ValueError, zstandard.ZstdError) as err:
            raise OutputError(f"{path} is damaged ({err}). Expected the cell as it was written. Start again.") from err

    def remove(self) -> None:
        """Delete the folder: the run is complete, or its cells are of no use."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let another process have the folder. One that holds no cells is removed."""
        if not self._lock.closed and not any(self.folder.glob("cell-*.zst")):
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _arrays(file: BinaryIO, only: str | None) -> Iterator[tuple[str, np.ndarray]]:
    if file.read(4) != _MAGIC:
        raise ValueError("not a cell file")
    layout = json.loads(file.read(int.from_bytes(file.read(4), "little")))
    sizes = [int.from_bytes(file.read(8), "little") for _ in layout]
    for (name, dtype, shape), size in zip(layout, sizes, strict=True):
        if only not in (None, name):
            file.seek(size, os.SEEK_CUR)
            continue
        content = zstandard.ZstdDecompressor().decompress(file.read(size))
        yield name, np.frombuffer(content, dtype).reshape(shape)


def _take_lock(folder: Path) -> BinaryIO:
    lock = (folder / _LOCK).open("a+b")
    if fcntl:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            lock.seek(0)
            holder = lock.read().decode(errors="replace")
            lock.close()
            raise OutputExistsError(
                f"{folder} is in use by another run ({holder}). Expected one run per output. Wait for it, or end it."
            ) from err
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z".encode())
    lock.flush()
    return lock


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


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if isinstance(err, OutputError | OutputExistsError):
            raise
        raise OutputError(
            f"{folder} cannot be written ({err.strerror or err}). Expected a writable folder with room."
        ) from err
