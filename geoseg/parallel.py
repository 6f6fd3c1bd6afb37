"""An ordered, bounded map of one picklable callable: in this process, in threads, in local processes, or on a Dask cluster.

Every backend keeps the same promises: results come in the order of the items, only a bounded number of items is
submitted and not yet consumed (so the memory of the parent does not grow with their number), the first failure ends
the run, and closing the iterator early, also by Ctrl-C, drops what is left.

Local processes form a `distributed` cluster: the scheduler lives in a thread of the parent, on 127.0.0.1, and each
worker is a fresh Python process with one thread. Workers are started here and not by `distributed.Nanny`, because
multiprocessing would run the user's `__main__` again in each of them. A worker holds the read end of a pipe that only
the parent can write to: when the parent is gone, however it went, the pipe closes and the worker leaves at once.
"""

import functools
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from geoseg.errors import GeosegError, UsageError, WorkerError

T = TypeVar("T")
R = TypeVar("R")
Setup = Callable[[], None]

CONNECT_S = 10.0
"""How long a scheduler may take to answer, and to have a first worker."""
NO_WORKERS_S = 60.0
"""How long a run may be without any worker before it ends: long enough for a batch system to send new ones."""
POLL_S = 0.25
"""How often a waiting parent looks after its workers."""
DEATHS = 3
"""Deaths of local workers over one item after which the item is given up."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inline:
    """One item after the other, in the calling thread."""


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads of this process. Also one thread is of use: it works while the consumer writes."""

    n: int
    """Threads, at least 1."""

    def __post_init__(self) -> None:
        _at_least_one("threads", self.n)


