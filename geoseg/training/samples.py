"""Samples: random windows of labelled ground, each a function of the seed, its index and what earlier epochs taught."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from geoseg.errors import ResumeError
from geoseg.training.ground import FURTHER, Ground, Statistics, file_list, pixels_per_class, statistics, summary_of
from geoseg.training.view import View, cut
from geoseg.windows import Window

__all__ = [
    "FURTHER",
    "Ground",
    "Samples",
    "Statistics",
    "cut",
    "file_list",
    "pixels_per_class",
    "statistics",
]

_TRIES = 8
_ENOUGH = 0.25
"""A window is drawn again, at most `_TRIES` times, while less than this share of it is labelled."""
_HARDEST = 4
"""One window in so many of an epoch is remembered as hard."""
_FADE = 0.8
"""What the loss of a hard window counts for after an epoch in which it was not drawn again."""


class Samples(Dataset):
    """An endless row of samples.

    Each depends on the seed, its index and the hard windows known when its epoch began, and on nothing else, so that
    any run can be continued. `learn` and `load_state_dict` are for between epochs. Copies of this in other processes
    (workers of a loader, ranks) learn nothing from each other: tell each the same.
    """

    def __init__(
        self, grounds: Sequence[Ground], *, tile_size: int, seed: int, balance: float = 0, hard: float = 0
    ) -> None:
        """Samples of `tile_size` pixels a side.

        Args:
            grounds: Each holds a labelled pixel.
            tile_size: Side of a sample.
            seed: Of everything drawn.
            balance: Share of the samples that are cut round a pixel of a class, all classes as likely.
            hard: Share of the samples that are cut where the loss was high; they come before the balanced ones where
                both are more than all.
        """
        if balance:
            grounds = [replace(ground, summary=summary_of(ground)) for ground in grounds]
        self.grounds, self.tile_size, self.seed = list(grounds), tile_size, seed
        self.balance, self.hard = balance, hard
        shares = np.array([ground.share for ground in grounds])
        self.upto = np.cumsum(shares / shares.sum())
        self.classes = _classes(self.grounds) if balance else []
        self.planes = max((len(g.distances) for g in self.grounds if g.distances is not None), default=0)
        self.pool: list[tuple[int, int, int, int, float]] = []
        """Hard windows: ground, row, column, side, loss."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One sample.

        Returns:
            `image` (C, S, S), uint8 if the ground is, else float32; `target` (S, S) uint8; `valid` (S, S) bool;
            `further_<head>` (bands, S, S) float32 for each further head; if the grounds have them, `distances`
            (P, S, S) float32 in the sample's pixels, with planes of 0 after the ground's own where others have more;
            `ground` and `index`, scalars: the ground's place and the sample's own.
        """
        which, view, _ = self._view(index)
        sample = view.sample()
        if missing := self.planes - (len(sample["distances"]) if "distances" in sample else 0):
            more = torch.zeros(missing, self.tile_size, self.tile_size)
            sample["distances"] = torch.cat([sample["distances"], more]) if "distances" in sample else more
        return sample | {"ground": torch.tensor(which), "index": torch.tensor(index)}

    def _view(self, index: int) -> tuple[int, View, int | None]:
        """Which ground, what of it, and which of the hard windows it was drawn from."""
        rng = np.random.default_rng((self.seed, index))
        chance = rng.random() if self.hard or self.balance else 1.0
        if chance < self.hard:
            if self.pool:
                return self._again(rng)
        elif chance < self.hard + self.balance and self.classes:
            return self._balanced(rng)
        which = _drawn(rng, self.upto)
        ground = self.grounds[which]
        side, frame = self._side(rng, ground), ground.learnt
        for _ in range(_TRIES):
            start = [_start(rng, size, side) for size in frame.shape]
            view = self._square(ground, [frame.row + start[0], frame.col + start[1]], side)
            if view.labelled() >= _ENOUGH:
                break
        return which, view, None

    def _balanced(self, rng: np.random.Generator) -> tuple[int, View, None]:
        """A window with a pixel of some class in it, anywhere in it."""
        value, upto = self.classes[int(rng.integers(len(self.classes)))]
        which = _drawn(rng, upto)
        ground = self.grounds[which]
        side, known = self._side(rng, ground), summary_of(ground).positions[value]
        pixel = known[int(rng.integers(len(known)))].tolist()
        return which, self._near(ground, [at - int(rng.integers(side)) for at in pixel], side), None

    def _again(self, rng: np.random.Generator) -> tuple[int, View, int]:
        """A hard window, moved by up to a quarter of its side, at another zoom."""
        parent = int(rng.integers(len(self.pool)))
        which, row, col, before, _ = self.pool[parent]
        ground = self.grounds[which]
        side = self._side(rng, ground)
        moved = [round((before - side) / 2 + side * float(rng.uniform(-0.25, 0.25))) for _ in range(2)]
        return which, self._near(ground, [row + moved[0], col + moved[1]], side), parent

    def _side(self, rng: np.random.Generator, ground: Ground) -> int:
        low, high = np.log(ground.zoom)
        return max(1, round(self.tile_size * float(np.exp(rng.uniform(low, high)))))

    def _near(self, ground: Ground, start: Sequence[int], side: int) -> View:
        """The window that begins there or, where it would stick out, as near as may be."""
        frame = ground.learnt
        ends = [sorted(both) for both in ((frame.row, frame.stop_row - side), (frame.col, frame.stop_col - side))]
        inside = [min(max(at, low), high) for at, (low, high) in zip(start, ends, strict=True)]
        return self._square(ground, inside, side)

    def _square(self, ground: Ground, start: Sequence[int], side: int) -> View:
        return View(ground, Window(row=start[0], col=start[1], height=side, width=side), self.tile_size)

    def learn(self, indices: Sequence[int], losses: Sequence[float]) -> None:
        """Take the mean losses of an epoch's samples, so that later epochs come back to the hardest of them.

        A hard window that was drawn in this epoch is forgotten for what was seen in its place. Losses that are not
        finite say nothing. The order does not matter.
        """
        if not self.hard:
            return
        found, drawn = [], set()
        for index, loss in sorted(dict(zip(indices, losses, strict=True)).items()):
            if not np.isfinite(loss):
                continue
            which, view, parent = self._view(index)
            drawn.add(parent)
            found.append((which, view.window.row, view.window.col, view.window.width, float(loss)))
        kept = [(*hard[:4], hard[4] * _FADE) for place, hard in enumerate(self.pool) if place not in drawn]
        hardest = sorted(kept + found, key=lambda hard: (-hard[4], hard))
        self.pool = hardest[: -(-len(found) // _HARDEST)] if found else kept

    def state_dict(self) -> dict[str, Any]:
        """What earlier epochs taught, as JSON has it."""
        return {"grounds": len(self.grounds), "hard": [list(hard) for hard in self.pool]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ResumeError: If it is of other ground.
        """
        if state["grounds"] != len(self.grounds):
            raise ResumeError(
                f"the run was on {state['grounds']} pieces of ground, now there are {len(self.grounds)}. Expected the "
                "same data. Start a new run."
            )
        self.pool = [(int(g), int(row), int(col), int(side), float(loss)) for g, row, col, side, loss in state["hard"]]


def _classes(grounds: Sequence[Ground]) -> list[tuple[int, np.ndarray]]:
    """Every class of which a pixel is known, and how likely each ground is to show one, summed up to 1."""
    shares: dict[int, np.ndarray] = {}
    for which, ground in enumerate(grounds):
        summary = summary_of(ground)
        for value in summary.positions:
            if value in ground.known:
                own = shares.setdefault(value, np.zeros(len(grounds)))
                own[which] = ground.share * summary.counts[value] / ground.learnt.area
    return [(value, np.cumsum(own / own.sum())) for value, own in sorted(shares.items()) if own.sum() > 0]


def _drawn(rng: np.random.Generator, upto: np.ndarray) -> int:
    """Which of some shares, summed up to 1."""
    return min(int(np.searchsorted(upto, rng.random(), side="right")), len(upto) - 1)


def _start(rng: np.random.Generator, size: int, side: int) -> int:
    """Where a window of `side` begins on an axis: anywhere inside it, or round all of it when the axis is shorter."""
    low, high = sorted((0, size - side))
    return int(rng.integers(low, high, endpoint=True))
