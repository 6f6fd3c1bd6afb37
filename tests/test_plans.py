"""How scenes are cut: what fits, what is refused with what would fit, what is worth a word."""

import pytest
from checkpoints import CLASSES
from hypothesis import given
from hypothesis import strategies as st

from geoseg.checkpoint import ClassInfo, Head, Header
from geoseg.errors import UsageError
from geoseg.plans import plan_for
from geoseg.windows import Plan, TaperedPlan


def header_for(*bands, **fields):
    defaults = {
        "arch": "unet", "bands": bands, "mean": (1.0,) * len(bands), "std": (1.0,) * len(bands),
        "value_range": ((0.0, 255.0),) * len(bands), "dtype": "uint8", "heads": {"surface": Head(classes=CLASSES)},
        "cell_side": 1536, "stride": 16, "receptive_radius": 107,
    }  # fmt: skip
    return Header(**(defaults | fields))


RGB = header_for("red", "green", "blue")


def test_the_plan_without_options_is_the_checkpoints(warnings):
    plan = plan_for((5000, 3000), RGB, None, None)
    assert (plan.shape, plan.cell_side, plan.halo, plan.stride) == ((5000, 3000), 1536, 112, 16)
    assert warnings == []


@given(tile=st.integers(0, 4000), overlap=st.none() | st.integers(0, 600))
def test_a_tile_size_is_exact_or_refused_with_one_that_fits(tile, overlap):
    def refusal(tile, overlap):
        try:
            plan = plan_for((5000, 3000), RGB, tile, overlap)
        except UsageError as err:
            return str(err)
        assert plan.cell_side + 2 * plan.halo == tile
        assert overlap in (None, 2 * plan.halo)
        return None

    for _ in range(2):  # the overlap first, then the tile size
        if (text := refusal(tile, overlap)) is None:
            return
        nearest = int(text.partition("Try ")[2].partition(",")[0])
        if text.startswith("--overlap"):
            assert 0 < nearest - overlap < 32
            overlap = nearest
        else:
            assert nearest > (224 if overlap is None else overlap)
            assert abs(nearest - tile) <= 8 or tile < nearest
            tile = nearest
    assert refusal(tile, overlap) is None


def test_refused_sizes_name_the_automatic_ones():
    with pytest.raises(UsageError, match=r"^--tile-size 1000 does not fit.* 224 .* 16 .*Try 992, or auto for 1760\.$"):
        plan_for((5000, 3000), RGB, 1000, None)
    with pytest.raises(UsageError, match=r"^--overlap 100 does not fit.* 32\. Try 128, or auto for 224\.$"):
        plan_for((5000, 3000), RGB, None, 100)


def test_too_little_overlap_is_told(warnings):
    assert plan_for((5000, 3000), RGB, None, 64).halo == 32
    assert warnings == ["overlap 64 is less than the 224 this model needs: tile edges may show"]


def test_more_overlap_than_needed_is_no_news(warnings):
    assert plan_for((5000, 3000), RGB, None, 256).halo == 128
    assert warnings == []


def test_wasteful_tiles_are_told(warnings):
    plan_for((5000, 3000), RGB, 256, None)
    assert len(warnings) == 1
    assert "64 pixels for each pixel" in warnings[0]


def test_no_waste_where_one_tile_holds_the_scene(warnings):
    plan_for((30, 20), RGB, 256, None)
    assert warnings == []


# ---- unbounded context

UNBOUNDED = RGB.model_copy(update={"receptive_radius": None, "cell_side": 1024})


def test_unbounded_context_is_tapered(warnings):
    plan = plan_for((5000, 3000), UNBOUNDED)
    assert isinstance(plan, TaperedPlan)
    assert (plan.tile_size, plan.overlap, plan.step, plan.cell_side) == (1024, 256, 768, 3072)
    plan = plan_for((5000, 3000), UNBOUNDED, 512, 64)
    assert (plan.tile_size, plan.overlap, plan.cell_side) == (512, 64, 8 * 448)
    many = Head(classes=tuple(ClassInfo(name=str(index), color="#000000") for index in range(40)))
    plan = plan_for((5000, 3000), UNBOUNDED.model_copy(update={"heads": {"main": many}}))
    assert plan.cell_side == 768  # the sums of forty classes
    for side in (16, 32, 48, 64):
        plan = plan_for((500, 300), UNBOUNDED.model_copy(update={"cell_side": side}))
        assert plan.tile_size == side
    assert warnings == []


def test_a_taper_can_be_had_where_none_is_needed_and_left_out_where_it_is(warnings):
    plan = plan_for((5000, 3000), RGB, blend="taper")
    assert (plan.tile_size, plan.overlap) == (1760, 224)
    assert warnings == []
    plan = plan_for((5000, 3000), UNBOUNDED, blend="crop")
    assert type(plan) is Plan
    assert (plan.tile_size, plan.overlap) == (1024, 256)
    assert warnings == ["the network's context is unbounded: without a taper, tile edges show"]


def test_tapers_that_do_not_fit():
    with pytest.raises(UsageError, match=r"more than half of the tile size 1024.*Expected at most 512\.$"):
        plan_for((5000, 3000), UNBOUNDED, None, 768)
    with pytest.raises(UsageError, match=r"^--overlap 100 does not fit.* 16\. Try 112, or auto for 256\.$"):
        plan_for((5000, 3000), UNBOUNDED, None, 100)
    with pytest.raises(UsageError, match=r"^--tile-size 1000 .* Try 992, or auto for 1024\.$"):
        plan_for((5000, 3000), UNBOUNDED, 1000, 256)
    with pytest.raises(UsageError, match=r"^blend='hann' is unknown\. Expected auto, crop or taper\.$"):
        plan_for((5000, 3000), RGB, blend="hann")


def test_tiles_that_no_memory_holds():
    with pytest.raises(UsageError, match="101536 pixels a side"):
        plan_for((5000, 3000), RGB, None, 100000)
