"""evaluate_prediction() of values and of labels that may overlap, against closed forms; from training to R2."""

import json

import numpy as np
import pytest
import rasterio
import torch
from rasters import write_raster as write_scene
from test_evaluate import TRANSFORM, town, write_boxes, write_named, write_raster

from geoseg.config import load_config
from geoseg.errors import LabelsError, UsageError
from geoseg.evaluate import evaluate_prediction, lattice
from geoseg.metrics import ConfusionMatrix
from geoseg.pipeline import Products, predict_scene
from geoseg.training.fit import train_model
from geoseg.windows import Window

NAN = float("nan")


@pytest.fixture(autouse=True)
def one_thread():
    """Several would wait for each other on cores that are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def heights(shape=(20, 30), seed=0) -> np.ndarray:
    """Metres above the sea, some unknown."""
    rng = np.random.default_rng(seed)
    values = rng.normal(500, 10, shape).astype(np.float32)
    values[rng.random(shape) < 0.1] = np.nan
    return values


def name_bands(path, *names):
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = names
    return path


# --- values


@pytest.mark.parametrize("side", [2048, 7])
def test_errors_are_their_closed_forms_however_the_raster_is_cut(tmp_path, monkeypatch, side):
    monkeypatch.setattr(lattice, "SIDE", side)
    predicted, target = heights(seed=1), heights(seed=2)
    paths = (
        write_raster(tmp_path / "p.tif", predicted, nodata=NAN),
        write_raster(tmp_path / "t.tif", target, nodata=NAN),
    )
    result = evaluate_prediction(*paths)
    both = ~np.isnan(predicted) & ~np.isnan(target)
    p, t = predicted[both].astype(float), target[both].astype(float)
    scores = result.scores
    assert scores.rmse == pytest.approx(np.sqrt(((p - t) ** 2).mean()))
    assert scores.mae == pytest.approx(np.abs(p - t).mean())
    assert scores.bias == pytest.approx((p - t).mean())
    assert scores.r2 == pytest.approx(1 - ((p - t) ** 2).sum() / ((t - t.mean()) ** 2).sum())
    assert (scores.target_mean, scores.target_std) == pytest.approx((t.mean(), t.std()))
    assert (scores.pixels, scores.ignored) == (both.sum(), np.isnan(target).sum())
    assert scores.unpredicted == (np.isnan(predicted) & ~np.isnan(target)).sum()
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["rmse"] == scores.rmse
    assert values["window"] == [0, 0, 30, 20]
    assert "RMSE" in result.table()
    with pytest.raises(UsageError, match="have no IoU"):
        result.shortfall(0.5)


def test_whole_numbers_are_values_too_and_nodata_is_none(tmp_path):
    target = np.full((20, 30), 7, np.int16)
    target[:5] = -9999
    predicted = np.full((20, 30), 9, np.float32)
    predicted[:, 0] = np.inf
    paths = (
        write_raster(tmp_path / "p.tif", predicted, nodata=None),
        write_raster(tmp_path / "t.tif", target, nodata=-9999),
    )
    scores = evaluate_prediction(*paths).scores
    assert (scores.rmse, scores.bias, scores.r2) == (2, 2, None)
    assert (scores.pixels, scores.ignored, scores.unpredicted) == (15 * 29, 5 * 30, 15)


def test_windows_labelled_areas_and_offsets_hold_for_values(tmp_path):
    predicted = np.arange(600, dtype=np.float32).reshape(20, 30)
    target = predicted.copy()
    target[:, 10:] += 5
    path = write_raster(tmp_path / "p.tif", predicted, nodata=NAN)
    truth = write_raster(tmp_path / "t.tif", target, nodata=NAN)
    area = write_boxes(tmp_path / "area.geojson", [(0, 0, 15, 20)])
    assert evaluate_prediction(path, truth, labelled_area=area).scores.bias == pytest.approx(-5 / 3)
    left = evaluate_prediction(path, truth, window=Window(row=3, col=0, height=9, width=10))
    assert (left.scores.rmse, left.scores.r2, left.scores.pixels) == (0, 1, 90)
    part = write_raster(tmp_path / "part.tif", target[4:9, 5:15], TRANSFORM @ TRANSFORM.translation(5, 4), nodata=NAN)
    shifted = evaluate_prediction(path, part).scores
    assert (shifted.mae, shifted.pixels, shifted.ignored) == (2.5, 50, 550)
    with pytest.raises(LabelsError, match="not on the pixel lattice"):
        evaluate_prediction(
            path, write_raster(tmp_path / "off.tif", target, TRANSFORM @ TRANSFORM.translation(0.3, 0), nodata=NAN)
        )


def test_what_cannot_be_compared_with_values_is_refused(tmp_path):
    path = write_raster(tmp_path / "p.tif", heights(), nodata=NAN)
    for reference, said in (
        (write_boxes(tmp_path / "l.gpkg", [(3, 2, 12, 8)], kind=["building"]), r"holds polygons; .*p.tif holds values"),
        (write_named(tmp_path / "c.tif", town(), "background", "building", "road"), r"has classes \(background, buil"),
        (write_raster(tmp_path / "m.tif", np.stack([heights()] * 2), nodata=NAN), r"has 2 bands; .*p.tif holds values"),
    ):
        with pytest.raises(LabelsError, match=said):
            evaluate_prediction(path, reference)
    for wrong in ({"classes": ["building"]}, {"bounded": [None]}, {"bounded": ["building"]}):
        with pytest.raises(UsageError, match="which have no classes"):
            evaluate_prediction(path, path, **wrong)
    classes = write_named(tmp_path / "n.tif", town(), "background", "building", "road")
    with pytest.raises(LabelsError, match="Expected class indices"):
        evaluate_prediction(classes, path)


# --- labels that may overlap


def flags(shape=(20, 30), seed=0, bands=3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, (bands, *shape)).astype(np.uint8)
    values[rng.random(values.shape) < 0.1] = 255
    return values


def write_flags(path, values, *names):
    return name_bands(write_raster(path, values, photometric="MINISBLACK"), *names)


@pytest.mark.parametrize("side", [2048, 7])
def test_labels_are_matched_by_name_and_each_is_counted_by_itself(tmp_path, monkeypatch, side):
    monkeypatch.setattr(lattice, "SIDE", side)
    predicted, target = flags(seed=1), flags(seed=2)
    path = write_flags(tmp_path / "p.tif", predicted, "cloud", "shadow", "water")
    truth = write_flags(tmp_path / "t.tif", target[[2, 0]], "water", "cloud")
    result = evaluate_prediction(path, truth)
    assert result.merged == ("shadow",)
    for name, index in (("cloud", 0), ("water", 2)):
        expected = ConfusionMatrix(("no", name))
        expected.update(target[index], predicted[index])
        at = [score.name for score in result.scores.classes].index(name)
        assert result.scores.classes[at] == expected.scores()[name]
    assert "not scored: shadow" in result.table()
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["labels"]["water"]["iou"] == result.scores.classes[1].iou
    assert result.shortfall(0.0) is None
    assert "IoU of water is" in result.shortfall(0.99, "water")
    assert "it is not scored" in result.shortfall(0.1, "shadow")
    only = evaluate_prediction(path, truth, classes=["water"])
    assert [score.name for score in only.scores.classes] == ["water"]


def test_bands_without_names_go_by_their_order(tmp_path):
    values = flags(bands=2)
    path = write_flags(tmp_path / "p.tif", values, "cloud", "shadow")
    plain = write_raster(tmp_path / "t.tif", values)
    assert evaluate_prediction(path, plain).scores.mean_iou == 1
    assert [s.name for s in evaluate_prediction(plain, path).scores.classes] == ["cloud", "shadow"]
    assert [s.name for s in evaluate_prediction(plain, plain).scores.classes] == ["band_1", "band_2"]
    assert [s.name for s in evaluate_prediction(plain, plain, classes=["a", "b"]).scores.classes] == ["a", "b"]
    three = write_raster(tmp_path / "three.tif", flags())  # which GDAL calls red, green and blue
    named = write_flags(tmp_path / "n.tif", flags(), "cloud", "shadow", "water")
    assert evaluate_prediction(named, three).scores.mean_iou == 1


def test_labels_that_do_not_fit_are_refused(tmp_path):
    path = write_flags(tmp_path / "p.tif", flags(bands=2), "cloud", "shadow")
    other = write_flags(tmp_path / "o.tif", flags(bands=2), "snow", "ice")
    with pytest.raises(LabelsError, match=r"p.tif has 2 bands \(cloud, shadow\), .*o.tif 2 bands \(snow, ice\)"):
        evaluate_prediction(path, other)
    with pytest.raises(LabelsError, match=r"has no band 'shadow'"):
        evaluate_prediction(path, write_flags(tmp_path / "c.tif", flags(bands=2), "cloud", "ice"), classes=["shadow"])
    for wrong in ({"classes": ["clod"]}, {"bounded": ["clod"]}):
        with pytest.raises(UsageError, match=r"class='clod' is not in .*Did you mean 'cloud'"):
            evaluate_prediction(path, path, **wrong)
    with pytest.raises(LabelsError, match=r"holds polygons; .* holds labels"):
        evaluate_prediction(path, write_boxes(tmp_path / "l.gpkg", [(3, 2, 12, 8)], kind=["cloud"]))
    picture = write_raster(
        tmp_path / "picture.tif", np.random.default_rng(0).integers(0, 250, (3, 9, 9)).astype(np.uint8)
    )
    with pytest.raises(LabelsError, match=r"picture.tif has several bands, and in them the value \d+"):
        evaluate_prediction(picture, picture)


def test_labels_outside_of_the_labelled_area_are_not_known(tmp_path):
    path = write_flags(tmp_path / "p.tif", np.ones((2, 20, 30), np.uint8), "cloud", "shadow")
    truth = np.ones((2, 20, 30), np.uint8)
    truth[:, :, 15:] = 0
    truth = write_flags(tmp_path / "t.tif", truth, "cloud", "shadow")
    area = write_boxes(tmp_path / "area.geojson", [(0, 0, 15, 20)])
    scores = evaluate_prediction(path, truth, labelled_area=area).scores
    assert (scores.mean_iou, scores.pixels, scores.ignored) == (1, (300, 300), (300, 300))
    window = Window(row=0, col=10, height=20, width=10)
    assert evaluate_prediction(path, truth, window=window).scores.mean_iou == 0.5


# --- from training to R2


@pytest.mark.parametrize("loss", ["huber:1", "log_cosh:1"])
def test_values_are_learnt_written_and_scored(tmp_path, loss):
    """Height follows from colour, with noise: what is learnt on one scene holds on another."""
    rng = np.random.default_rng(0)
    for name in ("train", "other"):
        coarse = rng.integers(20, 200, (3, 12, 14)).repeat(12, 1).repeat(12, 2)
        data = np.clip(coarse + rng.normal(0, 8, coarse.shape), 0, 255).astype(np.uint8)
        height = 300 + 0.2 * coarse[0] - 0.1 * coarse[1] + rng.normal(0, 2, coarse.shape[1:])
        height[:6] = -9999
        write_scene(tmp_path / f"{name}.tif", data)
        write_scene(tmp_path / f"{name}_height.tif", height[None].astype(np.float32), nodata=-9999)
    source = {"scene": str(tmp_path / "train.tif"), "targets": {"height": str(tmp_path / "train_height.tif")}}
    config = load_config(
        None,
        {
            "heads": {"height": {"task": "regression", "loss": loss, "unit": "m"}},
            "arch_args": {"width": 4, "depth": 2}, "data.sources": [source], "epochs": 3, "steps_per_epoch": 30,
            "batch_size": 4, "tile_size": 48, "cell_side": 64, "optimizer.ema": 0.5, "optimizer.lr": 0.01,
            "augmentation.zoom": [1.0, 1.0], "augmentation.brightness": 0, "augmentation.contrast": 0,
            "augmentation.gamma": 0, "augmentation.color": 0, "augmentation.blur": 0,
        },
    )  # fmt: skip
    seen = []
    model = train_model(config, tmp_path / "run", device="cpu", on_epoch=seen.append)
    assert seen[-1].further["height.r2"] > 0.5
    predict_scene(tmp_path / "other.tif", model, products=Products(labels=tmp_path / "out.tif"))
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert (dataset.count, dataset.dtypes, dataset.units) == (1, ("float32",), ("m",))
        found = dataset.read(1)
    with rasterio.open(tmp_path / "other_height.tif") as dataset:
        truth = dataset.read(1)
    scores = evaluate_prediction(tmp_path / "out.tif", tmp_path / "other_height.tif").scores
    known = truth > -9999
    error = found[known].astype(float) - truth[known]
    assert scores.rmse == pytest.approx(np.sqrt((error**2).mean()))
    assert scores.r2 == pytest.approx(1 - (error**2).mean() / truth[known].astype(float).var(), rel=1e-6)
    assert scores.r2 > 0.5
    assert scores.pixels == known.sum()
