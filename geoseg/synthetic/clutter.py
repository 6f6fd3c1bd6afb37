"""What lies flat on the ground of a town: gardens, fields, parks, litter, the markings of streets."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import shapely
from shapely.ops import substring

from geoseg.synthetic.layout import Block, Building, Layout
from geoseg.synthetic.plane import aside, direction, heading, rotation
from geoseg.synthetic.shapes import rectangle
from geoseg.synthetic.style import RGB, Style, pick, varied


@dataclass(slots=True)
class Things:
    """Flat things of one layer: outlines in metres, a colour each, and stripes on them."""

    rings: list[np.ndarray] = field(default_factory=list)
    colors: list[np.ndarray] = field(default_factory=list)
    stripes: list[tuple[float, float, float]] = field(default_factory=list)
    """Strength, and the wave vector's x and y in radians per metre."""
    ranks: list[int] = field(default_factory=list)
    """Where things overlap the higher rank hides the lower; equal ones mix."""

    def add(
        self,
        ring: np.ndarray,
        color: np.ndarray | RGB,
        *,
        rank: int = 0,
        stripes: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        """One more."""
        self.rings.append(ring)
        self.colors.append(np.asarray(color, dtype=float))
        self.stripes.append(stripes)
        self.ranks.append(rank)


def strip(points: np.ndarray, width: float) -> Iterator[np.ndarray]:
    """Quads of `width` along a polyline (K, 2)."""
    for a, b in pairwise(points):
        side = aside(direction(a, b)) * width / 2
        yield np.array([a - side, b - side, b + side, a + side])


def tone(style: Style, rng: np.random.Generator, choice: dict[str, float], spread: float = 9.0) -> np.ndarray:
    """One of the ground's colours, a little off."""
    return varied(style.ground[pick(choice, rng)], rng, spread, spread / 5)


# Ground --------------------------------------------------------------------------------------------------------------


def gardens(layout: Layout, style: Style, rng: np.random.Generator) -> Things:
    """Plots round houses, drives to the street, hedges and walls, fields with rows of crops, yards of halls."""
    things = Things()
    for block in layout.blocks:
        if block.kind == "fields":
            _fields(things, block, style, rng)
        elif block.kind == "park":
            _park(things, block, style, rng)
    if not layout.buildings:
        return things
    centres = shapely.centroid(layout.footprints)
    ways = shapely.get_coordinates(shapely.shortest_line(centres, layout.surface)).reshape(-1, 2, 2)
    for building, way in zip(layout.buildings, ways, strict=True):
        _plot(things, building, style, rng)
        if building.kind != "informal" and rng.random() < 0.6:
            color = tone(style, rng, {"paving": 3, "soil": 1})
            for quad in strip(way, rng.uniform(1.4, 4.0)):
                things.add(quad, color, rank=1)
    return things


def _plot(things: Things, building: Building, style: Style, rng: np.random.Generator) -> None:
    reach = {"houses": 7.0, "terraces": 3.0, "informal": 1.2, "fields": 12.0}.get(building.kind, 6.0)
    if rng.random() < 0.35:
        return
    ring = building.shape.ring
    turn = rotation(heading(ring[1] - ring[0]))
    local = ring @ turn.T
    low = local.min(axis=0) - rng.uniform(0.2, reach, 2)
    high = local.max(axis=0) + rng.uniform(0.2, reach, 2)
    corners = np.array([low, (high[0], low[1]), high, (low[0], high[1])]) @ turn
    grass = style.green * (2.5 if building.kind == "houses" else 0.8)
    hard = {"halls": 3.0, "slabs": 1.5, "courtyards": 2.0}.get(building.kind, 0.35)
    color = tone(style, rng, {"grass": grass, "dry": 0.4, "soil": 1.1 - style.green, "paving": hard})
    things.add(corners, color)
    if building.kind in ("houses", "fields", "courtyards") and rng.random() < 0.6:
        hedge = rng.random() < style.green * 0.6
        fence = style.leaf * 0.9 if hedge else tone(style, rng, {"paving": 1}, 25)
        sides = np.vstack([corners, corners[:1]])[: rng.integers(2, 6)]
        for quad in strip(sides, rng.uniform(0.6, 1.2) if hedge else rng.uniform(0.2, 0.35)):
            things.add(quad, fence, rank=2)
    if building.kind == "houses" and rng.random() < 0.04:
        pool = rectangle(rng.uniform(3, 5), rng.uniform(6, 10)) @ turn + (corners[2] + corners[3]) / 2
        things.add(pool, varied((70, 168, 190), rng, 8, 10), rank=2)


def _fields(things: Things, block: Block, style: Style, rng: np.random.Generator) -> None:
    turn = rotation(block.angle)
    centre = shapely.get_coordinates(block.land.centroid)[0]
    uv = (shapely.get_coordinates(block.land.exterior) - centre) @ turn.T
    size = rng.uniform(12, 45), rng.uniform(18, 90)
    u = uv[:, 0].min()
    while u < uv[:, 0].max():
        v, wide = uv[:, 1].min(), size[0] * rng.uniform(0.6, 1.5)
        while v < uv[:, 1].max():
            deep = size[1] * rng.uniform(0.6, 1.5)
            quad = rectangle(wide - 0.5, deep - 0.5, u + wide / 2, v + deep / 2) @ turn + centre
            for part in shapely.get_parts(block.land.intersection(shapely.Polygon(quad))):
                if part.area > 1:
                    color = tone(style, rng, {"grass": style.green + 0.2, "dry": 0.8, "soil": 0.9}, 13)
                    wave = turn[rng.integers(2)] * 2 * np.pi / rng.uniform(0.8, 3.0)
                    stripes = (rng.uniform(0, 0.12), wave[0], wave[1])
                    things.add(shapely.get_coordinates(part.exterior)[:-1], color, stripes=stripes)
            v += deep
        u += wide


def _park(things: Things, block: Block, style: Style, rng: np.random.Generator) -> None:
    """A pond or a pitch in some of the bigger parks."""
    centre = shapely.get_coordinates(block.land.representative_point())[0]
    turn = rotation(block.angle)
    kind = pick({"plain": 4, "pond": 1, "pitch": 1.5}, rng) if block.land.area > 2500 else "plain"
    if kind == "pond":
        angle = np.linspace(0, 2 * np.pi, 25)[:-1]
        radius = rng.uniform(8, 20) * (1 + 0.25 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.1 * np.sin(5 * angle))
        color = varied(rng.choice([(48, 62, 58), (92, 86, 66), (66, 92, 104)]), rng, 6, 4)
        things.add(np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None] @ turn + centre, color)
    elif kind == "pitch":
        width, depth = rng.uniform(30, 60), rng.uniform(18, 34)
        color = tone(style, rng, {"grass": 3, "dry": 1, "soil": 1.5, "paving": 0.5})
        mown = turn[0] * 2 * np.pi / 7
        things.add(rectangle(width, depth) @ turn + centre, color, stripes=(rng.uniform(0, 0.06), mown[0], mown[1]))
        lines = rectangle(width - 3, depth - 3)
        for quad in [*strip(np.vstack([lines, lines[:1]]), 0.25), *strip(lines[[0, 2]] * (0, 1), 0.25)]:
            things.add(quad @ turn + centre, (214, 214, 206), rank=1)


