"""How the ground of real sources is split: blocks, scenes, tiles, boxes; what is said of leaks and shares."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from labelled import GSD, LEFT, TOP, write_boxes, write_folder, write_raster
from rasterio.crs import CRS
from rasterio.warp import transform as warp
from scipy.spatial import cKDTree
from shapely import box

from geoseg.config import load_config
from geoseg.errors import BandError, LabelsError, TrainingError
from geoseg.metrics import IGNORE
from geoseg.training.ground import Ground
from geoseg.training.sources import Data, load_data

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

TWO = [{"name": "background"}, {"name": "building"}]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def load(*sources: dict, classes: list[dict] = TWO, **changes) -> Data:
    return load_data(load_config(None, {"data.sources": list(sources), "classes": classes, "tile_size": 32} | changes))


def make_scene(folder: Path, name: str = "scene", *, size=(300, 420), left=0, dtype=np.uint8, houses=18) -> dict:
    """A scene with houses all over it, `left` pixels east of the others."""
    rng = np.random.default_rng(len(name))
    at = Affine(GSD, 0, LEFT + left * GSD, 0, -GSD, TOP)
    image = write_raster(folder / f"{name}.tif", rng.integers(1, 200, (3, *size)).astype(dtype), transform=at)
    corners = [(left + int(rng.integers(size[1] - 20)), int(rng.integers(size[0] - 20))) for _ in range(houses)]
    labels = write_boxes(folder / f"{name}.geojson", [(x, y, x + 14, y + 14) for x, y in corners])
    return {"scene": str(image), "labels": str(labels)}


def placed(ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the centres of the pixels of which something is known, in the CRS."""
    rows, cols = np.nonzero(np.asarray(ground.target) != IGNORE)
    return ground.grid.transform @ (cols + 0.5, rows + 0.5)


def nearest_m(data: Data) -> float:
    """From validation pixels to what is learnt, along the farther axis, in metres; edge to edge."""
    learnt = np.stack(np.concatenate([placed(ground) for ground in data.train], axis=1), 1)
    held = np.stack(np.concatenate([placed(ground) for ground in data.val], axis=1), 1)
    return float(cKDTree(learnt).query(held[::7], p=np.inf)[0].min()) - GSD


@pytest.mark.parametrize("seed", [0, 1])
def test_blocks_are_the_default_and_keep_the_gap(tmp_path, seed):
    source = make_scene(tmp_path)
    data = load(source, seed=seed)
    held = sum(ground.target.size for ground in data.val)
    assert held == pytest.approx(0.2 * 300 * 420, rel=0.15)
    assert len(data.val) >= 3
    assert nearest_m(data) >= 16 * GSD  # half a tile_size of 32
    again = load(source, seed=seed)
    assert [ground.grid for ground in data.val] == [ground.grid for ground in again.val]
    assert all((one.target == other.target).all() for one, other in zip(data.train, again.train, strict=True))
    assert (np.asarray(data.train[0].data) == np.asarray(load(source, **{"data.val": 0}).train[0].data)).all()


def test_validation_pixels_are_those_of_the_scene(tmp_path):
    source = make_scene(tmp_path)
    whole = load(source, **{"data.val": 0}).train[0]
    for ground in load(source).val:
        col, row = (round(at) for at in ~whole.grid.transform @ (ground.grid.transform @ (0, 0)))
        part = slice(row, row + ground.target.shape[0]), slice(col, col + ground.target.shape[1])
        assert (np.asarray(ground.data) == whole.data[:, *part]).all()
        assert (np.asarray(ground.target) == whole.target[part]).all()


def test_a_gap_can_be_asked_for(tmp_path):
    assert nearest_m(load(make_scene(tmp_path), **{"data.gap": 40})) >= 40 * GSD


def test_a_small_scene_still_has_both_parts(tmp_path):
    data = load(make_scene(tmp_path, size=(40, 60), houses=3), tile_size=256)
    assert sum(ground.target.size for ground in data.val) == pytest.approx(0.2 * 40 * 60, rel=0.3)
    assert (np.asarray(data.train[0].target) != IGNORE).sum() > 0.4 * 40 * 60


