"""FCN on ResNet: torchvision's sizes and names, the auxiliary head, tiles."""

import pytest
import torch
from networks import check_bfloat16, check_round_trip, fold_error, parameters, settled, tile_error, without_gradient
from torch.nn import functional as F

from geoseg.errors import ShapeError, UsageError
from geoseg.models.fcn_resnet import FCNResNet, fcn_resnet50, fcn_resnet101
from geoseg.models.receptive import receptive_radius


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_parameter_counts_are_torchvisions():
    """Of its weights for 21 classes, auxiliary head included."""
    assert parameters(lambda: fcn_resnet50(3, 21)) == 35_322_218
    assert parameters(lambda: fcn_resnet101(3, 21)) == 54_314_346
    auxiliary = 9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21
    assert parameters(lambda: fcn_resnet50(3, 21, auxiliary=False)) == 35_322_218 - auxiliary


def test_names_are_torchvisions():
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in fcn_resnet50(3, 21).state_dict().items()}
    assert {name.split(".")[0] for name in shapes} == {"backbone", "classifier", "aux_classifier"}
    assert shapes["backbone.conv1.weight"] == (64, 3, 7, 7)
    assert shapes["backbone.layer4.0.downsample.1.running_var"] == (2048,)
    assert shapes["classifier.0.weight"] == (512, 2048, 3, 3)
    assert shapes["classifier.1.running_mean"] == (512,)
    assert shapes["classifier.4.weight"] == (21, 512, 1, 1)
    assert shapes["aux_classifier.0.weight"] == (256, 1024, 3, 3)
    assert shapes["aux_classifier.4.bias"] == (21,)
    assert len(shapes) == 318 + 2 * 8


@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (24, 8)])
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (7, 5)])
def test_any_size_bands_and_classes(shape, channels, classes):
    logits = fcn_resnet50(channels, classes, width=1).eval()(torch.randn(2, channels, *shape))
    assert logits.shape == (2, classes, *shape)
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_forward_is_torchvisions():
    """Its `F.interpolate(..., size=...)` of a multiple of 8 is the same."""
    model = settled(fcn_resnet50(3, 2, width=2))
    image = torch.randn(1, 3, 40, 64)
    *_, third, fourth = model.backbone(image)
    expected = F.interpolate(model.classifier(fourth), size=(40, 64), mode="bilinear", align_corners=False)
    assert torch.equal(model(image), expected)
    logits, auxiliary = model.forward_with_auxiliary(image)
    assert torch.equal(logits, expected)
    assert torch.equal(auxiliary, F.interpolate(model.aux_classifier(third), scale_factor=8, mode="bilinear"))


def test_gradient_reaches_every_parameter():
    model = fcn_resnet50(3, 2, width=2)
    logits, auxiliary = model.forward_with_auxiliary(torch.randn(2, 3, 33, 17))
    assert logits.shape == auxiliary.shape == (2, 2, 33, 17)
    assert without_gradient(model, (logits + auxiliary).square().sum()) == []


def test_one_tensor_in_training_mode():
    model = fcn_resnet50(3, 2, width=2)
    missed = without_gradient(model, model(torch.randn(2, 3, 32, 32)).square().sum())
    assert {name.split(".")[0] for name in missed} == {"aux_classifier"}


def test_without_auxiliary_head():
    model = FCNResNet(3, 2, encoder="resnet18", width=2, auxiliary=False)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 2, 16, 16)
    with pytest.raises(UsageError, match="auxiliary=true"):
        model.forward_with_auxiliary(torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize(("build", "radius"), [(fcn_resnet50, 232), (fcn_resnet101, 504)])
def test_tiles_with_halo_equal_the_whole(build, radius):
    model = settled(build(3, 2, width=2))
    assert receptive_radius(model) == radius
    assert tile_error(model, radius) < 1e-5


def test_folding():
    assert fold_error(settled(fcn_resnet50(3, 2, width=4))) < 1e-4


def test_channels_last_bfloat16():
    check_bfloat16(settled(fcn_resnet50(3, 2, width=4)))


def test_state_round_trip():
    check_round_trip(settled(fcn_resnet50(3, 2, width=2)), fcn_resnet50(3, 2, width=2))


@pytest.mark.parametrize(
    "arguments", [{"width": 0}, {"width": True}, {"auxiliary": 1}, {"encoder": "vgg16"}, {"encoder": "resnet51"}]
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        FCNResNet(3, 2, **arguments)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8)])
def test_wrong_image_shape(shape):
    with pytest.raises(ShapeError, match="Expected"):
        fcn_resnet50(3, 2, width=1)(torch.zeros(shape))
