"""`geoseg compare`: what is printed where, the figure, and how wrong use is answered."""

import json

import pytest
from click.testing import CliRunner, Result
from test_compare import write_run

from geoseg.cli.main import geoseg


def call(*args: object) -> Result:
    return CliRunner().invoke(geoseg, ["compare", *map(str, args), "--device", "cpu"])


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / "a", hits=0.75), write_run(tmp_path / "b")]


def test_a_table_on_stdout_and_a_figure(runs, tmp_path):
    figure = tmp_path / "compared.png"
    done = call(*runs, "--figure", figure)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("building ")
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_json_is_all_there_is(runs):
    done = call(*runs, "--json")
    assert [run["name"] for run in json.loads(done.stdout)["runs"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ((), 2, "Missing argument 'RUN...'"),
        (("{a}", "{a}"), 2, "is given twice"),
        (("missing",), 2, "run=missing has no model.safetensors"),
        (("{a}", "--figure", "{a}/there.png"), 2, "exists. Choose another name, or add --overwrite."),
        (("{a}", "--figure", "{a}/there.svg"), 1, "is no PNG. Expected a name that ends in .png."),
        (("{a}", "--figure", "{a}/no/there.png"), 1, "does not exist. Make it first."),
        (("{a}", "--device", "gpu"), 1, "device='gpu'"),
    ],
)
def test_wrong_use_is_one_line(runs, args, code, says):
    there = runs[0] / "there.png"
    there.write_bytes(b"precious")
    done = CliRunner().invoke(geoseg, ["compare", *(str(arg).format(a=runs[0]) for arg in args)])
    assert done.exit_code == code, done.output
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert there.read_bytes() == b"precious"


def test_an_existing_figure_is_replaced_on_demand(runs):
    there = runs[0] / "there.png"
    there.write_bytes(b"old")
    assert call(*runs, "--figure", there, "--overwrite").exit_code == 0
    assert there.read_bytes().startswith(b"\x89PNG")


def test_a_damaged_table_or_checkpoint_is_refused(runs):
    table = runs[1] / "tiles.csv"
    table.write_text(table.read_text().replace("building>building", "building"))
    assert "is no table of tiles" in call(*runs).stderr
    path = runs[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    done = call(*runs)
    assert done.exit_code != 0
    assert "Traceback" not in done.output