def test_scenes_that_show_the_same_ground_do_not_leak_into_each_other(tmp_path, caplog):
    one, two = make_scene(tmp_path, "one"), make_scene(tmp_path, "second", left=200)
    with caplog.at_level(logging.INFO, "geoseg"):
        data = load(one, two)
    assert {ground.source for ground in data.val} == {"one", "second"}
    assert nearest_m(data) >= 16 * GSD - 1e-6
    assert "of the training ground lie within 16 pixels of other images' validation ground" in caplog.text


def test_scenes_of_several_crs_do_not_leak_into_each_other(tmp_path):
    one = make_scene(tmp_path, "one")
    lons, lats = warp(CRS.from_epsg(32633), CRS.from_epsg(4326), [LEFT, LEFT + 210], [TOP, TOP - 150])
    step = (lons[1] - lons[0]) / 420
    at = Affine(step, 0, lons[0], 0, (lats[1] - lats[0]) / 300, lats[0])
    pixels = np.random.default_rng(0).integers(1, 200, (3, 300, 420), dtype=np.uint8)
    image = write_raster(tmp_path / "degrees.tif", pixels, transform=at, crs=CRS.from_epsg(4326))
    data = load(one, {"scene": str(image), "labels": one["labels"]})
    (metres,) = [ground for ground in data.train if ground.source == "one"]
    for ground in [ground for ground in data.val if ground.source == "degrees"]:
        rows, cols = (np.array([0.5, size - 0.5]) for size in ground.target.shape)
        x, y = ground.grid.transform @ (cols, rows)
        cols, rows = ~metres.grid.transform @ np.array(warp(CRS.from_epsg(4326), CRS.from_epsg(32633), x, y))
        inside = metres.target[max(int(rows[0]) - 8, 0) : int(rows[1]) + 8, max(int(cols[0]) - 8, 0) : int(cols[1]) + 8]
        assert (np.asarray(inside) == IGNORE).all()


def test_what_is_said_to_be_validated_on_is_learnt_from_no_other_scene(tmp_path, warnings):
    one, two = make_scene(tmp_path, "one"), make_scene(tmp_path, "second", left=200)
    data = load(one | {"val": [[210, 0, 300, 300]]}, two)
    assert len({ground.source for ground in data.val}) == 2
    assert nearest_m(data) >= 16 * GSD - 1e-6
    whole = load(one, make_scene(tmp_path, "third", left=350), **{"data.split": "scene", "data.val": 0.5})
    assert nearest_m(whole) >= 16 * GSD - 1e-6
    assert not [line for line in warnings if "touch training ground" in line]


def test_whole_scenes_are_held_back(tmp_path, caplog):
    sources = [make_scene(tmp_path, name, left=2000 * at) for at, name in enumerate("abcde")]
    with caplog.at_level(logging.INFO, "geoseg"):
        data = load(*sources, **{"data.split": "scene"})
    assert len(data.val) == 1
    assert len(data.train) == 4
    assert {ground.source for ground in data.train}.isdisjoint(ground.source for ground in data.val)
    assert "Leak audit: from 1 validation tiles to training pixels it is 790 m or more" in caplog.text
    with pytest.raises(TrainingError, match=r"data\.split=scene, but .*a\.tif are of one scene"):
        load(sources[0], **{"data.split": "scene"})


def test_random_tiles_leave_no_gap_and_that_is_said(tmp_path, warnings):
    data = load(make_scene(tmp_path), **{"data.split": "random"})
    assert sum(ground.target.size for ground in data.val) == pytest.approx(0.2 * 300 * 420, rel=0.2)
    assert {ground.target.shape for ground in data.val} <= {(32, 32), (12, 32), (32, 4), (12, 4)}
    assert nearest_m(data) == pytest.approx(0)
    assert "validation tiles touch training ground: their scores may flatter" in warnings[-1]


