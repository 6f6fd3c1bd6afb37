"""The street network: main roads, districts between them, side streets at each district's own angle. Metres, y down."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.ops import substring

from geoseg.synthetic.plane import long_side, rotation
from geoseg.synthetic.style import Style

MARGIN = 60.0
"""Metres of town laid out beyond each edge of the picture, so that its edge cuts through streets and houses."""
STEP = 8.0
"""Metres between the vertices of a curve."""
SNAP = 0.01
"""Grid on which streets are noded, metres: ends within it of another street become its junction."""


@dataclass(frozen=True, slots=True)
class Streets:
    """Centrelines between junctions, and the land between them."""

    lines: np.ndarray
    """(S,) shapely LineString; lines meet only at common end points."""
    width: np.ndarray
    """(S,) float64."""
    main: np.ndarray
    """(S,) bool."""
    dirt: np.ndarray
    """(S,) bool."""
    districts: np.ndarray
    """(D,) shapely Polygon: the land between main roads."""
    box: shapely.Polygon
    """All that is laid out."""


def draw_streets(extent: tuple[float, float], style: Style, rng: np.random.Generator) -> Streets:
    """A street network over `extent` = (width, height) in metres and `MARGIN` around it."""
    box = shapely.box(-MARGIN, -MARGIN, extent[0] + MARGIN, extent[1] + MARGIN)
    mains = _main_roads(box, style, rng)
    noded = shapely.union_all([*mains, box.exterior], grid_size=SNAP)
    districts = shapely.get_parts(shapely.polygonize(shapely.get_parts(noded)))
    districts = districts[shapely.area(districts) > 1.0]
    sides, widths, dirt = [], [], []
    for district in districts:
        lines = _side_streets(district, _angle(district, rng), style, rng)
        sides += lines
        widths += [float(rng.uniform(3.4, 7.0))] * len(lines)
        dirt += list(rng.random(len(lines)) < np.clip(rng.normal(style.climate.dirt_roads, 0.2), 0, 1))
    source = np.array([*mains, *sides], dtype=object)
    is_main = np.arange(len(source)) < len(mains)
    width = np.concatenate([rng.uniform(6.5, 13.0, len(mains)), widths])
    bare = np.concatenate([rng.random(len(mains)) < 0.25 * style.climate.dirt_roads, dirt]).astype(bool)
    edges, of = _edges(source, is_main, rng)
    return Streets(edges, width[of].round(1), is_main[of], bare[of], districts, box)


def _main_roads(box: shapely.Polygon, style: Style, rng: np.random.Generator) -> list[shapely.LineString]:
    """Two families of bending lines, crossing at a wide angle."""
    left, top, right, foot = box.bounds
    centre, reach = np.array([left + right, top + foot]) / 2, np.hypot(right - left, foot - top) / 2
    base = rng.uniform(0, np.pi)
    along = np.arange(-reach - STEP, reach + 2 * STEP, STEP)
    roads = []
    for angle in (base, base + np.pi / 2 + rng.normal(0, 0.2)):
        ahead, across = rotation(angle)
        spacing = rng.uniform(170, 330) * style.scale
        for offset in np.arange(-reach + rng.uniform(0, spacing), reach, spacing):
            bend = _wiggle(along, 0.10 * spacing, (220, 700), rng) + rng.normal(0, 0.06) * along
            line = centre + along[:, None] * ahead + (offset + bend)[:, None] * across
            kept = shapely.intersection(shapely.LineString(line), box)
            if rng.random() < 0.85:
                roads += [part for part in shapely.get_parts(kept) if part.length > STEP]
    return roads


def _wiggle(at: np.ndarray, most: float, wavelength: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A smooth curve through `at`: two sines of random phase."""
    waves = rng.uniform(*wavelength, 2)
    size = rng.uniform(0, most, 2) * np.array([1.0, 0.4])
    return sum(a * np.sin(2 * np.pi * at / w + rng.uniform(0, 2 * np.pi)) for a, w in zip(size, waves, strict=True))


def _angle(district: shapely.Polygon, rng: np.random.Generator) -> float:
    """The direction of a district's streets: mostly that of its long side."""
    return long_side(district) + (rng.normal(0, 0.05) if rng.random() < 0.7 else rng.uniform(-0.8, 0.8))


