"""Stack: several files as one scene, the same as their bands in one file; files that do not fit are refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from checkpoints import write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasters import contents, digests, noise, write_raster
from scenes import GCPS, NORTH_UP, alpha, masked, pixels, plain, tagged, write

from geoseg.errors import BandError, GeosegError, OutputExistsError, SceneError, UsageError
from geoseg.parallel import Inline, Processes, Threads
from geoseg.pipeline import Products, Settings, predict_scene
from geoseg.preflight import _shares
from geoseg.scene import Scene
from geoseg.scene.stack import Stack, StackSource
from geoseg.windows import Window

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

TINY = (9, 13)


def stacked(*paths, **options) -> Stack:
    return Stack([Scene.open(path, **options) for path in paths])


def dated(folder, count=2, **profile):
    """Files of three bands that differ, and their pixels."""
    data = [pixels(shape=TINY, seed=seed) for seed in range(count)]
    return [write(folder / f"t{i}.tif", one, **profile) for i, one in enumerate(data)], data


# ---- reading


def test_bands_follow_file_after_file(tmp_path):
    paths, data = dated(tmp_path, 3)
    window = Window(row=2, col=3, height=5, width=7)
    with stacked(*paths) as stack:
        tile = stack.read(window)
        assert [band.index for band in stack.bands] == [1, 2, 3] * 3
        assert (stack.grid.shape, stack.grid.transform, stack.dtype) == (TINY, NORTH_UP, np.uint8)
        assert stack.path == str(paths[0])
    np.testing.assert_array_equal(tile.data, np.concatenate(data)[(slice(None), *window.slices())])
    assert tile.valid.all()
    with stacked(*paths[::-1]) as stack:
        np.testing.assert_array_equal(stack.read(stack.grid.window).data, np.concatenate(data[::-1]))


def test_files_may_have_different_bands(tmp_path):
    paths, data = dated(tmp_path)
    with Stack([Scene.open(paths[0], bands=[3]), Scene.open(paths[1], bands=[2, 1])]) as stack:
        read = stack.read(stack.grid.window).data
        assert stack.source.bands == (3, 2, 1)
    np.testing.assert_array_equal(read, np.stack([data[0][2], data[1][1], data[1][0]]))


def test_a_pixel_is_valid_where_every_file_has_it(tmp_path):
    made = [make(tmp_path) for make in (alpha, masked, lambda folder: tagged(folder, nodata=0))]
    with stacked(*(each.path for each in made)) as stack:
        valid = stack.read(stack.grid.window).valid
        assert stack.nodata == (None,) * 6 + (0,) * 3
    expected = np.logical_and.reduce([each.valid for each in made])
    np.testing.assert_array_equal(valid, expected)
    assert 0 < expected.sum() < expected.size


def test_a_source_opens_it_again_elsewhere(tmp_path, monkeypatch):
    (first, second), data = dated(tmp_path)
    monkeypatch.chdir(tmp_path)
    with stacked(first.name, second.name, nodata=7) as stack:
        source, fingerprint = stack.source, stack.fingerprint()
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(source))
    assert isinstance(copy, StackSource)
    assert (copy, hash(copy)) == (source, hash(source))
    assert (copy.path, copy.paths, copy.nodata) == (str(first), (str(first), str(second)), 7)
    assert copy.fingerprint() == fingerprint
    with copy.open() as again:
        np.testing.assert_array_equal(again.read(again.grid.window).data, np.concatenate(data))


def test_the_fingerprint_covers_files_and_order(tmp_path):
    paths, _ = dated(tmp_path)
    with stacked(*paths) as stack, stacked(*paths[::-1]) as turned:
        source, found = stack.source, [stack.fingerprint(), turned.fingerprint()]
    os.utime(paths[1], ns=(1, 1))
    found.append(source.fingerprint())
    assert all(a != b for i, a in enumerate(found) for b in found[i + 1 :])


def test_handles_are_let_go(tmp_path):
    paths, _ = dated(tmp_path)
    other = write(tmp_path / "other.tif", pixels(shape=(9, 14)))
    count = len(list(Path("/proc/self/fd").iterdir()))
    with stacked(*paths) as stack:
        source = stack.source
    other.replace(paths[1])
    with pytest.raises(SceneError, match=r"t1\.tif does not lie on .*t0\.tif"):
        source.open()
    assert len(list(Path("/proc/self/fd").iterdir())) == count


def test_the_cache_holds_all_files(tmp_path):
    paths, _ = dated(tmp_path, 3, tiled=True, blockxsize=16, blockysize=16)
    with Scene.open(paths[0]) as alone:
        least = alone.cache_bytes
    with stacked(*paths) as stack:
        assert [part.cache_bytes for part in stack.parts] == [3 * least] * 3
    with stacked(*paths * 30) as stack:
        assert {part.cache_bytes for part in stack.parts} == {1 << 30}


# ---- files that do not fit


def moved(cols, rows=0.0):
    return NORTH_UP @ Affine.translation(cols, rows)


@pytest.mark.parametrize(
    ("shape", "profile", "says"),
    [
        ((9, 14), {}, "its size is 14x9 pixels, not 13x9"),
        ((10, 13), {}, "its size is 13x10 pixels, not 13x9"),
        (TINY, {"transform": moved(2e-3)}, "its transform puts it up to 0.002 pixels away"),
        (TINY, {"transform": moved(0, -1)}, "its transform puts it up to 1 pixels away"),
        (TINY, {"transform": NORTH_UP @ Affine.scale(1.001)}, "its transform puts it up to 0.0158 pixels away"),
        (TINY, {"transform": NORTH_UP @ Affine.rotation(90)}, "its transform puts it up to"),
        (TINY, {"crs": "EPSG:32638"}, "its CRS is WGS 84 / UTM zone 38N, not WGS 84 / UTM zone 37N"),
        (TINY, {"crs": None}, "its CRS is missing, not WGS 84 / UTM zone 37N"),
        ((9, 14), {"crs": "EPSG:32638"}, "its size is 14x9 pixels, not 13x9, its CRS is"),
    ],
)  # fmt: skip
def test_files_on_other_grids_are_refused(tmp_path, shape, profile, says):
    first = write(tmp_path / "first.tif", pixels(shape=TINY))
    other = write(tmp_path / "other.tif", pixels(shape=shape), **profile)
    with pytest.raises(SceneError) as caught:
        stacked(first, other)
    message = str(caught.value)
    assert message.startswith(f"{other} does not lie on {first}: {says}")
    step = f" Try: gdalwarp -t_srs EPSG:32637 -te 500000.0 6199997.3 500003.9 6200000.0 -ts 13 9 {other} aligned.tif."
    assert message.endswith("Expected files of one size, CRS and transform." + step * ("missing" not in says))


def test_a_thousandth_of_a_pixel_is_no_difference(tmp_path):
    first = write(tmp_path / "first.tif", pixels(shape=TINY))
    other = write(tmp_path / "other.tif", pixels(shape=TINY), transform=moved(5e-4))
    with stacked(first, other) as stack:
        assert stack.grid.transform == NORTH_UP


def test_a_crs_in_other_words_is_the_same(tmp_path):
    first = write(tmp_path / "first.tif", pixels(shape=TINY))
    words = rasterio.CRS.from_epsg(32637).to_wkt().replace("WGS 84 / UTM zone 37N", "WGS_1984_UTM_Zone_37N")
    other = write(tmp_path / "other.tif", pixels(shape=TINY), crs=rasterio.CRS.from_wkt(words))
    stacked(first, other).close()


def test_files_without_a_georeference(tmp_path):
    first, second = (plain(tmp_path, suffix=f"{i}.png", driver="PNG", crs=None, transform=None).path for i in "ab")
    stacked(first, second).close()
    stated = write(tmp_path / "identity.tif", pixels(), crs=None, transform=Affine.identity())
    stacked(first, stated).close()
    for name, points in (("a.tif", GCPS), ("b.tif", GCPS[:3])):
        path = plain(tmp_path, crs=None, transform=None).path.rename(tmp_path / name)
        with rasterio.open(path, "r+") as dst:
            dst.gcps = (points, "EPSG:4326")
    with stacked(tmp_path / "a.tif", tmp_path / "a.tif") as stack:
        assert len(stack.gcps[0]) == 4
        assert len(stack.parts[1].remarks()) == 1
    with pytest.raises(SceneError, match=r"b\.tif does not lie on .*a\.tif: its ground control points .* transform\.$"):
        stacked(tmp_path / "a.tif", tmp_path / "b.tif")


def test_another_type_is_refused(tmp_path):
    first = write(tmp_path / "first.tif", pixels(shape=TINY))
    other = write(tmp_path / "other.tif", pixels(shape=TINY, dtype=np.uint16))
    with pytest.raises(SceneError, match=r"other\.tif is uint16, but .*first\.tif is uint8\. Expected one type"):
        stacked(first, other)


def test_a_stack_of_nothing():
    with pytest.raises(UsageError, match="Expected at least one"):
        Stack([])
    with pytest.raises(UsageError, match="Expected at least one"):
        predict_scene([])


# ---- which bands of which file

RGB = ("red", "green", "blue")


@pytest.mark.parametrize(
    ("bands", "scenes", "expected"),
    [
        (RGB * 2, 2, [RGB] * 2),
        (RGB * 4, 2, [RGB * 2] * 2),
        (tuple(f"t{t}_{name}" for t in (1, 2) for name in RGB), 2, [RGB] * 2),
        (tuple(f"{name}_T{t}" for t in (1, 2) for name in RGB), 2, [RGB] * 2),
        (tuple(f"{t}_{name}" for t in ("2023", "2024-07-01") for name in RGB), 2, [RGB] * 2),
        (tuple(f"band_{i}" for i in range(1, 7)), 2, [("band_1", "band_2", "band_3")] * 2),
        (("B04_2023", "B8A_2023", "B04_2024", "B8A_2024"), 2, [("B04", "B8A")] * 2),
        (RGB, 3, [("red",), ("green",), ("blue",)]),
    ],
)
def test_each_scene_has_its_share(bands, scenes, expected):
    assert _shares(bands, scenes) == expected


@pytest.mark.parametrize(
    ("bands", "scenes", "says"),
    [
        (
            RGB * 2,
            3,
            r"^3 scenes are stacked; .* on 3 bands \(red, green, blue\) of each of 2 dates\. Expected a scene",
        ),
        (RGB * 2, 4, r"^4 scenes are stacked; .* 2 dates"),
        (RGB * 2, 12, r"^12 scenes are stacked; .* 2 dates"),
        (RGB, 2, r"^2 scenes are stacked; .* on 3 bands \(red, green, blue\)\. Expected a number of scenes"),
        (("red",), 2, r"^2 scenes are stacked; .* on 1 band \(red\)\."),
    ],
)
def test_numbers_of_scenes_that_do_not_fit(bands, scenes, says):
    with pytest.raises(BandError, match=says):
        _shares(bands, scenes)


# ---- predictions

FLOAT32 = Settings(precision="float32", device="cpu")
RASTERS = {"confidence": "confidence.tif", "probabilities": "probabilities.tif"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Of two dates of three bands."""
    path = tmp_path_factory.mktemp("model") / "dates.safetensors"
    return write_checkpoint(path, bands=RGB * 2, cell_side=64)


