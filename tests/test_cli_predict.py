"""`geoseg predict`: paths on stdout, one line for whatever is refused, and nothing left behind."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import torch
from affine import Affine
from checkpoints import write_checkpoint
from click.testing import CliRunner
from rasters import UTM, contents, noise, write_raster
from safetensors.torch import load_file, save_file

from geoseg import builtin, checkpoint, engine
from geoseg.checkpoint import ClassInfo, Head
from geoseg.cli.main import geoseg
from geoseg.errors import SceneError
from geoseg.spool import Spool

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.usefixtures("compiled"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors", cell_side=64, gsd=(0.2, 0.4, 0.3))


@pytest.fixture
def folder(tmp_path, monkeypatch, model):
    """The working directory: a scene of four cells and a model."""
    monkeypatch.chdir(tmp_path)
    write_raster("scene.tif", noise((3, 100, 120)), nodata=0)
    shutil.copy(model, "tiny.safetensors")
    return tmp_path


def run(*args):
    return CliRunner().invoke(geoseg, ["predict", *map(str, args)], prog_name="geoseg")


def refuse(*args, code, says, model="tiny.safetensors"):
    """The run ends with `code` and one line that has `says` in it; nothing on disk has changed."""
    before = contents(".")
    done = run(*args, "--model", model)
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert contents(".") == before
    return done.stderr


# ---- what it prints and writes


def test_paths_on_stdout_and_nothing_else(folder):
    done = run("scene.tif", "-m", "tiny.safetensors")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "scene_tiny.tif\n", "")
    assert sorted(contents(".")) == [
        "scene.tif", "scene_tiny.qml", "scene_tiny.tif", "scene_tiny.tif.aux.xml", "tiny.safetensors"
    ]  # fmt: skip


def test_every_product(folder):
    (folder / "out").mkdir()
    options = {"-o": "out/a.tif", "--vectors": "out/b.gpkg", "--confidence": "c.tif", "--probabilities": "out/d.tif"}
    done = run("scene.tif", "-m", "tiny.safetensors", *(word for pair in options.items() for word in pair))
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == list(options.values())
    with rasterio.open("out/a.tif") as labels, rasterio.open("c.tif") as confidence, rasterio.open("out/d.tif") as each:
        best = each.read()
        np.testing.assert_array_equal(best.max(0), confidence.read(1))
        taken = np.take_along_axis(best, np.minimum(labels.read(1), 2)[None].astype(int), 0)[0]
        np.testing.assert_array_equal(taken, confidence.read(1))
    assert sum(len(geopandas.read_file("out/b.gpkg", layer=name)) for name in ("buildings", "road_surfaces", "roads"))


def test_a_review_beside_the_vectors_is_that_of_the_same_rasters(folder):
    write_raster("scene.tif", np.kron(noise((3, 7, 8)), np.ones((1, 16, 16), np.uint8)), nodata=0)
    classes = [ClassInfo(name=name, color="#e34a33") for name in ("background", "water", "building")]
    write_checkpoint(Path("houses.safetensors"), cell_side=64, heads={"surface": Head(classes=tuple(classes))})
    done = run("scene.tif", "-m", "houses.safetensors", "-o", "classes.tif",
               "--vectors", "v.gpkg", "--review", 2, "--probabilities", "p.tif")  # fmt: skip
    assert (done.exit_code, done.stderr) == (0, "")
    layers = [name for name, _ in pyogrio.list_layers("v.gpkg")]
    assert layers[-2:] == ["review", "layer_styles"]
    assert (geopandas.read_file("v.gpkg", layer="review")["layer"] == "buildings").any()
    vectorized = CliRunner().invoke(
        geoseg, ["vectorize", "classes.tif", "--probabilities", "p.tif", "--review", "2", "-o", "w.gpkg"]
    )
    assert vectorized.exit_code == 0, vectorized.stderr
    assert Path("v.gpkg").read_bytes() == Path("w.gpkg").read_bytes()


def test_a_review_needs_vectors_that_can_hold_it(folder):
    refuse("scene.tif", "--review", "2", code=2, says="review=2 without vectors")
    refuse("scene.tif", "--vectors", "v.fgb", "--review", "2", code=2, says="v.fgb cannot hold a review")
    refuse("scene.tif", "--vectors", "v.gpkg", "--review", "0", code=2, says="--review")
    shutil.copy("scene.tif", "other.tif")
    refuse("scene.tif", "other.tif", "--review", "2", code=2, says="Predict one at a time")


def test_json(folder):
    done = run("scene.tif", "-m", "tiny.safetensors", "--json", "--vectors", "v.gpkg", "--precision", "float32")
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert said["paths"] == {"labels": "scene_tiny.tif", "vectors": "v.gpkg"}
    assert sorted(said["side_files"]) == ["scene_tiny.qml", "scene_tiny.tif.aux.xml"]
    assert said["placement"] == {"device": "cpu", "precision": "float32", "batch_size": 1, "tta": False}
    assert (said["shape"], said["cells"], said["resumed"], said["tile_size"], said["overlap"]) == (
        [100, 120],
        4,
        0,
        84,
        20,
    )
    assert set(said["features"]) == {"buildings", "road_surfaces", "roads", "road_nodes"}


def test_options_reach_the_run(folder):
    done = run(
        "scene.tif", "-m", "tiny.safetensors", "--json", "--tile-size", "60", "--overlap", "24", "--batch-size", "3",
        "--bands", "blue, green,1", "--nodata", "9", "--precision", "float32", "--device", "cpu",
        "--tta",
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert (said["tile_size"], said["overlap"], said["placement"]["batch_size"]) == (60, 24, 3)
    assert said["placement"]["tta"] is True
    with rasterio.open("scene_tiny.tif") as src:
        assert src.tags()["GEOSEG_BANDS"] == "3,2,1"
        assert src.tags()["GEOSEG_NODATA_OVERRIDE"] == "9.0"


def test_a_built_in_name_means_the_shipped_model(folder, monkeypatch):
    monkeypatch.setattr(builtin, "BUILTIN_FOLDER", folder)
    done = run("scene.tif", "--model", "tiny")
    assert (done.exit_code, done.stdout) == (0, "scene_tiny.tif\n")


@pytest.mark.slow
def test_workers(folder):
    run("scene.tif", "-m", "tiny.safetensors")
    done = run("scene.tif", "-m", "tiny.safetensors", "-o", "w.tif", "--workers", "2")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "w.tif\n", "")
    assert Path("w.tif").read_bytes() == Path("scene_tiny.tif").read_bytes()


# ---- warnings


def test_no_crs_is_one_line_and_quiet_silences_it(folder):
    write_raster("plain.tif", noise((3, 30, 40)), crs=None, transform=Affine.identity())
    done = run("plain.tif", "-m", "tiny.safetensors", "--vectors", "v.gpkg")
    assert (done.exit_code, done.stdout) == (0, "plain_tiny.tif\nv.gpkg\n")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Warning: plain.tif has no CRS")
    done = run("plain.tif", "-m", "tiny.safetensors", "--vectors", "v.gpkg", "--overwrite", "-q")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "plain_tiny.tif\nv.gpkg\n", "")


def test_no_crs_and_metres_per_pixel(folder):
    """What has pixels of one size has the same areas, wherever it lies."""
    pixels = noise((3, 30, 40))
    write_raster("plain.tif", pixels, crs=None, transform=Affine.identity())
    write_raster("placed.tif", pixels, crs="EPSG:6933", transform=Affine(0.3, 0, 0, 0, -0.3, 0))  # of equal areas
    areas = []
    for scene, given in (("plain.tif", ["--gsd", "0.3"]), ("placed.tif", [])):
        asked = ["--min-patch-m2", "0.5", "--vectors", "v.gpkg", "--overwrite", *given]
        done = run(scene, "-m", "tiny.safetensors", *asked)
        assert (done.exit_code, done.stderr) == (0, "")
        areas.append(
            {name: geopandas.read_file("v.gpkg", layer=name).area_m2.sum() for name in ("road_surfaces", "buildings")}
        )
    assert areas[0] == pytest.approx(areas[1], rel=1e-3)
    assert sum(areas[0].values()) > 0


def test_metres_per_pixel_that_the_scene_tells_itself_are_one_line(folder):
    done = run("scene.tif", "-m", "tiny.safetensors", "--gsd", "0.5")
    assert done.exit_code == 0
    assert done.stderr.startswith("Warning: --gsd 0.5 is not used: scene.tif has a CRS, by which a pixel is 0.3 m wide")
    assert done.stderr.count("\n") == 1


def test_verbose_says_more_on_stderr_only(folder):
    done = run("scene.tif", "-m", "tiny.safetensors", "-vv")
    assert (done.exit_code, done.stdout) == (0, "scene_tiny.tif\n")
    assert logging.getLogger("geoseg").level == logging.DEBUG


# ---- refused: the scene


def test_scenes_that_are_none(folder):
    os.mkfifo("pipe.tif")
    Path("text.tif").write_text("I am no raster.\n")
    Path("empty.tif").touch()
    Path("loop.tif").symlink_to("loop.tif")
    content = Path("scene.tif").read_bytes()
    Path("cut.tif").write_bytes(content[: len(content) // 2])
    Path("head.tif").write_bytes(content[:100])
    refuse("missing.tif", code=1, says="missing.tif cannot be opened (No such file")
    refuse(".", code=1, says="is a folder")
    refuse("pipe.tif", code=1, says="no ordinary file")
    refuse("/dev/zero", code=1, says="no ordinary file")
    refuse("text.tif", code=1, says="format is not supported")
    refuse("empty.tif", code=1, says="is empty")
    refuse("loop.tif", code=1, says="loop.tif cannot be opened")
    refuse("cut.tif", code=1, says="cut.tif cannot be read at rows")
    refuse("head.tif", code=1, says="head.tif cannot be opened")
    refuse("", code=1, says="empty name", model="tiny.safetensors")


def test_wrong_bands(folder):
    write_raster("one.tif", noise((1, 9, 9)))
    write_raster("four.tif", noise((4, 9, 9)), photometric="minisblack")
    says = refuse("one.tif", code=1, says="one.tif has 1 band (band_1)")
    assert "3 bands (red, green, blue)" in says
    assert "--bands 1,2,3" in refuse("four.tif", code=1, says="four.tif has 4 bands")
    assert run("four.tif", "-m", "tiny.safetensors", "--bands", "1,2,3").exit_code == 0


@pytest.mark.parametrize(
    ("bands", "code"),
    [("1,,3", 2), ("", 2), (",", 2), ("1,2", 1), ("1,2,9", 1), ("0,1,2", 1), ("rot,2,3", 1), ("1;2;3", 1)],
)
def test_bands_that_make_no_sense(folder, bands, code):
    refuse("scene.tif", "--bands", bands, code=code, says="band")


@pytest.mark.parametrize("value", ["256", "-1", "0.5", "1e300"])
def test_a_nodata_value_that_cannot_occur(folder, value):
    refuse("scene.tif", "--nodata", value, code=2, says="Expected a whole number from 0 to 255")


def test_a_nodata_value_that_is_no_number(folder):
    refuse("scene.tif", "--nodata", "none", code=2, says="'none' is not a valid float")


@pytest.mark.parametrize("options", [(), pytest.param(("--workers", "2"), marks=pytest.mark.slow)], ids=str)
def test_a_corrupt_block_in_the_middle(folder, options):
    path = write_raster("bad.tif", noise((3, 256, 256)), tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with rasterio.open(path) as src:
        offset = int(src.get_tag_item("BLOCK_OFFSET_1_2", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[offset : offset + 100] = b"\xff" * 100
    path.write_bytes(content)
    refuse("bad.tif", *options, code=1, says="bad.tif cannot be read at rows")


def test_the_area(folder):
    refuse("scene.tif", "--aoi", "missing.geojson", code=1, says="missing.geojson")
    far = geopandas.GeoSeries.from_wkt(["POLYGON((10 10, 11 10, 11 11, 10 10))"], crs=4326)
    far.to_file("far.geojson")
    refuse("scene.tif", "--aoi", "far.geojson", code=1, says="Expected the area of interest on the scene.")
    Path("text.geojson").write_text("no polygons")
    refuse("scene.tif", "--aoi", "text.geojson", code=1, says="text.geojson")


# ---- refused: the model


def test_models_that_are_none(folder, monkeypatch):
    monkeypatch.setattr(builtin, "BUILTIN_FOLDER", folder)
    assert "(tiny)" in refuse("scene.tif", model="tinny", code=2, says="Did you mean 'tiny'?")
    refuse("scene.tif", model="unet", code=2, says="is an architecture")
    refuse("scene.tif", model="runs/none.safetensors", code=2, says="does not exist")
    torch.save({"a": torch.zeros(3)}, "foreign.pt")
    refuse("scene.tif", model="foreign.pt", code=1, says="PyTorch's .pt")
    save_file({"a": torch.zeros(3)}, "other.safetensors")
    refuse("scene.tif", model="other.safetensors", code=1, says="another program")
    os.mkfifo("pipe.safetensors")
    refuse("scene.tif", model="pipe.safetensors", code=1, says="not a regular file")


@pytest.mark.parametrize("where", [0, 4, 200, 0.3, 0.6, -1])
def test_a_damaged_model(folder, where):
    content = bytearray(Path("tiny.safetensors").read_bytes())
    content[where if isinstance(where, int) else int(where * len(content))] ^= 0x40
    Path("bad.safetensors").write_bytes(content)
    refuse("scene.tif", model="bad.safetensors", code=1, says="bad.safetensors")


def test_a_model_that_holds_nan(folder, monkeypatch):
    tensors = load_file("tiny.safetensors")
    tensors["head.bias"][1] = float("nan")
    header = checkpoint.load_checkpoint("tiny.safetensors").header
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_check_finite", lambda *_: None)
        checkpoint.save_checkpoint("nan.safetensors", header, tensors)
    refuse("scene.tif", model="nan.safetensors", code=1, says="tensor head.bias holds NaN")


def test_a_model_that_overflows(folder):
    tensors = load_file("tiny.safetensors")
    tensors["head.bias"][1] = 3e38
    tensors["head.weight"][1] = 3e38
    header = checkpoint.load_checkpoint("tiny.safetensors").header
    checkpoint.save_checkpoint("inf.safetensors", header, tensors, half=False)
    refuse("scene.tif", "--precision", "float32", model="inf.safetensors", code=1, says="non-finite logits")


# ---- refused: the outputs


@pytest.mark.parametrize("option", ["-o", "--vectors", "--confidence", "--probabilities"])
def test_an_output_that_exists(folder, option):
    name = "mine.gpkg" if option == "--vectors" else "mine.tif"
    Path(name).write_text("mine")
    assert "--overwrite" in refuse("scene.tif", option, name, code=2, says=f"{name} exists")


@pytest.mark.parametrize("name", ["scene_tiny.tif", "scene_tiny.qml", "scene_tiny.tif.aux.xml"])
def test_a_default_output_or_a_file_beside_it_that_exists(folder, name):
    Path(name).write_text("mine")
    refuse("scene.tif", code=2, says=f"{name} exists")
    assert run("scene.tif", "-m", "tiny.safetensors", "--overwrite").exit_code == 0
    assert Path(name).read_bytes() != b"mine"


@pytest.mark.parametrize("option", ["-o", "--confidence", "--probabilities"])
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
def test_an_output_that_is_an_input(folder, option, overwrite):
    Path("symlink.tif").symlink_to("scene.tif")
    Path("hardlink.tif").hardlink_to("scene.tif")
    for name in ("scene.tif", "./scene.tif", "symlink.tif", "hardlink.tif"):
        refuse("scene.tif", option, name, *overwrite, code=2, says="is the input")
    refuse("scene.tif", option, "tiny.safetensors", *overwrite, code=2, says="is to hold a GeoTIFF")


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
def test_vectors_that_are_an_input(folder, overwrite):
    geopandas.GeoSeries.from_wkt(["POLYGON((10 10, 11 10, 11 11, 10 10))"], crs=4326).to_file("area.gpkg")
    Path("symlink.gpkg").symlink_to("area.gpkg")
    for name in ("area.gpkg", "symlink.gpkg"):
        refuse("scene.tif", "--aoi", "area.gpkg", "--vectors", name, *overwrite, code=2, says="is the input")
    refuse("scene.tif", "--vectors", "scene.tif", *overwrite, code=2, says="scene.tif is to hold vectors")


def test_the_scene_given_by_a_link_is_an_input_too(folder):
    Path("symlink.tif").symlink_to("scene.tif")
    refuse("symlink.tif", "-o", "scene.tif", "--overwrite", code=2, says="is the input")


def test_folders_that_cannot_be_written_to(folder, monkeypatch):
    refuse("scene.tif", "-o", "none/a.tif", code=1, says="the folder none does not exist")
    refuse("scene.tif", "--vectors", "scene.tif/a.gpkg", code=1, says="scene.tif/a.gpkg")
    Path("closed").mkdir(mode=0o555)
    if os.geteuid() == 0:  # who may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "closed" or not mode & os.W_OK)
    refuse("scene.tif", "-o", "closed/a.tif", code=1, says="closed is not writable")
    refuse("scene.tif", "--confidence", "closed/a.tif", code=1, says="closed is not writable")


def test_one_file_for_two_outputs(folder):
    refuse("scene.tif", "-o", "a.tif", "--confidence", "a.tif", code=2, says="two outputs")
    refuse("scene.tif", "--confidence", "a.tif", "--probabilities", "./a.tif", code=2, says="two outputs")
    refuse("scene.tif", "-o", "a.tif", "--vectors", "a.qml", code=2, says="a.qml is to hold vectors")


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["scene.tif", "-o", "none/a.tif"], 1, "the folder none does not exist"),
        (["scene.tif", "--vectors", "/proc/a.gpkg"], 1, "/proc/a.gpkg cannot be written"),
        (["scene.tif", "--confidence", "a.png"], 2, "a.png is to hold a GeoTIFF"),
        (["scene.tif", "--vectors", "a.txt"], 2, "a.txt is to hold vectors"),
        (["scene.tif", "-o", "."], 2, ". exists and is no regular file"),
        (["scene.tif", "scene.txt", "-o", "a.tif"], 2, "--output names one file for 2 scenes"),
        (["none.tif"], 1, "none.tif"),
        (["scene.tif", "--bands", "1,"], 2, "has an empty entry"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_slips_in_names_do_not_wait_for_torch(folder, args, code, says):
    program = "import sys; sys.modules['torch'] = None; from geoseg.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "predict", *args], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert says in done.stderr


def test_a_disk_without_room(folder, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refuse("scene.tif", code=1, says="this run may need")


def test_a_disk_that_fills_up(folder, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refuse("scene.tif", code=1, says="No space left on device")


# ---- refused: options that do not fit


def test_sizes_that_do_not_fit(folder):
    refuse("scene.tif", "--tile-size", "85", code=2, says="Try 84, or auto for 84")
    refuse("scene.tif", "--tile-size", "0", code=2, says="Try 22, or auto")
    refuse("scene.tif", "--tile-size", "20", code=2, says="Try 22, or auto")
    refuse("scene.tif", "--overlap", "21", code=2, says="Try 24, or auto for 20")
    refuse("scene.tif", "--overlap", "1", code=2, says="Try 4, or auto for 20")
    for option in ("--tile-size", "--overlap", "--batch-size"):
        for value in ("-4", "big", "1.5", ""):
            refuse("scene.tif", option, value, code=2, says="neither a whole number of at least 0 nor 'auto'")
    refuse("scene.tif", "--batch-size", "0", code=2, says="batch")


def test_options_that_exclude_each_other(folder):
    refuse("scene.tif", "--workers", "2", "--scheduler", "tcp://127.0.0.1:1", code=2, says="exclude each other")
    refuse("scene.tif", "--workers", "0", code=2, says="--workers")


def test_devices(folder):
    refuse("scene.tif", "--device", "gpu", code=1, says="device='gpu' is no device")
    if not torch.cuda.is_available():
        refuse("scene.tif", "--device", "cuda", code=1, says="is not on this machine")


def test_a_scheduler_that_is_not_there(folder, monkeypatch):
    monkeypatch.setattr("geoseg.parallel.cluster.CONNECT_S", 1.0)
    refuse("scene.tif", "--scheduler", "tcp://127.0.0.1:1", code=1, says="cannot be reached")


# ---- interrupted runs


@pytest.fixture
def unfinished(folder, monkeypatch):
    """A run that lost its disk after two of four cells."""
    with monkeypatch.context() as patch:
        write = Spool.write

        def full(self, index, arrays):
            if index == 2:
                raise OSError(28, "No space left on device")
            write(self, index, arrays)

        patch.setattr(Spool, "write", full)
        assert run("scene.tif", "-m", "tiny.safetensors", "--precision", "float32").exception
    assert len(list(Path("scene_tiny.tif.partial").glob("*.zst"))) == 2
    return folder


def without_lock(found):
    return {name: what for name, what in found.items() if not name.endswith("/lock")}


def refuse_and_keep(*args, says):
    before = contents(".")
    done = run("scene.tif", "-m", "tiny.safetensors", *args)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr
    assert without_lock(contents(".")) == without_lock(before)


def test_an_unfinished_run_is_not_thrown_away_unasked(unfinished):
    refuse_and_keep("--precision", "float32", says="holds 2 finished cells of an interrupted run")


def test_an_unfinished_run_is_not_continued_with_other_settings(unfinished):
    refuse_and_keep("--resume", "--precision", "bfloat16", says="--precision was float32, now bfloat16. ")
    refuse_and_keep("--resume", "--precision", "float32", "--tile-size", "44", says="--tile-size was 84, now 44. ")
    refuse_and_keep(
        "--resume", "--precision", "float32", "--confidence", "c.tif", says="--confidence was off, now on. "
    )
    refuse_and_keep("--resume", "--precision", "float32", "--nodata", "3", says="--nodata differs. ")
    shutil.copy("scene.tif", "again.tif")
    Path("again.tif").replace("scene.tif")
    refuse_and_keep("--resume", "--precision", "float32", says="the scene differs. ")


@pytest.mark.parametrize("after", [0, 1, 3])
def test_who_interrupts_is_told_how_to_go_on(folder, monkeypatch, after):
    write = Spool.write

    def stop(self, index, arrays):
        if index == after:
            raise KeyboardInterrupt
        write(self, index, arrays)

    monkeypatch.setattr(Spool, "write", stop)
    done = run("scene.tif", "-m", "tiny.safetensors")
    note = f" {after} of 4 cells are finished. Go on with --resume." if after else ""
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", f"Interrupted.{note}\n")
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    done = run("scene.tif", "-m", "tiny.safetensors", "--resume", "--json")
    assert json.loads(done.stdout)["resumed"] == after


def test_resume(unfinished):
    done = run("scene.tif", "-m", "tiny.safetensors", "--precision", "float32", "--resume", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["resumed"] == 2
    assert not Path("scene_tiny.tif.partial").exists()
    assert run("scene.tif", "-m", "tiny.safetensors", "--precision", "float32", "-o", "b.tif").exit_code == 0
    assert Path("b.tif").read_bytes() == Path("scene_tiny.tif").read_bytes()


def test_resume_with_nothing_to_resume_is_a_run(folder):
    done = run("scene.tif", "-m", "tiny.safetensors", "--resume")
    assert (done.exit_code, done.stdout) == (0, "scene_tiny.tif\n")


def test_overwrite_starts_again(unfinished):
    done = run("scene.tif", "-m", "tiny.safetensors", "--precision", "float32", "--overwrite", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["resumed"] == 0
    assert not Path("scene_tiny.tif.partial").exists()


@pytest.mark.parametrize("flags", [[], ["--resume"], ["--overwrite"]], ids=str)
def test_a_second_run_of_the_same_output(folder, flags):
    with Spool.open(Path("scene_tiny.tif.partial"), {}):
        refuse("scene.tif", *flags, code=2, says=f"in use by another run (process {os.getpid()} on")


def test_an_output_that_appears_during_the_run(folder, monkeypatch):
    write = Spool.write

    def take(self, index, arrays):
        Path("scene_tiny.tif").write_text("mine")
        write(self, index, arrays)

    monkeypatch.setattr(Spool, "write", take)
    done = run("scene.tif", "-m", "tiny.safetensors")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "scene_tiny.tif has appeared during the run" in done.stderr
    assert Path("scene_tiny.tif").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == [
        "scene.tif", "scene_tiny.tif", "scene_tiny.tif.partial", "tiny.safetensors"
    ]  # fmt: skip


def test_a_scene_that_breaks_during_the_run_leaves_nothing(folder, monkeypatch):
    call = engine.CellTask.__call__

    def broken(self, indices):
        if 2 in indices:
            raise SceneError("scene.tif cannot be read at rows 64-99. Expected a complete file.")
        return call(self, indices)

    monkeypatch.setattr(engine.CellTask, "__call__", broken)
    refuse("scene.tif", code=1, says="cannot be read at rows 64-99")


def test_a_bug_keeps_its_traceback_and_the_finished_cells(folder, monkeypatch):
    monkeypatch.setattr("geoseg.pipeline.write_cog", lambda *_: 1 / 0)
    done = run("scene.tif", "-m", "tiny.safetensors")
    assert isinstance(done.exception, ZeroDivisionError)
    assert len(list(Path("scene_tiny.tif.partial").glob("*.zst"))) == 4


# ---- several scenes


@pytest.fixture
def three(folder):
    """Two scenes more, of one cell each."""
    for seed, name in enumerate(("b.tif", "c.tif"), start=1):
        write_raster(name, noise((3, 40, 50), seed))
    return ["b.tif", "scene.tif", "c.tif"]


def test_scenes_are_predicted_in_turn(three):
    done = run(*three, "-m", "tiny.safetensors")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "b_tiny.tif\nscene_tiny.tif\nc_tiny.tif\n"
    assert run("scene.tif", "-m", "tiny.safetensors", "-o", "alone.tif").exit_code == 0
    assert Path("alone.tif").read_bytes() == Path("scene_tiny.tif").read_bytes()


def test_json_of_several_scenes_is_a_list(three):
    said = json.loads(run(*three, "-m", "tiny.safetensors", "--json").stdout)
    assert [each["paths"]["labels"] for each in said] == ["b_tiny.tif", "scene_tiny.tif", "c_tiny.tif"]
    assert [each["cells"] for each in said] == [1, 4, 1]


@pytest.mark.parametrize("option", ["--output", "--vectors", "--confidence", "--probabilities"])
def test_one_name_for_several_scenes(three, option):
    refuse(*three, option, "a.tif", code=2, says=f"{option} names one file for 3 scenes. Expected --stack")


def test_the_first_scene_that_fails_ends_the_run(three):
    data = bytearray(Path("c.tif").read_bytes())
    Path("c.tif").write_bytes(data[: len(data) // 2])
    done = run("b.tif", "c.tif", "scene.tif", "-m", "tiny.safetensors")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "b_tiny.tif\n", 1)
    assert done.stderr.startswith("Error: ")
    assert "c.tif cannot be read at rows" in done.stderr
    assert done.stderr.endswith(
        "This was scene 2 of 3: c.tif. Those before it are finished: leave them out to go on.\n"
    )
    assert Path("b_tiny.tif").exists()
    assert not Path("scene_tiny.tif").exists()
    Path("c.tif").write_bytes(data)
    Path("c_tiny.tif").touch()
    says = refuse("c.tif", "scene.tif", code=2, says="c_tiny.tif exists.")
    assert says.endswith("This was scene 1 of 2: c.tif.\n")
    refuse("*.tif", code=1, says="*.tif cannot be opened (No such file")


def test_an_interrupted_run_over_scenes_says_where(three, monkeypatch):
    write = Spool.write

    def stop(self, index, arrays):
        if index == 2:
            raise KeyboardInterrupt
        write(self, index, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "write", stop)
        done = run(*three, "-m", "tiny.safetensors")
    assert (done.exit_code, done.stdout) == (130, "b_tiny.tif\n")
    assert done.stderr == (
        "Interrupted. 2 of 4 cells are finished. Go on with --resume. "
        "This was scene 2 of 3: scene.tif. Those before it are finished: leave them out to go on.\n"
    )
    done = run(*three[1:], "-m", "tiny.safetensors", "--resume", "--json")
    assert [each["resumed"] for each in json.loads(done.stdout)] == [2, 0]


def test_scenes_whose_outputs_meet(three):
    Path("other").mkdir()
    shutil.copy("b.tif", "other/b.tif")
    refuse(*three, "other/b.tif", code=2, says="b.tif and other/b.tif would both be written to b_tiny.tif")
    refuse("b.tif", "b.tif", code=2, says="b.tif and b.tif would both be written to b_tiny.tif")
    shutil.copy("c.tif", "b_tiny.tif")
    refuse(*three, "b_tiny.tif", "--overwrite", code=2, says="b_tiny.tif is one of the scenes")
    Path("link.tif").symlink_to("b_tiny.tif")
    refuse("b.tif", "link.tif", "--overwrite", code=2, says="link.tif is one of the scenes")


@pytest.fixture
def dates(folder):
    """Two dates of the scene, and a model of both."""
    write_raster("later.tif", noise((3, 100, 120), 1), nodata=0)
    write_checkpoint(Path("dates.safetensors"), bands=("red", "green", "blue") * 2, cell_side=64)
    return ["scene.tif", "later.tif", "--stack", "-m", "dates.safetensors"]


def test_a_stack_is_one_scene(dates):
    done = run(*dates)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "scene_dates.tif\n", "")
    done = run(*dates, "-o", "out.tif", "--vectors", "v.gpkg", "--bands", "red,green,blue", "--json")
    assert json.loads(done.stdout)["paths"] == {"labels": "out.tif", "vectors": "v.gpkg"}
    assert Path("out.tif").read_bytes() == Path("scene_dates.tif").read_bytes()
    done = run("later.tif", "scene.tif", *dates[2:])
    assert done.stdout == "later_dates.tif\n"
    with rasterio.open("later_dates.tif") as later, rasterio.open("out.tif") as out:
        assert (later.read() != out.read()).any()


def test_a_stack_of_one_is_a_scene(folder):
    assert run("scene.tif", "-m", "tiny.safetensors", "--stack").stdout == "scene_tiny.tif\n"


def test_stacks_that_are_refused(dates):
    write_raster("small.tif", noise((3, 99, 120)))
    flags, model = ["--stack"], "dates.safetensors"
    refuse("scene.tif", "small.tif", *flags, model=model, code=1, says="small.tif does not lie on scene.tif: its size")
    refuse("scene.tif", *flags, model=model, code=1, says="scene.tif has 3 bands (red, green, blue)")
    refuse("scene.tif", "later.tif", *flags, code=1, says="2 scenes are stacked; the model was trained on 3 bands")
    refuse("scene.tif", "gone.tif", *flags, model=model, code=1, says="gone.tif cannot be opened")
    for option in ("-o", "--confidence"):
        refuse(*dates[:3], option, "later.tif", "--overwrite", model=model, code=2, says="is the input")


def test_a_bad_block_of_a_later_date(dates):
    path = write_raster("bad.tif", noise((3, 100, 120)), tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with rasterio.open(path) as src:
        offset = int(src.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[offset : offset + 100] = b"\xff" * 100
    path.write_bytes(content)
    refuse("scene.tif", "bad.tif", "--stack", model="dates.safetensors", code=1, says="bad.tif cannot be read at rows")


def test_the_last_of_several_scenes_is_looked_for_before_the_first_is_predicted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_raster(tmp_path / "a.tif", noise((3, 20, 30), 1), **UTM)
    result = CliRunner().invoke(geoseg, ["predict", "a.tif", "nope.tif"])
    assert result.exit_code == 1
    assert "nope.tif cannot be opened" in result.stderr
    assert not list(tmp_path.glob("*_unet*"))


def test_names_with_signs_that_drivers_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_raster(tmp_path / "a;b=c,d.tif", noise((3, 20, 30), 1), **UTM)
    result = CliRunner().invoke(geoseg, ["predict", "a;b=c,d.tif", "--vectors", "a;b=c,d.gpkg"])
    assert result.exit_code == 0, result.stderr
    assert {path.suffix for path in tmp_path.iterdir()} == {".tif", ".gpkg", ".qml", ".xml"}
