"""Real processes of the `geoseg` program without the seconds that its imports take: copies of one that has made them.

    python tests/forks.py

Each line of its stdin is a JSON list, `geoseg`'s arguments and the file for what is printed; each line of its stdout a
pid, when the copy starts, or a pid and an exit status, when it ends.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Forks:
    """The process that copies itself, from outside."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | env
        )
        self.ended: dict[int, int] = {}

    def start(self, output: Path, *args: object) -> int:
        """The pid of a process that runs `geoseg *args`, both its streams going to a file."""
        self.process.stdin.write(json.dumps([str(output), *map(str, args)]) + "\n")
        self.process.stdin.flush()
        (pid,) = self._line(1)
        return pid

    def wait(self, pid: int) -> int:
        """Its exit status, negative for a signal."""
        while pid not in self.ended:
            self._line(2)
        return self.ended.pop(pid)

    def run(self, output: Path, *args: object) -> int:
        """Start and wait."""
        return self.wait(self.start(output, *args))

    def kill(self, pid: int) -> None:
        """End it at once, wherever it is."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.wait(pid)

    def _line(self, wanted: int) -> list[int]:
        while True:
            words = [int(word) for word in self.process.stdout.readline().split()]
            if not words:
                raise RuntimeError("the process that copies itself is gone")
            if len(words) == 2:
                self.ended[words[0]] = words[1]
            if len(words) == wanted:
                return words


@contextmanager
def forks(**env: str) -> Iterator[Forks]:
    """Such a process; it ends with the block."""
    found = Forks(env)
    try:
        yield found
    finally:
        found.process.stdin.close()
        found.process.wait()


def serve() -> None:
    import torch

    import geoseg.training.figures as figures
    import geoseg.training.fit  # noqa: F401  the slow one
    from geoseg.cli.main import main

    torch.set_num_threads(1)
    if os.environ.get("GEOSEG_TEST_PICTURES") != "1":
        for name in ("contact_sheet", "curves", "confusion", "samples"):
            setattr(figures, name, lambda *args, **options: None)
    turn = threading.Lock()

    def say(*words: int) -> None:
        with turn:
            os.write(1, (" ".join(map(str, words)) + "\n").encode())

    def mourn(pid: int) -> None:
        say(pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    for line in sys.stdin:
        output, *args = json.loads(line)
        if pid := os.fork():
            say(pid)
            threading.Thread(target=mourn, args=(pid,), daemon=True).start()
            continue
        file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            main(args)
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        except BaseException:  # noqa: BLE001  printed
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        os._exit(99)


if __name__ == "__main__":
    serve()
