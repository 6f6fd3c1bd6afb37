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


def test_every_example_is_tested():
    tested = {name.removeprefix("test_") + ".py" for name in globals() if name.startswith("test_")}
    assert {path.name for path in EXAMPLES.glob("*.py")} <= tested
