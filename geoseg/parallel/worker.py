"""What runs in a worker process: the task, and the life of a local worker."""

import functools
import logging
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from geoseg.errors import GeosegError

SETTINGS: dict[str, Any] = {
    "distributed.scheduler.worker-ttl": None,  # a death is seen at once; who computes for long is not dead
    "distributed.comm.timeouts.connect": "3s",  # so long Dask tries again to fetch a result from a worker that died
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.diagnostics.nvml": False,
}
"""Dask's settings for a cluster that nobody looks at."""

_TRIES = 250
"""At removing the scratch folder, 20 ms apart."""
_GRACE = 10
"""Seconds that a worker without a scheduler waits for the end of its parent."""

_own_note: Path | None = None
"""Where this process, if it is a local worker, says what it is at."""
_loading = threading.Lock()


def serve(address: str, folder: str) -> None:
    """Be a local worker process, until the parent is gone or kills it.

    Args:
        address: Of the scheduler.
        folder: For scratch files and notes; removed when the parent is gone.
    """
    global _own_note
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leaving = threading.Thread(target=_leave_with_parent, args=(folder,), daemon=True)
    leaving.start()
    import asyncio

    import dask
    from distributed import Worker

    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    _own_note = note_of(Path(folder), os.getpid())

    async def work() -> None:
        async with Worker(address, nthreads=1, memory_limit=0, host="127.0.0.1", local_directory=folder) as worker:
            await worker.finished()

    with dask.config.set(SETTINGS):
        asyncio.run(work())
    # The scheduler is gone; most likely with the parent, and then the folder is being emptied.
    leaving.join(_GRACE)


def _leave_with_parent(folder: str) -> None:
    os.read(0, 1)  # nothing more is ever written: this returns when the parent's end is closed
    for _ in range(_TRIES):
        # This process's own main thread, or another worker, may put a file there while it is emptied.
        shutil.rmtree(folder, ignore_errors=True)
        if not Path(folder).exists():
            break
        time.sleep(0.02)
    os._exit(0)


def call(payload: bytes, item: bytes, name: str) -> Any:
    """What a Dask task does: `func(item)`, with `func` unpickled, and the process set up, only once.

    Args:
        payload: Pickle of (pickle of setup, func).
        item: Pickle of the item.
        name: Of the item, noted in case it ends this process.
    """
    if _own_note:
        _own_note.write_text(name)
    try:
        with _loading:
            func = _load(payload)
        return func(pickle.loads(item))  # noqa: S301 - from our own parent
    except GeosegError as err:
        # Dask pickles causes along; those of many libraries do not come back, and then the error would not be itself.
        err.__cause__ = err.__context__ = None
        raise
    except (KeyboardInterrupt, SystemExit) as err:  # would end the worker, and the next one
        raise RuntimeError(f"it raised {err!r}") from err
    finally:
        if _own_note:
            _own_note.write_text("")


@functools.lru_cache(maxsize=2)  # a worker of a lasting cluster must not keep the models of all runs
def _load(payload: bytes) -> Callable[[Any], Any]:
    setup, func = pickle.loads(payload)  # noqa: S301
    _set_up(setup)
    return func


@functools.cache
def _set_up(setup: bytes) -> None:
    if (prepare := pickle.loads(setup)) is not None:  # noqa: S301
        prepare()


def note_of(folder: Path, pid: int) -> Path:
    """The file in which local worker `pid` keeps the name of the item it is at; empty at rest."""
    return folder / f"{pid}.item"
