"""evaluate_prediction(): a class raster against a reference, in windows: memory depends on neither's size."""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pyproj import CRS

from geoseg import targets
from geoseg.errors import LabelsError, UsageError, nearest
from geoseg.grid import Grid
from geoseg.metrics import IGNORE, ConfusionMatrix, Scores
from geoseg.scene import Scene
from geoseg.targets import InvalidGeometry, VectorLabels
from geoseg.windows import Plan, Window

log = logging.getLogger(__name__)

_BACKGROUND = "background"
"""Value 0 of a raster that does not name its classes."""
_SIDE = 2048
"""Side of the windows that are compared, in pixels."""
_WRONG = 254
"""What a value that stands for no class becomes, until it is refused."""
_DRIFT = 0.01
"""Pixels by which two grids may part over the whole scene and still count as one lattice."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of a class raster, and what they are scores of."""

    predicted: str
    """Path of the class raster."""
    reference: str
    """Path of the reference."""
    window: Window
    """The part of the predicted raster that was compared."""
    scores: Scores
    """Per class and overall."""
    merged: tuple[str, ...]
    """Predicted classes that are not scored: their pixels count as the first class."""

    def table(self) -> str:
        """Aligned text, several lines."""
        where = self.window
        title = f"{self.predicted} against {self.reference}, {where.width} x {where.height} pixels"
        origin = f" from column {where.col}, row {where.row}" if where.col or where.row else ""
        merged = f"\ncounted as {self.scores.classes[0].name}: {', '.join(self.merged)}" if self.merged else ""
        return f"{title}{origin}\n\n{self.scores.table()}{merged}"

    def shortfall(self, bound: float, name: str | None = None) -> str | None:
        """What to say if the mean IoU, or that of a class, is lower than `bound` or cannot be had; else None."""
        scored = {score.name: score for score in self.scores.classes}
        what = "mean IoU" if name is None else f"IoU of {name}"
        if name is not None and name not in scored:
            return f"{what} cannot be had: it is not scored. Expected at least {bound:g}."
        iou = self.scores.mean_iou if name is None else scored[name].iou
        if iou is None:
            missing = f"no pixel of it is known in {self.reference}" if name else "there is nothing to compare"
            return f"{what} cannot be had: {missing}. Expected at least {bound:g}."
        return f"{what} is {iou:.4f}. Expected at least {bound:g}." if iou < bound else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; figures that are not to be had are None."""
        where = self.window
        return {
            "predicted": self.predicted,
            "reference": self.reference,
            "window": [where.col, where.row, where.width, where.height],
            "merged": list(self.merged),
            **self.scores.to_dict(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class ClassRaster:
    """A raster of class indices and the names of its classes."""

    path: str
    """As given."""
    scene: Scene
    """The open raster."""
    class_names: tuple[str, ...]
    """By value, the background first."""

    def __post_init__(self) -> None:
        if len(self.scene.bands) != 1 or self.scene.dtype.kind not in "iu":
            raise LabelsError(
                f"{self.path} has {len(self.scene.bands)} bands of {self.scene.dtype}. "
                "Expected class indices: one band of whole numbers."
            )
        if not 2 <= len(self.class_names) <= _WRONG:
            raise LabelsError(f"{self.path} has {len(self.class_names)} classes. Expected 2 to {_WRONG}.")

    def read(self, window: Window, scored: tuple[str, ...]) -> np.ndarray:
        """(height, width) uint8 indices into `scored`; 0 for classes not among them, 255 without data.

        Raises:
            SceneError: If the pixels cannot be read.
            LabelsError: If a valid pixel's value stands for no class.
        """
        tile = self.scene.read(window)
        values = tile.data[0]
        if values.dtype != np.uint8:
            values = np.where((values < 0) | (values > IGNORE), _WRONG, values).astype(np.uint8)
        indices = _lookup(self.class_names, scored)[values]
        indices[~tile.valid] = IGNORE
        wrong = indices == _WRONG
        if wrong.any():
            raise LabelsError(
                f"{self.path} has the value {tile.data[0][wrong][0]}. "
                f"Expected class indices 0 to {len(self.class_names) - 1} ({', '.join(self.class_names)}), or {IGNORE}."
            )
        return indices


class Reference(Protocol):
    """The truth, whatever it is read from."""

    @property
    def known(self) -> tuple[str, ...]:
        """The classes it tells apart from all others."""

    def target(self, window: Window, scored: tuple[str, ...]) -> np.ndarray:
        """(height, width) uint8 indices into `scored`, 255 = unknown; a window of the predicted raster's grid."""


