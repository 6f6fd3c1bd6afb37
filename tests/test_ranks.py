"""Several processes share each batch: their sums, their ends, and that nobody is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from forks import Forks, forks
from runs import no_pictures, rows, same, squares
from test_resume import until, write_config, written

from geoseg.checkpoint import load_checkpoint
from geoseg.config import load_config
from geoseg.errors import DeviceError, UsageError
from geoseg.training.fit import train_model
from geoseg.training.folder import RunFolder
from geoseg.training.progress import Epoch, Step
from geoseg.training.ranks import Ranks
from geoseg.training.state import load_state
from geoseg.training.turns import Turns

SHORT = {"epochs": 2, "steps_per_epoch": 4, "batch_size": 4, "tile_size": 32}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    no_pictures(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    with forks(XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache")), OMP_NUM_THREADS="1") as found:
        yield found


@pytest.mark.parametrize(("count", "accumulate"), [(1, 1), (2, 1), (4, 3)])
def test_ranks_take_turns(tmp_path, count, accumulate):
    config = load_config(None, squares(tmp_path) | {"batch_size": 4, "steps_per_epoch": 7} | {
        "optimizer.accumulate": accumulate
    })  # fmt: skip
    parts = []
    for own in range(count):
        ranks = Ranks()
        ranks.own, ranks.count = own, count
        turns = Turns(config, ranks)
        turns.set_epoch(2)
        parts.append(list(turns))
        assert len(parts[-1]) == len(turns) == -(-7 // accumulate)
    steps = [sorted(index for part in step for index in part) for step in zip(*parts, strict=True)]
    assert [index for step in steps for index in step] == list(range(2 * 28, 3 * 28))
    assert {len(part) for step in zip(*parts, strict=True) for part in step[:-1]} <= {
        4 * accumulate // count, 4 * (7 % accumulate or accumulate) // count
    }  # fmt: skip


def test_signals_go_back_to_those_who_had_them(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ranks = Ranks()
    ranks.count = 2
    ranks.hold_signals()
    assert {signal.getsignal(number) for number in before} == {ranks._note}
    signal.raise_signal(signal.SIGINT)
    ranks.release_signals()
    assert {number: signal.getsignal(number) for number in before} == before
    with pytest.raises(KeyboardInterrupt):  # what came after the last step is not lost
        ranks.heed_signal()
    Ranks().heed_signal()


def test_what_cannot_be_shared_is_refused(tmp_path):
    config = load_config(None, squares(tmp_path) | {"batch_size": 4})
    with pytest.raises(UsageError, match=r"batch_size=4 cannot be shared by 3 processes\. Expected a multiple of 3"):
        train_model(config, tmp_path / "run", processes=3)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError):
            train_model(config, tmp_path / "run", processes=2, device="cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tmp_path, capfd):
    """Without anything that looks at the whole batch at once, gradients are the same but for rounding."""
    still = {"augmentation": {"flips": False, "zoom": [1, 1]} | dict.fromkeys(
        ["brightness", "contrast", "gamma", "color", "noise", "blur"], 0)}  # fmt: skip
    plain = {"arch_args": {"width": 4, "depth": 2, "norm": "none"}, "loss": "cross_entropy", "precision": "float32"}
    sgd = {"optimizer.name": "sgd", "optimizer.lr": 0.05, "optimizer.clip": 100}
    changes = squares(tmp_path) | SHORT | still | plain | sgd
    changes["data.sources"][0] |= {"train": [[0, 0, 80, 160]]}  # labelled everywhere: no part has fewer pixels to tell
    config = load_config(None, changes)
    epochs: list[Epoch] = []
    steps: list[Step] = []
    train_model(config, tmp_path / "one")
    path = train_model(config, tmp_path / "two", processes=2, on_epoch=epochs.append, on_step=steps.append)
    assert path == tmp_path / "two" / "model.safetensors"
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert [(step.epoch, step.number) for step in steps] == [(e, n) for e in (1, 2) for n in (1, 2, 3, 4)]
    one, two = (load_state(tmp_path / name / "state" / "epoch-0002.safetensors") for name in ("one", "two"))
    for name, tensor in one["network"].items():
        torch.testing.assert_close(two["network"][name], tensor, atol=1e-5, rtol=1e-4)
    assert [float(row["loss"]) for row in rows(tmp_path / "two")] == pytest.approx(
        [float(row["loss"]) for row in rows(tmp_path / "one")], rel=1e-4
    )
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_under_torchrun_ranks_stay_equal_and_run_out_of_memory_together(tmp_path):
    config = write_config(tmp_path, squares(tmp_path) | SHORT | {"batch_size": 8, "data.hard": 0.5})
    notes = tmp_path / "notes"
    notes.mkdir()
    probe = Path(__file__).with_name("rank_probe.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(probe)]
    done = subprocess.run([*command, str(config), str(tmp_path / "run"), str(notes)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for epoch in range(2):
        first, second = (json.loads((notes / f"{rank}-{epoch}.json").read_text()) for rank in (0, 1))
        assert (first["network"], first["average"]) == (second["network"], second["average"])
        assert first["pool"] == second["pool"] != []
        assert (first["writes"], second["writes"]) == (True, False)
    # Both had tried a batch of four; both went on with two.
    assert first["sizes"][:3] == second["sizes"][:3] == [4, 2, 2]
    assert 4 not in first["sizes"][1:]
    assert first["seen"][0] == [0, 2, 4, 6]
    assert second["seen"][0] == [1, 3, 5, 7]
    assert len(rows(tmp_path / "run")) == 2
    assert (load_config(tmp_path / "run" / "config.yaml").batch_size, len(first["seen"])) == (4, 8)


def members(pid: int) -> list[psutil.Process]:
    """The processes of a run whose parent is `pid`, by rank."""
    return [one for one in psutil.Process(pid).children() if "geoseg.training.launch" in " ".join(one.cmdline())]


def start(program: Forks, tmp_path: Path, **changes) -> tuple[int, Path, Path]:
    """A run of two processes in its second epoch."""
    config = write_config(tmp_path, squares(tmp_path) | SHORT | {"epochs": 3, "steps_per_epoch": 12} | changes)
    log, run = tmp_path / "log", tmp_path / "run"
    pid = program.start(log, "train", "--config", config, "-o", run, "--workers", 2, "--device", "cpu")
    until(lambda: (run / "state").is_dir() and written(run))
    return pid, log, run


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_which_can_be_gone_on_with(tmp_path, program: Forks):
    pid, log, run = start(program, tmp_path)
    both = members(pid)
    both[1].kill()
    begun = time.monotonic()
    assert program.wait(pid) == 1, log.read_text()
    assert time.monotonic() - begun < 15
    assert "Error: a process of the run ended by itself (killed by SIGKILL)" in log.read_text()
    assert not any(one.is_running() for one in both)
    assert program.run(log, "train", "-o", run, "--resume", "--workers", 2, "--device", "cpu") == 0, log.read_text()
    whole = tmp_path / "whole"
    options = ("--config", tmp_path / "run.yaml", "-o", whole, "--workers", 2, "--device", "cpu")
    assert program.run(log, "train", *options) == 0
    same(whole, run)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_process_outlives_the_one_that_was_called(tmp_path, program: Forks, number, code):
    pid, log, run = start(program, tmp_path)
    both = members(pid)
    assert len(both) == 2
    os.kill(pid, number)
    assert program.wait(pid) == code, log.read_text()
    _, alive = psutil.wait_procs(both, timeout=30)
    assert not alive
    load_checkpoint(run / "model.safetensors")
    if number == signal.SIGTERM:
        assert "Terminated. " in log.read_text()
        assert "--resume goes on" in log.read_text()
    assert "Traceback" not in log.read_text()
    with RunFolder(run, overwrite=True):  # nobody holds it
        pass


@pytest.mark.slow
def test_an_error_of_one_process_is_the_error_of_the_run(tmp_path, monkeypatch):
    source = squares(tmp_path)["data.sources"][0] | {"labels": str(tmp_path / "none.gpkg")}
    config = load_config(None, squares(tmp_path) | SHORT | {"data.sources": [source]})
    with pytest.raises(Exception, match=r"none\.gpkg") as caught:
        train_model(config, tmp_path / "run", processes=2)
    assert type(caught.value).__name__ in ("LabelsError", "UsageError")
    assert not (tmp_path / "run").exists()
