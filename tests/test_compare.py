"""Runs side by side: scores, intervals against closed forms and by their coverage, what is shared and refused."""

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from checkpoints import CLASSES, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from geoseg.checkpoint import Head, load_checkpoint, save_checkpoint
from geoseg.compare import compare_runs
from geoseg.compare.bootstrap import BY_CLASS, OVERALL, Estimate, estimate, figures, resample
from geoseg.compare.speed import megapixels_per_second
from geoseg.errors import OutputError, UsageError
from geoseg.metrics import ConfusionMatrix, TileScore, write_tiles
from geoseg.predict import Placement

NAMES = tuple(item.name for item in CLASSES)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("geoseg.compare.megapixels_per_second", lambda checkpoints, _: [1.5] * len(checkpoints))


# --- scores and draws


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5))
def test_scores_are_those_of_the_confusion_matrix(seed, classes):
    chance = np.random.default_rng(seed)
    counts = chance.integers(0, 50, (classes, classes)) * chance.integers(0, 2, (classes, 1))  # some are not there
    matrix = ConfusionMatrix([f"c{index}" for index in range(classes)])
    matrix.matrix += counts
    scores, found = matrix.scores(), figures(counts[None])
    for name in BY_CLASS:
        for index, one in enumerate(scores.classes):
            expected = getattr(one, {"sensitivity": "recall"}.get(name, name))
            assert found[name][0, index] == pytest.approx(math.nan if expected is None else expected, nan_ok=True)
    known = [one.iou for one in scores.classes[1:] if one.iou is not None]
    expected = {"accuracy": scores.accuracy, "kappa": scores.kappa, "iou_mean": np.mean(known) if known else None}
    for name in OVERALL:
        value = math.nan if expected[name] is None else expected[name]
        assert found[name][0] == pytest.approx(value, nan_ok=True)


def test_a_draw_is_a_sum_of_as_many_tiles_the_same_for_every_run(monkeypatch):
    monkeypatch.setattr("geoseg.compare.bootstrap._AT_ONCE", 70)  # in several goes
    tiles = np.zeros((2, 7, 2, 2), np.int64)
    tiles[0, :, 0, 0] = 10 ** np.arange(7)  # each digit says how often a tile was drawn
    tiles[1, :, 1, 1] = 3 * 10 ** np.arange(7)
    drawn = resample(tiles, 500, seed=1)
    assert drawn.shape == (2, 500, 2, 2)
    digits = np.array([[int(d) for d in f"{int(value):07d}"] for value in drawn[0, :, 0, 0]])
    assert (digits.sum(1) == 7).all()
    assert digits.mean(0) == pytest.approx(np.ones(7), abs=0.15)
    assert (drawn[1, :, 1, 1] == 3 * drawn[0, :, 0, 0]).all()
    assert (resample(tiles, 500, seed=1) == drawn).all()
    assert (resample(tiles, 500, seed=2) != drawn).any()


def accuracies(shares, pixels=1000):
    """(T, 2, 2) matrices of tiles of equal size with these shares of right pixels."""
    right = np.round(np.asarray(shares) * pixels).astype(np.int64)
    tiles = np.zeros((len(right), 2, 2), np.int64)
    tiles[:, 0, 0], tiles[:, 0, 1] = right, pixels - right
    return tiles


def test_of_tiles_of_equal_size_the_accuracy_has_the_standard_error_of_a_mean():
    chance = np.random.default_rng(0)
    shares = chance.normal(0.8, 0.05, 400).clip(0, 1)
    tiles = accuracies(shares)
    draws = figures(resample(tiles[None], 8000))["accuracy"][0]
    assert draws.std() == pytest.approx(shares.std() / 20, rel=0.03)
    found = estimate(figures(tiles.sum(0))["accuracy"], draws)
    assert found.value == pytest.approx(shares.mean(), abs=1e-3)
    assert (found.low, found.high) == pytest.approx(
        (shares.mean() - 1.96 * shares.std() / 20, shares.mean() + 1.96 * shares.std() / 20), abs=4e-4
    )


