"""Real processes, killed and interrupted: never an unfinished file under an output's name, and the same bytes after."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from checkpoints import write_checkpoint
from rasters import digests, noise, write_raster

TESTS = Path(__file__).parent
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
OUTPUTS = ["confidence.tif", "out.gpkg", "out.qml", "out.tif", "out.tif.aux.xml"]
SPOOL = "out.tif.partial"
CELLS = 80

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Predict:
    """`geoseg predict` as a user starts it."""

    def __init__(self, folder, scene, model, *options):
        self.folder = folder
        command = [sys.executable, "-m", "geoseg.cli.main", "predict", scene, "--model", model, "-o", "out.tif"]
        command += ["--vectors", "out.gpkg", "--confidence", "confidence.tif", "--tile-size", "112"]
        command += ["--precision", "float32", "--device", "cpu", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(list(map(str, command)), cwd=folder, env=ENV, **pipes)

    @property
    def cells(self):
        return len(list((self.folder / SPOOL).glob("cell-*.zst")))

    def wait_until(self, condition):
        """False when the process has ended before."""
        deadline = time.monotonic() + 120
        while not condition():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return True

    def workers(self):
        return [
            p for p in psutil.Process(self.process.pid).children(recursive=True) if "worker" in " ".join(p.cmdline())
        ]

    def end(self, seconds=120):
        """Exit code, stdout and stderr."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        finally:
            self.process.kill()
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A scene of 80 cells, a model that takes seconds for them, and the bytes of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("work")
    pixels = noise((3, 500, 600))
    pixels[:, 200:330, 100:300] = 0
    scene = write_raster(folder / "scene.tif", pixels, nodata=0)
    model = write_checkpoint(folder / "model.safetensors", width=16, depth=2, cell_side=64)
    (folder / "out").mkdir()
    code, out, err = Predict(folder / "out", scene, model).end()
    assert (code, out.split(), err) == (0, ["out.tif", "out.gpkg", "confidence.tif"], "")
    assert sorted(digests(folder / "out")) == OUTPUTS
    return scene, model, digests(folder / "out")


@pytest.fixture
def start(work, tmp_path):
    """Start a run in the test's folder; what still lives at the end is killed."""
    runs = []

    def start(*options):
        runs.append(Predict(tmp_path, *work[:2], *options))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.communicate()


def gone(processes):
    return not psutil.wait_procs(processes, timeout=10)[1]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def finish(start, work, folder, *options):
    """Go on to the end: all bytes are those of the undisturbed run and nothing else lies about. Cells found."""
    code, out, err = start("--resume", "--json", *options).end()
    assert (code, err) == (0, "")
    assert digests(folder) == work[2]
    return json.loads(out)["resumed"]


def test_killed_again_and_again_at_random_moments(start, work, tmp_path):
    seed = random.randrange(2**32)
    print("seed", seed)  # shown when the test fails
    rng = random.Random(seed)
    counts = [1, *sorted(rng.sample(range(2, CELLS), 3)), CELLS]
    found = 0
    for count in counts:
        run = start(*["--resume"] * (found > 0))
        if count == 1:
            time.sleep(rng.uniform(0, 1.5))  # while it is still starting
        else:
            assert run.wait_until(lambda run=run, count=count: run.cells >= count)
            time.sleep(rng.uniform(0, 0.05))
        run.process.kill()
        code, out, _ = run.end()
        assert (code, out) == (-9, "")
        assert [name for name in names(tmp_path) if not name.startswith(".")] in ([], [SPOOL])
        assert run.cells >= found
        found = run.cells
    assert finish(start, work, tmp_path) == found >= counts[-2]


def test_killed_while_it_writes_the_outputs(start, work, tmp_path):
    killed = 0
    for ending in (".tif.cells", ".tif", ".gpkg"):
        seen = {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)}

        def begun(ending=ending, seen=seen):
            hidden = [name for name in names(tmp_path) if name.startswith(".") and name.endswith(ending)]
            return any(seen.get(name) != time_of(tmp_path / name) for name in hidden)

        run = start("--resume")
        reached = run.wait_until(begun)
        run.process.kill()
        run.end()
        if not reached:  # it was faster
            break
        killed += 1
        assert [name for name in names(tmp_path) if not name.startswith(".")] == [SPOOL]
    assert killed
    if SPOOL in names(tmp_path):
        assert finish(start, work, tmp_path) == CELLS


