"""SegNet: the paper's size, unpooling where the maxima were, tiles."""

from itertools import pairwise

import pytest
import torch
from networks import check_bfloat16, check_round_trip, fold_error, parameters, settled, tile_error, without_gradient
from torch import nn
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models.receptive import receptive_radius
from geoseg.models.segnet import SegNet


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_parameter_count_follows_the_authors_net():
    """Figure 2 and the authors' prototxt: thirteen 3x3 convolutions each way with bias, scale and shift; the last has
    a bias only. 11 classes there: 29.45 million."""
    down = [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6]
    up = [*[512] * 6, 256, 256, 256, 128, 128, 64, 64]
    assert (len(down) - 1, len(up) - 1 + 1) == (13, 13)

    def blocks(channels):
        return sum(9 * a * b + b + 2 * b for a, b in pairwise(channels))

    for classes, expected in ((11, 29_449_355), (12, 29_449_932)):
        assert blocks(down) + blocks(up) + 9 * 64 * classes + classes == expected
        assert parameters(lambda classes=classes: SegNet(3, classes)) == expected


@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (32, 64)])
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (7, 5)])
def test_any_size_bands_and_classes(shape, channels, classes):
    logits = SegNet(channels, classes, width=1).eval()(torch.randn(2, channels, *shape))
    assert logits.shape == (2, classes, *shape)
    assert torch.isfinite(logits).all()


def test_decoder_mirrors_the_encoder():
    model = SegNet(3, 2, width=2)
    down = [module for module in model.encoder.modules() if isinstance(module, nn.Conv2d)]
    up = [module for module in model.decoder.modules() if isinstance(module, nn.Conv2d)] + [model.head]
    assert [c.in_channels for c in reversed(down[1:])] == [c.out_channels for c in up[:-1]]
    assert [c.out_channels for c in reversed(down)] == [c.in_channels for c in up]


@torch.no_grad()
def test_values_go_back_to_where_the_maxima_were():
    """The coarsest stage written out."""
    model = settled(SegNet(3, 2, width=2))
    image = torch.randn(1, 3, 64, 64)
    seen = []
    model.decoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(image)
    fifth, pooled = model.encoder(image)[-2:]
    (unpooled,) = seen
    assert torch.equal(F.max_pool2d(unpooled, 2), pooled)
    placed = unpooled != 0
    assert torch.equal(unpooled[placed], fifth[placed])
    assert (F.avg_pool2d(placed.float(), 2) * 4 <= 1).all()


def test_gradient_reaches_every_parameter():
    model = SegNet(3, 2, width=4)
    assert without_gradient(model, model(torch.randn(4, 3, 64, 64)).square().sum()) == []


def test_tiles_with_halo_equal_the_whole():
    # In float64, for the reason below; in float32 the two are seldom further apart than rounding.
    model = settled(SegNet(3, 2, width=2)).double()
    assert receptive_radius(model) == 211
    assert tile_error(model, 211) < 1e-12


def test_folding():
    # In float64: in float32 the rounding can move a maximum between two pixels that are nearly equal.
    assert fold_error(settled(SegNet(3, 2, width=4)).double()) < 1e-4


def test_channels_last_bfloat16():
    # Rounding moves maxima between pixels that are nearly equal, so the logits part further than other networks'.
    check_bfloat16(settled(SegNet(3, 2, width=4)), tolerance=0.5)


def test_state_round_trip():
    check_round_trip(settled(SegNet(3, 2, width=2)), SegNet(3, 2, width=2))


@pytest.mark.parametrize("arguments", [{"width": 0}, {"width": 1.5}, {"width": "64"}])
def test_arguments_out_of_range(arguments):
    with pytest.raises(UsageError, match="width="):
        SegNet(3, 2, **arguments)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8)])
def test_wrong_image_shape(shape):
    with pytest.raises(ShapeError, match="Expected"):
        SegNet(3, 2, width=1)(torch.zeros(shape))
