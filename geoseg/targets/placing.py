"""Features brought to the CRS of a grid, and refused where they cannot belong to it."""

import logging
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS
from pyproj.exceptions import ProjError

from geoseg.errors import LabelsError
from geoseg.grid import Grid

log = logging.getLogger(__name__)

_FURTHEST_DEGREE = 400
"""A little beyond a full turn is met in honest files; metres are thousands."""


def on_grid(frames: Sequence[gpd.GeoDataFrame], path: Path, grid: Grid, *, what: str = "labels") -> list[np.ndarray]:
    """The geometries of each frame in the grid's CRS; together at least partly inside its extent.

    Args:
        frames: Of one file.
        path: The file.
        grid: The scene's.
        what: The features are, for messages.

    Raises:
        LabelsError: With both extents if nothing lies on the grid, or coordinates cannot be those of the declared CRS.
    """
    placed = [reprojected(frame, path, grid) for frame in frames]
    left, bottom, right, top = bounds = shapely.total_bounds(np.concatenate(placed))
    west, south, east, north = grid.bounds
    if not (left < east and right > west and bottom < north and top > south):
        way_out = "Check the file's CRS."
        if grid.crs is None and grid.in_pixels and -bottom > south and -top < north:
            way_out = "Its y has the other sign: multiply it by -1, in QGIS with 'Affine transform', scale factor y."
        raise LabelsError(
            f"{path} lies outside the scene: it spans {_extent(bounds)}, the scene {_extent(grid.bounds)} "
            f"(left, bottom, right, top in the scene's CRS). Expected {what} on the scene. {way_out}"
        )
    if grid.crs is None and any(frame.crs is not None for frame in frames):
        log.warning("the scene has no CRS: the coordinates of %s are taken as they are", path)
    elif grid.crs is not None and any(frame.crs is None for frame in frames):
        log.warning("%s has no CRS: the scene's is assumed", path)
    return placed


def reprojected(frame: gpd.GeoDataFrame, path: Path, grid: Grid) -> np.ndarray:
    """The geometries of a frame in the grid's CRS, wherever they lie.

    Raises:
        LabelsError: If coordinates cannot be those of the declared CRS, or the grid's cannot express them.
    """
    if grid.crs is not None and frame.crs is not None:
        bounds = frame.total_bounds
        if frame.crs.is_geographic and np.abs(bounds).max() > _FURTHEST_DEGREE:
            raise LabelsError(
                f"{path} declares degrees ({frame.crs.name}) but spans {_extent(bounds)}; the scene spans "
                f"{_extent(grid.bounds)} (left, bottom, right, top). Expected degrees. Declare the CRS it was drawn in."
            )
        try:
            crs = CRS.from_user_input(grid.crs)
            if not frame.crs.equals(crs, ignore_axis_order=True):
                frame = frame.to_crs(crs)
        except ProjError as err:
            raise LabelsError(
                f"{path} cannot be brought from {frame.crs.name} to the scene's CRS ({err}). Reproject it first."
            ) from err
    geometries = frame.geometry.to_numpy()
    if not np.isfinite(shapely.total_bounds(geometries)).all():
        raise LabelsError(f"{path} has coordinates that the scene's CRS cannot express. Check the file's CRS.")
    return geometries


def _extent(bounds: Sequence[float] | np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.10g}" for value in bounds) + ")"
