"""From the sources of a configuration to labelled ground, split into training and validation."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from geoseg.config import FolderSource, SceneSource, TownSource, TrainConfig
from geoseg.errors import NOTE, BandError, LabelsError, TrainingError
from geoseg.losses import parse_mixture
from geoseg.metrics import IGNORE
from geoseg.splits import audit
from geoseg.training.cache import decode, pixel_folder
from geoseg.training.ground import Ground, file_list, pixels_per_class, summary_of
from geoseg.training.pieces import Piece
from geoseg.training.sources.context import Context
from geoseg.training.sources.files import OpenFiles
from geoseg.training.sources.folders import read_tiles
from geoseg.training.sources.plan import Rules, decide
from geoseg.training.sources.scenes import read_scene
from geoseg.training.sources.surveys import Surveys, neighbours
from geoseg.training.sources.towns import read_towns
from geoseg.training.sources.units import Part, Unit

log = logging.getLogger(__name__)

_FEW = 100
"""A class with fewer training pixels than this is warned about."""


@dataclass(frozen=True, slots=True)
class Data:
    """All labelled ground of a run."""

    train: list[Ground]
    """Where samples are cut."""
    val: list[Ground]
    """Where the model is scored; may be empty."""
    bands: tuple[str, ...]
    """Names, as the first source has them."""
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By part, `train` and `val`, the share of each class in the labelled pixels. Pixels of which the labels say only
    that they are one of several classes are those of `background or road`."""


def load_data(config: TrainConfig, *, started: bool = False) -> Data:
    """Read every source of a configuration; pixels decoded in an earlier run are taken from the cache.

    Args:
        config: What to read.
        started: Whether a checkpoint is gone on from: classes that it knows need no labels.

    Raises:
        TrainingError: If there are no sources, nothing is left to train on, or they cannot be split as asked.
        LabelsError: If labels are missing, of another size, or hold nothing to learn.
        BandError: If the sources differ in number of bands.
        SceneError: If an image cannot be read.
    """
    if not config.data.sources:
        raise TrainingError(
            "data.sources is empty. Expected folders, scenes with labels, or synthetic towns to learn from."
        )
    folder = pixel_folder(config.data.cache)
    with OpenFiles() as files:
        context = Context(config, files, Surveys(folder / "surveys"), neighbours())
        sources = [_units(source, context) for source in config.data.sources]
        dtype = _common_dtype([unit for units in sources for unit in units])
        parts = decide(sources, Rules.of(config))
        weights = [source.weight for source in config.data.sources]
        pieces = _pieces(parts, weights, dtype, config.tile_size)
        if not any(piece.split == "train" for piece in pieces):
            raise TrainingError("no source has training ground and a weight above 0. Expected at least one.")
        grounds = decode(pieces, folder, int(config.data.cache_gb * 1e9), _distances(config))
    marked = list(zip(pieces, grounds, strict=True))
    train, val = ([ground for piece, ground in marked if piece.split == part] for part in ("train", "val"))
    data = Data(train, val, pieces[0].bands, {"train": _shares(train, config), "val": _shares(val, config)})
    _check(data, config, started)
    _say_shares(data)
    _say_leaks([part for own in parts for part in own])
    return data


def _units(source: SceneSource | FolderSource | TownSource, context: Context) -> list[Unit]:
    match source:
        case SceneSource():
            return [read_scene(source, context)]
        case FolderSource():
            return read_tiles(source, context)
        case TownSource():
            return read_towns(source, context)


def _distances(config: TrainConfig) -> int:
    """For how many classes the loss wants outlines' distances."""
    wanted = config.main_head is not None and parse_mixture(config.loss, task=config.task).wants_distances
    return len(config.classes) if wanted else 0


def _common_dtype(units: Sequence[Unit]) -> np.dtype:
    """The type that holds the values of all; bands must agree."""
    first = units[0]
    for unit in units:
        if len(unit.bands) != len(first.bands):
            theirs, ours = (f"{len(one.bands)} bands of {one.dtype}" for one in (unit, first))
            raise BandError(
                f"{unit.name} has {theirs}, {first.name} has {ours}. Expected the same everywhere. "
                "Choose bands with 'bands' of the source."
            )
        if sorted(unit.bands) == sorted(set(first.bands)) and unit.bands != first.bands:
            raise BandError(
                f"{unit.name} has its bands in the order {', '.join(unit.bands)}. Expected that of {first.name}: say "
                f"bands: [{', '.join(first.bands)}] of the source."
            )
    examples = {unit.dtype: unit.name for unit in reversed(units)}
    common = np.result_type(*examples)
    if len(examples) > 1:
        kinds = ", ".join(f"{dtype} in {name}" for dtype, name in examples.items())
        log.warning("Pixels are of several types (%s): all become %s, values as they are.", kinds, common)
    return common


