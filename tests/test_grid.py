"""Metres on the ground, whatever the CRS."""

import math

import pytest
from affine import Affine
from pyproj import CRS, Transformer

from geoseg.grid import Grid
from geoseg.windows import Window


def grid(epsg, transform, shape=(40, 60)):
    return Grid(shape=shape, transform=transform, crs=CRS.from_epsg(epsg).to_wkt() if epsg else None)


def north_up(x, y, size):
    return Affine(size, 0, x, 0, -size, y)


def test_utm_is_metres():
    assert grid(32637, north_up(500000, 4000000, 0.3)).gsd == pytest.approx(0.3, rel=1e-3)


def test_web_mercator_is_too_long_by_the_latitude():
    x, y = Transformer.from_crs(4326, 3857, always_xy=True).transform(85.5, 27.6)
    assert grid(3857, north_up(x, y, 0.3)).gsd == pytest.approx(0.3 * math.cos(math.radians(27.6)), rel=4e-3)


def test_degrees():
    size = 4.4879e-6
    expected = size * 111_320 * math.sqrt(math.cos(math.radians(-22.9)))
    assert grid(4326, north_up(-43.6, -22.9, size)).gsd == pytest.approx(expected, rel=5e-3)


def test_feet():
    assert grid(2263, north_up(990000, 200000, 1.0)).gsd == pytest.approx(0.3048, rel=1e-3)


def test_where_another_grid_begins():
    turned = Affine.translation(500000, 4000000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)
    whole = grid(32637, turned)
    row, col, off = whole.place_of(grid(32637, turned @ Affine.translation(7, -3), (5, 5)))
    assert (row, col) == (-3, 7)
    assert off < 1e-6
    coarse = grid(32637, turned @ Affine.scale(1.1), (10, 10))
    assert whole.place_of(coarse)[2] == pytest.approx(1.0)
    assert grid(32637, Affine(0, 0, 1, 0, 0, 1)).place_of(whole)[2] == math.inf


def test_rotation_does_not_change_the_size():
    turned = Affine.translation(500000, 4000000) @ Affine.rotation(33) @ Affine.scale(0.3, -0.3)
    assert grid(32637, turned).gsd == pytest.approx(0.3, rel=1e-3)


def test_no_crs_no_metres():
    assert grid(None, Affine.identity()).gsd is None
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    assert Grid(shape=(4, 4), transform=north_up(0, 0, 1), crs=local).gsd is None


def test_windows_on_the_ground():
    g = grid(32637, north_up(100, 200, 2.0))
    window = Window(row=10, col=5, height=3, width=4)
    assert g.window_bounds(window) == (110, 174, 118, 180)
    assert g.window_transform(window) @ (0, 0) == (110, 180)
    assert g.bounds == (100, 120, 220, 200)


def test_another_planet_has_no_metres_here():
    mars = (
        'GEOGCS["Mars",DATUM["Mars",SPHEROID["Mars",3396190,169.9]],PRIMEM["Reference",0],UNIT["degree",0.0174532925]]'
    )
    assert Grid(shape=(4, 4), transform=north_up(0, 0, 0.001), crs=mars).gsd is None
