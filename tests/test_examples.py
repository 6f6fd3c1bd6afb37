"""The examples run as they stand."""

import runpy
from pathlib import Path

import pytest

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
def test_compare_losses(tmp_path):
    main = runpy.run_path(str(EXAMPLES / "compare_losses.py"))["main"]
    main(None, tmp_path, quick=True)
    assert {"scores.csv", "losses.md", "losses.png"} <= {path.name for path in tmp_path.iterdir()}


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
