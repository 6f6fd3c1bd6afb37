"""Outlines end where the data ends: at the border of the raster, and at its gaps."""

import numpy as np
import shapely

from geoseg.vectors.walls import keep_inside
from tests.buildings import metric_of, planes_of


def _kept(pixels, labels, **options):
    """A polygon in pixels after `keep_inside`, in pixels."""
    planes = planes_of(labels)
    metric = metric_of(planes)
    shapes = shapely.transform(np.array([pixels]), metric.to_metres)
    (found,) = keep_inside(shapes, planes, metric, **options)
    return shapely.transform(found, metric.to_pixels)


def test_what_lies_beyond_the_raster_is_cut_off():
    found = _kept(shapely.Polygon([(10, 10), (45, 12), (45, 30), (10, 30)]), np.ones((40, 40), np.uint8))
    assert found.bounds == (10, 10, 40, 30)
    assert found.is_valid


def test_a_wall_that_leans_out_by_a_hair_stays_one_wall():
    found = _kept(shapely.Polygon([(10, 10), (39.95, 10), (40.06, 30), (10, 30)]), np.ones((40, 40), np.uint8))
    assert len(found.exterior.coords) == 5
    assert found.bounds[2] <= 40


def test_what_lies_inside_stays_as_it_is():
    planes = planes_of(np.ones((40, 40), np.uint8))
    shapes = shapely.transform(np.array([shapely.box(3.3, 4.7, 39, 20.1)]), metric_of(planes).to_metres)
    assert keep_inside(shapes, planes, metric_of(planes))[0] == shapes[0]


def test_a_spike_over_a_gap_is_cut_off_along_its_slanting_border():
    row, col = np.indices((60, 60))
    labels = np.where(row + col < 60, 1, 255).astype(np.uint8)
    outline = shapely.Polygon([(5, 5), (25, 5), (50, 30), (5, 25)])
    found = _kept(outline, labels)
    xy = shapely.get_coordinates(found)
    assert found.is_valid
    assert xy.sum(axis=1).max() <= 60 + 3  # a pixel and a half, across
    assert len(xy) <= 7  # no stairs
    assert found.area > 0.98 * outline.intersection(shapely.Polygon([(0, 0), (60, 0), (0, 60)])).area


def test_small_gaps_are_no_reason_to_cut():
    labels = np.ones((40, 40), np.uint8)
    labels[15:20, 15:20] = 255
    box = shapely.box(5, 5, 30, 30)
    assert _kept(box, labels, min_gap=26).equals(box)
    assert _kept(box, labels, min_gap=25).area < box.area


def test_a_slit_that_closes_by_a_rounding_does_not_stop_it():
    """Valid in metres, it touches itself in pixels; over the border of the raster it has to be cut."""
    planes = planes_of(np.ones((40, 40), np.uint8))
    metric = metric_of(planes)
    ring = [(10, 10), (45, 12), (45, 30), (30, 30), (30, 15), (30 - 1e-13, 30), (10, 30)]
    touching = shapely.transform(shapely.Polygon(ring), metric.to_metres)
    (found,) = keep_inside(np.array([touching]), planes, metric)
    assert found.is_valid
    assert shapely.transform(found, metric.to_pixels).bounds == (10, 10, 40, 30)
    bow = shapely.Polygon([(10, 10), (45, 12), (45, 30), (30, 30), (29.9, 31), (30, 31), (29.9, 30), (10, 30)])
    (found,) = keep_inside(np.array([shapely.transform(bow, metric.to_metres)]), planes, metric)
    assert found.is_valid
