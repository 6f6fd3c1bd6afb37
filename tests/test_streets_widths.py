"""Widths of streets: points along lines, and profiles that do not depend on tiles or threads."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.grid import Grid
from geoseg.vectors import threads
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.streets.rules import Footprints, Rules
from geoseg.vectors.streets.widths import _along, measure

CLASSES = {0: "background", 2: "road"}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_points_along_lines_are_those_of_geos(seed):
    rng = np.random.default_rng(seed)
    lines = np.array([shapely.LineString(rng.normal(4e6, 50, (rng.integers(2, 9), 2))) for _ in range(12)])
    of = np.repeat(np.arange(12), 20)
    length = shapely.length(lines)[of]
    far = np.where(rng.random(240) < 0.1, rng.choice((0, 1), 240), rng.random(240)) * length
    points, line = shapely.get_coordinates(lines, return_index=True)
    found = _along(points, np.searchsorted(line, np.arange(13)), of, far)
    wanted = shapely.get_coordinates(shapely.line_interpolate_point(lines[of], far))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-8)  # some compilers fuse two steps of GEOS into one


@pytest.mark.parametrize(("tile", "count"), [(17, 1), (40, 3), (1000, 2)])
def test_profiles_do_not_depend_on_tiles_or_threads(tile, count, monkeypatch):
    row, col = np.mgrid[:150, :170]
    labels = np.where(np.abs(row - 40 - 0.3 * col) < 5 + col / 40, 2, 0).astype(np.uint8)
    planes = ArrayPlanes(labels, Grid(labels.shape, Affine.identity(), None), CLASSES)
    metric = Metric(planes.grid)
    prints = Footprints.of(Rules(max_width_m=30), metric)
    ends = metric.to_metres(np.array([(0.0, 40.0), (80.0, 64.0), (170.0, 91.0), (0, 5), (160, 5)]))
    lines = np.array([shapely.LineString(ends[:2]), shapely.LineString(ends[1:3]), shapely.LineString(ends[3:])])
    monkeypatch.setattr(threads, "cores", lambda: 1)
    of, width = measure(planes, 2, metric, prints, lines, tile=200)
    monkeypatch.setattr(threads, "cores", lambda: count)
    np.testing.assert_array_equal(measure(planes, 2, metric, prints, lines, tile=tile), (of, width), strict=True)
    assert set(of) == {0, 1, 2}
    assert np.isnan(width[of == 2]).all()  # beside the street
    across = np.cos(np.arctan(0.3))
    assert np.nanmedian(width[of == 0]) == pytest.approx(2 * 6 * across, abs=1)
    assert np.nanmedian(width[of == 1]) > np.nanmedian(width[of == 0])
