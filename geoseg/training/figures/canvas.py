"""The canvas that figures are drawn on: one style, places in pixels, files that are complete or not there."""

import io
import os
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
"""Pixels per inch: text of 9 points is 19 pixels high, readable on a screen and, 7 inches wide, on paper."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f4a1e", "#5e5e5e")
"""Colours of what has none of its own, told apart by the colour-blind. Source: Okabe and Ito 2008."""

_FONT = "DejaVu Sans"
_STYLE: Mapping[str, Any] = {
    "font.family": _FONT,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,
}


@contextmanager
def canvas(path: Path, width: float, height: float, **options: Any) -> Iterator["Figure"]:
    """A matplotlib figure that is written to `path` when the block ends without an error.

    The style holds inside the block alone. The same figure gives the same bytes.

    Args:
        path: PNG to write; replaced at once when the new one is complete.
        width: In inches.
        height: In inches.
        options: Of `Figure`.

    Raises:
        OutputError: If the file cannot be written.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", dict(_STYLE)]):
        figure = Figure(figsize=(width, height), dpi=DPI, **options)
        yield figure
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the font lacks some scripts
            # An eighth larger than at the default level, in a third of the time.
            figure.savefig(file, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 2})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(file.getvalue())
        temporary.replace(path)
    except OSError as err:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written ({err.strerror}). Expected a folder with room. Make some, or choose another."
        ) from err


class Sheet:
    """A figure whose parts are placed in whole pixels, from the upper left."""

    def __init__(self, figure: "Figure", width: int, height: int) -> None:
        """Over a figure of `width` x `height` pixels."""
        self.figure, self.width, self.height = figure, width, height

    def box(self, left: int, top: int, width: int, height: int) -> tuple[float, float, float, float]:
        """The same as matplotlib has it: left, bottom, width, height as shares of the figure."""
        return left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height

    def text(self, left: int, top: int, text: str, **style: Any) -> None:
        """Write a line."""
        self.figure.text(left / self.width, 1 - top / self.height, text, **style)

    def picture(self, left: int, top: int, side: int, pixels: np.ndarray) -> None:
        """Show (H, W, 3) pixels, 0..1, as large as a square holds them, in its middle."""
        height, width = pixels.shape[:2]
        scale = side / max(height, width)
        across, down = max(1, round(width * scale)), max(1, round(height * scale))
        self._show(left + (side - across) // 2, top + (side - down) // 2, across, down, pixels)

    def strip(self, left: int, top: int, pixels: np.ndarray) -> None:
        """Show (H, W, 3) pixels, 0..1, one by one."""
        self._show(left, top, pixels.shape[1], pixels.shape[0], pixels)

    def _show(self, left: int, top: int, width: int, height: int, pixels: np.ndarray) -> None:
        from PIL import Image

        picture = Image.fromarray(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
        # An image on the figure itself: axes round each take half of the time that a sheet takes.
        way = Image.Resampling.NEAREST if width >= pixels.shape[1] else Image.Resampling.BOX
        shown = np.asarray(picture.resize((width, height), way))
        self.figure.figimage(shown, left, self.height - top - height, origin="upper")


@contextmanager
def sheet(path: Path, width: int, height: int) -> Iterator[Sheet]:
    """A `canvas` of so many pixels."""
    with canvas(path, width / DPI, height / DPI) as figure:
        yield Sheet(figure, width, height)


def text_width(text: str, points: float) -> int:
    """Pixels that a line in the figures' font takes."""
    from matplotlib import rc_context
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0
    with rc_context({"text.parse_math": False}):
        path = TextPath((0, 0), text, prop=FontProperties(family=_FONT, size=points))
    return int(np.ceil(path.get_extents().x1 * DPI / 72))


def shorten(text: str, pixels: int, points: float) -> str:
    """The text, or its beginning and an ellipsis, so that it takes no more than so many pixels."""
    if len(text) <= pixels and text_width(text, points) <= pixels:
        return text
    ends = range(1, min(len(text), pixels))
    kept = bisect_right(ends, pixels, key=lambda end: text_width(text[:end] + "…", points))
    return text[:kept].rstrip() + "…"
