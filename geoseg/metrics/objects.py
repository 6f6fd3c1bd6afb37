"""Object metrics: predicted polygons against those of a reference, object by object, outline by outline."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import shapely
from shapely import Geometry

from geoseg.metrics.boundary import BOUNDARY_M, boundary_iou, c_iou, corner_counts, hausdorff, polis
from geoseg.metrics.matching import Matching, Overlaps, inside, match, overlaps, self_overlapping, solid


@dataclass(frozen=True, slots=True)
class ObjectScores:
    """Objects of one class. None ("n/a") where a figure has nothing to be taken from.

    An object is found when a predicted polygon and one of the reference, each in one pair at most, have an IoU of 0.5
    or more. Figures of outlines are means over the objects found. Those that the border of the labelled area cuts are
    left out of all but the areas.
    Source: Van Etten et al. 2018, arXiv:1807.01232, the metric of building footprints; of the figures of outlines, see
    `geoseg.metrics.boundary`.
    """

    predicted: int
    """Predicted objects: TP + FP."""
    reference: int
    """Objects of the reference: TP + FN."""
    found: int
    """Objects found: TP."""
    precision: float | None
    """TP / (TP + FP), in [0, 1]; None if nothing is predicted."""
    recall: float | None
    """TP / (TP + FN), in [0, 1]; None if the reference has no object."""
    f1: float | None
    """2 TP / (2 TP + FP + FN), in [0, 1]; None if the reference has no object."""
    mean_iou: float | None
    """Mean IoU."""
    boundary_iou: float | None
    """Mean IoU of the strips 1 m wide inside the outlines."""
    polis_m: float | None
    """Mean distance from the corners of either to the outline of the other, metres."""
    hausdorff_m: float | None
    """Mean of the farthest that the two outlines part, metres."""
    vertex_ratio: float | None
    """Corners predicted over corners of the reference. Source: Zorzi et al. 2022, arXiv:2111.15491, the N ratio."""
    c_iou: float | None
    """Mean IoU (1 - |N_P - N_G| / (N_P + N_G)), N the numbers of corners."""
    corners_right: float | None
    """Share of objects with as many corners as in the reference."""
    area_bias: float | None
    """(sum of areas predicted - sum of areas of the reference) / the latter, over the objects found."""
    area_iou: float | None
    """Ground that both cover over ground that either covers, all objects together; None without reference."""
    area_precision: float | None
    """Share of the predicted ground that the reference covers; None if nothing is predicted."""
    area_recall: float | None
    """Share of the reference's ground that is predicted; None without reference."""
    invalid: int
    """Predicted polygons that are not valid by OGC 06-103r4, 6.1.11; mended for all other figures."""
    overlapping: int
    """Predicted polygons that share more than 0.01 m2 with another one."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: None where a figure is not to be had."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SurfaceScores:
    """Ground of one class, whatever objects it is cut into. None ("n/a") where there is nothing to divide by."""

    predicted_m2: float
    """Ground predicted, each square metre counted once."""
    reference_m2: float
    """Ground of the reference, likewise."""
    iou: float | None
    """Ground that both cover over ground that either covers; None without reference.

    Source: Everingham et al. 2010, doi:10.1007/s11263-009-0275-4, of areas in place of pixels.
    """
    precision: float | None
    """Share of the predicted ground that the reference covers; None if nothing is predicted."""
    recall: float | None
    """Share of the reference's ground that is predicted; None without reference."""

    @classmethod
    def of(cls, shared_m2: float, predicted_m2: float, reference_m2: float) -> "SurfaceScores":
        """From the areas of both sides and of what they share; slivers that overlap may have been counted twice."""
        shared_m2 = min(shared_m2, predicted_m2, reference_m2)
        iou = _divide(shared_m2, predicted_m2 + reference_m2 - shared_m2) if reference_m2 else None
        precision, recall = _divide(shared_m2, predicted_m2), _divide(shared_m2, reference_m2)
        return cls(predicted_m2, reference_m2, iou, precision, recall)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: None where a figure is not to be had."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Objects:
    """Predicted and reference polygons of one class, matched: what scores and errors are made from."""

    predicted: np.ndarray
    """(P,) valid polygons in metres, those outside of the labelled area left out."""
    reference: np.ndarray
    """(R,) the same of the reference."""
    rows: tuple[np.ndarray, np.ndarray]
    """(P,) and (R,) intp, which of the polygons given they are."""
    inside: tuple[np.ndarray, np.ndarray]
    """(P,) and (R,) bool, False where the border of the labelled area cuts the polygon."""
    pairs: Overlaps
    """All that share ground."""
    matching: Matching
    """Those that are the same object."""
    area: Geometry | None
    """Outside of it nothing is known; None: everything is."""
    invalid: int
    """Predicted polygons that had to be mended."""

    @classmethod
    def matched(
        cls, predicted: np.ndarray, reference: np.ndarray, *, iou: float = 0.5, area: Geometry | None = None
    ) -> "Objects":
        """Match polygons; see `score_objects`."""
        predicted, reference = np.asarray(predicted, object), np.asarray(reference, object)
        invalid = int((~shapely.is_valid(predicted)).sum())
        predicted, reference = solid(predicted), solid(reference)
        rows = _touching(predicted, area), _touching(reference, area)
        predicted, reference = predicted[rows[0]], reference[rows[1]]
        pairs = overlaps(predicted, reference)
        kept = inside(predicted, area), inside(reference, area)
        matching = match(pairs, iou=iou, predicted_inside=kept[0], reference_inside=kept[1])
        return cls(predicted, reference, rows, kept, pairs, matching, area, invalid)

    def scores(self, *, boundary_m: float = BOUNDARY_M) -> ObjectScores:
        """All figures."""
        matching = self.matching
        found = len(matching.predicted)
        predicted, reference = found + len(matching.false_alarms), found + len(matching.misses)
        clashes = self_overlapping(self.predicted)
        return ObjectScores(
            predicted=predicted,
            reference=reference,
            found=found,
            precision=_divide(found, predicted),
            recall=_divide(found, reference),
            f1=_divide(2 * found, predicted + reference) if reference else None,
            **self._outlines(boundary_m),
            **self._areas(clashes),
            invalid=self.invalid,
            overlapping=len(np.unique(clashes)),
        )

    def _outlines(self, boundary_m: float) -> dict[str, float | None]:
        first, second = self.predicted[self.matching.predicted], self.reference[self.matching.reference]
        iou = self.matching.iou
        ours, theirs = corner_counts(first), corner_counts(second)
        ours_m2, theirs_m2 = shapely.area(first).sum(), shapely.area(second).sum()
        return {
            "mean_iou": _mean(iou),
            "boundary_iou": _mean(boundary_iou(first, second, width_m=boundary_m)),
            "polis_m": _mean(polis(first, second)),
            "hausdorff_m": _mean(hausdorff(first, second)),
            "vertex_ratio": _divide(ours.sum(), theirs.sum()),
            "c_iou": _mean(c_iou(first, second, iou)),
            "corners_right": _mean(ours == theirs),
            "area_bias": _divide(ours_m2 - theirs_m2, theirs_m2),
        }

    def _areas(self, clashes: np.ndarray) -> dict[str, float | None]:
        """Of all ground together, each square metre counted once, within the labelled area."""
        own = self_overlapping(self.reference)
        pairs = self.pairs
        if len(clashes) or len(own) or self.area is not None:
            first, second = _apart(self.predicted, clashes), _apart(self.reference, own)
            pairs = overlaps(_clipped(first, self.area), _clipped(second, self.area))
        found = _surfaces(pairs)
        return {"area_iou": found.iou, "area_precision": found.precision, "area_recall": found.recall}


