"""Class raster -> buildings, streets and areas -> layers in a GeoPackage, or another format."""

from geoseg.vectors.classes import read_classes
from geoseg.vectors.formats import vector_files, write_vectors
from geoseg.vectors.layer import check_names, layer_name, write_layers
from geoseg.vectors.options import OutlineOptions
from geoseg.vectors.polygonize import polygonize
from geoseg.vectors.spooled import SpoolPlanes
from geoseg.vectors.vectorize import Outlining, Vectors, check_review, vectorize_raster, write_features

__all__ = [
    "OutlineOptions",
    "Outlining",
    "SpoolPlanes",
    "Vectors",
    "check_names",
    "check_review",
    "layer_name",
    "polygonize",
    "read_classes",
    "vector_files",
    "vectorize_raster",
    "write_features",
    "write_layers",
    "write_vectors",
]
