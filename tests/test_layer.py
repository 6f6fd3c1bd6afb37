"""The GeoPackage: the same bytes for the same input, complete, styled, or not there at all."""

import hashlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from pyproj import CRS

from geoseg.errors import OutputError, UsageError
from geoseg.vectors import layer_name, write_layers


def squares(count, crs="EPSG:32637"):
    """`count` unit squares in a row."""
    left = 500000 + np.arange(count, dtype=float) * 2
    return geopandas.GeoDataFrame(
        {"id": np.arange(1, count + 1), "name": ["building"] * count, "prob": np.full(count, np.nan)},
        geometry=shapely.box(left, 4000000, left + 1, 4000001),
        crs=crs,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.gpkg"


def table(path, query):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def test_same_bytes(tmp_path):
    layers = {"buildings": squares(7), "water": squares(0)}
    digests = set()
    for name in ("a.gpkg", "b.gpkg"):
        write_layers(tmp_path / name, layers, styles={"buildings": "<qgis/>"})
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
        time.sleep(0.01)
    assert len(digests) == 1
    times = table(
        tmp_path / "a.gpkg", "select last_change from gpkg_contents union select update_time from layer_styles"
    )
    assert times == [("2000-01-01T00:00:00.000Z",)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gpkg", "b.gpkg"]


def test_same_bytes_in_another_process_time_zone_and_locale(path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_layer import squares\n"
        "from geoseg.vectors import write_layers\n"
        "write_layers(sys.argv[1], {'buildings': squares(7)}, styles={'buildings': '<qgis/>'})"
    )
    found = set()
    for zone, locale in (("UTC", "C"), ("Asia/Tokyo", "C.UTF-8")):
        env = {**os.environ, "TZ": zone, "LC_ALL": locale}
        subprocess.run([sys.executable, "-c", script, path, Path(__file__).parent], check=True, env=env)
        found.add(path.read_bytes())
    assert len(found) == 1


def test_what_is_written_is_read_back(path):
    layers = {"buildings": squares(3), "road_surfaces": squares(0), "Grün & braun": squares(1)}
    write_layers(path, layers)
    assert [name for name, _ in pyogrio.list_layers(path)] == list(layers)
    frame = geopandas.read_file(path, layer="buildings")
    assert frame.geometry.geom_equals_exact(layers["buildings"].geometry, 0).all()
    assert list(frame["id"]) == [1, 2, 3]
    assert frame["prob"].isna().all()
    empty = pyogrio.read_info(path, layer="road_surfaces")
    assert (empty["features"], empty["geometry_type"]) == (0, "Polygon")
    assert list(empty["fields"]) == ["id", "name", "prob"]


def test_lines_and_points(path):
    """Beside polygons, also where there are none of them: the name tells the type of an empty layer."""
    base = squares(3)
    layers = {
        "buildings": base,
        "roads": base.set_geometry(shapely.linestrings(shapely.get_coordinates(base.geometry).reshape(3, 5, 2))),
        "road_nodes": base.set_geometry(base.geometry.centroid),
    }
    types = {"buildings": "Polygon", "roads": "LineString", "road_nodes": "Point"}
    for given in (layers, {name: frame.iloc[:0] for name, frame in layers.items()}):
        write_layers(path, given)
        for name, frame in given.items():
            info = pyogrio.read_info(path, layer=name)
            assert (info["geometry_type"], info["features"]) == (types[name], len(frame))
            assert geopandas.read_file(path, layer=name).geometry.geom_equals_exact(frame.geometry, 0).all()


def test_polygons_of_one_and_of_several_parts(path):
    """The layer says multi-polygon, and so is every feature: what a reader expects of the type it was told."""
    frame = squares(3)
    frame.loc[1, "geometry"] = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(5, 5, 6, 6)])
    write_layers(path, {"fields": frame})
    found = geopandas.read_file(path)
    assert pyogrio.read_info(path)["geometry_type"] == "MultiPolygon"
    assert set(found.geom_type) == {"MultiPolygon"}
    assert found.geometry.geom_equals(frame.geometry).all()


def test_points_among_lines_are_refused(path):
    frame = squares(2)
    frame.loc[1, "geometry"] = shapely.Point(0, 0)
    with pytest.raises(UsageError, match="'roads' mixes Point and Polygon"):
        write_layers(path, {"roads": frame})
    assert not path.exists()


