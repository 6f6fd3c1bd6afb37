"""Formats: the files are known in advance, complete, the same bytes for the same input, or not there at all."""

import hashlib
import logging
import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from pyproj import CRS

from geoseg.endings import VECTORS
from geoseg.errors import OutputError, OutputExistsError, UsageError
from geoseg.outputs import Outputs
from geoseg.vectors import formats
from geoseg.vectors.formats import vector_files, write_vectors

TESTED = tuple(ending for ending in VECTORS if ending != ".parquet" or find_spec("pyarrow"))
UTM = "EPSG:32637"


def layers(crs=UTM):
    """Buildings of which one has a court, roads of which none is there, and their nodes."""
    left = 500000 + np.arange(5.0) * 3
    squares = shapely.box(left, 6650000, left + 2, 6650002)
    squares[1] = squares[1].difference(squares[1].centroid.buffer(0.5))
    shapes = {"buildings": squares, "roads": [], "road_nodes": shapely.points(left, 6650001)}
    return {
        name: geopandas.GeoDataFrame(
            {
                "id": np.arange(1, len(found) + 1),
                "name": np.full(len(found), f"{name} ä", object).astype("str"),
                "prob": np.full(len(found), np.nan),
                "perimeter_m": np.full(len(found), 1.25),
                "holes": np.zeros(len(found), np.int32),
            },
            geometry=list(found),
            crs=crs,
        ).astype({"name": "str"})
        for name, found in shapes.items()
    }


def write(path, frames, *, overwrite=False, **options):
    crs = next(iter(frames.values())).crs
    files = vector_files(path, frames, crs=crs)
    with Outputs(files.paths, overwrite=overwrite) as outputs:
        features = write_vectors(files, frames, outputs, **options)
        placed = outputs.commit()
    return files, features, placed


def read(path, layer=None):
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path, layer=layer)


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ending", TESTED)
def test_what_is_written_is_read_back(tmp_path, ending):
    frames = layers()
    files, features, placed = write(tmp_path / f"out{ending}", frames, styles={"roads": "<qgis/>"})
    assert features == {"buildings": 5, "roads": 0, "road_nodes": 5}
    assert set(placed) == {path for path in files.paths.values() if path.exists()} == set(tmp_path.iterdir())
    for name, frame in frames.items():
        found = read(files.layers[name], name if ending == ".gpkg" else None)
        assert len(found) == len(frame), name
        if not len(frame):
            continue
        expected = frame.to_crs("EPSG:4326") if ending in (".geojson", ".json") else frame
        assert found.crs == expected.crs
        found = found.set_index("id").loc[frame["id"]]
        tolerance = 1e-7 if ending in (".geojson", ".json") else 0
        pair = [shapely.normalize(some.geometry.to_numpy()) for some in (found, expected)]
        assert shapely.equals_exact(*pair, tolerance).all()
        assert list(found["name"]) == [f"{name} ä"] * len(frame)
        assert found["prob"].isna().all()
        assert set(found["perimeter_" if ending == ".shp" else "perimeter_m"]) == {1.25}


