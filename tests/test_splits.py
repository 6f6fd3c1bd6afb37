"""Splits: the gap holds, shares are near what was asked, classes are on both sides, equal seeds give equal splits."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import CRS

from geoseg.grid import Grid
from geoseg.splits import Place, Survey, audit, ground_boxes, split_frame, split_groups, split_tiles, subtract
from geoseg.windows import Window


def window(left: int, top: int, right: int, bottom: int) -> Window:
    return Window(row=top, col=left, height=bottom - top, width=right - left)


def painted(shape: tuple[int, int], windows) -> np.ndarray:
    """(H, W) bool, True in the windows."""
    out = np.zeros(shape, bool)
    for one in windows:
        if common := one.intersection(window(0, 0, shape[1], shape[0])):
            out[common.slices()] = True
    return out


def distance_between(val: np.ndarray, learnt: np.ndarray) -> int:
    """The least number of pixels between two sets of pixels of one picture, along the farther axis."""
    grown, steps = val, 0
    while not (grown & learnt).any():
        more = grown.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                moved = np.roll(more, step, axis)
                edge = [slice(None), slice(None)]
                edge[axis] = 0 if step == 1 else -1
                moved[tuple(edge)] = False
                grown = grown | moved
            more = grown.copy()
        steps += 1
    return steps - 1


@settings(max_examples=30)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(0, 40),
    st.sampled_from([0.1, 0.2, 0.35]),
    st.integers(0, 20),
    st.integers(0, 5),
)
def test_no_validation_pixel_is_nearer_than_the_gap_to_one_that_is_learnt(height, width, off, share, gap, seed):
    frame = window(off, 2 * off, off + width, 2 * off + height)
    blocks = split_frame(frame, share=share, block=32, gap=gap, seed=seed)
    shape = frame.stop_row, frame.stop_col
    val, learnt = painted(shape, blocks.val), painted(shape, subtract(frame, blocks.closed))
    assert blocks == split_frame(frame, share=share, block=32, gap=gap, seed=seed)
    assert learnt.any()
    assert blocks.gap <= gap
    assert sum(one.area for one in blocks.val) == val.sum()  # disjoint
    if blocks.val:
        assert distance_between(val, learnt) >= blocks.gap
        assert painted(shape, [frame])[val].all()
    if min(height, width) >= 16:
        assert val.sum() == pytest.approx(share * height * width, rel=0.35)
        assert learnt.sum() >= 0.5 * (1 - share) * height * width


def test_a_large_frame_keeps_its_gap_and_spreads_its_blocks():
    frame = window(100, 50, 4196, 2098)
    blocks = split_frame(frame, share=0.2, block=1024, gap=128, seed=3)
    assert blocks.gap == 128
    assert len(blocks.val) >= 3
    assert sum(one.area for one in blocks.val) == pytest.approx(0.2 * frame.area, rel=0.1)
    assert max(one.stop_col for one in blocks.val) - min(one.col for one in blocks.val) > frame.width / 2
    assert sum(one.area for one in subtract(frame, blocks.closed)) > 0.6 * frame.area


def test_other_seeds_hold_back_other_ground():
    frame = window(0, 0, 2000, 2000)
    assert len({split_frame(frame, share=0.2, block=400, gap=50, seed=seed).val for seed in range(8)}) == 8


@pytest.mark.parametrize("seed", range(4))
def test_every_class_that_can_is_on_both_sides(seed):
    target = np.zeros((512, 768), np.uint8)
    target[20:60, 30:90] = target[440:500, 600:700] = 1  # in two places
    target[200:220, 300:330] = 2  # in one place: it must be learnt
    target[:, 700:] = 255
    survey = Survey.of(target.shape, lambda part: target[part.slices()], 3)
    blocks = split_frame(survey.frame, share=0.2, block=200, gap=32, seed=seed, survey=survey)
    val, learnt = painted(target.shape, blocks.val), painted(target.shape, subtract(survey.frame, blocks.closed))
    assert survey.frame == window(0, 0, 700, 512)
    assert (target[val] == 1).sum() > 100
    assert (target[learnt] == 1).sum() > 100
    assert (target[learnt] == 2).sum() > 100
    assert (val & (target != 255)).sum() == pytest.approx(0.2 * (target != 255).sum(), rel=0.2)


def test_blocks_lie_where_something_is_labelled():
    target = np.full((600, 600), 255, np.uint8)
    for at in range(0, 600, 100):  # squares along a diagonal
        target[at : at + 100, at : at + 100] = 1
    survey = Survey.of(target.shape, lambda part: target[part.slices()], 2)
    blocks = split_frame(survey.frame, share=0.2, block=100, gap=10, seed=0, survey=survey)
    held = painted(target.shape, blocks.val) & (target == 1)
    assert held.sum() == pytest.approx(0.2 * (target == 1).sum(), rel=0.35)


def test_a_survey_counts_every_pixel_once_and_frames_them():
    rng = np.random.default_rng(0)
    target = rng.choice([0, 1, 2, 255], (1500, 700), p=[0.3, 0.1, 0.1, 0.5]).astype(np.uint8)
    target[:40], target[:, 650:] = 255, 255
    survey = Survey.of(target.shape, lambda part: target[part.slices()], 3)
    assert survey.counts.sum(axis=(0, 1)).tolist() == [(target == index).sum() for index in range(3)]
    assert survey.counts[3, 2].tolist() == [
        (target[3 * survey.side : 4 * survey.side, 2 * survey.side : 3 * survey.side] == index).sum()
        for index in range(3)
    ]
    assert survey.frame == window(0, 40, 650, 1500)
    assert Survey.of((5, 5), lambda part: np.full(part.shape, 255, np.uint8), 2) is None


def test_nothing_is_held_back_of_one_pixel_or_for_a_share_of_0():
    assert split_frame(window(3, 3, 4, 4), share=0.2, block=9, gap=2, seed=0).val == ()
    assert split_frame(window(0, 0, 90, 90), share=0.0, block=9, gap=2, seed=0).val == ()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 14),
    st.integers(1, 9),
    st.sampled_from([0.0, 10.0, 25.0, 60.0]),
    st.sampled_from([50.0, 64.0]),
    st.sampled_from([0.1, 0.2, 0.3]),
    st.integers(0, 3),
)
def test_tiles_keep_the_gap_and_never_overlap_what_is_learnt(caplog, cols, rows, gap, size, share, seed):
    caplog.clear()
    centres = np.stack(np.meshgrid(np.arange(cols) * 50.0, np.arange(rows) * 50.0), -1).reshape(-1, 2)
    split = split_tiles(centres, np.full(len(centres), size), share=share, gap=gap, seed=seed)
    assert (split == split_tiles(centres, np.full(len(centres), size), share=share, gap=gap, seed=seed)).all()
    if caplog.messages:  # too little would have been left to learn from
        gap = float(caplog.messages[-1].rpartition(" ")[2].rstrip("."))
    assert "train" in split
    if len(centres) >= 40:
        assert (split == "val").mean() == pytest.approx(share, rel=0.4)
        away = np.abs(centres[split == "val"][:, None] - centres[split == "train"][None]) - size
        assert np.linalg.norm(np.maximum(away, 0), axis=2).min() >= gap - 1e-6
        assert (away.max(axis=2) >= -1e-6).all()


def test_tiles_of_a_rare_class_are_on_both_sides_and_a_single_one_is_learnt():
    centres = np.stack(np.meshgrid(np.arange(12) * 10.0, np.arange(10) * 10.0), -1).reshape(-1, 2)
    counts = np.zeros((120, 3), int)
    counts[:, 0] = 100
    counts[[5, 60, 118], 1] = 20
    counts[77, 2] = 20
    for seed in range(5):
        split = split_tiles(centres, np.full(120, 10.0), counts, share=0.2, gap=5.0, seed=seed)
        assert counts[split == "val", 1].sum() > 0
        assert counts[split == "train"].sum(axis=0).min() > 0


def test_few_tiles_and_tiles_in_one_place():
    assert split_tiles(np.zeros((1, 2)), np.ones(1), share=0.5, gap=1, seed=0).tolist() == ["train"]
    assert set(split_tiles(np.zeros((4, 2)), np.ones(4), share=0.5, gap=0, seed=0).tolist()) == {"train"}
    assert sorted(split_tiles(np.array([[0, 0], [9, 0.0]]), np.ones(2), share=0.2, gap=1, seed=0)) == ["train", "val"]


def test_a_gap_that_leaves_too_little_is_cut_and_said(warnings):
    centres = np.stack([np.arange(4) * 10.0, np.zeros(4)], 1)
    split = split_tiles(centres, np.full(4, 10.0), share=0.25, gap=500.0, seed=0)
    assert "train" in split
    assert "val" in split
    assert "A gap of 500 round validation tiles would leave little" in warnings[0]


def test_groups_come_near_the_share_with_every_class():
    counts = np.array([[90, 0], [100, 5], [110, 0], [95, 5], [105, 0]])
    held = split_groups(counts, share=0.2, seed=0)
    assert held.sum() == 1
    assert counts[held, 1].sum() == 5
    assert split_groups(counts[:1], share=0.2, seed=0).tolist() == [False]


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4), max_size=5), st.integers(5, 12))
def test_subtracting_leaves_every_other_pixel_once(boxes, side):
    whole = window(1, 2, 1 + side, 2 + side)
    holes = [window(left, t, left + w + 1, t + h + 1) for left, t, w, h in boxes]
    parts = subtract(whole, holes)
    shape = (30, 30)
    assert sum(part.area for part in parts) == painted(shape, parts).sum()
    assert (painted(shape, parts) == (painted(shape, [whole]) & ~painted(shape, holes))).all()


def place(name, grid, box=None, file=None):
    return Place(name, file or name, window(*box) if box else grid.window, grid)


def utm(col=0.0, row=0.0, *, epsg=32633, gsd=0.5, turn=0.0):
    at = Affine(gsd, 0, 500_000 + col * gsd, 0, -gsd, 5_000_000 - row * gsd) @ Affine.rotation(turn)
    return Grid((100, 100), at, CRS.from_epsg(epsg).to_wkt())


def test_the_audit_measures_metres_within_a_file_and_between_files():
    grid = utm()
    train = [place("a", grid, (0, 0, 40, 100), "scene"), place("b", utm(400))]
    val = [place("near", grid, (60, 0, 100, 100), "scene"), place("far", utm(200)), place("on", utm(450, 20))]
    found = {distance.name: distance for distance in audit(train, val)}
    assert found["near"].value == pytest.approx(10, rel=1e-3)
    assert found["far"].value == pytest.approx(50, rel=1e-3)
    assert found["on"].value == 0
    assert {distance.unit for distance in found.values()} == {"m"}


def test_a_turned_scene_is_measured_on_its_own_pixels():
    grid = utm(turn=30)
    (found,) = audit([place("t", grid, (0, 0, 40, 100), "s")], [place("v", grid, (50, 0, 100, 100), "s")])
    assert found.value == pytest.approx(5, rel=1e-3)


def test_files_without_a_crs_are_compared_with_themselves_only():
    grid = Grid((100, 100), Affine.identity(), None)
    train = [place("t", grid, (0, 0, 40, 100), "s"), place("other", grid)]
    same, else_where = audit(train, [place("v", grid, (44, 0, 100, 100), "s"), place("w", grid)])
    assert (same.value, same.unit) == (4, "px")
    assert (else_where.value, else_where.unit) == (None, "px")


def test_grids_of_several_crs_meet_on_one_plane():
    here, there = utm(), utm()
    degrees = ground_boxes([here, Grid((100, 100), Affine(1e-5, 0, 15.0, 0, -1e-5, 45.15), "EPSG:4326")])
    assert degrees.shape == (2, 4)
    assert degrees[0, 2] - degrees[0, 0] == pytest.approx(50, rel=0.01)
    assert degrees[0, 3] - degrees[0, 1] == pytest.approx(50, rel=0.01)
    assert degrees[1, 2] - degrees[1, 0] == pytest.approx(1e-3 * 111320 * np.cos(np.deg2rad(45.15)), rel=0.01)
    assert ground_boxes([here, there])[0] == pytest.approx(ground_boxes([here])[0])
    assert np.isnan(ground_boxes([Grid((9, 9), Affine.identity(), None)])).all()


def test_web_mercator_is_measured_on_the_ground():
    wide = Affine(1.0, 0, 0, 0, -1.0, 8_400_000)  # 60 degrees north, where a unit is half a metre
    grid = Grid((100, 100), wide, "EPSG:3857")
    shifted = Grid((100, 100), wide @ Affine.translation(200, 0), "EPSG:3857")
    (found,) = audit([place("t", grid)], [place("v", shifted)])
    assert found.value == pytest.approx(50, rel=0.02)
