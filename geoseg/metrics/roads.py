"""Road metrics: predicted centrelines against those of a reference, metre by metre, as a network, and in width."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import shapely
from scipy.spatial import cKDTree
from shapely import Geometry

from geoseg.metrics.apls import SNAP_M, apls
from geoseg.metrics.network import Network

BUFFER_M = 3.0
"""Metres that a centreline may lie beside that of the reference and still be the same road."""
JUNCTION_M = 5.0
"""The same for junctions."""
STEP_M = 1.0
"""The most metres of a line that are judged at once, by their middle."""


@dataclass(frozen=True, slots=True)
class RoadScores:
    """Centrelines of one class. None ("n/a") where a figure has nothing to be taken from."""

    predicted_m: float
    """Metres of predicted lines."""
    reference_m: float
    """Metres of lines of the reference."""
    precision: float | None
    """Correctness: share of the predicted metres within the buffer of a line of the reference, in [0, 1].

    Source: Heipke et al. 1997, Evaluation of Automatic Road Extraction, IAPRS 32 (3-2W3), correctness: length of
    matched extraction / length of extraction.
    """
    recall: float | None
    """Completeness: share of the reference's metres within the buffer of a predicted line, in [0, 1].

    Source: Heipke et al. 1997, completeness: length of matched reference / length of reference.
    """
    f1: float | None
    """Harmonic mean of both, in [0, 1]; None without reference."""
    quality: float | None
    """Matched extraction / (extraction + unmatched reference), in [0, 1]. Source: Heipke et al. 1997, quality."""
    offset_m: float | None
    """Root mean square distance of the matched predicted metres to the reference. Source: Heipke et al. 1997, RMS."""
    apls: float | None
    """Average path length similarity, in [0, 1]. Source: Van Etten et al. 2018, arXiv:1807.01232."""
    apls_of_reference: float | None
    """Its one direction: how well paths of the reference are predicted. Source: the same."""
    apls_of_predicted: float | None
    """Its other direction: how well predicted paths are in the reference."""
    junction_precision: float | None
    """Share of predicted junctions that are one of the reference."""
    junction_recall: float | None
    """Share of the reference's junctions that are predicted."""
    junction_f1: float | None
    """Harmonic mean of both: 2 TP / (2 TP + FP + FN); None without a junction in the reference."""
    junctions: int
    """Predicted junctions: where three lines or more meet."""
    reference_junctions: int
    """Junctions of the reference."""
    dead_ends: int
    """Predicted ends of lines that go nowhere."""
    reference_dead_ends: int
    """Those of the reference."""
    width_error_m: float | None
    """Mean over the matched predicted metres of |width - width of the reference|; None without widths."""
    width_bias_m: float | None
    """Mean of width - width of the reference over the same metres."""
    vertices_per_km: float | None
    """Predicted vertices for each kilometre of line."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: None where a figure is not to be had."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Lines in equal pieces of no more than a step, in the order of the lines."""

    line: np.ndarray
    """(S,) intp index of the line string or multi line string."""
    part: np.ndarray
    """(S,) intp index of the single line string among all of them."""
    start_m: np.ndarray
    """(S,) float64 metres from the beginning of the line string."""
    length_m: np.ndarray
    """(S,) float64 metres."""
    middle: np.ndarray
    """(S,) points."""
    parts: np.ndarray
    """The single line strings."""

    @classmethod
    def of(cls, lines: np.ndarray, step_m: float = STEP_M) -> "Pieces":
        """Cut lines in metres; of no lines no pieces."""
        parts, owner = shapely.get_parts(np.asarray(lines, object), return_index=True)
        owner = owner[shapely.length(parts) > 0]
        parts = parts[shapely.length(parts) > 0]
        length = shapely.length(parts)
        count = np.maximum(np.ceil(length / step_m - 1e-9).astype(np.int64), 1)
        part = np.repeat(np.arange(len(parts)), count)
        own = (length / count)[part]
        start = own * (np.arange(len(part)) - np.repeat(np.cumsum(count) - count, count))
        return cls(
            np.asarray(owner[part], np.intp), part, start, own,
            np.asarray(shapely.line_interpolate_point(parts[part], start + own / 2)), parts,
        )  # fmt: skip

    def nearest(self, lines: np.ndarray, most_m: float) -> tuple[np.ndarray, np.ndarray]:
        """The line nearest to the middle of each piece.

        Returns:
            (S,) intp index of the line, -1 where none is within `most_m`, and (S,) float64 metres, infinite there.
        """
        sides, owner = _sides(lines)
        index, distance = np.full(len(self.middle), -1, np.intp), np.full(len(self.middle), np.inf)
        if len(sides) and len(self.middle):
            near, far = shapely.STRtree(sides).query_nearest(
                self.middle, max_distance=most_m * (1 + 1e-9) + 1e-9, return_distance=True
            )
            order = np.lexsort((owner[near[1]], near[0]))
            piece, first = np.unique(near[0][order], return_index=True)
            index[piece] = owner[near[1][order][first]]
            distance[piece] = far[order][first]
        return index, distance