def predicted(folder, scene, model, settings=FLOAT32, **options):
    """The rasters, and what decided them."""
    folder.mkdir(exist_ok=True)
    products = Products(labels=folder / "out.tif", **{name: folder / path for name, path in RASTERS.items()})
    predict_scene(scene, model, products=products, settings=settings, **options)
    read = {}
    for name in ("out.tif", *RASTERS.values()):
        with rasterio.open(folder / name) as src:
            read[name] = src.read().tobytes()
            tags = src.tags()
    return read, tags


@pytest.fixture
def dates(tmp_path):
    """Two files of three bands, and all six in one."""
    data = noise((6, 100, 120))
    data[:3, 10:30, 40:80] = 0
    data[3:, 50:90, 60:70] = 0
    files = [write_raster(tmp_path / f"{i}.tif", data[3 * i : 3 * i + 3], nodata=0) for i in range(2)]
    return files, data


def test_a_stack_is_the_same_as_one_file(tmp_path, dates, model):
    files, data = dates
    data[:, (data[:3] == 0).all(0) | (data[3:] == 0).all(0)] = 0
    together = write_raster(tmp_path / "together.tif", data, nodata=0, photometric="minisblack")
    expected, tags = predicted(tmp_path / "one", together, model)
    assert tags["GEOSEG_BANDS"] == "1,2,3,4,5,6"
    read, tags = predicted(tmp_path / "two", files, model, backend=Threads(2))
    assert tags["GEOSEG_BANDS"] == "1,2,3,1,2,3"
    assert read == expected
    assert not any(str(tmp_path) in value for value in tags.values())
    other, _ = predicted(tmp_path / "turned", files[::-1], model)
    assert other != expected
    assert np.array_equal(
        np.frombuffer(other["out.tif"], np.uint8) == 255, np.frombuffer(read["out.tif"], np.uint8) == 255
    )


