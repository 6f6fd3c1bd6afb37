"""Shapefile: names cut, sizes known, limits refused or told."""

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import OutputError
from geoseg.vectors import shapefile
from geoseg.vectors.shapefile import shapefile_bytes, short_names, write_shapefile

SQUARE = shapely.box(0, 0, 9, 9)
COURT = SQUARE.difference(shapely.box(3, 3, 6, 6))
LINE = shapely.LineString([(0, 0), (1, 1), (2, 0)])


def frame(shapes, **fields):
    return geopandas.GeoDataFrame({"id": np.arange(len(shapes)), **fields}, geometry=list(shapes), crs="EPSG:32637")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["id", "prob_min10", "n_vertices"], ["id", "prob_min10", "n_vertices"]),
        (["perimeter_m", "perimeter_px"], ["perimeter_", "perimete_1"]),
        (["perimeter_m", "perimeter_"], ["perimete_1", "perimeter_"]),
        (["PERIMETER_m", "perimeter_px"], ["PERIMETER_", "perimete_1"]),
        ([f"a_long_name_{i}" for i in range(11)][9:], ["a_long_nam", "a_long_n_1"]),
        (["übergrößen", "ÜBERGRÖSSEN"], ["übergrö", "ÜBERGRÖS"[:8]]),
    ],
)
def test_short_names(names, expected):
    assert short_names(names) == expected


@given(st.lists(st.text("aAbß_", min_size=1, max_size=14), unique_by=str.lower, max_size=40))
def test_short_names_fit_and_differ(names):
    short = short_names(names)
    assert len({name.lower() for name in short}) == len(names)
    for name, cut in zip(names, short, strict=True):
        assert len(cut.encode()) <= 10
        if len(name.encode()) <= 10:
            assert cut == name


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [SQUARE, COURT],
        [SQUARE, shapely.MultiPolygon([COURT, shapely.box(20, 20, 30, 30)])],
        [LINE, LINE],
        [LINE, shapely.MultiLineString([LINE, LINE])],
        [shapely.Point(1, 2)],
    ],
)
def test_the_size_is_known_in_advance(tmp_path, shapes):
    rows = frame(shapes)
    write_shapefile(tmp_path / "out.shp", "roads", rows)
    assert (tmp_path / "out.shp").stat().st_size == shapefile_bytes(rows)
    found = geopandas.read_file(tmp_path / "out.shp")
    assert list(found["id"]) == list(rows["id"])
    assert all(a.equals(b) for a, b in zip(found.geometry, rows.geometry, strict=True))


def test_too_large_is_refused_before_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shapefile, "_MAX_BYTES", 300)
    with pytest.raises(OutputError, match=r"would hold 0.0 GB of shapes. Expected at most 2 GB.*Write a .gpkg"):
        write_shapefile(tmp_path / "out.shp", "a", frame([SQUARE, SQUARE]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("error")
def test_what_is_lost_is_said(tmp_path):
    rows = frame([SQUARE, SQUARE], perimeter_m=1.0, source=["x" * 255, None], method=["ä" * 127, "raw"])
    assert write_shapefile(tmp_path / "out.shp", "a", rows) == ["perimeter_m as perimeter_", "source cut"]
    found = geopandas.read_file(tmp_path / "out.shp")
    assert list(found.columns) == ["id", "perimeter_", "source", "method", "geometry"]
    assert (found["source"][0], found["method"][0]) == ("x" * 254, "ä" * 127)


@pytest.mark.parametrize("ending", [".shp", ".shx", ".dbf"])
def test_a_part_cut_short_is_noticed(tmp_path, ending, monkeypatch):
    real = shapefile.read_back

    def cut(path, rows):
        real(path, rows)
        with path.with_suffix(ending).open("r+b") as file:
            file.truncate(path.with_suffix(ending).stat().st_size - 2)

    monkeypatch.setattr(shapefile, "read_back", cut)
    with pytest.raises(OutputError, match=rf"out\{ending} holds \d+ of \d+ bytes .* Is the disk full"):
        write_shapefile(tmp_path / "out.shp", "a", frame([SQUARE] * 3))
