"""Tiles from scenes and labels: the lattice, true pixels and masks, targets, the split, all or nothing."""

import csv
import json
from itertools import pairwise

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.features import rasterize
from rasters import UTM, contents, noise, write_raster
from scenes import KINDS, SHAPE
from shapely import box

from geoseg.errors import BandError, LabelsError, OutputError, OutputExistsError, SceneError, UsageError
from geoseg.grid import Grid
from geoseg.scene import Scene
from geoseg.tiles import LabelOptions, TileOptions, cutting, tile_scenes
from geoseg.tiles.lattice import count_windows, tile_windows

PLACE = UTM["transform"]
SMALL = TileOptions(tile_size=64, val=0)


def on_ground(shape, place=PLACE):
    """Pixel coordinates to CRS coordinates."""
    return shapely.transform(shape, lambda xy: np.stack(place @ tuple(xy.T), axis=1))


def write_labels(path, shapes, crs=UTM["crs"], layer=None, **columns):
    frame = gpd.GeoDataFrame(columns, geometry=[on_ground(shape) for shape in shapes], crs=UTM["crs"])
    pyogrio.write_dataframe(frame.to_crs(crs) if crs else frame.set_crs(None, allow_override=True), path, layer=layer)
    return path


@pytest.fixture
def scene(tmp_path):
    """150 rows, 200 columns, three bands, 30 cm."""
    return write_raster(tmp_path / "town.tif", noise((3, 150, 200)))


@pytest.fixture
def houses(tmp_path):
    return write_labels(tmp_path / "houses.gpkg", [box(10, 10, 30, 30), box(100, 70, 140, 90), box(180, 130, 199, 149)])