def test_of_three_tiles_every_draw_is_one_of_ten_with_its_chance():
    tiles = np.array([[[50, 3], [8, 20]], [[90, 0], [30, 10]], [[5, 5], [5, 60]]])
    draws = figures(resample(tiles[None], 30_000))["iou"][0, :, 1]
    chances: dict[float, float] = {}
    for triple in itertools.product(range(3), repeat=3):
        value = round(float(figures(tiles[list(triple)].sum(0))["iou"][1]), 9)
        chances[value] = chances.get(value, 0) + 1 / 27
    values, counts = np.unique(draws.round(9), return_counts=True)
    assert len(values) == len(chances) == 10
    for value, count in zip(values, counts, strict=True):
        assert count / 30_000 == pytest.approx(chances[float(value)], abs=0.012)


@pytest.mark.parametrize(("count", "low", "high"), [(5, 0.73, 0.87), (20, 0.85, 0.94), (60, 0.89, 0.97)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(count, low, high):
    """Simulated: tiles of very different content; the IoU of endless tiles is the truth. Few tiles say too much."""
    chance = np.random.default_rng(3)

    def tiles_of(count):
        area = chance.lognormal(5, 0.8, count)
        hit, alarm = chance.beta(6, 2, count), chance.beta(2, 6, count)
        hits, misses, alarms = area * hit, area * (1 - hit), area * alarm
        rows = np.stack([np.full(count, 5000) - alarms, alarms, misses, hits], 1)
        return np.round(rows).astype(np.int64).reshape(count, 2, 2)

    truth = figures(tiles_of(1_000_000).sum(0))["iou"][1]
    inside = 0
    for trial in range(400):
        tiles = tiles_of(count)
        draws = figures(resample(tiles[None], 400, seed=trial))["iou"][0, :, 1]
        found = estimate(figures(tiles.sum(0))["iou"][1], draws)
        inside += found.low <= truth <= found.high
    assert low <= inside / 400 <= high


def test_a_paired_interval_is_narrower_where_hard_tiles_are_hard_for_both():
    chance = np.random.default_rng(0)
    hard = chance.normal(0.7, 0.1, 100)
    tiles = np.stack([accuracies(hard.clip(0, 1)), accuracies((hard + 0.01 + chance.normal(0, 0.01, 100)).clip(0, 1))])
    draws = figures(resample(tiles))["accuracy"]
    alone = [estimate(0.7, one) for one in draws]
    paired = estimate(0.01, draws[1] - draws[0])
    assert paired.high - paired.low < 0.3 * (alone[0].high - alone[0].low)
    assert paired.decided
    assert alone[0].high > alone[1].low  # looked at one by one they overlap


@pytest.mark.parametrize(
    ("value", "draws", "expected"),
    [
        (math.nan, [1.0, 2.0], None),
        (0.5, [math.nan] * 10, Estimate(0.5, None, None)),
        (0.5, [0.5] * 8 + [math.nan] * 2, Estimate(0.5, None, None)),
        (0.5, [0.5] * 19 + [math.nan], Estimate(0.5, 0.5, 0.5)),
    ],
)
def test_what_is_too_often_not_there_has_no_interval(value, draws, expected):
    assert estimate(value, np.array(draws)) == expected


# --- run folders


def matrix_of(seed, hits=0.8, classes=3):
    chance = np.random.default_rng(seed)
    support = chance.integers(200, 2000, classes)
    return np.array(
        [
            chance.multinomial(total, [hits if row == col else (1 - hits) / (classes - 1) for col in range(classes)])
            for row, total in enumerate(support)
        ]
    )


def write_run(folder: Path, *, hits=0.8, tiles=range(30), names=NAMES, noise=0, width=2, metrics=None) -> Path:
    """A run folder of which each tile's labels depend on its number alone."""
    folder.mkdir(parents=True)
    path = write_checkpoint(folder / "model.safetensors", width=width)
    given = load_checkpoint(path)
    header = given.header.model_copy(
        update={"metrics": metrics or {"calibration": {"ece_after": {"a": 0.02, "b": 0.04}}}}
    )
    save_checkpoint(path, header, given.state_dict)
    rows = []
    for at in tiles:
        truth = matrix_of(at)[: len(names), : len(names)].sum(1) + (noise if at % 2 else 0)
        chance = np.random.default_rng((at, round(hits * 100)))
        shares = np.full((len(names),) * 2, (1 - hits) / (len(names) - 1))
        np.fill_diagonal(shares, hits)
        matrix = np.array([chance.multinomial(n, p) for n, p in zip(truth, shares, strict=True)])
        rows.append(TileScore("town", f"{at % 3}.tif", 512 * at, 0, 512, 512, matrix))
    if rows:
        write_tiles(folder / "tiles.csv", names, rows)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "loss", "samples_per_s", "seconds"])
        writer.writeheader()
        writer.writerow({"epoch": 1, "loss": 0.5, "samples_per_s": 10, "seconds": 60})
        writer.writerow({"epoch": 2, "loss": 0.4, "samples_per_s": 12.5, "seconds": 150})
    return folder


