"""Classes: a raster of class indices against one of the same kind, or against polygons."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from geoseg.errors import LabelsError, UsageError, listed, nearest
from geoseg.evaluate.lattice import Placed, parts
from geoseg.metrics import IGNORE, ConfusionMatrix, Scores
from geoseg.scene import Scene
from geoseg.targets import LabelledArea, VectorLabels
from geoseg.windows import Window

log = logging.getLogger(__name__)

_BACKGROUND = "background"
"""Value 0 of a raster that does not name its classes."""
_WRONG = 254
"""What a value that stands for no class becomes, until it is refused."""


class Reference(Protocol):
    """The truth, whatever it is read from."""

    @property
    def known(self) -> tuple[str, ...]:
        """The classes it tells apart from all others."""

    def target(self, window: Window, scored: tuple[str, ...]) -> np.ndarray:
        """(height, width) uint8 indices into `scored`, 255 = unknown; a window of the predicted raster's grid."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassRaster:
    """A raster of class indices, and the names of its classes; as a `Reference`, it knows those that it names."""

    raster: Placed
    """On the lattice of the predicted one."""
    known: tuple[str, ...]
    """Names of its classes by value, the background first."""

    def __post_init__(self) -> None:
        path, scene = self.raster.path, self.raster.scene
        if len(scene.bands) != 1 or scene.dtype.kind not in "iu":
            raise LabelsError(
                f"{path} has {len(scene.bands)} bands of {scene.dtype}. "
                "Expected class indices: one band of whole numbers."
            )
        if not 2 <= len(self.known) <= _WRONG:
            raise LabelsError(f"{path} has {len(self.known)} classes. Expected 2 to {_WRONG}.")

    def target(self, window: Window, scored: tuple[str, ...]) -> np.ndarray:
        """See `Reference`; 0 for classes that are not scored, 255 without data and beyond the raster's edge.

        Raises:
            SceneError: If the pixels cannot be read.
            LabelsError: If a valid pixel's value stands for no class.
        """
        tile = self.raster.read(window)
        values = tile.data[0]
        if values.dtype != np.uint8:
            values = np.where((values < 0) | (values > IGNORE), _WRONG, values).astype(np.uint8)
        indices = _lookup(self.known, scored)[values]
        indices[~tile.valid] = IGNORE
        wrong = indices == _WRONG
        if wrong.any():
            raise LabelsError(
                f"{self.raster.path} has the value {tile.data[0][wrong][0]}. "
                f"Expected class indices 0 to {len(self.known) - 1} ({', '.join(self.known)}), or {IGNORE}."
            )
        return indices


@dataclass(frozen=True, slots=True, eq=False)
class VectorReference:
    """Polygons burnt onto the predicted raster's grid."""

    labels: VectorLabels
    """The truth."""

    @property
    def known(self) -> tuple[str, ...]:
        """The classes its features have."""
        return self.labels.present

    def target(self, window: Window, scored: tuple[str, ...]) -> np.ndarray:
        """See `Reference`."""
        return _lookup(self.labels.class_names, scored)[self.labels.target(window)]


def score_classes(
    predicted: ClassRaster,
    reference: str,
    truth: Reference,
    region: Window,
    area: LabelledArea | None,
    classes: Sequence[str] | None,
) -> tuple[Scores, tuple[str, ...]]:
    """The scores of a class raster, and the names of its classes that count as the first one.

    Args:
        predicted: Class indices.
        reference: Path of the truth, for messages.
        truth: The truth.
        region: What is compared, of the predicted raster.
        area: Outside of it nothing is known.
        classes: The classes to score, besides the first; by default those that the truth knows.

    Raises:
        UsageError: If `classes` names one that is not there.
        LabelsError: If the truth has no class in common, or a value stands for none.
    """
    scored = _scored(predicted, truth, reference, classes)
    confusion = ConfusionMatrix(scored)
    for window in parts(region):
        target = truth.target(window, scored)
        if area is not None:
            target[~area.valid(window)] = IGNORE
        confusion.update(target, predicted.target(window, scored))
    return confusion.scores(), tuple(name for name in predicted.known if name not in scored)


def class_names(scene: Scene, path: str, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The names of a class raster's values: its own, else those given for 1, 2, ...

    Raises:
        UsageError: If there are neither.
    """
    if scene.class_names:
        return tuple(scene.class_names)
    if not classes:
        raise UsageError(
            f"{path} does not name its classes. Expected the names of its values 1, 2, ... with --classes, "
            "for example --classes building,road."
        )
    return (_BACKGROUND, *(name for name in classes if name != _BACKGROUND))


def _scored(raster: ClassRaster, truth: Reference, reference: str, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The first class, and of the others those asked for or known to the reference. What is left out is said."""
    first, *others = names = raster.known
    for name in classes or ():
        check_known(name, names, raster.raster.path)
    scored = (first, *(name for name in others if name in (classes or truth.known)))
    if len(scored) == 1:
        raise LabelsError(
            f"{reference} knows {', '.join(truth.known) or 'no class'}, {raster.raster.path} {', '.join(names)}. "
            f"Expected a class in common besides {first}."
        )
    if merged := [name for name in names if name not in scored]:
        reason = "it is not scored" if classes else "the reference does not tell it apart"
        log.warning("%s: %s counts as %s: %s", raster.raster.path, ", ".join(merged), first, reason)
    if merged := [name for name in truth.known if name not in scored]:
        log.warning("%s: %s counts as %s: it is not scored", reference, ", ".join(merged), first)
    return scored


def check_known(name: str, known: Collection[str], where: str) -> None:
    """Refuse a class that is not there.

    Raises:
        UsageError: With the nearest that is.
    """
    if name not in known:
        raise UsageError(f"class={name!r} is not in {where}.{nearest(name, known)} Expected some of {listed(known)}.")


def _lookup(names: tuple[str, ...], scored: tuple[str, ...]) -> np.ndarray:
    """(256,) uint8: from an index into `names` to one into `scored`; 0 for classes not scored."""
    table = np.full(256, _WRONG, np.uint8)
    table[: len(names)] = [scored.index(name) if name in scored else 0 for name in names]
    table[IGNORE] = IGNORE
    return table
