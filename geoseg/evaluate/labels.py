"""Labels: a raster with a band of 0 and 1 for each of several classes that may overlap, against another such."""

import logging
from collections.abc import Sequence

import numpy as np

from geoseg.errors import LabelsError
from geoseg.evaluate.classes import check_known
from geoseg.evaluate.lattice import Placed, parts, place
from geoseg.metrics import IGNORE, LabelCounts, LabelScores
from geoseg.scene import Scene
from geoseg.targets import LabelledArea
from geoseg.windows import Window

log = logging.getLogger(__name__)

_COLORS = ("red", "green", "blue")
"""What GDAL calls three bands of bytes that nobody named."""


def score_labels(
    predicted: Placed,
    reference: str,
    scene: Scene,
    region: Window,
    area: LabelledArea | None,
    classes: Sequence[str] | None,
    bounded: Sequence[str] = (),
) -> tuple[LabelScores, tuple[str, ...]]:
    """The scores of labels that both rasters have, and the names of those that only the predicted one has.

    Bands are matched by name; those of a reference without names by their order.

    Args:
        predicted: Bands of 0 and 1; 255, or no data in all bands, where there is no prediction.
        reference: Path of the truth, for messages.
        scene: The truth: the same, on the predicted raster's lattice; 255 where a label is not known.
        region: What is compared, of the predicted raster.
        area: Outside of it nothing is known.
        classes: The labels to score; where the predicted bands have no names, what they are called.
        bounded: Labels that must be there.

    Raises:
        LabelsError: If the truth has no label in common, other values, or lies elsewhere.
        UsageError: If `classes` names one that is not there.
    """
    names = _names(predicted.scene, classes) or _names(scene) or _numbered(predicted.scene)
    theirs = _names(scene) or (names if len(scene.bands) == len(names) else ())
    if len(names) != len(predicted.scene.bands) or not set(theirs) & set(names):
        has = f"{predicted.path} has {_listed(predicted.scene)}, {reference} {_listed(scene)}"
        raise LabelsError(f"{has}. Expected bands of the same names: one of 0 and 1 for each label.")
    for name in (*(classes or ()), *bounded):
        check_known(name, names, predicted.path)
    scored = [name for name in names if name in (classes or theirs)]
    if missing := [name for name in scored if name not in theirs]:
        raise LabelsError(f"{reference} has no band {missing[0]!r}. Expected it: it is to be scored.")
    left = tuple(name for name in names if name not in scored)
    if left:
        log.warning("%s: %s is not scored", predicted.path, ", ".join(left))
    truth, counts = place(reference, scene, predicted), LabelCounts(scored)
    for window in parts(region):
        target = _bits(truth, window, [theirs.index(name) for name in scored])
        if area is not None:
            target[:, ~area.valid(window)] = IGNORE
        counts.update(target, _bits(predicted, window, [names.index(name) for name in scored]))
    return counts.scores(), left


def _listed(scene: Scene) -> str:
    return f"{len(scene.bands)} bands ({', '.join(band.name for band in scene.bands)})"


def _numbered(scene: Scene) -> tuple[str, ...]:
    return tuple(f"band_{band.index}" for band in scene.bands)


def _names(scene: Scene, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """What the bands are called, by themselves or else by who asks; empty where neither says so."""
    own = tuple(band.name for band in scene.bands)
    if all(name in (*_COLORS, *_numbered(scene)) for name in own):
        return tuple(given or ())
    return own


def _bits(raster: Placed, window: Window, bands: Sequence[int]) -> np.ndarray:
    """(labels, h, w) uint8 of 0, 1, or 255 where nothing is known."""
    tile = raster.read(window)
    values = tile.data[list(bands)]
    wrong = tile.valid & (values != 0) & (values != 1) & (values != IGNORE)
    if wrong.any():
        raise LabelsError(
            f"{raster.path} has several bands, and in them the value {values[wrong][0]:g}. Expected labels: a "
            f"band of 0 and 1 for each class, {IGNORE} where unknown; or a class raster, which has one band."
        )
    return np.where(tile.valid, values, IGNORE).astype(np.uint8)
