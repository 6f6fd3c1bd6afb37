"""Validation of a live network against closed forms over whole arrays, and against predict and evaluate of files."""

import numpy as np
import pytest
import torch
from affine import Affine
from checkpoints import CLASSES, write_checkpoint
from rasters import noise, write_raster
from torch import nn
from torch.nn.functional import cross_entropy

from geoseg.checkpoint import ClassInfo, Head, Header, load_checkpoint
from geoseg.evaluate import evaluate_prediction
from geoseg.grid import Grid
from geoseg.metrics import ConfusionMatrix, read_tiles
from geoseg.pipeline import Products, Settings, predict_scene
from geoseg.predict import Placement
from geoseg.training import validate as module
from geoseg.training.samples import Ground
from geoseg.training.sums import tiles_of
from geoseg.training.validate import Validation, validate
from geoseg.windows import Window

CPU = Placement(device="cpu", precision="float32")
NAMES = ("background", "building", "road")


def head(task, *names, **more):
    return Head(task=task, classes=tuple(ClassInfo(name=name, color="#000000") for name in names), **more)


class Pointwise(nn.Module):
    """Logits that are a linear function of the pixel's bands."""

    stride, bounded = 1, True

    def __init__(self, bands: int, channels: int, seed: int = 0) -> None:
        super().__init__()
        self.last = nn.Conv2d(bands, channels, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.last.weight.copy_(3 * torch.randn(self.last.weight.shape, generator=generator))
            self.last.bias.copy_(torch.randn(channels, generator=generator))

    def forward(self, image):
        return self.last(image)


def header_of(heads, cell_side=1536) -> Header:
    return Header(
        arch="unet", bands=("red", "green", "blue"), mean=(100.0,) * 3, std=(50.0,) * 3,
        value_range=((0.0, 255.0),) * 3, dtype="uint8", heads=heads, cell_side=cell_side, stride=1, receptive_radius=0,
    )  # fmt: skip


def ground_of(shape=(40, 60), seed=0, *, classes=3, known=(0, 1, 2), at=(0, 0), further=None, **names) -> Ground:
    """Random pixels; some unlabelled, some invalid."""
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) > 0.1
    target = rng.integers(0, classes, shape).astype(np.uint8)
    target[rng.random(shape) < 0.1] = 255
    target[~valid] = 255
    grid = Grid(shape, Affine(0.5, 0, 5e5 + at[1] * 0.5, 0, -0.5, 6e6 - at[0] * 0.5), None)
    data = rng.integers(0, 200, (3, *shape), dtype=np.uint8)
    named = {"name": "a.tif", "source": "tiles"} | names
    return Ground(**named, data=data, valid=valid, target=target, grid=grid, known=known, further=further or {})


@torch.no_grad()
def logits_of(network, ground) -> np.ndarray:
    """(C, H, W) float64 of all pixels at once."""
    image = torch.from_numpy((ground.data.astype(np.float32) - 100) / 50)[None]
    return network(image)[0].double().numpy()


def softmax(z):
    e = np.exp(z - z.max(0))
    return e / e.sum(0)


def closed_ece(p, hit):
    p, hit = p[p > 0.05], hit[p > 0.05]
    bins = np.minimum((p * 15).astype(int), 14)
    return sum(abs(p[bins == b].sum() - hit[bins == b].sum()) for b in range(15)) / p.size


def kappa_of(matrix):
    n = matrix.sum()
    chance = (matrix.sum(0) * matrix.sum(1)).sum() / n**2
    return (np.trace(matrix) / n - chance) / (1 - chance)


# --- classes


