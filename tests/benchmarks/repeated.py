"""`python -m tests.benchmarks.repeated SIDE FOLDER`: a city as large as asked for, in files that stay small.

A city of 4096 x 4096 is drawn once; the tables of the TIFFs name its tiles again and again. Then

    /usr/bin/time -v geoseg vectorize FOLDER/labels.tif --probabilities FOLDER/probabilities.tif -o FOLDER/out.gpkg

tells time and memory at any size. (BigTIFF: https://www.awaresystems.be/imaging/tiff/bigtiff.html.)
"""

import argparse
import struct
from pathlib import Path

import numpy as np
import rasterio

from tests.benchmarks.vectors import NOISE
from tests.city import City, make_city

CITY, TILE = 4096, 512
_WIDTH, _HEIGHT, _OFFSETS, _SIZES = 256, 257, 324, 325
_LONG8 = 16
_FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "Q", 12: "d", _LONG8: "Q"}


def write_city(city: City, folder: Path) -> tuple[Path, Path]:
    """Labels and probabilities of a city, as two BigTIFFs of one folder."""
    planes = city.planes
    assert planes.probabilities is not None
    profile = {"driver": "GTiff", "dtype": "uint8", "width": CITY, "height": CITY, "nodata": 255, "bigtiff": "YES"}
    profile |= {"crs": planes.grid.crs, "transform": planes.grid.transform, "compress": "zstd", "interleave": "pixel"}
    profile |= {"tiled": True, "blockxsize": TILE, "blockysize": TILE}
    paths = folder / "labels.tif", folder / "probabilities.tif"
    for path, bands in zip(paths, (planes.values[None], planes.probabilities), strict=True):
        with rasterio.open(path, "w", count=len(bands), **profile) as file:
            if len(bands) == 1:
                file.update_tags(GEOSEG_CLASSES=str(list(planes.classes.values())).replace("'", '"'))
            file.write(bands)
    return paths


def repeat(path: Path, side: int) -> None:
    """Make a BigTIFF of `CITY` pixels one of `side` pixels, which shows the same tiles over and over."""
    content = bytearray(path.read_bytes())
    place = struct.unpack_from("<Q", content, 8)[0]
    entries = {}
    for k in range(struct.unpack_from("<Q", content, place)[0]):
        tag, kind, count = struct.unpack_from("<HHQ", content, place + 8 + 20 * k)
        entries[tag] = kind, count, bytes(content[place + 20 + 20 * k : place + 28 + 20 * k])
    row = np.arange(-(-side // TILE)) % (CITY // TILE)
    index = (row[:, None] * (CITY // TILE) + row).ravel()
    for tag in (_OFFSETS, _SIZES):
        kind, count, value = entries[tag]
        layout = f"<{count}{_FORMATS[kind]}"
        table = np.array(struct.unpack_from(layout, content, struct.unpack("<Q", value)[0]), np.uint64)[index]
        content += bytes(-len(content) % 8)
        entries[tag] = _LONG8, len(table), struct.pack("<Q", len(content))
        content += table.tobytes()
    for tag in (_WIDTH, _HEIGHT):
        entries[tag] = _LONG8, 1, struct.pack("<Q", side)
    struct.pack_into("<Q", content, 8, len(content))
    content += struct.pack("<Q", len(entries))
    for tag, (kind, count, value) in sorted(entries.items()):
        content += struct.pack("<HHQ", tag, kind, count) + value
    path.write_bytes(content + bytes(8))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", type=int)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for path in write_city(make_city(CITY, seed=1, noise=NOISE), given.folder):
        repeat(path, given.side)
        print(path)
