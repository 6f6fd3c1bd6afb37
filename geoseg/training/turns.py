"""Turns: which samples of each step of an epoch are this process's."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from geoseg.config import TrainConfig
from geoseg.training.optim import steps_in_epoch
from geoseg.training.ranks import Ranks


class Turns(Sampler[list[int]]):
    """Which samples of each step of an epoch are this process's: every so many-th of them."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        self.config, self.ranks, self.epoch = config, ranks, 0
        self.sampler = self  # where the trainer looks for whom to tell of the epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer when an epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return steps_in_epoch(self.config)

    def __iter__(self) -> Iterator[list[int]]:
        config = self.config
        first, step = config.steps_per_epoch * config.batch_size, config.batch_size * config.optimizer.accumulate
        last = first * (self.epoch + 1)
        for begin in range(first * self.epoch, last, step):
            yield list(range(begin + self.ranks.own, min(begin + step, last), self.ranks.count))