@pytest.mark.parametrize("cell_side", [1536, 17])
def test_every_figure_is_its_closed_form_however_the_ground_is_cut(cell_side):
    network = Pointwise(3, 3)
    grounds = [ground_of(seed=1), ground_of((33, 20), seed=2, source="other", name="b.tif")]
    found = validate(network, header_of({"main": head("multiclass", *NAMES)}, cell_side), grounds, CPU)
    z = [logits_of(network, ground) for ground in grounds]
    truth = np.concatenate([ground.target.ravel() for ground in grounds])
    known = truth != 255
    p = softmax(np.concatenate([one.reshape(3, -1) for one in z], 1))[:, known]
    truth, labels = truth[known], p.argmax(0)
    matrix = np.array([[((truth == i) & (labels == j)).sum() for j in range(3)] for i in range(3)])
    np.testing.assert_array_equal(found.matrix.matrix, matrix)
    metrics, ious = dict(found.metrics), []
    for index, name in enumerate(NAMES):
        hits, true, said = matrix[index, index], matrix[index].sum(), matrix[:, index].sum()
        ious.append(hits / (true + said - hits))
        assert metrics.pop(f"iou_{name}") == pytest.approx(ious[-1])
        assert metrics.pop(f"f1_{name}") == pytest.approx(2 * hits / (true + said))
        assert metrics.pop(f"precision_{name}") == pytest.approx(hits / said)
        assert metrics.pop(f"recall_{name}") == pytest.approx(hits / true)
    assert metrics.pop("iou_mean") == found.score == pytest.approx(np.mean(ious[1:]))
    assert metrics.pop("accuracy") == pytest.approx((truth == labels).mean())
    assert metrics.pop("kappa") == pytest.approx(kappa_of(matrix))
    assert metrics.pop("ece") == pytest.approx(np.mean([closed_ece(p[k], truth == k) for k in range(3)]), abs=1e-5)
    assert metrics == {}
    assert set(found.iou) == {"all", "tiles", "other"}
    assert found.iou["all"] == {name: pytest.approx(iou) for name, iou in zip(NAMES, ious, strict=True)}
    assert found.calibration is None


def test_a_network_of_unbounded_context_is_blended_and_scored_the_same():
    network, ground = Pointwise(3, 3), ground_of((90, 70))
    header = header_of({"main": head("multiclass", *NAMES)}, 32)
    whole = validate(network, header, [ground], CPU, thorough=True)
    network.bounded = False
    blended = header.model_copy(update={"receptive_radius": None, "stride": 4})
    found = validate(network, blended, [ground], CPU, thorough=True)
    assert found.metrics == pytest.approx(whole.metrics, rel=1e-4)
    assert found.calibration.temperature == pytest.approx(whole.calibration.temperature, rel=1e-3)


def test_a_class_that_is_not_there_has_no_figures():
    ground = ground_of(classes=2)
    found = validate(Pointwise(3, 3), header_of({"main": head("multiclass", *NAMES)}), [ground], CPU).metrics
    assert found["iou_road"] is found["f1_road"] is found["recall_road"] is None
    assert found["precision_road"] == 0
    assert found["iou_mean"] == found["iou_building"]


def test_classes_that_the_labels_do_not_tell_apart_count_as_one():
    names = ("background", "building", "road", "water")
    network = Pointwise(3, 4)
    partly, wholly = ground_of(seed=1, classes=4, known=(1,)), ground_of(seed=2, classes=4, known=(0, 1, 2, 3))
    partly.target[(partly.target != 255) & (partly.target != 1)] = 0
    found = validate(network, header_of({"main": head("multiclass", *names)}), [partly, wholly], CPU)
    matrix, errors = np.zeros((4, 4), int), [[], [], [], []]
    for ground, merged in ((partly, True), (wholly, False)):
        z, known = logits_of(network, ground), ground.target != 255
        truth, labels, p = ground.target[known], z.argmax(0)[known], softmax(z)[:, known]
        labels = np.where(labels == 1, 1, 0) if merged else labels
        np.add.at(matrix, (truth, labels), 1)
        for index in [1] if merged else range(4):
            errors[index].append((p[index], truth == index))
    np.testing.assert_array_equal(found.matrix.matrix, matrix)
    ece = [closed_ece(np.concatenate([p for p, _ in one]), np.concatenate([hit for _, hit in one])) for one in errors]
    assert found.metrics["ece"] == pytest.approx(np.mean(ece), abs=1e-5)
    sums = sum(tile.matrix for tile in found.tiles)
    np.testing.assert_array_equal(sums, matrix)


def test_the_network_stays_as_it_was():
    network = Pointwise(3, 3).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    validate(network, header_of({"main": head("multiclass", *NAMES)}), [ground_of()], CPU, thorough=True)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_without_ground_there_is_nothing_to_say(tmp_path):
    found = validate(Pointwise(3, 3), header_of({"main": head("multiclass", *NAMES)}), [], CPU, thorough=True)
    assert found == Validation()
    found.save_tiles(tmp_path / "tiles.csv")
    assert list(tmp_path.iterdir()) == []


