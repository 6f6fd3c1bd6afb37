"""The depthwise convolution against `nn.Conv2d`: the same function, and gradients that bfloat16 does not spoil."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geoseg.models.depthwise import Depthwise


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def reference(layer):
    """What torch has for it, with the same weights."""
    (stride, _), channels, kernel = layer.stride, layer.in_channels, layer.kernel_size[0]
    conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
    conv.load_state_dict(layer.state_dict())
    return conv


CASES = pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])


@CASES
def test_is_torchs_in_float32(kernel, stride):
    layer = Depthwise(6, kernel, stride=stride)
    image = torch.randn(2, 6, 17, 20, requires_grad=True)
    ours, theirs = layer(image), reference(layer)(image)
    assert torch.equal(ours, theirs)
    assert layer.weight.shape == (6, 1, kernel, kernel)
    assert layer.bias is None


@CASES
def test_gradients_under_autocast_are_those_of_float32(kernel, stride):
    layer = Depthwise(6, kernel, stride=stride)
    image = torch.randn(2, 6, 16, 24).bfloat16().float().requires_grad_()
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(image)
    assert y.dtype == torch.bfloat16
    exact = reference(layer)
    expected = exact(image)
    assert torch.allclose(y.float(), expected, rtol=2**-7, atol=2**-7)
    g = torch.randn_like(expected).bfloat16().float()
    ours = torch.autograd.grad(y, (image, layer.weight), g.bfloat16())
    theirs = torch.autograd.grad(expected, (image, exact.weight), g)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("needed", ["input", "weight"])
def test_only_the_gradients_asked_for(needed):
    layer = Depthwise(4, 3)
    image = torch.randn(1, 4, 8, 8, requires_grad=needed == "input")
    layer.weight.requires_grad_(needed == "weight")
    with torch.autocast("cpu", torch.bfloat16):
        layer(image).float().square().sum().backward()
    assert (image.grad is None, layer.weight.grad is None) == (needed != "input", needed != "weight")


def test_without_gradients_autocast_is_torchs_own():
    layer = Depthwise(4, 5, stride=2).eval()
    image = torch.randn(1, 4, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = F.conv2d(image, layer.weight, stride=2, padding=2, groups=4)
        assert torch.equal(layer(image), expected)
