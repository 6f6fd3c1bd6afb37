"""What is true of a scene's pixels: vector layers, class rasters and rasters of values, window by window."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from geoseg.config.heads import check_class_names
from geoseg.errors import LabelsError, UsageError
from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.scene import Scene
from geoseg.targets import VectorLabels, is_vector_file, read_labels
from geoseg.tiles.options import BACKGROUND, CONTACT, LabelOptions
from geoseg.tiles.resampling import LabelGrid
from geoseg.windows import Window

_GUESSED = (BACKGROUND, "building", "road")
"""The classes looked for in vector files when none are named."""


class Truth(Protocol):
    """The labels of one scene."""

    @property
    def present(self) -> tuple[str, ...]:
        """The classes besides the background that the file has, as far as it says."""

    @property
    def remarks(self) -> Sequence[str]:
        """What a user should know of it, a sentence each."""

    def target(self, window: Window) -> np.ndarray:
        """Of a window inside the scene: (h, w) uint8 class indices, 255 = unknown; or float32 values, NaN = unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class VectorTruth:
    """Polygons, and lines with a width."""

    labels: VectorLabels
    table: np.ndarray | None = None
    """(256,) uint8: from an index into its classes to one into all tiles'."""

    @property
    def present(self) -> tuple[str, ...]:
        """See `Truth`."""
        return self.labels.present

    @property
    def remarks(self) -> Sequence[str]:
        """See `Truth`."""
        return ()

    def target(self, window: Window) -> np.ndarray:
        """See `Truth`."""
        target = self.labels.target(window)
        return target if self.table is None else self.table[target]


@dataclass(frozen=True, slots=True, eq=False)
class ClassTruth:
    """A raster of classes."""

    path: Path
    raster: LabelGrid
    codes: dict[int, int]
    """Value -> class index."""
    listed: bool
    """Whether values that are not in `codes` are unknown; else they are refused."""
    present: tuple[str, ...]
    """See `Truth`."""
    remarks: Sequence[str]
    """See `Truth`."""

    def target(self, window: Window) -> np.ndarray:
        """See `Truth`.

        Raises:
            LabelsError: If a value stands for no class.
        """
        values, known = self.raster.nearest(window)
        target = np.full(window.shape, IGNORE, np.uint8)
        left = known & (values != IGNORE) if IGNORE not in self.codes else known.copy()
        for value, code in self.codes.items():
            here = known & (values == value)
            target[here] = code
            left &= ~here
        if left.any() and not self.listed:
            raise LabelsError(
                f"{self.path} has the value {values[left][0]}. Expected class indices "
                f"{', '.join(map(str, self.codes))}, or {IGNORE} for unknown. Say what values mean with --values."
            )
        return target


@dataclass(frozen=True, slots=True, eq=False)
class ValueTruth:
    """A raster of numbers, such as heights."""

    raster: LabelGrid
    present: tuple[str, ...] = ()
    """See `Truth`."""

    @property
    def remarks(self) -> Sequence[str]:
        """See `Truth`."""
        return self.raster.remarks

    def target(self, window: Window) -> np.ndarray:
        """See `Truth`."""
        return self.raster.bilinear(window)


@dataclass(frozen=True, slots=True)
class Legend:
    """What the values of all targets mean."""

    names: tuple[str, ...]
    """Classes by index, the background first; empty where targets are values."""

    @property
    def valued(self) -> bool:
        """Whether targets are values of a regression."""
        return not self.names


