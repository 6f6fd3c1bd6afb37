"""The confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geoseg.errors import ShapeError
from geoseg.training.figures.canvas import DPI, canvas, shorten, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUMBERED = 30
"""Up to so many classes, cells hold numbers and names stand beside them."""
_NAME = 230
"""Pixels that a name may take."""
_DARK = 0.55
"""Shares from here on are written in white."""
_RIGHT, _BELOW, _ABOVE, _BESIDE = 1.65, 0.15, 0.55, 0.5
"""Inches round the matrix, names not counted."""
_TITLE = "Predicted class, % of the true class's pixels"


def confusion(path: Path, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Draw a confusion matrix: what share of each class's pixels was predicted as which class.

    Beside each row stand its pixels and the class's IoU. A class without a pixel has an empty row.

    Args:
        path: PNG to write; replaced if it is there.
        matrix: (K, K) pixels; rows are the truth, columns the prediction.
        names: Of the K classes.

    Raises:
        OutputError: If the file cannot be written.
        ShapeError: If matrix and names do not fit.
    """
    counts, classes = np.asarray(matrix, dtype=np.float64), len(names)
    if counts.shape != (classes, classes) or not classes:
        raise ShapeError(f"matrix {counts.shape} does not fit {classes} names. Expected ({classes}, {classes}).")
    numbered = classes <= _NUMBERED
    labels = [shorten(name, _NAME, 9) for name in names] if numbered else []
    longest = max((text_width(label, 9) for label in labels), default=0) / DPI
    cell = min(0.85, max(0.42, 5 / classes)) if numbered else 8 / classes
    steep = numbered and longest > cell - 0.08
    side = max(classes * cell, 1.7)
    left, above = _BESIDE + max(longest, 0.2), _ABOVE + (longest if steep else 0.2)
    width = left + max(side + (_RIGHT if numbered else 0.8), text_width(_TITLE, 10) / DPI * 1.15)  # bold is wider
    height = above + side + _BELOW
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    with canvas(path, width, height) as figure:
        axes = figure.add_axes((left / width, _BELOW / height, side / width, side / height))
        shown = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
        axes.set_facecolor("#f2f2f2")
        axes.set_title(_TITLE, pad=10)
        axes.set_ylabel("true class")
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=9)
        axes.spines[:].set_visible(False)
        axes.grid(False)
        if numbered:
            axes.set_xticks(range(classes), labels, rotation=90 if steep else 0)
            axes.set_yticks(range(classes), labels)
            _write_numbers(axes, shares, points=9 if cell > 0.5 else 7.5)
            _write_beside(axes, counts)
        else:
            beside = figure.add_axes(((left + side + 0.2) / width, _BELOW / height, 0.15 / width, side / height))
            figure.colorbar(shown, cax=beside)


def _write_numbers(axes: "Axes", shares: np.ndarray, points: float) -> None:
    """The shares in percent, and lines between the cells."""
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            color = "white" if share >= _DARK else "black" if row == column or share >= 0.001 else "#909090"
            weight = "bold" if row == column else "normal"
            axes.text(
                column, row, _percent(share), ha="center", va="center", color=color, fontsize=points, weight=weight
            )
    edges = np.arange(len(shares) + 1) - 0.5
    axes.hlines(edges, -0.5, len(shares) - 0.5, color="white", linewidth=1.2)
    axes.vlines(edges, -0.5, len(shares) - 0.5, color="white", linewidth=1.2)


def _percent(share: float) -> str:
    """At most three figures; what is not quite nothing, or not quite all, does not look like it."""
    if share in (0, 1):
        return f"{share * 100:.0f}"
    percent = share * 100
    if percent < 0.1:
        return "<0.1"
    if percent > 99.9:
        return ">99.9"
    return f"{percent:.1f}"


def _write_beside(axes: "Axes", counts: np.ndarray) -> None:
    """Pixels and IoU of each class, right of its row."""
    from matplotlib.transforms import offset_copy

    totals, found = counts.sum(axis=1), np.diag(counts)
    union = totals + counts.sum(axis=0) - found
    beside = axes.get_yaxis_transform()
    for title, inches, values in (
        ("pixels", 0.75, [_count(total) for total in totals]),
        ("IoU", 1.4, [f"{a / b:.3f}" if t and b else "n/a" for a, b, t in zip(found, union, totals, strict=True)]),
    ):
        place = offset_copy(beside, fig=axes.get_figure(root=True), x=inches, units="inches")
        for row, text in enumerate(values):
            axes.text(1, row, text, transform=place, ha="right", va="center", fontsize=9)
        head = offset_copy(axes.transAxes, fig=axes.get_figure(root=True), x=inches, y=0.07, units="inches")
        axes.text(1, 1, title, transform=head, ha="right", va="bottom", fontsize=9, weight="bold")


def _count(pixels: float) -> str:
    """A number of pixels in three figures."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if pixels >= 0.9995 * limit:
            return f"{pixels / limit:.3g} {unit}"
    return f"{pixels:.0f}"
