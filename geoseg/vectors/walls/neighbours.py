"""Buildings that touch: the wall they share becomes one line, and no two overlap."""

from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.vectors.walls.borders import Border

_SLIVER_M2 = 1e-7
"""Overlaps below this are rounding."""
_GRID_M = 1e-8
"""Of vertices of what was moved or cut: a vertex that lies on a wall but for a rounding becomes one of the wall's."""
_NEAR = 4.0  # pixels: how far a fitted wall may be from the border that it stands for
_ALIKE = np.cos(np.radians(25))
_SNAP = np.radians(12)


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line."""

    point: np.ndarray
    """(2,) metres."""
    ahead: np.ndarray
    """(2,) unit vector."""

    def above(self, xy: np.ndarray) -> np.ndarray:
        """Signed distance of (..., 2) points, positive to the left."""
        off = xy - self.point
        distance: np.ndarray = self.ahead[0] * off[..., 1] - self.ahead[1] * off[..., 0]
        return distance

    def along(self, xy: np.ndarray) -> np.ndarray:
        """How far along the line (..., 2) points are."""
        distance: np.ndarray = (xy - self.point) @ self.ahead
        return distance


def settle(shapes: np.ndarray, angle: np.ndarray, shared: list[Border], gsd: float) -> np.ndarray:
    """Shapes after neighbours have agreed: shared walls on one line, no overlaps.

    Args:
        shapes: (p,) valid shapely polygons in metres.
        angle: (p,) degrees: the directions of their walls.
        shared: Borders between them.
        gsd: Metres per pixel.

    Returns:
        (p,) valid polygons. Of two that still overlap, the larger loses what they share.
    """
    found = shapes.copy()
    for border in shared:
        line = _line(border, shapes, angle)
        moved = [_moved(found[p], line, border.points, gsd) for p in (border.one, border.two)]
        for p, shape in zip((border.one, border.two), moved, strict=True):
            if shape is not None and _still(shape, found[p]):
                found[p] = shape
        _cut(found, border, line)
    found = part(found)
    for p in np.flatnonzero(found != shapes).tolist():
        found[p] = whole(shapely.set_precision(found[p], _GRID_M), found[p])
    return found


def part(shapes: np.ndarray, sliver: float = _SLIVER_M2) -> np.ndarray:
    """Shapes without overlaps of more than a sliver: of two that overlap, the larger loses what they share."""
    found = shapes.copy()
    for _ in range(4):
        one, two = shapely.STRtree(found).query(found, predicate="intersects")
        one, two = one[one < two], two[one < two]
        over = shapely.area(shapely.intersection(found[one], found[two])) > sliver
        one, two = one[over], two[over]
        if not len(one):
            break
        size = shapely.area(found)
        for k in np.lexsort((two, one)):
            small, large = sorted((one[k], two[k]), key=lambda p: (size[p], p))
            found[large] = whole(shapely.difference(found[large], found[small]), found[large])
    return found


def _line(border: Border, shapes: np.ndarray, angle: np.ndarray) -> Line:
    """The least-squares line of a border, in the direction of the larger building if that is about the same."""
    point = border.points.mean(axis=0)
    u, v = (border.points - point).T
    heading = 0.5 * np.arctan2(2 * (u @ v), u @ u - v @ v)
    one, two = shapely.area(shapes[[border.one, border.two]])
    larger = border.one if one >= two else border.two
    off = np.radians(angle[larger]) - heading
    off -= np.round(off / (np.pi / 2)) * np.pi / 2
    if abs(off) < _SNAP:
        heading += off
    return Line(point, np.array([np.cos(heading), np.sin(heading)]))


def _moved(shape: shapely.Polygon, line: Line, points: np.ndarray, gsd: float) -> shapely.Polygon | None:
    """A polygon with the wall that stands for a border moved onto its line; None where there is no such wall."""
    ring = shapely.get_coordinates(shape.exterior)[:-1]
    after = np.roll(ring, -1, axis=0)
    length = np.hypot(*(after - ring).T)
    alike = np.abs((after - ring) @ line.ahead) >= _ALIKE * length
    near = np.abs(line.above((ring + after) / 2)) <= _NEAR * gsd
    low, high = line.along(points).min(), line.along(points).max()
    a, b = line.along(ring), line.along(after)
    common = np.minimum(np.maximum(a, b), high) - np.maximum(np.minimum(a, b), low)
    common = np.where(alike & near, common, 0)
    k = int(np.argmax(common))
    if common[k] < 0.5 * min(length[k], high - low) or common[k] <= 0:
        return None
    n = len(ring)
    ring[k] = _slid(ring[k], ring[k - 1], line, gsd)
    ring[(k + 1) % n] = _slid(ring[(k + 1) % n], ring[(k + 2) % n], line, gsd)
    return shapely.Polygon(ring, [hole.coords for hole in shape.interiors])


def _slid(corner: np.ndarray, other: np.ndarray, line: Line, gsd: float) -> np.ndarray:
    """A corner moved onto a line along the wall that it ends, or straight if that would be far."""
    high, low = line.above(corner), line.above(other)
    straight = corner - high * np.array([-line.ahead[1], line.ahead[0]])
    if abs(high - low) < 1e-9:
        return straight
    along: np.ndarray = corner + (other - corner) * high / (high - low)
    far = np.hypot(*(along - corner)) > 2 * abs(high) + 0.1 * gsd
    return straight if far else along


def _still(shape: shapely.Polygon, before: shapely.Polygon) -> bool:
    """Whether a polygon is valid and about what it was."""
    return bool(shape.is_valid) and abs(shape.area - before.area) < 0.25 * before.area


def _cut(found: np.ndarray, border: Border, line: Line) -> None:
    """Take from both what of their overlap is beyond the line they share."""
    one, two = found[border.one], found[border.two]
    over = shapely.intersection(one, two)
    if over.area <= _SLIVER_M2:
        return
    about = shapely.box(*shapely.total_bounds(shapely.points(border.points))).buffer(3.0)
    sides = [shapely.intersection(shape, about).centroid for shape in (one, two)]
    if any(side.is_empty for side in sides):
        return
    up, down = (line.above(shapely.get_coordinates(side)[0]) for side in sides)
    for p, other in ((border.one, up < down), (border.two, up >= down)):
        beyond = shapely.intersection(over, _half(line, over, upper=bool(other)))
        found[p] = whole(shapely.difference(found[p], beyond), found[p])


def _half(line: Line, over: shapely.Geometry, *, upper: bool) -> shapely.Polygon:
    """The part of the plane on one side of a line, as far as a geometry reaches."""
    xy = shapely.get_coordinates(over)
    reach = float(np.hypot(*(xy - line.point).T).max()) + 1.0
    aside = np.array([-line.ahead[1], line.ahead[0]]) * (reach if upper else -reach)
    a, b = line.point - line.ahead * reach, line.point + line.ahead * reach
    return shapely.Polygon([a, b, b + aside, a + aside])


def whole(shape: shapely.Geometry, before: shapely.Polygon) -> shapely.Polygon:
    """The largest polygon of a geometry; what was before, where there is none."""
    parts = [polygon for polygon in shapely.get_parts(shape) if polygon.geom_type == "Polygon" and polygon.area > 0]
    if not parts:
        return before
    found: shapely.Polygon = max(parts, key=lambda polygon: polygon.area)
    return found