@dataclass(frozen=True, slots=True, eq=False)
class RasterReference:
    """A class raster on the same lattice as the predicted one."""

    raster: ClassRaster
    """The truth."""
    row: int
    """Row of its first pixel in the predicted raster."""
    col: int
    """Column of its first pixel in the predicted raster."""

    @property
    def known(self) -> tuple[str, ...]:
        """The classes it names."""
        return self.raster.class_names

    def target(self, window: Window, scored: tuple[str, ...]) -> np.ndarray:
        """See `Reference`. Beyond the raster's edge nothing is known."""
        target = np.full(window.shape, IGNORE, np.uint8)
        height, width = self.raster.scene.grid.shape
        inside = window.intersection(Window(row=self.row, col=self.col, height=height, width=width))
        if inside is not None:
            own = replace(inside, row=inside.row - self.row, col=inside.col - self.col)
            target[inside.slices(window)] = self.raster.read(own, scored)
        return target


@dataclass(frozen=True, slots=True, eq=False)
class VectorReference:
    """Polygons burnt onto the predicted raster's grid."""

    labels: VectorLabels
    """The truth."""

    @property
    def known(self) -> tuple[str, ...]:
        """The classes its features have."""
        return self.labels.present

    def target(self, window: Window, scored: tuple[str, ...]) -> np.ndarray:
        """See `Reference`."""
        return _lookup(self.labels.class_names, scored)[self.labels.target(window)]


def evaluate_prediction(
    predicted: str | Path,
    reference: str | Path,
    *,
    classes: Sequence[str] | None = None,
    class_field: str | None = None,
    layer: str | None = None,
    invalid_geometry: InvalidGeometry = "error",
    labelled_area: str | Path | None = None,
    window: Window | None = None,
    bounded: Iterable[str] = (),
) -> Evaluation:
    """Score a class raster against a raster or vector reference.

    Only classes that the reference knows are told apart: where it has buildings alone, a predicted road is no more than
    background, neither right nor wrong about roads. A raster reference knows the classes it names (all of the predicted
    raster's if it names none), a vector reference those that its features have.

    Args:
        predicted: Class raster, values = class indices, nodata where there is no prediction.
        reference: Class raster on the same pixel lattice (a whole-pixel offset is fine), or polygons in any CRS.
        classes: The classes to score, besides the first; by default those that the reference knows. If the predicted
            raster names no classes, the names of its values 1, 2, ...; 0 is the background.
        class_field: Field of a vector reference that holds class names.
        layer: Layer of a vector reference.
        invalid_geometry: What to do with invalid polygons of a vector reference.
        labelled_area: Polygons outside of which the reference knows nothing.
        window: The part of the predicted raster to score; all by default.
        bounded: Classes whose scores will be asked for: refused, before a pixel is read, if they are none.

    Raises:
        UsageError: If the window sticks out of the raster, or `classes` or `bounded` names one that is not there.
        SceneError: If a raster cannot be read.
        LabelsError: If the reference cannot be read, lies elsewhere, or holds what is no class.
    """
    with Scene.open(predicted) as scene, ExitStack() as stack:
        raster = ClassRaster(str(predicted), scene, _class_names(scene, str(predicted), classes))
        region = _region(scene, raster.path, window)
        if targets.is_vector_file(reference):
            labels = targets.read_labels(
                reference,
                grid=scene.grid,
                class_names=raster.class_names,
                class_field=class_field,
                layer=layer,
                invalid_geometry=invalid_geometry,
            )
            truth: Reference = VectorReference(labels)
        else:
            truth = _raster_reference(str(reference), stack.enter_context(Scene.open(reference)), raster)
        area = targets.labelled_area(labelled_area, scene.grid) if labelled_area else None
        for name in bounded:
            _check_known(name, dict.fromkeys([*raster.class_names, *truth.known]), f"{predicted} or {reference}")
        scored = _scored(raster, truth, str(reference), classes)
        confusion = ConfusionMatrix(scored)
        for part in _parts(region):
            target = truth.target(part, scored)
            if area is not None:
                target[~area.valid(part)] = IGNORE
            confusion.update(target, raster.read(part, scored))
    merged = tuple(name for name in raster.class_names if name not in scored)
    return Evaluation(str(predicted), str(reference), region, confusion.scores(), merged)


