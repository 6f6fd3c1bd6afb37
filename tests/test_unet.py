"""U-Net: sizes, parameters, the paper's structure, unpadded convolutions, other encoders."""

import pytest
import torch
from networks import check_bfloat16, check_round_trip, fold_error, parameters, settled, tile_error, without_gradient
from torch import nn
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models.encoders import ENCODERS
from geoseg.models.receptive import receptive_radius
from geoseg.models.unet import Decoder, PlainEncoder, UNet, double_conv


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
    assert [parameters(lambda w=width: UNet(3, 3, width=w)) for width in (16, 32, 64)] == [1942611, 7763107, 31037763]


def test_the_papers_own():
    """One channel, two classes, biases, no batch normalisation; 572 pixels give 388 (figure 1)."""
    assert parameters(lambda: UNet(1, 2, width=64, norm="none", padding="valid")) == 31_030_658
    with torch.device("meta"):
        model = UNet(1, 2, width=64, norm="none", padding="valid")
        features = model.encoder(torch.empty(1, 1, 572, 572))
        assert model(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    assert [feature.shape[-1] for feature in features] == [568, 280, 136, 64, 28]
    assert model.margin == (572 - 388) // 2 == 92


def test_names_of_parameters_stay():
    """Checkpoints that exist have them."""
    plain = UNet(3, 2, width=2, depth=1, norm="none").state_dict()
    names = [name.removesuffix(".weight") for name in plain if name.endswith(".weight")]
    assert names == [
        *("encoder.levels.0.0", "encoder.levels.0.2", "encoder.levels.1.0", "encoder.levels.1.2"),
        *("decoder.ups.0", "decoder.levels.0.0", "decoder.levels.0.2", "head"),
    ]
    with_norm = [n for n in UNet(3, 2, width=2, depth=1).state_dict() if n.startswith("decoder.levels.0.")]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert with_norm == [
        *("decoder.levels.0.0.weight", *(f"decoder.levels.0.1.{n}" for n in norm)),
        *("decoder.levels.0.3.weight", *(f"decoder.levels.0.4.{n}" for n in norm)),
    ]


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
    assert not [n for n in without_gradient(model, model(torch.randn(2, 3, 16, 16)).square().sum()) if "ups" not in n]


def test_channels_last_bfloat16():
    check_bfloat16(settled(UNet(3, 2, width=8, depth=2)), tolerance=0.05)


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
    [
        *({"width": 0}, {"width": 10**9}, {"depth": 0}, {"depth": 99}, {"width": 1.5}, {"width": True}),
        *({"norm": "layer"}, {"padding": "reflect"}, {"encoder": "resnet19"}),
        *({"encoder_depth": 4, "encoder": "vgg16"}, {"encoder_depth": 4}),
        *({"encoder_depth": 6, "encoder": "efficientnet_lite0"}, {"encoder_depth": 0, "encoder": "efficientnet_lite0"}),
        *({"depth": 3, "encoder": "vgg16"}, {"padding": "valid", "encoder": "resnet18"}),
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        UNet(3, 2, **arguments)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8), (1, 3, 8)])
def test_wrong_image_shape(shape):
    with pytest.raises(ShapeError, match="Expected"):
        UNet(3, 2, width=2, depth=1)(torch.zeros(shape))


