"""Open files while data are read: a few at a time, each opened once for many windows; and whether they fit."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from geoseg.errors import LabelsError, ShapeError
from geoseg.grid import Grid
from geoseg.scene import Scene
from geoseg.scene.stack import Stack

_OPEN = 8
"""Scenes that are open at once."""
_OFF = 0.5
"""Pixels by which labels may lie beside their image: coordinates are rounded by many programs."""

Bands = Sequence[int | str] | None


class OpenFiles:
    """Scenes by path and bands. For one thread."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[tuple[Path, ...], tuple[int | str, ...] | None], Scene | Stack] = OrderedDict()

    def scene(self, paths: Sequence[Path], bands: Bands = None) -> Scene | Stack:
        """A scene, or several files as one, valid until eight others were asked for; `bands` is of every file.

        Raises:
            SceneError: If a file cannot be opened, or does not lie on the first.
            BandError: If it lacks a band.
        """
        key = tuple(paths), None if bands is None else tuple(bands)
        if key not in self._open:
            while len(self._open) >= _OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[key] = _opened(paths, bands)
        self._open.move_to_end(key)
        return self._open[key]

    def single(self, path: Path) -> Scene:
        """One file with all its bands but alpha."""
        scene = self.scene((path,))
        assert isinstance(scene, Scene)  # noqa: S101  one path is no stack
        return scene

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> "OpenFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_place(path: Path, grid: Grid, image: Grid) -> None:
    """Refuse a raster that does not lie on its image pixel by pixel; without a georeference only its size counts.

    Raises:
        ShapeError: If the sizes differ.
        LabelsError: If both say where they lie, and it is elsewhere.
    """
    if grid.shape != image.shape:
        raise ShapeError(f"{path} is {grid.shape[::-1]} pixels, its image {image.shape[::-1]}. Expected equal sizes.")
    if grid.in_pixels or image.in_pixels:
        return
    row, col, off = image.place_of(grid)
    if max(abs(row), abs(col), off) > _OFF:
        theirs, ours = (", ".join(f"{value:.10g}" for value in one.transform[:6]) for one in (grid, image))
        raise LabelsError(
            f"{path} lies on other pixels than its image: its transform is ({theirs}), not ({ours}). Expected labels "
            "on the image. Bring them there with geoseg tile."
        )


def _opened(paths: Sequence[Path], bands: Bands) -> Scene | Stack:
    with ExitStack() as opened:
        scenes = [opened.enter_context(Scene.open(path, bands=bands)) for path in paths]
        whole = scenes[0] if len(scenes) == 1 else Stack(scenes)
        opened.pop_all()
        return whole
