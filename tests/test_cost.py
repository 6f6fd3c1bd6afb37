"""Parameters and multiply-accumulates against closed forms."""

import pytest
import torch
from torch import nn

from geoseg.models.cost import macs_per_pixel, parameters
from geoseg.models.receptive import receptive_radius
from geoseg.models.unet import UNet
from geoseg.models.unet3d import UNet3D


class Net(nn.Sequential):
    in_channels = 3


def unet_macs(channels: int, classes: int, width: int, depth: int) -> float:
    """From figure 1 of the paper: what each level costs for each of its own pixels, of which there are a quarter as
    many at each level below."""

    def double(a, b):
        return 9 * a * b + 9 * b * b

    total = double(channels, width) + width * classes
    for level in range(depth):
        fine, coarse = width << level, width << level + 1
        total += (double(2 * fine, fine) + coarse * fine) / 4**level  # a pixel of the 2x2 up-convolution sees one
        total += double(fine, coarse) / 4 ** (level + 1)
    return total


@pytest.mark.parametrize(("width", "thousands"), [(16, 46), (32, 184), (64, 735)])
def test_unet(width, thousands):
    with torch.device("meta"):
        model = UNet(3, 3, width=width)
    assert macs_per_pixel(model) == unet_macs(3, 3, width, 4)
    assert round(macs_per_pixel(model) / 1000) == thousands


def test_unpadded_convolutions_also_compute_what_is_cut_off():
    """Figure 1's sizes: 572 pixels in, 388 out."""
    with torch.device("meta"):
        model = UNet(1, 2, width=64, padding="valid")
    sizes = [(570, 9 * 64), (568, 9 * 64 * 64), (282, 9 * 64 * 128), (280, 9 * 128 * 128)]
    sizes += [(138, 9 * 128 * 256), (136, 9 * 256 * 256), (66, 9 * 256 * 512), (64, 9 * 512 * 512)]
    sizes += [(30, 9 * 512 * 1024), (28, 9 * 1024 * 1024)]
    sizes += [(56, 1024 * 512), (54, 9 * 1024 * 512), (52, 9 * 512 * 512)]
    sizes += [(104, 512 * 256), (102, 9 * 512 * 256), (100, 9 * 256 * 256)]
    sizes += [(200, 256 * 128), (198, 9 * 256 * 128), (196, 9 * 128 * 128)]
    sizes += [(392, 128 * 64), (390, 9 * 128 * 64), (388, 9 * 64 * 64), (388, 64 * 2)]
    expected = sum(size**2 * each for size, each in sizes) / 388**2
    assert macs_per_pixel(model, side=388) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.Conv2d(3, 8, 3, padding=1)], 9 * 3 * 8),
        ([nn.Conv2d(3, 9, 3, padding=1, groups=3)], 9 * 9),
        ([nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 2, 2, stride=2)], 9 * 3 * 8 / 4 + 8 * 2),
        ([nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")], 0),
        ([nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, 3, padding=1), nn.Flatten(1, 2)], 3 * 27 * 4),
    ],
)
def test_layers(layers, expected):
    assert macs_per_pixel(Net(*layers), side=16) == expected


def test_linear_counts():
    class Last(Net):
        def forward(self, x):
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)

    assert macs_per_pixel(Last(nn.Linear(3, 5)), side=8) == 15


def test_dates_add_up():
    one, three = (UNet3D(2 * t, 2, dates=t, width=2, depth=1, norm="none") for t in (1, 3))
    assert macs_per_pixel(three, side=16) > 2.5 * macs_per_pixel(one, side=16)


def test_model_is_left_alone():
    model = UNet(3, 2, width=2, depth=1).double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert macs_per_pixel(model, side=8) == macs_per_pixel(model.bfloat16(), side=8) == unet_macs(3, 2, 2, 1)
    model.double()
    assert model.training
    assert all(value.device.type == "cpu" for value in model.state_dict().values())
    assert set(before) == set(model.state_dict())
    assert receptive_radius(model) == 9


def test_parameters_count_what_is_trained():
    assert parameters(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))) == 9 * 3 * 8 + 8 + 16
    assert parameters(nn.ReLU()) == 0
