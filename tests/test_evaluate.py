"""evaluate_prediction(): rasters and vectors as reference, grids, classes, windows."""

import json
import logging
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyproj import CRS
from shapely import box

from geoseg.checkpoint import ClassInfo
from geoseg.errors import LabelsError, SceneError, UsageError
from geoseg.evaluate import evaluate_prediction, lattice
from geoseg.grid import Grid
from geoseg.metrics import ConfusionMatrix
from geoseg.raster import RasterProfile, write_cog
from geoseg.windows import Window

UTM = "EPSG:32637"
TRANSFORM = Affine.translation(500_000, 9_000_000) @ Affine.scale(0.5, -0.5)
BOTH = ("building", "road")


def write_raster(path: Path, values: np.ndarray, transform=TRANSFORM, crs=UTM, nodata=255, **more) -> Path:
    bands = values[None] if values.ndim == 2 else values
    count, height, width = bands.shape
    profile = {"count": count, "height": height, "width": width, "dtype": bands.dtype, "crs": crs, "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **profile | more) as dataset:
        dataset.write(bands)
    return path


def write_named(path: Path, values: np.ndarray, *names: str) -> Path:
    """As geoseg writes it, with names of classes."""
    grid = Grid(shape=values.shape, transform=TRANSFORM, crs=CRS.from_user_input(UTM).to_wkt())
    classes = [ClassInfo(name=name, color="#102030") for name in names]
    write_cog(path, [(grid.window, values)], RasterProfile(grid=grid, classes=classes))
    return path


def write_boxes(path: Path, boxes, crs=UTM, transform=TRANSFORM, **columns) -> Path:
    """Boxes in pixels (col, row, col, row), written in the CRS."""
    shapes = [shapely.transform(box(*b), lambda xy: np.stack(transform @ tuple(xy.T), axis=1)) for b in boxes]
    pyogrio.write_dataframe(gpd.GeoDataFrame(columns, geometry=shapes, crs=crs), path)
    return path


def town(height: int = 20, width: int = 30) -> np.ndarray:
    """A building (1), a road (2), and no data (255) in the last column."""
    labels = np.zeros((height, width), np.uint8)
    labels[2:8, 3:12] = 1
    labels[12:15, :] = 2
    labels[:, -1] = 255
    return labels


# ---------------------------------------------------------------------------------------------------- raster


def test_identity_is_perfect(tmp_path):
    path = write_raster(tmp_path / "a.tif", town())
    scores = evaluate_prediction(path, path, classes=BOTH).scores
    assert scores.mean_iou == scores.kappa == scores.accuracy == 1
    assert (scores.pixels, scores.ignored, scores.unpredicted) == (20 * 29, 20, 0)
    assert [s.name for s in scores.classes] == ["background", "building", "road"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), side=st.integers(1, 9))
def test_cutting_into_windows_changes_nothing(tmp_path, monkeypatch, data, side):
    monkeypatch.setattr(lattice, "SIDE", side)
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    maps = hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255]))
    target, predicted = data.draw(maps), data.draw(maps)
    scores = evaluate_prediction(
        write_raster(tmp_path / "p.tif", predicted), write_raster(tmp_path / "t.tif", target), classes=BOTH
    ).scores
    expected = ConfusionMatrix(("background", *BOTH))
    expected.update(target, predicted)
    assert scores == expected.scores()


def test_a_window_scores_only_its_pixels(tmp_path):
    predicted, target = town(), town()
    target[:, 15:] = 1
    paths = write_raster(tmp_path / "p.tif", predicted), write_raster(tmp_path / "t.tif", target)
    left = evaluate_prediction(*paths, classes=BOTH, window=Window(row=0, col=0, height=20, width=15))
    assert left.scores.accuracy == 1
    assert left.scores.pixels == 300
    assert "15 x 20 pixels" in left.table()
    right = evaluate_prediction(*paths, classes=BOTH, window=Window(row=1, col=15, height=19, width=15))
    assert right.scores.accuracy == 0
    assert "from column 15, row 1" in right.table()
    assert right.to_dict()["window"] == [15, 1, 15, 19]
    with pytest.raises(UsageError, match=r"window=20,0,11,20 sticks out of .*p.tif \(30 x 20 pixels\)"):
        evaluate_prediction(*paths, classes=BOTH, window=Window(row=0, col=20, height=20, width=11))


