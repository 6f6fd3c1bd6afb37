"""Which polygon is which: pairs, thresholds, what the border of the labelled area cuts."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box

from geoseg.metrics.matching import NEAR_M2, inside, match, overlaps, self_overlapping, solid


def array(*shapes) -> np.ndarray:
    return np.array(shapes, object)


def boxes(most: int = 8) -> st.SearchStrategy:
    """Boxes on a lattice, which may overlap in any way."""
    box_ = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 6), st.integers(1, 6))
    return st.lists(box_, max_size=most).map(
        lambda found: np.array([box(x, y, x + w, y + h) for x, y, w, h in found], object)
    )


def test_shares_of_a_pair():
    pairs = overlaps(array(box(0, 0, 4, 2)), array(box(2, 0, 8, 2), box(4, 0, 5, 2)))
    assert (pairs.predicted.tolist(), pairs.reference.tolist()) == ([0], [0])  # a common wall is no ground
    assert pairs.shared_m2 == [4]
    assert pairs.iou == [4 / 16]
    assert pairs.of_predicted == [0.5]
    assert pairs.of_reference == [4 / 12]


@pytest.mark.parametrize(("width", "found"), [(5.0, 1), (4.99, 0)])
def test_half_is_enough(width, found):
    matching = match(overlaps(array(box(0, 0, width, 1)), array(box(0, 0, 10, 1))))
    assert len(matching.predicted) == found
    assert (len(matching.false_alarms), len(matching.misses)) == (1 - found, 1 - found)


def test_one_partner_each_and_the_better_one():
    """A house drawn twice is one hit and one false alarm."""
    twice = array(box(0, 0, 10, 8), box(0, 0, 10, 9))
    matching = match(overlaps(twice, array(box(0, 0, 10, 10))))
    assert (matching.predicted.tolist(), matching.iou.tolist()) == ([1], [0.9])
    assert (matching.false_alarms.tolist(), matching.misses.tolist()) == ([0], [])
    equal = match(overlaps(array(box(0, 0, 10, 9), box(0, 1, 10, 10)), array(box(0, 0, 10, 10))))
    assert equal.predicted.tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(predicted=boxes(), reference=boxes(), iou=st.sampled_from([0.1, 0.5, 0.9]))
def test_matching_keeps_its_rules(predicted, reference, iou):
    matching = match(overlaps(predicted, reference), iou=iou)
    assert len(set(matching.predicted)) == len(set(matching.reference)) == len(matching.iou)
    assert sorted([*matching.predicted, *matching.false_alarms]) == list(range(len(predicted)))
    assert sorted([*matching.reference, *matching.misses]) == list(range(len(reference)))
    for p, r, ratio in zip(matching.predicted, matching.reference, matching.iou, strict=True):
        shared = predicted[p].intersection(reference[r]).area
        assert ratio == pytest.approx(shared / predicted[p].union(reference[r]).area)
        assert ratio >= iou
    # No pair that could still be made is left.
    for p in matching.false_alarms:
        for r in matching.misses:
            union = predicted[p].union(reference[r]).area
            assert predicted[p].intersection(reference[r]).area / union < iou


@settings(max_examples=30, deadline=None)
@given(reference=boxes())
def test_identity_matches_everything(reference):
    matching = match(overlaps(reference, reference))
    assert matching.reference.tolist() == list(range(len(reference)))
    assert (matching.iou == 1).all()
    assert not len(matching.false_alarms)
    assert not len(matching.misses)


def test_what_the_border_cuts_is_neither_right_nor_wrong():
    area = box(0, 0, 100, 100)
    reference = array(box(10, 10, 20, 20), box(95, 0, 105, 10), box(90, 50, 100, 60), box(200, 0, 210, 10))
    assert inside(reference, area).tolist() == [True, False, False, False]
    assert inside(reference, None).all()
    predicted = array(box(10, 10, 20, 20), box(95, 0, 105, 10), box(92, 52, 99, 58), box(98, 80, 110, 90))
    matching = match(
        overlaps(predicted, reference),
        predicted_inside=inside(predicted, area),
        reference_inside=inside(reference, area),
    )
    assert (matching.predicted.tolist(), matching.reference.tolist()) == ([0], [0])
    assert not len(matching.false_alarms)
    assert not len(matching.misses)
    # A partner within the area counts, though the prediction itself runs over the border.
    across = match(
        overlaps(array(box(85, 0, 101, 10)), array(box(85, 0, 99, 10))),
        predicted_inside=np.array([False]),
        reference_inside=np.array([True]),
    )
    assert len(across.predicted) == 1


def test_invalid_polygons_are_mended():
    bow_tie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    spike = shapely.Polygon([(0, 0), (1, 0), (0, 0)])
    polygons = array(bow_tie, box(0, 0, 1, 1), spike)
    mended = solid(polygons)
    assert shapely.is_valid(mended).all()
    assert shapely.area(mended).tolist() == [2, 1, 0]
    assert polygons[0] is bow_tie
    assert solid(mended) is mended


def test_overlaps_of_one_layer():
    grain = NEAR_M2 / 10
    polygons = array(box(0, 0, 10, 10), box(10 - grain, 0, 20, 10), box(20, 0, 30, 10), box(25, 5, 26, 6))
    assert self_overlapping(polygons).tolist() == [[2, 3]]
    assert self_overlapping(array()).tolist() == []
