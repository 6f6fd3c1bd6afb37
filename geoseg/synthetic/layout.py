"""Where things stand: blocks between the streets, buildings along them. Metres, x right, y down; no pixels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.synthetic import shapes
from geoseg.synthetic.shapes import Shape
from geoseg.synthetic.streets import Streets
from geoseg.synthetic.style import Style, pick

SIDEWALK = 1.2
"""Metres between a street's edge and private ground."""
GAPS = {"informal": 0.25, "terraces": 0.6, "courtyards": 1.0}
"""Metres at least between buildings that do not touch, by kind of block; 1.2 elsewhere."""


@dataclass(frozen=True, slots=True)
class Building:
    """One building as it stands."""

    shape: Shape
    height: float
    material: str
    kind: str
    """Kind of block it stands in."""
    row: int
    """Buildings of one row may touch; -1 stands alone."""

    @property
    def footprint(self) -> shapely.Polygon:
        """The outline with its court."""
        return shapely.Polygon(self.shape.ring, None if self.shape.hole is None else [self.shape.hole])


@dataclass(frozen=True, slots=True)
class Block:
    """Land between streets."""

    land: shapely.Polygon
    kind: str
    angle: float
    """Radians: the direction of its long side."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole town without pixels."""

    streets: Streets
    surface: shapely.Geometry
    """All street surfaces: the centrelines buffered by half their widths."""
    blocks: list[Block]
    buildings: list[Building]
    footprints: np.ndarray
    """(B,) shapely Polygon of `buildings`; they touch at most."""


def lay_out(streets: Streets, style: Style, rng: np.random.Generator) -> Layout:
    """Blocks and buildings on the land between the streets."""
    surface = shapely.union_all(shapely.buffer(streets.lines, streets.width / 2, quad_segs=6))
    blocks = list(_blocks(streets, surface, style, rng))
    made: list[Building] = []
    for block in blocks:
        for shape, row in _fill(block, style, rng, len(made)):
            made.append(_build(shape, row, block, style, rng, made))
    footprints = np.array([building.footprint for building in made], dtype=object)
    kept = _standing(made, footprints, blocks)
    return Layout(streets, surface, blocks, [made[i] for i in kept], footprints[kept])


def _blocks(streets: Streets, surface: shapely.Geometry, style: Style, rng: np.random.Generator) -> Iterator[Block]:
    land = streets.box.difference(shapely.buffer(surface, SIDEWALK, quad_segs=3))
    parts = [part for part in shapely.get_parts(land) if part.area > 40]
    themes = [pick(style.blocks, rng) for _ in streets.districts]
    tree = shapely.STRtree(streets.districts)
    for part in parts:
        district = int(tree.nearest(part.representative_point()))
        kind = themes[district] if rng.random() < 0.6 else pick(style.blocks, rng)
        corners = shapely.get_coordinates(shapely.oriented_envelope(part))
        sides = np.diff(corners, axis=0)
        x, y = sides[np.argmax(np.hypot(*sides.T))]
        yield Block(part, kind if part.area > 350 else "park", float(np.arctan2(y, x)))


def _build(
    shape: Shape, row: int, block: Block, style: Style, rng: np.random.Generator, made: list[Building]
) -> Building:
    """Height and roof covering; neighbours in a row are often alike."""
    tall = {"slabs": (9, 24), "courtyards": (9, 18), "terraces": (5, 11), "halls": (5, 11), "informal": (2.3, 3.6)}
    height = rng.uniform(*tall.get(block.kind, (3, 7.5)))
    if row >= 0 and made and made[-1].row == row and rng.random() < 0.7:
        return Building(shape, made[-1].height + rng.normal(0, 0.4), made[-1].material, block.kind, row)
    material = pick(style.roofs, rng)
    if block.kind == "halls" or (shape.level and block.kind == "slabs"):
        material = pick({"tin": 3, "grey_flat": 3, "white_flat": 2, "bitumen": 2, "blue_tin": 1, "red_tin": 0.6}, rng)
    elif shape.level and "tile" in material:
        material = pick({"grey_flat": 2, "bitumen": 2, "concrete": 2, "white_flat": 1}, rng)
    return Building(shape, height, material, block.kind, row)


