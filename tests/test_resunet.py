"""ResUNet: the sizes of table 1, the units of figure 2, tiles, folding."""

import pytest
import torch
from networks import check_bfloat16, check_round_trip, parameters, settled, tile_error, without_gradient
from torch import nn
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models.fold import fold_batchnorm
from geoseg.models.receptive import receptive_radius
from geoseg.models.resunet import ResidualUnit, ResUNet


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_parameter_count_follows_table_1():
    """Its 3x3 convolutions alone are the 7.8 million the paper tells; beside them are the identities' 1x1 ones."""
    units = [(3, 64), (64, 128), (128, 256), (256, 512), (768, 256), (384, 128), (192, 64)]
    kernels = sum(9 * a * b + 9 * b * b for a, b in units)
    assert round(kernels / 1e6, 1) == 7.8
    biases, identities = sum(2 * b for _, b in units), sum(a * b + b for a, b in units)
    norms = sum(2 * b for _, b in units) + sum(2 * a for a, _ in units[1:])
    expected = kernels + biases + identities + norms + 64 * 1 + 1
    assert parameters(lambda: ResUNet(3, 1)) == expected == 8_220_993


def test_sizes_of_table_1():
    with torch.device("meta"):
        model, x, sizes = ResUNet(3, 1), torch.empty(1, 3, 224, 224), []
        for unit in model.encoder:
            x = unit(x)
            sizes.append((x.shape[2], x.shape[1]))
    assert sizes == [(224, 64), (112, 128), (56, 256), (28, 512)]


def test_unit_reads_as_in_the_paper():
    unit = ResidualUnit(3, 4, stride=2)
    unit.in_channels = 3
    settled(unit, side=16)
    x = torch.randn(1, 3, 8, 8)
    norm1, _, conv1, norm2, _, conv2 = unit.residual
    y = conv2(F.relu(norm2(conv1(F.relu(norm1(x))))))
    assert torch.equal(unit(x), y + unit.identity(x))
    assert [type(layer) for layer in ResidualUnit(3, 4, first=True).residual] == [
        *(nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d)
    ]


def test_forward_reads_as_in_the_paper():
    """The network of depth 1 written out."""
    model = settled(ResUNet(3, 2, width=4, depth=1))
    image = torch.randn(1, 3, 8, 8)
    fine = model.encoder[0](image)
    up = model.encoder[1](fine).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(model(image), model.head(model.decoder[0](torch.cat([fine, up], 1))))


@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (8, 16)])
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (7, 5)])
def test_any_size_bands_and_classes(shape, channels, classes):
    model = ResUNet(channels, classes, width=2).eval()
    assert model(torch.randn(2, channels, *shape)).shape == (2, classes, *shape)


def test_gradient_reaches_every_parameter():
    model = ResUNet(3, 2, width=4)
    missed = without_gradient(model, model(torch.randn(2, 3, 16, 16)).square().sum())
    # A bias right before a batch normalisation is taken out again; rounding leaves it a gradient or none.
    assert not [name for name in missed if not name.endswith("bias")]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_receptive_radius(depth):
    assert receptive_radius(ResUNet(3, 2, width=2, depth=depth)) == 6 * 2**depth - 4


def test_tiles_equal_the_whole():
    model = settled(ResUNet(3, 2, width=4)).double()
    assert tile_error(model, receptive_radius(model)) < 1e-12
    assert tile_error(model, receptive_radius(model) - 16) > 1e-9


def test_folding():
    """What stands before a unit's first convolution cannot be folded; what stands within is."""
    model = settled(ResUNet(3, 2, width=4))
    folded = fold_batchnorm(model)
    image = torch.randn(1, 3, 32, 32)
    assert torch.allclose(folded(image), model(image), rtol=0, atol=1e-4)
    count = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (model, folded)]
    assert count == [13, 6]


def test_channels_last_bfloat16():
    check_bfloat16(settled(ResUNet(3, 2, width=8, depth=2)))


def test_round_trip():
    check_round_trip(settled(ResUNet(3, 2, width=4)), ResUNet(3, 2, width=4))


@pytest.mark.parametrize("arguments", [{"width": 0}, {"width": True}, {"depth": 0}, {"depth": 9}, {"depth": 1.5}])
def test_arguments_out_of_range(arguments):
    with pytest.raises(UsageError, match=rf"{next(iter(arguments))}=.*\(resunet\)"):
        ResUNet(3, 2, **arguments)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8)])
def test_wrong_image_shape(shape):
    with pytest.raises(ShapeError, match="Expected"):
        ResUNet(3, 2, width=2)(torch.zeros(shape))
