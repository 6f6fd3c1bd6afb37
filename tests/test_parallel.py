import inspect
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import tasks
from hypothesis import given
from hypothesis import strategies as st

from geoseg import errors
from geoseg.errors import GeosegError, SceneError, UsageError, WorkerError
from geoseg.parallel import Inline, Processes, Scheduler, Threads, backend_from, cluster, ordered_map

TESTS = Path(__file__).parent
IMPORTABLE = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
IN_PROCESS = [Inline(), Threads(1), Threads(3)]


def eventually(condition, seconds=8.0):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def gone(pids):
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture(autouse=True)
def _nothing_is_left(request):
    before = children()
    yield
    if "dask_cluster" not in request.fixturenames:  # it lives on, and replaces its dead by itself
        assert eventually(lambda: not children() - before), "processes are left"
    assert eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("geoseg")]), "threads are left"


# ---- in this process


@pytest.mark.parametrize(
    "kind",
    [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, Exception)],
    ids=lambda c: c.__name__,
)
def test_errors_survive_pickling(kind):
    error = pickle.loads(pickle.dumps(kind("scene.tif=broken is bad. Expected good. Mend it.")))
    assert type(error) is kind
    assert str(error) == "scene.tif=broken is bad. Expected good. Mend it."


@given(
    backend=st.sampled_from(IN_PROCESS),
    items=st.lists(st.integers()),
    in_flight=st.none() | st.integers(min_value=1, max_value=9),
)
def test_results_come_in_order(backend, items, in_flight):
    assert list(ordered_map(tasks.square, items, backend=backend, in_flight=in_flight)) == [x * x for x in items]


def test_later_items_may_finish_first():
    assert list(ordered_map(tasks.later_is_faster, range(20), backend=Threads(5))) == list(range(20))


@pytest.mark.parametrize(
    ("backend", "in_flight", "bound"), [(Inline(), None, 1), (Threads(2), None, 5), (Threads(2), 3, 3)]
)
def test_items_are_read_only_as_far_as_the_window(backend, in_flight, bound):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield taken

    with closing(ordered_map(tasks.square, endless(), backend=backend, in_flight=in_flight)) as results:
        assert taken == 0
        for consumed in range(10):
            next(results)
            assert taken - consumed <= bound


def test_one_thread_works_while_the_consumer_does():
    working = threading.Event()

    def func(x):
        if x == 1:
            working.set()
        return x

    with closing(ordered_map(func, range(3), backend=Threads(1))) as results:
        next(results)
        assert working.wait(5)


@pytest.mark.parametrize("backend", IN_PROCESS, ids=repr)
def test_a_geoseg_error_comes_as_itself_and_other_errors_name_the_item(backend):
    with pytest.raises(SceneError, match=r"^scene\.tif has a corrupt block") as refused:
        list(ordered_map(tasks.scene_error, range(9), backend=backend))
    assert type(refused.value) is SceneError

    results = ordered_map(tasks.reciprocal, range(9), backend=backend)
    assert [next(results) for _ in range(3)] == [1 / -3, 1 / -2, 1 / -1]
    with pytest.raises(WorkerError, match=r"^item 3 \(3\) failed: ZeroDivisionError: division by zero\.") as failed:
        next(results)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    assert list(results) == []


def test_a_long_item_is_named_in_one_line():
    with pytest.raises(WorkerError) as failed:
        list(ordered_map(lambda item: 1 / 0, [np.arange(10_000).reshape(100, 100)], backend=Inline()))
    assert len(str(failed.value)) < 200
    assert "\n" not in str(failed.value)


def test_stop_iteration_in_a_task_does_not_end_the_run_quietly():
    with pytest.raises(WorkerError, match="StopIteration"):
        list(ordered_map(lambda item: next(iter([])), range(3), backend=Inline()))


