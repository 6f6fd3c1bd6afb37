"""Cuts between the pieces of a patch: those that are no walls are mended."""

from heapq import heapify, heappop, heappush

import numpy as np

from geoseg.vectors.cores import ODDS

LIMIT = 2.1
"""Mean log-odds along a cut, plus its crookedness, from which on it is no wall."""
LARGE_M2, STEEP = 150.0, 2.4
"""Smaller buildings need darker walls: the limit falls by this much when what lies on both sides is e times smaller.

Of 62 m2 together, a wall is less than even; below about 47 m2 nothing is cut, a third being the least of three classes.
"""
BRIGHT, FALL = 0.9, 0.2
"""Of a piece's pixels so large a share is no brighter than its bright part, which a wall lies below by so much."""
CROOKED = 0.6
"""What a pixel of crookedness counts, in log-odds."""
_SMALL = 1e6


def mended(pieces: np.ndarray, probability: np.ndarray, *, least: int, pixel_m2: float) -> np.ndarray:
    """Pieces, those made one between which there is no wall.

    Where there is a wall the probability falls all along the cut, and the cut is straight. A roof that is brighter here
    and darker there is cut where it is almost as sure as elsewhere, along a crooked line. A small patch is rather one
    house than two, and an unsure roof is not cut where it is no less sure. The least likely cut is mended first; what
    is then left of its neighbours is judged again.

    Args:
        pieces: (h, w) int 1, 2, ...; 0 outside.
        probability: (h, w) uint8.
        least: Pixels of a piece, at least; smaller ones join a neighbour in any case.
        pixel_m2: Area of a pixel on the ground.

    Returns:
        (h, w) int32 pieces 1, 2, ... in the order of the first ones they are made of.
    """
    size = np.bincount(pieces.ravel()).astype(np.float64)
    cuts = _cuts(pieces, probability)
    near: list[set[int]] = [set() for _ in size]
    for i, j in cuts:
        near[i].add(j)
        near[j].add(i)
    into = np.arange(len(size))
    large = LARGE_M2 / pixel_m2
    shares = np.bincount(pieces.ravel() * 256 + probability.ravel(), minlength=256 * len(size)).reshape(-1, 256)
    bright = [_bright(row) for row in shares]

    def doubt(i: int, j: int) -> float:
        """How unlike a wall the cut between two pieces is, in log-odds; 0 or less where it is one."""
        if min(size[i], size[j]) < least:
            return _SMALL + _doubt(cuts[i, j])
        limit = LIMIT - STEEP * max(np.log(large / (size[i] + size[j])), 0.0)
        return _doubt(cuts[i, j]) - min(limit, bright[i] - FALL, bright[j] - FALL)

    heap = [(-doubt(i, j), i, j) for i, j in cuts]
    heapify(heap)
    while heap:
        found, i, j = heappop(heap)
        if found >= 0:
            break
        if (i, j) not in cuts or found != -doubt(i, j):
            continue  # of pieces that have changed since
        del cuts[i, j]
        into[j] = i
        before = bright[i]
        shares[i] += shares[j]
        bright[i] = _bright(shares[i])
        anew = size[i] < max(least, large) or bright[i] != before
        size[i] += size[j]
        near[j].discard(i)
        near[i].discard(j)
        for other in sorted(near[j]):
            kept = (min(i, other), max(i, other))
            cuts[kept] = cuts.get(kept, 0) + cuts.pop((min(j, other), max(j, other)))
            near[other].discard(j)
            near[other].add(i)
        near[i] |= near[j]
        # The others are judged as before.
        for other in sorted(near[i] if anew else near[j]):
            pair = (min(i, other), max(i, other))
            heappush(heap, (-doubt(*pair), *pair))
    while (into[into] != into).any():
        into = into[into]
    _, numbers = np.unique(into, return_inverse=True)
    joined: np.ndarray = numbers.astype(np.int32)[pieces]
    return joined


def _cuts(pieces: np.ndarray, probability: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """All cuts by the two pieces they lie between, the smaller number first.

    Of each (7,) float64: steps across it, the sum of their log-odds, and the sums of x, y, xx, yy and xy.
    """
    odds = ODDS[probability]
    grid: np.ndarray = np.indices(pieces.shape, dtype=np.float64)
    rows, cols = grid
    parts = []
    for one, two in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        cut = (pieces[one] != pieces[two]) & (pieces[one] > 0) & (pieces[two] > 0)
        a, b = pieces[one][cut], pieces[two][cut]
        x, y = (cols[one][cut] + cols[two][cut]) / 2, (rows[one][cut] + rows[two][cut]) / 2
        lower = np.minimum(odds[one][cut], odds[two][cut])
        parts.append(np.stack([np.minimum(a, b), np.maximum(a, b), np.ones(len(x)), lower, x, y, x * x, y * y, x * y]))
    values = np.concatenate(parts, axis=1)
    pairs, of = np.unique(values[:2].astype(np.int64), axis=1, return_inverse=True)
    sums: np.ndarray = np.stack([np.bincount(of.ravel(), row, pairs.shape[1]) for row in values[2:]], axis=1)
    return {(i, j): cut for (i, j), cut in zip(pairs.T.tolist(), sums, strict=True)}


def _bright(shares: np.ndarray) -> float:
    """Log-odds that a tenth of a piece reaches, of which `shares` counts the pixels of each stored probability."""
    total = shares.cumsum()
    return float(ODDS[np.searchsorted(total, BRIGHT * total[-1])])


def _doubt(cut: np.ndarray) -> float:
    """Mean log-odds along a cut, and its crookedness."""
    odds, x, y, xx, yy, xy = (cut[1:] / cut[0]).tolist()
    xx, yy, xy = xx - x * x, yy - y * y, xy - x * y
    across = (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy)
    return float(odds + CROOKED * np.sqrt(max(across, 0.0)))
