"""Scene: pixels as rasterio reads them, valid pixels as GDAL's dataset mask has them, and clean refusals."""

import errno
import json
import math
import os
import pickle
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from scenes import KINDS, NORTH_UP, SHAPE, UNPLACED, alpha, masked, pixels, plain, tagged, write

from geoseg.errors import BandError, GeosegError, SceneError, UsageError
from geoseg.grid import IN_PIXELS
from geoseg.scene import Scene, SceneSource
from geoseg.scene.opening import _GDAL_REMOTE
from geoseg.windows import Window

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def state(folder):
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


def refusal(path, error=SceneError, **options):
    with pytest.raises(error) as caught:
        Scene.open(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "Expected" in message
    assert caught.value.__cause__ is None or not isinstance(caught.value.__cause__, GeosegError)
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_scene(tmp_path, kind, capfd):
    made = KINDS[kind](tmp_path)
    before = state(tmp_path)
    with Scene.open(made.path) as scene, rasterio.open(made.path) as oracle:
        tile = scene.read(scene.grid.window)
        assert scene.grid.shape == oracle.shape
        assert scene.grid.transform == (IN_PIXELS if kind in UNPLACED else oracle.transform)
        assert (scene.grid.crs is None) == (oracle.crs is None)
        assert scene.grid.crs is None or rasterio.CRS.from_wkt(scene.grid.crs) == oracle.crs
        assert tile.data.dtype == scene.dtype == made.data.dtype
        again = scene.source.open()
    np.testing.assert_array_equal(tile.data, made.data)
    np.testing.assert_array_equal(tile.valid, made.valid)
    with again:
        np.testing.assert_array_equal(again.read(again.grid.window).data, made.data)
    assert state(tmp_path) == before
    assert capfd.readouterr().err == ""


values = {
    "uint8": st.integers(0, 255),
    "int16": st.sampled_from([-32768, -1, 0, 7]),
    "uint16": st.sampled_from([0, 7, 65535]),
    "int32": st.sampled_from([-(2**31), 0, 7]),
    "float32": st.sampled_from([0.0, -9999.0, 0.1, -3.4028234663852886e38, math.nan]),
    "float64": st.sampled_from([0.0, -9999.0, 0.1, math.nan]),
}


@settings(max_examples=80)
@given(st.data())
def test_valid_pixels_are_gdals(data):
    """Against rasterio's masks of the chosen bands, joined; over types, nodata values, bands and windows."""
    draw = data.draw
    dtype = draw(st.sampled_from(sorted(values)))
    nodata = draw(st.none() | values[dtype])
    shape = draw(st.tuples(st.integers(1, 19), st.integers(1, 23)))
    count = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    few = np.array([1, 2, 3 if nodata is None else nodata], dtype=dtype)
    array = few[rng.integers(0, 3, (count, *shape))]
    bands = draw(st.none() | st.lists(st.integers(1, count), min_size=1, max_size=5))
    row, col = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
    height, width = draw(st.integers(1, shape[0] - row)), draw(st.integers(1, shape[1] - col))
    window = Window(row=row, col=col, height=height, width=width)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.tif", array, nodata=nodata, photometric="minisblack")
        with Scene.open(path, bands=bands) as scene, rasterio.open(path) as oracle:
            tile = scene.read(window)
            chosen = bands or list(range(1, count + 1))
            place = rasterio.windows.Window(col, row, width, height)
            valid = (oracle.read_masks(chosen, window=place) != 0).any(axis=0)
            np.testing.assert_array_equal(tile.data, oracle.read(chosen, window=place))
    if np.dtype(dtype).kind == "f":
        valid &= np.isfinite(tile.data).all(axis=0)
    np.testing.assert_array_equal(tile.valid, valid)


@pytest.mark.parametrize("nodata", ["-3.40282306073710e+38", "-3.402823466e+38"])
def test_nodata_rounded_in_its_text_is_still_nodata(tmp_path, nodata):
    """As other programs round the lowest float32; GDAL has the same tolerance."""
    data = pixels(1, dtype=np.float32)
    data[0, 0, 0] = np.float32(-3.4028234663852886e38)
    path = write(tmp_path / "a.tif", data, nodata=float(nodata))
    with Scene.open(path) as scene, rasterio.open(path) as oracle:
        valid = scene.read(scene.grid.window).valid
        np.testing.assert_array_equal(valid, oracle.dataset_mask() != 0)
    assert not valid[0, 0]
    assert valid.sum() == valid.size - 1


@pytest.mark.parametrize("nodata", ["-99", "256", "0.5", "nan"])
def test_a_nodata_value_that_the_type_cannot_hold_is_none(tmp_path, nodata):
    path = plain(tmp_path, nodata=119).path
    path.write_bytes(path.read_bytes().replace(b"119\0", nodata.encode() + b"\0"))
    with Scene.open(path) as scene, rasterio.open(path) as oracle:
        assert oracle.dataset_mask().all()
        assert scene.read(scene.grid.window).valid.all()


def test_nodata_can_be_overridden(tmp_path):
    made = tagged(tmp_path, nodata=0)
    other = made.data.copy()
    other[:, 40:43, 50] = 119
    path = write(tmp_path / "other.tif", other, nodata=0)
    with Scene.open(path, nodata=119) as scene:
        valid = scene.read(scene.grid.window).valid
        assert scene.nodata == (119, 119, 119)
    assert not valid[40:43, 50].any()
    np.testing.assert_array_equal(valid, (other != 119).any(axis=0))
    for none in (math.nan, math.inf):
        with Scene.open(path, nodata=none) as scene:
            assert scene.read(scene.grid.window).valid.all()


@pytest.mark.parametrize("make", [alpha, masked])
def test_an_override_holds_beside_alpha_and_mask(tmp_path, make):
    made = make(tmp_path)
    value = int(made.data[0, 40, 50])
    with Scene.open(made.path, bands=[1], nodata=value) as scene:
        valid = scene.read(scene.grid.window).valid
    np.testing.assert_array_equal(valid, made.valid & (made.data[0] != value))
    assert not valid[40, 50]
    assert made.valid[40, 50]


def test_alpha_holds_for_whatever_bands_are_chosen(tmp_path):
    made = alpha(tmp_path)
    with Scene.open(made.path, bands=[3, 1, 1]) as scene:
        tile = scene.read(Window(row=2, col=3, height=40, width=50))
    np.testing.assert_array_equal(tile.data, made.data[[2, 0, 0], 2:42, 3:53])
    np.testing.assert_array_equal(tile.valid, made.valid[2:42, 3:53])
    with Scene.open(made.path, bands=["alpha"]) as scene:
        np.testing.assert_array_equal(scene.read(scene.grid.window).valid, made.valid)


@pytest.mark.parametrize("window", [(0, 0, 68, 101), (-1, 0, 5, 5), (60, 95, 7, 7)])
def test_windows_that_stick_out_are_refused(tmp_path, window):
    row, col, height, width = window
    with (
        Scene.open(plain(tmp_path).path) as scene,
        pytest.raises(UsageError, match="sticks out"),
    ):
        scene.read(Window(row=row, col=col, height=height, width=width))


def named(folder):
    path = write(folder / "named.tif", pixels(6, dtype=np.uint16))
    with rasterio.open(path, "r+") as dst:
        colors = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.gray, ColorInterp.gray]
        dst.colorinterp = [*colors, ColorInterp.nir]
        dst.descriptions = ("B02", None, None, "B05", None, None)
    return path


