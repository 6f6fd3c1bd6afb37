"""Boundary metrics: how well the outlines of polygons that are known to be the same object agree, pair by pair."""

import numpy as np
import shapely

BOUNDARY_M = 1.0
"""Width of the strip along an outline that boundary IoU looks at, in metres."""
_DENSITY = 0.1
"""Share of a side between the points at which a Hausdorff distance is measured."""


def boundary_iou(predicted: np.ndarray, reference: np.ndarray, *, width_m: float = BOUNDARY_M) -> np.ndarray:
    """Intersection over union of the strips inside the outlines.

        IoU_b(G, P) = |(G_d & G) & (P_d & P)| / |(G_d & G) | (P_d & P)|

    with G_d the ground within d of G's outline. The paper takes d from the size of the image; here it is `width_m`
    metres on the ground. A polygon that is nowhere 2 d wide is all strip.

    Args:
        predicted: (M,) valid polygons in metres.
        reference: (M,) valid polygons in metres, the partners.
        width_m: d, above 0.

    Returns:
        (M,) float64 in [0, 1].

    Source: Cheng et al. 2021, arXiv:2103.16562, the definition of Boundary IoU.
    """
    first, second = _strip(predicted, width_m), _strip(reference, width_m)
    shared = shapely.area(shapely.intersection(first, second))
    return _ratio(shared, shapely.area(first) + shapely.area(second) - shared)


def _strip(polygons: np.ndarray, width_m: float) -> np.ndarray:
    return np.asarray(shapely.difference(polygons, shapely.buffer(polygons, -width_m, quad_segs=4)))


def polis(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """PoLiS: the mean distance from the corners of each polygon to the outline of the other.

        p(A, B) = 1/(2q) sum over corners a of min over points b of B's outline |a - b|
                + 1/(2r) sum over corners b of min over points a of A's outline |b - a|

    Corners of holes count like those of the exterior. It answers to shifts, turns and missing parts, and is not misled
    by the number of corners.

    Args:
        predicted: (M,) polygons in metres, not empty.
        reference: (M,) polygons in metres, the partners.

    Returns:
        (M,) float64 metres.

    Source: Avbelj, Mueller and Bamler 2015, A Metric for Polygon Comparison and Building Extraction Evaluation,
    doi:10.1109/LGRS.2014.2330695, the definition of PoLiS.
    """
    return (_corner_distance(predicted, reference) + _corner_distance(reference, predicted)) / 2


def _corner_distance(polygons: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(M,) mean distance of each polygon's corners to the other's outline."""
    points, owner = corners(polygons)
    distance = shapely.distance(shapely.points(points), shapely.boundary(others)[owner])
    return np.asarray(np.bincount(owner, distance, len(polygons)) / np.bincount(owner, minlength=len(polygons)))


def hausdorff(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Hausdorff distance of two outlines: the farthest that a point of either is from the other.

        H(A, B) = max(h(A, B), h(B, A)),  h(A, B) = max over a of min over b |a - b|

    Measured at the corners and at nine points along each side; between those it can be larger by at most a twentieth of
    the side's length.

    Args:
        predicted: (M,) polygons in metres, not empty.
        reference: (M,) polygons in metres, the partners.

    Returns:
        (M,) float64 metres.

    Source: Huttenlocher, Klanderman and Rucklidge 1993, doi:10.1109/34.232073, eq. 1 and 2.
    """
    found = shapely.hausdorff_distance(shapely.boundary(predicted), shapely.boundary(reference), densify=_DENSITY)
    return np.asarray(found)


def c_iou(predicted: np.ndarray, reference: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Complexity-aware IoU: IoU less for every corner too many or too few.

        C-IoU = IoU (1 - |N_P - N_G| / (N_P + N_G))

    Args:
        predicted: (M,) polygons; N_P are its corners, those of holes included.
        reference: (M,) polygons, the partners; N_G likewise.
        iou: (M,) of each pair.

    Returns:
        (M,) float64 in [0, 1].

    Source: Zorzi et al. 2022, PolyWorld, arXiv:2111.15491, the definition of C-IoU.
    """
    ours, theirs = corner_counts(predicted), corner_counts(reference)
    return np.asarray(iou * (1 - np.abs(ours - theirs) / np.maximum(ours + theirs, 1)))


def corners(polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of all rings, without the last one of each, which repeats the first.

    Returns:
        (V, 2) float64 coordinates, and (V,) intp indices of their polygons.
    """
    parts, whole = shapely.get_parts(polygons, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    kept = np.ones(len(points), bool)
    kept[np.flatnonzero(np.diff(ring, append=-1))] = False
    return points[kept], np.asarray(whole[part[ring[kept]]], np.intp)


def corner_counts(polygons: np.ndarray) -> np.ndarray:
    """(N,) int64 vertices of each polygon, holes included."""
    return np.bincount(corners(polygons)[1], minlength=len(polygons))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.minimum(np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0), 1.0)
