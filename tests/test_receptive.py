"""The receptive radius against closed forms and against the response of a real network to one bright pixel."""

import time

import pytest
import torch
from torch import nn

from geoseg.errors import ShapeError, UsageError
from geoseg.models import UNet
from geoseg.models.receptive import receptive_radius


@pytest.fixture(autouse=True)
def _one_thread():
    """On busy cores two threads wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Sequential):
    stride = 1
    bounded = True


class Strided(Net):
    stride = 4


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_unet_closed_form(depth):
    """Two 3x3 convolutions on each level's way down and up, and the corner of the coarsest pixel one looks out of."""
    convolutions = sum(4 * 2**level for level in range(depth)) + 2 * 2**depth
    corner = 2**depth - 1
    assert receptive_radius(UNet(3, 2, width=3, depth=depth)) == convolutions + corner == 7 * 2**depth - 5


def test_unet_of_depth_4_is_107_at_any_width_and_fast():
    start = time.process_time()
    assert receptive_radius(UNet(3, 3)) == 107
    assert receptive_radius(UNet(1, 2, width=32, norm="none")) == 107
    assert time.process_time() - start < 10


@pytest.mark.parametrize("depth", [1, 2])
def test_unet_against_the_response_to_one_pixel(depth):
    """With positive weights and no bias the real network, max pooling and ReLU included, answers where a path leads."""
    model = UNet(1, 2, width=1, depth=depth, norm="none").double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 0.1)
    side, reach = 24 * model.stride, 0
    for row in range(side // 2, side // 2 + model.stride):
        for col in range(side // 2, side // 2 + model.stride):
            image = torch.zeros(1, 1, side, side, dtype=torch.float64)
            image[..., row, col] = 1.0
            rows, cols = model(image)[0, 0].nonzero().T
            reach = max(reach, (rows - row).abs().max(), (cols - col).abs().max())
    assert receptive_radius(model) == reach


@pytest.mark.parametrize(
    ("layers", "radius"),
    [
        ([nn.Conv2d(3, 2, 1)], 0),
        ([nn.Conv2d(3, 2, (3, 7), padding="same")], 3),
        ([nn.Conv2d(3, 4, 3, padding=4, dilation=4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)], 5),
        ([nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)], 1),
        ([nn.Conv2d(3, 2, 5, padding=2, padding_mode="reflect")], 2),
        ([nn.Conv2d(3, 2, 3, padding=50, dilation=50)], 50),
        ([nn.Identity()], 0),
    ],
)
def test_plain_layers(layers, radius):
    assert receptive_radius(Net(*layers)) == radius


def test_stride_phases():
    """Down by 4 and up by 4: each pixel sees its own block of 4, so the far end is 3 away."""
    assert receptive_radius(Strided(nn.MaxPool2d(4), nn.Conv2d(3, 2, 1), nn.Upsample(scale_factor=4))) == 3
    assert (
        receptive_radius(Strided(nn.MaxPool2d(2, 4, dilation=3), nn.Conv2d(3, 2, 1), nn.Upsample(scale_factor=4))) == 3
    )
    assert receptive_radius(Strided(nn.Conv2d(3, 2, 4, stride=4), nn.ConvTranspose2d(2, 2, 4, stride=4))) == 3


def test_pooling_passes_on_all_of_its_pixels():
    """Each pixel sees itself and three to the right and below; of equal pixels a maximum would choose the first."""
    assert receptive_radius(Net(nn.ZeroPad2d((0, 3, 0, 3)), nn.MaxPool2d(4, stride=1), nn.Conv2d(3, 2, 1))) == 3


def test_context_wider_than_the_first_image():
    """Also where a dilated kernel's outer entries all fall beyond that image."""
    layers = [nn.Conv2d(3, 3, 3, padding=40, dilation=40) for _ in range(2)]
    assert receptive_radius(Net(*layers)) == 80


def test_dead_and_cancelling_weights_do_not_hide_context():
    model = Net(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    assert receptive_radius(model) == 2


class GlobalMean(nn.Module):
    stride, bounded = 1, True

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return x + self.pool(x)


@pytest.mark.parametrize("model", [GlobalMean(), Net(nn.Conv2d(3, 2, 3, padding=1), nn.InstanceNorm2d(2))])
def test_unbounded_context_is_noticed(model):
    with pytest.raises(UsageError, match="unbounded context"):
        receptive_radius(model)


def test_declared_unbounded():
    model = UNet(3, 2, width=2, depth=1)
    model.bounded = False
    with pytest.raises(UsageError, match="UNet has unbounded context"):
        receptive_radius(model)


def test_output_of_another_size():
    with pytest.raises(ShapeError, match="one height and width"):
        receptive_radius(Net(nn.Conv2d(3, 2, 3)))


def test_model_is_left_alone_also_without_gradients():
    model = UNet(3, 2, width=2, depth=1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        assert receptive_radius(model) == 9
    assert model.training
    assert all(value.dtype == before[name].dtype for name, value in model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
