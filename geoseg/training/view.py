"""View: a square window of ground as the network sees it, resampled, and mirrored where it sticks out."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from geoseg.batches import mirror
from geoseg.metrics import IGNORE
from geoseg.training.ground import FURTHER, Ground
from geoseg.windows import Window

_BANDS = 4
"""Bands of uint8 that torch resamples in one go by its fast way; of more it takes a way that is four times slower."""


def cut(ground: Ground, window: Window, tile_size: int) -> dict[str, Tensor]:
    """The square `window` of the ground, resampled to `tile_size`; beyond the edge mirrored, with nothing to learn.

    Values are averaged over the valid pixels that fall together and interpolated between them; classes are the
    nearest's.
    """
    return View(ground, window, tile_size).sample()


class View:
    """One window of one ground; nothing is read before it is asked for."""

    def __init__(self, ground: Ground, window: Window, tile_size: int) -> None:
        """The square `window`, which may stick out of the ground, in `tile_size` pixels a side."""
        self.ground, self.window, self.tile_size = ground, window, tile_size
        self.nearest = ((np.arange(tile_size) + 0.5) * window.width / tile_size).astype(np.intp)
        self.rows = _Axis(window.row, window.height, ground.target.shape[0])
        self.cols = _Axis(window.col, window.width, ground.target.shape[1])

    @cached_property
    def targets(self) -> dict[str, Tensor]:
        """`target` (S, S) uint8, 255 beyond the edge; `further_<head>` (bands, S, S) float32, NaN there."""
        found = {"target": self._nearest(self.ground.target, IGNORE)}
        for name, plane in self.ground.further.items():
            found[f"{FURTHER}{name}"] = self._nearest(plane, np.nan)
        return found

    def labelled(self) -> float:
        """The share of it of which some head knows something."""
        known = self.targets["target"] != IGNORE
        for name, target in self.targets.items():
            if name.startswith(FURTHER):
                known = known | ~target.isnan().any(0)
        return int(known.count_nonzero()) / known.numel()

    def sample(self) -> dict[str, Tensor]:
        """Targets, `image` (C, S, S), `valid` (S, S) bool and, if the ground has them, `distances` (P, S, S) float32.

        Distances are in the sample's own pixels.
        """
        found = {"image": self._image()} | self.targets | {"valid": self._nearest(self.ground.valid)}
        if self.ground.distances is not None:
            factor = self.tile_size / self.window.width
            found["distances"] = self._nearest(self.ground.distances, 0).float().mul_(factor)
        return found

    def _nearest(self, plane: np.ndarray, beyond: float | None = None) -> Tensor:
        """Of (..., H, W) the pixels next to the sample's, as they are; `beyond` the edge, or mirrored there if None."""
        found = plane[..., self.rows.needed, self.cols.needed]
        for axis, own in ((-2, self.rows), (-1, self.cols)):
            if own.outside or self.window.width != self.tile_size:
                found = found.take(own.index[self.nearest], axis)
        found = found.copy() if found.base is not None else found
        if beyond is not None:
            found[..., self.rows.beyond(self.nearest), :] = beyond
            found[..., self.cols.beyond(self.nearest)] = beyond
        return torch.from_numpy(found)

    def _image(self) -> Tensor:
        """(C, S, S) uint8 or float32, by triangles as wide as the coarser of both pixels."""
        found = self._shown(self.ground.data)
        if found.dtype != np.uint8:
            image = torch.from_numpy(found.astype(np.float32))
            if found.dtype.kind == "f":
                image = image.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        else:
            image = torch.from_numpy(np.array(found, order="C", copy=True))
        if self.window.width == self.tile_size:
            return image
        valid = torch.from_numpy(np.array(self._shown(self.ground.valid), copy=True))
        return _resampled(image, self.tile_size) if valid.all() else _resampled_without(image, valid, self.tile_size)

    def _shown(self, plane: np.ndarray) -> np.ndarray:
        """Of (..., H, W) the window's pixels, mirrored beyond the edge."""
        found = plane[..., self.rows.needed, self.cols.needed]
        for axis, own in ((-2, self.rows), (-1, self.cols)):
            if own.outside:
                found = found.take(own.index, axis)
        return found


class _Axis:
    """A window along one axis of an image."""

    def __init__(self, start: int, length: int, size: int) -> None:
        """From `start` on, `length` pixels of an axis of `size`."""
        self.start, self.size = start, size
        self.outside = start < 0 or start + length > size
        """Whether it sticks out."""
        self.needed, self.index = slice(start, start + length), np.arange(length)
        """What is to be read, and where in that each pixel of the window lies."""
        if self.outside:
            shown = mirror(start, start + length, size)
            self.needed = slice(int(shown.min()), int(shown.max()) + 1)
            self.index = shown - self.needed.start

    def beyond(self, nearest: np.ndarray) -> np.ndarray | slice:
        """Which of the window's pixels `nearest` lie outside."""
        position = self.start + nearest
        return (position < 0) | (position >= self.size) if self.outside else slice(0)


def _resampled(image: Tensor, tile_size: int) -> Tensor:
    """(C, S, S) from (C, n, n)."""
    size = (tile_size, tile_size)
    parts = image.split(_BANDS) if image.dtype == torch.uint8 else (image,)
    made = [torch.nn.functional.interpolate(p[None], size=size, mode="bilinear", antialias=True)[0] for p in parts]
    return made[0] if len(made) == 1 else torch.cat(made)


def _resampled_without(image: Tensor, valid: Tensor, tile_size: int) -> Tensor:
    """The same of the valid pixels alone: what a file holds where it has no data is in none of the others."""
    known = valid.float()[None]
    seen = _resampled(torch.cat([image.float().masked_fill_(~valid, 0), known]), tile_size)
    found = seen[:-1] / seen[-1:].clamp_min(1e-6)
    return found.round_().to(image.dtype) if image.dtype == torch.uint8 else found