def test_two_runs_side_by_side(tmp_path):
    one, other = write_run(tmp_path / "a", hits=0.7), write_run(tmp_path / "b", hits=0.8, width=3)
    found = compare_runs([one, other / "model.safetensors"], device="cpu")
    assert [facts.name for facts in found.runs] == ["a", "b"]
    assert (found.tiles, found.sources, found.classes, found.notes) == (30, 1, NAMES, ())
    facts = found.runs[0]
    assert (facts.arch, facts.epochs, facts.minutes, facts.samples_per_s) == ("unet", 2, 2.5, 12.5)
    assert facts.bytes == (one / "model.safetensors").stat().st_size
    assert facts.parameters < found.runs[1].parameters
    assert facts.macs_per_pixel < found.runs[1].macs_per_pixel
    assert facts.megapixels_per_s == 1.5
    assert facts.ece == pytest.approx(0.03)
    for scored in found.scores:
        for own in scored.classes.values():
            assert all(one.low < one.value < one.high for one in own.values())
    more = found.differences[0].classes["building"]["iou"]
    values = [scored.classes["building"]["iou"].value for scored in found.scores]
    assert more.value == pytest.approx(values[1] - values[0])
    assert more.decided
    assert more.low > 0


def test_json_holds_everything(tmp_path):
    found = compare_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", hits=0.81)], device="cpu")
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    first, second = said["runs"]
    assert first["differences"] is None
    assert set(second["scores"]["classes"]["road"]) == set(BY_CLASS)
    assert set(second["differences"]["overall"]) == set(OVERALL)
    assert set(second["differences"]["overall"]["kappa"]) == {"value", "low", "high"}
    assert (said["tiles"], said["resamples"], said["classes"]) == (30, 2000, list(NAMES))


def test_the_same_run_under_two_names_differs_by_nothing(tmp_path):
    found = compare_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b")], device="cpu")
    more = [one for own in found.differences[0].classes.values() for one in own.values()]
    assert all(one == Estimate(0.0, 0.0, 0.0) and not one.decided for one in more)


def test_the_table_fits_100_columns_and_says_what_it_rests_on(tmp_path):
    runs = [write_run(tmp_path / f"a_run_with_a_rather_long_name_{at}", hits=0.7 + 0.05 * at) for at in range(3)]
    table = compare_runs(runs, device="cpu").table()
    assert max(map(len, table.splitlines())) <= 100
    assert "…_rather_long_name_2" in table
    for said in ("building", "road", "all classes", "ECE", "Mpx/s", "30 validation tiles of 1 source", "2000 draws"):
        assert said in table
    assert "* where the interval leaves 0 out" in table


def test_few_tiles_are_said_and_one_has_no_interval(tmp_path):
    found = compare_runs([write_run(tmp_path / "a", tiles=range(1))], device="cpu")
    assert found.scores[0].overall["accuracy"].low is None
    assert "With fewer than 20 tiles, intervals are too narrow." in found.table()
    assert "1 validation tile of 1 source" in found.table()


