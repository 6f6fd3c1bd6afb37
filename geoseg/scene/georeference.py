"""Georeference: the grid of an open raster, also of one that says nothing of where it lies."""

import rasterio.shutil
from rasterio.io import DatasetReader, MemoryFile

from geoseg.grid import IN_PIXELS, Grid


def grid_of(dataset: DatasetReader) -> Grid:
    """Shape, transform and CRS of an open raster.

    Without a transform it lies where QGIS shows it, `IN_PIXELS`: so all that is made of it lies on it there, and what
    is drawn on it there is found. Beside control points and RPCs, by which QGIS places it, the transform is the
    identity.
    """
    crs, transform = dataset.crs, dataset.transform
    if transform.is_identity and not (dataset.gcps[0] or dataset.rpcs or _has_transform(dataset)):
        transform = IN_PIXELS
    return Grid(shape=dataset.shape, transform=transform, crs=crs.to_wkt(version="WKT2_2019") if crs else None)


def _has_transform(dataset: DatasetReader) -> bool:
    """Whether the identity is stated. rasterio gives it where none is, too, and tells by a warning only.

    Warnings cannot be told apart by threads; a VRT of the raster says it as well.
    """
    with MemoryFile(ext=".vrt") as file:
        rasterio.shutil.copy(dataset, file.name, driver="VRT")
        return b"<GeoTransform>" in file.read()
