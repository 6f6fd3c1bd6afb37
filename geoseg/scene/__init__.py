"""Scene: the only raster reader. Bands, valid pixels, windowed reads of local files and of URLs."""

import json
import math
import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio import windows
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader
from rasterio.rpc import RPC

from geoseg.batches import Tile
from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.scene.bands import Band, choose_bands
from geoseg.scene.base import Opened, Source
from geoseg.scene.georeference import grid_of
from geoseg.scene.opening import check_blocks, door, driver_for, is_remote, options_for, reading_options
from geoseg.windows import Window

__all__ = ["Band", "Scene", "SceneSource"]

_FURTHEST_LON, _FURTHEST_LAT = 540, 91  # longitudes may go round from any start; pixels' middles may lie on the poles
_opening = threading.Lock()  # warnings.catch_warnings, used while opening, is not thread-safe


@dataclass(frozen=True)
class SceneSource(Source):
    """All that is needed to open a scene again, in another thread or process."""

    path: str
    """Absolute path, or URL."""
    bands: tuple[int, ...]
    """Band numbers, from 1, in the order they are read."""
    nodata: float | None = None
    """Overrides the value the file declares. Infinity: no value at all (as NaN, which is not equal to itself)."""

    @property
    def parts(self) -> "tuple[SceneSource, ...]":
        """The source itself, as that of a stack has several."""
        return (self,)

    @property
    def paths(self) -> tuple[str, ...]:
        """The only path."""
        return (self.path,)

    def open(self) -> "Scene":
        """The scene, with a handle of its own.

        Raises:
            SceneError: If it cannot be opened.
        """
        return Scene.open(self.path, bands=self.bands, nodata=self.nodata)


