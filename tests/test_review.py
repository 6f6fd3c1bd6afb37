"""Review: what is least certain, and what is learnt from the verdicts a person writes there."""

import logging
import sqlite3
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from labelled import GSD, LEFT, TOP, write_boxes, write_raster

from geoseg.checkpoint import ClassInfo
from geoseg.cli.main import geoseg
from geoseg.config import load_config
from geoseg.errors import ConfigError, LabelsError
from geoseg.evaluate.features import read_predicted
from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.raster import RasterProfile, write_cog
from geoseg.targets import labelled_area, read_labels
from geoseg.training.sources import load_data
from geoseg.vectors.layer import write_layers
from geoseg.vectors.limited import LimitedPlanes
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.review import least_certain

NAMES = ("background", "building", "water")
CLASSES = tuple(
    ClassInfo(name=name, color=color) for name, color in zip(NAMES, ("#000000", "#e34a33", "#3182bd"), strict=True)
)
SHAPE = (150, 200)
"""Three cells of 50 pixels by four."""
GRID = Grid(
    shape=SHAPE,
    transform=Affine(GSD, 0, LEFT, 0, -GSD, TOP),
    crs=rasterio.CRS.from_epsg(32633).to_wkt(version="WKT2_2019"),
)
A, B, POND = (10, 10, 30, 30), (160, 110, 180, 130), (100, 50, 150, 100)
"""Left, top, right, bottom: two houses, and a pond that fills a cell."""


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def fill(array, box, value):
    left, top, right, bottom = box
    array[..., top:bottom, left:right] = value


