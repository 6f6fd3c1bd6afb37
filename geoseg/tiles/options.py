"""What a user may say about how scenes are cut into tiles."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from geoseg.errors import UsageError
from geoseg.targets import InvalidGeometry

BACKGROUND = "background"
"""The first class, where nothing is drawn."""
CONTACT = "contact"
"""The class painted where buildings touch."""

Split = Literal["blocks", "scene", "random"]
"""How the share for validation is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """How the target of a pixel follows from a label file."""

    classes: tuple[str, ...] | None = None
    """Names besides the background, or with it in the first place. None: those that the labels have."""
    class_field: str | None = None
    """Field of a vector layer that holds class names."""
    layer: str | None = None
    """Layer to read; None: all."""
    values: Mapping[int, str] = field(default_factory=dict)
    """Value in a label raster -> class; values not listed are unknown. Empty: class indices, or the raster's own
    names."""
    line_width_m: float | None = None
    """Width of lines in metres on the ground."""
    width_field: str | None = None
    """Field with a line's own width in metres."""
    contact: bool = False
    """Whether a class `contact` is painted where buildings touch."""
    invalid_geometry: InvalidGeometry = "error"
    """Refuse invalid polygons, make them valid, or leave them out."""
    gsd: float | None = None
    """Metres per pixel, where a scene has no CRS to tell."""

    def names(self) -> tuple[str, ...] | None:
        """All classes asked for, the background first and the contact class last.

        Raises:
            UsageError: If a class is named twice, or none besides the background.
        """
        if self.classes is None:
            return None
        first = () if BACKGROUND in self.classes[:1] else (BACKGROUND,)
        names = (*first, *self.classes)
        lower = [name.casefold() for name in names]  # as fields and columns are read
        if twice := [name for name in names if lower.count(name.casefold()) > 1]:
            raise UsageError(
                f"classes={','.join(self.classes)}: {twice[0]!r} is there twice. Expected names that differ, not by "
                "their case alone."
            )
        if self.contact and CONTACT not in names:
            names = (*names, CONTACT)
        if not 2 + self.contact <= len(names) <= 254:
            raise UsageError(
                f"classes={','.join(self.classes)}: expected 1 to 253 classes besides the {BACKGROUND}, such as "
                "building,road."
            )
        return names


@dataclass(frozen=True, slots=True, kw_only=True)
class TileOptions:
    """How scenes are cut, which tiles are kept, and what each is for."""

    tile_size: int = 512
    """Side of a tile in pixels."""
    overlap: int = 0
    """Pixels that neighbouring tiles share."""
    min_valid: float = 0.1
    """Least share of a tile's pixels, those beyond the scene's edge not counted, that are usable and labelled. A tile
    without any is never kept."""
    keep_empty: float = 1.0
    """Share of the tiles without any class but the background that is kept."""
    bands: tuple[int | str, ...] | None = None
    """Numbers from 1, or names. None: every band but alpha."""
    nodata: float | None = None
    """Overrides the scenes' nodata value."""
    split: Split = "blocks"
    """blocks: squares of ground, with a gap around them. scene: whole scenes. random: tile by tile."""
    val: float = 0.2
    """Share of the tiles that is for validation."""
    gap: int | None = None
    """Pixels between validation and training tiles of a split by blocks; None: half a tile."""
    seed: int = 0
    """Of everything random."""

    def __post_init__(self) -> None:
        if not 16 <= self.tile_size <= 8192:
            raise UsageError(f"tile_size={self.tile_size}: expected 16 to 8192 pixels.")
        if not 0 <= self.overlap < self.tile_size:
            raise UsageError(
                f"overlap={self.overlap} does not fit tiles of {self.tile_size} pixels. "
                f"Expected 0 to {self.tile_size - 1}."
            )
        for name, share, most in (("min_valid", self.min_valid, 1), ("keep_empty", self.keep_empty, 1)):
            if not 0 <= share <= most:
                raise UsageError(f"{name}={share:g}: expected a share from 0 to 1.")
        if not 0 <= self.val < 1:
            raise UsageError(f"val={self.val:g}: expected a share from 0 to less than 1.")
