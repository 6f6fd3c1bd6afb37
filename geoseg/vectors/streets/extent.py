"""The extent of the data: where a street may be cut off, so that nothing says how long it is."""

import math
from dataclasses import dataclass

import numpy as np

from geoseg.pixels import NODATA
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import Planes
from geoseg.vectors.streets.rules import scale_of, to_border
from geoseg.windows import Window


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a class raster has data."""

    planes: Planes
    """The raster."""
    metric: Metric
    """Of its grid."""

    def has_data(self, xy: np.ndarray) -> np.ndarray:
        """(n,) bool, whether (n, 2) points in metres lie where there is data; the raster's own border still does."""
        pixels = self.metric.to_pixels(xy)
        height, width = self.planes.grid.shape
        inside = np.all((pixels >= 0) & (pixels <= (width, height)), axis=1)
        col, row = np.clip(np.floor(pixels).astype(np.int64), 0, (width - 1, height - 1)).T
        known = self._known(int(row.min()), int(col.min()), int(row.max()) + 1, int(col.max()) + 1)
        return inside & known[row - row.min(), col - col.min()]

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
        if (low >= high).any():
            return border
        row, col = np.nonzero(~self._known(int(low[1]), int(low[0]), int(high[1]), int(high[0])))
        # To the nearest side of each pixel.
        off = np.maximum(np.abs(np.column_stack([col, row]) + low + 0.5 - centre) - 0.5, 0) * scale
        return min(border, float(np.hypot(*off.T).min(initial=math.inf)))

    def _known(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """(h, w) bool of a window within the raster: pixels with data."""
        if NODATA in self.planes.classes:  # a mask of 0 and 255, of another program
            return np.ones((bottom - top, right - left), np.bool_)
        known: np.ndarray = (
            self.planes.labels(Window(row=top, col=left, height=bottom - top, width=right - left)) != NODATA
        )
        return known