@dataclass(frozen=True, slots=True)
class Processes:
    """A local cluster of single-threaded worker processes; it lives as long as one `ordered_map`."""

    n: int
    """Worker processes, at least 1."""
    setup: Setup | None = None
    """Picklable; called once in each process before the first item."""

    def __post_init__(self) -> None:
        _at_least_one("workers", self.n)


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A Dask cluster that exists already. Its threads may call the mapped callable at the same time."""

    address: str
    """For example `tcp://10.0.0.1:8786`."""
    setup: Setup | None = None
    """Picklable; called once in each worker process before the first item."""


Backend = Inline | Threads | Processes | Scheduler


def backend_from(
    *, workers: int | None = None, scheduler: str | None = None, threads: int = 1, setup: Setup | None = None
) -> Backend:
    """The backend that `--workers` and `--scheduler` ask for; without them `threads` of this process, 0 for none.

    Raises:
        UsageError: If both are given, or a number is too small.
    """
    if workers is not None and scheduler is not None:
        raise UsageError(f"--workers {workers} and --scheduler {scheduler} exclude each other. Give one of them.")
    if scheduler is not None:
        return Scheduler(scheduler, setup)
    if workers is not None:
        return Processes(workers, setup)
    return Threads(threads) if threads else Inline()


def ordered_map(
    func: Callable[[T], R], items: Iterable[T], *, backend: Backend, in_flight: int | None = None
) -> Iterator[R]:
    """Call `func` on every item and yield the results in the order of the items.

    Work starts with the first `next()`. Close the iterator (or leave it to `contextlib.closing`) to stop early.

    Args:
        func: Pure: no side effects, and the same result however often and wherever it is called. Processes and
            clusters need it picklable; each process unpickles it once, so it may open files and load models on its
            first call and keep them, one handle per thread.
        items: Read lazily, in the calling thread, only as far as `in_flight` allows. Items and results must be
            picklable for processes and clusters, and should be small: names and windows, not pixels, on the way out.
        backend: Where the calls are made.
        in_flight: Items submitted and not yet consumed, at least 1; by default two for each worker and one more, so
            that no worker waits for the consumer. `Inline` has always one.

    Yields:
        `func(item)` for each item. No items give no results, and start no workers.

    Raises:
        GeosegError: As raised by `func`.
        WorkerError: If `func` raises anything else (its cause), an item kills its worker again and again, or the
            cluster cannot be reached, has no workers or goes away.
        UsageError: If `in_flight` is less than 1.
    """
    if in_flight is not None:
        _at_least_one("in_flight", in_flight)
    return _ordered(func, iter(items), backend, in_flight)


def _ordered(func: Callable[[T], R], items: Iterator[T], backend: Backend, in_flight: int | None) -> Iterator[R]:
    pending: deque[tuple[str, Any]] = deque()
    with ExitStack() as stack:
        pool: _Pool | None = None
        for index, item in enumerate(items):
            pool = pool or stack.enter_context(_pool(func, backend))
            pending.append((f"item {index} ({_short(item)})", pool.submit(item)))
            while len(pending) >= (in_flight if in_flight and pool.overlaps else pool.window()):
                yield _result(pool, *pending.popleft())
        while pool and pending:
            yield _result(pool, *pending.popleft())


def _result(pool: "_Pool", name: str, ticket: Any) -> Any:
    try:
        return pool.result(name, ticket)
    except GeosegError:
        raise
    except Exception as err:
        raise WorkerError(f"{name} failed: {type(err).__name__}: {err}. Run again with --debug for the traceback.") from err


class _Pool(Protocol):
    """What `ordered_map` needs of a backend. A ticket stands for a submitted item."""

    overlaps: bool
    """Whether anything happens between `submit` and `result`."""

    def window(self) -> int:
        """Tickets to hold at a time, unless the caller knows better."""
        ...

    def submit(self, item: Any) -> Any:
        """A ticket for the item."""
        ...

    def result(self, name: str, ticket: Any) -> Any:
        """Wait for the result; raise what the call raised."""
        ...


@contextmanager
def _pool(func: Callable[[Any], Any], backend: Backend) -> Iterator[_Pool]:
    match backend:
        case Inline():
            yield _InlinePool(func)
        case Threads(n):
            with _ThreadPool(func, n) as pool:
                yield pool
        case Processes(n, setup):
            with _quiet_dask(), _LocalWorkers(n) as workers, _Cluster(func, setup, workers.address, workers) as cluster:
                yield cluster
        case Scheduler(address, setup):
            with _quiet_dask(), _Cluster(func, setup, address) as cluster:
                yield cluster


class _InlinePool:
    overlaps = False

    def __init__(self, func: Callable[[Any], Any]) -> None:
        self._func = func

    def window(self) -> int:
        return 1

    def submit(self, item: Any) -> Any:
        return item

    def result(self, name: str, ticket: Any) -> Any:
        return self._func(ticket)


class _ThreadPool:
    overlaps = True

    def __init__(self, func: Callable[[Any], Any], n: int) -> None:
        self._func, self._n = func, n

    def __enter__(self) -> "_ThreadPool":
        self._executor = ThreadPoolExecutor(self._n, thread_name_prefix="geoseg")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def window(self) -> int:
        return 2 * self._n + 1

    def submit(self, item: Any) -> Future[Any]:
        return self._executor.submit(self._func, item)

    def result(self, name: str, ticket: Future[Any]) -> Any:
        return ticket.result()


# ---- Dask: the parent's side


class _Cluster:
    """A client of a scheduler. All waiting is done in pieces of POLL_S, between which the workers are looked after."""

    overlaps = True

    def __init__(
        self,
        func: Callable[[Any], Any],
        setup: Setup | None,
        address: str,
        local: "_LocalWorkers | None" = None,
    ) -> None:
        import cloudpickle

        self._payload = cloudpickle.dumps((cloudpickle.dumps(setup), func))
        self._address, self._local = address, local
        self._run, self._submitted = f"geoseg-{uuid.uuid4().hex}", 0
        self._threads, self._had_workers = 0, False
        self._probe: Future[dict[str, int]] | None = None

    def __enter__(self) -> "_Cluster":
        from distributed import Client

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # versions differ; what matters is that geoseg's result is the same
                self._client = Client(self._address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, ImportError) as err:
            raise WorkerError(
                f"scheduler={self._address} cannot be reached: {_words(err)}. Expected the address of a running "
                "`dask scheduler`, such as tcp://10.0.0.1:8786."
            ) from err
        # Results are fetched, and workers counted, in threads that a parent tired of waiting can leave behind.
        self._helpers = ThreadPoolExecutor(2, thread_name_prefix="geoseg-dask")
        self._since = time.monotonic()
        self._asked = 0.0
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._local:
            self._local.kill()
        self._helpers.shutdown(wait=False, cancel_futures=True)
        with suppress(OSError, RuntimeError):
            self._client.close(timeout=CONNECT_S)

    def window(self) -> int:
        return 2 * max(self._threads, self._local.n if self._local else 1) + 1

    def submit(self, item: Any) -> Any:
        import cloudpickle

        key = (self._run, self._submitted)
        self._submitted += 1
        # The item goes as bytes, so that Dask does not look into it for graphs and keys.
        return self._client.submit(call, self._payload, cloudpickle.dumps(item), key=key, pure=False)

    def result(self, name: str, ticket: Any) -> Any:
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        fetched = self._helpers.submit(ticket.result)
        while not wait([fetched], timeout=POLL_S).done:
            self._look_after_workers()
        try:
            return fetched.result()
        except KilledWorker as err:
            raise WorkerError(
                f"{name} ended each worker that tried it, {DEATHS if self._local else 'several'} times: killed, crashed "
                "or out of memory. Try fewer workers or smaller tiles."
            ) from err
        except CancelledError as err:
            raise WorkerError(f"scheduler={self._address} went away during the run. {name} was not finished.") from err
        except ModuleNotFoundError as err:
            if (err.name or "").partition(".")[0] != "geoseg":
                raise
            raise WorkerError(
                f"scheduler={self._address} has workers that cannot import geoseg. Install the same version there."
            ) from err

    def _look_after_workers(self) -> None:
        if self._local:
            self._local.revive()
        now = time.monotonic()
        if self._probe is None:
            if now - self._asked > 1:
                self._asked, self._probe = now, self._helpers.submit(self._client.nthreads)
        elif self._probe.done():
            self._threads = sum(self._probe.result().values())
            self._probe = None
            if self._threads:
                self._since, self._had_workers = now, True
        patience = NO_WORKERS_S if self._had_workers or self._local else CONNECT_S
        if now - self._since > patience:
            raise WorkerError(
                f"scheduler={self._address} has had no workers for {patience:.0f} s. Expected at least one. "
                + ("See what ends them." if self._local else f"Start some with `dask worker {self._address}`.")
            )


class _LocalWorkers:
    """A scheduler in a thread of this process, and `n` worker processes that are replaced when they die."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __enter__(self) -> "_LocalWorkers":
        import dask
        from distributed import LocalCluster

        with ExitStack() as stack:
            self._folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="geoseg-", ignore_cleanup_errors=True)
            )
            with dask.config.set(_SPARTAN):
                cluster = stack.enter_context(
                    LocalCluster(
                        n_workers=0,
                        host="127.0.0.1",
                        dashboard_address=None,
                        scheduler_kwargs={"allowed_failures": DEATHS - 1},
                        silence_logs=False,
                    )
                )
            self.address = cluster.scheduler_address
            stack.callback(self.kill)
            self._processes = [self._start() for _ in range(self.n)]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def revive(self) -> None:
        """Replace the workers that are gone."""
        for slot, process in enumerate(self._processes):
            if process.poll() is not None:
                log.info("worker process %d ended with code %d; starting another", process.pid, process.returncode)
                self._processes[slot] = self._start()

    def kill(self) -> None:
        """End all workers at once: what they do is pure, so there is nothing to finish or to tidy."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            assert process.stdin
            process.stdin.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        boot = (
            "import pickle, sys; address, folder, sys.path[:] = pickle.load(sys.stdin.buffer); "
            "from geoseg.parallel import serve; serve(address, folder)"
        )
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", boot],
            stdin=subprocess.PIPE,
            stdout=2,  # the parent's stdout is for results
            env=os.environ | {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
            start_new_session=True,  # Ctrl-C is the parent's business
        )
        assert process.stdin
        with suppress(BrokenPipeError):  # dead already: revive() will see it
            process.stdin.write(pickle.dumps((self.address, self._folder, sys.path)))
            process.stdin.flush()
        return process


_SPARTAN = {
    "distributed.scheduler.worker-ttl": None,  # a dead local worker is seen at once; one that computes is not dead
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.diagnostics.nvml": False,
}
"""Dask's settings for a local cluster that nobody will look at."""


