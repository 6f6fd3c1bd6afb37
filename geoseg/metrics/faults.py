"""Faults: what is wrong with predicted objects and roads, one by one, each of a kind and with a size."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from shapely import Geometry

from geoseg.metrics.boundary import hausdorff
from geoseg.metrics.matching import Overlaps
from geoseg.metrics.objects import Objects
from geoseg.metrics.roads import BUFFER_M, Pieces, clipped

KINDS = ("miss", "false_alarm", "split", "merge", "boundary")
"""In the order in which faults of one size are listed."""
BOUNDARY_M = 1.0
"""Metres that the outline of an object may stray at its worst without being a fault."""
_PART = 0.5
"""Share of a polygon that another one must hold to be its piece."""
_LEAST_IOU = 0.1
"""Polygons that share less are not a bad outline of one object but two different ones."""
_LEAST_RUN_M = 2.0
"""Shorter stretches of road are ends that do not quite meet."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    kind: str
    """One of `KINDS`; of roads "miss" or "false_alarm"."""
    geometry: Geometry
    """Where: the polygon missed, alarmed at, split or merged; of a boundary the ground that only one of both covers; of
    a road the stretch."""
    size: float
    """Square metres that are wrong: of a miss or false alarm all; of a split or merge all but the largest part; of a
    boundary the ground that only one of both covers. Of a road: metres."""
    predicted: tuple[int, ...] = ()
    """The predicted shapes that take part, in the order given."""
    reference: tuple[int, ...] = ()
    """The shapes of the reference that take part."""
    iou: float | None = None
    """Of a boundary: intersection over union."""
    distance_m: float | None = None
    """Of a boundary: the farthest that the outlines part."""


def object_faults(objects: Objects, *, boundary_m: float = BOUNDARY_M) -> list[Fault]:
    """What is wrong with predicted polygons, the worst first.

    merge: a predicted polygon holds half or more of each of two objects or more, which make up half of it or more.
    split: the same the other way round, of an object in predicted pieces.
    boundary: an object is predicted, by one polygon that nothing above explains, with an IoU below the threshold of a
    match but at least 0.1, or with an outline that strays by more than `boundary_m` somewhere (Hausdorff distance).
    miss, false alarm: an object, or a predicted polygon, that has no partner and no part in the above.

    What the border of the labelled area cuts is no fault.

    Source: Hoover et al. 1996, An Experimental Comparison of Range Image Segmentation Algorithms,
    doi:10.1109/34.506791, the classes of regions (over- and under-segmentation, missed, noise), tolerance T = 0.5.
    """
    pairs, matching = objects.pairs, objects.matching
    merges = _groups(pairs, objects.inside[1], merged=True)
    splits = _groups(pairs, objects.inside[1], merged=False)
    told_p, told_r = np.zeros(len(objects.predicted), bool), np.zeros(len(objects.reference), bool)
    for p, parts in merges:
        told_p[p], told_r[parts] = True, True
    for r, parts in splits:
        told_p[parts], told_r[r] = True, True
    alone_p, alone_r = (np.zeros(len(told), bool) for told in (told_p, told_r))
    alone_p[matching.false_alarms], alone_r[matching.misses] = True, True
    poor = _poor_pairs(pairs, alone_p & ~told_p, alone_r & ~told_r)
    told_p[pairs.predicted[poor]], told_r[pairs.reference[poor]] = True, True
    faults = [
        *_grouped("merge", objects, merges),
        *_grouped("split", objects, splits),
        *_boundaries(objects, poor, told_p, told_r, boundary_m),
        *(
            Fault("miss", objects.reference[r], float(pairs.reference_m2[r]), reference=_rows(objects.rows[1], [r]))
            for r in np.flatnonzero(alone_r & ~told_r).tolist()
        ),
        *(
            Fault("false_alarm", objects.predicted[p], float(pairs.predicted_m2[p]), _rows(objects.rows[0], [p]))
            for p in np.flatnonzero(alone_p & ~told_p).tolist()
        ),
    ]
    return worst_first(faults)


def road_faults(
    predicted: np.ndarray, reference: np.ndarray, *, buffer_m: float = BUFFER_M, area: Geometry | None = None
) -> list[Fault]:
    """Stretches of road that are missed or falsely predicted, the longest first.

    A stretch is a run of pieces of one line of no more than a metre that lie farther than `buffer_m` from every line of
    the other side. Those under 2 m are left out.

    Args:
        predicted: (P,) line strings or multi line strings in metres.
        reference: (R,) the same.
        buffer_m: The farthest that lines of the same road lie apart.
        area: The labelled area; what lies outside is no fault.
    """
    predicted, reference = np.asarray(predicted, object), np.asarray(reference, object)
    faults = [
        Fault("miss", line, line.length, reference=(row,)) for row, line in _runs(reference, predicted, buffer_m, area)
    ]
    faults += [
        Fault("false_alarm", line, line.length, (row,)) for row, line in _runs(predicted, reference, buffer_m, area)
    ]
    return worst_first(faults)


def worst_first(faults: list[Fault]) -> list[Fault]:
    """By size, then by kind, then by the shapes that take part."""
    return sorted(
        faults, key=lambda fault: (-round(fault.size, 6), KINDS.index(fault.kind), fault.reference, fault.predicted)
    )


