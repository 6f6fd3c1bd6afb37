"""A tile's two files: image and target as GeoTIFFs that say where they lie, in bytes.

GDAL writes into memory and Python to the disk: a disk that is full is then an error, which GDAL does not always tell.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.io import DatasetWriter, MemoryFile

from geoseg.batches import Tile
from geoseg.config import PALETTE
from geoseg.errors import OutputError
from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.raster import door, parse_crs, same_crs
from geoseg.scene import Scene

_COLORS = {"red": ColorInterp.red, "green": ColorInterp.green, "blue": ColorInterp.blue}
_BLOCK = 256
"""Side of a block of tiles that have several."""


@dataclass(frozen=True, slots=True)
class ImageForm:
    """What all image tiles of a scene share."""

    names: tuple[str, ...]
    """Of the bands."""
    dtype: np.dtype
    """Of the pixels."""
    nodata: float | None
    """The one value of pixels without data in all bands, where the scene has such; else a mask says where they are."""

    @classmethod
    def of(cls, scene: Scene) -> "ImageForm":
        """As the scene has it."""
        values = set(map(repr, scene.nodata))
        nodata = scene.nodata[0] if len(values) == 1 else None
        if nodata is not None and not _storable(nodata, scene.dtype):
            nodata = None
        return cls(tuple(band.name for band in scene.bands), scene.dtype, nodata)

    def blank(self, shape: tuple[int, int]) -> Tile:
        """Pixels without data."""
        fill = 0 if self.nodata is None else self.nodata
        return Tile(data=np.full((len(self.names), *shape), fill, self.dtype), valid=np.zeros(shape, bool))


def _storable(value: float, dtype: np.dtype) -> bool:
    if dtype.kind == "f":
        return not math.isinf(value)
    return math.isfinite(value) and value == int(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def image_file(tile: Tile, grid: Grid, form: ImageForm) -> bytes:
    """An image tile: pixels as the scene has them; those without data by nodata value, or else by an internal mask.

    Args:
        tile: (C, h, w) pixels and where they are usable.
        grid: Of the tile.
        form: Of its scene.
    """
    data, masked = tile.data, form.nodata is None and not tile.valid.all()
    if form.nodata is not None and not tile.valid.all():
        data = data.copy()
        data[:, ~tile.valid] = form.nodata
    with MemoryFile() as file:
        with _created(file, grid, data, form.nodata) as dst:
            dst.descriptions = form.names
            # Said of every band, or GDAL takes three or four for a picture, and the fourth for its transparency.
            dst.colorinterp = [_COLORS.get(name, ColorInterp.undefined) for name in form.names]
            dst.write(data)
            if masked:
                dst.write_mask(tile.valid)
        return bytes(file.getbuffer())


def class_file(target: np.ndarray, grid: Grid, names: Sequence[str]) -> bytes:
    """A target of classes: uint8 with palette and names; 255, declared as no data, is unknown.

    Args:
        target: (h, w) uint8.
        grid: Of the tile.
        names: Of the classes by index.
    """
    colors = [PALETTE[index % len(PALETTE)] for index in range(len(names))]
    with MemoryFile() as file:
        with _created(file, grid, target[None], IGNORE, predictor=1) as dst:
            dst.descriptions = ("class",)
            dst.update_tags(GEOSEG_CLASSES=json.dumps(list(names), ensure_ascii=False))
            dst.write_colormap(1, {value: (*bytes.fromhex(color[1:]), 255) for value, color in enumerate(colors)})
            dst.colorinterp = [ColorInterp.palette]
            dst.write(target[None])
        return bytes(file.getbuffer())


def value_file(target: np.ndarray, grid: Grid) -> bytes:
    """A target of values: (h, w) float32; NaN, declared as no data, is unknown."""
    with MemoryFile() as file:
        with _created(file, grid, target[None], math.nan) as dst:
            dst.descriptions = ("value",)
            dst.write(target[None])
        return bytes(file.getbuffer())


def _created(
    file: MemoryFile, grid: Grid, data: np.ndarray, nodata: float | None, *, predictor: int | None = None
) -> DatasetWriter:
    """A GeoTIFF in memory of the size and type of `data`, compressed so that every reader can read it."""
    predictor = predictor or (3 if data.dtype.kind == "f" else 2)
    placed: dict[str, Any] = {"transform": grid.transform}
    if min(grid.shape) >= _BLOCK:
        placed |= {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK}
    else:
        placed |= {"blockysize": grid.height}
    return file.open(
        driver="GTiff", height=grid.height, width=grid.width, count=len(data), dtype=data.dtype, nodata=nodata,
        crs=parse_crs(grid.crs), compress="deflate", predictor=predictor, interleave="pixel",
        **placed,
    )  # fmt: skip


def check_storable(path: str, grid: Grid) -> None:
    """Refuse a scene whose georeference a GeoTIFF without files beside it does not keep.

    Args:
        path: Of the scene, for the message.
        grid: Of the scene.

    Raises:
        OutputError: If CRS or transform come back as others.
    """
    one = Grid((1, 1), grid.transform, grid.crs)
    with written_by_gdal(Path(path)):
        content = class_file(np.zeros((1, 1), np.uint8), one, ("", ""))
    # Opened as new: what GDAL keeps of the first file in memory beside it does not count.
    with written_by_gdal(Path(path)), MemoryFile(content) as file, file.open(driver="GTiff") as src:
        same = {
            "CRS": same_crs(src.crs, parse_crs(grid.crs)),
            "transform": np.allclose(src.transform[:6], grid.transform[:6], rtol=1e-12, atol=1e-12),
        }
    if wrong := [name for name, equal in same.items() if not equal]:
        raise OutputError(
            f"{path}: a GeoTIFF cannot hold the scene's {' and '.join(wrong)} as given. Expected a common CRS, such as "
            "one with an EPSG code. Give the scene one: gdal_edit -a_srs, or gdalwarp."
        )


def store(path: Path, content: bytes) -> None:
    """Put bytes on the disk.

    Raises:
        OutputError: If they do not fit, or the folder cannot be written.
    """
    try:
        with path.open("xb") as file:
            file.write(content)
    except OSError as err:
        raise OutputError(f"{path} cannot be written ({err.strerror}). Expected a disk with room.") from err


@contextmanager
def written_by_gdal(folder: Path) -> Iterator[None]:
    """GDAL with the settings that tiles are written by; its errors as an OutputError about `folder`."""
    with door(folder), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        yield
