"""Fit: a configuration in, a run folder out."""

import logging
import math
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import DataLoader

from geoseg.checkpoint import GroundSampling, Head, Header
from geoseg.config import TrainConfig, resolve_path
from geoseg.errors import ConfigError, DeviceError, UsageError
from geoseg.losses import Mixture, parse_mixture
from geoseg.models import build_model
from geoseg.models.receptive import receptive_radius
from geoseg.predict import Placement, resolve_device
from geoseg.training.folder import CHECKPOINT, RunFolder, check_run
from geoseg.training.ground import Ground, Statistics, pixels_per_class, statistics
from geoseg.training.heads import check_losses, heads_of, weigh
from geoseg.training.journal import Journal
from geoseg.training.launch import launch
from geoseg.training.metric import check_metric
from geoseg.training.optim import encoder_of
from geoseg.training.pretrained import find_weights, load_encoder
from geoseg.training.progress import Epoch, Step
from geoseg.training.ranks import Ranks
from geoseg.training.results import draw_batch, finish
from geoseg.training.resume import Past, fingerprint, init_digest, read_past
from geoseg.training.samples import Samples
from geoseg.training.sources import Data, load_data
from geoseg.training.start import check_start, start
from geoseg.training.task import Segmentation
from geoseg.training.turns import Turns

log = logging.getLogger(__name__)

__all__ = ["check_run", "train_model"]

_LIGHTNING_PRECISION: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


def train_model(
    config: TrainConfig,
    run: str | Path,
    *,
    device: str = "auto",
    init: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    processes: int = 1,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_step: Callable[[Step], None] | None = None,
) -> Path:
    """Train a model and write its run folder.

    Args:
        config: Everything that decides the result.
        run: Folder to write; made if missing.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        init: Built-in model or checkpoint to start from; it brings its normalisation. Goes without `pretrained`.
        overwrite: Replace the files of an earlier run.
        resume: Go on with the run in the folder after its last whole epoch, or from the start if it has none. `config`
            is the run's own, but for `epochs`, `patience` and where pixels are cached. What is finished stays as it is.
        processes: How many share each batch, on the cores or GPUs of this machine: `batch_size` is that of all
            together. Under torchrun, its own number of processes counts.
        on_epoch: Called after every epoch.
        on_step: Called after every step.

    Returns:
        Path of the checkpoint: the best epoch by `metric`, or the last one when there is no validation ground.

    Raises:
        OutputExistsError: If the folder holds a run, or anything else, and neither `overwrite` nor `resume` is set; or
            another process works on it.
        ResumeError: If the run in the folder is another one.
        LabelsError: If there is nothing to learn from.
        TrainingError: If the loss stops being finite; the best checkpoint until then stays.
        WorkerError: If one of several processes ends by itself.
        KeyboardInterrupt: When interrupted; the best checkpoint until then stays, which a note on the exception says.
    """
    run, ranks = Path(run), Ranks()
    placement = _place(config, device, ranks, processes)
    _check(config, init, max(ranks.count, processes))
    if processes > 1 and ranks.count == 1:
        check_run(run, overwrite or resume)
        hear: dict[str, Callable[[Any], None]] = {"on_epoch": on_epoch} | ({"on_step": on_step} if on_step else {})
        job = {"device": device, "init": init, "overwrite": overwrite, "resume": resume}
        path: Path = launch(processes, {"config": config, "run": run, **job}, hear)
        return path
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(run, overwrite=overwrite or resume)) if ranks.first else None
        past = read_past(run, config) if resume else None
        if past and init:
            past.check_init(init)
        config = past.config if past else config
        _check_shares(config, ranks.count)  # memory may have run out since, which made its batches smaller
        _train(config, placement, folder, past, init, {"on_epoch": on_epoch, "on_step": on_step})
    return run / CHECKPOINT


