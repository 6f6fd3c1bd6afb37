"""Encoders against torchvision's names and sizes, dilation against strides, the first convolution's rule, timm."""

import sys
import types

import pytest
import torch
from networks import parameters
from torch import nn
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models.encoders import ENCODERS, Encoder, adapt_first_conv, build_encoder
from geoseg.models.fold import fold_batchnorm

# Of torchvision's networks without `classifier` (VGG-16: 138,357,544 - 123,642,856) or `fc` (ResNet-18: 11,689,512 -
# 513,000; -34: 21,797,672 - 513,000; -50: 25,557,032 - 2,049,000; -101: 44,549,160 - 2,049,000). EfficientNet-Lite0 has
# 4,652,008; its head 320 * 1280 + 2 * 1280 and 1281 * 1000.
PARAMETERS = {
    "vgg16": 14_714_688,
    "vgg16_bn": 14_723_136,
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "efficientnet_lite0": 2_958_848,
}
# Entries of the published state dicts without the classifier.
TENSORS = {
    "vgg16": 26,
    "vgg16_bn": 91,
    "resnet18": 120,
    "resnet34": 216,
    "resnet50": 318,
    "resnet101": 624,
    "efficientnet_lite0": 288,
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def state_shapes(name):
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in build_encoder(name, 3).state_dict().items()}


@pytest.mark.parametrize("name", ENCODERS)
def test_sizes_are_the_published(name):
    assert parameters(lambda: build_encoder(name, 3)) == PARAMETERS[name]
    assert len(state_shapes(name)) == TENSORS[name]


