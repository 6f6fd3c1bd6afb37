"""Losses of numbers: by hand, against torch, nodata, finite."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import ShapeError, UsageError
from geoseg.losses import LOSSES, REGRESSION

ALL = pytest.mark.parametrize("name", sorted(REGRESSION))


def value_and_gradient(name, prediction, target, **options):
    leaf = prediction.clone().requires_grad_()
    loss = LOSSES[name](leaf, target, **options)
    loss.backward()
    return loss.detach(), leaf.grad


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mse", {}, (0.25 + 9) / 2),
        ("rmse", {}, math.sqrt((0.25 + 9) / 2)),
        ("mae", {}, (0.5 + 3) / 2),
        ("huber", {}, (0.125 + 2.5) / 2),
        ("huber", {"delta": 2}, (0.125 + 2 * (3 - 1)) / 2),
        ("smooth_l1", {}, (0.125 + 2.5) / 2),
        ("smooth_l1", {"beta": 2}, (0.25 / 4 + 3 - 1) / 2),
        ("log_cosh", {}, (math.log(math.cosh(0.5)) + math.log(math.cosh(3))) / 2),
    ],
)
def test_by_hand(name, options, expected):
    prediction = torch.tensor([[[1.5, 2.0, 7.0, 4.0]]])
    target = torch.tensor([[[1.0, 5.0, math.nan, -9999.0]]])
    assert LOSSES[name](prediction, target, nodata=-9999, **options) == pytest.approx(expected)
    valid = torch.tensor([[[True, True, True, False]]])
    assert LOSSES[name](prediction, target, valid=valid, **options) == pytest.approx(expected)


@ALL
def test_shapes_that_mean_the_same(name):
    prediction, target = torch.randn(2, 1, 4, 5), torch.randn(2, 4, 5)
    values = [LOSSES[name](p, t) for p in (prediction, prediction[:, 0]) for t in (target,)]
    values.append(LOSSES[name](prediction, target[:, None]))
    assert values[0] == values[1] == values[2]
    assert LOSSES[name](torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2, dtype=torch.int16)) > 0


@ALL
def test_nothing_known_is_zero_with_a_zero_gradient(name):
    loss, gradient = value_and_gradient(name, torch.randn(1, 1, 3, 3), torch.full((1, 3, 3), math.nan))
    assert loss == 0
    assert torch.equal(gradient, torch.zeros(1, 1, 3, 3))
    assert LOSSES[name](torch.zeros(0, 1, 3, 3), torch.zeros(0, 3, 3)) == 0


@ALL
def test_no_error_costs_nothing_and_pulls_nowhere(name):
    prediction = torch.randn(2, 3, 3)
    loss, gradient = value_and_gradient(name, prediction, prediction.clone())
    assert loss == pytest.approx(0, abs=1e-6)
    assert torch.equal(gradient, torch.zeros_like(prediction))


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e4])
def test_half_precision_and_huge_numbers(name, dtype, size):
    prediction = (torch.randn(2, 3, 3).sign() * size).to(dtype)
    loss, gradient = value_and_gradient(name, prediction, torch.zeros(2, 3, 3))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@ALL
@given(values=st.lists(st.sampled_from([0.0, 1.0, -3.0, 1e4, math.nan, math.inf, -math.inf]), min_size=4, max_size=4))
def test_every_target(name, values):
    loss, gradient = value_and_gradient(name, torch.zeros(1, 2, 2), torch.tensor(values).view(1, 2, 2))
    assert torch.isfinite(loss)
    assert loss > -1e-6
    assert torch.isfinite(gradient).all()
    assert torch.equal(gradient.flatten() != 0, torch.tensor([math.isfinite(v) and v != 0 for v in values]))


@ALL
def test_prediction_without_a_target_may_be_anything(name):
    prediction = torch.tensor([[[1.0, math.nan, math.inf]]])
    loss, gradient = value_and_gradient(name, prediction, torch.tensor([[[2.0, math.nan, math.nan]]]))
    assert torch.isfinite(loss)
    assert gradient[0, 0, 1:].tolist() == [0, 0]


@ALL
def test_gradient_against_float64_finite_differences(name):
    torch.manual_seed(0)
    prediction = torch.randn(1, 1, 3, 4, dtype=torch.float64).requires_grad_()
    target = torch.randn(1, 3, 4, dtype=torch.float64)
    target[0, 0, 0] = math.nan
    assert torch.autograd.gradcheck(lambda p: LOSSES[name](p, target), prediction)


@ALL
def test_refused(name):
    with pytest.raises(ShapeError, match="do not fit together"):
        LOSSES[name](torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3))
    with pytest.raises(ShapeError, match="valid"):
        LOSSES[name](torch.zeros(1, 3, 3), torch.zeros(1, 3, 3), valid=torch.ones(1, 3, 3))
    with pytest.raises(UsageError, match="nodata"):
        LOSSES[name](torch.zeros(1, 3, 3), torch.zeros(1, 3, 3), nodata=True)
    with pytest.raises(UsageError, match="out of range"):
        LOSSES["huber"](torch.zeros(1, 3, 3), torch.zeros(1, 3, 3), delta=0)
