"""First weights of layers."""

import torch
from torch import Tensor, nn


def he_normal(module: nn.Module) -> None:
    """Kaiming-normal weights for a convolution, by its fan-in; zero bias. Other modules are left alone. For `apply`.

    The variance is 2 / fan-in where a ReLU follows, and 1 / fan-in for 1x1 kernels, which mostly make logits.

    Source: He et al. 2015, arXiv:1502.01852, eq. 10.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if module.kernel_size == (1, 1) else "relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def bilinear_kernel(factor: int) -> Tensor:
    """The kernel of a transposed convolution that upsamples bilinearly by an even `factor`.

    With stride `factor` and padding factor / 2 it equals `nn.Upsample(mode="bilinear", align_corners=False)`, but for
    the outermost factor / 2 pixels, which it fades towards zero where that repeats the border.

    Returns:
        (2 * factor, 2 * factor) float32; each of the factor**2 phases sums to 1.

    Source: Long, Shelhamer and Darrell 2015, arXiv:1411.4038, section 3.3.
    """
    distance = (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    return torch.outer(1 - distance, 1 - distance)
