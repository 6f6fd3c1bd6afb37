"""`geoseg vectorize`: from a class raster to a styled GeoPackage, or one line that says why not."""

import json
import os
import sqlite3
import subprocess
import sys

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from scipy import ndimage

from geoseg.checkpoint import ClassInfo
from geoseg.cli.main import geoseg
from geoseg.grid import Grid
from geoseg.raster import RasterProfile, write_cog
from geoseg.vectors import OutlineOptions
from geoseg.vectors.rows import trace_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.usefixtures("compiled"),
]

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
    done = run(write(tmp_path / "town.tif"), "--raw")
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
    done = run(
        write(tmp_path / "town.tif"), "-o", "a.gpkg", "--classes", "building", "--min-area-m2", "3", "--raw", "--json"
    )
    assert json.loads(done.stdout) == {"paths": {"vectors": "a.gpkg"}, "features": {"buildings": 1}}


def test_same_input_same_bytes(run, tmp_path):
    raster = write(tmp_path / "town.tif")
    run(raster, "-o", "a.gpkg", "--min-area-m2", "1")
    run(raster, "-o", "b.gpkg", "--min-area-m2", "1")
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()


def test_nothing_is_overwritten_unasked(run, tmp_path):
    raster = write(tmp_path / "town.tif")
    (tmp_path / "town.gpkg").write_text("mine")
    done = run(raster)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--overwrite" in done.stderr
    assert (tmp_path / "town.gpkg").read_text() == "mine"
    assert run(raster, "--overwrite", "--raw").exit_code == 0
    assert len(geopandas.read_file("town.gpkg", layer="buildings")) == 2


def test_the_output_is_not_the_input(run, tmp_path):
    raster = write(tmp_path / "town.tif")
    before = raster.read_bytes()
    (tmp_path / "link.gpkg").symlink_to(raster)
    assert run(raster, "-o", "link.gpkg", "--overwrite").exit_code == 2
    assert raster.read_bytes() == before


def test_no_georeference(run, tmp_path):
    raster = write(tmp_path / "town.tif", grid=PIXELS)
    done = run(raster, "--min-area-m2", "120", "--gsd", "2", "--raw")
    assert (done.exit_code, done.stderr.count("\n")) == (0, 1)
    assert "no georeference" in done.stderr
    buildings = geopandas.read_file("town.gpkg", layer="buildings")
    assert list(buildings["area_m2"]) == [300]
    assert buildings.total_bounds.tolist() == [0, 0, 10, 10]  # pixels
    run(raster, "-o", "c.gpkg", "--raw")
    assert list(geopandas.read_file("c.gpkg", layer="buildings")["area_px"]) == [75, 25]
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


TOWN_GRID = Grid((300, 400), GRID.transform, GRID.crs)


def town():
    """Two houses, one of two wings, a street with a side street, a pond beside a meadow; and what a network says."""
    labels = np.zeros(TOWN_GRID.shape, np.uint8)
    labels[40:90, 50:120] = labels[40:120, 50:80] = 1
    labels[60:100, 200:260] = 1
    labels[140:160, :] = labels[150:290, 300:312] = 2
    labels[200:280, 40:150] = 3
    sure = np.stack([ndimage.gaussian_filter((labels == value).astype(float), 1.0) for value in range(4)])
    return labels, np.round(254 * sure / sure.sum(0)).astype(np.uint8)


_PROBABILITIES = ("prob", "prob_min10", "prob_edge")


@pytest.fixture
def files(tmp_path):
    labels, probabilities = town()
    write(tmp_path / "town.tif", labels, TOWN_GRID)
    profile = RasterProfile(grid=TOWN_GRID, bands=[item.name for item in CLASSES], scale=1 / 254)
    write_cog(tmp_path / "p.tif", [(TOWN_GRID.window, probabilities)], profile)


