"""Tiles in blocks: neighbouring tiles are held back together, and those that touch their gap are left out."""

import logging
import math
from collections.abc import Sequence

import numpy as np

from geoseg.splits.choice import DRAWS, MOST_BLOCKS, MOVES, cost, numbers, rarest, search

log = logging.getLogger(__name__)

_BLOCK = 4
"""Tiles along a side of a block, at most."""
_KEPT = 0.5
"""What is left to learn from is at least this part of what the share leaves, or the gap is cut."""
_ASKED = 200
"""Tiles whose neighbours are looked for to know how far apart tiles lie."""

Block = tuple[np.ndarray, np.ndarray]
"""(N,) bool twice: the tiles of a block, and those that are lost to training, the same included."""


def split_tiles(
    centres: np.ndarray,
    sizes: np.ndarray,
    counts: np.ndarray | None = None,
    *,
    share: float,
    gap: float,
    seed: int,
) -> np.ndarray:
    """Hold back blocks of neighbouring tiles; tiles nearer to them than the gap, or overlapping them, are left out.

    Args:
        centres: (N, 2) float, x and y of each tile, in metres or pixels of one plane.
        sizes: (N, 2) width and height of each tile in the same unit, or (N,) sides of squares.
        counts: (N, K) labelled pixels of each class; None takes all for alike.
        share: Of the labelled pixels, from 0 to below 1.
        gap: Distance between the edges of a validation and a training tile, at least, in the same unit. Cut, with a
            warning, where less than half of the training part would be left.
        seed: Equal seeds give equal splits.

    Returns:
        (N,) array of "train", "val" and "none". One tile is for training, and so are all if all overlap; else at least
        one is held back and one is for training.
    """
    split = np.full(len(centres), "train", dtype="<U5")
    if not share or len(centres) < 2:
        return split
    tiles = _Tiles(centres, sizes, counts)
    if not tiles.total.any():
        return split
    for narrow in dict.fromkeys((gap, gap / 4, 0.0)):
        held, lost = tiles.choose(share, narrow, seed)
        left = 1 - tiles.counts[lost].sum() / tiles.total.sum()
        if left >= _KEPT * (1 - share):
            break
    if lost.all():  # all show the same ground
        return split
    if narrow < gap:
        log.warning(
            "A gap of %g round validation tiles would leave little to learn from %d tiles: it is %g.",
            gap, len(tiles.low), narrow,
        )  # fmt: skip
    split[lost] = "none"
    split[held] = "val"
    return split


