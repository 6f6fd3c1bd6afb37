"""Metres on the ground from pixels, and back."""

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS, Geod, Transformer

from geoseg.grid import Grid
from geoseg.vectors.metric import Metric

GRIDS = {
    "utm": Grid((400, 300), Affine(0.3, 0, 500000, 0, -0.3, 5200000), CRS("EPSG:32637").to_wkt()),
    "web mercator": Grid((400, 300), Affine(0.45, 0, 4.2e6, 0, -0.45, 5.9e6), CRS("EPSG:3857").to_wkt()),
    "degrees": Grid((400, 300), Affine(4e-6, 0, 38.0, 0, -2.7e-6, 47.2), CRS("EPSG:4326").to_wkt()),
    "feet": Grid((400, 300), Affine(1.0, 0, 2e6, 0, -1.0, 2e6), CRS("EPSG:2263").to_wkt()),
    "turned": Grid(
        (400, 300), Affine.translation(5e5, 5.2e6) @ Affine.rotation(30) @ Affine.scale(0.3, -0.3), "EPSG:32637"
    ),
    "antimeridian": Grid((400, 300), Affine(4e-6, 0, 179.9994, 0, -2.7e-6, 47.2), CRS("EPSG:4326").to_wkt()),
    "grads": Grid((400, 300), Affine(4e-6, 0, 2.0, 0, -2.7e-6, 52.2), CRS("EPSG:4807").to_wkt()),
    "south-up": Grid((400, 300), Affine(0.3, 0, 500000, 0, 0.3, 5200000), "EPSG:32637"),
}
CORNERS = np.array([(0.0, 0.0), (300.0, 0.0), (300.0, 400.0), (0.0, 400.0), (150.5, 12.25)])


@pytest.mark.parametrize("name", GRIDS)
def test_lengths_and_areas_are_those_on_the_ellipsoid(name):
    grid = GRIDS[name]
    metric = Metric(grid)
    xy = metric.to_metres(CORNERS)
    to_degrees = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    lons, lats = to_degrees.transform(*metric.to_crs(xy).T)
    geod = Geod(ellps="WGS84")
    assert np.hypot(*(xy[1] - xy[0])) == pytest.approx(geod.line_length(lons[:2], lats[:2]), rel=1e-4)
    assert np.hypot(*(xy[2] - xy[1])) == pytest.approx(geod.line_length(lons[1:3], lats[1:3]), rel=1e-4)
    x, y = xy[:4].T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert area == pytest.approx(abs(geod.polygon_area_perimeter(lons[:4], lats[:4])[0]), rel=1e-4)
    assert metric.unit == "m"
    assert metric.gsd == pytest.approx(np.sqrt(area / (300 * 400)), rel=1e-3)


@pytest.mark.parametrize("name", GRIDS)
def test_the_way_there_and_back_ends_where_it_began(name):
    metric = Metric(GRIDS[name])
    there = metric.to_metres(CORNERS)
    assert metric.to_pixels(there) == pytest.approx(CORNERS, abs=2e-3)  # the projection's inverse: half a millimetre
    a, b, c, d, e, f = GRIDS[name].transform[:6]
    placed = CORNERS @ np.array([[a, d], [b, e]]) + (c, f)
    assert metric.to_crs(there) == pytest.approx(placed, rel=1e-8)


def test_x_is_east_and_y_is_north():
    xy = Metric(GRIDS["utm"]).to_metres(np.array([(150.0, 200.0), (160.0, 200.0), (150.0, 190.0)]))
    east, north = xy[1] - xy[0], xy[2] - xy[0]
    assert east == pytest.approx((3, 0), abs=0.15)
    assert north == pytest.approx((0, 3), abs=0.15)


def test_without_a_crs_pixels_count_or_the_given_size():
    grid = Grid((4, 6), Affine.identity(), None)
    pixels, sized = Metric(grid), Metric(grid, 0.5)
    assert pixels.unit == "px"
    assert sized.unit == "m"
    assert pixels.to_metres(np.array([(0.0, 0.0), (6.0, 4.0)])).tolist() == [[-3, 2], [3, -2]]
    assert sized.to_metres(np.array([(0.0, 0.0), (6.0, 4.0)])).tolist() == [[-1.5, 1], [1.5, -1]]
    for metric in (pixels, sized):
        assert metric.to_crs(metric.to_metres(np.array([(1.0, 3.0)]))).tolist() == [[1, 3]]


def test_a_crs_beats_a_given_size():
    assert Metric(GRIDS["utm"], 5.0).gsd == pytest.approx(0.3, rel=1e-2)
