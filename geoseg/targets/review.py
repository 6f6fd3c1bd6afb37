"""Review: the verdicts a person wrote on a prediction, as labels of the ground that was judged."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np

from geoseg.errors import LabelsError, nearest
from geoseg.grid import Grid
from geoseg.targets.burning import PixelPolygons, pixel_polygons
from geoseg.targets.classes import column_named
from geoseg.targets.files import REVIEW, InvalidGeometry, are_lines, layer_kinds, read_layers
from geoseg.targets.placing import on_grid, reprojected
from geoseg.windows import Window

log = logging.getLogger(__name__)

_YES, _NO = "yes", "no"
_FURTHER = ("", "s", "_surfaces")
"""What geoseg adds to a class's name to name its layer of polygons."""
_AS_PREDICTED = 255
"""In place of a class: what the prediction says."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Judged ground, with what is true there."""

    present: tuple[int, ...]
    """Classes that verdicts name or confirm, as indices."""
    cells: PixelPolygons = field(repr=False)
    """Where the prediction is right."""
    predicted: PixelPolygons = field(repr=False)
    """Its polygons: class + 1."""
    complete: bool
    """Whether it tells all classes, so that what no polygon covers is the background; else nothing is known there."""
    stated: PixelPolygons = field(repr=False)
    """Polygons and cells of one class: class + 1."""

    def over(self, window: Window, target: np.ndarray) -> np.ndarray:
        """(h, w) uint8 target of a window, with what was judged in place of what it said there."""
        found = target.copy()
        right = self.cells.burn(window) != 0
        if right.any():
            own = self.predicted.burn(window)
            told = right if self.complete else right & (own != 0)
            found[told] = np.maximum(own[told], 1) - 1
        own = self.stated.burn(window)
        found[own != 0] = own[own != 0] - 1
        return found


def read_review(
    path: Path, grid: Grid, class_names: Sequence[str], *, invalid_geometry: InvalidGeometry = "error"
) -> Judged:
    """Read the layer `review` of a GeoPackage that `geoseg vectorize --review` wrote and a person filled in.

    A feature: `yes`, it is of its class; `no`, it is background. A cell: `yes`, the other layers of the file are right
    in it; `no`, they are not, which teaches nothing. Either: the name of a class. Features win over cells, and cells of
    a class over those that are right.

    Args:
        path: The file.
        grid: Where pixels lie.
        class_names: All classes, the background first.
        invalid_geometry: What happens to polygons that cross themselves.

    Raises:
        LabelsError: If the file cannot be read, there is no such layer or no verdict in it, a verdict is no word, or
            what was judged lies outside the grid.
    """
    frame = _reviewed(path, invalid_geometry)
    codes, cell = _codes(frame, path, tuple(class_names))
    kept = codes >= 0
    if not kept.any():
        raise LabelsError(
            f"{path} layer {REVIEW!r} has no verdict to learn from ({len(codes)} features and cells, none but plain "
            f"{_NO} of cells). Expected {_rule(class_names)}. Write some in QGIS."
        )
    frame, codes, cell = frame[kept], codes[kept], cell[kept]
    (shapes,) = on_grid([frame], path, grid)
    right = codes == _AS_PREDICTED
    order = np.argsort(~cell[~right], kind="stable")  # features are burnt later and win
    predicted, complete, told = PixelPolygons(shapes[:0], np.zeros(0, np.uint8)), False, set[int]()
    if right.any():
        predicted, complete, told = _prediction(path, grid, tuple(class_names), invalid_geometry)
    return Judged(
        present=tuple(sorted(told | set(codes[~right].tolist()))),
        cells=PixelPolygons(*pixel_polygons(shapes[right], np.ones(right.sum(), np.uint8), grid)),
        predicted=predicted,
        complete=complete,
        stated=PixelPolygons(*pixel_polygons(shapes[~right][order], (codes[~right][order] + 1).astype(np.uint8), grid)),
    )


