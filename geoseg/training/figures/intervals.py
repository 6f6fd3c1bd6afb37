"""Runs side by side, with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.training.figures.canvas import SERIES, canvas, shorten, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL, _BETWEEN, _FRAME, _ENTRY = 3.3, 0.2, 0.9, 0.2
"""Inches: width of a panel; height of the space between rows, of title and axis, of a line of the legend."""
_RUN, _MANY, _NARROW = 0.17, 4, 0.12
"""Inches from run to run within a row, and where there are more than so many."""
_NAME, _RUN_NAME = 220, 900
"""Pixels that the name of a row, and a run with its note, may take."""
_MARKERS = "osD^v<>P"


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and where it may lie."""

    value: float
    low: float
    """Of the 95 % interval."""
    high: float
    """Of the 95 % interval."""


def compare_figure(
    path: Path,
    scores: Mapping[str, Mapping[str, Interval | None]],
    differences: Mapping[str, Mapping[str, Interval | None]],
    *,
    metric: str = "IoU",
    notes: Mapping[str, str] | None = None,
) -> None:
    """Draw each run's score in each class with its interval, and its difference to the first run.

    A difference is drawn hollow where its interval holds 0.

    Args:
        path: PNG to write; replaced if it is there.
        scores: By run, then by class (or any other row, such as "mean"); None: n/a. At least one run.
        differences: The same of the runs after the first, paired; a run that is missing is not drawn.
        metric: What the scores are.
        notes: A few words on a run for the legend, such as "7.8 MB, 1.2 Mpx/s".

    Raises:
        OutputError: If the file cannot be written.
    """
    runs = list(scores)
    rows = list(dict.fromkeys(row for run in runs for row in scores[run]))
    panels = 2 if any(differences.values()) else 1
    names = [shorten(row, _NAME, 9) for row in rows]
    width = 0.3 + max((text_width(name, 9) for name in names), default=0) / 150 + panels * _PANEL
    pitch = _RUN if len(runs) <= _MANY else _NARROW
    row_height = pitch * len(runs) + _BETWEEN
    height = _FRAME + row_height * len(rows) + _ENTRY * len(runs) + 0.1
    with canvas(path, width, height, layout="constrained") as figure:
        left, *right = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
        _draw(left, runs, rows, scores, pitch / row_height)
        left.set_title(f"{metric}, 95 % intervals")
        left.set_xlabel(metric)
        left.set_yticks(range(len(rows)), names)
        left.set_ylim(len(rows) - 0.5, -0.5)
        for axes in right:
            axes.axvline(0, color="#404040", linewidth=0.9)
            _draw(axes, runs, rows, differences, pitch / row_height, second=True)
            axes.set_title(shorten(f"Difference to {runs[0]}", int(0.92 * _PANEL * 150), 10))
            axes.set_xlabel(f"difference in {metric} (hollow: may be 0)")
        handles = left.get_legend_handles_labels()[0]
        said = [f"{run}   {(notes or {})[run]}" if run in (notes or {}) else run for run in runs]
        figure.legend(handles, [shorten(one, _RUN_NAME, 8) for one in said], loc="outside lower left")


def _draw(
    axes: "Axes",
    runs: list[str],
    rows: list[str],
    numbers: Mapping[str, Mapping[str, Interval | None]],
    pitch: float,
    second: bool = False,
) -> None:
    """A point and its interval for each run in each row, the runs one below the other, `pitch` rows apart."""
    for index, run in enumerate(runs):
        color, marker = SERIES[index % len(SERIES)], _MARKERS[index // len(SERIES) % len(_MARKERS)]
        axes.plot([], [], marker, color=color, markersize=5, label=run)
        for row, name in enumerate(rows):
            y = row + (index - (len(runs) - 1) / 2) * pitch
            number = numbers.get(run, {}).get(name)
            if number is None:
                if not second:
                    place = axes.get_yaxis_transform()
                    axes.text(0.01, y, "n/a", transform=place, va="center", fontsize=7, color=color)
                continue
            face = "white" if second and number.low <= 0 <= number.high else color
            axes.plot([number.low, number.high], [y, y], color=color, linewidth=1.6)
            axes.plot(number.value, y, marker, color=color, markersize=5, markerfacecolor=face, zorder=3)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    for edge in range(len(rows) - 1):
        axes.axhline(edge + 0.5, color="#e4e4e4", linewidth=0.7)
