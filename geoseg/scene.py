"""Scene: the only raster reader. Bands, valid pixels, windowed reads, local and remote.

A file is opened by what its first bytes are, with the one driver for it: GDAL's own choice would follow a VRT to any
file of the machine, and read `GTIFF_DIR:1:x` as something other than a name.
"""

import json
import logging
import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, RasterioError
from rasterio.rpc import RPC
from rasterio.windows import Window as RasterioWindow

from geoseg.batches import Tile
from geoseg.checkpoint import ClassInfo
from geoseg.errors import BandError, SceneError, UsageError
from geoseg.grid import Grid
from geoseg.windows import Window

log = logging.getLogger(__name__)

CLASSES_TAG = "GEOSEG_CLASSES"
"""Tag of a class raster: names and colours by value, as a JSON list of objects."""

_FORMATS = "GeoTIFF, JPEG 2000, PNG, JPEG, WebP or Erdas Imagine"
_MAGIC = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG",
    b"\xffO\xffQ": "JP2OpenJPEG",
    b"EHFA_HEADER_TAG": "HFA",
    b"RIFF": "WEBP",
}
"""First bytes of a file -> the driver that may open it."""
_REMOTE_DRIVERS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG")
_REMOTE = ("http://", "https://", "s3://", "gs://", "az://", "/vsicurl/", "/vsis3/", "/vsigs/", "/vsiaz/")
_MAX_BLOCK_BYTES = 512 << 20
"""A block is decoded whole, whatever the window: larger ones are refused, or memory would not be bounded."""
_COLORS = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}
_ENV = {
    "GDAL_CACHEMAX": 128 << 20,
    # Damaged JPEG data is an error, not a grey area.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": None,
}
_OPEN_ERRORS = (RasterioError, CPLE_BaseError, OSError, ValueError, TypeError)


@dataclass(frozen=True, slots=True)
class Band:
    """One data band of a scene."""

    index: int
    """From 1, as GDAL and QGIS count."""
    name: str
    """red, green, blue by colour interpretation; else the band's description; else band_<index>."""


@dataclass(frozen=True, slots=True)
class GroundControl:
    """What places a scene on the ground beside, or instead of, its transform."""

    gcps: tuple[GroundControlPoint, ...] = ()
    """Ground control points."""
    gcps_crs: str | None = None
    """Their CRS as WKT."""
    rpcs: RPC | None = None
    """Rational polynomial coefficients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSource:
    """All that is needed to open the same scene again, elsewhere; picklable and hashable."""

    path: str
    """Absolute path or URL."""
    bands: tuple[int, ...]
    """Band numbers, from 1, in the order they are read."""
    nodata: float | None = None
    """Overrides the declared nodata value."""

    def open(self) -> "Scene":
        """The scene, for one thread."""
        return Scene.open(self.path, bands=self.bands, nodata=self.nodata)

    def fingerprint(self) -> dict[str, Any]:
        """What tells this file from a later one, and these bands from others: JSON, without the path."""
        info = None if self.is_remote else Path(self.path).stat()
        with self.open() as scene:
            return {
                "size": info and info.st_size,
                "mtime_ns": info and info.st_mtime_ns,
                "shape": list(scene.grid.shape),
                "transform": list(scene.grid.transform)[:6],
                "crs": scene.grid.crs,
                "dtype": str(scene.dtype),
                "bands": list(self.bands),
                "nodata": self.nodata,
            }

    @property
    def is_remote(self) -> bool:
        """Whether reading it can fail for a while and succeed later."""
        return is_remote(self.path)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL or one of GDAL's network paths."""
    return os.fspath(path).startswith(_REMOTE)


