"""Planes of an area of interest: what lies outside has no data."""

from dataclasses import dataclass

import numpy as np

from geoseg.pixels import NODATA
from geoseg.targets import LabelledArea
from geoseg.vectors.planes import PlanesOver
from geoseg.windows import Window


@dataclass(frozen=True, eq=False)
class LimitedPlanes(PlanesOver):
    """Other planes, cut to an area by the pixels' centres."""

    area: LabelledArea
    """What is left."""

    def labels(self, window: Window) -> np.ndarray:
        """(h, w) uint8 class values; 255 without data."""
        return np.where(self.area.valid(window), self.planes.labels(window), np.uint8(NODATA))

    def probability(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) uint8 probability of a class times 254; None where it is not known."""
        found = self.planes.probability(window, value)
        return None if found is None else np.where(self.area.valid(window), found, np.uint8(NODATA))

    def margin(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) float32 margin over the best other class; None where probabilities are not known."""
        found = self.planes.margin(window, value)
        return None if found is None else np.where(self.area.valid(window), found, np.float32(np.nan))
