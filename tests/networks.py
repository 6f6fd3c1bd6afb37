"""What the tests of networks share."""

import copy

import torch
from torch import nn

from geoseg.models.fold import fold_batchnorm


def settled(model: nn.Module, side: int = 64) -> nn.Module:
    """The model after batch normalisation has seen something: statistics other than 0 and 1, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(2, model.in_channels, side, side) * 2 + 1)
    return model.eval()


def parameters(build) -> int:
    """Number of parameters of what `build` makes, without memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def without_gradient(model: nn.Module, loss: torch.Tensor) -> list[str]:
    """Names of the parameters that the gradient of a loss does not reach."""
    loss.backward()
    return [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@torch.no_grad()
def tile_error(model: nn.Module, halo: int) -> float:
    """Largest difference between the logits of a strip and of a tile cut out of it, `halo` away from the cuts.

    The tile begins at a multiple of the stride; the logits are of the order of 1.
    """
    dtype = next(model.parameters()).dtype
    halo = -(-halo // model.stride) * model.stride
    step, height = 2 * model.stride, 2 * model.stride
    errors = []
    for transpose in (False, True):
        strip = torch.randn(1, model.in_channels, height, 2 * halo + 3 * step + 5, dtype=dtype)
        tile = strip[..., step : 2 * halo + 2 * step]
        a, b = (strip.mT, tile.mT) if transpose else (strip, tile)
        whole, part = model(a), model(b)
        whole, part = (whole.mT, part.mT) if transpose else (whole, part)
        inner = whole[..., halo + step : halo + 2 * step]
        errors.append((inner - part[..., halo : halo + step]).abs().max() / inner.std())
    return max(float(error) for error in errors)


@torch.no_grad()
def fold_error(model: nn.Module, side: int = 64) -> float:
    """Largest difference that folding makes; no batch normalisation may be left."""
    folded = fold_batchnorm(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    image = torch.randn(2, model.in_channels, side, side, dtype=next(model.parameters()).dtype)
    whole = model(image)
    return float((folded(image) - whole).abs().max() / whole.std())


@torch.no_grad()
def check_bfloat16(model: nn.Module, tolerance: float = 0.1, side: int = 64) -> None:
    """In bfloat16 and channels last the layout stays, and the logits nearly."""
    image = torch.randn(1, model.in_channels, side, side)
    fast = copy.deepcopy(model).to(torch.bfloat16, memory_format=torch.channels_last)
    logits = fast(image.to(torch.bfloat16, memory_format=torch.channels_last))
    assert logits.dtype == torch.bfloat16
    assert logits.is_contiguous(memory_format=torch.channels_last)
    reference = model(image)
    assert (logits.float() - reference).abs().mean() < tolerance * reference.std()


@torch.no_grad()
def check_round_trip(model: nn.Module, other: nn.Module) -> None:
    """The state of one network makes another of the same arguments give the same logits."""
    other.load_state_dict(model.state_dict())
    image = torch.randn(1, model.in_channels, 33, 17)
    assert torch.equal(other.eval()(image), model.eval()(image))