def manifest(folder):
    with (folder / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def read(path):
    with rasterio.open(path) as src:
        return src.read()


def place_of(path, whole: Affine):
    """Row and column of a tile's first pixel in its scene."""
    with rasterio.open(path) as src:
        col, row = ~whole @ (src.transform.c, src.transform.f)
        assert np.allclose(src.transform[:2] + src.transform[3:5], whole[:2] + whole[3:5], rtol=1e-12)
    assert np.allclose((row, col), (round(row), round(col)), atol=1e-6)
    return round(row), round(col)


# ---------------------------------------------------------------------------------------------------- the lattice


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.data())
def test_windows_are_of_one_size_and_cover_every_pixel(height, width, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    windows = list(tile_windows((height, width), size, overlap))
    covered = np.zeros((max(height, size), max(width, size)), int)
    for window in windows:
        assert window.shape == (size, size)
        assert min(window.row, window.col) >= 0
        covered[window.slices()] += 1
    # Nothing sticks out, but along a side that is shorter than a tile.
    assert max(window.stop_row for window in windows) == max(height, size)
    assert max(window.stop_col for window in windows) == max(width, size)
    assert covered.all()
    assert len(windows) == len(set(windows)) == count_windows((height, width), size, overlap)
    cols = sorted({window.col for window in windows})
    assert all(b - a == size - overlap for a, b in pairwise(cols[:-1]))
    assert all(b - a <= size - overlap for a, b in pairwise(cols))


def test_options_are_checked():
    for wrong, said in [
        ({"tile_size": 8}, "tile_size=8"),
        ({"tile_size": 64, "overlap": 64}, "overlap=64 does not fit"),
        ({"min_valid": 1.5}, "min_valid=1.5"),
        ({"keep_empty": -1}, "keep_empty=-1"),
        ({"val": 1}, "val=1"),
    ]:
        with pytest.raises(UsageError, match=said):
            TileOptions(**wrong)


# ---------------------------------------------------------------------------------------------------- images


_LOST = ("rotated pole",)
"""A GeoTIFF keeps these CRSs in files beside it only."""


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_have_the_scene_s_pixels_bands_and_place(tmp_path, kind):
    made = KINDS[kind](tmp_path)
    truth = np.zeros(SHAPE if made.data.shape[1:] == SHAPE else made.data.shape[1:], np.uint8)
    truth[::2] = 1
    labels = write_raster(tmp_path / "labels.tif", truth[None], crs=None, transform=None)
    out = tmp_path / "tiles"
    options = LabelOptions(classes=("building",))
    if kind in ("GCPs", "GCPs without CRS", "RPCs"):
        with pytest.raises(SceneError, match="which tiles cannot carry"):
            tile_scenes([made.path], [labels], out, tiles=SMALL, about=options)
        return
    cut = TileOptions(tile_size=48, val=0, min_valid=0)
    if kind in _LOST:
        with pytest.raises(OutputError, match="cannot hold the scene's CRS"):
            tile_scenes([made.path], [labels], out, tiles=cut, about=options)
        assert not out.exists()
        return
    tile_scenes([made.path], [labels], out, tiles=cut, about=options)
    seen = np.zeros(made.valid.shape, bool)
    with Scene.open(made.path) as whole:
        for row in manifest(out):
            top, left = map(int, row["image"].removesuffix(".tif").rpartition("_r")[2].split("_c"))
            inside = np.s_[top : min(top + 48, len(seen)), left : min(left + 48, seen.shape[1])]
            with Scene.open(out / row["image"]) as image, Scene.open(out / row["labels"]) as target:
                assert image.grid.shape == target.grid.shape == (48, 48)
                assert [band.name for band in image.bands] == [band.name for band in whole.bands]
                assert image.grid.crs == target.grid.crs
                assert (image.grid.crs is None) == (whole.grid.crs is None)
                assert place_of(out / row["image"], whole.grid.transform) == (top, left)
                tile, labelled = image.read(image.grid.window), target.read(target.grid.window)
            high, wide = seen[inside].shape
            valid = np.zeros((48, 48), bool)
            valid[:high, :wide] = made.valid[inside]
            assert tile.data.dtype == made.data.dtype
            np.testing.assert_array_equal(tile.valid, valid)
            np.testing.assert_array_equal(tile.data[:, tile.valid], made.data[:, *inside][:, made.valid[inside]])
            np.testing.assert_array_equal(labelled.valid, valid)
            np.testing.assert_array_equal(labelled.data[0][valid], truth[inside][made.valid[inside]])
            assert (labelled.data[0][~valid] == 255).all()
            seen[inside] = True
    assert not (made.valid & ~seen).any()


def test_edge_tiles_are_shifted_inwards_and_full(tmp_path, scene, houses):
    out = tmp_path / "tiles"
    tile_scenes([scene], [houses], out, tiles=SMALL)
    places = {place_of(out / row["image"], PLACE) for row in manifest(out)}
    assert places == {(row, col) for row in (0, 64, 86) for col in (0, 64, 128, 136)}
    assert {row["valid"] for row in manifest(out)} == {"1.0"}


def test_a_scene_smaller_than_a_tile_is_filled_up_with_no_data(tmp_path, scene, houses):
    out = tmp_path / "tiles"
    done = tile_scenes([scene], [houses], out, tiles=TileOptions(tile_size=256, val=0))
    assert done.tiles == 1
    (row,) = manifest(out)
    assert (row["width"], row["height"]) == ("256", "256")
    assert float(row["valid"]) == pytest.approx(150 * 200 / 256**2, abs=1e-6)
    image, target = read(out / row["image"]), read(out / row["labels"])[0]
    np.testing.assert_array_equal(image[:, :150, :200], read(scene))
    assert not image[:, 150:].any()
    assert (target[150:] == 255).all()
    assert (target[:, 200:] == 255).all()
    assert (target[:150, :200] != 255).all()
    with rasterio.open(out / row["image"]) as src:
        expected = np.zeros((256, 256), bool)
        expected[:150, :200] = True
        np.testing.assert_array_equal(src.dataset_mask() > 0, expected)


def test_a_scene_much_smaller_than_a_tile_counts_by_its_own_pixels(tmp_path):
    chip = write_raster(tmp_path / "chip.tif", noise((3, 40, 50)))
    labels = write_labels(tmp_path / "labels.gpkg", [box(5, 5, 20, 20)])
    assert tile_scenes([chip], [labels], tmp_path / "tiles").tiles == 1


def test_bands_are_chosen_and_keep_their_names(tmp_path, houses):
    path = tmp_path / "eight.tif"
    write_raster(path, noise((8, 150, 200), dtype=np.uint16))
    with rasterio.open(path, "r+") as dst:
        dst.descriptions = [f"B{index}" for index in range(8)]
    out = tmp_path / "tiles"
    tile_scenes([path], [houses], out, tiles=TileOptions(tile_size=128, val=0, bands=("B7", 1)))
    with rasterio.open(out / manifest(out)[0]["image"]) as src, rasterio.open(path) as whole:
        assert (src.count, src.dtypes[0], src.descriptions) == (2, "uint16", ("B7", "B0"))
        np.testing.assert_array_equal(src.read(), whole.read([8, 1])[:, :128, :128])


def test_files_are_read_by_programs_that_know_no_geography(tmp_path, scene, houses):
    from PIL import Image

    out = tmp_path / "tiles"
    tile_scenes([scene], [houses], out, tiles=SMALL)
    row = manifest(out)[0]
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / row["image"])), read(out / row["image"]).transpose(1, 2, 0)
    )
    np.testing.assert_array_equal(np.asarray(Image.open(out / row["labels"])), read(out / row["labels"])[0])


