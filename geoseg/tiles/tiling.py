"""What a run of `geoseg tile` wrote."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tiling:
    """What was written."""

    folder: str
    """As given."""
    classes: tuple[str, ...]
    """Names by index; none where targets are values."""
    shares: tuple[float, ...]
    """Of each class in the labelled pixels of all tiles."""
    train: int
    """Tiles to learn from."""
    val: int
    """Tiles to validate on."""
    between: int
    """Tiles for neither: too near to both."""
    poor: int
    """Windows left out because too little of them is usable and labelled."""
    empty: int
    """Windows left out because nothing but background is in them."""

    @property
    def tiles(self) -> int:
        """In all."""
        return self.train + self.val + self.between

    def summary(self) -> str:
        """Two lines of text."""
        left = [f"{self.poor} with too few labelled pixels"] * bool(self.poor) + [f"{self.empty} empty"] * bool(
            self.empty
        )
        parts = f"{self.train} train, {self.val} val" + (f", {self.between} between them" if self.between else "")
        classes = ", ".join(f"{name} {share:.1%}" for name, share in zip(self.classes, self.shares, strict=True))
        return (
            f"{self.tiles} tiles ({parts})"
            + (f"; left out: {', '.join(left)}" if left else "")
            + (f"\n{classes}" if classes else "")
        )

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "folder": self.folder,
            "manifest": str(Path(self.folder) / "manifest.csv"),
            "footprints": str(Path(self.folder) / "manifest.gpkg"),
            "tiles": self.tiles,
            "split": {"train": self.train, "val": self.val, "none": self.between},
            "left_out": {"min_valid": self.poor, "empty": self.empty},
            "classes": {name: round(share, 6) for name, share in zip(self.classes, self.shares, strict=True)},
        }
