"""Errors of values, scores of labels, and the table of tiles, against closed forms."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoseg.errors import OutputError, ShapeError, UsageError
from geoseg.metrics import (
    ConfusionMatrix,
    LabelCounts,
    TileScore,
    ValueErrors,
    read_tiles,
    write_tiles,
)

NUMBERS = st.one_of(st.just(float("nan")), st.floats(-1e4, 1e4, width=32))


def errors(target, predicted) -> ValueErrors:
    sums = ValueErrors()
    sums.update(np.asarray(target, np.float32), np.asarray(predicted, np.float32))
    return sums


def pairs(most: int = 40):
    return st.integers(0, most).flatmap(
        lambda n: st.tuples(hnp.arrays(np.float32, n, elements=NUMBERS), hnp.arrays(np.float32, n, elements=NUMBERS))
    )


# --- values


def test_by_hand():
    """target 1 2 3 4 nan 5, predicted 1 3 3 2 9 nan: errors 0 1 0 -2; the target's deviations from 2.5 squared: 5."""
    scores = errors([1, 2, 3, 4, np.nan, 5], [1, 3, 3, 2, 9, np.nan]).scores()
    assert scores.rmse == pytest.approx((5 / 4) ** 0.5)
    assert scores.mae == pytest.approx(3 / 4)
    assert scores.bias == pytest.approx(-1 / 4)
    assert scores.r2 == pytest.approx(1 - 5 / 5)
    assert (scores.target_mean, scores.target_std) == pytest.approx((2.5, (5 / 4) ** 0.5))
    assert (scores.pixels, scores.ignored, scores.unpredicted) == (4, 1, 1)


@given(pairs(), st.integers(0, 40))
def test_every_figure_is_its_closed_form_however_the_pixels_come(pair, cut):
    target, predicted = pair
    first, rest = errors(target[:cut], predicted[:cut]), errors(target[cut:], predicted[cut:])
    first.merge(rest)
    scores = first.scores()
    both = np.isfinite(target) & np.isfinite(predicted)
    t, p = target[both].astype(float), predicted[both].astype(float)
    assert scores.pixels == both.sum()
    assert scores.ignored == np.isnan(target).sum()
    assert scores.unpredicted == (np.isfinite(target) & np.isnan(predicted)).sum()
    if not t.size:
        assert {scores.rmse, scores.mae, scores.bias, scores.r2, scores.target_mean, scores.target_std} == {None}
        return
    assert scores.rmse == pytest.approx(np.sqrt(np.mean((p - t) ** 2)))
    assert scores.mae == pytest.approx(np.mean(np.abs(p - t)))
    assert scores.bias == pytest.approx(np.mean(p - t), abs=1e-9)
    assert scores.target_mean == pytest.approx(t.mean(), abs=1e-9)
    assert scores.target_std == pytest.approx(t.std(), abs=1e-6)
    spread = ((t - t.mean()) ** 2).sum()
    if spread > 1e-3:
        assert scores.r2 == pytest.approx(1 - ((p - t) ** 2).sum() / spread)


def test_heights_far_above_their_differences_keep_their_figures():
    """Sums of squares of numbers of 1e6 that differ by 1e-2 would leave nothing of the deviation."""
    rng = np.random.default_rng(0)
    target = 1e6 + rng.normal(0, 1e-2, 100_000)
    predicted = target + rng.normal(0, 5e-3, target.size)
    sums = ValueErrors()
    for part in np.array_split(np.arange(target.size), 7):
        sums.update(target[part], predicted[part])
    scores = sums.scores()
    assert scores.target_std == pytest.approx(target.std(), rel=1e-6)
    assert scores.r2 == pytest.approx(1 - ((predicted - target) ** 2).sum() / ((target - target.mean()) ** 2).sum())


def test_a_target_of_one_value_has_no_r2():
    scores = errors([3, 3], [2, 4]).scores()
    assert (scores.r2, scores.rmse, scores.target_std) == (None, 1, 0)
    assert "R2                   n/a" in scores.table()
    json.dumps(scores.to_dict(), allow_nan=False)


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"\(2,\) and prediction of \(3,\)"):
        errors([1, 2], [1, 2, 3])


# --- labels


