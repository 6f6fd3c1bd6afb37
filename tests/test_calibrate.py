"""Temperature, thresholds and calibration errors against closed forms, and that prediction goes by them."""

import numpy as np
import pytest
import rasterio
import torch
from checkpoints import CLASSES, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import noise, write_raster

from geoseg.checkpoint import ClassInfo, Head, load_checkpoint, save_checkpoint
from geoseg.metrics import Reliability
from geoseg.pipeline import Products, Settings, predict_scene
from geoseg.training.calibrate import Calibration, best_threshold, calibrate, choices, reliability


def head(task, *names):
    return Head(task=task, classes=tuple(ClassInfo(name=name, color="#000000") for name in names))


SURFACE = head("multiclass", "background", "building", "road")
BUILT = head("binary", "background", "building")
FLAGS = head("multilabel", "cloud", "shadow")


def softmax(z):
    e = np.exp(z - z.max(0))
    return e / e.sum(0)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# --- reliability


def closed_ece(p, hit):
    """Of one class: 15 bins of equal width, pixels with p > 0.05."""
    p, hit = p[p > 0.05], hit[p > 0.05]
    if not p.size:
        return None
    # As products: rounding puts 0.2 below the quotient 3 / 15.
    inside = [(15 * p >= low) & ((15 * p < low + 1) | (low == 14)) for low in range(15)]
    return sum(part.sum() / p.size * abs(p[part].mean() - hit[part].mean()) for part in inside if part.any())


@given(seed=st.integers(0, 2**31), n=st.integers(0, 300), cut=st.integers(0, 300), steps=st.sampled_from([10, 1000]))
def test_the_error_of_each_class_is_its_closed_form(seed, n, cut, steps):
    rng = np.random.default_rng(seed)
    p = rng.integers(0, steps + 1, n) / steps  # 0.05 and 1 among them
    hit = rng.random(n) < 0.3
    histogram = Reliability(["a", "b"])
    histogram.update(1, p[:cut], hit[:cut])
    histogram.update(1, p[cut:], hit[cut:])
    expected = closed_ece(p, hit)
    assert histogram.errors() == {"a": None, "b": None if expected is None else pytest.approx(expected)}
    assert histogram.error() == histogram.errors()["b"]


def test_off_the_edges_it_is_the_closed_form():
    rng = np.random.default_rng(0)
    p = rng.random(10_000)
    hit = rng.random(p.size) < p**2
    histogram = Reliability(["a"])
    histogram.update(0, p.reshape(100, 100), hit.reshape(100, 100))
    assert histogram.error() == pytest.approx(closed_ece(p, hit), abs=1e-12)
    assert histogram.error() > 0.1


def test_what_is_right_as_often_as_it_says_has_no_error():
    histogram = Reliability(["a"])
    histogram.update(0, np.repeat([0.3, 0.9], [10, 10]), np.array([1] * 3 + [0] * 7 + [1] * 9 + [0]) == 1)
    assert histogram.error() == pytest.approx(0)


# --- thresholds


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 60), levels=st.sampled_from([2, 5, 1000]))
def test_the_threshold_is_the_best_of_all(seed, n, levels):
    rng = np.random.default_rng(seed)
    z = (rng.integers(-levels, levels + 1, n) / levels * 4).astype(np.float32)
    yes = rng.random(n) < sigmoid(z - 0.7)

    def f1(bound):
        return 2 * ((z > bound) & yes).sum() / ((z > bound).sum() + yes.sum()) if yes.any() else 0

    found, values = best_threshold(z, yes), np.unique(z)
    brute = max(f1(bound) for bound in [values[0] - 1, *values])
    if found is None:
        assert brute == pytest.approx(f1(0))
    else:
        assert f1(found) == pytest.approx(brute)
        assert brute > f1(0)
        assert found not in values
        # IoU has its maximum where F1 has.
        iou = [((z > b) & yes).sum() / ((z > b) | yes).sum() for b in [found, values[0] - 1, *values]]
        assert iou[0] == pytest.approx(max(iou))


def test_a_class_that_is_nowhere_has_no_threshold():
    assert best_threshold(np.array([1.0, -1.0]), np.array([False, False])) is None


# --- temperature


def drawn(z, temperature, seed=0):
    """Classes drawn by the probabilities at a temperature: what a calibrated network would see."""
    rng = np.random.default_rng(seed)
    return (softmax(z / temperature).cumsum(0) < rng.random(z.shape[1:])).sum(0).astype(np.uint8)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_the_truth_was_drawn_by_is_found(temperature):
    z = np.random.default_rng(1).normal(0, 3, (3, 120, 150)).astype(np.float32)
    target = drawn(z, temperature)
    target[:10] = 255
    heads = {"main": SURFACE}
    sample = list(choices(z, target, {}, heads, "main", (0, 1, 2)))
    found = calibrate(sample, heads, "main")
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.pixels == 110 * 150
    known = target != 255
    for t, nll, ece in (
        (1.0, found.nll_before, found.ece_before),
        (found.temperature, found.nll_after, found.ece_after),
    ):
        p = softmax(z.astype(float) / t)[:, known]
        assert nll == pytest.approx(-np.log(np.take_along_axis(p, target[known][None].astype(int), 0)).mean(), rel=1e-5)
        for index, name in enumerate(("background", "building", "road")):
            assert ece[name] == pytest.approx(closed_ece(p[index], target[known] == index), abs=1e-4)
    assert found.nll_after <= found.nll_before
    if temperature != 1:
        assert max(found.ece_after.values()) < 0.03 < max(found.ece_before.values())
    # Nothing near it is better.
    losses = [sum(choice.likelihood(found.temperature * step) for choice in sample) for step in (0.97, 1, 1.03)]
    assert losses[1] < min(losses[0], losses[2])


