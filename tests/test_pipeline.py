"""predict_scene on files: equal to one pass over the whole scene, on the scene's grid, the same bytes by any road."""

import json
import logging
import os
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from checkpoints import CLASSES, COLORS, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasters import UTM, contents, digests, noise, write_raster
from scipy.ndimage import label

from geoseg import pipeline, plans
from geoseg.checkpoint import ClassInfo, Head, load_checkpoint, save_checkpoint
from geoseg.errors import GeosegError, OutputExistsError, ResumeError, UsageError
from geoseg.models import MODELS, build_model
from geoseg.models.receptive import receptive_radius
from geoseg.parallel import Inline, Processes, Scheduler, Threads
from geoseg.pipeline import Products, Settings, predict_scene
from geoseg.pixels import NODATA
from geoseg.vectors import OutlineOptions, vectorize_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

BANDS = (*COLORS, "swir")
FLOAT32 = Settings(precision="float32", device="cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints by (number of bands, depth), made when asked for."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def get(count, depth=1, constant=None):
        key = (count, depth, constant)
        if key not in made:
            path = folder / f"{count}_{depth}_{constant}.safetensors"
            made[key] = write_checkpoint(path, bands=BANDS[:count], depth=depth, constant=constant, cell_side=64)
        return made[key]

    return get


def products_in(folder, **others):
    return Products(labels=folder / "out.tif", **{name: folder / path for name, path in others.items()})


RASTERS = {"confidence": "confidence.tif", "probabilities": "probabilities.tif"}
ALL = {"vectors": "out.gpkg", **RASTERS}


def read(path):
    with rasterio.open(path) as src:
        return src.read().squeeze(0) if src.count == 1 else src.read()


# ---- exactness


@st.composite
def small_scenes(draw):
    """(data, valid, how, profile): any size from 1x1, type, number of bands, and way to say what is not there."""
    height, width = draw(st.integers(1, 101)), draw(st.integers(1, 67))
    if draw(st.booleans()):
        height = draw(st.sampled_from([1, height]))
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]))
    count = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = noise((count, height, width), rng.integers(2**31), dtype=dtype)
    valid = rng.random((height, width)) >= draw(st.sampled_from([0.0, 0.2, 1.0]))
    how = draw(st.sampled_from(["tag", "alpha", "mask"]))
    profile = {"photometric": "minisblack"}
    if how == "tag":
        profile["nodata"] = 0
        data[:, ~valid] = 0
        if count > 1:
            data[0, rng.random((height, width)) < 0.1] = 0  # one band of several is not nodata
    if dtype == np.float32:
        broken = rng.random((height, width)) < 0.1
        data[rng.integers(count), broken] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        valid = valid & ~broken
    if draw(st.booleans()):
        profile |= {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    return data, valid, how, profile


def whole_scene(model, header, data, valid):
    """Logits (K, H, W) by one pass of the bare network over the whole scene, mirrored by numpy."""
    halo = 32
    extra = [(halo, halo + -side % header.stride) for side in valid.shape]
    filled = np.where(valid, data.astype(np.float64), 0)
    x = np.where(valid, (filled - header.mean[0]) / header.std[0], 0).astype(np.float32)
    x = np.pad(x, [(0, 0), *extra], mode="reflect")
    with torch.inference_mode():
        return model(torch.from_numpy(x)[None])[0, :, halo:, halo:][:, : valid.shape[0], : valid.shape[1]]


@settings(max_examples=20)
@given(data=st.data())
def test_the_output_equals_one_pass_over_the_whole_scene(models, data):
    pixels, valid, how, profile = data.draw(small_scenes())
    checkpoint = models(len(pixels), depth=data.draw(st.integers(1, 2)))
    header, model = load_checkpoint(checkpoint).header, load_checkpoint(checkpoint).build()
    halo = -(-header.receptive_radius // header.stride) * header.stride
    cell = header.stride * data.draw(st.integers(16 // header.stride, 112 // header.stride))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = write_raster(folder / "scene.tif", pixels, valid=valid, how=how, **profile)
        predict_scene(
            scene,
            checkpoint,
            products=products_in(folder, confidence="c.tif", probabilities="p.tif"),
            settings=Settings(precision="float32", device="cpu", tile_size=cell + 2 * halo),
            backend=Inline(),
        )
        labels, confidence, probabilities = (read(folder / name) for name in ("out.tif", "c.tif", "p.tif"))
    assert labels.shape == valid.shape
    for array in (labels, confidence, *probabilities):
        np.testing.assert_array_equal(array == NODATA, ~valid)
    logits = whole_scene(model, header, pixels, valid)
    first, second = logits.topk(2, dim=0).values
    clear = ((first - second) > 1e-4).numpy() & valid
    np.testing.assert_array_equal(labels[clear], logits.argmax(0).numpy()[clear])
    expected = torch.softmax(logits.double(), 0).numpy() * 254
    assert np.abs(probabilities[:, valid] - expected[:, valid]).max(initial=0) < 0.51
    assert np.abs(confidence[valid] - expected.max(0)[valid]).max(initial=0) < 0.51


@settings(max_examples=8)
@given(data=st.data())
def test_a_constant_model_is_constant_to_the_corner(models, data):
    pixels, valid, how, profile = data.draw(small_scenes())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = write_raster(folder / "scene.tif", pixels, valid=valid, how=how, **profile)
        products = products_in(folder, confidence="c.tif", vectors="v.gpkg")
        predict_scene(scene, models(len(pixels), constant=1), products=products, backend=Threads(2))
        np.testing.assert_array_equal(read(folder / "out.tif"), np.where(valid, 1, NODATA))
        np.testing.assert_array_equal(read(folder / "c.tif"), np.where(valid, 254, NODATA))
        assert len(geopandas.read_file(folder / "v.gpkg", layer="road_surfaces")) == 0
        vectorize_raster(folder / "out.tif", folder / "raw.gpkg", options=OutlineOptions(raw=True))
        buildings = geopandas.read_file(folder / "raw.gpkg", layer="buildings")
        assert buildings.area.sum() == pytest.approx(valid.sum() * 0.09)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32637", Affine(0.3, 0, 500000, 0, -0.3, 6200000)),
        ("EPSG:32637", Affine(0.3, 0, 500000, 0, -0.3, 6200000) @ Affine.rotation(30)),
        ("EPSG:32637", Affine(0.3, 0, 500000, 0, 0.3, 6200000)),  # south-up
        ("EPSG:4326", Affine(1e-6, 0, 37.5, 0, -1e-6, 55.5)),
        ("EPSG:2263", Affine(1, 0, 980000, 0, -1, 200000)),  # feet
        ("EPSG:3857", Affine(0.3, 0, 4e6, 0, -0.3, 7.5e6)),
        (None, Affine.identity()),
        (None, Affine(2, 0, 100, 0, -2, 50)),
    ],
    ids=["north-up", "rotated", "south-up", "degrees", "feet", "web mercator", "pixels", "no CRS"],
)
def test_the_grid_is_the_scenes(models, tmp_path, crs, transform):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 21, 34)), crs=crs, transform=transform)
    predict_scene(scene, models(3), products=products_in(tmp_path, **ALL), backend=Inline())
    with rasterio.open(scene) as src:
        for name in ("out.tif", "confidence.tif", "probabilities.tif"):
            with rasterio.open(tmp_path / name) as out:
                assert (out.shape, out.transform, out.crs) == (src.shape, src.transform, src.crs)
    for layer in ("buildings", "road_surfaces"):
        frame = geopandas.read_file(tmp_path / "out.gpkg", layer=layer)
        assert (frame.crs is None) == (crs is None)
        if crs:
            assert frame.crs.to_epsg() == int(crs.partition(":")[2])
        assert ("area_px" in frame) == (crs is None)


