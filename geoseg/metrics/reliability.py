"""Reliability: how far probabilities are from the shares they claim, from a histogram of bounded size."""

from collections.abc import Sequence

import numpy as np

from geoseg.metrics.confusion import mean_known

BINS = 15
"""Bins of equal width over [0, 1]."""
FLOOR = 0.05
"""Pixels with less than this probability of a class say nothing of its calibration: there are too many of them."""


class Reliability:
    """Class-wise expected calibration error over the pixels with p > 0.05 of the class.

    ECE of class k = sum over bins b of n_b / N |mean p_k in b - share of pixels of class k in b|; N pixels in all bins.
    Source: Kull et al. 2019, arXiv:1910.12656, eq. 3 (class by class); Nixon et al. 2019, arXiv:1904.01685, section 3.2
    (a lower bound on p).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """Start at zero for these classes."""
        self.classes = tuple(classes)
        self.counts, self.hits = (np.zeros((len(self.classes), BINS), np.int64) for _ in range(2))
        self.sums = np.zeros((len(self.classes), BINS))

    def update(self, index: int, p: np.ndarray, hit: np.ndarray) -> None:
        """Count pixels.

        Args:
            index: Of the class.
            p: Its probabilities in [0, 1], floating, any shape.
            hit: bool, whether the pixel is of the class; the same shape.
        """
        above = p > FLOOR
        p, hit = p[above], hit[above]
        bins = np.minimum((p * BINS).astype(np.intp), BINS - 1)
        self.counts[index] += np.bincount(bins, minlength=BINS)
        self.hits[index] += np.bincount(bins[hit], minlength=BINS)
        self.sums[index] += np.bincount(bins, p, minlength=BINS)

    def errors(self) -> dict[str, float | None]:
        """ECE in [0, 1] of each class; None for one that is nowhere probable."""
        gaps = np.abs(self.sums - self.hits).sum(axis=1)
        pixels = self.counts.sum(axis=1)
        return {name: float(g / n) if n else None for name, g, n in zip(self.classes, gaps, pixels, strict=True)}

    def error(self) -> float | None:
        """Mean over the classes that have one."""
        return mean_known(list(self.errors().values()))
