"""A folder that appears complete or not at all."""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from geoseg.errors import OutputError, OutputExistsError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_LOCK = "lock"


class NewFolder:
    """A folder that is written under a hidden name beside its own and renamed when all is there.

    Use as a context manager: without `commit` nothing is left. What a killed run left goes with the next one. Two runs
    for one folder: the second is refused.
    """

    def __init__(self, path: Path, *, inputs: Iterable[Path], ours: Iterable[str], overwrite: bool) -> None:
        """Check the name before any work is done.

        Args:
            path: The folder.
            inputs: Files that are read: none may lie in a folder that is replaced.
            ours: What a folder must hold to be replaced; others are not geoseg's to delete.
            overwrite: Whether a folder that exists may be replaced.

        Raises:
            OutputExistsError: If it exists and may not be replaced, or another run writes it.
            OutputError: If the folder around it is missing or not writable.
        """
        self.path = path
        self.staged = path.absolute().parent / f".{path.absolute().name}.partial"
        """Where to write."""
        self._ours, self._overwrite = tuple(ours), overwrite
        self._lock: BinaryIO | None = None
        parent = path.absolute().parent
        if not parent.is_dir():
            raise OutputError(f"{path}: the folder {parent} does not exist. Expected an existing folder. Create it.")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(f"{path}: the folder {parent} is not writable. Expected a writable folder.")
        self._old = self.staged.with_suffix(".old")
        if self._old.is_dir() and not os.path.lexists(path):  # a run was killed between two renames
            self._old.rename(path)
        self._check_free(inputs)

    def _check_free(self, inputs: Iterable[Path]) -> None:
        path = self.path
        if not os.path.lexists(path):
            return
        if path.is_symlink() or not path.is_dir():
            raise OutputExistsError(f"{path} exists and is no folder. Expected a free name.")
        if not any(path.iterdir()):
            return
        if not self._overwrite:
            raise OutputExistsError(f"{path} exists. Expected a free name, or --overwrite to replace it.")
        if missing := [name for name in self._ours if not (path / name).exists()]:
            raise OutputExistsError(
                f"{path} has no {missing[0]}: it is not of this command, and is not replaced. Expected a free name."
            )
        whole = path.resolve()
        for source in inputs:
            if whole in source.resolve().parents:
                raise OutputExistsError(f"{source} lies in {path}, which would be replaced. Expected another folder.")

    def __enter__(self) -> Self:
        try:
            self.staged.mkdir(exist_ok=True)
            self._lock = self._locked()
            for entry in self.staged.iterdir():
                if entry.name != _LOCK:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        except OSError as err:
            if isinstance(err, OutputExistsError):
                raise
            raise OutputError(f"{self.path} cannot be written ({err.strerror}). Expected a writable folder.") from err
        return self

    def _locked(self) -> BinaryIO:
        lock = (self.staged / _LOCK).open("a+b")
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                lock.close()
                raise OutputExistsError(
                    f"{self.path} is being written by another run. Expected one run per output. Wait for it, or end it."
                ) from err
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        lock.flush()
        return lock

    def commit(self) -> None:
        """Give the folder its name; one that it replaces is deleted after that.

        Raises:
            OutputExistsError: If something of that name has appeared since the start.
            OutputError: If it cannot be renamed.
        """
        old = self._old
        self._sync()
        try:
            if os.path.lexists(self.path) and any(self.path.iterdir()):
                if not self._overwrite:
                    raise OutputExistsError(f"{self.path} has appeared during the run. Expected a free name.")
                shutil.rmtree(old, ignore_errors=True)
                self.path.rename(old)
            self.staged.rename(self.path)
        except OSError as err:
            if isinstance(err, OutputExistsError):
                raise
            if old.exists() and not self.path.exists():
                old.rename(self.path)
            raise OutputError(
                f"{self.path} cannot be put in place ({err.strerror}). Expected a writable folder."
            ) from err
        # Held until now: a second run would take an unlocked folder for one that a killed run left.
        (self.path / _LOCK).unlink(missing_ok=True)
        self._release()
        shutil.rmtree(old, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None:  # not committed
            with contextlib.suppress(OSError):
                shutil.rmtree(self.staged)
            self._release()

    def _sync(self) -> None:
        """All files to the disk. At the end, when most are there already: one by one it would take a quarter longer."""
        for path in self.staged.rglob("*"):
            try:
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            except OSError as err:
                raise OutputError(f"{path} cannot be written ({err.strerror}). Expected a disk with room.") from err

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
        self._lock = None
