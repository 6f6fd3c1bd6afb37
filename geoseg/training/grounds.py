"""From the sources of a configuration to labelled ground in memory, split into training and validation."""

import glob
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from geoseg.config import Box, FolderSource, SceneSource, TownSource, TrainConfig, resolve_path
from geoseg.errors import BandError, LabelsError, ShapeError, TrainingError
from geoseg.grid import Grid
from geoseg.scene import Scene
from geoseg.scene.stack import Stack
from geoseg.synthetic import CLASSES as TOWN_CLASSES
from geoseg.synthetic import draw_town
from geoseg.targets import is_vector_file, labelled_area, read_labels
from geoseg.training.samples import IGNORED, Ground, file_list
from geoseg.windows import Window

log = logging.getLogger(__name__)

_SIDECARS = {".xml", ".tfw", ".jgw", ".pgw", ".wld", ".prj", ".ovr", ".msk"}
"""Files beside an image that belong to it and are none themselves."""
_FEW = 100
"""A class with fewer training pixels than this is warned about."""
_STRIP = 1024
"""Rows looked at in one go when the labelled part of a scene is searched."""

Target = Callable[[Window], np.ndarray]
"""(h, w) uint8 target of a window of a scene."""
Further = Callable[[Window], dict[str, np.ndarray]]
"""(bands, h, w) float32 targets of the further heads of a window, NaN where nothing is known."""


@dataclass(frozen=True, slots=True)
class Data:
    """All labelled ground of a run."""

    train: list[Ground]
    """Where samples are cut."""
    val: list[Ground]
    """Where the model is scored; may be empty."""
    bands: tuple[str, ...]
    """Names, as the first source has them."""


def load_data(config: TrainConfig, *, started: bool = False) -> Data:
    """Read every source of a configuration.

    Raises:
        TrainingError: If there are no sources, or nothing is left to train on.
        LabelsError: If labels are missing, of another size, or hold nothing to learn.
        BandError: If the sources differ in number of bands or in dtype.
        SceneError: If an image cannot be read.
    """
    if not config.data.sources:
        raise TrainingError(
            "data.sources is empty. Expected folders, scenes with labels, or synthetic towns to learn from."
        )
    loader = _Loader(config)
    for source in config.data.sources:
        match source:
            case SceneSource():
                parts = loader.scene(source)
            case FolderSource():
                parts = loader.folder(source)
            case TownSource():
                parts = loader.towns(source)
        loader.add(source.weight, *parts)
    data = Data(loader.train, loader.val, loader.bands)
    _check(data, config, started)
    return data


