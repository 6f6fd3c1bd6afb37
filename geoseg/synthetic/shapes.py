"""Footprints and the roofs on them, in metres. Local frame: u along the street, v away from it, the origin inside."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely

from geoseg.synthetic.plane import aside, direction, rotation

Points = np.ndarray
"""(K, 2) float64 corners of a ring, open."""


@dataclass(frozen=True, slots=True)
class Face:
    """One plane of a roof."""

    ring: Points
    fall: Points
    """(2,) unit vector down the slope; of a level face the direction of its sheets."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A footprint and its roof faces, which cover it without overlap."""

    ring: Points
    faces: tuple[Face, ...]
    hole: Points | None = None
    level: bool = False
    """All faces are level."""

    def placed(self, at: Points, angle: float) -> "Shape":
        """Turned by `angle` and moved so that the frame's origin lies at `at`."""
        turn = rotation(angle)
        faces = tuple(Face(face.ring @ turn + at, face.fall @ turn) for face in self.faces)
        hole = None if self.hole is None else self.hole @ turn + at
        return Shape(self.ring @ turn + at, faces, hole, self.level)


def rectangle(width: float, depth: float, u: float = 0.0, v: float = 0.0) -> Points:
    """Corners of an upright rectangle centred on (u, v)."""
    return np.array([[-width, -depth], [width, -depth], [width, depth], [-width, depth]]) / 2 + (u, v)


def _face(*ring: Points) -> Face:
    """A face whose first edge is its eave."""
    points = np.array(ring)
    out = -aside(direction(points[0], points[1]))
    return Face(points, -out if out @ (points[2] - points[0]) > 0 else out)


def level(ring: Points) -> Shape:
    """A flat roof on any ring."""
    return Shape(ring, (Face(ring, _face(*ring).fall),), level=True)


def shed(quad: Points) -> Shape:
    """One face that falls towards the quad's first edge."""
    return Shape(quad, (_face(*quad),))


def gable(quad: Points) -> Shape:
    """Two faces, the ridge halfway between the first and the third edge; the quad need not be a rectangle."""
    a, b, c, d = quad
    m, n = (a + d) / 2, (b + c) / 2
    return Shape(quad, (_face(a, b, n, m), _face(c, d, m, n)))


def hip(quad: Points) -> Shape:
    """Four faces; on a square a pyramid."""
    longer = np.hypot(*(quad[1] - quad[0])) >= np.hypot(*(quad[2] - quad[1]))
    a, b, c, d = quad if longer else np.roll(quad, -1, axis=0)
    m, n = (a + d) / 2, (b + c) / 2
    inset = (n - m) * 0.5 * np.hypot(*(d - a)) / np.hypot(*(n - m))
    m, n = m + inset, n - inset
    return Shape(quad, (_face(a, b, n, m), _face(b, c, n), _face(c, d, m, n), _face(d, a, m)))


def winged(width: float, depth: float, wings: list[tuple[float, float, float]], flat: bool = False) -> Shape:
    """L, T and U: a gabled body with gabled wings on its far side, valleys between them.

    Args:
        width: Length of the body along u.
        depth: Its depth along v.
        wings: (centre on u, width, length) of each, from right to left; not wider than the body is deep.
        flat: One level roof instead of the gables.
    """
    a, b = width / 2, depth / 2
    far, valleys, faces = [], [], []
    for centre, size, length in wings:
        w, end = size / 2, b + length
        far += [(centre + w, b), (centre + w, end), (centre - w, end), (centre - w, b)]
        valleys += [(centre + w, b), (centre, b - w), (centre - w, b)]
        for side in (-w, w):
            half = np.array([(centre + side, b), (centre + side, end), (centre, end), (centre, b - w)])
            faces.append(Face(half, np.array([np.sign(side), 0.0])))
    # A wing may end flush with the body: the points between them are no corners then.
    outline = shapely.Polygon([(-a, -b), (a, -b), (a, b), *far, (-a, b)]).simplify(1e-6)
    ring = shapely.get_coordinates(outline)[:-1]
    if flat:
        return level(ring)
    near = np.array([(-a, -b), (a, -b), (a, 0.0), (-a, 0.0)])
    back = np.array([(-a, 0.0), (a, 0.0), (a, b), *valleys, (-a, b)])
    return Shape(ring, (Face(near, np.array([0.0, -1.0])), Face(back, np.array([0.0, 1.0])), *faces))


def courtyard(width: float, depth: float, wing: float, flat: bool = False) -> Shape:
    """Four wings round an open court; their ridges meet at the corners."""
    outer = rectangle(width, depth)
    inner = rectangle(width - 2 * wing, depth - 2 * wing)
    ridge = (outer + inner) / 2
    faces = []
    for i in range(4):
        j = (i + 1) % 4
        if flat:
            faces.append(_face(outer[i], outer[j], inner[j], inner[i]))
        else:
            faces += [_face(outer[i], outer[j], ridge[j], ridge[i]), _face(inner[i], inner[j], ridge[j], ridge[i])]
    return Shape(outer, tuple(faces), inner, level=flat)


def ridges(width: float, depth: float, bays: int) -> Shape:
    """A hall: `bays` parallel gables side by side along u."""
    faces = []
    us = np.linspace(-width / 2, width / 2, 2 * bays + 1)
    for k, (left, right) in enumerate(pairwise(us)):
        ring = rectangle(right - left, depth, (left + right) / 2)
        faces.append(Face(ring, np.array([-1.0 if k % 2 == 0 else 1.0, 0.0])))
    return Shape(rectangle(width, depth), tuple(faces))
