"""What is written of a run: the best checkpoint, the configuration, a line of metrics for each epoch."""

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from geoseg.checkpoint import Header, save_checkpoint
from geoseg.config import dump_config
from geoseg.errors import OutputError
from geoseg.predict import Placement
from geoseg.training.samples import Ground
from geoseg.training.task import Segmentation, rate
from geoseg.training.validate import Validation, mean_foreground, validate

CHECKPOINT, CONFIG, METRICS = "model.safetensors", "config.yaml", "metrics.csv"
"""The files of a run folder."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What there is to say when an epoch ends."""

    number: int
    """From 1."""
    of: int
    """Epochs in all."""
    loss: float
    """Mean over the epoch's steps."""
    terms: dict[str, float]
    """The same for each term of the loss, before its factor."""
    lr: float
    """Learning rate of the last step."""
    iou: dict[str, float | None]
    """Per class on the validation ground; None for a class that is not there. Empty without such ground."""
    mean_iou: float | None
    """Mean over the classes after the background, of those there are: decides which epoch is the best where there is no
    other head."""
    shares: dict[str, float]
    """What each term had of its head's gradient in the epoch's first batch: near 1, no other term is heard."""
    further: dict[str, float | None]
    """Scores of further heads, see `Validation`."""
    samples_per_s: float
    """Speed of the steps, validation left out."""
    seconds: float
    """Since the first step."""
    saved: bool
    """Whether this epoch is the best so far and its checkpoint was written."""


class Journal(Callback):
    """Validates after each epoch, keeps the best checkpoint and writes down how it went.

    Nothing is written before the first epoch is over: until then the files of an earlier run stay.
    """

    def __init__(
        self,
        run: Path,
        task: Segmentation,
        header: Header,
        val: Sequence[Ground],
        placement: Placement,
        on_epoch: Callable[[Epoch], None],
    ) -> None:
        self.run, self.task, self.header, self.val, self.placement = run, task, header, list(val), placement
        self.on_epoch = on_epoch
        self.best = -math.inf
        self.saved = False
        self.epochs = 0
        self.interrupt: KeyboardInterrupt | None = None
        self.losses: list[dict[str, float]] = []
        self.begun = self.epoch_begun = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time runs from here."""
        self.begun = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch's means begin anew."""
        self.losses, self.epoch_begun = [], time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the loss and its terms."""
        self.losses.append({name: float(value) for name, value in outputs.items()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the averaged network, keep it if it is the best so far, write a row."""
        stepped = time.perf_counter() - self.epoch_begun
        network, config = self.task.average.network, self.task.config
        scores = validate(network, self.header, self.val, self.placement)
        better = scores.score is None or scores.score > self.best
        if better:
            self.best = -math.inf if scores.score is None else scores.score
            self.save(network, scores)
        iou = scores.iou.get("all", {})
        means = {name: float(np.mean([one[name] for one in self.losses])) for name in self.losses[0]}
        epoch = Epoch(
            number=trainer.current_epoch + 1,
            of=config.epochs,
            loss=means.pop("loss"),
            terms=means,
            lr=config.optimizer.lr * rate(trainer.global_step - 1, config.steps, config.optimizer.warmup),
            iou=iou,
            mean_iou=mean_foreground(iou),
            shares=dict(self.task.shares),
            further=scores.further,
            samples_per_s=len(self.losses) * config.batch_size / stepped,
            seconds=time.perf_counter() - self.begun,
            saved=better,
        )
        self.write(epoch)
        self.epochs = epoch.number
        self.on_epoch(epoch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Interrupted before the first epoch ended: keep what there is."""
        if isinstance(exception, KeyboardInterrupt):
            self.interrupt = exception
            if self.task.average.steps and not self.saved:
                self.save(self.task.average.network, Validation())
            exception.add_note(self.kept())

    def kept(self) -> str:
        """What the run folder holds of an interrupted run, in a sentence."""
        path = self.run / CHECKPOINT
        if not self.saved:
            return f"Nothing was learnt yet: {self.run} is as it was."
        if not self.epochs:
            return f"{path} holds what was learnt before the end of the first epoch."
        which = "best" if self.val else "last"
        return f"{path} holds the {which} of {self.epochs} epoch{'s' if self.epochs > 1 else ''}."

    def save(self, network: nn.Module, scores: Validation) -> None:
        """Write the checkpoint with what it reached on each validation source; the configuration beside it."""
        try:
            self.run.mkdir(exist_ok=True)
        except OSError as err:
            raise OutputError(f"{self.run} cannot be made ({err.strerror}). Expected a writable folder.") from err
        metrics: dict[str, Any] = {"iou": scores.iou} | ({"further": scores.further} if scores.further else {})
        header = self.header.model_copy(update={"metrics": metrics})
        save_checkpoint(self.run / CHECKPOINT, header, network.state_dict())
        (self.run / CONFIG).write_text(dump_config(self.task.config), encoding="utf-8")
        self.saved = True

    def write(self, epoch: Epoch) -> None:
        """One more line of metrics.csv; the first one begins a new file."""
        scores = {f"iou_{name}": value for name, value in epoch.iou.items()} | {"iou_mean": epoch.mean_iou}
        scores |= epoch.further | {f"share_{name}": value for name, value in epoch.shares.items()}
        row = {"epoch": str(epoch.number), "lr": f"{epoch.lr:.6g}"}
        row |= {name: f"{value:.6g}" for name, value in ({"loss": epoch.loss} | epoch.terms).items()}
        row |= {name: "" if value is None else f"{value:.6g}" for name, value in scores.items()}
        row |= {"samples_per_s": f"{epoch.samples_per_s:.1f}", "seconds": f"{epoch.seconds:.1f}"}
        first = epoch.number == 1
        with (self.run / METRICS).open("w" if first else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if first:
                writer.writeheader()
            writer.writerow(row)