def split_groups(counts: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Hold back whole groups, such as scenes; at least one is held back and one is left.

    Args:
        counts: (G, K) labelled pixels of each class in each group.
        share: Of the labelled pixels, above 0 and below 1.
        seed: Equal seeds give equal splits.

    Returns:
        (G,) bool, True = for validation; all False for a single group.
    """
    groups = len(counts)
    total = counts.sum(axis=0)
    if groups < 2 or not total.any() or not share:
        return np.zeros(groups, bool)
    rng = np.random.default_rng(seed)
    areas = counts.sum(axis=1) / total.sum()

    def draw() -> np.ndarray:
        held = np.zeros(groups, bool)
        for index in rng.permutation(groups):
            now = areas[held].sum()
            if not held.any() or abs(now + areas[index] - share) < abs(now - share):
                held[index] = held.sum() < groups - 1
        return held

    def change(held: np.ndarray) -> np.ndarray:
        moved = held.copy()
        moved[rng.integers(groups, size=rng.integers(1, 3))] ^= True
        return moved

    def price(held: np.ndarray) -> float:
        if held.all() or not held.any():
            return math.inf
        own = counts[held].sum(axis=0)
        return cost(own, own, total, share)

    return search(draw, change, price, draws=DRAWS, moves=MOVES)[0]


class _Tiles:
    """Boxes on the ground with what is labelled in them."""

    def __init__(self, centres: np.ndarray, sizes: np.ndarray, counts: np.ndarray | None) -> None:
        centres = np.asarray(centres, float)
        sides = np.broadcast_to(np.asarray(sizes, float).reshape(len(centres), -1), centres.shape)
        self.centres, self.low, self.high = centres, centres - sides / 2, centres + sides / 2
        self.counts = sides.prod(axis=1, keepdims=True) if counts is None else np.asarray(counts)
        self.total = self.counts.sum(axis=0)
        self.step = self._step(float(np.median(sides)))
        self.touching = 1e-6 * float(sides.min())
        """What boxes that share an edge may overlap by, as coordinates are rounded."""

    def _step(self, side: float) -> float:
        """From a tile to its nearest neighbour, in most cases; not more than a tile's side."""
        asked = np.unique(np.linspace(0, len(self.centres) - 1, _ASKED).astype(int))
        nearest = []
        for index in asked:
            away = np.abs(self.centres - self.centres[index]).max(axis=1)
            nearest.append(away[away > side * 1e-3].min(initial=side))
        return min(side, float(np.median(nearest)))

    def choose(self, share: float, gap: float, seed: int) -> Block:
        """Which tiles are held back, and which are lost to training, those held back included."""
        wanted = max(1, round(share * len(self.centres)))
        fewest = min(math.ceil(wanted / _BLOCK**2), MOST_BLOCKS)
        tried = [n for n in numbers(wanted) if n >= fewest][:4] or [fewest]
        found = [self._blocks(number, wanted / number, share, gap, seed) for number in tried]
        blocks, _ = min(found, key=lambda one: one[1])
        return _union(blocks)

    def _blocks(self, number: int, each: float, share: float, gap: float, seed: int) -> tuple[list[Block], float]:
        """The best `number` of blocks of about `each` tiles, and what they cost."""
        rng = np.random.default_rng((seed, number))
        short = max(1, math.floor(math.sqrt(each)))
        size = (np.array([short, max(short, round(each / short))]) - 0.5) * self.step

        def at(index: int) -> Block:
            span = rng.permutation(size)
            # Some blocks begin, others end at their tile, so that corners of the ground are reached.
            back = rng.integers(0, 2, 2) * (span - 0.5 * self.step)
            low = self.centres[index] - 0.25 * self.step - back
            return self._block(low, low + span, gap)

        def change(blocks: list[Block]) -> list[Block]:
            index = int(rng.integers(len(self.centres)))
            if rng.random() < 0.5:
                chances = rarest(self.counts[_union(blocks)[0]].sum(axis=0), self.total)
                having = np.flatnonzero(self.counts[:, rng.choice(len(chances), p=chances)])
                index = int(having[rng.integers(len(having))])
            moved = list(blocks)
            moved[rng.integers(number)] = at(index)
            return moved

        def price(blocks: list[Block]) -> float:
            held, lost = _union(blocks)
            if lost.all():
                return math.inf
            return cost(self.counts[held].sum(axis=0), self.counts[lost].sum(axis=0), self.total, share)

        def draw() -> list[Block]:
            return [at(int(index)) for index in rng.integers(len(self.centres), size=number)]

        return search(draw, change, price, draws=DRAWS, moves=MOVES)

    def _block(self, low: np.ndarray, high: np.ndarray, gap: float) -> Block:
        """The tiles with a centre in a box; lost are those, too, that overlap the box round them or its gap."""
        held = np.asarray(((self.centres >= low) & (self.centres <= high)).all(axis=1))
        low, high = self.low[held].min(axis=0), self.high[held].max(axis=0)
        away = np.maximum(self.low - high, low - self.high)
        overlaps = (away < -self.touching).all(axis=1)
        return held, held | overlaps | (np.linalg.norm(np.maximum(away, 0), axis=1) < gap - self.touching)


def _union(blocks: Sequence[Block]) -> Block:
    helds, losts = zip(*blocks, strict=True)
    return np.asarray(np.stack(helds).any(axis=0)), np.asarray(np.stack(losts).any(axis=0))
