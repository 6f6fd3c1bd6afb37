"""Label metrics: classes that may overlap, each counted by itself."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from geoseg.errors import ShapeError
from geoseg.metrics.confusion import ClassScores, ConfusionMatrix, mean_known, ratio, rows_of


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Scores of labels, each against its own absence. Means are over the labels present in the target."""

    classes: tuple[ClassScores, ...]
    """In the order of the bands; `support` and `predicted` are pixels that have the label."""
    mean_iou: float | None
    """Mean IoU over present labels."""
    mean_f1: float | None
    """Mean F1 over present labels."""
    pixels: tuple[int, ...]
    """Of each label, the pixels with a truth and a prediction."""
    ignored: tuple[int, ...]
    """Of each label, the pixels without truth."""
    unpredicted: tuple[int, ...]
    """Of each label, the pixels with a truth but no prediction; in no figure."""

    @property
    def absent(self) -> tuple[str, ...]:
        """Labels that no pixel of the target has."""
        return tuple(score.name for score in self.classes if not score.support)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: labels by name, None where a figure is not to be had."""
        counts = zip(self.pixels, self.ignored, self.unpredicted, strict=True)
        classes = {}
        for score, (pixels, ignored, unpredicted) in zip(self.classes, counts, strict=True):
            values = asdict(score) | {"pixels": pixels, "ignored": ignored, "unpredicted": unpredicted}
            classes[values.pop("name")] = values
        return {
            "labels": classes,
            "mean_iou": self.mean_iou,
            "mean_f1": self.mean_f1,
            "absent": list(self.absent),
        }

    def table(self) -> str:
        """Aligned text: a row for each label, then the means."""
        present = len(self.classes) - len(self.absent)
        lines = [
            *rows_of("label", self.classes),
            "",
            f"mean IoU {ratio(self.mean_iou)}, mean F1 {ratio(self.mean_f1)} over {present} present labels",
            f"{_span(self.pixels)} pixels scored, {_span(self.ignored)} without truth, {_span(self.unpredicted)} "
            "without prediction",
        ]
        if self.absent:
            lines.append(f"absent from the reference and in no mean: {', '.join(self.absent)}")
        return "\n".join(lines)


class LabelCounts:
    """Pixel counts of labels that may overlap, gathered over any number of windows."""

    def __init__(self, names: Sequence[str]) -> None:
        """Start at zero for the labels of these names."""
        self.matrices = {name: ConfusionMatrix(("", name)) for name in names}

    def update(self, target: np.ndarray, predicted: np.ndarray) -> None:
        """Count pixels.

        Args:
            target: (labels, ...) of 0, 1, or 255 for pixels that do not count for the label.
            predicted: The same shape: 0, 1, or 255 for pixels without prediction.

        Raises:
            ShapeError: If the shapes differ or a value is another. Nothing is counted of the label then.
        """
        if target.shape != predicted.shape or len(target) != len(self.matrices):
            raise ShapeError(
                f"target of shape {target.shape} and prediction of {predicted.shape}. Expected {len(self.matrices)} "
                "labels in both, of one shape."
            )
        for matrix, true, found in zip(self.matrices.values(), target, predicted, strict=True):
            matrix.update(true, found)

    def scores(self) -> LabelScores:
        """All figures."""
        matrices = [matrix.scores() for matrix in self.matrices.values()]
        classes = tuple(scores.classes[1] for scores in matrices)
        present = [score for score in classes if score.support]
        return LabelScores(
            classes=classes,
            mean_iou=mean_known([score.iou for score in present]),
            mean_f1=mean_known([score.f1 for score in present]),
            pixels=tuple(scores.pixels for scores in matrices),
            ignored=tuple(scores.ignored for scores in matrices),
            unpredicted=tuple(scores.unpredicted for scores in matrices),
        )


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