def test_a_manifest_is_needed_to_split_by_one(tmp_path):
    with pytest.raises(TrainingError, match=r"data\.split=manifest, but nothing says"):
        load(make_scene(tmp_path), **{"data.split": "manifest"})


def test_boxes_of_the_source_win_and_may_touch(tmp_path, warnings):
    source = make_scene(tmp_path) | {"train": [[0, 0, 200, 300]], "val": [[200, 0, 420, 300]]}
    data = load(source)
    assert [ground.target.shape[0] for ground in data.val] == [data.val[0].target.shape[0]]
    assert (np.asarray(data.train[0].target) != IGNORE).all()
    assert "1 of 1 validation tiles touch training ground" in warnings[-1]
    learnt = load(source, **{"data.gap": 10}).train[0].target
    assert (np.asarray(learnt[:, 190:]) == IGNORE).all()
    assert (np.asarray(learnt[:, :190]) != IGNORE).all()


def test_boxes_to_validate_on_alone_get_a_gap(tmp_path, warnings):
    data = load(make_scene(tmp_path) | {"val": [[200, 100, 260, 160]]})
    assert (np.asarray(data.train[0].target) == IGNORE).sum() == (60 + 2 * 16) ** 2
    assert not warnings


def grid_of_tiles(folder: Path, cols: int, rows: int, side: int = 24, left: int = 0) -> Path:
    """Tiles that touch, numbered by rows, a house in each."""
    rng = np.random.default_rng(0)
    for at in range(cols * rows):
        x, y = at % cols * side, at // cols * side
        place = {"transform": Affine(GSD, 0, LEFT + (left + x) * GSD, 0, -GSD, TOP - y * GSD)}
        write_raster(folder / "images" / f"t{at}.tif", rng.integers(1, 200, (3, side, side), dtype=np.uint8), **place)
        labels = np.zeros((1, side, side), np.uint8)
        labels[:, 4:14, 4:14] = 1
        write_raster(folder / "labels" / f"t{at}.tif", labels, **place)
    return folder


def test_tiles_of_a_folder_are_held_back_in_blocks(tmp_path, caplog):
    folder = grid_of_tiles(tmp_path, 10, 8)
    with caplog.at_level(logging.INFO, "geoseg"):
        data = load({"folder": str(folder)})
    assert len(data.val) == pytest.approx(16, abs=4)
    assert nearest_m(data) >= 16 * GSD
    assert "of the training ground lie within 16 pixels of other images' validation ground" in caplog.text
    assert f"Leak audit: from {len(data.val)} validation tiles to training pixels it is 8 m or more" in caplog.text
    trimmed = sum(16 * 24 <= (np.asarray(ground.target) == IGNORE).sum() < 24 * 24 for ground in data.train)
    assert trimmed > 5  # the rest of them is learnt
    touching = load({"folder": str(folder)}, **{"data.gap": 0})
    assert len(touching.val) + len(touching.train) == 80


def test_a_single_image_of_a_folder_is_cut_into_blocks(tmp_path):
    folder = grid_of_tiles(tmp_path, 1, 1, side=200)
    data = load({"folder": str(folder)})
    assert sum(ground.target.size for ground in data.val) == pytest.approx(0.2 * 200 * 200, rel=0.2)
    assert data.train[0].target.shape == (200, 200)


@pytest.mark.parametrize("share", [0.2, 0.0])
def test_images_that_lie_nowhere_are_split_by_name(tmp_path, share, warnings):
    data = load({"folder": str(write_folder(tmp_path, 11, suffix=".png"))}, **{"data.val": share})
    names = [Path(ground.name).stem for ground in data.val]
    assert names == (["tile_8", "tile_9", "tile_10"] if share else [])
    assert any("the last 3 of 11 by name are validated on" in line for line in warnings) == bool(share)


