"""Plain polygons from a class raster: pixel outlines, connected by edges, exact to the pixel.

`rasterize(polygonize(labels)) == labels` on every pixel of the chosen classes, and a polygon never depends on how the
raster is stored in blocks. GDAL traces from a recoded copy of the raster, compressed in memory to a few percent of it,
in which everything but the chosen classes is 0: what is not traced costs nothing, and the block cache stays small.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from rasterio import features
from rasterio.io import DatasetReader, MemoryFile

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.vectors.classes import open_class_raster, strips
from geoseg.vectors.layer import check_names, layer_name

PROBABILITY_SCALE = 254
"""Probabilities are stored as round(254 p); 255 is nodata."""


def polygonize(
    raster: str | Path,
    classes: Mapping[int, str],
    *,
    confidence: str | Path | None = None,
    min_area_m2: float = 0,
    gsd: float | None = None,
    source: str | None = None,
) -> dict[str, geopandas.GeoDataFrame]:
    """Outline every edge-connected patch of every chosen class of a class raster.

    Polygons are valid, do not overlap, and lie in the raster's CRS (pixel coordinates when it has none). They are
    ordered by the row, then the column of their first pixel. Memory is that of the polygons and of a compressed copy.

    Args:
        raster: Class raster: a GeoTIFF of one uint8 band. Pixels of its nodata value are never outlined.
        classes: Name by pixel value of the classes to outline; without the background.
        confidence: Raster of the chosen class's probability on the same grid (uint8, p * 254, 255 = nodata), if any.
        min_area_m2: Smaller polygons are dropped, in square metres on the ground.
        gsd: Metres per pixel, for `min_area_m2` where the raster has no CRS.
        source: Said of every polygon in the field `source`; by default the model, if the raster's tags name it.

    Returns:
        By class name, in the order of `classes`, a frame with the fields id (from 1), class (pixel value), name,
        area_m2 and perimeter_m (metres on the ground; `area_px` and `perimeter_px` without a CRS), holes, prob (mean
        probability 0..1, missing without `confidence`), method ("raw") and source. A class without pixels, or a raster
        without valid ones, gives a frame without rows.

    Raises:
        SceneError: If the raster cannot be read or is no class raster.
        UsageError: If a class value is impossible, two classes would share a layer, `confidence` lies on another grid,
            or `min_area_m2` is asked for without a CRS or `gsd`.
    """
    if len(classes) > 255 or any(not 0 <= value <= 255 for value in classes):
        raise UsageError(f"class values {sorted(classes)} do not fit a class raster. Expected at most 255 of 0..255.")
    check_names(map(layer_name, classes.values()))
    with open_class_raster(raster) as dataset:
        grid = _grid(dataset)
        metric = grid.gsd is not None
        if min_area_m2 and not metric and gsd is None:
            raise UsageError(
                f"min_area_m2={min_area_m2:g} means nothing without a CRS ({raster}). Expected the size of a pixel: "
                "give --gsd METRES."
            )
        outlines, values = _trace(dataset, list(classes))
        source = _model(dataset) if source is None else source
    frame = geopandas.GeoDataFrame(
        {"class": values, **_sizes(outlines, grid)},
        geometry=_place(outlines, grid.transform),
        crs=CRS.from_wkt(grid.crs) if grid.crs else None,
    )
    frame["holes"] = shapely.get_num_interior_rings(outlines)
    frame["prob"] = np.nan if confidence is None else _mean_probability(outlines, confidence, grid.shape)
    frame["method"], frame["source"] = "raw", source
    area_m2 = frame["area_m2"] if metric else frame["area_px"] * (gsd or 0) ** 2
    if min_area_m2:
        frame = frame[area_m2 >= min_area_m2]
    return {name: _of_class(frame, value, name) for value, name in classes.items()}


def _grid(dataset: DatasetReader) -> Grid:
    crs = dataset.crs.to_wkt(version="WKT2_2019") if dataset.crs else None
    return Grid(shape=dataset.shape, transform=dataset.transform, crs=crs)


def _model(dataset: DatasetReader) -> str:
    """The model that predicted a raster, as its tags say: architecture and the start of the checkpoint's digest."""
    tags = dataset.tags()
    return f"{tags.get('GEOSEG_ARCH', '')} {tags.get('GEOSEG_CHECKPOINT', '')[:12]}".strip()


