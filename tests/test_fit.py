"""The task and the fit: what a step learns, what a run folder holds, and how a run ends badly."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from labelled import write_boxes, write_folder, write_raster
from runs import PICTURES, TINY, no_pictures, rows
from runs import squares as write_squares
from test_samples import make_ground
from torch import nn

from geoseg.checkpoint import load_checkpoint, save_checkpoint
from geoseg.config import dump_config, load_config
from geoseg.errors import ConfigError, LabelsError, OutputError, OutputExistsError, TrainingError, UsageError
from geoseg.losses import parse_mixture
from geoseg.metrics import IGNORE
from geoseg.pipeline import Products, predict_scene
from geoseg.predict import Placement
from geoseg.training.fit import train_model
from geoseg.training.folder import RunFolder, check_run
from geoseg.training.objective import merge_unknown
from geoseg.training.progress import Epoch, Step
from geoseg.training.samples import Statistics
from geoseg.training.start import checkpoint_keys
from geoseg.training.task import Segmentation
from geoseg.training.validate import mean_foreground, validate


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Sums in one order, whatever the machine; no pictures; a cache of its own."""
    no_pictures(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiles(tmp_path) -> Path:
    return write_folder(tmp_path / "tiles")


def tiny(folder: Path, **changes):
    return load_config(None, TINY | {"data.sources": [{"folder": str(folder)}]} | changes)


# --- partial labels


@given(seed=st.integers(0, 99), classes=st.integers(3, 6), data=st.data())
def test_merged_logits_give_the_sum_of_the_probabilities(seed, classes, data):
    known = sorted(data.draw(st.sets(st.integers(0, classes - 1), max_size=classes - 2)))
    others = [index for index in range(classes) if index not in known]
    logits = torch.randn(2, classes, 3, 4, generator=torch.Generator().manual_seed(seed))
    target = torch.randint(classes, (2, 3, 4), generator=torch.Generator().manual_seed(seed))
    target[0, 0, 0] = IGNORE
    merged, place = merge_unknown(logits, target, known)
    probs, all_probs = merged.softmax(1), logits.softmax(1)
    torch.testing.assert_close(probs[:, :-1], all_probs[:, known])
    torch.testing.assert_close(probs[:, -1], all_probs[:, others].sum(1))
    for index, value in enumerate(known):
        assert ((place == index) == (target == value)).all()
    assert ((place == IGNORE) == (target == IGNORE)).all()
    assert int(place[place != IGNORE].max()) <= len(known)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "dice", "tversky", "lovasz"])
