"""Options: how classes are outlined."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from geoseg.errors import UsageError
from geoseg.vectors.streets import Rules
from geoseg.vectors.walls import Angles

ANGLES = ("ortho", "ortho45", "any")
"""Walls at right angles; at half of these, too; anyhow."""
_LEAST_M2 = 5.0
"""A shed is larger; noise mostly is not."""
_LEAST_HOLE_M2 = 4.0
_BORDER_M = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineOptions:
    """How classes are outlined. Lengths and areas are metres on the ground; pixels, where nothing tells their size."""

    kinds: Mapping[str, str] = field(default_factory=dict)
    """`building`, `road` or `area` by class name, where the name does not say it."""
    raw: bool = False
    """The pixels' own outlines of every class, nothing fitted, nothing left out."""
    min_area_m2: float | None = None
    """Polygons of less are left out. None: of less than 5; none of raw outlines."""
    min_hole_m2: float | None = None
    """Holes of less are filled. None: of less than 4; none of raw outlines."""
    angles: Angles = "any"
    """Of walls."""
    split_touching: bool = True
    """Tell touching buildings apart: where the probability dips; where it is not known, along slits between them."""
    simplify_m: float | None = None
    """How far a simplified line may lie from its own place. None: 1 for streets, 0.5 for borders of areas."""
    min_spur_m: float = Rules().min_spur_m
    """Shorter dead ends of streets are left out."""
    bridge_m: float = Rules().bridge_m
    """Longest gap in a street that is bridged."""
    max_width_m: float = Rules().max_width_m
    """What is wider in all directions is no street."""
    aoi: Path | None = None
    """Polygons outside of which nothing is outlined: of pixels those count whose centres lie within. Outlines may reach
    a pixel beyond."""
    gsd: float | None = None
    """Metres per pixel, where the raster has no CRS to tell."""

    def __post_init__(self) -> None:
        for name in ("min_area_m2", "min_hole_m2", "simplify_m", "min_spur_m", "bridge_m", "max_width_m"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name}={value} is no length or area. Expected a number of at least 0.")
        if self.gsd is not None and not (math.isfinite(self.gsd) and self.gsd > 0):
            raise UsageError(f"gsd={self.gsd} is no size of a pixel. Expected metres, more than 0.")
        if self.angles not in ANGLES:
            raise UsageError(f"angles={self.angles!r} is unknown. Expected one of {', '.join(ANGLES)}.")

    @property
    def least_m2(self) -> float:
        """Area from which on polygons are kept."""
        return self.min_area_m2 if self.min_area_m2 is not None else (0.0 if self.raw else _LEAST_M2)

    @property
    def least_hole_m2(self) -> float:
        """Area from which on holes are kept."""
        return self.min_hole_m2 if self.min_hole_m2 is not None else (0.0 if self.raw else _LEAST_HOLE_M2)

    @property
    def border_m(self) -> float:
        """How far a simplified border of an area may lie from its own place."""
        return _BORDER_M if self.simplify_m is None else self.simplify_m

    @property
    def rules(self) -> Rules:
        """Of the street network."""
        return Rules(
            min_spur_m=self.min_spur_m,
            bridge_m=self.bridge_m,
            max_width_m=self.max_width_m,
            simplify_m=Rules().simplify_m if self.simplify_m is None else self.simplify_m,
        )
