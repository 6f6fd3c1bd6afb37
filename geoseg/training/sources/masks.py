"""Label rasters by what they hold: class indices, values or a palette with a meaning, or colours."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geoseg.errors import LabelsError
from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.scene import Scene
from geoseg.scene.content import palette_of
from geoseg.scene.opening import driver_for
from geoseg.training.sources.files import OpenFiles, check_place
from geoseg.windows import Window

log = logging.getLogger(__name__)

_BINARY = {0, 255}
_BLUR = 40
"""Levels by which a colour or value in a JPEG may be off in one band; what lies farther from all is ignored."""
_MANY = 1000
"""A raster with more values than this holds no classes."""
_STRIP_PIXELS = 1 << 22


@dataclass(frozen=True, slots=True)
class Meanings:
    """What a source says of its label rasters, as indices of classes."""

    names: tuple[str, ...]
    """The run's classes."""
    class_colors: Mapping[int, int]
    """Colour (red << 16 | green << 8 | blue) -> class, as the run draws them."""
    values: Mapping[int, int] | None = None
    """Value -> class, if said; values not listed are ignored."""
    colors: Mapping[int, int] | None = None
    """Colour -> class, if said; colours not listed are ignored."""

    @property
    def known_colors(self) -> Mapping[int, int]:
        """Those said, else those of the classes."""
        return self.class_colors if self.colors is None else self.colors


@dataclass(frozen=True, slots=True)
class Content:
    """What was found in one label raster."""

    path: Path
    """Of the file."""
    codes: Mapping[int, int]
    """Usable pixels by value; of three bands, by colour."""
    colored: bool
    """Whether it has three bands."""
    palette: Mapping[int, int] | None
    """Colour by value, of a file with a palette."""
    nodata: float | None = None
    """The value that the file declares to be no data, of which the source does not say what it means."""
    names: tuple[str, ...] = ()
    """What the file itself calls its values 0, 1, ..., as those of `geoseg tile` and `geoseg predict` do."""


def packed(color: str | Sequence[int]) -> int:
    """A colour, `#rrggbb` or three levels, as one number."""
    if isinstance(color, str):
        return int(color[1:], 16)
    return color[0] << 16 | color[1] << 8 | color[2]


def check_raster(scene: Scene, path: Path, image: Grid) -> None:
    """Refuse a raster that does not lie on its image, or no label raster.

    Raises:
        ShapeError: If the sizes differ.
        LabelsError: If it lies elsewhere, or has not one band of whole numbers, or three of 0 to 255.
    """
    check_place(path, scene.grid, image)
    if scene.dtype.kind not in "iu" or (len(scene.bands) != 1 and not _colored(scene)):
        bands = f"{len(scene.bands)} bands" if len(scene.bands) > 1 else "one band"
        other = " Values are learnt by a head of regression: see configs/unet_height.yaml." if _numbers(scene) else ""
        raise LabelsError(
            f"{path} has {bands} of {scene.dtype}. Expected one band of whole numbers or of a palette, or "
            f"colours.{other}"
        )


def _numbers(scene: Scene) -> bool:
    return len(scene.bands) == 1 and scene.dtype.kind == "f"


def _colored(scene: Scene) -> bool:
    return len(scene.bands) == 3 and scene.dtype == np.uint8


