"""`geoseg vectorize`: from a class raster to a styled GeoPackage, or one line that says why not."""

import json
import os
import sqlite3
import subprocess
import sys

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner

from geoseg.checkpoint import ClassInfo
from geoseg.cli.main import geoseg
from geoseg.grid import Grid
from geoseg.raster import RasterProfile, write_cog

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CLASSES = (
    ClassInfo(name="background", color="#000000"),
    ClassInfo(name="building", color="#e34a33"),
    ClassInfo(name="road", color="#5a5a5a"),
    ClassInfo(name="water, ice", color="#3182bd"),
)
LABELS = np.kron([[1, 0, 2, 2], [1, 1, 0, 255], [0, 0, 1, 255]], np.ones((5, 5))).astype(np.uint8)
GRID = Grid(
    shape=LABELS.shape,
    transform=Affine(0.3, 0, 500000, 0, -0.3, 6650000),
    crs=rasterio.CRS.from_epsg(32637).to_wkt(version="WKT2_2019"),
)
PIXELS = Grid(shape=LABELS.shape, transform=Affine.identity(), crs=None)


def write(path, labels=LABELS, grid=GRID, **profile):
    profile = {"classes": CLASSES, "tags": {"GEOSEG_ARCH": "unet", "GEOSEG_CHECKPOINT": "0" * 64}, **profile}
    write_cog(path, [(grid.window, labels)], RasterProfile(grid=grid, **profile))
    return path


def write_foreign(path, array, **profile):
    count, height, width = array.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": array.dtype, **profile}
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(array)
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(geoseg, ["vectorize", *map(str, arguments)])


def test_layers_by_class_with_their_styles(run, tmp_path):
    done = run(write(tmp_path / "town.tif"))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "town.gpkg\n", "")
    assert [name for name, _ in pyogrio.list_layers("town.gpkg")] == [
        "buildings",
        "road_surfaces",
        "water, ice",
        "layer_styles",
    ]
    buildings = geopandas.read_file("town.gpkg", layer="buildings")
    assert buildings.crs == "EPSG:32637"
    assert list(buildings["source"]) == ["unet 000000000000"] * 2
    assert buildings["area_m2"].sum() == pytest.approx(100 * 0.09, rel=1e-3)
    with sqlite3.connect("town.gpkg") as connection:
        styles = dict(connection.execute("select f_table_name, styleQML from layer_styles").fetchall())
    assert '"227,74,51,' in styles["buildings"]
    assert '"49,130,189,' in styles["water, ice"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["town.gpkg", "town.tif", "town.tif.aux.xml"]


def test_options(run, tmp_path):
    done = run(write(tmp_path / "town.tif"), "-o", "a.gpkg", "--classes", "building", "--min-area-m2", "3", "--json")
    assert json.loads(done.stdout) == {"paths": {"vectors": "a.gpkg"}, "features": {"buildings": 1}}


def test_same_input_same_bytes(run, tmp_path):
    raster = write(tmp_path / "town.tif")
    run(raster, "-o", "a.gpkg")
    run(raster, "-o", "b.gpkg")
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()


def test_nothing_is_overwritten_unasked(run, tmp_path):
    raster = write(tmp_path / "town.tif")
    (tmp_path / "town.gpkg").write_text("mine")
    done = run(raster)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--overwrite" in done.stderr
    assert (tmp_path / "town.gpkg").read_text() == "mine"
    assert run(raster, "--overwrite").exit_code == 0
    assert len(geopandas.read_file("town.gpkg", layer="buildings")) == 2


def test_the_output_is_not_the_input(run, tmp_path):
    raster = write(tmp_path / "town.tif")
    before = raster.read_bytes()
    (tmp_path / "link.gpkg").symlink_to(raster)
    assert run(raster, "-o", "link.gpkg", "--overwrite").exit_code == 2
    assert raster.read_bytes() == before


def test_no_georeference(run, tmp_path):
    raster = write(tmp_path / "town.tif", grid=PIXELS)
    done = run(raster, "--min-area-m2", "30", "--gsd", "1")
    assert (done.exit_code, done.stderr.count("\n")) == (0, 1)
    assert "no georeference" in done.stderr
    assert list(geopandas.read_file("town.gpkg", layer="buildings")["area_px"]) == [75]
    done = run(raster, "-o", "b.gpkg", "--min-area-m2", "30")
    assert done.exit_code == 2
    assert "--gsd" in done.stderr


def test_a_gsd_that_decides_nothing_is_one_line(run, tmp_path):
    raster = write(tmp_path / "town.tif")
    done = run(raster, "--gsd", "2", "--min-area-m2", "3")
    assert (done.exit_code, done.stdout) == (0, "town.gpkg\n")
    assert done.stderr == f"Warning: --gsd 2 is not used: {raster} has a CRS, by which a pixel is 0.3 m wide.\n"
    assert run(raster, "-o", "b.gpkg", "--gsd", "2", "--min-area-m2", "3", "-q").stderr == ""
    assert (tmp_path / "town.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    done = run(write(tmp_path / "plain.tif", grid=PIXELS), "--gsd", "2")
    assert (done.exit_code, done.stderr.count("\n")) == (0, 2)
    assert "--gsd 2 is not used: it is for --min-area-m2 alone." in done.stderr


def test_an_empty_name_in_the_list_of_classes(run, tmp_path):
    done = run(write(tmp_path / "a.tif"), "--classes", "building,,road")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "has an empty entry" in done.stderr


def test_all_nodata_gives_empty_layers(run, tmp_path):
    done = run(write(tmp_path / "town.tif", np.full_like(LABELS, 255)), "--json")
    assert json.loads(done.stdout)["features"] == {"buildings": 0, "road_surfaces": 0, "water, ice": 0}


def test_raster_of_another_program(run, tmp_path):
    labels = np.array([[[0, 1, 7], [0, 0, 7]]], np.uint8)
    done = run(write_foreign(tmp_path / "a.tif", labels), "--json", "-q")
    assert json.loads(done.stdout)["features"] == {"class_1": 1, "class_7": 1}


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 4, 4), np.float32), "1 band of float32"),
        (np.zeros((3, 4, 4), np.uint8), "3 bands of uint8"),
        (np.arange(256, dtype=np.uint8).reshape(1, 16, 16), "256 different values"),
        (np.zeros((1, 4, 4), np.uint8), "nothing but background"),
    ],
    ids=["float", "picture", "grey picture", "empty"],
)
def test_what_is_no_class_raster_is_refused(run, tmp_path, array, message):
    done = run(write_foreign(tmp_path / "a.tif", array), "-q")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_probabilities_are_no_classes(run, tmp_path):
    done = run(write(tmp_path / "a.tif", classes=(), scale=1 / 254))
    assert done.exit_code == 1
    assert "probabilities" in done.stderr


