"""Touching buildings: split where the probability dips, whole where it does not."""

import logging

import numpy as np
import pytest
import shapely
import shapely.affinity
from affine import Affine

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.vectors import threads, touching
from geoseg.vectors.patches import trace
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.touching import find_cores, split_touching, trace_apart
from geoseg.vectors.walls import fit_walls
from geoseg.windows import Window
from tests.buildings import GSD, draw_buildings, metric_of, placed, planes_of

ROW = [shapely.box(20 + 25 * k, 30, 45 + 25 * k, 70) for k in range(3)]
SEAMS = [shapely.box(44.5, 30, 45.5, 70), shapely.box(69.5, 30, 70.5, 70)]


def apart(planes: ArrayPlanes):
    return trace_apart(planes, 1, gsd=GSD)


def test_row_is_split_at_its_seams():
    found = apart(draw_buildings(ROW, seams=SEAMS))
    assert len(found) == 3
    assert found.value.tolist() == [1, 1, 1]
    order = np.argsort(found.box[:, 0])
    np.testing.assert_allclose(found.box[order][:, [0, 2]], [[20, 45], [45, 70], [70, 95]], atol=1)


def test_no_pixel_is_lost_or_won():
    planes = draw_buildings(ROW, seams=SEAMS)
    whole = trace(planes, [1], subpixel=True)
    assert len(whole) == 1
    assert apart(planes).pixels.sum() == whole.pixels.sum()


def test_without_a_dip_the_patch_stays_whole():
    planes = draw_buildings(ROW)
    patches = trace(planes, [1], subpixel=True)
    split = split_touching(planes, 1, patches, gsd=GSD)
    assert len(split.rows) == 0
    assert len(apart(planes)) == 1


def test_without_probabilities_and_slits_the_patch_stays_whole():
    assert len(apart(planes_of(draw_buildings(ROW, seams=SEAMS).values))) == 1


def test_bright_spot_is_no_building():
    planes = draw_buildings(
        [shapely.box(20, 20, 80, 60)], seams=[shapely.box(20, 20, 22.5, 60), shapely.box(30, 20, 31, 60)]
    )
    cores = find_cores(planes.values == 1, planes.probabilities[1], 40, 50, 220, 1)[1]
    assert cores >= 2
    assert find_cores(planes.values == 1, planes.probabilities[1], 40, 50, 220, 2000)[1] < cores


def test_pieces_share_a_wall_and_do_not_overlap():
    planes = draw_buildings(
        [
            placed([(0, 0), (40, 0), (40, 30), (0, 30)], 12, (44, 64)),
            placed([(0, 0), (36, 0), (36, 44), (0, 44)], 12, (81, 72)),
        ],
        seams=[placed([(0, 0), (1.4, 0), (1.4, 50), (0, 50)], 12, (63.4, 66))],
    )
    patches = apart(planes)
    assert len(patches) == 2
    found = fit_walls(patches, metric_of(planes))
    one, two = found.shapes
    assert [len(shape.exterior.coords) - 1 for shape in (one, two)] == [4, 4]
    assert one.intersection(two).area < 1e-6
    assert one.buffer(1e-6).intersection(two).length > 2 * 6  # more than half of the wall, there and back


@pytest.mark.parametrize("band", [10, 64])
def test_result_does_not_depend_on_how_the_raster_is_read(band, monkeypatch):
    rows = [shapely.affinity.translate(shape, 0, 50 * k) for k in range(3) for shape in ROW]
    seams = [shapely.affinity.translate(shape, 0, 50 * k) for k in range(3) for shape in SEAMS]
    planes = draw_buildings(rows, 256, seams=seams)
    whole = apart(planes)
    assert len(whole) == 9
    monkeypatch.setattr("geoseg.vectors.touching._BAND", band)
    np.testing.assert_array_equal(apart(planes).points, whole.points)