def litter(layout: Layout, style: Style, rng: np.random.Generator) -> Things:
    """Bushes, stones, heaps and rubbish lying about."""
    things = Things()
    left, top, right, foot = layout.streets.box.bounds
    count = int(rng.uniform(4, 30) * (right - left) * (foot - top) / 1000)
    angle = np.linspace(0, 2 * np.pi, 8)[:-1]
    colors = [style.leaf * 0.9, style.leaf * 1.3, style.ground["soil"] * 0.7, style.ground["paving"] * 1.2]
    colors += [np.array([205, 205, 200]), np.array([70, 110, 160]), np.array([50, 48, 46])]
    kinds = rng.choice(len(colors), count, p=np.array([8, 5, 4, 4, 1, 0.5, 1]) / 23.5)
    at = rng.uniform((left, top), (right, foot), (count, 2))
    radii = rng.lognormal(-0.9, 0.5, count)[:, None] * rng.uniform(0.6, 1.3, (count, len(angle)))
    rings = at[:, None] + np.stack([np.cos(angle) * radii, np.sin(angle) * radii], axis=2)
    for ring, kind in zip(rings, kinds, strict=True):
        things.add(ring, colors[kind] * rng.uniform(0.8, 1.2))
    return things


# Streets -------------------------------------------------------------------------------------------------------------


def markings(layout: Layout, rng: np.random.Generator) -> Things:
    """Dashes, edge lines and zebra crossings of paved main roads, and dashes of some side streets."""
    things, streets = Things(), layout.streets
    chosen = np.flatnonzero(~streets.dirt & (streets.main | (rng.random(len(streets.lines)) < 0.15)))
    paint = rng.uniform(190, 235) + np.array([0.0, -2.0, -8.0])
    dash, pause = rng.uniform(2, 4), rng.uniform(3, 7)
    edge_lines = rng.random() < 0.6
    for k in chosen:
        line, width = streets.lines[k], streets.width[k]
        if line.length < 24:
            continue
        ahead = (dash + pause) * np.arange(max(int((line.length - 20) / (dash + pause)), 1)) + 10
        ends = shapely.line_interpolate_point(line, np.stack([ahead, ahead + dash], axis=1))
        quads = [quad for a_dash in shapely.get_coordinates(ends).reshape(-1, 2, 2) for quad in strip(a_dash, 0.18)]
        if edge_lines and streets.main[k]:
            core = substring(line, 9, line.length - 9)
            for side in (-1, 1):
                rail = shapely.get_coordinates(shapely.offset_curve(core, side * (width / 2 - 0.6)))
                quads += strip(rail, 0.15)
        if streets.main[k] and rng.random() < 0.35:
            quads += _zebra(line, width)
        for quad in quads:
            things.add(quad, paint)
    return things


def _zebra(line: shapely.LineString, width: float) -> Iterator[np.ndarray]:
    a, b = shapely.get_coordinates(shapely.line_interpolate_point(line, [6.0, 9.0]))
    side = aside(direction(a, b))
    for offset in np.arange(-width / 2 + 0.7, width / 2 - 0.5, 1.1):
        yield from strip(np.array([a, b]) + side * offset, 0.5)
