"""Keys below a sheet of pictures: which colour is which class, which colour is what value."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from geoseg.training.figures.canvas import Sheet, text_width
from geoseg.training.figures.picture import UNKNOWN_LIGHT, UNKNOWN_STRIPE, stripes

_SMALL = 8.0
"""Points."""
_SWATCH, _LINE, _BAR, _GAP = 18, 28, 16, 24
"""Pixels: side of a legend's square, height of its lines, height of a bar, space between two."""


class Key(Protocol):
    """What explains a sheet's colours."""

    height: int
    """In pixels."""

    def draw(self, page: Sheet, left: int, top: int) -> None:
        """Draw it with its upper left corner there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a legend."""

    label: str
    color: str | None
    """#rrggbb; None: the stripes of what is unknown."""


class Legend:
    """Squares and names, wrapped to a width."""

    def __init__(self, entries: Sequence[Entry], width: int) -> None:
        """Find each entry's place.

        Args:
            entries: In the order to show.
            width: Pixels to fill at most.
        """
        self.places: list[tuple[int, int, Entry]] = []
        x = line = 0
        for entry in entries:
            needed = _SWATCH + 8 + text_width(entry.label, _SMALL)
            if x and x + needed > width:
                x, line = 0, line + 1
            self.places.append((x, line, entry))
            x += needed + _GAP
        self.height = (line + 1) * _LINE if entries else 0

    def draw(self, page: Sheet, left: int, top: int) -> None:
        """Draw it with its upper left corner there."""
        from matplotlib.patches import Rectangle

        for x, line, entry in self.places:
            y = top + line * _LINE
            x0, y0, width, height = page.box(left + x, y + (_LINE - _SWATCH) // 2, _SWATCH, _SWATCH)
            square = Rectangle(
                (x0, y0), width, height, transform=page.figure.transFigure, linewidth=0.6,
                facecolor=entry.color or UNKNOWN_LIGHT, edgecolor="#404040" if entry.color else UNKNOWN_STRIPE,
                hatch=None if entry.color else "/////",
            )  # fmt: skip
            page.figure.add_artist(square)
            page.text(left + x + _SWATCH + 8, y + _LINE // 2, entry.label, fontsize=_SMALL, va="center_baseline")


@dataclass(frozen=True, slots=True)
class Scale:
    """Colours of values."""

    low: float
    high: float
    colors: str
    """Name of a colour map of matplotlib."""

    @classmethod
    def of(cls, planes: Iterable[np.ndarray], colors: str, *, symmetric: bool = False) -> Self:
        """From the 1st to the 99th percentile; 0 to 1 without a finite value. Symmetric: as far below 0 as above."""
        finite = [plane[np.isfinite(plane)].ravel() for plane in planes]
        values = np.concatenate(finite) if finite else np.empty(0)
        low, high = np.percentile(values, (1, 99)).tolist() if values.size else (0.0, 1.0)
        if symmetric:
            high = max(abs(low), abs(high))
            low = -high
        return cls(low, high if high > low else low + 1, colors)

    def painted(self, values: np.ndarray) -> np.ndarray:
        """(H, W, 3) float in 0..1 of (H, W) values; stripes where they are not finite."""
        from matplotlib import colormaps

        known = np.isfinite(values)
        share = (np.where(known, values, self.low) - self.low) / (self.high - self.low)
        return np.where(known[..., None], colormaps[self.colors](np.clip(share, 0, 1))[..., :3], stripes(values.shape))


class Bars:
    """A bar for each scale, with its ends, side by side."""

    def __init__(self, bars: Sequence[tuple[str, str, Scale]], width: int) -> None:
        """Titles, units and scales, over a width in pixels."""
        self.bars, self.width = list(bars), width
        self.height = 2 * _LINE + _BAR

    def draw(self, page: Sheet, left: int, top: int) -> None:
        """Draw it with its upper left corner there."""
        across = (self.width - (len(self.bars) - 1) * _GAP) // len(self.bars)
        for index, (title, unit, scale) in enumerate(self.bars):
            x = left + index * (across + _GAP)
            name = f"{title} ({unit})" if unit else title
            page.text(x + across // 2, top + _LINE // 2, name, ha="center", va="center", fontsize=_SMALL)
            ramp = np.linspace(scale.low, scale.high, across)[None].repeat(_BAR, 0)
            page.strip(x, top + _LINE, scale.painted(ramp))
            for share, side in ((0.0, "left"), (0.5, "center"), (1.0, "right")):
                value = scale.low + share * (scale.high - scale.low)
                place = round(x + share * across), top + _LINE + _BAR + _LINE // 2
                page.text(*place, f"{value:.3g}", ha=side, va="center", fontsize=_SMALL)
