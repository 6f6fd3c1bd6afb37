"""Where a raster lies that says nothing of it: where QGIS shows it, whatever is made of it or drawn on it."""

from concurrent.futures import ThreadPoolExecutor

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import GCPS, RPCS, pixels, write

from geoseg.errors import LabelsError
from geoseg.evaluate import evaluate_prediction
from geoseg.grid import IN_PIXELS
from geoseg.raster import RasterProfile, write_cog
from geoseg.scene import Scene
from geoseg.targets import labelled_area, read_labels
from geoseg.tiles import LabelOptions, TileOptions, tile_scenes
from geoseg.training.sources.files import check_place
from geoseg.vectors import OutlineOptions, polygonize, vectorize_raster

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:'crs' was not provided"),
]

SHAPE = (20, 30)
FORMATS = {"tif": "GTiff", "png": "PNG", "jpg": "JPEG", "jp2": "JP2OpenJPEG"}
NAMES = ("background", "building")


def nowhere(path, data=None, **profile):
    """A raster without a transform, in the format of its ending."""
    driver = FORMATS[path.suffix[1:]]
    return write(
        path, pixels(shape=SHAPE) if data is None else data, driver=driver, crs=None, transform=None, **profile
    )


def transform_of(path):
    with Scene.open(path) as scene:
        return scene.grid.transform


def town():
    """(H, W) uint8 of one building that is not symmetric in any way."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:7, 4:15] = labels[7:9, 4:6] = 1
    return labels


def drawn(path, top=2):
    """A box over rows `top` to `top` + 5 and columns 4 to 15, in QGIS's coordinates."""
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(4, -top - 5, 15, -top)])
    frame.to_file(path, layer="building")
    return path


@pytest.mark.parametrize("ending", FORMATS)
def test_rows_run_downwards_from_0(tmp_path, ending):
    path = nowhere(tmp_path / f"a.{ending}")
    assert transform_of(path) == IN_PIXELS
    with Scene.open(path) as scene:
        assert (scene.grid.bounds, scene.grid.in_pixels) == ((0, -20, 30, 0), True)


def test_what_is_stated_holds(tmp_path):
    """QGIS shows a stated identity with its rows upwards, and goes by control points and RPCs."""
    assert transform_of(write(tmp_path / "crs.tif", pixels(), transform=None)) == IN_PIXELS
    for name, transform in {
        "identity": Affine.identity(),
        "down": IN_PIXELS,
        "moved": Affine(1, 0, 0, 0, 1, 7),
    }.items():
        assert transform_of(write(tmp_path / f"{name}.tif", pixels(), crs=None, transform=transform)) == transform
    for step in (1, -1):
        path = nowhere(tmp_path / f"world{step}.jpg")
        path.with_suffix(".jgw").write_text(f"1\n0\n0\n{step}\n0.5\n{step / 2}\n")
        assert transform_of(path) == Affine(1, 0, 0, 0, step, 0)
    for name, points in {"gcps": {"gcps": (GCPS, "EPSG:4326")}, "rpcs": {"rpcs": RPCS}}.items():
        path = nowhere(tmp_path / f"{name}.tif")
        with rasterio.open(path, "r+") as dst:
            for key, value in points.items():
                setattr(dst, key, value)
        assert transform_of(path) == Affine.identity()


def test_threads_agree(tmp_path):
    paths = [nowhere(tmp_path / "a.png"), write(tmp_path / "b.tif", pixels(), crs=None, transform=Affine.identity())]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(transform_of, paths * 100))
    assert found == [IN_PIXELS, Affine.identity()] * 100


def test_work_begun_where_it_lay_elsewhere_does_not_go_on(tmp_path):
    """By what is asked before a run is resumed; scenes that say where they lie always lay there."""
    with Scene.open(nowhere(tmp_path / "a.png")) as scene:
        assert scene.fingerprint()["transform"] == list(IN_PIXELS[:6])
    with Scene.open(write(tmp_path / "b.tif", pixels())) as scene:
        assert "transform" not in scene.fingerprint()


