"""Endings: what a name says of the format that is written, told before what writes it is imported."""

from pathlib import Path

from geoseg.errors import UsageError

RASTERS = (".tif", ".tiff")
"""Of names that a raster is written under."""
VECTORS = (".gpkg", ".fgb", ".geojson", ".json", ".parquet", ".shp")
"""Of names that layers are written under."""


def check_raster_ending(path: Path) -> str:
    """The ending of a name in lower case.

    Raises:
        UsageError: If it is not that of a GeoTIFF.
    """
    ending = path.suffix.lower()
    if ending not in RASTERS:
        raise UsageError(
            f"{path} is to hold a GeoTIFF. Expected a name that ends in {' or '.join(RASTERS)}. "
            f"Try {path.with_suffix('.tif') if path.name else path / 'labels.tif'}."
        )
    return ending


def check_vector_ending(path: Path) -> str:
    """The ending of a name in lower case.

    Raises:
        UsageError: If no format of vectors has it.
    """
    ending = path.suffix.lower()
    if ending not in VECTORS:
        raise UsageError(
            f"{path} is to hold vectors. Expected a name that ends in {', '.join(VECTORS[:-1])} or {VECTORS[-1]}. "
            f"Try {path.stem}.gpkg."
        )
    return ending