def test_what_is_missing_at_one_date_is_nodata(tmp_path, dates, model):
    files, _ = dates
    read, _ = predicted(tmp_path / "out", files, model)
    missing = np.frombuffer(read["out.tif"], np.uint8).reshape(100, 120) == 255
    expected = np.zeros((100, 120), bool)
    expected[10:30, 40:80] = expected[50:90, 60:70] = True
    np.testing.assert_array_equal(missing, expected)


def test_bands_are_matched_file_by_file(tmp_path, dates, model):
    (first, second), data = dates
    expected, _ = predicted(tmp_path / "a", [first, second], model)
    more = np.concatenate([noise((1, 100, 120), 5), data[3:][::-1]])
    more[0, (data[3:] == 0).all(0)] = 0
    turned = write_raster(tmp_path / "turned.tif", more, nodata=0, photometric="minisblack")
    with rasterio.open(turned, "r+") as dst:
        dst.colorinterp = [getattr(ColorInterp, name) for name in ("nir", "blue", "green", "red")]
    read, tags = predicted(tmp_path / "b", [first, turned], model)
    assert tags["GEOSEG_BANDS"] == "1,2,3,4,3,2"
    assert read == expected
    chosen = Settings(precision="float32", device="cpu", bands=("red", 2, "blue"))
    read, tags = predicted(tmp_path / "c", [first, turned], model, chosen)
    assert tags["GEOSEG_BANDS"] == "1,2,3,4,2,2"