def test_a_loss_says_nothing_about_which_of_the_merged_classes_it_is(loss):
    logits = torch.randn(1, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(4, (1, 5, 5))
    value = parse_mixture(loss)(*merge_unknown(logits, target, (1,)))
    (gradient,) = torch.autograd.grad(value, logits)
    others = [0, 2, 3]
    share = logits.detach()[:, others].softmax(1)
    # Any change of these logits that keeps the sum of their probabilities is, to first order, no change of the loss.
    move = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    move -= (move * share).sum(1, keepdim=True)
    assert (gradient[:, others] * move).sum().abs() < 1e-6 * gradient.abs().max().clamp_min(1e-9)
    swapped = logits.detach()[:, [2, 1, 0, 3]]
    assert float(parse_mixture(loss)(*merge_unknown(swapped, target, (1,)))) == pytest.approx(
        float(value.detach()), abs=1e-6
    )


@pytest.mark.parametrize("known", [(0, 1, 2), (0, 2), (1, 2)])
def test_labels_that_leave_at_most_one_class_open_are_taken_as_they_are(known):
    logits, target = torch.randn(1, 3, 2, 2), torch.randint(3, (1, 2, 2))
    merged, place = merge_unknown(logits, target, known)
    assert merged is logits
    assert place is target


def make_task(known=((0, 1, 2),), **changes) -> Segmentation:
    config = load_config(None, {"classes": [{"name": name} for name in "abc"]} | changes)
    network = nn.Conv2d(2, 3, 1)
    normalisation = Statistics((10.0, 20.0), (2.0, 4.0), ((0.0, 100.0), (0.0, 200.0)))
    grounds = [make_ground(np.zeros((2, 4, 4), np.uint8), known=one) for one in known]
    return Segmentation(network, parse_mixture(config.loss), config, grounds, normalisation)


def test_groups_of_a_batch_count_by_their_samples():
    task = make_task([(0, 1, 2), (1,)], loss="cross_entropy:2")
    logits, target = torch.randn(4, 3, 5, 5), torch.randint(3, (4, 5, 5))
    known = [task.grounds[index].known for index in (0, 1, 0, 0)]
    found = task.objective.loss.total(task.objective.partial_terms(logits, {"target": target}, known))
    whole, part = torch.tensor([0, 2, 3]), torch.tensor([1])
    full = task.objective.loss(logits[whole], target[whole])
    merged = task.objective.loss(*merge_unknown(logits[part], target[part], (1,)))
    torch.testing.assert_close(found, 0.75 * full + 0.25 * merged)


# --- the batch


def test_a_batch_without_changes_is_normalised_as_in_prediction():
    from geoseg.batches import Tile, to_batch

    still = {"augmentation": {"flips": False} | dict.fromkeys(["contrast", "gamma", "color", "noise", "blur"], 0)}
    task = make_task(**still | {"augmentation.brightness": 0})
    data = np.random.default_rng(0).integers(1, 99, (2, 4, 4)).astype(np.uint8)
    valid = np.ones((4, 4), bool)
    valid[1, 2] = False
    batch = {
        "image": torch.from_numpy(data)[None],
        "target": torch.zeros(1, 4, 4, dtype=torch.uint8),
        "valid": torch.from_numpy(valid)[None],
    }
    image, targets = task.prepare(batch)
    target = targets["target"]
    wanted = to_batch([Tile(data, valid)], (10.0, 20.0), (2.0, 4.0), torch.float32)
    torch.testing.assert_close(image, wanted, atol=1e-4, rtol=1e-4)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert target.dtype == torch.int64


# --- a run


def test_a_run_folder_holds_checkpoint_config_and_metrics(tiles, tmp_path):
    seen: list[Epoch] = []
    config = tiny(tiles, licence="CC0-1.0", origin="drawn")
    path = train_model(config, tmp_path / "run", on_epoch=seen.append)
    assert {item.name for item in (tmp_path / "run").iterdir()} == {
        "model.safetensors", "last.safetensors", "config.yaml", "metrics.csv", "log.txt", "tiles.csv", "state",
    }  # fmt: skip
    header = load_checkpoint(path).header
    assert [item.name for item in header.classes] == ["background", "building"]
    assert (header.arch, header.arch_args, header.stride, header.receptive_radius) == (
        "unet",
        {"width": 4, "depth": 2},
        4,
        23,
    )
    assert (header.dtype, header.cell_side, header.licence, header.origin) == ("uint8", 64, "CC0-1.0", "drawn")
    assert len(header.mean) == len(header.bands) == 3
    assert header.gsd.min < 0.5 < header.gsd.max
    assert set(header.metrics["iou"]) == {"all", "tiles"}
    assert load_config(tmp_path / "run" / "config.yaml") == config
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert set(rows[0]) >= {
        "loss",
        "cross_entropy",
        "dice",
        "lr",
        "iou_building",
        "iou_mean",
        "score",
        "share_dice",
        "samples_per_s",
        "seconds",
    }
    assert [epoch.number for epoch in seen] == [1, 2]
    assert seen[0].saved


def test_the_same_run_gives_the_same_bytes(tiles, tmp_path):
    first, second = (train_model(tiny(tiles), tmp_path / name).read_bytes() for name in "ab")
    assert first == second
    assert first != train_model(tiny(tiles, seed=1), tmp_path / "c").read_bytes()


@pytest.fixture
def squares(tmp_path):
    """A configuration to learn bright squares on dark ground by, in seconds."""
    return write_squares(tmp_path)


def test_it_learns(tmp_path, squares):
    seen: list[Epoch] = []
    train_model(load_config(None, squares), tmp_path / "run", on_epoch=seen.append)
    assert seen[-1].iou["building"] > 0.8
    assert seen[-1].loss < seen[0].loss


def test_without_validation_ground_the_last_epoch_stays(tiles, tmp_path):
    seen: list[Epoch] = []
    source = {"folder": str(tiles), "split": "train"}
    path = train_model(tiny(tiles, **{"data.sources": [source]}), tmp_path / "run", on_epoch=seen.append)
    assert all(epoch.saved and epoch.mean_iou is None for epoch in seen)
    assert load_checkpoint(path).header.metrics == {"iou": {}}


def test_partial_labels_are_scored_on_what_they_know(tiles):
    from geoseg.training.sources import load_data

    classes = [{"name": name} for name in ("background", "building", "road")]
    source = {"folder": str(tiles), "known": ["building"], "split": "val"}
    other = {"synthetic": 1, "size": 96, "gsd_range": [0.5, 0.5]}
    data = load_data(load_config(None, {"data.sources": [source, other], "classes": classes}))

    class Roads(nn.Module):
        """Road everywhere."""

        stride, bounded = 1, True

        def forward(self, image):
            return torch.tensor([0.0, 0.0, 5.0]).view(1, 3, 1, 1).expand(len(image), 3, *image.shape[2:])

    from geoseg.checkpoint import ClassInfo, Head, Header

    infos = tuple(ClassInfo(name=item["name"], color="#000000") for item in classes)
    header = Header(
        arch="unet", bands=("r", "g", "b"), mean=(0.0,) * 3, std=(1.0,) * 3, value_range=((0.0, 1.0),) * 3,
        dtype="uint8", heads={"main": Head(classes=infos)}, cell_side=64, stride=1, receptive_radius=0,
    )  # fmt: skip
    scores = validate(Roads(), header, data.val, Placement(device="cpu", precision="float32")).iou
    # Where roads are not known they are no false alarm: every pixel but the buildings is right.
    assert scores["tiles"]["road"] is None
    assert scores["tiles"]["building"] == 0
    assert scores["tiles"]["background"] == pytest.approx(1 - 64 / (24 * 20))


def test_the_mean_is_over_the_classes_there_are():
    assert mean_foreground({"background": 0.9, "building": 0.5, "road": None, "tree": 0.1}) == pytest.approx(0.3)
    assert mean_foreground({"background": 0.9, "building": None}) is None
    assert mean_foreground({}) is None


# --- starting from a checkpoint


def test_a_run_starts_from_a_checkpoint_and_keeps_its_normalisation(tiles, tmp_path):
    first = train_model(tiny(tiles), tmp_path / "first")
    start = load_checkpoint(first)
    header = start.header.model_copy(update={"mean": (1.0, 2.0, 3.0)})
    save_checkpoint(tmp_path / "other.safetensors", header, start.state_dict)
    config = tiny(tiles, epochs=1, steps_per_epoch=1, **{"optimizer.lr": 1e-12})
    second = load_checkpoint(train_model(config, tmp_path / "second", init=str(tmp_path / "other.safetensors")))
    assert second.header.mean == (1.0, 2.0, 3.0)
    for name, tensor in start.state_dict.items():
        if name.endswith("weight"):
            torch.testing.assert_close(second.state_dict[name], tensor, atol=1e-3, rtol=1e-3)
    statistics = [name for name in start.state_dict if "running" in name]
    assert all(torch.equal(second.state_dict[name], start.state_dict[name]) for name in statistics)
    moving = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"freeze_norm": False})})
    third = load_checkpoint(train_model(moving, tmp_path / "third", init=str(tmp_path / "other.safetensors")))
    assert not any(torch.equal(third.state_dict[name], start.state_dict[name]) for name in statistics)
    keys = checkpoint_keys(str(first))
    assert keys["arch_args"] == {"width": 4, "depth": 2}
    assert [item["name"] for item in keys["classes"]] == ["background", "building"]


