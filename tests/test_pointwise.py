"""The strided 1x1 convolution: PyTorch's own function and parameters, and a backward pass that keeps to its memory."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from geoseg.models.pointwise import StridedPointwise


@pytest.mark.parametrize("shape", [(1, 1), (7, 4), (16, 9)])
@pytest.mark.parametrize(("stride", "bias"), [(1, True), (2, True), (3, False)])
def test_it_is_pytorchs(shape, stride, bias):
    torch.manual_seed(0)
    theirs = nn.Conv2d(5, 4, kernel_size=1, stride=stride, bias=bias).double()
    ours = StridedPointwise(5, 4, stride=stride, bias=bias).double()
    ours.load_state_dict(theirs.state_dict())
    images = [torch.randn(2, 5, *shape, dtype=torch.float64).requires_grad_() for _ in range(2)]
    images[1].data.copy_(images[0].data)
    a, b = theirs(images[0]), ours(images[1])
    torch.testing.assert_close(b, a)
    for y in (a, b):
        y.square().sum().backward()
    torch.testing.assert_close(images[1].grad, images[0].grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


@pytest.mark.parametrize(("channels", "dtype"), [(4, "float32"), (8, "float32"), (8, "bfloat16")])
def test_channels_that_are_no_multiple_of_16(channels, dtype):
    """In a process of its own: with PyTorch's this ends in a segmentation fault."""
    program = f"""
import torch
from torch import nn
from geoseg.models.pointwise import StridedPointwise
torch.set_num_threads(1)
layers = [nn.Conv2d({channels}, {channels}, 3, padding=1), StridedPointwise({channels}, {2 * channels}, stride=2)]
net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
for _ in range(30):
    image = torch.randn(4, {channels}, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled={dtype == "bfloat16"}):
        loss = net(image).float().square().mean()
    loss.backward()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
