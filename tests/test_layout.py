"""Weights in channels_last, also where a network has convolutions of three dimensions."""

import pytest
import torch
from networks import settled

from geoseg.models import MODELS, build_model
from geoseg.models.layout import channels_last


@pytest.mark.parametrize("arch", MODELS)
def test_every_networks_weights_have_the_layout_where_there_is_one(arch):
    with torch.device("meta"):
        model = build_model(arch, in_channels=3, classes=2)
    assert channels_last(model) is model
    weights = [p for p in model.parameters() if p.ndim == 4]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert all(p.is_contiguous() for p in model.parameters() if p.ndim != 4)


@pytest.mark.parametrize("arch", ["unet", "unet3d"])
def test_the_logits_stay(arch):
    torch.manual_seed(0)
    model = settled(build_model(arch, in_channels=3, classes=2, width=4), side=32)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = model(image)
        torch.testing.assert_close(channels_last(model)(image), before, atol=1e-5, rtol=1e-4)