def test_bands_have_names(tmp_path):
    with Scene.open(named(tmp_path)) as scene:
        assert [band.name for band in scene.bands] == ["blue", "green", "red", "B05", "band_5", "nir"]
        assert [band.index for band in scene.bands] == [1, 2, 3, 4, 5, 6]


def test_bands_are_chosen_by_name_and_number_in_any_order(tmp_path):
    with Scene.open(named(tmp_path), bands=["RED", 2, "b05", "band_5"]) as scene:
        assert [band.index for band in scene.bands] == [3, 2, 4, 5]
        assert scene.source.bands == (3, 2, 4, 5)
        np.testing.assert_array_equal(scene.read(scene.grid.window).data, pixels(6, dtype=np.uint16)[[2, 1, 3, 4]])


@pytest.mark.parametrize("bands", [[0], [7], [-1], ["swir"], ["7"], [], ["red", 9]])
def test_bands_that_are_not_there(tmp_path, bands):
    message = refusal(named(tmp_path), BandError, bands=bands)
    assert "named.tif" in message
    assert "6 bands (blue, green, red, B05, band_5, nir)" in message


def test_a_name_of_two_bands_is_refused(tmp_path):
    path = write(tmp_path / "twice.tif", pixels(3))
    with rasterio.open(path, "r+") as dst:
        dst.colorinterp = [ColorInterp.gray] * 3
        dst.descriptions = ("a", "b", "A")
    assert "bands 1, 3" in refusal(path, BandError, bands=["a"])


