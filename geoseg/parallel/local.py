"""A Dask cluster of this machine that lives as long as one `with` block.

The scheduler lives in a thread of the parent, on 127.0.0.1; each worker is a fresh Python process with one thread.
Workers are started here and not by `distributed.Nanny`, because multiprocessing would run the user's `__main__` again
in each of them. A worker holds the read end of a pipe that only the parent can write to: when the parent is gone,
however it went, the pipe closes and the worker leaves at once.
"""

import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from geoseg.errors import WorkerError
from geoseg.parallel.worker import SETTINGS, note_of

DEATHS = 3
"""Deaths of workers over one item after which the item is given up."""

log = logging.getLogger(__name__)


_WORKER_ENV = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {
    # As predict.tune_malloc, which comes too late where threads have arenas of their own already. glibc reads these.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
}


class LocalWorkers:
    """Worker processes of this machine, replaced when they die.

    Each notes the name of its item in a file before it starts on it. So it is known which item was at work in a death;
    the scheduler could only suspect everything it had sent there, finished or not.
    """

    def __init__(self, n: int, address: str, folder: Path) -> None:
        self.address, self.threads = address, n
        self._folder = folder
        self._deaths: Counter[str] = Counter()
        self._processes = [self._start() for _ in range(n)]

    def expect(self) -> None:
        """A result is waited for: forgive the deaths at rest that were before."""
        self._deaths.pop("", None)

    def check(self) -> None:
        """Replace the dead. Raises WorkerError when they die of one item, or at rest, again and again."""
        for slot, process in enumerate(self._processes):
            if process.poll() is not None:
                self._mourn(process)
                self._processes[slot] = self._start()

    def _mourn(self, process: "subprocess.Popen[bytes]") -> None:
        note, code = note_of(self._folder, process.pid), process.returncode
        name = note.read_text() if note.exists() else ""
        self._deaths[name] += 1
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        log.info("a worker process ended (%s) at %s; another is started", how, name or "rest")
        if name and self._deaths[name] >= DEATHS:
            raise WorkerError(
                f"{name} ended its worker process {DEATHS} times ({how}). Expected a result. "
                "If memory ran out, use fewer workers or smaller tiles."
            )
        if self._deaths[""] >= DEATHS * self.threads:
            raise WorkerError(
                f"workers={self.threads} processes end as soon as they are started ({how}). Expected them to stay. "
                "Run without workers."
            )

    def kill(self) -> None:
        """End all at once: what they do is pure, so there is nothing to finish or to tidy."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            with suppress(OSError):
                _pipe(process).close()

    def _start(self) -> "subprocess.Popen[bytes]":
        boot = (
            "import pickle, sys; address, folder, sys.path[:] = pickle.load(sys.stdin.buffer); "
            "from geoseg.parallel.worker import serve; serve(address, folder)"
        )
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", boot],
            stdin=subprocess.PIPE,
            stdout=2,  # the parent's stdout is for results
            env=os.environ | _WORKER_ENV,
            start_new_session=True,  # Ctrl-C is the parent's business
        )
        with suppress(BrokenPipeError):  # it died already: check() will see it
            _pipe(process).write(pickle.dumps((self.address, str(self._folder), sys.path)))
            _pipe(process).flush()
        return process


@contextmanager
def local_cluster(n: int) -> Iterator[LocalWorkers]:
    """A scheduler and `n` workers; at the end they are gone, with all their files."""
    import dask
    from distributed import LocalCluster

    with (
        tempfile.TemporaryDirectory(prefix="geoseg-", ignore_cleanup_errors=True) as folder,
        dask.config.set(SETTINGS),
        LocalCluster(
            n_workers=0,
            host="127.0.0.1",
            silence_logs=False,
            scheduler_kwargs={
                "allowed_failures": sys.maxsize,  # counted by LocalWorkers
                "dashboard": False,
                "dashboard_address": "127.0.0.1:0",
                "local_directory": folder,
            },
        ) as scheduler,
    ):
        workers = LocalWorkers(n, scheduler.scheduler_address, Path(folder))
        try:
            yield workers
        finally:
            workers.kill()


def _pipe(process: "subprocess.Popen[bytes]") -> IO[bytes]:
    return cast("IO[bytes]", process.stdin)
