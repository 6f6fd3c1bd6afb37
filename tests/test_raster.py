"""Raster: what is written is read back, in place, as a COG; a full disk is never silent."""

import hashlib
import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from scenes import GCPS, KINDS, NORTH_UP, UNPLACED

from geoseg import raster
from geoseg.checkpoint import ClassInfo
from geoseg.errors import OutputError
from geoseg.grid import IN_PIXELS, Grid
from geoseg.outputs import Outputs
from geoseg.raster import RasterProfile, check_free_space, check_storable, write_cog
from geoseg.scene import Scene
from geoseg.windows import Plan

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

UTM = rasterio.CRS.from_epsg(32637).to_wkt(version="WKT2_2019")
CLASSES = tuple(
    ClassInfo(name=name, color=color)
    for name, color in [("background", "#f0f0e8"), ("building", "#e34a33"), ('road, "paved"', "#5a5a5a")]
)


def grid(shape, crs=UTM):
    return Grid(shape=shape, transform=NORTH_UP, crs=crs)


def labels(shape, seed=0):
    """(H, W) patches of the classes, and some nodata."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 0, 1, 2, 255], (-(-shape[0] // 9), -(-shape[1] // 9)))
    return coarse.repeat(9, 0).repeat(9, 1)[: shape[0], : shape[1]].astype(np.uint8)


def cells(array, side=512):
    return [(cell, array[(..., *cell.slices())]) for cell in Plan(shape=array.shape[-2:], cell_side=side)]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.tuples(st.integers(1, 9), st.integers(500, 1100)),
    side=st.integers(1, 19).map(lambda n: n * 32),
    bands=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_cells_of_any_size_are_read_back(shape, side, bands, seed):
    array = np.random.default_rng(seed).integers(0, 256, (bands, *shape) if bands else shape, dtype=np.uint8)
    profile = RasterProfile(grid=grid(shape), bands=[f"band {i}" for i in range(max(bands, 1))])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        write_cog(path, cells(array, side), profile)
        with rasterio.open(path) as src:
            np.testing.assert_array_equal(src.read() if bands else src.read(1), array)
            assert (src.nodata, src.crs.to_epsg(), src.transform) == (255, 32637, NORTH_UP)
            assert src.descriptions == tuple(profile.bands)
            assert set(src.block_shapes) == {(512, 512)}
        assert names(Path(folder)) == ["a.tif"]


def directories(path):
    """(width, height, [offsets of tiles]) of each image of a classic little-endian TIFF, and where its IFD lies."""
    content = path.read_bytes()
    assert content[:4] == b"II*\0"
    found, (position,) = [], struct.unpack_from("<I", content, 4)
    while position:
        (count,) = struct.unpack_from("<H", content, position)
        tags = {}
        for i in range(count):
            tag, kind, number, value = struct.unpack_from("<HHII", content, position + 2 + 12 * i)
            size = {3: 2, 4: 4}.get(kind, 1)
            inline = number * size <= 4
            at = position + 2 + 12 * i + 8 if inline else value
            if kind in (3, 4):
                tags[tag] = struct.unpack_from(f"<{number}{'H' if kind == 3 else 'I'}", content, at)
        found.append((tags[256][0], tags[257][0], tags[324], position))
        (position,) = struct.unpack_from("<I", content, position + 2 + 12 * count)
    return found


def test_the_file_is_a_cog(tmp_path):
    """As GDAL's validate_cloud_optimized_geotiff asks: IFDs first and in order, overviews' tiles before the image's."""
    path = tmp_path / "a.tif"
    write_cog(path, cells(labels((1100, 2300)), 1024), RasterProfile(grid=grid((1100, 2300)), classes=CLASSES))
    images = directories(path)
    assert [(width, height) for width, height, *_ in images] == [(2300, 1100), (1150, 550), (575, 275), (288, 138)]
    positions = [position for *_, position in images]
    assert positions == sorted(positions)
    starts = [min(offset for offset in tiles if offset) for _, _, tiles, _ in images]
    assert max(positions) < min(starts)
    assert starts == sorted(starts, reverse=True)
    for _, _, tiles, _ in images:
        assert list(tiles) == sorted(tiles)
    with rasterio.open(path) as src:
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert src.compression.name == "deflate"
        assert src.overviews(1) == [2, 4, 8]


