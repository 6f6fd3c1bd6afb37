"""Launch: the processes of a run that share each batch, started, listened to and ended by the one that was called.

They are fresh Python processes and not multiprocessing's, which would run the user's `__main__` again in each. Each
reads from a pipe that only this process writes to: when this process is gone, however it went, they leave at once.
"""

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, cast

from geoseg.errors import GeosegError, WorkerError

log = logging.getLogger(__name__)

_GRACE_S = 20.0
"""For which processes may finish a step and write after they were told to stop."""
_TELL_S = 2.0
"""For which the other processes may tell why they end, after the first one did."""
_BOOT = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from geoseg.training.launch import serve; serve()"
)


@dataclass(slots=True)
class _Member:
    """One process, as its parent sees it."""

    process: "subprocess.Popen[bytes]"
    ear: Connection
    said: list[tuple[str, Any]] = field(default_factory=list)
    """What came last: ("done", result) or ("error", exception)."""


def launch(processes: int, job: Mapping[str, Any], hear: Mapping[str, Callable[[Any], None]]) -> Any:
    """Run `train_model(**job)` in several processes at once.

    Args:
        processes: How many.
        job: Arguments that can be pickled.
        hear: Keyword arguments of `train_model` that are called here with what the first process calls them with.

    Returns:
        What the first process returns.

    Raises:
        GeosegError: The first that any process raised.
        WorkerError: If a process ended for another reason.
        KeyboardInterrupt: As it came here, when all have stopped.
    """
    members = _start(processes, dict(job), list(hear))
    try:
        return _listen(members, hear)
    except KeyboardInterrupt as stop:
        for member in members:
            member.process.send_signal(signal.SIGTERM)
        for note in _last_words(members, _GRACE_S) or ["--resume goes on after the last whole epoch."]:
            stop.add_note(note)
        raise
    finally:
        for member in members:
            member.process.kill()
            member.process.wait()
            member.ear.close()
            cast("IO[bytes]", member.process.stdin).close()


def _start(processes: int, job: dict[str, Any], heard: list[str]) -> list[_Member]:
    shared = {
        "TORCHELASTIC_RUN_ID": f"geoseg-{os.getpid()}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, _cores() // processes))),
    }
    if sys.platform == "linux":  # else gloo asks for the address of the machine's name, which not every machine has
        shared["GLOO_SOCKET_IFNAME"] = "lo"
    level = logging.getLogger("geoseg").getEffectiveLevel()
    members = []
    for rank in range(processes):
        ear, mouth = os.pipe()
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=2,  # this process's stdout is for results
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            pass_fds=(mouth,),
            start_new_session=True,  # Ctrl-C is this process's business
        )
        os.close(mouth)
        pipe = cast("IO[bytes]", process.stdin)
        pipe.write(pickle.dumps(sys.path) + pickle.dumps((mouth, job, heard if rank == 0 else [], level)))
        pipe.flush()
        members.append(_Member(process, Connection(ear, writable=False)))
    return members


def _listen(members: list[_Member], hear: Mapping[str, Callable[[Any], None]]) -> Any:
    """Pass on what comes until all are done, or one is not."""
    while not all(member.said and member.said[-1][0] == "done" for member in members):
        for ear in wait([member.ear for member in members if not member.said]):
            member = next(member for member in members if member.ear is ear)
            kind, what = _next(member)
            if kind == "log":
                logging.getLogger(what.name).handle(what)
            elif kind in hear:
                hear[kind](what)
            else:
                member.said.append((kind, what))
            if kind == "error":
                _last_words(members, _TELL_S)
                raise _reason(members)
    return members[0].said[-1][1]


def _next(member: _Member) -> tuple[str, Any]:
    try:
        kind, what = member.ear.recv()
    except (EOFError, OSError):
        code = member.process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return "error", WorkerError(
            f"a process of the run ended by itself ({how}). Expected it to stay. If memory ran out, take fewer "
            "processes or smaller batches; --resume goes on after the last whole epoch."
        )
    return kind, what


def _last_words(members: list[_Member], seconds: float) -> list[str]:
    """Wait for all to end; the notes of those that were interrupted."""
    until, notes = time.monotonic() + seconds, []
    while time.monotonic() < until and (open_ones := [member.ear for member in members if not member.said]):
        for ear in wait(open_ones, timeout=0.2):
            member = next(member for member in members if member.ear is ear)
            kind, what = _next(member)
            if kind in ("done", "error", "stopped"):
                member.said.append((kind, what))
            if kind == "stopped":
                notes += what
    return notes


def _reason(members: list[_Member]) -> BaseException:
    """What is told of several errors: the process that failed first leaves the others without a partner."""
    errors = [what for member in members for kind, what in member.said if kind == "error"]
    own = [error for error in errors if isinstance(error, GeosegError) and not isinstance(error, WorkerError)]
    dead = [error for error in errors if isinstance(error, WorkerError)]
    return (own or dead or errors)[0]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- in the process


def serve() -> None:
    """Be one process of a run: what it is to do comes on stdin, what it has to tell goes to a pipe."""
    mouth_fd, job, heard, level = pickle.load(sys.stdin.buffer)  # noqa: S301  from our own parent
    mouth = Connection(mouth_fd, readable=False)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    turn = threading.Lock()

    def tell(kind: str, what: Any) -> None:
        with turn:
            mouth.send((kind, what))

    _log_through(tell, level if os.environ["RANK"] == "0" else logging.ERROR)
    from geoseg.predict import tune_malloc
    from geoseg.training.fit import train_model

    tune_malloc()

    def passed(name: str) -> Callable[[Any], None]:
        return lambda what: tell(name, what)

    try:
        job |= {name: passed(name) for name in heard}
        result: Path = train_model(**job)
        tell("done", result)
    except KeyboardInterrupt as stop:
        tell("stopped", list(getattr(stop, "__notes__", ())))
    except GeosegError as err:
        notes = getattr(err, "__notes__", ())
        err.__cause__ = err.__context__ = None  # causes of other libraries may not come through a pickle
        err.__notes__ = list(notes)
        tell("error", err)
    except BaseException as err:  # noqa: BLE001  told there, where somebody looks
        tell("error", RuntimeError("".join(traceback.format_exception(err)).rstrip()))
    finally:
        mouth.close()
    os._exit(0)  # nothing is left to do, and a process group without partners may not end


def _leave_with_parent() -> None:
    sys.stdin.buffer.read(1)  # nothing more is ever written: this returns when the parent's end is closed
    os._exit(1)


def _log_through(tell: Callable[[str, Any], None], level: int) -> None:
    class Through(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.msg, record.args, record.exc_info = record.getMessage(), None, None
            tell("log", record)

    root = logging.getLogger("geoseg")
    root.handlers[:] = [Through(level)]
    root.setLevel(level)
    root.propagate = False
