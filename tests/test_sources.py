"""Sources to labelled ground: what is learnt where, what is held back, what is refused."""

import json
import logging

import numpy as np
import pytest
import rasterio
from affine import Affine
from labelled import GSD, LEFT, TOP, write_boxes, write_folder, write_raster

from geoseg.config import load_config
from geoseg.errors import BandError, LabelsError, SceneError, ShapeError, TrainingError
from geoseg.metrics import IGNORE
from geoseg.training.sources import find_pairs, load_data
from geoseg.windows import Window

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

TWO = [{"name": "background"}, {"name": "building"}]
SMALL = {"zoom": [0.5, 1]}
"""Of a source: no sample is larger than `tile_size`."""


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def load(*sources: dict, classes: list[dict] = TWO, **changes):
    return load_data(load_config(None, {"data.sources": list(sources), "classes": classes} | changes))


@pytest.fixture
def scene(tmp_path) -> dict:
    """A scene of 101 x 67 with two buildings, as a source."""
    data = np.arange(3 * 67 * 101, dtype=np.uint32).reshape(3, 67, 101).astype(np.uint8)
    image = write_raster(tmp_path / "scene.tif", data)
    labels = write_boxes(tmp_path / "labels.geojson", [(10, 10, 20, 20), (85, 30, 95, 40)])
    return {"scene": str(image), "labels": str(labels)}


def test_a_scene_is_read_as_it_is_where_nothing_is_held_back(scene):
    (train,) = load(scene, **{"data.val": 0}).train
    assert train.target.shape == (67, 101)
    assert (train.target[10:20, 10:20] == 1).all()
    assert (train.target[30:40, 85:95] == 1).all()
    assert train.target.sum() == 200
    assert train.data[:, 3, 5].tolist() == [(band * 67 * 101 + 3 * 101 + 5) % 256 for band in range(3)]
    assert train.gsd == pytest.approx(GSD, rel=2e-3)
    assert train.known == (0, 1)


def test_a_scene_of_which_little_is_drawn_is_said_to_be_background(tmp_path, caplog):
    """The rest may be not drawn yet; with the polygons that say where all is drawn, nothing is said."""
    caplog.set_level(logging.WARNING, "geoseg")
    image = write_raster(tmp_path / "scene.tif", np.full((3, 500, 640), 90, np.uint8))
    few = write_boxes(tmp_path / "few.geojson", [(10, 10, 20, 20), (25, 30, 40, 40)])
    spread = write_boxes(
        tmp_path / "spread.geojson", [(x, y, x + 8, y + 8) for x in range(5, 630, 80) for y in (90, 300)]
    )
    area = write_boxes(tmp_path / "area.geojson", [(0, 0, 60, 60)])
    for more, said in (({"labels": str(few)}, True), ({"labels": str(few), "labelled_area": str(area)}, False)):
        for _ in range(2):  # the second time from what is known of the files
            caplog.clear()
            load({"scene": str(image)} | more, **{"data.val": 0})
            assert ("--labelled-area" in caplog.text) == said
            assert ("few.geojson: nothing is drawn on 98 % of" in caplog.text) == said
    caplog.clear()
    load({"scene": str(image), "labels": str(spread)}, **{"data.val": 0})
    load({"scene": str(image), "labels": str(few), "train": [[0, 0, 60, 60]]}, **{"data.val": 0})
    assert not caplog.text


def test_nothing_is_learnt_in_a_validation_window(scene):
    data = load(scene | {"train": [[0, 0, 101, 67]], "val": [[80, 20, 101, 67]]})
    (train,), (val,) = data.train, data.val
    assert (train.target[20:, 80:] == IGNORE).all()
    assert (train.target[:20] != IGNORE).all()
    assert (train.target[:, :80] != IGNORE).all()
    assert (val.target != IGNORE).all()
    assert val.target.sum() == 100


def test_only_the_labelled_area_is_read_and_learnt(scene, tmp_path):
    area = write_boxes(tmp_path / "area.geojson", [(5, 8, 45, 30), (30, 20, 60, 40)])
    (train,) = load(scene | SMALL | {"labelled_area": str(area)}, **{"data.val": 0, "tile_size": 32}).train
    assert train.target.shape == train.learnt.shape == (32, 55)
    assert train.grid.transform @ (0, 0) == (LEFT + 5 * GSD, TOP - 8 * GSD)
    assert train.target[0, -1] == train.target[-1, 0] == IGNORE
    assert (train.target[2:12, 5:15] == 1).all()
    assert train.target[0, 0] == 0


