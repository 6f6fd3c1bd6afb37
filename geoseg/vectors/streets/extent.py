"""The extent of the data, where a street may be cut off, and what stands in its way."""

import math
from dataclasses import dataclass

import numpy as np

from geoseg.pixels import NODATA
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import Planes
from geoseg.vectors.streets.rules import scale_of, to_border
from geoseg.windows import Window

_STEP_M = 0.25  # between the points at which a line is looked at
_TOUCHED_M = 1.5
"""Metres of something solid on a line that merely touches it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a class raster has data, and where something solid."""

    planes: Planes
    """The raster."""
    metric: Metric
    """Of its grid."""
    solid: tuple[int, ...] = ()
    """Values of classes through which no street goes."""

    def has_data(self, xy: np.ndarray) -> np.ndarray:
        """(n,) bool, whether (n, 2) points in metres lie where there is data; the raster's own border still does."""
        inside, labels = self._labels_at(xy)
        if NODATA in self.planes.classes:  # a mask of 0 and 255, of another program
            return inside
        return inside & (labels != NODATA)

    def is_blocked(self, first: np.ndarray, last: np.ndarray) -> bool:
        """Whether something solid stands between two (2,) points in metres, and no corner that is merely touched."""
        if not self.solid:
            return False
        steps = max(1, math.ceil(float(np.hypot(*(last - first))) / _STEP_M))
        inside, labels = self._labels_at(np.linspace(first, last, steps + 1))
        return bool(np.isin(labels[inside], self.solid).sum() * _STEP_M > _TOUCHED_M)

    def _labels_at(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of (n, 2) points in metres: (n,) bool, whether within the raster, and (n,) uint8 of the nearest pixel."""
        pixels = self.metric.to_pixels(xy)
        height, width = self.planes.grid.shape
        inside = np.all((pixels >= 0) & (pixels <= (width, height)), axis=1)
        col, row = np.clip(np.floor(pixels).astype(np.int64), 0, (width - 1, height - 1)).T
        top, left = int(row.min()), int(col.min())
        window = Window(row=top, col=left, height=int(row.max()) + 1 - top, width=int(col.max()) + 1 - left)
        return inside, self.planes.labels(window)[row - top, col - left]

    def far_from_edge(self, xy: np.ndarray, within: float) -> float:
        """Metres, about, from a (2,) point to where the data ends, be it inside the raster or with it.

        What is without data further off than `within` is not looked for.
        """
        border = float(to_border(xy[None], self.metric)[0])
        scale = np.array(scale_of(self.metric))
        centre = self.metric.to_pixels(xy[None])[0]
        low = np.maximum(np.floor(centre - within / scale).astype(np.int64), 0)
        high = np.minimum(
            np.ceil(centre + within / scale).astype(np.int64), (self.planes.grid.width, self.planes.grid.height)
        )
        if (low >= high).any() or NODATA in self.planes.classes:
            return border
        left, top, right, bottom = map(int, (*low, *high))
        labels = self.planes.labels(Window(row=top, col=left, height=bottom - top, width=right - left))
        row, col = np.nonzero(labels == NODATA)
        # To the nearest side of each pixel.
        off = np.maximum(np.abs(np.column_stack([col, row]) + low + 0.5 - centre) - 0.5, 0) * scale
        return min(border, float(np.hypot(*off.T).min(initial=math.inf)))
