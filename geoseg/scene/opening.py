"""What GDAL is told: names, formats and blocks are looked at before it may decide, and its errors are translated."""

import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import Interleaving
from rasterio.errors import CRSError, RasterioError
from rasterio.io import DatasetReader

from geoseg.errors import GeosegError, SceneError

_DRIVERS = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
}
"""First bytes of a file -> GDAL driver. A file is read by its content, and by these drivers only: others (VRT, HFA,
MEM) name further files, or memory, to read, and VRT can run code."""

_ACCEPTED = "Expected a GeoTIFF, JPEG 2000, PNG or JPEG file"
_REMOTE = re.compile(r"(https?|s3|gs|az)://|/vsi(curl|s3|gs|az)/")

_MAX_BLOCK_BYTES = 512 << 20
"""A block is decoded whole: a file with larger ones would break the promise of bounded memory."""
_CACHE_PIXELS = 8 << 20
"""GDAL's block cache holds the blocks under one tile, so that the halo shared with the next tile is decoded once."""
_STRIP_CACHE_BYTES = 256 << 20
"""For scenes in strips across the whole width, of which every tile in a row of tiles needs a part."""
_MIN_STRIP_WIDTH = 1024

_GDAL = {
    "GDAL_NUM_THREADS": "1",
    "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",  # masks, world files and .aux.xml beside the scene belong to it
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",  # or half a JPEG is read as grey
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # or half a PNG is read as noise
}
_GDAL_REMOTE = {
    **_GDAL,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing of the server, no requests for files beside it
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",  # seconds for a request; GDAL waits for ever by default
    "GDAL_HTTP_LOW_SPEED_TIME": "10",  # seconds in which less than a hundred bytes a second came
    "GDAL_HTTP_LOW_SPEED_LIMIT": "100",
    "GDAL_HTTP_MAX_RETRY": "2",
    "GDAL_HTTP_RETRY_DELAY": "1",
}


def is_remote(path: str) -> bool:
    """Whether a name is a URL, which is opened as a GeoTIFF, rather than a file."""
    return _REMOTE.match(path) is not None


def driver_for(path: str) -> str:
    """The driver for a file that exists and is an ordinary one. GDAL has not seen the name when this refuses it.

    Raises:
        SceneError: If the file is none, or of no accepted format.
    """
    if not path:
        raise SceneError(f"scene='' is an empty name. {_ACCEPTED}.")
    try:
        mode, start = Path(path).stat().st_mode, b""
        if stat.S_ISREG(mode):
            with Path(path).open("rb") as file:
                start = file.read(32)
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or err
        raise SceneError(f"{path} cannot be opened ({reason}). {_ACCEPTED}.") from err
    if not stat.S_ISREG(mode):
        raise SceneError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no ordinary file'}. {_ACCEPTED}.")
    for magic, driver in _DRIVERS.items():
        if start.startswith(magic):
            return driver
    if not start:
        raise SceneError(f"{path} cannot be read: it is empty. {_ACCEPTED}.")
    if b"<VRT" in start:
        raise SceneError(
            f"{path} is a VRT, which can name any file. {_ACCEPTED}. Make one: gdal_translate {path} scene.tif."
        )
    raise SceneError(f"{path} cannot be read: its format is not supported. {_ACCEPTED}.")


def options_for(remote: bool) -> dict[str, str]:
    """GDAL's settings while opening; for remote files those of the environment win."""
    return {name: os.environ.get(name, value) for name, value in _GDAL_REMOTE.items()} if remote else _GDAL


def reading_options(path: str, dataset: DatasetReader) -> dict[str, Any]:
    """GDAL's settings while reading: those of opening, and a block cache fit for the scene's layout."""
    block = _block_bytes(dataset)
    pixel = block // math.prod(dataset.block_shapes[0])
    strips = dataset.block_shapes[0][1] == dataset.width > _MIN_STRIP_WIDTH
    cache = max(_STRIP_CACHE_BYTES if strips else min(_CACHE_PIXELS * pixel, _STRIP_CACHE_BYTES), 2 * block)
    return {**options_for(is_remote(path)), "GDAL_CACHEMAX": cache}


def _block_bytes(dataset: DatasetReader) -> int:
    """Bytes decoded at once: a block of all bands where they are interleaved by pixel."""
    rows, cols = dataset.block_shapes[0]
    together = dataset.count if dataset.interleaving is Interleaving.pixel else 1
    return rows * cols * together * np.dtype(dataset.dtypes[0]).itemsize


def check_blocks(path: str, dataset: DatasetReader) -> None:
    """Refuse a scene that can only be read whole, or nearly.

    Raises:
        SceneError: If its blocks are larger than bounded memory allows.
    """
    if (size := _block_bytes(dataset)) > _MAX_BLOCK_BYTES:
        rows, cols = dataset.block_shapes[0]
        raise SceneError(
            f"{path} is too large to be read in parts: it is stored in blocks of {cols}x{rows} pixels, "
            f"{size >> 20} MiB each. Expected at most {_MAX_BLOCK_BYTES >> 20} MiB. "
            f"Rewrite it: gdal_translate -of COG {path} scene.tif."
        )


@contextmanager
def door(path: str, problem: str, options: dict[str, Any]) -> Iterator[None]:
    """GDAL with our settings; its errors and the system's, and names that GDAL cannot be told, as one SceneError."""
    try:
        with rasterio.Env(**options):
            yield
    except GeosegError:
        raise
    except (RasterioError, CPLE_BaseError, CRSError, OSError, UnicodeError, MemoryError) as err:
        # rasterio says "Read failed. See previous exception for details."; what GDAL said is its cause.
        words = " ".join(str(err.__cause__ or err).split()).rstrip(".") or type(err).__name__
        raise SceneError(f"{path} {problem} ({words}). Expected a complete, undamaged file.") from err
