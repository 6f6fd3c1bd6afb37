"""Threads: results in order, as many at a time as there are cores, errors as they are."""

import threading

import pytest

from geoseg.errors import SceneError
from geoseg.vectors import threads
from geoseg.vectors.threads import MOST, cores, in_threads


def test_results_are_in_the_order_of_the_items(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 3)
    gate = threading.Event()

    def late(item):
        if item == 0:
            assert gate.wait(10)  # until another thread is through
        else:
            gate.set()
        return item * item

    assert in_threads(late, range(20)) == [item * item for item in range(20)]


@pytest.mark.parametrize(("count", "most", "seen"), [(1, MOST, 1), (2, MOST, 2), (4, 2, 2), (64, MOST, MOST)])
def test_no_more_threads_than_cores_or_asked_for(count, most, seen, monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: count)
    gate, names = threading.Barrier(seen), set()

    def meet(_):
        names.add(threading.get_ident())
        gate.wait(10)  # all of them are here at once

    in_threads(meet, range(3 * seen), most=most)
    assert len(names) == seen


def test_one_core_needs_no_threads(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 1)
    assert in_threads(lambda _: threading.get_ident(), range(3)) == [threading.get_ident()] * 3


def test_errors_come_out(monkeypatch):
    def broken(item):
        raise SceneError(f"{item} is broken. Expected none. Mend it.")

    for count in (1, 2):
        monkeypatch.setattr(threads, "cores", lambda count=count: count)
        with pytest.raises(SceneError, match="0 is broken"):
            in_threads(broken, range(5))


def test_there_is_a_core():
    assert cores() >= 1