def test_a_checkpoint_of_another_shape_is_refused_before_anything_is_written(tiles, tmp_path):
    path = train_model(tiny(tiles), tmp_path / "first")
    with pytest.raises(UsageError, match="width=4, the run's has width=5"):
        train_model(tiny(tiles, arch_args={"width": 5, "depth": 2}), tmp_path / "second", init=str(path))
    assert not (tmp_path / "second").exists()


def test_other_classes_start_from_a_checkpoint_by_name(tiles, tmp_path):
    path = train_model(tiny(tiles), tmp_path / "first")
    classes = [{"name": "background"}, {"name": "road"}, {"name": "building"}]
    source = {"folder": str(tiles), "values": {0: "background", 1: "building"}, "known": ["background", "building"]}
    changes = {"classes": classes, "data.sources": [source], "epochs": 1, "steps_per_epoch": 1, "optimizer.lr": 1e-12}
    path = train_model(tiny(tiles, **changes), tmp_path / "second", init=str(path))
    first = load_checkpoint(tmp_path / "first" / "model.safetensors").state_dict["head.weight"]
    second = load_checkpoint(path).state_dict["head.weight"]
    torch.testing.assert_close(second[[0, 2]], first, atol=1e-3, rtol=1e-3)


def test_a_cell_that_the_model_cannot_have_is_refused(tiles, tmp_path):
    with pytest.raises(ConfigError, match="cell_side=66 is no multiple of the model's stride 4"):
        train_model(tiny(tiles, cell_side=66), tmp_path / "run")


# --- runs that end badly


def test_an_existing_run_is_kept_unless_replacing_it_is_asked_for(tiles, tmp_path):
    run = tmp_path / "run"
    path = train_model(tiny(tiles), run)
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match="exists and is not empty"):
        train_model(tiny(tiles), run)
    with pytest.raises(UsageError):
        train_model(tiny(tiles, loss="nonsense"), run, overwrite=True)
    assert path.read_bytes() == before
    train_model(tiny(tiles, seed=1, epochs=1), run, overwrite=True)
    assert path.read_bytes() != before
    assert len((run / "metrics.csv").read_text().splitlines()) == 2


def test_an_empty_folder_is_written_and_a_file_is_not(tmp_path):
    (tmp_path / "empty").mkdir()
    check_run(tmp_path / "empty", overwrite=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExistsError, match="is a file"):
        check_run(tmp_path / "file", overwrite=True)
    with pytest.raises(OutputError, match="does not exist"):
        check_run(tmp_path / "missing" / "run", overwrite=False)


def test_a_loss_that_is_not_finite_stops_and_names_the_files(tiles, tmp_path):
    with pytest.raises(TrainingError, match=r"step \d+ \(samples of .*tile_\d.*Lower the learning rate \(now 1e\+30\)"):
        train_model(tiny(tiles, steps_per_epoch=40, **{"optimizer.lr": 1e30}), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "log.txt"}
    assert "TrainingError" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("steps", [1, 4])
