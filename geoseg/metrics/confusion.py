"""Pixel metrics: one global confusion matrix and what follows from it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from geoseg.errors import ShapeError, UsageError

IGNORE = 255
"""The value of pixels without truth in a target, and without an answer in a prediction."""

_BLOCK = 1 << 18
"""Pixels counted at a time: their 64-bit codes stay in the cache."""


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One class against all others. None ("n/a") where a ratio has nothing to divide by.

    TP, FP, FN, TN are the pixels of the class rightly and wrongly predicted, missed, and rightly left alone.
    A class absent from the target has no IoU, F1 or recall; false alarms show as a precision of 0.
    Source: Everingham et al. 2010, doi:10.1007/s11263-009-0275-4, sec. 4.3 (IoU); van Rijsbergen 1979, Information
    Retrieval, ch. 7 (precision, recall, F1).
    """

    name: str
    """The class."""
    iou: float | None
    """Intersection over union, TP / (TP + FP + FN), in [0, 1]."""
    f1: float | None
    """F1, which is the Dice coefficient: 2 TP / (2 TP + FP + FN), in [0, 1]."""
    precision: float | None
    """TP / (TP + FP), in [0, 1]; None if never predicted."""
    recall: float | None
    """TP / (TP + FN), in [0, 1]."""
    specificity: float | None
    """TN / (TN + FP), in [0, 1]; None if the target is nothing but this class."""
    support: int
    """Pixels of the class in the target: TP + FN."""
    predicted: int
    """Pixels predicted as the class: TP + FP."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a confusion matrix says. Means are over the classes present in the target, never over absent ones."""

    classes: tuple[ClassScores, ...]
    """In class order, absent ones included."""
    accuracy: float | None
    """Share of pixels that are right, in [0, 1]; None without pixels."""
    balanced_accuracy: float | None
    """Mean recall over present classes. Source: Brodersen et al. 2010, doi:10.1109/ICPR.2010.764."""
    kappa: float | None
    """Agreement beyond chance, (po - pe) / (1 - pe), in [-1, 1]; None if chance alone agrees everywhere.

    Source: Cohen 1960, doi:10.1177/001316446002000104, eq. 1.
    """
    mean_iou: float | None
    """Mean IoU over present classes, the background among them."""
    mean_f1: float | None
    """Mean F1 over present classes, the background among them."""
    pixels: int
    """Pixels with a truth and a prediction: all that the figures rest on."""
    ignored: int
    """Pixels without truth."""
    unpredicted: int
    """Pixels with a truth but no prediction (nodata); in no figure."""

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes the target does not hold."""
        return tuple(score.name for score in self.classes if not score.support)

    def __getitem__(self, name: str) -> ClassScores:
        """The scores of one class.

        Raises:
            UsageError: If there is no class of that name.
        """
        for score in self.classes:
            if score.name == name:
                return score
        raise UsageError(f"class={name!r} is not scored. Expected one of {', '.join(s.name for s in self.classes)}.")

    def to_dict(self) -> dict[str, Any]:
        """For JSON: classes by name, None where a figure is not to be had."""
        values = asdict(self)
        values["classes"] = {score.pop("name"): score for score in values["classes"]}
        return values | {"absent": list(self.absent)}

    def table(self) -> str:
        """Aligned text: a row for each class, then the overall figures."""
        lines = rows_of("class", self.classes)
        present = len(self.classes) - len(self.absent)
        lines += [
            "",
            f"overall accuracy {ratio(self.accuracy)}, balanced accuracy {ratio(self.balanced_accuracy)}, "
            f"kappa {ratio(self.kappa)}",
            f"mean IoU {ratio(self.mean_iou)}, mean F1 {ratio(self.mean_f1)} over {present} present classes",
            f"{self.pixels} pixels scored, {self.ignored} without truth, {self.unpredicted} without prediction",
        ]
        if self.absent:
            lines.append(f"absent from the reference and in no mean: {', '.join(self.absent)}")
        return "\n".join(lines)


class ConfusionMatrix:
    """Pixel counts of every pair of target and predicted class, gathered over any number of windows.

    One matrix for all pixels, not a mean of windows' scores: the sum does not depend on how the scene was cut.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """Start at zero.

        Args:
            classes: 1 to 255 names, in the order of class indices.

        Raises:
            UsageError: If there are none, too many, or two of one name.
        """
        self.classes = tuple(classes)
        if not 1 <= len(self.classes) <= IGNORE or len(set(self.classes)) != len(self.classes):
            raise UsageError(f"classes={list(classes)}: expected 1 to {IGNORE} different names.")
        self.matrix = np.zeros((len(self.classes),) * 2, np.int64)
        """(K, K) int64 pixel counts, row = target, column = predicted."""
        self.ignored = 0
        """Pixels whose target is 255."""
        self.unpredicted = 0
        """Pixels with a target but predicted 255 (nodata); not in the matrix."""

    def update(self, target: np.ndarray, predicted: np.ndarray) -> None:
        """Count pixels.

        Args:
            target: Integers in [0, K), or 255 for pixels that count nowhere; any shape, also empty.
            predicted: Integers in [0, K), or 255 for pixels without prediction; the same shape.

        Raises:
            ShapeError: If the shapes differ or a value is no class. Nothing is counted then.
        """
        if target.shape != predicted.shape:
            raise ShapeError(f"target of shape {target.shape} and prediction of {predicted.shape}. Expected the same.")
        target, predicted = _bytes(target, "target"), _bytes(predicted, "prediction")
        # Every pair of bytes has its own bin: values out of range are found in the counts, not in the pixels.
        counts = np.zeros(1 << 16, np.int64)
        for start in range(0, target.size, _BLOCK):
            codes = target[start : start + _BLOCK].astype(np.intp) << 8
            counts += np.bincount(codes | predicted[start : start + _BLOCK], minlength=1 << 16)
        pairs = counts.reshape(256, 256)
        known, number = [*range(len(self.classes)), IGNORE], len(self.classes)
        for what, totals in (("target", pairs.sum(axis=1)), ("prediction", pairs.sum(axis=0))):
            if wrong := [value for value in np.flatnonzero(totals) if value not in known]:
                raise ShapeError(
                    f"{what} holds {wrong[0]}, which is no class. Expected 0 to {number - 1}, or {IGNORE}."
                )
        self.matrix += pairs[:number, :number]
        self.ignored += int(pairs[IGNORE].sum())
        self.unpredicted += int(pairs[:number, IGNORE].sum())

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of another matrix of the same classes.

        Raises:
            ShapeError: If the classes differ.
        """
        if self.classes != other.classes:
            raise ShapeError(f"confusion of classes {other.classes} cannot be added to one of {self.classes}.")
        self.matrix += other.matrix
        self.ignored += other.ignored
        self.unpredicted += other.unpredicted

    def scores(self) -> Scores:
        """All figures. Without any pixel every ratio is None."""
        classes = tuple(self._class_scores(index) for index in range(len(self.classes)))
        present = [score for score in classes if score.support]
        total = int(self.matrix.sum())
        right = int(np.trace(self.matrix))
        # In Python's integers: the product of two counts outgrows 64 bits on a large scene.
        chance = sum(score.support * score.predicted for score in classes)
        return Scores(
            classes=classes,
            accuracy=_divide(right, total),
            balanced_accuracy=mean_known([score.recall for score in present]),
            kappa=_divide(right * total - chance, total * total - chance),
            mean_iou=mean_known([score.iou for score in present]),
            mean_f1=mean_known([score.f1 for score in present]),
            pixels=total,
            ignored=self.ignored,
            unpredicted=self.unpredicted,
        )

    def _class_scores(self, index: int) -> ClassScores:
        support, predicted = int(self.matrix[index].sum()), int(self.matrix[:, index].sum())
        hits = int(self.matrix[index, index])
        alarms, misses = predicted - hits, support - hits
        others = int(self.matrix.sum()) - support
        return ClassScores(
            name=self.classes[index],
            iou=_divide(hits, hits + alarms + misses) if support else None,
            f1=_divide(2 * hits, 2 * hits + alarms + misses) if support else None,
            precision=_divide(hits, predicted),
            recall=_divide(hits, support),
            specificity=_divide(others - alarms, others),
            support=support,
            predicted=predicted,
        )


def _bytes(values: np.ndarray, what: str) -> np.ndarray:
    """Flat uint8, whatever integers came in."""
    if values.dtype != np.uint8:
        if values.dtype.kind not in "bui":
            raise ShapeError(f"{what} of {values.dtype}. Expected integers: class indices.")
        if values.size and (values.min() < 0 or values.max() > IGNORE):
            raise ShapeError(f"{what} holds values from {values.min()} to {values.max()}. Expected 0 to {IGNORE}.")
        values = values.astype(np.uint8)
    return values.reshape(-1)


def _divide(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def mean_known(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def rows_of(title: str, classes: Sequence[ClassScores]) -> list[str]:
    """Aligned lines: a heading, then a row for each class."""
    ratios = ("iou", "f1", "precision", "recall", "specificity")
    rows: list[tuple[str, ...]] = [
        (title, "IoU", "F1", "precision", "recall", "specificity", "target px", "predicted px")
    ]
    for score in classes:
        figures = (ratio(getattr(score, name)) for name in ratios)
        rows.append((score.name, *figures, str(score.support), str(score.predicted)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]).rstrip() for row in rows]


def ratio(value: float | None) -> str:
    """As text, "n/a" for None."""
    return "n/a" if value is None else f"{value:.4f}"
