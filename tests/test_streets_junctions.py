"""Junctions of streets: where arms meet, staggered ones kept apart, and what is no junction left alone."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoseg.vectors.streets.arms import Arm
from geoseg.vectors.streets.graph import Graph, Street
from geoseg.vectors.streets.junctions import settle
from geoseg.vectors.streets.pruning import contract
from geoseg.vectors.streets.strokes import pool
from tests.test_streets import _find, _near, _paint, _placed


def _crossings(network):
    """No two lines cross but at a node of both."""
    tree = shapely.STRtree(network.lines)
    first, second = tree.query(network.lines, predicate="crosses")
    return int((first < second).sum())


@pytest.mark.parametrize(("degrees", "within"), [(25, 5.0), (35, 2.0), (60, 1.0), (90, 0.6), (140, 2.0)])
def test_a_side_street_meets_the_middle_of_the_street_at_any_angle(degrees, within):
    turn = np.deg2rad(degrees)
    far = (75 + 120 * np.cos(turn), 60 + 120 * np.sin(turn))
    network = _find(_paint([(-10, 60), (160, 60)], width=11.0) | _paint([(75, 60), far], width=5.0))
    assert (network.degree == 3).sum() == 1
    assert _near(_placed(network)[network.degree == 3], (75, 60), within)


def test_staggered_side_streets_have_a_junction_each():
    through = [(-10, 75), (160, 75)]
    network = _find(_paint(through, width=12.0) | _paint([(71, 75), (71, 160)], [(79, 75), (79, -10)], width=5.0))
    found = _placed(network)[network.degree == 3]
    assert len(found) == 2
    assert _near(found, (71, 75), 1.0)
    assert _near(found, (79, 75), 1.0)
    assert _crossings(network) == 0


def test_a_crossing_a_little_out_of_line_is_one():
    through = [(-10, 75), (160, 75)]
    network = _find(_paint(through, width=12.0) | _paint([(74, 75), (74, 160)], [(76, 75), (76, -10)], width=5.0))
    assert sorted(network.degree) == [1, 1, 1, 1, 4]


def test_two_side_streets_that_cross_in_a_junction_do_so_in_its_node():
    network = _find(
        _paint([(-10, 75), (160, 75)], width=12.0) | _paint([(60, 75), (150, 110)], [(70, 75), (20, 160)], width=5.0)
    )
    assert _crossings(network) == 0
    assert (network.degree >= 3).sum() in (1, 2)


def test_a_street_between_two_bridges_is_kept():
    """The radius of a bridge is not known: that makes no junction of a street."""
    graph = Graph()
    nodes = [graph.add_node(np.array(xy, float)) for xy in ((0, 0), (100, 0), (0, 50), (0, -50), (100, 50), (100, -50))]
    for first, second in ((0, 1), (0, 2), (0, 3), (1, 4), (1, 5)):
        line = np.linspace(graph.nodes[nodes[first]], graph.nodes[nodes[second]], 51)
        radius = np.full(51, 4.0)
        if (first, second) == (0, 1):
            radius[:5], radius[-5:] = np.nan, np.nan
        graph.add(Street((nodes[first], nodes[second]), line, radius, np.ones(51)))
    contract(graph)
    assert len(graph.streets) == 5
    settle(graph)
    assert sorted(graph.degree(node) for node in graph.nodes) == [1, 1, 1, 1, 3, 3]


def test_a_street_ends_at_another_node_once_it_is_turned():
    graph = Graph()
    a, b, c = (graph.add_node(np.array(xy, float)) for xy in ((0, 0), (10, 0), (10, 5)))
    number = graph.add(Street((a, b), np.array([(0.0, 0), (5, 0), (10, 0)]), np.ones(3), np.ones(3)))
    graph.turn(number, -1, c)
    assert (graph.degree(a), graph.degree(b), graph.degree(c)) == (1, 0, 1)
    np.testing.assert_array_equal(graph.streets[number].xy[-1], (10, 5))
    assert graph.streets[number].ends == (a, c)


def test_a_short_dead_end_far_from_the_next_street_is_not_led_to_it():
    path = _paint([(60, 40), (60, 65)], width=2.2)
    road = _paint([(0, 78), (150, 78)], width=8.0)
    assert not _find(path | road).bridged.any()
    wide = _paint([(60, 20), (60, 65)], width=6.0)
    assert _find(wide | road).bridged.any()


def test_widths_are_drawn_to_the_street_that_goes_straight_on_and_no_other():
    lines = np.array(
        [
            shapely.LineString([(0, 0), (100, 0)]),
            shapely.LineString([(100, 0), (110, 0)]),
            shapely.LineString([(100, 0), (100, 100)]),
        ]
    )
    ends = np.array([(0, 1), (1, 2), (1, 3)])
    found = pool(lines, ends, np.array([6.0, 6.8, 4.0]), np.array([80.0, 4.0, 80.0]))
    assert 6.0 < found[0] < found[1] < 6.4
    assert found[2] == 4.0
    assert pool(lines, ends, np.array([6.0, np.nan, 4.0]), np.array([80.0, 0, 80.0]))[1] == pytest.approx(6.0)
    changed = pool(lines, ends, np.array([6.0, 12.0, 4.0]), np.array([80.0, 8.0, 80.0]))
    np.testing.assert_allclose(changed, [6.0, 12.0, 4.0])
    assert np.isnan(pool(lines[:1], ends[:1], np.array([np.nan]), np.zeros(1))).all()


def test_a_short_street_between_wide_ones_has_the_width_of_its_own():
    """Profiles that run into another street tell nothing."""
    network = _find(
        _paint([(-10, 60), (160, 60)], [(-10, 90), (160, 90)], width=12.0) | _paint([(75, 60), (75, 90)], width=5.0)
    )
    short = shapely.length(network.lines) < 40
    assert short.sum() == 1
    assert network.width_m[short] == pytest.approx([5.0], abs=0.4)
    assert network.width_m[~short] == pytest.approx([12.0] * 4, abs=0.3)


def _street(line, radius=4.0):
    xy = np.array(line, float)
    return Street((0, 1), xy, np.full(len(xy), radius), np.full(len(xy), np.nan))


def test_an_arm_of_few_points_is_seen_from_outside_the_junction():
    """The street of a bridge has a point at either end: those within the junction do not tell where it leads."""
    arm = Arm.of(0, 0, _street([(0, 0), (0, 3), (70, 73)]), 4.0, 4.0)
    np.testing.assert_allclose(arm.away, np.sqrt([0.5, 0.5]), atol=0.02)
    np.testing.assert_allclose(arm.middle[1] - arm.middle[0], 3, atol=0.3)
    assert 1.3 * 4 <= arm.clear <= 1.3 * 4 + 2


@given(
    line=st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 1.0, 3.0, 40.0, 900.0])] * 2), min_size=2, max_size=5),
    radius=st.sampled_from([0.0, 0.5, 8.0, np.nan]),
)
def test_an_arm_of_any_street_has_a_direction_or_none(line, radius):
    arm = Arm.of(0, 0, _street(line, radius), 2.0, 3.0)
    assert np.isfinite([*arm.away, *arm.middle, arm.clear, arm.weight]).all()
    assert np.hypot(*arm.away) == pytest.approx(1.0 if arm.weight else 0.0)
    assert arm.clear <= _street(line).length / 2 + 2


def test_a_street_that_the_border_cuts_off_is_no_spur():
    """Nothing says how long it is; as short a one that ends within the raster is a bump."""
    painted = _paint([(-10, 9), (160, 9)], [(75, 9), (75, -10)], [(40, 9), (40, 14)])
    for turns in range(4):
        network = _find(np.rot90(painted, turns))
        assert sorted(network.degree) == [1, 1, 1, 3]


def test_a_street_that_the_end_of_the_data_cuts_off_is_no_spur():
    """The same inside the raster, beside what was not seen: nothing there says how long the street is."""
    painted = _paint([(-10, 39), (160, 39)], [(75, 39), (75, -10)], [(40, 39), (40, 44)])
    painted[:60] = 255
    for turns in range(4):
        network = _find(np.rot90(painted, turns))
        assert sorted(network.degree) == [1, 1, 1, 3]
        placed = _placed(network)[network.degree == 1]
        assert network.length_m.min() == pytest.approx(9, abs=0.6), placed