def predicted():
    """Labels, and the probability of what each pixel is: houses and two cells are uncertain."""
    labels, own = np.zeros(SHAPE, np.uint8), np.full(SHAPE, 0.9)
    for box, value, sure in ((A, 1, 0.6), (B, 1, 0.5), (POND, 2, 0.7)):
        fill(labels, box, value)
        fill(own, box, sure)
    fill(own, (150, 0, 200, 50), 0.55)
    fill(own, (0, 100, 50, 150), 0.65)
    fill(own, (50, 0, 100, 50), 0.1)
    fill(labels, (50, 20, 100, 50), 255)  # less than half has data
    own = np.round(254 * own)
    probabilities = np.stack([np.where(labels == value, own, (254 - own) // 2) for value in range(3)])
    probabilities[:, labels == 255] = 255
    return labels, probabilities.astype(np.uint8)


def ground(box):
    left, top, right, bottom = box
    return shapely.box(LEFT + left * GSD, TOP - bottom * GSD, LEFT + right * GSD, TOP - top * GSD)


def frames():
    def frame(value, boxes, low):
        about = {"id": range(1, len(boxes) + 1), "class": value, "name": NAMES[value], "prob": 0.9, "prob_min10": low}
        about["prob_edge"] = 0.4
        return geopandas.GeoDataFrame(about, geometry=[ground(box) for box in boxes], crs="EPSG:32633")

    return {"buildings": frame(1, [A, B], [0.6, 0.5]), "water": frame(2, [POND], [0.6])}


def found(count, area=None):
    labels, probabilities = predicted()
    planes = ArrayPlanes(labels, GRID, dict(enumerate(NAMES)), probabilities, step=7)
    limited = LimitedPlanes(planes, area) if area else planes
    return least_certain(frames(), limited, Metric(GRID), count, area)


def boxes_of(frame):
    bounds = frame.bounds.to_numpy()
    return [tuple(np.round([(l - LEFT) / GSD, (TOP - t) / GSD, (r - LEFT) / GSD, (TOP - b) / GSD]).astype(int).tolist())
            for l, b, r, t in bounds]  # fmt: skip  # noqa: E741


def test_the_least_certain_features_and_cells_in_order():
    rows = found(2)
    assert list(rows.columns) == [
        "id", "kind", "layer", "feature_id", "class", "name", "prob", "prob_min10", "prob_edge", "verdict", "geometry",
    ]  # fmt: skip
    assert list(rows["kind"]) == ["feature", "feature", "cell", "cell"]
    assert list(rows["id"]) == [1, 2, 3, 4]
    assert list(rows["feature_id"]) == [2, 1, 0, 0]
    assert list(rows["layer"]) == ["buildings", "buildings", "", ""]
    assert list(rows["class"]) == [1, 1, 255, 255]
    assert boxes_of(rows) == [B, A, (150, 0, 200, 50), (0, 100, 50, 150)]
    assert rows["prob"].to_numpy() == pytest.approx([0.9, 0.9, 0.55, 0.65], abs=3e-3)
    assert rows["prob_min10"].to_numpy() == pytest.approx([0.5, 0.6, 0.55, 0.65], abs=3e-3)
    assert rows["prob_edge"].to_numpy() == pytest.approx([0.4, 0.4, np.nan, np.nan], nan_ok=True)
    assert set(rows["verdict"]) == {""}


def test_equal_features_go_by_layer_and_id_and_what_is_listed_is_no_cell():
    rows = found(3)
    assert list(rows["layer"][:3]) == ["buildings", "buildings", "water"]  # 0.6 twice
    assert boxes_of(rows)[3:] == [(150, 0, 200, 50), (0, 100, 50, 150), (150, 100, 200, 150)]  # not the pond's
    assert boxes_of(found(1))[1:] == [(150, 0, 200, 50)]


def test_as_many_as_there_are():
    rows = found(100)
    assert (rows["kind"] == "feature").sum() == 3
    assert (rows["kind"] == "cell").sum() == 12 - 2


def test_cells_are_cut_to_an_area(tmp_path):
    area = labelled_area(write_boxes(tmp_path / "area.geojson", [(10, 0, 45, 52), (160, 0, 200, 60)]), GRID)
    cells = found(3, area)[lambda rows: rows["kind"] == "cell"]
    assert boxes_of(cells) == [(160, 0, 200, 50), (10, 0, 45, 50)]  # of the others, the area has less than half
    assert cells.area.tolist() == pytest.approx([40 * 50 * GSD**2, 35 * 50 * GSD**2], rel=1e-3)


def test_without_a_gsd_cells_are_of_64_pixels():
    labels, probabilities = predicted()
    planes = ArrayPlanes(labels, Grid(SHAPE, Affine.identity(), None), dict(enumerate(NAMES)), probabilities)
    rows = least_certain({}, planes, Metric(planes.grid), 1)
    assert rows.crs is None
    assert rows.total_bounds.tolist() == [64, 0, 128, 64]  # mean 0.683; the next one has 0.705
    assert rows.geometry.iloc[0].is_valid


def test_without_features_there_are_cells():
    labels, probabilities = predicted()
    planes = ArrayPlanes(labels, GRID, dict(enumerate(NAMES)), probabilities)
    empty = {name: frame.iloc[:0] for name, frame in frames().items()}
    assert list(least_certain(empty, planes, Metric(GRID), 1)["kind"]) == ["cell"]
    assert list(least_certain({}, planes, Metric(GRID), 1)["kind"]) == ["cell"]


# From here on: the way of a prediction through a person's hands.


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels, probabilities = predicted()
    write_raster(tmp_path / "scene.tif", np.random.default_rng(0).integers(0, 255, (3, *SHAPE), dtype=np.uint8))
    tags = {"GEOSEG_ARCH": "unet", "GEOSEG_CHECKPOINT": "0" * 64}
    write_cog(tmp_path / "l.tif", [(GRID.window, labels)], RasterProfile(grid=GRID, classes=CLASSES, tags=tags))
    write_cog(
        tmp_path / "p.tif", [(GRID.window, probabilities)], RasterProfile(grid=GRID, bands=list(NAMES), scale=1 / 254)
    )
    return tmp_path


def vectorize(*arguments):
    return CliRunner().invoke(geoseg, ["vectorize", "l.tif", *map(str, arguments)])


def write_review(path, rows, layers=None, names=("buildings", "water")):
    """A GeoPackage as vectorize writes it; rows are (kind, name, box, verdict)."""
    kinds, own, boxes, verdicts = zip(*rows, strict=True)
    about = {"id": range(11, 11 + len(rows)), "kind": kinds, "class": 1, "name": own, "verdict": verdicts}
    review = geopandas.GeoDataFrame(about, geometry=[ground(box) for box in boxes], crs="EPSG:32633")
    write_layers(path, {name: (layers or frames())[name] for name in names} | {"review": review})
    return path


def load(*sources, classes=NAMES, **changes):
    changes = {"data.val": 0, "data.sources": list(sources), "classes": [{"name": name} for name in classes]} | changes
    return load_data(load_config(None, changes), started=True)


def whole(data):
    """The target on the whole scene, 255 outside the ground that was read."""
    target = np.full(SHAPE, IGNORE, np.uint8)
    for one in data.train:
        col, row = (round(value) for value in ~GRID.transform @ (one.grid.transform.c, one.grid.transform.f))
        height, width = one.target.shape
        target[row : row + height, col : col + width] = one.target
    return target


def test_from_a_prediction_over_verdicts_to_targets(files):
    done = vectorize("--probabilities", "p.tif", "--raw", "--review", 3, "-o", "v.gpkg")
    assert done.exit_code == 0, done.stderr
    assert [name for name, _ in pyogrio.list_layers("v.gpkg")] == ["buildings", "water", "review", "layer_styles"]
    rows = geopandas.read_file("v.gpkg", layer="review")
    assert boxes_of(rows) == [
        B, A, POND, (150, 0, 200, 50), (0, 100, 50, 150), (150, 100, 200, 150),
    ]  # fmt: skip
    with sqlite3.connect("v.gpkg") as connection:
        (style,) = connection.execute("select styleQML from layer_styles where f_table_name = 'review'").fetchone()
    root = ET.fromstring(style[style.index("<qgis") :])
    assert [one.get("value") for one in root.iter("Option") if one.get("type") == "QString"][-6:] == [
        "", "yes", "no", *NAMES,
    ]  # fmt: skip
    rows["verdict"] = ["no", " Yes ", "building", "water", "no", "yes"]
    rows.to_file("v.gpkg", layer="review")
    data = load({"scene": "scene.tif", "add": ["v.gpkg"]})
    expected = np.full(SHAPE, IGNORE, np.uint8)
    fill(expected, (150, 100, 200, 150), 0)  # a cell that is right: here it has nothing but B, which is none
    fill(expected, B, 0)
    fill(expected, A, 1)
    fill(expected, POND, 1)
    fill(expected, (150, 0, 200, 50), 2)
    assert (whole(data) == expected).all()
    assert data.train[0].known == (0, 1, 2)


def test_a_cell_that_is_right_has_the_prediction(files):
    write_review("v.gpkg", [("cell", "", (150, 100, 200, 150), "yes"), ("cell", "", (90, 40, 160, 110), "yes")])
    expected = np.full(SHAPE, IGNORE, np.uint8)
    fill(expected, (150, 100, 200, 150), 0)
    fill(expected, (90, 40, 160, 110), 0)
    fill(expected, B, 1)
    fill(expected, POND, 2)
    assert (whole(load({"scene": "scene.tif", "add": ["v.gpkg"]})) == expected).all()


def test_verdicts_win_over_labels_and_area_and_the_later_file_over_the_first(files):
    write_boxes(files / "drawn.geojson", [(0, 0, 40, 40), (100, 0, 120, 20)], ["building", "water"])
    write_boxes(files / "area.geojson", [(0, 0, 150, 60)])
    write_review("v.gpkg", [("feature", "building", A, "no"), ("feature", "building", B, "yes")])
    write_review("w.gpkg", [("feature", "building", B, "water"), ("feature", "building", A, None)])
    source = {"scene": "scene.tif", "labels": "drawn.geojson", "labelled_area": "area.geojson", "class_field": "kind"}
    expected = np.full(SHAPE, IGNORE, np.uint8)
    fill(expected, (0, 0, 150, 60), 0)
    fill(expected, (0, 0, 40, 40), 1)
    fill(expected, (100, 0, 120, 20), 2)
    assert (whole(load(source)) == expected).all()
    fill(expected, A, 0)
    fill(expected, B, 2)
    assert (whole(load(source | {"add": ["v.gpkg", "w.gpkg"]})) == expected).all()


def test_features_win_over_cells(files):
    cell = (0, 0, 50, 50)
    write_review("v.gpkg", [("feature", "building", A, "yes"), ("cell", "", cell, "water")])
    target = whole(load({"scene": "scene.tif", "add": ["v.gpkg"]}))
    assert np.bincount(target[:50, :50].ravel()).tolist() == [0, 400, 2100]


def test_of_classes_that_were_not_outlined_nothing_is_learnt_in_cells(files, caplog):
    write_review("v.gpkg", [("cell", "", (150, 100, 200, 150), "yes")], names=["buildings"])
    with caplog.at_level(logging.WARNING, "geoseg"):
        target = whole(load({"scene": "scene.tif", "add": ["v.gpkg"]}))
    expected = np.full(SHAPE, IGNORE, np.uint8)
    fill(expected, B, 1)
    assert (target == expected).all()
    assert "v.gpkg has no layer of water: in cells that are right, nothing is learnt where no polygon" in caplog.text


def test_another_crs_is_brought_to_the_scenes(files):
    write_review("v.gpkg", [("feature", "building", A, "yes")])
    geopandas.read_file("v.gpkg", layer="review").to_crs("EPSG:4326").to_file("w.gpkg", layer="review")
    target = whole(load({"scene": "scene.tif", "add": ["w.gpkg"]}))
    assert (target == whole(load({"scene": "scene.tif", "add": ["v.gpkg"]}))).all()
    assert (target == 1).sum() == 400


def test_what_labels_do_not_tell_apart_is_said(files, caplog):
    write_boxes(files / "drawn.geojson", [(0, 0, 40, 40)], ["building"])
    write_review("v.gpkg", [("feature", "building", B, "water")])
    with caplog.at_level(logging.WARNING, "geoseg"):
        data = load({"scene": "scene.tif", "labels": "drawn.geojson", "add": ["v.gpkg"]})
    assert data.train[0].known == (1,)
    assert "scene.tif: water is judged, but the labels do not tell it from background" in caplog.text


def test_a_review_is_no_layer_of_labels(files, caplog):
    write_review("v.gpkg", [("feature", "building", (0, 0, 200, 150), "yes"), ("cell", "", A, "")])
    with caplog.at_level(logging.WARNING, "geoseg"):
        target = read_labels("v.gpkg", grid=GRID, class_names=NAMES).target(GRID.window)
    labels, _ = predicted()
    assert (target == np.where(labels == 255, 0, labels)).all()
    assert caplog.text == ""
    assert [frame.attrs["layer"] for frame in read_predicted(Path("v.gpkg"))] == ["buildings", "water"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("feature", "building", A, "")], r"has no verdict to learn from .* Expected yes, no, or a class"),
        ([("feature", "building", A, None)], "has no verdict to learn from"),
        ([("cell", "", A, "no")], "has no verdict to learn from"),
        (
            [("feature", "building", A, "yes"), ("feature", "building", B, "watr")],
            r"feature 12 has the verdict 'watr'\. Did you mean 'water'\? Expected yes, no, or a class: background",
        ),
        ([("feature", "building", (900, 900, 950, 950), "yes")], "lies outside the scene"),
    ],
    ids=["empty", "null", "no", "unknown", "outside"],
)
def test_verdicts_that_teach_nothing_are_refused(files, rows, said):
    write_review("v.gpkg", rows)
    with pytest.raises(LabelsError, match=said):
        load({"scene": "scene.tif", "add": ["v.gpkg"]})