class _Loader:
    """Reads one source after the other and remembers what they must agree in."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.train: list[Ground] = []
        self.val: list[Ground] = []
        self.bands: tuple[str, ...] = ()
        self.first: Ground | None = None

    def add(self, weight: float, train: list[Ground], val: list[Ground]) -> None:
        """Take over the ground of one source; its weight is shared out by area."""
        for ground in [*train, *val]:
            self._check_bands(ground)
        if weight:
            area = sum(ground.target.size for ground in train)
            self.train += [replace(ground, share=weight * ground.target.size / area) for ground in train]
        self.val += val

    def _check_bands(self, ground: Ground) -> None:
        first = self.first = self.first or ground
        if len(ground.data) != len(first.data) or ground.data.dtype != first.data.dtype:
            theirs, ours = (f"{len(g.data)} bands of {g.data.dtype}" for g in (ground, first))
            raise BandError(
                f"{ground.name} has {theirs}, {first.name} has {ours}. Expected the same everywhere. "
                "Choose bands with 'bands' of the source."
            )

    def scene(self, source: SceneSource) -> tuple[list[Ground], list[Ground]]:
        """A scene and its labels; only labelled ground is read."""
        said = source.scenes[0]
        with _open([resolve_path(text) for text in source.scenes], source.bands) as scene:
            self.bands = self.bands or tuple(band.name for band in scene.bands)
            paths = {name: resolve_path(text) for name, text in source.targets.items()}
            further = self._further(paths, scene.grid)
            target, known = self._targets(source, scene.grid, further)
            frame = labelled_window(target, scene.grid)
            if frame is None:
                files = source.labels or " and ".join(source.targets.values())
                raise LabelsError(f"{files}: nothing is labelled in {said}. Expected labelled pixels.")
            train, val = _split(source, scene.grid, frame, self.config.data.val)
            gsd, zoom = source.gsd or scene.grid.gsd, source.zoom or self.config.augmentation.zoom

            def ground(window: Window, *without: Window) -> Ground:
                tile, truth = scene.read(window), target(window).copy()
                for other in without:
                    if common := window.intersection(other):
                        truth[common.slices(window)] = IGNORED
                truth[~tile.valid] = IGNORED
                more = further(window)
                for plane in more.values():
                    plane[:, ~tile.valid] = np.nan
                    for other in without:
                        if common := window.intersection(other):
                            plane[:, *common.slices(window)] = np.nan
                grid = Grid(window.shape, scene.grid.window_transform(window), scene.grid.crs)
                name = Path(said).stem
                return Ground(said, name, tile.data, tile.valid, truth, grid, known, gsd, zoom, further=more)

            return [ground(window, *val) for window in train], [ground(window) for window in val]

    def _targets(self, source: SceneSource, grid: Grid, further: Further) -> tuple[Target, tuple[int, ...]]:
        """How the target of a window is had, and the classes it tells apart."""
        names = self.config.class_names
        if self.config.main_head is None or source.labels is None:
            return (lambda window: _somewhere(further(window), window)), tuple(range(len(names)))
        path = resolve_path(source.labels)
        if is_vector_file(path):
            labels = read_labels(
                path, grid=grid, class_names=names, class_field=source.class_field, default_class=source.class_name
            )
            drawn: Target = labels.target
            known = self._known(source.known, labels.present, path)
        else:
            drawn = self._raster(path, grid.shape, source.values)
            known = self._known(source.known, names[1:], path)
        if source.labelled_area is None:
            return drawn, known
        area = labelled_area(resolve_path(source.labelled_area), grid)
        return lambda window: np.where(area.valid(window), drawn(window), np.uint8(IGNORED)), known

    def _further(self, paths: Mapping[str, Path], grid: Grid) -> Further:
        """How the targets of the further heads are had; NaN where a source has none."""
        heads = self.config.further_heads
        counts = {name: len(head.classes) if head.task == "multilabel" else 1 for name, head in heads.items()}
        for name, path in paths.items():
            with Scene.open(path) as scene:
                if scene.grid.shape != grid.shape:
                    sizes = f"{scene.grid.shape[::-1]} pixels, its image {grid.shape[::-1]}"
                    raise ShapeError(f"{path} is {sizes}. Expected equal sizes.")
                if len(scene.bands) != counts[name]:
                    raise LabelsError(
                        f"{path} has {len(scene.bands)} bands. Expected {counts[name]}: head {name!r} is "
                        f"{heads[name].task}{', a band for each class' if counts[name] > 1 else ''}."
                    )

        def read(window: Window) -> dict[str, np.ndarray]:
            found = {name: np.full((count, *window.shape), np.nan, np.float32) for name, count in counts.items()}
            for name, path in paths.items():
                with Scene.open(path) as scene:
                    tile = scene.read(window)
                values = tile.data.astype(np.float32)
                values[:, ~tile.valid] = np.nan
                if heads[name].classes:
                    values[values == IGNORED] = np.nan
                    most = len(heads[name].classes) - 1 if heads[name].exclusive else 1
                    if (odd := values[~np.isin(values, range(most + 1)) & ~np.isnan(values)]).size:
                        raise LabelsError(f"{path} has the value {odd[0]:g}. Expected 0 to {most}, or 255 for unknown.")
                found[name] = values
            return found

        return read

    def _known(self, said: Sequence[str] | None, present: Sequence[str], path: Path) -> tuple[int, ...]:
        """Indices of the classes that labels tell apart: those said, else those drawn; if all are, the first too."""
        names = self.config.class_names
        if said is None:
            said = present if set(present) < set(names[1:]) else names
            if missing := [name for name in names[1:] if name not in said]:
                log.warning("%s has no %s: there, it is not told from %s.", path, " and no ".join(missing), names[0])
        return tuple(index for index, name in enumerate(names) if name in said)

    def _raster(self, path: Path, shape: tuple[int, int], values: dict[int, str] | None) -> Target:
        """The target from a label raster, read whole: it is one byte a pixel."""
        with Scene.open(path) as scene:
            if scene.grid.shape != shape:
                raise ShapeError(
                    f"{path} is {scene.grid.shape[::-1]} pixels, its image {shape[::-1]}. Expected equal sizes."
                )
            if len(scene.bands) != 1 or scene.dtype.kind not in "iu":
                has = f"{len(scene.bands)} bands of {scene.dtype}"
                raise LabelsError(f"{path} has {has}. Expected one band of whole numbers, or a palette.")
            tile = scene.read(scene.grid.window)
        target = self._indices(tile.data[0], path, values)
        target[~tile.valid] = IGNORED
        return lambda window: target[window.slices()]

    def _indices(self, raw: np.ndarray, path: Path, values: dict[int, str] | None) -> np.ndarray:
        names = self.config.class_names
        if values is None:
            values = dict(enumerate(names))
            odd = sorted(set(np.unique(raw).tolist()) - set(values) - {IGNORED})
            if odd:
                raise LabelsError(
                    f"{path} has the value {odd[0]}. Expected class indices 0 to {len(names) - 1}, or 255 for unknown. "
                    "Say what values mean with 'values' of the source."
                )
        target = np.full(raw.shape, IGNORED, np.uint8)
        for value, name in values.items():
            target[raw == value] = names.index(name)
        return target

    def folder(self, source: FolderSource) -> tuple[list[Ground], list[Ground]]:
        """Images with a label raster each."""
        folder = resolve_path(source.folder)
        patterns = {"": source.labels} if self.config.main_head else {}
        patterns |= source.targets
        if not patterns:
            raise LabelsError(f"data={source.folder} names no targets. Expected a pattern for at least one head.")
        found = {name: find_pairs(folder, source.images, pattern) for name, pattern in patterns.items()}
        images = [image for image, _ in next(iter(found.values()))]
        beside = [{name: pairs[at][1] for name, pairs in found.items()} for at in range(len(images))]
        grounds = [self._pair(source, image, files) for image, files in zip(images, beside, strict=True)]
        if source.split:
            return (grounds, []) if source.split == "train" else ([], grounds)
        kept = min(math.ceil(len(grounds) * self.config.data.val), len(grounds) - 1)
        return grounds[: len(grounds) - kept], grounds[len(grounds) - kept :]

    def _pair(self, source: FolderSource, image: Path, files: Mapping[str, Path]) -> Ground:
        with Scene.open(image, bands=source.bands) as scene:
            self.bands = self.bands or tuple(band.name for band in scene.bands)
            tile, grid = scene.read(scene.grid.window), scene.grid
        more = self._further({name: path for name, path in files.items() if name}, grid)(grid.window)
        for plane in more.values():
            plane[:, ~tile.valid] = np.nan
        known = tuple(range(len(self.config.classes)))
        if "" in files:
            target = self._raster(files[""], grid.shape, source.values)(grid.window)
            known = self._known(source.known or self.config.class_names, (), files[""])
        else:
            target = _somewhere(more, grid.window)
        target[~tile.valid] = IGNORED
        gsd, zoom = source.gsd or grid.gsd, source.zoom or self.config.augmentation.zoom
        name = Path(source.folder).name
        return Ground(str(image), name, tile.data, tile.valid, target, grid, known, gsd, zoom, further=more)

    def towns(self, source: TownSource) -> tuple[list[Ground], list[Ground]]:
        """Drawn towns. Their classes are found by name; a class that towns do not have is not known there."""
        names = self.config.class_names
        self.bands = self.bands or ("red", "green", "blue")
        place = np.array([names.index(name) if name in names else 0 for name in TOWN_CLASSES], np.uint8)
        known = tuple(index for index, name in enumerate(names) if name in TOWN_CLASSES)
        low, high = np.log(source.gsd_range)
        grounds = []
        for seed in range(source.seed, source.seed + source.synthetic):
            gsd = float(np.exp(np.random.default_rng(seed).uniform(low, high)))
            town = draw_town((source.size, source.size), gsd, seed)
            target = town.target()
            target[town.valid] = place[target[town.valid]]
            zoom = source.zoom or self.config.augmentation.zoom
            more = self._further({}, town.grid)(town.grid.window)
            grounds.append(
                Ground(
                    f"town {seed}", "towns", town.image, town.valid, target, town.grid, known, gsd, zoom, further=more
                )
            )
        return (grounds, []) if source.split == "train" else ([], grounds)


def _open(paths: Sequence[Path], bands: Sequence[int | str] | None) -> Scene | Stack:
    """A scene, or several dates as one; `bands` is chosen from every file."""
    with ExitStack() as opened:
        scenes = [opened.enter_context(Scene.open(path, bands=bands)) for path in paths]
        whole = scenes[0] if len(scenes) == 1 else Stack(scenes)
        opened.pop_all()
        return whole


def find_pairs(folder: Path, images: str, labels: str) -> list[tuple[Path, Path]]:
    """Every image that the pattern finds, in natural order of name, with its label raster.

    Raises:
        LabelsError: If the folder or an image's label raster is missing, or there are several for one image.
    """
    if not folder.is_dir():
        raise LabelsError(f"data={folder} is not a folder. Expected a folder with images/ and labels/.")
    found = [path for path in folder.glob(images) if path.is_file() and path.suffix.lower() not in _SIDECARS]
    found = sorted((path for path in found if not path.name.startswith(".")), key=_natural)
    if not found:
        raise LabelsError(
            f"{folder} has no images that match {images!r}. Expected images/ and labels/ with equal names."
        )
    pairs = []
    for image in found:
        parent = glob.escape(image.parent.relative_to(folder).as_posix())
        pattern = labels.format(stem=glob.escape(image.stem), parent=parent)
        matches = [path for path in folder.glob(pattern) if path.suffix.lower() not in _SIDECARS]
        if len(matches) != 1:
            many = f"{len(matches)} label rasters" if matches else "no label raster"
            raise LabelsError(f"{image} has {many} that match {pattern!r} in {folder}. Expected one.")
        pairs.append((image, matches[0]))
    return pairs


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which tile_2 comes before tile_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.as_posix())]


def _somewhere(further: Mapping[str, np.ndarray], window: Window) -> np.ndarray:
    """A target that says no more than where any of the further heads knows something: 0 there, 255 elsewhere."""
    known = np.zeros(window.shape, bool)
    for plane in further.values():
        known |= ~np.isnan(plane).any(0)
    return np.where(known, np.uint8(0), np.uint8(IGNORED))


def labelled_window(target: Target, grid: Grid) -> Window | None:
    """The smallest window round all pixels of which something is known, or None; the scene is looked at in strips."""
    rows, cols = np.zeros(grid.height, bool), np.zeros(grid.width, bool)
    for row in range(0, grid.height, _STRIP):
        strip = Window(row=row, col=0, height=min(_STRIP, grid.height - row), width=grid.width)
        known = target(strip) != IGNORED
        rows[row : strip.stop_row] = known.any(axis=1)
        cols |= known.any(axis=0)
    if not rows.any():
        return None
    (top, bottom), (left, right) = np.flatnonzero(rows)[[0, -1]], np.flatnonzero(cols)[[0, -1]]
    return Window(row=int(top), col=int(left), height=int(bottom - top) + 1, width=int(right - left) + 1)


def _split(
    source: SceneSource, grid: Grid, frame: Window, share: float
) -> tuple[tuple[Window, ...], tuple[Window, ...]]:
    """Training and validation windows, each within the labelled `frame`."""
    train = None if source.train is None else [_window(box) for box in source.train]
    val = None if source.val is None else [_window(box) for box in source.val]
    for window in (*(train or ()), *(val or ())):
        if window != window.intersection(grid.window):
            raise LabelsError(
                f"{source.scenes[0]} is {grid.width}x{grid.height}; window [{window.col}, {window.row}, "
                f"{window.stop_col}, {window.stop_row}] sticks out. Expected windows inside the scene."
            )
    if val is None and train is None:
        first, last = _cut_edge(frame, share)
        return (first,), ((last,) if last else ())
    return _within(train or (frame,), frame), _within(val or (), frame)


def _window(box: Box) -> Window:
    left, top, right, bottom = box
    return Window(row=top, col=left, height=bottom - top, width=right - left)


def _within(some: Iterable[Window], frame: Window) -> tuple[Window, ...]:
    common = (window.intersection(frame) for window in some)
    return tuple(window for window in common if window)


def _cut_edge(frame: Window, share: float) -> tuple[Window, Window | None]:
    """The window without its last `share` along the longer side, and that part."""
    tall = frame.height >= frame.width
    kept = round(share * max(frame.shape))
    if not kept or kept == max(frame.shape):
        return frame, None
    if tall:
        top = replace(frame, height=frame.height - kept)
        return top, Window(row=top.stop_row, col=frame.col, height=kept, width=frame.width)
    left = replace(frame, width=frame.width - kept)
    return left, Window(row=frame.row, col=left.stop_col, height=frame.height, width=kept)


def pixels_per_class(grounds: Iterable[Ground], classes: int) -> np.ndarray:
    """(classes,) pixels labelled each class, where the labels tell it from the others."""
    counts = np.zeros(classes, np.int64)
    for ground in grounds:
        own = np.bincount(ground.target.ravel(), minlength=256)[:classes]
        own[[index for index in range(classes) if index not in ground.known]] = 0
        counts += own
    return counts


def _check(data: Data, config: TrainConfig, started: bool) -> None:
    """Refuse what nothing can be learnt from. What a checkpoint knows need not be learnt again."""
    if not data.train:
        raise TrainingError("no source has training ground and a weight above 0. Expected at least one.")
    counts = pixels_per_class(data.train, len(config.classes))
    names = file_list(data.train)
    if all((ground.target == IGNORED).all() for ground in data.train):
        raise LabelsError(f"every training pixel is ignored ({names}). Expected labelled pixels.")
    for name in config.further_heads:
        if all(np.isnan(ground.further[name]).all() for ground in data.train):
            raise LabelsError(
                f"no training pixel has a target of head {name!r} ({names}). Expected some. Name its files."
            )
    if config.main_head is None:
        return
    for index, item in enumerate(config.classes):
        if index and not counts[index] and started and counts[1:].any():
            log.warning("No training pixel is labelled %r: it stays as the checkpoint knows it.", item.name)
            continue
        if index and not counts[index]:
            raise LabelsError(
                f"no training pixel is labelled {item.name!r} ({names}). Expected some of every class. "
                "Leave the class out with --classes, or add labels of it."
            )
        if index and counts[index] < _FEW:
            log.warning("Only %d training pixels are labelled %r.", counts[index], item.name)
