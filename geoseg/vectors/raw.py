"""Raw outlines: those of the pixels themselves, made from a store as they are asked for."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from geoseg.vectors.patches import AnyPatches


@dataclass(frozen=True, slots=True, eq=False)
class RawShapes:
    """The polygons of some patches, as `Table` takes them."""

    patches: AnyPatches
    """All of them."""
    index: np.ndarray
    """(n,) int64 the patches that these are."""
    place: Callable[[np.ndarray], np.ndarray]
    """From polygons in pixels to those of the layer."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray:
        return self.place(self.patches.load(self.index[rows]).polygons())