def test_other_files_are_refused(files):
    write_layers("v.gpkg", frames())
    with pytest.raises(LabelsError, match=r"v\.gpkg has no layer 'review'\. Expected what geoseg vectorize --review"):
        load({"scene": "scene.tif", "add": ["v.gpkg"]})
    with pytest.raises(LabelsError, match="does not exist"):
        load({"scene": "scene.tif", "add": ["nowhere.gpkg"]})
    with pytest.raises(LabelsError, match=r"scene\.tif is no vector file"):
        load({"scene": "scene.tif", "add": ["scene.tif"]})
    write_layers("v.gpkg", {"review": frames()["buildings"]})
    with pytest.raises(LabelsError, match="has no field 'kind'"):
        load({"scene": "scene.tif", "add": ["v.gpkg"]})


def test_a_configuration_says_it_from_its_own_folder(tmp_path):
    (tmp_path / "c.yaml").write_text("data: {sources: [{scene: a.tif, add: [b.gpkg]}]}\n")
    (source,) = load_config(tmp_path / "c.yaml").data.sources
    assert source.add == (str(tmp_path / "b.gpkg"),)
    (tmp_path / "c.yaml").write_text("data: {sources: [{scene: a.tif, add: []}]}\n")
    with pytest.raises(ConfigError, match="add"):
        load_config(tmp_path / "c.yaml")


