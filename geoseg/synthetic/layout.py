"""Where things stand: blocks between the streets, buildings along them. Metres, x right, y down; no pixels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.synthetic.plane import long_side
from geoseg.synthetic.plots import Block, fill
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
        # Rows of different blocks may share a number: streets keep them apart.
        for shape, row in fill(block, style, rng, len(made)):
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
        yield Block(part, kind if part.area > 350 else "park", long_side(part))


def _build(
    shape: Shape, row: int, block: Block, style: Style, rng: np.random.Generator, made: list[Building]
) -> Building:
    """Height and roof covering; neighbours in a row are often alike."""
    tall = {"slabs": (9, 24), "courtyards": (9, 18), "terraces": (5, 11), "halls": (5, 11), "informal": (2.3, 3.6)}
    height = rng.uniform(*tall.get(block.kind, (3, 7.5))) * (1.7 if shape.level and block.kind == "informal" else 1.0)
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