def test_names_and_shapes_are_torchvisions():
    vgg = state_shapes("vgg16")
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert list(vgg) == [f"features.{i}.{kind}" for i in convolutions for kind in ("weight", "bias")]
    assert vgg["features.0.weight"] == (64, 3, 3, 3)
    assert vgg["features.28.bias"] == (512,)
    norm = state_shapes("vgg16_bn")
    assert norm["features.40.weight"] == (512, 512, 3, 3)
    assert norm["features.41.running_var"] == (512,)
    basic = state_shapes("resnet18")
    assert basic["conv1.weight"] == (64, 3, 7, 7)
    assert basic["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert basic["layer4.1.bn2.running_mean"] == (512,)
    assert "layer1.0.downsample.0.weight" not in basic
    deep = state_shapes("resnet50")
    assert deep["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert deep["layer1.0.downsample.1.num_batches_tracked"] == ()
    assert deep["layer3.5.conv2.weight"] == (256, 256, 3, 3)
    assert deep["layer4.2.conv3.weight"] == (2048, 512, 1, 1)
    assert "layer3.22.bn3.bias" in state_shapes("resnet101")
    lite = state_shapes("efficientnet_lite0")
    assert lite["conv_stem.weight"] == (32, 3, 3, 3)
    assert lite["blocks.0.depthwise_conv.weight"] == (32, 1, 3, 3)
    assert "blocks.0.expand_conv.weight" not in lite
    assert lite["blocks.3.depthwise_conv.weight"] == (144, 1, 5, 5)
    assert lite["blocks.15.project_conv.weight"] == (320, 1152, 1, 1)


OPTIONS = {
    "vgg": [{}, {"pooled": True}],
    "res": [{}, {"dilated": 1}, {"dilated": 2}],
    "eff": [{}, *({"depth": depth} for depth in (1, 2, 3, 4))],
}


@pytest.mark.parametrize(("name", "options"), [(name, options) for name in ENCODERS for options in OPTIONS[name[:3]]])
def test_features_have_the_channels_and_strides_declared(name, options):
    encoder = build_encoder(name, 5, width=2, **options).eval()
    features = encoder(torch.randn(1, 5, 64, 96))
    expected = [(1, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)]
    assert [tuple(feature.shape) for feature in features] == expected
    assert encoder.strides == sorted(encoder.strides)
    assert encoder.strides[-1] == 2 ** options.get("depth", 5) >> options.get("dilated", 0)
    assert encoder.bounded
    assert isinstance(encoder.get_submodule(encoder.first_conv), nn.Conv2d)


def test_vgg_as_in_the_table():
    """The first two stages of configuration D written out."""
    vgg = build_encoder("vgg16", 3, width=4)
    image = torch.randn(1, 3, 32, 32)
    layer = vgg.features
    one = F.relu(layer[2](F.relu(layer[0](image))))
    two = F.relu(layer[7](F.relu(layer[5](F.max_pool2d(one, 2)))))
    features = vgg(image)
    assert torch.equal(features[0], one)
    assert torch.equal(features[1], two)
    assert torch.equal(features[5], F.max_pool2d(features[4], 2))
    pooled = build_encoder("vgg16", 3, width=4, pooled=True)
    pooled.load_state_dict(vgg.state_dict())
    assert all(torch.equal(a, F.max_pool2d(b, 2)) for a, b in zip(pooled(image), features[:5], strict=True))


def test_efficientnet_cut_gives_the_features_of_the_whole():
    whole = build_encoder("efficientnet_lite0", 3, width=16).eval()
    image = torch.randn(1, 3, 64, 96)
    for depth in range(1, 6):
        cut = build_encoder("efficientnet_lite0", 3, width=16, depth=depth).eval()
        cut.load_state_dict({name: whole.state_dict()[name] for name in cut.state_dict()})
        features = whole(image)[:depth]
        assert all(torch.equal(a, b) for a, b in zip(cut(image), features, strict=True))
    with torch.device("meta"):
        blocks = build_encoder("efficientnet_lite0", 3).blocks
    assert [block.adds for block in blocks] == [i in (2, 4, 6, 7, 9, 10, 12, 13, 14) for i in range(16)]


@pytest.mark.parametrize(("width", "stem"), [(64, 32), (16, 8), (2, 8), (48, 24), (80, 40)])
def test_efficientnet_channels_are_multiples_of_8(width, stem):
    with torch.device("meta"):
        encoder = build_encoder("efficientnet_lite0", 3, width=width)
    assert encoder.conv_stem.out_channels == stem
    assert all(channels % 8 == 0 for channels in encoder.channels)


def test_bottleneck_strides_in_its_3x3_convolution():
    resnet = build_encoder("resnet50", 3, width=2)
    block = resnet.layer2[0]
    assert (block.conv1.stride, block.conv2.stride, block.downsample[0].stride) == ((1, 1), (2, 2), (2, 2))


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_dilations_are_torchvisions(name):
    """As `replace_stride_with_dilation=[False, True, True]`: a stage's first block keeps that of the stage above."""
    resnet = build_encoder(name, 3, width=2, dilated=2)
    assert {block.conv2.dilation[0] for block in resnet.layer2} == {1}
    assert [block.conv2.dilation[0] for block in resnet.layer3] == [1] + [2] * (len(resnet.layer3) - 1)
    assert [block.conv2.dilation[0] for block in resnet.layer4] == [2, 4, 4]
    assert {block.conv2.stride[0] for stage in (resnet.layer3, resnet.layer4) for block in stage} == {1}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_dilation_computes_what_strides_skip(name):
    """Every second (or fourth) feature of the dilated network is one of the strided network."""
    strided = build_encoder(name, 3, width=4).eval()
    image = torch.randn(1, 3, 128, 128)
    expected = strided(image)
    for dilated, step in ((1, 2), (2, 4)):
        network = build_encoder(name, 3, width=4, dilated=dilated).eval()
        network.load_state_dict(strided.state_dict())
        assert torch.allclose(network(image)[-1][..., ::step, ::step], expected[-1], atol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_folding(name):
    encoder = build_encoder(name, 3, width=4)
    for _ in range(3):
        encoder.train()(torch.randn(2, 3, 64, 64))
    encoder.eval()
    folded = fold_batchnorm(encoder)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    image = torch.randn(1, 3, 64, 64)
    for a, b in zip(folded(image), encoder(image), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("resnet50", {"width": 0}, "width=0 is out of range"),
        ("resnet50", {"dilated": 3}, "dilated=3"),
        ("resnet50", {"dilated": True}, "dilated=True"),
        ("vgg16", {"pooled": 1}, "pooled=1"),
        ("vgg16", {"dilated": 1}, "cannot be built with"),
        ("efficientnet_lite0", {"depth": 6}, "depth=6"),
        ("efficientnet_lite0", {"depth": 0}, "depth=0"),
        ("resnet5", {}, "Did you mean 'resnet50'"),
        ("timm:", {}, "unknown"),
        ("timm:efficientnet_b0", {"width": 8}, "does not change"),
    ],
)
def test_wrong_arguments(name, options, word):
    with pytest.raises(UsageError, match=word):
        build_encoder(name, 3, **options)


class TestFirstConvolution:
    def test_three_bands_as_they_are(self):
        weight = torch.randn(8, 3, 7, 7)
        assert adapt_first_conv(weight, 3) is weight

    @pytest.mark.parametrize("bands", [1, 2, 4, 13])
    def test_grey_image_gives_the_same_response(self, bands):
        weight = torch.randn(8, 3, 7, 7)
        grey = torch.randn(1, 1, 9, 9)
        adapted = adapt_first_conv(weight, bands)
        assert adapted.shape == (8, bands, 7, 7)
        old, new = (F.conv2d(grey.expand(1, n, 9, 9), w) for n, w in ((3, weight), (bands, adapted)))
        assert torch.allclose(old, new, atol=1e-4)
        assert torch.equal(adapted[:, 0], adapted[:, -1])

    def test_not_a_convolution_of_three_bands(self):
        with pytest.raises(ShapeError, match="3 bands"):
            adapt_first_conv(torch.zeros(8, 4, 3, 3), 5)


class TestTimm:
    def test_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(UsageError, match=r"pip install 'geoseg\[timm\]'"):
            build_encoder("timm:efficientnet_b0", 3)

    def test_calls_timm(self, monkeypatch):
        """Against a stand-in with timm's documented interface: timm itself may not be importable here."""

        class Body(nn.Module):
            feature_info = types.SimpleNamespace(channels=lambda: [4, 6], reduction=lambda: [2, 16])

            def forward(self, image):
                return [F.avg_pool2d(image, 2), F.avg_pool2d(image, 16)]

        calls = []

        def create_model(name, **options):
            calls.append((name, options))
            if name == "nothing":
                raise RuntimeError("Unknown model (nothing)")
            return Body()

        monkeypatch.setitem(
            sys.modules,
            "timm",
            types.SimpleNamespace(is_model=lambda name: name in ("some_net", "nothing"), create_model=create_model),
        )
        encoder = build_encoder("timm:some_net", 4, dilated=1)
        wanted = {"pretrained": False, "features_only": True, "in_chans": 4, "output_stride": 16}
        assert calls == [("some_net", wanted)]
        assert (encoder.name, encoder.channels, encoder.strides, encoder.bounded) == (
            "timm:some_net",
            [4, 6],
            [2, 16],
            False,
        )
        assert [f.shape[-1] for f in encoder(torch.zeros(1, 4, 32, 32))] == [16, 2]
        for name in ("hf-hub:evil/x", "local-dir:/tmp/x", "hf_hub:x", "no_such_net"):
            with pytest.raises(UsageError, match="is unknown"):
                build_encoder(f"timm:{name}", 4)
        assert len(calls) == 1
        with pytest.raises(UsageError, match="Unknown model"):
            build_encoder("timm:nothing", 4)

    def test_real(self):
        pytest.importorskip("timm", exc_type=ImportError)
        encoder = build_encoder("timm:resnet18", 4).eval()
        features = encoder(torch.zeros(1, 4, 64, 64))
        assert [f.shape[1] for f in features] == encoder.channels
        assert [64 // f.shape[-1] for f in features] == encoder.strides


def test_an_encoder_without_forward_says_so():
    with pytest.raises(NotImplementedError):
        Encoder()(torch.zeros(1))
