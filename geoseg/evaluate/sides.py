"""Sides: the predicted and the true shapes of each class, on one plane in metres."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS
from shapely import Geometry

from geoseg.errors import LabelsError
from geoseg.evaluate.classes import check_known
from geoseg.evaluate.features import Features, Plane, layer_class, read_predicted, stated_classes, widths
from geoseg.targets import InvalidGeometry
from geoseg.targets.classes import class_codes, class_values
from geoseg.targets.files import are_lines, read_layers

log = logging.getLogger(__name__)

_BACKGROUND = "background"
_MANY_OUTSIDE = 0.2
"""Share of the reference beyond the bounds of what was predicted that is worth a word."""
_SIDES = 2000
"""Straight pieces that the border of a labelled area is at least taken to be of."""


@dataclass(frozen=True, slots=True)
class ReferenceOptions:
    """How a vector reference is read; see `geoseg.evaluate.evaluate_vectors`."""

    layer: str | None = None
    class_field: str | None = None
    line_width_m: float | None = None
    width_field: str | None = None
    invalid_geometry: InvalidGeometry = "error"


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """The shapes of one class."""

    predicted: Features
    """Polygons."""
    predicted_lines: Features
    """Lines."""
    reference: Features
    """Polygons."""
    reference_lines: Features
    """Lines."""


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """Both files, read."""

    predicted: Path
    """Path of the prediction, for messages."""
    reference: Path
    """Path of the reference, for messages."""
    plane: Plane
    """Where metres lie."""
    classes: dict[str, Side]
    """By class, those to score."""
    left: tuple[str, ...]
    """Predicted classes that are not to be scored."""


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Features of one layer of a file, in metres."""

    frame: gpd.GeoDataFrame
    shapes: np.ndarray
    width_m: np.ndarray
    names: np.ndarray

    def part(self, name: str, *, lines: bool) -> Features:
        """Those of one class, polygons or lines."""
        rows = (self.names == name) & (are_lines(self.frame) == lines)
        shapes = self.shapes[rows]
        if not lines:
            shapes = _polygonal(shapes)
        return Features(shapes, self.frame.index.to_numpy(np.int64)[rows], self.width_m[rows])


def read_sides(
    predicted: Path,
    reference: Path,
    classes: Sequence[str] | None,
    bounded: Sequence[str | None],
    options: ReferenceOptions,
    *,
    whole: bool = True,
) -> Sides:
    """Read both files and sort their features by class. `whole`: all of the reference counts, wherever it lies.

    Raises:
        UsageError: If `classes` or `bounded` names a class, or an option a field or layer, that is not there.
        LabelsError: If a file cannot be read, or both lie apart or have no class in common.
    """
    ours = read_predicted(predicted)
    theirs = read_layers(reference, layer=options.layer, invalid_geometry=options.invalid_geometry, lines=True)
    stated = {name: None for frame in ours for name in _names(frame)}
    names = tuple(classes or stated) or ("building", "road")
    if stated:  # else the names are for the user to choose
        _check_stated(classes or (), tuple(stated), theirs, options, f"{predicted} or {reference}")
    for name in bounded:
        if name is not None:
            check_known(name, dict.fromkeys((*names, *stated)), f"{predicted} or {reference}")
    crs = next((CRS(frame.crs) for frame in (*theirs, *ours) if frame.crs is not None), None)
    if crs is None:
        log.warning("%s and %s have no CRS: their units are taken for metres", predicted, reference)
    plane = Plane.about(theirs, reference, crs)
    true = [
        _Layer(
            frame,
            plane.placed(frame, reference),
            _widths(frame, reference, options),
            _true_classes(frame, reference, names, options.class_field),
        )
        for frame in _of_interest(theirs, names, reference)
    ]
    told = [
        _Layer(frame, plane.placed(frame, predicted), widths(frame, predicted), _told_classes(frame, names, predicted))
        for frame in ours
    ]
    _check_places(predicted, reference, told, true, whole=whole)
    return _sorted(predicted, reference, plane, told, true, names, classes, tuple(stated))


def _check_stated(
    classes: Sequence[str], stated: Sequence[str], theirs: Sequence[gpd.GeoDataFrame], options: ReferenceOptions,
    where: str,
) -> None:  # fmt: skip
    """Refuse a class that neither the prediction nor a field or a layer of the reference has."""
    layers = [str(frame.attrs["layer"]).casefold() for frame in theirs]
    known = dict.fromkeys((*stated, *(value for frame in theirs for value in class_values(frame, options.class_field))))
    there = {*map(str.casefold, known), *layers, *(layer.removesuffix("s") for layer in layers)}
    for name in classes:
        if name.casefold() not in there:
            check_known(name, known, where)


def _sorted(
    predicted: Path, reference: Path, plane: Plane, told: Sequence[_Layer], true: Sequence[_Layer],
    names: tuple[str, ...], classes: Sequence[str] | None, stated: tuple[str, ...],
) -> Sides:  # fmt: skip
    present = {str(name) for layer in true for name in layer.names}
    scored = tuple(name for name in names if name in present)
    if not scored:
        raise LabelsError(
            f"{reference} knows none of {', '.join(names)}. Expected a class in common with {predicted}. Name the "
            "field that holds classes with --class-field, or what to score with --classes."
        )
    if missing := [name for name in classes or () if name not in present]:
        log.warning("%s has nothing of %s: it is not scored", reference, ", ".join(missing))
    left = tuple(name for name in dict.fromkeys((*(classes or ()), *stated)) if name not in scored)
    given = {str(name) for layer in told for name in layer.names}
    if lost := [name for name in scored if given and name not in given]:
        log.warning("%s holds %s, and nothing of %s", predicted, ", ".join(sorted(given)), ", ".join(lost))
    sides = {
        name: Side(
            *(
                Features.joined([layer.part(name, lines=lines) for layer in layers])
                for layers in (told, true)
                for lines in (False, True)
            )
        )
        for name in scored
    }
    return Sides(predicted, reference, plane, sides, left)


