"""Data sets as they come: layouts told by content, and label rasters of every kind, with the pixels that are true."""

import csv
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from labelled import GSD, LEFT, TOP, write_folder, write_raster

from geoseg.config import load_config
from geoseg.errors import LabelsError
from geoseg.metrics import IGNORE
from geoseg.training.sources import load_data
from geoseg.training.sources.pairs import find_images, wildcards

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

NAMES = ("background", "building", "road")
COLORS = ("#000000", "#3C1098", "#6EC1E4")
SHAPE = (40, 48)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def load(source: dict | str, names=NAMES, colors=COLORS, **changes):
    source = {"folder": str(source)} if not isinstance(source, dict) else source
    classes = [{"name": name, "color": color} for name, color in zip(names, colors, strict=False)]
    return load_data(load_config(None, {"data.sources": [source], "classes": classes} | changes))


def truth(seed=0, *, unknown=True) -> np.ndarray:
    """(H, W) classes 0 to 2 in squares of 8, with a border of 255."""
    target = np.random.default_rng(seed).integers(0, 3, (SHAPE[0] // 8, SHAPE[1] // 8)).repeat(8, 0).repeat(8, 1)
    target[:8, :8], target[8:16, :8], target[:8, 8:16] = 0, 1, 2
    target = target.astype(np.uint8)
    if unknown:
        target[16:18] = IGNORE
    return target


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[at : at + 2], 16) for at in (1, 3, 5))