@pytest.mark.parametrize("probabilities", [[], ["--probabilities", "p.tif"]], ids=["classes", "probabilities"])
def test_houses_have_walls_streets_meet_and_nothing_is_ragged(run, files, probabilities):
    done = run("town.tif", "-o", "v.gpkg", *probabilities, "--json")
    assert done.exit_code == 0, done.stderr
    features = json.loads(done.stdout)["features"]
    assert features == {
        "buildings": 2, "road_surfaces": 1, "roads": 3, "road_nodes": 4, "water, ice": 1,
    }  # fmt: skip
    houses, roads, nodes, ponds = (
        geopandas.read_file("v.gpkg", layer=name) for name in ("buildings", "roads", "road_nodes", "water, ice")
    )
    assert list(houses["n_vertices"]) == [6, 4]
    assert list(houses["method"]) == ["walls", "walls"]
    assert houses["area_m2"].to_numpy() == pytest.approx(np.array([4400, 2400]) * 0.09, rel=0.01)
    assert (houses["angle_deg"] % 90).to_numpy() == pytest.approx(np.zeros(2), abs=0.5)
    assert sorted(roads["width_m"].round(1)) == pytest.approx([3.6, 6, 6], abs=0.3)
    assert sorted(nodes["degree"]) == [1, 1, 1, 3]
    assert set(roads["from_node"]) | set(roads["to_node"]) == set(nodes["id"])
    assert roads["length_m"].sum() == pytest.approx(400 * 0.3 + 140 * 0.3, rel=0.05)
    assert list(ponds["n_vertices"]) == [4]
    known = bool(probabilities)
    assert houses["prob"].notna().all() == known
    assert (houses["prob_min10"] <= houses["prob"]).all() == known
    for frame in (houses, roads, ponds):
        assert list(frame.columns)[(at := list(frame.columns).index("prob")) : at + 3] == list(_PROBABILITIES)
        for field in _PROBABILITIES:
            assert frame[field].between(0.4, 1).all() if known else frame[field].isna().all(), field
        assert frame.is_valid.all()
        assert list(frame.columns[:3]) == ["id", "class", "name"]


def test_the_first_use_says_that_it_takes_longer(run, files, monkeypatch):
    monkeypatch.setattr("geoseg.vectors.compiled.is_compiled", lambda kernel: kernel is not trace_rows)
    done = run("town.tif", "-o", "v.gpkg", "--classes", "building")
    assert (done.exit_code, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("Note: Outlining is compiled at its first use")
    assert run("town.tif", "-o", "w.gpkg", "--classes", "building", "-q").stderr == ""


def test_kinds_can_be_told(run, files):
    done = run("town.tif", "--kinds", "water, ice=building".replace(", ", "_"), "-q")
    assert done.exit_code == 2
    assert "class 'water_ice' is not outlined" in done.stderr
    done = run("town.tif", "--kinds", "road=area,building=area", "--json")
    assert json.loads(done.stdout)["features"] == {"buildings": 2, "road_surfaces": 1, "water, ice": 1}
    for wrong in ("road", "road=", "=area", "road=area,"):
        done = run("town.tif", "--kinds", wrong, "--overwrite")
        assert (done.exit_code, "without a class or a kind" in done.stderr) == (2, True), wrong


def test_only_what_lies_in_the_area_of_interest(run, files, tmp_path):
    area = shapely.box(500000, 6650000 - 36, 500000 + 45, 6650000)
    geopandas.GeoDataFrame(geometry=[area], crs="EPSG:32637").to_file("aoi.geojson")
    done = run("town.tif", "--aoi", "aoi.geojson", "--json")
    assert json.loads(done.stdout)["features"]["buildings"] == 1
    elsewhere = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:32637")
    elsewhere.to_file("elsewhere.geojson")
    done = run("town.tif", "--aoi", "elsewhere.geojson", "--overwrite")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "elsewhere.geojson lies outside the scene" in done.stderr
    assert "Expected the area of interest on the scene." in done.stderr
    shapes = {
        "point": (area.centroid, "Expected outlines. Leave them out."),
        "line": (area.boundary, "Expected the outlines of the area of interest. Draw polygons."),
        "bow": (shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]), "Expected valid ones. Repair the file."),
    }
    for name, (shape, says) in shapes.items():
        geopandas.GeoDataFrame(geometry=[shape], crs="EPSG:32637").to_file(f"{name}.gpkg")
        done = run("town.tif", "--aoi", f"{name}.gpkg", "--overwrite")
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.endswith(f"{says}\n"), name


