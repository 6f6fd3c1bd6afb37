"""Synthetic towns, drawn when they are decoded."""

from functools import lru_cache

import numpy as np
from affine import Affine

from geoseg.config import TownSource
from geoseg.grid import Grid
from geoseg.synthetic import CLASSES as TOWN_CLASSES
from geoseg.synthetic import Town, draw_town
from geoseg.training.pieces import Decoded
from geoseg.training.sources.context import Context
from geoseg.training.sources.units import Unit
from geoseg.windows import Window


def read_towns(source: TownSource, context: Context) -> list[Unit]:
    """Towns. Their classes are found by name; a class that towns do not have is not known there."""
    low, high = np.log(source.gsd_range)
    units = []
    for seed in range(source.seed, source.seed + source.synthetic):
        gsd = float(np.exp(np.random.default_rng(seed).uniform(low, high)))
        units.append(_unit(seed, gsd, source, context))
    return units


def _unit(seed: int, gsd: float, source: TownSource, context: Context) -> Unit:
    names, further = context.names, context.further({})
    place = np.array([names.index(name) if name in names else 0 for name in TOWN_CLASSES], np.uint8)

    def read(window: Window) -> Decoded:
        town = _drawn(source.size, gsd, seed)
        rows, cols = window.slices()
        target, valid = town.target()[rows, cols], town.valid[rows, cols]
        target[valid] = place[target[valid]]
        return Decoded(town.image[:, rows, cols], valid, target, further.read(window))

    return Unit(
        name=f"town {seed}",
        source="towns",
        group=f"town {seed}",
        # Where towns are drawn they all lie in one place, which would be said to be learnt and validated on at once.
        grid=Grid((source.size, source.size), Affine(gsd, 0, 0, 0, -gsd, 0), None),
        bands=("red", "green", "blue"),
        dtype=np.dtype(np.uint8),
        known=tuple(index for index, name in enumerate(names) if name in TOWN_CLASSES),
        counts=np.zeros(len(names), np.int64),
        read=read,
        files=(),
        recipe={"town": seed, "size": source.size, "gsd": gsd, "classes": names, "heads": further.counts},
        gsd=gsd,
        zoom=source.zoom or context.config.augmentation.zoom,
        split=source.split,
    )


@lru_cache(maxsize=1)
def _drawn(size: int, gsd: float, seed: int) -> Town:
    """The town whose windows are being read."""
    return draw_town((size, size), gsd, seed)