def _standing(made: list[Building], footprints: np.ndarray, blocks: list[Block]) -> np.ndarray:
    """Indices of the buildings that stay: whole, on their block's land, and clear of every earlier one that stays."""
    if not made:
        return np.zeros(0, np.int64)
    lands = np.array([block.land for block in blocks], dtype=object)
    shapely.prepare(lands)
    alive = shapely.is_valid(footprints) & (shapely.area(footprints) > 6)
    covered = np.zeros(len(made), bool)
    covered[shapely.STRtree(footprints).query(lands, predicate="covers")[1]] = True
    alive &= covered
    gap = np.array([GAPS.get(building.kind, 1.2) for building in made])
    row = np.array([building.row for building in made])
    first, second = shapely.STRtree(footprints).query(footprints, predicate="dwithin", distance=1.2)
    later = (second > first) & alive[first] & alive[second]
    first, second = first[later], second[later]
    together = (row[first] == row[second]) & (row[first] >= 0)
    near = shapely.distance(footprints[first], footprints[second])
    shared = shapely.area(shapely.intersection(footprints[first], footprints[second]))
    clash = np.where(together, shared > 1e-6, near < np.minimum(gap[first], gap[second]))
    for i, j in sorted(zip(first[clash].tolist(), second[clash].tolist(), strict=True)):
        if alive[i]:
            alive[j] = False
    return np.flatnonzero(alive)


# What a block is filled with -----------------------------------------------------------------------------------------


def _fill(block: Block, style: Style, rng: np.random.Generator, row: int) -> Iterator[tuple[Shape, int]]:
    """Shapes in place, the important ones first, with the row each belongs to; what does not fit is dropped later."""
    if block.kind == "informal":
        yield from _informal(block, rng, row)
    elif block.kind == "halls":
        yield from _halls(block, rng)
    elif block.kind == "terraces":
        yield from _terraces(block, style, rng, row)
    elif block.kind in ("houses", "slabs", "courtyards"):
        yield from _frontage(block, style, rng, row)
    elif block.kind == "fields" and rng.random() < 0.7:
        yield from list(_scattered(block, style, rng))


