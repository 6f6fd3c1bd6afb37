"""Vector labels on a grid: class indices window by window, and the area within which they are complete."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from geoseg.errors import LabelsError, UsageError
from geoseg.grid import Grid
from geoseg.targets.burning import PixelPolygons, pixel_polygons
from geoseg.targets.classes import check_layers, class_codes
from geoseg.targets.contact import contacts
from geoseg.targets.files import InvalidGeometry, are_lines, read_layers
from geoseg.targets.lines import Reach, Widths
from geoseg.targets.placing import on_grid
from geoseg.windows import Window

_EDGE = 8
"""Pixels beyond the grid in which polygons are kept."""


@dataclass(frozen=True, eq=False)
class VectorLabels:
    """Labelled polygons on a grid. Pixels of no polygon are the first class, the background."""

    grid: Grid
    """The grid windows belong to."""
    class_names: tuple[str, ...]
    """All classes; a pixel of the target is an index into them."""
    present: tuple[str, ...]
    """The classes other than the background that features have, and the contact class if asked for, in class order."""
    polygons: PixelPolygons = field(repr=False)
    """What is burnt."""

    def target(self, window: Window) -> np.ndarray:
        """(height, width) uint8 class indices, 0 = background. Equal to that window of the whole grid's target.

        Where classes overlap the earlier in `class_names` wins, the background never: a building over a road is a
        building. The contact class wins over all.
        """
        return self.polygons.burn(window)


@dataclass(frozen=True, eq=False)
class LabelledArea:
    """The ground on which labels are complete. Outside, nothing is known, which is not the background."""

    polygons: PixelPolygons = field(repr=False)
    """What is burnt."""

    def valid(self, window: Window) -> np.ndarray:
        """(height, width) bool, True = labelled."""
        return self.polygons.burn(window) != 0


def read_labels(
    path: str | os.PathLike[str],
    *,
    grid: Grid,
    class_names: Sequence[str],
    class_field: str | None = None,
    default_class: str | None = None,
    layer: str | None = None,
    invalid_geometry: InvalidGeometry = "error",
    line_width_m: float | None = None,
    width_field: str | None = None,
    contact: str | None = None,
    gsd: float | None = None,
) -> VectorLabels:
    """Read polygons, lines with a width, and their classes, reprojected to the grid's CRS.

    A feature's class is the value of `class_field` (case does not matter); without that option, of a field named class,
    kind, label, type or name that holds names of classes; without such a field, the class its layer is named after
    ("buildings"); failing that `default_class`; failing that the only class besides the background, or "building" for
    polygons and "road" for lines. Values that are no class count as background, with one warning. Polygons of a layer
    that tells no class are refused beside a layer that does.

    Lines are roads and the like, widened by half their true width on the ground to either side, with round ends. They
    are left aside where the file has layers of polygons, too, and no width is given.

    Args:
        path: GeoPackage, GeoJSON, FlatGeobuf, Shapefile or GeoParquet.
        grid: Where pixels lie. Without a CRS on one side, coordinates are taken as they are if the extents overlap.
        class_names: Two classes or more, the background first.
        class_field: The field that holds class names.
        default_class: The class of features that no field or layer name tells.
        layer: The layer to read; all layers with a geometry when None.
        invalid_geometry: Refuse invalid polygons, make them valid, or leave them out.
        line_width_m: Width of lines in metres on the ground, where `width_field` says none.
        width_field: The field with a line's own width in metres. With neither: a field named width_m or width.
        contact: The class, one of `class_names`, painted where two buildings touch, or nearly: within 1.5 pixels of
            both, where they come within 2 of each other. Buildings are the polygons of class "building", or else of the
            first class besides the background.
        gsd: Metres per pixel, of a grid whose CRS does not tell; needed for widths only.

    Raises:
        LabelsError: If the file cannot be read, has no polygons, holds points or lines of unknown width, or lies
            outside the grid.
        UsageError: If `class_field`, `width_field`, `default_class`, `contact` or `layer` names nothing there is, or
            nothing says how long a metre is.
    """
    path, names = Path(path), tuple(class_names)
    _check_names(names, default_class, contact)
    widths = Widths(line_width_m, width_field)
    frames = read_layers(path, layer=layer, invalid_geometry=invalid_geometry, lines=widths.given)
    drawn = tuple(name for name in names[1:] if name != contact)
    if class_field is None and default_class is None:
        check_layers(frames, path, names)
    codes = [
        class_codes(frame, path, names, class_field=class_field, default_class=default_class, drawn=drawn)
        for frame in frames
    ]
    reach = Reach(grid, gsd)
    placed = [
        _as_polygons(frame, geometries, own, path, widths, reach)
        for frame, geometries, own in zip(frames, on_grid(frames, path, grid), codes, strict=True)
    ]
    present = {names[code] for own in codes for code in np.unique(own) if code} | ({contact} if contact else set())
    polygons, values = pixel_polygons(np.concatenate(placed), np.concatenate(codes), grid)
    # The earlier class is burnt later and wins; the background is what nothing is burnt on.
    order = np.argsort(-values.astype(np.int16), kind="stable")
    order = order[(values[order] != 0) & _near(polygons[order], grid)]
    polygons, values = polygons[order], values[order]
    if contact:
        building = names.index("building" if "building" in drawn else drawn[0])
        strips = contacts(polygons[values == building])
        polygons = np.concatenate([polygons, strips])
        values = np.concatenate([values, np.full(len(strips), names.index(contact), np.uint8)])
    return VectorLabels(
        grid=grid,
        class_names=names,
        present=tuple(name for name in names if name in present),
        polygons=PixelPolygons(polygons=polygons, values=values),
    )


def labelled_area(path: str | os.PathLike[str], grid: Grid, *, what: str = "the labelled area") -> LabelledArea:
    """Read the polygons within which labels are complete, or those of an area of interest.

    Args:
        path: GeoPackage, GeoJSON, FlatGeobuf, Shapefile or GeoParquet.
        grid: Where pixels lie.
        what: It is, for messages.

    Raises:
        LabelsError: As `read_labels`; invalid polygons are refused.
    """
    path = Path(path)
    frames = read_layers(path, layer=None)
    if lines := sum(int(are_lines(frame).sum()) for frame in frames):
        raise LabelsError(f"{path} holds {lines} lines. Expected the outlines of {what}. Draw polygons.")
    geometries = np.concatenate(on_grid(frames, path, grid, what=what))
    polygons, values = pixel_polygons(geometries, np.ones(len(geometries), np.uint8), grid)
    return LabelledArea(polygons=PixelPolygons(polygons=polygons, values=values))


def _check_names(names: tuple[str, ...], default_class: str | None, contact: str | None) -> None:
    if len(names) < 2 or len(names) > 255:
        raise UsageError(f"class_names={list(names)}: expected 2 to 255 names, the background first.")
    for key, name in (("default_class", default_class), ("contact", contact)):
        if name is not None and name not in names:
            raise UsageError(f"{key}={name!r} is no class. Expected one of {', '.join(names)}.")
    if (contact in (names[0], default_class) and contact is not None) or names[1:] == (contact,):
        raise UsageError(f"contact={contact!r} leaves no class that could touch. Expected a class of its own.")


def _near(polygons: np.ndarray, grid: Grid) -> np.ndarray:
    """(N,) bool, True for polygons that a pixel of the grid, or a neighbour at its edge, has to do with."""
    left, top, right, bottom = shapely.bounds(polygons).T
    return (right > -_EDGE) & (bottom > -_EDGE) & (left < grid.width + _EDGE) & (top < grid.height + _EDGE)


def _as_polygons(
    frame: gpd.GeoDataFrame, placed: np.ndarray, codes: np.ndarray, path: Path, widths: Widths, reach: Reach
) -> np.ndarray:
    """The geometries of a layer with its lines widened; lines of the background, which are not burnt, stay lines."""
    lines = are_lines(frame) & (codes != 0)
    if not lines.any():
        return placed
    placed = placed.copy()
    placed[lines] = reach.buffered(placed[lines], widths.of(frame[lines], path) / 2)
    return placed
