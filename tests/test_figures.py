"""Figures: written whole, of a sensible size, and showing what they were given."""

import csv
import subprocess
import sys
import warnings as python_warnings
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from geoseg.errors import LabelsError, OutputError, ShapeError
from geoseg.training.figures import Interval, Shown, compare_figure, confusion, contact_sheet, curves, picture, samples
from geoseg.training.figures.canvas import DPI, canvas, shorten, text_width
from geoseg.training.figures.curves import _panels, _read, _smooth
from geoseg.training.figures.keys import Entry, Legend, Scale
from geoseg.training.figures.matrix import _count, _percent

TWO = {"background": "#1a1a1a", "building": "#e6194b"}
THREE = TWO | {"road": "#ffe119"}


def many(count: int) -> dict[str, str]:
    colors = np.random.default_rng(0).integers(0, 256, (count, 3))
    return {f"class {index}": "#" + bytes(color.tolist()).hex() for index, color in enumerate(colors)}


def pixels(path) -> np.ndarray:
    """(H, W, 3) uint8 of a PNG, which must be one."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return np.round(imread(path)[..., :3] * 255).astype(np.uint8)


def rgb(color: str) -> list[int]:
    return [int(color[place : place + 2], 16) for place in (1, 3, 5)]


def share_of(image: np.ndarray, color: str) -> float:
    return float((np.abs(image.astype(int) - rgb(color)) <= 2).all(-1).mean())


# Pictures


def test_bands_are_shown_by_their_names_or_the_first_three_or_the_first():
    assert picture.color_bands(1) == [0]
    assert picture.color_bands(2, ("vv", "vh")) == [0]
    assert picture.color_bands(3) == [0, 1, 2]
    assert picture.color_bands(4, ("Blue", "green", "RED", "nir")) == [2, 1, 0]
    assert picture.color_bands(13, [f"b{n}" for n in range(13)]) == [0, 1, 2]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_each_band_is_stretched_over_its_valid_pixels(dtype):
    image = np.stack([np.arange(10000).reshape(100, 100) % 200 + 10, np.full((100, 100), 7)]).astype(dtype)
    valid = np.ones((100, 100), bool)
    image[:, :10], valid[:10] = 255, False
    limits = picture.stretch_limits(image, valid)
    np.testing.assert_allclose(limits[0], [np.percentile(image[0, 10:], 1), np.percentile(image[0, 10:], 99)])
    assert limits[1].tolist() == [6, 8]
    shown = picture.stretched(image[:1], valid, limits[:1])
    assert shown.shape == (100, 100, 3)
    assert shown[10:].min() == 0
    assert shown[10:].max() == 1


def test_red_green_and_blue_are_stretched_together():
    image = np.stack([np.full((9, 9), value) + np.arange(9) for value in (10, 50, 90)])
    valid = np.ones((9, 9), bool)
    assert picture.stretch_limits(image, valid, ("red", "green", "blue")).tolist() == [[10, 98]] * 3
    assert len({low for low, _ in picture.stretch_limits(image, valid, ("a", "b", "c")).tolist()}) == 3


def test_a_picture_without_a_valid_or_finite_pixel_is_stripes():
    image = np.full((3, 40, 40), np.nan, np.float32)
    for valid in (np.zeros((40, 40), bool), np.ones((40, 40), bool)):
        shown = picture.stretched(image, valid, picture.stretch_limits(image, valid))
        assert np.isfinite(shown).all()
        assert shown.shape == (40, 40, 3)


def test_mistakes_have_the_colour_of_their_kind():
    #                     right  missed  not there  wrong class  unknown  no data  right
    target = np.array([[1, 1, 0, 1, 255, 1, 0]], np.uint8)
    predicted = np.array([[1, 0, 2, 2, 1, 255, 0]], np.uint8)
    shown = picture.mistakes(np.full((1, 7, 3), 0.5), target, predicted, None, 3)
    np.testing.assert_allclose(shown[0, 1], picture.rgb(picture.MISSED), atol=1e-6)
    np.testing.assert_allclose(shown[0, 2], picture.rgb(picture.INVENTED), atol=1e-6)
    np.testing.assert_allclose(shown[0, 3], picture.rgb(picture.CONFUSED), atol=1e-6)
    for right in (0, 6):
        np.testing.assert_allclose(shown[0, right], 0.75, atol=1e-6)
    for unknown in (4, 5):
        assert shown[0, unknown].min() > 0.6
        assert np.ptp(shown[0, unknown]) < 0.01


def test_a_class_that_the_labels_do_not_know_is_no_mistake_where_it_may_be():
    target = np.array([[0, 0, 1]], np.uint8)  # labels that know class 1 alone: 0 means background or road
    predicted = np.array([[2, 1, 2]], np.uint8)
    shown = picture.mistakes(np.full((1, 3, 3), 0.5), target, predicted, (1,), 3)
    np.testing.assert_allclose(shown[0, 0], 0.75, atol=1e-6)
    np.testing.assert_allclose(shown[0, 1], picture.rgb(picture.INVENTED), atol=1e-6)
    np.testing.assert_allclose(shown[0, 2], picture.rgb(picture.MISSED), atol=1e-6)


def test_outlines_lie_inside_the_areas_of_classes_after_the_first():
    labels = np.zeros((9, 9), np.uint8)
    labels[2:7, 2:7] = 1
    labels[:, 8] = 255
    labels[4, 6] = 255  # an area does not end where nothing is known
    shown = picture.outlined(np.zeros((9, 9, 3)), labels, TWO)
    drawn = shown.any(-1)
    expected = np.zeros((9, 9), bool)
    expected[2:7, 2:7] = True
    expected[3:6, 3:7] = [[False, False, False, True], [False] * 4, [False, False, False, True]]
    assert np.array_equal(drawn, expected)
    np.testing.assert_allclose(shown[2, 2], picture.rgb(TWO["building"]), atol=1e-6)


# Sheets


def batch(count: int, bands: int, side: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(count, side, side, dtype=torch.int64)
    for index in range(count):
        target[index, side // 4 : side // 2, side // 4 :] = index % classes
    return torch.randn(count, bands, side, side, generator=generator), target


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (5, 4, 2), (40, 4, 4)])
def test_a_contact_sheet_has_room_for_its_samples(tmp_path, count, columns, rows):
    image, target = batch(count, 3, 32, 3)
    contact_sheet(tmp_path / "batch.png", image, target, THREE)
    height, width = pixels(tmp_path / "batch.png").shape[:2]
    assert columns * 256 < width < columns * 270 + 70
    assert rows * 2 * 256 < height < rows * 2 * 285 + 170


def test_a_contact_sheet_shows_each_target_below_its_image_exactly(tmp_path):
    """Where pictures fit a whole number of times, every pixel has its class's very colour."""
    image, target = batch(8, 3, 64, 3)
    target[5, :20] = 255
    contact_sheet(tmp_path / "batch.png", image, target, THREE)
    sheet = pixels(tmp_path / "batch.png")
    colors = np.array([rgb(color) for color in THREE.values()])
    for index in range(8):
        row, column = divmod(index, 4)
        left, top = 16 + 30 + column * 264, 16 + row * (2 * 256 + 8 + 18) + 264
        shown = sheet[top : top + 256, left : left + 256][2::4, 2::4]
        known = target[index].numpy() != 255
        assert np.array_equal(shown[known], colors[target[index].numpy()[known]]), index
        assert np.ptp(shown[~known], axis=-1).max(initial=0) == 0  # greys


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
def test_a_contact_sheet_takes_any_bands(tmp_path, bands):
    image, target = batch(4, bands, 32, 2)
    valid = torch.ones(4, 32, 32, dtype=torch.bool)
    valid[1, :10] = False
    contact_sheet(tmp_path / "batch.png", image, target, TWO, valid=valid)
    assert share_of(pixels(tmp_path / "batch.png"), TWO["building"]) > 0.01