def test_pixel_is_point(models, tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 9, 9)))
    with rasterio.open(scene, "r+") as dst:
        dst.update_tags(AREA_OR_POINT="Point")
    predict_scene(scene, models(3), products=products_in(tmp_path), backend=Inline())
    with rasterio.open(scene) as src, rasterio.open(tmp_path / "out.tif") as out:
        assert out.transform == src.transform


def test_ground_control_points_are_carried(models, tmp_path):
    scene = tmp_path / "scene.tif"
    points = [GroundControlPoint(row, col, 37 + col / 1e4, 55 - row / 1e4) for row in (0, 20) for col in (0, 33)]
    write_raster(scene, noise((3, 21, 34)), crs=None, transform=Affine.identity())
    with rasterio.open(scene, "r+") as dst:
        dst.gcps = (points, rasterio.CRS.from_epsg(4326))
    predict_scene(scene, models(3), products=products_in(tmp_path), backend=Inline())
    with rasterio.open(tmp_path / "out.tif") as out:
        found, crs = out.gcps
    assert crs.to_epsg() == 4326
    assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]


def test_a_scene_without_data_costs_no_forward_pass(models, tmp_path, monkeypatch):
    scene = write_raster(tmp_path / "scene.tif", np.zeros((3, 50, 70), np.uint8), nodata=0)
    monkeypatch.setattr("geoseg.predict.Runner._forward", lambda *_: pytest.fail("a forward pass"))
    done = predict_scene(scene, models(3), products=products_in(tmp_path, **ALL), backend=Inline())
    assert (read(tmp_path / "out.tif") == NODATA).all()
    assert (read(tmp_path / "probabilities.tif") == NODATA).all()
    assert done.features == {"buildings": 0, "road_surfaces": 0, "roads": 0, "road_nodes": 0}


def test_a_nodata_override(models, tmp_path):
    pixels = noise((3, 20, 20))
    pixels[:, :5] = 7
    scene = write_raster(tmp_path / "scene.tif", pixels, nodata=0)
    settings_ = Settings(precision="float32", nodata=7.0)
    predict_scene(scene, models(3), products=products_in(tmp_path), settings=settings_, backend=Inline())
    expected = np.zeros((20, 20), bool)
    expected[:5] = True
    np.testing.assert_array_equal(read(tmp_path / "out.tif") == NODATA, expected)


def test_bands_in_another_order_are_the_same_scene(models, tmp_path):
    pixels = noise((3, 40, 50))
    straight = write_raster(tmp_path / "a.tif", pixels)
    swapped = write_raster(tmp_path / "b.tif", pixels[::-1])
    with rasterio.open(swapped, "r+") as dst:
        dst.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    results = []
    for scene, bands in [(straight, None), (swapped, None), (swapped, (3, 2, 1)), (swapped, ("red", "green", "blue"))]:
        out = Products(labels=tmp_path / f"out{len(results)}.tif")
        done = predict_scene(scene, models(3), products=out, settings=Settings(bands=bands), backend=Inline())
        results.append(read(done.paths["labels"]))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_outside_the_area_is_nodata(models, tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 100, 120)))
    left, top = UTM["transform"] @ (30, 20)
    right, bottom = UTM["transform"] @ (90, 70)
    box = geopandas.GeoSeries.from_wkt(
        [f"POLYGON(({left} {top}, {right} {top}, {right} {bottom}, {left} {bottom}, {left} {top}))"], crs=UTM["crs"]
    )
    box.to_crs(4326).to_file(tmp_path / "area.geojson")
    everywhere = products_in(tmp_path)
    predict_scene(scene, models(3), products=everywhere, settings=FLOAT32, backend=Inline())
    limited = Products(labels=tmp_path / "limited.tif")
    settings_ = Settings(precision="float32", aoi=tmp_path / "area.geojson")
    predict_scene(scene, models(3), products=limited, settings=settings_, backend=Inline())
    inside = np.zeros((100, 120), bool)
    inside[20:70, 30:90] = True
    expected = np.where(inside, read(tmp_path / "out.tif"), NODATA)
    np.testing.assert_array_equal(read(tmp_path / "limited.tif"), expected)