def test_parquet_of_our_own_is_read_back(run, files, tmp_path):
    pytest.importorskip("pyarrow")
    run("town.tif", "-q")
    run("town.tif", "-q", "-o", "town.parquet")
    evaluate = CliRunner().invoke(geoseg, ["evaluate", "town.gpkg", "town_buildings.parquet", "--json"])
    scores = json.loads(evaluate.stdout)["classes"]
    assert list(scores) == ["building"]
    assert scores["building"]["objects"]["f1"] == 1
    evaluate = CliRunner().invoke(geoseg, ["evaluate", "town_roads.parquet", "town.gpkg", "--json"])
    assert list(json.loads(evaluate.stdout)["classes"]) == ["road"]
    done = run("town.tif", "--aoi", "town_buildings.parquet", "-q", "--json", "-o", "part.gpkg")
    assert json.loads(done.stdout)["features"] == dict(
        buildings=2, road_surfaces=0, roads=0, road_nodes=0, **{"water, ice": 0}
    )


def test_other_formats_have_a_file_for_each_layer(run, files, tmp_path):
    done = run("town.tif", "-o", "v.fgb", "--classes", "building,road")
    assert done.stdout.split() == ["v_buildings.fgb", "v_road_surfaces.fgb", "v_roads.fgb", "v_road_nodes.fgb"]
    assert len(geopandas.read_file("v_buildings.fgb")) == 2
    done = run("town.tif", "-o", "v.geojson", "--classes", "building")
    assert (done.exit_code, done.stdout) == (0, "v.geojson\n")
    west, south, *_ = geopandas.read_file("v.geojson").total_bounds
    assert (38 < west < 40, 59 < south < 61) == (True, True)
    done = run("town.tif", "-o", "v.kml")
    assert done.exit_code == 2
    assert "v.kml is to hold vectors. Expected a name that ends in .gpkg" in done.stderr


def test_probabilities_of_another_raster_are_refused(run, files, tmp_path):
    write(tmp_path / "other.tif")
    done = run("other.tif", "--probabilities", "p.tif")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "400x300" in done.stderr
    assert not (tmp_path / "other.gpkg").exists()


@pytest.mark.parametrize(
    "limit", [["--min-area-m2"], ["--min-hole-m2"], ["--min-hole-m2", "1e9", "--raw", "--min-area-m2"]]
)
def test_limits_beyond_the_raster_mean_all(run, files, limit):
    counts = {}
    for value in ("2e4", "1e9", "1e30"):  # the raster has 10 800 square metres
        done = run("town.tif", *limit, value, "--json", "-q", "-o", f"{value}.gpkg")
        assert (done.exit_code, done.stderr) == (0, ""), value
        counts[value] = json.loads(done.stdout)["features"]
    assert counts["1e9"] == counts["1e30"] == counts["2e4"]
    left = [counts["2e4"][layer] for layer in ("buildings", "water, ice")]
    assert left == ([2, 1] if limit == ["--min-hole-m2"] else [0, 0])


