"""Polygons from class rasters: exact to the pixel, valid, in a stable order, on any grid."""

import os

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.features import rasterize
from scipy import ndimage

from geoseg.errors import SceneError, UsageError
from geoseg.grid import IN_PIXELS
from geoseg.vectors import polygonize

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CLASSES = {1: "building", 2: "road"}
UTM = Affine(0.3, 0, 500000, 0, -0.3, 6650000)

label_arrays = arrays(
    np.uint8, st.tuples(st.integers(1, 13), st.integers(1, 13)), elements=st.sampled_from([0, 1, 1, 2, 255])
)


def write(path, labels, *, transform=None, crs=None, nodata=255, **profile):
    """A class raster of plain rasterio."""
    height, width = labels.shape[-2:]
    count = labels.shape[0] if labels.ndim == 3 else 1
    profile = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": labels.dtype, **profile}
    with rasterio.open(path, "w", transform=transform, crs=crs, nodata=nodata, **profile) as dataset:
        dataset.write(labels if labels.ndim == 3 else labels[None])
    return path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("polygonize") / "labels.tif"


def burn(frames, shape, transform=None):
    """The labels that polygons stand for, 0 elsewhere."""
    pairs = [pair for frame in frames.values() for pair in zip(frame.geometry, frame["class"], strict=True)]
    transform = transform or IN_PIXELS
    return rasterize(pairs, shape, transform=transform, dtype=np.uint8) if pairs else np.zeros(shape, np.uint8)


def chosen(labels):
    return np.where(np.isin(labels, list(CLASSES)), labels, 0)


@given(label_arrays)
@example(np.indices((7, 9)).sum(0).astype(np.uint8) % 2)
@example(np.full((5, 4), 255, np.uint8))
@example(np.full((5, 4), 1, np.uint8))
@example(np.ones((1, 1), np.uint8))
@example(np.array([[1, 2, 1, 255, 1]], np.uint8))
def test_rasterized_polygons_are_the_labels(scratch, labels):
    frames = polygonize(write(scratch, labels), CLASSES)
    assert np.array_equal(burn(frames, labels.shape), chosen(labels))
    for value, name in CLASSES.items():
        frame = frames[name]
        assert frame.geometry.is_valid.all()
        assert (frame.geom_type == "Polygon").all()
        assert len(frame) == ndimage.label(labels == value)[1]
        assert frame["area_px"].sum() == np.count_nonzero(labels == value)
        assert list(frame["id"]) == list(range(1, len(frame) + 1))


@given(label_arrays)
def test_order_is_that_of_the_first_pixels(scratch, labels):
    frames = polygonize(write(scratch, labels), CLASSES)
    for value, name in CLASSES.items():
        # scipy numbers components by their first pixel in reading order.
        components, count = ndimage.label(labels == value)
        sizes = np.bincount(components.ravel())[1:]
        assert len(sizes) == count
        assert list(frames[name]["area_px"]) == list(sizes)


def test_every_pattern_of_3_by_4_pixels_is_valid(scratch):
    """4-connected rings touch themselves at pinches: all that can happen there happens in these 4096 patterns."""
    bits = (np.arange(4096)[:, None] >> np.arange(12)) & 1
    cells = np.zeros((64, 64, 4, 5), np.uint8)
    cells[:, :, :3, :4] = bits.reshape(64, 64, 3, 4)
    labels = cells.transpose(0, 2, 1, 3).reshape(256, 320)
    frame = polygonize(write(scratch, labels), {1: "building"})["building"]
    assert frame.geometry.is_valid.all()
    assert np.array_equal(burn({"building": frame}, labels.shape), labels)


@pytest.mark.parametrize(
    "blocks",
    [{"blockysize": 1}, {"blockysize": 101}, {"tiled": True, "blockxsize": 16, "blockysize": 16}],
    ids=["rows", "one strip", "tiles"],
)
def test_blocks_do_not_matter(tmp_path, blocks):
    labels = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (101, 67))
    plain = polygonize(write(tmp_path / "plain.tif", labels), CLASSES)
    cut = polygonize(write(tmp_path / "cut.tif", labels, compress="deflate", **blocks), CLASSES)
    for name, frame in plain.items():
        assert list(frame.to_wkb()["geometry"]) == list(cut[name].to_wkb()["geometry"])


