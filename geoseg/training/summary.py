"""Summary: what is asked of labelled ground before a single sample is cut; added up strip by strip, then kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from geoseg.metrics import IGNORE

_PER_POSITION = 1024
"""One pixel in so many is remembered, of each class by itself; but not fewer than `_LEAST`, nor more than `_MOST`."""
_LEAST, _MOST = 64, 65536
_CHUNK = 1 << 22
"""Pixels looked at in one go."""


@dataclass(frozen=True, slots=True)
class Values:
    """The target of one further head."""

    known: int
    """Pixels of which something is known."""
    count: int
    """Known values, over all bands."""
    mean: float
    """Of the known values, 0 without any."""
    square: float
    """Mean of their squares."""
    counts: tuple[tuple[int, ...], ...]
    """Per band, how many pixels have the value 0, 1, ... 255; other values are in none of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """What the pixels of one ground come to."""

    counts: np.ndarray
    """(256,) int64: pixels by target value."""
    usable: int
    """Valid pixels with finite values in all bands: those that the next four are of."""
    mean: tuple[float, ...]
    """Per band, in the scene's units; 0 without usable pixels."""
    square: tuple[float, ...]
    """Per band, the mean of the squares."""
    low: tuple[float, ...]
    """Per band, the lowest value."""
    high: tuple[float, ...]
    """Per band, the highest value."""
    further: Mapping[str, Values] = field(default_factory=dict)
    """By further head."""
    positions: Mapping[int, np.ndarray] = field(default_factory=dict)
    """By target value, (n, 2) int32: row and column of some of its pixels, any of them as likely; 255 is left out."""

    @property
    def labelled(self) -> int:
        """Pixels whose target is not 255."""
        return int(self.counts[:IGNORE].sum())


def summarise(data: np.ndarray, valid: np.ndarray, target: np.ndarray, further: Mapping[str, np.ndarray]) -> Summary:
    """The summary of whole ground in memory: arrays as `Ground` has them."""
    tally = Tally(len(data), data.dtype, target.shape, {name: len(plane) for name, plane in further.items()})
    for rows in strips(target.shape):
        own = {name: plane[:, rows] for name, plane in further.items()}
        tally.add(rows.start, data[:, rows], valid[rows], target[rows], own)
    return tally.summary()


def strips(shape: tuple[int, int]) -> Iterator[slice]:
    """Rows of an image of (height, width), some at a time."""
    step = max(1, _CHUNK // shape[1])
    return (slice(row, min(row + step, shape[0])) for row in range(0, shape[0], step))


def positions_kept(shape: tuple[int, int]) -> int:
    """How many pixels of each class are remembered, at most."""
    return min(max(shape[0] * shape[1] // _PER_POSITION, _LEAST), _MOST)


class Tally:
    """Adds up strips of one ground. Equal strips in equal order give an equal summary."""

    def __init__(self, bands: int, dtype: np.dtype, shape: tuple[int, int], further: Mapping[str, int]) -> None:
        """Begin a ground of (height, width) = `shape`; `further` has the bands of each further head."""
        self.counts = np.zeros(256, np.int64)
        self.usable, self.dtype = 0, np.dtype(dtype)
        self.sums, self.squares = np.zeros(bands), np.zeros(bands)
        self.low, self.high = np.full(bands, np.inf), np.full(bands, -np.inf)
        self.further = {name: _ValueTally(count) for name, count in further.items()}
        self.kept = positions_kept(shape)
        self.chance = np.random.default_rng((shape[0], shape[1]))
        self.found: dict[int, list[tuple[int, np.ndarray]]] = {}

    def add(
        self, row: int, data: np.ndarray, valid: np.ndarray, target: np.ndarray, further: Mapping[str, np.ndarray]
    ) -> None:
        """Take in the strip that begins at `row`: (C, h, W), (h, W), (h, W) and (bands, h, W) of each further head."""
        counts = np.bincount(target.ravel(), minlength=256)
        self.counts += counts
        self._add_values(data, valid)
        for name, tally in self.further.items():
            tally.add(further[name])
        for value in np.flatnonzero(counts[:IGNORE]).tolist():
            at = np.flatnonzero(target.ravel() == value)
            if len(at) > self.kept:
                at = at[self.chance.integers(len(at), size=self.kept)]
            rows, cols = np.divmod(at, target.shape[1])
            where = np.stack([rows + row, cols], 1).astype(np.int32)
            self.found.setdefault(value, []).append((int(counts[value]), where))

    def _add_values(self, data: np.ndarray, valid: np.ndarray) -> None:
        whole = bool(valid.all())
        values = data.reshape(len(data), -1) if whole else data[:, valid]
        if self.dtype.kind == "f":
            finite = np.isfinite(values).all(axis=0)
            values = values if finite.all() else values[:, finite]
        if not values.shape[1]:
            return
        self.usable += values.shape[1]
        for band, own in enumerate(values):
            if self.dtype == np.uint8:  # many times faster than sums of floats, and exact
                counts = np.bincount(own, minlength=256)
                there, level = np.flatnonzero(counts), np.arange(256.0)
                total, square, low, high = counts @ level, counts @ level**2, there[0], there[-1]
            else:
                total, square = own.sum(dtype=np.float64), np.square(own, dtype=np.float64).sum()
                low, high = own.min(), own.max()
            self.sums[band] += total
            self.squares[band] += square
            self.low[band] = min(self.low[band], float(low))
            self.high[band] = max(self.high[band], float(high))

    def summary(self) -> Summary:
        """What the strips come to."""
        size = max(self.usable, 1)
        low, high = (np.where(np.isfinite(ends), ends, 0.0) for ends in (self.low, self.high))
        return Summary(
            counts=self.counts,
            usable=self.usable,
            mean=tuple((self.sums / size).tolist()),
            square=tuple((self.squares / size).tolist()),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            further={name: tally.values() for name, tally in self.further.items()},
            positions={value: self._drawn(parts) for value, parts in sorted(self.found.items())},
        )

    def _drawn(self, parts: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
        """Positions of one class: all of them if there are few, else as many of each strip as its pixels earn."""
        total = sum(count for count, _ in parts)
        if total <= self.kept:
            return np.concatenate([where for _, where in parts])
        shares = np.array([count for count, _ in parts]) / total
        many = self.chance.multinomial(self.kept, shares)
        return np.concatenate(
            [where[self.chance.integers(len(where), size=n)] for n, (_, where) in zip(many, parts, strict=True)]
        )


class _ValueTally:
    """Adds up strips of one further head's target."""

    def __init__(self, bands: int) -> None:
        self.known = self.count = 0
        self.total = self.square = 0.0
        self.counts = np.zeros((bands, 256), np.int64)

    def add(self, plane: np.ndarray) -> None:
        """Take in a strip, (bands, h, W)."""
        finite = np.isfinite(plane)
        self.known += int(finite.any(axis=0).sum())
        for band, own in enumerate(plane):
            values = own[finite[band]].astype(np.float64)
            self.count += values.size
            self.total += float(values.sum())
            self.square += float(np.square(values).sum())
            whole = values[(values >= 0) & (values <= 255) & (values == np.floor(values))]
            self.counts[band] += np.bincount(whole.astype(np.intp), minlength=256)

    def values(self) -> Values:
        """What the strips come to."""
        size = max(self.count, 1)
        counts = tuple(tuple(row) for row in self.counts.tolist())
        return Values(self.known, self.count, self.total / size, self.square / size, counts)