def test_same_bytes_whatever_the_size_of_a_chunk(path, monkeypatch):
    """One call of the driver, one spatial index: not an append for every chunk."""
    found = set()
    for size in (1, 7, 10_000):
        monkeypatch.setattr("geoseg.vectors.chunks.CHUNK", size)
        write_layers(path, {"buildings": squares(50)})
        found.add(path.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    "crs",
    [
        "EPSG:32637",
        "EPSG:4326",
        "EPSG:4979",
        "EPSG:3857",
        "EPSG:2263",
        "EPSG:25833+7837",
        "+proj=tmerc +lat_0=3 +lon_0=9",
    ],
)
def test_crs_is_kept(path, crs):
    write_layers(path, {"buildings": squares(1, crs), "water": squares(0, crs)})
    for name in ("buildings", "water"):
        assert geopandas.read_file(path, layer=name).crs == CRS(crs)


def test_crs_that_resembles_a_known_one_is_not_taken_for_it(path):
    near = CRS.from_wkt(
        CRS("EPSG:32637").to_wkt().replace("0.9996", "0.99961").replace('ID["EPSG",32637]', 'ID["X",1]')
    )
    write_layers(path, {"buildings": squares(1, near)})
    assert "0.99961" in geopandas.read_file(path).crs.to_wkt()


def test_local_crs(path):
    local = CRS('LOCAL_CS["site grid",UNIT["metre",1]]')
    write_layers(path, {"buildings": squares(1, local)})
    assert "site grid" in geopandas.read_file(path).crs.to_wkt()


@pytest.mark.filterwarnings("error")
def test_no_crs(path):
    write_layers(path, {"buildings": squares(1, None)})
    crs = geopandas.read_file(path).crs
    assert crs is None or "undefined" in crs.name.lower()


def test_styles_are_registered_as_qgis_does(path):
    write_layers(
        path, {"buildings": squares(1), "water": squares(1)}, styles={"buildings": "<qgis/>", "other": "<no/>"}
    )
    rows = table(
        path, "select f_table_name, f_geometry_column, f_table_schema, styleQML, useAsDefault from layer_styles"
    )
    assert rows == [("buildings", "geom", "", "<qgis/>", 1)]
    assert table(path, "select data_type from gpkg_contents where table_name = 'layer_styles'") == [("attributes",)]


def test_no_styles_no_table(path):
    write_layers(path, {"buildings": squares(1)})
    assert table(path, "select name from sqlite_master where name = 'layer_styles'") == []


def test_an_older_file_is_replaced_not_added_to(path):
    write_layers(path, {"buildings": squares(1), "water": squares(1)})
    write_layers(path, {"buildings": squares(2)})
    assert [name for name, _ in pyogrio.list_layers(path)] == ["buildings"]


@pytest.mark.filterwarnings("error")
def test_any_file_name(tmp_path):
    write_layers(tmp_path / ".out.gpkg.tmp-1", {"buildings": squares(1)})
    (tmp_path / ".out.gpkg.tmp-1").rename(tmp_path / "out.gpkg")
    assert pyogrio.read_info(tmp_path / "out.gpkg")["features"] == 1


@pytest.mark.parametrize(
    "names", [["Water", "water"], ["layer_styles"], ["gpkg_contents"], ["sqlite_x"], ["rtree_a_geom"], [""]]
)
def test_impossible_names(path, names):
    with pytest.raises(UsageError, match="cannot be in a GeoPackage"):
        write_layers(path, {name: squares(1) for name in names})
    assert not path.exists()


def test_folder_missing(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_layers(tmp_path / "no" / "out.gpkg", {"buildings": squares(1)})


def test_path_is_a_folder(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_layers(tmp_path, {"buildings": squares(1)})


def test_nothing_is_left_after_an_error(path, monkeypatch):
    def fail(*args, **kwargs):
        raise pyogrio.errors.FeatureError("disk I/O error")

    monkeypatch.setattr("geoseg.vectors.layer._write_styles", fail)
    with pytest.raises(OutputError, match="disk I/O error"):
        write_layers(path, {"buildings": squares(1)}, styles={"buildings": "<qgis/>"})
    assert list(path.parent.iterdir()) == []


def test_a_layer_that_lost_its_index_is_noticed(path, monkeypatch):
    """On a full disk GDAL drops the spatial index and reports success."""
    real = pyogrio.raw.write

    def without_index(*args, **kwargs):
        real(*args, **kwargs, **({"SPATIAL_INDEX": "NO"} if kwargs["layer"] == "buildings" else {}))

    monkeypatch.setattr("geoseg.vectors.layer.raw.write", without_index)
    with pytest.raises(OutputError, match="without an index"):
        write_layers(path, {"buildings": squares(1)})
    assert list(path.parent.iterdir()) == []


def test_layer_names():
    assert [layer_name(name) for name in ("building", "road", "water")] == ["buildings", "road_surfaces", "water"]