@pytest.mark.parametrize(
    "transform",
    [
        UTM,
        Affine(0.3, 0, 500000, 0, 0.3, 6650000),
        UTM @ Affine.rotation(31),
        UTM @ Affine.rotation(200) @ Affine.shear(20, 5) @ Affine.scale(2, 0.7),
    ],
    ids=["north-up", "south-up", "rotated", "sheared"],
)
def test_any_grid(tmp_path, transform):
    labels = np.random.default_rng(1).choice(np.array([0, 1, 2, 255], np.uint8), (41, 37))
    frames = polygonize(write(tmp_path / "a.tif", labels, transform=transform, crs="EPSG:32637"), CLASSES)
    assert np.array_equal(burn(frames, labels.shape, transform), labels * np.isin(labels, [1, 2]))
    assert frames["road"].crs == "EPSG:32637"
    assert frames["road"].geometry.is_valid.all()


@pytest.mark.parametrize(
    ("crs", "transform", "side_m"),
    [
        ("EPSG:32637", Affine(0.5, 0, 500000, 0, -0.5, 6650000), 0.5 / 0.9996),
        ("EPSG:3857", Affine(1, 0, 4200000, 0, -1, 8399737.9), np.sqrt(0.50126 * 0.50042)),
        ("EPSG:4326", Affine(1e-5, 0, 39, 0, -1e-5, 60), np.sqrt(0.55799 * 1.11412)),
        ("EPSG:2263", Affine(1, 0, 980000, 0, -1, 200000), 0.3048),
    ],
    ids=["utm", "web mercator", "degrees", "feet"],
)
def test_sizes_are_metres_on_the_ground(tmp_path, crs, transform, side_m):
    labels = np.ones((20, 20), np.uint8)
    row = polygonize(write(tmp_path / "a.tif", labels, transform=transform, crs=crs), CLASSES)["building"].iloc[0]
    assert row["area_m2"] == pytest.approx(400 * side_m**2, rel=2e-4)
    if crs != "EPSG:4326":
        assert row["perimeter_m"] == pytest.approx(80 * side_m, rel=2e-4)


def test_fields(tmp_path):
    labels = np.ones((5, 5), np.uint8)
    labels[2, 2] = 0
    path = write(tmp_path / "a.tif", labels, transform=UTM, crs="EPSG:32637")
    frames = polygonize(path, {**CLASSES, 3: "water"}, source="unet")
    row = frames["building"].iloc[0]
    assert (row["class"], row["name"], row["holes"], row["method"], row["source"]) == (1, "building", 1, "raw", "unet")
    assert np.isnan(row["prob"])
    assert np.isnan(row["prob_min10"])
    assert list(frames) == ["building", "road", "water"]
    assert len(frames["water"]) == 0
    assert dict(frames["water"].dtypes) == dict(frames["building"].dtypes)


def test_mean_probability(tmp_path):
    rng = np.random.default_rng(2)
    labels = np.kron(rng.integers(0, 3, (10, 8)), np.ones((7, 5))).astype(np.uint8)
    stored = rng.integers(0, 256, labels.shape).astype(np.uint8)
    labels[:3] = 255
    confidence = write(tmp_path / "p.tif", stored, tiled=True, blockxsize=16, blockysize=16)
    frame = polygonize(write(tmp_path / "a.tif", labels), CLASSES, confidence=confidence)["road"]
    components, count = ndimage.label(labels == 2)
    valid = np.where(stored == 255, np.nan, stored / 254)
    assert list(frame["prob"]) == [
        pytest.approx(np.nanmean(valid[components == i]), abs=1e-4) for i in range(1, count + 1)
    ]
    assert list(frame["prob_min10"]) == [
        pytest.approx(np.nanpercentile(valid[components == i], 10, method="inverted_cdf"), abs=1e-4)
        for i in range(1, count + 1)
    ]


def test_confidence_of_another_grid(tmp_path):
    labels = write(tmp_path / "a.tif", np.ones((4, 5), np.uint8))
    with pytest.raises(UsageError, match="6x4 pixels, the class raster 5x4"):
        polygonize(labels, CLASSES, confidence=write(tmp_path / "p.tif", np.ones((4, 6), np.uint8)))