def test_a_value_without_a_name(run, tmp_path):
    done = run(write(tmp_path / "a.tif", np.where(LABELS == 2, np.uint8(4), LABELS)))
    assert done.exit_code == 1
    assert "value 4, but names 4 classes" in done.stderr


def test_unknown_class(run, tmp_path):
    done = run(write(tmp_path / "a.tif"), "--classes", "building,rode")
    assert done.exit_code == 2
    assert "class='rode' is not in " in done.stderr
    assert "Did you mean 'road'? Expected some of background, building, road, water, ice." in done.stderr
    assert not (tmp_path / "a.gpkg").exists()


def test_what_cannot_be_opened(run, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.tif").write_text("hello")
    for name in ("missing.tif", ".", "pipe", "text.tif"):
        done = run(name, "-o", "a.gpkg")
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1), name
        assert done.stderr.startswith("Error: ")


def test_a_damaged_block(run, tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (1, 600, 600)).astype(np.uint8)
    path = write_foreign(tmp_path / "a.tif", labels, compress="deflate", tiled=True, blockxsize=256, blockysize=256)
    data = bytearray(path.read_bytes())
    data[60000:60400] = bytes(400)
    path.write_bytes(data)
    done = run(path)
    assert done.exit_code == 1
    assert "cannot be read" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_help_is_instant():
    script = (
        "import sys; from click.testing import CliRunner; from geoseg.cli.main import geoseg\n"
        "assert CliRunner().invoke(geoseg, ['vectorize', '--help']).exit_code == 0\n"
        "sys.exit(bool({'torch', 'rasterio', 'dask', 'geopandas', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