@pytest.mark.parametrize("backend", IN_PROCESS, ids=repr)
def test_an_error_of_the_items_passes_through(backend):
    def items():
        yield 1
        raise OSError("the list of cells ends here")

    with pytest.raises(OSError, match="the list of cells"):
        list(ordered_map(tasks.square, items(), backend=backend))


@pytest.mark.parametrize("stop", ["failure", "close"])
def test_what_is_pending_is_dropped(stop):
    called = []

    def func(x):
        called.append(x)
        time.sleep(0.05)
        return 1 // x if stop == "failure" else x

    with closing(ordered_map(func, range(100), backend=Threads(2), in_flight=50)) as results:
        if stop == "failure":
            with pytest.raises(WorkerError):
                next(results)
        else:
            next(results)
    assert len(called) < 10


@pytest.mark.parametrize("backend", [*IN_PROCESS, Processes(2), Scheduler("tcp://127.0.0.1:1")], ids=repr)
def test_no_items_start_nothing(backend):
    assert list(ordered_map(tasks.square, [], backend=backend)) == []


def test_wrong_numbers_are_refused():
    for wrong in (Threads, Processes, lambda n: ordered_map(abs, [], backend=Inline(), in_flight=n)):
        with pytest.raises(UsageError, match=r"=0 is too small\. Expected at least 1\.$"):
            wrong(0)


def test_backend_from_options():
    assert backend_from(threads=3) == Threads(3)
    assert backend_from(threads=0) == Inline()
    assert backend_from(workers=2, setup=tasks.prepare) == Processes(2, tasks.prepare)
    assert backend_from(scheduler="tcp://host:8786") == Scheduler("tcp://host:8786")
    with pytest.raises(UsageError, match="exclude each other"):
        backend_from(workers=2, scheduler="tcp://host:8786")
    with pytest.raises(UsageError, match="workers=0"):
        backend_from(workers=0)


