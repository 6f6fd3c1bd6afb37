"""3D U-Net: the paper's count, any number of dates, one answer or one of each date, tiles."""

import copy

import pytest
import torch
from networks import check_round_trip, parameters, tile_error, without_gradient
from torch import nn
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models.fold import fold_batchnorm
from geoseg.models.receptive import receptive_radius
from geoseg.models.unet3d import Convolution, UNet3D


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def settled(model: nn.Module) -> nn.Module:
    """With statistics other than 0 and 1, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(2, model.in_channels, 16, 16) * 2 + 1)
    return model.eval()


def test_parameters_are_the_papers():
    """19069955: kernels, a bias for each but the up-convolutions, and nothing for batch normalisation."""
    contracting = [(3, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    expanding = [(768, 256), (256, 256), (384, 128), (128, 128), (192, 64), (64, 64)]
    convolutions = contracting + expanding
    count = sum(27 * a * b + b for a, b in convolutions) + sum(8 * c * c for c in (512, 256, 128)) + 64 * 3 + 3
    assert count == 19_069_955
    assert parameters(lambda: UNet3D(24, 3, dates=8, norm="none")) == count
    # Its shift takes the place of the bias; its scale comes besides.
    assert parameters(lambda: UNet3D(24, 3, dates=8)) == count + sum(b for _, b in convolutions) == 19_072_291


def test_forward_reads_as_in_figure_2():
    """The network of depth 1 written out, with three dates: the fourth that pooling makes up is cut off again."""
    model = settled(UNet3D(6, 4, dates=3, width=2, depth=1))
    image = torch.randn(1, 6, 8, 12)
    volume = torch.stack([image[:, 0:2], image[:, 2:4], image[:, 4:6]], dim=2)
    fine = model.encoder[0](volume)
    coarse = model.encoder[1](F.max_pool3d(fine, 2, ceil_mode=True))
    assert coarse.shape == (1, 8, 2, 4, 6)
    x = model.decoder[0](torch.cat([fine, model.ups[0](coarse)[:, :, :3]], 1))
    assert torch.equal(model(image), model.head(x.mean(2)))


@pytest.mark.parametrize("dates", [1, 2, 3, 4, 5, 7, 12])
@pytest.mark.parametrize("shape", [(1, 1), (17, 9)])
def test_any_number_of_dates_and_size(dates, shape):
    image = torch.randn(2, 2 * dates, *shape)
    assert UNet3D(2 * dates, 5, dates=dates, width=1).eval()(image).shape == (2, 5, *shape)
    by_date = UNet3D(2 * dates, 3 * dates, dates=dates, width=1, output="slice").eval()
    assert by_date(image).shape == (2, 3 * dates, *shape)


def test_slices_are_in_the_order_of_dates():
    """A network whose kernels do not reach over time answers for each date from its own bands."""
    model = settled(UNet3D(6, 6, dates=3, width=2, depth=1, output="slice"))
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            with torch.no_grad():
                module.weight[:, :, [0, 2]] = 0
    nn.init.zeros_(model.ups[0].weight)
    image = torch.randn(1, 6, 8, 8)
    changed = image.clone()
    changed[:, 2:4] += 1  # the second date
    differs = (model(changed) != model(image)).flatten(2).any(2)[0]
    assert differs.tolist() == [False, False, True, True, False, False]


def test_pixels_know_all_dates_near():
    model = settled(UNet3D(6, 2, dates=3, width=2, depth=1))
    image = torch.randn(1, 6, 8, 8)
    for channel in range(6):
        changed = image.clone()
        changed[:, channel] += 1
        assert not torch.equal(model(changed), model(image))


@pytest.mark.parametrize("output", ["pixel", "slice"])
def test_gradient_reaches_every_parameter(output):
    model = UNet3D(6, 4, dates=2, width=4, depth=2, output=output)
    missed = without_gradient(model, model(torch.randn(2, 6, 16, 16)).square().sum())
    assert not [name for name in missed if not name.startswith("ups")]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("dates", "output"), [(1, "pixel"), (3, "slice"), (6, "pixel")])
def test_receptive_radius_is_a_u_nets(depth, dates, output):
    model = UNet3D(2 * dates, 2 * dates, dates=dates, width=1, depth=depth, output=output)
    assert receptive_radius(model) == 7 * 2**depth - 5


@pytest.mark.parametrize("output", ["pixel", "slice"])
def test_tiles_equal_the_whole(output):
    model = settled(UNet3D(6, 6, dates=3, width=2, depth=2, output=output)).double()
    assert tile_error(model, receptive_radius(model)) < 1e-12


def test_folding_leaves_it_the_same():
    model = settled(UNet3D(4, 2, dates=2, width=2, depth=1))
    image = torch.randn(1, 4, 8, 8)
    assert torch.allclose(fold_batchnorm(model)(image), model(image), rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("output", ["pixel", "slice"])
def test_channels_last_bfloat16(output):
    model = settled(UNet3D(4, 2, dates=2, width=8, depth=1, output=output))
    image = torch.randn(1, 4, 16, 16)
    fast = copy.deepcopy(model).to(torch.bfloat16)
    logits = fast(image.to(torch.bfloat16, memory_format=torch.channels_last))
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - model(image)).abs().mean() < 0.1 * model(image).std()


def test_round_trip():
    check_round_trip(settled(UNet3D(6, 2, dates=3, width=2)), UNet3D(6, 2, dates=3, width=2))


@pytest.mark.parametrize(
    "arguments",
    [
        *({"width": 0}, {"depth": 0}, {"depth": 9}, {"norm": "group"}, {"dates": 0}, {"dates": True}),
        *({"output": "voxel"}, {"in_channels": 7, "dates": 2}, {"classes": 5, "dates": 2, "output": "slice"}),
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(UsageError, match=rf"{next(iter(arguments))}=.*\(unet3d\)"):
        UNet3D(**{"in_channels": 6, "classes": 4} | arguments)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (6, 8, 8), (1, 3, 2, 8, 8)])
def test_wrong_image_shape(shape):
    with pytest.raises(ShapeError, match="Expected"):
        UNet3D(6, 2, dates=2, width=1)(torch.zeros(shape))


@pytest.mark.parametrize("dates", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_the_convolution_is_pytorchs(dates, bias):
    ours = Convolution(3, 4, bias=bias).double()
    image = torch.randn(2, 3, dates, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(image), F.conv3d(image, ours.weight, ours.bias, padding=1))


@pytest.mark.parametrize("channels", [1, 3])
def test_one_date_in_bfloat16(channels):
    """PyTorch's own convolution gives anything there, NaN among it."""
    model = settled(UNet3D(channels, 2, width=4))
    image = torch.randn(2, channels, 32, 32)
    with torch.no_grad():
        reference, fast = model(image), copy.deepcopy(model).bfloat16()(image.bfloat16()).float()
    assert (fast - reference).abs().mean() < 0.1 * reference.std()
