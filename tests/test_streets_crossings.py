"""Streets that cross meet in a node; what hides a crossing, what stands in the way, and what is not seen."""

from functools import partial

import numpy as np
import pytest
import shapely

from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.streets import find_streets
from geoseg.vectors.streets.crossings import cross, find_crossings
from geoseg.vectors.streets.graph import Graph, Street
from geoseg.vectors.streets.lines import draw_lines, keep_inside
from tests.city import make_city
from tests.test_streets import _find, _grid, _near, _paint, _placed


def _graph(*lines):
    graph = Graph()
    for line in lines:
        xy = np.array(line, float)
        ends = graph.add_node(xy[0]), graph.add_node(xy[-1])
        graph.add(Street(ends, xy, np.full(len(xy), 2.0), np.linspace(0, 1, len(xy))))
    return graph


def _raw(streets):
    return np.array([shapely.LineString(street.xy) for street in streets], dtype=object)


def _crossing(hidden):
    """A crossing of two streets of 6 m whose middle shows something else."""
    labels = _paint([(-10, 70), (160, 80)], [(70, -10), (80, 160)], width=6.0)
    labels[138:162, 138:162] = hidden
    return labels


@pytest.mark.parametrize("hidden", [0, 255])
def test_a_crossing_that_is_hidden_is_a_node(hidden):
    network = _find(_crossing(hidden))
    assert sorted(network.degree) == [1, 1, 1, 1, 4]
    assert network.bridged.all()
    assert _near(_placed(network)[network.degree == 4], (75, 75), 1.0)


@pytest.mark.parametrize(
    ("classes", "solid", "lines"), [((0, 1, 2), (1,), 2), ((0, 1, 2), (), 1), ((0, 2, 5), (5,), 2)]
)
def test_no_gap_is_bridged_through_what_is_solid(classes, solid, lines):
    labels = _paint([(-10, 75), (160, 75)], width=6.0)
    (other,) = set(classes) - {0, 2}
    labels[120:180, 140:160] = other
    planes = ArrayPlanes(labels, _grid(labels.shape), {value: str(value) for value in classes})
    network = find_streets(planes, 2, Metric(planes.grid), solid=solid)
    assert len(network.lines) == lines
    assert network.bridged.any() == (lines == 1)


def test_a_gap_is_bridged_past_the_corner_of_a_building():
    labels = _paint([(-10, 75), (160, 75)], width=6.0)
    labels[:, 140:160] = 0
    labels[120:151, 148:150] = 1  # a metre of it stands on the line
    planes = ArrayPlanes(labels, _grid(labels.shape), {0: "background", 1: "building", 2: "road"})
    assert find_streets(planes, 2, Metric(planes.grid), solid=(1,)).bridged.tolist() == [True]


def test_lines_that_cross_are_cut_in_one_node():
    graph = _graph([(0, 0), (30, 0)], [(10, -9), (10, 0.5), (20, 11)], [(10, 30), (20, -30)])
    cross(graph, _raw)
    assert find_crossings(graph.lines()) == []
    assert sorted(graph.degree(node) for node in graph.nodes) == [1] * 6 + [4] * 3
    assert sum(street.length for street in graph.streets.values()) == pytest.approx(
        30 + 9.5 + np.hypot(10, 10.5) + np.hypot(10, 60)
    )
    for street in graph.streets.values():
        np.testing.assert_array_equal(street.xy[[0, -1]], [graph.nodes[node] for node in street.ends])
        assert len(street.xy) == len(street.radius) == len(street.prob)
        assert street.length > 0


def test_lines_that_meet_in_a_node_or_end_on_another_are_left_alone():
    graph = _graph([(0, 0), (30, 0)], [(30, 0), (40, 9)], [(10, 0), (10, 20)])
    before = dict(graph.streets)
    cross(graph, _raw)
    assert graph.streets == before