def test_other_tiles_and_classes_are_said_and_the_common_ones_compared(tmp_path):
    one = write_run(tmp_path / "a", tiles=range(20))
    other = write_run(tmp_path / "b", tiles=range(5, 40), hits=0.9)
    found = compare_runs([one, other], device="cpu")
    assert found.tiles == 15
    assert found.notes == ("a has 20, b has 35 tiles; compared on the 15 that all have.",)
    both = (
        compare_runs([one], device="cpu"),
        compare_runs([write_run(tmp_path / "c", tiles=range(5, 20))], device="cpu"),
    )
    assert found.scores[0].overall["accuracy"].value != both[0].scores[0].overall["accuracy"].value
    assert found.scores[0].overall["accuracy"].value == both[1].scores[0].overall["accuracy"].value


def test_a_class_that_a_run_lacks_counts_as_the_first(tmp_path):
    (tmp_path / "x").mkdir()
    one = write_run(tmp_path / "a")
    two = tmp_path / "b"
    write_run(two)
    merged = []
    from geoseg.metrics import read_tiles

    for tile in read_tiles(one / "tiles.csv")[1]:
        m = tile.matrix
        small = np.array([[m[0, 0] + m[0, 2] + m[2, 0] + m[2, 2], m[0, 1] + m[2, 1]], [m[1, 0] + m[1, 2], m[1, 1]]])
        merged.append(TileScore(*tile.place, small))
    write_tiles(two / "tiles.csv", ("ground", "building"), merged)
    found = compare_runs([one, two], device="cpu")
    assert found.classes == ("background", "building")
    assert found.notes == ("road of a: not in every run, counts as background.",)
    assert found.differences[0].classes["building"]["iou"] == Estimate(0.0, 0.0, 0.0)


def test_tiles_with_other_labels_are_left_out(tmp_path):
    found = compare_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", noise=1)], device="cpu")
    assert found.tiles == 15
    assert "15 tiles have other labels in one run than in another: left out." in found.notes


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / "x" / "run"), write_run(tmp_path / "y" / "run"), write_run(tmp_path / "z")]
    assert [facts.name for facts in compare_runs(runs, device="cpu").runs] == ["x/run", "y/run", "z"]


def test_values_of_further_heads(tmp_path):
    metrics = {"further": {"height.rmse": 1.234, "height.r2": None}}
    runs = [write_run(tmp_path / name, tiles=(), metrics=metrics) for name in "ab"]
    found = compare_runs(runs, device="cpu")
    assert (found.scores, found.tiles) == ((), 0)
    assert "height.rmse" in found.table()
    assert "1.234" in found.table()
    assert "n/a" in found.table()
    assert json.loads(json.dumps(found.to_dict()))["runs"][1]["further"] == {"height.rmse": 1.234, "height.r2": None}
    with pytest.raises(OutputError, match="no classes to draw"):
        found.draw(tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        (["missing"], "has no model.safetensors. Expected a folder that geoseg train wrote."),
        (["a", "a"], "is given twice. Expected different runs."),
        (["a", "elsewhere"], "share no validation tile with the same labels .30 tiles of town, 5 tiles of town."),
        (["a", "others"], "the runs have no class in common besides the first .*background, tree, water"),
        (["a", "none"], "has no validation tiles .tiles.csv., others have. Expected runs that were validated on"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, kinds, says):
    write_run(tmp_path / "a")
    write_run(tmp_path / "elsewhere", tiles=range(100, 105))
    write_run(tmp_path / "others", names=("background", "tree", "water"))
    write_run(tmp_path / "none", tiles=())
    with pytest.raises(UsageError, match=says):
        compare_runs([tmp_path / kind for kind in kinds], device="cpu")


def test_networks_have_a_speed_whatever_their_heads(tmp_path):
    heads = {"h": Head(task="regression"), "s": Head(classes=CLASSES)}
    paths = [
        write_checkpoint(tmp_path / "two.safetensors", heads=heads, bands=("red", "nir")),
        write_checkpoint(tmp_path / "deep.safetensors", width=8, depth=3),
    ]
    placement = Placement(device="cpu", precision="float32")
    small, large = megapixels_per_second([load_checkpoint(path) for path in paths], placement)
    assert small > large > 0
