"""Resampled: the same pixels whatever window they are read in, the means and interpolations they ought to be."""

import logging
import pickle

import numpy as np
import pytest
import rasterio
from affine import Affine
from checkpoints import write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import GCPS, pixels, write
from scipy.ndimage import map_coordinates

from geoseg.checkpoint import GroundSampling
from geoseg.errors import NOTE, SceneError, UsageError
from geoseg.pipeline import Products, Settings, predict_scene
from geoseg.scene import Scene
from geoseg.scene.resampled import Factor, Resampled, factor_for
from geoseg.scene.stack import Stack
from geoseg.windows import Window

UTM = {"crs": "EPSG:32637", "transform": Affine(0.05, 0, 500_000, 0, -0.05, 7_000_000)}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """37 x 53 pixels with a hole of nodata, and its arrays."""
    data = np.maximum(pixels(shape=(37, 53)), 1)
    data[:, 10:20, 30:41] = 0
    return write(tmp_path_factory.mktemp("scene") / "fine.tif", data, nodata=0, **UTM), data


def opened(path, factor):
    return Resampled(Scene.open(path), factor)


FACTORS = [Factor(shrink=2), Factor(shrink=3), Factor(shrink=7), Factor(grow=2), Factor(grow=3), Factor(grow=4)]


@pytest.mark.parametrize("factor", FACTORS, ids=str)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_no_window_sees_other_pixels(scene, factor, data):
    with opened(scene[0], factor) as resampled:
        height, width = resampled.grid.shape
        whole = resampled.read(resampled.grid.window)
        row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        window = Window(
            row=row,
            col=col,
            height=data.draw(st.integers(1, height - row)),
            width=data.draw(st.integers(1, width - col)),
        )
        part = resampled.read(window)
        np.testing.assert_array_equal(part.data, whole.data[(slice(None), *window.slices())])
        np.testing.assert_array_equal(part.valid, whole.valid[window.slices()])


@pytest.mark.parametrize("shrink", [2, 3, 5])
def test_squares_are_averaged_over_their_valid_pixels(scene, shrink):
    path, data = scene
    with opened(path, Factor(shrink=shrink)) as resampled:
        tile = resampled.read(resampled.grid.window)
        assert tile.data.dtype == np.uint8
        for row, col in np.ndindex(*resampled.grid.shape):
            square = data[:, row * shrink : (row + 1) * shrink, col * shrink : (col + 1) * shrink].reshape(3, -1)
            known = square.any(axis=0)
            assert tile.valid[row, col] == (2 * known.sum() >= known.size)
            if known.any():
                np.testing.assert_array_equal(tile.data[:, row, col], np.rint(square[:, known].mean(axis=1)))