# ---- the same bytes by any road

TILES = Settings(precision="float32", device="cpu", tile_size=84)
"""Cells of 64 pixels with a halo of 10."""
CELLS = 30


@pytest.fixture(scope="module")
def road(tmp_path_factory, models):
    """A scene of 330x270 with a hole, a model, and what a plain loop makes of them."""
    folder = tmp_path_factory.mktemp("road")
    pixels = noise((3, 270, 330))
    pixels[:, 100:180, 50:200] = 0
    scene = write_raster(folder / "scene.tif", pixels, nodata=0, compress="deflate")
    (folder / "inline").mkdir()
    predict_scene(scene, models(3), products=products_in(folder / "inline", **ALL), settings=TILES, backend=Inline())
    return scene, models(3), digests(folder / "inline")


def bytes_with(road, folder, **options):
    scene, model, _ = road
    predict_scene(scene, model, products=products_in(folder, **ALL), **({"settings": TILES} | options))
    return digests(folder)


def test_what_is_written(road):
    assert sorted(road[2]) == [
        "confidence.tif", "out.gpkg", "out.qml", "out.tif", "out.tif.aux.xml", "probabilities.tif"
    ]  # fmt: skip


@pytest.mark.parametrize("backend", [Inline(), Threads(1), Threads(3)], ids=repr)
def test_threads_give_the_same_bytes(road, tmp_path, backend):
    assert bytes_with(road, tmp_path, backend=backend) == road[2]


def test_the_order_of_work_and_a_batch_give_the_same_bytes(road, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    batched = Settings(precision="float32", device="cpu", tile_size=84, batch_size=7)
    assert bytes_with(road, tmp_path / "a", settings=batched) == road[2]
    inner = pipeline._batches
    monkeypatch.setattr(pipeline, "_batches", lambda *args: list(inner(*args))[::-1])
    (tmp_path / "b").mkdir()
    assert bytes_with(road, tmp_path / "b", backend=Threads(2)) == road[2]


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(road, tmp_path):
    assert bytes_with(road, tmp_path, backend=Processes(2)) == road[2]


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_bytes(road, tmp_path):
    from test_parallel import DaskProcesses

    with DaskProcesses() as cluster:
        cluster.add_workers(2)
        assert bytes_with(road, tmp_path, backend=Scheduler(cluster.address)) == road[2]


def test_time_zone_locale_and_folder_change_no_byte(road, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    (tmp_path / "another folder ü").mkdir()
    monkeypatch.chdir(tmp_path / "another folder ü")
    assert bytes_with(road, Path()) == road[2]


@pytest.mark.parametrize("tile_size", [None, 36, 150, 700])
def test_the_tile_size_changes_no_label(road, tmp_path, tile_size):
    scene, model, _ = road
    settings_ = Settings(precision="float32", device="cpu", tile_size=tile_size)
    predict_scene(scene, model, products=products_in(tmp_path), settings=settings_)
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), read(scene.parent / "inline" / "out.tif"))


def test_an_interrupted_run_goes_on_with_the_same_bytes(road, tmp_path):
    def stop_at(count):
        def progress(done, total):
            assert total == CELLS
            if done >= count:
                raise KeyboardInterrupt

        return progress

    for count, found in [(1, 0), (12, 1), (13, 12), (CELLS, 13)]:
        with pytest.raises(KeyboardInterrupt):
            bytes_with(road, tmp_path, progress=stop_at(count), resume=found > 0)
        assert [path.name for path in tmp_path.iterdir()] == ["out.tif.partial"]
        assert len(list((tmp_path / "out.tif.partial").glob("*.zst"))) >= count
    scene, model, expected = road
    done = predict_scene(scene, model, products=products_in(tmp_path, **ALL), settings=TILES, resume=True)
    assert (done.resumed, done.cells) == (CELLS, CELLS)
    assert digests(tmp_path) == expected


def test_a_damaged_cell_is_predicted_again(road, tmp_path):
    def stop(done, total):
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bytes_with(road, tmp_path, progress=stop)
    cell = tmp_path / "out.tif.partial" / "cell-00000017.zst"
    cell.write_bytes(cell.read_bytes()[:-9])
    assert bytes_with(road, tmp_path, resume=True) == road[2]


def test_overwriting_gives_the_same_bytes(road, tmp_path):
    for name in ("out.tif", "out.gpkg", "out.qml", "out.tif.aux.xml"):
        (tmp_path / name).write_text("old")
    before = contents(tmp_path)
    with pytest.raises(OutputExistsError):
        bytes_with(road, tmp_path)
    assert contents(tmp_path) == before
    assert bytes_with(road, tmp_path, overwrite=True) == road[2]