def test_a_network_that_the_last_step_of_an_epoch_spoilt_is_said(squares, tmp_path, steps):
    config = load_config(None, squares | {"steps_per_epoch": steps, "optimizer.lr": 1e30, "optimizer.warmup": 0.0})
    with pytest.raises(TrainingError, match=r"in step \d \(samples of .*scene\.tif\).*Lower the learning rate"):
        train_model(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_gradients_that_no_scale_makes_finite_end_a_float16_run(tmp_path):
    from types import SimpleNamespace

    from geoseg.training.task import _OVERFLOWS, _Unread

    task = make_task()
    task._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=object()))

    def step(norm: float) -> None:
        task._unread = _Unread(7, ["loss"], torch.tensor([0.5]), torch.tensor([0]))
        task._unread.norm = torch.tensor(norm)
        task.settle()

    for norm in [float("inf")] * _OVERFLOWS + [1.0] + [float("nan")] * _OVERFLOWS:
        step(norm)
    with pytest.raises(TrainingError, match="gradient=nan in step 7"):
        step(float("nan"))


def test_the_last_good_checkpoint_survives_a_loss_that_is_not_finite(tiles, tmp_path, monkeypatch):
    whole = Segmentation._answers

    def spoilt(self, image):
        logits, auxiliary = whole(self, image)
        return logits * float("nan") if self.global_step >= 3 else logits, auxiliary

    monkeypatch.setattr(Segmentation, "_answers", spoilt)
    with pytest.raises(TrainingError, match="in step 4"):
        train_model(tiny(tiles), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "model.safetensors").header.metrics["iou"]["all"]


@pytest.mark.parametrize(
    ("step", "note"),
    [
        (0, "Nothing was learnt yet."),
        (2, "{run}/model.safetensors holds what was learnt before the end of the first epoch."),
        (4, "{run}/model.safetensors holds the best of 1 epoch; --resume goes on after the last of them."),
    ],
)
def test_an_interrupt_keeps_what_there_is_and_is_passed_on(tiles, tmp_path, monkeypatch, step, note):
    import signal

    before = signal.getsignal(signal.SIGINT)
    whole = Segmentation._answers

    def interrupted(self, image):
        if self.global_step == step:
            raise KeyboardInterrupt
        return whole(self, image)

    monkeypatch.setattr(Segmentation, "_answers", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        train_model(tiny(tiles), tmp_path / "run")
    assert caught.value.__notes__ == [note.format(run=tmp_path / "run")]
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "run" / "last.safetensors").exists() == (step > 0)
    assert not (tmp_path / "run" / "lock").exists()
    if step == 2:
        assert load_checkpoint(tmp_path / "run" / "model.safetensors").header.metrics == {"iou": {}}


def test_the_trainer_is_silent(tiles, tmp_path, capfd):
    train_model(tiny(tiles), tmp_path / "run")
    out, err = capfd.readouterr()
    assert out == ""
    assert "rain" not in err, err


def test_uint16_scenes_of_other_bands_train_too(tmp_path):
    data = np.random.default_rng(0).integers(0, 3000, (5, 64, 64), dtype=np.uint16)
    image = write_raster(tmp_path / "scene.tif", data)
    labels = write_boxes(tmp_path / "labels.geojson", [(4, 4, 20, 30), (30, 50, 60, 60)])
    source = {"scene": str(image), "labels": str(labels), "bands": [4, 2]}
    path = train_model(load_config(None, TINY | {"data.sources": [source]}), tmp_path / "run")
    header = load_checkpoint(path).header
    assert (len(header.bands), header.dtype) == (2, "uint16")
    assert header.value_range[0][1] > 2000


# --- a single logit, and networks without padding


def test_a_single_logit_is_trained_saved_validated_and_started_from(squares, tmp_path):
    config = load_config(None, squares | {"task": "binary"})
    epochs: list[Epoch] = []
    path = train_model(config, tmp_path / "run", device="cpu", on_epoch=epochs.append)
    checkpoint = load_checkpoint(path)
    (head,) = checkpoint.header.heads.values()
    assert (head.task, head.channels) == ("binary", 1)
    assert checkpoint.build()(torch.zeros(1, 3, 16, 16)).shape == (1, 1, 16, 16)
    assert epochs[-1].iou["building"] > 0.8
    again = load_config(None, squares | checkpoint_keys(str(path)))
    assert again.task == "binary"
    train_model(again.model_copy(update={"epochs": 1}), tmp_path / "again", device="cpu", init=str(path))


def test_a_single_logit_is_for_two_classes(tiles):
    with pytest.raises(ConfigError, match="two classes"):
        tiny(tiles, task="binary", classes=[{"name": name} for name in ("background", "building", "road")])


