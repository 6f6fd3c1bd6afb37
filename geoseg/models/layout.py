"""How a network's weights lie in memory."""

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def channels_last(model: M) -> M:
    """The network itself, its 4-dimensional weights in channels_last layout; those of 3D convolutions stay as they are.

    `model.to(memory_format=torch.channels_last)` refuses a network that has any of these.
    """
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
