"""The receptive radius against closed forms and against the response of a real network to one bright pixel."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from geoseg.errors import ShapeError, UsageError
from geoseg.models.attention_unet import AttentionUNet
from geoseg.models.receptive import _furthest, receptive_radius
from geoseg.models.resunet import ResUNet
from geoseg.models.unet import UNet
from geoseg.models.unet3d import UNet3D
from geoseg.models.unetplusplus import UNetPlusPlus


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


def response(model: nn.Module) -> int:
    """How far one brighter pixel changes the logits, over all positions relative to the stride.

    With positive weights the real network, max pooling, ReLU and gates included, answers wherever a path leads.
    """
    model.double().eval()
    margin = getattr(model, "margin", 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1 / max(1, parameter[0].numel()))
        side, reach = 24 * model.stride + 2 * margin, 0
        image = torch.ones(1, model.in_channels, side, side, dtype=torch.float64)
        before = model(image)
        for offset in range(model.stride):
            place = side // 2 // model.stride * model.stride + offset
            brighter = image.clone()
            brighter[..., place, place] += 1e6
            rows, cols = (model(brighter) != before).any(1)[0].nonzero().T + margin
            reach = max(reach, (rows - place).abs().max(), (cols - place).abs().max())
    return int(reach)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    "build",
    [
        lambda depth: UNet(1, 2, width=1, depth=depth, norm="none"),
        lambda depth: UNet(1, 2, width=1, depth=depth, norm="none", padding="valid"),
        lambda depth: ResUNet(1, 2, width=1, depth=depth),
        lambda depth: AttentionUNet(1, 2, width=1, depth=depth, norm="none"),
        lambda depth: UNetPlusPlus(1, 2, width=1, depth=depth, norm="none"),
        lambda depth: UNet3D(3, 2, dates=3, width=1, depth=depth, norm="none"),
    ],
    ids=["unet", "valid", "resunet", "attention", "unet++", "unet3d"],
)
def test_networks_against_the_response_to_one_pixel(build, depth):
    model = build(depth)
    assert receptive_radius(model) == response(model)


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


@pytest.mark.parametrize(
    ("up", "radius"),
    [
        (nn.Upsample(scale_factor=4, mode="nearest"), 3),
        (nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False), 5),  # the second pixel of four sees 4 + 1
        (nn.Upsample(scale_factor=4, mode="bicubic"), 9),
        (nn.UpsamplingNearest2d(scale_factor=4), 3),
        (nn.Sequential(nn.Conv2d(3, 48, 1), nn.PixelShuffle(4)), 3),
    ],
)
def test_upsampling(up, radius):
    assert receptive_radius(Strided(nn.AvgPool2d(4), up, nn.Conv2d(3, 2, 1))) == radius


class Unpooling(nn.Module):
    stride, bounded, in_channels = 2, True, 2

    def __init__(self, size=None):
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True, ceil_mode=size is not None), nn.MaxUnpool2d(2)
        self.before, self.deep, self.after = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
        self.sized = size is not None

    def forward(self, x):
        fine = self.before(x)
        coarse, indices = self.pool(fine)
        return self.after(self.unpool(self.deep(coarse), indices, output_size=fine.shape if self.sized else None))


@pytest.mark.parametrize("size", [None, "given"])
def test_unpooling_may_put_a_value_anywhere_in_its_window(size):
    """Three convolutions, one of them at half the size, and the corner of the coarse pixel: 1 + 2 + 1 + 1."""
    assert receptive_radius(Unpooling(size)) == 5


def test_real_unpooling_reaches_no_further():
    model, reach = Unpooling().double(), 0
    for seed in range(30):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        image = torch.randn(1, 2, 24, 24, dtype=torch.float64)
        place = 12 + seed % 2
        changed = image.clone()
        changed[..., place, place] += 5 * torch.randn(2, dtype=torch.float64)
        rows, cols = (model(changed) != model(image)).any(1)[0].nonzero().T
        if len(rows):
            reach = max(reach, int((rows - place).abs().max()), int((cols - place).abs().max()))
    assert reach == receptive_radius(model)


class Gated(nn.Module):
    stride, bounded = 1, True

    def __init__(self, activation):
        super().__init__()
        self.conv, self.activation = nn.Conv2d(3, 3, 5, padding=2), activation

    def forward(self, x):
        return x[:, :2] * self.activation(torch.cat([x, self.conv(x)], 1))[:, :2]


def test_gates_and_softmax_pass_on_context():
    """The first channels of a softmax depend on all, also on those that see more."""
    assert receptive_radius(Gated(nn.Sequential(nn.Conv2d(6, 2, 1), nn.Sigmoid()))) == 2
    assert receptive_radius(Gated(nn.Softmax(1))) == 2
    assert receptive_radius(Gated(nn.Tanh())) == 0


def test_three_dimensions():
    """Only rows and columns count."""
    layers = [nn.Conv3d(1, 4, (7, 3, 3), padding=(3, 1, 1)), nn.BatchNorm3d(4), nn.ReLU6()]
    layers += [nn.MaxPool3d((1, 4, 4)), nn.Dropout3d(), nn.ConvTranspose3d(4, 2, (1, 4, 4), stride=(1, 4, 4))]
    model = Strided(nn.Unflatten(1, (1, 3)), *layers, nn.Flatten(1, 2))
    model.in_channels = 3  # else those of the first convolution
    assert receptive_radius(model) == 4


class Frame(Net):
    margin = 3


def test_margin():
    assert receptive_radius(Frame(nn.Conv2d(3, 4, 3), nn.ELU(), nn.Conv2d(4, 2, 5))) == 3
    assert receptive_radius(Frame(nn.Conv2d(3, 4, 7), nn.Conv2d(4, 2, 5, padding=2))) == 5
    with pytest.raises(ShapeError, match="less 3 on each side"):
        receptive_radius(Frame(nn.Conv2d(3, 4, 3)))


def test_far_context_at_stride_32_is_found_fast():
    """15 kernels of 5x5 at a stride of 32, and the corner of the coarse pixel; at full width, without memory."""

    class Deep(Net):
        stride = 32

    with torch.device("meta"):
        down = [layer for _ in range(5) for layer in (nn.Conv2d(512, 512, 1), nn.MaxPool2d(2))]
        deep = [nn.Conv2d(512, 512, 5, padding=2) for _ in range(15)]
        model = Deep(nn.Conv2d(3, 512, 1), *down, *deep, nn.ConvTranspose2d(512, 2, 32, stride=32))
    start = time.process_time()
    assert receptive_radius(model) == 15 * 2 * 32 + 31
    assert time.process_time() - start < 10


def test_far_context_of_a_dilated_residual_network_is_found_fast():
    """A chain as long as ResNet-101's with a pyramid's widest dilation behind it, all at a stride of 8."""

    class Block(nn.Module):
        def __init__(self, dilation):
            super().__init__()
            self.conv = nn.Conv2d(1024, 1024, 3, padding=dilation, dilation=dilation)

        def forward(self, x):
            return x + self.conv(x)

    class Dilated(Net):
        stride = 8

    with torch.device("meta"):
        blocks = [Block(dilation) for dilation in [1] * 7 + [2] * 23 + [4] * 3 + [36]]
        down, up = nn.Conv2d(3, 1024, 8, stride=8), nn.ConvTranspose2d(1024, 2, 8, stride=8)
        model = Dilated(down, *blocks, up)
    start = time.process_time()
    assert receptive_radius(model) == 8 * (7 + 2 * 23 + 4 * 3 + 36) + 7
    assert time.process_time() - start < 10


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), min_size=1, max_size=40))
def test_search_over_phases_equals_looking_at_all(steps):
    """Ends of spans that move on by any steps, among them positions that depend on nothing."""
    first, last, spans = -50, 50, []
    for more, further, seen in steps:
        first, last = first + more, last + further
        spans.append((first, last) if seen else None)
    distances = [max(p - s[0], s[1] - p) if s else 0 for p, s in enumerate(spans)]
    assert _furthest(spans.__getitem__, 0, len(spans) - 1) == max(0, *distances)


class Pooled(nn.Module):
    stride, bounded = 1, True

    def __init__(self, size):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(size)

    def forward(self, x):
        return x + nn.functional.interpolate(self.pool(x), size=x.shape[2:])


@pytest.mark.parametrize(
    "model",
    [
        Pooled(1),
        Pooled((6, 6)),
        *(Net(nn.Conv2d(3, 2, 3, padding=1), norm) for norm in (nn.InstanceNorm2d(2), nn.GroupNorm(1, 2))),
        Net(nn.BatchNorm2d(3, track_running_stats=False)),
        Net(nn.Softmax(-1)),
        Net(nn.LayerNorm((16, 16))),
        Strided(nn.MaxPool2d(4), nn.Upsample(scale_factor=4, mode="bilinear", align_corners=True)),
    ],
    ids=["mean", "bins", "instance", "group", "batch", "softmax", "layer", "corners"],
)
def test_unbounded_context_is_noticed(model):
    with pytest.raises(UsageError, match="unbounded context"):
        receptive_radius(model)


def test_layer_of_unknown_reach():
    with pytest.raises(UsageError, match="Net has a layer LPPool2d whose reach is not known"):
        receptive_radius(Net(nn.LPPool2d(2, 2)))


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
