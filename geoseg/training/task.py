"""The Lightning task: the batches of a step to a step of the optimizer, partial labels included.

Steps are made by hand (Lightning's manual optimization): their batches are cut into parts that fit into memory, and
when one does not, the whole step is made again in smaller ones, by every process of the run alike.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Generator, Tensor, nn

from geoseg.checkpoint import Head
from geoseg.config import TrainConfig
from geoseg.errors import DeviceError, TrainingError
from geoseg.losses import Mixture
from geoseg.models.layout import channels_last
from geoseg.predict import is_out_of_memory
from geoseg.training.augment import change_light, light_range, move
from geoseg.training.ground import Ground, Statistics, file_list
from geoseg.training.heads import heads_of
from geoseg.training.objective import Objective
from geoseg.training.optim import Average, freeze, make_optimizer, set_rate
from geoseg.training.ranks import Ranks

__all__ = ["Segmentation"]


_OVERFLOWS = 40
"""Gradients in a row that may be too large for float16: so often halved, its scale of 65536 cannot be the reason."""


class Segmentation(LightningModule):
    """Trains a network on batches of `Samples`."""

    low: Tensor
    span: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        loss: Mixture,
        config: TrainConfig,
        grounds: Sequence[Ground],
        normalisation: Statistics,
        heads: Mapping[str, Head] | None = None,
        *,
        started: bool = False,
        keep: float = 0.0,
    ) -> None:
        """A task for `network`.

        Args:
            network: (N, C, H, W) -> (N, K, H, W) logits.
            loss: What is made small, of the head of exclusive classes.
            config: The run.
            grounds: What the samples are cut from.
            normalisation: Of the training pixels.
            heads: The checkpoint's; by default as the configuration has them.
            started: Whether the network comes from a checkpoint.
            keep: Share of the network as it is now that stays in what is validated and saved.
        """
        super().__init__()
        self.automatic_optimization = False
        self.started = started
        self.network = channels_last(network)
        self.config, self.grounds = config, list(grounds)
        self.objective = Objective(loss, config, heads or heads_of(config))
        self.average = Average(network, config.optimizer.ema, keep)
        self.ranks = Ranks()
        self.part = config.batch_size // self.ranks.count
        """Samples in a forward pass of this process: the batch, or what of it fits into memory."""
        self.rate = 0.0
        """Highest learning rate of the last step."""
        self.shares: dict[str, float] = {}
        """What each term had of its head's gradient in the first step of the epoch."""
        self.losses: list[dict[str, float]] = []
        """The loss and its terms in the steps of the epoch, of all processes together."""
        self.seen: list[tuple[Tensor, Tensor]] = []
        """Indices and losses of this process's samples of the epoch, where hard ones are drawn again."""
        self.chance = Generator()
        self._unread: _Unread | None = None
        self._last: tuple[int, set[int]] = 0, set()
        self._overflows = 0
        low, high = torch.tensor(light_range(normalisation.mean, normalisation.std, normalisation.value_range)).T
        self._plane("low", low)
        self._plane("span", high - low)
        self._plane("mean", (torch.tensor(normalisation.mean) - low) / (high - low))
        self._plane("std", torch.tensor(normalisation.std) / (high - low))

    def _plane(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.float().view(1, -1, 1, 1), persistent=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As the configuration says. The rate depends on the step alone and is set before each."""
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        return make_optimizer(self.network, self.config.optimizer, scaled=scaled)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batches of a step stay where they are; each part goes to the device when its turn comes."""
        return batch

    def on_train_epoch_start(self) -> None:
        """The encoder learns, or not yet; what is gathered in an epoch begins anew."""
        settings = self.config.optimizer
        norm = self.started if settings.freeze_norm is None else settings.freeze_norm
        freeze(self.network, self.current_epoch < settings.freeze_encoder, norm=norm)
        self.losses, self.seen, self.shares = [], [], {}

    # --- a step

    def training_step(self, batch: dict[str, Tensor], index: int) -> None:
        """Make one step of the optimizer from all batches whose gradients it takes.

        Raises:
            TrainingError: If a loss or gradient is not finite; names the files the samples were cut from.
            DeviceError: If not even a single sample fits into memory.
        """
        # Not at the end of the step itself, where the device would be idle until the next one comes.
        self.settle()
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)  # noqa: S101  for the type checker
        statistics = list(self.network.buffers())
        before = [buffer.clone() for buffer in statistics]
        while True:
            optimizer.zero_grad()
            sums = self._gradients(batch, first=index == 0)
            if self.ranks.all_well(sums is not None, self.device):
                break
            sums = None
            self._halve(batch)
            for buffer, value in zip(statistics, before, strict=True):
                buffer.copy_(value)
        names, values = cast("tuple[list[str], Tensor]", sums)
        values = self.ranks.average(self.network, values)
        self.rate = set_rate(cast(torch.optim.Optimizer, optimizer), self.global_step, self.config)
        self._unread = _Unread(self.global_step + 1, names, values, batch["ground"])
        optimizer.step()
        self.average.update(self.network)
        if index == 0 or self.device.type == "cpu":
            self.settle()

    def _gradients(self, batch: dict[str, Tensor], *, first: bool) -> tuple[list[str], Tensor] | None:
        """The gradients of a step, and the names and values of its loss and terms; None when memory runs out."""
        count = len(batch["ground"])
        names, values, seen = [""], [], []
        try:
            # Lightning has its autocast on, in which nothing but the forward pass should be.
            with torch.autocast(self.device.type, enabled=False):
                for start in range(0, count, self.part):
                    part = {name: plane[start : start + self.part] for name, plane in batch.items()}
                    loss, terms, own = self._loss_of(part, shares=first and start == 0)
                    share = len(part["ground"]) / count
                    self.manual_backward(loss * share)
                    names = ["loss", *terms]
                    values.append(torch.stack([loss.detach(), *terms.values()]) * share)
                    seen += [(part["index"], own)] if own is not None else []
        except RuntimeError as err:
            if not is_out_of_memory(err):
                raise
            return None
        self.seen += seen
        return names, torch.stack(values).sum(0)

    def _halve(self, batch: dict[str, Tensor]) -> None:
        """Take smaller parts from here on: the largest that divide a batch and are no more than half as large."""
        if self.part == 1:
            sides = "x".join(str(side) for side in batch["image"].shape[:-3:-1])
            raise DeviceError(
                f"a sample of {sides} pixels does not fit into the memory of {self.device}. Expected room for one. "
                "Choose a smaller tile_size or network, or another device."
            )
        whole = self.config.batch_size // self.ranks.count
        self.part = max(size for size in range(1, self.part // 2 + 1) if whole % size == 0)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients; their norm is looked at along with the loss."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.clip)
        if self._unread:
            self._unread.norm = norm

    def settle(self) -> None:
        """Read what the last step came to, which may still lie on the device.

        Raises:
            TrainingError: If it is not finite.
        """
        unread, self._unread = self._unread, None
        if unread is None:
            return
        values = unread.values.tolist()
        # With float16, gradients overflow now and then; the scaler leaves out such a step.
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        norm = 0.0 if unread.norm is None else float(unread.norm)
        self._overflows = 0 if math.isfinite(norm) else self._overflows + 1
        self._last = unread.step, set(unread.grounds.tolist())
        if not math.isfinite(values[0]):
            raise self.lost(f"loss={values[0]:g}", everywhere=True)
        if self._overflows > (_OVERFLOWS if scaled else 0):
            raise self.lost(f"gradient={norm:g}", everywhere=True)
        self.losses.append(dict(zip(unread.names, values, strict=True)))

    def lost(self, what: str, *, everywhere: bool = False) -> TrainingError:
        """What is to be said when something is not finite after the last step that was read.

        Args:
            what: It.
            everywhere: Whether all processes of the run say so, each with its own samples.
        """
        step, grounds = self._last
        files = file_list(self.grounds[index] for index in grounds)
        said = ", ".join(self.ranks.gather(files) if everywhere else [files])
        return TrainingError(
            f"{what} in step {step} (samples of {said}). Expected a finite number. Lower the learning rate (now "
            f"{self.config.optimizer.lr:g}), or look at these files."
        )

    # --- the loss

    def _loss_of(self, part: dict[str, Tensor], *, shares: bool) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The loss of some samples, its terms without a gradient, and each sample's own loss where that is wanted."""
        self.seed(part)
        known = [self.grounds[index].known for index in part["ground"].tolist()]
        part = {name: plane.to(self.device, non_blocking=True) for name, plane in part.items()}
        image, targets = self.prepare(part)
        with self.trainer.precision_plugin.forward_context():
            logits, auxiliary = self._answers(image)
        if margin := int(getattr(self.network, "margin", 0)):  # without padding, the edge of a sample is context only
            targets = {name: target[..., margin:-margin, margin:-margin] for name, target in targets.items()}
        loss, terms = self.objective(logits, targets, known, auxiliary)
        if shares:
            self.shares = self.objective.gradient_shares(terms, logits)
        own = self.objective.of_each(logits, targets, known) if self.config.data.hard else None
        return loss, {name: value.detach() for name, value in terms.items()}, own

    def seed(self, part: Mapping[str, Tensor]) -> None:
        """Let all chance come from the first sample's index: a step made again repeats itself, and so does a run."""
        torch.manual_seed(seed := self.config.seed * 1_000_003 + int(part["index"][0]))
        self.chance.manual_seed(seed)

    def changed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Change the samples at random.

        Returns:
            The image (N, C, H, W) float32, the usual range of values as 0..1; where it is valid (N, H, W); and the
            targets, as they came.
        """
        planes = {name: plane for name, plane in batch.items() if plane.ndim > 2}
        moved = move(planes, self.config.augmentation, self.chance)
        image, valid = moved.pop("image"), moved.pop("valid")
        image = image.to(torch.float32).sub(self.low).div_(self.span)
        return change_light(image, self.config.augmentation, self.chance, valid), valid, moved

    def prepare(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Change the samples at random and normalise them.

        Returns:
            (N, C, H, W) float32 channels_last, and the targets: `target` (N, H, W) int64, the others as they came.
        """
        image, valid, targets = self.changed(batch)
        image = image.sub_(self.mean).div_(self.std).masked_fill_(~valid[:, None], 0.0)
        targets["target"] = targets["target"].long()
        return image.contiguous(memory_format=torch.channels_last), targets

    def _answers(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and those of the network's auxiliary head if it has one."""
        if getattr(self.network, "aux_classifier", None) is None:
            return self.network(image), None
        logits, auxiliary = cast(Any, self.network).forward_with_auxiliary(image)
        return logits, auxiliary


class _Unread:
    """What a step came to, on the device."""

    def __init__(self, step: int, names: list[str], values: Tensor, grounds: Tensor) -> None:
        self.step, self.names, self.values, self.grounds = step, names, values, grounds
        self.norm: Tensor | None = None
