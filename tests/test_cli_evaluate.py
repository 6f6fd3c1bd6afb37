"""`geoseg evaluate`: what is printed where, and the exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner, Result
from shapely import LineString

from geoseg.cli.main import geoseg


def write_raster(path: Path, values: np.ndarray, *names: str, nodata: float = 255) -> Path:
    transform = Affine.translation(500_000, 9_000_000) @ Affine.scale(0.5, -0.5)
    bands = values[None] if values.ndim == 2 else values
    count, height, width = bands.shape
    profile = {
        "driver": "GTiff",
        "count": count,
        "dtype": values.dtype,
        "nodata": nodata,
        "crs": "EPSG:32637",
        "transform": transform,
        "photometric": "MINISBLACK",
    }
    with rasterio.open(path, "w", height=height, width=width, **profile) as dataset:
        dataset.write(bands)
        dataset.descriptions = names or (None,) * count
    return path


@pytest.fixture
def rasters(tmp_path) -> tuple[str, str]:
    """Half of the four building pixels are found."""
    target = np.zeros((6, 8), np.uint8)
    target[1:3, 1:3] = 1
    predicted = target.copy()
    predicted[1, :] = 0
    return str(write_raster(tmp_path / "predicted.tif", predicted)), str(write_raster(tmp_path / "target.tif", target))


def run(*args: str) -> Result:
    return CliRunner().invoke(geoseg, ["evaluate", *args])


def test_table_on_stdout(rasters):
    result = run(*rasters, "--classes", "building")
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["building", "0.5000", "0.6667", "1.0000", "0.5000", "1.0000", "4", "2"] in lines
    assert "48 pixels scored" in result.stdout


def test_lines_of_a_stated_width_are_a_reference(tmp_path):
    """A 2 m road in pixels of half a metre is four pixels wide."""
    values = np.zeros((20, 40), np.uint8)
    values[8:12] = 1
    predicted = write_raster(tmp_path / "predicted.tif", values)
    line = LineString([(500_000, 9_000_000 - 5), (500_020, 9_000_000 - 5)])
    reference = tmp_path / "roads.gpkg"
    gpd.GeoDataFrame(geometry=[line], crs="EPSG:32637").to_file(reference)
    asked = (str(predicted), str(reference), "--classes", "road")
    refused = run(*asked)
    assert refused.exit_code == 1
    assert "--line-width-m" in refused.stderr
    result = run(*asked, "--line-width-m", "2", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["classes"]["road"]["iou"] == 1


def test_json(rasters):
    result = run(*rasters, "--classes", "building,road", "--json", "--window", "0,2,8,3")
    assert result.exit_code == 0
    values = json.loads(result.stdout)
    assert values["classes"]["building"]["iou"] == 1
    assert values["absent"] == ["road"]
    assert values["window"] == [0, 2, 8, 3]


@pytest.mark.parametrize(
    ("bounds", "code", "message"),
    [
        (["0.7"], 0, ""),
        (["0.75"], 3, "mean IoU is 0.7283. Expected at least 0.75."),
        (["building=0.5"], 0, ""),
        (["background=0.9", "building=0.6"], 3, "IoU of building is 0.5000. Expected at least 0.6."),
        (["road=0.1"], 3, "IoU of road cannot be had: no pixel of it is known in "),
        (["road=0"], 3, "IoU of road cannot be had"),
        (["hut=0.1"], 2, "class='hut' is not in "),
        (["0.1", "raod=0.1"], 2, "Did you mean 'road'? Expected some of background, building, road."),
        (["1.5"], 2, "expected an IoU from 0 to 1"),
        (["building="], 2, "expected an IoU from 0 to 1"),
    ],
)
def test_min_iou(rasters, bounds, code, message):
    options = [word for bound in bounds for word in ("--min-iou", bound)]
    result = run(*rasters, "--classes", "building,road", *options)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stderr.count("\n") == (code > 0)
    assert (result.stdout == "") == (code == 2)


def test_min_f1(rasters):
    result = run(*rasters, "--classes", "building", "--min-f1", "building=0.6", "--min-f1", "0.9")
    assert result.exit_code == 3
    assert result.stderr == "mean F1 is 0.8222. Expected at least 0.9.\n"
    result = run(*rasters, "--classes", "building", "--min-f1", "building=1.5")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "expected an F1 from 0 to 1, or CLASS=F1" in result.stderr


def test_min_iou_of_a_class_that_the_reference_does_not_tell_apart(tmp_path):
    """It is a class, so the call is right; it cannot be judged, so the answer is no."""
    values = np.array([[0, 1, 2, 2]], np.uint8)
    predicted, reference = (write_raster(tmp_path / name, values) for name in ("predicted.tif", "reference.tif"))
    for path, names in ((predicted, '["background", "building", "road"]'), (reference, '["background", "building"]')):
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(GEOSEG_CLASSES=names)
    write_raster(tmp_path / "plain.tif", np.array([[0, 1, 0, 0]], np.uint8))
    with rasterio.open(reference, "r+") as dataset:
        dataset.write(np.array([[0, 1, 0, 0]], np.uint8), 1)
    result = run(str(predicted), str(reference), "-q", "--min-iou", "road=0.5")
    assert result.exit_code == 3
    assert result.stderr == "IoU of road cannot be had: it is not scored. Expected at least 0.5.\n"
    # And the other way round: a class of the reference that the prediction does not know.
    result = run(str(reference), str(predicted), "-q", "--min-iou", "road=0.5")
    assert result.exit_code == 3
    result = run(str(reference), str(predicted), "-q", "--min-iou", "rod=0.5")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "Did you mean 'road'?" in result.stderr


def test_a_class_that_is_not_there_is_answered_with_the_nearest(rasters):
    with rasterio.open(rasters[0], "r+") as dataset:
        dataset.update_tags(GEOSEG_CLASSES='["background", "building"]')
    result = run(*rasters, "--classes", "buildin")
    assert result.exit_code == 2
    assert "Did you mean 'building'? Expected some of background, building." in result.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--window", "1,2,3"], "is not COL,ROW,WIDTH,HEIGHT"),
        (["--window", "0,0,0,4"], "is empty"),
        (["--window", "-1,0,2,2"], "starts before the first pixel"),
        (["--window", "0,0,9,6"], "sticks out of"),
        (["--classes", "building,"], "has an empty entry"),
        (["--invalid-geometry", "mend"], "'mend' is not one of"),
    ],
)
def test_wrong_use(rasters, option, message):
    result = run(*rasters, "--classes", "building", *option)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_bad_input_is_one_line(rasters, tmp_path):
    result = run(rasters[0], str(tmp_path / "missing.tif"), "--classes", "building")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [f"Error: {tmp_path / 'missing.tif'} does not exist. Check the path."]


def test_values(tmp_path):
    target = np.arange(48, dtype=np.float32).reshape(6, 8)
    target[0] = -9999
    predicted = np.where(target < 0, np.nan, target + 2).astype(np.float32)
    predicted[5, 0] = np.nan
    paths = [str(write_raster(tmp_path / "predicted.tif", predicted, nodata=np.nan))]
    paths += [str(write_raster(tmp_path / "target.tif", target, nodata=-9999))]
    result = run(*paths)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["RMSE", "2.0000"] in lines
    assert ["bias", "2.0000"] in lines
    assert result.stdout.splitlines()[-1] == "39 pixels scored, 8 without truth, 1 without prediction"
    values = json.loads(run(*paths, "--json", "--window", "0,1,8,4").stdout)
    assert (values["rmse"], values["mae"], values["pixels"], values["window"]) == (2, 2, 32, [0, 1, 8, 4])
    assert values["r2"] == pytest.approx(1 - 4 / np.var(np.arange(32)))
    for option in (["--classes", "building"], ["--min-iou", "0.5"], ["--min-iou", "building=0.5"]):
        result = run(*paths, *option)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "predicted.tif holds values, which have no classes" in result.stderr


def test_labels_that_may_overlap(tmp_path):
    target = np.zeros((2, 6, 8), np.uint8)
    target[0, :3], target[1, :, :4] = 1, 1
    predicted = target.copy()
    predicted[0, 1:3] = 0
    paths = [str(write_raster(tmp_path / "predicted.tif", predicted, "cloud", "shadow"))]
    paths += [str(write_raster(tmp_path / "target.tif", target[::-1], "shadow", "cloud"))]
    result = run(*paths)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["cloud", "0.3333", "0.5000", "1.0000", "0.3333", "1.0000", "24", "8"] in lines
    values = json.loads(run(*paths, "--json").stdout)
    assert values["labels"]["shadow"]["iou"] == 1
    assert values["mean_iou"] == pytest.approx(2 / 3)
    assert run(*paths, "--min-iou", "0.6", "--min-iou", "shadow=1").exit_code == 0
    result = run(*paths, "--min-iou", "cloud=0.5")
    assert (result.exit_code, result.stderr) == (3, "IoU of cloud is 0.3333. Expected at least 0.5.\n")
    assert run(*paths, "--min-iou", "clod=0.5").exit_code == 2


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from geoseg.cli.main import geoseg; geoseg(['evaluate', '--help'], standalone_mode=False); "
        "print([name for name in ('torch', 'rasterio', 'dask', 'geopandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--min-iou" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