def score_roads(
    predicted: np.ndarray,
    reference: np.ndarray,
    *,
    predicted_width_m: np.ndarray | None = None,
    reference_width_m: np.ndarray | None = None,
    buffer_m: float = BUFFER_M,
    junction_m: float = JUNCTION_M,
    snap_m: float = SNAP_M,
    area: Geometry | None = None,
) -> RoadScores:
    """Score centrelines of one class.

    Args:
        predicted: (P,) line strings or multi line strings in metres. None is fine.
        reference: (R,) the same. None is fine.
        predicted_width_m: (P,) metres, NaN where not known.
        reference_width_m: (R,) metres, NaN where not known.
        buffer_m: The farthest that lines of the same road lie apart.
        junction_m: The same for junctions.
        snap_m: The farthest that a control point of APLS lies from the other network.
        area: The labelled area in metres: what lies outside is cut off. Where it cuts a road there is no dead end, and
            what is near its border may be matched with what lies beyond. None: everything is labelled.
    """
    predicted, reference = np.asarray(predicted, object), np.asarray(reference, object)
    ours, theirs = Pieces.of(clipped(predicted, area)), Pieces.of(clipped(reference, area))
    partner, distance = ours.nearest(reference, buffer_m)
    right, found = partner >= 0, theirs.nearest(predicted, buffer_m)[0] >= 0
    matched_m, length_m = float(ours.length_m[right].sum()), float(ours.length_m.sum())
    found_m, reference_m = float(theirs.length_m[found].sum()), float(theirs.length_m.sum())
    precision, recall = _divide(matched_m, length_m), _divide(found_m, reference_m)
    known = right.copy()
    error = np.zeros(len(known))
    if predicted_width_m is None or reference_width_m is None:
        known[:] = False
    else:
        error[right] = predicted_width_m[ours.line[right]] - reference_width_m[partner[right]]
        known &= np.isfinite(error)
    weight = ours.length_m[known]
    offset = _divide(float((ours.length_m[right] * distance[right] ** 2).sum()), matched_m)
    return RoadScores(
        predicted_m=length_m,
        reference_m=reference_m,
        precision=precision,
        recall=recall,
        f1=_f1(precision, recall) if reference_m else None,
        quality=_divide(matched_m, length_m + reference_m - found_m) if reference_m else None,
        offset_m=None if offset is None else offset**0.5,
        **_networks(predicted, reference, area, junction_m, snap_m),
        width_error_m=_divide(float((weight * np.abs(error[known])).sum()), float(weight.sum())),
        width_bias_m=_divide(float((weight * error[known]).sum()), float(weight.sum())),
        vertices_per_km=_divide(1000.0 * float(shapely.get_num_coordinates(ours.parts).sum()), length_m),
    )