def test_images_that_all_claim_one_place_are_split_by_name(tmp_path, warnings):
    folder = write_folder(tmp_path, 5, suffix=".png")
    for image in (folder / "images").iterdir():
        write_raster(image.with_suffix(".tif"), np.ones((3, 24, 20), np.uint8))
        image.unlink()
    data = load({"folder": str(folder)})
    assert [Path(ground.name).stem for ground in data.val] == ["tile_4"]
    assert any("all say that they show the same ground" in line for line in warnings)


def test_folders_of_images_that_lie_nowhere_are_held_back_whole(tmp_path):
    for town in "abcde":
        write_folder(tmp_path / town, 4, suffix=".png")
    source = {"folder": str(tmp_path), "images": "*/images/*", "labels": "{parent}/../labels/{stem}.png"}
    data = load(source)
    towns = [{Path(ground.name).parent.parent.name for ground in part} for part in (data.train, data.val)]
    assert towns[0].isdisjoint(towns[1])
    assert len(towns[1]) == 1


def test_several_types_become_one_that_holds_all(tmp_path, warnings):
    signed = make_scene(tmp_path, "signed", dtype=np.int16)
    data = load(signed, make_scene(tmp_path, "unsigned", left=5000, dtype=np.uint16), **{"data.val": 0})
    assert {ground.data.dtype for ground in data.train} == {np.dtype(np.int32)}
    assert "int16 in" in warnings[0]
    assert "all become int32, values as they are" in warnings[0]
    (one,) = [ground for ground in data.train if ground.source == "signed"]
    assert (np.asarray(one.data) == np.asarray(load(signed, **{"data.val": 0}).train[0].data)).all()


def test_bands_in_another_order_are_refused(tmp_path):
    source = make_scene(tmp_path)
    with pytest.raises(BandError, match=r"order blue, green, red\. Expected .*: say bands: \[red, green, blue\]"):
        load(source, source | {"bands": ["blue", "green", "red"]})


def test_class_shares_are_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "geoseg"):
        data = load(make_scene(tmp_path))
    for part, grounds in (("train", data.train), ("val", data.val)):
        known = np.concatenate([np.asarray(ground.target)[np.asarray(ground.target) != IGNORE] for ground in grounds])
        assert data.shares[part]["building"] == pytest.approx((known == 1).mean())
        assert sum(data.shares[part].values()) == pytest.approx(1)
    assert f"Of the val pixels: background {data.shares['val']['background']:.2%}" in caplog.text


def write_feature(path: Path, geometry: dict, **properties) -> None:
    """GeoJSON in UTM with one feature."""
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    feature = {"type": "Feature", "properties": properties, "geometry": geometry}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))


def test_lines_have_a_width_and_buildings_a_contact_class(tmp_path):
    source = make_scene(tmp_path, houses=1)
    line = {"type": "LineString", "coordinates": [[LEFT, TOP - 50], [LEFT + 200, TOP - 50]]}
    write_feature(tmp_path / "roads.geojson", line, w=5)
    roads = source | {"labels": str(tmp_path / "roads.geojson")}
    two = [{"name": "background"}, {"name": "road"}]
    for keys, metres in (({"line_width_m": 8}, 8), ({"width_field": "w"}, 5)):
        (train,) = load(roads | keys, classes=two, **{"data.val": 0}).train
        assert (np.asarray(train.target)[:, 200] == 1).sum() * GSD == pytest.approx(metres, abs=2 * GSD)
    with pytest.raises(LabelsError, match="line_width_m of a source"):
        load(roads, classes=two)
    houses = write_boxes(tmp_path / "houses.geojson", [(20, 20, 40, 40), (40, 20, 60, 40)])
    three = [*TWO, {"name": "wall"}]
    (train,) = load(source | {"labels": str(houses), "contact": "wall"}, classes=three, **{"data.val": 0}).train
    walls = np.nonzero(np.asarray(train.target) == 2)
    assert 38 <= walls[1].min() <= walls[1].max() <= 41