def _place(config: TrainConfig, device: str, ranks: Ranks, processes: int) -> Placement:
    """Where this process computes: on a device of its own, if there are several."""
    count = max(ranks.here, processes)
    kind = resolve_device(device)
    if count > 1 and kind.type == "cuda":
        if ":" in device:
            raise UsageError(f"device={device} is one GPU for {count} processes. Expected cuda, or a single process.")
        if count > torch.cuda.device_count():
            raise DeviceError(
                f"processes={count} are more than the {torch.cuda.device_count()} CUDA devices here. Expected one each."
            )
        device = f"cuda:{ranks.local}"
    elif count > 1 and kind.type != "cpu":
        raise DeviceError(f"device={kind} serves one process. Expected cpu or cuda for {count}.")
    placement = Placement.resolve(device, config.precision)
    if placement.precision == "float16" and kind.type == "cpu":
        raise DeviceError("precision=float16 does not train on the CPU. Expected bfloat16, float32 or auto.")
    return placement


def _check(config: TrainConfig, init: str | Path | None, processes: int) -> None:
    """Refuse what cannot be trained, before any data is read."""
    if config.main_head:
        check_losses(_mixture(config), config.task, len(config.classes), f"loss={config.loss!r}")
    if init and config.pretrained:
        raise UsageError(
            f"pretrained={config.pretrained} and init={init}: a checkpoint brings all its weights. Expected one of "
            "the two. Leave --init out, or set pretrained=false."
        )
    _check_shares(config, processes)
    dates = int(config.arch_args.get("dates", 1))  # a network of dates wants as many bands of each
    with torch.device("meta"):
        network = _built(config, dates)
    if 2 * (margin := int(getattr(network, "margin", 0))) >= config.tile_size:
        raise ConfigError(
            f"tile_size={config.tile_size} leaves nothing to learn from: the network answers for pixels {margin} and "
            f"more from the edge. Expected more than {2 * margin}."
        )
    if config.cell_side % int(network.stride):  # type: ignore[arg-type]
        raise ConfigError(f"cell_side={config.cell_side} is no multiple of the model's stride {network.stride}.")
    if (config.optimizer.freeze_encoder or config.optimizer.encoder_lr < 1) and encoder_of(network) is None:
        raise ConfigError(f"arch={config.arch} has no encoder to be frozen or slowed. Leave these settings out.")
    find_weights(network, _weights(config.pretrained))
    if init:
        check_start(init, config)


def _built(config: TrainConfig, dates: int) -> nn.Module:
    """The network, or what is wrong with it under the configuration's own names."""
    try:
        return build_model(config.arch, config.arch_args, in_channels=dates, classes=_channels(config))
    except UsageError as err:
        said = str(err)
        if any(said.startswith(f"{name}=") for name in config.arch_args):
            raise ConfigError(f"arch_args.{said}") from err
        if config.arch_args:
            raise ConfigError(f"arch_args: {said}") from err
        raise


def _check_shares(config: TrainConfig, processes: int) -> None:
    if config.batch_size % processes:
        raise UsageError(
            f"batch_size={config.batch_size} cannot be shared by {processes} processes. Expected a multiple of "
            f"{processes}: it is that of all processes together."
        )


def _mixture(config: TrainConfig) -> Mixture:
    mixture = parse_mixture(config.loss, task=config.task)
    weigh(mixture, config)
    return mixture


def _weights(pretrained: bool | str | None) -> bool | Path:
    """As the configuration has it, with a path's variables filled in."""
    return resolve_path(pretrained) if isinstance(pretrained, str) else bool(pretrained)


def _channels(config: TrainConfig) -> int:
    """Of the logits."""
    return sum(head.channels for head in heads_of(config).values())


