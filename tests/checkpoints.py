"""Tiny checkpoints: a random U-Net that depends on every pixel of its context, or one whose answer is known."""

from functools import cache
from pathlib import Path

import torch

from geoseg.checkpoint import ClassInfo, Head, Header, save_checkpoint
from geoseg.models import build_model
from geoseg.models.receptive import receptive_radius

CLASSES = (
    ClassInfo(name="background", color="#000000"),
    ClassInfo(name="building", color="#e34a33"),
    ClassInfo(name="road", color="#5a5a5a"),
)
COLORS = ("red", "green", "blue", "nir")


def write_checkpoint(
    path: Path,
    *,
    bands=COLORS[:3],
    width=2,
    depth=1,
    constant=None,
    seed=0,
    mean=100.0,
    std=50.0,
    heads=None,
    more=None,
    **header,
) -> Path:
    """A U-Net of three classes with random weights; with `constant` it says that class everywhere, with certainty.

    A radius of 9 and a halo of 10 at depth 1, 23 and 24 at depth 2.
    """
    torch.manual_seed(seed)
    heads = dict(sorted((heads or {"surface": Head(classes=CLASSES)}).items()))
    channels = sum(head.channels for head in heads.values())
    arch_args = {"width": width, "depth": depth, **(more or {})}
    model = build_model("unet", arch_args, in_channels=len(bands), classes=channels)
    with torch.no_grad():
        model.train()(torch.randn(4, len(bands), 32, 32))  # batch normalisation gets statistics worth folding
        model.head.weight.mul_(3)
        if constant is not None:
            for parameter in model.parameters():
                parameter.zero_()
            model.head.bias[constant] = 20.0
    fields = {
        "arch": "unet",
        "arch_args": arch_args,
        "bands": tuple(bands),
        "mean": (mean,) * len(bands),
        "std": (std,) * len(bands),
        "value_range": ((0.0, 255.0),) * len(bands),
        "dtype": "uint8",
        "heads": heads,
        "cell_side": 512,
        "stride": model.stride,
        "receptive_radius": radius(depth),
    }
    save_checkpoint(path, Header(**(fields | header)), model.state_dict(), half=False)
    return path


@cache
def radius(depth: int) -> int:
    """Of a U-Net of any width."""
    return receptive_radius(build_model("unet", in_channels=1, classes=2, width=1, depth=depth))
