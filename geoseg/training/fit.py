"""Fit: a configuration in, a run folder out (`model.safetensors`, `config.yaml`, `metrics.csv`)."""

import copy
import csv
import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader

from geoseg.checkpoint import ClassInfo, Head, Header, load_checkpoint, resolve_model, save_checkpoint
from geoseg.config import TrainConfig, dump_config
from geoseg.engine import cells
from geoseg.errors import OutputError, OutputExistsError, UsageError
from geoseg.losses import parse_mixture
from geoseg.metrics import ConfusionMatrix
from geoseg.models import build_model
from geoseg.models.receptive import receptive_radius
from geoseg.predict import Placement, Runner
from geoseg.training.grounds import Data, load_data
from geoseg.training.samples import Epochs, Ground, Samples, Statistics, statistics
from geoseg.training.task import Segmentation
from geoseg.windows import Plan

log = logging.getLogger(__name__)

CHECKPOINT, CONFIG, METRICS = "model.safetensors", "config.yaml", "metrics.csv"
"""The files of a run folder."""

_LIGHTNING_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


@dataclass(frozen=True, slots=True)
class Epoch:
    """What there is to say when an epoch ends."""

    number: int
    """From 1."""
    of: int
    """Epochs in all."""
    loss: float
    """Mean over the epoch's steps."""
    lr: float
    """Learning rate of the last step."""
    iou: dict[str, float | None]
    """Per class on the validation ground; None for a class that is neither there nor predicted. Empty without one."""
    samples_per_s: float
    """Speed of the steps, validation left out."""
    seconds: float
    """Since the first step."""
    best: bool
    """Whether the checkpoint was written."""

    @property
    def score(self) -> float | None:
        """Mean IoU of the classes after the background, of those there are."""
        there = [value for value in list(self.iou.values())[1:] if value is not None]
        return sum(there) / len(there) if there else None


