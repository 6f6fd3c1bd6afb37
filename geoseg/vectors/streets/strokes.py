"""Strokes: streets that go straight on in each other at a node. Their widths say something of each other's."""

import numpy as np
import shapely

_SEEN_M = 15.0
"""Length of a street by which its direction at a node is told."""
_TURN = np.deg2rad(25)
"""Furthest that a stroke turns at a node."""
_SPREAD_M = 0.9
"""Standard deviation of the width of a profile, metres; those within `_ALIKE_M` of each other count as one."""
_ALIKE_M = 8.0
_CHANGE_M = 0.25
"""Standard deviation of the change of width from one street of a stroke to the next, metres."""
_OTHER = 2.0
"""Standard deviations of a difference from which on the width has changed indeed."""


def pool(lines: np.ndarray, ends: np.ndarray, width: np.ndarray, metres: np.ndarray) -> np.ndarray:
    """Widths of streets, each drawn towards those that it goes straight on in, as far as it is less sure than they are.

    Args:
        lines: (s,) shapely LineString from node to node, in metres.
        ends: (s, 2) int64 node at the first and the last point of each.
        width: (s,) float64 metres, NaN where no profile told it.
        metres: (s,) length of each over which profiles told it.

    Returns:
        (s,) float64 metres; NaN where neither a street nor one straight on is known.
    """
    variance = np.where(np.isfinite(width), _SPREAD_M**2 / np.maximum(metres / _ALIKE_M, 0.25), np.inf)
    first, second = _followers(lines, ends)
    first, second = np.concatenate([first, second]), np.concatenate([second, first])
    own = np.where(np.isfinite(width), width, 0.0)
    known = np.isfinite(width[second])
    alike = ~np.isfinite(width[first])
    both = known & ~alike
    spread = np.sqrt(variance[first[both]] + variance[second[both]] + _CHANGE_M**2)
    alike[both] = np.abs(width[first[both]] - width[second[both]]) < _OTHER * spread
    used = known & alike
    weight = 1 / (variance[second[used]] + _CHANGE_M**2)
    share = np.where(np.isfinite(variance), 1 / variance, 0.0)
    total = share + np.bincount(first[used], weight, len(lines))
    summed = share * own + np.bincount(first[used], weight * width[second[used]], len(lines))
    return np.where(total > 0, summed / np.maximum(total, 1e-12), np.nan)


def _followers(lines: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of different streets that go on in each other, the straightest at each node first, none twice there."""
    count = len(lines)
    length = shapely.length(lines)
    seen = np.minimum(_SEEN_M, length)
    tips = [shapely.get_coordinates(shapely.get_point(lines, at)) for at in (0, -1)]
    inner = [shapely.get_coordinates(shapely.line_interpolate_point(lines, far)) for far in (seen, length - seen)]
    away = np.concatenate([inner[end] - tips[end] for end in (0, 1)])
    away /= np.maximum(np.hypot(*away.T), 1e-9)[:, None]
    node = np.concatenate([ends[:, 0], ends[:, 1]])
    order = np.argsort(node, kind="stable")
    pairs: list[tuple[int, int]] = []
    for arms in np.split(order, np.flatnonzero(np.diff(node[order])) + 1):
        if len(arms) < 2:
            continue
        straight = -(away[arms] @ away[arms].T)
        straight[np.tril_indices(len(arms))] = -1
        while straight.max() > np.cos(_TURN):
            a, b = np.unravel_index(int(straight.argmax()), straight.shape)
            straight[[a, b]] = straight[:, [a, b]] = -1
            if arms[a] % count != arms[b] % count:
                pairs.append((int(arms[a]) % count, int(arms[b]) % count))
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
