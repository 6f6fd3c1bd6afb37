"""The taper: weights that sum to one, added where tile and cell meet."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.blend import add, taper
from geoseg.windows import Window


@given(st.integers(1, 40).flatmap(lambda step: st.tuples(st.just(step), st.integers(0, step))))
def test_the_tiles_over_a_pixel_weigh_one_together(step_and_overlap):
    step, overlap = step_and_overlap
    side = step + overlap
    weights = taper(side, overlap)
    assert weights.shape == (side, side)
    assert ((weights > 0) & (weights <= 1)).all()
    total = torch.zeros(4 * step + overlap, 4 * step + overlap)
    for row in range(4):
        for col in range(4):
            total[row * step :, col * step :][:side, :side] += weights
    inside = total[overlap : 4 * step, overlap : 4 * step]
    assert torch.allclose(inside, torch.ones_like(inside), atol=1e-6)


def test_weights_are_one_where_a_tile_is_alone_and_equal_in_the_middle_of_a_fade():
    weights = taper(8, 3)
    assert torch.equal(weights[3:5, 3:5], torch.ones(2, 2))
    assert weights[4].tolist() == pytest.approx([0.0669873, 0.5, 0.9330127, 1, 1, 0.9330127, 0.5, 0.0669873])
    assert torch.equal(weights, weights.T)
    assert torch.equal(taper(3, 0), torch.ones(3, 3))


def test_only_the_shared_pixels_are_added_to():
    sums = torch.ones(2, 3, 4)
    cell, tile = Window(row=10, col=20, height=3, width=4), Window(row=8, col=22, height=4, width=4)
    values = torch.arange(32, dtype=torch.bfloat16).view(2, 4, 4)
    add(sums, cell, values, tile, torch.full((4, 4), 0.5))
    expected = torch.ones(2, 3, 4)
    expected[:, :2, 2:] += values[:, 2:, :2].float() / 2
    assert torch.equal(sums, expected)
    add(sums, cell, values, Window(row=0, col=0, height=4, width=4), torch.ones(4, 4))
    assert torch.equal(sums, expected)
