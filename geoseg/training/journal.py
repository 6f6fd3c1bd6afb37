"""The journal of a run: after each epoch it validates, keeps the best, and writes down where the run stands."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from geoseg.checkpoint import Header
from geoseg.config import TrainConfig
from geoseg.errors import CheckpointError, GeosegError
from geoseg.predict import Placement
from geoseg.training.folder import CHECKPOINT, LAST, RunFolder
from geoseg.training.ground import Ground
from geoseg.training.metric import value_of
from geoseg.training.optim import steps_in_epoch
from geoseg.training.progress import Epoch, Standing, Step
from geoseg.training.samples import Samples
from geoseg.training.state import save_state
from geoseg.training.task import Segmentation
from geoseg.training.validate import Validation, mean_foreground, validate

log = logging.getLogger(__name__)


class Journal(Callback):
    """Validates after each epoch, keeps the best network, the last one and the state of the run, and tells of it.

    All processes of a run have one; only the first's has a folder to write.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        task: Segmentation,
        header: Header,
        samples: Samples,
        val: Sequence[Ground],
        placement: Placement,
        *,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self.folder, self.task, self.header, self.samples = folder, task, header, samples
        self.val, self.placement = list(val), placement
        self.on_epoch, self.on_step = on_epoch, on_step
        self.standing = Standing()
        self.state: dict[str, Any] | None = None
        """What the run goes on from."""
        self.about: dict[str, Any] = {}
        """What is kept in the state along with the rest."""
        self.interrupt: BaseException | None = None
        self._part = task.part
        self._before = self._validated = self._begun = self._epoch_begun = 0.0

    # --- where the run stands

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from the state, if there is one; time runs from here."""
        if self.state:
            self._restore(trainer, self.state)
        self.task.ranks.share_start(self.task.network)
        self.task.ranks.hold_signals()
        self._begun = time.perf_counter()
        self._before = self.standing.seconds

    def _restore(self, trainer: Trainer, state: Mapping[str, Any]) -> None:
        task = self.task
        task.network.load_state_dict(state["network"])
        if state["average"]:
            task.average.network.load_state_dict(state["average"])
        if task.average.start is not None:
            task.average.start.load_state_dict(state["start"])
        task.average.steps = state["average_steps"]
        # The tensors of a state lie in memory as they did, which fused optimizers take for granted.
        optimizer = trainer.optimizers[0]
        groups = optimizer.state_dict()["param_groups"]  # of this device: another may be fused, or not
        optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        if state["scaler"]:
            trainer.precision_plugin.load_state_dict(state["scaler"])
        self.samples.load_state_dict(state["samples"])
        progress: Any = trainer.fit_loop.epoch_progress.current
        progress.processed = progress.completed = self.standing.epochs
        trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = state["steps"]

    def keep_state(self, trainer: Trainer | None = None) -> None:
        """Write down everything that the next epoch depends on; without a trainer, no step has been made."""
        if self.folder is None:
            return
        task = self.task
        standing = {name: getattr(self.standing, name) for name in self.standing.__slots__}
        state = {
            "standing": standing,
            "header": self.header.model_dump(mode="json"),
            "steps": trainer.global_step if trainer else 0,
            "network": task.network.state_dict(),
            "average": task.average.network.state_dict() if task.average.decay or task.average.keep else {},
            "start": task.average.start.state_dict() if task.average.start is not None else {},
            "average_steps": task.average.steps,
            "optimizer": trainer.optimizers[0].state_dict()["state"] if trainer else {},
            "scaler": trainer.precision_plugin.state_dict() if trainer else {},
            "samples": self.samples.state_dict(),
        }
        save_state(self.folder.path, self.standing.epochs, state | self.about)

    # --- steps

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch's speed begins anew."""
        self._epoch_begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write down that memory ran out, if it did; tell of the step."""
        if self.task.part != self._part:
            self._part = self.task.part
            self._record_part()
        if self.on_step is None or self.folder is None:
            return
        config, done = self.task.config, batch_idx + 1
        steps, spent = steps_in_epoch(config), time.perf_counter() - self._epoch_begun
        left = (config.epochs - trainer.current_epoch) * steps - done
        losses = self.task.losses
        self.on_step(
            Step(
                epoch=trainer.current_epoch + 1,
                epochs=config.epochs,
                number=done,
                of=steps,
                loss=sum(one["loss"] for one in losses) / len(losses),
                samples_per_s=_samples(config, done) / spent,
                eta_s=left * spent / done + (config.epochs - trainer.current_epoch) * self._validated,
                metric=config.metric,
                best=self.standing.best,
            )
        )

    def _record_part(self) -> None:
        """The configuration by which the run goes on: smaller batches, more of which make a step."""
        config = fitted(self.task.config, self._part * self.task.ranks.count)
        if self.folder:
            log.warning(
                "Out of memory with %d samples in a batch: from here on batch_size=%d and accumulate=%d, which makes "
                "the same steps. config.yaml says so.",
                self.task.config.batch_size,
                config.batch_size,
                config.optimizer.accumulate,
            )
            self.folder.write_config(config)

    # --- epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the averaged network, keep it if it is the best so far, write down where the run stands."""
        self.task.settle()
        stepped = time.perf_counter() - self._epoch_begun
        self._learn()
        if self.folder:
            self._close_epoch(trainer, self.folder, stepped)
        trainer.should_stop = self.task.ranks.tell(self.standing.exhausted(self.task.config.patience))

    def _learn(self) -> None:
        """Tell the samples of all processes which were hard."""
        if not self.samples.hard:
            return
        seen = [(indices.tolist(), losses.tolist()) for indices, losses in self.task.seen]
        every = [pair for own in self.task.ranks.gather(seen) for pair in own]
        self.samples.learn([i for indices, _ in every for i in indices], [v for _, values in every for v in values])

    def _close_epoch(self, trainer: Trainer, folder: RunFolder, stepped: float) -> None:
        try:
            scores = self._validate()
            epoch = self._epoch(trainer.current_epoch + 1, scores, stepped)
            header = self.header.model_copy(update={"metrics": metrics_of(scores)})
            for name in (CHECKPOINT, LAST) if epoch.saved else (LAST,):
                folder.write_network(name, header, self.task.average.network)
        except CheckpointError as err:  # of the last step no later one tells
            raise self.task.lost("network=nan") from err
        self.standing.take(epoch)
        folder.write_rows(self.standing.rows)
        folder.write_events(epoch.columns, epoch.number)
        # Last: should the run end before, this epoch is made again and its files are written once more, the same.
        self.keep_state(trainer)
        folder.note(", ".join(f"{name} {value}" for name, value in epoch.row().items() if value))
        self.on_epoch(epoch)

    def _validate(self) -> Validation:
        begun = time.perf_counter()
        loss = self.task.objective.of_window if self.task.config.metric == "val_loss" else None
        scores = validate(self.task.average.network, self.header, self.val, self.placement, loss=loss)
        self._validated = time.perf_counter() - begun
        return scores

    def _epoch(self, number: int, scores: Validation, stepped: float) -> Epoch:
        config, losses = self.task.config, self.task.losses
        means = {name: float(np.mean([one[name] for one in losses])) for name in losses[0]}
        iou = scores.iou.get("all", {})
        epoch = Epoch(
            number=number,
            of=config.epochs,
            loss=means.pop("loss"),
            terms=means,
            lr=self.task.rate,
            iou=iou,
            mean_iou=mean_foreground(iou),
            shares=dict(self.task.shares),
            further=scores.further,
            samples_per_s=_samples(config, steps_in_epoch(config)) / stepped,
            seconds=self._before + time.perf_counter() - self._begun,
            saved=False,
            metrics={"score": scores.score} | scores.metrics if self.val else {},
            metric=config.metric,
        )
        epoch = replace(epoch, value=value_of(epoch))
        better = epoch.is_better_than(self.standing.best)
        return replace(epoch, saved=better, best=epoch.value if better else self.standing.best)

    # --- ends

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Interrupted: keep what there is."""
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException):
            return
        self.interrupt = exception
        if self.folder is None:
            return
        task = self.task
        if task.average.steps:
            header = self.header.model_copy(update={"metrics": metrics_of(Validation())})
            try:
                self.folder.write_network(LAST, header, task.average.network)
                if not self.standing.epochs:
                    self.folder.write_network(CHECKPOINT, header, task.average.network)
            except GeosegError as err:  # a step that was not finite is told of only after the next
                log.warning("%s", err)
        exception.add_note(self.kept())

    def kept(self) -> str:
        """What the run folder holds of an interrupted run, in a sentence."""
        assert self.folder  # noqa: S101  for the type checker
        path, epochs = self.folder.path / CHECKPOINT, self.standing.epochs
        if not self.task.average.steps:
            return "Nothing was learnt yet."
        if not epochs:
            return f"{path} holds what was learnt before the end of the first epoch."
        which = "best" if self.val else "last"
        many = f"{epochs} epoch{'s' if epochs > 1 else ''}"
        return f"{path} holds the {which} of {many}; --resume goes on after the last of them."


def metrics_of(scores: Validation) -> dict[str, Any]:
    """What a checkpoint says of how well its network does."""
    return {"iou": scores.iou} | ({"further": scores.further} if scores.further else {})


def fitted(config: TrainConfig, batch_size: int) -> TrainConfig:
    """The same steps from smaller batches.

    Args:
        config: A run.
        batch_size: A divisor of its `batch_size`.
    """
    factor = config.batch_size // batch_size
    optimizer = config.optimizer.model_copy(update={"accumulate": config.optimizer.accumulate * factor})
    changes = {"batch_size": batch_size, "steps_per_epoch": config.steps_per_epoch * factor, "optimizer": optimizer}
    return config.model_copy(update=changes)


def _samples(config: TrainConfig, steps: int) -> int:
    """In the first steps of an epoch."""
    return min(steps * config.optimizer.accumulate, config.steps_per_epoch) * config.batch_size
