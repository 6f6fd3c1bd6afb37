"""Seams: a class raster alone splits where slits say so, and nowhere else."""

import numpy as np
import pytest
import shapely
import shapely.affinity

from geoseg.vectors.patches import trace
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.seams import GROUND, LEAST, OTHER, PATCH, seams
from geoseg.vectors.touching import split_touching, trace_apart
from tests.buildings import GSD, draw_buildings, planes_of

HOUSE, SHED = shapely.box(30, 40, 70, 75), shapely.box(70, 45, 94, 75)
SLIT = shapely.box(69, 64, 71, 76)
FIELDS = ("points", "marked", "ring_offsets", "patch_offsets", "pixels", "first", "box", "prob", "prob_min10")


def drawn(shape: shapely.Geometry, degrees: float = 0, side: int = 128) -> ArrayPlanes:
    """A class raster alone."""
    turned = shapely.affinity.rotate(shape, degrees, origin=(side / 2, side / 2))
    return planes_of(draw_buildings(shapely.get_parts(turned).tolist(), side, blur=0.5).values)


def street() -> ArrayPlanes:
    """Pairs with a slit, in several directions, and houses with none."""
    pair = HOUSE.union(SHED)
    parts = [
        shapely.affinity.translate(shapely.affinity.rotate(shape, angle, origin=(64, 64)), 110 * col, 90 * row)
        for row, col, angle, shape in [
            (0, 0, 0, pair.difference(SLIT)),
            (0, 1, 25, pair),
            (1, 0, 140, pair.difference(SLIT)),
            (1, 1, 75, pair.difference(SLIT)),
        ]
    ]
    return drawn(shapely.MultiPolygon(parts), side=256)


@pytest.mark.parametrize("degrees", [0, 12, 31, 45, 90, 203])
def test_slit_from_one_side_tells_two_houses_apart(degrees):
    planes = drawn(HOUSE.union(SHED).difference(SLIT), degrees)
    assert len(trace(planes, [1], subpixel=True)) == 1
    found = trace_apart(planes, 1, gsd=GSD)
    assert found.value.tolist() == [1, 1]
    assert np.isnan(found.prob).all()
    assert found.pixels.sum() == (planes.values == 1).sum()
    wanted = [shape.difference(SLIT).area for shape in (SHED, HOUSE)]
    np.testing.assert_allclose(np.sort(found.pixels), wanted, rtol=0.03)


@pytest.mark.parametrize("degrees", [0, 20, 45])
@pytest.mark.parametrize(
    "shape",
    [
        shapely.box(30, 30, 90, 50).union(shapely.box(30, 30, 50, 90)),
        shapely.box(30, 30, 90, 50).union(shapely.box(50, 30, 68, 90)),
        shapely.box(30, 30, 90, 90).difference(shapely.box(45, 30, 75, 70)),
        shapely.box(30, 30, 90, 90).difference(shapely.box(52, 52, 68, 68)),
        shapely.box(30, 30, 90, 70).difference(shapely.box(50, 48, 70, 51)),
        shapely.box(30, 30, 90, 70).difference(shapely.Point(60, 30).buffer(5)),
        HOUSE.union(SHED),
    ],
    ids=["angle", "tee", "horseshoe", "courtyard", "hole in a roof", "tree", "step"],
)
def test_one_house_stays_whole(shape, degrees):
    assert len(trace_apart(drawn(shape, degrees), 1, gsd=GSD)) == 1


def test_gap_of_another_class_than_the_ground_is_no_slit():
    values = drawn(HOUSE.union(SHED).difference(SLIT)).values
    values[60:74, 69:71] = 2
    assert (values == 2).sum() == 28
    names = {0: "background", 1: "building", 2: "road"}
    planes = ArrayPlanes(values, planes_of(values).grid, names)
    assert len(trace_apart(planes, 1, gsd=GSD)) == 1


def test_pieces_come_out_as_if_all_were_traced_again():
    planes = street()
    whole = trace(planes, [1], subpixel=True)
    split = split_touching(planes, 1, whole, gsd=GSD)
    assert (len(whole), len(split.cut)) == (4, 3)
    wanted, found = trace(split, split.values, subpixel=True), trace_apart(planes, 1, gsd=GSD)
    assert len(found) == 7
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), strict=True)


def test_result_does_not_depend_on_how_the_raster_is_read(monkeypatch):
    whole = trace_apart(street(), 1, gsd=GSD)
    monkeypatch.setattr("geoseg.vectors.touching._BAND", 20)
    found = trace_apart(street(), 1, gsd=GSD)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))


@pytest.mark.parametrize(("gaps", "label", "found"), [(LEAST, GROUND, 1), (LEAST - 1, GROUND, 0), (LEAST, OTHER, 0)])
def test_seam_lies_where_the_gaps_are(gaps, label, found):
    frame = np.full((40, 40), GROUND, np.uint8)
    frame[10:30, 10:25] = PATCH
    frame[19:22, 10 : 10 + gaps] = label
    assert seams(frame, LEAST)[:, :3].tolist() == [[20, 10, 24]] * found
    frame[19:22, 10:25] = PATCH
    frame[19:22, 15 : 15 + gaps] = label
    assert len(seams(frame, LEAST)) == 0
