"""Raster: the only raster writer. Cells in, a Cloud Optimized GeoTIFF out: overviews, colours, class names, checked."""

import shutil
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.rpc import RPC
from rasterio.windows import Window as RasterioWindow

from geoseg.checkpoint import ClassInfo
from geoseg.errors import OutputError
from geoseg.grid import Grid
from geoseg.windows import Window

BLOCK = 512
"""Side of a block of every raster written."""
_ENV = {"GDAL_CACHEMAX": 64 << 20, "GDAL_TIFF_INTERNAL_MASK": "TRUE"}
_ERRORS = (RasterioError, CPLE_BaseError, OSError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterProfile:
    """Everything about a uint8 raster but its pixels, said from scratch: nothing is copied from the input's profile."""

    grid: Grid
    """Shape, transform, CRS."""
    nodata: int = 255
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


def write_cog(path: Path, cells: Iterable[tuple[Window, np.ndarray]], profile: RasterProfile) -> None:
    """Write cells as a Cloud Optimized GeoTIFF, read it again and compare.

    Tiles of 512, deflate, overviews (nearest for classes, average for the rest), palette; class names go into a tag and,
    as GDAL and QGIS read them, into `<path>.aux.xml`. Memory does not depend on the raster's size. Give a temporary
    `path`: the file is not complete until this returns. The same cells give the same bytes.

    Args:
        path: File to write; one that exists is replaced.
        cells: Disjoint windows that cover the grid, with (bands, h, w) or (h, w) uint8 pixels.
        profile: The rest.

    Raises:
        OutputError: If it cannot be written, or does not read back as it was written (a full disk may be silent).
    """
    plain = path.with_name(path.name + ".cells")
    try:
        with warnings.catch_warnings(), rasterio.Env(**_ENV):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            sums = _write_plain(plain, cells, profile)
            rasterio.shutil.copy(plain, path, driver="COG", **_cog_options(profile))
            _compare(path, sums, profile)
    except _ERRORS as err:
        if isinstance(err, OutputError):
            raise
        raise OutputError(
            f"{path} cannot be written ({' '.join(str(err).split())}). Expected a disk with room."
        ) from err
    finally:
        plain.unlink(missing_ok=True)
        plain.with_name(plain.name + ".aux.xml").unlink(missing_ok=True)
    if profile.classes:
        _write_class_names(path.with_name(path.name + ".aux.xml"), profile)


def _write_plain(
    path: Path, cells: Iterable[tuple[Window, np.ndarray]], profile: RasterProfile
) -> list[tuple[Window, int]]:
    """All cells into a tiled GeoTIFF without overviews; returns each one's checksum."""
    grid, sums = profile.grid, []
    placed = {} if grid.transform.is_identity else {"transform": grid.transform}
    with rasterio.open(
        path, "w", driver="GTiff", height=grid.height, width=grid.width, count=len(profile.bands), dtype="uint8",
        nodata=profile.nodata, crs=grid.crs and CRS.from_wkt(grid.crs), tiled=True, blockxsize=BLOCK, blockysize=BLOCK,
        compress="zstd", zstd_level=1, interleave="band", bigtiff="if_safer", **placed,
    ) as dst:  # fmt: skip
        _describe(dst, profile)
        for window, pixels in cells:
            dst.write(pixels.reshape(-1, *window.shape), window=_box(window))
            sums.append((window, zlib.crc32(np.ascontiguousarray(pixels).data)))
    return sums


def _describe(dst: rasterio.io.DatasetWriter, profile: RasterProfile) -> None:
    """Everything that is neither pixel nor profile."""
    dst.descriptions = tuple(profile.bands)
    dst.update_tags(**profile.tags)
    if profile.scale != 1.0:
        dst.scales = (profile.scale,) * len(profile.bands)
    if profile.classes:
        dst.update_tags(
            GEOSEG_CLASSES=",".join(item.name for item in profile.classes),
            GEOSEG_COLORS=",".join(item.color for item in profile.classes),
        )
        dst.write_colormap(1, {value: (*_rgb(item.color), 255) for value, item in enumerate(profile.classes)})
        dst.colorinterp = [ColorInterp.palette]
    if profile.gcps:
        points, crs = profile.gcps
        dst.gcps = (points, crs or CRS())
    if profile.rpcs:
        dst.rpcs = profile.rpcs


def _cog_options(profile: RasterProfile) -> dict[str, Any]:
    return {
        "compress": "DEFLATE",
        "level": 1,
        "blocksize": BLOCK,
        "bigtiff": "IF_SAFER",
        "overviews": "IGNORE_EXISTING",
        "overview_resampling": "NEAREST" if profile.classes else "AVERAGE",
    }


def _compare(path: Path, sums: list[tuple[Window, int]], profile: RasterProfile) -> None:
    """The file as a reader will find it."""
    with rasterio.open(path, driver="GTiff") as src:
        wrong = [
            name
            for name, have, want in (
                ("size", src.shape, profile.grid.shape),
                ("nodata value", src.nodata, profile.nodata),
                ("transform", src.transform.almost_equals(profile.grid.transform, 1e-9), True),
                ("CRS", _same_crs(src.crs, profile.grid.crs), True),
            )
            if have != want
        ]
        if wrong:
            raise OutputError(f"{path}: the {wrong[0]} is not what was written. Expected it to be kept. Report this.")
        for window, checksum in sums:
            if zlib.crc32(src.read(window=_box(window)).data) != checksum:
                raise OutputError(
                    f"{path} does not read back as it was written (rows {window.row} to {window.stop_row - 1}). "
                    "Expected a disk that keeps what it is given. Is it full?"
                )


def _same_crs(have: CRS | None, want: str | None) -> bool:
    if not want:
        return not have
    wanted = CRS.from_wkt(want)
    return have is not None and (have == wanted or have.to_wkt() == wanted.to_wkt())


def _box(window: Window) -> RasterioWindow:
    return RasterioWindow(window.col, window.row, window.width, window.height)


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _write_class_names(path: Path, profile: RasterProfile) -> None:
    """Category names and an attribute table, where GDAL looks for them; what GDAL put there itself is kept."""
    root = ElementTree.parse(path).getroot() if path.exists() else ElementTree.Element("PAMDataset")  # noqa: S314
    band = root.find("PAMRasterBand[@band='1']")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1") if band is None else band
    names = ElementTree.SubElement(band, "CategoryNames")
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(
        [("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8)]
    ):
        column = ElementTree.SubElement(table, "FieldDefn", index=str(index))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            ElementTree.SubElement(column, tag).text = str(value)
    for value, item in enumerate(profile.classes):
        ElementTree.SubElement(names, "Category").text = item.name
        row = ElementTree.SubElement(table, "Row", index=str(value))
        for cell in (value, item.name, *_rgb(item.color)):
            ElementTree.SubElement(row, "F").text = str(cell)
    ElementTree.indent(root)
    try:
        path.write_bytes(ElementTree.tostring(root, encoding="utf-8") + b"\n")
    except OSError as err:
        raise OutputError(f"{path} cannot be written ({err.strerror}). Expected a disk with room.") from err


def check_free_space(folder: Path, pixels: int, *, probability_bands: int) -> None:
    """Refuse a run that the disk cannot hold, before it begins.

    Counted are half a byte per pixel for classes and a byte and a half for each band of probabilities, which hardly
    compress: the spool, the raster before its overviews are made, and the raster itself, with room to spare.

    Raises:
        OutputError: If the folder's disk has less room.
    """
    need = int(pixels * (0.5 + 1.5 * probability_bands))
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OutputError(
            f"{folder.absolute()} has {free / 2**20:.0f} MiB free; this run may need {need / 2**20:.0f} MiB. "
            "Expected as much. Free some, or write elsewhere."
        )