def test_all_samples_of_a_sheet_share_one_stretch_so_that_light_shows(tmp_path):
    image = torch.stack([torch.full((3, 32, 32), 0.2), torch.full((3, 32, 32), 0.8)])
    contact_sheet(tmp_path / "batch.png", image, torch.zeros(2, 32, 32, dtype=torch.uint8), TWO)
    sheet = pixels(tmp_path / "batch.png")
    assert sheet[100, 46 + 100].max() < 20
    assert sheet[100, 46 + 264 + 100].min() > 235


def test_a_sheet_of_values_has_a_bar_instead_of_classes(tmp_path):
    image, _ = batch(4, 3, 32, 2)
    values = torch.linspace(0, 30, 32).expand(4, 32, 32).clone()
    values[0, :8] = torch.nan
    contact_sheet(tmp_path / "batch.png", image, values, {}, unit="m")
    sheet = pixels(tmp_path / "batch.png")
    assert share_of(sheet, "#440154") > 0.001  # both ends of viridis
    assert share_of(sheet, "#fde725") > 0.001


def windows(count: int, shape: tuple[int, int] = (64, 64), bands: int = 3) -> list[Shown]:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        target = np.zeros(shape, np.uint8)
        target[10:40, 10:40] = 1
        target[-5:] = 255
        predicted = np.zeros(shape, np.uint8)
        predicted[10:40, 20:50] = 1
        image = rng.integers(0, 2000, (bands, *shape)).astype(np.uint16)
        valid = np.ones(shape, bool)
        valid[:, :3] = False
        rows.append(Shown(f"worst: scene_{index}.tif, IoU 0.5", image, valid, target, predicted))
    return rows


