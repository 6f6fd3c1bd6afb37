"""Class raster -> polygons -> GeoPackage."""

from geoseg.vectors.classes import read_classes
from geoseg.vectors.layer import check_names, layer_name, write_layers
from geoseg.vectors.polygonize import polygonize

__all__ = ["check_names", "layer_name", "polygonize", "read_classes", "write_layers"]