@pytest.mark.parametrize(
    "options",
    [
        {
            "settings": Settings(precision="float32", device="cpu", tile_size=100),
            "says": "--tile-size was 84, now 100. ",
        },
        {
            "settings": Settings(precision="bfloat16", device="cpu", tile_size=84),
            "says": "--precision was float32, now bfloat16. ",
        },
        {
            "settings": Settings(precision="float32", device="cpu", tile_size=84, bands=(3, 2, 1)),
            "says": r"--bands was \[1, 2, 3\], now \[3, 2, 1\]. ",
        },
        {"settings": Settings(precision="float32", device="cpu", tile_size=84, nodata=3), "says": "--nodata differs. "},
        {"settings": replace(TILES, tta=True), "says": "--tta was off, now on. "},
        {"products": {"confidence": "c.tif"}, "says": "--confidence was off, now on. "},
        {"touched": True, "says": "the scene differs. "},
        {"model": True, "says": "--model differs. "},
    ],
    ids=["tile size", "precision", "bands", "nodata", "views", "products", "scene touched", "model"],
)
def test_resuming_another_run_is_refused(road, models, tmp_path, options):
    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    scene, model, _ = road
    copy = tmp_path / "scene.tif"
    copy.write_bytes(scene.read_bytes())
    with pytest.raises(KeyboardInterrupt):
        predict_scene(copy, model, products=products_in(tmp_path), settings=TILES, progress=stop)
    if "touched" in options:
        os.utime(copy, (1, 1))
    if "model" in options:
        model = models(3, constant=1)
    before = contents(tmp_path)
    with pytest.raises(GeosegError, match=rf"of another run: {options['says']}") as refused:
        predict_scene(
            copy,
            model,
            products=products_in(tmp_path, **options.get("products", {})),
            settings=options.get("settings", TILES),
            resume=True,
        )
    assert refused.value.exit_code == 2
    after = contents(tmp_path)
    assert {**after, "out.tif.partial/lock": None} == {**before, "out.tif.partial/lock": None}


# ---- all or nothing


@pytest.mark.parametrize("product", ["out.tif", "confidence.tif", "probabilities.tif", "out.gpkg", "out.qml"])
def test_a_name_taken_during_the_run(road, tmp_path, product):
    def take(done, total):
        if done == CELLS // 2:
            (tmp_path / product).write_text("mine")

    with pytest.raises(OutputExistsError, match="appeared during the run"):
        bytes_with(road, tmp_path, progress=take)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([product, "out.tif.partial"])
    assert (tmp_path / product).read_text() == "mine"
    (tmp_path / product).unlink()
    assert bytes_with(road, tmp_path, resume=True) == road[2]


@pytest.mark.parametrize("stage", ["write_cog", "Outlining.outline", "write_features"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_failure_while_writing_leaves_the_spool_alone(road, tmp_path, monkeypatch, stage, error):
    def fail(*args, **kwargs):
        if stage == "write_cog":
            args[0].write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"geoseg.{'pipeline' if stage == 'write_cog' else 'outlines'}.{stage}", fail)
        with pytest.raises(error):
            bytes_with(road, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif.partial"]
    assert bytes_with(road, tmp_path, resume=True) == road[2]


def test_a_scene_replaced_during_the_run_is_noticed(models, tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 100, 120)))

    def replace(done, total):
        if done == 1:
            write_raster(tmp_path / "new.tif", noise((3, 90, 120))).replace(scene)

    try:
        predict_scene(scene, models(3), products=products_in(tmp_path), backend=Inline(), progress=replace)
    except GeosegError:
        assert not (tmp_path / "out.tif").exists()
    else:  # the handle that is open still reads the old file
        assert read(tmp_path / "out.tif").shape == (100, 120)


# ---- what the files are


def test_the_class_raster_is_a_cloud_optimized_geotiff(models, tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 700, 1100)))
    predict_scene(scene, models(3), products=products_in(tmp_path, **RASTERS), backend=Threads(2))
    for name, count in [("out.tif", 1), ("confidence.tif", 1), ("probabilities.tif", 3)]:
        with rasterio.open(tmp_path / name) as src:
            assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert src.block_shapes == [(512, 512)] * count
            assert src.dtypes == ("uint8",) * count
            assert src.nodatavals == (255,) * count
            assert src.overviews(1)
            assert src.profile["compress"] in ("deflate", "zstd")
    with rasterio.open(tmp_path / "out.tif") as src:
        assert src.colorinterp == (ColorInterp.palette,)
        colormap = src.colormap(1)
        assert [colormap[value][:3] for value in range(3)] == [(0, 0, 0), (0xE3, 0x4A, 0x33), (0x5A, 0x5A, 0x5A)]
        assert src.descriptions == ("class",)
        with rasterio.open(tmp_path / "out.tif", overview_level=0) as smaller:
            assert set(np.unique(smaller.read())) <= {0, 1, 2}
    for name, descriptions in [
        ("confidence.tif", ("probability of the class",)),
        ("probabilities.tif", tuple(item.name for item in CLASSES)),
    ]:
        with rasterio.open(tmp_path / name) as src:
            assert src.descriptions == descriptions
            assert set(src.scales) == {1 / 254}


def test_gdal_reads_the_class_names(models, tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 20, 30)))
    predict_scene(scene, models(3), products=products_in(tmp_path), backend=Inline())
    # rasterio does not show category names, but copies them with the rest to a format that keeps them as text.
    rasterio.shutil.copy(tmp_path / "out.tif", tmp_path / "copy.vrt", driver="VRT")
    text = (tmp_path / "copy.vrt").read_text()
    for item in CLASSES:
        assert f"<Category>{item.name}</Category>" in text


def test_tags_hold_what_decided_the_pixels_and_no_path(models, tmp_path):
    folder = tmp_path / "recognizable_folder"
    folder.mkdir()
    scene = write_raster(folder / "recognizable_scene.tif", noise((3, 20, 30)))
    predict_scene(scene, models(3), products=products_in(folder, **ALL), settings=FLOAT32, backend=Inline())
    with rasterio.open(folder / "out.tif") as src:
        tags = src.tags()
    assert tags["GEOSEG_CHECKPOINT"] == load_checkpoint(models(3)).header.sha256
    assert tags["GEOSEG_BANDS"] == "1,2,3"
    assert tags["GEOSEG_PRECISION"] == "float32"
    assert json.loads(tags["GEOSEG_CLASSES"]) == ["background", "building", "road"]
    for path in folder.iterdir():
        if path != scene:
            assert b"recognizable" not in path.read_bytes(), path.name


