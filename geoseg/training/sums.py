"""Sums: what validation adds up, cell by cell, over all of its ground."""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import numpy as np
import torch
from affine import Affine
from torch import Tensor

from geoseg.checkpoint import Head, Header
from geoseg.metrics import IGNORE, ConfusionMatrix, LabelCounts, Reliability, TileScore, ValueErrors, mean_known
from geoseg.scores import Scores
from geoseg.training.calibrate import Choice, choices, figure_names
from geoseg.training.ground import Ground
from geoseg.windows import Window

_TILE = 512
"""Longest side of a tile that is scored by itself."""

LOGITS = "logits"
"""Name of the logits beside a cell's scores."""

Loss = Callable[[Tensor, Ground, Window], Tensor | float]
"""The loss of (1, C, h, w) float32 logits of a window of the ground, of at most 512 pixels a side; on the CPU."""


def main_head(header: Header) -> str | None:
    """Name of the head that the sources' labels are of, as `TrainConfig.main_head`; None without one."""
    return next((name for name, head in header.heads.items() if head.exclusive), None)


class Sums:
    """What is added up over all ground."""

    def __init__(self, header: Header, every: int, loss: Loss | None, sample: list[Choice] | None) -> None:
        self.header, self.every, self.loss, self.sample = header, every, loss, sample
        self.main = main_head(header)
        self.classes = [item.name for item in header.heads[self.main].classes] if self.main else []
        self.sources: dict[str, ConfusionMatrix] = {}
        self.tiles: dict[tuple[int, Window], TileScore] = {}
        self.further = {name: FurtherSums(head) for name, head in header.heads.items() if name != self.main}
        heads = header.heads.items()
        self.reliability = Reliability([one for name, head in heads for one in figure_names(name, head, self.main)])
        self.lost = self.pixels = 0.0

    def add(self, index: int, ground: Ground, window: Window, found: Scores) -> None:
        """Take in one cell."""
        if self.main:
            self._count(index, ground, window, self._of(found, "labels", self.main))
        for name, sums in self.further.items():
            sums.add(self._of(found, sums.kind, name), self._truth(ground, name, window.slices()))
        if (z := found.get(LOGITS)) is not None:
            self._look(ground, window, z)

    def _truth(self, ground: Ground, head: str, part: tuple[slice, slice]) -> np.ndarray:
        return np.where(ground.valid[part], ground.further[head][:, *part], np.float32(np.nan))

    def _of(self, found: Scores, kind: str, head: str) -> np.ndarray:
        return found[kind if len(self.header.heads) == 1 else f"{kind}_{head}"]

    def _count(self, index: int, ground: Ground, window: Window, labels: np.ndarray) -> None:
        target = ground.target[window.slices()]
        others = [value for value in range(len(self.classes)) if value not in ground.known]
        if len(others) > 1:
            same = np.arange(256, dtype=np.uint8)
            same[others] = others[0]
            target, labels = same[target], same[labels]
        matrix = self.sources.setdefault(ground.source, ConfusionMatrix(self.classes))
        for tile in tiles_of(ground.target.shape):
            if (part := tile.intersection(window)) is None:
                continue
            own = ConfusionMatrix(self.classes)
            own.update(target[part.slices(window)], labels[part.slices(window)])
            matrix.merge(own)
            self._score_of(index, ground, tile).matrix[:] += own.matrix

    def _score_of(self, index: int, ground: Ground, tile: Window) -> TileScore:
        """The row of a tile, with what was counted of it so far."""
        if (score := self.tiles.get((index, tile))) is None:
            col, row = _corner(ground, tile)
            nothing = np.zeros((len(self.classes),) * 2, np.int64)
            place = ground.source, ground.name, col, row, tile.width, tile.height
            score = self.tiles[index, tile] = TileScore(*place, nothing, index, tile)
        return score

    def _look(self, ground: Ground, window: Window, z: np.ndarray) -> None:
        """At the logits, of all pixels where there is a loss, else of the lattice."""
        rows, cols = window.slices()
        if self.loss:
            self._lose(ground, window, z)
            z = np.ascontiguousarray(z[:, :: self.every, :: self.every])
        lattice = slice(rows.start, rows.stop, self.every), slice(cols.start, cols.stop, self.every)
        further = {name: self._truth(ground, name, lattice) for name in self.further}
        for choice in choices(z, ground.target[lattice], further, self.header.heads, self.main, ground.known):
            choice.count(self.reliability, self.header.temperature)
            if self.sample is not None:
                self.sample.append(choice)

    def _lose(self, ground: Ground, window: Window, z: np.ndarray) -> None:
        assert self.loss  # noqa: S101  for the type checker
        for tile in tiles_of(ground.target.shape):
            if (part := tile.intersection(window)) is None:
                continue
            if pixels := int(np.count_nonzero(ground.target[part.slices()] != IGNORE)):
                logits = torch.from_numpy(np.ascontiguousarray(z[:, *part.slices(window)]))[None]
                self.lost += float(self.loss(logits, ground, part)) * pixels
                self.pixels += pixels


class FurtherSums:
    """Sums over all ground of one further head."""

    def __init__(self, head: Head) -> None:
        self.head, self.kind = head, "values" if head.task == "regression" else "labels"
        names = [item.name for item in head.classes]
        self.errors = ValueErrors()
        self.classes = ConfusionMatrix(names) if head.exclusive else None
        self.labels = LabelCounts(names)

    def add(self, found: np.ndarray, truth: np.ndarray) -> None:
        """Take in one cell: what was found, and (bands, h, w) what is true, NaN where that is unknown."""
        if self.kind == "values":
            self.errors.update(truth[0], found)
            return
        known = np.nan_to_num(truth, nan=IGNORE).astype(np.uint8)
        if self.classes:
            self.classes.update(known[0], found)
        else:
            self.labels.update(known, found)

    def scores(self) -> tuple[dict[str, float | None], float | None]:
        """By name, and the head's share of the score."""
        if self.kind == "values":
            figures = self.errors.scores()
            own = {name: getattr(figures, name) for name in ("rmse", "mae", "bias", "r2")}
            return own, None if figures.rmse is None else 1 - (figures.rmse / self.head.scale) ** 2
        found = (self.classes or self.labels).scores()
        iou = {score.name: score.iou for score in found.classes}
        return iou, mean_foreground(iou) if self.head.exclusive else mean_known(list(iou.values()))


def tiles_of(shape: tuple[int, int]) -> Iterator[Window]:
    """The fewest windows of at most 512 pixels a side that cut a rectangle evenly, in row-major order."""
    rows, cols = (np.linspace(0, side, -(-side // _TILE) + 1).round().astype(int).tolist() for side in shape)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            yield Window(row=top, col=left, height=bottom - top, width=right - left)


def _corner(ground: Ground, tile: Window) -> tuple[int, int]:
    """Column and row of a tile's first pixel, counted from the CRS's origin: the same whatever the ground's bounds."""
    place = ground.grid.window_transform(tile)
    col, row = ~Affine(place.a, place.b, 0, place.d, place.e, 0) @ (place.c, place.f)
    return round(col), round(row)


def mean_foreground(iou: Mapping[str, float | None]) -> float | None:
    """Mean over all classes but the first, of those that are there; None if none is."""
    return mean_known(list(iou.values())[1:])
