"""Where buildings touch: ground of a class of its own, so that a network learns to keep neighbours apart."""

import numpy as np
import shapely

_REACH = 1.5
"""Pixels round a polygon. Polygons that share a wall get a strip of three pixels along it; a gap of one is filled, with
half a pixel beyond it on either side, and of a gap of two the middle."""
_NEAR = 2.0
"""Pixels between polygons that are nowhere nearer, and left alone: a strip would be too thin to be more than dots."""


def contacts(polygons: np.ndarray) -> np.ndarray:
    """Ground within 1.5 pixels of two polygons that come within 2 of each other.

    Args:
        polygons: (N,) simple polygons in pixel coordinates.

    Returns:
        (M,) polygons in pixel coordinates, some of them overlapping.

    Source: the contact class of Selim Seferbekov's solutions of the xView2 and Open Cities challenges.
    """
    polygons = np.where(shapely.is_valid(polygons), polygons, shapely.make_valid(polygons))
    grown = shapely.buffer(polygons, _REACH)
    first, second = shapely.STRtree(polygons).query(polygons, predicate="dwithin", distance=_NEAR)
    pairs = first < second
    first, second = first[pairs], second[pairs]
    shared = shapely.area(shapely.intersection(polygons[first], polygons[second]))
    # A house drawn twice, or as a part of a larger one, is no neighbour.
    apart = shared <= np.minimum(shapely.area(polygons[first]), shapely.area(polygons[second])) / 2
    first, second = first[apart], second[apart]
    rest = shapely.difference(polygons[second], polygons[first])
    strips = shapely.get_parts(shapely.intersection(grown[first], shapely.buffer(rest, _REACH)))
    return np.asarray(strips[shapely.area(strips) > 0])
