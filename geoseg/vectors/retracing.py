"""Retracing: outlines of the pieces of split patches, patch by patch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from affine import Affine
from scipy import ndimage

from geoseg.grid import Grid
from geoseg.pixels import NODATA
from geoseg.vectors.patches import Patches, trace
from geoseg.vectors.planes import ArrayPlanes, Planes
from geoseg.vectors.rings import SCALE
from geoseg.windows import Window


def retrace(planes: Planes, values: Sequence[int], box: np.ndarray, first: np.ndarray, min_pixels: int) -> Patches:
    """Sub-pixel outlines of the pieces of one patch, as `trace` gives them for the whole raster.

    Args:
        planes: In which the pieces have values of their own.
        values: Those of pieces; `values[0]` is the class, and that of all pieces found.
        box: (4,) int (left, top, right, bottom) of the patch.
        first: (2,) int row and column of one of its pixels.
        min_pixels: Smaller pieces are left out.
    """
    left, top, right, bottom = (int(edge) for edge in box)
    around = Window(row=top, col=left, height=bottom - top, width=right - left).expand(1)
    window = around.intersection(planes.grid.window) or around
    labels = planes.labels(window)
    inside = np.isin(labels, values)
    part = ndimage.label(inside)[0]
    labels[inside & (part != part[first[0] - window.row, first[1] - window.col])] = NODATA
    used = [value for value in values if value == values[0] or (labels == value).any()]
    known = {value: planes.probability(window, value) for value in planes.classes if value not in values[1:]}
    known |= dict.fromkeys(used[1:], known[values[0]])
    shares = {value: share for value, share in known.items() if share is not None}
    small = ArrayPlanes(
        labels,
        Grid(window.shape, Affine.identity(), None),
        dict.fromkeys(shares or used, ""),
        np.stack(list(shares.values())) if shares else None,
        step=window.height,
    )
    return _moved(trace(small, used, subpixel=True, min_pixels=min_pixels), window, values[0])


def _moved(patches: Patches, window: Window, value: int) -> Patches:
    """Patches of a window in the raster it lies in."""
    corner = np.array([window.col, window.row], np.int32)
    return replace(
        patches,
        points=patches.points + corner * np.int32(SCALE),
        first=patches.first + corner[::-1],
        box=patches.box + np.tile(corner, 2),
        value=np.full_like(patches.value, value),
    )
