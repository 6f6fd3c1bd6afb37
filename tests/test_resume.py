"""A run that was ended in any way and gone on with is the run that was not, byte for byte."""

import logging
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from forks import Forks, forks
from labelled import write_boxes, write_raster
from runs import no_pictures, rows, same, squares

from geoseg.checkpoint import load_checkpoint
from geoseg.config import dump_config, load_config
from geoseg.errors import OutputExistsError, ResumeError
from geoseg.training.fit import train_model
from geoseg.training.folder import CHECKPOINT, RunFolder
from geoseg.training.progress import Epoch
from geoseg.training.task import Segmentation

SHORT = {"epochs": 4, "steps_per_epoch": 4, "batch_size": 4, "tile_size": 32}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    no_pictures(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def short(tmp_path) -> dict:
    return squares(tmp_path) | SHORT


def stop_at(monkeypatch, step: int) -> None:
    """Ctrl-C in the middle of a step, once."""
    whole, left = Segmentation._answers, [1]

    def interrupted(self, image):
        if self.global_step == step and left:
            left.clear()
            raise KeyboardInterrupt
        return whole(self, image)

    monkeypatch.setattr(Segmentation, "_answers", interrupted)


VARIANTS = {
    "as it is": {},
    "sgd, poly, accumulated": {
        "optimizer.name": "sgd", "optimizer.schedule": "poly", "optimizer.accumulate": 3, "steps_per_epoch": 8,
    },
    "adam, one cycle, no average": {"optimizer.name": "adam", "optimizer.schedule": "one_cycle", "optimizer.ema": 0.0},
    "hard and balanced": {"data.hard": 0.5, "data.balance": 0.3},
    "frozen, then slow": {"optimizer.freeze_encoder": 3, "optimizer.encoder_lr": 0.1},
    "dropout": {"arch": "fcn8s", "arch_args": {"width": 1}, "epochs": 3, "cell_side": 64},
    "bfloat16": {"precision": "bfloat16"},
    "everything changed": {"augmentation": {"rotation": 20, "coarsen": 0.5, "channel_dropout": 0.5, "noise": 0.1}},
    "by validation loss": {"metric": "val_loss", "patience": 2},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_was_interrupted_and_gone_on_with_is_the_whole_run(short, tmp_path, monkeypatch, variant):
    config = load_config(None, short | VARIANTS[variant])
    train_model(config, tmp_path / "whole")
    steps = -(-config.steps_per_epoch // config.optimizer.accumulate)
    stop_at(monkeypatch, steps + steps // 2)
    with pytest.raises(KeyboardInterrupt) as caught:
        train_model(config, tmp_path / "parts")
    assert "--resume" in caught.value.__notes__[0]
    seen: list[Epoch] = []
    train_model(config, tmp_path / "parts", resume=True, on_epoch=seen.append)
    assert seen[0].number == 2
    same(tmp_path / "whole", tmp_path / "parts")


def test_heads_of_labels_and_values_go_on_too(short, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    height = rng.normal(50, 5, (1, 160, 192)).astype(np.float32)
    source = short["data.sources"][0] | {"targets": {"height": str(write_raster(tmp_path / "height.tif", height))}}
    heads = {"surface": {"classes": ["background", "building"]}, "height": {"task": "regression"}}
    plain = {key: value for key, value in short.items() if key != "classes"}
    config = load_config(None, plain | {"heads": heads, "data.sources": [source], "epochs": 2})
    train_model(config, tmp_path / "whole")
    stop_at(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        train_model(config, tmp_path / "parts")
    train_model(config, tmp_path / "parts", resume=True)
    same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(("step", "keep"), [(2, 0.0), (6, 0.0), (2, 0.5), (6, 0.5)])
def test_a_start_from_a_checkpoint_is_not_made_again(short, tmp_path, monkeypatch, step, keep):
    """Nor is it forgotten when the run ends in its first epoch: config.yaml does not say what it was begun from."""
    train_model(load_config(None, short | {"epochs": 1}), tmp_path / "first")
    init = tmp_path / "first" / "model.safetensors"
    config = load_config(None, short | {"seed": 3, "epochs": 2, "optimizer.keep_init": keep})
    train_model(config, tmp_path / "whole", init=init)
    stop_at(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt):
        train_model(config, tmp_path / "parts", init=init)
    init.unlink()
    train_model(config, tmp_path / "parts", resume=True)
    same(tmp_path / "whole", tmp_path / "parts")


def test_a_share_of_the_weights_that_a_run_began_from_is_kept(short, tmp_path, caplog):
    """What is learnt is the same; of what is saved, that share is what it was. With other classes nothing is kept."""
    caplog.set_level(logging.WARNING, "geoseg")
    train_model(load_config(None, short | {"epochs": 1}), tmp_path / "first")
    init = tmp_path / "first" / "model.safetensors"
    saved = {}
    for keep in (0.0, 0.25):
        config = load_config(None, short | {"seed": 3, "epochs": 2, "optimizer.keep_init": keep})
        train_model(config, tmp_path / f"{keep}", init=init)
        saved[keep] = load_checkpoint(tmp_path / f"{keep}" / "last.safetensors").state_dict
    assert "keep_init" not in caplog.text
    before = load_checkpoint(init).state_dict
    moved = 0.0
    for name, value in saved[0.25].items():
        if value.is_floating_point():
            wanted = 0.75 * saved[0.0][name].float() + 0.25 * before[name].float()
            torch.testing.assert_close(value.float(), wanted, atol=2e-3, rtol=2e-3)
            moved = max(moved, float((saved[0.0][name].float() - before[name].float()).abs().max()))
    assert moved > 0.02
    more = {"classes": [{"name": name} for name in ("background", "building", "tree")]}
    train_model(load_config(None, short | more | {"epochs": 1, "optimizer.keep_init": 0.5}), tmp_path / "m", init=init)
    assert "keep_init is of no effect" in caplog.text


def test_another_start_than_the_run_had_is_refused(short, tmp_path, monkeypatch):
    first, other, run = (tmp_path / name for name in ("first", "other", "run"))
    for folder, seed in ((first, 0), (other, 1)):
        train_model(load_config(None, short | {"epochs": 1, "seed": seed}), folder)
    config = load_config(None, short | {"seed": 3, "epochs": 2})
    stop_at(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        train_model(config, run, init=first / CHECKPOINT)
    with pytest.raises(ResumeError, match=r"the run was begun from another checkpoint.*Leave --init out"):
        train_model(config, run, init=other / CHECKPOINT, resume=True)
    train_model(config, run, init=first / CHECKPOINT, resume=True)
    with pytest.raises(ResumeError, match="the run was begun from no checkpoint"):
        train_model(load_config(None, short | {"epochs": 1}), first, init=other / CHECKPOINT, resume=True)


def test_a_damaged_state_is_passed_over(short, tmp_path, monkeypatch, warnings):
    config = load_config(None, short)
    train_model(config, tmp_path / "whole")
    stop_at(monkeypatch, 13)
    with pytest.raises(KeyboardInterrupt):
        train_model(config, tmp_path / "parts")
    newest = tmp_path / "parts" / "state" / "epoch-0003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    seen: list[Epoch] = []
    train_model(config, tmp_path / "parts", resume=True, on_epoch=seen.append)
    assert any("epoch-0003.safetensors is damaged" in line for line in warnings)
    assert [epoch.number for epoch in seen] == [3, 4]
    same(tmp_path / "whole", tmp_path / "parts")


def test_what_is_finished_stays_as_it_is(short, tmp_path):
    config = load_config(None, short | {"epochs": 1})
    train_model(config, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    seen: list[Epoch] = []
    train_model(config, tmp_path / "run", resume=True, on_epoch=seen.append)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert seen == []
    assert {name for name in before if before[name] != after[name]} == {"log.txt"}


def test_more_epochs_with_a_constant_rate_are_the_longer_run(short, tmp_path):
    rate = {"optimizer.schedule": "constant", "optimizer.warmup": 0.0}
    longer = load_config(None, short | rate | {"epochs": 3})
    train_model(longer, tmp_path / "whole")
    train_model(longer.model_copy(update={"epochs": 2}), tmp_path / "parts")
    train_model(longer, tmp_path / "parts", resume=True)
    same(tmp_path / "whole", tmp_path / "parts")


def test_more_epochs_change_the_schedule_which_is_said(short, tmp_path, warnings):
    config = load_config(None, short | {"epochs": 1})
    train_model(config, tmp_path / "run")
    train_model(config.model_copy(update={"epochs": 2}), tmp_path / "run", resume=True)
    assert any("epochs=2 instead of 1: the rate follows the new schedule" in line for line in warnings)
    assert len(rows(tmp_path / "run")) == 2
    assert load_config(tmp_path / "run" / "config.yaml").epochs == 2


def test_other_settings_are_refused_by_name(short, tmp_path):
    config = load_config(None, short | {"epochs": 1})
    train_model(config, tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    other = load_config(None, short | {"epochs": 1, "optimizer.lr": 0.5, "seed": 4})
    with pytest.raises(ResumeError, match=r"other settings \(optimizer.lr, seed\)"):
        train_model(other, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def larger_image(scene: Path, labels: Path) -> None:
    write_raster(scene, np.random.default_rng(0).integers(20, 80, (3, 170, 192), dtype=np.uint8))


def other_image(scene: Path, labels: Path) -> None:
    write_raster(scene, np.random.default_rng(0).integers(20, 80, (3, 160, 192), dtype=np.uint8))


def moved_labels(scene: Path, labels: Path) -> None:
    write_boxes(labels, [(c + 1, r, c + 12, r + 9) for r in range(8, 150, 24) for c in range(8, 180, 24)])


@pytest.mark.parametrize("change", [larger_image, other_image, moved_labels])
def test_other_data_are_refused(short, tmp_path, change):
    config = load_config(None, short | {"epochs": 1})
    train_model(config, tmp_path / "run")
    change(Path(short["data.sources"][0]["scene"]), Path(short["data.sources"][0]["labels"]))
    with pytest.raises(ResumeError, match="the training data are not what the run was begun with"):
        train_model(config.model_copy(update={"epochs": 2}), tmp_path / "run", resume=True)


def test_nothing_to_go_on_with_is_a_new_run_unless_something_else_is_there(short, tmp_path):
    config = load_config(None, short | {"epochs": 1})
    (tmp_path / "run" / "state").mkdir(parents=True)  # as a run that is killed while it begins leaves it
    (tmp_path / "run" / "log.txt").write_text("Decoding.")
    train_model(config, tmp_path / "run", resume=True)
    assert len(rows(tmp_path / "run")) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("mine")
    with pytest.raises(OutputExistsError, match="not empty"):
        train_model(config, tmp_path / "other", resume=True)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.doc"]


def test_two_runs_do_not_share_a_folder(short, tmp_path):
    config = load_config(None, short | {"epochs": 1})
    with RunFolder(tmp_path / "run"):
        for options in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(
                OutputExistsError, match=rf"in use by another run \(process {os.getpid()} on .* since 20"
            ):
                train_model(config, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    train_model(config, tmp_path / "run")


# --- memory that runs out


def scarce(monkeypatch, most: int) -> list[int]:
    """No room for more than so many samples at once; returns the sizes that were tried."""
    whole, sizes = Segmentation._answers, []

    def answers(self, image):
        sizes.append(len(image))
        if len(image) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return whole(self, image)

    monkeypatch.setattr(Segmentation, "_answers", answers)
    return sizes


def test_out_of_memory_makes_the_same_steps_from_smaller_batches(short, tmp_path, monkeypatch, warnings):
    small = {"batch_size": 2, "optimizer.accumulate": 2, "steps_per_epoch": 8, "epochs": 2}
    train_model(load_config(None, short | small), tmp_path / "small")
    sizes = scarce(monkeypatch, 2)
    config = load_config(None, short | {"epochs": 2})
    train_model(config, tmp_path / "run")
    assert sizes[:3] == [4, 2, 2]
    assert set(sizes[1:]) == {2}
    assert "batch_size=2 and accumulate=2" in warnings[-1]
    assert "Out of memory with 4 samples" in (tmp_path / "run" / "log.txt").read_text()
    tree = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (tree["batch_size"], tree["steps_per_epoch"], tree["optimizer"]["accumulate"]) == (2, 8, 2)
    same(tmp_path / "small", tmp_path / "run")
    # What went through goes on: by the folder's own configuration, or by the one that was asked for at first.
    train_model(config.model_copy(update={"epochs": 3}), tmp_path / "run", resume=True)
    assert sizes.count(4) == 1


def test_a_run_that_memory_ran_out_of_goes_on_the_same(short, tmp_path, monkeypatch):
    scarce(monkeypatch, 2)
    config = load_config(None, short | {"epochs": 3})
    train_model(config, tmp_path / "whole")
    stop_at(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        train_model(config, tmp_path / "parts")
    train_model(config, tmp_path / "parts", resume=True)
    same(tmp_path / "whole", tmp_path / "parts")


def test_batches_that_memory_made_too_small_for_the_processes_are_said(short, tmp_path, monkeypatch):
    from geoseg.errors import UsageError
    from geoseg.training.ranks import Ranks

    scarce(monkeypatch, 2)
    config = load_config(None, short | {"epochs": 1})
    train_model(config, tmp_path / "run")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    for name, value in {"WORLD_SIZE": 4, "RANK": 0, "LOCAL_WORLD_SIZE": 4, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    assert Ranks().count == 4
    with pytest.raises(UsageError, match="batch_size=2 cannot be shared by 4 processes"):
        train_model(config.model_copy(update={"epochs": 2}), tmp_path / "run", device="cpu", resume=True)


def test_odd_batches_are_cut_into_equal_parts(short, tmp_path, monkeypatch):
    sizes = scarce(monkeypatch, 3)
    train_model(load_config(None, short | {"epochs": 1, "steps_per_epoch": 2, "batch_size": 9}), tmp_path / "run")
    assert sizes == [9, 3, 3, 3, 3, 3, 3]


def test_a_sample_that_does_not_fit_is_said(short, tmp_path, monkeypatch):
    from geoseg.errors import DeviceError

    scarce(monkeypatch, 0)
    with pytest.raises(DeviceError, match="a sample of 32x32 pixels does not fit into the memory of cpu"):
        train_model(load_config(None, short), tmp_path / "run")


# --- real processes, real signals


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    with forks(XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache")), OMP_NUM_THREADS="1") as found:
        yield found


def write_config(folder: Path, changes: dict) -> Path:
    path = folder / "run.yaml"
    path.write_text(dump_config(load_config(None, changes)))
    return path


def until(condition, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_at_random_moments_and_gone_on_with(short, tmp_path, program: Forks):
    config = write_config(tmp_path, short | {"epochs": 6, "data.hard": 0.3})
    log, parts = tmp_path / "log", tmp_path / "parts"
    assert program.run(log, "train", "--config", config, "-o", tmp_path / "whole") == 0, log.read_text()
    chance = random.Random(0)
    for epochs in range(4):  # each time after one more, and some way into the next
        pid = program.start(log, "train", "--config", config, "-o", parts, "--resume")
        until(lambda count=epochs: (parts / "config.yaml").exists() and written(parts) >= count)
        time.sleep(chance.uniform(0, 0.4))
        program.kill(pid)
        for path in parts.glob("*.safetensors"):
            load_checkpoint(path)  # whole, whenever it was
    assert program.run(log, "train", "-o", parts, "--resume") == 0, log.read_text()
    same(tmp_path / "whole", parts)


def written(run: Path) -> int:
    """Epochs in metrics.csv."""
    return len(rows(run)) if (run / "metrics.csv").exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "Terminated."), (signal.SIGINT, 130, "Inter")]
)
def test_signals_end_a_run_within_seconds_and_it_goes_on_the_same(short, tmp_path, program: Forks, number, code, word):
    config = write_config(tmp_path, short | {"epochs": 3, "steps_per_epoch": 15})
    log, run = tmp_path / "log", tmp_path / "run"
    pid = program.start(log, "train", "--config", config, "-o", run)
    until(lambda: (run / "state").is_dir() and list((run / "state").iterdir()))
    time.sleep(0.3)
    os.kill(pid, number)
    begun = time.monotonic()
    assert program.wait(pid) == code, log.read_text()
    assert time.monotonic() - begun < 10
    text = log.read_text()
    assert word in text
    assert "holds the best of" in text
    assert "Traceback" not in text
    assert not (run / "lock").exists()
    assert program.run(log, "train", "-o", run, "--resume") == 0, log.read_text()
    assert program.run(log, "train", "--config", config, "-o", tmp_path / "whole") == 0
    same(tmp_path / "whole", run)


@pytest.mark.slow
def test_a_second_run_in_one_folder_is_wrong_use(short, tmp_path, program: Forks):
    config = write_config(tmp_path, short)
    with RunFolder(tmp_path / "run"):
        for flag in ((), ("--overwrite",), ("--resume",)):
            assert program.run(tmp_path / "log", "train", "--config", config, "-o", tmp_path / "run", *flag) == 2
    assert (tmp_path / "log").read_text().count(f"in use by another run (process {os.getpid()} on") == 3
    assert not (tmp_path / "run").exists()