@settings(max_examples=40)
@given(box=st.tuples(*[st.floats(-3, 33)] * 2, *[st.floats(-23, 3)] * 2))
def test_what_is_drawn_at_qgis_coordinates_is_burnt_on_the_pixels_under_it(tmp_path_factory, box):
    left, right, bottom, top = *sorted(box[:2]), *sorted(box[2:])
    folder = tmp_path_factory.mktemp("drawn")
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    expected = (left < cols) & (cols < right) & (bottom < -rows) & (-rows < top)
    corner = shapely.box(0, -1, 1, 0)  # always on the scene
    expected[0, 0] = True
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(left, bottom, right, top), corner])
    frame[~frame.is_empty & frame.is_valid].to_file(folder / "labels.gpkg", layer="building")
    with Scene.open(nowhere(folder / "scene.png")) as scene:
        target = read_labels(folder / "labels.gpkg", grid=scene.grid, class_names=NAMES).target(scene.grid.window)
        area = labelled_area(folder / "labels.gpkg", scene.grid).valid(scene.grid.window)
    close = (
        np.min([np.abs(cols - left), np.abs(cols - right), np.abs(-rows - bottom), np.abs(-rows - top)], 0) < 1 / 128
    )
    np.testing.assert_array_equal(target[~close] == 1, expected[~close])
    np.testing.assert_array_equal(area[~close], expected[~close])


def test_vectors_of_a_class_raster_burn_back_where_the_scene_lies(tmp_path):
    """Of one that geoseg writes today, and of one without a transform."""
    scene, old = nowhere(tmp_path / "scene.jpg"), nowhere(tmp_path / "old.tif", town()[None])
    with Scene.open(scene) as opened:
        grid = opened.grid
        write_cog(tmp_path / "new.tif", [(grid.window, town())], RasterProfile(grid=grid))
    for path in (tmp_path / "new.tif", old):
        frame = polygonize(path, {1: "building"})["building"]
        assert frame.total_bounds.tolist() == [4, -9, 15, -2]
        frame.to_file(tmp_path / "v.gpkg", layer="building")
        labels = read_labels(tmp_path / "v.gpkg", grid=grid, class_names=NAMES)
        np.testing.assert_array_equal(labels.target(grid.window), town())


def test_a_mask_beside_it_fits_whatever_wrote_it(tmp_path):
    """Without a transform, as geoseg wrote rasters once; with the identity, as rasterio does; as geoseg does now."""
    masks = [
        nowhere(tmp_path / "mask.png", town()[None]),
        *(
            write(tmp_path / f"{name}.tif", town()[None], crs=None, transform=transform)
            for name, transform in {"none": None, "identity": Affine.identity(), "now": IN_PIXELS}.items()
        ),
    ]
    for mask in masks:
        for other in masks:
            assert evaluate_prediction(mask, other, classes=["building"]).scores.accuracy == 1
            with Scene.open(mask) as first, Scene.open(other) as second:
                check_place(other, second.grid, first.grid)
        out = tmp_path / f"tiles_{mask.name}"
        tile_scenes([nowhere(tmp_path / "a.png")], [mask], out, tiles=TileOptions(tile_size=16, val=0),
                    about=LabelOptions(classes=("building",)))  # fmt: skip
        with rasterio.open(out / "labels" / "a_r000004_c000014.tif") as tile:
            assert tile.transform == Affine(1, 0, 14, 0, -1, -4)
            np.testing.assert_array_equal(tile.read(1), town()[4:, 14:])


def test_evaluation_finds_what_is_drawn(tmp_path):
    prediction = nowhere(tmp_path / "p.tif", town()[None])
    scores = evaluate_prediction(prediction, drawn(tmp_path / "drawn.gpkg"), classes=["building"]).scores
    assert [one.recall for one in scores.classes] == [541 / 545, 1]


def test_shapes_with_rows_upwards_are_refused_with_a_way_out(tmp_path):
    """As geoseg wrote them once, and as programs for pictures do."""
    with Scene.open(nowhere(tmp_path / "a.png")) as scene:
        up = drawn(tmp_path / "up.gpkg", top=-7)
        with pytest.raises(LabelsError, match=r"outside the scene: it spans \(4, 2, 15, 7\).* multiply it by -1"):
            read_labels(up, grid=scene.grid, class_names=NAMES)
        far = drawn(tmp_path / "far.gpkg", top=90)
        with pytest.raises(LabelsError, match=r"Check the file's CRS\.$"):
            read_labels(far, grid=scene.grid, class_names=NAMES)


def test_vectors_of_an_older_class_raster_lie_on_it(tmp_path):
    old = nowhere(tmp_path / "old.tif", town()[None])
    vectorize_raster(old, tmp_path / "v.gpkg", options=OutlineOptions(raw=True))
    assert geopandas.read_file(tmp_path / "v.gpkg", layer="class_1").total_bounds.tolist() == [4, -9, 15, -2]