def test_unlabelled_ground_has_no_figures_and_no_calibration():
    ground = ground_of()
    ground.target[:] = 255
    found = validate(Pointwise(3, 3), header_of({"main": head("multiclass", *NAMES)}), [ground], CPU, thorough=True)
    assert set(found.metrics.values()) == {None}
    assert (found.score, found.calibration, found.tiles) == (None, None, ())


# --- tiles


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((512, 512), {(512, 512)}), ((513, 1), {(256, 1), (257, 1)}), ((1100, 600), {(366, 300), (367, 300)})],
)
def test_tiles_cut_the_ground_evenly_and_cover_it_once(shape, sizes):
    seen = np.zeros(shape, int)
    for tile in tiles_of(shape):
        seen[tile.slices()] += 1
    assert (seen == 1).all()
    assert {tile.shape for tile in tiles_of(shape)} == sizes


@pytest.mark.parametrize("cell_side", [1536, 100])
def test_each_tile_has_its_own_counts(tmp_path, cell_side):
    network = Pointwise(3, 3)
    grounds = [ground_of((530, 300), seed=3), ground_of((20, 30), seed=4, at=(40, 7))]
    found = validate(network, header_of({"main": head("multiclass", *NAMES)}, cell_side), grounds, CPU)
    assert [(tile.ground, tile.window.shape) for tile in found.tiles] == [
        (0, (265, 300)),
        (0, (265, 300)),
        (1, (20, 30)),
    ]
    for tile in found.tiles:
        ground = grounds[tile.ground]
        expected = ConfusionMatrix(NAMES)
        labels = logits_of(network, ground).argmax(0).astype(np.uint8)
        expected.update(ground.target[tile.window.slices()], labels[tile.window.slices()])
        np.testing.assert_array_equal(tile.matrix, expected.matrix)
        assert (tile.width, tile.height) == (tile.window.width, tile.window.height)
    # Where it lies follows from the ground alone, whatever else was cut from the file.
    first, second, third = found.tiles
    assert (second.left_col - first.left_col, second.top_row - first.top_row) == (0, 265)
    assert (third.left_col - first.left_col, third.top_row - first.top_row) == (7, 40)
    found.save_tiles(tmp_path / "tiles.csv")
    classes, back = read_tiles(tmp_path / "tiles.csv")
    assert classes == NAMES
    assert [(one.place, one.matrix.tolist()) for one in back] == [
        (one.place, one.matrix.tolist()) for one in found.tiles
    ]


def test_a_tile_without_truth_is_left_out():
    ground = ground_of((530, 20))
    ground.target[:265] = 255
    (tile,) = validate(Pointwise(3, 3), header_of({"main": head("multiclass", *NAMES)}), [ground], CPU).tiles
    assert tile.window == Window(row=265, col=0, height=265, width=20)


# --- probabilities


@pytest.mark.parametrize("cell_side", [1536, 16])
def test_the_calibration_error_rests_on_a_lattice_of_bounded_size(monkeypatch, cell_side):
    """Every second pixel of every second row, whether or not there is a loss of all of them."""
    network, ground = Pointwise(3, 3), ground_of()
    header = header_of({"main": head("multiclass", *NAMES)}, cell_side)
    monkeypatch.setattr(module, "_SAMPLED", 1000)
    z, target = logits_of(network, ground)[:, ::2, ::2], ground.target[::2, ::2]
    p = softmax(z)[:, target != 255]
    expected = np.mean([closed_ece(p[k], target[target != 255] == k) for k in range(3)])
    assert validate(network, header, [ground], CPU).metrics["ece"] == pytest.approx(expected, abs=1e-5)
    found = validate(network, header, [ground], CPU, loss=lambda logits, ground, window: 1.0)
    assert found.metrics["ece"] == pytest.approx(expected, abs=1e-5)
    assert found.metrics["val_loss"] == 1


