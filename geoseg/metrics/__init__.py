"""Metrics: sums over pixels that are gathered window by window, and the figures that follow from them."""

from geoseg.metrics.confusion import IGNORE, ClassScores, ConfusionMatrix, Scores, mean_known
from geoseg.metrics.labels import LabelCounts, LabelScores
from geoseg.metrics.reliability import Reliability
from geoseg.metrics.tiles import TileScore, read_tiles, write_tiles
from geoseg.metrics.values import ValueErrors, ValueScores

__all__ = [
    "IGNORE",
    "ClassScores",
    "ConfusionMatrix",
    "LabelCounts",
    "LabelScores",
    "Reliability",
    "Scores",
    "TileScore",
    "ValueErrors",
    "ValueScores",
    "mean_known",
    "read_tiles",
    "write_tiles",
]
