"""UNet++: the authors' count, the nested nodes of figure 1, deep supervision, tiles."""

import pytest
import torch
from networks import check_bfloat16, check_round_trip, fold_error, parameters, settled, tile_error, without_gradient
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models.receptive import receptive_radius
from geoseg.models.unet import UNet
from geoseg.models.unetplusplus import UNetPlusPlus


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_parameters_are_the_authors():
    """Of their code, with one channel, one class and no batch normalisation; 9.04 million in the paper's table."""
    assert parameters(lambda: UNetPlusPlus(1, 1, norm="none")) == 9_041_601
    assert parameters(lambda: UNetPlusPlus(1, 1, norm="none", deep_supervision=True)) == 9_041_601 + 3 * 33
    # Batch normalisation has a scale besides the shift that takes the bias' place.
    nodes = [32] * 5 + [64] * 4 + [128] * 3 + [256] * 2 + [512]
    assert parameters(lambda: UNetPlusPlus(1, 1)) == 9_041_601 + 2 * sum(nodes)


def test_forward_reads_as_in_figure_1():
    """The network of depth 2 written out."""
    model = settled(UNetPlusPlus(3, 2, width=4, depth=2, deep_supervision=True))
    image = torch.randn(1, 3, 8, 8)
    x00 = model.backbone[0](image)
    x10 = model.backbone[1](F.max_pool2d(x00, 2))
    x20 = model.backbone[2](F.max_pool2d(x10, 2))
    x01 = model.nodes[0][0](torch.cat([x00, model.ups[0][0](x10)], 1))
    x11 = model.nodes[0][1](torch.cat([x10, model.ups[0][1](x20)], 1))
    x02 = model.nodes[1][0](torch.cat([x00, x01, model.ups[1][0](x11)], 1))
    assert torch.equal(model(image), (model.head[0](x01) + model.head[1](x02)) / 2)


def test_depth_1_is_a_u_net():
    model, plain = settled(UNetPlusPlus(3, 2, width=4, depth=1)), UNet(3, 2, width=4, depth=1).eval()
    names = dict(zip(plain.state_dict(), model.state_dict(), strict=True))
    plain.load_state_dict({name: model.state_dict()[other] for name, other in names.items()})
    image = torch.randn(1, 3, 8, 12)
    assert torch.equal(plain(image), model(image))


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (16, 32)])
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (7, 5)])
def test_any_size_bands_and_classes(shape, channels, classes, deep_supervision):
    model = UNetPlusPlus(channels, classes, width=2, deep_supervision=deep_supervision).eval()
    assert model(torch.randn(2, channels, *shape)).shape == (2, classes, *shape)


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_gradient_reaches_every_parameter(deep_supervision):
    model = UNetPlusPlus(3, 2, width=4, depth=3, deep_supervision=deep_supervision)
    missed = without_gradient(model, model(torch.randn(2, 3, 32, 32)).square().sum())
    assert not [name for name in missed if not name.startswith("ups")]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_receptive_radius_is_a_u_nets(depth):
    assert receptive_radius(UNetPlusPlus(3, 2, width=2, depth=depth, deep_supervision=True)) == 7 * 2**depth - 5


def test_tiles_equal_the_whole():
    model = settled(UNetPlusPlus(3, 2, width=4, depth=2, deep_supervision=True)).double()
    assert tile_error(model, receptive_radius(model)) < 1e-12


def test_folding():
    assert fold_error(settled(UNetPlusPlus(3, 2, width=4, depth=2))) < 1e-4


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_channels_last_bfloat16(deep_supervision):
    check_bfloat16(settled(UNetPlusPlus(3, 2, width=8, depth=2, deep_supervision=deep_supervision)))


def test_round_trip():
    check_round_trip(settled(UNetPlusPlus(3, 2, width=4)), UNetPlusPlus(3, 2, width=4))


@pytest.mark.parametrize(
    "arguments", [{"width": 0}, {"depth": 0}, {"depth": 9}, {"norm": "group"}, {"deep_supervision": 1}]
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(UsageError, match=rf"{next(iter(arguments))}=.*\(unetplusplus\)"):
        UNetPlusPlus(3, 2, **arguments)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8)])
def test_wrong_image_shape(shape):
    with pytest.raises(ShapeError, match="Expected"):
        UNetPlusPlus(3, 2, width=2)(torch.zeros(shape))
