"""Tiny scenes of every kind that users have, with the pixels and the valid pixels that are true of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

SHAPE = (67, 101)
NORTH_UP = Affine(0.3, 0, 500000, 0, -0.3, 6200000)
GCPS = [GroundControlPoint(row, col, 37 + col * 1e-5, 55 - row * 1e-5, 0) for row in (0, 66) for col in (0, 100)]
RPCS = RPC(
    height_off=10, height_scale=100, lat_off=55, lat_scale=0.1, long_off=37, long_scale=0.1,
    line_off=33, line_scale=40, samp_off=50, samp_scale=60,
    line_num_coeff=[0.0] * 20, line_den_coeff=[1.0] + [0.0] * 19,
    samp_num_coeff=[0.0] * 20, samp_den_coeff=[1.0] + [0.0] * 19,
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A scene on disk and what is true of it."""

    path: Path
    data: np.ndarray
    """(C, H, W): what a reader of all data bands gets."""
    valid: np.ndarray
    """(H, W) bool: where a reader may use it."""


def pixels(count=3, shape=SHAPE, dtype=np.uint8, seed=0):
    """(count, H, W) without 0 and without the largest value."""
    return np.random.default_rng(seed).integers(1, 120, (count, *shape)).astype(dtype)


def hole(shape=SHAPE):
    """(H, W) bool, False in a collar that is cut off askew."""
    rows, cols = np.indices(shape)
    return (rows + 2 * cols > shape[0] // 2) & (cols < shape[1] - shape[1] // 5)


def write(path, data, *, colors=None, valid=None, **profile):
    """A GeoTIFF of (C, H, W) `data`, by default in UTM; `valid` becomes an internal mask."""
    count, height, width = data.shape
    known = {"crs": "EPSG:32637", "transform": NORTH_UP, "driver": "GTiff"}
    size = {"count": count, "height": height, "width": width, "dtype": data.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **{k: v for k, v in {**known, **size, **profile}.items() if v is not None}) as dst,
    ):
        if colors:
            dst.colorinterp = colors
        dst.write(data)
        if valid is not None:
            dst.write_mask(valid)
    return Path(path)


def plain(folder, *, dtype=np.uint8, count=3, shape=SHAPE, suffix="tif", **profile):
    """All pixels valid."""
    data = pixels(count, shape, dtype)
    return Made(write(folder / f"plain.{suffix}", data, **profile), data, np.ones(shape, bool))


def tagged(folder, *, nodata, dtype=np.uint8, count=3, **profile):
    """A nodata value in all bands of a collar, and in one band elsewhere, where the pixel stays valid."""
    data, valid = pixels(count, dtype=dtype), hole()
    data[:, ~valid] = nodata
    if count > 1 and not np.isnan(nodata):
        data[0, 40:44, 50:60] = nodata
    return Made(write(folder / "tagged.tif", data, nodata=nodata, **profile), data, valid)


def alpha(folder, *, count=3, dtype=np.uint8, **profile):
    """A band of opacity after the data; faint pixels count as valid."""
    data, valid = pixels(count, dtype=dtype), hole()
    opacity = np.where(valid, np.iinfo(dtype).max, 0).astype(dtype)
    opacity[30:33, 40:50] = 1
    named = {1: [ColorInterp.gray], 3: [ColorInterp.red, ColorInterp.green, ColorInterp.blue]}
    colors = [*named.get(count, [ColorInterp.undefined] * count), ColorInterp.alpha]
    whole = np.concatenate([data, opacity[None]])
    return Made(write(folder / "alpha.tif", whole, colors=colors, **profile), data, opacity > 0)


def masked(folder, **profile):
    """An internal mask."""
    data, valid = pixels(), hole()
    return Made(write(folder / "masked.tif", data, valid=valid, **profile), data, valid)


def masked_beside(folder):
    """A mask in a .msk file."""
    data, valid = pixels(), hole()
    path = write(folder / "beside.tif", data)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dst:
        dst.write_mask(valid)
    return Made(path, data, valid)


def not_finite(folder, *, nodata=None, dtype=np.float32):
    """NaN in one band, infinity in another; with or without NaN as nodata."""
    data = pixels(dtype=dtype)
    data[0, 3:5, 7] = np.nan
    data[1, 20, 30] = np.inf
    data[2, 21, 31] = -np.inf
    valid = np.isfinite(data).all(axis=0)
    return Made(write(folder / "notfinite.tif", data, nodata=nodata), data, valid)


def placed(folder, *, gcps=None, gcps_crs=None, rpcs=None):
    """No transform: ground control points or RPCs."""
    made = plain(folder, crs=None, transform=None)
    with rasterio.open(made.path, "r+") as dst:
        if gcps:
            dst.gcps = (gcps, gcps_crs)
        if rpcs:
            dst.rpcs = rpcs
    return made