def test_a_network_without_padding_learns_from_the_middle_of_its_samples(squares, tmp_path):
    config = load_config(None, squares | {"arch_args": {"width": 4, "depth": 1, "padding": "valid"}})
    epochs: list[Epoch] = []
    path = train_model(config, tmp_path / "run", device="cpu", on_epoch=epochs.append)
    assert load_checkpoint(path).build().margin == 8
    assert epochs[-1].iou["building"] > 0.8
    with pytest.raises(ConfigError, match="leaves nothing to learn from"):
        train_model(
            config.model_copy(update={"tile_size": 32, "arch_args": {**config.arch_args, "depth": 2}}),
            tmp_path / "small",
        )


# --- several heads


@pytest.fixture
def three_heads(tmp_path, squares):
    """The squares, how high everything is, and two labels that overlap: square, and left half."""
    source = squares["data.sources"][0]
    with rasterio.open(source["scene"]) as src:
        bright = src.read().mean(0) > 130
        profile = src.profile
    rng = np.random.default_rng(1)
    height = np.where(bright, 60, 40) + rng.normal(0, 1, bright.shape)
    height[:5] = -9999
    left = np.broadcast_to(np.arange(bright.shape[1]) < bright.shape[1] // 2, bright.shape)
    flags = np.stack([bright, left & bright]).astype(np.uint8)
    flags[:, -3:] = 255
    profile.pop("photometric", None)
    files = {"height": (height[None].astype(np.float32), -9999), "flags": (flags, None)}
    for name, (array, nodata) in files.items():
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", **profile | {"count": len(array), "dtype": array.dtype, "nodata": nodata}
        ) as dst:
            dst.write(array)
    heads = {
        "surface": {"classes": ["background", "building"]},
        "height": {"task": "regression", "unit": "m"},
        "flags": {"task": "multilabel", "classes": ["square", "left"], "weight": 0.5},
    }
    targets = {name: str(tmp_path / f"{name}.tif") for name in files}
    plain = {key: value for key, value in squares.items() if key != "classes"}
    return plain | {"heads": heads, "data.sources": [source | {"targets": targets}], "epochs": 5}


def test_three_heads_are_learnt_scored_and_written(three_heads, tmp_path):
    config = load_config(None, three_heads)
    assert (config.main_head, list(config.further_heads)) == ("surface", ["flags", "height"])
    assert load_config(None, yaml.safe_load(dump_config(config))) == config
    epochs: list[Epoch] = []
    path = train_model(config, tmp_path / "run", device="cpu", on_epoch=epochs.append)
    last = epochs[-1]
    assert last.iou["building"] > 0.8
    assert last.further["flags.square"] > 0.8
    assert last.further["height.rmse"] < 4  # its deviation is 8
    assert set(last.terms) == {"cross_entropy", "dice", "flags.bce", "flags.dice", "height.huber"}
    header = load_checkpoint(path).header
    assert {name: (head.task, head.channels) for name, head in header.heads.items()} == {
        "flags": ("multilabel", 2), "height": ("regression", 1), "surface": ("multiclass", 2),
    }  # fmt: skip
    assert (header.heads["height"].unit, 5 < header.heads["height"].scale < 12) == ("m", True)
    assert (
        header.metrics["further"]["height.rmse"] == pytest.approx(last.further["height.rmse"], rel=0.02)
        or not last.saved
    )
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert "height.rmse" in next(csv.DictReader(file))

    products = Products(labels=tmp_path / "out.tif")
    predict_scene(three_heads["data.sources"][0]["scene"], path, products=products)
    with rasterio.open(tmp_path / "out_height.tif") as src, rasterio.open(tmp_path / "height.tif") as truth:
        known = truth.read(1) > -9999
        assert np.abs(src.read(1) - truth.read(1))[known].mean() < 4

    # The same heads, from where it stands: the scale of the values is the checkpoint's.
    keys = three_heads | checkpoint_keys(str(path)) | {"epochs": 1}
    keys["heads"]["flags"]["loss"] = "focal:1"
    again = train_model(load_config(None, keys), tmp_path / "again", device="cpu", init=str(path))
    assert load_checkpoint(again).header.heads["height"] == header.heads["height"]


def test_a_regression_alone(three_heads, tmp_path):
    source = {name: value for name, value in three_heads["data.sources"][0].items() if name != "labels"}
    source["targets"] = {"height": source["targets"]["height"]}
    heads = {"height": {"task": "regression", "loss": "mae:1"}}
    epochs: list[Epoch] = []
    changes = {"heads": heads, "data.sources": [source], "epochs": 5}
    path = train_model(load_config(None, three_heads | changes), tmp_path / "run", on_epoch=epochs.append)
    assert list(load_checkpoint(path).header.heads) == ["height"]
    assert epochs[-1].further["height.mae"] < 4
    assert epochs[-1].iou == {}
    assert sum(epoch.saved for epoch in epochs) >= 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": {"a": {"classes": ["x"]}}}, "takes 2 to 254"),
        ({"heads": {"a": {"task": "regression", "classes": ["x"]}}}, "takes 0 to 0"),
        ({"heads": {"a": {"task": "multilabel", "classes": ["x", "x"]}}}, "twice"),
        ({"heads": {"a/b": {"task": "regression"}}}, "a/b"),
        ({"heads": {"height": {"task": "regression"}, "main": {"classes": ["x", "y"]}}}, "names head 'flags'"),
    ],
)
def test_heads_that_make_no_sense(three_heads, changes, says):
    with pytest.raises(ConfigError, match=says):
        load_config(None, three_heads | changes)


