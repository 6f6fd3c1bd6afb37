"""Faults: one hand-made case of each kind, and what is no fault."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import LineString, MultiLineString, box
from shapely.affinity import translate

from geoseg.metrics.faults import Fault, object_faults, road_faults
from geoseg.metrics.objects import Objects

HOUSE = box(0, 0, 10, 10)


def array(*shapes) -> np.ndarray:
    return np.array(shapes, object)


def faults(predicted, reference, **more) -> list[Fault]:
    return object_faults(Objects.matched(array(*predicted), array(*reference), **more))


def test_a_miss_and_a_false_alarm():
    found = faults([box(30, 0, 38, 5)], [HOUSE])
    assert [(fault.kind, fault.size) for fault in found] == [("miss", 100), ("false_alarm", 40)]
    assert found[0].geometry.equals(HOUSE)
    assert (found[0].predicted, found[0].reference) == ((), (0,))
    assert (found[1].predicted, found[1].reference) == ((0,), ())


def test_a_merge():
    """One polygon over three houses: the two smaller ones are lost in it."""
    houses = [HOUSE, box(10.5, 0, 15.5, 10), box(16, 0, 20, 10)]
    (found,) = faults([box(40, 40, 50, 50), box(0, 0, 20, 10)], [*houses, box(40, 40, 50, 50)])
    assert (found.kind, found.predicted, found.reference) == ("merge", (1,), (0, 1, 2))
    assert found.size == pytest.approx(50 + 40)
    assert found.geometry.equals(box(0, 0, 20, 10))


def test_a_split():
    (found,) = faults([box(0, 0, 10, 6), box(0, 6.5, 10, 10)], [HOUSE])
    assert (found.kind, found.predicted, found.reference) == ("split", (0, 1), (0,))
    assert found.size == pytest.approx(35)
    assert found.geometry.equals(HOUSE)


def test_a_boundary_that_strays():
    """Found, with an outline 2 m too far on one side; half a metre is no fault."""
    (found,) = faults([box(0, 0, 12, 10)], [HOUSE])
    assert (found.kind, found.size, found.predicted, found.reference) == ("boundary", 20, (0,), (0,))
    assert (found.iou, found.distance_m) == pytest.approx((10 / 12, 2))
    assert found.geometry.equals(box(10, 0, 12, 10))
    assert faults([box(0, 0, 10.5, 10)], [HOUSE]) == []


def test_a_boundary_too_poor_for_a_match():
    """An IoU of 0.4 is one object badly outlined, not one missed and one too many."""
    (found,) = faults([box(0, 0, 4, 10)], [HOUSE])
    assert (found.kind, found.size, found.iou) == ("boundary", 60, 0.4)
    # A tenth of it is another matter.
    assert [fault.kind for fault in faults([box(9.5, 0, 20, 10)], [HOUSE])] == ["false_alarm", "miss"]


def test_a_blob_over_a_garden_with_two_sheds_merges_nothing():
    found = faults([box(0, 0, 50, 50)], [box(0, 0, 5, 5), box(40, 40, 45, 45)])
    assert [(fault.kind, fault.size) for fault in found] == [("false_alarm", 2500), ("miss", 25), ("miss", 25)]


def test_worst_first_whatever_the_order():
    predicted = [translate(HOUSE, 100 * i) for i in range(4)]
    reference = [*predicted[:2], box(0, 100, 30, 130), box(0, 200, 1, 201)]
    found = faults(predicted, reference)
    assert [fault.size for fault in found] == [900, 100, 100, 1]
    again = faults(predicted[::-1], reference[::-1])
    assert [(fault.kind, fault.size) for fault in again] == [(fault.kind, fault.size) for fault in found]


def test_what_the_border_cuts_is_no_fault():
    area = box(-50, -50, 100, 100)
    cut = [box(95, 0, 105, 10), box(95, 20, 105, 24), box(95, 24.5, 105, 30), box(300, 0, 310, 10)]
    assert faults([HOUSE, *cut], [HOUSE], area=area) == []
    assert faults([HOUSE], [HOUSE, *cut], area=area) == []
    assert faults([HOUSE, *cut[1:3]], [HOUSE, box(95, 20, 105, 30)], area=area) == []
    # Rows are those of what was given, also where some of it is left out.
    (found,) = faults([box(500, 0, 510, 10), HOUSE, box(30, 30, 40, 40)], [HOUSE], area=area)
    assert found.predicted == (2,)


@settings(max_examples=30, deadline=None)
@given(
    moves=st.lists(st.tuples(st.integers(-30, 30), st.integers(-30, 30)), min_size=1, max_size=6),
    others=st.lists(st.tuples(st.integers(-30, 30), st.integers(-30, 30)), max_size=6),
)
def test_everything_without_partner_is_told(moves, others):
    objects = Objects.matched(
        array(*(translate(HOUSE, *m) for m in moves)), array(*(translate(HOUSE, *m) for m in others))
    )
    found = object_faults(objects)
    assert {int(p) for p in objects.matching.false_alarms} <= {p for fault in found for p in fault.predicted}
    assert {int(r) for r in objects.matching.misses} <= {r for fault in found for r in fault.reference}
    assert [fault.size for fault in found] == sorted((fault.size for fault in found), reverse=True)
    alone = [fault for fault in found if fault.kind in ("miss", "false_alarm")]
    assert len({(f.predicted, f.reference) for f in alone}) == len(alone)


ROAD = LineString([(0, 0), (60, 0), (60, 40)])


def test_stretches_of_road():
    """A gap of 20 m round the bend, and a street that is not there."""
    predicted = array(LineString([(0, 0), (50, 0)]), MultiLineString([[(60, 10), (60, 40)], [(0, 20), (30, 20)]]))
    found = road_faults(predicted, array(ROAD), buffer_m=1)
    assert [(fault.kind, fault.predicted, fault.reference) for fault in found] == [
        ("false_alarm", (1,), ()),
        ("miss", (), (0,)),
    ]
    assert found[0].geometry.equals(LineString([(0, 20), (30, 20)]))
    assert found[1].size == pytest.approx(18)  # what is within a metre of the ends is found
    assert found[1].geometry.equals_exact(LineString([(51, 0), (60, 0), (60, 9)]), 1e-9)


def test_roads_without_fault():
    assert road_faults(array(ROAD), array(ROAD)) == []
    assert road_faults(array(), array()) == []
    short = array(LineString([(0, 0), (60, 0), (60, 35.5)]))
    assert road_faults(short, array(ROAD)) == []
    assert road_faults(array(), array(ROAD), area=box(100, 0, 200, 9)) == []
    (found,) = road_faults(array(), array(ROAD), area=box(-10, -10, 30, 10))
    assert found.geometry.equals(LineString([(0, 0), (30, 0)]))
    assert shapely.length(found.geometry) == found.size == 30
