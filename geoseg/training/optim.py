"""How a network's parameters move: groups of them, optimizers, schedules, their running average."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from geoseg.config import OptimizerConfig, TrainConfig

_PEAK, _START, _END = 0.3, 1 / 25, 1 / 25e4
"""Of one_cycle: the share of the steps in which the rate climbs; where it begins and ends, in highest rates."""
_POWER = 0.9
"""Of poly."""


def encoder_of(network: nn.Module) -> nn.Module | None:
    """The part of a network that makes features from the image: what it calls its encoder or its backbone."""
    for name in ("encoder", "backbone"):
        part = getattr(network, name, None)
        if isinstance(part, nn.Module):
            return part
    return None


def freeze(network: nn.Module, frozen: bool, *, norm: bool = False) -> None:
    """Let the encoder stay as it is, its running statistics included, or let it learn; the rest of it learns.

    With `norm`, all running statistics stay as they are; scales and shifts learn.
    """
    network.train()
    if encoder := encoder_of(network):
        encoder.requires_grad_(not frozen)
        encoder.train(not frozen)
    for module in network.modules() if norm else ():
        if isinstance(module, _BatchNorm):
            module.eval()


def parameter_groups(network: nn.Module, settings: OptimizerConfig) -> list[dict[str, Any]]:
    """The parameters by their rate and decay, as optimizers take them; `factor` is on the highest rate.

    Biases and normalisation scales are not pulled to zero: it costs accuracy and gains nothing.
    """
    encoder = encoder_of(network)
    theirs = {id(parameter) for parameter in encoder.parameters()} if encoder else set()
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for parameter in network.parameters():
        groups.setdefault((id(parameter) in theirs, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "factor": settings.encoder_lr if encodes else 1.0,
        }
        for (encodes, decays), parameters in groups.items()
    ]


def make_optimizer(network: nn.Module, settings: OptimizerConfig, *, scaled: bool = False) -> torch.optim.Optimizer:
    """The optimizer of a configuration over all parameters of a network on its device.

    Args:
        network: The network.
        settings: Which, and how.
        scaled: Whether gradients come scaled (float16), which fused optimizers would undo after the clipping.
    """
    groups = parameter_groups(network, settings)
    kinds = {parameter.device.type for parameter in network.parameters()}
    fused = not scaled and kinds <= {"cpu", "cuda"}
    match settings.name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, lr=settings.lr, fused=fused)
    momentum = settings.momentum
    return torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, fused=fused)


def steps_in_epoch(config: TrainConfig) -> int:
    """Steps of the optimizer between two validations; the last one may be of fewer batches than the others."""
    return math.ceil(config.steps_per_epoch / config.optimizer.accumulate)


def set_rate(optimizer: torch.optim.Optimizer, step: int, config: TrainConfig) -> float:
    """Give every group of an optimizer its learning rate for a step, and return the highest."""
    settings = config.optimizer
    highest = settings.lr * rate(step, config.epochs * steps_in_epoch(config), settings)
    for group in optimizer.param_groups:
        group["lr"] = highest * group["factor"]
    return highest


def rate(step: int, steps: int, settings: OptimizerConfig) -> float:
    """The share of the highest learning rate at a step.

    Args:
        step: From 0.
        steps: In all, at least 1.
        settings: The schedule; `warmup` is the share of the steps in which a line leads up to 1.

    Source: cosine: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, without restarts. poly: Chen et al. 2017,
        arXiv:1606.00915, section 4.1. one_cycle: Smith and Topin 2017, arXiv:1708.07120, with cosines for lines.
    """
    if settings.schedule == "one_cycle":
        return _one_cycle(step, steps)
    climb = max(1, round(steps * settings.warmup))
    if step < climb:
        return (step + 1) / climb
    progress = min(1.0, (step - climb) / max(1, steps - climb))
    match settings.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "poly":
            return (1 - progress) ** _POWER
    return 1.0


def _one_cycle(step: int, steps: int) -> float:
    peak, last = max(_PEAK * steps - 1, 1e-9), steps - 1
    if step <= peak:
        return _between(_START, 1.0, step / peak)
    return _between(1.0, _END, min(1.0, (step - peak) / max(last - peak, 1e-9)))


def _between(start: float, stop: float, progress: float) -> float:
    """Along half a cosine."""
    return stop + (start - stop) / 2 * (1 + math.cos(math.pi * progress))


class Average(nn.Module):
    """A running average of a network's parameters and statistics, smoother than any single step's.

    With `keep`, that share of what the network was at the start stays in it: what was learnt of little ground is added
    to what holds elsewhere.

    Source of `keep`: Wortsman et al. 2022, Robust fine-tuning of zero-shot models (CVPR), equation 1, alpha = 1 - keep.
    """

    def __init__(self, network: nn.Module, decay: float, keep: float = 0.0) -> None:
        """Begin at the network as it is. With neither decay nor `keep` the average is the network itself."""
        super().__init__()
        self.decay, self.keep, self.steps = decay, keep, 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False) if decay or keep else network
        self.start = copy.deepcopy(self.network) if keep else None
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards `network` by 1 - decay; further in the first steps, when the average is still young.

        Both must be on the device where they stay.
        """
        self.steps += 1
        if not (self.decay or self.keep):
            return
        decay = min(self.decay, self.steps / (self.steps + 9))
        if self._pairs is None:  # looking the tensors up costs more than adding them
            own, new = self.network.state_dict(), network.state_dict()
            order = sorted(own, key=lambda key: not own[key].is_floating_point())
            self._pairs = [own[key] for key in order], [new[key] for key in order]
            self._floats = sum(value.is_floating_point() for value in own.values())
            first = self.start.state_dict() if self.start else {}
            self._first = [first[key] for key in order[: self._floats]] if first else []
        own_values, values = self._pairs
        towards = values[: self._floats]
        if self._first:
            towards = list(torch._foreach_lerp(towards, self._first, self.keep))
        torch._foreach_lerp_(own_values[: self._floats], towards, 1 - decay)
        for mine, theirs in zip(own_values[self._floats :], values[self._floats :], strict=True):
            mine.copy_(theirs)