def score_objects(
    predicted: np.ndarray,
    reference: np.ndarray,
    *,
    iou: float = 0.5,
    boundary_m: float = BOUNDARY_M,
    area: Geometry | None = None,
) -> ObjectScores:
    """Score polygons of one class.

    Args:
        predicted: (P,) polygons or multipolygons in metres; invalid ones are counted and mended. None is fine.
        reference: (R,) polygons or multipolygons in metres. None is fine.
        iou: The least IoU of the same object.
        boundary_m: Width of the strip that boundary IoU looks at.
        area: The labelled area in metres: objects outside of it are left out, those it cuts are not held against the
            prediction. None: everything is labelled.
    """
    return Objects.matched(predicted, reference, iou=iou, area=area).scores(boundary_m=boundary_m)


def score_surfaces(predicted: np.ndarray, reference: np.ndarray, *, area: Geometry | None = None) -> SurfaceScores:
    """Score the ground that polygons cover, where objects mean nothing, as in a network of roads.

    Args:
        predicted: (P,) polygons or multipolygons in metres, which may overlap.
        reference: (R,) the same.
        area: The labelled area in metres; what lies outside counts nowhere.
    """
    sides = (solid(np.asarray(shapes, object)) for shapes in (predicted, reference))
    first, second = (_clipped(_apart(shapes, self_overlapping(shapes)), area) for shapes in sides)
    return _surfaces(overlaps(first, second))


def _surfaces(pairs: Overlaps) -> SurfaceScores:
    """Of polygons of which none of a side overlap."""
    return SurfaceScores.of(*(float(m2.sum()) for m2 in (pairs.shared_m2, pairs.predicted_m2, pairs.reference_m2)))


def _touching(polygons: np.ndarray, area: Geometry | None) -> np.ndarray:
    """Indices of the polygons that have to do with the labelled area."""
    if area is None:
        return np.arange(len(polygons))
    shapely.prepare(area)
    return np.flatnonzero(shapely.intersects(area, polygons))


def _apart(polygons: np.ndarray, clashes: np.ndarray) -> np.ndarray:
    """Polygons of the same ground of which none overlap: those that do are dissolved."""
    members = np.unique(clashes)
    merged = shapely.get_parts(shapely.union_all(polygons[members])) if len(members) else polygons[:0]
    return np.concatenate((np.delete(polygons, members), merged))


def _clipped(polygons: np.ndarray, area: Geometry | None) -> np.ndarray:
    if area is None:
        return polygons
    cut = ~inside(polygons, area)
    polygons = polygons.copy()
    polygons[cut] = shapely.intersection(polygons[cut], area)
    return polygons


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _divide(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