# ---------------------------------------------------------------------------------------------------- targets


def test_targets_are_what_an_independent_rasterization_gives(tmp_path, scene):
    rng = np.random.default_rng(3)
    shapes = [
        shapely.affinity.rotate(box(x, y, x + w, y + h), angle)
        for x, y, w, h, angle in zip(
            rng.uniform(0, 190, 25), rng.uniform(0, 140, 25), *rng.uniform(4, 30, (2, 25)), rng.uniform(0, 90, 25),
            strict=True,
        )
    ]  # fmt: skip
    kinds = ["building", "road", "tree"] * 9
    path = write_labels(tmp_path / "labels.geojson", shapes, crs="EPSG:4326", kind=kinds[:25])
    out = tmp_path / "tiles"
    about = LabelOptions(class_field="kind", classes=("building", "road"))
    done = tile_scenes([scene], [path], out, tiles=TileOptions(tile_size=64, overlap=16, val=0), about=about)
    order = [*np.flatnonzero(np.array(kinds[:25]) == "road"), *np.flatnonzero(np.array(kinds[:25]) == "building")]
    burnt = rasterize([(shapes[i], {"building": 1, "road": 2}[kinds[i]]) for i in order], out_shape=(150, 200))
    whole = np.full((150, 200), 99, np.uint8)
    for row in manifest(out):
        top, left = place_of(out / row["labels"], PLACE)
        target = read(out / row["labels"])[0]
        whole[top : top + 64, left : left + 64] = target
        for index, name in enumerate(done.classes):
            assert float(row[f"share_{name}"]) == pytest.approx((target == index).mean(), abs=1e-6)
    assert done.classes == ("background", "building", "road")
    # Coordinates went to degrees and back: centres on an outline may go either way.
    edges = shapely.union_all([shape.boundary for shape in shapes])
    rows, cols = np.mgrid[:150, :200] + 0.5
    clear = shapely.distance(edges, shapely.points(cols, rows)) > 0.01
    np.testing.assert_array_equal(whole[clear], burnt[clear])
    assert clear.mean() > 0.99


def test_target_files_say_what_they_are(tmp_path, scene, houses):
    out = tmp_path / "tiles"
    tile_scenes([scene], [houses], out, tiles=SMALL)
    with rasterio.open(out / manifest(out)[0]["labels"]) as src:
        assert (src.count, src.dtypes[0], src.nodata) == (1, "uint8", 255)
        assert src.colorinterp[0].name == "palette"
        assert src.colormap(1)[1][:3] == (0xE6, 0x19, 0x4B)
        assert json.loads(src.tags()["GEOSEG_CLASSES"]) == ["background", "building"]
    assert {path.name for path in out.iterdir()} == {"images", "labels", "manifest.csv", "manifest.gpkg"}
    assert {path.suffix for path in out.rglob("*/*")} == {".tif"}


def test_outside_of_the_labelled_area_nothing_is_known(tmp_path, scene, houses):
    area = write_labels(tmp_path / "area.gpkg", [box(0, 0, 100, 150)])
    out = tmp_path / "tiles"
    done = tile_scenes([scene], [houses], out, tiles=TileOptions(tile_size=64, val=0, min_valid=0.3), areas=[area])
    assert (done.tiles, done.poor) == (6, 6)
    for row in manifest(out):
        _, left = place_of(out / row["labels"], PLACE)
        known = read(out / row["labels"])[0] != 255
        np.testing.assert_array_equal(known, np.broadcast_to(np.arange(left, left + 64) < 100, (64, 64)))
        assert float(row["valid"]) == pytest.approx(known.mean(), abs=1e-6)


def test_lines_become_roads_and_contacts_are_painted(tmp_path, scene):
    houses = [box(20, 20, 40.5, 40), box(40.5, 20, 60, 40)]
    path = write_labels(tmp_path / "all.gpkg", houses, layer="buildings")
    write_labels(path, [shapely.LineString([(0, 100), (200, 100)])], layer="roads")
    out = tmp_path / "tiles"
    about = LabelOptions(line_width_m=6, contact=True)
    done = tile_scenes([scene], [path], out, tiles=TileOptions(tile_size=256, val=0), about=about)
    assert done.classes == ("background", "building", "road", "contact")
    target = read(out / manifest(out)[0]["labels"])[0]
    assert (target[:150, 100] == 2).sum() == 20  # 6 m at 30 cm
    assert np.flatnonzero(target[30] == 3).tolist() == [39, 40, 41]


