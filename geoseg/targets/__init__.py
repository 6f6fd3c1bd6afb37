"""Targets from vector files: polygons and lines with classes, burnt onto a grid window by window."""

from geoseg.targets.burning import PixelPolygons
from geoseg.targets.files import InvalidGeometry, is_vector_file
from geoseg.targets.labels import LabelledArea, VectorLabels, labelled_area, read_labels

__all__ = [
    "InvalidGeometry",
    "LabelledArea",
    "PixelPolygons",
    "VectorLabels",
    "is_vector_file",
    "labelled_area",
    "read_labels",
]
