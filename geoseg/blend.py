"""Taper: the weight of each pixel of a tile where overlapping tiles are faded into each other."""

import torch
from torch import Tensor

from geoseg.windows import Window


def taper(side: int, overlap: int) -> Tensor:
    """Weights of a square tile: 1 in its middle, falling to nearly 0 over the `overlap` shared with each neighbour.

    Over the overlap the weight climbs as sin^2; that of the neighbour falls as cos^2, so that the weights of all tiles
    over a pixel sum to 1 and nothing has to be divided by their sum.

    Args:
        side: Pixels, at least 1.
        overlap: Pixels shared with the next tile, 0 to side / 2.

    Returns:
        (side, side) float32 in (0, 1].
    """
    ramp = torch.ones(side, dtype=torch.float64)
    if overlap:
        climb = torch.sin((torch.arange(overlap, dtype=torch.float64) + 0.5) * (torch.pi / 2 / overlap)) ** 2
        ramp[:overlap] = climb
        ramp[side - overlap :] = climb.flip(0)
    return torch.outer(ramp, ramp).float()


def add(sums: Tensor, cell: Window, values: Tensor, tile: Window, weights: Tensor) -> None:
    """Add a tile's values, weighted, to the running sums of a cell that it touches.

    Args:
        sums: (K, h, w) float32 of the cell; changed in place.
        cell: Where the sums lie.
        values: (K, H, W) of the tile.
        tile: Where the values lie.
        weights: (H, W).
    """
    both = tile.intersection(cell)
    if both:
        part = both.slices(tile)
        sums[:, *both.slices(cell)].addcmul_(values[:, *part].float(), weights[part])