@pytest.mark.parametrize("cell_side", [1536, 100])
def test_the_loss_is_a_mean_over_the_labelled_pixels(cell_side):
    network, grounds = Pointwise(3, 3), [ground_of((530, 40), seed=5), ground_of(seed=6)]
    windows = []

    def loss(logits, ground, window):
        windows.append(window)
        target = torch.from_numpy(ground.target[window.slices()].astype(np.int64))[None]
        return cross_entropy(logits, target, ignore_index=255)

    found = validate(network, header_of({"main": head("multiclass", *NAMES)}, cell_side), grounds, CPU, loss=loss)
    z = torch.cat([torch.from_numpy(logits_of(network, ground)).flatten(1) for ground in grounds], 1)
    target = torch.cat([torch.from_numpy(ground.target.astype(np.int64)).flatten() for ground in grounds])
    expected = float(cross_entropy(z.T, target, ignore_index=255))
    assert found.metrics["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert max(max(window.shape) for window in windows) <= 512


# --- other heads


def further_truth(shape, bands, seed=9):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (bands, *shape)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.2] = np.nan
    return truth


@pytest.mark.parametrize("cell_side", [1536, 16])
def test_heads_of_values_and_labels_beside_classes(cell_side):
    shape = (40, 60)
    values = np.random.default_rng(8).normal(100, 20, (1, *shape)).astype(np.float32)
    values[:, :4] = np.nan
    further = {"flags": further_truth(shape, 2), "height": values}
    ground = ground_of(shape, further=further)
    heads = {
        "flags": head("multilabel", "cloud", "shadow"),
        "height": Head(task="regression", scale=20.0, offset=100.0, unit="m"),
        "surface": head("multiclass", *NAMES),
    }
    network = Pointwise(3, 6)
    found = validate(network, header_of(heads, cell_side), [ground], CPU)
    z = logits_of(network, ground)
    known = ground.valid & ~np.isnan(values[0])
    truth, guess = values[0][known].astype(float), (z[2] * 20 + 100)[known]
    mse = ((guess - truth) ** 2).mean()
    assert found.further["height.rmse"] == pytest.approx(mse**0.5, rel=1e-5)
    assert found.further["height.mae"] == pytest.approx(np.abs(guess - truth).mean(), rel=1e-5)
    assert found.further["height.bias"] == pytest.approx((guess - truth).mean(), rel=1e-4)
    assert found.further["height.r2"] == pytest.approx(1 - mse / truth.var(), rel=1e-5)
    ious = []
    for index, name in enumerate(("cloud", "shadow")):
        there = ground.valid & ~np.isnan(further["flags"][index])
        yes, said = further["flags"][index][there] == 1, z[index][there] > 0
        ious.append((yes & said).sum() / (yes | said).sum())
        assert found.further[f"flags.{name}"] == pytest.approx(ious[-1])
    assert found.score == pytest.approx(np.mean([found.metrics["iou_mean"], np.mean(ious), 1 - mse / 400]), rel=1e-5)
    assert set(found.further) <= set(found.metrics)
    names = [*NAMES, "flags.cloud", "flags.shadow"]
    p = [*softmax(z[3:]), *(1 / (1 + np.exp(-z[:2])))]
    truths = [*(ground.target == k for k in range(3)), *(further["flags"] == 1)]
    knowns = [ground.target != 255] * 3 + [ground.valid & ~np.isnan(plane) for plane in further["flags"]]
    ece = {name: closed_ece(q[k], t[k]) for name, q, t, k in zip(names, p, truths, knowns, strict=True)}
    assert found.metrics["ece"] == pytest.approx(np.mean(list(ece.values())), abs=1e-5)
    thorough = validate(network, header_of(heads, cell_side), [ground], CPU, thorough=True).calibration
    assert thorough.ece_before == {name: pytest.approx(value, abs=1e-5) for name, value in ece.items()}


def test_values_alone():
    values = np.random.default_rng(8).normal(0, 1, (1, 40, 60)).astype(np.float32)
    ground = ground_of(further={"height": values})
    header = header_of({"height": Head(task="regression")})
    found = validate(Pointwise(3, 1), header, [ground], CPU, thorough=True)
    assert set(found.metrics) == {"height.rmse", "height.mae", "height.bias", "height.r2"}
    assert (found.iou, found.matrix, found.tiles, found.calibration) == ({}, None, (), None)
    values[:] = np.nan
    nothing = validate(Pointwise(3, 1), header, [ground], CPU)
    assert set(nothing.metrics.values()) == {None}
    assert nothing.score is None


# --- thoroughly


