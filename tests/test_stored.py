"""Stored patches: the same as those in memory, while memory holds no outlines."""

import tracemalloc
from dataclasses import fields

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoseg.errors import OutputError
from geoseg.grid import Grid
from geoseg.vectors import store as store_module
from geoseg.vectors import touching
from geoseg.vectors.areas import fit_areas
from geoseg.vectors.metric import Metric
from geoseg.vectors.patches import Patches, join, trace
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.store import Store
from geoseg.vectors.stored import StoredPatches, stored, trace_into
from geoseg.vectors.touching import trace_apart, trace_apart_into
from geoseg.vectors.walls import borders as borders_module
from geoseg.vectors.walls import fit_walls
from tests.buildings import GSD, draw_buildings, metric_of


def planes_of(labels):
    labels = np.asarray(labels, np.uint8)
    return ArrayPlanes(labels, Grid(labels.shape, Affine.identity(), None), {0: "a", 1: "b", 2: "c"})


def check_same(found: StoredPatches, wanted: Patches):
    loaded = found.slice(0, len(found))
    for name in (field.name for field in fields(Patches)):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(wanted, name), name)


@settings(max_examples=60, deadline=None)
@given(
    labels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 2)),
    subpixel=st.booleans(),
    rows=st.integers(1, 12),
    least=st.integers(1, 4),
)
def test_what_is_traced_into_a_store_is_what_is_traced(labels, subpixel, rows, least):
    how = {"subpixel": subpixel, "junctions": not subpixel, "min_pixels": least}
    wanted = trace(planes_of(labels), [1, 2], **how)
    found = trace_into(Store(), planes_of(labels), [1, 2], strip_rows=rows, **how)
    check_same(found, wanted)
    for start, stop in found.spans(9):
        part, same = found.slice(start, stop), wanted.slice(start, stop)
        assert shapely.equals_exact(part.polygons(), same.polygons()).all()
    middle = len(wanted) // 2
    parts = [found.part(middle, len(wanted)), stored(found.store, wanted.slice(0, middle))]
    check_same(join(parts), wanted)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), gap=st.sampled_from([0, 3, 1000]))
def test_ranges_come_in_the_order_in_which_they_are_asked_for(data, gap):
    rng = np.random.default_rng(0)
    points, marks = rng.integers(0, 1 << 30, (50, 2), np.int32), rng.integers(0, 2, 50, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "_GAP", gap)
        store = Store()
        assert [store.append(points[a:b], marks[a:b]) for a, b in ((0, 20), (20, 20))] == [0, 20]
        store.read(np.array([3]), np.array([2]))
        assert store.append(points[20:], marks[20:]) == 20  # whatever was read before
        ranges = data.draw(st.lists(st.tuples(st.integers(0, 49), st.integers(0, 30)), max_size=8))
        starts = np.array([start for start, _ in ranges], np.int64)
        counts = np.minimum([count for _, count in ranges], 50 - starts).astype(np.int64)
        index = np.concatenate(
            [np.empty(0, np.int64), *(np.arange(s, s + n) for s, n in zip(starts, counts, strict=True))]
        )
        found = store.read(starts, counts)
    np.testing.assert_array_equal(found[0], points[index])
    np.testing.assert_array_equal(found[1], marks[index] != 0)


def test_a_disk_that_is_full_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="nowhere cannot hold the outlines"):
        Store(tmp_path / "nowhere")
    store = Store(tmp_path)

    class Full:
        def seek(self, *_):
            return 0

        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_points", Full())
    with pytest.raises(OutputError, match="No space left on device"):
        store.append(np.zeros((1, 2), np.int32), np.zeros(1, np.uint8))
    assert not list(tmp_path.iterdir())  # files have no names


def rows_of_houses():
    """Terraces in three rows, a house of its own, and one beside a terrace that is split."""
    shapes = [shapely.box(10 + 25 * k, 10 + 40 * row, 35 + 25 * k, 40 + 40 * row) for row in range(3) for k in range(3)]
    seams = [shapely.box(34.5 + 25 * k, 0, 35.5 + 25 * k, 128) for k in range(2)]
    return draw_buildings([*shapes, shapely.box(95, 10, 115, 60)], seams=seams)


@pytest.mark.parametrize("bands", [1, 8])
def test_buildings_told_apart_are_the_same(bands, monkeypatch):
    monkeypatch.setattr(touching, "_BAND", 16)
    monkeypatch.setattr(touching, "_BANDS", bands)
    monkeypatch.setattr(borders_module, "_VERTICES", 50)
    planes = rows_of_houses()
    wanted = trace_apart(planes, 1, gsd=GSD, min_pixels=5)
    found = trace_apart_into(Store(), planes, 1, gsd=GSD, min_pixels=5)
    assert len(found) == 10
    check_same(found, wanted)
    monkeypatch.setattr(borders_module, "_VERTICES", 1 << 20)
    shapes = fit_walls(wanted, metric_of(planes)).shapes
    monkeypatch.setattr(borders_module, "_VERTICES", 50)
    assert shapely.to_wkb(fit_walls(found, metric_of(planes)).shapes).tolist() == shapely.to_wkb(shapes).tolist()


def test_what_is_too_large_for_a_building_stays_whole(monkeypatch, caplog):
    planes = rows_of_houses()
    monkeypatch.setattr(touching, "_LARGEST", 70 * 30)
    monkeypatch.setattr(touching, "_BAND", 16)
    assert len(trace_apart_into(Store(), planes, 1, gsd=GSD)) == 4
    assert "stays whole" in caplog.text


def bands(strips):
    """In each strip of 64 rows a band across, whose edges are as ragged as can be: some 5000 vertices."""
    rng = np.random.default_rng(0)
    edges = rng.integers([[20], [40]], [[22], [42]], (2, 2048))
    rows = np.arange(64)[:, None]
    return planes_of(np.tile((rows >= edges[0]) & (rows < edges[1]), (strips, 1)))


def peak(work):
    """Bytes that Python and numpy held at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


OUTLINES = {"exact": {"subpixel": False, "junctions": True}, "sub-pixel": {"subpixel": True}}


@pytest.mark.parametrize("how", OUTLINES.values(), ids=OUTLINES)
def test_memory_does_not_grow_with_the_number_of_strips(how):
    few, many = bands(64), bands(192)
    more = 9 * 2 * len(trace(few, [1], **how).points)
    assert more > 1 << 21
    grown = [
        peak(lambda: work(many)) - peak(lambda: work(few))  # noqa: B023 -- called at once
        for work in (
            lambda planes: trace(planes, [1], strip_rows=64, **how),
            lambda planes: trace_into(Store(), planes, [1], strip_rows=64, **how),
        )
    ]
    assert grown[0] > 0.9 * more  # or the measure is blind
    assert grown[1] < 0.02 * more


def test_memory_of_areas_is_that_of_what_is_left(monkeypatch):
    monkeypatch.setattr("geoseg.vectors.arcs.BATCH", 1 << 14)
    few, many = bands(64), bands(192)
    more = 9 * 2 * len(trace(few, [1], subpixel=False, junctions=True).points)
    peaks = []
    for planes in (few, many):
        patches = trace_into(Store(), planes, [1], subpixel=False, junctions=True)
        peaks.append(peak(lambda: fit_areas(patches, Metric(planes.grid), tolerance_m=3.0)))  # noqa: B023
    assert peaks[1] - peaks[0] < 0.1 * more, (peaks, more)
