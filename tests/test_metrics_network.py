"""Network: junctions and dead ends of lines, however they were cut when drawn."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import LineString, MultiLineString, box

from geoseg.metrics.network import Network
from geoseg.metrics.roads import match_points


def array(*shapes) -> np.ndarray:
    return np.array(shapes, object)


CROSS = array(LineString([(-50, 0), (50, 0)]), LineString([(0, -50), (0, 50)]))


def test_a_cross():
    network = Network.of(CROSS)
    assert len(network.edges) == 4
    assert network.junctions.tolist() == [[0, 0]]
    assert network.dead_ends.tolist() == [[-50, 0], [0, -50], [0, 50], [50, 0]]
    assert network.lengths.tolist() == [50] * 4
    for edge, (start, end) in zip(network.edges, network.ends, strict=True):
        assert edge.coords[0] == tuple(network.nodes[start])
        assert edge.coords[-1] == tuple(network.nodes[end])


def test_lines_that_go_on_are_one_edge():
    network = Network.of(array(LineString([(0, 0), (10, 0)]), LineString([(20, 5), (10, 0)])))
    assert len(network.edges) == 1
    assert not len(network.junctions)
    assert network.degree.tolist() == [1, 1]


def test_a_line_that_ends_on_another_meets_it():
    """Also where a rounding error keeps them apart."""
    for gap in (0.0, 1e-9, 4e-3):
        network = Network.of(array(LineString([(0, 0), (30, 1)]), LineString([(15, 0.5 + gap), (15, 40)])))
        assert len(network.junctions) == 1, gap
        assert len(network.dead_ends) == 3


def test_a_loop_and_a_line_drawn_twice():
    loop = Network.of(array(box(0, 0, 10, 10).exterior))
    assert (loop.lengths.tolist(), loop.degree.tolist()) == ([40], [2])
    assert loop.ends[0, 0] == loop.ends[0, 1]
    twice = Network.of(array(CROSS[0], CROSS[0], shapely.reverse(CROSS[0])))
    assert (len(twice.edges), twice.lengths.sum()) == (1, 100)


def test_no_lines():
    for lines in (array(), array(LineString()), array(LineString([(1, 1), (1, 1)]))):
        network = Network.of(lines)
        assert (len(network.nodes), len(network.edges)) == (0, 0)
        assert network.junctions.shape == network.dead_ends.shape == (0, 2)


def test_the_area_cuts():
    network = Network.of(CROSS, area=box(-20, -60, 60, 60))
    assert network.lengths.sum() == 50 * 3 + 20
    assert [-20, 0] in network.dead_ends.tolist()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    ends=st.lists(
        st.tuples(*[st.integers(0, 6)] * 4).filter(lambda e: e[:2] != e[2:]), min_size=1, max_size=8
    ),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_order_and_direction_and_cutting_change_nothing(ends, seed):
    lines = np.array([LineString([(x * 10, y * 10), (u * 10, v * 10)]) for x, y, u, v in ends], object)
    rng = np.random.default_rng(seed)
    other = shapely.reverse(rng.permutation(lines))
    first, second = Network.of(lines), Network.of(array(MultiLineString(list(shapely.segmentize(other, 7)))))
    pairs = match_points(first.junctions, second.junctions, 0.1)
    assert len(pairs) == len(first.junctions) == len(second.junctions)
    assert first.lengths.sum() == pytest.approx(second.lengths.sum(), rel=1e-3)
    assert first.degree.sum() == 2 * len(first.edges)
