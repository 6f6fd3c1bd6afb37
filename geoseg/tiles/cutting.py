"""tile_scenes(): labelled tiles from scenes and labels, in windows: memory does not grow with the scenes."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from geoseg.batches import Tile
from geoseg.errors import LabelsError, UsageError
from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.scene import Scene
from geoseg.tiles.files import ImageForm, class_file, image_file, store, value_file, written_by_gdal
from geoseg.tiles.folder import NewFolder
from geoseg.tiles.labels import Legend, Truth, open_truth
from geoseg.tiles.lattice import count_windows, tile_windows
from geoseg.tiles.manifest import TileEntry, write_manifest
from geoseg.tiles.options import LabelOptions, TileOptions
from geoseg.tiles.parts import split_entries
from geoseg.tiles.sites import Site, survey
from geoseg.tiles.tiling import Tiling
from geoseg.windows import Window

_OURS = ("images", "labels", "manifest.csv")
"""What a folder must hold to be replaced."""
_GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it are spread over [0, 1) more evenly than chance would."""

Progress = Callable[[int, int], None]
"""Called with windows looked at, and all windows."""


def tile_scenes(
    scenes: Sequence[str | Path],
    labels: Sequence[str | Path],
    folder: str | Path,
    *,
    tiles: TileOptions | None = None,
    about: LabelOptions | None = None,
    areas: Sequence[str | Path] = (),
    overwrite: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Tiling:
    """Cut scenes and their labels into tiles of one size, and write them with a manifest that splits them.

    The folder holds images/ and labels/ with files of equal names, manifest.csv and manifest.gpkg; it appears when all
    of it is there. Tiles of the last row and column are shifted inwards; along a side shorter than a tile, pixels
    without data are added. An image tile has its scene's pixels, type, bands and CRS; a target tile is uint8 with 255
    where nothing is known, or float32 with NaN.

    Args:
        scenes: One or more rasters, of any CRS each.
        labels: One file for all scenes, or one for each: a vector layer, a raster of classes, a raster of floats.
        folder: To write.
        tiles: How scenes are cut.
        about: How targets follow from labels.
        areas: Polygons outside of which nothing is known: none, one file for all scenes, or one for each.
        overwrite: Replace a folder of tiles that exists.
        on_progress: Called after each window.

    Raises:
        UsageError: If options make no sense or do not go together.
        OutputExistsError: If the folder exists.
        OutputError: If it cannot be written.
        SceneError: If a raster cannot be read, or is placed by other things than a transform.
        BandError: If the scenes differ in their number of bands.
        LabelsError: If labels cannot be read, lie elsewhere, or hold nothing to learn.
    """
    tiles, about = tiles or TileOptions(), about or LabelOptions()
    if not scenes:
        raise UsageError("no scenes. Expected at least one.")
    paths = _one_each("--labels", labels, scenes)
    around = _one_each("--labelled-area", areas, scenes) if areas else [None] * len(scenes)
    inputs = [*(Path(scene) for scene in scenes), *filter(None, (*paths, *around))]
    new = NewFolder(Path(folder), inputs=inputs, ours=_OURS, overwrite=overwrite)
    legend, sites = survey([str(scene) for scene in scenes], paths, around, tiles, about)
    with new:
        cutter = _Cutter(new.staged, legend, tiles, about)
        total = sum(count_windows(site.grid.shape, tiles.tile_size, tiles.overlap) for site in sites)
        done = 0
        for site in sites:
            for _ in cutter.cut(site):
                done += 1
                on_progress(done, total)
        tiling = cutter.finish(str(folder))
        new.commit()
    return tiling


def _one_each(option: str, files: Sequence[str | Path], scenes: Sequence[str | Path]) -> list[Path]:
    """A file for each scene."""
    if len(files) not in (1, len(scenes)):
        raise UsageError(
            f"{option}: {len(files)} files for {len(scenes)} scenes. Expected one for all of them, or one for each in "
            "the same order. Bring polygons and lines of one scene into one GeoPackage, as layers."
        )
    paths = [Path(path) for path in files]
    return paths * len(scenes) if len(paths) == 1 else paths


class _Cutter:
    """Writes tile after tile and remembers what the manifest says of them."""

    def __init__(self, folder: Path, legend: Legend, tiles: TileOptions, about: LabelOptions) -> None:
        self.folder, self.legend, self.tiles, self.about = folder, legend, tiles, about
        self.entries: list[TileEntry] = []
        self.poor, self.empty = 0, 0
        self._seen_empty = 0
        self._start = float(np.random.default_rng(tiles.seed).random())

    def cut(self, site: Site) -> Iterator[None]:
        """All tiles of a scene, one by one."""
        for name in ("images", "labels"):
            (self.folder / name).mkdir(exist_ok=True)
        with ExitStack() as opened:
            scene = opened.enter_context(site.source.open())
            truth = site.truth or open_truth(site.labels, site.grid, self.legend, self.about, opened)
            form = ImageForm.of(scene)
            for window in tile_windows(site.grid.shape, self.tiles.tile_size, self.tiles.overlap):
                self._cut(site, scene, truth, form, window)
                yield

    def _cut(self, site: Site, scene: Scene, truth: Truth, form: ImageForm, window: Window) -> None:
        inside = window.intersection(site.grid.window) or window
        least = max(1, self.tiles.min_valid * inside.area)
        target = self._target(site, truth, window, inside)
        if self._known(target) < least:  # before the image is read: it can only become less
            self.poor += 1
            return
        tile = _padded(scene, window, inside, form)
        target[~tile.valid] = np.nan if self.legend.valued else IGNORE
        known = self._known(target)
        if known < least:
            self.poor += 1
            return
        counts = np.bincount(target.ravel(), minlength=256)[: len(self.legend.names)] if self.legend.names else None
        if counts is not None and not counts[1:].any() and not self._keeps_empty():
            self.empty += 1
            return
        name = f"{site.name}_r{window.row:06d}_c{window.col:06d}"
        entry = TileEntry(
            name, site.name, site.grid, window, known, np.array([] if counts is None else counts, np.int64)
        )
        self._write(entry, tile, target, form)
        self.entries.append(entry)

    def _known(self, target: np.ndarray) -> int:
        return int(np.count_nonzero(~np.isnan(target) if self.legend.valued else target != IGNORE))

    def _target(self, site: Site, truth: Truth, window: Window, inside: Window) -> np.ndarray:
        """The target of a window, unknown outside of the scene, whose part is `inside`, and of the labelled area."""
        dtype = np.float32 if self.legend.valued else np.uint8
        unknown = np.nan if self.legend.valued else IGNORE
        target = np.full(window.shape, unknown, dtype)
        own = np.ones(inside.shape, bool) if site.area is None else site.area.valid(inside)
        if own.any():
            target[inside.slices(window)] = np.where(own, truth.target(inside), dtype(unknown))
        return target

    def _keeps_empty(self) -> bool:
        """Whether the next empty tile is kept: spread evenly, and of any number of them the right share."""
        self._seen_empty += 1
        return (self._start + self._seen_empty * _GOLDEN) % 1 < self.tiles.keep_empty

    def _write(self, entry: TileEntry, tile: Tile, target: np.ndarray, form: ImageForm) -> None:
        grid = Grid(entry.window.shape, entry.grid.window_transform(entry.window), entry.grid.crs)
        with written_by_gdal(self.folder):
            image = image_file(tile, grid, form)
            truth = value_file(target, grid) if self.legend.valued else class_file(target, grid, self.legend.names)
        store(self.folder / entry.image, image)
        store(self.folder / entry.labels, truth)

    def finish(self, folder: str) -> Tiling:
        """Split the tiles and write the manifest.

        Raises:
            LabelsError: If nothing is left, or nothing but background.
        """
        if not self.entries:
            raise LabelsError(
                f"no window has {self.tiles.min_valid:.0%} usable, labelled pixels and is kept ({self.poor} have too "
                f"few, {self.empty} are empty). Expected some. Lower --min-valid, or check labels and labelled area."
            )
        counts = np.sum([entry.counts for entry in self.entries], axis=0)
        if self.legend.names and not counts[1:].any():
            raise LabelsError(
                f"no pixel of any tile is {' or '.join(self.legend.names[1:])}: there is nothing to learn. Expected "
                "some. Check that the labels lie on the scene."
            )
        split = split_entries(self.entries, self.tiles, self.about.gsd)
        write_manifest(self.folder, self.entries, split, self.legend.names, self.about.gsd)
        shares = tuple((counts / max(counts.sum(), 1)).tolist()) if self.legend.names else ()
        train, val, between = (int((split == part).sum()) for part in ("train", "val", "none"))
        return Tiling(folder, self.legend.names, shares, train, val, between, self.poor, self.empty)


def _padded(scene: Scene, window: Window, inside: Window, form: ImageForm) -> Tile:
    """A window's pixels; those beyond the scene's edge, outside of `inside`, have no data."""
    tile = scene.read(inside)
    if inside == window:
        return tile
    whole, place = form.blank(window.shape), inside.slices(window)
    whole.data[:, *place], whole.valid[place] = tile.data, tile.valid
    return whole