@pytest.mark.parametrize(("count", "drawn"), [(1, 1), (30, 12)])
def test_validation_windows_are_drawn_in_rows_of_four(tmp_path, count, drawn):
    samples(tmp_path / "samples.png", windows(count), TWO)
    height, width = pixels(tmp_path / "samples.png").shape[:2]
    assert 4 * 256 < width < 4 * 270 + 40
    assert drawn * 256 < height < drawn * 310 + 150


def test_a_row_shows_target_prediction_and_mistakes(tmp_path):
    samples(tmp_path / "samples.png", windows(1), TWO)
    sheet = pixels(tmp_path / "samples.png")[16 + 60 : 16 + 60 + 256]
    image, target, predicted, wrong = (sheet[:, 16 + 264 * column :][:, :256] for column in range(4))
    assert share_of(target, TWO["building"]) == pytest.approx(30 * 30 / 64**2, abs=0.01)
    assert share_of(predicted, TWO["building"]) == pytest.approx(30 * 30 / 64**2, abs=0.01)
    assert share_of(wrong, picture.MISSED) == pytest.approx(30 * 10 / 64**2, abs=0.01)
    assert share_of(wrong, picture.INVENTED) == pytest.approx(30 * 10 / 64**2, abs=0.01)
    assert share_of(wrong, picture.CONFUSED) == 0
    assert share_of(image, TWO["building"]) < 0.001


def test_what_the_labels_do_not_tell_is_shown_as_unknown(tmp_path):
    rows = [replace(row, known=(1,)) for row in windows(1)]  # what is no building may be anything else
    samples(tmp_path / "samples.png", rows, TWO)
    sheet = pixels(tmp_path / "samples.png")[16 + 60 : 16 + 60 + 256]
    target, predicted = (sheet[:, 16 + 264 * column :][:, :256] for column in (1, 2))
    assert share_of(target, TWO["building"]) == pytest.approx(30 * 30 / 64**2, abs=0.01)
    assert share_of(target, TWO["background"]) == 0
    assert share_of(predicted, TWO["background"]) > 0.5


@pytest.mark.parametrize("shape", [(512, 512), (512, 100), (100, 512), (33, 47)])
def test_windows_of_any_shape_keep_their_proportions(tmp_path, shape):
    image, valid, all_building = np.zeros((1, *shape)), np.ones(shape, bool), np.ones(shape, np.uint8)
    samples(tmp_path / "samples.png", [Shown("x", image, valid, all_building, all_building), *windows(1)], TWO)
    target = pixels(tmp_path / "samples.png")[16 + 60 :, 16 + 264 :][:256, :256]
    red = (np.abs(target.astype(int) - rgb(TWO["building"])) <= 2).all(-1)
    rows = 256 if red.any(1).all() else int(np.argmin(red.any(1)))  # until the first gap
    columns = int(red[:rows].any(0).sum())
    assert rows / columns == pytest.approx(shape[0] / shape[1], rel=0.06)


def test_a_window_of_a_single_row_is_drawn(tmp_path):
    shape = (1, 700)
    row = Shown("x", np.zeros((1, *shape)), np.ones(shape, bool), np.ones(shape, np.uint8), np.ones(shape, np.uint8))
    samples(tmp_path / "samples.png", [row], TWO)
    assert pixels(tmp_path / "samples.png").size


def test_windows_of_a_regression_are_drawn_with_their_unit(tmp_path):
    target = np.linspace(0, 20, 64 * 64).reshape(64, 64).astype(np.float32)
    target[:5] = np.nan
    row = Shown("t", np.zeros((3, 64, 64), np.uint8), np.ones((64, 64), bool), target, target + 2)
    samples(tmp_path / "samples.png", [row], {}, unit="m")
    sheet = pixels(tmp_path / "samples.png")
    error = sheet[16 + 60 + 40 :, 16 + 3 * 264 :][:200, :256]
    assert (error[..., 0] > error[..., 2] + 40).mean() > 0.9  # too high is red everywhere


