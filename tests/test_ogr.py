"""The door to GDAL: errors in geoseg's words, and what was written is looked at."""

import warnings

import geopandas
import pyogrio
import pytest
import shapely

from geoseg.errors import OutputError
from geoseg.vectors.ogr import EPOCH, read_back, write_layer, writing


@pytest.fixture
def frame():
    shapes = [shapely.Point(1, 2), shapely.Point(3, 4)]
    return geopandas.GeoDataFrame({"id": [1, 2]}, geometry=shapes, crs="EPSG:32637")


def test_what_is_missing_is_noticed(tmp_path, frame):
    path = tmp_path / "a.fgb"
    with writing(path):
        write_layer(path, "nodes", frame, "FlatGeobuf")
    assert read_back(path, 2)["layer_name"] == "nodes"
    with pytest.raises(OutputError, match=r"a.fgb holds 2 of 3 features after writing"):
        read_back(path, 3)
    path.write_bytes(path.read_bytes()[:-40])  # the header still says two
    with pytest.raises(OutputError, match="disk full"):
        read_back(path, 2)


def test_what_cannot_be_opened(tmp_path):
    (tmp_path / "a.geojson").write_text('{"type":"FeatureCollection","features":[{"type":"Fea')
    with pytest.raises(OutputError, match=r"cannot be read after writing .* Is the disk full"):
        read_back(tmp_path / "a.geojson", 1, counted=True)


def test_errors_are_translated_and_the_date_is_given_back(tmp_path):
    def fail(kind):
        with writing(tmp_path / "a.fgb"):
            assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == EPOCH
            raise kind("no room")

    with pytest.raises(OutputError, match=r"a.fgb cannot be written \(no room\)") as found:
        fail(OSError)
    assert isinstance(found.value.__cause__, OSError)
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError)


def test_remarks_are_kept_back_and_warnings_are_not(tmp_path):
    with warnings.catch_warnings(record=True) as heard, writing(tmp_path):
        warnings.simplefilter("always", append=True)
        warnings.warn("'crs' was not provided.  The output dataset", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert [str(one.message) for one in heard] == ["something else"]
