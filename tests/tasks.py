"""Picklable callables for tests/test_parallel.py: worker processes import this module."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geoseg.errors import SceneError

CORRUPT = "scene.tif has a corrupt block (rows 0-511). Expected readable data. Restore it from its source."
prepared_in: list[int] = []


def square(x):
    return x * x


def later_is_faster(x):
    time.sleep(0.01 * (4 - x % 5))
    return x


def cell(x):
    """An array that depends on the item alone, big enough to be sent apart from the message."""
    return {"labels": np.random.default_rng(x).integers(0, 255, (300, 400), dtype=np.uint8)}


def reciprocal(x):
    return 1 / (x - 3)


def scene_error(x):
    if x == 3:
        raise SceneError(CORRUPT)
    return x


class Awkward(Exception):
    """Cannot be unpickled: two arguments go in, one comes out."""

    def __init__(self, left, right):
        super().__init__(f"{left} is not {right}")


def awkward_error(x):
    raise Awkward(x, "right")


def unpicklable_result(x):
    return (n for n in range(x))


def leave(x):
    sys.exit(f"leaving at {x}")


def interrupt(x):
    raise KeyboardInterrupt


def prints(x):
    print("a library prints", flush=True)
    return x


def prepare():
    prepared_in.append(os.getpid())


def prepare_badly():
    raise SceneError(CORRUPT)


def prepared(x):
    return os.getpid(), list(prepared_in), os.environ["OMP_NUM_THREADS"]


class Model:
    """Stands for a callable that loads its model in its first call."""

    pickled = 0

    def __init__(self):
        self.calls = 0

    def __getstate__(self):
        Model.pickled += 1
        return {"calls": 0}

    def __call__(self, x):
        self.calls += 1
        time.sleep(0.05)
        return os.getpid(), self.calls


@dataclass
class DieOnce:
    """Kills its worker on the items given, the first time each comes; the files of `folder` remember."""

    folder: str
    items: tuple

    def __call__(self, x):
        flag = Path(self.folder) / str(x)
        if x in self.items and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return cell(x)


@dataclass
class Poison:
    """Kills its worker on one item whenever it comes."""

    folder: str
    item: int

    def __call__(self, x):
        if x == self.item:
            (Path(self.folder) / str(time.monotonic_ns())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x


@dataclass
class Recorder:
    """Leaves a file named after its process, then takes its time."""

    folder: str
    seconds: float

    def __call__(self, x):
        (Path(self.folder) / str(os.getpid())).touch()
        time.sleep(self.seconds)
        return x
