"""The plan: which ground is learnt from and which is held back, by the sources' own word, lists, or `data.split`."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geoseg.config import TrainConfig
from geoseg.errors import TrainingError
from geoseg.splits import ground_boxes, split_frame, split_groups, split_tiles, subtract
from geoseg.training.ground import file_list
from geoseg.training.sources.between import close_between
from geoseg.training.sources.units import Part, Split, Unit
from geoseg.windows import Window

log = logging.getLogger(__name__)

_BLOCK_TILES = 4
"""Sides of a sample that the side of a validation block has, at most."""
_GROUPS = 3
"""Folders of images that lie nowhere are split as a whole where there are at least so many."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What of the configuration decides the split."""

    mode: str | None
    share: float
    tile: int
    gap: int | None
    seed: int

    @classmethod
    def of(cls, config: TrainConfig) -> "Rules":
        """Those of a configuration."""
        return cls(config.data.split, config.data.val, config.tile_size, config.data.gap, config.seed)

    @property
    def default_gap(self) -> int:
        """Pixels round validation blocks."""
        return self.tile // 2 if self.gap is None else self.gap


def decide(sources: Sequence[Sequence[Unit]], rules: Rules) -> list[list[Part]]:
    """The parts of each source's units, in order; a unit of which nothing is used has none.

    Raises:
        TrainingError: If the ground cannot be split as `data.split` says.
    """
    said, implied, open_units = zip(*(_said(units, rules) for units in sources), strict=True)
    _check_mode(open_units, rules)
    whole = rules.mode == "scene" and rules.share
    more = _by_scene(open_units, rules) if whole else [_split(units, rules) for units in open_units]
    more = [own + rest for own, rest in zip(implied, more, strict=True)]
    if rules.mode != "random":
        more = close_between(more, [part for own in said for part in own], rules.default_gap)
    return [own + rest for own, rest in zip(said, more, strict=True)]


def _said(units: Sequence[Unit], rules: Rules) -> tuple[list[Part], list[Part], list[Unit]]:
    """The parts of units of which the configuration or a list says what they are for, and the other units.

    By themselves, second, the parts to learn from that are only what the windows to validate on leave.
    """
    said: list[Part] = []
    implied: list[Part] = []
    rest: list[Unit] = []
    for unit in units:
        listed = unit.listed if rules.mode in (None, "manifest") else None
        if unit.boxes:
            train, val = _by_boxes(unit, rules)
            said += val
            (implied if unit.boxes.train is None else said).extend(train)
        elif unit.split:
            said.append(_whole(unit, unit.split))
        elif listed:
            said += [_whole(unit, "val" if listed == "val" else "train")] if listed != "none" else []
        else:
            rest.append(unit)
    return said, implied, rest


def _whole(unit: Unit, split: Split) -> Part:
    return Part(unit, split, unit.frame)


def _by_boxes(unit: Unit, rules: Rules) -> tuple[list[Part], list[Part]]:
    """Windows that the configuration names, to learn from and to validate on, each within what is labelled."""
    assert unit.boxes is not None  # noqa: S101
    named = unit.boxes.train
    val = [common for window in unit.boxes.val if (common := window.intersection(unit.frame))]
    train = [common for window in named or (unit.frame,) if (common := window.intersection(unit.frame))]
    gap = rules.gap or 0
    if named is None:
        gap = _fitting(unit.frame, val, rules.default_gap)
    closed = tuple(window.expand(gap) if gap else window for window in val)
    return [Part(unit, "train", window, closed) for window in train], [Part(unit, "val", window) for window in val]


def _fitting(frame: Window, val: Sequence[Window], gap: int) -> int:
    """The gap, halved until at least half of what is not validated on is left to learn from."""

    def left(margin: int) -> int:
        return sum(window.area for window in subtract(frame, [window.expand(margin) for window in val]))

    free = left(0)
    while gap and left(gap) < free / 2:
        gap //= 2
    return gap


def _check_mode(sources: Sequence[Sequence[Unit]], rules: Rules) -> None:
    units = [unit for own in sources for unit in own]
    if rules.mode == "manifest" and units:
        raise TrainingError(
            f"data.split=manifest, but nothing says what {file_list(units)} are for. Expected a manifest.csv with a "
            "column split, as geoseg tile writes, or a dataset's own lists. Choose data.split=blocks."
        )
    groups = {(at, unit.group) for at, own in enumerate(sources) for unit in own}
    if rules.mode == "scene" and rules.share and len(groups) == 1:
        raise TrainingError(
            f"data.split=scene, but {file_list(units)} are of one scene. Expected at least two scenes, or folders of "
            "images. Choose data.split=blocks."
        )