def test_the_scene_is_left_alone(models, tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 50, 60)))
    before = contents(tmp_path)
    predict_scene(scene, models(3), products=products_in(tmp_path), backend=Threads(2))
    after = contents(tmp_path)
    assert after["scene.tif"] == before["scene.tif"]
    assert sorted(after) == ["out.qml", "out.tif", "out.tif.aux.xml", "scene.tif"]


def test_what_is_said_of_the_run(models, tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 100, 120)))
    steps = []
    done = predict_scene(
        scene,
        models(3),
        products=products_in(tmp_path, vectors="v.gpkg"),
        settings=FLOAT32,
        progress=lambda *step: steps.append(step),
    )
    assert steps == [(count, 4) for count in range(5)]
    assert (done.shape, done.cells, done.resumed, done.tile_size, done.overlap) == ((100, 120), 4, 0, 84, 20)
    assert done.classes == ("background", "building", "road")
    said = json.loads(json.dumps(done.to_dict()))
    assert said["paths"] == {"labels": str(tmp_path / "out.tif"), "vectors": str(tmp_path / "v.gpkg")}
    assert said["side_files"] == [str(tmp_path / name) for name in ("out.tif.aux.xml", "out.qml")]
    assert said["features"] == {
        layer: len(geopandas.read_file(tmp_path / "v.gpkg", layer=layer))
        for layer in ("buildings", "road_surfaces", "roads", "road_nodes")
    }


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"bands": "rgb"}, "bands='rgb' is no list of bands"),
        ({"bands": 3}, "bands=3 is no list of bands"),
        ({"bands": (1, None)}, r"bands=\(1, None\) is no list of bands"),
        ({"tile_size": "512"}, "tile_size='512' is of the wrong kind. Expected a whole number, 'auto' or None"),
        ({"overlap": 1.5}, "overlap=1.5 is of the wrong kind"),
        ({"batch_size": "all"}, "batch_size='all' is of the wrong kind"),
        ({"tta": "no"}, "tta='no' is of the wrong kind. Expected True or False"),
        ({"resample": None}, "resample=None is of the wrong kind. Expected True or False"),
    ],
)
def test_settings_of_the_wrong_kind(wrong, says):
    with pytest.raises(UsageError, match=says):
        Settings(**wrong)


def test_products_of_the_wrong_kind(tmp_path):
    for wrong in ({"labels": None}, {"labels": 3}, {"labels": "a.tif", "vectors": True}):
        with pytest.raises(UsageError, match=r"is no path\. Expected text or a Path"):
            Products(**wrong)
    for wrong in ({"products": "out.tif"}, {"products": {"labels": "out.tif"}}, {"settings": {"nodata": 3}}):
        with pytest.raises(UsageError, match=r"of the wrong kind\. Expected Products"):
            predict_scene(tmp_path / "scene.tif", **wrong)
    text = Products(labels="a.tif", vectors="b.gpkg")
    assert text == Products(labels=Path("a.tif"), vectors=Path("b.gpkg"))
    assert text.paths() == {"labels": Path("a.tif"), "vectors": Path("b.gpkg")}


def test_auto_and_lists_are_taken_as_the_command_line_does(models, tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 50, 60)))
    found = []
    for name, settings_ in (
        ("a.tif", Settings(precision="float32", bands=[1, 2, 3])),
        ("b.tif", Settings(precision="float32", bands=(1, 2, 3), tile_size="auto", overlap="auto", batch_size="auto")),
    ):
        predict_scene(scene, models(3), products=Products(labels=str(tmp_path / name)), settings=settings_)
        found.append((tmp_path / name).read_bytes())
    assert found[0] == found[1]


def test_default_names():
    assert Products.beside_caller("folder/town.tif", ["unet"]).paths() == {"labels": Path("town_unet.tif")}
    assert Products.beside_caller("town.tif", ["runs/a/model.safetensors"]).labels == Path("town_model.tif")
    assert Products.beside_caller("town.tif", ["unet"], Path("x.tif"), vectors=Path("v")).paths() == {
        "labels": Path("x.tif"), "vectors": Path("v")
    }  # fmt: skip


def test_the_log_is_silent_when_there_is_nothing_to_say(models, tmp_path, caplog):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 20, 30)))
    logging.getLogger("geoseg").propagate = True
    with caplog.at_level(logging.WARNING):
        predict_scene(scene, models(3), products=products_in(tmp_path, **ALL), backend=Inline())
    assert caplog.text == ""


# ---- unbounded context


