"""What each tile is for: training, validation, or neither, because it lies between the two."""

import logging
from collections.abc import Sequence

import numpy as np

from geoseg.errors import UsageError
from geoseg.splits import ground_boxes, split_groups, split_tiles
from geoseg.tiles.manifest import TileEntry
from geoseg.tiles.options import TileOptions

log = logging.getLogger(__name__)

_ELSEWHERE = 1e8
"""Between scenes that nothing places: farther than any two on Earth."""


def split_entries(entries: Sequence[TileEntry], options: TileOptions, gsd: float | None) -> np.ndarray:
    """(N,) text: train, val or none for each tile.

    Args:
        entries: The tiles, one or more.
        options: The user's.
        gsd: Metres per pixel of scenes whose CRS does not tell.

    Raises:
        UsageError: If whole scenes are to be held back of a single one.
    """
    if not options.val:
        return np.full(len(entries), "train", dtype="<U5")
    counts = np.array([entry.counts if len(entry.counts) else [entry.known] for entry in entries], np.int64)
    if options.split == "scene":
        return _by_scene(entries, counts, options)
    if options.split == "random":
        return _at_random(len(entries), options)
    boxes = _boxes(entries, gsd)
    gap = options.tile_size // 2 if options.gap is None else options.gap
    pixel = np.median([entry.grid.gsd or gsd or 1.0 for entry in entries])
    split = split_tiles(
        (boxes[:, :2] + boxes[:, 2:]) / 2,
        boxes[:, 2:] - boxes[:, :2],
        counts,
        share=options.val,
        gap=float(gap * pixel),
        seed=options.seed,
    )
    if "val" not in split:
        log.warning("No tile is for validation: there are too few. Cut smaller ones, or give geoseg train --val.")
    return split


def _by_scene(entries: Sequence[TileEntry], counts: np.ndarray, options: TileOptions) -> np.ndarray:
    scenes = list(dict.fromkeys(entry.scene for entry in entries))
    if len(scenes) < 2:
        raise UsageError(
            f"split=scene: all tiles are of {scenes[0]}. Expected two scenes or more with tiles. Use --split blocks."
        )
    place = np.array([scenes.index(entry.scene) for entry in entries])
    sums = np.stack([counts[place == index].sum(axis=0) for index in range(len(scenes))])
    held = split_groups(sums, share=options.val, seed=options.seed)
    return np.where(held[place], "val", "train")


def _at_random(number: int, options: TileOptions) -> np.ndarray:
    log.warning("Tiles are split at random: validation shows ground next to what is learnt, and flatters the model.")
    split = np.full(number, "train", dtype="<U5")
    held = min(max(round(number * options.val), 1), number - 1)
    split[np.random.default_rng(options.seed).permutation(number)[:held]] = "val"
    return split


def _boxes(entries: Sequence[TileEntry], gsd: float | None) -> np.ndarray:
    """(N, 4) left, bottom, right, top in metres of one plane; scenes without a CRS lie far from all others."""
    boxes = ground_boxes([entry.grid for entry in entries], [entry.window for entry in entries])
    nowhere = {entry.scene: None for entry, box in zip(entries, boxes, strict=True) if np.isnan(box[0])}
    away = {scene: _ELSEWHERE * (index + 1) for index, scene in enumerate(nowhere)}
    for index, entry in enumerate(entries):
        if entry.scene in away:
            window, side = entry.window, gsd or 1.0
            pixels = np.array([window.col, window.row, window.stop_col, window.stop_row], float)
            boxes[index] = pixels * side + away[entry.scene]
    return boxes