def test_one_logit_asks_for_the_temperature_of_two():
    z = np.random.default_rng(2).normal(0, 4, (1, 80, 80)).astype(np.float32)
    two = np.concatenate([np.zeros_like(z), z])
    target = drawn(two, 2.0)
    one = calibrate(list(choices(z, target, {}, {"main": BUILT}, "main", (0, 1))), {"main": BUILT}, "main")
    plain = {"main": head("multiclass", "background", "building")}
    both = calibrate(list(choices(two, target, {}, plain, "main", (0, 1))), plain, "main")
    assert one.temperature == pytest.approx(both.temperature)
    assert one.ece_after == pytest.approx(both.ece_after)
    assert (one.nll_after, one.pixels) == (pytest.approx(both.nll_after), both.pixels)
    assert both.thresholds == {}


def test_classes_that_labels_do_not_tell_apart_count_together():
    """Of four classes the labels know building alone: the likelihood is of building against all the others."""
    four = {"main": head("multiclass", "background", "building", "road", "water")}
    z = np.random.default_rng(3).normal(0, 3, (4, 60, 60)).astype(np.float32)
    target = np.where(drawn(z, 2.0) == 1, 1, 0).astype(np.uint8)
    (choice,) = choices(z, target, {}, four, "main", (1,))
    p = softmax(z.astype(float) / 1.7)[1]
    expected = -np.where(target == 1, np.log(p), np.log(1 - p)).sum()
    assert choice.likelihood(1.7) == pytest.approx(expected, rel=1e-5)
    found = calibrate([choice], four, "main")
    assert found.temperature == pytest.approx(2, rel=0.1)
    assert found.ece_before["building"] == pytest.approx(
        closed_ece(softmax(z)[1].ravel(), target.ravel() == 1), abs=1e-4
    )
    assert found.ece_before["road"] is found.ece_before["background"] is None
    # One class left out is known for all that: what is none of the others can only be it.
    (whole,) = choices(z[:3], target, {}, {"main": SURFACE}, "main", (1, 2))
    (said,) = choices(z[:3], target, {}, {"main": SURFACE}, "main", (0, 1, 2))
    assert whole.likelihood(1.0) == said.likelihood(1.0)


def test_labels_have_thresholds_of_their_own_and_one_temperature():
    rng = np.random.default_rng(4)
    z = rng.normal(0, 3, (2, 90, 90)).astype(np.float32)
    yes = rng.random(z.shape) < sigmoid(z / 2 - 1)
    truth = yes.astype(np.float32)
    truth[0, :20] = np.nan
    heads = {"flags": FLAGS}
    sample = list(choices(z, np.zeros(z.shape[1:], np.uint8), {"flags": truth}, heads, None, ()))
    found = calibrate(sample, heads, None)
    assert set(found.ece_before) == {"flags.cloud", "flags.shadow"}
    for index, name in enumerate(("cloud", "shadow")):
        known = ~np.isnan(truth[index])
        own, true = z[index][known].astype(float), truth[index][known] == 1
        bound = np.log(found.thresholds[name] / (1 - found.thresholds[name])) * found.temperature
        assert bound == pytest.approx(best_threshold(z[index][known], true))
        # Where F1 is highest, the threshold is half of it at calibrated probabilities (Lipton et al. 2014).
        f1 = 2 * ((own > bound) & true).sum() / ((own > bound).sum() + true.sum())
        assert sigmoid(bound / 2 - 1) == pytest.approx(f1 / 2, abs=0.06)
        assert found.ece_before[f"flags.{name}"] == pytest.approx(closed_ece(sigmoid(own), true), abs=1e-4)
    assert 1.0 < found.temperature < 4.0


def test_a_label_of_two_heads_keeps_one_half():
    rng = np.random.default_rng(5)
    z = rng.normal(0, 3, (3, 50, 50)).astype(np.float32)
    heads = {"a": head("multilabel", "cloud", "snow"), "b": head("multilabel", "cloud")}
    truth = (rng.random(z.shape) < sigmoid(z - 2)).astype(np.float32)
    sample = choices(z, np.zeros((50, 50), np.uint8), {"a": truth[:2], "b": truth[2:]}, heads, None, ())
    assert set(calibrate(list(sample), heads, None).thresholds) == {"snow"}