def city(side: int = 256) -> ArrayPlanes:
    """Rows that are split and huts that are not: at the border, in a courtyard, corner to corner; and lost pixels."""
    turned = [shapely.affinity.rotate(shape, 20, origin=(120, 120)) for shape in (*ROW, *SEAMS)]
    yard = [
        shapely.box(130, 130, 235, 235).difference(shapely.box(155, 155, 210, 210)),
        shapely.box(175, 175, 190, 190),
    ]
    border = [shapely.box(-1, 100, 40, 150), shapely.box(40, 100, 70, 150)]
    lines = [shapely.box(39.5, 99, 40.5, 151), shapely.box(130, 180, 160, 181), shapely.box(205, 180, 240, 181)]
    drawn = draw_buildings([*ROW, *turned[:3], *yard, *border], side, seams=[*SEAMS, *turned[3:], *lines])
    values, shares = drawn.values.copy(), drawn.probabilities.copy()
    values[70:76, 95:100] = values[24:30, 14:20] = values[254:, 10] = 1  # across corners, and a sliver
    values[110:116, 20:24], shares[:, 110:116, 20:24] = 255, 255
    return ArrayPlanes(values, drawn.grid, drawn.classes, shares)


@pytest.mark.parametrize("least", [1, 40])
def test_only_split_patches_are_traced_again_and_all_come_out_as_if_all_were(least):
    planes = city()
    whole = trace(planes, [1], subpixel=True, min_pixels=least)
    split = split_touching(planes, 1, whole, gsd=GSD)
    assert 3 <= len(split.cut) < len(whole)
    wanted = trace(split, split.values, subpixel=True, min_pixels=least)
    found = trace_apart(planes, 1, gsd=GSD, min_pixels=least)
    assert len(found) > len(whole)
    assert (found.value == 1).all()
    for name in ("points", "marked", "ring_offsets", "patch_offsets", "pixels", "first", "box", "prob", "prob_min10"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), strict=True)


def test_result_does_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr("geoseg.vectors.touching._BAND", 30)
    found = []
    for count in (1, 4):
        monkeypatch.setattr(threads, "cores", lambda count=count: count)
        found.append(apart(city()))
    for name in ("points", "ring_offsets", "patch_offsets", "first", "prob"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))


def test_windows_of_split_planes_are_cut_from_the_whole():
    planes = draw_buildings(ROW, seams=SEAMS)
    split = split_touching(planes, 1, trace(planes, [1], subpixel=True), gsd=GSD)
    whole = split.labels(Window(row=0, col=0, height=128, width=128))
    assert set(np.unique(whole)) > {0, 1}
    np.testing.assert_array_equal(whole > 0, planes.values > 0)
    window = Window(row=41, col=37, height=20, width=50)
    np.testing.assert_array_equal(split.labels(window), whole[window.slices()])
    borrowed = split.values[1]
    np.testing.assert_array_equal(split.probability(window, borrowed), planes.probability(window, 1))
    np.testing.assert_array_equal(split.margin(window, borrowed), planes.margin(window, 1))
    assert split.classes[borrowed] == "building"


def test_no_value_is_left_to_borrow():
    planes = draw_buildings(ROW)
    full = ArrayPlanes(planes.values, planes.grid, {k: str(k) for k in range(255)})
    with pytest.raises(UsageError, match="all 255 values"):
        split_touching(full, 1, trace(full, [1], subpixel=True), gsd=GSD)


@pytest.mark.parametrize("another", [False, True])
def test_what_is_too_large_stays_whole_whatever_is_beside_it(another, monkeypatch, caplog):
    """Two houses with a dip between them, too large together for what is looked at; a third one elsewhere."""
    monkeypatch.setattr(touching, "_LARGEST", 1 << 10)
    sure = np.zeros((120, 200), np.uint8)
    sure[20:60, 20:58] = sure[20:60, 62:100] = 250
    sure[20:60, 58:62] = 135
    if another:
        sure[80:100, 150:170] = 250
    grid = Grid(sure.shape, Affine(0.5, 0, 0, 0, -0.5, 0), None)
    names = {0: "background", 1: "building"}
    planes = ArrayPlanes((sure > 127).astype(np.uint8), grid, names, np.stack([254 - sure, sure]))
    with caplog.at_level(logging.WARNING):
        patches = touching.trace_apart(planes, 1, gsd=0.5)
    assert len(patches) == 1 + another
    assert caplog.text.count("a patch of 80 x 40 pixels stays whole") == 1


def test_row_that_the_network_is_not_sure_of_is_split_too():
    drawn = draw_buildings(ROW, seams=SEAMS)
    shares = drawn.probabilities.copy()
    shares[1] = np.where(drawn.values == 1, np.maximum(shares[1] * 0.72, 128), shares[1])
    shares[0] = 254 - shares[1]
    planes = ArrayPlanes(drawn.values, drawn.grid, drawn.classes, shares)
    assert planes.probabilities[1].max() < 0.75 * 254
    assert len(apart(planes)) == 3
