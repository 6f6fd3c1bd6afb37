"""Stack: several files on one grid read as one scene, such as the dates of a series."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

from geoseg.batches import Tile
from geoseg.errors import SceneError, UsageError
from geoseg.grid import Grid, same_crs
from geoseg.scene import Scene, SceneSource
from geoseg.scene.base import OpenedScenes, SourceOfScenes
from geoseg.windows import Window

_SLACK_PIXELS = 1e-3
"""By which the corners of two files may lie apart: transforms come from text and from other programs."""
_MAX_CACHE_BYTES = 1 << 30
"""Of GDAL's block cache for all files together, however many they are."""


@dataclass(frozen=True)
class StackSource(SourceOfScenes):
    """All that is needed to open a stack again, in another thread or process."""

    scenes: tuple[SceneSource, ...]
    """Of the files, in order."""

    @property
    def parts(self) -> tuple[SceneSource, ...]:
        """Of the files, in order."""
        return self.scenes

    def open(self) -> "Stack":
        """The stack, with handles of its own.

        Raises:
            SceneError: If a file cannot be opened, or no longer fits the first.
        """
        with ExitStack() as opened:
            stack = Stack([opened.enter_context(scene.open()) for scene in self.scenes])
            opened.pop_all()
            return stack


class Stack(OpenedScenes):
    """Scenes on one grid, open for reading as one: a Reader. One per thread.

    Its bands are those of the first file, then those of the second, and so on. A pixel is valid where it is valid in
    every file: one that is missing at any date is nodata.
    """

    def __init__(self, scenes: Sequence[Scene]) -> None:
        """Take over open scenes, at least one, in order; they stay open if they are refused.

        Raises:
            SceneError: If two differ in size, CRS, transform or type.
            UsageError: If there is none.
        """
        if not scenes:
            raise UsageError("a stack of no scenes. Expected at least one.")
        self._scenes = tuple(scenes)
        first, *others = self.parts
        for other in others:
            _check_fit(first, other)
        # GDAL has one cache: each file's setting alone would drop what the others will need for the next tile.
        cache = min(sum(part.cache_bytes for part in self.parts), _MAX_CACHE_BYTES)
        for part in self.parts:
            part.cache_bytes = max(part.cache_bytes, cache)

    @property
    def parts(self) -> tuple[Scene, ...]:
        """The scenes it is made of."""
        return self._scenes

    @property
    def grid(self) -> Grid:
        """Of the first file."""
        return self.parts[0].grid

    @property
    def source(self) -> StackSource:
        """What opens this stack again."""
        return StackSource(tuple(part.source for part in self.parts))

    @property
    def gcps(self) -> tuple[list[GroundControlPoint], Any] | None:
        """As `Scene.gcps`, of the first file."""
        return self.parts[0].gcps

    @property
    def rpcs(self) -> RPC | None:
        """As `Scene.rpcs`, of the first file."""
        return self.parts[0].rpcs

    def fingerprint(self) -> dict[str, Any]:
        """See `StackSource.fingerprint`."""
        files = [part.fingerprint() for part in self.parts]
        return {
            "bands": [file.pop("bands") for file in files],
            "nodata": [file.pop("nodata") for file in files],
            "stack": files,
        }

    def read(self, window: Window) -> Tile:
        """The pixels of a window that lies inside the stack, all files' bands one after the other.

        Raises:
            UsageError: If the window sticks out of the stack.
            SceneError: If a block under it cannot be read; names file, rows and columns.
        """
        tiles = [part.read(window) for part in self.parts]
        return Tile(
            data=np.concatenate([tile.data for tile in tiles]),
            valid=np.logical_and.reduce([tile.valid for tile in tiles]),
        )

    def __repr__(self) -> str:
        return f"<Stack {', '.join(map(repr, self.parts))}>"


def _check_fit(first: Scene, other: Scene) -> None:
    if found := _differences(first, other):
        raise SceneError(
            f"{other.path} does not lie on {first.path}: {', '.join(found)}. "
            f"Expected files of one size, CRS and transform.{_way_out(first.grid, other)}"
        )
    if other.dtype != first.dtype:
        raise SceneError(
            f"{other.path} is {other.dtype}, but {first.path} is {first.dtype}. Expected one type in a stack. "
            "Bring them to one scale and type first."
        )


def _differences(first: Scene, other: Scene) -> list[str]:
    """In what two scenes are not on one grid, a phrase each."""
    a, b = first.grid, other.grid
    found = []
    if a.shape != b.shape:
        found.append(f"its size is {b.width}x{b.height} pixels, not {a.width}x{a.height}")
    if not same_crs(a.crs, b.crs):
        found.append(f"its CRS is {_crs_name(b.crs)}, not {_crs_name(a.crs)}")
    elif not (shift := _shift(a, b)) <= _SLACK_PIXELS:
        found.append(f"its transform puts it up to {shift:.3g} pixels away")
    elif _points(first) != _points(other):
        found.append("its ground control points or RPCs are others")
    return found


def _way_out(grid: Grid, other: Scene) -> str:
    """The command that brings a scene onto a grid, where there is a short one; `rio warp` would drop bands' names."""
    crs, turned = grid.crs and CRS.from_wkt(grid.crs).to_authority(), grid.transform.b or grid.transform.d
    if not crs or not other.grid.crs or turned or grid.transform.a < 0 or grid.transform.e > 0:
        return ""
    box = " ".join(map(str, grid.bounds))
    return f" Try: gdalwarp -t_srs {':'.join(crs)} -te {box} -ts {grid.width} {grid.height} {other.path} aligned.tif."


def _crs_name(wkt: str | None) -> str:
    """The name, which is the first text in quotes."""
    return wkt.split('"')[1] if wkt else "missing"


def _shift(a: Grid, b: Grid) -> float:
    """Pixels of `a` by which a corner of it lies elsewhere in `b`, at most; infinity where that has no answer."""
    if a.transform == b.transform or (a.in_pixels and b.in_pixels):
        return 0.0
    if a.transform.is_degenerate:
        return math.inf
    corners = [(col, row) for col in (0, a.width) for row in (0, a.height)]
    shifts = [math.dist(corner, ~a.transform @ (b.transform @ corner)) for corner in corners]
    return max(shifts) if all(map(math.isfinite, shifts)) else math.inf


def _points(scene: Scene) -> tuple[Any, ...]:
    """What places a scene without a transform, to compare it by."""
    if not (scene.grid.transform.is_identity and (scene.gcps or scene.rpcs)):
        return ()
    points, crs = scene.gcps or ([], None)
    return [(point.row, point.col, point.x, point.y, point.z) for point in points], crs, scene.rpcs
