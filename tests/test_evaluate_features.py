"""Features of vector files: classes, widths, metres."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from pyproj import Geod
from shapely import LineString, box

from geoseg.errors import LabelsError
from geoseg.evaluate.features import Plane, layer_class, stated_classes, widths


def layer(called: str, shapes=None, crs="EPSG:4326", **columns) -> gpd.GeoDataFrame:
    size = max([len(values) for values in columns.values()], default=1)
    frame = gpd.GeoDataFrame(columns, geometry=shapes or [box(0, 0, 1, 1)] * size, crs=crs)
    frame.attrs["layer"] = called
    return frame


def test_classes_as_geoseg_states_them():
    both = layer("x", **{"class": [1, 2], "name": ["building", "road"]})
    assert stated_classes(both).tolist() == ["building", "road"]
    assert layer_class(both) is None
    one = layer("water", **{"class": [3, 3], "name": ["water", "water"]})
    assert (stated_classes(one).tolist(), layer_class(one)) == (["water", "water"], "water")
    assert layer_class(one[:0]) == "water"
    # A name beside a class in words is the building's own.
    named = layer("x", **{"class": ["house ", None], "name": ["Town hall", "Mill"]})
    assert (stated_classes(named).tolist(), layer_class(named)) == (["house", ""], None)


def test_classes_by_layer():
    assert stated_classes(layer("Buildings")).tolist() == ["building"]
    assert (layer_class(layer("roads")), layer_class(layer("road_surfaces"))) == ("road", "road")
    assert (stated_classes(layer("parcels")).tolist(), layer_class(layer("parcels"))) == ([""], None)


def test_widths_as_people_write_them(tmp_path):
    frame = layer("roads", width=["6", "6,5 m", "7.5metres", "wide", None, "-3", "0"])
    found = widths(frame, tmp_path)
    assert found.tolist()[:3] == [6, 6.5, 7.5]
    assert np.isnan(found[3:]).all()
    assert widths(frame, tmp_path, metres=4.0).tolist() == [6, 6.5, 7.5, 4, 4, 4, 4]
    assert widths(layer("roads", width_m=[3.25], width=[9.0]), tmp_path).tolist() == [3.25]
    assert np.isnan(widths(layer("roads"), tmp_path)).all()


@pytest.mark.parametrize(("lon", "lat"), [(15, 0), (-70, 50), (179.98, -30), (25, 72)])
def test_metres_are_true_and_come_back(tmp_path, lon, lat):
    line = LineString([(lon, lat), (lon + 0.01, lat + 0.01)])
    frame = layer("roads", [line])
    plane = Plane.about([frame], tmp_path)
    placed = plane.placed(frame, tmp_path)
    truth = Geod(ellps="WGS84").geometry_length(line)
    assert shapely.length(placed[0]) == pytest.approx(truth, rel=1e-5)
    assert plane.back(placed)[0].equals_exact(line, 2e-8)  # of degrees: 2 mm


def test_without_a_crs_metres_are_what_is_written(tmp_path):
    frame = layer("x", crs=None)
    plane = Plane.about([frame], tmp_path)
    assert plane.placed(frame, tmp_path)[0].equals(frame.geometry.iloc[0])
    assert plane.back(frame.geometry.to_numpy())[0].equals(frame.geometry.iloc[0])


def test_coordinates_of_another_crs_are_refused(tmp_path):
    with pytest.raises(LabelsError, match="declares WGS 84 but spans"):
        Plane.about([layer("x", [box(500_000, 5_000_000, 500_010, 5_000_010)])], tmp_path)
