"""How fast networks answer on this machine, beside one another."""

import time
from collections.abc import Sequence

import numpy as np

from geoseg.batches import Tile
from geoseg.checkpoint import Checkpoint
from geoseg.predict import Placement, Runner
from geoseg.scores import Decision

_SIDE = 512
_ROUNDS = 3
_LONG = 5.0
"""Seconds of one round after which there is no further one."""


def megapixels_per_second(checkpoints: Sequence[Checkpoint], placement: Placement) -> list[float]:
    """Forward pass and choice of classes, of tiles of 512 x 512 in memory; the best of three rounds that take turns."""
    runners = [_Timed(checkpoint, placement) for checkpoint in checkpoints]
    for runner in runners:
        runner.seconds()  # memory and kernels are prepared by the first pass
    best = [float("inf")] * len(runners)
    for _ in range(_ROUNDS):
        taken = [runner.seconds() for runner in runners]
        best = [min(pair) for pair in zip(best, taken, strict=True)]
        if sum(taken) > _LONG:
            break
    return [runner.pixels / 1e6 / seconds for runner, seconds in zip(runners, best, strict=True)]


class _Timed:
    def __init__(self, checkpoint: Checkpoint, placement: Placement) -> None:
        header = checkpoint.header
        decision = Decision(heads=header.heads, temperature=header.temperature, thresholds=header.thresholds)
        model = checkpoint.build()
        self.runner = Runner(model, mean=header.mean, std=header.std, decision=decision, placement=placement)
        self.halo = self.runner.margin
        side = -(-_SIDE // self.runner.stride) * self.runner.stride
        chance = np.random.default_rng(0)
        values = chance.normal(size=(len(header.bands), side, side)).astype(np.float32)
        data = values * np.array(header.std, np.float32)[:, None, None] + np.array(header.mean)[:, None, None]
        inner = side - 2 * self.halo
        self.tiles = [Tile(data.astype(np.float32), np.ones((side, side), bool))] * self.runner.step
        self.valid = [np.ones((inner, inner), bool)] * self.runner.step
        self.pixels = inner**2 * self.runner.step

    def seconds(self) -> float:
        """Of one batch."""
        begun = time.perf_counter()
        self.runner(self.tiles, self.valid, halo=self.halo)
        return time.perf_counter() - begun
