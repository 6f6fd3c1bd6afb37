"""The parent's side of a Dask cluster: connect, submit, wait, and look after the workers while waiting."""

import functools
import itertools
import logging
import pickle
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from geoseg.errors import WorkerError
from geoseg.parallel.worker import call

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as DaskFuture

R = TypeVar("R")
Setup = Callable[[], None]

CONNECT_S = 10.0
"""How long a scheduler may take to answer, and to have a first worker."""
NO_WORKERS_S = 60.0
"""How long a run may be without any worker before it ends: long enough for a batch system to send new ones."""
POLL_S = 0.25
"""How often a waiting parent looks after its workers."""

log = logging.getLogger(__name__)


@contextmanager
def quiet_dask() -> Iterator[None]:
    """Keep what `distributed` logs (deaths, lost connections: handled here) off stderr, unless geoseg is debugged."""
    from distributed.utils import silence_logging_cmgr

    with silence_logging_cmgr(logging.DEBUG if log.isEnabledFor(logging.DEBUG) else logging.CRITICAL + 1):
        yield


@contextmanager
def no_interrupt_lost() -> Iterator[Callable[[], None]]:
    """Keep a Ctrl-C that comes where Python drops exceptions: in a `__del__`, or in the callback of a weak reference.

    Dask's futures have a `__del__` which tells their end to the event loop, so one in some hundred would be lost there.

    Yields:
        A function that raises such an exception now (KeyboardInterrupt, or its subclass). It is called at the end, too.
    """
    lost: list[BaseException] = []
    before = sys.unraisablehook

    def keep(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            lost.append(unraisable.exc_value)
        else:
            before(unraisable)

    def heed() -> None:
        if lost:
            raise lost.pop()

    sys.unraisablehook = keep
    try:
        yield heed
        heed()
    finally:
        sys.unraisablehook = before


@contextmanager
def connected(address: str) -> "Iterator[Client]":
    """A client of the scheduler at `address`.

    Raises:
        WorkerError: If it does not answer within CONNECT_S.
    """
    from distributed import Client

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Mismatched versions found"
            # In the background, for its own time limit does not cover a port that accepts and stays silent.
            connecting = in_background(lambda: Client(address, timeout=CONNECT_S, set_as_default=False))
            client = connecting.result(timeout=CONNECT_S + 1)
    except (OSError, ValueError, ImportError) as err:
        raise WorkerError(
            f"scheduler={address} cannot be reached: {describe(err)}. Expected the address of a running "
            "`dask scheduler`, such as tcp://10.0.0.1:8786."
        ) from err
    try:
        yield client
    finally:
        with suppress(OSError, RuntimeError):  # the scheduler may be gone
            client.close(timeout=CONNECT_S)


class Workers(Protocol):
    """The workers of a cluster, as the waiting parent sees them."""

    address: str
    """Of the scheduler."""
    threads: int
    """Items that can be at work at a time, as far as is known."""

    def expect(self) -> None:
        """A wait for a result begins."""

    def check(self) -> None:
        """At the beginning and every POLL_S of that wait. Raises WorkerError when there is no hope."""


class DaskPool:
    """Submits to a scheduler, and has its workers looked after while it waits for them."""

    def __init__(
        self,
        func: Callable[[Any], Any],
        setup: Setup | None,
        client: "Client",
        workers: Workers,
        heed: Callable[[], None],
    ) -> None:
        """`heed` raises what interrupted the waiting and was lost (`no_interrupt_lost`)."""
        from distributed.protocol.pickle import dumps

        self._payload = dumps((dumps(setup), func))
        self._client, self._workers, self._heed = client, workers, heed
        self._run, self._indices = f"geoseg-{uuid.uuid4().hex}", itertools.count()

    @property
    def window(self) -> int:
        """Two for each worker and one more."""
        return 2 * max(1, self._workers.threads) + 1

    def submit(self, name: str, item: Any) -> Callable[[], Any]:
        """Hand the item to the scheduler; what comes back waits for its result."""
        from distributed.protocol.pickle import dumps

        index = next(self._indices)
        future = self._client.submit(
            pickle.loads,
            pickle.dumps(_Call(self._payload, dumps(item), name)),
            key=(self._run, index),
            priority=-index,  # else Dask takes them in any order, and all may wait for the first
            pure=False,
        )
        return functools.partial(self._wait, name, future)

    def _wait(self, name: str, future: "DaskFuture[Any]") -> Any:
        fetched = in_background(future.result)
        self._workers.expect()
        self._heed()
        self._workers.check()
        while not wait([fetched], timeout=POLL_S).done:
            self._heed()
            self._workers.check()
        try:
            return fetched.result()
        except Exception as err:
            if words := self._words(name, err, of_task=future.status == "error"):
                raise WorkerError(words) from err
            raise

    def _words(self, name: str, err: Exception, *, of_task: bool) -> str | None:
        """What `err` means when it is the cluster's and not that of `func`."""
        from distributed import CancelledError, KilledWorker

        cluster = f"scheduler={self._workers.address}"
        if isinstance(err, KilledWorker):
            return f"{name} was with several workers of {cluster} when they died. Expected a result. Try smaller tiles."
        if not of_task and isinstance(err, CancelledError | OSError):
            return f"{cluster} went away before {name} was finished. Expected it to stay. Start it and run again."
        if isinstance(err, ModuleNotFoundError) and (err.name or "").partition(".")[0] == "geoseg":
            return f"{cluster} has workers that cannot import geoseg. Expected the version used here. Install it there."
        return None


@dataclass(frozen=True, slots=True)
class _Call:
    """A task as one opaque string of bytes: its pickle is a call of `worker.call`, so that to unpickle it is to do it.

    Dask neither searches the bytes for keys and graphs nor has to import geoseg in the scheduler, or in the worker's
    message loop, where a failing import would close the worker instead of reaching the user.
    """

    payload: bytes
    item: bytes
    name: str

    def __reduce__(self) -> tuple[Any, ...]:
        return call, (self.payload, self.item, self.name)


class RemoteWorkers:
    """Workers that others start and restart: here they are only counted."""

    def __init__(self, address: str, client: "Client") -> None:
        self.address, self.threads = address, 0
        self._client, self._patience = client, CONNECT_S
        self._asked, self._answer = time.monotonic(), in_background(client.nthreads)
        self.expect()

    def expect(self) -> None:
        """A result is waited for: patience begins anew."""
        self._seen = time.monotonic()

    def check(self) -> None:
        """Count them. Raises WorkerError when there have been none, or no answer, for too long."""
        now = time.monotonic()
        if self._answer.done() and now - self._asked > 1:
            if not self._answer.exception():
                self.threads = sum(self._answer.result().values())
            if self.threads:
                self._patience, self._seen = NO_WORKERS_S, now
            self._asked, self._answer = now, in_background(self._client.nthreads)
        if now - self._seen > self._patience:
            raise WorkerError(
                f"scheduler={self.address} has shown no workers for {self._patience:.0f} s. Expected at least one. "
                f"Start some with `dask worker {self.address}`."
            )


def in_background(func: Callable[[], R]) -> Future[R]:
    """Call `func` in a daemon thread: nobody has to wait for it, not even the interpreter's end."""
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(func())
        except BaseException as err:  # noqa: BLE001 - the one who waits raises it
            future.set_exception(err)

    threading.Thread(target=run, daemon=True).start()
    return future


def describe(err: BaseException) -> str:
    """Type and first line of the message."""
    first_line = next(iter(str(err).strip().splitlines()), "")
    return f"{type(err).__name__}: {first_line}" if first_line else type(err).__name__