def picture(path: Path, *, driver="PNG", seed=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    smooth = np.random.default_rng(seed).integers(30, 220, (3, 5, 6)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    with rasterio.open(path, "w", driver=driver, count=3, height=SHAPE[0], width=SHAPE[1], dtype="uint8") as file:
        file.write(smooth)
    return path


def mask(path: Path, target: np.ndarray, *, palette=None, driver="PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = target if target.ndim == 3 else target[None]
    size = {"count": len(planes), "height": planes.shape[1], "width": planes.shape[2], "dtype": planes.dtype}
    with rasterio.open(path, "w", driver=driver, **size) as file:
        file.write(planes)
        if palette:
            file.write_colormap(1, dict.fromkeys(range(256), (1, 2, 3, 255)) | palette)
    return path


def colored(target: np.ndarray, colors=COLORS, rest="#ffffff") -> np.ndarray:
    """(3, H, W) of class indices."""
    out = np.empty((3, *target.shape), np.uint8)
    out[:] = np.array(rgb(rest))[:, None, None]
    for index, color in enumerate(colors):
        out[:, target == index] = np.array(rgb(color))[:, None]
    return out


def targets(data) -> dict[str, np.ndarray]:
    return {Path(ground.name).stem: np.asarray(ground.target) for ground in (*data.train, *data.val)}


def test_jpeg_under_a_png_name_is_read_by_content(tmp_path):
    picture(tmp_path / "images" / "a.png", driver="JPEG")
    mask(tmp_path / "labels" / "a.tif", truth())  # and PNG under a TIFF's name
    data = load(tmp_path, **{"data.val": 0})
    assert data.train[0].data.shape == (3, *SHAPE)
    assert (targets(data)["a"] == truth()).all()


def test_a_palette_with_the_classes_colours_is_taken_by_colour(tmp_path):
    picture(tmp_path / "images" / "a.png")
    order = {9: 0, 4: 1, 7: 2}  # value of the file -> class
    values = np.full(SHAPE, IGNORE, np.uint8)
    for value, index in order.items():
        values[truth() == index] = value
    palette = {value: (*rgb(COLORS[index]), 255) for value, index in order.items()}
    mask(tmp_path / "labels" / "a.png", values, palette=palette)
    assert (targets(load(tmp_path, **{"data.val": 0}))["a"] == truth()).all()
    # With other colours the values count, and 9 is none of three classes.
    with pytest.raises(LabelsError, match=r"has the value 4\. Expected class indices 0 to 2.*'colors' of the source"):
        load(tmp_path, colors=("#000001", "#000002", "#000003"))
    said = {"folder": str(tmp_path), "values": {9: "background", 4: "road", 7: "building"}}
    assert (targets(load(said, **{"data.val": 0}))["a"][8:16, :8] == 2).all()


def test_a_palette_of_indices_is_taken_by_value(tmp_path):
    picture(tmp_path / "images" / "a.png")
    voc = {0: (0, 0, 0, 255), 1: (128, 0, 0, 255), 2: (0, 128, 0, 255), 255: (224, 224, 192, 255)}
    mask(tmp_path / "labels" / "a.png", truth(), palette=voc)
    assert (targets(load(tmp_path, **{"data.val": 0}))["a"] == truth()).all()


def test_colours_are_classes_where_they_are_the_configurations(tmp_path):
    picture(tmp_path / "images" / "a.png")
    mask(tmp_path / "labels" / "a.png", colored(truth(unknown=False)))
    assert (targets(load(tmp_path, **{"data.val": 0}))["a"] == truth(unknown=False)).all()
    mask(tmp_path / "labels" / "a.png", colored(truth()))
    with pytest.raises(LabelsError, match=r"a\.png has three bands and the colour #ffffff, which is no class's"):
        load(tmp_path)
    said = {"folder": str(tmp_path), "colors": dict(zip(COLORS, NAMES, strict=True))}
    assert (targets(load(said, **{"data.val": 0}))["a"] == truth()).all()


def test_colours_of_a_jpeg_are_snapped_to_the_nearest(tmp_path):
    picture(tmp_path / "images" / "a.png")
    mask(tmp_path / "labels" / "a.jpg", colored(truth(unknown=False)), driver="JPEG")
    found = targets(load(tmp_path, **{"data.val": 0}))["a"]
    known = found != IGNORE
    assert known.mean() > 0.6
    assert (found[known] == truth(unknown=False)[known]).all()
    assert (found[2:6, 2:6] == 0).all()


def test_masks_of_0_and_255_are_two_classes(tmp_path, warnings):
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png")
        mask(tmp_path / "masks" / f"{name}_mask.png", np.where(truth() == 1, np.uint8(255), np.uint8(0)))
    found = targets(load(tmp_path, names=NAMES[:2], **{"data.val": 0}))
    assert (found["a"] == (truth() == 1)).all()
    assert any("0 and 255 only: 255 is taken for building" in line for line in warnings)
    with pytest.raises(LabelsError, match="no training pixel is labelled 'building'"):
        load(tmp_path)  # of three classes, 255 is unknown


def test_a_picture_is_no_label_raster(tmp_path):
    picture(tmp_path / "images" / "a.png")
    mask(tmp_path / "labels" / "a.png", np.random.default_rng(0).integers(0, 255, (3, *SHAPE), dtype=np.uint8))
    with pytest.raises(LabelsError, match=r"more than 1000 colours\. Expected a raster of classes"):
        load(tmp_path)


def voc(folder: Path, lists: dict[str, str]) -> Path:
    for seed, name in enumerate(("2007_1", "2007_2", "2007_10")):
        picture(folder / "JPEGImages" / f"{name}.jpg", driver="JPEG", seed=seed)
        mask(folder / "SegmentationClass" / f"{name}.png", truth(seed), palette={1: (128, 0, 0, 255)})
    picture(folder / "JPEGImages" / "unlabelled.jpg", driver="JPEG")
    for name, text in lists.items():
        path = folder / "ImageSets" / "Segmentation" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_voc_goes_by_its_lists(tmp_path):
    data = load(voc(tmp_path, {"train": "2007_10\n2007_1\n", "val": "2007_2\n"}))
    assert [Path(ground.name).stem for ground in data.train] == ["2007_10", "2007_1"]
    assert [Path(ground.name).stem for ground in data.val] == ["2007_2"]
    assert (targets(data)["2007_10"] == truth(2)).all()  # 255 stays unknown


def test_voc_without_lists_takes_what_is_labelled(tmp_path):
    data = load(voc(tmp_path, {}), **{"data.val": 0})
    assert [Path(ground.name).stem for ground in data.train] == ["2007_1", "2007_2", "2007_10"]
    with pytest.raises(LabelsError, match="unlabelled has no label raster in SegmentationClass"):
        load(voc(tmp_path / "other", {"train": "2007_1\nunlabelled\n"}))


def cityscapes(folder: Path, kind: str, values: dict[int, int]) -> Path:
    for split, city, number in (("train", "aachen", 0), ("train", "bonn", 1), ("val", "ulm", 2), ("test", "mainz", 3)):
        stem = f"{city}_000000_00000{number}"
        picture(folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        ids = np.full(SHAPE, 255 if kind == "TrainIds" else 0, np.uint8)
        for index, value in values.items():
            ids[truth(number) == index] = value
        if split != "test":
            mask(folder / "gtFine" / split / city / f"{stem}_gtFine_label{kind}.png", ids)
            mask(folder / "gtFine" / split / city / f"{stem}_gtFine_color.png", colored(truth(number)))
    return folder


@pytest.mark.parametrize(("kind", "values"), [("Ids", {0: 23, 1: 11, 2: 7}), ("TrainIds", {0: 10, 1: 2, 2: 0})])
def test_cityscapes_goes_by_names_of_classes(tmp_path, kind, values):
    data = load(cityscapes(tmp_path, kind, values))
    assert [Path(ground.name).parent.name for ground in data.train] == ["aachen", "bonn"]
    assert [Path(ground.name).parent.name for ground in data.val] == ["ulm"]
    # sky, which is no class of the run, is its background; void stays unknown
    assert (np.asarray(data.val[0].target) == truth(2)).all()
    by_city = load(tmp_path, **{"data.split": "scene", "data.val": 0.4})
    assert len({Path(ground.name).parent.name for ground in (*by_city.train, *by_city.val)}) == 3


@pytest.mark.parametrize("outside", [True, False])
def test_folders_of_splits(tmp_path, outside):
    for split, names in (("train", "abc"), ("valid", "d")):
        for seed, name in enumerate(names):
            for kind, ending, write in (("images", "", picture), ("masks", "_mask", None)):
                place = tmp_path / split / kind if outside else tmp_path / kind / split
                if write:
                    write(place / f"{name}.png")
                else:
                    mask(place / f"{name}{ending}.png", truth(seed))
    data = load(tmp_path)
    assert [Path(ground.name).stem for ground in data.train] == ["a", "b", "c"]
    assert [Path(ground.name).stem for ground in data.val] == ["d"]
    assert (targets(data)["c"] == truth(2)).all()


def test_masks_beside_their_images(tmp_path):
    for tile in ("tile1", "tile2"):
        for part in ("part1", "part2"):
            picture(tmp_path / tile / f"{part}.jpg", driver="JPEG")
            mask(tmp_path / tile / f"{part}_mask.png", truth())
    (tmp_path / "README.md").write_text("not an image")
    (tmp_path / "classes.json").write_text("{}")
    data = load(tmp_path, **{"data.split": "scene", "data.val": 0.5})
    assert [{Path(ground.name).parent.name for ground in part} for part in (data.train, data.val)] in (
        [{"tile1"}, {"tile2"}],
        [{"tile2"}, {"tile1"}],
    )


def test_bands_in_files_of_their_own(tmp_path):
    for seed, tile in enumerate(("a", "b")):
        for band, name in enumerate(("B02", "B03", "B08")):
            pixels = np.full((1, *SHAPE), 100 * band + seed, np.uint16)
            write_raster(tmp_path / "images" / f"{tile}_{name}.tif", pixels)
        write_raster(tmp_path / "labels" / f"{tile}.tif", truth(seed)[None])
    patterns = [f"images/*_{name}.tif" for name in ("B08", "B02", "B03")]
    data = load({"folder": str(tmp_path), "images": patterns, "split": "train"})
    assert [ground.data[:, 5, 5].tolist() for ground in data.train] == [[200, 0, 100], [201, 1, 101]]
    assert (np.asarray(data.train[1].target) == truth(1)).all()
    (tmp_path / "images" / "b_B03.tif").unlink()
    with pytest.raises(LabelsError, match=r"b_B08\.tif has no file that belongs to it by 'images/\*_B03.tif'"):
        load({"folder": str(tmp_path), "images": patterns, "split": "train"})


def test_what_wildcards_stand_for():
    assert wildcards("images/*_B02.tif", "images/x_1_B02.tif") == ("x_1",)
    assert wildcards("B02/*", "B02/x.y.tif") == ("x.y",)
    assert wildcards("t[0-9]/*.tif", "t3/x.tif") == ("3", "x")
    assert wildcards("**/a_?.tif", "p/q/a_7.tif") == ("p/q/", "7")
    assert wildcards("a.tif", "b.tif") == ()


def test_natural_order_and_hidden_files(tmp_path):
    for name in ("t10.tif", "t2.tif", ".t1.tif", "t2.tif.aux.xml", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [item.images[0].name for item in find_images(tmp_path, "*")] == ["t2.tif", "t10.tif"]


def manifest(folder: Path, rows: list[dict]) -> Path:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def tiles(folder: Path, splits: str) -> Path:
    write_folder(folder, len(splits))
    words = {"t": "train", "v": "val", "n": "none"}
    row = {"left": LEFT, "bottom": TOP, "right": 0, "top": 0, "crs": "EPSG:32633", "gsd": GSD, "valid": 1.0}
    names = [f"tile_{index}" for index in range(len(splits))]
    return manifest(
        folder,
        [
            {"image": f"images/{name}.tif", "labels": f"labels/{name}.png", "scene": f"s{at % 2}", "split": words[mark]}
            | row
            for at, (name, mark) in enumerate(zip(names, splits, strict=True))
        ],
    )


def test_a_manifest_says_the_split(tmp_path):
    data = load(tiles(tmp_path, "vtnttv"), names=NAMES[:2])
    assert [Path(ground.name).stem for ground in data.train] == ["tile_1", "tile_3", "tile_4"]
    assert [Path(ground.name).stem for ground in data.val] == ["tile_0", "tile_5"]


def test_a_manifest_is_split_anew_by_blocks_or_scenes(tmp_path):
    tiles(tmp_path, "vtnttv")
    blocks = load(tmp_path, names=NAMES[:2], **{"data.split": "blocks", "data.val": 0.34})
    assert (len(blocks.train), len(blocks.val)) == (4, 2)
    scenes = load(tmp_path, names=NAMES[:2], **{"data.split": "scene", "data.val": 0.5})
    assert {Path(ground.name).stem[-1] for ground in scenes.val} in ({"0", "2", "4"}, {"1", "3", "5"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "images/none.tif"}, r"line 2: image='images/none\.tif' is not a file"),
        ({"split": "test"}, "line 2: split='test' is unknown. Expected train, val, none"),
    ],
)
def test_a_wrong_manifest_is_refused_by_line(tmp_path, change, said):
    write_folder(tmp_path, 1)
    row = {"image": "images/tile_0.tif", "labels": "labels/tile_0.png", "split": "train"}
    manifest(tmp_path, [row | change])
    with pytest.raises(LabelsError, match=said):
        load(tmp_path, names=NAMES[:2])
    (tmp_path / "manifest.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LabelsError, match="has no column 'image'"):
        load(tmp_path, names=NAMES[:2])


def test_manifest_labels_are_the_targets_of_a_regression(tmp_path):
    write_folder(tmp_path, 2)
    for index in range(2):
        heights = np.full((1, 24, 20), 3.5 + index, np.float32)
        place = Affine(GSD, 0, LEFT + 1000 * index, 0, -GSD, TOP)
        write_raster(tmp_path / "labels" / f"tile_{index}.tif", heights, transform=place)
    manifest(
        tmp_path,
        [{"image": f"images/tile_{i}.tif", "labels": f"labels/tile_{i}.tif", "split": "train"} for i in range(2)],
    )
    config = load_config(
        None, {"data.sources": [{"folder": str(tmp_path)}], "heads": {"height": {"task": "regression"}}}
    )
    data = load_data(config)
    assert [float(ground.further["height"].max()) for ground in data.train] == [3.5, 4.5]
    assert (np.asarray(data.train[0].target) == 0).all()