def test_bands_that_are_no_probabilities_are_refused(run, tmp_path):
    rng = np.random.default_rng(0)
    place = {"crs": GRID.crs, "transform": GRID.transform}
    labels = write_foreign(tmp_path / "a.tif", np.ones((1, 300, 400), np.uint8), **place)
    shares = np.round(254 * np.moveaxis(rng.dirichlet((1, 1), (300, 400)), -1, 0)).astype(np.uint8)
    alpha = np.stack([rng.integers(0, 255, (300, 400)), np.full((300, 400), 255)]).astype(np.uint8)
    partly = np.full_like(shares, 255)
    partly[:, 200:203, 200:210] = alpha[:, :3, :10]  # only there is data
    nothing = np.full_like(shares, 255)
    for name, bands, code in (
        ("shares", shares, 0),
        ("nothing", nothing, 0),
        ("alpha", alpha, 1),
        ("partly", partly, 1),
    ):
        path = write_foreign(tmp_path / f"{name}.tif", bands, **place)
        done = run(labels, "--probabilities", path, "--values", "1=water", "-o", tmp_path / f"{name}.gpkg", "-q")
        assert done.exit_code == code, (name, done.stderr)
        assert ("its bands do not sum to 254" in done.stderr) == bool(code)


def test_help_tells_the_defaults():
    text = " ".join(CliRunner().invoke(geoseg, ["vectorize", "--help"]).stdout.split())
    options = OutlineOptions()
    assert f"Leave out smaller polygons. [default: {options.least_m2:g}; 0 with --raw]" in text
    assert f"Fill smaller holes in buildings. [default: {options.least_hole_m2:g}]" in text
    assert f"may lie off. [default: {options.rules.simplify_m:g}; borders of areas {options.border_m:g}]" in text
    for name in ("angles", "min_spur_m", "bridge_m", "max_width_m"):
        value = getattr(options, name)
        said = text.partition(f"--{name.replace('_', '-')} ")[2].partition("--")[0]
        assert f"[default: {value if isinstance(value, str) else f'{value:g}'}]" in said, name


def test_an_empty_name_in_the_list_of_classes(run, tmp_path):
    done = run(write(tmp_path / "a.tif"), "--classes", "building,,road")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "has an empty entry" in done.stderr


def test_all_nodata_gives_empty_layers(run, tmp_path):
    done = run(write(tmp_path / "town.tif", np.full_like(LABELS, 255)), "--json")
    layers = "buildings", "road_surfaces", "roads", "road_nodes", "water, ice"
    assert json.loads(done.stdout)["features"] == dict.fromkeys(layers, 0)


def test_raster_of_another_program(run, tmp_path):
    labels = np.array([[[0, 1, 7], [0, 0, 7]]], np.uint8)
    done = run(write_foreign(tmp_path / "a.tif", labels), "--json", "-q")
    assert json.loads(done.stdout)["features"] == {"class_1": 1, "class_7": 1}


def test_values_can_be_named(run, tmp_path):
    labels = np.array([[[0, 1, 7], [0, 0, 7], [2, 0, 0]]], np.uint8)
    foreign = write_foreign(tmp_path / "a.tif", labels, crs=GRID.crs, transform=GRID.transform)
    own = write(tmp_path / "town.tif")
    done = run(foreign, "--values", "1=building, 7=water", "--json", "-q", "--raw")
    assert json.loads(done.stdout)["features"] == {"buildings": 1, "water": 1}
    given = ("--values", "0=background,1=roof", "--values", "2=lake", "--kinds", "lake=road")
    done = run(foreign, *given, "--classes", "lake,class_7", "--json", "-q", "-o", "b.gpkg")
    assert list(json.loads(done.stdout)["features"]) == ["lake_surfaces", "lake_lines", "lake_nodes", "class_7"]
    done = run(own, "--values", "2=river", "--json", "-q", "--raw")  # what the user says holds
    assert json.loads(done.stdout)["features"] == {"river": 1}
    done = run(foreign, "--values", "1=building,3=water", "--json", "-o", "c.gpkg", "--raw")
    assert done.stderr == f"Warning: {foreign} has no pixel of value 3 (water).\n"
    assert json.loads(done.stdout)["features"] == {"buildings": 1, "water": 0}