def _runs(land: shapely.Polygon, most_turn: float = 0.5) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The sides of a block between its corners: points along it, and the inward normal at each."""
    ring = shapely.get_coordinates(shapely.simplify(land.exterior, 0.25))[:-1]
    ahead = np.roll(ring, -1, axis=0) - ring
    if np.sum(ring[:, 0] * np.roll(ring[:, 1], -1) - ring[:, 1] * np.roll(ring[:, 0], -1)) < 0:
        ring = ring[::-1]
        ahead = np.roll(ring, -1, axis=0) - ring
    heading = np.arctan2(ahead[:, 1], ahead[:, 0])
    turn = np.abs((heading - np.roll(heading, 1) + np.pi) % (2 * np.pi) - np.pi)
    corners = np.flatnonzero(turn > most_turn)
    if not len(corners):
        corners = np.array([0])
    for start, stop in zip(corners, np.append(corners[1:], corners[0] + len(ring)), strict=True):
        points = ring[np.arange(start, stop + 1) % len(ring)]
        side = np.gradient(points, axis=0) if len(points) > 2 else np.repeat(np.diff(points, axis=0), 2, axis=0)
        side /= np.maximum(np.hypot(*side.T), 1e-9)[:, None]
        yield points, np.stack([-side[:, 1], side[:, 0]], axis=1)


def _along(points: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """`values` (K, 2) at distances `at` along the polyline `points`."""
    reach = np.append(0, np.cumsum(np.hypot(*np.diff(points, axis=0).T)))
    return np.stack([np.interp(at, reach, values[:, 0]), np.interp(at, reach, values[:, 1])], axis=1)


def _length(points: np.ndarray) -> float:
    return float(np.hypot(*np.diff(points, axis=0).T).sum())


def _frontage(block: Block, style: Style, rng: np.random.Generator, row: int) -> Iterator[tuple[Shape, int]]:
    """Buildings side by side along the streets, with sheds and annexes behind them."""
    small = rng.uniform(0.8, 1.25)
    setback = {"houses": rng.uniform(1, 7), "slabs": rng.uniform(2, 8), "courtyards": rng.uniform(0, 2)}[block.kind]
    spacing = {"houses": rng.uniform(1.5, 8), "slabs": rng.uniform(6, 18), "courtyards": rng.uniform(1, 5)}[block.kind]
    for points, normals in _runs(block.land):
        s, length = rng.uniform(0.5, 4), _length(points)
        while True:
            width, depth = _size(block.kind, small, rng)
            if s + width > length:
                break
            left, right = _along(points, points, np.array([s, s + width]))
            inward = _along(points, normals, np.array([s + width / 2]))[0]
            angle = float(np.arctan2(*(right - left)[::-1])) + rng.normal(0, 0.02)
            at = (left + right) / 2 + inward * (setback + rng.exponential(0.8) + depth / 2)
            yield from ((shape.placed(at, angle), row) for shape in _house(block.kind, width, depth, style, rng))
            row += 1
            s += width + spacing * rng.uniform(0.4, 1.8)


def _size(kind: str, small: float, rng: np.random.Generator) -> tuple[float, float]:
    """Width along the street and depth of one building."""
    if kind == "slabs":
        return rng.uniform(18, 55), rng.uniform(10, 15)
    if kind == "courtyards":
        return rng.uniform(20, 42), rng.uniform(19, 36)
    return rng.uniform(7, 16) * small, rng.uniform(6.5, 11) * small


def _house(kind: str, width: float, depth: float, style: Style, rng: np.random.Generator) -> Iterator[Shape]:
    """One building and what leans on it or stands behind it, in the frame of its own plot."""
    is_flat = rng.random() < (0.8 if kind == "slabs" else style.climate.flat)
    if kind == "courtyards" and rng.random() < 0.75:
        yield shapes.courtyard(width, depth, rng.uniform(5.5, min(width, depth) / 2 - 2.5), is_flat)
        return
    chance = rng.random()
    if kind == "courtyards" or (chance < 0.3 and width > 8.5):
        yield _winged(width, depth if kind != "courtyards" else 9.0, is_flat, rng)
    else:
        yield _roofed(shapes.rectangle(width, depth), is_flat, rng)
    if kind == "houses" and chance > 0.8:
        w, d = rng.uniform(2.5, 4), rng.uniform(3, depth * 0.9)
        annex = shapes.rectangle(w, d, (width + w) / 2, rng.uniform(-1, 1) * (depth - d) / 2)
        yield shapes.level(annex) if is_flat else shapes.shed(np.roll(annex, -1, axis=0))
    if kind == "houses" and rng.random() < 0.35:
        at = np.array([rng.uniform(-0.5, 0.5) * width, depth / 2 + rng.uniform(4, 16)])
        shed = shapes.rectangle(rng.uniform(2.6, 5), rng.uniform(2.4, 4.5))
        yield _roofed(shed, rng.random() < 0.4, rng).placed(at, rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.05))


def _roofed(quad: np.ndarray, is_flat: bool, rng: np.random.Generator) -> Shape:
    if is_flat:
        return shapes.level(quad)
    long_first = np.hypot(*(quad[1] - quad[0])) >= np.hypot(*(quad[2] - quad[1]))
    if rng.random() < 0.2:
        long_first = not long_first
    quad = quad if long_first else np.roll(quad, -1, axis=0)
    return shapes.gable(quad) if rng.random() < 0.62 else shapes.hip(quad)


def _winged(width: float, depth: float, is_flat: bool, rng: np.random.Generator) -> Shape:
    """An L, T or U that takes up the plot `width` x (`depth` and its wings)."""
    wing, length = rng.uniform(0.35, 0.45) * width, rng.uniform(2.5, 6.0)
    wing = min(wing, depth)
    end = (width - wing) / 2
    kind = pick({"L": 4, "T": 2, "U": 1}, rng)
    if kind == "L":
        wings = [(end * rng.choice([-1, 1]), wing, length)]
    elif kind == "T":
        wings = [(rng.uniform(-0.4, 0.4) * end, wing, length)]
    else:
        wing = min(wing, 0.36 * width)
        wings = [((width - wing) / 2, wing, length), ((wing - width) / 2, wing, length)]
    return shapes.winged(width, depth, wings, is_flat)


def _terraces(block: Block, style: Style, rng: np.random.Generator, row: int) -> Iterator[tuple[Shape, int]]:
    """Rows of houses that share their side walls, along every side of the block; garden sheds behind some."""
    width, depth, setback = rng.uniform(4.8, 8.5), rng.uniform(7, 12), rng.choice([0.0, rng.uniform(0.5, 5)])
    is_flat = rng.random() < style.climate.flat
    uneven = rng.choice([0.0, 0.8, 2.0])
    for points, normals in _runs(block.land):
        reach, corner = _length(points), rng.uniform(0.6, 1.0) * depth + setback
        cuts = np.append(0, np.cumsum(width * rng.uniform(0.85, 1.2, 200))) + corner
        cuts = cuts[cuts < reach - corner]
        if len(cuts) < 3:
            continue
        front, normal = _along(points, points, cuts), _along(points, normals, cuts)
        front = front + normal * setback
        for i in range(len(cuts) - 1):
            if rng.random() < 0.06:
                row += 1
                continue
            d = depth + uneven * rng.uniform(-1, 1)
            quad = np.array([front[i], front[i + 1], front[i + 1] + normal[i + 1] * d, front[i] + normal[i] * d])
            yield (shapes.level(quad) if is_flat else shapes.gable(quad)), row
            if rng.random() < 0.25:
                at = quad.mean(axis=0) + normal[i] * (d / 2 + rng.uniform(4, 10))
                angle = float(np.arctan2(*(front[i + 1] - front[i])[::-1]))
                yield _roofed(shapes.rectangle(2.8, rng.uniform(2.4, 4)), True, rng).placed(at, angle), -1
        row += 1


def _grid(block: Block, pitch: tuple[float, float], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Points on a shaken grid along the block's long side."""
    turn = np.array([[np.cos(block.angle), np.sin(block.angle)], [-np.sin(block.angle), np.cos(block.angle)]])
    centre = shapely.get_coordinates(block.land.centroid)[0]
    uv = (shapely.get_coordinates(block.land.exterior) - centre) @ turn.T
    for v in np.arange(uv[:, 1].min() + rng.uniform(0.2, 0.7) * pitch[1], uv[:, 1].max(), pitch[1]):
        for u in np.arange(uv[:, 0].min() + rng.uniform(0, 1) * pitch[0], uv[:, 0].max(), pitch[0]):
            yield (np.array([u, v]) + rng.uniform(-0.25, 0.25, 2) * pitch) @ turn + centre


