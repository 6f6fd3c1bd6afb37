"""The convolution of each channel by itself, as inverted residuals have it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Depthwise(nn.Conv2d):
    """A depthwise convolution without bias, padded by half its kernel; on the CPU its gradients are had in float32.

    The same function and parameters as `nn.Conv2d(..., groups=channels)`, whose backward pass in bfloat16 takes three
    to six times as long as in float32 (PyTorch 2.13 with oneDNN 3.12, channels last, 5x5 kernels or stride 2).
    """

    def __init__(self, channels: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, padding=kernel // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H / stride, W / stride), rounded up; of the dtype that autocast asks for."""
        if not (torch.is_grad_enabled() and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        y: Tensor = _InFloat32.apply(x, self.weight, self.stride[0], torch.get_autocast_dtype("cpu"))
        return y


class _InFloat32(torch.autograd.Function):
    """Forward in the dtype asked for, backward in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(
                x.to(dtype), weight.to(dtype), stride=stride, padding=weight.shape[-1] // 2, groups=len(weight)
            )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        padding = weight.shape[-1] // 2
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient.float(), x.float(), weight.float(), None, [ctx.stride] * 2, [padding] * 2, [1, 1], False, [0, 0],
            len(weight), [*ctx.needs_input_grad[:2], False],
        )  # fmt: skip
        return (
            of_x.to(x.dtype) if ctx.needs_input_grad[0] else None,
            of_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None,
            None,
            None,
        )