def test_value_0_is_outlined_if_it_is_given_a_name_of_its_own(run, tmp_path):
    foreign = write_foreign(tmp_path / "a.tif", np.array([[[0, 0, 1], [0, 0, 2]]], np.uint8))
    done = run(foreign, "--values", "0=water,1=building", "--kinds", "water=area", "--json", "-q", "--raw")
    assert json.loads(done.stdout)["features"] == {"water": 1, "buildings": 1}
    for name in ("background", "No Data", "un-labelled", "other"):
        done = run(foreign, "--values", f"0={name},1=building", "--json", "-q", "--raw", "--overwrite")
        assert json.loads(done.stdout)["features"] == {"buildings": 1}
    done = run(foreign, "--values", "0=other,1=building", "--classes", "other", "--json", "-q", "--raw", "--overwrite")
    assert json.loads(done.stdout)["features"] == {"other": 1}
    done = run(foreign, "--values", "1=other", "--json", "-q", "--raw", "--overwrite")
    assert json.loads(done.stdout)["features"] == {"other": 1}
    none = write_foreign(tmp_path / "b.tif", np.array([[[0, 0, 1]]], np.uint8), nodata=0)
    done = run(none, "--values", "0=water,1=building", "--json", "--raw")
    assert f"Warning: {none} has no pixel of value 0 (water).\n" in done.stderr
    assert "(background)" not in run(none, "--values", "0=background,1=building", "--raw", "--overwrite").stderr


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("uint8", 77),
        ("int8", -7),
        ("int16", -9999),
        ("uint16", 65535),
        ("int32", -(2**31)),
        ("uint32", 2**32 - 1),
        ("int64", -9999),
        ("float32", np.nan),
        ("float32", float(np.finfo(np.float32).min)),
        ("float64", -9999.5),
    ],
)
def test_whole_numbers_of_any_type_give_the_same_bytes(run, tmp_path, monkeypatch, dtype, nodata):
    monkeypatch.setattr("geoseg.vectors.classes._CONVERTED", 700)  # several pieces of a strip
    labels, _ = town()
    labels[100:130, 150:260] = 255
    place = {"crs": GRID.crs, "transform": GRID.transform, "tiled": True, "blockxsize": 16, "blockysize": 16}
    for folder, type_, missing in (("whole", "uint8", 255), ("twin", dtype, nodata)):
        (tmp_path / folder).mkdir()
        stored = np.where(labels == 255, np.array(missing, type_), labels.astype(type_))
        write_foreign(tmp_path / folder / "a.tif", stored[None], nodata=missing, **place)
        monkeypatch.chdir(tmp_path / folder)
        done = run("a.tif", "--values", "1=building,2=road,3=water")
        assert (done.exit_code, done.stderr) == (0, "")
    assert (tmp_path / "twin/a.gpkg").read_bytes() == (tmp_path / "whole/a.gpkg").read_bytes()


def test_nan_has_no_data_even_where_nothing_states_so(run, tmp_path):
    labels = np.ones((1, 20, 20), np.float32)
    labels[0, :, 10:] = np.nan
    done = run(write_foreign(tmp_path / "a.tif", labels), "--raw", "--json", "-q")
    assert json.loads(done.stdout)["features"] == {"class_1": 1}
    labels[0, :, 5:10] = 255
    assert "255 beside those of its nodata value nan" in run(write_foreign(tmp_path / "b.tif", labels), "-q").stderr


def test_more_values_than_a_class_raster_has_can_be_outlined_by_name(run, tmp_path):
    picture = write_foreign(tmp_path / "a.tif", np.arange(256, dtype=np.uint8).reshape(1, 16, 16))
    assert "Name those to outline with --values" in run(picture, "-q").stderr
    done = run(picture, "--values", "9=building,255=water", "-q", "--json", "--raw")
    assert json.loads(done.stdout)["features"] == {"buildings": 1, "water": 1}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("building", "'building': expected VALUE=CLASS for each value once"),
        ("1=a,1=b", "'1=b': expected VALUE=CLASS for each value once"),
        ("1=a,7=a", "--values 1=a: 7 is called so, too"),
        ("1=class_7", "--values 1=class_7: 7 is called so, too"),
        ("300=a", "--values 300=a: no class raster has such a value. Expected 0 to 255."),
        ("0=background", "nothing but background"),
    ],
)
def test_values_that_cannot_be_named_so(run, tmp_path, values, says):
    done = run(write_foreign(tmp_path / "a.tif", np.array([[[0, 1, 7]]], np.uint8)), "--values", values, "-q")
    assert (done.exit_code in (1, 2), done.stdout, done.stderr.count("\n")) == (True, "", 1)
    assert says in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("damaged", ["town.tif", "p.tif"])