def _prepare(
    config: TrainConfig, data: Data, past: Past | None, init: str | Path | None
) -> tuple[Segmentation, Header]:
    """The task, and what its checkpoints say of themselves."""
    keep = 0.0
    network = build_model(config.arch, config.arch_args, in_channels=len(data.bands), classes=_channels(config))
    if past and past.state:
        header = past.header
        keep = config.optimizer.keep_init if past.state.get("start") else 0.0
        normalisation, heads = Statistics(header.mean, header.std, header.value_range), header.heads
    else:
        normalisation, heads = statistics(data.train), heads_of(config, data.train)
        if config.pretrained:
            load_encoder(network, _weights(config.pretrained))
        if init:
            begun = start(init, config, data.bands, normalisation, heads)
            network.load_state_dict(begun.state_dict)
            normalisation, heads = begun.normalisation, begun.heads
            if begun.whole:
                keep = config.optimizer.keep_init
            elif config.optimizer.keep_init:
                log.warning("optimizer.keep_init is of no effect: bands or classes are not those of %s", init)
        header = _header(config, data, normalisation, network, heads)
    loss = _mixture(config)
    started = bool(past.state.get("init") if past and past.state else init)
    task = Segmentation(network, loss, config, data.train, normalisation, heads, started=started, keep=keep)
    if loss.needs_counts:
        loss.count(pixels_per_class(data.train, len(config.classes)).tolist())
    task.objective.heads.count(data.train)
    return task, header


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


def _train(
    config: TrainConfig,
    placement: Placement,
    folder: RunFolder | None,
    past: Past | None,
    init: str | Path | None,
    hear: Mapping[str, Any],
) -> None:
    seed_everything(config.seed, verbose=False)
    data = load_data(config, started=init is not None)
    task, header = _prepare(config, data, past, init)
    settings = config.data
    samples = Samples(
        data.train, tile_size=config.tile_size, seed=config.seed, balance=settings.balance, hard=settings.hard
    )
    journal = Journal(folder, task, header, samples, data.val, placement, **hear)
    check_metric(task, header, data, placement)
    journal.about = {"data": fingerprint(data), "init": init_digest(init) if init else None}
    if past and past.state:
        journal.about.pop("init")
        if "init" in past.state:
            journal.about["init"] = past.state["init"]
        past.check(journal.about["data"])
        journal.state, journal.standing = past.state, past.standing
    if folder:
        folder.begin(resumed=past is not None)
        if init and journal.state is None:
            journal.keep_state()  # before there is a config.yaml to go on by, which does not say what was begun from
        folder.write_config(config)
        if not journal.standing.epochs:
            draw_batch(folder, task, samples, header)
    standing = journal.standing
    if standing.epochs < config.epochs and not standing.exhausted(config.patience):
        _fit(task, samples, config, placement, journal)
    if folder:
        finish(folder, config, data.val, placement, journal.standing.best_epoch)
    task.ranks.close()


def _fit(task: Segmentation, samples: Samples, config: TrainConfig, placement: Placement, journal: Journal) -> None:
    ranks = task.ranks
    kind, _, number = placement.device.partition(":")
    # The samples come from memory: worker processes would cost more than they save.
    loader = DataLoader(samples, batch_sampler=Turns(config, ranks), num_workers=0, pin_memory=kind == "cuda")
    several: dict[str, Any] = {"devices": [int(number)] if number else 1, "plugins": [ranks.environment]}
    if ranks.count > 1:
        backend = "nccl" if kind == "cuda" else "gloo"
        several = {"devices": ranks.here, "num_nodes": ranks.count // ranks.here, "strategy": ranks.strategy(backend)}
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = Trainer(
            accelerator=kind,
            precision=_LIGHTNING_PRECISION[placement.precision],
            max_epochs=config.epochs,
            callbacks=[journal],
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **several,
        )
        before = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(task, loader)
        except SIGTERMException as err:  # nobody else listens to the signal
            raise SystemExit(128 + signal.SIGTERM) from err
        except SystemExit as err:
            # The trainer answers an interrupt by ignoring further ones and leaving the program; both are the caller's.
            if journal.interrupt is None:
                raise
            signal.signal(signal.SIGINT, before)
            raise journal.interrupt from err
        finally:
            ranks.release_signals()
    ranks.heed_signal()
