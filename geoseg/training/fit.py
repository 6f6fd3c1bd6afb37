"""Fit: a configuration in, a run folder out (`model.safetensors`, `config.yaml`, `metrics.csv`)."""

import copy
import csv
import logging
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader

from geoseg.checkpoint import ClassInfo, GroundSampling, Head, Header, load_checkpoint, resolve_model, save_checkpoint
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
from geoseg.training.task import Segmentation, rate
from geoseg.windows import Plan

log = logging.getLogger(__name__)

CHECKPOINT, CONFIG, METRICS = "model.safetensors", "config.yaml", "metrics.csv"
"""The files of a run folder."""

_LIGHTNING_PRECISION: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


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
    """Mean over the classes after the background, of those there are: what decides which epoch is the best."""
    samples_per_s: float
    """Speed of the steps, validation left out."""
    seconds: float
    """Since the first step."""
    saved: bool
    """Whether this epoch is the best so far and its checkpoint was written."""


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
    with torch.device("meta"):  # refuse a wrong architecture before any data is read
        build_model(config.arch, in_channels=1, classes=len(config.classes), **config.arch_args)
    seed_everything(config.seed, verbose=False)
    start = load_checkpoint(resolve_model(init)) if init else None
    data = load_data(config)
    network = build_model(config.arch, in_channels=len(data.bands), classes=len(config.classes), **config.arch_args)
    normalisation = statistics(data.train)
    if start:
        normalisation = _take_over(start.header, start.state_dict, network, config, data, normalisation)
    task = Segmentation(network, loss, config, data.train, normalisation)
    header = _header(config, data, normalisation, network)
    journal = _Journal(run, task, header, data.val, placement, on_epoch)
    run.mkdir(exist_ok=True)
    _fit(task, data, config, placement, journal)
    return run / CHECKPOINT


def checkpoint_keys(init: str) -> dict[str, Any]:
    """Architecture and classes of a built-in model or a checkpoint, by key of the configuration."""
    header = load_checkpoint(resolve_model(init)).header
    classes = [{"name": item.name, "color": item.color} for item in header.classes]
    return {"arch": header.arch, "arch_args": dict(header.arch_args), "classes": classes}


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
    if not os.access(run if run.is_dir() else run.absolute().parent, os.W_OK | os.X_OK):
        raise OutputError(f"output={run} cannot be written. Choose another folder, or change its permissions.")


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
            raise UsageError(f"init: the checkpoint's {what} is {theirs}, the run's {ours}. Expected the same.")
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
        stride=int(network.stride),  # type: ignore[arg-type]
        receptive_radius=receptive_radius(network),
        licence=config.licence,
        origin=config.origin,
    )


def _classes(config: TrainConfig) -> tuple[ClassInfo, ...]:
    pairs = zip(config.class_names, config.class_colors, strict=True)
    return tuple(ClassInfo(name=name, color=color) for name, color in pairs)


def _gsd(grounds: Sequence[Ground]) -> GroundSampling | None:
    """Finest, coarsest and most usual metres per pixel of the samples; None when no ground knows."""
    known = [(g.gsd * g.zoom[0], g.gsd * g.zoom[1], g.share) for g in grounds if g.gsd]
    if not known:
        return None
    low, high, share = np.array(known).T
    best = math.exp(float(np.average(0.5 * (np.log(low) + np.log(high)), weights=share)))
    return GroundSampling(*(round(value, 4) for value in (float(low.min()), float(high.max()), best)))


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
        before = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(task, loader)
        except SystemExit as err:
            # The trainer answers an interrupt by ignoring further ones and leaving the program; both are the caller's.
            if not journal.interrupted:
                raise
            signal.signal(signal.SIGINT, before)
            raise KeyboardInterrupt from err