def _side_streets(
    district: shapely.Polygon, angle: float, style: Style, rng: np.random.Generator
) -> list[shapely.LineString]:
    """Parallel streets and cross streets between them, bent together, in the district's own direction."""
    if district.area < 3000 or (district.area < 40_000 and rng.random() < 0.12):
        return []
    centre, turn = shapely.get_coordinates(district.centroid)[0], rotation(angle)
    uv = (shapely.get_coordinates(district) - centre) @ turn.T
    low, high = uv.min(axis=0) - 40, uv.max(axis=0) + 40
    waves, most, phase = rng.uniform(110, 300, 2), rng.uniform(0, 9, 2), rng.uniform(0, 6.3, 2)
    lines = []
    for ladder in _ladder(low, high, style.scale, rng):
        bent = ladder + most * np.sin(2 * np.pi * ladder[:, ::-1] / waves + phase)
        lines.append(shapely.LineString(bent @ turn + centre))
    parts = shapely.get_parts(shapely.intersection(lines, district))
    return [part for part in parts if part.geom_type == "LineString" and part.length > 3]


def _ladder(low: np.ndarray, high: np.ndarray, scale: float, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """(K, 2) lines from corner `low` to `high`: rows along u, and cross streets from each row to the next.

    Every row has its own cross streets, which makes T junctions, unless chance has them run through.
    """
    rows = low[1] + np.cumsum(rng.uniform(0.75, 1.3, 400) * rng.uniform(38, 75) * scale)
    rows = np.concatenate([[low[1]], rows[rows < high[1]], [high[1]]])
    length = rng.uniform(60, 150) * scale
    crosses = [low[0] + np.cumsum(rng.uniform(0.6, 1.5, 400) * length) for _ in rows[1:]]
    crosses = [us[us < high[0]] for us in crosses]
    if rng.random() < 0.4:
        crosses = [crosses[0]] * len(crosses)
    even = np.arange(low[0], high[0] + STEP, STEP)
    for i, v in enumerate(rows):
        # The ends of the cross streets are vertices of the row: junctions lie exactly on both.
        us = np.unique(np.concatenate([even, *crosses[max(i - 1, 0) : i + 1]]))
        yield np.stack([us, np.full_like(us, v)], axis=1)
    for us, v, following in zip(crosses, rows[:-1], rows[1:], strict=True):
        vs = np.linspace(v, following, 2 + int((following - v) / STEP))
        for u in us:
            yield np.stack([np.full_like(vs, u), vs], axis=1)


def _edges(source: np.ndarray, is_main: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Node all streets with each other; leave out what hugs a main road, some at random, and short stubs."""
    if not len(source):
        return np.zeros(0, dtype=object), np.zeros(0, np.int64)
    edges = shapely.get_parts(shapely.union_all(source, grid_size=SNAP))
    of = shapely.STRtree(source).query_nearest(
        shapely.line_interpolate_point(edges, 0.5, normalized=True), all_matches=False
    )[1]
    mains = shapely.union_all(source[is_main])
    near = [shapely.distance(shapely.line_interpolate_point(edges, t, normalized=True), mains) for t in (0.2, 0.8)]
    hugging = ~is_main[of] & (np.maximum(*near) < 22) & (np.abs(near[0] - near[1]) < 0.3 * shapely.length(edges))
    chance = rng.random(len(edges))
    kept = ~hugging & (is_main[of] | (chance > 0.07))
    edges, of, chance = edges[kept], of[kept], chance[kept]
    blind = ~is_main[of] & (chance > 0.96) & (shapely.length(edges) > 50)
    edges[blind] = [substring(edge, 0, 0.55, normalized=True) for edge in edges[blind]]
    for _ in range(3):
        ends = np.round(np.concatenate([shapely.get_coordinates(shapely.get_point(edges, k)) for k in (0, -1)]), 2)
        _, node, count = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
        loose = (count[node.reshape(2, -1)] == 1).any(axis=0)
        kept = ~loose | is_main[of] | (shapely.length(edges) > 25)
        edges, of = edges[kept], of[kept]
    return edges, of
