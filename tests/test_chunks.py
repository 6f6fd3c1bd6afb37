"""Shapes a chunk at a time: the same as all at once."""

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import UsageError
from geoseg.vectors import chunks as module
from geoseg.vectors.chunks import WkbChunks, chunks, geometry_type

POINT, LINE, SQUARE = shapely.Point(1, 2), shapely.LineString([(0, 0), (1, 1)]), shapely.box(0, 0, 1, 1)


def frame(*shapes):
    return geopandas.GeoDataFrame({"id": np.arange(len(shapes))}, geometry=list(shapes), crs="EPSG:32637")


@given(count=st.integers(0, 40), size=st.integers(1, 12))
def test_every_shape_once_whatever_the_size_of_a_chunk(count, size):
    shapes = shapely.points(np.arange(count), np.arange(count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", size)
        made = WkbChunks(shapes)
        assert (len(made), list(made)) == (count, list(shapely.to_wkb(shapes)))
        assert [made[index] for index in reversed(range(count))] == list(shapely.to_wkb(shapes[::-1]))
        assert made[2:5] == list(shapely.to_wkb(shapes[2:5]))
        found = list(chunks(frame(*shapes), lambda some: shapely.transform(some, lambda xy: xy + 1)))
    assert [number for rows, _ in found for number in rows["id"]] == list(range(count))
    assert [shape.x for _, some in found for shape in some] == [number + 1.0 for number in range(count)]
    assert all(len(rows) == len(some) <= size for rows, some in found)


def test_no_more_than_a_chunk_is_held(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)
    made, sizes = WkbChunks(shapely.points(np.arange(10), 0)), []
    convert = shapely.to_wkb
    monkeypatch.setattr(module.shapely, "to_wkb", lambda some: sizes.append(len(some)) or convert(some))
    assert len(list(made)) == 10
    assert sizes == [4, 4, 2]


def test_an_index_beyond_the_end():
    with pytest.raises(IndexError):
        WkbChunks(np.array([POINT], object))[1]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([POINT], "Point"),
        ([LINE, LINE], "LineString"),
        ([SQUARE], "Polygon"),
        ([SQUARE, shapely.MultiPolygon([SQUARE]), SQUARE], "MultiPolygon"),
        ([shapely.MultiPolygon([SQUARE])], "MultiPolygon"),
        ([shapely.MultiLineString([LINE]), LINE], "MultiLineString"),
    ],
)
def test_geometry_type(shapes, expected):
    assert geometry_type("any", frame(*shapes)) == expected


@pytest.mark.parametrize(
    ("layer", "expected"), [("roads", "LineString"), ("road_nodes", "Point"), ("road_surfaces", "Polygon")]
)
def test_type_of_an_empty_layer(layer, expected):
    assert geometry_type(layer, frame()) == expected


def test_mixed_shapes_are_refused():
    with pytest.raises(UsageError, match=r"'town' mixes Polygon and LineString. Expected .* Give each"):
        geometry_type("town", frame(SQUARE, LINE))
