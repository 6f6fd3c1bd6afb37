"""Runs side by side: scores with intervals, paired differences, calibration, speed and size."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.compare.bootstrap import BY_CLASS, OVERALL, RESAMPLES, SEED, Estimate, estimate, figures, resample
from geoseg.compare.runs import Common, Run, common_ground, read_runs
from geoseg.compare.speed import megapixels_per_second
from geoseg.errors import OutputError, OutputExistsError
from geoseg.models.cost import macs_per_pixel, parameters
from geoseg.predict import Placement

__all__ = ["Comparison", "Estimate", "Facts", "Scored", "compare_runs"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to say of one run beside its scores."""

    name: str
    """Short, and of no other run."""
    path: str
    """Its folder."""
    arch: str
    """Architecture."""
    parameters: int
    """Trained numbers."""
    bytes: int
    """Of the checkpoint's file."""
    macs_per_pixel: float
    """Multiply-accumulates of a forward pass."""
    megapixels_per_s: float
    """Forward pass and choice of classes of tiles in memory, measured now, on this machine."""
    ece: float | None
    """Calibration error on the run's own validation ground: class by class over pixels with p > 0.05, then the mean."""
    epochs: int | None
    """Trained."""
    minutes: float | None
    """Trained, on whatever machine that was."""
    samples_per_s: float | None
    """In the last epoch of training, there."""
    further: Mapping[str, float | None]
    """Scores of further heads on the run's own validation ground."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a run on the common tiles, or what they are more than those of the first run."""

    classes: Mapping[str, Mapping[str, Estimate | None]]
    """By class, then by score (`BY_CLASS`); None for what cannot be had."""
    overall: Mapping[str, Estimate | None]
    """By score (`OVERALL`)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs on the validation tiles that they share. What intervals say stands in `geoseg.compare.bootstrap`."""

    runs: tuple[Facts, ...]
    """As they were given."""
    device: str
    """Where and how their speed was measured."""
    tiles: int
    """That all of them share; 0 where runs have no classes."""
    sources: int
    """How many sources the tiles are of."""
    scores: tuple[Scored, ...]
    """Of each run; empty without tiles."""
    differences: tuple[Scored, ...]
    """Of each run after the first, to the first, on the same draws of tiles; empty without tiles."""
    notes: tuple[str, ...]
    """What was left out, in sentences."""
    resamples: int = RESAMPLES
    """Draws of tiles."""
    seed: int = SEED
    """Of the draws."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The first class, and those that all runs have."""
        return tuple(self.scores[0].classes) if self.scores else ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all that is known, None where a figure is not to be had."""
        runs = []
        for index, facts in enumerate(self.runs):
            own = asdict(self.scores[index]) if self.scores else None
            more = asdict(self.differences[index - 1]) if self.scores and index else None
            runs.append(asdict(facts) | {"scores": own, "differences": more})
        about = {name: getattr(self, name) for name in ("device", "tiles", "sources", "resamples", "seed")}
        return {"runs": runs, "classes": list(self.classes), **about, "notes": list(self.notes)}

    def table(self) -> str:
        """Aligned text of at most 100 columns, for runs of short names."""
        from geoseg.compare.table import comparison_table

        return comparison_table(self)

    def draw(self, path: str | Path) -> None:
        """Draw the IoU of each class with its interval, and the differences to the first run, as a PNG.

        Raises:
            OutputError: If the file cannot be written, or there are no scores to draw.
        """
        from geoseg.training.figures import compare_figure

        if not self.scores:
            raise OutputError(f"figure={path}: the runs have no classes to draw. Leave --figure out.")
        names = [facts.name for facts in self.runs]
        notes = {f.name: f"{f.bytes / 1e6:.1f} MB, {f.megapixels_per_s:.2g} Mpx/s" for f in self.runs}
        scores = dict(zip(names, map(_drawn, self.scores), strict=True))
        differences = dict(zip(names[1:], map(_drawn, self.differences), strict=True))
        compare_figure(Path(path), scores, differences, metric="IoU", notes=notes)


def compare_runs(runs: Sequence[str | Path], *, device: str = "auto") -> Comparison:
    """Put runs side by side, on the validation tiles and classes that they share.

    Args:
        runs: Folders that `train_model` wrote, at least one; the first is what the others are compared with.
        device: Where their speed is measured.

    Raises:
        UsageError: If one is no run folder, or they share no class or no tile.
        CheckpointError: If a checkpoint is damaged.
        DeviceError: If this machine does not have the device.
    """
    found = read_runs(runs)
    common = common_ground(found)
    placement = Placement.resolve(device)
    speeds = megapixels_per_second([run.checkpoint for run in found], placement)
    scores, differences = _bootstrap(common) if common else ((), ())
    return Comparison(
        runs=tuple(_facts(run, speed) for run, speed in zip(found, speeds, strict=True)),
        device=f"{placement.device}, {placement.precision}",
        tiles=len(common.places) if common else 0,
        sources=len({place[0] for place in common.places}) if common else 0,
        scores=scores,
        differences=differences,
        notes=common.notes if common else (),
    )


def check_figure(path: Path, overwrite: bool) -> None:
    """Refuse a figure that is there, or cannot be, before anything is computed.

    Raises:
        OutputExistsError: If it exists and `overwrite` is not set.
        OutputError: If the folder above it is missing, or it is no PNG.
    """
    if path.suffix.lower() != ".png":
        raise OutputError(f"figure={path} is no PNG. Expected a name that ends in .png.")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"figure={path}: the folder {path.absolute().parent} does not exist. Make it first.")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"figure={path} exists. Choose another name, or add --overwrite.")


def _facts(run: Run, speed: float) -> Facts:
    network = run.checkpoint.build()
    network.in_channels = len(run.checkpoint.header.bands)  # type: ignore[assignment]
    epochs, seconds = run.last("epoch"), run.last("seconds")
    return Facts(
        name=run.name,
        path=str(run.path),
        arch=run.checkpoint.header.arch,
        parameters=parameters(network),
        bytes=run.bytes,
        macs_per_pixel=macs_per_pixel(network),
        megapixels_per_s=speed,
        ece=run.calibration_error,
        epochs=None if epochs is None else int(epochs),
        minutes=None if seconds is None else seconds / 60,
        samples_per_s=run.last("samples_per_s"),
        further=run.further,
    )


def _bootstrap(common: Common) -> tuple[tuple[Scored, ...], tuple[Scored, ...]]:
    """Scores of each run, and differences of the later ones to the first, all of the same draws."""
    whole = figures(common.matrices.sum(1))
    if len(common.places) > 1:
        drawn = figures(resample(common.matrices))
    else:
        drawn = {name: np.full((len(values), 1, *values.shape[1:]), np.nan) for name, values in whole.items()}
    runs = range(len(common.matrices))
    own = [({n: v[run] for n, v in whole.items()}, {n: v[run] for n, v in drawn.items()}) for run in runs]
    more = [
        ({n: v[run] - v[0] for n, v in whole.items()}, {n: v[run] - v[0] for n, v in drawn.items()}) for run in runs
    ]
    return tuple(_scored(common, *one) for one in own), tuple(_scored(common, *one) for one in more[1:])


def _scored(common: Common, whole: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]) -> Scored:
    return Scored(
        classes={
            name: {score: estimate(float(whole[score][index]), drawn[score][:, index]) for score in BY_CLASS}
            for index, name in enumerate(common.classes)
        },
        overall={score: estimate(float(whole[score]), drawn[score]) for score in OVERALL},
    )


def _drawn(scored: Scored) -> dict[str, Any]:
    """The IoU of each class but the first, and their mean, as the figure has them."""
    from geoseg.training.figures import Interval

    rows = {name: by_score["iou"] for name, by_score in list(scored.classes.items())[1:]}
    rows |= {"mean": scored.overall["iou_mean"]} if len(rows) > 1 else {}
    return {name: one and Interval(one.value, *one.ends) for name, one in rows.items()}