def test_min_area(tmp_path):
    labels = np.array([[1, 1, 0, 1], [1, 1, 0, 0]], np.uint8)
    georeferenced = write(tmp_path / "a.tif", labels, transform=UTM, crs="EPSG:32637")
    assert list(polygonize(georeferenced, CLASSES, min_area_m2=0.2)["building"]["id"]) == [1]
    pixels = write(tmp_path / "b.tif", labels)
    with pytest.raises(UsageError, match="--gsd"):
        polygonize(pixels, CLASSES, min_area_m2=2)
    assert list(polygonize(pixels, CLASSES, min_area_m2=2, gsd=1)["building"]["area_px"]) == [4]


def test_class_0_and_255_can_be_outlined_unless_nodata(tmp_path):
    labels = np.array([[0, 255, 255, 0]], np.uint8)
    frames = polygonize(write(tmp_path / "a.tif", labels, nodata=None), {0: "ground", 255: "building"})
    assert list(frames["ground"]["area_px"]) == [1, 1]
    assert list(frames["building"]["area_px"]) == [2]
    assert not len(polygonize(write(tmp_path / "a.tif", labels), {255: "building"})["building"])


def test_local_crs_counts_pixels_and_is_kept(tmp_path):
    local = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    path = write(tmp_path / "a.tif", np.ones((2, 2), np.uint8), transform=UTM, crs=local)
    frame = polygonize(path, CLASSES)["building"]
    assert frame["area_px"].item() == 4
    assert "site grid" in frame.crs.to_wkt()


@pytest.mark.parametrize(
    ("array", "message"),
    [(np.zeros((4, 4), np.float32), "1 band of float32"), (np.zeros((3, 4, 4), np.uint8), "3 bands of uint8")],
)
def test_no_class_raster(tmp_path, array, message):
    with pytest.raises(SceneError, match=message):
        polygonize(write(tmp_path / "a.tif", array), CLASSES)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    for path in (tmp_path / "missing.tif", tmp_path, tmp_path / "pipe.tif"):
        with pytest.raises(SceneError, match="is not a file"):
            polygonize(path, CLASSES)


def test_what_cannot_be_read(tmp_path):
    text = tmp_path / "a.tif"
    text.write_text("not a raster")
    with pytest.raises(SceneError, match="cannot be read"):
        polygonize(text, CLASSES)
    labels = np.random.default_rng(0).integers(0, 3, (200, 200)).astype(np.uint8)
    whole = write(tmp_path / "b.tif", labels, compress="deflate").read_bytes()
    (tmp_path / "b.tif").write_bytes(whole[:9000])
    with pytest.raises(SceneError, match="cannot be read"):
        polygonize(tmp_path / "b.tif", CLASSES)


def test_impossible_class(tmp_path):
    with pytest.raises(UsageError, match=r"of 0\.\.255"):
        polygonize(write(tmp_path / "a.tif", np.ones((2, 2), np.uint8)), {300: "building"})


def test_classes_that_would_share_a_layer(tmp_path):
    with pytest.raises(UsageError, match="'buildings' cannot be"):
        polygonize(write(tmp_path / "a.tif", np.ones((2, 2), np.uint8)), {1: "building", 2: "buildings"})


def test_the_model_is_taken_from_the_tags(tmp_path):
    path = write(tmp_path / "a.tif", np.ones((2, 2), np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(GEOSEG_ARCH="unet", GEOSEG_CHECKPOINT="0123456789abcdef")
    assert polygonize(path, CLASSES)["building"]["source"].item() == "unet 0123456789ab"


def test_the_input_is_left_alone(tmp_path):
    path = write(tmp_path / "a.tif", np.ones((4, 4), np.uint8))
    before = path.read_bytes()
    polygonize(path, CLASSES)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    assert path.read_bytes() == before


def test_neighbours_share_their_border(tmp_path):
    labels = np.array([[1, 2], [1, 2]], np.uint8)
    frames = polygonize(
        write(tmp_path / "a.tif", labels, transform=UTM @ Affine.rotation(7), crs="EPSG:32637"), CLASSES
    )
    left, right = (frames[name].geometry.item() for name in ("building", "road"))
    assert shapely.intersection(left, right).area == 0
    assert len(set(left.exterior.coords) & set(right.exterior.coords)) == 2
