"""U-Net: sizes, parameters, the paper's structure, folding."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models import MODELS, UNet, build_model
from geoseg.models.fold import fold_batchnorm


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def settled(model: nn.Module, channels: int = 3) -> nn.Module:
    """The model after batch normalisation has seen something: statistics other than 0 and 1, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(2, channels, 32, 32) * 2 + 1)
    return model.eval()


def expected_parameters(channels: int, classes: int, width: int, depth: int, norm: str) -> int:
    """Counted from figure 1 of the paper, level by level."""

    def double(a, b):
        # Two 3x3 kernels; a bias, or a scale and a shift, for each of the two outputs.
        return 9 * a * b + 9 * b * b + 2 * b * (2 if norm == "batch" else 1)

    total = double(channels, width)
    for level in range(depth):
        fine, coarse = width << level, width << level + 1
        total += double(fine, coarse)  # down
        total += 4 * coarse * fine + fine + double(2 * fine, fine)  # up, with the skip concatenated
    return total + width * classes + classes


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(("width", "depth"), [(16, 4), (4, 1), (5, 3)])
def test_parameter_count_follows_the_papers_figure(width, depth, norm):
    model = UNet(3, 2, width=width, depth=depth, norm=norm)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == expected_parameters(3, 2, width, depth, norm)


def test_known_sizes():
    def millions(width):
        with torch.device("meta"):
            return sum(p.numel() for p in UNet(3, 3, width=width).parameters()) / 1e6

    assert [round(millions(width), 1) for width in (16, 32, 64)] == [1.9, 7.8, 31.0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (16, 16), (13, 29), (33, 8)])
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (7, 5)])
def test_any_size_bands_and_classes(shape, channels, classes):
    model = UNet(channels, classes, width=2, depth=3).eval()
    logits = model(torch.randn(2, channels, *shape))
    assert logits.shape == (2, classes, *shape)
    assert torch.isfinite(logits).all()


def test_odd_size_equals_padding_by_hand():
    model = UNet(3, 2, width=2, depth=2).eval()
    image = torch.randn(1, 3, 13, 18)
    padded = F.pad(image, (0, 2, 0, 3), mode="replicate")
    assert torch.equal(model(image), model(padded)[..., :13, :18])


def test_forward_reads_as_in_the_paper():
    """The network of depth 1 written out."""
    model = settled(UNet(3, 2, width=4, depth=1))
    image = torch.randn(1, 3, 8, 8)
    fine = model.encoder.levels[0](image)
    coarse = model.encoder.levels[1](F.max_pool2d(fine, 2))
    merged = torch.cat([fine, model.decoder.ups[0](coarse)], 1)
    assert torch.equal(model(image), model.head(model.decoder.levels[0](merged)))


def test_kaiming_keeps_the_variance_of_deep_features():
    features = UNet(3, 2, width=32, depth=3, norm="none").encoder(torch.randn(2, 3, 64, 64))
    for feature in features:
        assert 0.2 < feature.square().mean() / 2 < 5


def test_gradient_reaches_every_parameter():
    model = UNet(3, 2, width=2, depth=2)
    model(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "ups" not in n)


def test_channels_last_bfloat16():
    model = settled(UNet(3, 2, width=8, depth=2))
    image = torch.randn(1, 3, 32, 32)
    fast = copy.deepcopy(model).to(torch.bfloat16, memory_format=torch.channels_last)
    logits = fast(image.to(torch.bfloat16, memory_format=torch.channels_last))
    assert logits.dtype == torch.bfloat16
    assert logits.is_contiguous(memory_format=torch.channels_last)
    reference = model(image)
    assert (logits.float() - reference).abs().mean() < 0.05 * reference.std()


def test_tiles_with_halo_equal_the_whole():
    """Origins at multiples of the stride and a halo of at least the radius: not one bit of context is missing."""
    model = settled(UNet(3, 2, width=4, depth=2)).double()
    image = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    whole = model(image)
    halo = 24  # radius 23, rounded up to the stride of 4
    tile = model(image[..., 8:88, 12:92])
    inner = tile[..., halo:-halo, halo:-halo]
    assert torch.allclose(inner, whole[..., 8 + halo : 88 - halo, 12 + halo : 92 - halo], rtol=0, atol=1e-12)
    other_phase = model(image[..., 9:89, 12:92])[..., halo:-halo, halo:-halo]
    assert not torch.allclose(other_phase, whole[..., 9 + halo : 89 - halo, 12 + halo : 92 - halo], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [{"width": 0}, {"width": 10**9}, {"depth": 0}, {"depth": 99}, {"width": 1.5}, {"width": True}, {"norm": "layer"}],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        UNet(3, 2, **arguments)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8), (1, 3, 8)])
def test_wrong_image_shape(shape):
    with pytest.raises(ShapeError, match="Expected"):
        UNet(3, 2, width=2, depth=1)(torch.zeros(shape))


def test_build_model_by_name():
    assert MODELS["unet"] is UNet
    assert build_model("unet", in_channels=4, classes=2, width=2, depth=1).stride == 2
    with pytest.raises(UsageError, match=r"'unnet' is unknown\. Did you mean 'unet'"):
        build_model("unnet", in_channels=3, classes=2)
    with pytest.raises(UsageError, match="widht"):
        build_model("unet", in_channels=3, classes=2, widht=8)


class TestFold:
    def test_same_function(self):
        model = settled(UNet(3, 3, width=8, depth=3))
        image = torch.randn(2, 3, 32, 32)
        folded = fold_batchnorm(model)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        assert torch.allclose(folded(image), model(image), rtol=0, atol=1e-5)

    def test_original_is_left_alone(self):
        model = UNet(3, 2, width=2, depth=1).train()
        before = copy.deepcopy(model.state_dict())
        fold_batchnorm(model)
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_only_pairs_are_folded(self):
        layers = [nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=True)]
        model = settled(nn.Sequential(*layers, nn.BatchNorm2d(2)))
        image = torch.randn(1, 3, 9, 9)
        folded = fold_batchnorm(model)
        assert [type(layer).__name__ for layer in folded] == ["BatchNorm2d", "Conv2d", "ReLU", "BatchNorm2d", "Conv2d"]
        assert torch.allclose(folded(image), model(image), atol=1e-5)

    def test_without_normalisation(self):
        model = UNet(3, 2, width=2, depth=1, norm="none").eval()
        image = torch.randn(1, 3, 8, 8)
        assert torch.equal(fold_batchnorm(model)(image), model(image))