def test_a_threshold_can_be_reached_however_cold_it_is():
    """Logits a little above the bound are taken, although their probability rounds to 1."""
    from geoseg.scores import Decision
    from geoseg.training.calibrate import _thresholds

    z = torch.tensor([-8.0, 4.0, 8.0]).repeat(1, 100)[:, None].numpy()
    truth = (z > 5).astype(np.float32)
    heads = {"flags": head("multilabel", "cloud")}
    sample = list(choices(z, np.zeros(z.shape[1:], np.uint8), {"flags": truth}, heads, None, ()))
    found = _thresholds(sample, heads, 0.1)
    assert found["cloud"] < 1
    decision = Decision(heads=heads, temperature=0.1, thresholds=found)
    labels = decision.scores(torch.from_numpy(z), np.ones(z.shape[1:], bool))["labels"]
    assert labels.sum() >= truth.sum()


def test_nothing_known_is_nothing_found():
    z = np.zeros((3, 4, 4), np.float32)
    assert (
        calibrate(list(choices(z, np.full((4, 4), 255, np.uint8), {}, {"m": SURFACE}, "m", (0, 1, 2))), {}, "m") is None
    )
    height = {"height": Head(task="regression")}
    assert list(choices(z[:1], np.zeros((4, 4), np.uint8), {"height": z[:1]}, height, None, ())) == []
    assert calibrate([], height, None) is None


def test_a_network_that_is_never_wrong_stays_within_bounds():
    z = np.stack([np.full((9, 9), 4.0), np.zeros((9, 9)), np.zeros((9, 9))]).astype(np.float32)
    sample = list(choices(z, np.zeros((9, 9), np.uint8), {}, {"m": SURFACE}, "m", (0, 1, 2)))
    found = calibrate(sample, {"m": SURFACE}, "m")
    assert 0.09 < found.temperature < 0.2
    assert np.isfinite([found.nll_before, found.nll_after]).all()


def test_the_histogram_of_several_choices_is_that_of_all():
    z = np.random.default_rng(6).normal(0, 2, (3, 40, 40)).astype(np.float32)
    target, heads = drawn(z, 1.0), {"m": SURFACE}
    names = ["background", "building", "road"]
    whole = reliability(choices(z, target, {}, heads, "m", (0, 1, 2)), names)
    parts = [choices(z[:, row : row + 7], target[row : row + 7], {}, heads, "m", (0, 1, 2)) for row in range(0, 40, 7)]
    assert reliability((one for part in parts for one in part), names).errors() == pytest.approx(whole.errors())


# --- in prediction


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_prediction_goes_by_what_was_found(tmp_path, task):
    """Temperature and thresholds go through the file into the rasters, whose bytes are the probabilities' 254ths."""
    heads = {"multiclass": Head(classes=CLASSES), "binary": BUILT, "multilabel": FLAGS}
    path = write_checkpoint(tmp_path / "plain.safetensors", heads={"main": heads[task]}, cell_side=64)
    plain = load_checkpoint(path)
    switched = heads[task].switched
    found = Calibration(temperature=2.5, thresholds={name: 0.3 + 0.4 * i for i, name in enumerate(switched)})
    header = found.applied(plain.header)
    assert header.metrics["calibration"]["temperature"] == 2.5
    calibrated = tmp_path / "calibrated.safetensors"
    save_checkpoint(calibrated, header, plain.state_dict, half=False)
    scene = noise((3, 90, 70))
    write_raster(tmp_path / "scene.tif", scene)
    image = torch.from_numpy((scene.astype(np.float32) - 100) / 50)[None]
    padded = torch.nn.functional.pad(image, (24, 24, 24, 24), mode="reflect")[..., : -0 or None, :]
    with torch.inference_mode():
        z = plain.build()(padded)[0, :, 24:-24, 24:-24].double().numpy()
    products = Products(labels=tmp_path / "l.tif", probabilities=tmp_path / "p.tif", confidence=tmp_path / "c.tif")
    predict_scene(tmp_path / "scene.tif", calibrated, products=products, settings=Settings(precision="float32"))
    labels, stored, confidence = (rasterio.open(tmp_path / f"{name}.tif").read() for name in "lpc")
    if task == "multiclass":
        p, clear = softmax(z / 2.5), True
        assert (labels[0] == z.argmax(0)).mean() > 0.999
        chosen = p.max(0)[None]
    else:
        p = sigmoid(z / 2.5)
        bounds = np.array(list(found.thresholds.values()))[:, None, None]
        clear = np.abs(p - bounds) > 1e-4
        assert (labels == (p > bounds))[clear].all()
        assert ((p > bounds) != (p > 0.5)).any()  # else the thresholds would decide nothing here
        chosen = np.where(p > bounds, p, 1 - p)
        p = np.concatenate([1 - p, p]) if task == "binary" else p
    assert np.abs(stored - 254 * p).max() <= 0.51
    assert np.abs(confidence - 254 * chosen)[np.broadcast_to(clear, chosen.shape)].max() <= 0.51
