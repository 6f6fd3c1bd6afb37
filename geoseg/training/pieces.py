"""Pieces: rectangles of labelled ground that have not been decoded yet, as the sources of a run describe them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geoseg.grid import Grid
from geoseg.windows import Window


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The pixels of one window of a piece."""

    data: np.ndarray
    """(C, h, w), the piece's dtype."""
    valid: np.ndarray
    """(h, w) bool, True = usable."""
    target: np.ndarray
    """(h, w) uint8 class indices; 255 where nothing is known, invalid pixels included."""
    further: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(bands, h, w) float32 targets of further heads by name; NaN where nothing is known."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A rectangle of one source, and how its pixels are had."""

    name: str
    """The file it comes from, for messages."""
    source: str
    """Short name of the source it belongs to, for scores."""
    split: Literal["train", "val"]
    """What it is for."""
    grid: Grid
    """Where its pixels lie."""
    bands: tuple[str, ...]
    """Names."""
    dtype: np.dtype
    """Of its pixels."""
    known: tuple[int, ...]
    """The classes that its labels tell apart."""
    read: Callable[[Window], Decoded]
    """Decodes a window of it, in its own pixels; strips of full width keep memory flat. Not for several threads."""
    files: tuple[Path, ...]
    """Every file that `read` opens. When none has changed since, pixels decoded before are still right."""
    recipe: Mapping[str, Any]
    """All else that decides the pixels, as JSON has it: windows, bands, class names, colours, widths."""
    gsd: float | None = None
    """Metres per pixel, if known."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of the factor by which samples make a pixel cover more ground."""
    share: float = 1.0
    """How often samples are cut here, relative to other pieces."""
    frame: Window | None = None
    """Where samples are cut, in its own pixels; None: anywhere. What lies round it is only looked at."""