class _Journal(Callback):
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
        self.best = -1.0
        self.saved = self.interrupted = False
        self.losses: list[dict[str, float]] = []
        self.begun = self.epoch_begun = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses, self.epoch_begun = [], time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append({name: float(value) for name, value in outputs.items()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the averaged network, keep it if it is the best so far, write a row."""
        stepped = time.perf_counter() - self.epoch_begun
        network, config = self.task.average.network, self.task.config
        scores = validate(network, self.header, self.val, self.placement)
        mean = mean_foreground(scores.get("all", {}))
        better = mean is None or mean > self.best
        if better:
            self.best = -1.0 if mean is None else mean
            self.save(network, scores)
        means = {name: float(np.mean([one[name] for one in self.losses])) for name in self.losses[0]}
        epoch = Epoch(
            number=trainer.current_epoch + 1,
            of=config.epochs,
            loss=means.pop("loss"),
            terms=means,
            lr=config.optimizer.lr * rate(trainer.global_step - 1, config.steps, config.optimizer.warmup),
            iou=scores.get("all", {}),
            mean_iou=mean,
            samples_per_s=len(self.losses) * config.batch_size / stepped,
            seconds=time.perf_counter() - self.begun,
            saved=better,
        )
        self.write(epoch)
        self.on_epoch(epoch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Interrupted before the first epoch ended: keep what there is."""
        self.interrupted = isinstance(exception, KeyboardInterrupt)
        if self.interrupted and self.task.average.steps and not self.saved:
            self.save(self.task.average.network, {})

    def save(self, network: nn.Module, scores: dict[str, dict[str, float | None]]) -> None:
        """Write the checkpoint with what it reached on each validation source; the configuration beside it."""
        header = self.header.model_copy(update={"metrics": {"iou": scores}})
        save_checkpoint(self.run / CHECKPOINT, header, network.state_dict())
        (self.run / CONFIG).write_text(dump_config(self.task.config), encoding="utf-8")
        self.saved = True

    def write(self, epoch: Epoch) -> None:
        """One more line of metrics.csv; the first one begins a new file."""
        scores = {f"iou_{name}": value for name, value in epoch.iou.items()} | {"iou_mean": epoch.mean_iou}
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


def validate(
    network: nn.Module, header: Header, grounds: Sequence[Ground], placement: Placement
) -> dict[str, dict[str, float | None]]:
    """IoU per class on the ground of each source by name and, as "all", on all of them together (one confusion matrix).

    Cells of the ground are predicted as `geoseg predict` does it. Where labels do not know a class, a prediction of it
    counts as "any of the others", as the target does there.
    """
    if not grounds:
        return {}
    names = [item.name for item in header.classes]
    # The runner folds and casts what it is given.
    model = copy.deepcopy(network)
    runner = Runner(model, mean=header.mean, std=header.std, classes=len(names), placement=placement)
    halo = -(-header.receptive_radius // header.stride) * header.stride
    matrices: dict[str, ConfusionMatrix] = {}
    for ground in grounds:
        matrix = matrices.setdefault(ground.source, ConfusionMatrix(names))
        plan = Plan(shape=ground.target.shape, cell_side=header.cell_side, halo=halo, stride=header.stride)
        same = np.arange(256, dtype=np.uint8)
        others = [index for index in range(len(names)) if index not in ground.known]
        same[others] = others[0] if others else 0
        for window, cell in zip(plan, cells(ground.reader, runner, plan, list(plan)), strict=True):
            matrix.update(same[ground.target[window.slices()]], same[cell.labels])
    total = ConfusionMatrix(names)
    for matrix in matrices.values():
        total.merge(matrix)
    return {name: _iou(matrix) for name, matrix in ({"all": total} | matrices).items()}


def _iou(matrix: ConfusionMatrix) -> dict[str, float | None]:
    return {item.name: item.iou for item in matrix.scores().classes}


def mean_foreground(iou: dict[str, float | None]) -> float | None:
    """Mean over all classes but the first, of those that are there; None if none is."""
    there = [value for value in list(iou.values())[1:] if value is not None]
    return sum(there) / len(there) if there else None