def test_what_lies_round_a_small_labelled_area_is_seen_but_not_learnt(scene, tmp_path):
    area = write_boxes(tmp_path / "area.geojson", [(5, 8, 45, 30)])
    (whole,) = load(scene, **{"data.val": 0}).train
    (train,) = load(scene | SMALL | {"labelled_area": str(area)}, **{"data.val": 0, "tile_size": 50}).train
    assert train.learnt == Window(row=8, col=5, height=22, width=40)
    assert train.target.shape == (8 + 22 + 28, 5 + 40 + 10)
    assert np.array_equal(train.data, whole.data[:, :58, :55])
    known = train.target != IGNORE
    assert known[train.learnt.slices()].all()
    assert known.sum() == train.learnt.area
    val = [20, 10, 40, 30]
    (cut,) = load(scene | SMALL | {"train": [[5, 8, 45, 30]], "val": [val]}, tile_size=50).train
    assert cut.learnt == train.learnt
    assert (cut.target[12:30, 20:40] == IGNORE).all()


def test_labels_drawn_elsewhere_are_moved(scene):
    (as_drawn,) = load(scene, **{"data.val": 0}).train
    (moved,) = load(scene | {"shift": [3, -2]}, **{"data.val": 0}).train
    assert np.array_equal(moved.target[:-2, 3:], as_drawn.target[2:, :-3])
    assert not np.array_equal(moved.target, as_drawn.target)
    assert np.array_equal(moved.data, as_drawn.data)


def test_invalid_pixels_are_ignored(scene, tmp_path):
    data = np.full((3, 67, 101), 9, np.uint8)
    data[:, :5] = data[:, 30, 40] = 0
    write_raster(tmp_path / "scene.tif", data, nodata=0)
    (train,) = load(scene | SMALL, **{"data.val": 0, "tile_size": 32}).train
    assert train.target.shape == (62, 101)  # the frame leaves out what is invalid
    assert train.target[25, 40] == IGNORE
    assert (train.target == IGNORE).sum() == 1
    assert (~train.valid).sum() == 1


def test_labels_that_draw_one_class_of_two_know_only_that_one(scene, caplog):
    three = [*TWO, {"name": "road"}]
    with caplog.at_level(logging.WARNING, "geoseg"), pytest.raises(LabelsError, match="labelled 'road'"):
        load(scene, classes=three)
    assert "has no road: there, it is not told from background" in caplog.text


def test_partly_known_and_fully_known_sources_together(scene, tmp_path):
    three = [*TWO, {"name": "road"}]
    data = load(scene, {"folder": str(write_folder(tmp_path / "tiles", value=2))}, classes=three)
    assert {ground.known for ground in data.train} == {(1,), (0, 1, 2)}


def test_shares_count_the_pixels_of_several_classes_together(scene, tmp_path, caplog):
    three = [*TWO, {"name": "road"}]
    config = load_config(None, {"data.sources": [scene], "classes": three, "data.val": 0})
    with caplog.at_level(logging.INFO, "geoseg"):
        data = load_data(config, started=True)
    building = 200 / (67 * 101)
    assert data.shares["train"] == pytest.approx({"building": building, "background or road": 1 - building})
    assert "Of the train pixels: building 2.96%, background or road 97.04%" in caplog.text
    told = load(scene, {"folder": str(write_folder(tmp_path / "tiles", value=2))}, classes=three).shares["train"]
    assert list(told) == ["background", "building", "road", "background or road"]
    assert sum(told.values()) == pytest.approx(1)


def test_classes_come_from_a_field(scene, tmp_path):
    three = [*TWO, {"name": "road"}]
    boxes = [(10, 10, 20, 20), (30, 30, 40, 40)]
    labels = write_boxes(tmp_path / "kinds.geojson", boxes, ["road", "building"])
    (train,) = load(scene | {"labels": str(labels), "class_field": "kind"}, classes=three, **{"data.val": 0}).train
    assert (train.target[10:20, 10:20] == 2).all()
    assert (train.target[30:40, 30:40] == 1).all()
    assert train.known == (0, 1, 2)


def test_a_raster_of_values_is_no_raster_of_classes(scene, tmp_path):
    path = write_raster(tmp_path / "heights.tif", np.zeros((1, 67, 101), np.float32))
    with pytest.raises(LabelsError, match=r"one band of float32\. .* Values are learnt by a head of regression"):
        load(scene | {"labels": str(path)})


def test_a_label_raster_serves_a_scene_too(scene, tmp_path):
    labels = np.zeros((1, 67, 101), np.uint8)
    labels[:, 5:9, 5:9] = 7
    labels[:, 0] = 3
    path = write_raster(tmp_path / "labels.tif", labels)
    source = scene | {"labels": str(path), "values": {7: "building", 0: "background"}}
    (train,) = load(source | SMALL, **{"data.val": 0, "tile_size": 32}).train
    # The first row is ignored, so it is not even read.
    assert train.target.shape == (66, 101)
    assert (train.target[4:8, 5:9] == 1).all()


