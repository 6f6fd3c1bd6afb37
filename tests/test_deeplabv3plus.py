"""DeepLabV3+: parameters from the figure, its structure, with and without the mean over the image."""

import pytest
import torch
from networks import check_bfloat16, check_round_trip, fold_error, parameters, settled, tile_error, without_gradient
from torch import nn
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models.deeplabv3plus import DeepLabV3Plus
from geoseg.models.receptive import receptive_radius


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def expected_parameters(encoder: int, deep: int, fine: int, classes: int, pooling: bool) -> int:
    """Counted from figure 2: kernels without bias, a scale and a shift each; the logits with bias."""
    pyramid = deep * 256 + 3 * 9 * deep * 256 + 4 * 512
    pyramid += deep * 256 + 512 if pooling else 0
    project = (5 if pooling else 4) * 256 * 256 + 512
    reduce = fine * 48 + 96
    refine = 9 * (256 + 48) * 256 + 512 + 9 * 256 * 256 + 512
    return encoder + pyramid + project + reduce + refine + 256 * classes + classes


@pytest.mark.parametrize("pooling", [True, False])
@pytest.mark.parametrize(
    ("encoder", "own", "deep", "fine"),
    [("resnet50", 23_508_032, 2048, 256), ("resnet101", 42_500_160, 2048, 256), ("resnet18", 11_176_512, 512, 64)],
)
def test_parameter_count_follows_the_figure(encoder, own, deep, fine, pooling):
    count = parameters(lambda: DeepLabV3Plus(3, 21, encoder=encoder, image_pooling=pooling))
    assert count == expected_parameters(own, deep, fine, 21, pooling)


def test_known_sizes():
    assert parameters(lambda: DeepLabV3Plus(3, 21)) == 40_352_181
    assert parameters(lambda: DeepLabV3Plus(3, 21, encoder="resnet101")) == 59_344_309


@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (16, 48)])
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (7, 5)])
@pytest.mark.parametrize("pooling", [True, False])
def test_any_size_bands_and_classes(shape, channels, classes, pooling):
    model = DeepLabV3Plus(channels, classes, width=1, image_pooling=pooling).eval()
    logits = model(torch.randn(1, channels, *shape))
    assert logits.shape == (1, classes, *shape)
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_forward_as_in_the_figure():
    model = settled(DeepLabV3Plus(3, 2, width=4))
    image = torch.randn(1, 3, 64, 96)
    features = model.encoder(image)
    assert [f.shape[-1] for f in features] == [48, 24, 12, 6, 6]
    branches = model.pyramid.branches
    mean = branches[4].project(features[-1].mean((2, 3), keepdim=True)).expand(-1, -1, 4, 6)
    pyramid = torch.cat([*(branch(features[-1]) for branch in branches[:4]), mean], 1)
    coarse = F.interpolate(model.pyramid.project(pyramid), scale_factor=4, mode="bilinear")
    logits = model.head(model.refine(torch.cat([coarse, model.reduce(features[1])], 1)))
    assert torch.allclose(model(image), F.interpolate(logits, scale_factor=4, mode="bilinear"), atol=1e-6)
    convolutions = [module for module in branches.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.kernel_size[0], c.dilation[0]) for c in convolutions] == [(1, 1), (3, 6), (3, 12), (3, 18), (1, 1)]


def test_context_is_bounded_only_without_image_pooling():
    assert not DeepLabV3Plus(3, 2, width=1).bounded
    assert DeepLabV3Plus(3, 2, width=1, image_pooling=False).bounded
    model = settled(DeepLabV3Plus(3, 2, width=2))
    image = torch.randn(1, 3, 1200, 32)
    brighter = image.clone()
    brighter[..., :16, :] += 100
    assert not torch.allclose(model(image)[..., -16:, :], model(brighter)[..., -16:, :])


@pytest.mark.parametrize(("encoder", "radius"), [("resnet18", 538), ("resnet50", 534)])
def test_tiles_with_halo_equal_the_whole(encoder, radius):
    model = settled(DeepLabV3Plus(3, 2, encoder=encoder, width=2, image_pooling=False))
    assert receptive_radius(model) == radius
    assert tile_error(model, radius) < 1e-5


def test_gradient_reaches_every_parameter():
    # Large enough for the outer entries of the most dilated kernel.
    model = DeepLabV3Plus(3, 2, width=2)
    assert without_gradient(model, model(torch.randn(2, 3, 64, 64)).square().sum()) == []


def test_a_batch_of_one_in_training():
    image = torch.randn(1, 3, 32, 32)
    with pytest.raises(ShapeError, match="Expected at least 2"):
        DeepLabV3Plus(3, 2, width=1)(image)
    assert DeepLabV3Plus(3, 2, width=1, image_pooling=False)(image).shape == (1, 2, 32, 32)


@pytest.mark.parametrize("pooling", [True, False])
def test_folding(pooling):
    assert fold_error(settled(DeepLabV3Plus(3, 2, width=4, image_pooling=pooling))) < 1e-4


def test_channels_last_bfloat16():
    check_bfloat16(settled(DeepLabV3Plus(3, 2, width=4)))


def test_state_round_trip():
    check_round_trip(settled(DeepLabV3Plus(3, 2, width=2)), DeepLabV3Plus(3, 2, width=2))


@pytest.mark.parametrize(
    "arguments", [{"width": 0}, {"width": 1.5}, {"image_pooling": 1}, {"encoder": "vgg16"}, {"encoder": "resnet5"}]
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        DeepLabV3Plus(3, 2, **arguments)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8)])
def test_wrong_image_shape(shape):
    with pytest.raises(ShapeError, match="Expected"):
        DeepLabV3Plus(3, 2, width=1)(torch.zeros(shape))