def test_a_raster_of_classes_on_the_same_pixels(tmp_path, scene, warnings):
    truth = np.random.default_rng(0).choice([0, 7, 200, 255], (1, 150, 200)).astype(np.uint8)
    path = write_raster(tmp_path / "truth.tif", truth)
    out = tmp_path / "tiles"
    about = LabelOptions(values={0: "background", 7: "road", 255: "building"})
    done = tile_scenes([scene], [path], out, tiles=TileOptions(tile_size=256, val=0), about=about)
    assert done.classes == ("background", "road", "building")
    table = np.full(256, 255, np.uint8)
    table[[0, 7, 255]] = 0, 1, 2
    np.testing.assert_array_equal(read(out / manifest(out)[0]["labels"])[0][:150, :200], table[truth[0]])
    with pytest.raises(LabelsError, match=r"has the value (7|200)\. Expected class indices 0, 1, or 255 for unknown"):
        tile_scenes([scene], [path], tmp_path / "b", tiles=SMALL, about=LabelOptions(classes=("building",)))
    with pytest.raises(UsageError, match="does not name its classes"):
        tile_scenes([scene], [path], tmp_path / "b", tiles=SMALL)
    zero = write_raster(tmp_path / "zero.tif", np.where(truth == 7, 1, 0).astype(np.uint8), nodata=0)
    done = tile_scenes([scene], [zero], tmp_path / "c", tiles=SMALL, about=LabelOptions(classes=("building",)))
    assert done.shares == (0, 1)
    assert len([line for line in warnings if "declares 0 as no data" in line]) == 1
    kept = LabelOptions(values={0: "background", 1: "building"})
    assert 0.7 < tile_scenes([scene], [zero], tmp_path / "d", tiles=SMALL, about=kept).shares[0] < 0.8


def test_tiles_of_tiles_know_their_classes(tmp_path, scene, houses):
    """A raster that geoseg has written names its classes; those not asked for are background."""
    tile_scenes([scene], [houses], tmp_path / "a", tiles=TileOptions(tile_size=256, val=0))
    row = manifest(tmp_path / "a")[0]
    image, labels = tmp_path / "a" / row["image"], tmp_path / "a" / row["labels"]
    done = tile_scenes([image], [labels], tmp_path / "b", tiles=SMALL)
    assert done.classes == ("background", "building")
    assert done.poor == 5  # beyond the first scene's edge, or all but
    with pytest.raises(LabelsError, match=r"knows background, building. Expected some of road"):
        tile_scenes([image], [labels], tmp_path / "c", tiles=SMALL, about=LabelOptions(classes=("road",)))


