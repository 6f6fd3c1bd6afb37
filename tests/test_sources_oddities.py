"""Folders as people have them: odd names, sidecars, label rasters that say too much, patterns that cannot be."""

from pathlib import Path

import numpy as np
import pytest
from labelled import write_folder, write_raster
from test_sources_layouts import NAMES, SHAPE, cityscapes, load, mask, picture, targets, truth

from geoseg.errors import LabelsError
from geoseg.metrics import IGNORE

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def pairs(folder: Path, names, *, images="images", labels="labels") -> Path:
    for at, name in enumerate(names):
        picture(folder / images / f"{name}.png", seed=at)
        mask(folder / labels / f"{name}.png", truth(at))
    return folder


def test_names_that_hold_dots_powers_spaces_and_other_scripts(tmp_path):
    names = ["a", "a.1", "a.1.2", "b1²2", "b1²10", "größe 2", "日本"]
    found = targets(load(pairs(tmp_path, names), **{"data.val": 0}))
    for at, name in enumerate(names):
        assert (found[name] == truth(at)).all()


def test_folders_may_be_written_in_capitals(tmp_path):
    found = targets(load(pairs(tmp_path, ["x"], images="Images", labels="Masks"), **{"data.val": 0}))
    assert (found["x"] == truth()).all()


def test_what_gdal_leaves_beside_images_is_no_image(tmp_path):
    folder = cityscapes(tmp_path, "Ids", {0: 23, 1: 11, 2: 7})
    (beside,) = folder.glob("leftImg8bit/train/aachen/*.png")
    beside.with_name(f"{beside.name}.aux.xml").write_text("<PAMDataset/>")
    assert len(load(folder).train) == 2


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ({"images": "/data/*.png"}, "pattern '/data/\\*.png': .* Expected a glob pattern that starts from"),
        ({"images": "im**/*.png"}, "Expected a glob pattern that starts from"),
        ({"images": "images/*", "labels": "labels/{name}.png"}, "braces round other words. Expected stem or parent"),
        ({"images": "images/*", "labels": "labels/{stem.png"}, "braces round other words"),
    ],
)
def test_patterns_that_cannot_be_are_refused(tmp_path, patterns, said):
    pairs(tmp_path, ["a"])
    with pytest.raises(LabelsError, match=said):
        load({"folder": str(tmp_path), **patterns})


def test_a_class_that_is_declared_no_data_is_said_to_be_unknown(tmp_path, warnings):
    write_folder(tmp_path, 3)
    for path in (tmp_path / "labels").iterdir():
        labels = np.zeros((1, 24, 20), np.uint8)
        labels[:, 4:12, 4:12] = 1
        path.unlink()
        write_raster(path.with_suffix(".tif"), labels, crs=None, transform=None, nodata=0)
    silent = load(tmp_path, names=NAMES[:2], **{"data.val": 0})
    assert all(set(np.unique(ground.target)) == {1, IGNORE} for ground in silent.train)
    said = [line for line in warnings if "declares 0 as no data: it counts as unknown, not as background" in line]
    assert len(said) == 1
    warnings.clear()
    meant = {"folder": str(tmp_path), "values": {0: "background", 1: "building"}}
    told = load(meant, names=NAMES[:2], **{"data.val": 0})
    assert all(set(np.unique(ground.target)) == {0, 1} for ground in told.train)
    assert not [line for line in warnings if "no data" in line]


def test_values_of_a_jpeg_are_snapped_to_the_nearest(tmp_path):
    picture(tmp_path / "images" / "a.png")
    house = np.zeros(SHAPE, np.uint8)
    house[10:22, 11:30] = 255
    mask(tmp_path / "labels" / "a.jpg", house, driver="JPEG")
    meant = {"folder": str(tmp_path), "values": {0: "background", 255: "building"}}
    found = targets(load(meant, names=NAMES[:2], **{"data.val": 0}))["a"]
    known = found != IGNORE
    assert known.mean() > 0.95
    assert (found[known] == (house[known] == 255)).all()