def _informal(block: Block, rng: np.random.Generator, row: int) -> Iterator[tuple[Shape, int]]:
    """Small huts wall to wall, roughly aligned, some joined."""
    pitch = rng.uniform(4.8, 8.0, 2)
    shake = rng.choice([0.03, 0.12, 0.3])
    for at in _grid(block, (pitch[0], pitch[1]), rng):
        size = pitch * rng.uniform(0.62, 1.15, 2)
        angle = block.angle + rng.normal(0, shake)
        quad = shapes.rectangle(*size)
        yield (shapes.shed(quad) if rng.random() < 0.6 else shapes.gable(quad)).placed(at, angle), row
        if rng.random() < 0.2:
            w, d = rng.uniform(2, 4), size[1] * rng.uniform(0.5, 1.0)
            annex = shapes.rectangle(w, d, (size[0] + w) / 2, rng.uniform(-1, 1) * (size[1] - d) / 2)
            yield shapes.shed(annex).placed(at, angle), row
        row += 1


def _halls(block: Block, rng: np.random.Generator) -> Iterator[tuple[Shape, int]]:
    """Big halls along the block's long side, largest first, then small ones in what is left."""
    for scale, pitch in ((1.0, (56.0, 40.0)), (0.55, (34.0, 26.0)), (0.3, (24.0, 20.0))):
        for at in _grid(block, pitch, rng):
            width, depth = rng.uniform(34, 62) * scale, rng.uniform(22, 40) * scale
            quad = shapes.rectangle(width, depth)
            roof = pick({"level": 3, "gable": 3, "ridges": 2}, rng)
            made = {"level": shapes.level, "gable": shapes.gable}.get(roof)
            shape = made(quad) if made else shapes.ridges(width, depth, max(2, int(width / 9)))
            yield shape.placed(at, block.angle + rng.choice([0, np.pi / 2], p=[0.8, 0.2])), -1


def _scattered(block: Block, style: Style, rng: np.random.Generator) -> Iterator[tuple[Shape, int]]:
    """A farm here and there."""
    for at in _grid(block, (48.0, 48.0), rng):
        if rng.random() < 0.22:
            width, depth = _size("houses", 1.0, rng)
            angle = block.angle + rng.normal(0, 0.4)
            for shape in _house("houses", width, depth, style, rng):
                yield shape.placed(at, angle), -1