def test_a_raster_of_another_crs_and_pixel_size_is_looked_up_under_each_pixel(tmp_path, scene):
    west, south, east, north = Grid((150, 200), PLACE, UTM["crs"]).bounds
    to_degrees = Transformer.from_crs(UTM["crs"], "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform((west, east, west, east), (south, north, north, south))
    step = 1e-5
    place = Affine(step, 0, min(lon) - 5 * step, 0, -step, max(lat) + 5 * step)
    shape = round((max(lat) - min(lat)) / step) + 10, round((max(lon) - min(lon)) / step) + 10
    classes = np.random.default_rng(0).integers(0, 3, (1, *shape)).astype(np.uint8)
    path = write_raster(tmp_path / "truth.tif", classes, crs="EPSG:4326", transform=place)
    out = tmp_path / "classes"
    about = LabelOptions(classes=("building", "road"))
    tile_scenes([scene], [path], out, tiles=TileOptions(tile_size=64, overlap=20, val=0), about=about)
    rows, cols = np.mgrid[:150, :200] + 0.5
    lon, lat = to_degrees.transform(*(PLACE @ (cols.ravel(), rows.ravel())))
    u, v = (axis.reshape(150, 200) for axis in ~place @ (np.array(lon), np.array(lat)))
    expected = classes[0][np.floor(v).astype(int), np.floor(u).astype(int)]
    for row in manifest(out):
        top, left = place_of(out / row["labels"], PLACE)
        np.testing.assert_array_equal(read(out / row["labels"])[0], expected[top : top + 64, left : left + 64])

    # Heights that are a plane over longitude and latitude are the same plane after interpolation.
    down, across = np.mgrid[: shape[0], : shape[1]] + 0.5
    heights = (20 + 0.5 * across - 0.25 * down)[None].astype(np.float32)
    heights[0, 30, 40] = -9999
    path = write_raster(tmp_path / "heights.tif", heights, crs="EPSG:4326", transform=place, nodata=-9999)
    out = tmp_path / "values"
    done = tile_scenes([scene], [path], out, tiles=TileOptions(tile_size=64, overlap=20, val=0))
    assert done.classes == ()
    unknown = 0
    for row in manifest(out):
        top, left = place_of(out / row["labels"], PLACE)
        part = np.s_[top : top + 64, left : left + 64]
        target = read(out / row["labels"])[0]
        hidden = (np.abs(u - 40.5) < 1) & (np.abs(v - 30.5) < 1)
        np.testing.assert_array_equal(np.isnan(target), hidden[part])
        known = ~np.isnan(target)
        np.testing.assert_allclose(target[known], (20 + 0.5 * u - 0.25 * v)[part][known], atol=1e-4)
        unknown += (~known).sum()
    assert unknown


def test_values_of_a_regression(tmp_path, scene):
    heights = np.linspace(-3, 40, 30000, dtype=np.float64).reshape(1, 150, 200)
    heights[0, :20] = np.nan
    path = write_raster(tmp_path / "heights.tif", heights, crs=None, transform=None)
    out = tmp_path / "tiles"
    done = tile_scenes([scene], [path], out, tiles=TileOptions(tile_size=64, val=0.3))
    assert (done.classes, done.shares) == ((), ())
    assert not [name for name in manifest(out)[0] if name.startswith("share_")]
    for row in manifest(out):
        top, left = place_of(out / row["labels"], PLACE)
        with rasterio.open(out / row["labels"]) as src:
            assert (src.dtypes[0], np.isnan(src.nodata)) == ("float32", True)
            expected = heights[0, top : top + 64, left : left + 64].astype(np.float32)
            np.testing.assert_array_equal(src.read(1), expected)
    with pytest.raises(UsageError, match="keep_empty"):
        tile_scenes([scene], [path], tmp_path / "b", tiles=TileOptions(keep_empty=0.5))
    with pytest.raises(UsageError, match=r"--contact.*is a raster"):
        tile_scenes([scene], [path], tmp_path / "b", about=LabelOptions(contact=True))


# ---------------------------------------------------------------------------------------------------- what is kept


def test_tiles_without_a_class_are_undersampled(tmp_path, scene, houses):
    kept = {}
    for share in (0, 0.25, 1):
        out = tmp_path / f"tiles{share}"
        done = tile_scenes([scene], [houses], out, tiles=TileOptions(tile_size=16, val=0, keep_empty=share))
        kept[share] = [float(row["share_building"]) > 0 for row in manifest(out)]
        assert len(kept[share]) + done.empty == 130
    assert {sum(full) for full in kept.values()} == {sum(kept[1])}
    empty = {share: len(full) - sum(full) for share, full in kept.items()}
    assert empty[0] == 0
    assert empty[1] > 100
    assert empty[0.25] == pytest.approx(0.25 * empty[1], abs=2)


def test_all_is_the_same_for_the_same_seed(tmp_path, scene, houses):
    options = TileOptions(tile_size=32, keep_empty=0.5, seed=3)
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for folder, seed in zip(folders, (3, 3, 4), strict=True):
        tile_scenes([scene], [houses], folder, tiles=TileOptions(tile_size=32, keep_empty=0.5, seed=seed))
    digests = [{name: about[0] for name, about in contents(folder).items()} for folder in folders]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    assert options.seed == 3


# ---------------------------------------------------------------------------------------------------- the split


@pytest.mark.parametrize("overlap", [0, 8])
def test_blocks_for_validation_share_no_ground_with_training(tmp_path, houses, overlap):
    path = write_raster(tmp_path / "scene.tif", noise((1, 250, 300)))
    out = tmp_path / "tiles"
    done = tile_scenes([path], [houses], out, tiles=TileOptions(tile_size=32, overlap=overlap, val=0.2, gap=16))
    rows = manifest(out)
    shapes = {part: shapely.union_all([shapely.box(*(float(row[side]) for side in ("left", "bottom", "right", "top")))
              for row in rows if row["split"] == part]) for part in ("train", "val", "none")}  # fmt: skip
    assert shapes["train"].distance(shapes["val"]) >= 16 * 0.3 - 1e-6
    assert (done.train, done.val, done.between) == tuple(
        sum(row["split"] == part for row in rows) for part in ("train", "val", "none")
    )
    assert 0.1 < done.val / done.tiles < 0.35
    assert done.train > done.between


def test_whole_scenes_or_any_tiles_can_be_held_back(tmp_path, warnings):
    scenes, labels = [], []
    for index in range(4):
        place = PLACE @ Affine.translation(index * 1000, 0)
        scenes.append(write_raster(tmp_path / f"s{index}.tif", noise((3, 64, 96)), transform=place))
        shape = on_ground(box(5, 5, 40, 40), place)
        labels.append(tmp_path / f"s{index}.gpkg")
        pyogrio.write_dataframe(gpd.GeoDataFrame(geometry=[shape], crs=UTM["crs"]), labels[-1])
    options = {"tile_size": 32, "val": 0.25}
    tile_scenes(scenes, labels, tmp_path / "a", tiles=TileOptions(**options, split="scene"))
    parts = {(row["scene"], row["split"]) for row in manifest(tmp_path / "a")}
    assert sorted(part for _, part in parts) == ["train", "train", "train", "val"]
    done = tile_scenes(scenes, labels, tmp_path / "b", tiles=TileOptions(**options, split="random"))
    assert (done.train, done.val, done.between) == (18, 6, 0)
    assert "at random" in warnings[-1]
    with pytest.raises(UsageError, match="split=scene: all tiles are of s0"):
        tile_scenes(scenes[:1], labels[:1], tmp_path / "c", tiles=TileOptions(**options, split="scene"))
    assert not (tmp_path / "c").exists()


def test_scenes_of_the_same_ground_are_split_alike(tmp_path, houses):
    """Two dates of one place: ground that is validated on at one of them is not learnt from at the other."""
    scenes = [write_raster(tmp_path / f"{year}.tif", noise((1, 150, 200), seed=year)) for year in (2020, 2021)]
    out = tmp_path / "tiles"
    tile_scenes(scenes, [houses], out, tiles=TileOptions(tile_size=32, gap=0))
    parts = {}
    for row in manifest(out):
        parts.setdefault((row["left"], row["top"]), set()).add(row["split"])
    assert {frozenset(part) for part in parts.values()} >= {frozenset({"train"}), frozenset({"val"})}
    assert not [part for part in parts.values() if part >= {"train", "val"}]


# ---------------------------------------------------------------------------------------------------- the manifest


def test_manifest_and_footprints_agree(tmp_path, scene, houses):
    out = tmp_path / "tiles"
    done = tile_scenes([scene], [houses], out, tiles=TileOptions(tile_size=64))
    rows = manifest(out)
    assert list(rows[0]) == [
        "image", "labels", "scene", "split", "left", "bottom", "right", "top", "crs", "width", "height", "gsd", "valid",
        "share_background", "share_building",
    ]  # fmt: skip
    assert {(row["scene"], row["crs"], row["width"]) for row in rows} == {("town", "EPSG:32637", "64")}
    assert float(rows[0]["gsd"]) == pytest.approx(0.3, rel=1e-3)
    footprints = pyogrio.read_dataframe(out / "manifest.gpkg", layer="tiles")
    assert footprints.crs.to_epsg() == 32637
    assert footprints["image"].tolist() == [row["image"] for row in rows]
    for row, shape in zip(rows, footprints.geometry, strict=True):
        with rasterio.open(out / row["image"]) as src:
            assert shape.bounds == pytest.approx(src.bounds, abs=1e-6)
            assert [float(row[side]) for side in ("left", "bottom", "right", "top")] == pytest.approx(
                src.bounds, abs=1e-6
            )
    assert "layer_styles" in pyogrio.list_layers(out / "manifest.gpkg")[:, 0]
    assert done.to_dict()["tiles"] == len(rows)


def test_scenes_of_several_crs_and_one_file_of_labels(tmp_path, scene, houses):
    west, south, _, north = Grid((150, 200), PLACE, UTM["crs"]).bounds
    lon, lat = Transformer.from_crs(UTM["crs"], "EPSG:4326", always_xy=True).transform(west, north)
    degrees = write_raster(
        tmp_path / "degrees.tif", noise((3, 150, 200)), crs="EPSG:4326", transform=Affine(4e-6, 0, lon, 0, -4e-6, lat)
    )
    pixels = write_raster(tmp_path / "town", noise((3, 150, 200)), crs=None)
    out = tmp_path / "tiles"
    done = tile_scenes([scene, degrees, pixels], [houses], out, tiles=SMALL)
    rows = manifest(out)
    assert {(row["scene"], row["crs"]) for row in rows} == {
        ("town", "EPSG:32637"), ("degrees", "EPSG:4326"), ("town-2", "")
    }  # fmt: skip
    assert len({row["image"] for row in rows}) == done.tiles == 36
    assert pyogrio.read_info(out / "manifest.gpkg", layer="tiles")["crs"] == "EPSG:4326"
    assert pyogrio.read_info(out / "manifest.gpkg", layer="tiles_without_crs")["features"] == 12
    shapes = pyogrio.read_dataframe(out / "manifest.gpkg", layer="tiles")
    assert shapes[shapes["scene"] == "town"].total_bounds == pytest.approx(
        shapes[shapes["scene"] == "degrees"].total_bounds, abs=1e-3
    )
    assert south < north
    for row in rows:
        with rasterio.open(out / row["image"]) as src:
            assert (src.crs.to_string() if src.crs else "") == row["crs"]


# ---------------------------------------------------------------------------------------------------- refusals


def refused(error, said, tmp_path, *args, **kwargs):
    before = contents(tmp_path)
    with pytest.raises(error, match=said):
        tile_scenes(*args, tmp_path / "tiles", **kwargs)
    assert contents(tmp_path) == before


def test_labels_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, scene, houses):
    far = write_labels(tmp_path / "far.gpkg", [box(9000, 9000, 9010, 9010)])
    empty = write_labels(tmp_path / "empty.gpkg", [])
    metres = tmp_path / "metres.gpkg"
    pyogrio.write_dataframe(gpd.GeoDataFrame(geometry=[on_ground(box(1, 1, 9, 9))], crs="EPSG:4326"), metres)
    crossed = write_labels(tmp_path / "crossed.gpkg", [shapely.Polygon([(0, 0), (9, 9), (9, 0), (0, 9)])])
    other = write_labels(tmp_path / "other.gpkg", [box(1, 1, 9, 9)], kind=["tree"])
    # Round the corner of the scene, but on none of its pixels.
    bare = write_labels(tmp_path / "bare.gpkg", [shapely.Polygon([(-50, 10), (10, -50), (-50, -50)])])
    ones = np.ones((1, 20, 20), np.uint8)
    raster = write_raster(tmp_path / "raster.tif", ones, transform=PLACE @ Affine.translation(900, 0))
    small = write_raster(tmp_path / "small.tif", ones, crs=None, transform=None)
    wide = write_raster(tmp_path / "wide.tif", np.ones((3, 150, 200), np.uint8))
    building = LabelOptions(classes=("building",))
    for labels, about, error, said in [
        (far, None, LabelsError, "lies outside the scene: it spans"),
        (empty, None, LabelsError, "has no polygons"),
        (metres, None, LabelsError, "declares degrees"),
        (crossed, None, LabelsError, "1 invalid polygons"),
        (other, LabelOptions(class_field="kind"), LabelsError, "holds tree. Expected names of classes"),
        (other, LabelOptions(class_field="sort"), UsageError, "class field='sort'"),
        (bare, None, LabelsError, "no pixel of any tile is building: there is nothing to learn"),
        (raster, building, LabelsError, "lies outside the scene: it is 20 x 20 pixels in WGS 84"),
        (small, building, LabelsError, "lies outside the scene|20 x 20"),
        (wide, building, LabelsError, "has 3 bands"),
        (tmp_path / "none.gpkg", None, LabelsError, "does not exist"),
        (houses, LabelOptions(classes=("a", "a")), UsageError, "'a' is there twice"),
        (houses, LabelOptions(classes=("a", "A")), UsageError, "'a' is there twice.* not by their case alone"),
        (houses, LabelOptions(classes=("background",)), UsageError, "1 to 253 classes"),
        (houses, LabelOptions(layer="huts"), UsageError, "layer='huts'"),
    ]:  # fmt: skip
        refused(error, said, tmp_path, [scene], [labels], tiles=SMALL, about=about)
    for choice in ("fix", "skip"):
        about = LabelOptions(invalid_geometry=choice)
        both = write_labels(
            tmp_path / f"{choice}.gpkg", [shapely.Polygon([(0, 0), (9, 9), (9, 0), (0, 9)]), box(20, 20, 30, 30)]
        )
        counts = tile_scenes([scene], [both], tmp_path / choice, tiles=SMALL, about=about).shares[1] * 12 * 64**2
        assert (counts > 110) == (choice == "fix")


