"""Networks: one file an architecture. No model knows tiling, files, heads or losses.

A model is an `nn.Module` from images (N, C, H, W) to logits (N, K, H, W) of the same height and width, for any H and
W of at least 1, with two attributes the plan is made from: `stride`, the factor its deepest level is downsampled by,
and `bounded`, whether a logit depends on a bounded neighbourhood only. One without padding has a `margin`, too: its
logits are smaller by that much on each side. One with attention gates has `attention_maps`, their number, and
`forward_with_attention`, which returns the logits and a map (N, 1, H, W) in [0, 1] for each gate.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from geoseg.errors import UsageError, nearest
from geoseg.models.attention_unet import AttentionUNet
from geoseg.models.deeplabv3plus import DeepLabV3Plus
from geoseg.models.fcn import FCN8s, FCN16s, FCN32s
from geoseg.models.fcn_resnet import fcn_resnet50, fcn_resnet101
from geoseg.models.resunet import ResUNet
from geoseg.models.segnet import SegNet
from geoseg.models.unet import UNet
from geoseg.models.unet3d import UNet3D
from geoseg.models.unetplusplus import UNetPlusPlus

MODELS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "resunet": ResUNet,
    "attention_unet": AttentionUNet,
    "unet3d": UNet3D,
    "unetplusplus": UNetPlusPlus,
    "fcn32s": FCN32s,
    "fcn16s": FCN16s,
    "fcn8s": FCN8s,
    "fcn_resnet50": fcn_resnet50,
    "fcn_resnet101": fcn_resnet101,
    "segnet": SegNet,
    "deeplabv3plus": DeepLabV3Plus,
}
"""Name of an architecture -> its builder, called with `in_channels`, `classes` and the architecture's own arguments."""

GOOD_FOR: dict[str, str] = {
    "unet": "outlines, little data; the first to try",
    "resunet": "thin things such as roads; slow for its size",
    "attention_unet": "small things far apart; its attention can be looked at",
    "unet3d": "dates of one place, spectral cubes",
    "unetplusplus": "things of many sizes; over twice U-Net's work",
    "fcn32s": "coarse areas; the baseline of the FCNs",
    "fcn16s": "areas, a step finer than fcn32s",
    "fcn8s": "areas rather than outlines; from VGG's weights",
    "fcn_resnet50": "land cover; from ImageNet's or COCO's weights",
    "fcn_resnet101": "land cover with much data; half as slow again",
    "segnet": "areas, from VGG's weights; learns slowly from scratch",
    "deeplabv3plus": "large things, wide context; from ImageNet's weights",
}
"""Name of an architecture -> what it is good for, in a few words."""


def build_model(
    arch: str, arch_args: Mapping[str, Any] | None = None, /, *, in_channels: int, classes: int, **more: Any
) -> nn.Module:
    """A model of architecture `arch` with fresh weights, in training mode.

    Args:
        arch: A key of `MODELS`.
        arch_args: The architecture's own arguments, as a configuration or a checkpoint has them.
        in_channels: Channels of the image.
        classes: Channels of the logits.
        more: Further arguments of the architecture.

    Raises:
        UsageError: If there is no such architecture, or it does not take these arguments.
    """
    if arch not in MODELS:
        raise UsageError(
            f"architecture={arch!r} is unknown.{nearest(arch, MODELS)} Expected one of: {', '.join(MODELS)}."
        )
    given = {**(arch_args or {}), **more}
    if reserved := sorted({"in_channels", "classes"} & given.keys()):
        raise UsageError(
            f"architecture {arch} takes {reserved[0]!r} from bands and classes. Expected its own arguments alone."
        )
    known = [name for name in inspect.signature(MODELS[arch]).parameters if name not in ("in_channels", "classes")]
    if unknown := [name for name in given if name not in known]:
        raise UsageError(
            f"architecture {arch} has no argument {unknown[0]!r}.{nearest(unknown[0], known)} "
            f"Expected some of: {', '.join(known)}."
        )
    try:
        return MODELS[arch](in_channels, classes, **given)
    except TypeError as err:
        raise UsageError(f"architecture {arch} cannot be built with {given} ({err}).") from err