def test_bytes_depend_on_the_cells_alone(tmp_path, monkeypatch):
    """Not on the order of cells, how they are cut, the name, the time zone, or GDAL's settings outside."""
    array = labels((700, 900))
    profile = RasterProfile(grid=grid(array.shape), classes=CLASSES, tags={"GEOSEG_VERSION": "1"})
    write_cog(tmp_path / "a.tif", cells(array), profile)
    monkeypatch.setenv("TZ", "Pacific/Apia")
    monkeypatch.setenv("GDAL_NUM_THREADS", "ALL_CPUS")
    monkeypatch.setenv("GDAL_CACHEMAX", "1")
    monkeypatch.setenv("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    with rasterio.Env(COMPRESS_OVERVIEW="JPEG", GDAL_TIFF_INTERNAL_MASK=True):
        write_cog(tmp_path / "other name.tif", cells(array, 256)[::-1], profile)
    assert digest(tmp_path / "a.tif") == digest(tmp_path / "other name.tif")
    assert digest(tmp_path / "a.tif.aux.xml") == digest(tmp_path / "other name.tif.aux.xml")
    array[3, 3] ^= 1
    write_cog(tmp_path / "b.tif", cells(array), profile)
    assert digest(tmp_path / "a.tif") != digest(tmp_path / "b.tif")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith(("nodata", "not finite", "int"))])
def test_the_grid_is_the_scenes(tmp_path, kind):
    """Also when the output and the file beside it are renamed."""
    made = KINDS[kind](tmp_path)
    final = tmp_path / "out" / "final.tif"
    final.parent.mkdir()
    with Scene.open(made.path) as scene, rasterio.open(made.path) as oracle:
        profile = RasterProfile(grid=scene.grid, gcps=scene.gcps, rpcs=scene.rpcs, classes=CLASSES)
        check_storable(profile)
        with Outputs({"labels": final}) as outputs:
            array = labels(scene.grid.shape)
            write_cog(outputs.staged("labels"), cells(array, 32), profile)
            outputs.staged("labels", ".aux.xml")
            outputs.commit()
        with rasterio.open(final) as src:
            np.testing.assert_array_equal(src.read(1), array)
            transform = IN_PIXELS if kind in UNPLACED else oracle.transform
            assert (src.shape, src.transform, src.crs) == (oracle.shape, transform, oracle.crs)
            assert bool(src.rpcs) == bool(oracle.rpcs)
            assert [str(point) for point in src.gcps[0]] == [str(point) for point in oracle.gcps[0]]
            assert src.gcps[1] == oracle.gcps[1]
        with Scene.open(final) as written:
            assert written.grid.crs is None or written.grid.gsd == scene.grid.gsd
    assert names(final.parent) == ["final.tif", "final.tif.aux.xml"]


def test_a_crs_kept_beside_the_file_is_found_whatever_gdal_is_told_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    pole = rasterio.CRS.from_user_input("+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=40 +lon_0=10 +datum=WGS84")
    write_cog(tmp_path / "a.tif", cells(labels((9, 9))), RasterProfile(grid=grid((9, 9), pole.to_wkt())))
    with Scene.open(tmp_path / "a.tif") as scene:
        assert rasterio.CRS.from_wkt(scene.grid.crs) == pole


def test_control_points_are_kept(tmp_path):
    """Each with its place, so that the check above means something."""
    profile = RasterProfile(grid=Grid((67, 101), Affine.identity(), None), gcps=(GCPS, rasterio.CRS.from_epsg(4326)))
    write_cog(tmp_path / "a.tif", cells(labels((67, 101))), profile)
    with rasterio.open(tmp_path / "a.tif") as src:
        assert [(p.row, p.col, p.x, p.y) for p in src.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in GCPS]


def test_classes_are_in_the_file_and_beside_it(tmp_path):
    path = tmp_path / "a.tif"
    write_cog(path, cells(labels((30, 40))), RasterProfile(grid=grid((30, 40)), classes=CLASSES, tags={"A": "b"}))
    with rasterio.open(path) as src:
        assert src.colorinterp == (ColorInterp.palette,)
        assert [src.colormap(1)[value] for value in range(3)] == [
            (240, 240, 232, 255), (227, 74, 51, 255), (90, 90, 90, 255),
        ]  # fmt: skip
        assert src.tags()["A"] == "b"
        assert json.loads(src.tags()["GEOSEG_CLASSES"]) == [item.name for item in CLASSES]
    with Scene.open(path) as scene:
        assert scene.class_names == tuple(item.name for item in CLASSES)
    band = ET.parse(tmp_path / "a.tif.aux.xml").find("PAMRasterBand")
    assert [category.text for category in band.find("CategoryNames")] == [item.name for item in CLASSES]
    rows = [[cell.text for cell in row] for row in band.find("GDALRasterAttributeTable").iter("Row")]
    assert rows[2] == ["2", 'road, "paved"', "90", "90", "90"]


