"""Resume: what an unfinished run has left in its folder, and whether it is the run that is meant."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.checkpoint import Header, load_checkpoint, resolve_model
from geoseg.config import TrainConfig, load_config
from geoseg.errors import ResumeError
from geoseg.training.folder import CONFIG, check_run, is_unbegun
from geoseg.training.ground import summary_of
from geoseg.training.progress import Standing
from geoseg.training.sources import Data
from geoseg.training.state import newest_state

log = logging.getLogger(__name__)

_FREE = ("epochs", "patience")
"""Settings that may differ from those the run was begun with."""
_FREE_OF_DATA = ("cache", "cache_gb")


@dataclass(frozen=True, slots=True)
class Past:
    """What a run goes on from."""

    config: TrainConfig
    """The run's own, smaller batches included where memory ran out; with the epochs that are wanted now."""
    state: dict[str, Any] | None
    """After its last whole epoch; None before the first was over."""

    @property
    def standing(self) -> Standing:
        """How far it is."""
        return Standing(**self.state["standing"]) if self.state else Standing()

    @property
    def header(self) -> Header:
        """What its checkpoints say of themselves, but for scores."""
        assert self.state  # noqa: S101  for the type checker
        return Header.model_validate_json(json.dumps(self.state["header"]))

    def check(self, data: str) -> None:
        """Refuse to go on with other data.

        Raises:
            ResumeError: If `fingerprint` gave something else when the run began.
        """
        assert self.state  # noqa: S101
        if self.state["data"] != data:
            raise ResumeError(
                "the training data are not what the run was begun with: images, labels or the split have changed. "
                "Expected the same. Start a new run."
            )

    def check_init(self, init: str | Path) -> None:
        """Refuse to go on from another checkpoint than the run was begun from.

        Raises:
            ResumeError: If it was begun from other weights, or from none.
        """
        if self.state is None or "init" not in self.state or self.state["init"] == init_digest(init):
            return
        begun = "another checkpoint" if self.state["init"] else "no checkpoint"
        raise ResumeError(
            f"--init {init}: the run was begun from {begun}, and goes on from its own last epoch. Expected the "
            "same, or none. Leave --init out, or start a new run."
        )


def init_digest(init: str | Path) -> str:
    """What tells one checkpoint's weights from another's."""
    return load_checkpoint(resolve_model(init)).header.sha256


def read_past(run: Path, config: TrainConfig) -> Past | None:
    """What the run in a folder goes on from; None if there is none yet.

    Raises:
        ResumeError: If it was begun with other settings, or no state can be read.
        OutputExistsError: If the folder holds something else.
    """
    if not (run / CONFIG).is_file():
        check_run(run, overwrite=is_unbegun(run))
        return None
    own, state = load_config(run / CONFIG), newest_state(run)
    before, now = _compared(own), _compared(config)
    if changed := _differences(before, now):
        raise ResumeError(
            f"{run} is a run with other settings ({', '.join(changed)}). Expected those of {run / CONFIG}, but for "
            f"{', '.join(_FREE)}. Leave the others out, or start a new run."
        )
    cache = {name: getattr(config.data, name) for name in _FREE_OF_DATA}
    changes = {name: getattr(config, name) for name in _FREE} | {"data": own.data.model_copy(update=cache)}
    merged = own.model_copy(update=changes)
    past = Past(merged, state)
    if past.standing.epochs and merged.epochs != own.epochs and merged.optimizer.schedule != "constant":
        log.warning(
            "epochs=%d instead of %d: the rate follows the new schedule from here on.", merged.epochs, own.epochs
        )
    log.info("Going on after epoch %d of %d.", past.standing.epochs, merged.epochs)
    return past


def fingerprint(data: Data) -> str:
    """What tells data from other data: of every ground, in order, its name, size and classes, and what it holds.

    That is: mean, lowest and highest value of each band, how many pixels have each label, and where some of them lie.
    """
    sha256 = hashlib.sha256(repr(data.bands).encode())
    for ground in (*data.train, *data.val):
        sha256.update(repr((ground.name, ground.data.shape, str(ground.data.dtype), ground.known)).encode())
        found = summary_of(ground)
        means = (*found.mean, *(values.mean for values in found.further.values()))
        counts = [values.counts for values in found.further.values()]
        # Another machine may add up in another order.
        sha256.update(repr(([f"{mean:.9g}" for mean in means], found.low, found.high, found.usable, counts)).encode())
        for array in (found.counts.astype("<i8"), *(where.astype("<i4") for where in found.positions.values())):
            sha256.update(array.tobytes())
    return sha256.hexdigest()


def _compared(config: TrainConfig) -> dict[str, Any]:
    """What decides a run: where memory ran out, more and smaller batches make the same steps."""
    tree = config.model_dump(mode="json", exclude=set(_FREE), by_alias=True)
    for name in _FREE_OF_DATA:
        del tree["data"][name]
    samples = tree.pop("batch_size"), tree.pop("steps_per_epoch"), tree["optimizer"].pop("accumulate")
    tree["batch_size"] = samples[0] * samples[2]
    tree["steps_per_epoch"] = samples[0] * samples[1]
    return tree


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Keys by which two configurations differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [where]
    found = []
    for key in (*before, *(key for key in now if key not in before)):
        found += _differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    return found