def point(folder):
    """PixelIsPoint: the file gives the first pixel's centre."""
    made = plain(folder)
    with rasterio.open(made.path, "r+") as dst:
        dst.update_tags(AREA_OR_POINT="Point")
    return made


KINDS: dict[str, Callable[[Path], Made]] = {
    "plain": plain,
    "tiled": lambda folder: plain(folder, tiled=True, blockxsize=32, blockysize=16, compress="deflate"),
    "planar": lambda folder: plain(folder, interleave="band", blockysize=7, compress="lzw"),
    "1x1": lambda folder: plain(folder, shape=(1, 1)),
    "one row": lambda folder: plain(folder, shape=(1, 101)),
    "one column": lambda folder: plain(folder, shape=(67, 1)),
    "one band": lambda folder: plain(folder, count=1),
    "eight bands": lambda folder: plain(folder, count=8, dtype=np.uint16),
    "png": lambda folder: plain(folder, suffix="png", driver="PNG", crs=None, transform=None),
    "int8": lambda folder: plain(folder, dtype=np.int8),
    "int16": lambda folder: plain(folder, dtype=np.int16),
    "int64": lambda folder: plain(folder, dtype=np.int64),
    "float64": lambda folder: plain(folder, dtype=np.float64),
    "nodata 0": lambda folder: tagged(folder, nodata=0),
    "nodata 255, one band": lambda folder: tagged(folder, nodata=255, count=1),
    "nodata 65535": lambda folder: tagged(folder, nodata=65535, dtype=np.uint16),
    "nodata -32768": lambda folder: tagged(folder, nodata=-32768, dtype=np.int16),
    "nodata -9999": lambda folder: tagged(folder, nodata=-9999, dtype=np.float32),
    "nodata float32 lowest": lambda folder: tagged(folder, nodata=float(np.finfo(np.float32).min), dtype=np.float32),
    "nodata NaN": lambda folder: tagged(folder, nodata=np.nan, dtype=np.float64),
    "not finite": not_finite,
    "not finite, nodata NaN": lambda folder: not_finite(folder, nodata=np.nan),
    "alpha": alpha,
    "alpha, one band": lambda folder: alpha(folder, count=1),
    "alpha, four bands, uint16": lambda folder: alpha(folder, count=4, dtype=np.uint16),
    "alpha and nodata": lambda folder: alpha(folder, nodata=5),
    "mask": masked,
    "mask and nodata": lambda folder: masked(folder, nodata=5),
    "mask beside": masked_beside,
    "rotated": lambda folder: plain(folder, transform=NORTH_UP @ Affine.rotation(30)),
    "sheared": lambda folder: plain(folder, transform=NORTH_UP @ Affine.shear(10, 5)),
    "south-up": lambda folder: plain(folder, transform=Affine(0.3, 0, 500000, 0, 0.3, 6200000)),
    "mirrored": lambda folder: plain(folder, transform=Affine(-0.3, 0, 500000, 0, -0.3, 6200000)),
    "oblong pixels": lambda folder: plain(folder, transform=Affine(0.5, 0, 500000, 0, -0.25, 6200000)),
    "feet": lambda folder: plain(folder, crs="EPSG:2263", transform=Affine(1, 0, 980000, 0, -1, 200000)),
    "degrees": lambda folder: plain(folder, crs="EPSG:4326", transform=Affine(1e-5, 0, 37, 0, -1e-5, 55)),
    "height, too": lambda folder: plain(folder, crs="EPSG:7415", transform=Affine(1, 0, 150000, 0, -1, 450000)),
    "three dimensions": lambda folder: plain(folder, crs="EPSG:4979", transform=Affine(1e-5, 0, 37, 0, -1e-5, 55)),
    "rotated pole": lambda folder: plain(
        folder,
        crs="+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=40 +lon_0=10 +datum=WGS84",
        transform=Affine(1e-5, 0, 3, 0, -1e-5, 5),
    ),
    "pixel is point": point,
    "no CRS": lambda folder: plain(folder, crs=None),
    "nothing": lambda folder: plain(folder, crs=None, transform=None),
    "GCPs": lambda folder: placed(folder, gcps=GCPS, gcps_crs="EPSG:4326"),
    "GCPs without CRS": lambda folder: placed(folder, gcps=GCPS, gcps_crs=rasterio.CRS()),
    "RPCs": lambda folder: placed(folder, rpcs=RPCS),
}
"""What may come, by name."""
UNPLACED = ("png", "nothing")
"""Those that say nothing of where they lie."""