def test_scenes_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, scene, houses):
    one = write_raster(tmp_path / "one.tif", noise((1, 150, 200)))
    empty = write_raster(tmp_path / "empty.tif", np.zeros((3, 150, 200), np.uint8), nodata=0)
    for scenes, labels, error, said in [
        ([scene, one], [houses], BandError, "one.tif has 1 bands, .*town.tif 3. Expected the same everywhere"),
        ([scene, one], [houses] * 3, UsageError, "--labels: 3 files for 2 scenes"),
        ([], [houses], UsageError, "no scenes"),
        ([tmp_path / "none.tif"], [houses], SceneError, "cannot be opened"),
        ([empty], [houses], LabelsError, "no window has 10% usable, labelled pixels"),
    ]:
        refused(error, said, tmp_path, scenes, labels, tiles=SMALL)
    refused(BandError, "nir", tmp_path, [scene], [houses], tiles=TileOptions(bands=("nir",)))


def test_a_folder_is_replaced_only_when_asked_and_only_one_of_tiles(tmp_path, scene, houses):
    out = tmp_path / "tiles"
    tile_scenes([scene], [houses], out, tiles=SMALL)
    refused(OutputExistsError, "Expected a free name, or --overwrite", tmp_path, [scene], [houses], tiles=SMALL)
    tile_scenes([scene], [houses], out, tiles=TileOptions(tile_size=128, val=0), overwrite=True)
    assert {row["width"] for row in manifest(out)} == {"128"}
    assert len(list((out / "images").iterdir())) == len(manifest(out)) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["houses.gpkg", "tiles", "town.tif"]
    own = out / "images" / "mine.tif"
    own.write_bytes(scene.read_bytes())
    refused(OutputExistsError, "which would be replaced", tmp_path, [own], [houses], overwrite=True)
    (out / "manifest.csv").unlink()
    refused(
        OutputExistsError, "has no manifest.csv: it is not of this command", tmp_path, [scene], [houses], overwrite=True
    )
    with pytest.raises(OutputExistsError, match="is no folder"):
        tile_scenes([scene], [houses], houses, tiles=SMALL, overwrite=True)
    with pytest.raises(OutputError, match="does not exist"):
        tile_scenes([scene], [houses], tmp_path / "no" / "tiles", tiles=SMALL)
    (tmp_path / "fresh").mkdir()
    tile_scenes([scene], [houses], tmp_path / "fresh", tiles=SMALL)


