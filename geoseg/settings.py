"""Settings: what decides the pixels of a prediction beside scene and checkpoint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from geoseg.errors import UsageError

_LEAST_GSD = 1e-9
"""Metres. Less is a slip, and overflows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides pixels beside scene and checkpoint. None or "auto": geoseg knows."""

    bands: Sequence[str | int] | None = None
    """Band numbers (from 1) or names, in the checkpoint's order; by default matched by name."""
    nodata: float | None = None
    """Overrides the value the scene declares as nodata."""
    aoi: str | Path | None = None
    """Polygons outside of which nothing is predicted."""
    gsd: float | None = None
    """Metres per pixel, of a scene that has no CRS to tell."""
    resample: bool = True
    """Predict a scene at a ground sample distance that the model knows, where its own is none; so is the output."""
    tile_size: int | Literal["auto"] | None = None
    """Side of what the network sees, in pixels."""
    overlap: int | Literal["auto"] | None = None
    """Pixels shared by neighbouring tiles: twice the halo."""
    blend: str = "auto"
    """crop: each cell is cut out of one tile; taper: tiles are faded into each other; auto."""
    tta: bool = False
    """Test-time augmentation: the mean over eight views of each tile, turned by quarters and mirrored."""
    batch_size: int | Literal["auto"] | None = None
    """Tiles in one forward pass."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16."""
    min_patch_m2: float = 0
    """Patches of a class but the background that are smaller on the ground become what is most common round them."""
    fill_holes_m2: float = 0
    """Smaller holes in such patches become the patch's class."""

    def __post_init__(self) -> None:
        if self.bands is not None:
            listed = isinstance(self.bands, Sequence) and not isinstance(self.bands, str)
            if not listed or not all(isinstance(band, str | int) for band in self.bands):
                raise UsageError(
                    f"bands={self.bands!r} is no list of bands. Expected such as (1, 2, 3) or ('red', 'nir')."
                )
            object.__setattr__(self, "bands", tuple(self.bands))
        for name in ("tile_size", "overlap", "batch_size"):
            value = getattr(self, name)
            if value not in (None, "auto") and not isinstance(value, int):
                raise UsageError(f"{name}={value!r} is of the wrong kind. Expected a whole number, 'auto' or None.")
        for name in ("resample", "tta"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}={getattr(self, name)!r} is of the wrong kind. Expected True or False.")
        real = isinstance(self.gsd, float | int) and not isinstance(self.gsd, bool)
        if self.gsd is not None and not (real and _LEAST_GSD <= self.gsd < math.inf):
            raise UsageError(f"gsd={self.gsd!r} is no size of a pixel. Expected metres, more than 0.")
        for name in ("min_patch_m2", "fill_holes_m2"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name}={getattr(self, name)!r} is no area. Expected square metres, 0 or more.")

    def number(self, name: str) -> int | None:
        """`tile_size`, `overlap` or `batch_size`; None where geoseg knows."""
        value = getattr(self, name)
        return None if value == "auto" else value


DEFAULTS = Settings()
