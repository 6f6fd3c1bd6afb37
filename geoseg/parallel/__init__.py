"""An ordered, bounded map of one picklable callable: inline, in threads, in local processes, on a Dask cluster.

Every backend keeps the same promises: results come in the order of the items, only a bounded number of items is
submitted and not yet consumed (so the parent's memory does not grow with their number), the first failure ends the run,
and closing the iterator early, also by Ctrl-C, drops what is left.

`cluster` is the parent's side of Dask, `local` starts worker processes, `worker` is what runs in them.
"""

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from geoseg.errors import GeosegError, UsageError, WorkerError
from geoseg.parallel.cluster import DaskPool, RemoteWorkers, Setup, connected, describe, no_interrupt_lost, quiet_dask
from geoseg.parallel.local import local_cluster

__all__ = ["Backend", "Inline", "Processes", "Scheduler", "Threads", "backend_from", "ordered_map"]

T = TypeVar("T")
R = TypeVar("R")


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
) -> Generator[R, None, None]:
    """Call `func` on every item and yield the results in the order of the items.

    Work starts with the first `next()`. Close the iterator (`contextlib.closing`) to stop early.

    Args:
        func: Pure: no side effects, and the same result however often and wherever it is called. Processes and
            clusters need it picklable. It travels with each item, so it should carry paths and numbers; but a process
            unpickles it once, so it may open files and load models in its first call and keep them, one handle per
            thread.
        items: Read lazily, in the calling thread, only as far as `in_flight` allows. For processes and clusters,
            items and results must be picklable; they should be small: windows out, finished cells back.
        backend: Where the calls are made.
        in_flight: Items submitted and not yet consumed, at least 1; by default two for each worker and one more, so
            that no worker waits for the consumer (`Inline`: one).

    Yields:
        `func(item)` for each item. No items: no results, and no workers are started.

    Raises:
        GeosegError: As raised by `func`.
        WorkerError: If `func` raises anything else (its cause), an item kills its worker again and again, or the
            cluster cannot be reached, has no workers or goes away.
        UsageError: If `in_flight` is less than 1.
    """
    if in_flight is not None:
        _at_least_one("in_flight", in_flight)
    return _ordered(func, iter(items), backend, in_flight)


def _ordered(
    func: Callable[[T], R], items: Iterator[T], backend: Backend, in_flight: int | None
) -> Generator[R, None, None]:
    pending: deque[tuple[str, Callable[[], R]]] = deque()
    with ExitStack() as stack:
        pool: _Pool | None = None
        for index, item in enumerate(items):
            pool = pool or stack.enter_context(_pool(func, backend))
            name = f"item {index} ({_shorten(repr(item))})"
            pending.append((name, pool.submit(name, item)))
            while len(pending) >= (in_flight or pool.window):
                yield _result(*pending.popleft())
        while pending:
            yield _result(*pending.popleft())


def _result(name: str, wait_for_result: Callable[[], R]) -> R:
    try:
        return wait_for_result()
    except GeosegError:
        raise
    except Exception as err:
        raise WorkerError(f"{name} failed: {describe(err)}. Run again with --debug for the traceback.") from err


class _Pool(Protocol):
    """What `ordered_map` needs of a backend."""

    @property
    def window(self) -> int:
        """Items to hold, unless the caller knows better."""

    def submit(self, name: str, item: Any) -> Callable[[], Any]:
        """Hand the item over; what comes back waits for the result, or raises what `func` raised."""


@contextmanager
def _pool(func: Callable[[Any], Any], backend: Backend) -> Iterator[_Pool]:
    match backend:
        case Inline():
            yield _Here(func)
        case Threads(n):
            with ThreadPoolExecutor(n, thread_name_prefix="geoseg") as executor:
                try:
                    yield _ThreadPool(func, n, executor)
                finally:
                    executor.shutdown(wait=False, cancel_futures=True)
        case Processes(n, setup):
            with (
                quiet_dask(),
                local_cluster(n) as workers,
                connected(workers.address) as client,
                no_interrupt_lost() as heed,
            ):
                yield DaskPool(func, setup, client, workers, heed)
        case Scheduler(address, setup):
            with quiet_dask(), connected(address) as client, no_interrupt_lost() as heed:
                yield DaskPool(func, setup, client, RemoteWorkers(address, client), heed)


@dataclass(frozen=True, slots=True)
class _Here:
    func: Callable[[Any], Any]
    window: int = 1

    def submit(self, name: str, item: Any) -> Callable[[], Any]:
        return functools.partial(self.func, item)


@dataclass(frozen=True, slots=True)
class _ThreadPool:
    func: Callable[[Any], Any]
    n: int
    executor: ThreadPoolExecutor

    @property
    def window(self) -> int:
        return 2 * self.n + 1

    def submit(self, name: str, item: Any) -> Callable[[], Any]:
        return self.executor.submit(self.func, item).result


def _shorten(text: str, limit: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{name}={value} is too small. Expected at least 1.")