def test_a_review_needs_probabilities_a_geopackage_and_a_name(files):
    done = vectorize("--review", 3, "-o", "v.gpkg")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "without probabilities" in done.stderr
    done = vectorize("--review", 3, "--probabilities", "p.tif", "-o", "v.fgb")
    assert done.exit_code == 2
    assert "v.fgb cannot hold a review" in done.stderr
    assert vectorize("--review", 0, "--probabilities", "p.tif").exit_code == 2
    assert not list(files.glob("v*"))


def train(*arguments):
    small = [
        *("--tile-size", "32", "--batch-size", "2", "--epochs", "1", "--device", "cpu", "--val", "0"),
        *("--set", "steps_per_epoch=1", "--set", "arch_args={width: 4, depth: 2}", "--set", "cell_side=64"),
    ]
    return CliRunner().invoke(geoseg, ["train", *map(str, arguments), "-o", "run", *small])


def test_a_step_of_training_on_verdicts(files):
    write_review("v.gpkg", [("feature", "building", A, "yes"), ("cell", "", (150, 100, 200, 150), "yes")])
    done = train("scene.tif", "--add", "v.gpkg", "--classes", "background,building")
    assert done.exit_code == 0, done.output
    (source,) = load_config("run/config.yaml").data.sources
    assert (source.labels, source.add) == (None, (str(files / "v.gpkg"),))


def test_train_refuses_by_exit_code(files):
    done = train("--add", "v.gpkg")
    assert done.exit_code == 2
    assert "--add without a scene" in done.stderr
    done = train("scene.tif", "--add", "v.gpkg", "--labelled-area", "a.geojson")
    assert done.exit_code == 2
    assert "--labelled-area without --labels" in done.stderr
    done = train("scene.tif", "--add", "v.gpkg", "--classes", "background,building")
    assert done.exit_code == 1
    assert "v.gpkg does not exist" in done.stderr
    assert not (files / "run" / "config.yaml").exists()