@pytest.mark.parametrize("grow", [2, 3, 4])
def test_pixels_are_interpolated_between_their_middles(tmp_path, grow):
    data = pixels(shape=(9, 13)).astype(np.float32)
    path = write(tmp_path / "coarse.tif", data, **UTM)
    with opened(path, Factor(grow=grow)) as resampled:
        tile = resampled.read(resampled.grid.window)
        at = [(np.arange(size) + 0.5) / grow - 0.5 for size in resampled.grid.shape]
        for plane, found in zip(data, tile.data, strict=True):
            expected = map_coordinates(plane, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert tile.valid.all()


def test_what_is_not_valid_does_not_bleed(tmp_path):
    data = np.full((1, 8, 8), 100, np.float32)
    data[0, :, 4:] = np.nan
    path = write(tmp_path / "half.tif", data, **UTM)
    for factor in (Factor(shrink=2), Factor(grow=3)):
        with opened(path, factor) as resampled:
            tile = resampled.read(resampled.grid.window)
            middle = tile.valid.shape[1] // 2
            assert tile.valid[:, :middle].all()
            assert not tile.valid[:, middle:].any()
            assert (tile.data[0][tile.valid] == 100).all()


def test_a_tile_larger_than_a_strip(scene, monkeypatch):
    with opened(scene[0], Factor(shrink=2)) as resampled:
        whole = resampled.read(resampled.grid.window)
        monkeypatch.setattr("geoseg.scene.resampled._STRIP_PIXELS", 100)
        parts = resampled.read(resampled.grid.window)
    np.testing.assert_array_equal(parts.data, whole.data)
    np.testing.assert_array_equal(parts.valid, whole.valid)


def test_it_lies_on_the_same_ground(scene):
    path, _ = scene
    with Scene.open(path) as plain, opened(path, Factor(shrink=4)) as coarse, opened(path, Factor(grow=2)) as fine:
        assert coarse.grid.shape == (10, 14)
        assert fine.grid.shape == (74, 106)
        assert fine.grid.bounds == pytest.approx(plain.grid.bounds)
        assert coarse.grid.transform @ (3, 2) == pytest.approx(plain.grid.transform @ (12, 8))
        assert coarse.grid.gsd == pytest.approx(4 * plain.grid.gsd, rel=1e-3)
        with pytest.raises(UsageError, match="sticks out"):
            coarse.read(Window(row=0, col=0, height=11, width=1))


def test_control_points_move_along(tmp_path):
    path = write(tmp_path / "gcps.tif", pixels(shape=(8, 8)), gcps=GCPS, crs="EPSG:32637")
    with Scene.open(path) as plain, opened(path, Factor(shrink=2)) as coarse:
        before, after = plain.gcps[0], coarse.gcps[0]
        assert [(p.row / 2, p.col / 2, p.x, p.y) for p in before] == [(p.row, p.col, p.x, p.y) for p in after]
        assert coarse.grid.transform.is_identity


def test_without_a_georeference_it_lies_on_the_scene_too(tmp_path):
    path = write(tmp_path / "plain.tif", pixels(shape=(8, 8)), crs=None, transform=None)
    with Scene.open(path) as plain, opened(path, Factor(shrink=2)) as coarse:
        assert coarse.grid.shape == (4, 4)
        assert coarse.grid.bounds == plain.grid.bounds == (0, -8, 8, 0)


def test_a_stack_and_its_source(scene):
    path, _ = scene
    with Resampled(Stack([Scene.open(path), Scene.open(path)]), Factor(shrink=3)) as resampled:
        tile = resampled.read(resampled.grid.window)
        assert tile.data.shape == (6, 13, 18)
        again = pickle.loads(pickle.dumps(resampled.source))
        assert again == resampled.source
        assert again.fingerprint() == resampled.fingerprint()
        assert again.fingerprint() != resampled.scene.fingerprint()
        with again.open() as other:
            np.testing.assert_array_equal(other.read(other.grid.window).data, tile.data)


@pytest.mark.parametrize(
    ("gsd", "expected"),
    [
        (0.05, Factor(shrink=5)),
        (0.01, Factor(shrink=25)),
        (0.066, Factor(shrink=4)),
        (0.07, Factor()),  # within the slack of 0.1
        (0.3, Factor()),
        (1.4, Factor()),
        (2.0, Factor(grow=2)),
        (2.001, Factor(grow=2)),  # a scene by the middle of its zone
        (1.999, Factor(grow=2)),
        (2.1, Factor(grow=3)),
        (4.0, Factor(grow=4)),
        (4.01, Factor(grow=4)),
        (4.1, Factor()),  # nothing is left to see
        (10, Factor()),
    ],
)
def test_factors(gsd, expected):
    assert factor_for(gsd, 0.1, 1.0, 0.25) == expected


def test_a_fine_scene_is_predicted_where_the_model_knows_its_way(tmp_path, scene, caplog):
    path, _ = scene
    model = write_checkpoint(tmp_path / "model.safetensors", gsd=GroundSampling(min=0.1, max=1.0, best=0.25))
    with caplog.at_level(NOTE, "geoseg"):
        done = predict_scene(path, model, products=Products(labels=tmp_path / "out.tif"))
    assert "fine.tif has 0.05 m per pixel, the model knows 0.1 to 1 m" in caplog.text
    assert "5 x 5 pixels are averaged, and the output has 0.25 m" in caplog.text
    assert done.shape == (8, 11)
    # The same as a scene that was averaged by hand.
    with opened(path, Factor(shrink=5)) as resampled:
        tile, grid = resampled.read(resampled.grid.window), resampled.grid
    by_hand = write(tmp_path / "by_hand.tif", tile.data, nodata=0, crs=grid.crs, transform=grid.transform)
    predict_scene(by_hand, model, products=Products(labels=tmp_path / "by_hand_out.tif"))
    with rasterio.open(tmp_path / "out.tif") as ours, rasterio.open(tmp_path / "by_hand_out.tif") as theirs:
        assert ours.transform == theirs.transform
        np.testing.assert_array_equal(ours.read(), theirs.read())


def test_a_scene_without_a_crs_is_too_if_the_size_of_a_pixel_is_given(tmp_path, scene, caplog):
    path, data = scene
    plain = write(tmp_path / "plain.tif", data, nodata=0, crs=None, transform=None)
    model = write_checkpoint(tmp_path / "model.safetensors", gsd=GroundSampling(min=0.1, max=1.0, best=0.25))
    with caplog.at_level(NOTE, "geoseg"):
        for source, name, settings in ((path, "a.tif", Settings()), (plain, "b.tif", Settings(gsd=0.05))):
            predict_scene(source, model, products=Products(labels=tmp_path / name), settings=settings)
    assert "plain.tif has 0.05 m per pixel, the model knows 0.1 to 1 m" in caplog.text
    with rasterio.open(tmp_path / "a.tif") as placed, rasterio.open(tmp_path / "b.tif") as ours:
        np.testing.assert_array_equal(ours.read(), placed.read())
        assert (ours.crs, ours.bounds[0], ours.bounds[3], ours.res) == (None, 0, 0, (5, 5))
        assert ours.tags()["GEOSEG_GSD"] == "0.25"
        assert "GEOSEG_GSD" not in placed.tags()


def test_a_scene_of_control_points_stays_as_it_is(tmp_path):
    """Its outlines, and areas of interest, count its own pixels."""
    data = pixels(shape=(37, 53))
    path = write(tmp_path / "gcps.tif", data, gcps=GCPS, crs="EPSG:32637")
    model = write_checkpoint(tmp_path / "model.safetensors", gsd=GroundSampling(min=0.1, max=1.0, best=0.25))
    done = predict_scene(path, model, products=Products(labels=tmp_path / "out.tif"), settings=Settings(gsd=0.05))
    assert done.shape == data.shape[1:]


def test_a_scene_smaller_than_a_pixel_of_the_model_is_refused(tmp_path, scene):
    plain = write(tmp_path / "plain.tif", scene[1], nodata=0, crs=None, transform=None)
    model = write_checkpoint(tmp_path / "model.safetensors", gsd=GroundSampling(min=0.1, max=1.0, best=0.25))
    out = Products(labels=tmp_path / "out.tif")
    with pytest.raises(SceneError, match=r"pixels of 1e-09 m: all of it is smaller than one of 0\.25 m"):
        predict_scene(plain, model, products=out, settings=Settings(gsd=1e-9))
    assert not list(tmp_path.glob("out*"))
    done = predict_scene(plain, model, products=out, settings=Settings(gsd=1e-9, resample=False))
    assert done.shape == scene[1].shape[1:]


def test_not_if_it_is_told_not_to(tmp_path, scene, caplog):
    path, data = scene
    model = write_checkpoint(tmp_path / "model.safetensors", gsd=GroundSampling(min=0.1, max=1.0, best=0.25))
    with caplog.at_level(logging.WARNING, "geoseg"):
        done = predict_scene(
            path, model, products=Products(labels=tmp_path / "out.tif"), settings=Settings(resample=False)
        )
    assert done.shape == data.shape[1:]
    assert "expect a worse result" in caplog.text