def test_a_thorough_validation_finds_the_temperature():
    """Classes drawn at a temperature of 2: the network is twice as sure as it may be."""
    network, ground = Pointwise(3, 3), ground_of((150, 160))
    header = header_of({"main": head("multiclass", *NAMES)}, 64)
    p = softmax(logits_of(network, ground) / 2)
    drawn = (p.cumsum(0) < np.random.default_rng(99).random(p.shape[1:])).sum(0)
    np.copyto(ground.target, drawn.astype(np.uint8), where=ground.target != 255)
    plain = validate(network, header, [ground], CPU)
    found = validate(network, header, [ground], CPU, thorough=True)
    assert found.calibration.temperature == pytest.approx(2, rel=0.06)
    assert found.metrics["ece"] < 0.02 < plain.metrics["ece"]
    assert {name: value for name, value in found.metrics.items() if name != "ece"} == {
        name: value for name, value in plain.metrics.items() if name != "ece"
    }
    again = validate(network, found.calibration.applied(header), [ground], CPU)
    assert again.metrics == pytest.approx(found.metrics)
    Header.model_validate_json(found.calibration.applied(header).model_dump_json())


def test_a_thorough_validation_scores_with_its_thresholds():
    """Buildings that are much rarer than the logits say: F1 wants a higher bound."""
    network, ground = Pointwise(3, 1), ground_of((120, 130), classes=2, known=(0, 1))
    header = header_of({"main": head("binary", "background", "building")}, 64)
    z = logits_of(network, ground)[0]
    yes = np.random.default_rng(99).random(z.shape) < 1 / (1 + np.exp(4 - z))
    np.copyto(ground.target, yes.astype(np.uint8), where=ground.target != 255)
    plain = validate(network, header, [ground], CPU)
    found = validate(network, header, [ground], CPU, thorough=True)
    known = ground.target != 255
    bounds = np.unique(z[known])
    f1 = [2 * ((z > b) & yes)[known].sum() / ((z > b)[known].sum() + yes[known].sum()) for b in bounds[::20]]
    assert found.metrics["f1_building"] >= max(f1) - 1e-6
    assert found.metrics["f1_building"] > plain.metrics["f1_building"] + 0.05
    (threshold,) = found.calibration.thresholds.values()
    bound = np.log(threshold / (1 - threshold)) * found.calibration.temperature
    expected = ConfusionMatrix(("background", "building"))
    expected.update(ground.target, (z > bound).astype(np.uint8))
    np.testing.assert_array_equal(found.matrix.matrix, expected.matrix)
    np.testing.assert_array_equal(sum(tile.matrix for tile in found.tiles), expected.matrix)
    # What a header says of an earlier calibration does not count for a new one.
    again = validate(network, found.calibration.applied(header), [ground], CPU, thorough=True)
    assert again.calibration == found.calibration


# --- the same as predict and evaluate


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_it_scores_what_predict_writes_and_evaluate_reads(tmp_path, task):
    heads = {"main": Head(classes=CLASSES) if task == "multiclass" else head("binary", "background", "building")}
    more = {"temperature": 1.7, "thresholds": {} if task == "multiclass" else {"building": 0.4}}
    checkpoint = write_checkpoint(tmp_path / "m.safetensors", heads=heads, cell_side=64, depth=2, **more)
    scene = noise((3, 150, 130))
    rng = np.random.default_rng(0)
    target = rng.integers(0, len(heads["main"].classes), scene.shape[1:]).astype(np.uint8)
    target[:20] = 255
    paths = [tmp_path / f"{name}.tif" for name in ("scene", "labels", "truth")]
    write_raster(paths[0], scene)
    write_raster(paths[2], target[None], nodata=255)
    predict_scene(paths[0], checkpoint, products=Products(labels=paths[1]), settings=Settings(precision="float32"))
    scores = evaluate_prediction(paths[1], paths[2]).scores
    loaded = load_checkpoint(checkpoint)
    grid = Grid(target.shape, Affine.identity(), None)
    known = tuple(range(len(heads["main"].classes)))
    ground = Ground("scene.tif", "scene", scene, np.ones(target.shape, bool), target, grid, known)
    found = validate(loaded.build(), loaded.header, [ground], CPU)
    assert found.matrix.scores() == scores
    assert found.metrics["kappa"] == scores.kappa