@pytest.mark.skipif(not shutil.which("gdalinfo"), reason="needs gdalinfo")
def test_gdal_shows_the_class_names(tmp_path):
    path = tmp_path / "a.tif"
    write_cog(path, cells(labels((30, 40))), RasterProfile(grid=grid((30, 40)), classes=CLASSES))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GDAL", "PROJ"))}
    found = subprocess.run(["gdalinfo", "-json", path], env=environment, capture_output=True, check=True).stdout
    (band,) = json.loads(found)["bands"]
    assert band["categories"] == [item.name for item in CLASSES]
    assert json.loads(found)["rat"]["row"][1]["f"][:2] == [1, "building"]


def test_probabilities_have_scale_and_names(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (3, 30, 40), dtype=np.uint8)
    bands = [item.name for item in CLASSES]
    write_cog(tmp_path / "a.tif", cells(array), RasterProfile(grid=grid((30, 40)), bands=bands, scale=1 / 254))
    with rasterio.open(tmp_path / "a.tif") as src:
        assert src.scales == (1 / 254,) * 3
        assert src.descriptions == tuple(bands)
        np.testing.assert_array_equal(src.read(), array)
    assert names(tmp_path) == ["a.tif"]


def overview(path, level):
    with rasterio.open(path, overview_level=level) as src:
        return src.read(1)


def test_overviews_of_classes_hold_no_new_values(tmp_path):
    array = labels((1100, 1300))
    write_cog(tmp_path / "a.tif", cells(array), RasterProfile(grid=grid(array.shape), classes=CLASSES))
    found = overview(tmp_path / "a.tif", 0)
    np.testing.assert_array_equal(found, array[::2, ::2])
    assert set(np.unique(overview(tmp_path / "a.tif", 1))) <= set(np.unique(array))


def test_overviews_of_probabilities_are_means_of_what_is_there(tmp_path):
    array = np.full((1024, 1024), 100, np.uint8)
    array[:, ::2] = 200
    array[::2, :600] = 255
    array[:600, 600:] = 255
    write_cog(tmp_path / "a.tif", cells(array), RasterProfile(grid=grid(array.shape), bands=["p"]))
    found = overview(tmp_path / "a.tif", 0)
    assert (found[:300, 300:] == 255).all()
    assert (found[:, :300] == 150).all()
    assert (found[300:, 300:] == 150).all()


LIMITED = """
    import resource, signal, sys
    import numpy as np
    from pathlib import Path
    from affine import Affine
    from geoseg.checkpoint import ClassInfo
    from geoseg.errors import OutputError
    from geoseg.grid import Grid
    from geoseg.outputs import Outputs
    from geoseg.raster import RasterProfile, write_cog
    from geoseg.windows import Plan

    folder = Path(sys.argv[1])
    array = np.random.default_rng(0).integers(0, 255, (1024, 1024), dtype=np.uint8)
    profile = RasterProfile(grid=Grid(array.shape, Affine(1, 0, 5, 0, -1, 5), None), bands=["p"])
    for limit in [*range(0, 5000, 777), *range(5000, 1600000, 99991), 3000000]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            with Outputs({"p": folder / f"{limit}.tif"}) as outputs:
                cells = ((cell, array[cell.slices()]) for cell in Plan(shape=array.shape, cell_side=512))
                write_cog(outputs.staged("p"), cells, profile)
                outputs.commit()
            print(limit, "written")
        except OutputError as error:
            assert "\\n" not in str(error)
            print(limit, "refused", error)
"""