class Unbounded(torch.nn.Module):
    """A network whose every logit depends on all that it sees."""

    stride, bounded = 2, False

    def __init__(self, in_channels, classes):
        super().__init__()
        self.conv = torch.nn.Conv2d(in_channels, classes, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return x - 2 * x.mean((2, 3), keepdim=True)


@pytest.fixture
def unbounded(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "unbounded", Unbounded)
    torch.manual_seed(0)
    header = load_checkpoint(write_checkpoint(tmp_path / "bounded.safetensors")).header
    fields = {"arch": "unbounded", "arch_args": {}, "receptive_radius": None, "cell_side": 64, "stride": 2}
    path = tmp_path / "unbounded.safetensors"
    save_checkpoint(path, header.model_copy(update=fields), Unbounded(3, 3).state_dict(), half=False)
    return path


def test_unbounded_context_is_blended_the_same_by_any_road(tmp_path, unbounded, monkeypatch):
    monkeypatch.setattr(plans, "_TAPERED_BYTES", 3 * 4 * 100**2)
    scene = write_raster(tmp_path / "scene.tif", noise((3, 250, 300), 1), **UTM)
    products = products_in(tmp_path, **RASTERS)
    done = predict_scene(scene, unbounded, products=products, settings=FLOAT32, backend=Inline())
    assert (done.cells, done.tile_size, done.overlap) == (12, 64, 16)
    with rasterio.open(tmp_path / "out.tif") as src:
        assert src.tags()["GEOSEG_BLEND"] == "taper"
        assert len(np.unique(src.read(1))) > 1
    first = digests(tmp_path)

    calls = []

    def stop(done, total):
        calls.append(done)
        if done == 5:
            raise KeyboardInterrupt

    again = {"settings": FLOAT32, "overwrite": True, "products": products}
    with pytest.raises(KeyboardInterrupt):
        predict_scene(scene, unbounded, backend=Threads(3), progress=stop, **again)
    done = predict_scene(scene, unbounded, backend=Threads(2), resume=True, **again)
    assert done.resumed == 5
    assert digests(tmp_path) == first


# ---- several heads, several models


HEADS = {
    "surface": Head(classes=CLASSES),
    "height": Head(task="regression", scale=3.0, offset=7.0, unit="m"),
    "flags": Head(task="multilabel", classes=(ClassInfo(name="cloud", color="#ffffff"), CLASSES[1])),
    "wet": Head(task="binary", classes=(CLASSES[0], ClassInfo(name="water", color="#0000ff"))),
}


def test_a_raster_for_each_head(tmp_path):
    model = write_checkpoint(tmp_path / "m.safetensors", heads=HEADS, cell_side=64)
    data = noise((3, 150, 130), 1)
    data[:, 10:40, 20:50] = 0
    scene = write_raster(tmp_path / "scene.tif", data, nodata=0, **UTM)
    out = tmp_path / "out"
    out.mkdir()
    products = products_in(out, vectors="out.gpkg", probabilities="p.tif", confidence="c.tif")
    done = predict_scene(scene, model, products=products, settings=FLOAT32)
    assert {path.name for path in done.paths.values()} == {
        "out_surface.tif", "c_surface.tif", "p_surface.tif", "out_height.tif", "out_flags.tif", "c_flags.tif",
        "p_flags.tif", "out_wet.tif", "c_wet.tif", "p_wet.tif", "out.gpkg",
    }  # fmt: skip
    assert next(iter(done.paths)) == "labels_flags"  # heads are in the order of their names
    styles = {"out_surface.qml", "out_wet.qml"}
    assert {path.name for path in out.iterdir() if path.suffix == ".qml"} == styles

    with torch.inference_mode():
        x = (np.where(data.any(0), data, 100).astype(np.float32) - 100) / 50
        z = load_checkpoint(model).build()(torch.from_numpy(np.pad(x, [(0, 0), (10, 10), (10, 10)], "reflect"))[None])
    z = z[0, :, 10:160, 10:140].numpy()
    valid = data.any(0)
    with rasterio.open(out / "out_height.tif") as src:
        assert (src.dtypes, src.units, src.descriptions) == (("float32",), ("m",), ("height",))
        assert np.isnan(src.nodata)
        found = src.read(1)
        np.testing.assert_array_equal(np.isnan(found), ~valid)
        np.testing.assert_allclose(found[valid], (z[2] * 3 + 7)[valid], atol=1e-3)
        assert np.isfinite(src.read(1, out_shape=(75, 65))).any()
    with rasterio.open(out / "out_flags.tif") as src:
        assert (src.count, src.descriptions, src.nodata) == (2, ("cloud", "building"), 255)
        clear = valid & (np.abs(z[:2]) > 1e-3)
        np.testing.assert_array_equal(src.read()[clear], (z[:2] > 0)[clear])
    wet = read(out / "out_wet.tif")
    clear = valid & (np.abs(z[6]) > 1e-3)
    np.testing.assert_array_equal(wet[clear], (z[6] > 0)[clear])
    assert read(out / "p_wet.tif").shape == (2, 150, 130)
    layers = set(geopandas.list_layers(out / "out.gpkg")["name"])
    assert {"buildings", "road_surfaces", "water"} <= layers
    assert not any("cloud" in name for name in layers)
    reviewed = Products(labels=tmp_path / "r.tif", vectors=tmp_path / "r.gpkg", review=3)
    with pytest.raises(UsageError, match="2 heads of the model give each pixel a class"):
        predict_scene(scene, model, products=reviewed, settings=FLOAT32)


def test_a_single_regression_is_named_as_given_and_has_no_probabilities(tmp_path):
    model = write_checkpoint(tmp_path / "m.safetensors", heads={"height": HEADS["height"]}, cell_side=64)
    scene = write_raster(tmp_path / "scene.tif", noise((3, 20, 30), 1), **UTM)
    done = predict_scene(scene, model, products=products_in(tmp_path), settings=FLOAT32)
    assert done.paths == {"values": tmp_path / "out.tif"}
    assert read(tmp_path / "out.tif").dtype == np.float32
    for asked in ({"confidence": "c.tif"}, {"vectors": "v.gpkg"}):
        with pytest.raises(UsageError, match=f"--{next(iter(asked))}: "):
            predict_scene(scene, model, products=products_in(tmp_path, **asked), settings=FLOAT32, overwrite=True)


def test_several_models_are_one(tmp_path, models):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 90, 70), 1), **UTM)
    both = [
        write_checkpoint(tmp_path / f"{depth}.safetensors", depth=depth, seed=depth, cell_side=64) for depth in (1, 2)
    ]
    out = tmp_path / "out"
    out.mkdir()
    alone = []
    for model in both:
        products = Products(labels=out / f"l{model.stem}.tif", probabilities=out / f"p{model.stem}.tif")
        predict_scene(scene, model, products=products, settings=FLOAT32)
        alone.append(read(out / f"p{model.stem}.tif").astype(float))
    products = products_in(out, probabilities="p.tif")
    done = predict_scene(scene, both, products=products, settings=FLOAT32)
    assert done.overlap == 48  # the deeper one's
    assert np.abs(read(out / "p.tif") - np.mean(alone, axis=0)).max() <= 1.01
    with rasterio.open(out / "out.tif") as src:
        assert src.tags()["GEOSEG_CHECKPOINT"] == "+".join(load_checkpoint(model).header.sha256 for model in both)

    with pytest.raises(UsageError, match="is named twice"):
        predict_scene(scene, [both[0], both[0]], products=products, overwrite=True)
    with pytest.raises(UsageError, match="differ in their bands"):
        predict_scene(scene, [both[0], models(4)], products=products, overwrite=True)
    other = write_checkpoint(tmp_path / "other.safetensors", heads={"height": HEADS["height"]})
    with pytest.raises(UsageError, match="differ in their heads"):
        predict_scene(scene, [both[0], other], products=products, overwrite=True)


