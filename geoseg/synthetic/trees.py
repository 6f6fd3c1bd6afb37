"""Trees: where they stand, and their crowns seen from above."""

from dataclasses import dataclass

import numpy as np
import shapely

from geoseg.synthetic.layout import Layout
from geoseg.synthetic.style import Style


@dataclass(frozen=True, slots=True)
class Trees:
    """Crowns seen from above."""

    crowns: np.ndarray
    """(T, K, 2) metres."""
    lit: np.ndarray
    """(T, K, 2) metres: the part of each crown that the sun reaches."""
    height: np.ndarray
    """(T,) metres."""
    colors: np.ndarray
    """(T, 3)."""


CORNERS = 18
"""Of a crown's outline."""
OFTEN = {"park": 1.8, "village": 1.6, "houses": 1.2, "slabs": 0.9, "terraces": 0.7, "courtyards": 0.6, "informal": 0.5}
"""Trees of a kind of block, beside the town's own figure; 0.15 elsewhere."""


def plant(layout: Layout, style: Style, rng: np.random.Generator) -> Trees:
    """Trees in gardens and parks, in clumps, and in rows along main roads; no trunk in a house or a street."""
    at = np.concatenate([_loose_trees(layout, style, rng), _avenues(layout, rng)])
    points = shapely.points(at)
    taken = np.zeros(len(at), bool)
    obstacles = np.concatenate([layout.footprints, shapely.get_parts(layout.surface)])
    if len(obstacles):
        taken[shapely.STRtree(obstacles).query(points, predicate="dwithin", distance=0.9)[0]] = True
    at = at[~taken]
    palm = rng.random(len(at)) < style.climate.palms
    radius = np.where(palm, rng.uniform(1.8, 3.2, len(at)), np.clip(rng.lognormal(0.75, 0.5, len(at)), 0.7, 7.5))
    colors = style.leaf * rng.lognormal(-0.03, 0.17, (len(at), 1)) + rng.normal(0, 4, (len(at), 3))
    angle = np.linspace(0, 2 * np.pi, CORNERS + 1)[:-1] + rng.uniform(0, 6.3, (len(at), 1))
    rough = 1 + rng.normal(0, 0.13, (len(at), CORNERS))
    rough = np.where(palm[:, None], np.where(np.arange(CORNERS) % 2, 1.1, 0.42), rough)
    spokes = np.stack([np.cos(angle), np.sin(angle)], axis=2) * (radius[:, None] * rough)[:, :, None]
    crowns = at[:, None] + spokes
    lit = at[:, None] + spokes * 0.62 + style.sunward * (0.24 * radius)[:, None, None]
    height = radius * rng.uniform(1.3, 2.2, len(at)) + np.where(palm, 4, 0.5)
    return Trees(crowns, lit, height, colors)


def _loose_trees(layout: Layout, style: Style, rng: np.random.Generator) -> np.ndarray:
    left, top, right, foot = layout.streets.box.bounds
    count = int(max(OFTEN.values()) * style.trees * (right - left) * (foot - top) / 1000)
    at = rng.uniform((left, top), (right, foot), (count, 2))
    clump = rng.random(count) < 0.45
    at[clump] = at[rng.integers(0, max(count, 1), clump.sum())] + rng.normal(0, 5, (clump.sum(), 2))
    lands = np.array([block.land for block in layout.blocks], dtype=object)
    if not count or not len(lands):
        return at[:0]
    often = np.array([OFTEN.get(block.kind, 0.15) for block in layout.blocks])
    share = often * rng.uniform(0.3, 1.0, len(lands)) / max(OFTEN.values())
    tree, land = shapely.STRtree(lands).query(shapely.points(at), predicate="intersects")
    return at[tree[rng.random(len(tree)) < share[land]]]


def _avenues(layout: Layout, rng: np.random.Generator) -> np.ndarray:
    made, streets = [np.zeros((0, 2))], layout.streets
    for line, width in zip(streets.lines[streets.main], streets.width[streets.main], strict=True):
        if line.length < 30 or rng.random() < 0.6:
            continue
        along = np.arange(8, line.length - 8, rng.uniform(7, 14))
        a, b = (shapely.get_coordinates(shapely.line_interpolate_point(line, along + k)) for k in (0, 0.5))
        side = np.stack([-(b - a)[:, 1], (b - a)[:, 0]], axis=1) * 2 * (width / 2 + 1.6)
        made += [a + side, a - side]
    return np.concatenate(made)
