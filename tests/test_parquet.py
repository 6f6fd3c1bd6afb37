"""GeoParquet 1.1: what is written is what geopandas reads, and what the specification asks for."""

import json

import geopandas
import numpy as np
import pytest
import shapely

from geoseg.errors import OutputError
from geoseg.vectors import parquet as module
from geoseg.vectors.parquet import write_parquet

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def squares(count, crs="EPSG:32637"):
    left = 500000 + np.arange(count, dtype=float) * 2
    return geopandas.GeoDataFrame(
        {"id": np.arange(count), "name": np.full(count, "ä"), "prob": np.full(count, np.nan), "holes": np.int32(0)},
        geometry=list(shapely.box(left, 4000000, left + 1, 4000001)),
        crs=crs,
    )


def column(path):
    with parquet.ParquetFile(path) as file:
        geo = json.loads(file.schema_arrow.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"], list(geo["columns"])) == ("1.1.0", "geometry", ["geometry"])
    return geo["columns"]["geometry"]


def test_metadata(tmp_path):
    write_parquet(tmp_path / "a.parquet", "a", squares(3))
    found = column(tmp_path / "a.parquet")
    assert (found["encoding"], found["geometry_types"]) == ("WKB", ["Polygon"])
    assert found["bbox"] == [500000, 4000000, 500005, 4000001]
    assert found["crs"]["id"] == {"authority": "EPSG", "code": 32637}


def test_without_crs_and_without_rows(tmp_path):
    write_parquet(tmp_path / "a.parquet", "roads", squares(0, None))
    found = column(tmp_path / "a.parquet")
    assert (found["geometry_types"], found["crs"], "bbox" in found) == (["LineString"], None, False)
    rows = geopandas.read_parquet(tmp_path / "a.parquet")
    assert (len(rows), rows.crs) == (0, None)


def test_round_trip_over_several_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("geoseg.vectors.chunks.CHUNK", 4)
    rows = squares(10)
    write_parquet(tmp_path / "a.parquet", "a", rows)
    with parquet.ParquetFile(tmp_path / "a.parquet") as file:
        assert file.metadata.num_row_groups == 3
        assert file.read().column("prob").null_count == 10
        assert [str(kind) for kind in file.schema_arrow.types] == ["int64", "string", "double", "int32", "binary"]
    found = geopandas.read_parquet(tmp_path / "a.parquet")
    assert found.geometry.geom_equals_exact(rows.geometry, 0).all()
    assert (list(found["id"]), set(found["name"])) == (list(range(10)), {"ä"})


def test_missing_rows_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "chunks", lambda table: [(table.fields.iloc[:2], table.shapes[:2])])
    with pytest.raises(OutputError, match="holds 2 of 3 features after writing"):
        write_parquet(tmp_path / "a.parquet", "a", squares(3))
