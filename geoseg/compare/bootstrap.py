"""The bootstrap over tiles: how far a score might have been off, had other tiles of the same kind been held back.

Whole tiles are drawn with replacement, as many as there are; their confusion matrices are summed, and the score is
taken of the sum, as it is of all tiles. The interval runs from the 2.5th to the 97.5th percentile of that.

What it says: how much of a score, or of the difference of two runs, may be left to the choice of these tiles. Runs are
compared on the same draws, tile by tile, so that hard tiles are hard for both: a paired interval is narrower than two
intervals suggest, and where it leaves 0 out, the order of the two runs does not hang on the choice of tiles.

What it does not say: how a training with another seed would have ended; how the model does in another city, season or
sensor. Tiles of one scene are not independent, as neighbours share light, roofs and labelling habits: intervals are
too narrow, the more so the fewer scenes there are. With few tiles the percentiles reach not far enough either: in the
simulation of independent tiles in tests/test_compare.py, intervals of 5, 20, 60 and 200 tiles hold the truth in 80, 90,
93 and 94 % of the cases.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, sections 13.3 (percentiles) and 6.4 (units drawn
whole).
"""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
"""Percentiles at the ends of the interval are then known to about a fifth of a standard error."""
SEED = 0
FEW = 20
"""Tiles below which an interval is said to be too narrow."""
_AT_ONCE = 1 << 22
"""Weights in memory at a time."""
_KNOWN = 0.9
"""Share of the resamples that must have a score, for instance hold the class at all, for there to be an interval."""

BY_CLASS = ("iou", "f1", "precision", "sensitivity", "specificity")
"""Scores of one class."""
OVERALL = ("accuracy", "kappa", "iou_mean")
"""Scores of all classes together."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score and the 95 % interval of its bootstrap."""

    value: float
    """On all tiles."""
    low: float | None
    """None where there is no interval: with one tile, or where too many resamples have no score."""
    high: float | None
    """As `low`."""

    @property
    def ends(self) -> tuple[float, float]:
        """The interval; the score itself where there is none."""
        if self.low is None or self.high is None:
            return self.value, self.value
        return self.low, self.high

    @property
    def decided(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low is not None and not self.ends[0] <= 0 <= self.ends[1]


def figures(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """Every score of some confusion matrices, as `geoseg.metrics` defines them.

    Args:
        matrices: (..., K, K) counts, row = target, column = predicted; K at least 2.

    Returns:
        By name: of `BY_CLASS` (..., K), of `OVERALL` (...). `iou_mean` is over the classes after the first. NaN for
        what cannot be had: a class that is not there has no IoU, F1 or sensitivity.
    """
    counts = np.asarray(matrices, np.float64)
    support, predicted, hits = counts.sum(-1), counts.sum(-2), np.diagonal(counts, axis1=-2, axis2=-1)
    total = support.sum(-1, keepdims=True)
    there = support > 0
    iou = _ratio(np.where(there, hits, np.nan), support + predicted - hits)
    right, chance = hits.sum(-1), (support * predicted).sum(-1)
    square = np.square(total[..., 0])
    some = np.isfinite(iou[..., 1:])
    return {
        "iou": iou,
        "f1": _ratio(np.where(there, 2 * hits, np.nan), support + predicted),
        "precision": _ratio(hits, predicted),
        "sensitivity": _ratio(hits, support),
        "specificity": _ratio(total - support - predicted + hits, total - support),
        "accuracy": _ratio(right, total[..., 0]),
        "kappa": _ratio(right * total[..., 0] - chance, square - chance),
        "iou_mean": _ratio(np.where(some, iou[..., 1:], 0).sum(-1), some.sum(-1)),
    }


def resample(matrices: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Sums over tiles drawn with replacement, the same tiles for every run.

    Args:
        matrices: (R, T, K, K) counts of R runs on T tiles, T at least 1.
        resamples: How many.
        seed: Of the draws.

    Returns:
        (R, resamples, K, K) float64, whole numbers.
    """
    runs, tiles, classes, _ = matrices.shape
    flat = np.moveaxis(matrices, 0, 1).reshape(tiles, -1).astype(np.float64)
    chance, even = np.random.default_rng(seed), np.full(tiles, 1 / tiles)
    step = max(1, _AT_ONCE // tiles)
    sums = [
        chance.multinomial(tiles, even, size=min(step, resamples - start)).astype(np.float64) @ flat
        for start in range(0, resamples, step)
    ]
    return np.moveaxis(np.concatenate(sums).reshape(resamples, runs, classes, classes), 1, 0)


def estimate(value: float, draws: np.ndarray) -> Estimate | None:
    """A score with its interval; None where the score itself is NaN.

    Args:
        value: On all tiles.
        draws: (B,) the same of each resample; NaN where it has none.
    """
    if not np.isfinite(value):
        return None
    known = draws[np.isfinite(draws)]
    if not known.size or known.size < _KNOWN * draws.size:
        return Estimate(float(value), None, None)
    low, high = np.percentile(known, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
