"""Class raster -> polygons -> GeoPackage."""

from geoseg.vectors.classes import read_classes
from geoseg.vectors.geopackage import Vectors, vectorize_raster, write_polygons
from geoseg.vectors.layer import check_names, layer_name, write_layers
from geoseg.vectors.polygonize import polygonize

__all__ = [
    "Vectors",
    "check_names",
    "layer_name",
    "polygonize",
    "read_classes",
    "vectorize_raster",
    "write_layers",
    "write_polygons",
]