def _class_names(scene: Scene, path: str, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The names of a class raster's values: its own, else those given for 1, 2, ..."""
    if scene.class_names:
        return tuple(scene.class_names)
    if not classes:
        raise UsageError(
            f"{path} does not name its classes. Expected the names of its values 1, 2, ... with --classes, "
            "for example --classes building,road."
        )
    return (_BACKGROUND, *(name for name in classes if name != _BACKGROUND))


def _scored(raster: ClassRaster, truth: Reference, reference: str, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The first class, and of the others those asked for or known to the reference. What is left out is said."""
    first, *others = names = raster.class_names
    for name in classes or ():
        _check_known(name, names, raster.path)
    scored = (first, *(name for name in others if name in (classes or truth.known)))
    if len(scored) == 1:
        raise LabelsError(
            f"{reference} knows {', '.join(truth.known) or 'no class'}, {raster.path} {', '.join(names)}. "
            f"Expected a class in common besides {first}."
        )
    if merged := [name for name in names if name not in scored]:
        reason = "it is not scored" if classes else "the reference does not tell it apart"
        log.warning("%s: %s counts as %s: %s", raster.path, ", ".join(merged), first, reason)
    if merged := [name for name in truth.known if name not in scored]:
        log.warning("%s: %s counts as %s: it is not scored", reference, ", ".join(merged), first)
    return scored


def _check_known(name: str, known: Collection[str], where: str) -> None:
    if name not in known:
        raise UsageError(
            f"class={name!r} is not in {where}.{nearest(name, known)} Expected some of {', '.join(known)}."
        )


def _raster_reference(path: str, scene: Scene, raster: ClassRaster) -> RasterReference:
    """A reference raster, if it lies on the predicted raster's lattice.

    Raises:
        LabelsError: With both grids, if it does not.
    """
    truth = ClassRaster(path, scene, tuple(scene.class_names or raster.class_names))
    grid, other = raster.scene.grid, scene.grid
    if grid.shape == other.shape and other.crs is None and other.transform.is_identity:
        if not grid.transform.is_identity:
            log.warning("%s has no georeference: it is laid on %s pixel by pixel", path, raster.path)
        return RasterReference(truth, row=0, col=0)
    offset = ~grid.transform @ other.transform
    row, col = round(offset.f), round(offset.c)
    corners = [(0, 0), (other.width, 0), (0, other.height), (other.width, other.height)]
    drift = max(
        abs(got - want) for x, y in corners for got, want in zip(offset @ (x, y), (x + col, y + row), strict=True)
    )
    if not _same_crs(grid.crs, other.crs) or drift > _DRIFT:
        raise LabelsError(
            f"{path} is not on the pixel lattice of {raster.path}: {_described(other)}, not {_described(grid)}. "
            f"Expected the same CRS and pixels. Bring it there first: rio warp {path} OUT.tif --like {raster.path}."
        )
    if Window(row=row, col=col, height=other.height, width=other.width).intersection(grid.window) is None:
        raise LabelsError(f"{path} lies outside {raster.path}: {_described(other)}, not {_described(grid)}.")
    return RasterReference(truth, row=row, col=col)


def _same_crs(first: str | None, second: str | None) -> bool:
    if first is None or second is None:
        return first is second
    return CRS.from_user_input(first).equals(CRS.from_user_input(second), ignore_axis_order=True)


def _described(grid: Grid) -> str:
    name = CRS.from_user_input(grid.crs).name if grid.crs else "no CRS"
    numbers = ", ".join(f"{value:.10g}" for value in grid.transform[:6])
    return f"{grid.width} x {grid.height} pixels in {name} with transform ({numbers})"


def _region(scene: Scene, path: str, window: Window | None) -> Window:
    if window is None:
        return scene.grid.window
    if window.intersection(scene.grid.window) != window:
        raise UsageError(
            f"window={window.col},{window.row},{window.width},{window.height} sticks out of {path} "
            f"({scene.grid.width} x {scene.grid.height} pixels). Expected COL,ROW,WIDTH,HEIGHT inside it."
        )
    return window


def _parts(region: Window) -> Iterator[Window]:
    """Windows that cover the region once."""
    for cell in Plan(shape=region.shape, cell_side=_SIDE):
        yield replace(cell, row=cell.row + region.row, col=cell.col + region.col)


def _lookup(names: tuple[str, ...], scored: tuple[str, ...]) -> np.ndarray:
    """(256,) uint8: from an index into `names` to one into `scored`; 0 for classes not scored."""
    table = np.full(256, _WRONG, np.uint8)
    table[: len(names)] = [scored.index(name) if name in scored else 0 for name in names]
    table[IGNORE] = IGNORE
    return table
