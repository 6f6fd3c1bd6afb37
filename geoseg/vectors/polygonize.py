"""Plain polygons from a class raster: pixel outlines, connected by edges, exact to the pixel.

`rasterize(polygonize(labels)) == labels` on every pixel of the chosen classes, and a polygon never depends on how the
raster is stored in blocks.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import geopandas
import numpy as np
from pyproj import CRS
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterWindow

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.scene.georeference import grid_of
from geoseg.vectors.classes import open_class_raster
from geoseg.vectors.layer import check_names, layer_name
from geoseg.vectors.patches import Patches, trace
from geoseg.vectors.sizes import sizes
from geoseg.windows import Window

_SURELY = 0.8
"""A patch of less than this times the least area is left out while tracing: pixels are not of one size everywhere."""


class _Bands:
    """The band of a class raster and that of its confidence, as `Planes`, whatever its value for nodata."""

    def __init__(self, labels: DatasetReader, confidence: DatasetReader | None, classes: Mapping[int, str]) -> None:
        self.grid = grid_of(labels)
        self.classes, self.source = classes, _model(labels)
        self.step = min(max(16, labels.block_shapes[0][0]), 1024)
        self._labels, self._confidence = labels, confidence
        self._last: tuple[Window, np.ndarray] | None = None

    def labels(self, window: Window) -> np.ndarray:
        """(h, w) uint8 values of the file."""
        return _read(self._labels, window)

    def probability(self, window: Window, value: int) -> np.ndarray | None:
        """(h, w) uint8: the confidence, which is the probability of every class where it is chosen."""
        if self._confidence is None:
            return None
        if self._last is None or self._last[0] != window:
            self._last = window, _read(self._confidence, window)
        return self._last[1]

    def margin(self, window: Window, value: int) -> np.ndarray | None:
        """None: not known."""
        return None


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
    ordered by the row, then the column of their first pixel. Memory is that of the polygons and of some rows.

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
        probability 0..1) and prob_min10 (its 10th percentile), both missing without `confidence`, method ("raw") and
        source. A class without pixels, or a raster
        without valid ones, gives a frame without rows.

    Raises:
        SceneError: If the raster cannot be read or is no class raster.
        UsageError: If a class value is impossible, two classes would share a layer, `confidence` lies on another grid,
            `min_area_m2` is asked for without a CRS or `gsd`, or there are more patches than memory is good for.
    """
    if len(classes) > 255 or any(not 0 <= value <= 255 for value in classes):
        raise UsageError(f"class values {sorted(classes)} do not fit a class raster. Expected at most 255 of 0..255.")
    check_names(map(layer_name, classes.values()))
    with ExitStack() as stack:
        labels = stack.enter_context(open_class_raster(raster, ["uint8"]))
        known = None if confidence is None else stack.enter_context(open_class_raster(confidence, ["uint8"]))
        if known is not None and known.shape != labels.shape:
            raise UsageError(
                f"{confidence} is {known.width}x{known.height} pixels, the class raster "
                f"{labels.width}x{labels.height}. Expected the confidence raster of the same run."
            )
        bands = _Bands(labels, known, classes)
        grid = bands.grid
        if min_area_m2 and grid.gsd is None and gsd is None:
            raise UsageError(
                f"min_area_m2={min_area_m2:g} means nothing without a CRS ({raster}). Expected the size of a pixel: "
                "give --gsd METRES."
            )
        least = int(_SURELY * min_area_m2 / (grid.gsd or gsd or 1) ** 2)
        values = [value for value in classes if value != labels.nodata]
        patches = trace(bands, values, subpixel=False, min_pixels=least)
    frame = _frame(patches, grid, bands.source if source is None else source)
    if min_area_m2:
        area_m2 = frame["area_px"] * (gsd or 0) ** 2 if grid.gsd is None else frame["area_m2"]
        frame = frame[area_m2 >= min_area_m2]
    return {name: _of_class(frame, value, name) for value, name in classes.items()}


def _read(dataset: DatasetReader, window: Window) -> np.ndarray:
    found: np.ndarray = dataset.read(1, window=RasterWindow(window.col, window.row, window.width, window.height))
    return found


def _model(dataset: DatasetReader) -> str:
    """The model that predicted a raster, as its tags say: architecture and the start of the checkpoint's digest."""
    tags = dataset.tags()
    return f"{tags.get('GEOSEG_ARCH', '')} {tags.get('GEOSEG_CHECKPOINT', '')[:12]}".strip()


def _frame(patches: Patches, grid: Grid, source: str) -> geopandas.GeoDataFrame:
    """The features of all classes."""
    frame = geopandas.GeoDataFrame(
        {"class": patches.value, **sizes(patches, grid)},
        geometry=patches.polygons(grid.transform),
        crs=CRS.from_wkt(grid.crs) if grid.crs else None,
    )
    frame["holes"] = patches.holes
    frame["prob"], frame["prob_min10"] = patches.prob.round(4), patches.prob_min10.round(4)
    frame["method"], frame["source"] = "raw", source
    return frame


def _of_class(frame: geopandas.GeoDataFrame, value: int, name: str) -> geopandas.GeoDataFrame:
    """The rows of one class, numbered, with the fields in their final order."""
    rows = frame[frame["class"] == value].reset_index(drop=True)
    rows.insert(0, "id", np.arange(1, len(rows) + 1))
    rows.insert(2, "name", name)
    return rows
