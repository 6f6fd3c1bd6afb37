"""Matching: which predicted polygon is which one of the reference, and what is left over on either side."""

from dataclasses import dataclass

import numpy as np
import shapely
from shapely import Geometry

NEAR_M2 = 0.01
"""Ground in square metres that two polygons may share and still count as neighbours: what rounding to seven decimals of
a degree, as GeoJSON has it, makes of a common wall."""

EDGE_M = 0.1
"""Metres from the border of the labelled area within which a shape counts as cut by it: drawn up to the border, it lies
on it but for rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """Every pair of a predicted and a reference polygon that share ground, ordered by both indices."""

    predicted: np.ndarray
    """(K,) intp index of the predicted polygon."""
    reference: np.ndarray
    """(K,) intp index of the reference polygon."""
    shared_m2: np.ndarray
    """(K,) float64 ground that both cover, above 0."""
    predicted_m2: np.ndarray
    """(P,) float64 areas of all predicted polygons."""
    reference_m2: np.ndarray
    """(R,) float64 areas of all reference polygons."""

    @property
    def iou(self) -> np.ndarray:
        """(K,) intersection over union of each pair, in (0, 1].

        Source: Everingham et al. 2010, doi:10.1007/s11263-009-0275-4 (area of overlap).
        """
        union = self.predicted_m2[self.predicted] + self.reference_m2[self.reference] - self.shared_m2
        return np.minimum(self.shared_m2 / union, 1.0)

    @property
    def of_predicted(self) -> np.ndarray:
        """(K,) share of the predicted polygon that lies on the reference one, in (0, 1]."""
        return np.minimum(self.shared_m2 / self.predicted_m2[self.predicted], 1.0)

    @property
    def of_reference(self) -> np.ndarray:
        """(K,) share of the reference polygon that the predicted one covers, in (0, 1]."""
        return np.minimum(self.shared_m2 / self.reference_m2[self.reference], 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """Pairs of one predicted and one reference polygon that are the same object, and the polygons without partner.

    Objects that the border of the labelled area cuts are neither right nor wrong: they are in none of these.
    """

    predicted: np.ndarray
    """(M,) intp, ordered by the reference's index."""
    reference: np.ndarray
    """(M,) intp, ascending."""
    iou: np.ndarray
    """(M,) float64, at least the threshold."""
    false_alarms: np.ndarray
    """Ascending intp indices of the predicted polygons that are no object of the reference."""
    misses: np.ndarray
    """Ascending intp indices of the reference polygons that no predicted one is."""


def solid(polygons: np.ndarray) -> np.ndarray:
    """Polygons that can be intersected: (N,), invalid ones made valid; what collapses is left out."""
    invalid = ~shapely.is_valid(polygons)
    if not invalid.any():
        return polygons
    polygons = polygons.copy()
    polygons[invalid] = shapely.make_valid(polygons[invalid], method="structure", keep_collapsed=False)
    return polygons


def overlaps(predicted: np.ndarray, reference: np.ndarray) -> Overlaps:
    """The pairs that share ground.

    Args:
        predicted: (P,) valid polygons in metres; none is fine.
        reference: (R,) valid polygons in metres; none is fine.
    """
    found = shapely.STRtree(reference).query(predicted, predicate="intersects")
    first, second = found[:, np.lexsort(found[::-1])]
    shared = shapely.area(shapely.intersection(predicted[first], reference[second]))
    kept = shared > 0
    return Overlaps(first[kept], second[kept], shared[kept], shapely.area(predicted), shapely.area(reference))


def match(
    pairs: Overlaps,
    *,
    iou: float = 0.5,
    predicted_inside: np.ndarray | None = None,
    reference_inside: np.ndarray | None = None,
) -> Matching:
    """Pairs of IoU `iou` or more, the best first, each polygon in one pair at most.

    Above 0.5 a polygon has one possible partner where neither side overlaps itself; otherwise the pair of higher IoU
    wins, then the lower index. A predicted polygon paired with a reference one that the border cuts, or with half of
    its area on such, is left out, and so is one without partner that the border cuts itself.

    Args:
        pairs: All that share ground.
        iou: The least IoU of the same object, in (0, 1].
        predicted_inside: (P,) bool, False where the border of the labelled area cuts the polygon; None: nowhere.
        reference_inside: (R,) bool, the same.

    Source: Van Etten et al. 2018, arXiv:1807.01232, the metric of building footprints (IoU of 0.5 or more, one to one);
    Lin et al. 2014, arXiv:1405.0312, and its evaluation code (objects to ignore).
    """
    inside_p = np.ones(len(pairs.predicted_m2), bool) if predicted_inside is None else predicted_inside
    inside_r = np.ones(len(pairs.reference_m2), bool) if reference_inside is None else reference_inside
    first, second, ratio = _best(pairs, iou)
    alone_p, alone_r = inside_p.copy(), inside_r.copy()
    alone_p[first], alone_r[second] = False, False
    on_cut = ~inside_r[pairs.reference]
    share = np.bincount(pairs.predicted[on_cut], pairs.shared_m2[on_cut], minlength=len(inside_p))
    alone_p &= share < np.maximum(pairs.predicted_m2, np.finfo(float).tiny) / 2
    counted = inside_r[second]
    return Matching(first[counted], second[counted], ratio[counted], np.flatnonzero(alone_p), np.flatnonzero(alone_r))


def _best(pairs: Overlaps, iou: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs, by the reference's index, and their IoU."""
    ratio = pairs.iou
    able = np.flatnonzero(ratio >= iou)
    order = able[np.argsort(-ratio[able], kind="stable")]
    taken_p, taken_r = np.zeros(len(pairs.predicted_m2), bool), np.zeros(len(pairs.reference_m2), bool)
    chosen = []
    for pair, p, r in zip(
        order.tolist(), pairs.predicted[order].tolist(), pairs.reference[order].tolist(), strict=True
    ):
        if not (taken_p[p] or taken_r[r]):
            taken_p[p] = taken_r[r] = True
            chosen.append(pair)
    kept = np.array(sorted(chosen, key=lambda pair: int(pairs.reference[pair])), np.intp)
    return pairs.predicted[kept], pairs.reference[kept], ratio[kept]


def inside(shapes: np.ndarray, area: Geometry | None) -> np.ndarray:
    """(N,) bool, True where a shape lies within the labelled area, more than `EDGE_M` from its border."""
    if area is None:
        return np.ones(len(shapes), bool)
    core = shapely.buffer(area, -EDGE_M, quad_segs=2)
    shapely.prepare(core)
    return np.asarray(shapely.contains(core, shapes))


def self_overlapping(polygons: np.ndarray) -> np.ndarray:
    """(K, 2) intp pairs of valid polygons, the lower index first, that share more than `NEAR_M2` of ground."""
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    once = first < second
    first, second = first[once], second[once]
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    kept = shapely.area(shapely.intersection(polygons[first], polygons[second])) > NEAR_M2
    return np.column_stack((first[kept], second[kept]))
