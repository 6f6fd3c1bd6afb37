"""Room: the folder of the cache, which several runs share; who may write and remove what in it, and what fits."""

import contextlib
import errno
import logging
import mmap
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from geoseg.training.entry import Stored, stored

try:
    import fcntl
except ImportError:  # not on Windows, where a file that another process has mapped cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

PIXELS, INDEX = "pixels.bin", "index.json"
"""The two files of an entry, which is a folder."""

_ENTRY = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{8}\.part")
"""An entry that is being built or removed."""
_SPARE = 256 << 20
"""Bytes that are left free on a disk, and in memory."""
_YOUNG = 60
"""Seconds for which an entry may be in the making and not yet be locked."""


def open_entry(path: Path) -> dict[str, Stored] | None:
    """An entry, kept from removal for as long as one of its arrays lives; None if it is missing or damaged."""
    try:
        with (path / PIXELS).open("rb") as file:
            if not _lock(file, exclusive=False):  # it is being removed
                return None
            # The map keeps a copy of what is open, and so the lock, until the last array of it is gone.
            pixels = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if not os.path.samestat((path / PIXELS).stat(), os.fstat(file.fileno())):
                return None
    except FileNotFoundError:
        if path.is_dir():
            _remove(path)
        return None
    except ValueError:  # an empty file cannot be mapped
        pixels = None
    try:
        found = stored((path / INDEX).read_bytes(), pixels or b"")
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError) as err:
        log.warning("%s is damaged (%s): its pixels are decoded again.", path, err)
        _remove(path, used=True)
        return None
    with contextlib.suppress(OSError):  # in a folder that can only be read
        os.utime(path / INDEX)
    return found


def make_entry(path: Path, size: int, write: Callable[[BinaryIO], bytes]) -> None:
    """Build an entry under another name; rename it when all of it is on the disk.

    Args:
        path: Of the entry. One that is there already stays.
        size: Least bytes of the pixels.
        write: Writes the pixels to a file and returns the index.

    Raises:
        OSError: If it cannot be written. Nothing is left of it.
    """
    part = _other_name(path)
    part.mkdir()
    try:
        with (part / PIXELS).open("w+b") as file:
            _lock(file, exclusive=True)
            _reserve(file, size)
            index = write(file)
            _to_disk(file)
        with (part / INDEX).open("wb") as file:
            file.write(index)
            _to_disk(file)
        try:
            part.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def make_room(folder: Path, size: int, limit: int) -> str:
    """Remove the entries that were used longest ago until another one fits. None that is in use is removed.

    Args:
        folder: Of the cache.
        size: Bytes that the new entry takes.
        limit: Bytes that all entries may take.

    Returns:
        Nothing if it fits, else why not.
    """
    entries, used = [], 0
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            own = (path / PIXELS).stat().st_size if _ENTRY.fullmatch(path.name[:32]) else 0
            if _ENTRY.fullmatch(path.name):
                entries.append(((path / INDEX).stat().st_mtime, own, path))
                used += own
            elif _PART.fullmatch(path.name):
                killed = time.time() - path.stat().st_mtime > _YOUNG and _remove(path)  # its builder was
                used += 0 if killed else own
    oldest = sorted(entries, reverse=True)
    while True:
        free = shutil.disk_usage(folder).free
        if size + used <= limit and size + _SPARE <= free:
            return ""
        if not oldest or size > limit or size + _SPARE > free + used:
            return (
                f"it may take {limit / 1e9:g} GB, {used / 1e9:.1f} GB of them in use"
                if size + used > limit
                else f"{free / 1e9:.1f} GB of the disk are free"
            )
        _, own, path = oldest.pop()
        if _remove(path):
            log.info("Removed %s from the cache: it was used longest ago.", path)
            used -= own


@contextlib.contextmanager
def alone(path: Path, busy: str) -> Iterator[None]:
    """Wait until no other process is in here with the same lock file; `busy` is logged if that takes time.

    It only saves work: where files cannot be locked, two processes may be in here and build the same entry.
    """
    while True:
        file = path.open("a+b")
        if not _lock(file, exclusive=True):
            log.info(busy)
            _lock(file, exclusive=True, wait=True)
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                break
        file.close()  # the one before has removed it
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()


def free_memory() -> int | None:
    """Bytes that a process may still take without harm, where the system tells."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        group = Path("/sys/fs/cgroup")
        most, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        kept = [line.split()[1] for line in (group / "memory.stat").read_text().splitlines() if line[:5] == "file "]
        found.append(most - used + sum(map(int, kept)))  # of files, to be read again when need be
    return max(min(found) - _SPARE, 0) if found else None


def _remove(path: Path, *, used: bool = False) -> bool:
    """Take an entry, or what is left of one, out of the folder; not while a process uses it, unless `used`."""
    gone = _other_name(path)
    try:
        with contextlib.ExitStack() as opened:
            with contextlib.suppress(FileNotFoundError):
                file = opened.enter_context((path / PIXELS).open("rb"))
                if not used and not _lock(file, exclusive=True):
                    return False
            path.rename(gone)
    except OSError:
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _other_name(path: Path) -> Path:
    return path.with_name(f"{path.name[:32]}.{secrets.token_hex(4)}.part")


def _lock(file: BinaryIO, *, exclusive: bool, wait: bool = False) -> bool:
    """Whether the file is now locked; True as well where files cannot be locked."""
    if fcntl:
        kind = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(file, kind)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True


def _reserve(file: BinaryIO, size: int) -> None:
    """Better to run out of room now than in the end; where that cannot be asked for, in the end."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