def test_losses_that_do_not_fit_their_head(three_heads, tmp_path):
    heads = three_heads["heads"] | {"height": {"task": "regression", "loss": "dice:1"}}
    with pytest.raises(UsageError, match="dice"):
        train_model(load_config(None, three_heads | {"heads": heads}), tmp_path / "run")


def test_targets_of_another_size_or_number_of_bands(three_heads, tmp_path):
    source = three_heads["data.sources"][0]
    swapped = {"height": source["targets"]["flags"], "flags": source["targets"]["height"]}
    with pytest.raises(LabelsError, match=r"has 1 bands. Expected 2|has 2 bands. Expected 1"):
        train_model(load_config(None, three_heads | {"data.sources": [source | {"targets": swapped}]}), tmp_path / "r")


def test_class_weights_by_rule_and_shares_of_the_gradient(squares, tmp_path):
    loss = "cross_entropy(class_weights=inverse):1,dice:0.5"
    epochs: list[Epoch] = []
    train_model(load_config(None, squares | {"loss": loss}), tmp_path / "run", on_epoch=epochs.append)
    assert epochs[-1].iou["building"] > 0.6
    shares = epochs[-1].shares
    assert set(shares) == {"cross_entropy", "dice"}
    assert sum(shares.values()) == pytest.approx(1)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["share_dice"]) == pytest.approx(shares["dice"], rel=1e-4)


def test_an_auxiliary_head_is_trained_along(squares, tmp_path):
    args = {"arch": "fcn_resnet50", "arch_args": {"width": 4}, "epochs": 1, "steps_per_epoch": 3}
    epochs: list[Epoch] = []
    train_model(load_config(None, squares | args), tmp_path / "run", on_epoch=epochs.append)
    assert epochs[-1].terms["auxiliary"] > 0
    assert "auxiliary" not in epochs[-1].shares


def test_a_network_of_dates_says_the_classes_of_each(tmp_path):
    """Squares that move from one date to the next: a head for each slice, in the order of their names."""
    rng = np.random.default_rng(0)
    scenes, targets = [], []
    for date in range(2):
        truth = np.zeros((1, 160, 192), np.uint8)
        for row in range(8 + 10 * date, 150, 24):
            for col in range(8, 180, 24):
                truth[0, row : row + 9, col : col + 11] = 1
        data = rng.integers(20, 80, (3, 160, 192), dtype=np.uint8) + 120 * truth
        scenes.append(str(write_raster(tmp_path / f"date_{date}.tif", data)))
        targets.append(str(write_raster(tmp_path / f"truth_{date}.tif", truth)))
    heads = {f"date_{date}": {"classes": ["background", "building"]} for date in range(2)}
    source = {"scene": scenes, "labels": targets[0], "targets": {"date_1": targets[1]}}
    changes = {
        "arch": "unet3d", "arch_args": {"width": 2, "depth": 2, "dates": 2, "output": "slice"}, "heads": heads,
        "data.sources": [source], "epochs": 6, "steps_per_epoch": 25, "batch_size": 4, "tile_size": 48,
        "optimizer.lr": 0.01,
    }  # fmt: skip
    plain = {key: value for key, value in TINY.items() if key not in ("classes", "arch_args")}
    config = load_config(None, plain | changes)
    assert (config.main_head, list(config.further_heads)) == ("date_0", ["date_1"])
    epochs: list[Epoch] = []
    path = train_model(config, tmp_path / "run", device="cpu", on_epoch=epochs.append)
    assert epochs[-1].iou["building"] > 0.7
    assert epochs[-1].further["date_1.building"] > 0.7

    predict_scene(scenes, path, products=Products(labels=tmp_path / "out.tif"))
    for date in range(2):
        with rasterio.open(tmp_path / f"out_date_{date}.tif") as src, rasterio.open(targets[date]) as truth:
            found, there = src.read(1) == 1, truth.read(1) == 1
        assert (found & there).sum() / (found | there).sum() > 0.7


# --- what decides, and when it ends


def test_the_best_epoch_is_that_of_the_named_metric(squares, tmp_path):
    config = load_config(None, squares | {"metric": "precision_background", "epochs": 4, "steps_per_epoch": 4})
    seen: list[Epoch] = []
    path = train_model(config, tmp_path / "run", on_epoch=seen.append)
    values = [epoch.metrics["precision_background"] for epoch in seen]
    assert [epoch.value for epoch in seen] == values
    best = values.index(max(values))
    assert [epoch.saved for epoch in seen] == [value > max([-1.0, *values[:at]]) for at, value in enumerate(values)]
    assert [epoch.best for epoch in seen] == [max(values[: at + 1]) for at in range(4)]
    assert load_checkpoint(path).header.metrics["iou"]["all"]["building"] == pytest.approx(
        seen[best].iou["building"], abs=0.02
    )


