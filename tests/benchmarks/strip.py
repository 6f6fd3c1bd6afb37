"""Before and after: one spot of the city as the network sees it, as the usual chain draws it, and as geoseg does."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import shapely

from tests.benchmarks.rivals import Missing, raw, skeleton, streets, walls
from tests.city import City

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

WIDE_M = 130.0
"""Of the spot."""


def draw_strip(city: City, path: Path, at: tuple[float, float] | None = None) -> None:
    """Write a PNG of three panels.

    Args:
        city: What to draw.
        path: Of the PNG.
        at: The spot's centre in metres; by default where most corners of buildings are, near the middle.
    """
    x, y = at or _busy(city)
    box = shapely.box(x - WIDE_M / 2, y - WIDE_M / 2, x + WIDE_M / 2, y + WIDE_M / 2)
    figure, axes = plt.subplots(1, 3, figsize=(21, 7.4), layout="constrained")
    corners = city.metric.to_pixels(np.array([[x - WIDE_M / 2, y + WIDE_M / 2], [x + WIDE_M / 2, y - WIDE_M / 2]]))
    (left, top), (right, foot) = np.clip(np.round(corners).astype(int), 0, min(city.planes.grid.shape))
    seen = city.planes.probabilities[:, top:foot, left:right] / 254
    picture = 1 - 0.55 * seen[1][..., None] * (0, 0.7, 1) - 0.55 * seen[2][..., None] * (1, 0.6, 0.2)
    picture[seen[0] > 1] = 0.85  # no data
    titles = ("what the network gives, and the truth", "raw outlines, skeletonize + sknw", "geoseg: walls and streets")
    found: list[tuple[np.ndarray, np.ndarray]] = [(city.buildings, city.roads)]
    try:
        found.append((raw(city), skeleton(city).lines))
    except Missing:
        found.append((raw(city), np.empty(0, dtype=object)))
    found.append((walls(city), streets(city).lines))
    for axis, title, (polygons, lines) in zip(axes, titles, found, strict=True):
        axis.imshow(np.clip(picture, 0, 1), extent=(box.bounds[0], box.bounds[2], box.bounds[1], box.bounds[3]))
        _outline(axis, shapely.get_rings(polygons[shapely.intersects(polygons, box)]), "#8c1d18", 1.6)
        near = lines[shapely.intersects(lines, box)] if len(lines) else lines
        _outline(axis, near, "#0b3d91", 2.0)
        axis.set(title=title, xlim=(box.bounds[0], box.bounds[2]), ylim=(box.bounds[1], box.bounds[3]))
        axis.set_axis_off()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _outline(axis: Axes, shapes: Iterable[shapely.Geometry], color: str, width: float) -> None:
    axis.add_collection(LineCollection([shapely.get_coordinates(s) for s in shapes], colors=color, linewidths=width))


def _busy(city: City) -> tuple[float, float]:
    """Of places on a lattice: where most vertices of buildings and junctions are at once."""
    points = shapely.get_coordinates(city.buildings)
    ends = np.concatenate([shapely.get_coordinates(shapely.get_point(city.roads, k)) for k in (0, -1)])
    low, high = points.min(axis=0) + WIDE_M, points.max(axis=0) - WIDE_M
    best, most = (low + high) / 2, -1.0
    for x in np.arange(low[0], max(high[0], low[0] + 1), WIDE_M / 2):
        for y in np.arange(low[1], max(high[1], low[1] + 1), WIDE_M / 2):
            here = [(np.abs(p - (x, y)).max(axis=1) < WIDE_M / 2).sum() for p in (points, ends)]
            score = min(here[0], 150) + 8 * min(here[1], 16)
            if score > most:
                best, most = np.array([x, y]), score
    return float(best[0]), float(best[1])