def _networks(
    predicted: np.ndarray, reference: np.ndarray, area: Geometry | None, junction_m: float, snap_m: float
) -> dict[str, Any]:
    ours, theirs = Network.of(predicted, area=area), Network.of(reference, area=area)
    paths = apls(ours, theirs, snap_m=snap_m)
    border = None if area is None else shapely.boundary(area)
    first, second = _off(ours.junctions, border, junction_m), _off(theirs.junctions, border, junction_m)
    found = match_points(ours.junctions, theirs.junctions, junction_m)
    # One near the border is held against nobody, but may be the partner of one that is not.
    hits = int((first[found[:, 0]] & second[found[:, 1]]).sum())
    alarms = int(first.sum()) - int(first[found[:, 0]].sum())
    misses = int(second.sum()) - int(second[found[:, 1]].sum())
    return {
        "apls": paths.score,
        "apls_of_reference": paths.of_reference,
        "apls_of_predicted": paths.of_predicted,
        "junction_precision": _divide(hits, hits + alarms),
        "junction_recall": _divide(hits, hits + misses),
        "junction_f1": _divide(2 * hits, 2 * hits + alarms + misses) if hits + misses else None,
        "junctions": hits + alarms,
        "reference_junctions": hits + misses,
        "dead_ends": int(_off(ours.dead_ends, border, junction_m).sum()),
        "reference_dead_ends": int(_off(theirs.dead_ends, border, junction_m).sum()),
    }


def match_points(predicted: np.ndarray, reference: np.ndarray, most_m: float) -> np.ndarray:
    """Pairs of points no farther apart than `most_m`, the nearest first, each point in one pair at most.

    Args:
        predicted: (P, 2) metres.
        reference: (R, 2) metres.
        most_m: Metres.

    Returns:
        (M, 2) intp indices, predicted and reference.
    """
    if not (len(predicted) and len(reference)):
        return np.empty((0, 2), np.intp)
    near = cKDTree(predicted).sparse_distance_matrix(cKDTree(reference), most_m * (1 + 1e-9), output_type="ndarray")
    near = near[np.lexsort((near["j"], near["i"], near["v"].round(9)))]
    taken_p, taken_r = np.zeros(len(predicted), bool), np.zeros(len(reference), bool)
    chosen = []
    for p, r in zip(near["i"].tolist(), near["j"].tolist(), strict=True):
        if not (taken_p[p] or taken_r[r]):
            taken_p[p] = taken_r[r] = True
            chosen.append((p, r))
    return np.array(chosen, np.intp).reshape(-1, 2)


def _off(points: np.ndarray, border: Geometry | None, metres: float) -> np.ndarray:
    """(N,) bool, True for points farther than so many metres from the border."""
    if border is None:
        return np.ones(len(points), bool)
    shapely.prepare(border)
    return ~np.asarray(shapely.dwithin(border, shapely.points(points), metres))


def _sides(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines as their straight sides, whose boxes are tight, and the index of each one's line."""
    parts, owner = shapely.get_parts(np.asarray(lines, object), return_index=True)
    points, part = shapely.get_coordinates(parts, return_index=True)
    same = part[1:] == part[:-1]
    sides = shapely.linestrings(np.stack((points[:-1][same], points[1:][same]), axis=1))
    return np.asarray(sides), np.asarray(owner[part[1:][same]], np.intp)


def clipped(lines: np.ndarray, area: Geometry | None) -> np.ndarray:
    """The same number of lines, cut off at the border; the points that a touch leaves are none."""
    if area is None:
        return lines
    shapely.prepare(area)
    lines, out = lines.copy(), ~shapely.contains(area, lines)
    cut = shapely.intersection(lines[out], area)
    lines[out] = np.where(shapely.get_dimensions(cut) == 1, cut, shapely.LineString())
    return lines


def _f1(precision: float | None, recall: float | None) -> float:
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def _divide(part: float, whole: float) -> float | None:
    return part / whole if whole else None