def test_hundreds_of_bands_are_not_listed(tmp_path):
    path = write(tmp_path / "many.tif", pixels(300, shape=(3, 3)))
    message = refusal(path, BandError, bands=["nir"])
    assert "300 bands (band_1, " in message
    assert len(message) < 400


def corrupted(folder):
    """A block in the middle is damaged."""
    made = plain(folder, tiled=True, blockxsize=32, blockysize=32, compress="deflate")
    with rasterio.open(made.path) as src:
        offset = int(src.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    content = bytearray(made.path.read_bytes())
    content[offset : offset + 64] = b"\xff" * 64
    made.path.write_bytes(content)
    return made.path


def test_a_damaged_block_is_named_and_the_rest_can_be_read(tmp_path, capfd):
    with Scene.open(corrupted(tmp_path)) as scene:
        assert scene.read(Window(row=0, col=0, height=32, width=32)).valid.all()
        with pytest.raises(SceneError, match=r"plain\.tif cannot be read at rows 30-49, columns 10-69") as caught:
            scene.read(Window(row=30, col=10, height=20, width=60))
    assert "See previous exception" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("driver", ["GTiff", "JPEG", "PNG"])
def test_half_a_file_is_no_scene(tmp_path, driver):
    """Also where the library would fill up with grey."""
    extra = {"compress": "jpeg", "photometric": "ycbcr"} if driver == "GTiff" else {"crs": None, "transform": None}
    path = plain(tmp_path, driver=driver, **extra).path
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SceneError, match="plain"), Scene.open(path) as scene:
        scene.read(scene.grid.window)


def test_names_that_are_no_scene(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "loop.tif").symlink_to("loop.tif")
    (tmp_path / "gone.tif").symlink_to("nowhere.tif")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("<html>403</html>")
    reasons = {
        "": "empty name",
        tmp_path: "a folder",
        tmp_path / "missing.tif": "No such file",
        tmp_path / "pipe.tif": "no ordinary file",
        tmp_path / "loop.tif": os.strerror(errno.ELOOP),
        tmp_path / "gone.tif": "No such file",
        tmp_path / "empty.tif": "empty",
        tmp_path / "text.tif": "format is not supported",
        tmp_path / "nul\0.tif": "null",
        "/dev/zero": "no ordinary file",
        "MEM:::DATAPOINTER=1,PIXELS=9,LINES=9": "No such file",
        "/vsimem/x.tif": "No such file",
        "/vsistdin/": "No such file",
        "GTIFF_DIR:1:x.tif": "No such file",
    }
    for path, reason in reasons.items():
        message = refusal(path)
        assert reason in message, message
        assert str(path) in message