@settings(max_examples=30)
@given(
    st.tuples(st.integers(1, 4), st.integers(0, 30)).flatmap(
        lambda s: st.tuples(*[hnp.arrays(np.uint8, s, elements=st.sampled_from([0, 1, 255]))] * 2)
    )
)
def test_each_label_is_counted_by_itself(pair):
    target, predicted = pair
    names = [f"label {index}" for index in range(len(target))]
    counts = LabelCounts(names)
    counts.update(target, predicted)
    scores = counts.scores()
    ious = []
    for index, score in enumerate(scores.classes):
        both = (target[index] != 255) & (predicted[index] != 255)
        true, found = target[index][both] == 1, predicted[index][both] == 1
        hits, union = (true & found).sum(), (true | found).sum()
        assert score.name == names[index]
        assert score.iou == (pytest.approx(hits / union) if true.any() else None)
        assert score.f1 == (pytest.approx(2 * hits / (true.sum() + found.sum())) if true.any() else None)
        assert score.precision == (pytest.approx(hits / found.sum()) if found.any() else None)
        assert score.recall == (pytest.approx(hits / true.sum()) if true.any() else None)
        assert (score.support, score.predicted, scores.pixels[index]) == (true.sum(), found.sum(), both.sum())
        ious += [score.iou] if true.any() else []
    assert scores.mean_iou == (pytest.approx(np.mean(ious)) if ious else None)
    assert set(scores.absent) == {score.name for score in scores.classes if score.iou is None}
    json.dumps(scores.to_dict(), allow_nan=False)
    assert scores.table().splitlines()[1].startswith("label 0")


def test_labels_of_another_number_are_refused():
    with pytest.raises(ShapeError, match="Expected 2 labels"):
        LabelCounts(["a", "b"]).update(np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8))
    with pytest.raises(ShapeError, match="holds 2, which is no class"):
        LabelCounts(["a"]).update(np.full((1, 4), 2, np.uint8), np.zeros((1, 4), np.uint8))


# --- tiles


def tile(matrix, name="a.tif", col=0) -> TileScore:
    return TileScore("tiles", name, col, -7, 512, 300, np.array(matrix, np.int64))


def test_tiles_come_back_as_they_went(tmp_path):
    names = ("background", "a>b", 'roof, "flat"')
    rng = np.random.default_rng(0)
    tiles = [tile(rng.integers(0, 1 << 40, (3, 3)), f"röof {i}, x.tif", i * 512) for i in range(5)]
    write_tiles(tmp_path / "tiles.csv", names, tiles)
    assert [path.name for path in tmp_path.iterdir()] == ["tiles.csv"]
    header = (tmp_path / "tiles.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.startswith("source,name,col,row,width,height,background>background,background>a>b,")
    classes, back = read_tiles(tmp_path / "tiles.csv")
    assert classes == names
    assert [one.place for one in back] == [one.place for one in tiles]
    for one, other in zip(back, tiles, strict=True):
        np.testing.assert_array_equal(one.matrix, other.matrix)


def test_a_table_without_tiles_still_says_its_classes(tmp_path):
    write_tiles(tmp_path / "tiles.csv", ("background", "building"), [])
    assert read_tiles(tmp_path / "tiles.csv") == (("background", "building"), [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b,c\n1,2,3\n",
        "source,name,col,row,width,height,x>x,x>y,y>x\n",
        "source,name,col,row,width,height,x>x\ns,n,0,0,1,1\n",
        "source,name,col,row,width,height,x>x\ns,n,0,0,1,1,-4\n",
        "source,name,col,row,width,height,x>x\ns,n,0,0,1,1,many\n",
        "source,name,col,row,width,height,x>x\ns\n",
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, text):
    (tmp_path / "tiles.csv").write_text(text)
    with pytest.raises(UsageError, match=r"tiles.csv is no table of tiles"):
        read_tiles(tmp_path / "tiles.csv")


def test_tables_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_tiles(tmp_path / "none.csv")
    with pytest.raises(OutputError, match="cannot be written"):
        write_tiles(tmp_path / "none" / "tiles.csv", ("a", "b"), [])


def test_the_sum_of_the_tiles_is_the_whole():
    rng = np.random.default_rng(1)
    whole, tiles = ConfusionMatrix(("a", "b", "c")), []
    for _ in range(4):
        own = ConfusionMatrix(whole.classes)
        own.update(rng.integers(0, 3, 100).astype(np.uint8), rng.integers(0, 3, 100).astype(np.uint8))
        whole.merge(own)
        tiles.append(tile(own.matrix))
    np.testing.assert_array_equal(sum(one.matrix for one in tiles), whole.matrix)