def test_dask_is_imported_only_when_asked_for():
    code = (
        "import sys, geoseg.parallel as p; assert list(p.ordered_map(abs, [-1], backend=p.Threads(1))) == [1]; "
        "assert not {'dask', 'distributed', 'tornado', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=IMPORTABLE)


# ---- worker processes of this machine


def test_processes_give_the_same_arrays_quietly(capfd):
    expected = list(ordered_map(tasks.cell, range(30), backend=Inline()))
    for got, wanted in zip(ordered_map(tasks.cell, range(30), backend=Processes(2)), expected, strict=True):
        np.testing.assert_array_equal(got["labels"], wanted["labels"])
    assert capfd.readouterr() == ("", "")


def test_processes_are_prepared_once_and_load_once():
    for pid, prepared_in, threads in ordered_map(tasks.prepared, range(20), backend=Processes(2, tasks.prepare)):
        assert prepared_in == [pid]
        assert threads == "1"

    tasks.Model.pickled = 0
    calls = list(ordered_map(tasks.Model(), range(20), backend=Processes(2)))
    assert tasks.Model.pickled == 1
    per_process = {pid: max(n for p, n in calls if p == pid) for pid, _ in calls}
    assert len(per_process) == 2
    assert sum(per_process.values()) == 20  # each process kept its copy from call to call


def test_errors_of_processes_are_those_of_inline(capfd):
    with pytest.raises(SceneError) as refused:
        list(ordered_map(tasks.scene_error, range(9), backend=Processes(2)))
    assert type(refused.value) is SceneError
    assert str(refused.value) == tasks.CORRUPT
    with pytest.raises(SceneError, match="corrupt block"):
        list(ordered_map(tasks.square, range(9), backend=Processes(1, tasks.prepare_badly)))
    for func, words in {
        tasks.reciprocal: r"^item 3 \(3\) failed: ZeroDivisionError: division by zero\.",
        tasks.awkward_error: r"^item 0 \(0\) failed: Awkward: 0 is not right\.",
        tasks.unpicklable_result: r"^item 0 \(0\) failed: TypeError: Could not serialize object of type generator\.",
        tasks.leave: r"^item 0 \(0\) failed: RuntimeError: it raised SystemExit\('leaving at 0'\)\.",
        tasks.interrupt: r"^item 0 \(0\) failed: RuntimeError: it raised KeyboardInterrupt\(\)\.",
    }.items():
        with pytest.raises(WorkerError, match=words) as failed:
            list(ordered_map(func, range(9), backend=Processes(1)))
        assert "\n" not in str(failed.value)
        assert failed.value.__cause__ is not None
    assert capfd.readouterr() == ("", "")


def test_processes_listen_on_loopback_and_keep_stdout_clean(capfd):
    with closing(ordered_map(tasks.prints, range(20), backend=Processes(2))) as results:
        next(results)
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [c for p in processes for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
        assert listening
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    out, err = capfd.readouterr()
    assert out == ""
    assert set(err.splitlines()) == {"a library prints"}


def test_closing_ends_processes_that_are_at_work(tmp_path):
    started = time.monotonic()
    with closing(ordered_map(tasks.Recorder(str(tmp_path), 1), range(100), backend=Processes(2))) as results:
        assert next(results) == 0
    assert gone(int(path.name) for path in tmp_path.iterdir())
    assert time.monotonic() - started < 10


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_killed_processes_change_nothing(tmp_path, capfd, n):
    expected = list(ordered_map(tasks.cell, range(40), backend=Inline()))
    results = ordered_map(tasks.DieOnce(str(tmp_path), (0, 7, 8, 39)), range(40), backend=Processes(n))
    for index, (got, wanted) in enumerate(zip(results, expected, strict=True)):
        np.testing.assert_array_equal(got["labels"], wanted["labels"])
        if index in (3, 20):  # all at once, at rest or at work
            for pid in children():
                os.kill(pid, signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 4
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(("n", "item"), [(1, 0), (1, 4), (2, 5), (3, 2)])
def test_an_item_that_kills_is_named_after_its_third_death(tmp_path, capfd, n, item):
    with pytest.raises(
        WorkerError, match=rf"^item {item} \({item}\) ended its worker process 3 times \(killed by SIGKILL\)"
    ):
        list(ordered_map(tasks.Poison(str(tmp_path), item), range(9), backend=Processes(n)))
    assert 3 <= len(list(tmp_path.iterdir())) <= 3 + n
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_processes_that_cannot_start_end_the_run(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkerError, match=r"^workers=2 processes end as soon as they are started \(exit code 1\)"):
        list(ordered_map(tasks.square, range(9), backend=Processes(2)))


# ---- the parent's end


PARENT = """
import sys
print("started", flush=True)
from geoseg.parallel import Processes, ordered_map
from tasks import Recorder
try:
    for result in ordered_map(Recorder(sys.argv[1], float(sys.argv[2])), range(10**6), backend=Processes(2)):
        print(result, flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def parent(tmp_path):
    """Start PARENT, an unguarded script; returns it and its workers' pids once both are at work."""
    script, at_work, scratch = tmp_path / "script.py", tmp_path / "pids", tmp_path / "tmp"
    script.write_text(PARENT)
    at_work.mkdir()
    scratch.mkdir()

    def start(seconds):
        process = subprocess.Popen(
            [sys.executable, str(script), str(at_work), str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=IMPORTABLE | {"TMPDIR": str(scratch)},
        )
        started.append(process)
        assert eventually(lambda: len(list(at_work.iterdir())) == 2, 60)
        return process, [int(path.name) for path in at_work.iterdir()]

    started: list[subprocess.Popen] = []
    yield start
    for process in started:
        process.kill()
        process.communicate()
    assert eventually(lambda: not list(scratch.iterdir()), 30), f"left: {list(scratch.rglob('*'))}"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.05, 600])
@pytest.mark.parametrize("send", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda s: s.name)
def test_no_worker_survives_its_parent(parent, seconds, send, tmp_path):
    process, workers = parent(seconds)
    (folder,) = (tmp_path / "tmp").glob("geoseg-*")
    for number in range(3000):  # it takes a while to remove them
        (folder / f"{number}.scratch").touch()
    os.killpg(process.pid, send)  # as a terminal sends Ctrl-C: to the whole group
    assert process.wait(8) == (130 if send == signal.SIGINT else -send)
    assert eventually(lambda: gone(workers))
    out, err = process.communicate()
    assert err == ""
    lines = out.splitlines()
    assert lines == ["started", *map(str, range(len(lines) - 1))]  # started once: no worker ran the script again


class Interrupting:
    """Its end is interrupted, where Python drops exceptions: so fares Ctrl-C in the `__del__` of Dask's futures."""

    def __del__(self):
        raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 4, 8], ids=["first", "middle", "last"])