def test_a_full_disk_is_never_silent(tmp_path):
    """A limit on the size of files: wherever it strikes, the image and its overviews are complete or not there."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), tmp_path], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    told = {int(line.split()[0]): line.split()[1] for line in run.stdout.splitlines()}
    written = [limit for limit, how in told.items() if how == "written"]
    assert len(written) >= 2
    assert len(told) - len(written) >= 15
    array = np.random.default_rng(0).integers(0, 255, (1024, 1024), dtype=np.uint8)
    whole = digest(tmp_path / f"{max(told)}.tif")
    for limit in written:
        assert digest(tmp_path / f"{limit}.tif") == whole
    with rasterio.open(tmp_path / f"{max(told)}.tif") as src:
        np.testing.assert_array_equal(src.read(1), array)
    assert names(tmp_path) == sorted(f"{limit}.tif" for limit in written)


def test_what_reads_back_otherwise_is_refused(tmp_path, monkeypatch):
    """A disk that loses a block: the file opens, and reads zeros."""
    array = labels((600, 600))
    copy = rasterio.shutil.copy

    def lossy(source, target, **options):
        changed = array.copy()
        changed[550:, 550:] = 0
        with rasterio.open(source, "r+") as dst:
            dst.write(changed, 1)
        copy(source, target, **options)

    monkeypatch.setattr(raster.rasterio.shutil, "copy", lossy)
    with pytest.raises(OutputError, match="rows 512 to 599, columns 512 to 599"):
        write_cog(tmp_path / "a.tif", cells(array), RasterProfile(grid=grid(array.shape), classes=CLASSES))


def complain(text="GDAL signalled an error: err_no=1, msg='TIFFAppendToStrip:Write error'"):
    logging.getLogger("rasterio._env").info(text)


def test_errors_that_are_only_logged_are_errors(tmp_path):
    array = labels((30, 40))

    def troubled():
        complain()
        yield from cells(array)

    with pytest.raises(OutputError, match="Write error"):
        write_cog(tmp_path / "a.tif", troubled(), RasterProfile(grid=grid(array.shape)))


def test_errors_of_other_threads_are_theirs(tmp_path):
    array = labels((30, 40))

    def beside():
        other = threading.Thread(target=complain)
        other.start()
        other.join()
        yield from cells(array)

    write_cog(tmp_path / "a.tif", beside(), RasterProfile(grid=grid(array.shape)))
    logger = logging.getLogger("rasterio._env")
    assert logger.level == logging.NOTSET
    assert not any(isinstance(handler, raster._Listener) for handler in logger.handlers)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_happens_among_the_cells_passes_and_leaves_nothing(tmp_path, error):
    def failing():
        yield from cells(labels((600, 600)))[:2]
        raise error

    with pytest.raises(error), Outputs({"labels": tmp_path / "a.tif"}) as outputs:
        write_cog(outputs.staged("labels"), failing(), RasterProfile(grid=grid((600, 600)), classes=CLASSES))
    assert names(tmp_path) == []


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_cog(tmp_path / "gone" / "a.tif", cells(labels((9, 9))), RasterProfile(grid=grid((9, 9))))


def test_georeferences_that_no_geotiff_holds_are_refused_first():
    """The Krovak projection without a code comes back with its axes turned."""
    check_storable(RasterProfile(grid=grid((9, 9))))
    krovak = rasterio.CRS.from_user_input("+proj=krovak").to_wkt(version="WKT2_2019")
    with pytest.raises(OutputError, match="CRS"):
        check_storable(RasterProfile(grid=grid((9, 9), crs=krovak)))


def test_free_space(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(raster.shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    check_free_space([(tmp_path, 0.5)], 10**6)
    with pytest.raises(OutputError, match=r"has 1 MiB free.*need 3 MiB"):
        check_free_space([(tmp_path, 0.5), (tmp_path, 2.5)], 10**6)
    with pytest.raises(OutputError, match="need 48 MiB"):
        check_free_space([(tmp_path, 0.5)], 10**8)


@pytest.mark.parametrize(("full", "share"), [("a", 0.5), ("b", 3.25)])
def test_free_space_on_every_disk_that_is_written_to(tmp_path, monkeypatch, full, share):
    usage = shutil.disk_usage(tmp_path)
    free = {"a": 2**40, "b": 2**40}
    monkeypatch.setattr(raster, "_disk", lambda folder: {"c": "b"}.get(folder.name, folder.name))
    monkeypatch.setattr(raster.shutil, "disk_usage", lambda folder: usage._replace(free=free[folder.name]))
    needs = [(tmp_path / "a", 0.5), (tmp_path / "b", 1.25), (tmp_path / "c", 2)]
    free[full] = int(share * 10**8)
    check_free_space(needs, 10**8)
    free[full] -= 1
    with pytest.raises(OutputError, match=rf"{tmp_path / full} has .* MiB free; this run may need .* MiB there"):
        check_free_space(needs, 10**8)


PEAK = """
    import resource, sys
    import numpy as np
    from pathlib import Path
    from affine import Affine
    from geoseg.grid import Grid
    from geoseg.raster import RasterProfile, write_cog
    from geoseg.windows import Plan

    shape = int(sys.argv[2]), int(sys.argv[3])
    block = np.random.default_rng(0).integers(0, 3, (64, 64), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    profile = RasterProfile(grid=Grid(shape, Affine(1, 0, 5, 0, -1, 5), None))
    cells = ((cell, block[: cell.height, : cell.width]) for cell in Plan(shape=shape, cell_side=512))
    write_cog(Path(sys.argv[1]), cells, profile)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    def peak(height, width):
        arguments = map(str, (tmp_path / "a.tif", height, width))
        command = [sys.executable, "-c", textwrap.dedent(PEAK), *arguments]
        return int(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)

    small = peak(2048, 2048)
    for shape in [(6144, 6144), (512, 60_000), (60_000, 512)]:
        assert peak(*shape) < small + 20