@pytest.mark.parametrize("metric", ["loss", "val_loss", "ece"])
def test_of_errors_the_lowest_is_the_best(squares, tmp_path, metric):
    config = load_config(None, squares | {"metric": metric, "epochs": 3, "steps_per_epoch": 6})
    seen: list[Epoch] = []
    train_model(config, tmp_path / "run", on_epoch=seen.append)
    values = [float(row[metric]) for row in rows(tmp_path / "run")]
    assert seen[-1].best == pytest.approx(min(values), rel=1e-4)
    assert [epoch.saved for epoch in seen] == [value < min([99.0, *values[:at]]) for at, value in enumerate(values)]


def test_the_validation_loss_is_that_of_the_run(squares, tmp_path):
    """On one window it is the loss of the network on that window, nothing changed at random."""
    config = load_config(None, squares | {"metric": "val_loss", "epochs": 1, "precision": "float32"})
    train_model(config, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "model.safetensors")
    from geoseg.batches import Tile, to_batch
    from geoseg.training.sources import load_data

    (ground,) = load_data(config).val
    batch = to_batch(
        [Tile(np.array(ground.data), np.array(ground.valid))], checkpoint.header.mean, checkpoint.header.std,
        torch.float32,
    )  # fmt: skip
    with torch.no_grad():
        value = parse_mixture(config.loss)(
            checkpoint.build()(batch), torch.from_numpy(ground.target.copy())[None].long()
        )
    assert float(rows(tmp_path / "run")[0]["val_loss"]) == pytest.approx(float(value), rel=0.05)


def test_a_run_ends_early_when_nothing_gets_better(squares, tmp_path):
    config = load_config(None, squares | {
        "patience": 2, "epochs": 9, "steps_per_epoch": 1, "optimizer.lr": 1e-30,
        "arch_args": {"width": 4, "depth": 2, "norm": "none"},
    })  # fmt: skip
    seen: list[Epoch] = []
    train_model(config, tmp_path / "run", on_epoch=seen.append)
    assert [epoch.saved for epoch in seen] == [True, False, False]
    again: list[Epoch] = []
    train_model(config, tmp_path / "run", resume=True, on_epoch=again.append)
    assert again == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metric": "iou_buildin"}, r"metric='iou_buildin' is no column.* Did you mean 'iou_building'\?"),
        ({"metric": "height.rmse"}, "no column of metrics.csv"),
        ({"data.val": 0.0, "patience": 2}, "patience=2 needs validation ground"),
        ({"data.val": 0.0, "metric": "iou_mean"}, "metric='iou_mean' needs validation ground"),
    ],
)
def test_a_metric_that_no_epoch_has_is_refused_before_the_first(tiles, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        train_model(tiny(tiles, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- weights of classes


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"class_weights": {"b": 3}}, {"cross_entropy": [1, 3, 1], "dice": [1, 3, 1]}),
        ({"class_weights": {"b": 3}, "loss": "cross_entropy(class_weights=[1,1,2]),lovasz"},
         {"cross_entropy": [1, 1, 2], "lovasz": [1, 3, 1]}),
        ({"class_weights": "inverse"}, {"cross_entropy": "inverse", "dice": "inverse"}),
        ({}, {"cross_entropy": None, "dice": None}),
    ],
)  # fmt: skip
def test_class_weights_are_those_of_every_loss_that_names_none(changes, wanted):
    from geoseg.training.heads import weigh

    config = load_config(None, {"classes": [{"name": name} for name in "abc"]} | changes)
    mixture = parse_mixture(config.loss)
    weigh(mixture, config)
    assert {name: loss.options.get("class_weights") for name, loss in mixture.losses.items()} == wanted
    assert mixture.needs_counts == (changes.get("class_weights") == "inverse")


def test_class_weights_by_name_are_those_written_in_the_loss(tiles, tmp_path):
    written = "cross_entropy(class_weights=[1,3]):1,dice(class_weights=[1,3]):1"
    train_model(tiny(tiles, class_weights={"building": 3.0}), tmp_path / "named")
    train_model(tiny(tiles, loss=written), tmp_path / "written")
    train_model(tiny(tiles), tmp_path / "plain")
    named, same, plain = ((tmp_path / name / "last.safetensors").read_bytes() for name in ("named", "written", "plain"))
    assert named == same != plain


# --- steps