@pytest.mark.parametrize("name", ["scene.vrt", "scene.tif"])
def test_a_vrt_is_refused_by_its_content(tmp_path, name):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(64)))
    path = tmp_path / name
    path.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1" '
        'subClass="VRTRawRasterBand"><SourceFilename relativetoVRT="0">'
        f"{secret}</SourceFilename></VRTRasterBand></VRTDataset>"
    )
    assert "is a VRT" in refusal(path)


def test_a_file_is_told_by_its_content(tmp_path):
    made = plain(tmp_path, driver="PNG", crs=None, transform=None)
    path = made.path.rename(tmp_path / "scene.jpg")
    with Scene.open(path) as scene:
        np.testing.assert_array_equal(scene.read(scene.grid.window).data, made.data)


NAMES = ["GTIFF_DIR:1:x.tif", "-o.tif", "--overwrite", "%s{0}.tif", "[a]*.tif", "C:\\x.tif", "été.tif", "a b\n.tif"]


@pytest.mark.parametrize("name", NAMES)
def test_any_legal_name_is_a_plain_file(tmp_path, monkeypatch, name):
    made = plain(tmp_path)
    made.path.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with Scene.open(name) as scene:
        source = scene.source
        assert scene.path == name
    monkeypatch.chdir("/")
    with source.open() as scene:
        np.testing.assert_array_equal(scene.read(scene.grid.window).data, made.data)


def test_a_name_that_is_not_utf8_is_refused_or_read(tmp_path):
    path = os.fsencode(plain(tmp_path).path.rename(tmp_path / "x.tif"))
    latin = path.replace(b"x.tif", b"\xe9.tif")
    Path(os.fsdecode(path)).rename(os.fsdecode(latin))
    assert "cannot be opened" in refusal(os.fsdecode(latin))


def test_complex_numbers_are_refused(tmp_path):
    path = write(tmp_path / "sar.tif", pixels(2).astype(np.complex64))
    assert "complex numbers (complex64)" in refusal(path)


def test_huge_blocks_are_refused(tmp_path, monkeypatch):
    path = plain(tmp_path, tiled=True, blockxsize=64, blockysize=64, compress="deflate").path
    Scene.open(path).close()
    monkeypatch.setattr("geoseg.scene.opening._MAX_BLOCK_BYTES", 64 * 64 * 3 - 1)
    message = refusal(path)
    assert "blocks of 64x64 pixels" in message
    assert "gdal_translate" in message


def test_a_refused_scene_is_closed(tmp_path):
    """Descriptors do not leak."""
    path = plain(tmp_path).path
    count = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        refusal(path, BandError, bands=[9])
    assert len(list(Path("/proc/self/fd").iterdir())) == count


def test_source_travels_to_other_processes(tmp_path):
    path = plain(tmp_path).path
    with Scene.open(path, bands=["blue", 1], nodata=math.nan) as scene:
        source = scene.source
        fingerprint = scene.fingerprint()
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert hash(copy) == hash(source)
    assert copy == SceneSource(str(path), (3, 1), math.inf)
    assert copy.fingerprint() == fingerprint == json.loads(json.dumps(fingerprint))


def test_fingerprint_tells_scenes_apart(tmp_path):
    path = plain(tmp_path).path
    with Scene.open(path) as scene:
        source = scene.source
    first = source.fingerprint()
    assert source.fingerprint() == first
    others = [replace(source, bands=(1, 2)), replace(source, bands=(3, 2, 1)), replace(source, nodata=3.0)]
    found = [other.fingerprint() for other in others]
    os.utime(path, ns=(1, 1))
    found.append(source.fingerprint())
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dst:
        dst.write_mask(np.zeros(SHAPE, bool))
    os.utime(path, ns=(1, 1))
    found.append(source.fingerprint())  # only the .msk beside it is new
    assert all(a != b for i, a in enumerate([first, *found]) for b in found[i:])


