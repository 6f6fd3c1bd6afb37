"""The folder of a run: who may write it, what stands in it, and how each file gets there whole."""

import contextlib
import csv
import logging
import os
from collections.abc import Mapping, Sequence
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, Self

from torch import nn

from geoseg.checkpoint import Header, save_checkpoint
from geoseg.config import TrainConfig, dump_config
from geoseg.errors import OutputError, OutputExistsError
from geoseg.lock import LOCK, take_lock, writing_to
from geoseg.training.state import FOLDER

CHECKPOINT, LAST = "model.safetensors", "last.safetensors"
"""The network of the best epoch, and of the last."""
CONFIG, METRICS, LOG, TILES = "config.yaml", "metrics.csv", "log.txt", "tiles.csv"
BATCH, CURVES, CONFUSION, SAMPLES = "batch.png", "curves.png", "confusion.png", "samples.png"
_EVENTS = "events.out.tfevents.*"
_OF_A_RUN = (LAST, METRICS, LOG, TILES, BATCH, CURVES, CONFUSION, SAMPLES, _EVENTS, f"{FOLDER}/epoch-*")
"""What a new run removes of an earlier one when it begins; the checkpoint stays until there is a better one."""

_root = logging.getLogger("geoseg")


def check_run(run: Path, overwrite: bool) -> None:
    """Refuse a run folder that cannot be written, or holds something.

    Raises:
        OutputExistsError: If it is there, not empty, and `overwrite` is not set; or is no folder.
        OutputError: If the folder above it is missing.
    """
    if run.is_dir():
        if not overwrite and any(path.name != LOCK for path in run.iterdir()):
            raise OutputExistsError(
                f"output={run} exists and is not empty. Choose another folder, or add --overwrite; --resume goes on "
                "with the run in it."
            )
    elif run.exists() or run.is_symlink():
        raise OutputExistsError(f"output={run} is a file. Expected a folder to make. Choose another name.")
    elif not run.absolute().parent.is_dir():
        raise OutputError(f"output={run}: the folder {run.absolute().parent} does not exist. Make it first.")
    if not os.access(run if run.is_dir() else run.absolute().parent, os.W_OK | os.X_OK):
        raise OutputError(f"output={run} cannot be written. Choose another folder, or change its permissions.")


def is_unbegun(run: Path) -> bool:
    """Whether a folder holds nothing, or no more than a run leaves that ends before config.yaml is written."""
    return not run.is_dir() or all(path.name in (LOCK, LOG, FOLDER) for path in run.iterdir())


class RunFolder:
    """A run folder that this process alone writes, for as long as the `with` block lasts.

    Until `begin`, nothing in it is changed, and a new folder goes again; what is logged until then is kept for its log.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path, self.overwrite = path, overwrite
        self.begun = False
        self._events: Any = None

    def __enter__(self) -> Self:
        """Take the folder.

        Raises:
            OutputExistsError: As `check_run`, or if another process has it.
            OutputError: If it cannot be written.
        """
        check_run(self.path, self.overwrite)
        self._made = not self.path.exists()
        with writing_to(self.path):
            self.path.mkdir(exist_ok=True)
            self._lock = take_lock(self.path)
        self._log = MemoryHandler(1 << 20, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self._listening = _Listening(self._log)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None and self.begun:
            self.note(" ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]))
        if self._events:
            self._events.close()
        self._listening.end()
        if self._log.target:
            self._log.target.close()
        with contextlib.suppress(OSError):
            (self.path / LOCK).unlink()
        self._lock.close()
        if self._made:
            with contextlib.suppress(OSError):  # not empty: the run had begun
                self.path.rmdir()

    def begin(self, *, resumed: bool) -> None:
        """Open the log. Without `resumed`, what an earlier run left goes, but for its checkpoint."""
        with writing_to(self.path):
            if not resumed:
                (self.path / CONFIG).unlink(missing_ok=True)  # first: what is left without it is no run to go on with
                for path in (found for pattern in _OF_A_RUN for found in self.path.glob(pattern)):
                    path.unlink()
            file = logging.FileHandler(self.path / LOG, "a", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s  %(levelname)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
        self._log.setTarget(file)
        self._log.capacity = 1  # from here on each record is written at once
        self._log.flush()
        self.begun = True

    def note(self, text: str) -> None:
        """A line for the log alone."""
        record = logging.LogRecord(__name__, logging.INFO, "", 0, text, None, None)
        self._log.handle(record)

    def write_config(self, config: TrainConfig) -> None:
        """Write config.yaml, all or nothing."""
        self._write(CONFIG, dump_config(config))

    def write_rows(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Write metrics.csv, all or nothing: a row for each epoch."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        part = self.path / f"{METRICS}.part"
        with writing_to(self.path):
            with part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(rows)
            part.replace(self.path / METRICS)

    def write_network(self, name: str, header: Header, network: nn.Module) -> None:
        """Write a checkpoint, all or nothing."""
        with writing_to(self.path):
            save_checkpoint(self.path / name, header, network.state_dict())

    def write_events(self, row: Mapping[str, float | None], epoch: int) -> None:
        """Append the numbers of an epoch to TensorBoard's events, if it is installed."""
        if self._events is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._events = False
                return
            self._events = SummaryWriter(str(self.path), purge_step=epoch)
        if self._events:
            for name, value in row.items():
                if value is not None:
                    self._events.add_scalar(name, value, epoch)
            self._events.flush()

    def _write(self, name: str, text: str) -> None:
        part = self.path / f"{name}.part"
        with writing_to(self.path):
            part.write_text(text, encoding="utf-8")
            part.replace(self.path / name)


class _Listening:
    """Lets a handler have all of INFO and above, and every other what it had before."""

    def __init__(self, handler: logging.Handler) -> None:
        self.handler, self.level = handler, _root.level
        level = _root.getEffectiveLevel()
        self.stderr = None if _root.hasHandlers() else logging.StreamHandler()
        if self.stderr:  # warnings went there only for want of any handler
            _root.addHandler(self.stderr)
        above = logging.getLogger().handlers if _root.propagate else []
        self.others = [(other, other.level) for other in (*_root.handlers, *above)]
        for other, own in self.others:
            other.setLevel(max(own, level))
        _root.addHandler(handler)
        _root.setLevel(min(level, logging.INFO))

    def end(self) -> None:
        """Everything is as it was."""
        _root.removeHandler(self.handler)
        if self.stderr:
            _root.removeHandler(self.stderr)
        _root.setLevel(self.level)
        for other, own in self.others:
            other.setLevel(own)