def test_steps_are_told_with_what_is_left(squares, tmp_path):
    config = load_config(None, squares | {"epochs": 2, "steps_per_epoch": 5, "optimizer.accumulate": 2})
    seen: list[Step] = []
    epochs: list[Epoch] = []
    train_model(config, tmp_path / "run", on_step=seen.append, on_epoch=epochs.append)
    assert [(step.epoch, step.number, step.of) for step in seen] == [(e, n, 3) for e in (1, 2) for n in (1, 2, 3)]
    assert seen[2].loss == pytest.approx(epochs[0].loss)
    assert [step.best for step in seen] == [None] * 3 + [epochs[0].best] * 3
    assert all(step.samples_per_s > 0 for step in seen)
    assert seen[0].eta_s > 0
    assert seen[-1].eta_s == pytest.approx(0, abs=5)
    assert [step.metric for step in seen] == ["score"] * 6


def test_gradients_of_several_batches_make_one_step(squares, tmp_path):
    """Twice half the batch is the batch, where nothing looks at the batch as a whole."""
    still = {"augmentation": {"flips": False, "zoom": [1, 1]} | dict.fromkeys(
        ["brightness", "contrast", "gamma", "color", "noise", "blur"], 0)}  # fmt: skip
    plain = squares | still | {
        "arch_args": {"width": 4, "depth": 2, "norm": "none"}, "loss": "cross_entropy", "precision": "float32",
        "epochs": 1, "tile_size": 32,
    }  # fmt: skip
    plain["data.sources"] = [plain["data.sources"][0] | {"train": [[0, 0, 80, 160]]}]
    whole = load_config(None, plain | {"batch_size": 4, "steps_per_epoch": 4})
    parts = load_config(None, plain | {"batch_size": 2, "steps_per_epoch": 8, "optimizer.accumulate": 2})
    train_model(whole, tmp_path / "whole")
    train_model(parts, tmp_path / "parts")
    one, two = (load_checkpoint(tmp_path / name / "last.safetensors").state_dict for name in ("whole", "parts"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-3, rtol=2e-2)


# --- the folder


def test_a_run_is_drawn_and_written_down(squares, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train_model(load_config(None, squares | {"epochs": 2}), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == PICTURES
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "INFO: epoch 2, lr" in log
    assert "Of the train pixels: background 8" in log
    assert "Calibrated: temperature" in log
    header = load_checkpoint(tmp_path / "run" / "model.safetensors").header
    assert header.temperature != 1
    assert header.metrics["calibration"]["temperature"] == header.temperature
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").header.temperature == 1


def test_what_is_logged_elsewhere_stays_as_it_was(tiles, tmp_path, caplog, capfd):
    import logging

    caplog.set_level(logging.WARNING, "geoseg")
    before = logging.getLogger("geoseg").level, list(logging.getLogger("geoseg").handlers)
    train_model(tiny(tiles), tmp_path / "run")
    assert (logging.getLogger("geoseg").level, list(logging.getLogger("geoseg").handlers)) == before
    assert not [record for record in caplog.records if record.levelno < logging.WARNING]
    assert "INFO" not in capfd.readouterr().err


def test_an_earlier_run_goes_but_for_its_checkpoint_and_what_is_not_of_a_run(tiles, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train_model(tiny(tiles), run)
    (run / "notes.txt").write_text("mine")
    before = (run / "model.safetensors").read_bytes()

    def stop(self, image):
        raise KeyboardInterrupt

    monkeypatch.setattr(Segmentation, "_answers", stop)
    with pytest.raises(KeyboardInterrupt):
        train_model(tiny(tiles, seed=1), run, overwrite=True)
    assert {path.name for path in run.iterdir()} == {
        "model.safetensors", "config.yaml", "log.txt", "state", "notes.txt",
    }  # fmt: skip
    assert not list((run / "state").iterdir())
    assert (run / "model.safetensors").read_bytes() == before
    assert load_config(run / "config.yaml").seed == 1


def test_events_are_written_where_tensorboard_is_installed(tiles, tmp_path, monkeypatch):
    import sys
    import types

    seen = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            seen.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

        def flush(self):
            pass

        def close(self):
            seen.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    epochs: list[Epoch] = []
    train_model(tiny(tiles), tmp_path / "run", on_epoch=epochs.append)
    assert seen[0] == (str(tmp_path / "run"), 1)
    assert ("loss", epochs[1].loss, 2) in seen
    assert ("iou_building", epochs[0].iou["building"], 1) in seen
    assert seen[-1] == "closed"


def test_a_folder_that_cannot_be_written_is_said_before_the_first_step(tiles, tmp_path, monkeypatch):
    def full(self, *args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geoseg.training.folder.Path.write_text", full)
    with pytest.raises(OutputError, match="No space left on device"):
        train_model(tiny(tiles), tmp_path / "run")


def test_a_lock_that_a_dead_process_left_is_no_lock(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").write_text("process 1 on elsewhere since 2020-01-01 00:00:00Z")
    with RunFolder(tmp_path / "run"):
        assert f"process {os.getpid()} on " in (tmp_path / "run" / "lock").read_text()
    assert not list((tmp_path / "run").iterdir())
