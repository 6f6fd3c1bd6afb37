"""`geoseg evaluate` of polygons and lines: what is printed where, and the exit codes."""

import json
from pathlib import Path

import geopandas as gpd
import pyogrio
import pytest
from click.testing import CliRunner, Result
from shapely import LineString, box
from shapely.affinity import translate

from geoseg.cli.main import geoseg


def write(path: Path, shapes, layer: str) -> None:
    frame = gpd.GeoDataFrame(geometry=[translate(shape, 500_000, 5_000_000) for shape in shapes], crs="EPSG:32633")
    pyogrio.write_dataframe(frame, path, layer=layer, append=path.exists())


@pytest.fixture
def files(tmp_path) -> tuple[str, str]:
    """Two of three houses are found, and all of a road."""
    houses, road = [box(x, 0, x + 10, 10) for x in (0, 20, 40)], [LineString([(0, 30), (80, 30)])]
    for name, some in (("p.gpkg", houses[:2]), ("r.gpkg", houses)):
        write(tmp_path / name, some, "buildings")
        write(tmp_path / name, road, "roads")
    return str(tmp_path / "p.gpkg"), str(tmp_path / "r.gpkg")


def run(*args: str) -> Result:
    return CliRunner().invoke(geoseg, ["evaluate", *args])


def test_table_on_stdout(files):
    result = run(*files)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["building", "0.8000", "1.0000", "0.6667", "3", "2", "2", "0", "0"] in lines
    assert ["road", "1.0000", "1.0000", "1.0000", "1.0000", "0.0000", "80", "80", "25"] in lines
    heading = next(line for line in result.stdout.splitlines() if line.startswith("outlines"))
    assert heading.split() == [
        "outlines", "IoU", "boundary", "IoU", "C-IoU", "PoLiS", "m", "Hausdorff", "m", "vertex", "ratio", "corners",
        "right", "area", "bias",
    ]  # fmt: skip


def test_json_and_bounds_and_errors(files, tmp_path):
    errors = tmp_path / "errors.gpkg"
    bounds = ["--min-f1", "0.9", "--min-f1", "building=0.9", "--min-iou", "building=0.5", "--min-iou", "road=0.1"]
    result = run(*files, "--json", "--errors", str(errors), *bounds)
    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        "IoU of road cannot be had: there is nothing to take it from. Expected at least 0.1.",
        "F1 of building is 0.8000. Expected at least 0.9.",
    ]
    values = json.loads(result.stdout)
    assert values["classes"]["building"]["objects"]["recall"] == pytest.approx(2 / 3)
    assert values["classes"]["road"]["lines"]["apls"] == 1
    assert values["mean_f1"] == pytest.approx(0.9)
    assert values["errors"] == {"path": str(errors), "miss": 1}
    assert gpd.read_file(errors, layer="errors")["kind"].tolist() == ["miss"]
    again = run(*files, "--errors", str(errors))
    assert (again.exit_code, again.stdout, again.stderr.count("\n")) == (2, "", 1)
    write(tmp_path / "area.gpkg", [box(-5, -5, 35, 50)], "area")
    where = ("--aoi", str(tmp_path / "area.gpkg"), "--min-f1", "1")
    again = run(*files, "--errors", str(errors), "--overwrite", *where)
    assert (again.exit_code, again.stderr) == (0, "")
    assert again.stdout.splitlines()[-1] == f"errors in {errors}: none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "0,0,5,5"], "--window is of pixels, and "),
        (["--min-f1", "hut=0.5"], "class='hut' is not in "),
        (["--min-f1", "2"], "expected an F1 from 0 to 1, or CLASS=F1"),
        (["--classes", "building,"], "has an empty entry"),
        (["--layer", "none"], "layer='none' is not in r.gpkg. Expected one of buildings, roads."),
    ],
)
def test_wrong_use(files, options, message):
    result = run(*files, *options)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert message in result.stderr


def test_errors_of_a_raster(files, tmp_path):
    raster = tmp_path / "p.tif"
    raster.write_bytes(b"II*\0")
    result = run(str(raster), files[1], "--errors", str(tmp_path / "e.gpkg"))
    assert result.exit_code == 2
    assert "Outline them first: geoseg vectorize" in result.stderr
