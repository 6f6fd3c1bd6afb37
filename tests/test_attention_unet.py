"""Attention U-Net: the gates of figure 2, the maps they give, tiles."""

import pytest
import torch
from networks import check_bfloat16, check_round_trip, fold_error, parameters, settled, tile_error, without_gradient
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models.attention_unet import AttentionUNet, Gate
from geoseg.models.receptive import receptive_radius
from geoseg.models.unet import UNet


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_parameters_are_those_of_a_u_net_and_three_gates():
    def gate(c):
        """W_x of 2x2, W_g and b_g, psi and b_psi."""
        return 4 * c * c + 2 * c * c + c + c + 1

    gates = sum(gate(c) for c in (128, 256, 512))
    assert parameters(lambda: AttentionUNet(3, 3)) == 31_037_763 + gates == 33_103_942
    assert parameters(lambda: AttentionUNet(3, 3)) - parameters(lambda: UNet(3, 3, width=64)) == gates


def test_gate_is_equations_1_and_2():
    gate = Gate(4, 8)
    skip, gating = torch.randn(1, 4, 8, 6), torch.randn(1, 8, 4, 3)
    x = F.conv2d(skip, gate.skip.weight, stride=2)
    g = F.conv2d(gating, gate.gating.weight, gate.gating.bias)
    coefficient = torch.sigmoid(F.conv2d(F.relu(x + g), gate.psi.weight, gate.psi.bias))
    assert torch.equal(gate(skip, gating), F.interpolate(coefficient, scale_factor=2, mode="bilinear"))


def test_forward_reads_as_in_the_paper():
    """The network of depth 2 written out: one gate, and none at the finest level."""
    model = settled(AttentionUNet(3, 2, width=4, depth=2))
    image = torch.randn(1, 3, 8, 8)
    finest, fine, x = model.encoder(image)
    coefficient = model.gates[0](fine, x)
    x = model.levels[0](torch.cat([fine * coefficient, model.ups[0](x)], 1))
    x = model.levels[1](torch.cat([finest, model.ups[1](x)], 1))
    logits, maps = model.forward_with_attention(image)
    assert torch.equal(model(image), model.head(x))
    assert torch.equal(logits, model(image))
    assert torch.equal(maps[0], F.interpolate(coefficient, scale_factor=2, mode="bilinear"))


@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (16, 32)])
def test_attention_has_the_size_of_the_image(shape):
    model = AttentionUNet(3, 2, width=2).eval()
    logits, maps = model.forward_with_attention(torch.randn(2, 3, *shape))
    assert logits.shape == (2, 2, *shape)
    assert [tuple(gate.shape) for gate in maps] == [(2, 1, *shape)] * 3
    assert all(0 <= gate.min() <= gate.max() <= 1 for gate in maps)


def test_maps_are_finest_first():
    model = AttentionUNet(3, 2, width=2, depth=3).eval()
    for gate, bias in zip(model.gates, (3.0, -3.0), strict=True):  # the coarsest first
        torch.nn.init.zeros_(gate.psi.weight)
        torch.nn.init.constant_(gate.psi.bias, bias)
    _, (fine, coarse) = model.forward_with_attention(torch.randn(1, 3, 16, 16))
    assert fine.max() < 0.1 < 0.9 < coarse.min()


def test_open_gates_make_a_u_net():
    model, plain = settled(AttentionUNet(3, 2, width=4, depth=3)), UNet(3, 2, width=4, depth=3).eval()
    for gate in model.gates:
        torch.nn.init.zeros_(gate.psi.weight)
        torch.nn.init.constant_(gate.psi.bias, 100.0)
    plain.encoder.load_state_dict(model.encoder.state_dict())
    plain.decoder.ups.load_state_dict(model.ups.state_dict())
    plain.decoder.levels.load_state_dict(model.levels.state_dict())
    plain.head.load_state_dict(model.head.state_dict())
    image = torch.randn(1, 3, 16, 24)
    assert torch.allclose(plain(image), model(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("channels", "classes", "depth"), [(1, 2, 1), (7, 5, 2)])
def test_any_bands_and_classes(channels, classes, depth):
    model = AttentionUNet(channels, classes, width=2, depth=depth).eval()
    assert model(torch.randn(2, channels, 5, 9)).shape == (2, classes, 5, 9)
    assert len(model.forward_with_attention(torch.randn(2, channels, 5, 9))[1]) == depth - 1


def test_gradient_reaches_every_parameter():
    model = AttentionUNet(3, 2, width=8, depth=3)
    missed = without_gradient(model, model(torch.randn(2, 3, 32, 32)).square().sum())
    assert not [name for name in missed if not name.startswith("ups")]


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_receptive_radius(depth):
    """Gates see farther than U-Net: coefficients are resampled across the border of a coarse pixel."""
    assert receptive_radius(AttentionUNet(3, 2, width=2, depth=depth)) == 8 * 2**depth - 7


def test_tiles_equal_the_whole():
    model = settled(AttentionUNet(3, 2, width=4, depth=2)).double()
    assert tile_error(model, receptive_radius(model)) < 1e-12


def test_folding():
    assert fold_error(settled(AttentionUNet(3, 2, width=4, depth=2))) < 1e-4


def test_channels_last_bfloat16():
    check_bfloat16(settled(AttentionUNet(3, 2, width=8, depth=2)))


def test_round_trip():
    check_round_trip(settled(AttentionUNet(3, 2, width=4)), AttentionUNet(3, 2, width=4))


@pytest.mark.parametrize("arguments", [{"width": 0}, {"width": True}, {"depth": 0}, {"depth": 9}, {"norm": "group"}])
def test_arguments_out_of_range(arguments):
    with pytest.raises(UsageError, match=rf"{next(iter(arguments))}=.*\(attention_unet\)"):
        AttentionUNet(3, 2, **arguments)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8)])
def test_wrong_image_shape(shape):
    model = AttentionUNet(3, 2, width=2)
    for method in (model, model.forward_with_attention):
        with pytest.raises(ShapeError, match="Expected"):
            method(torch.zeros(shape))
