"""Lock: a folder that one process at a time writes, and what is said when it cannot."""

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from geoseg.errors import OutputError, OutputExistsError

try:
    import fcntl
except ImportError:  # not on Windows, where a file that another process has open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
"""Name of the file, which whoever holds it removes in the end."""


def take_lock(folder: Path) -> BinaryIO:
    """An open file in a folder that no other process can lock; it says who has it.

    Raises:
        OutputExistsError: If another process has it.
    """
    path = folder / LOCK
    while True:
        lock = path.open("a+b")
        if not fcntl:
            break
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            lock.seek(0)
            holder = lock.read().decode(errors="replace")
            lock.close()
            raise OutputExistsError(
                f"{folder} is in use by another run ({holder}). Expected one run per output. Wait for it, or end it."
            ) from err
        with contextlib.suppress(OSError):  # the one before may have removed it just now
            if os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
                break
        lock.close()
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z".encode())
    lock.flush()
    return lock


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """What the system refuses while something is written to a folder becomes one error.

    Raises:
        OutputError: If a file cannot be written.
    """
    try:
        yield
    except OSError as err:
        if isinstance(err, OutputError | OutputExistsError):
            raise
        raise OutputError(
            f"{folder} cannot be written ({err.strerror or err}). Expected a writable folder with room."
        ) from err
