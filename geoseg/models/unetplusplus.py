"""UNet++.

Source: Zhou, Rahman Siddiquee, Tajbakhsh and Liang 2018, "UNet++: A Nested U-Net Architecture for Medical Image
Segmentation", arXiv:1807.10165, figure 1 and equation 1. Three things differ: ReLU, as in the paper, without the
dropout of the authors' code; batch normalisation unless norm="none"; deep supervision averages logits where the paper's
accurate mode averages what comes after the sigmoid.
"""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from geoseg.models.inputs import check_counts, check_flags, check_image, crop_like, pad_to_multiple
from geoseg.models.unet import Norm, check_norm, double_conv, initialise


class UNetPlusPlus(nn.Module):
    """UNet++ (2018): U-Nets of every depth nested in one another, their skips dense.

    At the paper's width of 32 and depth of 4 it has 9 million parameters.
    """

    bounded = True
    """A logit depends on as many pixels as that of a U-Net of the same depth, the deepest of the nested ones."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: int = 32,
        depth: int = 4,
        norm: Norm = "batch",
        deep_supervision: bool = False,
    ) -> None:
        """Build with Kaiming-normal weights.

        Args:
            in_channels: Channels of the image, at least 1.
            classes: Channels of the logits, at least 1.
            width: Channels of the top level, doubled at each level below, 1 to 1024; 32 is the paper's.
            depth: Number of poolings, 1 to 8; 4 is the paper's.
            norm: "batch" puts batch normalisation between each 3x3 convolution and its ReLU; "none" does not.
            deep_supervision: Whether each of the nested nets has its own head, and the logits are their mean. Else
                only the deepest has one.

        Raises:
            UsageError: If an argument is out of its range.
        """
        super().__init__()
        check_counts("unetplusplus", in_channels=in_channels, classes=classes, width=width)
        check_counts("unetplusplus", most=8, depth=depth)
        check_norm("unetplusplus", norm)
        check_flags("unetplusplus", deep_supervision=deep_supervision)
        self.in_channels = in_channels
        self.stride: int = 2**depth
        channels = [width * 2**level for level in range(depth + 1)]
        self.pool = nn.MaxPool2d(2)
        self.backbone = nn.ModuleList(double_conv(a, b, norm) for a, b in pairwise([in_channels, *channels]))
        # ups[j][i] and nodes[j][i] make X^{i, j + 1} of level i.
        self.ups = nn.ModuleList(
            nn.ModuleList(nn.ConvTranspose2d(2 * c, c, kernel_size=2, stride=2) for c in channels[: depth - j])
            for j in range(depth)
        )
        self.nodes = nn.ModuleList(
            nn.ModuleList(double_conv((j + 2) * c, c, norm) for c in channels[: depth - j]) for j in range(depth)
        )
        heads = depth if deep_supervision else 1
        self.head = nn.ModuleList(nn.Conv2d(width, classes, kernel_size=1) for _ in range(heads))
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image: of the deepest of the nested nets, or with deep supervision the mean of all.

        A size that is no multiple of `stride` is padded below and to the right by repeating the last row and column,
        and the logits are cropped again.

        Args:
            image: (N, C, H, W) float, normalised; H and W at least 1. `channels_last` stays `channels_last`.

        Returns:
            Logits (N, K, H, W) of the image's dtype.

        Raises:
            ShapeError: If the image is not (N, in_channels, H, W).
        """
        check_image(image, self.in_channels)
        tops = self._top_nodes(pad_to_multiple(image, self.stride))
        logits = [head(top) for head, top in zip(self.head, tops[-len(self.head) :], strict=True)]
        return crop_like(sum(logits[1:], start=logits[0]) / len(logits), image)

    def _top_nodes(self, x: Tensor) -> list[Tensor]:
        """X^{0, 1} to X^{0, depth}: what each of the nested nets makes, of the shallowest first."""
        rows: list[list[Tensor]] = []
        for level in self.backbone:
            x = level(self.pool(x) if rows else x)
            rows.append([x])  # X^{i, 0}
        for ups, nodes in zip(self.ups, self.nodes, strict=True):
            pairs = zip(cast(nn.ModuleList, ups), cast(nn.ModuleList, nodes), strict=True)
            for i, (up, node) in enumerate(pairs):
                rows[i].append(node(torch.cat([*rows[i], up(rows[i + 1][-1])], dim=1)))
        return rows[0][1:]
