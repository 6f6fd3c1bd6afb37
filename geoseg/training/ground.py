"""Ground: decoded, labelled pixels, and what normalisation and class weights need to know of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from geoseg.batches import ArrayReader, Tile
from geoseg.grid import Grid
from geoseg.training.summary import Summary, summarise
from geoseg.windows import Window

FURTHER = "further_"
"""What the names of further heads' targets begin with in a sample."""


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """A rectangle of labelled pixels: in memory, or read-only arrays mapped from the cache."""

    name: str
    """The file it comes from, for messages."""
    source: str
    """Short name of the source it belongs to, for scores."""
    data: np.ndarray
    """(C, H, W), the scene's own dtype."""
    valid: np.ndarray
    """(H, W) bool, True = usable."""
    target: np.ndarray
    """(H, W) uint8 class indices; 255 where nothing is known, invalid pixels included."""
    grid: Grid
    """Where the pixels lie."""
    known: tuple[int, ...]
    """The classes that the labels tell apart. A target that is none of them, nor 255, means: any of the others."""
    gsd: float | None = None
    """Metres per pixel, if known."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of the factor by which samples make a pixel cover more ground."""
    share: float = 1.0
    """How often samples are cut here, relative to other ground."""
    frame: Window | None = None
    """Where samples are cut; None: anywhere. Larger samples show what lies round it; nothing is known there."""
    further: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(bands, H, W) float32 targets of further heads by name; NaN where nothing is known."""
    distances: np.ndarray | None = None
    """(P, H, W) float16 of `geoseg.losses.outline_distances`, if a loss asks for them."""
    summary: Summary | None = None
    """What the pixels come to, if that is known already; ask `summary_of`."""

    @property
    def learnt(self) -> Window:
        """Where samples are cut."""
        return self.frame or self.grid.window

    @property
    def reader(self) -> ArrayReader:
        """The pixels as tiles are read from."""
        return _Copies(self.data, self.valid, self.grid)


class _Copies(ArrayReader):
    """Of pixels that cannot be written, gives copies that can: tensors are made of no others."""

    def read(self, window: Window) -> Tile:
        """The pixels of a window that lies inside the grid."""
        rows, cols = window.slices()
        data, valid = self.data[:, rows, cols], self.valid[rows, cols]
        return Tile(*(part if part.flags.writeable else part.copy() for part in (data, valid)))


def summary_of(ground: Ground) -> Summary:
    """What the ground's pixels come to; all of them are looked at where the cache has not done so before."""
    return ground.summary or summarise(ground.data, ground.valid, ground.target, ground.further)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def file_list(named: Iterable[_Named]) -> str:
    """The files of some ground, or units, for a message: three of them, and how many more."""
    names = sorted({one.name for one in named})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def pixels_per_class(grounds: Iterable[Ground], classes: int) -> np.ndarray:
    """(classes,) int64 pixels labelled each class, where the labels tell it from the others."""
    counts = np.zeros(classes, np.int64)
    for ground in grounds:
        told = [index for index in ground.known if index < classes]
        counts[told] += summary_of(ground).counts[told]
    return counts


@dataclass(frozen=True, slots=True)
class Statistics:
    """Per band, what normalisation needs to know of the training pixels."""

    mean: tuple[float, ...]
    """Mean of the valid pixels, in the scene's units."""
    std: tuple[float, ...]
    """Standard deviation, above 0."""
    value_range: tuple[tuple[float, float], ...]
    """(lowest, highest) value."""


def statistics(grounds: Sequence[Ground]) -> Statistics:
    """Mean, deviation and range of the valid pixels, each ground counted as often as samples are cut there.

    Args:
        grounds: At least one with a valid pixel, all of one number of bands.

    Returns:
        A deviation of 1 for a band that is constant.
    """
    found = [(ground.share, summary_of(ground)) for ground in grounds if ground.share]
    found = [(share, summary) for share, summary in found if summary.usable]
    shares = [share for share, _ in found]
    moments = np.array([(summary.mean, summary.square) for _, summary in found])
    mean, square = np.average(moments, axis=0, weights=shares)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    std = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-30), deviation, 1.0)
    low = np.array([summary.low for _, summary in found]).min(axis=0)
    high = np.array([summary.high for _, summary in found]).max(axis=0)
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()), tuple(zip(low.tolist(), high.tolist(), strict=True)))


__all__ = [
    "FURTHER",
    "Ground",
    "Statistics",
    "file_list",
    "pixels_per_class",
    "statistics",
    "summary_of",
]