def _rows(rows: np.ndarray, some: Iterable[int]) -> tuple[int, ...]:
    return tuple(int(rows[index]) for index in some)


def _groups(pairs: Overlaps, inside: np.ndarray, *, merged: bool) -> list[tuple[int, np.ndarray]]:
    """Polygons that hold two or more of the other side, predicted ones if `merged`, and which those are."""
    whole, part = (pairs.predicted, pairs.reference) if merged else (pairs.reference, pairs.predicted)
    share, whole_m2 = (pairs.of_reference, pairs.predicted_m2) if merged else (pairs.of_predicted, pairs.reference_m2)
    kept = np.flatnonzero((share >= _PART) & inside[pairs.reference])
    kept = kept[np.lexsort((part[kept], whole[kept]))]
    starts = np.flatnonzero(np.diff(whole[kept], prepend=-1))
    groups = np.split(kept, starts[1:]) if len(kept) else []
    return [
        (int(whole[group[0]]), part[group])
        for group in groups
        if len(group) > 1 and pairs.shared_m2[group].sum() >= _PART * whole_m2[whole[group[0]]]
    ]


def _grouped(kind: str, objects: Objects, groups: list[tuple[int, np.ndarray]]) -> Iterator[Fault]:
    for whole, parts in groups:
        if kind == "merge":
            shape, areas = objects.predicted[whole], objects.pairs.reference_m2[parts]
            rows = _rows(objects.rows[0], [whole]), _rows(objects.rows[1], parts)
        else:
            shape, areas = objects.reference[whole], objects.pairs.predicted_m2[parts]
            rows = _rows(objects.rows[0], parts), _rows(objects.rows[1], [whole])
        yield Fault(kind, shape, float(areas.sum() - areas.max()), *rows)


def _poor_pairs(pairs: Overlaps, free_p: np.ndarray, free_r: np.ndarray) -> np.ndarray:
    """Indices of pairs that are one object badly outlined: of polygons without partner, the best of both."""
    iou = pairs.iou
    able = np.flatnonzero((iou >= _LEAST_IOU) & free_p[pairs.predicted] & free_r[pairs.reference])
    free_p, free_r = free_p.copy(), free_r.copy()
    chosen = []
    for pair in able[np.argsort(-iou[able], kind="stable")]:
        p, r = pairs.predicted[pair], pairs.reference[pair]
        if free_p[p] and free_r[r]:
            free_p[p] = free_r[r] = False
            chosen.append(int(pair))
    return np.array(sorted(chosen), np.intp)


def _boundaries(
    objects: Objects, poor: np.ndarray, told_p: np.ndarray, told_r: np.ndarray, boundary_m: float
) -> Iterator[Fault]:
    matching = objects.matching
    clear = ~(told_p[matching.predicted] | told_r[matching.reference])
    p = np.concatenate((matching.predicted[clear], objects.pairs.predicted[poor]))
    r = np.concatenate((matching.reference[clear], objects.pairs.reference[poor]))
    iou = np.concatenate((matching.iou[clear], objects.pairs.iou[poor]))
    first, second = objects.predicted[p], objects.reference[r]
    distance = hausdorff(first, second)
    # A pair below the threshold is a fault however near the outlines are.
    wrong = np.flatnonzero((distance > boundary_m) | (np.arange(len(p)) >= clear.sum()))
    grounds = shapely.symmetric_difference(first[wrong], second[wrong])
    for at, ground in zip(wrong, grounds, strict=True):
        rows = _rows(objects.rows[0], [p[at]]), _rows(objects.rows[1], [r[at]])
        yield Fault("boundary", ground, float(ground.area), *rows, float(iou[at]), float(distance[at]))


def _runs(
    lines: np.ndarray, others: np.ndarray, buffer_m: float, area: Geometry | None
) -> Iterator[tuple[int, Geometry]]:
    """The row of each line that strays, and the stretch."""
    pieces = Pieces.of(clipped(lines, area))
    off = pieces.nearest(others, buffer_m)[0] < 0
    joined = off[1:] & off[:-1] & (pieces.part[1:] == pieces.part[:-1])
    starts, ends = np.flatnonzero(off), np.flatnonzero(off)
    starts, ends = starts[~np.append(False, joined)[starts]], ends[~np.append(joined, False)[ends]]
    for first, last in zip(starts, ends, strict=True):
        begin, end = pieces.start_m[first], pieces.start_m[last] + pieces.length_m[last]
        if end - begin >= _LEAST_RUN_M:
            yield int(pieces.line[first]), _stretch(pieces.parts[pieces.part[first]], begin, end)


def _stretch(line: Geometry, begin: float, end: float) -> Geometry:
    """The part of a line string between two distances from its beginning, in metres."""
    points = shapely.get_coordinates(line)
    along = np.append(0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T)))
    inner = points[(along > begin + 1e-6) & (along < end - 1e-6)]
    tips = shapely.get_coordinates(shapely.line_interpolate_point(line, [begin, end]))
    return shapely.linestrings(np.concatenate((tips[:1], inner, tips[1:])))
