"""The lattice: every pixel once, tiles on the stride."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import UsageError
from geoseg.windows import Plan, TaperedPlan, Window


@st.composite
def plans(draw):
    stride = draw(st.sampled_from([1, 2, 4, 16]))
    return Plan(
        shape=(draw(st.integers(1, 300)), draw(st.integers(1, 300))),
        cell_side=stride * draw(st.integers(1, 20)),
        halo=stride * draw(st.integers(0, 5)),
        stride=stride,
    )


@given(plans())
def test_cells_cover_every_pixel_once(plan):
    count = np.zeros(plan.shape, int)
    for cell in plan:
        assert cell.intersection(Window(row=0, col=0, height=plan.shape[0], width=plan.shape[1])) == cell
        count[cell.slices()] += 1
    assert (count == 1).all()
    assert len(list(plan)) == len(plan) == plan.rows * plan.cols


@given(plans())
def test_tiles_hold_their_cell_and_halo_and_keep_the_phase(plan):
    for cell in plan:
        tile = plan.tile(cell)
        assert tile.row % plan.stride == tile.col % plan.stride == 0
        assert tile.height % plan.stride == tile.width % plan.stride == 0
        assert (tile.row, tile.col) == (cell.row - plan.halo, cell.col - plan.halo)
        assert 0 <= tile.stop_row - (cell.stop_row + plan.halo) < plan.stride
        assert 0 <= tile.stop_col - (cell.stop_col + plan.halo) < plan.stride


def test_a_scene_smaller_than_a_cell_is_one_cell():
    plan = Plan(shape=(1, 7), cell_side=512, halo=112, stride=16)
    assert list(plan) == [Window(row=0, col=0, height=1, width=7)]
    assert plan.tile(plan.cell(0)).shape == (16 + 224, 16 + 224)


def test_index_beyond_the_plan():
    with pytest.raises(IndexError):
        Plan(shape=(10, 10), cell_side=16).cell(1)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"shape": (0, 5), "cell_side": 16}, "5x0"),
        ({"shape": (5, 5), "cell_side": 24, "stride": 16}, "Try 32"),
        ({"shape": (5, 5), "cell_side": 32, "halo": 100, "stride": 16}, "Try 112"),
        ({"shape": (5, 5), "cell_side": 0}, "at least 1"),
        ({"shape": (5, 5), "cell_side": 16, "halo": -16}, "at least 0"),
    ],
)
def test_plans_that_make_no_sense(kwargs, words):
    with pytest.raises(UsageError, match=words):
        Plan(**kwargs)


def test_window_algebra():
    a = Window(row=2, col=3, height=4, width=5)
    assert a.expand(1) == Window(row=1, col=2, height=6, width=7)
    assert a.intersection(Window(row=5, col=0, height=9, width=4)) == Window(row=5, col=3, height=1, width=1)
    assert a.intersection(Window(row=6, col=3, height=1, width=1)) is None
    assert a.slices(Window(row=1, col=1, height=9, width=9)) == (slice(1, 5), slice(2, 7))
    with pytest.raises(UsageError):
        Window(row=0, col=0, height=0, width=3)


@st.composite
def tapered_plans(draw):
    stride = draw(st.sampled_from([1, 2, 4]))
    step = stride * draw(st.integers(1, 8))
    return TaperedPlan(
        shape=(draw(st.integers(1, 80)), draw(st.integers(1, 80))),
        cell_side=step * draw(st.integers(1, 4)),
        stride=stride,
        step=step,
        fade=stride * draw(st.integers(0, step // stride)),
    )


@given(tapered_plans())
def test_a_cell_has_all_tiles_of_one_lattice_that_touch_it(plan):
    side = plan.tile_size
    ends = [range(-plan.fade, length + side, plan.step) for length in plan.shape]
    lattice = [Window(row=row, col=col, height=side, width=side) for row in ends[0] for col in ends[1]]
    for cell in plan:
        assert plan.tiles(cell) == [tile for tile in lattice if tile.intersection(cell)]
        assert all(tile.row % plan.stride == tile.col % plan.stride == 0 for tile in plan.tiles(cell))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"cell_side": 32, "step": 16, "fade": 20}, "at most the step"),
        ({"cell_side": 32, "step": 0, "fade": 0}, "step of at least 1"),
        ({"cell_side": 32, "step": 16, "fade": 0, "halo": 4}, "no halo"),
        ({"cell_side": 24, "step": 16, "fade": 4}, "cell side=24 is not a multiple of 16. Try 32"),
        ({"cell_side": 32, "step": 16, "fade": 6}, "fade=6 is not a multiple of 4. Try 8"),
        ({"cell_side": 12, "step": 6, "fade": 4}, "step=6 is not a multiple of 4. Try 8"),
    ],
)
def test_tapered_plans_that_make_no_sense(kwargs, words):
    with pytest.raises(UsageError, match=words):
        TaperedPlan(shape=(50, 50), stride=4, **kwargs)
