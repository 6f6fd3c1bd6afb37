"""Units: the images and scenes of a run before it is decided what of them is learnt and what is held back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from affine import Affine

from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.scene.content import may_lack_pixels
from geoseg.splits import Place, Survey, subtract
from geoseg.training.pieces import Decoded, Piece
from geoseg.training.sources.files import Bands, OpenFiles
from geoseg.training.sources.further import Further, somewhere
from geoseg.windows import Window

Split = Literal["train", "val"]
Target = Callable[[Window], np.ndarray]
"""(h, w) uint8 target of a window."""


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One image with its labels: a tile of a folder, a scene, a town."""

    name: str
    """The file, for messages."""
    source: str
    """Short name of the source, for scores."""
    group: str
    """The scene it is a part of, by which it may be split."""
    grid: Grid
    """Where its pixels lie."""
    bands: tuple[str, ...]
    """Names."""
    dtype: np.dtype
    """Of its pixels."""
    known: tuple[int, ...]
    """Classes that its labels tell apart."""
    counts: np.ndarray
    """(K,) labelled pixels of each class."""
    read: Callable[[Window], Decoded]
    """Decodes a window of it."""
    files: tuple[Path, ...]
    """All that `read` opens."""
    recipe: Mapping[str, Any]
    """All else that decides the pixels."""
    gsd: float | None
    """Metres per pixel, if known."""
    zoom: tuple[float, float]
    """As `Piece.zoom`."""
    survey: Survey | None = None
    """What is labelled where, of a unit that may be cut into blocks."""
    split: Split | None = None
    """What all of it is for, as the configuration has it."""
    listed: str | None = None
    """`train`, `val` or `none`, as a manifest or a list in the folder has it."""
    boxes: "Boxes | None" = None
    """Windows to learn from and to validate on, as the configuration has them."""

    @property
    def frame(self) -> Window:
        """The smallest window round all that is labelled, where that is known."""
        return self.survey.frame if self.survey else self.grid.window


@dataclass(frozen=True, slots=True)
class Boxes:
    """Windows that a source names."""

    train: tuple[Window, ...] | None
    """To learn from; None: all that is not validated on."""
    val: tuple[Window, ...]
    """To validate on."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A window of a unit, and what it is for."""

    unit: Unit
    split: Split
    window: Window
    """In the unit's pixels."""
    without: tuple[Window, ...] = ()
    """Where nothing is learnt: validation windows, and the gap round them."""

    @property
    def learnt(self) -> list[Window]:
        """The window without what is left out."""
        return subtract(self.window, self.without)

    @property
    def places(self) -> list[Place]:
        """For the leak audit."""
        unit = self.unit
        name = unit.name if self.window == unit.grid.window else f"{unit.name} {span(self.window)}"
        return [Place(name, unit.name, window, unit.grid) for window in self.learnt]

    def piece(self, dtype: np.dtype, share: float, side: int = 0) -> Piece:
        """What is decoded, as `dtype`: the window, and what samples of `side` pixels show round it if it is smaller."""
        unit, window = self.unit, self._shown(side)
        nothing = [*self.without, *subtract(window, [self.window])]
        inside = [common for other in nothing if (common := window.intersection(other))]

        def read(part: Window) -> Decoded:
            own = replace(part, row=part.row + window.row, col=part.col + window.col)
            found = unit.read(own)
            for hole in inside:
                if common := own.intersection(hole):
                    place = common.slices(own)
                    found.target[place] = IGNORE
                    for plane in found.further.values():
                        plane[:, *place] = np.nan
            return replace(found, data=found.data.astype(dtype, copy=False))

        return Piece(
            name=unit.name,
            source=unit.source,
            split=self.split,
            grid=Grid(window.shape, unit.grid.window_transform(window), unit.grid.crs),
            bands=unit.bands,
            dtype=dtype,
            known=unit.known,
            read=read,
            files=unit.files,
            recipe={
                **unit.recipe,
                "window": _edges(window),
                "without": [_edges(hole) for hole in inside],
                "dtype": dtype.name,
            },
            gsd=unit.gsd,
            zoom=unit.zoom,
            share=share,
            frame=replace(self.window, row=self.window.row - window.row, col=self.window.col - window.col),
        )

    def _shown(self, side: int) -> Window:
        """The window with all that a sample of `side` pixels that holds all of it may show besides."""
        down, across = max(0, side - self.window.height), max(0, side - self.window.width)
        row, col = self.window.row - down, self.window.col - across
        around = Window(row=row, col=col, height=self.window.height + 2 * down, width=self.window.width + 2 * across)
        return around.intersection(self.unit.grid.window) or self.window


def span(window: Window) -> str:
    """A window as people write it: left, top, right, bottom."""
    return str(_edges(window))


def _edges(window: Window) -> list[int]:
    return [window.col, window.row, window.stop_col, window.stop_row]


def reader(files: OpenFiles, images: Sequence[Path], bands: Bands, target: Target | None, further: Further) -> Any:
    """What decodes windows of an image; without a `target`, that says where further heads know something."""

    def read(window: Window) -> Decoded:
        tile = files.scene(images, bands).read(window)
        more = further.read(window)
        truth = somewhere(more, window) if target is None else target(window).copy()
        truth[~tile.valid] = IGNORE
        for plane in more.values():
            plane[:, ~tile.valid] = np.nan
        return Decoded(tile.data, tile.valid, truth, more)

    return read


def valid_pixels(files: OpenFiles, images: Sequence[Path], bands: Bands) -> Callable[[Window], np.ndarray] | None:
    """What gives the (h, w) bool valid pixels of a window of an image; None where all are, by what its files say."""
    if not any(map(may_lack_pixels, files.scene(images, bands).parts)):
        return None
    return lambda window: files.scene(images, bands).read(window).valid


def usable_target(
    files: OpenFiles, images: Sequence[Path], bands: Bands, target: Target | None, further: Further
) -> Target:
    """The target as `reader` has it, without reading more of the image than whether it has pixels there."""
    valid = valid_pixels(files, images, bands)

    def usable(window: Window) -> np.ndarray:
        truth = somewhere(further.read(window), window) if target is None else target(window)
        columns = np.flatnonzero((truth != IGNORE).any(axis=0))
        if not valid or not columns.size:
            return truth
        first, last = int(columns[0]), int(columns[-1])
        near = Window(row=window.row, col=window.col + first, height=window.height, width=last - first + 1)
        truth = truth.copy()
        truth[:, first : last + 1][~valid(near)] = IGNORE
        return truth

    return usable


def describe(grid: Grid) -> dict[str, Any]:
    """A grid as JSON has it."""
    return {"shape": list(grid.shape), "transform": list(grid.transform[:6]), "crs": grid.crs}


def described(about: Mapping[str, Any]) -> Grid:
    """The grid of such a description."""
    return Grid(tuple(about["shape"]), Affine(*about["transform"]), about["crs"])


def describe_survey(survey: Survey) -> dict[str, Any]:
    """A survey as JSON has it."""
    return {"frame": _edges(survey.frame), "side": survey.side, "counts": survey.counts.tolist()}


def surveyed(about: Mapping[str, Any]) -> Survey:
    """The survey of such a description."""
    return Survey(window_of(about["frame"]), about["side"], np.array(about["counts"], np.int64))


def window_of(box: Sequence[int]) -> Window:
    """The window of left, top, right, bottom."""
    left, top, right, bottom = box
    return Window(row=top, col=left, height=bottom - top, width=right - left)
