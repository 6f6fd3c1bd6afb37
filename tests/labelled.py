"""Small labelled data sets: rasters, vector layers and folders of tiles in UTM."""

import json
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS

LEFT, TOP, GSD = 500_000.0, 5_000_000.0, 0.5


def write_raster(path: Path, data: np.ndarray, **profile) -> Path:
    """A GeoTIFF in UTM (or what `profile` says) of (C, H, W) pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {"driver": "GTiff", "crs": CRS.from_epsg(32633), "transform": Affine(GSD, 0, LEFT, 0, -GSD, TOP)} | profile
    shape = {"count": data.shape[0], "height": data.shape[1], "width": data.shape[2], "dtype": data.dtype}
    with rasterio.open(path, "w", **shape, **fields) as file:
        file.write(data)
    return path


def write_boxes(path: Path, boxes: list[tuple[int, int, int, int]], kinds: list[str] | None = None) -> Path:
    """GeoJSON in UTM of pixel boxes (left, top, right, bottom)."""
    features = []
    for index, (left, top, right, bottom) in enumerate(boxes):
        ring = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        ground = [[LEFT + x * GSD, TOP - y * GSD] for x, y in ring]
        about = {"kind": kinds[index]} if kinds else {}
        features.append(
            {"type": "Feature", "properties": about, "geometry": {"type": "Polygon", "coordinates": [ground]}}
        )
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    return path


def plain(path: Path) -> dict:
    """PNG and JPEG know no georeference."""
    return {"driver": "PNG", "crs": None, "transform": None} if path.suffix == ".png" else {}


def write_folder(folder: Path, count: int = 5, *, suffix: str = ".tif", value: int = 1) -> Path:
    """images/ and labels/ with a box of `value` in each; tiles lie a kilometre apart, or nowhere as PNG."""
    rng = np.random.default_rng(0)
    for index in range(count):
        name = f"tile_{index}"
        image = folder / "images" / f"{name}{suffix}"
        labels = np.zeros((1, 24, 20), np.uint8)
        labels[:, 4:12, 4:12] = value
        place = plain(image) or {"transform": Affine(GSD, 0, LEFT + 1000 * index, 0, -GSD, TOP)}
        write_raster(image, rng.integers(0, 255, (3, 24, 20), dtype=np.uint8), **place)
        labels_path = folder / "labels" / f"{name}.png"
        write_raster(labels_path, labels, **plain(labels_path))
    return folder
