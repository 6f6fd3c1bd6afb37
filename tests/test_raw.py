"""Raw outlines: as they would be all at once, while they are made some at a time."""

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyproj import CRS

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.vectors import OutlineOptions, Outlining, chunks, features
from geoseg.vectors.patches import Patches, trace
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.stored import trace_into
from geoseg.vectors.table import Table

NAMES = {0: "background", 1: "building", 2: "road"}
UTM = CRS.from_epsg(32637).to_wkt()


def planes_of(labels, step=512):
    labels = np.asarray(labels, np.uint8)
    grid = Grid(labels.shape, Affine(0.5, 0, 5e5, 0, -0.5, 4e6), UTM)
    probabilities = np.random.default_rng(0).integers(0, 255, (3, *labels.shape), np.uint8)
    return ArrayPlanes(labels, grid, NAMES, probabilities, step=step)


def outlined(planes, **options):
    run = Outlining(
        {1: "building", 2: "road"}, dict.fromkeys(NAMES.values(), "#000000"), OutlineOptions(raw=True, **options)
    )
    return {layer: feature.frame for layer, feature in run.outline(planes).items()}


def speckle(side, seed=0):
    return np.random.default_rng(seed).choice(3, (side, side), p=[0.6, 0.3, 0.1])


@settings(max_examples=40, deadline=None)
@given(
    labels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 2)),
    batch=st.integers(1, 30),
    chunk=st.integers(1, 5),
    step=st.integers(1, 12),
    least=st.sampled_from([0.0, 0.6, 1.1]),
)
def test_whatever_is_held_at_a_time(labels, batch, chunk, step, least):
    whole = trace(planes_of(labels), [1, 2], subpixel=False)
    wanted = whole.polygons(planes_of(labels).grid.transform)
    large = whole.pixels * 0.25 >= least
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_BATCH", batch)
        patch.setattr(chunks, "CHUNK", chunk)
        found = outlined(planes_of(labels, step), min_area_m2=least)
        same = outlined(planes_of(labels), min_area_m2=least)
        for value, table, other in zip((1, 2), found.values(), same.values(), strict=True):
            here = (whole.value == value) & large
            shapes = [shape for _, some in chunks.chunks(table) for shape in some]
            assert shapely.equals_exact(shapes, wanted[here]).all()
            assert len(shapes) == len(table) == here.sum()
            assert table.fields["id"].tolist() == list(range(1, len(table) + 1))
            np.testing.assert_allclose(table.fields["area_m2"], whole.pixels[here] * 0.25, rtol=2e-3)
            np.testing.assert_array_equal(table.fields["prob"], whole.prob[here].round(4))
            assert table.fields.equals(other.fields)
            assert table.kinds == frozenset(geopandas.GeoSeries(shapes).geom_type)


def test_no_more_than_a_part_is_in_memory(monkeypatch):
    monkeypatch.setattr(features, "_BATCH", 500)
    monkeypatch.setattr(chunks, "CHUNK", 50)
    held, real = [], Patches.polygons
    monkeypatch.setattr(Patches, "polygons", lambda some, *way: held.append(len(some.points)) or real(some, *way))
    layers = outlined(planes_of(speckle(200)))
    assert sum(map(len, layers.values())) > 5000
    assert max(held) <= 500
    assert sum(map(len, layers.values())) == sum(len(list(chunks.WkbChunks(rows.shapes))) for rows in layers.values())
    assert len(held) > 100


def test_frames_are_tables():
    frame = geopandas.GeoDataFrame({"id": [1, 2]}, geometry=[shapely.Point(0, 0), None], crs="EPSG:32637", index=[5, 7])
    table = Table.of(frame)
    assert Table.of(table) is table
    assert (list(table.fields), table.fields.index.tolist(), table.kinds) == (["id"], [0, 1], {"Point"})
    assert table.crs == frame.crs


def test_a_raster_that_is_nothing_but_specks(monkeypatch):
    monkeypatch.setitem(trace_into.__kwdefaults__, "max_patches", 1000)
    planes = planes_of(np.indices((60, 60)).sum(axis=0) % 2)
    with pytest.raises(UsageError, match="--min-area-m2"):
        outlined(planes)
    assert not len(outlined(planes, min_area_m2=0.5)["buildings"])