def _pieces(parts: Sequence[Sequence[Part]], weights: Sequence[float], dtype: np.dtype, tile_size: int) -> list[Piece]:
    """What is decoded; a source's weight is shared out by area, and at weight 0 nothing is learnt from it."""
    pieces = []
    for own, weight in zip(parts, weights, strict=True):
        areas = [sum(window.area for window in part.learnt) if part.split == "train" else 0 for part in own]
        for part, area in zip(own, areas, strict=True):
            if part.split == "val":
                pieces.append(part.piece(dtype, 1.0))
            elif weight and area:
                side = math.ceil(tile_size * part.unit.zoom[1])
                pieces.append(part.piece(dtype, weight * area / sum(areas), side))
    return pieces


def _shares(grounds: Sequence[Ground], config: TrainConfig) -> dict[str, float]:
    if config.main_head is None or not grounds:
        return {}
    names = config.class_names
    told = dict(zip(names, pixels_per_class(grounds, len(names)).tolist(), strict=True))
    merged: dict[tuple[str, ...], int] = {}
    for ground in grounds:
        among = tuple(name for index, name in enumerate(names) if index not in ground.known)
        counts = summary_of(ground).counts
        merged[among] = merged.get(among, 0) + int(counts[:IGNORE].sum() - counts[list(ground.known)].sum())
    merged = {among: count for among, count in merged.items() if count}
    counted = {name: count for name, count in told.items() if count or not any(name in among for among in merged)}
    counted |= {" or ".join(among): count for among, count in merged.items()}
    every = max(sum(counted.values()), 1)
    return {name: count / every for name, count in counted.items()}


def _say_shares(data: Data) -> None:
    for part, shares in data.shares.items():
        if shares:
            log.log(
                NOTE, "Of the %s pixels: %s", part, ", ".join(f"{name} {share:.2%}" for name, share in shares.items())
            )


def _say_leaks(parts: Iterable[Part]) -> None:
    """The leak audit: how far validation ground lies from what is learnt."""
    parts = list(parts)
    train = [place for part in parts if part.split == "train" for place in part.places]
    found = audit(train, [place for part in parts if part.split == "val" for place in part.places])
    for distance in found:
        far = "not known" if distance.value is None else _far(distance.value, distance.unit)
        log.info("Leak audit: %s: nearest training pixel %s", distance.name, far)
    for unit in ("m", "px"):
        known = [distance.value for distance in found if distance.value is not None and distance.unit == unit]
        if known:
            least, middle = (_far(value, unit) for value in (min(known), float(np.median(known))))
            words = len(known), least, middle
            log.log(
                NOTE, "Leak audit: from %d validation tiles to training pixels it is %s or more (median %s).", *words
            )
        if touching := sum(value == 0 for value in known):
            log.warning(
                "%d of %d validation tiles touch training ground: their scores may flatter. Leave a gap between the "
                "windows, or let data.split=blocks do it.",
                touching,
                len(known),
            )
    if lost := sum(distance.value is None for distance in found):
        log.log(NOTE, "Leak audit: %d validation tiles lie nowhere: how far from training pixels is not known.", lost)


def _far(value: float, unit: str) -> str:
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _check(data: Data, config: TrainConfig, started: bool) -> None:
    """Refuse what nothing can be learnt from. What a checkpoint knows need not be learnt again."""
    counts = pixels_per_class(data.train, len(config.classes))
    names = file_list(data.train)
    summaries = [summary_of(ground) for ground in data.train]
    if not any(summary.labelled for summary in summaries):
        raise LabelsError(f"every training pixel is ignored ({names}). Expected labelled pixels.")
    for name in config.further_heads:
        if not any(name in summary.further and summary.further[name].known for summary in summaries):
            raise LabelsError(
                f"no training pixel has a target of head {name!r} ({names}). Expected some. Name its files."
            )
    if config.main_head is None:
        return
    for index, item in enumerate(config.classes):
        if index and not counts[index] and started and counts[1:].any():
            log.warning("No training pixel is labelled %r: it stays as the checkpoint knows it.", item.name)
            continue
        if index and not counts[index]:
            raise LabelsError(
                f"no training pixel is labelled {item.name!r} ({names}). Expected some of every class. "
                "Leave the class out with --classes, or add labels of it."
            )
        if index and counts[index] < _FEW:
            log.warning("Only %d training pixels are labelled %r.", counts[index], item.name)
