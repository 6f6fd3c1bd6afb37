"""Outputs: a set of files that appear together, complete, or not at all."""

import errno
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import Self

from geoseg.errors import OutputError, OutputExistsError, UsageError

_SIDES = (".aux.xml", ".ovr", ".msk")
"""Endings of files that GDAL takes for a part of the raster beside them: those of an earlier raster must go with it."""


class Outputs:
    """Names for a run's files: checked when made, written under temporary names, renamed together at the end.

    Use as a context manager: what is not committed is removed. Temporary files lie in the folder of the file they
    become, so that the rename cannot fail half-way over file systems.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        *,
        inputs: Iterable[str | Path] = (),
        overwrite: bool = False,
        run: str | None = None,
    ) -> None:
        """Check every path before any work is done.

        Args:
            paths: File by name; the first is the main one and appears last.
            inputs: Files that are read: none may be an output, also not through links.
            overwrite: Whether files that exist may be replaced.
            run: A name that no other run at work has, by default the process's number. Temporary files are named after
                it, so a run that goes on for a killed one under the same name clears up behind it.

        Raises:
            UsageError: If two outputs are one file, or an output is an input.
            OutputExistsError: If one exists, and `overwrite` is not given.
            OutputError: If a folder is missing or not writable.
        """
        self._paths = {name: Path(path) for name, path in paths.items()}
        self._overwrite = overwrite
        self._run = run or str(os.getpid())
        self._staged: dict[Path, Path] = {}
        read = [Path(path) for path in inputs]
        for index, path in enumerate(self._paths.values()):
            _check(path, read, overwrite, self._run)
            for other in list(self._paths.values())[:index]:
                if os.path.realpath(path) == os.path.realpath(other):
                    raise UsageError(f"{path} is named for two outputs. Expected different files.")

    def staged(self, name: str, side: str = "") -> Path:
        """The temporary name to write output `name` under.

        Args:
            name: A key of `paths`.
            side: Ending of a file that belongs beside it, such as ".aux.xml".
        """
        final = self._paths[name]
        temporary = _temporary(final, self._run, side)
        self._staged[temporary] = final.with_name(final.name + side)
        return temporary

    def commit(self) -> list[Path]:
        """Rename everything written: side files first, the main output last.

        Returns:
            The files that are now there, in this order.

        Raises:
            OutputExistsError: If a file of that name has appeared since the start.
            OutputError: If a rename fails.
        """
        last = next(iter(self._paths.values()))
        order = sorted(self._staged.items(), key=lambda pair: pair[1] == last)
        placed: list[Path] = []
        try:
            for temporary, final in order:
                _sync(temporary, final)
            for temporary, final in order:
                self._place(temporary, final)
                placed.append(final)
        except BaseException:
            if not self._overwrite:  # all names were free; what has been replaced cannot be brought back
                for final in placed:
                    final.unlink(missing_ok=True)
            raise
        for temporary, _ in reversed(order):  # the main one first: whoever is killed from here on is done
            temporary.unlink(missing_ok=True)
        self._staged.clear()
        return placed

    def _place(self, temporary: Path, final: Path) -> None:
        try:
            for side in _SIDES if self._overwrite else ():
                if (beside := final.with_name(final.name + side)) not in self._staged.values():
                    beside.unlink(missing_ok=True)
            if self._overwrite or not _linked(temporary, final):
                temporary.replace(final)
        except FileExistsError as err:
            raise OutputExistsError(f"{final} has appeared during the run. Expected a free name.") from err
        except OSError as err:
            raise OutputError(f"{final} cannot be put in place ({err.strerror}). Expected a writable folder.") from err

    def __enter__(self) -> Self:
        for final in self._paths.values():
            for side in ("", *_SIDES):
                if _is_leftover(final, self._run, side):
                    final.with_name(final.name + side).unlink()
        self._clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clear()

    def _clear(self) -> None:
        for final in self._paths.values():
            temporary = _temporary(final, self._run)
            # Libraries put files of their own beside the one they write.
            for path in temporary.parent.glob(f"{escape(temporary.name)}*"):
                path.unlink(missing_ok=True)


def _temporary(final: Path, run: str, side: str = "") -> Path:
    """One file per output and run, hidden, with the ending that drivers go by, and no longer than a name may be."""
    digest = zlib.crc32(f"{final.name}\n{run}".encode(errors="surrogateescape"))
    stem = re.sub(r"[^\w-]", "_", final.stem[:40])  # drivers read more into a name than its letters
    return final.with_name(f".{stem}.{digest:08x}.part{final.suffix}{side}")


def _is_leftover(final: Path, run: str, side: str = "") -> bool:
    """Whether a run of this name was killed while it put its files in place: until all are, each has two names."""
    try:
        return final.with_name(final.name + side).samefile(_temporary(final, run, side))
    except OSError:
        return False


def _check(path: Path, inputs: Iterable[Path], overwrite: bool, run: str) -> None:
    with _told(path):
        for source in inputs:
            if path.exists() and source.exists() and path.samefile(source):
                raise OutputExistsError(f"output {path} is the input {source}. Expected another name.")
        if path.is_symlink() and not path.exists():
            raise OutputExistsError(f"{path} is a link to nothing. Expected a free name.")
        check_place(path, run)
        if path.exists() and not overwrite and not _is_leftover(path, run):
            raise OutputExistsError(f"{path} exists. Expected a free name, or --overwrite to replace it.")
        for side in _SIDES:
            beside = path.with_name(path.name + side)
            if os.path.lexists(beside) and not overwrite and not _is_leftover(path, run, side):
                raise OutputExistsError(f"{beside} exists, of an earlier raster. Expected it gone, or --overwrite.")


def check_place(path: Path, run: str | None = None) -> None:
    """Refuse a file that could not be written, whether there is one to replace or not.

    Args:
        path: The file.
        run: As of `Outputs`.

    Raises:
        OutputExistsError: If something else than a file has the name.
        OutputError: If the folder is missing or not writable, or no file can have such a name.
    """
    with _told(path):
        str(path).encode()  # GDAL and SQLite take UTF-8 only: refused now rather than after hours
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise OutputExistsError(f"{path} exists and is no regular file. Expected a free name.")
        folder = path.parent
        if not folder.is_dir():
            raise OutputError(f"{path}: the folder {folder} does not exist. Expected an existing folder. Create it.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{path}: the folder {folder} is not writable. Expected a writable folder.")
        # Quotas, read-only file systems, names too long: to make a file is the only sure answer.
        probe = _temporary(path, run or str(os.getpid()), ".probe")
        probe.touch()
        probe.unlink()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system says of a name becomes one error."""
    try:
        yield
    except OSError as err:
        if isinstance(err, OutputExistsError | OutputError):
            raise
        raise OutputError(f"{path} cannot be written ({err.strerror}). Expected a name in a writable folder.") from err
    except ValueError as err:
        raise OutputError(f"{path} cannot be written ({err}). Expected a name in UTF-8.") from err


def _linked(temporary: Path, final: Path) -> bool:
    """Name the file `final` too, which fails where the name is taken, unlike a rename. False: no hard links here."""
    try:
        os.link(temporary, final)
    except OSError as err:
        if err.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if final.exists():  # as near as a rename gets
            raise FileExistsError(final) from err
        return False
    return True


def _sync(temporary: Path, final: Path) -> None:
    try:
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as err:
        raise OutputError(f"{final} cannot be written ({err.strerror}). Expected a disk with room.") from err
