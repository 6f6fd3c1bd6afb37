"""FCN-32s, -16s and -8s: the authors' sizes, the order of the sums, bilinear upsampling, tiles."""

import pytest
import torch
from networks import check_bfloat16, check_round_trip, fold_error, parameters, settled, tile_error, without_gradient
from torch import nn
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models.fcn import FCN8s, FCN16s, FCN32s
from geoseg.models.initial import bilinear_kernel
from geoseg.models.receptive import receptive_radius

NETS = [FCN32s, FCN16s, FCN8s]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def awake(model):
    """With scores of the poolings that are not zero, as after the first step of training."""
    for layer in (getattr(model, name, None) for name in ("score_pool4", "score_pool3")):
        if layer is not None:
            nn.init.normal_(layer.weight, std=0.1)
    return model.eval()


def test_parameter_count_follows_the_authors_net():
    """VGG-16 with fc6 (7x7x512 -> 4096), fc7, and 21 scores; "134M" in table 1 of the paper."""
    vgg = 14_714_688
    fc6, fc7 = 7 * 7 * 512 * 4096 + 4096, 4096 * 4096 + 4096
    score_fr, pool4, pool3 = (channels * 21 + 21 for channels in (4096, 512, 256))
    twice = 21 * 4 * 4  # a kernel a class; the authors' have 21 x 21, of which only these are not zero
    expected = [vgg + fc6 + fc7 + score_fr]
    expected.append(expected[0] + pool4 + twice)
    expected.append(expected[1] + pool3 + twice)
    assert expected == [134_346_581, 134_357_690, 134_363_423]
    assert [parameters(lambda net=net: net(3, 21)) for net in NETS] == expected


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (32, 64)])
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (7, 5)])
def test_any_size_bands_and_classes(net, shape, channels, classes):
    logits = net(channels, classes, width=1).eval()(torch.randn(2, channels, *shape))
    assert logits.shape == (2, classes, *shape)
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_fcn8s_as_in_the_authors_net():
    """voc-fcn8s/net.py written out, but for its padding."""
    net = awake(FCN8s(3, 2, width=2))
    image = torch.randn(1, 3, 64, 64)
    *_, pool3, pool4, pool5 = net.encoder(image)
    fc7 = F.relu(net.fc7(F.relu(net.fc6(pool5))))
    fuse_pool4 = net.upscore2(net.score_fr(fc7)) + net.score_pool4(pool4)
    fuse_pool3 = net.upscore_pool4(fuse_pool4) + net.score_pool3(pool3)
    assert torch.equal(net(image), F.interpolate(fuse_pool3, scale_factor=8, mode="bilinear"))


@torch.no_grad()
def test_finer_nets_begin_with_the_coarser_ones_predictions():
    """Scores of the poolings are zero at first, and upsampling is bilinear."""
    nets = [net(3, 2, width=2).eval() for net in NETS]
    image = torch.randn(1, 3, 64, 64)
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict(), strict=False)
    *_, pool3, pool4, _ = nets[0].encoder(image)
    score = torch.randn(1, 2, 8, 8)
    twice = nets[1].upscore2(score)
    assert torch.equal(nets[1].score_pool4(pool4), torch.zeros(1, 2, 4, 4))
    assert torch.equal(nets[2].score_pool3(pool3), torch.zeros(1, 2, 8, 8))
    assert torch.allclose(
        twice[..., 1:-1, 1:-1], F.interpolate(score, scale_factor=2, mode="bilinear")[..., 1:-1, 1:-1]
    )


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_last_upsampling_is_the_papers_fixed_transposed_convolution(factor):
    """But for the outermost half stride, where that fades to zero."""
    kernel = bilinear_kernel(factor)
    phases = kernel.unfold(0, factor, factor).unfold(1, factor, factor).sum((0, 1))
    assert torch.allclose(phases, torch.ones(factor, factor))
    score = torch.randn(1, 1, 6, 5)
    transposed = F.conv_transpose2d(score, kernel[None, None], stride=factor, padding=factor // 2)
    upsampled = nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)(score)
    inner = slice(factor // 2, -factor // 2)
    assert torch.allclose(transposed[..., inner, inner], upsampled[..., inner, inner], atol=1e-6)


@pytest.mark.parametrize("net", NETS)
def test_gradient_reaches_every_parameter(net):
    model = awake(net(3, 2, width=2))
    assert without_gradient(model, model(torch.randn(2, 3, 64, 64)).square().sum()) == []


def test_dropout_in_training_only():
    model = awake(FCN8s(3, 2, width=2))
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(image), model(image))
    model.train()
    assert not torch.equal(model(image), model(image))


@pytest.mark.parametrize(("net", "radius"), [(FCN32s, 233), (FCN16s, 241), (FCN8s, 245)])
def test_tiles_with_halo_equal_the_whole(net, radius):
    model = awake(net(3, 2, width=2))
    assert receptive_radius(model) == radius
    assert tile_error(model, radius) < 1e-5


@pytest.mark.parametrize("norm", [False, True])
def test_folding(norm):
    assert fold_error(settled(awake(FCN8s(3, 2, width=2, norm=norm)))) < 1e-4


def test_channels_last_bfloat16():
    check_bfloat16(awake(FCN8s(3, 2, width=4)))


def test_state_round_trip():
    check_round_trip(awake(FCN8s(3, 2, width=2)), FCN8s(3, 2, width=2))


@pytest.mark.parametrize("arguments", [{"width": 0}, {"width": 1.5}, {"width": 2000}, {"norm": "batch"}])
def test_arguments_out_of_range(arguments):
    with pytest.raises(UsageError, match=rf"{next(iter(arguments))}=.*fcn8s"):
        FCN8s(3, 2, **arguments)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8)])
def test_wrong_image_shape(shape):
    with pytest.raises(ShapeError, match="Expected"):
        FCN8s(3, 2, width=1)(torch.zeros(shape))