def test_bands_that_do_not_fit_are_told_with_numbers(tmp_path, dates, model):
    (first, second), _ = dates
    four = write_raster(tmp_path / "four.tif", noise((4, 100, 120)), photometric="minisblack")
    takes = r"the model takes 3 bands \(red, green, blue\) of it, one of 2 scenes"
    with pytest.raises(BandError, match=rf"four\.tif has 4 bands \(band_1, .*\); {takes}\. .*--bands 1,2,3\.$"):
        predict_scene([first, four], model)
    with pytest.raises(BandError, match=rf"0\.tif: 2 bands chosen; {takes}\. Expected as many\."):
        predict_scene([first, second], model, settings=Settings(bands=(1, 2)))
    with pytest.raises(BandError, match=r"0\.tif has 3 bands .* 6 bands .* read as one scene with --stack"):
        predict_scene(first, model)
    with pytest.raises(BandError, match=r"3 scenes are stacked; .* of each of 2 dates"):
        predict_scene([first, second, first], model)


def test_a_nodata_value_holds_for_every_file(tmp_path, dates, model):
    (first, second), _ = dates
    with pytest.raises(UsageError, match=r"--nodata 300 cannot occur in .*0\.tif"):
        predict_scene([first, second], model, settings=Settings(nodata=300))
    every = Settings(precision="float32", device="cpu", nodata=float("nan"))
    read, _ = predicted(tmp_path / "out", [first, second], model, every)
    assert 255 not in np.frombuffer(read["out.tif"], np.uint8)


