"""Splits: which labelled ground is held back for validation, and how far it lies from what is learnt."""

from geoseg.splits.audit import Distance, Place, audit, ground_boxes
from geoseg.splits.frame import Blocks, Survey, split_frame, subtract
from geoseg.splits.tiles import split_groups, split_tiles

__all__ = [
    "Blocks",
    "Distance",
    "Place",
    "Survey",
    "audit",
    "ground_boxes",
    "split_frame",
    "split_groups",
    "split_tiles",
    "subtract",
]
