"""Evaluation: scores, and what they are scores of."""

from dataclasses import dataclass
from typing import Any, Literal

from geoseg.errors import UsageError
from geoseg.metrics import LabelScores, Scores, ValueScores
from geoseg.windows import Window


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of a raster, and what they are scores of."""

    predicted: str
    """Path of the predicted raster."""
    reference: str
    """Path of the reference."""
    window: Window
    """The part of the predicted raster that was compared."""
    scores: Scores | LabelScores | ValueScores
    """Of a class raster per class and overall, of labels each by itself, of values their errors."""
    merged: tuple[str, ...] = ()
    """Predicted classes that are not scored: their pixels count as the first class. Labels that are not scored."""

    def table(self) -> str:
        """Aligned text, several lines."""
        where = self.window
        title = f"{self.predicted} against {self.reference}, {where.width} x {where.height} pixels"
        origin = f" from column {where.col}, row {where.row}" if where.col or where.row else ""
        merged = f"\n{self._merged_as()}: {', '.join(self.merged)}" if self.merged else ""
        return f"{title}{origin}\n\n{self.scores.table()}{merged}"

    def _merged_as(self) -> str:
        return f"counted as {self.scores.classes[0].name}" if isinstance(self.scores, Scores) else "not scored"

    def shortfall(self, bound: float, name: str | None = None, figure: Literal["iou", "f1"] = "iou") -> str | None:
        """What to say if the mean IoU or F1, or that of a class, is lower than `bound` or cannot be had; else None.

        Raises:
            UsageError: If the raster holds values, which have none.
        """
        of = "IoU" if figure == "iou" else "F1"
        if isinstance(self.scores, ValueScores):
            raise UsageError(f"{self.predicted} holds values, which have no {of}. Expected classes.")
        scored = {score.name: score for score in self.scores.classes}
        what = f"mean {of}" if name is None else f"{of} of {name}"
        if name is not None and name not in scored:
            return f"{what} cannot be had: it is not scored. Expected at least {bound:g}."
        value = getattr(self.scores, f"mean_{figure}") if name is None else getattr(scored[name], figure)
        if value is None:
            missing = f"no pixel of it is known in {self.reference}" if name else "there is nothing to compare"
            return f"{what} cannot be had: {missing}. Expected at least {bound:g}."
        return f"{what} is {value:.4f}. Expected at least {bound:g}." if value < bound else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; figures that are not to be had are None."""
        where = self.window
        return {
            "predicted": self.predicted,
            "reference": self.reference,
            "window": [where.col, where.row, where.width, where.height],
            "merged": list(self.merged),
            **self.scores.to_dict(),
        }
