"""Fit: a configuration in, a run folder out (`model.safetensors`, `config.yaml`, `metrics.csv`)."""

import logging
import math
import os
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader

from geoseg.checkpoint import GroundSampling, Head, Header, load_checkpoint, resolve_model
from geoseg.config import TrainConfig, resolve_path
from geoseg.errors import ConfigError, OutputError, OutputExistsError, UsageError
from geoseg.losses import parse_mixture
from geoseg.models import build_model
from geoseg.models.receptive import receptive_radius
from geoseg.predict import Placement
from geoseg.training.grounds import Data, load_data, pixels_per_class
from geoseg.training.heads import check_losses, heads_of
from geoseg.training.journal import CHECKPOINT, Epoch, Journal
from geoseg.training.pretrained import find_weights, load_encoder
from geoseg.training.samples import Epochs, Ground, Samples, Statistics, statistics
from geoseg.training.task import Segmentation

_LIGHTNING_PRECISION: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


def train_model(
    config: TrainConfig,
    run: str | Path,
    *,
    device: str = "auto",
    init: str | Path | None = None,
    overwrite: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Path:
    """Train a model and write its run folder.

    Args:
        config: Everything that decides the result.
        run: Folder to write; made if missing.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        init: Built-in model or checkpoint to start from; it brings its normalisation. Goes without `pretrained`.
        overwrite: Replace the files of an earlier run.
        on_epoch: Called after every epoch.

    Returns:
        Path of the checkpoint: the best epoch by mean IoU of the classes after the background, or the last one when
        there is no validation ground.

    Raises:
        OutputExistsError: If the folder holds a run, or anything else, and `overwrite` is not set.
        LabelsError: If there is nothing to learn from.
        TrainingError: If the loss stops being finite; the best checkpoint until then stays.
        KeyboardInterrupt: When interrupted; the best checkpoint until then stays, which a note on the exception says.
    """
    run = Path(run)
    check_run(run, overwrite)
    placement = Placement.resolve(device)
    loss = parse_mixture(config.loss, task=config.task)
    if config.main_head:
        check_losses(loss, config.task, len(config.classes), f"loss={config.loss!r}")
    _check_model(config, init)
    seed_everything(config.seed, verbose=False)
    start = load_checkpoint(resolve_model(init)) if init else None
    data = load_data(config, started=start is not None)
    network = build_model(config.arch, in_channels=len(data.bands), classes=_channels(config), **config.arch_args)
    normalisation = statistics(data.train)
    if config.pretrained:
        load_encoder(network, _weights(config.pretrained))
    if start:
        normalisation = _take_over(start.header, start.state_dict, network, config, data, normalisation)
    heads = start.header.heads if start else heads_of(config, data.train)
    task = Segmentation(network, loss, config, data.train, normalisation, heads)
    if loss.needs_counts:
        loss.count(pixels_per_class(data.train, len(config.classes)).tolist())
    task.heads.count(data.train)
    header = _header(config, data, normalisation, network, heads)
    journal = Journal(run, task, header, data.val, placement, on_epoch)
    _fit(task, data, config, placement, journal)
    return run / CHECKPOINT


def checkpoint_keys(init: str) -> dict[str, Any]:
    """Architecture and classes of a built-in model or a checkpoint, by key of the configuration."""
    header = load_checkpoint(resolve_model(init)).header
    classes = [{"name": item.name, "color": item.color} for item in header.classes]
    keys = {"arch": header.arch, "arch_args": dict(header.arch_args)}
    if list(header.heads) == ["main"] and header.heads["main"].exclusive:
        return keys | {"classes": classes, "task": header.heads["main"].task}
    said = {
        name: {"task": head.task, "classes": [item.model_dump() for item in head.classes], "unit": head.unit}
        for name, head in header.heads.items()
    }
    return keys | {"heads": said}


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


def _check_model(config: TrainConfig, init: str | Path | None) -> None:
    """Refuse a wrong architecture, a cell or weights it cannot have, before any data is read."""
    if init and config.pretrained:
        raise UsageError(
            f"pretrained={config.pretrained} and init={init}: a checkpoint brings all its weights. Expected one of "
            "the two. Leave --init out, or set pretrained=false."
        )
    dates = int(config.arch_args.get("dates", 1))  # a network of dates wants as many bands of each
    with torch.device("meta"):
        network = build_model(config.arch, config.arch_args, in_channels=dates, classes=_channels(config))
    if 2 * (margin := int(getattr(network, "margin", 0))) >= config.tile_size:
        raise ConfigError(
            f"tile_size={config.tile_size} leaves nothing to learn from: the network answers for pixels {margin} and "
            f"more from the edge. Expected more than {2 * margin}."
        )
    if config.cell_side % int(network.stride):  # type: ignore[arg-type]
        raise ConfigError(f"cell_side={config.cell_side} is no multiple of the model's stride {network.stride}.")
    find_weights(network, _weights(config.pretrained))


def _weights(pretrained: bool | str | None) -> bool | Path:
    """As the configuration has it, with a path's variables filled in."""
    return resolve_path(pretrained) if isinstance(pretrained, str) else bool(pretrained)


def _take_over(
    header: Header,
    state_dict: dict[str, torch.Tensor],
    network: nn.Module,
    config: TrainConfig,
    data: Data,
    own: Statistics,
) -> Statistics:
    """Start `network` from a checkpoint of the same shape; what its input was normalised by stays."""
    theirs_and_ours = tuple(item.name for item in header.classes), config.class_names
    for what, theirs, ours in (
        ("architecture", (header.arch, header.arch_args), (config.arch, config.arch_args)),
        ("number of bands", len(header.bands), len(data.bands)),
        *([("classes", *theirs_and_ours)] if not config.heads else []),
        ("heads", _outline(header.heads), _outline(heads_of(config))),
    ):
        if theirs != ours:
            raise UsageError(f"init: the checkpoint's {what} is {theirs}, the run's {ours}. Expected the same.")
    network.load_state_dict(state_dict)
    return Statistics(header.mean, header.std, own.value_range)


def _outline(heads: Mapping[str, Head]) -> dict[str, list[str]]:
    """What must agree for a network to be started from another. The name of a single head does not matter."""
    named = {name: [head.task, *(item.name for item in head.classes)] for name, head in heads.items()}
    return named if len(named) > 1 else {"main": next(iter(named.values()))}


def _channels(config: TrainConfig) -> int:
    """Of the logits."""
    return sum(head.channels for head in heads_of(config).values())


def _header(
    config: TrainConfig, data: Data, normalisation: Statistics, network: nn.Module, heads: Mapping[str, Head]
) -> Header:
    return Header(
        arch=config.arch,
        arch_args=config.arch_args,
        bands=data.bands,
        mean=normalisation.mean,
        std=normalisation.std,
        value_range=normalisation.value_range,
        dtype=str(data.train[0].data.dtype),
        gsd=_gsd(data.train),
        heads=dict(heads),
        cell_side=config.cell_side,
        stride=int(network.stride),  # type: ignore[arg-type]
        receptive_radius=receptive_radius(network) if network.bounded else None,
        licence=config.licence,
        origin=config.origin,
    )


def _gsd(grounds: Sequence[Ground]) -> GroundSampling | None:
    """Finest, coarsest and most usual metres per pixel of the samples; None when no ground knows."""
    known = [(g.gsd * g.zoom[0], g.gsd * g.zoom[1], g.share) for g in grounds if g.gsd]
    if not known:
        return None
    low, high, share = np.array(known).T
    best = math.exp(float(np.average(0.5 * (np.log(low) + np.log(high)), weights=share)))
    return GroundSampling(*(round(value, 4) for value in (float(low.min()), float(high.max()), best)))


def _fit(task: Segmentation, data: Data, config: TrainConfig, placement: Placement, journal: Journal) -> None:
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
        )
        before = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(task, loader)
        except SystemExit as err:
            # The trainer answers an interrupt by ignoring further ones and leaving the program; both are the caller's.
            if journal.interrupt is None:
                raise
            signal.signal(signal.SIGINT, before)
            raise journal.interrupt from err