def test_one_scene_in_many_threads(tmp_path):
    made = plain(tmp_path, tiled=True, blockxsize=16, blockysize=16, compress="deflate")

    def work(seed):
        rng = np.random.default_rng(seed)
        with Scene.open(made.path) as scene:
            for _ in range(20):
                row, col = int(rng.integers(0, 40)), int(rng.integers(0, 60))
                window = Window(row=row, col=col, height=25, width=37)
                assert np.array_equal(scene.read(window).data, made.data[(slice(None), *window.slices())])
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(24)))


@pytest.mark.parametrize(
    ("kind", "remark"),
    [
        ("plain", None),
        ("alpha", None),
        ("GCPs", "ground control points"),
        ("RPCs", "RPCs"),
        ("alpha and nodata", "the alpha band decides"),
    ],
)
def test_remarks(tmp_path, kind, remark):
    with Scene.open(KINDS[kind](tmp_path).path) as scene:
        found = scene.remarks()
    assert len(found) == (remark is not None)
    assert remark is None or remark in found[0]


def test_more_remarks(tmp_path):
    data = pixels(1)
    paths = {
        "colour table": write(tmp_path / "palette.tif", data, photometric="palette"),
        "4 bits": write(tmp_path / "nbits.tif", data % 16, nbits=4),
        "degrees": write(tmp_path / "degrees.tif", data, crs="EPSG:4326"),
        "no transform": write(tmp_path / "untransformed.tif", data, transform=None),
    }
    with rasterio.open(paths["colour table"], "r+") as dst:
        dst.write_colormap(1, {1: (255, 0, 0, 255)})
    for remark, path in paths.items():
        with Scene.open(path) as scene:
            assert [remark in said for said in scene.remarks()] == [True], scene.remarks()


@pytest.mark.parametrize(
    ("tag", "names"),
    [
        (None, ()),
        ('["background", "road, paved", "été"]', ("background", "road, paved", "été")),
        ("background,road", ()),
        ("{}", ()),
    ],
)
def test_class_names(tmp_path, tag, names):
    path = plain(tmp_path, count=1).path
    if tag:
        with rasterio.open(path, "r+") as dst:
            dst.update_tags(GEOSEG_CLASSES=tag)
    with Scene.open(path) as scene:
        assert scene.class_names == names


class Ranges(SimpleHTTPRequestHandler):
    """Serves byte ranges, as every place for COGs does."""

    def do_GET(self):
        content = (Path(self.directory) / self.path.lstrip("/").partition("?")[0]).read_bytes()
        asked = self.headers.get("Range", "bytes=0-")[6:].split("-")
        first, last = int(asked[0]), min(int(asked[1] or len(content)), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(content[first : last + 1])

    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_scene_on_a_server(tmp_path, site):
    made = plain(tmp_path, tiled=True, blockxsize=32, blockysize=32, compress="deflate")
    with Scene.open(f"{site}/plain.tif") as scene:
        window = Window(row=5, col=40, height=50, width=20)
        np.testing.assert_array_equal(scene.read(window).data, made.data[(slice(None), *window.slices())])
        assert scene.grid.transform == NORTH_UP
        assert pickle.loads(pickle.dumps(scene.source)).open().path == f"{site}/plain.tif"
        assert json.dumps(scene.fingerprint())


def test_a_server_that_never_answers(monkeypatch):
    assert {"GDAL_HTTP_TIMEOUT", "GDAL_HTTP_CONNECTTIMEOUT", "GDAL_HTTP_LOW_SPEED_TIME"} <= _GDAL_REMOTE.keys()
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")  # the environment wins
    with socket.create_server(("127.0.0.1", 0)) as hole:
        start = time.monotonic()
        assert "127.0.0.1" in refusal(f"http://127.0.0.1:{hole.getsockname()[1]}/scene.tif")
    assert time.monotonic() - start < 30


def test_a_server_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    refusal(f"http://127.0.0.1:{port}/scene.tif")