class Scene(Opened):
    """A georeferenced input raster, open for reading: a Reader. Made by `Scene.open`; one per thread.

    A pixel is valid as GDAL's dataset mask has it, over the chosen bands. With an alpha band: where that is not 0.
    Else, with a mask: where that says so. Else: where any band differs from nodata. And every band must be finite.
    """

    def __init__(self, path: str, dataset: DatasetReader, bands: tuple[Band, ...], nodata: float | None):
        self.path = path
        """As given."""
        self.bands = bands
        """The chosen ones, in the order they are read."""
        self._dataset = dataset
        self._indexes = [band.index for band in bands]
        self._override = nodata
        self._gdal = reading_options(path, dataset)
        self._alpha = next((i for i, color in enumerate(dataset.colorinterp, 1) if color is ColorInterp.alpha), None)
        flags = dataset.mask_flag_enums[self._indexes[0] - 1]
        self._has_mask = self._alpha is None and MaskFlags.per_dataset in flags

    @classmethod
    def open(
        cls, path: str | Path, *, bands: Sequence[int | str] | None = None, nodata: float | None = None
    ) -> "Scene":
        """Open a scene.

        Args:
            path: A file (GeoTIFF, JPEG 2000, PNG, JPEG: told by content), or the URL of a GeoTIFF (http, s3, gs, az).
            bands: Numbers from 1, or names, in the order they are to be read; by default all but alpha.
            nodata: Overrides the value the file declares; an alpha band or mask holds beside it. NaN: no value.

        Raises:
            SceneError: If it cannot be opened, is of another format, holds complex numbers, or has huge blocks.
            BandError: If a band is not there, or bands have several types.
        """
        path = str(path)
        remote = is_remote(path)
        driver = "GTiff" if remote else driver_for(path)
        if nodata is not None and not math.isfinite(nodata):
            nodata = math.inf
        with door(path, "cannot be opened", options_for(remote)), _opening:
            name = path if remote else os.fsencode(Path(path).absolute()).decode()
            with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
                dataset = rasterio.open(name, driver=driver)
            try:
                chosen = choose_bands(path, dataset, bands)
                check_blocks(path, dataset)
                return cls(path, dataset, chosen, nodata)
            except BaseException:
                dataset.close()
                raise

    @cached_property
    def grid(self) -> Grid:
        """Shape, transform and CRS, as `grid_of` has them: without a transform, the scene lies where QGIS shows it."""
        with door(self.path, "has an unusable georeference", self._gdal):
            return grid_of(self._dataset)

    @property
    def source(self) -> SceneSource:
        """What opens this scene again."""
        path = self.path if is_remote(self.path) else str(Path(self.path).absolute())
        return SceneSource(path, tuple(self._indexes), self._override)

    @property
    def parts(self) -> "tuple[Scene, ...]":
        """The scene itself, as a stack has several."""
        return (self,)

    @property
    def cache_bytes(self) -> int:
        """Size of GDAL's block cache while this scene is read."""
        return int(self._gdal["GDAL_CACHEMAX"])

    @cache_bytes.setter
    def cache_bytes(self, size: int) -> None:
        self._gdal["GDAL_CACHEMAX"] = size

    @property
    def dtype(self) -> np.dtype:
        """Of the chosen bands."""
        return np.dtype(self._dataset.dtypes[self._indexes[0] - 1])

    @property
    def nodata(self) -> tuple[float | None, ...]:
        """The value in use per chosen band: the override, else what the file declares, else None."""
        if self._override is not None:
            return (self._override,) * len(self.bands)
        if self._alpha or self._has_mask:
            return (None,) * len(self.bands)
        return tuple(self._dataset.nodatavals[index - 1] for index in self._indexes)

    @property
    def alpha(self) -> int | None:
        """Number of the band that says what is opaque, and holds no data; None where there is none."""
        return self._alpha

    @property
    def gcps(self) -> tuple[list[GroundControlPoint], Any] | None:
        """Ground control points and their CRS (or None), if they place the scene; for the writer to carry."""
        points, crs = self._dataset.gcps
        return (points, crs) if points and self.grid.transform.is_identity else None

    @property
    def rpcs(self) -> RPC | None:
        """Rational polynomial coefficients, if the scene has them; for the writer to carry."""
        return self._dataset.rpcs

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the values 0, 1, ... of a class raster written by geoseg; empty for other rasters."""
        with door(self.path, "has unusable tags", self._gdal):
            text = self._dataset.tags().get("GEOSEG_CLASSES", "[]")
        try:
            names = json.loads(text)
        except ValueError:
            return ()
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def fingerprint(self) -> dict[str, Any]:
        """See `SceneSource.fingerprint`."""
        with door(self.path, "cannot be examined", self._gdal):
            # Masks, world files and .aux.xml decide pixels and georeference, too.
            names = [] if is_remote(self.path) else sorted(self._dataset.files)
            files = {Path(name).name: Path(os.fsdecode(name.encode())).stat() for name in names}
        # What was begun when such a scene lay elsewhere (its rows upwards) does not go on.
        placed = {"transform": list(self.grid.transform[:6])} if self.grid.in_pixels else {}
        return placed | {
            "path": self.source.path,  # equal names of equal size and age are met in folders of dates
            "shape": list(self.grid.shape),
            "dtype": self.dtype.name,
            "bands": list(self._indexes),
            "nodata": [None if value is None else repr(value) for value in self.nodata],
            "files": [[name, file.st_size, file.st_mtime_ns] for name, file in files.items()],
        }

    def remarks(self) -> list[str]:
        """What a user should know of this file before trusting a result, a phrase each."""
        dataset, grid = self._dataset, self.grid
        left, bottom, right, top = grid.bounds
        with door(self.path, "cannot be examined", self._gdal):
            bits = dataset.tags(self._indexes[0], ns="IMAGE_STRUCTURE").get("NBITS")
            images = len(dataset.subdatasets)
        said = {
            "is placed by ground control points: they are carried to the output, all else is in pixels": self.gcps,
            "is placed by RPCs: they are carried to the output, all else is in pixels": (
                self.rpcs and grid.transform.is_identity
            ),
            "has a CRS but no transform: its georeference is incomplete": grid.crs and grid.in_pixels,
            f"has a CRS in degrees and bounds that are none ({left:.6g}, {bottom:.6g}, {right:.6g}, {top:.6g})": (
                dataset.crs
                and dataset.crs.is_geographic
                and (max(-left, right) > _FURTHEST_LON or max(-bottom, top) > _FURTHEST_LAT)
            ),
            "holds several images: the first is read": images > 1,
            "holds indexes into a colour table, not brightness": ColorInterp.palette in dataset.colorinterp,
            f"holds values of {bits} bits, which are taken as they are": bits,
            "declares a nodata value beside an alpha band: the alpha band decides": (
                self._alpha and self._override is None and any(value is not None for value in dataset.nodatavals)
            ),
        }
        return [remark for remark, true in said.items() if true]

    def read(self, window: Window) -> Tile:
        """The pixels of a window that lies inside the scene, in the file's own dtype.

        Raises:
            UsageError: If the window sticks out of the scene.
            SceneError: If a block under it cannot be read; names rows and columns.
        """
        if window.intersection(self.grid.window) != window:
            raise UsageError(f"{window} sticks out of {self.path} ({self.grid.width}x{self.grid.height} pixels).")
        place = windows.Window(window.col, window.row, window.width, window.height)
        where = f"rows {window.row}-{window.stop_row - 1}, columns {window.col}-{window.stop_col - 1}"
        extra = [self._alpha] if self._alpha else []
        with door(self.path, f"cannot be read at {where}", self._gdal):
            data = self._dataset.read(self._indexes + extra, window=place)
            masked = self._dataset.read_masks(self._indexes[0], window=place) if self._has_mask else None
        if self._alpha:
            data, masked = data[:-1], data[-1]
        valid = _differs(data, self.nodata)
        if masked is not None:
            valid &= masked != 0
        if data.dtype.kind == "f":
            for plane in data:
                valid &= np.isfinite(plane)
        return Tile(data=data, valid=valid)

    def close(self) -> None:
        """Close the file. Reading is over."""
        self._dataset.close()

    def __repr__(self) -> str:
        return f"<Scene {self.path} {self.grid.width}x{self.grid.height} {self.dtype} bands={self._indexes}>"


def _differs(data: np.ndarray, nodata: Sequence[float | None]) -> np.ndarray:
    """(H, W) bool, True where any band differs from its nodata value, or has none that its type can hold."""
    valid = np.zeros(data.shape[1:], bool)
    for plane, value in zip(data, nodata, strict=True):
        if value is None or not _holds(plane.dtype, value):
            valid[:] = True
            break
        if plane.dtype.kind != "f":
            valid |= plane != plane.dtype.type(value)
        elif math.isnan(value):
            valid |= ~np.isnan(plane)
        else:
            # GDAL's tolerance: values come from text and from other types, such as -3.40282306e38.
            info = np.finfo(plane.dtype)
            slack = 4 * float(info.eps) * abs(value)
            low, high = max(value - slack, float(info.min)), min(value + slack, float(info.max))
            valid |= (plane < low) | (plane > high) | np.isnan(plane)
    return valid


def _holds(dtype: np.dtype, value: float) -> bool:
    if dtype.kind == "f":
        return not math.isinf(value)  # infinity is no data, whatever is declared
    return math.isfinite(value) and value == int(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