def test_eight_views_are_eight_predictions(tmp_path, models):
    """Of the scene turned and mirrored, each turned back; in cells, and with nodata somewhere."""
    pixels = noise((3, 96, 128), 1)
    pixels[:, 20:50, 70:] = 0
    scene, everything = write_raster(tmp_path / "scene.tif", pixels, nodata=0), {"probabilities": "p.tif"}
    views = replace(FLOAT32, tta=True, tile_size=52)
    done = predict_scene(scene, models(3), products=products_in(tmp_path, **everything), settings=views)
    found, valid = read(tmp_path / "p.tif"), read(tmp_path / "out.tif") != 255
    assert done.cells > 4
    alone = []
    for turns, mirrored in product(range(4), (False, True)):
        seen = np.rot90(pixels[:, :, ::-1] if mirrored else pixels, turns, (1, 2))
        write_raster(tmp_path / "seen.tif", np.ascontiguousarray(seen), nodata=0)
        products = Products(labels=tmp_path / "l.tif", probabilities=tmp_path / "s.tif")
        predict_scene(tmp_path / "seen.tif", models(3), products=products, settings=FLOAT32, overwrite=True)
        back = np.rot90(read(tmp_path / "s.tif"), -turns, (1, 2))
        alone.append(back[:, :, ::-1] if mirrored else back)
    mean = np.mean(np.array(alone, float), axis=0)
    assert np.abs(found - mean)[:, valid].max() <= 1.01
    assert np.abs(alone[0] - mean)[:, valid].max() > 10
    assert (found[:, ~valid] == 255).all()
    with rasterio.open(tmp_path / "out.tif") as src:
        assert src.tags()["GEOSEG_TTA"] == "True"


def test_attention_of_several_views(tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 20, 30), 1))
    header = load_checkpoint(write_checkpoint(tmp_path / "unet.safetensors")).header
    model = build_model("attention_unet", in_channels=3, classes=3, width=2, depth=2)
    path = tmp_path / "attention.safetensors"
    fields = {"arch": "attention_unet", "arch_args": {"width": 2, "depth": 2}, "stride": 4}
    save_checkpoint(path, header.model_copy(update=fields), model.state_dict(), half=False)
    with pytest.raises(UsageError, match=r"--attention: .* several views .* Leave out --tta"):
        predict_scene(scene, path, products=products_in(tmp_path, attention="a.tif"), settings=Settings(tta=True))


def test_attention_of_a_model_that_has_none(tmp_path, models):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 20, 30), 1), **UTM)
    with pytest.raises(UsageError, match=r"--attention: .* cannot show attention"):
        predict_scene(scene, models(3), products=products_in(tmp_path, attention="a.tif"))


def test_attention_is_written_a_band_a_gate(tmp_path):
    torch.manual_seed(0)
    model = build_model("attention_unet", in_channels=3, classes=3, width=2, depth=3).eval()
    header = load_checkpoint(write_checkpoint(tmp_path / "bounded.safetensors")).header
    fields = {
        "arch": "attention_unet", "arch_args": {"width": 2, "depth": 3}, "cell_side": 64, "stride": 8,
        "receptive_radius": receptive_radius(model),
    }  # fmt: skip
    path = tmp_path / "attention.safetensors"
    save_checkpoint(path, header.model_copy(update=fields), model.state_dict(), half=False)
    data = noise((3, 150, 130), 1)
    scene = write_raster(tmp_path / "scene.tif", data, **UTM)
    products = products_in(tmp_path, attention="a.tif")
    done = predict_scene(scene, path, products=products, settings=FLOAT32)
    assert done.paths["attention"] == tmp_path / "a.tif"
    halo = done.overlap // 2
    with torch.inference_mode():
        x = (data.astype(np.float32) - 100) / 50
        # Logits and maps of one pass over the whole scene, mirrored.
        pads = [(0, 0), *((halo, halo + -side % 8) for side in (150, 130))]
        z, maps = model.forward_with_attention(torch.from_numpy(np.pad(x, pads, "reflect"))[None])
    inside = slice(halo, halo + 150), slice(halo, halo + 130)
    with rasterio.open(tmp_path / "a.tif") as src:
        assert (src.count, src.descriptions) == (2, ("gate 1", "gate 2"))
        expected = torch.cat(maps, 1)[0][:, *inside].numpy() * 254
        assert np.abs(src.read() - expected).max() <= 0.51
        assert np.ptp(expected) > 10
    first, second = z[0].topk(2, dim=0).values
    clear = (first - second > 1e-4)[inside].numpy()
    assert np.array_equal(read(tmp_path / "out.tif")[clear], z[0].argmax(0)[inside].numpy()[clear])


