"""A scene in blocks: squares of ground held back for validation, and a gap round them in which nothing is learnt."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from geoseg.splits.choice import DRAWS, MOST_BLOCKS, MOVES, cost, numbers, rarest, search
from geoseg.windows import Window

_SQUARES = 64
"""Squares that a survey has along a side, at most, unless one side is longer than the other."""
_KEPT = 0.5
"""What is left to learn from is at least this part of what the share leaves, or the gap is halved."""
_FEW_BLOCKS = 3
"""Fewer blocks than this are taken where more would be smaller than a quarter of the side asked for."""
_TRIES = 4
"""Places tried for a block, on average, to find one that is free."""
_CROWDED = 0.5
"""Cost of blocks that all lie in one place."""

Block = tuple[int, int, int, int]
"""Row, column, rows and columns in squares of a survey."""


@dataclass(frozen=True, eq=False)
class Survey:
    """Where on a scene which classes are labelled, in squares of a lattice that begins at the scene's first pixel."""

    frame: Window
    """The smallest window round all labelled pixels."""
    side: int
    """Of a square, in pixels."""
    counts: np.ndarray
    """(rows, cols, K) int64, labelled pixels of each class in each square of the whole scene."""

    @staticmethod
    def side_for(shape: tuple[int, int]) -> int:
        """The side of the squares that a scene of `shape` is surveyed in: a power of two."""
        return int(2 ** max(0, math.ceil(math.log2(math.sqrt(shape[0] * shape[1]) / _SQUARES))))

    @classmethod
    def of(cls, shape: tuple[int, int], target: Callable[[Window], np.ndarray], classes: int) -> "Survey | None":
        """Look at a scene once, in strips of full width.

        Args:
            shape: (height, width) of the scene.
            target: Gives the (h, w) uint8 class indices of a window; what is no class is not labelled.
            classes: How many there are.

        Returns:
            None if nothing is labelled.
        """
        side, (height, width) = cls.side_for(shape), shape
        rows, cols = np.zeros(height, bool), np.zeros(width, bool)
        counts = np.zeros((-(-height // side), -(-width // side), classes), np.int64)
        column = np.arange(width) // side
        high = side * max(1, 1024 // side)
        for top in range(0, height, high):
            strip = Window(row=top, col=0, height=min(high, height - top), width=width)
            found = target(strip)
            labelled = found < classes
            rows[top : strip.stop_row] = labelled.any(axis=1)
            cols |= labelled.any(axis=0)
            places = (np.arange(strip.height) // side)[:, None] * counts.shape[1] + column
            deep = -(-strip.height // side)
            own = np.bincount(places[labelled] * classes + found[labelled], minlength=deep * counts.shape[1] * classes)
            counts[top // side : top // side + deep] = own.reshape(deep, counts.shape[1], classes)
        if not rows.any():
            return None
        top, bottom = np.flatnonzero(rows)[[0, -1]].tolist()
        left, right = np.flatnonzero(cols)[[0, -1]].tolist()
        return cls(Window(row=top, col=left, height=bottom - top + 1, width=right - left + 1), side, counts)

    @classmethod
    def even(cls, frame: Window) -> "Survey":
        """Of a frame that is labelled all over, with one class."""
        shape = frame.stop_row, frame.stop_col
        side = cls.side_for(frame.shape)

        def lengths(start: int, stop: int) -> np.ndarray:
            edges = np.arange(0, -(-stop // side) + 1) * side
            return np.maximum(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start), 0)

        counts = np.outer(lengths(frame.row, shape[0]), lengths(frame.col, shape[1]))
        return cls(frame, side, counts[:, :, None])


@dataclass(frozen=True, slots=True)
class Blocks:
    """What is held back of a scene."""

    val: tuple[Window, ...]
    """Disjoint windows inside the frame; none where the share is 0 or the frame is a single square."""
    gap: int
    """Pixels round them in which nothing may be learnt: what was asked for, or less where little else would remain."""

    @property
    def closed(self) -> tuple[Window, ...]:
        """The validation windows with the gap round them."""
        return tuple(window.expand(self.gap) if self.gap else window for window in self.val)


def split_frame(
    frame: Window, *, share: float, block: int, gap: int, seed: int, survey: Survey | None = None
) -> Blocks:
    """Square blocks, spread over the labelled frame of a scene, that are about `share` of what is labelled in it.

    Of several choices the one is taken that comes nearest to the share in every class, keeps blocks apart and loses
    little to the gap. A class that occurs in one place only stays in training.

    Args:
        frame: What is labelled; nothing outside is looked at.
        share: Of the labelled pixels, from 0 to below 1.
        block: Largest side of a block; smaller where fewer than three would do, larger where more than 16 would.
        gap: Pixels between a validation pixel and the nearest that may be learnt.
        seed: Equal seeds give equal blocks.
        survey: Of the scene; None takes every pixel of the frame for labelled, and alike.
    """
    survey = survey or Survey.even(frame)
    if not share or frame.area < 2:
        return Blocks((), gap)
    ground = _Ground(survey, frame)
    total = ground.total
    if not total.any():
        return Blocks((), gap)
    while True:
        found = [ground.choose(n, share, gap, seed) for n in _how_many(total.sum() * share, block)]
        blocks, least = min(found, key=lambda one: one[1])
        if math.isinf(least):  # so many do not fit beside each other
            blocks, _ = ground.choose(1, share, gap, seed)
        left = 1 - ground.lost(blocks, gap).sum() / total.sum()
        if left >= _KEPT * (1 - share) or not gap:
            windows = tuple(window for one in sorted(blocks) if (window := ground.window(one)))
            return Blocks(windows if left else (), gap)
        gap //= 2


def _how_many(area: float, block: int) -> list[int]:
    """Numbers of blocks worth trying for an area to hold back."""
    fewest = min(math.ceil(area / block**2), MOST_BLOCKS)
    most = max(fewest, int(area / max(block / 4, 1) ** 2))
    wanted = [n for n in numbers(most) if n >= max(fewest, min(_FEW_BLOCKS, most))]
    return wanted[:3] or [fewest]


class _Ground:
    """The squares of a survey that lie in a frame."""

    def __init__(self, survey: Survey, frame: Window) -> None:
        self.side, self.frame = survey.side, frame
        self.row, self.col = frame.row // self.side, frame.col // self.side
        last_row, last_col = -(-frame.stop_row // self.side), -(-frame.stop_col // self.side)
        self.counts = survey.counts[self.row : last_row, self.col : last_col]
        self.total = self.counts.sum(axis=(0, 1))
        self.flat = self.counts.reshape(-1, len(self.total)).astype(float)
        self.sums = np.zeros((self.counts.shape[0] + 1, self.counts.shape[1] + 1, len(self.total)), np.int64)
        self.sums[1:, 1:] = self.counts.cumsum(0).cumsum(1)

    def window(self, block: Block) -> Window | None:
        """A block in pixels of the scene."""
        row, col, rows, cols = (value * self.side for value in block)
        whole = Window(row=row + self.row * self.side, col=col + self.col * self.side, height=rows, width=cols)
        return whole.intersection(self.frame)

    def pixels(self, block: Block) -> np.ndarray:
        """(K,) labelled pixels of each class in a block."""
        row, col, rows, cols = block
        sums = self.sums
        return np.asarray(sums[row + rows, col + cols] - sums[row, col + cols] - sums[row + rows, col] + sums[row, col])

    def lost(self, blocks: Iterable[Block], gap: int) -> np.ndarray:
        """(K,) labelled pixels in the blocks and the gap round them; squares count as a whole."""
        margin = -(-gap // self.side)
        covered = np.zeros(self.counts.shape[:2])
        for row, col, rows, cols in blocks:
            covered[max(row - margin, 0) : row + rows + margin, max(col - margin, 0) : col + cols + margin] = 1
        return np.asarray(covered.ravel() @ self.flat)

    def choose(self, number: int, share: float, gap: int, seed: int) -> tuple[list[Block], float]:
        """The best `number` of blocks, and what they cost."""
        rng = np.random.default_rng((seed, number))
        shape = np.array(self.counts.shape[:2], int)
        area = float(self.total.sum()) * share / number / self.side**2
        short = int(min(shape.min(), max(1, round(math.sqrt(area)))))
        long = int(min(shape.max(), max(1, round(area / short))))
        size = (short, long) if shape[0] <= shape[1] else (long, short)
        free = shape - np.array(size)
        apart = math.sqrt(float(shape.prod()) / number)

        def anywhere() -> Block:
            row, col = rng.integers(0, free, endpoint=True).tolist()
            return row, col, *size

        def round_rare(blocks: list[Block]) -> Block:
            chances = rarest(sum((self.pixels(one) for one in blocks), np.zeros_like(self.total)), self.total)
            squares = np.argwhere(self.counts[:, :, rng.choice(len(chances), p=chances)])
            corner = squares[rng.integers(len(squares))] - rng.integers(0, size)
            row, col = np.clip(corner, 0, free).tolist()
            return row, col, *size

        def change(blocks: list[Block]) -> list[Block]:
            moved = list(blocks)
            moved[rng.integers(number)] = anywhere() if rng.random() < 0.5 else round_rare(blocks)
            return moved

        def price(blocks: list[Block]) -> float:
            crowded = _crowding(blocks, apart)
            if math.isinf(crowded):
                return crowded
            held = sum((self.pixels(one) for one in blocks), np.zeros_like(self.total))
            return cost(held, self.lost(blocks, gap), self.total, share) + _CROWDED * crowded

        def draw() -> list[Block]:
            blocks: list[Block] = []
            for _ in range(_TRIES * number):
                one = anywhere()
                if len(blocks) < number and not math.isinf(_crowding([*blocks, one], apart)):
                    blocks.append(one)
            return blocks + [anywhere() for _ in range(number - len(blocks))]

        return search(draw, change, price, draws=DRAWS, moves=MOVES)


def _crowding(blocks: list[Block], apart: float) -> float:
    """0 where blocks are `apart`, 1 where they touch, infinite where they overlap; the mean over the pairs."""
    if len(blocks) < 2:
        return 0.0
    starts, sizes = np.array(blocks)[:, :2], np.array(blocks)[:, 2:]
    first, second = np.triu_indices(len(blocks), 1)
    away = np.abs(starts[first] - starts[second])
    if (away < sizes[first]).all(axis=1).any():
        return math.inf
    return float(np.maximum(0, 1 - away.max(axis=1) / apart).mean())


def subtract(window: Window, others: Iterable[Window]) -> list[Window]:
    """Disjoint windows that cover what none of the others has of a window."""
    parts = [window]
    for other in others:
        parts = [rest for part in parts for rest in _without(part, other)]
    return parts


def _without(window: Window, other: Window) -> list[Window]:
    hole = window.intersection(other)
    if hole is None:
        return [window]
    sides = (
        (window.row, window.col, hole.row - window.row, window.width),
        (hole.stop_row, window.col, window.stop_row - hole.stop_row, window.width),
        (hole.row, window.col, hole.height, hole.col - window.col),
        (hole.row, hole.stop_col, hole.height, window.stop_col - hole.stop_col),
    )
    return [Window(row=r, col=c, height=h, width=w) for r, c, h, w in sides if h > 0 and w > 0]