def test_a_scale_without_a_value_and_with_one(tmp_path):
    assert Scale.of([np.full((2, 2), np.nan)], "viridis") == Scale(0, 1, "viridis")
    assert Scale.of([np.full((2, 2), 3.0)], "viridis").high > 3
    assert Scale.of([np.array([-1.0, 5.0])], "RdBu_r", symmetric=True).low < -4


# Curves


def write_metrics(path, epochs: int, classes, terms=("cross_entropy", "dice"), further=None, gaps=False):
    rng = np.random.default_rng(0)
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "lr": 1e-3 / epoch, "loss": 2 / epoch}
        row |= {term: (index + 1) / epoch for index, term in enumerate(terms)}
        scores = {f"iou_{name}": 0.8 - 0.5 / epoch - 0.03 * index for index, name in enumerate(classes)}
        row |= {name: "" if gaps and rng.random() < 0.3 else score for name, score in scores.items()}
        row |= {"iou_mean": 0.7 - 0.5 / epoch, "f1_building": 0.5} | {k: v / epoch for k, v in (further or {}).items()}
        row |= {f"share_{term}": 1 / len(terms) for term in terms} | {"samples_per_s": "12.0", "seconds": epoch}
        rows.append(row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(("epochs", "classes"), [(1, 2), (20, 3), (101, 2), (500, 20)])
def test_curves_of_any_length_and_any_number_of_classes(tmp_path, epochs, classes):
    colors = many(classes)
    curves(tmp_path / "curves.png", write_metrics(tmp_path / "m.csv", epochs, colors, gaps=True), colors, best=epochs)
    height, width = pixels(tmp_path / "curves.png").shape[:2]
    assert 6 * DPI < width < 14 * DPI
    assert 6 * DPI < height < 20 * DPI


def test_each_column_of_metrics_has_its_panel(tmp_path):
    further = {"height.huber": 1.0, "height.rmse": 4.0, "height.mae": 3.0, "height.r2": 0.5, "flags.cloud": 0.4,
               "share_height.huber": 1.0, "share_flags.bce": 1.0, "flags.bce": 1.0, "kappa": 0.3, "val_loss": 2.0,
               "auxiliary": 0.7, "unheard_of": 3.0}  # fmt: skip
    columns = _read(write_metrics(tmp_path / "m.csv", 3, THREE, further=further))
    panels = {panel.title: [line.label for line in panel.lines] for panel in _panels(columns, THREE) if panel.lines}
    assert panels == {
        "Loss": ["training, in all", "validation", "cross_entropy", "dice", "height.huber", "flags.bce", "auxiliary"],
        "IoU on the validation ground": ["mean (foreground)", "background", "building", "road"],
        "IoU of labels": ["flags.cloud"],
        "Other scores": ["height.r2", "kappa"],
        "Errors of height": ["height.rmse", "height.mae"],
        "Share of the gradient": ["cross_entropy", "dice", "height.huber", "flags.bce"],
        "Learning rate": [""],
    }


def test_panels_without_a_number_and_shares_of_a_single_term_are_left_out(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(
        "epoch,lr,loss,dice,iou_building,iou_road,iou_mean,share_dice\n1,0.1,1,1,,0.5,,1\n2,0.1,nan,1,,0.6,,1\n"
    )
    panels = {panel.title: [line.label for line in panel.lines] for panel in _panels(_read(path), THREE) if panel.lines}
    assert panels == {
        "Loss": ["training, in all"],
        "IoU on the validation ground": ["road"],
        "Learning rate": [""],
    }
    curves(tmp_path / "curves.png", path, THREE)
    assert share_of(pixels(tmp_path / "curves.png"), THREE["road"]) > 0.0002
    assert share_of(pixels(tmp_path / "curves.png"), THREE["building"]) == 0


def test_a_mean_of_one_class_is_not_drawn_twice(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("epoch,loss,score,iou_background,iou_building,iou_mean\n1,1,0.5,0.9,0.5,0.5\n2,1,0.6,0.9,0.6,0.6\n")
    panels = {panel.title: [line.label for line in panel.lines] for panel in _panels(_read(path), THREE) if panel.lines}
    assert panels == {"Loss": ["training, in all"], "IoU on the validation ground": ["background", "building"]}


def test_curves_have_the_colours_of_their_classes(tmp_path):
    curves(tmp_path / "curves.png", write_metrics(tmp_path / "m.csv", 30, THREE), THREE)
    sheet = pixels(tmp_path / "curves.png")
    assert all(share_of(sheet, color) > 0.0002 for color in THREE.values())


def test_classes_of_one_colour_differ_by_their_dashes(tmp_path):
    same = dict.fromkeys(("a", "b", "c"), "#112233")
    lines = _panels(_read(write_metrics(tmp_path / "m.csv", 3, same)), same)[1].lines
    assert len({line.style for line in lines if line.color == "#112233"}) == 3


def test_smoothing_is_a_mean_of_what_is_there():
    values = np.array([1.0, 2, np.nan, 4, 5, np.nan, np.nan, np.nan, np.nan, 10])
    smooth = _smooth(values, 3)
    assert smooth[0] == pytest.approx(1.5)
    assert smooth[2] == pytest.approx(3)
    assert np.isnan(smooth[7])
    assert smooth[9] == pytest.approx(10)


@pytest.mark.parametrize("text", ["", "epoch,loss\n", "a,b\n1,2\n", None])
def test_metrics_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "metrics.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LabelsError, match=r"metrics\.csv"):
        curves(tmp_path / "curves.png", path, TWO)
    assert not (tmp_path / "curves.png").exists()


# Confusion


@pytest.mark.parametrize("classes", [1, 2, 8, 20, 31, 254])
def test_a_matrix_of_any_size(tmp_path, classes):
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 1000, (classes, classes))
    if classes > 2:
        matrix[2] = 0
    confusion(tmp_path / "c.png", matrix, [f"a class of number {index}" for index in range(classes)])
    height, width = pixels(tmp_path / "c.png").shape[:2]
    assert 1.5 * DPI < height < 17 * DPI
    assert 3 * DPI < width < 19 * DPI


def test_a_cell_is_as_dark_as_its_share(tmp_path):
    confusion(tmp_path / "c.png", np.array([[0, 10], [3, 0]]), ["a", "b"])
    wrong = pixels(tmp_path / "c.png")
    confusion(tmp_path / "c.png", np.array([[10, 0], [0, 3]]), ["a", "b"])
    right = pixels(tmp_path / "c.png")
    darkest = "#08306b"
    rows = [np.argwhere((np.abs(image.astype(int) - rgb(darkest)) <= 2).all(-1)) for image in (right, wrong)]
    correlation = [np.corrcoef(one.T)[0, 1] for one in rows]  # dark along one diagonal, then along the other
    assert correlation[0] > 0.5
    assert correlation[1] < -0.5


def test_numbers_in_cells_round_neither_to_nothing_nor_to_all():
    assert [_percent(value) for value in (0, 0.0004, 0.5, 0.12345, 0.99951, 1)] == [
        "0", "<0.1", "50.0", "12.3", ">99.9", "100",
    ]  # fmt: skip
    assert [_count(value) for value in (0, 999, 1000, 1234567, 999999, 2e9)] == [
        "0", "999", "1 k", "1.23 M", "1 M", "2 G",
    ]  # fmt: skip


def test_a_matrix_that_does_not_fit_its_names_is_refused(tmp_path):
    with pytest.raises(ShapeError, match="does not fit 3 names"):
        confusion(tmp_path / "c.png", np.ones((2, 2)), ["a", "b", "c"])


# Runs side by side


@pytest.mark.parametrize(("runs", "rows"), [(1, 1), (2, 3), (5, 20), (12, 4)])
def test_runs_side_by_side(tmp_path, runs, rows):
    scores = {
        f"run {run}": {f"class {row}": Interval(0.5, 0.4, 0.6) if row != 1 else None for row in range(rows)}
        for run in range(runs)
    }
    differences = {f"run {run}": {"class 0": Interval(0.1, -0.1, 0.2)} for run in range(1, runs)}
    compare_figure(tmp_path / "c.png", scores, differences, notes={"run 0": "7.8 MB"})
    height, width = pixels(tmp_path / "c.png").shape[:2]
    assert height < 40 * DPI
    assert (3 if runs == 1 else 6.5) * DPI < width < 9 * DPI


# All of them


def test_a_figure_is_complete_or_not_there(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), canvas(path, 2, 2):
        raise ZeroDivisionError
    assert path.read_bytes() == b"before"
    with pytest.raises(OutputError, match="cannot be written"):
        confusion(tmp_path / "missing" / "c.png", np.ones((2, 2)), ["a", "b"])
    confusion(path, np.ones((2, 2)), ["a", "b"])
    assert pixels(path).size
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def test_the_same_figure_has_the_same_bytes_and_leaves_no_style_behind(tmp_path):
    before = dict(rcParams)
    for name in ("a.png", "b.png"):
        samples(tmp_path / name, windows(2), TWO)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert dict(rcParams) == before
    rcParams["font.size"] = 20
    try:
        samples(tmp_path / "c.png", windows(2), TWO)
    finally:
        rcParams["font.size"] = before["font.size"]
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_names_in_any_writing_are_drawn_and_dollars_are_no_formula(tmp_path):
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        names = {"Gebäude $\\frac{": "#112233", "建物": "#445566", "a_b^c$": "#778899"}
        confusion(tmp_path / "c.png", np.ones((3, 3)), list(names))
        image, target = batch(2, 3, 32, 3)
        contact_sheet(tmp_path / "b.png", image, target, names)
        curves(tmp_path / "m.png", write_metrics(tmp_path / "m.csv", 3, names), names)
    assert pixels(tmp_path / "c.png").size


def test_a_legend_wraps_and_its_entries_do_not_touch():
    entries = [Entry(f"a name of some length {index}", "#112233") for index in range(20)]
    legend = Legend(entries, 1000)
    for (x, line, entry), (next_x, next_line, _) in zip(legend.places, legend.places[1:], strict=False):
        if next_line == line:
            assert next_x >= x + 26 + text_width(entry.label, 8)
        else:
            assert (next_x, next_line) == (0, line + 1)
        assert x + 26 + text_width(entry.label, 8) <= 1000
    assert legend.height == 28 * (legend.places[-1][1] + 1)
    assert Legend([], 100).height == 0


def test_long_texts_are_shortened_to_fit():
    assert shorten("short", 500, 9) == "short"
    cut = shorten("a very long title " * 20, 300, 9)
    assert cut.endswith("…")
    assert 200 < text_width(cut, 9) <= 300
    assert text_width("", 9) == 0


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, geoseg.training.figures; sys.exit(any(n in sys.modules for n in ('matplotlib', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LONG = {f"{name} and some more words to make it long": color for name, color in many(20).items()}


def draw_all(folder, count: int) -> None:
    """Every figure, with `count` classes of short or long names."""
    colors = many(count) if count < 9 else LONG
    rng = np.random.default_rng(0)
    confusion(folder / "confusion.png", rng.integers(1, 9_000_000, (count, count)), list(colors))
    rows = [replace(row, title=f"{row.title} {'of a long title ' * 20}") for row in windows(2)]
    samples(folder / "samples.png", rows, colors)
    image, target = batch(3, 3, 32, count)
    contact_sheet(folder / "batch.png", image, target, colors)
    metrics = write_metrics(folder / "m.csv", 12, colors, [f"a_loss_with_a_long_name_{index}" for index in range(14)])
    curves(folder / "curves.png", metrics, colors, best=3)
    scores = {name: Interval(0.5, 0.4, 0.6) for name in colors}
    runs = {f"runs/a long name of a run {index}": scores for index in range(3)}
    compare_figure(
        folder / "compare.png", runs, dict(list(runs.items())[1:]), notes=dict.fromkeys(runs, "a note " * 30)
    )


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_no_text_lies_on_another_or_leaves_the_figure(tmp_path, monkeypatch, count):
    drawn: dict[Figure, dict[int, tuple[str, Bbox]]] = {}
    draw = Text.draw

    def record(text, renderer):
        """Only what is drawn counts: ticks out of sight have labels, too."""
        draw(text, renderer)
        if text.get_text().strip() and text.get_visible():
            texts = drawn.setdefault(text.get_figure(root=True), {})
            texts[id(text)] = text.get_text(), text.get_window_extent(renderer)

    monkeypatch.setattr(Text, "draw", record)
    draw_all(tmp_path, count)
    assert len(drawn) == 5
    for figure, texts in drawn.items():
        assert len(texts) >= 4
        for name, box in texts.values():
            assert min(box.x0, box.y0) >= 0, name
            assert box.x1 <= figure.bbox.x1, name
            assert box.y1 <= figure.bbox.y1, name
        for (name, a), (other, b) in combinations(texts.values(), 2):
            apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
            assert apart, f"{name!r} lies on {other!r}"