@pytest.mark.parametrize("ending", [ending for ending in TESTED if ending not in (".geojson", ".json")])
def test_empty_layers_keep_their_type_and_fields(tmp_path, ending):
    files, *_ = write(tmp_path / f"out{ending}", layers())
    path = files.layers["roads"]
    if ending == ".parquet":
        found = geopandas.read_parquet(path)
        names, types = list(found.columns)[:-1], [found[name].dtype.kind for name in ("id", "prob")]
        assert types == ["i", "f"]
    else:
        found = pyogrio.read_info(path, layer="roads" if ending == ".gpkg" else None, force_feature_count=True)
        assert (found["features"], found["geometry_type"], CRS(found["crs"])) == (0, "LineString", CRS(UTM))
        names = list(found["fields"])
        assert found["ogr_types"] == ["OFTInteger64", "OFTString", "OFTReal", "OFTReal", found["ogr_types"][-1]]
    assert names == ["id", "name", "prob", "perimeter_" if ending == ".shp" else "perimeter_m", "holes"]


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_formats import write_all
write_all(Path(sys.argv[2]))
"""


def write_all(folder):
    """Digests of the files of every format."""
    for ending in TESTED:
        (folder / ending[1:]).mkdir(parents=True)
        write(folder / ending[1:] / f"out{ending}", layers(), styles={"buildings": "<qgis/>"})
    return {ending: digests(folder / ending[1:]) for ending in TESTED}


def test_same_bytes_on_another_day_and_in_another_process_and_locale(tmp_path, monkeypatch):
    """A Shapefile's .dbf holds the day, in local time: the one zone is always a day ahead of the other."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    here = write_all(tmp_path / "here")
    env = {**os.environ, "TZ": "Pacific/Pago_Pago", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", SCRIPT, Path(__file__).parent, tmp_path / "there"], check=True, env=env)
    assert here == {ending: digests(tmp_path / "there" / ending[1:]) for ending in TESTED}
    assert all(here.values())


@pytest.fixture(autouse=True)
def _own_time_zone():
    yield
    time.tzset()


@pytest.mark.parametrize("ending", [ending for ending in TESTED if ending != ".parquet"])
def test_same_bytes_whatever_the_size_of_a_chunk(tmp_path, ending, monkeypatch):
    found = []
    for size in (1, 3, 1000):
        monkeypatch.setattr("geoseg.vectors.chunks.CHUNK", size)
        (folder := tmp_path / str(size)).mkdir()
        write(folder / f"out{ending}", layers())
        found.append(digests(folder))
    assert found[0] == found[1] == found[2]


@contextmanager
def files_no_larger_than(size):
    """In place of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("ending", TESTED)
def test_no_room_on_the_disk(tmp_path, ending):
    """Refused in every format, wherever the room ends, and nothing is left."""
    frames = {"roads": pd.concat([layers()["buildings"]] * 200).assign(id=np.arange(1000) ** 3)}
    files = vector_files(tmp_path / f"out{ending}", frames, crs=UTM)
    with Outputs(files.paths) as outputs:
        write_vectors(files, frames, outputs)
        size = outputs.staged("vectors").stat().st_size
    for room in (100, size // 2, size - 1):
        with (
            Outputs(files.paths) as outputs,
            files_no_larger_than(room),
            pytest.raises(OutputError, match=r"space left|disk full"),
        ):
            write_vectors(files, frames, outputs)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "crs",
    [UTM, "EPSG:4326", "EPSG:3857", "EPSG:2263", "EPSG:4979", "EPSG:25833+7837", "+proj=tmerc +lat_0=3 +lon_0=9"],
)
def test_crs_is_kept(tmp_path, crs):
    for ending in set(TESTED) - {".geojson", ".json"}:
        files, *_ = write(tmp_path / f"out{ending}", {"water": layers(crs)["buildings"]})
        assert read(files.layers["water"]).crs.equals(CRS(crs), ignore_axis_order=True), ending


def test_no_crs(tmp_path):
    for ending in set(TESTED) - {".geojson", ".json", ".gpkg"}:
        files, *_ = write(tmp_path / f"out{ending}", {"water": layers(None)["buildings"]})
        assert read(files.layers["water"]).crs is None, ending


@pytest.mark.parametrize("ending", [ending for ending in VECTORS if ending not in (".gpkg", ".parquet")])
def test_one_layer_has_the_name_asked_for_and_several_their_own(ending, tmp_path):
    one = vector_files(tmp_path / f"out{ending.upper()}", ["roads"], crs=UTM)
    assert one.layers == {"roads": tmp_path / f"out{ending.upper()}"}
    assert next(iter(one.paths.items())) == ("vectors", tmp_path / f"out{ending.upper()}")
    several = vector_files(tmp_path / f"out{ending}", ["roads", "a/b", "A b", "Grün & braun"], crs=UTM)
    assert [path.name for path in several.layers.values()] == [
        f"out_{name}{ending}" for name in ("roads", "a_b", "A_b_2", "Grün_braun")
    ]
    assert len(set(several.paths.values())) == len(several.paths)
    sides = {".shx", ".dbf", ".cpg", ".prj"} if ending == ".shp" else set()
    assert {path.suffix for path in several.paths.values()} == {ending, ".qml", *sides}


def test_a_geopackage_is_one_file():
    files = vector_files("out.gpkg", ["roads", "buildings"], crs=None, key="polygons")
    assert files.paths == {"polygons": Path("out.gpkg")}
    assert files.layers == dict.fromkeys(("roads", "buildings"), Path("out.gpkg"))
    with pytest.raises(UsageError, match="cannot be in a GeoPackage"):
        vector_files("out.gpkg", ["Roads", "roads"], crs=None)


@pytest.mark.parametrize("name", ["out.xyz", "out", "out.gpkg.zip", ".gpkg"])
def test_unknown_endings(name):
    with pytest.raises(UsageError, match=r"Expected a name that ends in .gpkg, .*\.shp\. Try \.?\w+(\.gpkg)*\.gpkg\."):
        vector_files(name, ["roads"], crs=UTM)


def test_outputs_are_all_checked_before_any_work(tmp_path):
    """A part of a Shapefile that is there is refused, replaced on demand, and never when it is an input."""
    path, frames = tmp_path / "out.shp", {"roads": layers()["buildings"]}
    (tmp_path / "out.dbf").write_text("a table of somebody's")
    files = vector_files(path, frames, crs=UTM)
    with pytest.raises(OutputExistsError, match=r"out\.dbf exists"):
        Outputs(files.paths)
    with pytest.raises(OutputExistsError, match="is the input"):
        Outputs(files.paths, inputs=[tmp_path / "out.dbf"], overwrite=True)
    write(path, frames, overwrite=True)
    assert len(read(path)) == 5


def test_nothing_is_left_when_the_second_layer_fails(tmp_path, monkeypatch):
    real, frames = formats.write_layer, layers()

    def fail(path, layer, *args, **kwargs):
        if layer == "road_nodes":
            raise pyogrio.errors.FeatureError("disk I/O error")
        real(path, layer, *args, **kwargs)

    monkeypatch.setattr("geoseg.vectors.formats.write_layer", fail)
    monkeypatch.setattr("geoseg.vectors.shapefile.write_layer", fail)
    for ending in (".fgb", ".shp"):
        with pytest.raises(OutputError, match="disk I/O error"):
            write(tmp_path / f"out{ending}", frames)
        assert list(tmp_path.iterdir()) == []


def test_styles_lie_beside_and_never_in_place_of_another(tmp_path):
    frames = {"roads": layers()["roads"], "buildings": layers()["buildings"]}
    styles = {"roads": "<qgis>ä</qgis>", "water": "<no/>"}
    write(tmp_path / "out.fgb", frames, styles=styles)
    assert (tmp_path / "out_roads.qml").read_bytes() == "<qgis>ä</qgis>".encode()
    assert not (tmp_path / "out_buildings.qml").exists()
    (tmp_path / "out_roads.qml").write_text("somebody's own")
    write(tmp_path / "out.fgb", frames, overwrite=True, styles=styles)
    assert (tmp_path / "out_roads.qml").read_text() == "somebody's own"


def test_the_style_of_a_raster_is_left_to_it(tmp_path):
    def planned(others=()):
        return {
            path.suffix for path in vector_files(tmp_path / "out.fgb", ["a"], crs=None, others=others).paths.values()
        }

    assert planned() == {".fgb", ".qml"}
    assert planned([tmp_path / "out.tif"]) == {".fgb"}
    assert planned([tmp_path / "out.qml"]) == {".fgb"}
    (tmp_path / "out.TIF").touch()
    (tmp_path / "out.tif").touch()
    assert planned() == {".fgb"}


def test_a_shapefile_tells_its_limits_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "out.shp", layers())
    assert len(caplog.messages) == 1
    assert "out_buildings.shp and 2 more: a Shapefile holds one layer" in caplog.text
    assert "(perimeter_m as perimeter_)" in caplog.text


def test_an_earlier_shapefile_would_lend_its_index(tmp_path):
    (tmp_path / "out.qix").touch()
    with pytest.raises(OutputExistsError, match=r"out.qix exists, a part of an earlier Shapefile .* Delete it"):
        vector_files(tmp_path / "out.shp", ["a"], crs=UTM)
    (tmp_path / "out.qix").rename(tmp_path / "out.prj")
    assert "vectors.prj" in vector_files(tmp_path / "out.shp", ["a"], crs=UTM).paths
    with pytest.raises(OutputExistsError, match=r"out\.prj exists"):
        vector_files(tmp_path / "out.shp", ["a"], crs=None)


def test_parquet_without_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"needs pyarrow.*geoseg\[parquet\]"):
        vector_files("out.parquet", ["roads"], crs=UTM)


@pytest.mark.parametrize("crs", [None, 'LOCAL_CS["site grid",UNIT["metre",1]]'])
def test_geojson_needs_a_place_on_earth(crs):
    with pytest.raises(UsageError, match=r"out.json: GeoJSON holds longitude and latitude.*Write a .gpkg"):
        vector_files("out.json", ["roads"], crs=crs)
