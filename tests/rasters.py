"""Small rasters for the tests that run the whole command, and what was found on disk before and after."""

import hashlib
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

UTM = {"crs": "EPSG:32637", "transform": Affine(0.3, 0, 500000, 0, -0.3, 6200000)}
"""30 cm pixels."""


def noise(shape, seed=0, dtype=np.uint8):
    """(C, H, W) from 1 to 199: patches of 16 pixels with some noise, so that labels change, but not at every pixel."""
    channels, height, width = shape
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 160, (channels, -(-height // 16), -(-width // 16)))
    patches = coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width]
    return (patches + rng.integers(0, 40, shape)).astype(dtype)


def write_raster(path, data, *, valid=None, how=None, **profile) -> Path:
    """A GeoTIFF of (C, H, W) `data`. `how` says where `valid` goes: "alpha" (a further band) or "mask" (internal)."""
    colors = None
    if how == "alpha":
        largest = 255 if data.dtype == np.uint8 else 1000
        data = np.concatenate([data, np.where(valid, largest, 0)[None].astype(data.dtype)])
        colors = [ColorInterp.undefined] * (len(data) - 1) + [ColorInterp.alpha]
        if len(data) == 4:
            colors[:3] = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    count, height, width = data.shape
    size = {"count": count, "height": height, "width": width, "dtype": data.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", **size, **(UTM | profile)) as dst,
    ):
        if colors:
            dst.colorinterp = colors
        dst.write(data)
        if how == "mask":
            dst.write_mask(valid)
    return Path(path)


def contents(folder) -> dict:
    """Everything below a folder: digest and time of last change of files, a word for all else."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        else:
            found[name] = "other"
    return found


def digests(folder) -> dict:
    """sha256 of every file in a folder, by name; nothing else may be there."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(folder).iterdir())}