def test_invalid_polygons_are_refused_or_fixed(tmp_path):
    source = make_scene(tmp_path)
    bow = [[LEFT + 10, TOP - 10], [LEFT + 60, TOP - 60], [LEFT + 60, TOP - 10], [LEFT + 10, TOP - 60]]
    write_feature(tmp_path / "bow.geojson", {"type": "Polygon", "coordinates": [[*bow, bow[0]]]})
    source["labels"] = str(tmp_path / "bow.geojson")
    with pytest.raises(LabelsError, match="1 invalid polygon"):
        load(source)
    assert load(source | {"invalid_geometry": "fix"}, **{"data.val": 0}).train


def test_a_second_start_opens_no_image_and_repeats_what_was_warned_of(tmp_path, monkeypatch, warnings):
    three = [*TWO, {"name": "road"}]
    scene = make_scene(tmp_path)
    folder = grid_of_tiles(tmp_path / "tiles", 3, 2, left=5000)
    at = Affine(GSD, 0, LEFT + 5000 * GSD, 0, -GSD, TOP)
    write_raster(folder / "labels" / "t0.tif", np.full((1, 24, 24), 2, np.uint8), transform=at)
    first = load(scene, {"folder": str(folder)}, classes=three)
    said = list(warnings)
    assert any("has no road" in line for line in said)
    warnings.clear()

    def refuse(*args, **kwargs):
        raise AssertionError("an image was opened")

    monkeypatch.setattr("geoseg.training.sources.files.Scene.open", refuse)
    monkeypatch.setattr("geoseg.training.sources.scenes.read_labels", refuse)
    second = load(scene, {"folder": str(folder)}, classes=three)
    assert warnings == said
    assert all((a.target == b.target).all() for a, b in zip(first.train, second.train, strict=True))
    assert second.shares == first.shares


def test_a_changed_file_is_looked_at_again(tmp_path):
    folder = grid_of_tiles(tmp_path, 2, 2)
    source = {"folder": str(folder), "split": "train"}
    before = load(source).shares["train"]["building"]
    write_raster(folder / "labels" / "t0.tif", np.full((1, 24, 24), 1, np.uint8))
    assert load(source).shares["train"]["building"] > before
    (folder / "labels" / "t1.tif").unlink()
    with pytest.raises(LabelsError, match=r"t1\.tif has no label raster"):
        load(source)


_EDITOR = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1])
file.execute("pragma journal_mode = wal")
for (name,) in file.execute("select name from sqlite_master where type = 'trigger'").fetchall():
    file.execute(f'drop trigger "{name}"')
file.commit()
print("open", flush=True)
input()
file.execute("delete from drawn where n = 2")
file.commit()
print("edited", flush=True)
input()
"""
"""Keeps a GeoPackage open, as QGIS does: what is drawn stands in a file beside it."""


def test_polygons_drawn_in_a_geopackage_that_is_still_open_are_seen(tmp_path):
    source = make_scene(tmp_path) | {"labels": str(tmp_path / "drawn.gpkg")}
    corners = [(LEFT + 20, TOP - 60), (LEFT + 120, TOP - 90)]
    houses = gpd.GeoDataFrame({"n": [1, 2]}, geometry=[box(x, y, x + 20, y + 20) for x, y in corners], crs=32633)
    houses.to_file(tmp_path / "drawn.gpkg")
    with subprocess.Popen(
        [sys.executable, "-c", _EDITOR, tmp_path / "drawn.gpkg"], stdin=PIPE, stdout=PIPE, text=True
    ) as editor:
        found = []
        for _ in range(2):
            editor.stdout.readline()
            found.append(int((load(source, **{"data.val": 0}).train[0].target == 1).sum()))
            editor.stdin.write("go on\n")
            editor.stdin.flush()
    assert found == [2 * 40 * 40, 40 * 40]


def test_a_damaged_or_unwritable_survey_costs_time_only(tmp_path, monkeypatch):
    source = make_scene(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = load(source)
    for path in (tmp_path / "cache").rglob("surveys/*.json"):
        path.write_text('{"answer": 3')
    assert load(source).shares == first.shares
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert load(source, **{"data.cache": str(blocked)}).shares == first.shares
