"""Runs as they lie on the disk, and what several of them have in common."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.checkpoint import Checkpoint, load_checkpoint
from geoseg.errors import UsageError
from geoseg.metrics import TileScore, mean_known, read_tiles

CHECKPOINT, METRICS, TILES = "model.safetensors", "metrics.csv", "tiles.csv"
"""The files of a run folder that are read."""

Place = tuple[str, str, int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run folder."""

    name: str
    """The last part of its path, or as much of it as no other run has."""
    path: Path
    """Its folder."""
    checkpoint: Checkpoint
    """The best one."""
    classes: tuple[str, ...]
    """Of its tiles; empty without any."""
    tiles: tuple[TileScore, ...]
    """Of its validation ground; empty without any."""
    log: tuple[dict[str, str], ...]
    """Lines of metrics.csv."""

    @property
    def bytes(self) -> int:
        """Of the checkpoint's file."""
        return (self.path / CHECKPOINT).stat().st_size

    @property
    def calibration_error(self) -> float | None:
        """ECE of the stored model, at its temperature: the mean over its classes. None where it was not measured."""
        calibration = self.checkpoint.header.metrics.get("calibration")
        errors: Any = calibration.get("ece_after") if isinstance(calibration, dict) else None
        return mean_known(list(errors.values())) if isinstance(errors, dict) else None

    @property
    def further(self) -> dict[str, float | None]:
        """Scores of further heads, such as `height.rmse`."""
        found: Any = self.checkpoint.header.metrics.get("further", {})
        return dict(found) if isinstance(found, dict) else {}

    def last(self, column: str) -> float | None:
        """The last number of a column of metrics.csv; None where there is none."""
        texts = [text for row in self.log if (text := row.get(column))]
        try:
            return float(texts[-1]) if texts else None
        except ValueError:
            return None


@dataclass(frozen=True, slots=True, eq=False)
class Common:
    """What runs are compared on."""

    classes: tuple[str, ...]
    """The first class, and those that every run has."""
    places: tuple[Place, ...]
    """Of the tiles that every run has, with the same labels."""
    matrices: np.ndarray
    """(R, T, K, K) int64: of each run on each tile; other classes count as the first."""
    notes: tuple[str, ...]
    """What had to be left out, in sentences."""


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """The runs of some folders, or of the checkpoints in them.

    Raises:
        UsageError: If one is no run folder, or given twice.
        CheckpointError: If a checkpoint is damaged.
    """
    folders = [path.parent if (path := Path(given)).is_file() else path for given in paths]
    for folder in folders:
        if not (folder / CHECKPOINT).is_file():
            raise UsageError(f"run={folder} has no {CHECKPOINT}. Expected a folder that geoseg train wrote.")
    names = _names([folder.resolve() for folder in folders])
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _read(folder: Path, name: str) -> Run:
    classes: tuple[str, ...] = ()
    tiles: list[TileScore] = []
    if (folder / TILES).is_file():
        classes, tiles = read_tiles(folder / TILES)
    try:
        with (folder / METRICS).open(newline="", encoding="utf-8") as file:
            log = tuple(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        log = ()  # it only adds how long training took
    return Run(name, folder, load_checkpoint(folder / CHECKPOINT), classes, tuple(tiles), log)


def _names(folders: Sequence[Path]) -> list[str]:
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise UsageError(f"run={twice} is given twice. Expected different runs.")
    names: list[str] = []
    for folder in folders:
        tails = ["/".join(folder.parts[-count:]) for count in range(1, len(folder.parts) + 1)]
        others = [other for other in folders if other != folder]
        names.append(next(t for t in tails if not any(f"/{other.as_posix()}".endswith(f"/{t}") for other in others)))
    return names


def common_ground(runs: Sequence[Run]) -> Common | None:
    """The classes and tiles that all runs share; None where no run has any.

    Raises:
        UsageError: If some have none, or nothing is shared.
    """
    if not any(run.tiles for run in runs):
        return None
    for run in runs:
        if not run.tiles:
            raise UsageError(
                f"run={run.path} has no validation tiles ({TILES}), others have. Expected runs that were validated on "
                "the same ground. Train it with --val, or leave it out."
            )
    classes, notes = _common_classes(runs)
    found = [_by_place(run, classes) for run in runs]
    places = [place for place in found[0] if all(place in other for other in found)]
    same = [p for p in places if all((m[p].sum(1) == found[0][p].sum(1)).all() for m in found)]
    if not same:
        raise UsageError(
            f"{' and '.join(str(run.path) for run in runs)} share no validation tile with the same labels "
            f"({', '.join(f'{len(run.tiles)} tiles of {_sources(run)}' for run in runs)}). Expected runs that were "
            "validated on the same ground. Compare predictions of one scene with geoseg evaluate."
        )
    if left_out := len(places) - len(same):
        notes.append(f"{left_out} tiles have other labels in one run than in another: left out.")
    if any(len(other) != len(places) for other in found):
        counts = ", ".join(f"{run.name} has {len(other)}" for run, other in zip(runs, found, strict=True))
        notes.append(f"{counts} tiles; compared on the {len(places)} that all have.")
    matrices = np.array([[other[place] for place in same] for other in found])
    return Common(classes, tuple(same), matrices, tuple(notes))


def _common_classes(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[str]]:
    first = runs[0].classes[0]
    shared = [name for name in runs[0].classes[1:] if all(name in run.classes[1:] for run in runs)]
    if not shared:
        has = "; ".join(f"{run.path}: {', '.join(run.classes)}" for run in runs)
        raise UsageError(f"the runs have no class in common besides the first ({has}). Expected one.")
    notes = [
        f"{', '.join(rest)} of {run.name}: not in every run, counts as {first}."
        for run in runs
        if (rest := [name for name in run.classes[1:] if name not in shared])
    ]
    return (first, *shared), notes


def _by_place(run: Run, classes: Sequence[str]) -> dict[Place, np.ndarray]:
    """Each tile's counts of the common classes; the others count as the first."""
    place = [classes.index(name) if name in classes[1:] else 0 for name in run.classes]
    merge = np.eye(len(classes), dtype=np.int64)[place]
    found: dict[Place, np.ndarray] = {}
    for tile in run.tiles:
        found[tile.place] = found.get(tile.place, 0) + merge.T @ tile.matrix @ merge
    return found


def _sources(run: Run) -> str:
    names = sorted({tile.source for tile in run.tiles})
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
