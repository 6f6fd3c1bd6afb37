"""Value metrics: what predicted numbers are off by."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from geoseg.errors import ShapeError
from geoseg.metrics.confusion import ratio


@dataclass(frozen=True, slots=True)
class ValueScores:
    """Errors of predicted values; the error of a pixel is predicted - target. None without pixels."""

    rmse: float | None
    """Root of the mean square error, in the values' unit."""
    mae: float | None
    """Mean of the absolute error, in the values' unit."""
    bias: float | None
    """Mean error, in the values' unit: above 0 where predictions are too high."""
    r2: float | None
    """1 - squared errors / squared deviations of the target from its mean, at most 1; 0 is what the target's mean would
    reach everywhere. None where the target is one value throughout.

    Source: Kvalseth 1985, doi:10.1080/00031305.1985.10479448, R1 squared.
    """
    target_mean: float | None
    """Of the target's scored pixels."""
    target_std: float | None
    """Standard deviation of the target's scored pixels."""
    pixels: int
    """Pixels with a target and a prediction: all that the figures rest on."""
    ignored: int
    """Pixels without target."""
    unpredicted: int
    """Pixels with a target but no prediction; in no figure."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON, None where a figure is not to be had."""
        return asdict(self)

    def table(self) -> str:
        """Aligned text, a line for each figure."""
        figures = {
            "RMSE": self.rmse,
            "MAE": self.mae,
            "bias": self.bias,
            "R2": self.r2,
            "target mean": self.target_mean,
            "target deviation": self.target_std,
        }
        texts = {name: ratio(value) for name, value in figures.items()}
        width = max(map(len, texts.values()))
        lines = [f"{name:<16}  {text:>{width}}" for name, text in texts.items()]
        tail = f"{self.pixels} pixels scored, {self.ignored} without truth, {self.unpredicted} without prediction"
        return "\n".join([*lines, "", tail])


class ValueErrors:
    """Sums over any number of windows, from which the errors of all pixels follow.

    The deviations of the target are merged as means and squares about the mean, which heights above the sea far larger
    than their differences do not spoil. Source: Chan et al. 1983, doi:10.1080/00031305.1983.10483115, eq. 2.1.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.pixels = self.ignored = self.unpredicted = 0
        self.error = self.absolute = self.square = self.mean = self.deviation = 0.0

    def update(self, target: np.ndarray, predicted: np.ndarray) -> None:
        """Count pixels.

        Args:
            target: Numbers, NaN for pixels that count nowhere; any shape, also empty.
            predicted: Numbers, NaN for pixels without prediction; the same shape.

        Raises:
            ShapeError: If the shapes differ. Nothing is counted then.
        """
        if target.shape != predicted.shape:
            raise ShapeError(f"target of shape {target.shape} and prediction of {predicted.shape}. Expected the same.")
        known, there = np.isfinite(target), np.isfinite(predicted)
        both = known & there
        truth = target[both].astype(np.float64)
        error = predicted[both] - truth
        self.ignored += int(known.size - known.sum())
        self.unpredicted += int((known & ~there).sum())
        if not truth.size:
            return
        self.error += float(error.sum())
        self.absolute += float(np.abs(error).sum())
        self.square += float(np.square(error).sum())
        mean = float(truth.mean())
        self._spread(truth.size, mean, float(np.square(truth - mean).sum()))

    def merge(self, other: "ValueErrors") -> None:
        """Add the sums of other pixels."""
        for name in ("ignored", "unpredicted", "error", "absolute", "square"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.pixels:
            self._spread(other.pixels, other.mean, other.deviation)

    def _spread(self, pixels: int, mean: float, deviation: float) -> None:
        """Take in the target's mean and squared deviations of some more pixels."""
        total, step = self.pixels + pixels, mean - self.mean
        self.deviation += deviation + step * step * self.pixels * pixels / total
        self.mean += step * pixels / total
        self.pixels = total

    def scores(self) -> ValueScores:
        """All figures."""
        n = self.pixels
        return ValueScores(
            rmse=(self.square / n) ** 0.5 if n else None,
            mae=self.absolute / n if n else None,
            bias=self.error / n if n else None,
            r2=1 - self.square / self.deviation if self.deviation > 0 else None,
            target_mean=self.mean if n else None,
            target_std=(self.deviation / n) ** 0.5 if n else None,
            pixels=n,
            ignored=self.ignored,
            unpredicted=self.unpredicted,
        )