def train(
    config: TrainConfig,
    run: Path,
    *,
    device: str = "auto",
    init: str | None = None,
    overwrite: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Path:
    """Train a model and write its run folder.

    Args:
        config: Everything that decides the result.
        run: Folder to write; made if missing.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        init: Built-in model or checkpoint to start from; it brings its normalisation.
        overwrite: Replace the files of an earlier run.
        on_epoch: Called after every epoch.

    Returns:
        Path of the checkpoint: the best epoch by mean IoU of the classes after the background, or the last one when
        there is no validation ground.

    Raises:
        OutputExistsError: If the folder holds a run, or anything else, and `overwrite` is not set.
        LabelsError: If there is nothing to learn from.
        TrainingError: If the loss stops being finite; the best checkpoint until then stays.
        KeyboardInterrupt: When interrupted; the best checkpoint until then stays.
    """
    check_run(run, overwrite)
    placement = Placement.resolve(device)
    loss = parse_mixture(config.loss)
    seed_everything(config.seed, verbose=False)
    start = load_checkpoint(resolve_model(init)) if init else None
    data = load_data(config)
    network = build_model(config.arch, in_channels=len(data.bands), classes=len(config.classes), **config.arch_args)
    normalisation = statistics(data.train)
    if start:
        normalisation = _take_over(start.header, start.state_dict, network, config, data, normalisation)
    names = [ground.name for ground in data.train]
    known = [ground.known for ground in data.train]
    task = Segmentation(network, loss, config, known, names, normalisation)
    header = _header(config, data, normalisation, network)
    journal = _Journal(run, header, data.val, placement, on_epoch)
    _prepare(run, config)
    _fit(task, data, config, placement, journal)
    return run / CHECKPOINT


def check_run(run: Path, overwrite: bool) -> None:
    """Refuse a run folder that cannot be written, or holds something.

    Raises:
        OutputExistsError: If it is there, not empty, and `overwrite` is not set; or is no folder.
        OutputError: If the folder above it is missing.
    """
    if run.is_dir():
        if any(run.iterdir()) and not overwrite:
            raise OutputExistsError(f"output={run} exists and is not empty. Choose another folder, or add --overwrite.")
    elif run.exists() or run.is_symlink():
        raise OutputExistsError(f"output={run} is a file. Expected a folder to make. Choose another name.")
    elif not run.absolute().parent.is_dir():
        raise OutputError(f"output={run}: the folder {run.absolute().parent} does not exist. Make it first.")


def _prepare(run: Path, config: TrainConfig) -> None:
    """The run folder with its configuration, and nothing of an earlier run."""
    try:
        run.mkdir(exist_ok=True)
        for name in (CHECKPOINT, METRICS):
            (run / name).unlink(missing_ok=True)
        (run / CONFIG).write_text(dump_config(config), encoding="utf-8")
    except OSError as err:
        raise OutputError(f"output={run} cannot be written ({err.strerror}). Choose another folder.") from err


def _take_over(
    header: Header,
    state_dict: dict[str, torch.Tensor],
    network: nn.Module,
    config: TrainConfig,
    data: Data,
    own: Statistics,
) -> Statistics:
    """Start `network` from a checkpoint of the same shape; what its input was normalised by stays."""
    for what, theirs, ours in (
        ("architecture", (header.arch, header.arch_args), (config.arch, config.arch_args)),
        ("number of bands", len(header.bands), len(data.bands)),
        ("classes", tuple(item.name for item in header.classes), config.class_names),
    ):
        if theirs != ours:
            raise UsageError(f"--init: the checkpoint's {what} is {theirs}, the run's {ours}. Expected the same.")
    network.load_state_dict(state_dict)
    return Statistics(header.mean, header.std, own.value_range)


def _header(config: TrainConfig, data: Data, normalisation: Statistics, network: nn.Module) -> Header:
    return Header(
        arch=config.arch,
        arch_args=config.arch_args,
        bands=data.bands,
        mean=normalisation.mean,
        std=normalisation.std,
        value_range=normalisation.value_range,
        dtype=str(data.train[0].data.dtype),
        gsd=_gsd(data.train),
        heads={"main": Head(task="multiclass", classes=_classes(config))},
        cell_side=config.cell_side,
        stride=int(network.stride),
        receptive_radius=receptive_radius(network),
        licence=config.licence,
        origin=config.origin,
    )


def _classes(config: TrainConfig) -> tuple[ClassInfo, ...]:
    pairs = zip(config.class_names, config.class_colors, strict=True)
    return tuple(ClassInfo(name=name, color=color) for name, color in pairs)


def _gsd(grounds: Sequence[Ground]) -> tuple[float, float, float] | None:
    """Finest, coarsest and most usual metres per pixel of the samples; None when no ground knows."""
    known = [(g.gsd * g.zoom[0], g.gsd * g.zoom[1], g.share) for g in grounds if g.gsd]
    if not known:
        return None
    low, high, share = np.array(known).T
    best = math.exp(float(np.average(0.5 * (np.log(low) + np.log(high)), weights=share)))
    return round(float(low.min()), 4), round(float(high.max()), 4), round(best, 4)


def _fit(task: Segmentation, data: Data, config: TrainConfig, placement: Placement, journal: "_Journal") -> None:
    samples = Samples(data.train, tile_size=config.tile_size, seed=config.seed)
    epochs = Epochs(config.steps_per_epoch * config.batch_size)
    # The samples come from memory: worker processes would cost more than they save.
    loader = DataLoader(samples, batch_size=config.batch_size, sampler=epochs, num_workers=0)
    kind, _, number = placement.device.partition(":")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = Trainer(
            accelerator=kind,
            devices=[int(number)] if number else 1,
            precision=_LIGHTNING_PRECISION[placement.precision],
            max_epochs=config.epochs,
            gradient_clip_val=config.optimizer.clip,
            callbacks=[journal],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=journal.run,
        )
        try:
            trainer.fit(task, loader)
        except SystemExit as err:
            # The trainer answers an interrupt by leaving the program; that is the caller's to decide.
            if journal.interrupted:
                raise KeyboardInterrupt from err
            raise


class _Journal(Callback):
    """Validates after each epoch, keeps the best checkpoint and writes down how it went."""

    def __init__(
        self, run: Path, header: Header, val: Sequence[Ground], placement: Placement, on_epoch: Callable[[Epoch], None]
    ) -> None:
        self.run, self.header, self.val, self.placement, self.on_epoch = run, header, list(val), placement, on_epoch
        self.best = -1.0
        self.interrupted = False
        self.losses: list[float] = []
        self.begun = self.epoch_begun = 0.0

    def on_train_start(self, trainer: Trainer, task: Segmentation) -> None:  # noqa: D102
        self.begun = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, task: Segmentation) -> None:  # noqa: D102
        self.losses, self.epoch_begun = [], time.perf_counter()

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, task: Segmentation, outputs: Any, batch: Any, index: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_train_epoch_end(self, trainer: Trainer, task: Segmentation) -> None:
        """Score the averaged network, keep it if it is the best so far, write a row."""
        stepped = time.perf_counter() - self.epoch_begun
        network = task.average.network
        matrices = score(network, self.header, self.val, self.placement)
        total = _total(matrices, self.header)
        iou = _iou(total) if self.val else {}
        row = Epoch(
            number=trainer.current_epoch + 1,
            of=task.config.epochs,
            loss=float(np.mean(self.losses)),
            lr=float(trainer.optimizers[0].param_groups[0]["lr"]),
            iou=iou,
            samples_per_s=len(self.losses) * task.config.batch_size / stepped,
            seconds=time.perf_counter() - self.begun,
            best=False,
        )
        ...
