"""How a run went, epoch by epoch."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoseg.errors import LabelsError
from geoseg.training.figures.canvas import SERIES, canvas, shorten
from geoseg.training.figures.picture import rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _COLUMN, _LEAST, _ENTRY, _FRAME = 6.4, 1.75, 1.5, 0.165, 0.55
"""Inches: width of the panels, of a column of a legend; height of a panel, of a line in its legend, of what is above
and below a panel."""
_LABEL = 200
"""Pixels that a label of a legend may take."""
_ENTRIES = 12
"""Lines of a legend's column."""
_MARKED, _SMOOTHED = 40, 100
"""Up to so many epochs, each is marked; beyond so many, lines are drawn smoother."""
_VALUES = ("rmse", "mae", "bias")
_SINGLE = ("score", "accuracy", "balanced_accuracy", "kappa", "ece")


@dataclass(frozen=True, slots=True)
class _Line:
    label: str
    values: np.ndarray
    color: str
    style: str = "-"
    width: float = 1.4


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    lines: list[_Line] = field(default_factory=list)
    kind: Literal["share", "loss", "plain"] = "plain"
    """share: the values lie in 0..1 by their nature. loss: they may differ by magnitudes."""

    @property
    def columns(self) -> int:
        """Of its legend."""
        return max(1, -(-len(self.lines) // _ENTRIES))

    @property
    def height(self) -> float:
        """Inches."""
        return max(_LEAST, _ENTRY * min(len(self.lines), _ENTRIES) + 0.1) + _FRAME


def curves(path: Path, metrics_csv: Path, classes: Mapping[str, str], *, best: int | None = None) -> None:
    """Draw the columns of metrics.csv over the epochs: losses, scores by class, values, gradient, learning rate.

    Args:
        path: PNG to write; replaced if it is there.
        metrics_csv: A line an epoch; empty fields are gaps. Columns that are not known are left out.
        classes: Colours by name.
        best: The epoch whose checkpoint was kept, from 1.

    Raises:
        OutputError: If the file cannot be written.
        LabelsError: If metrics.csv cannot be read or has no line.
    """
    columns = _read(metrics_csv)
    epochs = columns.pop("epoch")
    panels = [panel for panel in _panels(columns, classes) if panel.lines]
    heights = [panel.height for panel in panels]
    width = _WIDTH + _COLUMN * max(panel.columns for panel in panels)
    with canvas(path, width, sum(heights) + 0.3, layout="constrained") as figure:
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for panel, axes in zip(panels, grid, strict=True):
            _draw(axes, panel, epochs)
            if best is not None:
                axes.axvline(best, color="#404040", linewidth=0.9, linestyle=":", zorder=1)
        if best is not None:
            place = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            grid[0].annotate(f"kept: {best}", (best, 1), xycoords=("data", "axes fraction"), fontsize=8, **place)
        _epoch_axis(grid[-1], epochs)


def _read(path: Path) -> dict[str, np.ndarray]:
    """Columns by name; NaN where a field is empty or no number."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise LabelsError(f"{path} cannot be read ({err}). Expected the metrics.csv of a run.") from err
    if not rows or "epoch" not in rows[0]:
        raise LabelsError(f"{path} has no line with an epoch. Expected the metrics.csv of a run, after an epoch.")
    return {name: np.array([_number(row.get(name)) for row in rows]) for name in rows[0] if name}


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _panels(columns: Mapping[str, np.ndarray], classes: Mapping[str, str]) -> list[_Panel]:
    """What there is to show, in order; lines without a number are left out."""
    there = {name: values for name, values in columns.items() if not np.isnan(values).all()}
    terms = [name for name in there if f"share_{name}" in columns or name == "auxiliary"]
    heads = sorted({name.partition(".")[0] for name in there if "." in name and not name.startswith("share_")})
    losses = _Panel("Loss", kind="loss")
    for name, style in (("loss", "-"), ("val_loss", "--")):
        if name in there:
            label = {"loss": "training, in all", "val_loss": "validation"}[name]
            losses.lines.append(_Line(label, there[name], "#000000", style, 2.0))
    if len(terms) > 1 or "loss" not in there:
        losses.lines.extend(_series(terms, there))
    scores = _Panel("IoU on the validation ground", kind="share")
    scores.lines.extend(_class_lines(there, classes))
    others = [name for name in there if name in _SINGLE or name.endswith(".r2")]
    if "score" in there and np.array_equal(there["score"], there.get("iou_mean", ()), equal_nan=True):
        others.remove("score")
    labels = [name for name in there if "." in name and not _is_other(name, terms)]
    panels = [losses, scores, _Panel("IoU of labels", _series(labels, there), kind="share")]
    panels.append(_Panel("Other scores", _series(others, there)))
    for head in heads:
        errors = [name for name in there if name in {f"{head}.{kind}" for kind in _VALUES}]
        panels.append(_Panel(f"Errors of {head}", _series(errors, there)))
    shared = [name for name in terms if np.nanmin(there.get(f"share_{name}", 1.0)) < 1]  # 1: the only one of its head
    lines = _series(shared, {name: columns[f"share_{name}"] for name in shared})
    panels.append(_Panel("Share of the gradient", lines, kind="share"))
    panels.append(_Panel("Learning rate", [_Line("", there[name], SERIES[0]) for name in there if name == "lr"]))
    return panels


def _is_other(name: str, terms: list[str]) -> bool:
    """Whether a head's column is not the IoU of a label."""
    return name in terms or name.startswith(("share_", "val_")) or name.rpartition(".")[2] in (*_VALUES, "r2")


def _class_lines(there: Mapping[str, np.ndarray], classes: Mapping[str, str]) -> list[_Line]:
    """The mean, and each class in its colour; classes that share one differ by their dashes."""
    lines: list[_Line] = []
    used: dict[str, int] = {}
    for name, color in classes.items():
        if f"iou_{name}" in there:
            style = ("-", "--", ":", "-.")[used.get(color, 0) % 4]
            used[color] = used.get(color, 0) + 1
            lines.append(_Line(name, there[f"iou_{name}"], color, style))
    mean = there.get("iou_mean")
    if mean is None or any(np.array_equal(mean, line.values, equal_nan=True) for line in lines):  # of one class alone
        return lines
    return [_Line("mean (foreground)", mean, "#000000", "--", 2.2), *lines]


def _series(names: list[str], columns: Mapping[str, np.ndarray]) -> list[_Line]:
    styles = ("-", "--", ":", "-.")
    return [
        _Line(name, columns[name], SERIES[index % len(SERIES)], styles[index // len(SERIES) % 4])
        for index, name in enumerate(names)
    ]


def _draw(axes: "Axes", panel: _Panel, epochs: np.ndarray) -> None:
    for line in panel.lines:
        _draw_line(axes, line, epochs)
    axes.set_title(panel.title)
    values = np.concatenate([line.values for line in panel.lines])
    positive = values[values > 0]
    if panel.kind == "share":
        axes.set_ylim(0, min(1.02, max(0.1, 1.1 * float(np.nanmax(values)))))
    elif panel.kind == "loss" and positive.size == np.isfinite(values).sum() and positive.max() > 30 * positive.min():
        axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    if panel.lines[0].label:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.02), "borderaxespad": 0}
        axes.legend(ncols=panel.columns, handlelength=1.8, **place)


def _draw_line(axes: "Axes", line: _Line, epochs: np.ndarray) -> None:
    from matplotlib.patheffects import Normal, Stroke

    options: dict[str, Any] = {"color": line.color, "linewidth": line.width, "linestyle": line.style}
    if len(epochs) <= _MARKED:
        options |= {"marker": "o", "markersize": 3.0}
    if np.dot(rgb(line.color), (0.299, 0.587, 0.114)) > 0.7:  # too pale for white paper
        options["path_effects"] = [Stroke(linewidth=line.width + 1.2, foreground="#606060"), Normal()]
    values = line.values
    if len(epochs) > _SMOOTHED:
        axes.plot(epochs, values, color=line.color, linewidth=0.6, alpha=0.35)
        values = _smooth(values, _span(epochs))
    axes.plot(epochs, values, label=shorten(line.label, _LABEL, 8), **options)
    if len(epochs) > _MARKED:  # a number between two gaps is no line
        lone = _alone(values)
        axes.plot(epochs[lone], line.values[lone], ".", color=line.color, markersize=4)


def _span(epochs: np.ndarray) -> int:
    """Over how many epochs lines are smoothed."""
    return 2 * (len(epochs) // 100) + 1


def _smooth(values: np.ndarray, span: int) -> np.ndarray:
    """Means over `span` values; where fewer than a quarter of them are there, the values as they are."""
    known = np.isfinite(values)
    ones = np.ones(span)
    counts = np.convolve(known, ones, "same")
    means = np.convolve(np.where(known, values, 0), ones, "same") / np.maximum(counts, 1)
    return np.where(4 * counts >= span, means, values)


def _alone(values: np.ndarray) -> np.ndarray:
    """Where a number stands between two gaps."""
    gap = np.isnan(np.concatenate([[np.nan], values, [np.nan]]))
    return ~gap[1:-1] & gap[:-2] & gap[2:]


def _epoch_axis(axes: "Axes", epochs: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator

    smooth = f" (thin: as measured; thick: means of {_span(epochs)})" if len(epochs) > _SMOOTHED else ""
    axes.set_xlabel(f"epoch{smooth}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
    room = 0.5 if len(epochs) == 1 else 0.015 * float(np.ptp(epochs))
    axes.set_xlim(float(epochs.min()) - room, float(epochs.max()) + room)
