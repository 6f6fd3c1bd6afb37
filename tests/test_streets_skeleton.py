"""The skeleton of the streets: the same pixels however the raster is cut, and what smoothing and filling do."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geoseg.grid import Grid
from geoseg.vectors import threads
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.streets.rules import Footprints, Rules, scale_of
from geoseg.vectors.streets.skeleton import find_skeleton
from geoseg.vectors.streets.surface import LEVEL, scores, smooth, surface
from geoseg.vectors.streets.thinning import carve, thin

CLASSES = {0: "background", 1: "building", 2: "road"}


def _prints(shape, **rules):
    return Footprints.of(Rules(**rules), Metric(Grid(shape, Affine.identity(), None)))


def _noisy(seed, shape=(150, 170), nodata=True):
    """Probabilities with broad and narrow streaks, of three classes, some pixels without data."""
    rng = np.random.default_rng(seed)
    wide = ndimage.gaussian_filter(rng.normal(size=shape), 6)
    road = np.clip(0.5 + 4 * wide, 0, 1)
    other = (1 - road) * np.clip(rng.random(shape), 0.2, 0.8)
    planes = np.round(254 * np.stack([1 - road - other, other, road])).astype(np.uint8)
    if nodata:
        planes[:, rng.random(shape) < 0.01] = 255
        planes[:, : shape[0] // 5, : shape[1] // 4] = 255
    labels = np.where(planes[0] == 255, 255, planes.argmax(axis=0)).astype(np.uint8)
    return ArrayPlanes(labels, Grid(shape, Affine.identity(), None), CLASSES, planes)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(17, 180), st.booleans())
def test_tiles_of_any_side_give_the_same_pixels(seed, tile, alone):
    planes = _noisy(seed)
    if alone:
        planes = ArrayPlanes(planes.values, planes.grid, CLASSES)
    prints = _prints(planes.grid.shape, max_width_m=8, fill_m2=10, blur_m=1)
    whole = find_skeleton(planes, 2, prints, tile=1000)
    cut = find_skeleton(planes, 2, prints, tile=tile)
    assert len(whole.row) > 50
    for name in ("row", "col", "radius", "prob"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(cut, name), strict=True)


def test_any_number_of_threads_gives_the_same_pixels(monkeypatch):
    planes = _noisy(1)
    prints = _prints(planes.grid.shape, max_width_m=8, fill_m2=10, blur_m=1)
    found = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "cores", lambda count=count: count)
        found.append(find_skeleton(planes, 2, prints, tile=40))
    for other in found[1:]:
        for name in ("row", "col", "radius", "prob"):
            np.testing.assert_array_equal(getattr(found[0], name), getattr(other, name), strict=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_thinning_keeps_parts_and_stays_inside(seed):
    rng = np.random.default_rng(seed)
    mask = (ndimage.gaussian_filter(rng.normal(size=(60, 70)), 3) > 0).astype(np.uint8)
    lines = thin(mask, 100)
    assert not (lines & ~mask).any()
    eight = np.ones((3, 3))
    part, parts = ndimage.label(mask, eight)
    left, count = ndimage.label(lines, eight)
    # Nothing falls apart. Even squares vanish in this algorithm; what is long does not.
    of = [part[left == k][0] for k in range(1, count + 1)]
    assert len(set(of)) == count
    long = {k + 1 for k, box in enumerate(ndimage.find_objects(part)) if max(s.stop - s.start for s in box) > 25}
    assert long <= set(of)
    assert parts >= count > 0
    np.testing.assert_array_equal(thin(lines, 100), lines)
    assert not ndimage.binary_erosion(lines, np.ones((3, 3))).any()


def test_a_bar_is_thinned_to_its_middle():
    mask = np.zeros((21, 60), np.uint8)
    mask[6:15, 5:55] = 1
    row, col = np.nonzero(thin(mask, 50))
    middle = (col > 12) & (col < 48)
    assert set(row[middle]) == {10}
    assert sorted(col[middle]) == list(range(13, 48))


def test_thinning_stops_after_its_rounds():
    mask = np.ones((41, 41), np.uint8)
    assert thin(mask, 3).sum() > thin(mask, 30).sum() > 0


def test_what_is_wide_both_ways_is_carved_out():
    mask = np.zeros((60, 60), np.uint8)
    mask[5:45, 5:45] = 1
    mask[20:26, :] = 1
    assert carve(mask, 10, 10)
    assert not mask[15:35, 15:35].any()
    assert mask[20:26, 46:].all()
    assert mask[5:15, 5:45].all()
    assert not carve(mask, 10, 10)


def test_a_scene_of_nothing_but_street_is_a_square():
    mask = np.ones((50, 50), np.uint8)
    assert carve(mask, 5, 5)
    assert not mask.any()


def test_smoothing_keeps_a_constant_beside_missing_data_and_the_border():
    plane = np.full((40, 50), 200, np.uint8)
    plane[10:20, 30:] = 255
    plane[0, 0] = 255
    found = smooth(plane, _prints(plane.shape, blur_m=2))
    assert (found[plane != 255] == 64 * 200).all()


def test_smoothing_is_a_gaussian():
    plane = np.random.default_rng(0).integers(0, 255, (60, 70)).astype(np.uint8)
    found = smooth(plane, _prints(plane.shape, blur_m=2)) / 64
    wanted = ndimage.gaussian_filter(plane.astype(float), 2, truncate=2.5)
    assert np.abs(found - wanted)[8:-8, 8:-8].max() < 4


@pytest.mark.parametrize(("size", "filled"), [(5, True), (7, False)])
def test_holes_are_filled_by_their_area(size, filled):
    plane = np.full((60, 60), 254, np.uint8)
    plane[20 : 20 + size, 20 : 20 + size] = 0
    found = surface(plane, _prints(plane.shape, blur_m=0, closing_m=0, fill_m2=36))
    assert found[22, 22] == filled


def test_a_hole_without_data_is_filled_and_one_at_the_border_is_not():
    plane = np.full((60, 60), 254, np.uint8)
    plane[20:25, 20:25] = 255
    plane[:5, 40:45] = 0
    found = surface(plane, _prints(plane.shape, blur_m=0, closing_m=0))
    assert found[22, 22]
    assert not found[2, 42]


def test_closing_joins_across_a_slit():
    plane = np.full((40, 60), 254, np.uint8)
    plane[:, 30:32] = 0
    assert surface(plane, _prints(plane.shape, blur_m=0, closing_m=1.5, fill_m2=0))[5:35, 30:32].all()
    assert not surface(plane, _prints(plane.shape, blur_m=0, closing_m=0, fill_m2=0))[:, 30:32].any()


def test_radius_is_the_distance_to_the_side():
    labels = np.zeros((60, 80), np.uint8)
    labels[20:35, :] = 2
    planes = ArrayPlanes(labels, Grid(labels.shape, Affine.identity(), None), CLASSES)
    skeleton = find_skeleton(planes, 2, _prints(labels.shape, blur_m=0))
    middle = (skeleton.col > 20) & (skeleton.col < 60)
    np.testing.assert_allclose(skeleton.radius[middle], 7.5)
    np.testing.assert_array_equal(skeleton.prob, 1)


def test_scores_are_the_lead_over_the_best_other_class():
    own, first, second = (np.array([[value]], np.uint8) for value in (120, 100, 34))
    planes = ArrayPlanes(own * 0, Grid((1, 1), Affine.identity(), None), CLASSES, np.stack([first, second, own]))
    lead, found = scores(planes, planes.grid.window, 2)
    assert lead[0, 0] == LEVEL + 10
    assert found[0, 0] == 120


def test_pixels_in_degrees_are_measured_on_the_ground():
    step = 1e-5
    grid = Grid((100, 100), Affine(step, 0, 38.0, 0, -step, 60.0), "EPSG:4326")
    across, down = scale_of(Metric(grid))
    assert across == pytest.approx(0.558, abs=0.002)
    assert down == pytest.approx(1.114, abs=0.002)
    prints = Footprints.of(Rules(), Metric(grid))
    assert prints.core[0] == pytest.approx(2 * prints.core[1], abs=1)