def _by_scene(sources: Sequence[Sequence[Unit]], rules: Rules) -> list[list[Part]]:
    """Whole scenes, over all sources."""
    groups = {key: at for at, key in enumerate(dict.fromkeys(_groups(sources)))}
    place = [groups[key] for key in _groups(sources)]
    units = [unit for own in sources for unit in own]
    counts = np.zeros((len(groups), len(units[0].counts) if units else 1), np.int64)
    for at, unit in zip(place, units, strict=True):
        counts[at] += unit.counts
    held = split_groups(counts, share=rules.share, seed=rules.seed)
    marks = iter(place)
    return [[_whole(unit, "val" if held[next(marks)] else "train") for unit in own] for own in sources]


def _groups(sources: Sequence[Sequence[Unit]]) -> list[tuple[int, str]]:
    return [(at, unit.group) for at, own in enumerate(sources) for unit in own]


def _split(units: Sequence[Unit], rules: Rules) -> list[Part]:
    """The units of one source, by blocks of ground or tile by tile."""
    if not rules.share or not units:
        return [_whole(unit, "train") for unit in units]
    if len(units) == 1 and (unit := units[0]).survey:
        return _in_blocks(unit, rules) if rules.mode != "random" else _at_random(unit, rules)
    if rules.mode == "random":
        held = split_groups(np.array([unit.counts for unit in units]), share=rules.share, seed=rules.seed)
        return [_whole(unit, "val" if own else "train") for unit, own in zip(units, held, strict=True)]
    return _neighbours(units, rules)


def _in_blocks(unit: Unit, rules: Rules) -> list[Part]:
    """Square blocks of one scene, and all but them and their gap."""
    gap = rules.default_gap
    blocks = split_frame(
        unit.frame, share=rules.share, block=_BLOCK_TILES * rules.tile, gap=gap, seed=rules.seed, survey=unit.survey
    )
    if blocks.val and blocks.gap < gap:
        log.info("%s is small: the gap round its validation blocks is %d pixels, not %d.", unit.name, blocks.gap, gap)
    val = [Part(unit, "val", window) for window in blocks.val]
    return [Part(unit, "train", unit.frame, blocks.closed), *val]


def _at_random(unit: Unit, rules: Rules) -> list[Part]:
    """Tiles of one scene, chosen without a look at their neighbours."""
    frame, side = unit.frame, rules.tile
    tiles = [
        Window(row=row, col=col, height=min(side, frame.stop_row - row), width=min(side, frame.stop_col - col))
        for row in range(frame.row, frame.stop_row, side)
        for col in range(frame.col, frame.stop_col, side)
    ]
    held = split_groups(np.array([[tile.area] for tile in tiles]), share=rules.share, seed=rules.seed)
    val = tuple(tile for tile, own in zip(tiles, held, strict=True) if own)
    return [Part(unit, "train", frame, val), *(Part(unit, "val", window) for window in val)]


def _neighbours(units: Sequence[Unit], rules: Rules) -> list[Part]:
    """Blocks of neighbouring images; without a georeference, the last ones by name."""
    boxes = ground_boxes([unit.grid for unit in units])
    if np.isnan(boxes).any():
        return _unplaced(units, rules)
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    counts = np.array([unit.counts for unit in units])
    split = split_tiles(centres, sizes, counts, share=rules.share, gap=0, seed=rules.seed)
    if len(units) > 1 and "val" not in split:
        log.warning("Images of %s all say that they show the same ground.", units[0].source)
        return _last(units, rules)
    # What lies in the gap is left out later, to the pixel: `close_between`.
    return [_whole(unit, "val" if mark == "val" else "train") for unit, mark in zip(units, split, strict=True)]


def _unplaced(units: Sequence[Unit], rules: Rules) -> list[Part]:
    """Images that lie nowhere: whole folders of them, if there are several, else the last ones by name."""
    groups = {name: at for at, name in enumerate(dict.fromkeys(unit.group for unit in units))}
    if len(groups) >= _GROUPS:
        counts = np.zeros((len(groups), len(units[0].counts)), np.int64)
        for unit in units:
            counts[groups[unit.group]] += unit.counts
        held = split_groups(counts, share=rules.share, seed=rules.seed)
        if rules.share / 2 <= counts[held].sum() / max(counts.sum(), 1) <= 2 * rules.share:
            names = ", ".join(name for name, at in groups.items() if held[at])
            log.warning("Images of %s lie nowhere: whole folders are validated on (%s).", units[0].source, names)
            return [_whole(unit, "val" if held[groups[unit.group]] else "train") for unit in units]
    return _last(units, rules)


def _last(units: Sequence[Unit], rules: Rules) -> list[Part]:
    kept = min(math.ceil(len(units) * rules.share), len(units) - 1)
    if kept > 0:
        log.warning(
            "Nothing tells which images of %s are neighbours: the last %d of %d by name are validated on. "
            "If names say nothing either, choose data.split=scene or data.split=random.",
            units[0].source,
            kept,
            len(units),
        )
    first = len(units) - max(kept, 0)
    return [_whole(unit, "train" if at < first else "val") for at, unit in enumerate(units)]