def test_a_reference_shifted_by_whole_pixels(tmp_path):
    predicted = town()
    path = write_raster(tmp_path / "p.tif", predicted)
    part = write_raster(tmp_path / "part.tif", predicted[2:10, 5:25], TRANSFORM @ Affine.translation(5, 2))
    scores = evaluate_prediction(path, part, classes=BOTH).scores
    assert scores.accuracy == 1
    assert scores.pixels == 160
    larger = np.full((26, 40), 255, np.uint8)
    larger[3:23, 4:34] = predicted
    beyond = write_raster(tmp_path / "beyond.tif", larger, TRANSFORM @ Affine.translation(-4, -3))
    scores = evaluate_prediction(path, beyond, classes=BOTH).scores
    assert scores.accuracy == 1
    assert scores.pixels == 20 * 29


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (TRANSFORM @ Affine.translation(0.4, 0), UTM),
        (TRANSFORM @ Affine.scale(1.01), UTM),
        (TRANSFORM @ Affine.rotation(1), UTM),
        (TRANSFORM, "EPSG:32638"),
        (TRANSFORM, None),
        (TRANSFORM @ Affine.scale(1, -1), UTM),
    ],
)
def test_another_lattice_is_refused_with_both_grids(tmp_path, transform, crs):
    path = write_raster(tmp_path / "p.tif", town())
    other = write_raster(tmp_path / "t.tif", town(), transform, crs)
    with pytest.raises(
        LabelsError, match=r"not on the pixel lattice .*30 x 20 pixels in .*, not 30 x 20 pixels in WGS"
    ):
        evaluate_prediction(path, other, classes=BOTH)


def test_a_reference_elsewhere_is_refused(tmp_path):
    path = write_raster(tmp_path / "p.tif", town())
    other = write_raster(tmp_path / "t.tif", town(), TRANSFORM @ Affine.translation(30, 0))
    with pytest.raises(LabelsError, match="lies outside"):
        evaluate_prediction(path, other, classes=BOTH)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_reference_without_georeference_is_laid_pixel_by_pixel(tmp_path, caplog):
    path = write_raster(tmp_path / "p.tif", town())
    plain = write_raster(tmp_path / "t.tif", town(), Affine.identity(), None)
    with caplog.at_level(logging.WARNING, "geoseg"):
        assert evaluate_prediction(path, plain, classes=BOTH).scores.accuracy == 1
    assert "has no georeference" in caplog.text
    caplog.clear()
    assert evaluate_prediction(plain, plain, classes=BOTH).scores.accuracy == 1
    assert not caplog.records
    smaller = write_raster(tmp_path / "s.tif", town(19), Affine.identity(), None)
    with pytest.raises(LabelsError, match="30 x 19 pixels in no CRS"):
        evaluate_prediction(path, smaller, classes=BOTH)


def test_unpredicted_pixels_are_counted_apart(tmp_path):
    predicted = town()
    predicted[:, :5] = 255
    target = town()
    target[0] = 255
    paths = write_raster(tmp_path / "p.tif", predicted), write_raster(tmp_path / "t.tif", target)
    scores = evaluate_prediction(*paths, classes=BOTH).scores
    assert (scores.pixels, scores.ignored, scores.unpredicted) == (19 * 24, 30 + 19, 19 * 5)
    assert scores.accuracy == 1


def test_values_that_are_no_class_are_refused(tmp_path):
    good = write_raster(tmp_path / "good.tif", town())
    odd = town()
    odd[3, 3] = 7
    bad = write_raster(tmp_path / "bad.tif", odd)
    message = r"bad.tif has the value 7. Expected class indices 0 to 2 \(background, building, road\), or 255"
    with pytest.raises(LabelsError, match=message):
        evaluate_prediction(bad, good, classes=BOTH)
    with pytest.raises(LabelsError, match=message):
        evaluate_prediction(good, bad, classes=BOTH)
    large = town().astype(np.int16)
    large[large == 255] = -1
    signed = write_raster(tmp_path / "signed.tif", large, nodata=-1)
    assert evaluate_prediction(good, signed, classes=BOTH).scores.accuracy == 1
    large[0, 0] = 1000
    with pytest.raises(LabelsError, match="has the value 1000"):
        evaluate_prediction(good, write_raster(tmp_path / "large.tif", large, nodata=-1), classes=BOTH)
    for values in (town().astype(np.float32), np.stack([town()] * 3)):
        with pytest.raises(LabelsError, match="Expected class indices: one band of whole numbers"):
            evaluate_prediction(good, write_raster(tmp_path / "other.tif", values, nodata=None), classes=BOTH)


# ---------------------------------------------------------------------------------------------------- vector


def test_vector_reference_equals_its_raster(tmp_path):
    path = write_raster(tmp_path / "p.tif", town())
    labels = write_boxes(tmp_path / "l.gpkg", [(3, 2, 12, 8), (0, 12, 30, 15)], kind=["building", "road"])
    scores = evaluate_prediction(path, labels, classes=BOTH).scores
    assert scores.accuracy == 1
    assert (scores.pixels, scores.unpredicted) == (20 * 29, 20)
    degrees = tmp_path / "l.geojson"
    pyogrio.write_dataframe(gpd.read_file(labels).to_crs(4326), degrees)
    assert evaluate_prediction(path, degrees, classes=BOTH).scores == scores