class TestValid:
    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_margin_and_any_size_beyond_it(self, depth):
        model = UNet(2, 3, width=2, depth=depth, padding="valid").eval()
        assert model.margin == 6 * 2**depth - 4
        for height, width in ((1, 1), (2, 7), (13, 1), (17, 33)):
            logits = model(torch.randn(1, 2, height + 2 * model.margin, width + 2 * model.margin))
            assert logits.shape == (1, 3, height, width)

    def test_too_small(self):
        model = UNet(1, 2, width=2, depth=2, padding="valid")
        with pytest.raises(ShapeError, match="Expected at least 41x41"):
            model(torch.zeros(1, 1, 60, 40))

    def test_a_size_that_fits_is_neither_padded_nor_cropped(self):
        """The network of depth 1 written out: skips lose 4 pixels on each side."""
        model = settled(UNet(3, 2, width=4, depth=1, padding="valid"))
        image = torch.randn(1, 3, 24, 20)
        fine = model.encoder.levels[0](image)
        coarse = model.encoder.levels[1](F.max_pool2d(fine, 2))
        merged = torch.cat([fine[..., 4:-4, 4:-4], model.decoder.ups[0](coarse)], 1)
        assert torch.equal(model(image), model.head(model.decoder.levels[0](merged)))
        assert model(image).shape == (1, 2, 8, 4)

    def test_other_sizes_equal_padding_by_hand(self):
        model = UNet(3, 2, width=2, depth=2, padding="valid").eval()
        image = torch.randn(1, 3, 46, 43)
        padded = F.pad(image, (0, 1, 0, 2), mode="replicate")
        assert torch.equal(model(image), model(padded)[..., :6, :3])

    def test_tiles_equal_the_whole(self):
        model = settled(UNet(3, 2, width=4, depth=2, padding="valid")).double()
        image = torch.randn(1, 3, 120, 120, dtype=torch.float64)
        whole, tile = model(image), model(image[..., 8:88, 12:92])  # 80 pixels, 40 of them without the margins
        assert tile.shape[-1] == 40
        # Up to `stride - 1` of the last pixels look at what the tile was padded with.
        assert torch.allclose(tile[..., :36, :36], whole[..., 8:44, 12:48], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_equals_the_padded_network_far_from_the_border(self, depth):
        """With the same weights, on an image that begins 2 pixels before a multiple of the stride: its first pooling
        begins at pixel 2."""
        valid = settled(UNet(3, 2, width=4, depth=depth, padding="valid"), side=100).double()
        same = UNet(3, 2, width=4, depth=depth).double().eval()
        same.load_state_dict(valid.state_dict())
        far, stride = 2 * valid.margin + 20, valid.stride
        image = torch.randn(1, 3, 2 * far + 8, 2 * far + 8, dtype=torch.float64)
        inner = same(image[..., stride - 2 :, stride - 2 :])[..., far:-far, far:-far]
        first = far + stride - 2 - valid.margin
        size = inner.shape[-1]
        assert torch.allclose(valid(image)[..., first : first + size, first : first + size], inner, rtol=0, atol=1e-12)

    def test_receptive_radius_is_that_of_the_padded_one(self):
        assert receptive_radius(UNet(1, 2, width=2, padding="valid")) == 107

    def test_the_rest(self):
        model = settled(UNet(3, 2, width=4, depth=1, padding="valid"))
        assert fold_error(model) < 1e-4
        check_bfloat16(model)
        assert not without_gradient(model.train(), model(torch.randn(2, 3, 24, 24)).square().sum())


ENCODED = ["vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0"]


class TestEncoders:
    def test_all_are_tried(self):
        assert set(ENCODED) == set(ENCODERS)

    @pytest.mark.parametrize("encoder", ENCODED)
    def test_parameters(self, encoder):
        """The encoder's, a decoder as wide as that of a U-Net of width 16, and a head."""
        count = parameters(lambda: UNet(3, 3, encoder=encoder))
        with torch.device("meta"):
            channels, strides = ENCODERS[encoder](3).channels, ENCODERS[encoder](3).strides
        skips = dict(zip(strides, channels, strict=True))
        expected, before = parameters(lambda: ENCODERS[encoder](3)), channels[-1]
        for stride, after in ((16, 256), (8, 128), (4, 64), (2, 32), (1, 16)):
            expected += 4 * before * after + after  # up
            expected += 9 * (after + skips.get(stride, 0)) * after + 9 * after * after + 4 * after
            before = after
        assert count == expected + 16 * 3 + 3

    @pytest.mark.parametrize("encoder", ENCODED)
    def test_any_size_and_gradients(self, encoder):
        model = UNet(4, 3, encoder=encoder, width=4)
        assert (model.stride, model.margin, model.bounded) == (32, 0, True)
        missed = without_gradient(model, model(torch.randn(2, 4, 64, 64)).square().sum())
        assert not [name for name in missed if not name.startswith(("decoder.ups", "encoder.features"))]
        for shape in ((1, 1), (17, 33)):
            assert model.eval()(torch.randn(1, 4, *shape)).shape == (1, 3, *shape)

    def test_depth_cuts_an_encoder(self):
        model = settled(UNet(3, 2, encoder="efficientnet_lite0", width=8, encoder_depth=3))
        assert (model.stride, model.encoder.strides, len(model.decoder.levels)) == (8, [2, 4, 8], 3)
        assert receptive_radius(model) < receptive_radius(
            UNet(3, 2, encoder="efficientnet_lite0", width=8, encoder_depth=4)
        )
        check_bfloat16(model)
        check_round_trip(model, UNet(3, 2, encoder="efficientnet_lite0", width=8, encoder_depth=3))

    @pytest.mark.parametrize("encoder", ["vgg16", "vgg16_bn", "resnet18", "resnet50", "efficientnet_lite0"])
    def test_tiles_equal_the_whole_and_folding(self, encoder):
        model = settled(UNet(2, 3, encoder=encoder, width=4)).double()
        radius = receptive_radius(model)
        assert tile_error(model, radius) < 1e-10
        assert fold_error(model) < 1e-10

    def test_layout_and_round_trip(self):
        model = settled(UNet(3, 2, encoder="resnet18", width=8))
        check_bfloat16(model)
        check_round_trip(model, UNet(3, 2, encoder="resnet18", width=8))

    def test_reads_as_a_u_net(self):
        model = settled(UNet(3, 2, encoder="resnet18", width=4))
        image = torch.randn(1, 3, 32, 64)
        *skips, x = model.encoder(image)
        for up, level in zip(model.decoder.ups, model.decoder.levels, strict=True):
            x = up(x)
            x = level(torch.cat([skips.pop(), x], 1) if skips else x)
        assert torch.equal(model(image), model.head(x))

    def test_decoder_of_features_with_gaps(self):
        """No features of strides 1, 2 and 8, as some of timm's networks."""
        decoder = Decoder([6, 7], [4, 16], width=3, norm="none")
        assert decoder.channels == [24, 12, 6, 3]
        assert decoder([torch.randn(1, 6, 8, 8), torch.randn(1, 7, 2, 2)]).shape == (1, 3, 32, 32)

    def test_timm(self):
        pytest.importorskip("timm")
        model = UNet(4, 2, encoder="timm:efficientnet_b0").eval()
        assert not model.bounded
        assert model(torch.randn(1, 4, 33, 40)).shape == (1, 2, 33, 40)


def test_plain_encoder_and_double_conv():
    features = PlainEncoder(3, 2, 2, "none")(torch.zeros(1, 3, 8, 8))
    assert [tuple(f.shape[1:]) for f in features] == [(2, 8, 8), (4, 4, 4), (8, 2, 2)]
    assert [type(layer) for layer in double_conv(1, 2, "batch")] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2


def test_round_trip():
    check_round_trip(settled(UNet(3, 2, width=4, depth=2)), UNet(3, 2, width=4, depth=2))


class TestShuffle:
    """Squares of pixels as channels."""

    def test_is_the_network_on_folded_pixels(self):
        model = settled(UNet(3, 2, width=4, depth=2, shuffle=2))
        inner = UNet(12, 8, width=4, depth=2)
        inner.load_state_dict(model.state_dict())
        image = torch.randn(2, 3, 32, 48)
        blocks = torch.stack([image[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 2).flatten(1, 2)
        logits = inner.eval()(blocks).unflatten(1, (2, 4))
        whole = torch.empty(2, 2, 32, 48)
        for k in range(4):
            whole[..., k // 2 :: 2, k % 2 :: 2] = logits[:, :, k]
        assert torch.equal(model(image), whole)

    @pytest.mark.parametrize(("shuffle", "depth"), [(2, 2), (3, 1), (2, 3)])
    def test_sizes_tiles_and_reach(self, shuffle, depth):
        model = settled(UNet(2, 3, width=4, depth=depth, shuffle=shuffle)).double()
        assert model.stride == shuffle * 2**depth
        radius = receptive_radius(model)
        assert radius == shuffle * (7 * 2**depth - 5) + shuffle - 1
        assert tile_error(model, radius) < 1e-10
        for shape in ((1, 1), (17, 33)):
            assert model(torch.randn(1, 2, *shape).double()).shape == (1, 3, *shape)

    def test_layout_and_round_trip(self):
        model = settled(UNet(3, 2, width=8, depth=2, shuffle=2))
        check_bfloat16(model)
        check_round_trip(model, UNet(3, 2, width=8, depth=2, shuffle=2))
        image = torch.randn(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        assert model(image).is_contiguous(memory_format=torch.channels_last)

    def test_with_an_encoder(self):
        given = {"encoder": "efficientnet_lite0", "encoder_depth": 2}
        model = settled(UNet(2, 3, **given, shuffle=2)).double()
        assert model.stride == 8
        radius = receptive_radius(model)
        assert radius == 2 * receptive_radius(UNet(2, 3, **given)) + 1
        assert tile_error(model, radius) < 1e-10
        assert model(torch.randn(1, 2, 17, 33).double()).shape == (1, 3, 17, 33)

    @pytest.mark.parametrize("other", [{"padding": "valid"}, {"shuffle": 0}, {"shuffle": 9}])
    def test_refused(self, other):
        with pytest.raises(UsageError, match="shuffle="):
            UNet(3, 2, **({"shuffle": 2} | other))
