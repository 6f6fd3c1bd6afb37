"""Preflight: which bands, which cells, which warnings; refusals name both numbers and a way out."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from checkpoints import CLASSES
from rasterio.enums import ColorInterp
from rasters import noise, write_raster

from geoseg.checkpoint import Head, Header
from geoseg.errors import BandError, SceneError, UsageError
from geoseg.preflight import open_scene, warn_of_differences


def header_for(*bands, **fields):
    defaults = {
        "arch": "unet", "bands": bands, "mean": (1.0,) * len(bands), "std": (1.0,) * len(bands),
        "value_range": ((0.0, 255.0),) * len(bands), "dtype": "uint8", "heads": {"surface": Head(classes=CLASSES)},
        "cell_side": 1536, "stride": 16, "receptive_radius": 107,
    }  # fmt: skip
    return Header(**(defaults | fields))


RGB = header_for("red", "green", "blue")


def scene(path, count, colors=None, names=None, **profile):
    write_raster(path, noise((count, 5, 7)), photometric="minisblack", **profile)
    with rasterio.open(path, "r+") as dst:
        dst.colorinterp = colors or [ColorInterp.undefined] * count
        if names:
            dst.descriptions = names
    return path


def chosen(path, header=RGB, bands=None, nodata=None):
    with open_scene(path, header, bands, nodata) as opened:
        return [band.index for band in opened.bands]


R, G, B, NIR = (getattr(ColorInterp, name) for name in ("red", "green", "blue", "nir"))


def test_bands_are_matched_by_color_in_any_order(tmp_path, warnings):
    assert chosen(scene(tmp_path / "a.tif", 4, [B, NIR, R, G])) == [3, 4, 1]
    assert chosen(scene(tmp_path / "b.tif", 4, [R, G, B, NIR]), header_for("nir", "red")) == [4, 1]
    assert chosen(scene(tmp_path / "c.tif", 3, names=("Blue", "GREEN", "red"))) == [3, 2, 1]
    assert warnings == []


def test_bands_without_names_are_taken_in_order(tmp_path, warnings):
    assert chosen(scene(tmp_path / "a.tif", 3)) == [1, 2, 3]
    assert warnings == []  # there is nothing that contradicts


def test_bands_of_other_names_are_taken_in_order_with_a_warning(tmp_path, warnings):
    path = scene(tmp_path / "a.tif", 3, names=("B04", "B03", "B02"))
    assert chosen(path) == [1, 2, 3]
    assert warnings == [f"{path}: bands B04, B03, B02 taken for red, green, blue, in this order"]


def test_a_wrong_number_of_bands_is_refused_with_both_numbers_and_a_way_out(tmp_path):
    path = scene(tmp_path / "a.tif", 4)
    with pytest.raises(BandError, match=r"has 4 bands \(band_1, .*\); .* on 3 bands \(red, green, blue\).*1,2,3"):
        chosen(path)
    assert chosen(path, bands=(1, 2, 3)) == [1, 2, 3]
    with pytest.raises(BandError, match=r"has 1 band \(band_1\); .* 3 bands"):
        chosen(scene(tmp_path / "b.tif", 1))
    with pytest.raises(BandError, match=r"2 bands chosen; .* 3 bands"):
        chosen(path, bands=(1, 2))


@pytest.mark.parametrize(
    ("bands", "says"),
    [
        ((0, 1, 2), "band=0 "),
        ((1, 2, 5), "band=5 .*Expected 1 to 4"),
        ((-1, 2, 3), "band=-1"),
        (("rot", 1, 2), "'rot'"),
    ],
)
def test_bands_that_are_not_there(tmp_path, bands, says):
    with pytest.raises(BandError, match=says):
        chosen(scene(tmp_path / "a.tif", 4), bands=bands)


def test_chosen_bands_win_over_names(tmp_path, warnings):
    path = scene(tmp_path / "a.tif", 4, [B, G, R, NIR])
    assert chosen(path, bands=(1, 2, 3)) == [1, 2, 3]
    assert chosen(path, bands=("nir", "Red", 2)) == [4, 3, 2]
    assert warnings == []


def test_alpha_is_no_band_of_the_scene(tmp_path):
    valid = np.ones((5, 7), bool)
    assert chosen(write_raster(tmp_path / "a.tif", noise((3, 5, 7)), how="alpha", valid=valid)) == [1, 2, 3]


@pytest.mark.parametrize("nodata", [256.0, -1.0, 0.5, 1e30])
def test_a_nodata_value_that_cannot_occur_is_refused(tmp_path, nodata):
    path = scene(tmp_path / "a.tif", 3)
    with pytest.raises(UsageError, match=r"--nodata .* uint8.*0 to 255"):
        open_scene(path, RGB, None, nodata)


@pytest.mark.parametrize("nodata", [0.0, 255.0, float("nan")])
def test_nodata_values_that_can_occur_or_say_none(tmp_path, nodata):
    assert chosen(scene(tmp_path / "a.tif", 3), nodata=nodata) == [1, 2, 3]


def test_a_scene_that_is_none(tmp_path):
    with pytest.raises(SceneError):
        open_scene(tmp_path / "missing.tif", RGB, None, None)


# ---- warnings


def differences(path, header=RGB):
    with open_scene(path, header, None, None) as opened:
        warn_of_differences(str(path), opened, [header])


def test_a_scene_like_the_training_data_is_no_news(tmp_path, warnings):
    differences(scene(tmp_path / "a.tif", 3), header_for("red", "green", "blue", gsd=(0.2, 0.5, 0.3)))
    assert warnings == []


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_no_crs_is_one_line(tmp_path, warnings):
    differences(scene(tmp_path / "a.tif", 3, crs=None, transform=Affine.identity()))
    assert len(warnings) == 1
    assert "no CRS" in warnings[0]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("meters", "told"), [(0.1, True), (0.3, False), (0.8, True)])
def test_without_a_crs_the_given_gsd_counts(tmp_path, warnings, meters, told):
    path = scene(tmp_path / "a.tif", 3, crs=None, transform=Affine.identity())
    header = header_for("red", "green", "blue", gsd=(0.2, 0.5, 0.3))
    with open_scene(path, header, None, None) as opened:
        warn_of_differences(str(path), opened, [header], meters)
    assert [f"{meters:.3g} m per pixel; the model was trained on 0.2 to 0.5 m" in text for text in warnings] == [
        True
    ] * told


def test_another_type_is_one_line(tmp_path, warnings):
    write_raster(tmp_path / "a.tif", noise((3, 5, 7), dtype=np.uint16), photometric="rgb")
    differences(tmp_path / "a.tif")
    assert len(warnings) == 1
    assert "uint16; the model was trained on uint8" in warnings[0]


@pytest.mark.parametrize(
    ("dtype", "factor", "told"),
    [
        (np.uint16, 257, "go to 255: nothing useful"), (np.uint16, 8, "-scale 8 2040 1 255"),
        (np.int16, 1, "a worse result"), (np.float32, 1 / 255, "nothing useful"), (np.float32, 1, "a worse result"),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_told_with_the_way_out(tmp_path, warnings, dtype, factor, told):
    values = (np.arange(3 * 300 * 70).reshape(3, 300, 70) % 2 * 254 + 1) * factor
    write_raster(tmp_path / "a.tif", values.astype(dtype), photometric="rgb")
    differences(tmp_path / "a.tif")
    assert len(warnings) == 1
    assert told in warnings[0]


def test_without_data_nothing_is_known_of_the_values(tmp_path, warnings):
    write_raster(tmp_path / "a.tif", np.full((3, 5, 7), 9000, np.uint16), photometric="rgb", nodata=9000)
    differences(tmp_path / "a.tif")
    assert [text.rpartition(": ")[2] for text in warnings] == ["expect a worse result, or rescale it first"]


def test_degrees_off_earth_are_told_and_pixels_counted(tmp_path, warnings):
    """Metres that are said to be degrees."""
    path = scene(tmp_path / "a.tif", 3, crs="EPSG:4326", transform=Affine(0.3, 0, 3628360, 0, -0.3, 38995))
    differences(path, header_for("red", "green", "blue", gsd=(0.2, 0.5, 0.3)))
    assert len(warnings) == 2
    assert "a CRS in degrees and bounds that are none" in warnings[0]
    assert "no place on Earth: lengths and areas are in pixels" in warnings[1]


@pytest.mark.parametrize(("meters", "told"), [(0.1, True), (0.15, False), (0.7, False), (0.8, True), (10, True)])
def test_another_gsd_is_one_line(tmp_path, warnings, meters, told):
    path = scene(tmp_path / "a.tif", 3, transform=Affine(meters, 0, 500000, 0, -meters, 6200000))
    differences(path, header_for("red", "green", "blue", gsd=(0.2, 0.5, 0.3)))
    assert len(warnings) == told
    if told:
        assert f"{meters:.3g} m per pixel; the model was trained on 0.2 to 0.5 m" in warnings[0]


def test_a_data_band_that_is_marked_as_alpha_is_named_with_the_way_out(tmp_path):
    path = scene(tmp_path / "a.tif", 4, [R, G, B, ColorInterp.alpha])
    with pytest.raises(BandError, match=r"Its band 4 is marked as alpha.*--colorinterp red,green,blue,undefined "):
        chosen(path, header_for("red", "green", "blue", "nir"))