def test_what_the_reference_does_not_know_is_not_scored(tmp_path, caplog):
    """Labels of buildings alone: a predicted road is no error, and no building either."""
    path = write_named(tmp_path / "p.tif", town(), "background", *BOTH)
    labels = write_boxes(tmp_path / "l.gpkg", [(3, 2, 12, 8)], kind=["building"])
    with caplog.at_level(logging.WARNING, "geoseg"):
        result = evaluate_prediction(path, labels)
    assert [s.name for s in result.scores.classes] == ["background", "building"]
    assert result.merged == ("road",)
    assert result.table().splitlines()[-1] == "counted as background: road"
    assert result.scores.accuracy == 1
    assert [record.message for record in caplog.records] == [
        f"{path}: road counts as background: the reference does not tell it apart"
    ]
    # Unless it is asked for: then the reference is taken to know that there is none.
    result = evaluate_prediction(path, labels, classes=BOTH)
    assert result.scores.absent == ("road",)
    assert result.scores["road"].precision == 0
    assert result.merged == ()


def test_labelled_area(tmp_path):
    predicted = town()
    predicted[:, 15:29] = 1  # wrong, but outside of the labelled area
    path = write_raster(tmp_path / "p.tif", predicted)
    labels = write_boxes(tmp_path / "l.gpkg", [(3, 2, 12, 8), (0, 12, 30, 15)], kind=["building", "road"])
    area = write_boxes(tmp_path / "area.geojson", [(0, 0, 15, 20)])
    scores = evaluate_prediction(path, labels, classes=BOTH, labelled_area=area).scores
    assert scores.accuracy == 1
    assert scores.pixels == 15 * 20
    assert scores.ignored == 15 * 20


# ---------------------------------------------------------------------------------------------------- names


def test_rasters_are_matched_by_class_name(tmp_path, caplog):
    predicted = write_named(tmp_path / "p.tif", town(), "background", *BOTH)
    swapped = np.array([0, 2, 1, 3, *[255] * 252], np.uint8)[town()]
    swapped[0, :3] = 3
    target = write_named(tmp_path / "t.tif", swapped, "background", "road", "building", "water")
    with caplog.at_level(logging.WARNING, "geoseg"):
        result = evaluate_prediction(predicted, target)
    assert result.scores.accuracy == 1
    assert result.merged == ()
    assert "t.tif: water counts as background: it is not scored" in caplog.text
    only = evaluate_prediction(predicted, target, classes=("road",))
    assert [s.name for s in only.scores.classes] == ["background", "road"]
    assert only.merged == ("building",)
    strange = write_named(tmp_path / "s.tif", town(), "other", "tree", "hut")
    with pytest.raises(LabelsError, match=r"s.tif knows other, tree, hut, .*p.tif background, building, road"):
        evaluate_prediction(predicted, strange)


def test_a_raster_names_its_own_classes(tmp_path):
    path = write_named(tmp_path / "p.tif", town(), "background", *BOTH)
    scores = evaluate_prediction(path, path).scores
    assert scores.mean_iou == 1
    assert (scores.pixels, scores.ignored) == (20 * 29, 20)


def test_classes_that_are_not_there(tmp_path):
    path = write_raster(tmp_path / "p.tif", town())
    with pytest.raises(UsageError, match=r"does not name its classes.*--classes building,road"):
        evaluate_prediction(path, path)
    labels = write_boxes(tmp_path / "l.gpkg", [(3, 2, 12, 8)], kind=["tree"])
    with pytest.raises(LabelsError, match=r"l.gpkg does not say of its features whether they are hut or shed"):
        evaluate_prediction(path, labels, classes=("hut", "shed"))
    named = write_named(tmp_path / "n.tif", town(), "background", *BOTH)
    with pytest.raises(UsageError, match=r"class='hut' is not in .*n.tif. Expected some of background, building, road"):
        evaluate_prediction(named, named, classes=("hut",))


def test_missing_files(tmp_path):
    path = write_raster(tmp_path / "p.tif", town())
    with pytest.raises(SceneError, match=r"none.tif"):
        evaluate_prediction(tmp_path / "none.tif", path, classes=BOTH)
    with pytest.raises(LabelsError, match=r"none.gpkg does not exist"):
        evaluate_prediction(path, tmp_path / "none.gpkg", classes=BOTH)


def test_as_json(tmp_path):
    path = write_raster(tmp_path / "p.tif", np.zeros((3, 3), np.uint8))
    result = evaluate_prediction(path, path, classes=("building",))
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["classes"]["building"]["iou"] is None
    assert values["absent"] == ["building"]
    assert values["kappa"] is None
    assert values["window"] == [0, 0, 3, 3]