@pytest.mark.parametrize(
    "place", [Affine(GSD, 0, LEFT + GSD, 0, -GSD, TOP), Affine(GSD, 0, LEFT, 0, GSD, TOP - 67 * GSD)], ids=["off", "up"]
)
def test_a_label_raster_on_other_pixels_is_refused(scene, tmp_path, place):
    labels = write_raster(tmp_path / "labels.tif", np.ones((1, 67, 101), np.uint8), transform=place)
    with pytest.raises(LabelsError, match=r"labels\.tif lies on other pixels than its image: .* with geoseg tile"):
        load(scene | {"labels": str(labels)})
    nudged = Affine(GSD, 0, LEFT + GSD / 5, 0, -GSD, TOP)
    assert load(scene | {"labels": str(write_raster(labels, np.ones((1, 67, 101), np.uint8), transform=nudged))}).train


def name_classes(path, names: list[str]) -> None:
    with rasterio.open(path, "r+") as file:
        file.update_tags(GEOSEG_CLASSES=json.dumps(names))


@pytest.mark.parametrize("folder", [False, True], ids=["scene", "folder"])
def test_label_rasters_that_name_their_classes_go_by_name(scene, tmp_path, folder):
    """Index 1 of the file is index 2 of the run, and of the class that the file does not name nothing is said."""
    labels = np.zeros((1, 67, 101), np.uint8)
    labels[:, 5:9, 5:9] = 1
    images, tiles = tmp_path / "tiles" / "images", tmp_path / "tiles" / "labels"
    for at in range(2):
        write_raster(images / f"{at}.tif", np.full((3, 67, 101), at, np.uint8))
        name_classes(write_raster(tiles / f"{at}.tif", labels), ["nothing", "Building"])
    three = [{"name": "background"}, {"name": "road"}, {"name": "building"}]
    found = {"folder": str(tmp_path / "tiles")} if folder else scene | {"labels": str(tiles / "0.tif")}
    config = load_config(None, {"data.sources": [found], "classes": three, "data.val": 0})
    for ground in load_data(config, started=True).train:
        assert (ground.target[5:9, 5:9] == 2).all()
        assert set(np.unique(ground.target)) == {0, 2}
        assert ground.known == (2,)
    both = load_config(None, {"data.sources": [found], "data.val": 0, "classes": TWO})
    assert {ground.known for ground in load_data(both).train} == {(0, 1)}


def test_label_rasters_without_a_class_of_the_run_are_refused(scene, tmp_path):
    path = write_raster(tmp_path / "labels.tif", np.ones((1, 67, 101), np.uint8))
    name_classes(path, ["background", "water"])
    with pytest.raises(LabelsError, match=r"knows water; the run has building\. Expected a class in common"):
        load(scene | {"labels": str(path)})
    assert load(scene | {"labels": str(path), "values": {1: "building"}}).train


def test_patterns_find_images_and_labels_in_other_layouts(tmp_path):
    for tile in ("t1", "t2"):
        for part in ("a1", "b[1]"):
            write_raster(tmp_path / tile / f"{part}.tif", np.zeros((3, 4, 4), np.uint8))
            write_raster(tmp_path / tile / f"{part}_mask.tif", np.zeros((1, 4, 4), np.uint8))
    pairs = find_pairs(tmp_path, "t*/[ab]*[!k].tif", "{parent}/{stem}_mask.*")
    assert [(a.relative_to(tmp_path).as_posix(), b.name) for a, b in pairs] == [
        ("t1/a1.tif", "a1_mask.tif"),
        ("t1/b[1].tif", "b[1]_mask.tif"),
        ("t2/a1.tif", "a1_mask.tif"),
        ("t2/b[1].tif", "b[1]_mask.tif"),
    ]


def test_weights_are_shared_out_by_area(scene, tmp_path):
    folder = write_folder(tmp_path / "tiles", 4)
    data = load(scene | {"weight": 3}, {"folder": str(folder), "split": "train", "weight": 1})
    by_source: dict[str, float] = {}
    for ground in data.train:
        by_source[ground.source] = by_source.get(ground.source, 0) + ground.share
    assert by_source == pytest.approx({"scene": 3.0, "tiles": 1.0})


def test_a_source_of_weight_zero_is_only_validated_on(scene, tmp_path):
    data = load(scene | {"weight": 0}, {"folder": str(write_folder(tmp_path / "tiles")), "split": "train"})
    assert {ground.source for ground in data.train} == {"tiles"}
    assert {ground.source for ground in data.val} == {"scene"}