def test_swapped_dates_of_one_name_are_another_scene(tmp_path):
    """Their names, sizes and ages are equal: as copied with their times, or unpacked."""
    model = write_checkpoint(tmp_path / "m.safetensors", bands=(*COLORS[:3],) * 2, cell_side=64)
    dates = []
    for month, seed in (("may", 1), ("july", 2)):
        (tmp_path / month).mkdir()
        dates.append(write_raster(tmp_path / month / "B.tif", noise((3, 150, 130), seed), **UTM))
        os.utime(dates[-1], (1e9, 1e9))
    out = tmp_path / "out"
    out.mkdir()

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_scene(dates, model, products=products_in(out), settings=FLOAT32, backend=Inline(), progress=stop)
    with pytest.raises(ResumeError, match="the scene differs"):
        predict_scene(dates[::-1], model, products=products_in(out), settings=FLOAT32, resume=True)


def test_a_network_without_padding_is_stitched_exactly_and_never_too_tightly(tmp_path):
    torch.manual_seed(0)
    args = {"width": 2, "depth": 2, "padding": "valid", "norm": "none"}
    model = build_model("unet", args, in_channels=3, classes=3).eval()
    header = load_checkpoint(write_checkpoint(tmp_path / "bounded.safetensors")).header
    fields = {"arch_args": args, "cell_side": 64, "stride": 4, "receptive_radius": receptive_radius(model)}
    path = tmp_path / "valid.safetensors"
    save_checkpoint(path, header.model_copy(update=fields), model.state_dict(), half=False)
    data = noise((3, 150, 130), 1)
    scene = write_raster(tmp_path / "scene.tif", data, **UTM)
    done = predict_scene(scene, path, products=products_in(tmp_path), settings=FLOAT32)
    halo = done.overlap // 2
    with torch.inference_mode():
        pads = [(0, 0), *((halo, halo + -side % 4) for side in (150, 130))]
        z = model(torch.from_numpy(np.pad((data.astype(np.float32) - 100) / 50, pads, "reflect"))[None])[0]
    start = halo - model.margin
    z = z[:, start : start + 150, start : start + 130]
    first, second = z.topk(2, dim=0).values
    clear = (first - second > 1e-4).numpy()
    assert np.array_equal(read(tmp_path / "out.tif")[clear], z.argmax(0).numpy()[clear])
    for tight in ({"blend": "taper"}, {"overlap": 0}):
        with pytest.raises(UsageError, match="without padding"):
            predict_scene(scene, path, products=products_in(tmp_path), settings=Settings(**tight), overwrite=True)


def test_the_style_of_no_head_may_be_the_scenes(tmp_path):
    model = write_checkpoint(tmp_path / "m.safetensors", heads={"a": Head(classes=CLASSES), "b": HEADS["height"]})
    scene = write_raster(tmp_path / "x_a.tiff", noise((3, 20, 30), 1), **UTM)
    with pytest.raises(UsageError, match="in its ending alone"):
        predict_scene(scene, model, products=Products(labels=tmp_path / "x.tif"))
    assert not (tmp_path / "x_a.qml").exists()
    scene = write_raster(tmp_path / "x_b.tiff", noise((3, 20, 30), 1), **UTM)  # values have no style
    predict_scene(scene, model, products=Products(labels=tmp_path / "x.tif"), overwrite=True)


# ---- cleaned


def test_small_patches_and_holes_are_gone_from_raster_and_vectors(models, tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 150, 170)))
    model, area = models(3), 2.0  # square metres; a pixel has 0.09
    tidy = Settings(precision="float32", device="cpu", min_patch_m2=area, fill_holes_m2=area)
    predict_scene(scene, model, products=products_in(tmp_path), settings=FLOAT32)
    before = read(tmp_path / "out.tif")
    (tmp_path / "clean").mkdir()
    predict_scene(scene, model, products=products_in(tmp_path / "clean", vectors="v.gpkg"), settings=tidy)
    after = read(tmp_path / "clean" / "out.tif")
    np.testing.assert_array_equal(after == NODATA, before == NODATA)
    assert 0 < (after != before).mean() < 0.9

    def smallest(labels):
        sizes = [np.bincount(label(labels == value)[0].ravel())[1:] for value in (1, 2)]
        return min(size.min() for size in sizes if len(size))

    assert smallest(before) < area / 0.09 <= smallest(after)
    with rasterio.open(tmp_path / "clean" / "out.tif") as dataset:
        assert dataset.tags()["GEOSEG_MIN_PATCH_M2"] == "2.0"
    for other in ({"tile_size": 84}, {"tile_size": 52}):
        folder = tmp_path / str(other["tile_size"])
        folder.mkdir()
        settings = replace(tidy, **other)
        predict_scene(scene, model, products=products_in(folder), settings=settings, backend=Threads(2))
        np.testing.assert_array_equal(read(folder / "out.tif"), after)


def test_areas_on_the_ground_need_a_crs(models, tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 40, 50)), crs=None, transform=None)
    with pytest.raises(UsageError, match="--fill-holes-m2 means nothing without a CRS"):
        predict_scene(scene, models(3), products=products_in(tmp_path), settings=Settings(fill_holes_m2=3))
    with pytest.raises(UsageError, match="min_patch_m2=-1 is no area"):
        Settings(min_patch_m2=-1)
    for gsd in (0, -1, 1e-320, True, "0.3", float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"is no size of a pixel\. Expected metres"):
            Settings(gsd=gsd)