def read_codes(scene: Scene, window: Window, path: Path, meanings: Meanings) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) values of one band as they are, or colours as one number each; and where there are any.

    What the source says of a value holds, also where the file declares it to be no data. In a JPEG, whose values are
    blurred, codes are the nearest of those with a meaning, else -1.
    """
    tile = scene.read(window)
    said, valid = meanings.values or {}, tile.valid
    if meant := [value for value in scene.nodata if value is not None and value in said]:
        valid = valid | np.isin(tile.data[0], meant)
    if len(tile.data) == 1:
        if said and driver_for(str(path)) == "JPEG":
            return _snapped(tile.data, {value: (value,) for value in said}), valid
        return np.asarray(tile.data[0]), valid
    red, green, blue = (plane.astype(np.int32) for plane in tile.data)
    if driver_for(str(path)) == "JPEG":
        colors = {color: (color >> 16, color >> 8 & 255, color & 255) for color in meanings.known_colors}
        return _snapped(tile.data, colors), valid
    return np.asarray(red << 16 | green << 8 | blue), valid


def _snapped(planes: np.ndarray, levels: Mapping[int, Sequence[int]]) -> np.ndarray:
    """(h, w) int32 codes: of those with these levels, a band each, the nearest; -1 where all are far."""
    snapped, least = np.full(planes.shape[1:], -1, np.int32), np.full(planes.shape[1:], _BLUR + 1)
    for code, own in levels.items():
        off = np.max([np.abs(plane.astype(np.int32) - level) for plane, level in zip(planes, own, strict=True)], axis=0)
        snapped[off < least] = code
        least = np.minimum(off, least)
    return snapped


def content_of(
    scene: Scene, path: Path, meanings: Meanings, usable: Callable[[Window], np.ndarray] | None = None
) -> Content:
    """All values, or colours, of an open label raster, looked at in strips.

    Args:
        scene: The raster.
        path: Of it.
        meanings: What the source says of it.
        usable: Gives the (h, w) bool pixels of a window of the image that are valid; None: all are.

    Raises:
        LabelsError: If there are too many to be classes.
    """
    codes: dict[int, int] = {}
    step = max(1, _STRIP_PIXELS // scene.grid.width)
    for row in range(0, scene.grid.height, step):
        strip = Window(row=row, col=0, height=min(step, scene.grid.height - row), width=scene.grid.width)
        own, valid = read_codes(scene, strip, path, meanings)
        for code, count in _counted(own[valid & usable(strip) if usable else valid]):
            codes[code] = codes.get(code, 0) + count
        if len(codes) > _MANY:
            what = "colours" if _colored(scene) else "values"
            raise LabelsError(f"{path} has more than {_MANY} {what}. Expected a raster of classes, not a picture.")
    palette = palette_of(scene)
    colors = None if palette is None else {value: packed(color) for value, color in palette.items()}
    nodata = None if _colored(scene) or scene.nodata[0] in (meanings.values or {}) else scene.nodata[0]
    return Content(path, codes, _colored(scene), colors, nodata, scene.class_names)


def _counted(codes: np.ndarray) -> list[tuple[int, int]]:
    """How often each value occurs."""
    if codes.dtype == np.uint8:  # many times faster than sorting
        counts = np.bincount(codes, minlength=256)
        values = np.flatnonzero(counts)
        return list(zip(values.tolist(), counts[values].tolist(), strict=True))
    values, counts = np.unique(codes, return_counts=True)
    return list(zip(values.tolist(), counts.tolist(), strict=True))


def is_binary(contents: Iterable[Content], meanings: Meanings) -> bool:
    """Whether label rasters are of the kind where 255, all but the only value, is the second of two classes."""
    found: set[int] = set()
    for content in contents:
        if content.colored or content.palette is not None:
            return False
        found |= content.codes.keys()
    return found == _BINARY and len(meanings.names) == 2 and meanings.values is None and meanings.colors is None


def table_of(content: Content, meanings: Meanings, *, binary: bool = False) -> dict[int, int]:
    """Value or colour of a label raster -> class; what is not in it is ignored.

    Values said win over the names in the file, and these over a palette; a palette counts where it has the colours of
    the classes, or those said.

    Raises:
        LabelsError: If a value or colour is no class's, and nothing is said of what they mean.
    """
    if content.colored:
        if meanings.colors is None:
            _check_colors(content.path, content.codes.keys() - {-1}, meanings)
        return dict(meanings.known_colors)
    if meanings.values is not None:
        return dict(meanings.values)
    if content.names and meanings.colors is None:
        return _by_name(content, meanings.names)
    if content.palette is not None:
        known, used = meanings.known_colors, content.codes.keys() - {IGNORE}
        table = {value: known[color] for value, color in content.palette.items() if color in known}
        if meanings.colors is not None or (used and used <= table.keys()):
            return table
    if binary:
        return {0: 0, 255: 1}
    last = len(meanings.names) - 1
    if odd := sorted(content.codes.keys() - set(range(last + 1)) - {IGNORE}):
        hint = "'colors' of the source, or with 'values'" if content.palette else "'values' of the source"
        raise LabelsError(
            f"{content.path} has the value {odd[0]}. Expected class indices 0 to {last}, or 255 for unknown. "
            f"Say what values mean with {hint}."
        )
    return {index: index for index in range(last + 1)}


def _by_name(content: Content, names: Sequence[str]) -> dict[int, int]:
    """The first class is the first class, whatever it is called; classes that the run lacks are no more than that."""
    if odd := sorted(content.codes.keys() - set(range(len(content.names))) - {IGNORE}):
        last = len(content.names) - 1
        raise LabelsError(f"{content.path} has the value {odd[0]}, but names only those from 0 to {last}.")
    places = {name.casefold(): index for index, name in enumerate(names)}
    table = {value: places.get(name.casefold(), 0) for value, name in enumerate(content.names)}
    return table | {0: 0}


def named_in(contents: Sequence[Content], meanings: Meanings) -> tuple[str, ...] | None:
    """The run's classes after the first that all these label rasters name; None where they name none, or need not.

    Raises:
        LabelsError: If they have no class in common with the run.
    """
    if meanings.values is not None or meanings.colors is not None or not all(content.names for content in contents):
        return None
    named = [{name.casefold() for name in content.names[1:]} for content in contents]
    found = tuple(name for name in meanings.names[1:] if all(name.casefold() in own for own in named))
    if contents and not any(name.casefold() in own for name in meanings.names[1:] for own in named):
        theirs, ours = ", ".join(contents[0].names[1:]) or "no class", ", ".join(meanings.names[1:])
        raise LabelsError(
            f"{contents[0].path} knows {theirs}; the run has {ours}. Expected a class in common. Choose with "
            "--classes, or say what values mean with 'values' of the source."
        )
    return found if contents else None


def warn_of_nodata(content: Content, table: Mapping[int, int], names: Sequence[str]) -> bool:
    """Say that a value which stands for a class is declared to be no data, if it is; whether that was said."""
    if content.nodata is None or (index := table.get(int(content.nodata))) is None or content.nodata == IGNORE:
        return False
    value = int(content.nodata)
    log.warning(
        "%s declares %d as no data: it counts as unknown, not as %s. Say otherwise with 'values' of the source: "
        "{%d: %s, ...}.", content.path, value, names[index], value, names[index],
    )  # fmt: skip
    return True


def _check_colors(path: Path, codes: Iterable[int], meanings: Meanings) -> None:
    if odd := sorted(set(codes) - meanings.class_colors.keys()):
        known = ", ".join(f"#{color:06x} {meanings.names[index]}" for color, index in meanings.class_colors.items())
        raise LabelsError(
            f"{path} has three bands and the colour #{odd[0]:06x}, which is no class's. Expected {known}. Say what "
            "colours mean with 'colors' of the source, or give classes their 'color'."
        )


def raster_target(
    path: Path, meanings: Meanings, table: Callable[[], Mapping[int, int]], files: OpenFiles
) -> Callable[[Window], np.ndarray]:
    """What gives the (h, w) uint8 target of a window of a label raster, 255 where it is invalid or not in the table."""

    def target(window: Window) -> np.ndarray:
        codes, valid = read_codes(files.single(path), window, path, meanings)
        truth = apply_table(codes, table())
        truth[~valid] = IGNORE
        return truth

    return target


def apply_table(codes: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    """(h, w) uint8 class indices, 255 for codes that are not in the table."""
    if codes.dtype == np.uint8:
        place = np.full(256, IGNORE, np.uint8)
        for code, index in table.items():
            if 0 <= code <= 255:
                place[code] = index
        return place[codes]
    target = np.full(codes.shape, IGNORE, np.uint8)
    for code, index in table.items():
        target[codes == code] = index
    return target
