"""GeoJSON by RFC 7946: degrees, seven decimals, rings by the right-hand rule, valid shapes."""

import json

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from geoseg.errors import OutputError
from geoseg.vectors.geojson import write_geojson

UTM = "EPSG:32637"
CORNER = np.array([500000.0, 6650000.0])


def frame(shapes, crs=UTM, **fields):
    return geopandas.GeoDataFrame({"id": np.arange(len(shapes)), **fields}, geometry=list(shapes), crs=crs)


def written(path, rows, layer="buildings"):
    write_geojson(path, layer, rows)
    return json.loads(path.read_text(encoding="utf-8"))


def coordinates(found):
    return shapely.get_coordinates([shapely.from_geojson(json.dumps(one["geometry"])) for one in found["features"]])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.geojson"


@pytest.mark.parametrize("crs", [UTM, "EPSG:3857", "EPSG:2263", "EPSG:4326", "EPSG:4979", "EPSG:25833+7837"])
def test_degrees_with_seven_decimals(path, crs):
    xy = np.column_stack(Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform([39.1, -73.5], [60.2, 40.7]))
    found = coordinates(written(path, frame(shapely.points(xy), crs)))
    assert found == pytest.approx(np.array([[39.1, 60.2], [-73.5, 40.7]]), abs=1e-7)
    exact = np.random.default_rng(0).uniform(xy.min(0), xy.max(0), (50, 2))
    stored = coordinates(written(path, frame(shapely.points(exact), crs)))
    assert (stored == stored.round(7)).all()


def test_the_text(path):
    """All of it, by hand: no CRS member, a name, one feature a line, missing values as null."""
    rows = frame(
        [shapely.Point(39, 60), None],
        "EPSG:4326",
        name=['ä "b"\n', None],
        prob=[0.1 + 0.2, np.nan],
        kept=[True, False],
        count=np.array([1, 2], np.uint8),
    )
    write_geojson(path, "Grün", rows)
    assert path.read_bytes().decode() == (
        '{"type":"FeatureCollection","name":"Grün","features":[\n'
        '{"type":"Feature","properties":{"id":0,"name":"ä \\"b\\"\\n","prob":0.30000000000000004,"kept":true,'
        '"count":1},"geometry":{"type":"Point","coordinates":[39.0,60.0]}},\n'
        '{"type":"Feature","properties":{"id":1,"name":null,"prob":null,"kept":false,"count":2},"geometry":null}\n]}\n'
    )


def test_exteriors_run_counter_clockwise_and_holes_clockwise(path):
    court = shapely.box(0, 0, 9, 9).difference(shapely.box(3, 3, 6, 6))
    shapes = [shapely.orient_polygons(court, exterior_cw=True), shapely.orient_polygons(court)]
    shapes = shapely.transform(np.array(shapes), lambda xy: xy + CORNER)
    for one in written(path, frame(shapes))["features"]:
        exterior, hole = map(shapely.LinearRing, one["geometry"]["coordinates"])
        assert (shapely.is_ccw(exterior), shapely.is_ccw(hole)) == (True, False)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
@example(seed=1624)  # a part of one shape is closed, the other is too small for repairs
def test_shapes_stay_valid(tmp_path_factory, seed):
    """Also triangles a few millimetres wide, below the step of the decimals; none is lost, no edge moves by 2 cm."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 0.2, (40, 5, 2)) * random.choice([0.01, 1, 100], (40, 1, 1))
    shapes = (
        shapely.convex_hull(shapely.multipoints(corners))
        if seed % 2
        else shapely.build_area(shapely.node(shapely.linestrings(corners[:, [0, 1, 2, 3, 4, 0]])))
    )
    shapes = shapely.transform(shapes[~shapely.is_empty(shapes)], lambda xy: xy + CORNER)
    assert shapely.is_valid(shapes).all()
    path = tmp_path_factory.mktemp("json") / "out.json"
    found = written(path, frame(shapes))["features"]
    assert len(found) == len(shapes)
    made = np.array([shapely.from_geojson(json.dumps(one["geometry"])) for one in found])
    back = Transformer.from_crs("OGC:CRS84", UTM, always_xy=True)
    made_m = shapely.transform(made, lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1])))
    large = shapely.area(made_m) > 0
    assert (shapely.is_valid(made) | ~large).all()
    inside, outside = shapely.buffer(shapes, -0.02), shapely.buffer(shapes, 0.02)
    assert shapely.covers(outside, made_m).all()
    assert (shapely.covers(shapely.buffer(made_m, 1e-6), inside) | shapely.is_empty(inside)).all()


def test_a_notch_that_rounding_closes_is_cut_through(path):
    """The notch ends 4e-8 degrees above the lower edge: rounded, it would touch it, and the ring itself."""
    notched = shapely.Polygon([(0, 0), (1e-3, 0), (1e-3, 1e-3), (5e-4, 4e-8), (0, 1e-3)])
    assert notched.is_valid
    (found,) = written(path, frame([notched], "EPSG:4326"))["features"]
    shape = shapely.from_geojson(json.dumps(found["geometry"]))
    assert (shape.is_valid, shape.geom_type) == (True, "MultiPolygon")
    assert shape.area == pytest.approx(notched.area, rel=1e-3)


def test_across_the_180th_meridian_is_left_alone(path):
    found = coordinates(written(path, frame([shapely.box(179.999, 0, 180.001, 1)], "EPSG:4326")))
    assert found[:, 0].max() == 180.001


def test_coordinates_outside_the_crs(path):
    with pytest.raises(OutputError, match=r"such as \[500.0, 95.0\] have no longitude and latitude.*Write a \.gpkg"):
        write_geojson(path, "a", frame([shapely.Point(1, 2), shapely.Point(500, 95)], "EPSG:4326"))


def test_an_empty_layer(path):
    assert written(path, frame([])) == {"type": "FeatureCollection", "name": "buildings", "features": []}