def test_a_line_across_many_and_itself_is_cut_until_none_cross():
    zigzag = [(x, 3 * (-1) ** x) for x in range(20)]
    loop = [(-1, 1), (12, 1), (12, 9), (5, 9), (5, -6)]
    graph = _graph([(-2, 0), (22, 0.1)], zigzag, loop)
    cross(graph, _raw)
    assert find_crossings(graph.lines()) == []
    assert all(street.length >= 0.01 for street in graph.streets.values())


def test_what_is_drawn_does_not_cross():
    """Smoothed and simplified the bend would cut the corner, in which another street ends."""
    graph = _graph([(0, 0), (20, 0), (20, 1), (20, 20)], [(19.6, 0.4), (10, 10)])
    draw = partial(draw_lines, smooth_m=4.0, simplify_m=1.0)
    assert find_crossings(draw(graph.streets.values()))
    lines = cross(graph, draw)
    assert find_crossings(lines) == []
    assert len(lines) == len(graph.streets)
    for line, street in zip(lines, graph.streets.values(), strict=True):
        np.testing.assert_array_equal(shapely.get_coordinates(line)[[0, -1]], street.xy[[0, -1]])


def test_of_two_that_cross_behind_their_node_one_goes_there_straight():
    hook = [(0, 0), (6, 3), (5.5, 3), (4, -2), (4, -20)]
    graph = Graph()
    nodes = [graph.add_node(np.array(xy, float)) for xy in ((0, 0), (4, -20), (40, 0))]
    for line, end in ((hook, nodes[1]), ([(0, 0), (3, 0), (40, 0)], nodes[2])):
        xy = np.array(line, float)
        graph.add(Street((nodes[0], end), xy, np.full(len(xy), 2.0), np.ones(len(xy))))
    assert find_crossings(cross(graph, _raw)) == []
    assert len(graph.streets) == 2
    assert graph.streets[1].xy.tolist() == [[0, 0], [3, 0], [40, 0]]
    assert graph.streets[0].xy[[0, -1]].tolist() == [[0, 0], [4, -20]]


def test_no_lines_cross_in_a_city_but_in_their_ends():
    for seed in (0, 1):  # in which lines would cross without
        city = make_city(1200, seed=seed, noise=2.0)
        assert find_crossings(find_streets(city.planes, 2, city.metric, solid=(1,)).lines) == []


def test_where_the_background_is_no_data_streets_are_as_wide():
    labels = _paint([(0, 70), (150, 80)], [(60, 0), (80, 150)], width=6.0)
    whole, bare = _find(labels), _find(np.where(labels == 0, 255, labels).astype(np.uint8))
    np.testing.assert_array_equal(bare.degree, whole.degree)
    np.testing.assert_allclose(bare.width_m, whole.width_m, atol=0.01)
    np.testing.assert_allclose(bare.width_p90, whole.width_p90, atol=0.05)


def test_a_hole_in_the_data_does_not_make_a_street_narrower():
    labels = _paint([(-10, 75), (160, 75)], width=8.0)
    labels[152:155] = 255  # all along, beside the middle
    network = _find(labels)
    assert network.width_m == pytest.approx([8.0], abs=0.2)


def test_what_a_network_paints_along_a_gap_in_the_data_is_no_street():
    labels = np.zeros((300, 300), np.uint8)
    labels[148:150] = labels[154:156] = 2
    labels[150:154] = 255
    street = _paint([(70, -10), (80, 160)], width=6.0)
    network = _find(np.where((labels == 0) & (street == 2), 2, labels).astype(np.uint8))
    assert shapely.length(network.lines).sum() == pytest.approx(np.hypot(150, 150 / 17), abs=3)
    assert network.width_m == pytest.approx(6.0, abs=0.3)


def test_a_junction_beside_the_border_stays_within_the_raster():
    graph = _graph([(-75, 74), (0, 76)], [(0, 76), (75, 74)])
    metric = Metric(_grid())
    keep_inside(graph, metric)
    pixels = metric.to_pixels(np.array(list(graph.nodes.values())))
    assert pixels.min() >= -1e-6
    assert graph.streets[0].xy[-1].tolist() == graph.nodes[1].tolist()
    assert metric.to_pixels(graph.streets[0].xy[-1:])[0] == pytest.approx([150, 0], abs=2)