def test_an_interrupt_in_a_finalizer_is_not_lost(at, capfd):
    before, seen = sys.unraisablehook, []

    def consume():
        for result in ordered_map(tasks.square, range(9), backend=Processes(1)):
            seen.append(result)
            if result == at**2:
                Interrupting()

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert seen == [x**2 for x in range(at + 1)]
    assert sys.unraisablehook is before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("how", ["script", "-c", "-m"])
def test_functions_of_main_are_sent_by_value(tmp_path, how):
    code = (
        "print('started', flush=True)\n"
        "from geoseg.parallel import Processes, ordered_map\n"
        "def double(x): return 2 * x\n"
        "print(list(ordered_map(double, range(5), backend=Processes(2))))\n"
    )
    (tmp_path / "program.py").write_text(code)
    argv = {"script": ["program.py"], "-c": ["-c", code], "-m": ["-m", "program"]}[how]
    done = subprocess.run([sys.executable, *argv], cwd=tmp_path, env=IMPORTABLE, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("started\n[0, 2, 4, 6, 8]\n", "")


# ---- a cluster that exists already


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class DaskProcesses:
    """`dask scheduler` and `dask worker` processes, started and ended as a user would."""

    def __init__(self, env=IMPORTABLE, cwd=None):
        port = free_port()
        self.address = f"tcp://127.0.0.1:{port}"
        self._started, self._env, self._cwd = [], env, cwd
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(port))
        assert eventually(self._listens, 60)

    def add_workers(self, n):
        workers = [self._start("worker", self.address, "--nthreads", "1", "--host", "127.0.0.1") for _ in range(n)]
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n, timeout=60)
        return workers

    def _start(self, kind, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options, "--no-dashboard"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._started.append(subprocess.Popen(command, env=self._env, cwd=self._cwd, **quiet))
        return self._started[-1]

    def _listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.address.rpartition(":")[2]))) == 0

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for process in reversed(self._started):
            process.terminate()
        for process in self._started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def dask_cluster():
    with DaskProcesses() as processes:
        processes.add_workers(2)
        yield processes.address