def time_of(path):
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def test_killed_between_two_renames(start, work, tmp_path):
    """Side files are in place, the main one is not: complete files all, but the run is not."""
    program = (
        "import os, sys\n"
        "link, placed = os.link, []\n"
        "def dying(*args):\n"
        "    if len(placed) == 3:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    placed.append(link(*args))\n"
        "os.link = dying\n"
        "from geoseg.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    run = start("--help")
    command = [sys.executable, "-c", program, *run.process.args[3:-1]]
    run.end()
    assert subprocess.run(command, cwd=tmp_path, env=ENV, timeout=120).returncode == -9
    there = [name for name in names(tmp_path) if not name.startswith(".") and name != SPOOL]
    assert len(there) == 3
    assert "out.tif" not in there
    assert SPOOL in names(tmp_path)
    assert finish(start, work, tmp_path) == CELLS


@pytest.mark.parametrize(
    ("send", "code", "options"),
    [(signal.SIGINT, 130, []), (signal.SIGTERM, 143, []), (signal.SIGINT, 130, ["--workers", "2"])],
    ids=["SIGINT", "SIGTERM", "SIGINT with workers"],
)
def test_interrupted(start, work, tmp_path, send, code, options):
    run = start(*options)
    assert run.wait_until(lambda: run.cells >= 5)
    children = psutil.Process(run.process.pid).children(recursive=True)
    assert len(children) >= (2 if options else 0)
    begun = time.monotonic()
    run.process.send_signal(send)
    returned, out, err = run.end(20)
    assert (returned, out) == (code, "")
    assert time.monotonic() - begun < 10
    word = {130: "Interrupted", 143: "Terminated"}[code]
    said = re.fullmatch(rf"{word}\. (\d+) of {CELLS} cells are finished\. Go on with --resume\.\n", err)
    assert said
    assert names(tmp_path) == [SPOOL]
    assert gone(children)
    found = finish(start, work, tmp_path)
    assert 5 <= found < CELLS
    assert int(said[1]) <= found  # those of a batch are counted together


@pytest.mark.parametrize("seconds", [0.1, 0.4, 0.8, 1.6])
@pytest.mark.parametrize(("send", "codes"), [(signal.SIGINT, {130, -2}), (signal.SIGTERM, {143, -15})])
def test_interrupted_before_the_first_cell(start, tmp_path, send, codes, seconds):
    run = start()
    time.sleep(seconds)
    run.process.send_signal(send)
    code, out, err = run.end(30)
    assert code in codes, err
    assert out == ""
    assert names(tmp_path) in ([], [SPOOL])
    assert names(tmp_path) == [] or run.cells


def test_a_second_run_of_the_same_output_is_refused_and_disturbs_nothing(start, work, tmp_path):
    first = start()
    assert first.wait_until(lambda: first.cells >= 1)
    first.process.send_signal(signal.SIGSTOP)
    for second in [start("--resume"), start("--overwrite")]:
        code, out, err = second.end()
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"in use by another run (process {first.process.pid} on" in err
    first.process.send_signal(signal.SIGCONT)
    code, _, err = first.end()
    assert (code, err) == (0, "")
    assert digests(tmp_path) == work[2]


def test_a_worker_killed_changes_nothing(start, work, tmp_path):
    run = start("--workers", "2")
    for count in (5, 30):
        assert run.wait_until(lambda count=count: run.cells >= count)
        random.choice(run.workers()).kill()
    children = psutil.Process(run.process.pid).children(recursive=True)
    code, out, err = run.end()
    assert (code, out.split(), err) == (0, ["out.tif", "out.gpkg", "confidence.tif"], "")
    assert digests(tmp_path) == work[2]
    assert gone(children)


def test_workers_do_not_survive_the_run(start, work, tmp_path):
    run = start("--workers", "2")
    assert run.wait_until(lambda: run.cells >= 5)
    children = run.workers()
    assert len(children) == 2
    run.process.kill()
    run.end()
    assert gone(children)
    assert [name for name in names(tmp_path) if not name.startswith(".")] == [SPOOL]
    assert 5 <= finish(start, work, tmp_path, "--workers", "2") < CELLS


def test_a_worker_of_a_cluster_killed_changes_nothing(start, work, tmp_path):
    from test_parallel import DaskProcesses

    with DaskProcesses() as cluster:
        nannies = cluster.add_workers(2)
        run = start("--scheduler", cluster.address)
        assert run.wait_until(lambda: run.cells >= 10)
        for child in psutil.Process(nannies[0].pid).children(recursive=True):
            child.kill()
        code, _, err = run.end()
        assert (code, err) == (0, "")
        assert digests(tmp_path) == work[2]
