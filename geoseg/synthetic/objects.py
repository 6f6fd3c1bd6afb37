"""Small things with hard edges: cars on the streets, furniture on the roofs."""

from collections.abc import Iterator

import numpy as np
import shapely

from geoseg.synthetic.clutter import Things
from geoseg.synthetic.layout import Building, Layout
from geoseg.synthetic.plane import aside, direction, heading, rotation
from geoseg.synthetic.shapes import rectangle
from geoseg.synthetic.style import MATERIALS, RGB, Style, pick, varied

CARS: dict[RGB, float] = {
    (232, 232, 230): 4.0,
    (178, 180, 184): 3.0,
    (112, 114, 118): 2.0,
    (40, 41, 45): 2.0,
    (150, 40, 38): 1.0,
    (52, 72, 128): 1.0,
    (176, 160, 130): 0.5,
}
"""Colours of cars, and how often each is met."""
Spot = tuple[np.ndarray, float]
"""Where a car stands, and its heading in radians."""


def cars(layout: Layout, rng: np.random.Generator) -> tuple[Things, Things]:
    """Bodies, and the dark glass on them: in both lanes, parked along kerbs, on the yards of halls and slabs."""
    spots: list[Spot] = []
    streets = layout.streets
    busy = rng.uniform(0.15, 1.0)
    for line, width, main, dirt in zip(streets.lines, streets.width, streets.main, streets.dirt, strict=True):
        often = busy * line.length / (28 if main else 40) * (0.35 if dirt else 1.0)
        at = rng.uniform(0, line.length, rng.poisson(often))
        ends = shapely.get_coordinates(shapely.line_interpolate_point(line, np.stack([at, at + 0.5], 1).ravel()))
        for a, b in ends.reshape(-1, 2, 2):
            lane = width / 4 if rng.random() < 0.5 else width / 2 - 1.0
            spots.append((a + aside(direction(a, b)) * lane * rng.choice([-1, 1]), heading(b - a)))
    for building in layout.buildings:
        if building.kind in ("halls", "slabs") and rng.random() < 0.5:
            spots += _parked(building, rng)
    return _car_things(spots, layout, rng)


def _parked(building: Building, rng: np.random.Generator) -> Iterator[Spot]:
    """A row of cars before one side of a building."""
    ring = building.shape.ring
    k = rng.integers(len(ring))
    a, b = ring[k], ring[(k + 1) % len(ring)]
    ahead = direction(a, b)
    out = -aside(ahead)
    for s in np.arange(2, np.hypot(*(b - a)) - 2, 2.7):
        if rng.random() < 0.6:
            yield a + ahead * s + out * 5.0, heading(out)


def _car_things(spots: list[Spot], layout: Layout, rng: np.random.Generator) -> tuple[Things, Things]:
    bodies, glass = Things(), Things()
    if not spots:
        return bodies, glass
    taken = np.zeros(len(spots), bool)
    if len(layout.footprints):
        points = shapely.points(np.array([at for at, _ in spots]))
        near = shapely.STRtree(layout.footprints).query(points, predicate="dwithin", distance=2.2)[0]
        taken[near] = True
    for (at, angle), blocked in zip(spots, taken, strict=True):
        if blocked:
            continue
        turn = rotation(angle)
        length = rng.uniform(3.6, 4.8) if rng.random() < 0.93 else rng.uniform(6, 11)
        bodies.add(rectangle(length, 1.85) @ turn + at, varied(pick(CARS, rng), rng, 8, 2))
        for u in (0.14, -0.3):
            glass.add(rectangle(0.12 * length, 1.5, u * length) @ turn + at, (44, 50, 58))
    return bodies, glass


def furniture(layout: Layout, style: Style, rng: np.random.Generator) -> Things:
    """Odd sheets on tin roofs, tanks and boxes on flat ones, skylights, panels, chimneys."""
    things = Things()
    for building in layout.buildings:
        shape, pattern = building.shape, MATERIALS[building.material].pattern
        for face in shape.faces:
            if len(face.ring) != 4:
                continue
            if pattern == "tin" and rng.random() < 0.4:
                color = MATERIALS[pick(style.roofs, rng)].color
                for _ in range(rng.integers(1, 4)):
                    things.add(_part(face.ring, rng.uniform(0.08, 0.35, 2), rng), varied(color, rng, 14, 4))
            if pattern == "tile" and rng.random() < 0.35:
                dark = rng.random() < 0.5
                things.add(_part(face.ring, np.array([0.07, 0.14]), rng), (58, 62, 72) if dark else (150, 110, 92))
            if building.kind != "informal" and rng.random() < 0.05:
                things.add(_part(face.ring, np.array([0.45, 0.45]), rng), varied((38, 46, 72), rng, 5, 2))
        if shape.level:
            _boxes(things, building, style, rng)
    return things


def _part(quad: np.ndarray, size: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A piece of a four-cornered face, `size` of its sides."""
    (s, t), (w, h) = rng.uniform(0.04, 0.96 - size), size
    a, b, c, d = quad
    corners = [(s, t), (s + w, t), (s + w, t + h), (s, t + h)]
    return np.array([(a * (1 - x) + b * x) * (1 - y) + (d * (1 - x) + c * x) * y for x, y in corners])


def _boxes(things: Things, building: Building, style: Style, rng: np.random.Generator) -> None:
    land = building.footprint.buffer(-1.3)
    if land.is_empty:
        return
    left, top, right, foot = land.bounds
    turn = rotation(heading(building.shape.ring[1] - building.shape.ring[0]))
    tanks = rng.random() < style.climate.tanks
    for at in rng.uniform((left, top), (right, foot), (rng.poisson(1.2 + land.area / 45), 2)):
        if not land.contains(shapely.Point(at)):
            continue
        if tanks:
            angles = np.linspace(0, 2 * np.pi, 9)[:-1]
            ring = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.5, 0.9) + at
            color = varied((34, 36, 42) if rng.random() < 0.6 else (90, 130, 170), rng, 4, 2)
        else:
            ring = rectangle(*rng.uniform(0.7, 2.6, 2)) @ turn + at
            color = varied((0, 0, 0), rng, 0, 4) + rng.uniform(70, 225)
        things.add(ring + style.shadow * rng.uniform(0.5, 1.2), (62, 62, 68), rank=1)
        things.add(ring, color, rank=2)
