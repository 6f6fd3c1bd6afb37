"""The names of architectures, and folding."""

import copy

import pytest
import torch
from torch import nn

from geoseg.errors import UsageError
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

    def test_pairs_a_class_names(self):
        class Block(nn.Module):
            folds = (("conv", "norm"), ("other", "plain"))

            def __init__(self):
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
                self.other, self.plain = nn.Conv2d(3, 3, 1), nn.Identity()

            def forward(self, x):
                return self.plain(self.other(x + self.norm(self.conv(x))))

        model = settled(nn.Sequential(Block(), Block()))
        image = torch.randn(1, 3, 9, 9)
        folded = fold_batchnorm(model)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        assert isinstance(model[0].norm, nn.BatchNorm2d)
        assert torch.allclose(folded(image), model(image), atol=1e-5)

    def test_without_normalisation(self):
        model = UNet(3, 2, width=2, depth=1, norm="none").eval()
        image = torch.randn(1, 3, 8, 8)
        assert torch.equal(fold_batchnorm(model)(image), model(image))


def test_arguments_of_an_architecture_are_known_or_named_with_the_nearest():
    with pytest.raises(UsageError, match=r"unet has no argument 'widht'\. Did you mean 'width'\?"):
        build_model("unet", {"widht": 4}, in_channels=3, classes=2)
    with pytest.raises(UsageError, match="takes 'classes' from"):
        build_model("unet", {"classes": 4}, in_channels=3, classes=2)