def _reviewed(path: Path, invalid_geometry: InvalidGeometry) -> gpd.GeoDataFrame:
    """The layer, with the fields that are needed."""
    if REVIEW not in layer_kinds(path):
        raise LabelsError(
            f"{path} has no layer {REVIEW!r}. Expected what geoseg vectorize --review N writes. "
            "Labels that were drawn go to --labels."
        )
    (frame,) = read_layers(path, layer=REVIEW, invalid_geometry=invalid_geometry)
    if are_lines(frame).any():
        raise LabelsError(f"{path} layer {REVIEW!r} holds lines. Expected polygons, as geoseg vectorize writes them.")
    missing = [name for name in ("kind", "name", "verdict") if column_named(frame, name) is None]
    if missing:
        raise LabelsError(
            f"{path} layer {REVIEW!r} has no field {missing[0]!r}. Expected those that geoseg vectorize --review "
            "writes: kind, name, verdict."
        )
    return frame


def _codes(frame: gpd.GeoDataFrame, path: Path, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int class of each row, 255 of cells that are right, -1 where nothing is learnt; (N,) bool, True of cells."""
    index = {name.casefold(): at for at, name in enumerate(names)}
    verdicts, stated, kinds = (_texts(frame, name) for name in ("verdict", "name", "kind"))
    codes, others = np.full(len(frame), -1, np.int16), set()
    for at, (verdict, own, kind) in enumerate(zip(verdicts, stated, kinds, strict=True)):
        word = verdict.casefold()
        if word == _YES:
            codes[at] = _AS_PREDICTED if kind == "cell" else index.get(own.casefold(), 0)
            others |= {own} if kind != "cell" and own.casefold() not in index else set()
        elif word == _NO:
            codes[at] = -1 if kind == "cell" else 0
        elif word in index:
            codes[at] = index[word]
        elif word:
            hint = nearest(verdict, [_YES, _NO, *names])
            raise LabelsError(
                f"{path} layer {REVIEW!r} feature {_id_of(frame, at)} has the verdict {verdict!r}.{hint} Expected "
                f"{_rule(names)}, or nothing where it was not looked at. Change it in QGIS."
            )
    if others:
        log.warning("%s: what is %s counts as %s", path, " or ".join(sorted(others)), names[0])
    return codes, np.array([kind == "cell" for kind in kinds], bool)


def _texts(frame: gpd.GeoDataFrame, name: str) -> list[str]:
    return [value.strip() if isinstance(value, str) else "" for value in frame[column_named(frame, name)]]


def _id_of(frame: gpd.GeoDataFrame, at: int) -> str:
    """What a person finds a row by."""
    column = column_named(frame, "id")
    return str(frame.index[at] if column is None else frame[column].iloc[at])


def _rule(names: Sequence[str]) -> str:
    return f"{_YES}, {_NO}, or a class: {', '.join(names)}"


def _prediction(
    path: Path, grid: Grid, names: tuple[str, ...], invalid_geometry: InvalidGeometry
) -> tuple[PixelPolygons, bool, set[int]]:
    """The polygons of the file's other layers, whether they tell all classes, and which they tell, as indices."""
    index = {name.casefold(): at for at, name in enumerate(names)}
    of_layer = {f"{name}{more}": at for name, at in index.items() for more in reversed(_FURTHER) if at}
    of_layer |= {name: at for name, at in index.items() if at}
    layers = [name for name, kind in layer_kinds(path).items() if "Polygon" in kind and name != REVIEW]
    told = {of_layer[name.casefold()] for name in layers if name.casefold() in of_layer}
    shapes, codes = [np.zeros(0, object)], [np.zeros(0, np.uint8)]
    for layer in layers:
        code = of_layer.get(layer.casefold(), 0)
        if code:
            for frame in read_layers(path, layer=layer, invalid_geometry=invalid_geometry, empty=True):
                shapes.append(reprojected(frame, path, grid))
                codes.append(np.full(len(frame), code + 1, np.uint8))
    complete = told == set(range(1, len(names)))
    if not complete:
        lacking = ", ".join(name for at, name in enumerate(names) if at and at not in told)
        log.warning(
            "%s has no layer of %s: in cells that are right, nothing is learnt where no polygon lies.", path, lacking
        )
    polygons, values = pixel_polygons(np.concatenate(shapes), np.concatenate(codes), grid)
    order = np.argsort(-values.astype(np.int16), kind="stable")  # as everywhere: the earlier class wins
    return PixelPolygons(polygons[order], values[order]), complete, told | ({0} if complete else set())
