"""Ground: decoded, labelled pixels in memory. Samples: random windows of it, each a pure function of seed and index."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from geoseg.batches import ArrayReader, mirror
from geoseg.grid import Grid
from geoseg.windows import Window

IGNORED = 255
"""Target value of pixels of which nothing is known."""

FURTHER = "further_"
"""What the names of further heads' targets begin with in a sample."""

_TRIES = 8
_ENOUGH = 0.25
"""A window is drawn again, at most `_TRIES` times, while less than this share of it is labelled."""


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """A rectangle of labelled pixels in memory."""

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
    further: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(bands, H, W) float32 targets of further heads by name; NaN where nothing is known."""

    @property
    def reader(self) -> ArrayReader:
        """The pixels as tiles are read from."""
        return ArrayReader(self.data, self.valid, self.grid)


def file_list(grounds: Iterable[Ground]) -> str:
    """The files of some ground, for a message: three of them, and how many more."""
    names = sorted({ground.name for ground in grounds})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


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
    shares, moments, ranges = [], [], []
    for ground in grounds:
        values = ground.data[:, ground.valid]
        finite = np.isfinite(values).all(axis=0) if values.dtype.kind == "f" else slice(None)
        values = values[:, finite]
        if not values.shape[1] or not ground.share:
            continue
        shares.append(ground.share)
        moments.append([(v.mean(dtype=np.float64), np.square(v, dtype=np.float64).mean()) for v in values])
        ranges.append([(float(v.min()), float(v.max())) for v in values])
    mean, square = np.average(np.array(moments), axis=0, weights=shares).T
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    std = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-30), deviation, 1.0)
    spans = np.array(ranges)
    low, high = spans[:, :, 0].min(axis=0), spans[:, :, 1].max(axis=0)
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()), tuple(zip(low.tolist(), high.tolist(), strict=True)))


class Samples(Dataset):
    """An endless row of samples; each depends on the seed and its index alone, so that any run can be continued."""

    def __init__(self, grounds: Sequence[Ground], *, tile_size: int, seed: int) -> None:
        """Samples of `tile_size` pixels a side from grounds that each hold a labelled pixel."""
        self.grounds, self.tile_size, self.seed = list(grounds), tile_size, seed
        shares = np.array([ground.share for ground in grounds])
        self.upto = np.cumsum(shares / shares.sum())

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One sample.

        Returns:
            `image` (C, S, S), uint8 if the ground is, else float32; `target` (S, S) uint8; `valid` (S, S) bool;
            `further_<head>` (bands, S, S) float32 for each further head; `ground`, the ground's index as a scalar.
        """
        rng = np.random.default_rng((self.seed, index))
        which = min(int(np.searchsorted(self.upto, rng.random(), side="right")), len(self.grounds) - 1)
        ground = self.grounds[which]
        low, high = np.log(ground.zoom)
        side = max(1, round(self.tile_size * float(np.exp(rng.uniform(low, high)))))
        for _ in range(_TRIES):
            window = Window(
                row=_start(rng, ground.target.shape[0], side),
                col=_start(rng, ground.target.shape[1], side),
                height=side,
                width=side,
            )
            sample = cut(ground, window, self.tile_size)
            if _labelled(sample) >= _ENOUGH:
                break
        return sample | {"ground": torch.tensor(which)}


def _labelled(sample: dict[str, Tensor]) -> float:
    """The share of a sample of which some head knows something."""
    known = sample["target"] != IGNORED
    for name, target in sample.items():
        if name.startswith(FURTHER):
            known = known | ~target.isnan().any(0)
    return float(known.float().mean())


def _start(rng: np.random.Generator, size: int, side: int) -> int:
    """Where a window of `side` begins on an axis: anywhere inside it, or round all of it when the axis is shorter."""
    low, high = sorted((0, size - side))
    return int(rng.integers(low, high, endpoint=True))


def cut(ground: Ground, window: Window, tile_size: int) -> dict[str, Tensor]:
    """The square `window` of the ground, resampled to `tile_size`; beyond the edge mirrored, with nothing to learn.

    Values are averaged over the pixels that fall together and interpolated between them; classes are the nearest's.
    """
    rows = mirror(window.row, window.stop_row, ground.target.shape[0])
    cols = mirror(window.col, window.stop_col, ground.target.shape[1])
    nearest = ((np.arange(tile_size) + 0.5) * window.width / tile_size).astype(np.intp)
    picked = np.ix_(rows[nearest], cols[nearest])
    target = ground.target[picked].copy()
    target[_outside(window.row, nearest, ground.target.shape[0])] = IGNORED
    target[:, _outside(window.col, nearest, ground.target.shape[1])] = IGNORED
    further = {}
    for name, plane in ground.further.items():
        further[name] = plane[:, rows[nearest][:, None], cols[nearest]].copy()
        further[name][:, _outside(window.row, nearest, ground.target.shape[0])] = np.nan
        further[name][:, :, _outside(window.col, nearest, ground.target.shape[1])] = np.nan
    inside = window == window.intersection(ground.grid.window)
    data = ground.data[:, *window.slices()] if inside else ground.data[:, rows[:, None], cols]
    return {
        "image": _resample(data, tile_size),
        "target": torch.from_numpy(target),
        "valid": torch.from_numpy(ground.valid[picked]),
    } | {f"{FURTHER}{name}": torch.from_numpy(plane) for name, plane in further.items()}


def _outside(start: int, nearest: np.ndarray, size: int) -> np.ndarray:
    position = start + nearest
    return (position < 0) | (position >= size)


def _resample(data: np.ndarray, tile_size: int) -> Tensor:
    """(C, S, S) from (C, n, n), by triangles as wide as the coarser of both pixels."""
    if data.dtype != np.uint8:
        data = np.nan_to_num(data.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    image = torch.from_numpy(np.ascontiguousarray(data))
    if data.shape[1] == tile_size:
        return image
    size = (tile_size, tile_size)
    return torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]


class Epochs(Sampler):
    """The indices of one epoch after the other: epoch e has those from e * size on."""

    def __init__(self, size: int) -> None:
        """Epochs of `size` samples, from the first on."""
        self.size, self.epoch = size, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer when an epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * self.size, (self.epoch + 1) * self.size))