@contextmanager
def _quiet_dask() -> Iterator[None]:
    """Keep what `distributed` logs (deaths, lost connections: all handled here) off stderr, unless geoseg is debugged."""
    from distributed.utils import silence_logging_cmgr

    with silence_logging_cmgr(logging.DEBUG if log.isEnabledFor(logging.DEBUG) else logging.CRITICAL + 1):
        yield


# ---- Dask: the worker's side


def serve(address: str, folder: str) -> None:
    """Be a local worker process until the parent is gone or kills it. `folder` is its scratch space."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, args=(folder,), daemon=True).start()
    import asyncio

    import dask
    from distributed import Worker

    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)

    async def work() -> None:
        async with Worker(address, nthreads=1, memory_limit=0, host="127.0.0.1", local_directory=folder) as worker:
            await worker.finished()

    with dask.config.set(_SPARTAN):
        asyncio.run(work())


def _leave_with_parent(folder: str) -> None:
    sys.stdin.buffer.read()  # nothing more is ever written: this returns when the parent's end is closed
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


_loading = threading.Lock()


def call(payload: bytes, item: bytes) -> Any:
    """What a Dask task does: `func(item)`, with `func` unpickled and the process set up only once.

    Args:
        payload: Pickle of (pickle of setup, func).
        item: Pickle of the item.
    """
    with _loading:
        func = _load(payload)
    return func(pickle.loads(item))  # noqa: S301 - from our own parent


@functools.lru_cache(maxsize=2)  # a worker of a lasting cluster must not keep the models of all runs
def _load(payload: bytes) -> Callable[[Any], Any]:
    setup, func = pickle.loads(payload)  # noqa: S301
    _set_up(setup)
    return func


@functools.cache
def _set_up(setup: bytes) -> None:
    if (prepare := pickle.loads(setup)) is not None:  # noqa: S301
        prepare()


# ---- words


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{name}={value} is too small. Expected at least 1.")


def _short(item: object, limit: int = 80) -> str:
    words = " ".join(repr(item).split())
    return words if len(words) <= limit else words[: limit - 3] + "..."


def _words(err: BaseException) -> str:
    return _short_line(str(err)) or type(err).__name__


def _short_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
