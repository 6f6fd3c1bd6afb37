"""Slips of whoever types a command: refused in one line that says what is wrong, what there is, and what was meant."""

import shlex
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from click.testing import CliRunner
from rasters import write_raster

from geoseg.cli.main import geoseg

SIDE = 128
PLACE = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The working directory: a scene, footprints of one class and of two, a class raster, and files that are none."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    write_raster(Path("scene.tif"), rng.integers(1, 255, (3, SIDE, SIDE)).astype(np.uint8), **PLACE)
    write_raster(Path("void.tif"), np.zeros((3, SIDE, SIDE), np.uint8), nodata=0, **PLACE)
    classes = np.kron(rng.integers(0, 3, (8, 8)), np.ones((16, 16))).astype(np.uint8)
    write_raster(Path("classes.tif"), classes[None], **PLACE)
    write_raster(Path("many.tif"), (np.arange(SIDE**2) % 256).astype(np.uint8).reshape(1, SIDE, SIDE), **PLACE)
    corners = [(500_000 + x, 5_000_000 - y) for x in range(5, 60, 15) for y in range(15, 60, 15)]
    shapes = [shapely.box(x, y, x + 9, y + 9) for x, y in corners]

    def write(name, classes):
        geopandas.GeoDataFrame({"class": classes}, geometry=shapes, crs="EPSG:32633").to_file(name, layer="things")

    write("b.gpkg", ["building"] * len(shapes))
    write("kinds.gpkg", ["building" if k % 2 else "shed" for k in range(len(shapes))])
    write("comma.gpkg", ["water, ice"] * len(shapes))
    Path("broken.gpkg").write_bytes(b"SQLite format 3\0" + b"x" * 2000)
    Path("text.gpkg").write_text("hello", encoding="utf-8")
    Path("empty.gpkg").touch()


def run(command):
    return CliRunner().invoke(geoseg, shlex.split(command))


def refused(command):
    done = run(command)
    assert (done.exit_code in (1, 2), done.stdout, done.stderr.count("\n")) == (True, "", 1), done.output
    assert done.stderr.startswith("Error: ")
    return done.stderr


MEANT = "Did you mean 'building'? Expected some of building"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("evaluate b.gpkg b.gpkg --classes bilding", f"class='bilding' is not in b.gpkg or b.gpkg. {MEANT}."),
        ("evaluate kinds.gpkg b.gpkg --classes shed,bilding", f"kinds.gpkg or b.gpkg. {MEANT}, shed."),
        ("evaluate classes.tif b.gpkg --classes bilding,x", "whose field 'class' holds building. Did you mean"),
        ("tile scene.tif --labels kinds.gpkg --classes bilding -o t", "holds building, shed. Did you mean 'building'?"),
        ("tile scene.tif --labels kinds.gpkg --class-field class --classes shed,bilding -o t", "class='bilding' is"),
        ("train scene.tif --labels b.gpkg --classes background,bilding -o r", "Did you mean 'building'?"),
    ],
)  # fmt: skip
def test_a_mistyped_class(files, command, says):
    assert says in refused(command)


@pytest.mark.parametrize("name", ["house", "buildings", "building", "build"])
def test_a_class_of_another_name_is_none_that_was_mistyped(files, name):
    done = run(f"tile scene.tif --labels b.gpkg --classes {name} --tile-size 64 -o t")
    assert done.exit_code == 0, done.stderr
    assert name in done.stderr


def test_a_class_that_only_one_side_has_is_scored_or_told(files):
    done = run("evaluate b.gpkg kinds.gpkg --classes building,shed")
    assert done.exit_code == 0, done.stderr
    assert "shed" in done.stdout


BROKEN = {
    "missing.gpkg": "missing.gpkg does not exist",
    "broken.gpkg": "broken.gpkg cannot be read (file is not a database). Expected",
    "text.gpkg": "text.gpkg is no vector file, whatever its ending .gpkg says. Expected GeoPackage",
    "empty.gpkg": "empty.gpkg is empty. Expected GeoPackage",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize(
    "command", ["evaluate {} b.gpkg", "evaluate b.gpkg {}", "evaluate classes.tif {} --classes building"]
)
def test_a_vector_file_that_is_none(files, name, command):
    done = run(command.format(name))
    assert done.exit_code == 1
    assert BROKEN[name] in done.stderr.splitlines()[-1]
    assert "GeoTIFF" not in done.stderr


def test_a_class_raster_that_is_none(files):
    assert "b.gpkg is a file of polygons or lines. Expected a class raster" in refused("vectorize b.gpkg")
    assert "missing.gpkg does not exist" in refused("vectorize missing.gpkg")
    assert "text.gpkg is no vector file" in refused("vectorize text.gpkg")
    many = refused("vectorize many.tif")
    assert "has 256 different values and no class names" in many
    assert "at most 64 values. Name those to outline with --values 1=building." in many


def test_a_comma_in_a_name_is_quoted(files):
    said = refused("""tile scene.tif --labels comma.gpkg --classes '"water, ice"' --tile-size 64 -o t""")
    assert "--classes: class 'water, ice' has the wrong form" in said  # as training says it
    assert "empty entry" in refused("tile scene.tif --labels b.gpkg --classes building, -o u")
    known = refused("""evaluate comma.gpkg b.gpkg --classes '"water, iec"'""")
    assert """Did you mean 'water, ice'? Expected some of "water, ice", building.""" in known


def test_values_of_a_file_that_has_none(files):
    said = refused("tile scene.tif --labels b.gpkg --values 0=background,1=building -o t")
    assert "--values: b.gpkg holds polygons or lines, which have no values. Expected a raster of classes." in said
    assert not Path("t").exists()


TRAIN = "train scene.tif --labels b.gpkg --classes background,building -o r --arch unet"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--set 'arch_args={width:4}'", "Expected a space after the colon. Try --set arch_args.width=4."),
        ("--set arch_args.width=abc", "--set arch_args.width=abc: arch_args.width='abc' is out of range (unet)"),
        ("--config c.yaml", "c.yaml: arch_args.width='abc' is out of range (unet). Expected a whole number"),
        ("--config d.yaml", "d.yaml: arch_args: architecture unet has no argument 'widht'. Did you mean 'width'?"),
    ],
)
def test_an_argument_of_an_architecture_is_named_where_it_stands(files, more, says):
    Path("c.yaml").write_text("arch_args: {width: abc}\n", encoding="utf-8")
    Path("d.yaml").write_text("arch_args: {widht: 4}\n", encoding="utf-8")
    assert says in refused(f"{TRAIN} {more}")
    assert not Path("r").exists()


def test_a_scene_without_a_valid_pixel_is_named(files):
    said = refused("train void.tif scene.tif --labels b.gpkg --classes background,building -o r --tile-size 64")
    assert "void.tif has no valid pixel: nothing can be learnt there. Expected pixels with data." in said


@pytest.mark.parametrize(("ours", "theirs"), [("paved", "unpaved"), ("residential", "nonresidential")])
def test_a_word_within_another_is_no_slip(files, ours, theirs):
    frame = geopandas.read_file("kinds.gpkg")
    frame["class"] = ["building", *[theirs] * (len(frame) - 1)]
    frame.to_file("words.gpkg")
    done = run(f"tile scene.tif --labels words.gpkg --classes building,{ours} --tile-size 64 -o words")
    assert done.exit_code == 0, done.stderr