def read_area(path: Path, plane: Plane) -> Geometry:
    """The ground on which a reference is complete, in metres.

    Raises:
        LabelsError: If the file cannot be read or holds lines or invalid polygons.
    """
    frames = read_layers(path, layer=None)
    if lines := sum(int(are_lines(frame).sum()) for frame in frames):
        raise LabelsError(f"{path} holds {lines} lines. Expected the outlines of the labelled area. Draw polygons.")
    for frame in frames:  # long sides bend on the way to metres
        outlines = frame.geometry.to_numpy()
        frame.geometry = shapely.segmentize(outlines, shapely.length(outlines).max() / _SIDES)
    return shapely.union_all(np.concatenate([plane.placed(frame, path) for frame in frames]))


def _names(frame: gpd.GeoDataFrame) -> list[str]:
    """The classes that a layer of a prediction states."""
    of_layer = layer_class(frame)
    found = [of_layer] if of_layer else [str(name) for name in np.unique(stated_classes(frame))]
    return [name for name in found if name not in ("", _BACKGROUND)]


def _told_classes(frame: gpd.GeoDataFrame, names: tuple[str, ...], path: Path) -> np.ndarray:
    """(N,) str: the class of each predicted feature; of one that nothing is said of, the only one or by its kind."""
    name_of = {name.casefold(): name for name in names}
    found = np.array([name_of.get(str(name).casefold(), str(name)) for name in stated_classes(frame)], object)
    silent = found == ""
    if silent.any():
        found[silent] = names[0] if len(names) == 1 else np.where(are_lines(frame), "road", "building")[silent]
        if len(names) > 1:
            log.warning("%s does not say the classes of %d features: taken for building or road", path, silent.sum())
    return found


def _of_interest(frames: list[gpd.GeoDataFrame], names: tuple[str, ...], path: Path) -> list[gpd.GeoDataFrame]:
    """The layers that are not wholly of a class that is not asked for; all of them, if none is left."""
    others = [frame for frame in frames if (layer_class(frame) or names[0]) not in names]
    if not others or len(others) == len(frames):
        return frames
    log.info("%s: layers of other classes are left aside: %s", path, ", ".join(f.attrs["layer"] for f in others))
    return [frame for frame in frames if (layer_class(frame) or names[0]) in names]


def _true_classes(frame: gpd.GeoDataFrame, path: Path, names: tuple[str, ...], class_field: str | None) -> np.ndarray:
    """(N,) str: the class of each feature of the reference; the background where it is none of `names`."""
    of_layer = layer_class(frame)
    if class_field is None and of_layer in names:
        return np.full(len(frame), of_layer)
    everything = (_BACKGROUND, *(name for name in names if name != _BACKGROUND))
    codes = class_codes(
        frame, path, everything, class_field=class_field, default_class=None, drawn=everything[1:]
    )  # fmt: skip
    return np.array(everything)[codes]


def _widths(frame: gpd.GeoDataFrame, path: Path, options: ReferenceOptions) -> np.ndarray:
    if not are_lines(frame).any():
        return np.full(len(frame), np.nan)
    return widths(frame, path, options.width_field, options.line_width_m)


def _polygonal(shapes: np.ndarray) -> np.ndarray:
    """Polygons and multipolygons; of collections, which mending leaves, the polygons in them."""
    mixed = np.flatnonzero(shapely.get_type_id(shapes) == shapely.GeometryType.GEOMETRYCOLLECTION)
    if not len(mixed):
        return shapes
    shapes = shapes.copy()
    for row in mixed:
        parts = shapely.get_parts(shapely.get_parts(shapes[row]))
        shapes[row] = shapely.union_all(parts[shapely.get_dimensions(parts) == 2])
    return shapes


def _check_places(
    predicted: Path, reference: Path, told: Sequence[_Layer], true: Sequence[_Layer], *, whole: bool
) -> None:
    ours, theirs = (np.concatenate([np.empty(0, object), *(layer.shapes for layer in side)]) for side in (told, true))
    if not len(ours):
        log.warning("%s holds no polygons and no lines", predicted)
        return
    first, second = shapely.total_bounds(ours), shapely.total_bounds(theirs)
    if (first[:2] > second[2:]).any() or (second[:2] > first[2:]).any():
        raise LabelsError(
            f"{reference} lies outside {predicted}: it spans {extent(second)}, the prediction {extent(first)} (left, "
            "bottom, right, top in metres about the reference). Expected the same place. Check the CRS of both files."
        )
    outside = len(theirs) - int(shapely.intersects(shapely.box(*first), theirs).sum())
    if whole and outside > _MANY_OUTSIDE * len(theirs):
        log.warning(
            "%d of the %d features of %s lie outside of what %s covers, and count as missed: if that ground was not "
            "predicted, say with --aoi what was",
            outside,
            len(theirs),
            reference,
            predicted,
        )


def extent(bounds: np.ndarray) -> str:
    """Four numbers for a message."""
    return "(" + ", ".join(f"{value:.0f}" for value in bounds) + ")"
