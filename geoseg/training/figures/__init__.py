"""Figures of a run as PNG files: augmented samples, curves, confusion, validation windows, runs side by side.

Classes are given as a mapping of names to colours in the order of their indices, such as
`dict(zip(config.class_names, config.class_colors))`. Arrays may be numpy's, or torch's on the CPU.
"""

from geoseg.training.figures.curves import curves
from geoseg.training.figures.intervals import Interval, compare_figure
from geoseg.training.figures.matrix import confusion
from geoseg.training.figures.sheets import Shown, contact_sheet, samples

__all__ = ["Interval", "Shown", "compare_figure", "confusion", "contact_sheet", "curves", "samples"]