@settings(max_examples=5)
@given(tile=st.sampled_from([None, 36, 84, 150]), backend=st.sampled_from([Inline(), Threads(3)]))
def test_the_same_labels_by_any_road(tmp_path_factory, model, tile, backend):
    folder = tmp_path_factory.mktemp("road")
    data = noise((6, 70, 90))
    files = [write_raster(folder / f"{i}.tif", data[3 * i : 3 * i + 3]) for i in range(2)]
    together = write_raster(folder / "together.tif", data, photometric="minisblack")
    sized = Settings(precision="float32", device="cpu", tile_size=tile)
    one, _ = predicted(folder / "a", together, model, sized, backend=Inline())
    two, _ = predicted(folder / "b", files, model, sized, backend=backend)
    assert one == two


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(tmp_path, dates, model):
    files, _ = dates
    predicted(tmp_path / "a", files, model, backend=Inline())
    predicted(tmp_path / "b", files, model, backend=Processes(2))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_resume(tmp_path, dates, model):
    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    files, _ = dates
    with pytest.raises(KeyboardInterrupt):
        predicted(tmp_path / "a", files, model, progress=stop, backend=Inline())
    before = contents(tmp_path / "a" / "out.tif.partial")
    with pytest.raises(GeosegError, match="of another run") as refused:
        predicted(tmp_path / "a", files[::-1], model, resume=True)
    stamp = files[1].stat()
    os.utime(files[1], (1, 1))
    with pytest.raises(GeosegError, match="of another run") as refused:
        predicted(tmp_path / "a", files, model, resume=True)
    assert refused.value.exit_code == 2
    after = contents(tmp_path / "a" / "out.tif.partial")
    assert {**after, "lock": None} == {**before, "lock": None}
    os.utime(files[1], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    predicted(tmp_path / "a", files, model, resume=True)
    predicted(tmp_path / "b", files, model)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_no_file_of_the_stack_is_an_output(tmp_path, dates, model):
    files, _ = dates
    (tmp_path / "link.tif").symlink_to("1.tif")
    (tmp_path / "hard.tif").hardlink_to(files[1])
    before = contents(tmp_path)
    for name in ("1.tif", "link.tif", "hard.tif"):
        for product in ("labels", "confidence"):
            products = Products(**({"labels": tmp_path / "out.tif"} | {product: tmp_path / name}))
            with pytest.raises(OutputExistsError, match="is the input"):
                predict_scene(files, model, products=products, overwrite=True)
    with pytest.raises(UsageError, match=r"differs from the scene .*1\.tif in its ending alone"):
        predict_scene(files, model, products=Products(labels=tmp_path / "1.tiff"))
    assert contents(tmp_path) == before


def test_a_list_of_one_is_that_scene(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    path = write_raster("scene.tif", noise((6, 20, 30)), photometric="minisblack")
    one = predict_scene(path, model)
    expected = digests(tmp_path)
    assert predict_scene([path], model, overwrite=True) == one
    assert digests(tmp_path) == expected


def test_default_names_are_of_the_first(tmp_path, dates, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files, _ = dates
    assert predict_scene(files, model).paths == {"labels": Path("0_dates.tif")}