@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_a_damaged_raster_is_told_with_its_rows(run, tmp_path, damaged, how):
    noise = np.random.default_rng(0).integers(0, 3, (3, 256, 256)).astype(np.uint8)
    shares = np.stack([*noise[:2], 254 - noise[0] - noise[1]])
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "interleave": "pixel"}
    for name, array in (("town.tif", noise[:1]), ("p.tif", shares)):
        write_foreign(tmp_path / name, array, **blocks, crs=GRID.crs, transform=GRID.transform)
    with rasterio.open(damaged) as src:
        offset = int(src.get_tag_item("BLOCK_OFFSET_1_2", "TIFF", bidx=1))
    content = bytearray((tmp_path / damaged).read_bytes())
    if how == "cut":
        del content[offset + 50 :]
    content[offset : offset + 50] = b"\xff" * 50
    (tmp_path / damaged).write_bytes(content)
    done = run("town.tif", "--probabilities", "p.tif", "-q")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith(f"Error: {damaged} cannot be read at rows ")
    first, last = map(int, done.stderr.split("rows ")[1].split(" ")[0].split("-"))
    assert first <= 191
    assert last >= 128
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.tif", "town.tif"]


@pytest.mark.parametrize(
    ("output", "code", "says"),
    [
        ("none/a.gpkg", 1, "the folder none does not exist"),
        ("/proc/a.gpkg", 1, "/proc/a.gpkg cannot be written"),
        ("a.tif", 2, "a.tif is to hold vectors"),
    ],
)
def test_slips_in_the_output_are_told_before_the_raster_is_read(run, output, code, says):
    done = run("not_there.tif", "-o", output)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert says in done.stderr


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 4, 4), np.complex64), "complex numbers"),
        (np.full((1, 4, 4), 0.5, np.float32), "the value 0.5, which is no class"),
        (np.full((1, 4, 4), np.inf, np.float32), "the value inf, which is no class"),
        (np.full((1, 4, 4), -5, np.int16), "the value -5, which is no class. Expected whole numbers from 0 to 254"),
        (np.full((1, 4, 4), 256, np.uint16), "the value 256, which is no class"),
        (np.zeros((3, 4, 4), np.uint8), "3 bands of uint8"),
        (np.arange(256, dtype=np.uint8).reshape(1, 16, 16), "256 different values"),
        (np.zeros((1, 4, 4), np.uint8), "nothing but background"),
    ],
    ids=["complex", "fractions", "infinite", "negative", "too large", "picture", "grey picture", "empty"],
)
def test_what_is_no_class_raster_is_refused(run, tmp_path, array, message):
    done = run(write_foreign(tmp_path / "a.tif", array), "-q")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_255_beside_another_nodata_value_is_refused(run, tmp_path):
    mask = np.array([[[0, 255, 255], [0, 0, 255]]], np.uint8)
    done = run(write_foreign(tmp_path / "a.tif", mask, nodata=0), "-q")
    assert done.exit_code == 1
    assert "pixels of value 255 beside those of its nodata value 0" in done.stderr
    done = run(write_foreign(tmp_path / "b.tif", mask), "-q", "--json")
    assert json.loads(done.stdout)["features"] == {"class_255": 1}


