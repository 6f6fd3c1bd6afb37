"""Raster: the only raster writer. Cells in, a Cloud Optimized GeoTIFF out: overviews, colours, class names, checked."""

import json
import logging
import shutil
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, DatasetWriter, MemoryFile
from rasterio.rpc import RPC
from rasterio.windows import Window as RasterioWindow

from geoseg.checkpoint import ClassInfo
from geoseg.errors import GeosegError, OutputError
from geoseg.grid import Grid
from geoseg.windows import Window

_COLORS = {"red": ColorInterp.red, "green": ColorInterp.green, "blue": ColorInterp.blue}
BLOCK = 512
"""Side of a block of every raster written."""

_ENV = {
    "GDAL_CACHEMAX": 8 << 20,  # blocks are written as they come and read once
    "GDAL_NUM_THREADS": "1",  # with more, GDAL does not say that the disk is full
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_TIFF_OVR_BLOCKSIZE": str(BLOCK),
    "COMPRESS_OVERVIEW": "ZSTD",
    "ZSTD_LEVEL_OVERVIEW": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterProfile:
    """Everything about a raster but its pixels, said from scratch: nothing is copied from the input's profile."""

    grid: Grid
    """Shape, transform, CRS."""
    dtype: str = "uint8"
    """Of the pixels."""
    nodata: float = 255
    """Value of pixels without data."""
    gcps: tuple[list[GroundControlPoint], Any] | None = None
    """Ground control points and their CRS, where they place the scene."""
    rpcs: RPC | None = None
    """Rational polynomial coefficients, where the scene has them."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """What decided the pixels."""
    classes: Sequence[ClassInfo] = ()
    """Of a class raster: names and colours by value."""
    bands: Sequence[str] = ("class",)
    """Description of each band."""
    scale: float = 1.0
    """Factor from pixel values to what they mean."""
    units: str = ""
    """What they are measured in."""
    averaged: bool = True
    """Whether overviews show means rather than single pixels, as those of a class raster always do."""


def write_cog(path: Path, cells: Iterable[tuple[Window, np.ndarray]], profile: RasterProfile) -> None:
    """Write cells as a Cloud Optimized GeoTIFF, read it again and compare.

    Tiles of 512, deflate, overviews (nearest for classes, average of the valid pixels for the rest), palette. Class
    names go into a tag and, as GDAL and QGIS read them, into `<path>.aux.xml`. Memory does not depend on the raster's
    size. The same cells give the same bytes. The file is not complete until this returns: give a temporary `path`.

    Args:
        path: File to write; one that exists is replaced.
        cells: Disjoint windows that cover the grid, with (bands, h, w) or (h, w) pixels of the profile's dtype.
        profile: The rest.

    Raises:
        OutputError: If it cannot be written, or does not read back as it was written.
    """
    plain = path.with_name(path.name + ".cells")
    try:
        with door(path):
            sums = _write_plain(plain, cells, profile)
            rasterio.shutil.copy(
                plain,
                path,
                driver="COG",
                compress="DEFLATE",
                level=1,
                blocksize=BLOCK,
                bigtiff="IF_SAFER",
                overviews="FORCE_USE_EXISTING",
            )
        with door(path), rasterio.open(path, driver="GTiff") as src:
            _check_profile(path, src, profile)
            _check_pixels(path, src, sums)
        if profile.classes:
            _write_class_names(path.with_name(path.name + ".aux.xml"), profile)
    finally:
        for side in ("", ".aux.xml"):
            plain.with_name(plain.name + side).unlink(missing_ok=True)


def _write_plain(
    path: Path, cells: Iterable[tuple[Window, np.ndarray]], profile: RasterProfile
) -> list[tuple[Window, int]]:
    """All cells into a tiled GeoTIFF with overviews, which GDAL can then put in a COG's order; returns checksums."""
    grid, sums = profile.grid, []
    points = grid.transform.is_identity and (profile.gcps or profile.rpcs)  # a transform would take their place
    placed = {} if points else {"transform": grid.transform}
    with rasterio.open(
        path, "w", driver="GTiff", height=grid.height, width=grid.width, count=len(profile.bands), dtype=profile.dtype,
        nodata=profile.nodata, crs=parse_crs(grid.crs), tiled=True, blockxsize=BLOCK, blockysize=BLOCK,
        compress="zstd", zstd_level=1, interleave="band", bigtiff="if_safer", **placed,
    ) as dst:  # fmt: skip
        _describe(dst, profile)
        for window, pixels in cells:
            dst.write(pixels.reshape(-1, *window.shape), window=_box(window))
            sums.append((window, zlib.crc32(np.ascontiguousarray(pixels).data)))
    if levels := _levels(grid.shape):
        with rasterio.open(path, "r+", driver="GTiff") as dst:
            # Left to the COG driver, overviews cost three times as much.
            dst.build_overviews(
                levels, Resampling.nearest if profile.classes or not profile.averaged else Resampling.average
            )
    return sums


def _levels(shape: tuple[int, int]) -> list[int]:
    """Factors of the overviews: 2, 4, ... until one fits into a block."""
    levels: list[int] = []
    while max(shape) > BLOCK * 2 ** len(levels):
        levels.append(2 ** (len(levels) + 1))
    return levels


def _describe(dst: DatasetWriter, profile: RasterProfile) -> None:
    """Everything that is neither pixel nor creation option."""
    dst.descriptions = tuple(profile.bands)
    dst.update_tags(**profile.tags)
    if profile.scale != 1.0:
        dst.scales = (profile.scale,) * len(profile.bands)
    if profile.units:
        dst.units = (profile.units,) * len(profile.bands)
    if profile.classes:
        dst.update_tags(GEOSEG_CLASSES=json.dumps([item.name for item in profile.classes], ensure_ascii=False))
        dst.write_colormap(1, {value: (*_rgb(item.color), 255) for value, item in enumerate(profile.classes)})
        dst.colorinterp = [ColorInterp.palette]
    else:  # said of every band, or GDAL takes three or four for a picture, and the fourth for its transparency
        dst.colorinterp = [_COLORS.get(name, ColorInterp.undefined) for name in profile.bands]
    if profile.gcps:
        points, crs = profile.gcps
        dst.gcps = (points, crs or CRS())
    if profile.rpcs:
        dst.rpcs = profile.rpcs


def _check_profile(path: Path, src: DatasetReader, profile: RasterProfile) -> None:
    """The georeference and the rest as a reader will find them."""
    shape, grid = src.shape, profile.grid
    same = {
        "size": shape == grid.shape and src.count == len(profile.bands),
        "nodata value": src.nodata is not None and np.array_equal(src.nodata, profile.nodata, equal_nan=True),
        "transform": np.allclose(src.transform[:6], grid.transform[:6], rtol=1e-12, atol=1e-12),
        "CRS": same_crs(src.crs, parse_crs(grid.crs)),
        "ground control points": len(src.gcps[0]) == (len(profile.gcps[0]) if profile.gcps else 0),
        "RPCs": bool(src.rpcs) == bool(profile.rpcs),
        "overviews": len(src.overviews(1)) == len(_levels(shape)),
    }
    wrong = [name for name, equal in same.items() if not equal]
    if wrong:
        raise OutputError(
            f"{path}: a GeoTIFF cannot hold the scene's {' and '.join(wrong)} as given. Expected a common CRS, such as "
            "one with an EPSG code. Give the scene one: gdal_edit -a_srs, or gdalwarp."
        )


def _check_pixels(path: Path, src: DatasetReader, sums: list[tuple[Window, int]]) -> None:
    for window, checksum in sums:
        if zlib.crc32(src.read(window=_box(window)).data) != checksum:
            raise OutputError(
                f"{path} does not read back as it was written (rows {window.row} to {window.stop_row - 1}, columns "
                f"{window.col} to {window.stop_col - 1}). Expected a disk that keeps what it is given. Is it full?"
            )


def parse_crs(wkt: str | None) -> CRS | None:
    """The CRS of a WKT, by its EPSG code where it has one: GDAL stores parts of a compound CRS by their codes only."""
    if not wkt:
        return None
    crs = CRS.from_wkt(wkt)
    code = crs.to_epsg(confidence_threshold=100)
    known = CRS.from_epsg(code) if code else crs
    return known if known == crs else crs


def same_crs(have: CRS | None, want: CRS | None) -> bool:
    """Whether both are absent, or equal for GDAL."""
    if not (have and want):
        return not have and not want
    return bool(have == want) or have.to_wkt() == want.to_wkt()


def _box(window: Window) -> RasterioWindow:
    return RasterioWindow(window.col, window.row, window.width, window.height)


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _write_class_names(path: Path, profile: RasterProfile) -> None:
    """Category names and an attribute table, where GDAL looks for them; what GDAL put there itself is kept."""
    root = ET.parse(path).getroot() if path.exists() else ET.Element("PAMDataset")  # noqa: S314
    band = root.find("PAMRasterBand[@band='1']")
    band = ET.SubElement(root, "PAMRasterBand", band="1") if band is None else band
    names = ET.SubElement(band, "CategoryNames")
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(
        [("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8)]
    ):
        column = ET.SubElement(table, "FieldDefn", index=str(index))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            ET.SubElement(column, tag).text = str(value)
    for value, item in enumerate(profile.classes):
        ET.SubElement(names, "Category").text = item.name
        row = ET.SubElement(table, "Row", index=str(value))
        for cell in (value, item.name, *_rgb(item.color)):
            ET.SubElement(row, "F").text = str(cell)
    ET.indent(root)
    with door(path):
        path.write_bytes(ET.tostring(root, encoding="utf-8") + b"\n")


@contextmanager
def door(path: Path) -> Iterator[None]:
    """GDAL with our settings; its errors, those that it only logs too, as an OutputError."""
    listener = _Listener()
    try:
        with warnings.catch_warnings(), rasterio.Env(**_ENV), listener:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except GeosegError:
        raise
    except (RasterioError, CPLE_BaseError, CRSError, OSError, UnicodeError) as err:
        words = str(err.__cause__ or err)
        raise OutputError(_unwritten(path, words)) from err
    if listener.words:
        raise OutputError(_unwritten(path, listener.words[0]))


def _unwritten(path: Path, words: str) -> str:
    return f"{path} cannot be written ({' '.join(words.split()).rstrip('.')}). Expected a disk with room."


class _Listener(logging.Handler):
    """Hears GDAL's errors on this thread: on a full disk rasterio logs them and goes on as if nothing had happened."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.words: list[str] = []
        self._thread = threading.get_ident()
        self._loggers = [logging.getLogger(name) for name in ("rasterio._env", "rasterio._err")]
        self._levels = [logger.level for logger in self._loggers]

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message if it is an error of this thread."""
        words = record.getMessage()
        if record.thread == self._thread and (record.levelno >= logging.ERROR or "signalled an error" in words):
            self.words.append(words.partition("msg=")[2].strip("'\"") or words)

    def __enter__(self) -> None:
        for logger in self._loggers:
            logger.addHandler(self)
            logger.setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.removeHandler(self)
            logger.setLevel(level)


def check_storable(profile: RasterProfile) -> None:
    """Refuse, before the first pixel, what a GeoTIFF cannot hold: a few old or home-made CRSs come back as another.

    Raises:
        OutputError: With what would be lost.
    """
    tiny = replace(profile, grid=replace(profile.grid, shape=(1, 1)))
    with door(Path("the output")), MemoryFile() as file:
        _write_plain(Path(file.name), [(tiny.grid.window, np.zeros((len(tiny.bands), 1, 1), np.uint8))], tiny)
        with rasterio.open(file.name, driver="GTiff") as src:
            _check_profile(Path("the output"), src, tiny)


def check_free_space(needs: Iterable[tuple[Path, float]], pixels: int) -> None:
    """Refuse a run that a disk cannot hold, before it begins.

    Args:
        needs: Folder and bytes per pixel of each thing that is written.
        pixels: Of the scene.

    Raises:
        OutputError: If one of the disks has less room than all that comes onto it.
    """
    disks: dict[int, tuple[Path, float]] = {}
    for folder, share in needs:
        first, others = disks.get(_disk(folder), (folder, 0))
        disks[_disk(folder)] = first, others + share
    for folder, share in disks.values():
        need, free = int(pixels * share), shutil.disk_usage(folder).free
        if need > free:
            raise OutputError(
                f"{folder.absolute()} has {free / 2**20:.0f} MiB free; this run may need {need / 2**20:.0f} MiB there. "
                "Expected as much. Free some, or write elsewhere."
            )


def _disk(folder: Path) -> int:
    return folder.stat().st_dev
