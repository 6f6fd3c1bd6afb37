"""The 1x1 convolution with a stride, by which residual units pass their input on."""

from torch import Tensor, nn
from torch.nn import functional as F


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution of every `stride`-th row and column, which are picked first.

    The same function and parameters as `nn.Conv2d(..., 1, stride=stride)`. That one's backward pass writes beyond its
    memory on the CPU (PyTorch 2.13 with oneDNN 3.12, channels last, channels that are no multiple of 16).
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), rounded up."""
        return F.conv2d(x[..., :: self.stride[0], :: self.stride[1]], self.weight, self.bias)
