"""The examples run as they stand."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy.ndimage import distance_transform_cdt

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_predict_a_town(tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLES / "predict_a_town.py"))["main"]
    main(tmp_path, side=320)
    printed = capsys.readouterr().out
    assert "polygons:" in printed
    assert "building" in printed
    assert (tmp_path / "classes.gpkg").is_file()


@pytest.mark.slow
def test_compare_losses(tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLES / "compare_losses.py"))["main"]
    main(None, tmp_path, quick=True)
    table = (tmp_path / "losses.md").read_text()
    assert table in capsys.readouterr().out
    assert [row.count(" | ") for row in table.splitlines()] == [5, 0, 5, 5, 5]
    assert (tmp_path / "losses.png").stat().st_size > 10_000
    scores = (tmp_path / "scores.csv").read_text()
    assert len(scores.splitlines()) == 1 + 3 * 2
    main(None, tmp_path, quick=True)
    assert (tmp_path / "scores.csv").read_text() == scores  # nothing is trained twice
    assert (tmp_path / "losses.md").read_text() == table


@pytest.mark.parametrize("example", ["compare_losses", "compare_dice"])
def test_differences_and_their_spread(example):
    interval = runpy.run_path(str(EXAMPLES / f"{example}.py"))["interval"]
    by, within = interval([0.3, 0.4, 0.5], [0.2, 0.2, 0.2])
    assert by == pytest.approx(0.2)
    assert within == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)  # a table's t of 2 degrees of freedom
    assert interval([0.3], [0.2]) == (pytest.approx(0.1), float("inf"))


def test_losses_that_fail_are_named():
    example = runpy.run_path(str(EXAMPLES / "compare_losses.py"))
    first = [{"background": 0.9, "building": 0.5, "road": 0.3, "mean": 0.4}] * 3
    worse = [run | {"road": 0.0, "mean": 0.25 + 0.001 * seed} for seed, run in enumerate(first)]
    *_, better, failed = example["table"]({"focal": worse, "cross_entropy": first}).splitlines()
    assert better.startswith("| `cross_entropy` | 0.500 ± 0.000 |")
    assert failed.endswith("| **-0.149 ± 0.002** | road in 3 of 3 |")


@pytest.mark.slow
def test_compare_dice(tmp_path, capsys):
    example = runpy.run_path(str(EXAMPLES / "compare_dice.py"))
    example["main"](None, tmp_path, quick=True)
    table = (tmp_path / "dice.md").read_text()
    assert table in capsys.readouterr().out
    assert table.startswith("| class | loss | precision | sensitivity | specificity | Jaccard | Dice |")
    assert len(table.splitlines()) == 2 + 5 * 2
    assert (tmp_path / "dice.png").stat().st_size > 10_000
    checkpoints = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    assert len(checkpoints) == 2 * 2 * 2
    example["main"](None, tmp_path, quick=True)
    assert all(path.stat().st_mtime_ns == before for path, before in checkpoints.items())


def test_nothing_is_learnt_near_what_is_held_back(tmp_path):
    example = runpy.run_path(str(EXAMPLES / "compare_dice.py"))
    cube = example["draw_cube"](66)
    shape = cube.target.shape
    held_back = [example["inside"](example["blocks_of"](fold, 4, shape), shape) for fold in range(4)]
    assert (np.sum(held_back, 0) == 1).all()
    dates, labels = example["write_cube"](cube, 4, tmp_path)
    with rasterio.open(dates[1]) as file:
        np.testing.assert_array_equal(file.read(), cube.bands[1])
        assert (file.crs, file.transform) == (cube.crs, cube.transform)
    for own, path in zip(held_back, labels, strict=True):
        with rasterio.open(path) as file:
            target = file.read(1)
        distance = distance_transform_cdt(~own, "chessboard")
        np.testing.assert_array_equal(target == 255, (distance > 0) & (distance <= example["GAP"]))
        np.testing.assert_array_equal(target[target != 255], cube.target[target != 255])


@pytest.mark.slow
def test_compare_architectures(tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLES / "compare_architectures.py"))["main"]
    arguments = ["--quick", "--device", "cpu", "-o", str(tmp_path)]
    main(arguments)
    printed = capsys.readouterr().out
    for word in ("Attention U-Net", "kMAC/px", "SegNet's unpooling", "of 2 seeds"):
        assert word in printed
    assert printed.count(" ± ") == 10
    table = (tmp_path / "comparison.md").read_text()
    assert table.startswith("| network | width |")
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    checkpoints = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    assert len(checkpoints) == 10
    main(arguments)
    assert all(path.stat().st_mtime_ns == before for path, before in checkpoints.items())


def test_every_example_is_tested():
    tested = {name.removeprefix("test_") + ".py" for name in globals() if name.startswith("test_")}
    assert {path.name for path in EXAMPLES.glob("*.py")} <= tested