@pytest.mark.slow
def test_a_cluster_gives_the_same_arrays_quietly(dask_cluster, tmp_path, capfd):
    expected = list(ordered_map(tasks.cell, range(40), backend=Inline()))
    for func in (tasks.cell, tasks.DieOnce(str(tmp_path), (0, 7, 39))):
        results = ordered_map(func, range(40), backend=Scheduler(dask_cluster))
        for got, wanted in zip(results, expected, strict=True):
            np.testing.assert_array_equal(got["labels"], wanted["labels"])
    assert len(list(tmp_path.iterdir())) == 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_cluster_is_prepared_and_its_errors_are_ours(dask_cluster, tmp_path, capfd):
    for pid, prepared_in, _ in ordered_map(tasks.prepared, range(9), backend=Scheduler(dask_cluster, tasks.prepare)):
        assert prepared_in == [pid]
    with pytest.raises(SceneError) as refused:
        list(ordered_map(tasks.scene_error, range(9), backend=Scheduler(dask_cluster)))
    assert str(refused.value) == tasks.CORRUPT
    with pytest.raises(WorkerError, match=r"^item 3 \(3\) failed: ZeroDivisionError"):
        list(ordered_map(tasks.reciprocal, range(9), backend=Scheduler(dask_cluster)))
    with pytest.raises(
        WorkerError, match=r"^item 0 \(0\) was with several workers of scheduler=tcp.* when they died\."
    ):
        list(ordered_map(tasks.Poison(str(tmp_path), 0), range(1), backend=Scheduler(dask_cluster)))
    assert list(ordered_map(tasks.square, range(9), backend=Scheduler(dask_cluster))) == [x * x for x in range(9)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_scheduler_that_dies_ends_the_run(capfd):
    with DaskProcesses() as processes:
        processes.add_workers(1)
        results = ordered_map(tasks.later_is_faster, range(1000), backend=Scheduler(processes.address))
        assert next(results) == 0
        processes.scheduler.kill()
        started = time.monotonic()
        with pytest.raises(WorkerError, match=r"^scheduler=tcp://127\.0\.0\.1:\d+ went away before item \d+ \(\d+\)"):
            list(results)
        assert time.monotonic() - started < 10
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_scheduler_without_workers_ends_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(cluster, "CONNECT_S", 2.0)
    monkeypatch.setattr(cluster, "NO_WORKERS_S", 3.0)
    with DaskProcesses() as processes:
        backend = Scheduler(processes.address)
        with pytest.raises(
            WorkerError, match=r"has shown no workers for 2 s\. .* `dask worker tcp://127\.0\.0\.1:\d+`\.$"
        ):
            list(ordered_map(tasks.square, range(9), backend=backend))
        (worker,) = processes.add_workers(1)
        results = ordered_map(tasks.Recorder(str(tmp_path), 1.5), range(99), backend=backend)
        assert next(results) == 0
        worker.terminate()
        with pytest.raises(WorkerError, match=r"has shown no workers for 3 s\."):
            list(results)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_scheduler_that_freezes_ends_the_run(monkeypatch):
    monkeypatch.setattr(cluster, "NO_WORKERS_S", 3.0)
    with DaskProcesses() as processes:
        processes.add_workers(1)
        results = ordered_map(tasks.later_is_faster, range(1000), backend=Scheduler(processes.address))
        assert [next(results) for _ in range(60)] == list(range(60))
        processes.scheduler.send_signal(signal.SIGSTOP)
        with pytest.raises(WorkerError, match=r"has shown no workers for 3 s\."):
            list(results)
        processes.scheduler.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_workers_without_geoseg_are_told_in_one_line(tmp_path):
    (tmp_path / "geoseg.py").write_text("raise ModuleNotFoundError('No module named geoseg', name='geoseg')")
    with DaskProcesses(env=os.environ | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path) as processes:
        processes.add_workers(1)
        with pytest.raises(WorkerError, match=r"has workers that cannot import geoseg\. Expected"):
            list(ordered_map(tasks.square, range(9), backend=Scheduler(processes.address)))


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "", "tcp://127.0.0.1:{port}", "tcp://127.0.0.1:{silent}"])
def test_an_address_where_no_scheduler_answers_is_told_in_one_line(address, monkeypatch, capfd):
    monkeypatch.setattr(cluster, "CONNECT_S", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = address.format(port=free_port(), silent=silent.getsockname()[1])
        with pytest.raises(
            WorkerError, match=rf"^scheduler={address} cannot be reached: .* Expected the address"
        ) as failed:
            list(ordered_map(tasks.square, range(9), backend=Scheduler(address)))
    assert "\n" not in str(failed.value)
    assert isinstance(failed.value, GeosegError)
    assert capfd.readouterr() == ("", "")
