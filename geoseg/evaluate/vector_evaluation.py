"""VectorEvaluation: scores of polygons and lines, and what they are scores of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geoseg.metrics import mean_known
from geoseg.metrics.objects import ObjectScores, SurfaceScores
from geoseg.metrics.roads import RoadScores

Figure = Literal["iou", "f1"]
"""What a bound is of."""


@dataclass(frozen=True, slots=True)
class ShapeScores:
    """The scores of one class: of its polygons, of its lines, or of both."""

    objects: ObjectScores | None = None
    """Polygons against polygons."""
    lines: RoadScores | None = None
    """Lines against lines."""
    surface: SurfaceScores | None = None
    """Polygons against the ground of lines of a known width."""

    @property
    def iou(self) -> float | None:
        """Of the ground that polygons cover; None for lines alone."""
        if self.objects is not None:
            return self.objects.area_iou
        return self.surface.iou if self.surface is not None else None

    @property
    def f1(self) -> float | None:
        """Of metres of lines, where there are lines; else of objects."""
        if self.lines is not None:
            return self.lines.f1
        return self.objects.f1 if self.objects is not None else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; only what was scored."""
        parts = {"objects": self.objects, "lines": self.lines, "surface": self.surface}
        return {name: scores.to_dict() for name, scores in parts.items() if scores is not None}


@dataclass(frozen=True, slots=True)
class VectorEvaluation:
    """The scores of a file of polygons and lines."""

    predicted: str
    """Path of the prediction."""
    reference: str
    """Path of the reference."""
    scores: Mapping[str, ShapeScores]
    """By class."""
    left: tuple[str, ...] = ()
    """Predicted classes that are not scored."""
    faults: Mapping[str, int] | None = None
    """How many of each kind were written."""
    errors: Path | None = None
    """Where they were written."""

    @property
    def mean_iou(self) -> float | None:
        """Mean IoU over the classes that have one."""
        return mean_known([scores.iou for scores in self.scores.values()])

    @property
    def mean_f1(self) -> float | None:
        """Mean F1 over the classes that have one."""
        return mean_known([scores.f1 for scores in self.scores.values()])

    def table(self) -> str:
        """Aligned text, several lines."""
        parts = [f"{self.predicted} against {self.reference}"]
        objects = {name: each.objects for name, each in self.scores.items() if each.objects is not None}
        lines = {name: each.lines for name, each in self.scores.items() if each.lines is not None}
        surfaces = {name: each.surface for name, each in self.scores.items() if each.surface is not None}
        tables = [(objects, columns) for columns in _OBJECTS] + [(lines, columns) for columns in _LINES]
        for scores, columns in [*tables, (surfaces, _SURFACES)]:
            if scores:
                parts.append(_aligned(scores, columns))
        if self.left:
            parts.append(f"not scored: {', '.join(self.left)}")
        if self.errors is not None and self.faults is not None:
            told = ", ".join(f"{count} {kind}" for kind, count in self.faults.items()) or "none"
            parts.append(f"errors in {self.errors}: {told}")
        return "\n\n".join(parts)

    def shortfall(self, bound: float, name: str | None = None, figure: Figure = "iou") -> str | None:
        """What to say if the mean IoU or F1, or that of a class, is lower than `bound` or cannot be had; else None."""
        of = "IoU" if figure == "iou" else "F1"
        what = f"mean {of}" if name is None else f"{of} of {name}"
        if name is not None and name not in self.scores:
            return f"{what} cannot be had: it is not scored. Expected at least {bound:g}."
        value = getattr(self, f"mean_{figure}") if name is None else getattr(self.scores[name], figure)
        if value is None:
            return f"{what} cannot be had: there is nothing to take it from. Expected at least {bound:g}."
        return f"{what} is {value:.4f}. Expected at least {bound:g}." if value < bound else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; figures that are not to be had are None."""
        return {
            "predicted": self.predicted,
            "reference": self.reference,
            "classes": {name: scores.to_dict() for name, scores in self.scores.items()},
            "mean_iou": self.mean_iou,
            "mean_f1": self.mean_f1,
            "not_scored": list(self.left),
            "errors": None if self.errors is None else {"path": str(self.errors), **(self.faults or {})},
        }


_OBJECTS: tuple[Mapping[str, str], ...] = (
    {
        "objects": "", "F1": "f1", "precision": "precision", "recall": "recall", "reference": "reference",
        "predicted": "predicted", "found": "found", "invalid": "invalid", "overlapping": "overlapping",
    },
    {
        "outlines": "", "IoU": "mean_iou", "boundary IoU": "boundary_iou", "C-IoU": "c_iou", "PoLiS m": "polis_m",
        "Hausdorff m": "hausdorff_m", "vertex ratio": "vertex_ratio", "corners right": "corners_right",
        "area bias": "area_bias",
    },
    {"area": "", "IoU": "area_iou", "precision": "area_precision", "recall": "area_recall"},
)  # fmt: skip
"""Heading: figure. The first is the heading of the classes."""
_LINES: tuple[Mapping[str, str], ...] = (
    {
        "lines": "", "F1": "f1", "precision": "precision", "recall": "recall", "quality": "quality",
        "offset m": "offset_m", "reference m": "reference_m", "predicted m": "predicted_m",
        "vertices/km": "vertices_per_km",
    },
    {
        "network": "", "APLS": "apls", "junction F1": "junction_f1", "precision": "junction_precision",
        "recall": "junction_recall", "junctions": "junctions", "reference": "reference_junctions",
        "dead ends": "dead_ends", "reference ": "reference_dead_ends", "width error m": "width_error_m",
        "width bias m": "width_bias_m",
    },
)  # fmt: skip
_SURFACES = {
    "surface": "", "IoU": "iou", "precision": "precision", "recall": "recall", "reference m2": "reference_m2",
    "predicted m2": "predicted_m2",
}  # fmt: skip
_WHOLE = ("reference_m", "predicted_m", "reference_m2", "predicted_m2", "vertices_per_km")
"""Figures without decimals."""


def _aligned(scores: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    rows = [tuple(heading.rstrip() for heading in columns)]
    rows += [(name, *_texts(each, list(columns.values())[1:])) for name, each in scores.items()]
    lengths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(lengths[0]), *(map(str.rjust, row[1:], lengths[1:]))]).rstrip() for row in rows
    )


def _texts(scores: object, names: Iterable[str]) -> list[str]:
    texts = []
    for name in names:
        value = getattr(scores, name)
        if value is None or isinstance(value, int):
            texts.append("n/a" if value is None else str(value))
        else:
            digits = 0 if name in _WHOLE else 4
            texts.append(f"{round(value, digits) + 0.0:.{digits}f}")  # never -0.0000
    return texts
