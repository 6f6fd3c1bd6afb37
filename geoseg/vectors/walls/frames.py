"""Frames: each patch in metres of its own, so that millions of vertices need no projection of their own."""

from dataclasses import dataclass

import numpy as np

from geoseg.vectors.metric import Metric
from geoseg.vectors.patches import AnyPatches, Patches

_STEP = 16.0  # pixels, over which the projection is measured


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """A plane about the middle of each patch: pixels of equal sides, one `gsd` wide, x to the east, y to the north.

    Against the projection a plane is off by a square of the distance over the radius of the Earth: under a millimetre
    within 100 m.
    """

    gsd: float
    """Metres (or units) in one pixel of a frame."""
    middle: np.ndarray
    """(p, 2) float64 in pixels of the raster."""
    origin: np.ndarray
    """(p, 2) float64 the same in metres."""
    turn: np.ndarray
    """(p, 2, 2) float64 from pixels of the raster to those of the frame, from the right."""

    @classmethod
    def of(cls, patches: AnyPatches, metric: Metric) -> "Frames":
        """About the middles of the patches' boxes."""
        middle = (patches.box[:, :2] + patches.box[:, 2:]) / 2
        origin = metric.to_metres(middle)
        step_right, step_down = np.array([[_STEP, 0], [0, _STEP]])
        right = metric.to_metres(middle + step_right) - metric.to_metres(middle - step_right)
        down = metric.to_metres(middle + step_down) - metric.to_metres(middle - step_down)
        turn = np.stack([right, down], axis=1) / (2 * _STEP * metric.gsd)
        return cls(metric.gsd, middle, origin, turn)

    def slice(self, start: int, stop: int) -> "Frames":
        """Those of patches `start` to `stop`."""
        there = slice(start, stop)
        return Frames(self.gsd, self.middle[there], self.origin[there], self.turn[there])

    def inward(self, patches: Patches) -> np.ndarray:
        """(n, 2) float64 vertices of the patches, each in its patch's frame."""
        return self._inward(patches.xy, np.repeat(patches.ring_patch, np.diff(patches.ring_offsets)))

    def outward(self, xy: np.ndarray, of: np.ndarray) -> np.ndarray:
        """(n, 2) metres of points in the frames of patches `of`."""
        placed: np.ndarray = xy * self.gsd + self.origin[of]
        return placed

    def placed(self, xy: np.ndarray, of: np.ndarray) -> np.ndarray:
        """(n, 2) metres of pixel coordinates of the raster, each by way of the frame of a patch."""
        return self.outward(self._inward(xy, of), of)

    def _inward(self, xy: np.ndarray, of: np.ndarray) -> np.ndarray:
        off, turn = xy - self.middle[of], self.turn[of]
        x = off[:, 0] * turn[:, 0, 0] + off[:, 1] * turn[:, 1, 0]
        return np.column_stack([x, off[:, 0] * turn[:, 0, 1] + off[:, 1] * turn[:, 1, 1]])
