"""`geoseg tile` as a user meets it: what is printed where, exit codes, and a folder that trains as it is."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from click.testing import CliRunner
from rasters import UTM, contents, noise, write_raster
from shapely import box

from geoseg.cli.main import geoseg


def on_ground(shape):
    return shapely.transform(shape, lambda xy: np.stack(UTM["transform"] @ tuple(xy.T), axis=1))


@pytest.fixture
def town(tmp_path):
    """A scene and two layers: houses, and roads without a width."""
    scene = write_raster(tmp_path / "town.tif", noise((3, 150, 200)))
    labels = tmp_path / "town.gpkg"
    shapes = [on_ground(box(10, 10, 30, 30)), on_ground(box(100, 70, 140, 90))]
    for layer, found in (("buildings", shapes), ("roads", [on_ground(shapely.LineString([(0, 50), (200, 50)]))])):
        pyogrio.write_dataframe(gpd.GeoDataFrame(geometry=found, crs=UTM["crs"]), labels, layer=layer)
    return scene, labels


def run(*args):
    return CliRunner().invoke(geoseg, ["tile", *map(str, args)], prog_name="geoseg")


def rows(folder):
    with (folder / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def test_prints_the_folder_and_says_what_is_in_it(tmp_path, town):
    scene, labels = town
    out = tmp_path / "tiles"
    done = run(scene, "--labels", labels, "-o", out, "--tile-size", 64, "--line-width-m", 3, "--val", 0)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{out}\n"
    assert done.stderr.startswith("12 tiles (12 train, 0 val)\nbackground ")
    assert "building 3.0%, road 5.2%" in done.stderr
    assert len(rows(out)) == 12
    quiet = run(scene, "--labels", labels, "-o", out, "--overwrite", "--layer", "buildings", "--json", "-q", "--val", 0)
    assert quiet.stderr == ""
    said = json.loads(quiet.stdout)
    assert said["split"] == {"train": 1, "val": 0, "none": 0}
    assert list(said["classes"]) == ["background", "building"]
    assert said["manifest"] == str(out / "manifest.csv")


def test_wrong_use_is_told_and_nothing_written(tmp_path, town):
    scene, labels = town
    before = contents(tmp_path)
    out = ("-o", tmp_path / "tiles")
    for args, code, said in [
        ((scene, *out), 2, "Missing option '--labels'"),
        ((scene, "--labels", labels), 2, "Missing option '-o'"),
        (("--labels", labels, *out), 2, "no scenes"),
        ((scene, "--labels", labels, *out, "--tile-size", 5), 2, "tile_size=5"),
        ((scene, "--labels", labels, *out, "--values", "building"), 2, "'building': expected VALUE=CLASS"),
        (
            (scene, "--labels", labels, *out, "--values", "1=a,1=b"),
            2,
            "'1=b': expected VALUE=CLASS for each value once",
        ),
        (
            (scene, "--labels", labels, *out, "--values", "0=background;255=roof"),
            2,
            "'0=background;255=roof': expected VALUE=CLASS",
        ),
        ((scene, "--labels", labels, *out, "--values", "1=2=roof"), 2, "'1=2=roof': expected VALUE=CLASS"),
        ((scene, "--labels", labels, *out, "--val", 1), 2, "1.0 is not in the range 0<=x<1"),
        ((scene, "--labels", labels, *out, "--classes", "building,"), 2, "empty entry"),
        (
            (scene, "--labels", labels, *out, "--classes", 'building,"water, ice"'),
            2,
            "--classes: class 'water, ice' has the wrong form. Expected a name without commas and colons.",
        ),
        ((scene, "--labels", labels, *out, "--classes", "roof:tin"), 2, "class 'roof:tin' has the wrong form"),
        ((scene, "--labels", labels, "-o", tmp_path), 2, "exists. Expected a free name, or --overwrite"),
        ((scene, "--labels", labels, *out, "--split", "scene"), 2, "split=scene: all tiles are of town"),
        ((scene, "--labels", labels, *out, "--layer", "roads"), 1, "holds 1 lines: how wide they are"),
        ((scene, "--labels", labels, *out, "--bands", "1,9"), 1, "9"),
        ((scene, "--labels", scene, *out, "--classes", "road"), 1, "has 3 bands"),
        ((tmp_path / "no.tif", "--labels", labels, *out), 1, "no.tif"),
    ]:
        done = run(*args)
        assert (done.exit_code, done.stdout) == (code, ""), done.output
        assert said in done.stderr
        assert done.stderr.count("\n") == 1 + done.stderr.count("Warning")
    assert contents(tmp_path) == before


def test_values_classes_and_splits_by_option(tmp_path):
    scene = write_raster(tmp_path / "town.tif", noise((3, 150, 200)))
    truth = np.zeros((1, 150, 200), np.uint8)
    truth[0, 50:100] = 255
    mask = write_raster(tmp_path / "mask.tif", truth)
    out = tmp_path / "tiles"
    done = run(
        scene, "--labels", mask, "-o", out, "--values", "0=background,255=roof", "--tile-size", 32, "--keep-empty", 0.5,
        "--overlap", 8, "--split", "random", "--val", 0.25, "--seed", 3, "--bands", "2",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    found = rows(out)
    assert {"share_background", "share_roof"} <= set(found[0])
    assert sum(row["split"] == "val" for row in found) == round(len(found) / 4)


@pytest.mark.parametrize("name", ["water, ice", "roof:tin"])
def test_names_that_training_refuses_are_refused_wherever_they_come_from(tmp_path, name):
    scene = write_raster(tmp_path / "town.tif", noise((3, 50, 60)))
    mask = write_raster(tmp_path / "mask.tif", noise((1, 50, 60)) % 2)
    out = tmp_path / "tiles"
    config = ["train", tmp_path, "-o", tmp_path / "run", "--classes", f'background,"{name}"']
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    told = CliRunner().invoke(geoseg, list(map(str, config)), prog_name="geoseg").stderr
    rule = told.partition(" has the wrong form")[2]
    assert rule
    by_value = run(scene, "--labels", mask, "-o", out, "--values", f'0=background,"1={name}"')
    with rasterio.open(mask, "r+") as dst:
        dst.update_tags(GEOSEG_CLASSES=json.dumps(["background", name]))
    own = run(scene, "--labels", mask, "-o", out)
    for done, where in ((by_value, "--values"), (own, mask)):
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr == f"Error: {where}: class {name!r} has the wrong form{rule}"
    assert not out.exists()


@pytest.mark.slow
def test_a_folder_of_tiles_trains_as_it_is(tmp_path, town):
    scene, labels = town
    out = tmp_path / "tiles"
    assert run(scene, "--labels", labels, "-o", out, "--tile-size", 64, "--layer", "buildings").exit_code == 0
    done = CliRunner().invoke(
        geoseg,
        ["train", str(out), "-o", str(tmp_path / "run"), "--classes", "background,building", "--epochs", "1",
         "--tile-size", "32", "--batch-size", "2", "--set", "steps_per_epoch=1", "--set", "arch_args.width=4",
         "--set", "arch_args.depth=2", "--set", f"data.cache={tmp_path / 'cache'}", "--device", "cpu"],
        prog_name="geoseg",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_signal_ends_it_and_leaves_nothing(tmp_path):
    scene = write_raster(tmp_path / "large.tif", noise((3, 2000, 2000)), compress="deflate")
    labels = tmp_path / "town.gpkg"
    pyogrio.write_dataframe(gpd.GeoDataFrame(geometry=[on_ground(box(10, 10, 30, 30))], crs=UTM["crs"]), labels)
    before = contents(tmp_path)
    args = ["tile", scene, "--labels", labels, "-o", tmp_path / "tiles", "--tile-size", "16"]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = subprocess.Popen(
            [sys.executable, "-m", "geoseg.cli.main", *map(str, args)],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        images = tmp_path / ".tiles.partial" / "images"
        deadline = time.monotonic() + 60
        while not (images.exists() and any(images.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode == code, said
        assert "rminated." in said or "Interrupted." in said
        assert contents(tmp_path) == before