def test_towns_are_drawn_with_the_classes_by_name():
    classes = [{"name": name} for name in ("other", "road", "tree")]
    source = {"synthetic": 1, "size": 96, "gsd_range": [0.5, 0.5], "seed": 3}
    loaded = load_config(None, {"data.sources": [source], "classes": [{"name": n} for n in ("background", "road")]})
    (town,) = load_data(loaded).train
    assert town.data.shape == (3, 96, 96)
    assert set(np.unique(town.target)) == {0, 1, IGNORE}
    assert town.known == (0, 1)
    assert ((town.target == IGNORE) == ~town.valid).all()
    with pytest.raises(LabelsError, match="labelled 'tree'"):
        load(source, classes=classes)


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda d: next((d / "labels").iterdir()).unlink(), LabelsError, "has no label raster"),
        (lambda d: (d / "labels" / "tile_0.tif").write_bytes(b"x"), LabelsError, "has 2 label rasters"),
        (lambda d: [p.unlink() for p in (d / "images").iterdir()], LabelsError, "has no images"),
        (
            lambda d: write_raster(d / "labels" / "tile_0.png", np.zeros((1, 5, 5), np.uint8), driver="PNG"),
            ShapeError,
            "is 5x5|is .5, 5. pixels",
        ),
        (
            lambda d: write_raster(d / "labels" / "tile_0.png", np.full((1, 24, 20), 9, np.uint8), driver="PNG"),
            LabelsError,
            "has the value 9. Expected class indices 0 to 1, or 255",
        ),
        (
            lambda d: write_raster(d / "labels" / "tile_0.png", np.zeros((3, 24, 20), np.uint8), driver="PNG"),
            LabelsError,
            "has three bands and the colour #000000, which is no class's",
        ),
        (
            lambda d: write_raster(
                d / "images" / "tile_3.tif", np.zeros((4, 24, 20), np.uint8), photometric="minisblack"
            ),
            BandError,
            "has 4 bands of uint8, .*tile_0.tif has 3 bands",
        ),
    ],
)
def test_bad_folders_are_refused_by_file(tmp_path, spoil, error, said):
    spoil(write_folder(tmp_path))
    with pytest.raises(error, match=said):
        load({"folder": str(tmp_path)})


def test_labels_without_a_positive_pixel_are_refused(tmp_path):
    with pytest.raises(LabelsError, match="no training pixel is labelled 'building'"):
        load({"folder": str(write_folder(tmp_path, value=0))})


def test_labels_that_are_all_ignored_are_refused(tmp_path):
    with pytest.raises(LabelsError, match="every training pixel is ignored"):
        load({"folder": str(tmp_path), "values": {9: "building"}} if write_folder(tmp_path) else {})


def test_a_single_positive_pixel_is_warned_about(tmp_path, caplog):
    folder = write_folder(tmp_path, value=0)
    labels = np.zeros((1, 24, 20), np.uint8)
    labels[0, 3, 3] = 1
    write_raster(folder / "labels" / "tile_0.png", labels, driver="PNG", crs=None, transform=None)
    with caplog.at_level(logging.WARNING, "geoseg"):
        load({"folder": str(folder)})
    assert "Only 1 training pixels are labelled 'building'" in caplog.text


def test_no_sources_and_no_training_ground_are_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"data\.sources is empty"):
        load()
    with pytest.raises(TrainingError, match="no source has training ground"):
        load({"folder": str(write_folder(tmp_path)), "split": "val"})


def test_a_window_outside_the_scene_is_refused(scene):
    with pytest.raises(LabelsError, match=r"is 101x67; window \[0, 0, 102, 67\] sticks out"):
        load(scene | {"train": [[0, 0, 102, 67]]})


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(LabelsError, match="is not a folder"):
        load({"folder": str(tmp_path / "missing")})


def test_dates_are_one_scene_of_all_their_bands(tmp_path, scene):
    second = np.arange(3 * 67 * 101, dtype=np.uint32).reshape(3, 67, 101).astype(np.uint8)[:, ::-1]
    dates = [scene["scene"], str(write_raster(tmp_path / "second.tif", second))]
    stack = load(scene | {"scene": dates})
    alone = load(scene)
    assert len(stack.bands) == 6
    assert np.array_equal(stack.train[0].data[:3], alone.train[0].data)
    window = slice(0, stack.train[0].data.shape[1]), slice(0, stack.train[0].data.shape[2])
    assert stack.train[0].data.shape[0] == 6
    assert not np.array_equal(stack.train[0].data[3:], alone.train[0].data[:, *window])
    assert np.array_equal(stack.train[0].target, alone.train[0].target)
    write_raster(tmp_path / "small.tif", second[:, :50])
    with pytest.raises(SceneError, match=r"small\.tif"):
        load(scene | {"scene": [dates[0], str(tmp_path / "small.tif")]})