def test_a_mask_of_0_and_255_cannot_be_limited(run, tmp_path):
    mask = np.zeros((1, 9, 9), np.uint8)
    mask[0, 2:5, 2:5] = 255
    place = {"transform": GRID.transform, "crs": GRID.crs}
    write_foreign(tmp_path / "a.tif", mask, **place)
    left, bottom, right, top = Grid((9, 9), GRID.transform, GRID.crs).bounds
    area = geopandas.GeoDataFrame(geometry=[shapely.box(left, bottom, right, top)], crs=GRID.crs)
    area.to_file(tmp_path / "area.gpkg")
    done = run(tmp_path / "a.tif", "--aoi", tmp_path / "area.gpkg")
    assert done.exit_code == 2
    assert "class_255" in done.stderr


def test_a_class_has_one_kind(run, tmp_path):
    done = run(write(tmp_path / "a.tif"), "--kinds", "building=area,building=road")
    assert done.exit_code == 2
    assert "names 'building' twice" in done.stderr


@pytest.mark.parametrize("least", [5, 12])
def test_areas_leave_no_gaps_however_small_they_become(run, tmp_path, least):
    noise = np.random.default_rng(3).normal(size=(5, 200, 300))
    labels = ndimage.gaussian_filter(noise, (0, 6, 6)).argmax(axis=0).astype(np.uint8) + 1
    place = {"transform": Affine(0.3, 0, 500_000, 0, -0.3, 4_000_000), "crs": "EPSG:32637"}
    run(write_foreign(tmp_path / "a.tif", labels[None], **place), "--min-area-m2", least)
    shapes = pd.concat([geopandas.read_file(tmp_path / "a.gpkg", layer=f"class_{k}") for k in range(1, 6)]).geometry
    assert shapes.union_all().area == pytest.approx(200 * 300 * 0.09, abs=0.01)
    assert shapes.area.sum() == pytest.approx(200 * 300 * 0.09, abs=0.01)


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
    assert "Did you mean 'road'? Expected some of background, building, road, \"water, ice\"." in done.stderr
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


def test_verdicts_are_not_overwritten(run, files, tmp_path):
    args = ("town.tif", "--probabilities", "p.tif", "--review", "3", "-o", "judged.gpkg")
    assert run(*args).exit_code == 0
    assert run(*args, "--overwrite").exit_code == 0  # nothing was written in it
    review = pyogrio.read_dataframe(tmp_path / "judged.gpkg", layer="review")
    review.loc[1, "verdict"] = "yes"
    pyogrio.write_dataframe(
        review, tmp_path / "judged.gpkg", layer="review", append=False, layer_options={"OVERWRITE": "YES"}
    )
    before = (tmp_path / "judged.gpkg").read_bytes()
    done = run(*args, "--overwrite")
    assert done.exit_code == 2
    assert "judged.gpkg holds 1 verdicts in its layer 'review', which would be lost" in done.stderr
    assert (tmp_path / "judged.gpkg").read_bytes() == before
    assert not (tmp_path / "judged.gpkg.partial").exists()


@pytest.mark.parametrize(("values", "classes"), [((0, 1, 2, 255), {1, 2}), ((0, 255), {255}), ((1, 255), {1})])
def test_255_is_no_data_but_in_a_mask(run, tmp_path, values, classes):
    labels = np.repeat(np.array(values, np.uint8), 20)[None, None].repeat(30, axis=1)
    write_foreign(tmp_path / "foreign.tif", labels, crs="EPSG:32637", transform=Affine(0.3, 0, 5e5, 0, -0.3, 7e6))
    done = run(tmp_path / "foreign.tif", "-o", tmp_path / "foreign.gpkg")
    assert done.exit_code == 0, done.stderr
    assert {str(name) for name, _ in pyogrio.list_layers(tmp_path / "foreign.gpkg")} == {
        "layer_styles",
        *(f"class_{value}" for value in classes),
    }


def test_no_classes_at_all(run, files, tmp_path):
    for text in ("", " "):
        done = run("town.tif", "--classes", text, "-o", tmp_path / "none.gpkg")
        assert done.exit_code == 2
        assert "Expected" in done.stderr
        assert not list(tmp_path.glob("none*"))
