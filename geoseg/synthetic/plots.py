"""What a block is filled with: houses along its streets, terraces, courtyards, halls, huts. Metres, x right, y down."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.synthetic import shapes
from geoseg.synthetic.plane import heading, rotation
from geoseg.synthetic.shapes import Shape
from geoseg.synthetic.style import Style, pick


@dataclass(frozen=True, slots=True)
class Block:
    """Land between streets."""

    land: shapely.Polygon
    kind: str
    """A key of `FILLERS`, or park."""
    angle: float
    """Radians: the direction of its long side."""


def fill(block: Block, style: Style, rng: np.random.Generator, row: int) -> Iterator[tuple[Shape, int]]:
    """Shapes in place, with the row each belongs to, the important ones first: what does not fit is dropped later.

    Args:
        block: Where to; kinds that no building stands on give nothing.
        style: The town's.
        rng: Where chance comes from.
        row: Number of the first row. Shapes of one row may touch; those of row -1 stand alone.
    """
    if block.kind in FILLERS:
        yield from FILLERS[block.kind](block, style, rng, row)


def _runs(land: shapely.Polygon, most_turn: float = 0.5) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The sides of a block between its corners: points along it, and the inward normal at each."""
    ring = shapely.get_coordinates(shapely.simplify(land.exterior, 0.25))[:-1]
    ahead = np.roll(ring, -1, axis=0) - ring
    if np.sum(ring[:, 0] * np.roll(ring[:, 1], -1) - ring[:, 1] * np.roll(ring[:, 0], -1)) < 0:
        ring = ring[::-1]
        ahead = np.roll(ring, -1, axis=0) - ring
    angle = np.arctan2(ahead[:, 1], ahead[:, 0])
    turn = np.abs((angle - np.roll(angle, 1) + np.pi) % (2 * np.pi) - np.pi)
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
            angle = heading(right - left) + rng.normal(0, 0.02)
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
    if kind == "courtyards" or (chance < 0.4 and width > 8.5):
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
                hut = shapes.level(shapes.rectangle(2.8, rng.uniform(2.4, 4)))
                yield hut.placed(at, heading(front[i + 1] - front[i])), -1
        row += 1


def _grid(block: Block, pitch: tuple[float, float], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Points on a shaken grid along the block's long side."""
    turn = rotation(block.angle)
    centre = shapely.get_coordinates(block.land.centroid)[0]
    uv = (shapely.get_coordinates(block.land.exterior) - centre) @ turn.T
    for v in np.arange(uv[:, 1].min() + rng.uniform(0.2, 0.7) * pitch[1], uv[:, 1].max(), pitch[1]):
        for u in np.arange(uv[:, 0].min() + rng.uniform(0, 1) * pitch[0], uv[:, 0].max(), pitch[0]):
            yield (np.array([u, v]) + rng.uniform(-0.25, 0.25, 2) * pitch) @ turn + centre


def _informal(block: Block, style: Style, rng: np.random.Generator, row: int) -> Iterator[tuple[Shape, int]]:
    """Small huts wall to wall, roughly aligned, some joined."""
    pitch = rng.uniform(4.6, 8.5, 2)
    shake = rng.choice([0.03, 0.12, 0.3])
    for at in _grid(block, (pitch[0], pitch[1]), rng):
        size = pitch * rng.uniform(0.62, 1.15, 2)
        angle = block.angle + rng.normal(0, shake)
        is_flat = rng.random() < style.climate.flat
        quad = shapes.rectangle(*size)
        roof = shapes.level if is_flat else shapes.shed if rng.random() < 0.6 else shapes.gable
        yield roof(quad).placed(at, angle), row
        if rng.random() < 0.2:
            w, d = rng.uniform(2, 4), size[1] * rng.uniform(0.5, 1.0)
            annex = shapes.rectangle(w, d, (size[0] + w) / 2, rng.uniform(-1, 1) * (size[1] - d) / 2)
            yield (shapes.level if is_flat else shapes.shed)(annex).placed(at, angle), row
        row += 1


def _halls(block: Block, _: Style, rng: np.random.Generator, __: int) -> Iterator[tuple[Shape, int]]:
    """Big halls along the block's long side, largest first, then small ones in what is left."""
    for scale, pitch in ((1.0, (56.0, 40.0)), (0.55, (34.0, 26.0)), (0.3, (24.0, 20.0))):
        for at in _grid(block, pitch, rng):
            width, depth = rng.uniform(34, 62) * scale, rng.uniform(22, 40) * scale
            quad = shapes.rectangle(width, depth)
            roof = pick({"level": 3, "gable": 3, "ridges": 2}, rng)
            made = {"level": shapes.level, "gable": shapes.gable}.get(roof)
            shape = made(quad) if made else shapes.ridges(width, depth, max(2, int(width / 9)))
            yield shape.placed(at, block.angle + rng.choice([0, np.pi / 2], p=[0.8, 0.2])), -1


def _village(block: Block, style: Style, rng: np.random.Generator, row: int) -> Iterator[tuple[Shape, int]]:
    """Houses each turned as it likes."""
    return _scattered(block, rng.uniform(15, 28), 0.75, style, rng, row)


def _farms(block: Block, style: Style, rng: np.random.Generator, row: int) -> Iterator[tuple[Shape, int]]:
    """A house here and there."""
    return _scattered(block, 48.0, 0.15, style, rng, row)


def _scattered(
    block: Block, pitch: float, often: float, style: Style, rng: np.random.Generator, row: int
) -> Iterator[tuple[Shape, int]]:
    for at in _grid(block, (pitch, pitch), rng):
        if rng.random() < often:
            width, depth = _size("houses", rng.uniform(0.7, 1.1), rng)
            angle = block.angle + rng.normal(0, 0.5)
            yield from ((shape.placed(at, angle), row) for shape in _house("houses", width, depth, style, rng))
            row += 1


Filler = Callable[[Block, Style, np.random.Generator, int], Iterator[tuple[Shape, int]]]

FILLERS: dict[str, Filler] = {
    "houses": _frontage,
    "slabs": _frontage,
    "courtyards": _frontage,
    "terraces": _terraces,
    "informal": _informal,
    "halls": _halls,
    "village": _village,
    "fields": _farms,
}
"""Who fills a kind of block; parks stay empty."""
