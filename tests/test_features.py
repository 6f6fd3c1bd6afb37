"""Features: what is valid in metres is valid in the raster's CRS."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
import shapely.affinity
from affine import Affine
from pyproj import CRS, Transformer

from geoseg.grid import Grid
from geoseg.vectors.features import Outliner
from geoseg.vectors.metric import Metric
from geoseg.vectors.options import OutlineOptions
from geoseg.vectors.patches import trace
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.walls import fit_walls

COUNT = 60


def test_a_courtyard_that_touches_its_wall_stays_valid_in_web_mercator():
    labels = np.tile(np.array([[1, 0]], np.uint8), (1, COUNT))
    grid = Grid(labels.shape, Affine(0.15, 0, 13_832_961.9, 0, -0.15, 1_570_704.5), CRS.from_epsg(3857).to_wkt())
    planes, metric = ArrayPlanes(labels, grid, {0: "background", 1: "building"}), Metric(grid)
    touching = shapely.Polygon([(0, 0), (30, 0), (30, 20), (0, 20)], [[(11.3, 0), (16, 7), (8, 9)]])
    shapes = np.array([shapely.affinity.rotate(touching, 0.7 + 3.1 * k) for k in range(COUNT)])
    shapes = shapes[shapely.is_valid(shapes)]
    assert not shapely.is_valid(shapely.transform(shapes, metric.to_crs)).all()
    patches = trace(planes, [1], subpixel=False).slice(0, len(shapes))
    outliner = Outliner(planes, metric, OutlineOptions())
    frame = outliner._polygons(shapes, patches, np.full(len(shapes), "walls"), {})
    assert len(frame) == len(shapes)
    assert frame.is_valid.all()
    assert set(frame.geom_type) == {"Polygon"}


@pytest.mark.parametrize("epsg", [4326, 3857])
def test_a_corner_on_the_wall_of_another_building_stays_on_it(epsg):
    """What is straight in metres bends elsewhere: a long wall, and beside it the walls of what leans on it."""
    crs = CRS.from_epsg(epsg)
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(25.0, 65.0)
    size = 0.5 / 111_320 if epsg == 4326 else 0.5 / np.cos(np.radians(65))
    wide = size / np.cos(np.radians(65)) if epsg == 4326 else size
    grid = Grid((400, 400), Affine(wide, 0, x, 0, -size, y), crs.to_wkt())
    planes = ArrayPlanes(np.zeros(grid.shape, np.uint8), grid, {0: "background", 1: "building"})
    outliner = Outliner(planes, Metric(grid), OutlineOptions())
    boxes = [shapely.box(-70, -10, 70, 0), shapely.box(-30, 0, 30, 12), shapely.box(-30, -22, 30, -10)]
    shapes = np.array([shapely.affinity.rotate(box, 20, origin=(0, 0)) for box in boxes])
    assert (shared_m2(outliner, shapely.transform(shapes, outliner.metric.to_crs)) > 0.004).any()
    placed = outliner._apart(shapes)
    assert (shared_m2(outliner, placed) <= 0.001).all()
    assert shapely.is_valid(placed).all()
    assert placed[1:].tolist() == shapely.transform(shapes, outliner.metric.to_crs)[1:].tolist()  # the larger gives way


def test_equal_directions_are_equal_numbers(monkeypatch):
    """A direction just below 90 degrees is that of 0: rounded, it must not become another number."""
    labels = np.zeros((40, 120), np.uint8)
    for col in (10, 50, 90):
        labels[10:30, col : col + 20] = 1
    grid = Grid(labels.shape, Affine(0.5, 0, 500_000, 0, -0.5, 6_200_000), CRS.from_epsg(32637).to_wkt())
    planes = ArrayPlanes(labels, grid, {0: "background", 1: "building"})

    def turned(*args, **options):
        return replace(fit_walls(*args, **options), angle=np.array([0.02, 89.94, 89.96]))

    monkeypatch.setattr("geoseg.vectors.features.fit_walls", turned)
    found = Outliner(planes, Metric(grid), OutlineOptions())._buildings(1, "building")
    assert found["angle_deg"].tolist() == [0.0, 89.9, 0.0]


def shared_m2(outliner, placed):
    """What the first of some polygons in the raster's CRS shares with each other one, in square metres."""
    pixel = abs(outliner.planes.grid.transform.determinant)
    return shapely.area(shapely.intersection(placed[0], placed[1:])) / pixel * outliner.metric.gsd**2