def legend_of(files: Sequence[Path], options: LabelOptions) -> Legend:
    """The classes of all label files together, before any is laid on a scene.

    Raises:
        LabelsError: If values and classes are mixed, or nothing names a raster's classes.
        UsageError: If `options.classes` or `options.values` make no sense, or a class has a name that training refuses.
        SceneError: If a raster cannot be read.
    """
    rasters = [path for path in dict.fromkeys(files) if not is_vector_file(path)]
    names = options.names()
    if options.values and not rasters:
        raise UsageError(
            f"--values: {files[0]} holds polygons or lines, which have no values. Expected a raster of classes. Name "
            "the field that holds classes with --class-field."
        )
    if names is None and options.values:
        names = (BACKGROUND, *dict.fromkeys(name for name in options.values.values() if name != BACKGROUND))
    if unknown := [name for name in options.values.values() if names and name not in names]:
        raise UsageError(f"values name class {unknown[0]!r}. Expected some of {', '.join(names or ())}.")
    if options.contact and rasters:
        raise UsageError(
            f"--contact: {rasters[0]} is a raster, whose buildings cannot be told apart. Expected polygons."
        )
    own: list[tuple[str, ...] | None] = []
    for path in rasters:
        with Scene.open(path) as scene:
            if len(scene.bands) != 1:
                raise LabelsError(f"{path} has {len(scene.bands)} bands. Expected one band of classes or of values.")
            own.append(None if scene.dtype.kind == "f" and not names else tuple(scene.class_names))
    if None in own:
        if any(found is not None for found in own) or len(rasters) < len(set(files)):
            raise LabelsError(f"{rasters[own.index(None)]} holds values, other label files classes. Expected one kind.")
        return Legend(())
    if names is None and rasters:
        named = [found for found in own if found]
        if len(named) < len(rasters) or len(set(named)) > 1:
            raise UsageError(
                f"{rasters[0]} does not name its classes, or not as the others do. Expected the names of its values 1, "
                "2, ... with --classes building,road, or what each value is with --values 0=background,255=building."
            )
        names = named[0]
    if names:
        said = "--classes" if options.classes else "--values" if options.values else str(rasters[0])
        check_class_names(names, said)  # what learns from the tiles would refuse them
    return Legend(names or (*_GUESSED, *((CONTACT,) if options.contact else ())))


def open_truth(path: Path, grid: Grid, legend: Legend, options: LabelOptions, opened: ExitStack) -> Truth:
    """The labels of one scene.

    Args:
        path: Vector layer or raster.
        grid: The scene's.
        legend: What `legend_of` says of all files.
        options: The user's.
        opened: What closes the raster in the end.

    Raises:
        LabelsError: If the file cannot be read, holds nothing usable, or lies elsewhere.
        UsageError: If an option names nothing there is.
        SceneError: If a raster cannot be read.
    """
    if is_vector_file(path):
        labels = read_labels(
            path,
            grid=grid,
            class_names=legend.names,
            class_field=options.class_field,
            layer=options.layer,
            invalid_geometry=options.invalid_geometry,
            line_width_m=options.line_width_m,
            width_field=options.width_field,
            contact=CONTACT if options.contact else None,
            gsd=options.gsd,
        )
        return VectorTruth(labels)
    scene = opened.enter_context(Scene.open(path))
    if not legend.valued and any(value in options.values for value in scene.nodata if value is not None):
        # What the user says of a value holds, also where the file declares it to be no data.
        scene = opened.enter_context(Scene.open(path, nodata=np.nan))
    raster = LabelGrid(scene, grid)
    return ValueTruth(raster) if legend.valued else _class_truth(path, scene, raster, legend, options)


def _class_truth(path: Path, scene: Scene, raster: LabelGrid, legend: Legend, options: LabelOptions) -> ClassTruth:
    names, own, remarks = legend.names, tuple(scene.class_names), [*raster.remarks]
    if options.values:
        codes = {value: names.index(name) for value, name in options.values.items()}
        return ClassTruth(path, raster, codes, True, tuple(options.values.values()), remarks)
    if scene.nodata[0] == 0:
        remarks.append(
            f"{path} declares 0 as no data: it counts as unknown, not as {names[0]}. Say otherwise with "
            f"--values 0={names[0]},..."
        )
    if not own:
        return ClassTruth(path, raster, {code: code for code in range(len(names))}, False, names[1:], remarks)
    if not set(own) & set(names[1:]):
        raise LabelsError(f"{path} knows {', '.join(own)}. Expected some of {', '.join(names[1:])}. See --classes.")
    if others := [name for name in own[1:] if name not in names]:
        remarks.append(f"{path}: {', '.join(others)} counts as {names[0]}.")
    codes = {value: names.index(name) if name in names else 0 for value, name in enumerate(own)}
    return ClassTruth(path, raster, codes, False, tuple(name for name in names[1:] if name in own), remarks)


def shortened(legend: Legend, truths: Sequence[Truth], options: LabelOptions) -> Legend:
    """The legend without guessed classes that no file has."""
    if options.names() or options.values or legend.names[:3] != _GUESSED:
        return legend
    present = {name for truth in truths for name in truth.present}
    return Legend((BACKGROUND, *(name for name in legend.names[1:] if name in present)))
