"""3D U-Net, over an image's dates.

Source: Çiçek, Abdulkadir, Lienkamp, Brox and Ronneberger 2016, "3D U-Net: Learning Dense Volumetric Segmentation from
Sparse Annotation", arXiv:1606.06650, figure 2. The third dimension is time: the bands of an image are those of its
dates one after the other. What differs: convolutions pad with zeros; time, which is short, is halved only as long as
there are two dates or more, rounding up; and the dates may be averaged before the last layer.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoseg.errors import UsageError
from geoseg.models.inputs import check_counts, check_image, crop_like, pad_to_multiple
from geoseg.models.unet import Norm, check_norm

Output = Literal["pixel", "slice"]


class UNet3D(nn.Module):
    """3D U-Net (2016): a U-Net over several dates, whose kernels reach over time as well.

    At the paper's width of 32 and depth of 3, with five dates or more, it has 19 million parameters.
    """

    bounded = True
    """A logit depends on 7 * 2**depth - 5 pixels on each side and no more (51 at depth 3), and on all dates near."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        dates: int = 1,
        width: int = 32,
        depth: int = 3,
        norm: Norm = "batch",
        output: Output = "pixel",
    ) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image: the bands of the first date, then those of the second, and so on.
            classes: Channels of the logits, at least 1.
            dates: Number of dates, at least 1; `in_channels` is a multiple of it.
            width: Channels after the first convolution, doubled by the second of each level, 1 to 1024; 32 is the
                paper's.
            depth: Number of poolings, 1 to 8; 3 is the paper's.
            norm: "batch" puts batch normalisation before each ReLU, as in the paper; "none" does not.
            output: "pixel" for one answer, from the mean over the dates; "slice" for one of each date, the classes of
                the first date first, so that `classes` is a multiple of `dates`.

        Raises:
            UsageError: If an argument is out of its range, or no multiple of `dates`.
        """
        super().__init__()
        check_counts("unet3d", in_channels=in_channels, classes=classes, dates=dates, width=width)
        check_counts("unet3d", most=8, depth=depth)
        check_norm("unet3d", norm)
        if output not in ("pixel", "slice"):
            raise UsageError(f"output={output!r} is unknown (unet3d). Expected 'pixel' or 'slice'.")
        for name, value in (("in_channels", in_channels), *([("classes", classes)] if output == "slice" else [])):
            if value % dates:
                raise UsageError(f"{name}={value} is no multiple of dates={dates} (unet3d). Expected as many of each.")
        self.in_channels, self.dates, self.by_date = in_channels, dates, output == "slice"
        self.stride: int = 2**depth
        channels = [width * 2**level for level in range(1, depth + 2)]
        steps = [(min(2, -(-dates >> level)), 2, 2) for level in range(depth)]
        self.encoder = nn.ModuleList(
            double_conv(a, b // 2, b, norm) for a, b in pairwise([in_channels // dates, *channels])
        )
        self.pools = nn.ModuleList(nn.MaxPool3d(step, ceil_mode=True) for step in steps)
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(2 * a, 2 * a, kernel_size=step, stride=step, bias=False)
            for a, step in zip(channels[-2::-1], reversed(steps), strict=True)
        )
        self.decoder = nn.ModuleList(double_conv(3 * a, a, a, norm) for a in channels[-2::-1])
        self.head = nn.Conv2d(channels[0], classes // dates if self.by_date else classes, kernel_size=1)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        A size that is no multiple of `stride` is padded below and to the right by repeating the last row and column,
        and the logits are cropped again.

        Args:
            image: (N, T * C, H, W) float, normalised, in the order of dates; H and W at least 1.

        Returns:
            Logits (N, K, H, W) of the image's dtype; with output="slice", K / T of each date, in their order.

        Raises:
            ShapeError: If the image is not (N, in_channels, H, W).
        """
        check_image(image, self.in_channels)
        x = self._features(pad_to_multiple(image, self.stride).unflatten(1, (self.dates, -1)).transpose(1, 2))
        if self.by_date:
            slices = self.head(x.transpose(1, 2).flatten(0, 1))
            return crop_like(slices.unflatten(0, (-1, self.dates)).flatten(1, 2), image)
        return crop_like(self.head(x.mean(2)), image)

    def _features(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, 2 * width, T, H, W)."""
        skips: list[Tensor] = []
        for level, convolutions in enumerate(self.encoder):
            x = convolutions(self.pools[level - 1](x) if level else x)
            skips.append(x)
        skips.pop()
        for up, convolutions in zip(self.ups, self.decoder, strict=True):
            skip = skips.pop()
            # An odd number of dates was rounded up by the pooling.
            x = convolutions(torch.cat([skip, up(x)[:, :, : skip.shape[2]]], dim=1))
        return x


class Convolution(nn.Conv3d):
    """A 3x3x3 convolution padded with zeros; where there is one date only, by its middle slice.

    The rest would meet zeros, and oneDNN 3.12 (PyTorch 2.13 on the CPU) gets bfloat16 wrong there if the channels are
    odd.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, out_channels, T, H, W)."""
        if x.shape[2] > 1:
            return super().forward(x)
        return F.conv2d(x[:, :, 0], self.weight[:, :, 1], self.bias, padding=1).unsqueeze(2)


def double_conv(in_channels: int, middle: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Twice: 3x3x3 convolution, normalisation if any, ReLU."""
    layers: list[nn.Module] = []
    for before, after in ((in_channels, middle), (middle, out_channels)):
        layers.append(Convolution(before, after, bias=norm == "none"))
        if norm == "batch":
            layers.append(nn.BatchNorm3d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _initialise(module: nn.Module) -> None:
    # He et al. 2015, arXiv:1502.01852, eq. 10. An output of a transposed convolution here sees one input pixel.
    if isinstance(module, nn.ConvTranspose3d):
        nn.init.normal_(module.weight, std=module.in_channels**-0.5)
    elif isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if isinstance(module, nn.Conv3d) else "linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
