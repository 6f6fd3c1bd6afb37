"""Scenes and checkpoints to measure with."""

from functools import cache
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import torch
from affine import Affine
from rasterio.windows import Window

from geoseg.checkpoint import ClassInfo, Head, Header, save_checkpoint
from geoseg.models import build_model
from geoseg.models.receptive import receptive_radius
from geoseg.synthetic import DEMO_SEED, draw_town


@cache
def _town(side: int) -> np.ndarray:
    return draw_town((side, side), gsd=0.3, seed=DEMO_SEED, collar=False).image


def write_scene(path: Path, shape: tuple[int, int], side: int = 1024) -> Path:
    """A drawn town over and over, RGB uint8, tiled deflate, written block by block."""
    block = _town(side)
    profile = {
        "driver": "GTiff", "height": shape[0], "width": shape[1], "count": 3, "dtype": "uint8", "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer",
        "crs": "EPSG:32637", "transform": Affine(0.3, 0, 500000, 0, -0.3, 4000000),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dst:
        for row in range(0, shape[0], side):
            for col in range(0, shape[1], side):
                height, width = min(side, shape[0] - row), min(side, shape[1] - col)
                dst.write(block[:, :height, :width], window=Window(col, row, width, height))
    return path


def write_boxes(path: Path, shape: tuple[int, int], count: int = 2000) -> Path:
    """Square buildings of 10 m on a scene of that shape that `write_scene` wrote."""
    rng = np.random.default_rng(0)
    x = 500000 + rng.uniform(0, shape[1] * 0.3 - 10, count)
    y = 4000000 - rng.uniform(10, shape[0] * 0.3, count)
    gpd.GeoSeries(shapely.box(x, y, x + 10, y + 10), crs="EPSG:32637").to_file(path)
    return path


def write_checkpoint(path: Path, *, width: int, depth: int = 4) -> Path:
    """A U-Net with random weights, batch normalisation warmed up so that it does something."""
    torch.manual_seed(0)
    model = build_model("unet", in_channels=3, classes=3, width=width, depth=depth)
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 128, 128))
    header = Header(
        arch="unet",
        arch_args={"width": width, "depth": depth},
        bands=("red", "green", "blue"),
        mean=(110.0,) * 3,
        std=(60.0,) * 3,
        value_range=((0.0, 255.0),) * 3,
        dtype="uint8",
        heads={"surface": Head(classes=tuple(ClassInfo(name=n, color="#000000") for n in "abc"))},
        cell_side=1536,
        stride=model.stride,
        receptive_radius=receptive_radius(model),
    )
    save_checkpoint(path, header, model.state_dict(), half=False)
    return path