@pytest.mark.parametrize("stop", [OutputError("full"), KeyboardInterrupt()])
def test_an_unfinished_run_leaves_nothing_and_the_old_folder_as_it_was(tmp_path, scene, houses, monkeypatch, stop):
    out = tmp_path / "tiles"
    tile_scenes([scene], [houses], out, tiles=SMALL)
    before = contents(tmp_path)
    calls = []

    def full(path, content):
        calls.append(path)
        if len(calls) == 5:
            raise stop
        path.write_bytes(content)

    monkeypatch.setattr(cutting, "store", full)
    with pytest.raises(type(stop)):
        tile_scenes([scene], [houses], out, tiles=SMALL, overwrite=True)
    assert len(calls) == 5
    assert contents(tmp_path) == before


def test_what_a_killed_run_left_goes_and_a_run_at_work_is_let_alone(tmp_path, scene, houses):
    out, hidden = tmp_path / "tiles", tmp_path / ".tiles.partial"
    (hidden / "images").mkdir(parents=True)
    (hidden / "images" / "half.tif").write_bytes(b"II*")
    seen = []

    def second(done, total):
        if done == 1:
            with pytest.raises(OutputExistsError, match="is being written by another run"):
                tile_scenes([scene], [houses], out, tiles=SMALL)
            seen.append(total)

    tile_scenes([scene], [houses], out, tiles=SMALL, on_progress=second)
    assert seen == [12]
    assert len(list((out / "images").iterdir())) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["houses.gpkg", "tiles", "town.tif"]


def test_a_full_disk_is_told(tmp_path, scene, houses, monkeypatch):
    def no_room(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    refused(OutputError, r"cannot be written \(No space left on device\)", tmp_path, [scene], [houses], tiles=SMALL)


def test_no_more_than_a_tile_is_read_at_once(tmp_path, scene, houses, monkeypatch):
    areas, plain = [], Scene.read

    def watched(self, window):
        areas.append(window.area)
        return plain(self, window)

    monkeypatch.setattr(Scene, "read", watched)
    truth = write_raster(tmp_path / "truth.tif", np.ones((1, 150, 200), np.uint8))
    tile_scenes([scene], [houses], tmp_path / "a", tiles=SMALL)
    tile_scenes([scene], [truth], tmp_path / "b", tiles=SMALL, about=LabelOptions(classes=("building",)))
    assert max(areas) == 64**2
    # Where nothing is labelled the scene is not read at all.
    areas.clear()
    area = write_labels(tmp_path / "area.gpkg", [box(0, 0, 60, 60)])
    tile_scenes([scene], [houses], tmp_path / "c", tiles=SMALL, areas=[area])
    assert len(areas) == 1
