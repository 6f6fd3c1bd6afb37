"""Features: what is valid in metres is valid in the raster's CRS."""

import numpy as np
import shapely
import shapely.affinity
from affine import Affine
from pyproj import CRS

from geoseg.grid import Grid
from geoseg.vectors.features import Outliner
from geoseg.vectors.metric import Metric
from geoseg.vectors.options import OutlineOptions
from geoseg.vectors.patches import trace
from geoseg.vectors.planes import ArrayPlanes

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