class Scene:
    """A raster open for reading: a context manager, to be used by one thread at a time."""

    def __init__(
        self, dataset: rasterio.DatasetReader, path: str, bands: tuple[Band, ...], nodata: float | None
    ) -> None:
        """Use `Scene.open`."""
        self._dataset = dataset
        self.path = path
        self.bands = bands
        """The bands that are read, in order."""
        self.grid = Grid(shape=dataset.shape, transform=dataset.transform, crs=_wkt(dataset.crs))
        """Shape, transform and CRS."""
        self.dtype = np.dtype(dataset.dtypes[bands[0].index - 1])
        """Pixel type."""
        self.source = SceneSource(path=path, bands=tuple(band.index for band in bands), nodata=nodata)
        """How to open it again."""
        self._valid = _ValidPixels.of(dataset, self.source)
        self._indexes = [*self.source.bands, *self._valid.extra_bands]

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, bands: Sequence[int | str] | None = None, nodata: float | None = None
    ) -> Self:
        """Open a raster.

        Args:
            path: A file, or a URL (http, https, s3, gs, az).
            bands: Numbers (from 1) or names, in the order to read them; by default all but alpha.
            nodata: Value of pixels without data, instead of what the file declares. A pixel is without data when all
                bands have the value.

        Raises:
            SceneError: If it is missing, no regular file, of no accepted format, damaged, or too coarsely blocked.
            BandError: If a band does not exist or cannot be used.
            UsageError: If no pixel of the scene's type can have the nodata value.
        """
        name = os.fspath(path)
        where, drivers = (name, _REMOTE_DRIVERS) if is_remote(name) else _inspect(name)
        dataset = _open(name, where, drivers)
        try:
            _check_blocks(name, dataset)
            chosen = _choose(name, _data_bands(dataset), dataset.count, bands)
            _check_types(name, dataset, chosen)
            if nodata is not None and _as_pixel(nodata, np.dtype(dataset.dtypes[chosen[0].index - 1])) is None:
                raise UsageError(
                    f"--nodata {nodata:g} cannot occur in {name} ({dataset.dtypes[0]}). Expected a value that can."
                )
            return cls(dataset, where, chosen, nodata)
        except BaseException:
            dataset.close()
            raise

    def read(self, window: Window) -> Tile:
        """The pixels of a window inside the scene.

        A pixel is valid unless the nodata tag (all bands have the value), the alpha band (0), the file's mask, or a
        value that is not finite says otherwise.

        Raises:
            SceneError: If a block cannot be read: the file is damaged, or the network does not answer.
        """
        try:
            with rasterio.Env(**_ENV):
                box = RasterioWindow(window.col, window.row, window.width, window.height)
                data = self._dataset.read(self._indexes, window=box)
                mask = self._dataset.read_masks(self.source.bands[0], window=box) if self._valid.from_mask else None
        except _OPEN_ERRORS as err:
            raise SceneError(
                f"{self.path} cannot be read at rows {window.row} to {window.stop_row - 1}, columns {window.col} to "
                f"{window.stop_col - 1} ({_words(err)}): a damaged or missing block. Expected a complete file. Fetch it again."
            ) from err
        count = len(self.bands)
        return Tile(data=data[:count], valid=self._valid(data[:count], data[count:], mask))

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Names and colours by value, where the raster is a class raster that geoseg wrote; else empty."""
        try:
            listed = json.loads(self._dataset.tags().get(CLASSES_TAG, "[]"))
            return tuple(ClassInfo(**item) for item in listed)
        except (ValueError, TypeError):
            return ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by value; empty where there are none."""
        return tuple(item.name for item in self.classes)

    @property
    def control(self) -> GroundControl:
        """Ground control points and RPCs, to be carried to the outputs."""
        gcps, crs = self._dataset.gcps
        return GroundControl(gcps=tuple(gcps), gcps_crs=_wkt(crs), rpcs=self._dataset.rpcs)

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _ValidPixels:
    """How a scene's valid pixels are told, decided once."""

    nodata: np.generic | None
    """In the bands' type; all bands must have it."""
    extra_bands: tuple[int, ...]
    """Alpha, read along with the data."""
    from_mask: bool
    """Whether the file has a mask of its own."""
    floating: bool

    @classmethod
    def of(cls, dataset: rasterio.DatasetReader, source: SceneSource) -> "_ValidPixels":
        dtype = np.dtype(dataset.dtypes[source.bands[0] - 1])
        if source.nodata is not None:
            return cls(_as_pixel(source.nodata, dtype), (), False, dtype.kind == "f")
        declared = dataset.nodatavals[source.bands[0] - 1]
        alpha = tuple(
            index
            for index, color in zip(dataset.indexes, dataset.colorinterp, strict=True)
            if color == ColorInterp.alpha and dataset.dtypes[index - 1] == str(dtype)
        )
        flags = dataset.mask_flag_enums[source.bands[0] - 1]
        from_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        return cls(None if declared is None else _as_pixel(declared, dtype), alpha[:1], from_mask, dtype.kind == "f")

    def __call__(self, data: np.ndarray, extra: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """(H, W) bool, True = usable, for (C, H, W) data, the extra bands and the file's mask (H, W)."""
        valid = np.ones(data.shape[1:], bool)
        if self.floating:
            valid &= np.isfinite(data).all(axis=0)
        if self.nodata is not None and self.nodata == self.nodata:  # NaN is told by its not being finite
            valid &= (data != self.nodata).any(axis=0)
        if len(extra):
            valid &= extra[0] != 0
        if mask is not None:
            valid &= mask != 0
        return valid


def _inspect(name: str) -> tuple[str, tuple[str, ...]]:
    """Absolute path and driver of a local file, by its first bytes, before GDAL hears of it."""
    path = os.path.abspath(name)  # noqa: PTH100  Path.resolve would follow links, and the name should stay the user's
    try:
        info = os.stat(path)  # noqa: PTH116
        if stat.S_ISDIR(info.st_mode):
            raise SceneError(f"{name} is a folder. Expected a raster file.")
        if not stat.S_ISREG(info.st_mode):
            raise SceneError(f"{name} is not a regular file. Expected a raster file.")
        with open(path, "rb") as file:  # noqa: PTH123
            start = file.read(16)
    except (OSError, ValueError) as err:
        if isinstance(err, SceneError):
            raise
        raise SceneError(
            f"{name} cannot be read ({getattr(err, 'strerror', None) or err}). Expected a raster file."
        ) from err
    if not start:
        raise SceneError(f"{name} is empty: not a valid raster. Expected {_FORMATS}.")
    for magic, driver in _MAGIC.items():
        if start.startswith(magic):
            return path, (driver,)
    kind = " (a VRT can refer to any file)" if start.lstrip().startswith(b"<VRT") else ""
    raise SceneError(f"{name} is of an unsupported format{kind}. Expected {_FORMATS}. Convert it with gdal_translate.")


def _open(name: str, where: str, drivers: tuple[str, ...]) -> rasterio.DatasetReader:
    error: Exception | None = None
    for driver in drivers:
        try:
            with rasterio.Env(**_ENV):
                # A Path is not parsed for schemes, query strings or option-like names.
                return rasterio.open(where if is_remote(where) else Path(where), driver=driver)
        except _OPEN_ERRORS as err:
            error = error or err
    raise SceneError(f"{name} cannot be opened ({_words(error)}): damaged, or not what its name says.") from error


def _words(err: BaseException | None) -> str:
    """The innermost message: rasterio's own says only where to look."""
    while err and err.__cause__:
        err = err.__cause__
    return " ".join(str(err).split())[:200]


def _data_bands(dataset: rasterio.DatasetReader) -> tuple[Band, ...]:
    bands = zip(dataset.indexes, dataset.colorinterp, dataset.descriptions, strict=True)
    return tuple(
        Band(index, _COLORS.get(color) or description or f"band_{index}")
        for index, color, description in bands
        if color != ColorInterp.alpha
    )


def _choose(name: str, bands: tuple[Band, ...], count: int, wanted: Sequence[int | str] | None) -> tuple[Band, ...]:
    if wanted is None:
        if not bands:
            raise BandError(f"{name} has no band but alpha. Expected at least one data band.")
        return bands
    by_index = {band.index: band for band in bands} | {
        index: Band(index, "alpha") for index in range(1, count + 1) if index not in {b.index for b in bands}
    }
    by_name = {band.name.lower(): band for band in reversed(bands)}
    chosen = [by_index.get(key) if isinstance(key, int) else by_name.get(key.lower()) for key in wanted]
    for key, band in zip(wanted, chosen, strict=True):
        if band is None:
            listed = ", ".join(f"{b.index} {b.name}" for b in bands[:12])
            raise BandError(f"{name} has no band {key!r}. Expected of: {listed}.")
    if not chosen:
        raise BandError(f"{name}: no bands chosen. Expected at least one.")
    return tuple(band for band in chosen if band)


def _check_types(name: str, dataset: rasterio.DatasetReader, bands: tuple[Band, ...]) -> None:
    types = {dataset.dtypes[band.index - 1] for band in bands}
    if len(types) > 1:
        raise BandError(f"{name}: bands of types {', '.join(sorted(types))} chosen. Expected one type.")
    (dtype,) = types
    if dtype.startswith("complex"):
        raise BandError(f"{name} has complex values ({dtype}). Expected real ones, such as amplitude.")
    if dtype in ("int64", "uint64"):
        raise BandError(
            f"{name} has type {dtype}, which float32 cannot hold exactly. Expected at most 32 bits. Convert it."
        )


def _check_blocks(name: str, dataset: rasterio.DatasetReader) -> None:
    interleaved = dataset.count if dataset.interleaving and dataset.interleaving.name == "pixel" else 1
    for (height, width), dtype in zip(dataset.block_shapes[:1], dataset.dtypes, strict=False):
        size = math.prod((height, width, interleaved, np.dtype(dtype).itemsize))
        if size > _MAX_BLOCK_BYTES:
            raise SceneError(
                f"{name} has blocks of {width}x{height} pixels ({size >> 20} MiB). Expected at most "
                f"{_MAX_BLOCK_BYTES >> 20} MiB. Tile it: gdal_translate -of COG."
            )


def _as_pixel(value: float, dtype: np.dtype) -> np.generic | None:
    """`value` in the pixel type, or None where no pixel can have it."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value)
    if not float(value).is_integer() or not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        return None
    return dtype.type(int(value))


def _wkt(crs: Any) -> str | None:
    try:
        return (crs.to_wkt() or None) if crs else None
    except CRSError as err:
        log.warning("the CRS cannot be understood (%s) and is left out", _words(err))
        return None
