"""The city that vectors are measured on: exact, repeatable, and as hard as a network makes it."""

import numpy as np
import pytest
import shapely
from rasterio import features

from geoseg.windows import Window
from tests.city import make_city


@pytest.fixture(scope="module")
def city():
    return make_city(900, seed=0)


def test_same_bytes(city):
    again = make_city(900, seed=0)
    assert np.array_equal(city.planes.values, again.planes.values)
    assert np.array_equal(city.planes.probabilities, again.planes.probabilities)
    assert shapely.to_wkb(city.buildings).tolist() == shapely.to_wkb(again.buildings).tolist()


def test_strips_leave_no_trace(city, monkeypatch):
    monkeypatch.setattr("tests.city_planes.STRIP_PIXELS", 900 * 100)
    assert np.array_equal(make_city(900, seed=0).planes.probabilities, city.planes.probabilities)


def test_labels_are_the_likeliest_class(city):
    values, stored = city.planes.values, city.planes.probabilities
    seen = values != 255
    assert 0.97 < seen.mean() < 1
    assert (stored[:, ~seen] == 255).all()
    assert (stored[:, seen].argmax(axis=0) == values[seen]).all()
    assert np.abs(stored[:, seen].sum(axis=0, dtype=int) - 254).max() <= 2
    assert city.planes.margin(Window(row=0, col=0, height=900, width=900), 1)[values == 1].min() >= 0


def test_truth_is_valid_and_apart(city):
    assert shapely.is_valid(city.buildings).all()
    union = shapely.union_all(city.buildings).area
    assert union == pytest.approx(shapely.area(city.buildings).sum(), rel=1e-9)
    assert len(city.width_m) == len(city.roads)
    assert city.width_m.min() > 2
    assert city.metric.gsd == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize(("noise", "least", "most"), [(0.0, 0.95, 1.0), (1.0, 0.86, 0.93), (2.0, 0.7, 0.9)])
def test_outlines_are_as_good_as_a_network_makes_them(noise, least, most):
    city = make_city(1000, seed=0, noise=noise)
    found = city.planes.values == 1
    outlines = [shapely.geometry.shape(g) for g, _ in features.shapes(found.astype(np.uint8), found, 4)]
    raw = shapely.make_valid(shapely.transform(np.array(outlines, dtype=object), city.metric.to_metres))
    a, b = shapely.STRtree(raw).query(city.buildings, predicate="intersects")
    shared = shapely.area(shapely.intersection(city.buildings[a], raw[b]))
    iou = shared / (shapely.area(city.buildings[a]) + shapely.area(raw[b]) - shared)
    assert least <= iou[iou >= 0.5].mean() <= most


def test_streets_that_look_joined_are(city):
    ends = np.concatenate([shapely.get_coordinates(shapely.get_point(city.roads, k)) for k in (0, -1)])
    inside = shapely.distance(shapely.points(ends), city.area.boundary) > 1
    tree = shapely.STRtree(city.roads)
    end, line = tree.query(shapely.points(ends), predicate="dwithin", distance=2.0)
    away = shapely.distance(shapely.points(ends[end]), shapely.boundary(city.roads[line]))
    other = (end % len(city.roads) != line) & inside[end]
    # Within two metres of another street it is that street's end, too.
    assert other.any()
    assert away[other].max() < 0.01