def _trace(dataset: DatasetReader, values: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Outlines in pixel coordinates (x = column, y = row) and their pixel values, in the order of their first pixel."""
    # Codes from 1: to GDAL, 0 means "leave out", whatever value the class has.
    codes = np.zeros(256, np.uint8)
    codes[values] = np.arange(1, len(values) + 1)
    if dataset.nodata is not None and 0 <= dataset.nodata <= 255:
        codes[int(dataset.nodata)] = 0
    with _recoded(dataset, codes) as coded:
        band = rasterio.band(coded, 1)
        found = [
            (shapely.Polygon(rings["coordinates"][0], rings["coordinates"][1:]), values[int(code) - 1])
            for rings, code in features.shapes(band, mask=band, connectivity=4)
        ]
    outlines = np.array([outline for outline, _ in found], dtype=object)
    order = np.lexsort(_first_pixels(outlines)[::-1])
    return outlines[order], np.array([value for _, value in found], dtype=np.int32)[order]


def _first_pixels(outlines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each outline's first pixel in reading order. No two outlines share one."""
    xy, index = shapely.get_coordinates(shapely.get_exterior_ring(outlines), return_index=True)
    if not len(xy):
        return np.empty(0), np.empty(0)
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    top = np.minimum.reduceat(xy[:, 1], starts)
    left = np.minimum.reduceat(np.where(xy[:, 1] == top[index], xy[:, 0], np.inf), starts)
    return top, left


@contextmanager
def _recoded(dataset: DatasetReader, codes: np.ndarray) -> Iterator[DatasetReader]:
    """The raster with `codes[value]` for every value, compressed in memory, in strips as GDAL reads them."""
    size = {"height": dataset.height, "width": dataset.width, "count": 1, "dtype": "uint8", "blockysize": 16}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **size, compress="zstd", zstd_level=1, bigtiff="if_safer") as copy:
            for window in strips(dataset):
                copy.write(codes[dataset.read(1, window=window)], 1, window=window)
        with memory.open() as copy:
            yield copy


def _place(outlines: np.ndarray, transform: Affine) -> np.ndarray:
    """Outlines in the coordinates of the CRS; rotated and south-up grids included."""
    return shapely.transform(outlines, lambda xy: np.column_stack(transform @ (xy[:, 0], xy[:, 1])))


def _sizes(outlines: np.ndarray, grid: Grid) -> dict[str, np.ndarray]:
    """Area and perimeter: on the ground where there is a CRS, else in pixels.

    Measured in a Lambert azimuthal equal-area projection of WGS 84 about the raster's centre: areas are true anywhere,
    lengths to 1 in 10 000 within 150 km of it.
    """
    if grid.gsd is None:
        return {"area_px": shapely.area(outlines), "perimeter_px": shapely.length(outlines)}
    centre = grid.transform @ (grid.width / 2, grid.height / 2)
    lon, lat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(*centre)
    metric = Transformer.from_crs(grid.crs, f"+proj=laea +lon_0={lon} +lat_0={lat} +datum=WGS84", always_xy=True)
    placed = _place(outlines, grid.transform)
    ground = shapely.transform(placed, lambda xy: np.column_stack(metric.transform(xy[:, 0], xy[:, 1])))
    return {"area_m2": shapely.area(ground).round(3), "perimeter_m": shapely.length(ground).round(3)}


def _mean_probability(outlines: np.ndarray, confidence: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """Mean of the confidence raster's valid pixels inside each outline, 0..1; NaN where there are none."""
    tops, bottoms = shapely.bounds(outlines).reshape(-1, 4)[:, [1, 3]].T
    total, count = np.zeros(len(outlines) + 1), np.zeros(len(outlines) + 1)
    with open_class_raster(confidence) as dataset:
        if dataset.shape != shape:
            raise UsageError(
                f"{confidence} is {dataset.width}x{dataset.height} pixels, the class raster {shape[1]}x{shape[0]}. "
                "Expected the confidence raster of the same run."
            )
        for window in strips(dataset):
            here = np.flatnonzero((tops < window.row_off + window.height) & (bottoms > window.row_off))
            if not here.size:
                continue
            stored = dataset.read(1, window=window)
            index = features.rasterize(
                zip(outlines[here], here + 1, strict=True),
                out_shape=stored.shape,
                transform=Affine.translation(0, window.row_off),
                dtype=np.int32,
            )
            index[stored == 255] = 0
            total += np.bincount(index.ravel(), stored.ravel(), len(total))
            count += np.bincount(index.ravel(), minlength=len(count))
    mean = np.full(len(outlines), np.nan)
    np.divide(total[1:], count[1:] * PROBABILITY_SCALE, out=mean, where=count[1:] > 0)
    return mean.round(4)


def _of_class(frame: geopandas.GeoDataFrame, value: int, name: str) -> geopandas.GeoDataFrame:
    """The rows of one class, numbered, with the fields in their final order."""
    rows = frame[frame["class"] == value].reset_index(drop=True)
    rows.insert(0, "id", np.arange(1, len(rows) + 1))
    rows.insert(2, "name", name)
    return rows
