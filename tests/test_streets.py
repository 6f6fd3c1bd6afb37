"""Networks of streets with known answers: crossings, junctions, gaps, spurs, ends, borders, and what is no street."""

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, dijkstra

from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import ArrayPlanes
from geoseg.vectors.streets import Rules, find_streets
from tests.city import make_city

GSD = 0.5
SIDE = 300
CLASSES = {0: "background", 2: "road"}
UTM = CRS.from_epsg(32637).to_wkt()


def _grid(shape=(SIDE, SIDE)):
    return Grid(shape, Affine(GSD, 0, 500_000, 0, -GSD, 5_000_000), UTM)


def _paint(*lines, width=7.0, shape=(SIDE, SIDE), square=False):
    """Labels with streets along lines of (x, y) metres from the top left."""
    col, row = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    points = shapely.points(col * GSD, row * GSD)
    style = "flat" if square else "round"
    surface = shapely.union_all([shapely.LineString(line).buffer(width / 2, cap_style=style) for line in lines])
    return np.where(shapely.contains(surface, points), 2, 0).astype(np.uint8)


def _find(labels, **rules):
    planes = ArrayPlanes(labels, _grid(labels.shape), CLASSES)
    return find_streets(planes, 2, Metric(planes.grid), Rules(**rules))


def _placed(network, shape=(SIDE, SIDE)):
    """Nodes in metres from the top left, as they are painted."""
    return Metric(_grid(shape)).to_pixels(network.nodes) * GSD


def _near(points, wanted, within):
    return np.hypot(*(points - np.array(wanted)).T).min() <= within


def test_a_crossing_is_one_node_of_four():
    network = _find(_paint([(0, 70), (150, 80)], [(60, 0), (80, 150)]))
    assert sorted(network.degree) == [1, 1, 1, 1, 4]
    assert len(network.lines) == 4
    # The lines meet at x = 60 + y * 20 / 150, y = 70 + x / 15.
    y = (70 + 4) / (1 - 20 / 150 / 15)
    assert _near(_placed(network)[network.degree == 4], (60 + y * 20 / 150, y), 0.5)


def test_a_slanting_crossing_is_one_node_too():
    network = _find(_paint([(0, 40), (150, 110)], [(0, 110), (150, 40)]))
    assert sorted(network.degree) == [1, 1, 1, 1, 4]
    assert _near(_placed(network)[network.degree == 4], (75, 75), 0.7)


def test_a_t_junction_lies_on_the_street_that_goes_through():
    network = _find(_paint([(0, 75), (150, 75)], [(60, 75), (60, 150)]))
    assert sorted(network.degree) == [1, 1, 1, 3]
    assert _near(_placed(network)[network.degree == 3], (60, 75), 0.5)


def test_width_and_length_are_metres():
    network = _find(_paint([(0, 75), (150, 75)], width=9.0))
    assert network.width_m == pytest.approx([9.0], abs=0.15)
    assert network.width_p10 <= network.width_m <= network.width_p90
    assert network.length_m == pytest.approx([150], abs=0.6)
    np.testing.assert_array_equal(network.prob, 1)
    assert not network.bridged.any()


def test_a_street_ends_on_the_border_of_the_raster():
    network = _find(_paint([(-20, 30), (170, 110)]))
    ends = _placed(network)
    assert _near(ends, (0, 30 + 20 * 80 / 190), 0.6)
    assert _near(ends, (150, 30 + 170 * 80 / 190), 0.6)


def test_a_street_ends_on_the_border_of_the_data():
    labels = _paint([(0, 75), (150, 75)])
    labels[:, 240:] = 255
    assert _near(_placed(_find(labels)), (120, 75), 0.6)
    labels = _paint([(0, 75), (150, 75)])
    labels[:, 297:] = 255  # so narrow that closing the surface bridges it
    network = _find(labels)
    ends = _placed(network)
    assert _near(ends, (148.5, 75), 0.6)
    assert ends[:, 0].max() <= 148.5


def test_a_dead_end_reaches_the_end_of_its_surface():
    network = _find(_paint([(0, 75), (100, 75)], square=True))
    assert _near(_placed(network), (100, 75), 1.3)


def test_a_gap_is_bridged_and_said_so():
    labels = _paint([(0, 75), (150, 75)])
    labels[:, 140:160] = 0
    network = _find(labels)
    assert len(network.lines) == 1
    assert network.bridged.all()
    assert network.length_m == pytest.approx([150], abs=0.6)
    assert not _find(labels, bridge_m=0).bridged.any()
    assert len(_find(labels, bridge_m=0).lines) == 2


def test_a_wide_gap_is_none():
    labels = _paint([(0, 75), (150, 75)])
    labels[:, 120:190] = 0
    assert len(_find(labels).lines) == 2


def test_a_gap_before_a_junction_is_bridged():
    labels = _paint([(0, 75), (150, 75)], [(60, 75), (60, 150)])
    labels[166:180, :] = 0
    network = _find(labels)
    assert sorted(network.degree) == [1, 1, 1, 3]
    assert _near(_placed(network)[network.degree == 3], (60, 75), 0.6)
    assert network.bridged.sum() == 1


def test_spurs_are_pruned_and_side_streets_are_not():
    short, long = (
        _paint([(0, 75), (150, 75)], [(60, 75), (60, 84)]),
        _paint([(0, 75), (150, 75)], [(60, 75), (60, 115)]),
    )
    assert len(_find(short).lines) == 1
    assert len(_find(long).lines) == 3


def test_two_carriageways_stay_two():
    network = _find(_paint([(0, 70), (150, 70)], [(0, 82), (150, 82)]))
    assert len(network.lines) == 2
    assert (network.degree == 1).all()
    assert network.width_m == pytest.approx([7, 7], abs=0.2)


def test_a_roundabout_is_a_ring_with_arms():
    turn = np.linspace(0, 2 * np.pi, 60)
    ring = np.column_stack([75 + 18 * np.cos(turn), 75 + 18 * np.sin(turn)])
    network = _find(_paint(ring, [(0, 75), (57, 75)], [(93, 75), (150, 75)], [(75, 93), (75, 150)]))
    assert sorted(network.degree) == [1, 1, 1, 3, 3, 3]
    assert len(network.lines) == 6


def test_a_ring_alone_begins_and_ends_at_one_node():
    turn = np.linspace(0, 2 * np.pi, 60)
    network = _find(_paint(np.column_stack([75 + 40 * np.cos(turn), 75 + 40 * np.sin(turn)])))
    assert len(network.lines) == 1
    assert network.from_node[0] == network.to_node[0]
    assert network.length_m == pytest.approx([2 * np.pi * 40], rel=0.02)


def test_small_parts_are_left_out():
    assert len(_find(_paint([(50, 75), (65, 75)])).lines) == 0
    assert len(_find(_paint([(50, 75), (65, 75)]), min_part_m=0).lines) == 1


def test_a_square_has_streets_along_its_rim_alone():
    labels = _paint([(0, 75), (150, 75)])
    labels[80:220, 80:220] = 2
    network = _find(labels)
    inner = shapely.box(60, 60, 90, 90)
    lines = shapely.transform(network.lines, lambda xy: Metric(_grid()).to_pixels(xy) * GSD)
    assert len(network.lines) >= 2
    assert not shapely.intersects(inner, lines).any()


@pytest.mark.parametrize("value", [0, 2, 255])
def test_rasters_of_one_value_have_no_streets(value):
    network = _find(np.full((200, 180), value, np.uint8))
    assert len(network.lines) == len(network.nodes) == len(network.width_m) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2)])
def test_the_smallest_rasters_are_no_streets(shape):
    assert len(_find(np.full(shape, 2, np.uint8)).lines) == 0


def test_one_pixel_is_no_street():
    labels = np.zeros((50, 50), np.uint8)
    labels[20, 20] = 2
    assert len(_find(labels, blur_m=0, min_part_m=0).lines) == 0


def test_a_small_hole_without_data_does_not_part_a_street():
    labels = _paint([(0, 75), (150, 75)])
    labels[146:154, 146:154] = 255
    network = _find(labels)
    assert len(network.lines) == 1
    assert network.width_m == pytest.approx([7], abs=0.2)


def test_no_width_is_too_wide_to_look_for():
    labels = _paint([(0, 75), (150, 75)])
    usual, wide = _find(labels), _find(labels, max_width_m=1e7)
    assert shapely.equals_exact(usual.lines, wide.lines).all()
    assert len(wide.lines) == 1


def test_a_mask_of_0_and_255_has_streets():
    labels = np.where(_paint([(0, 75), (150, 75)]) == 2, 255, 0).astype(np.uint8)
    planes = ArrayPlanes(labels, _grid(labels.shape), {0: "background", 255: "road"})
    network = find_streets(planes, 255, Metric(planes.grid))
    assert network.length_m == pytest.approx([150], abs=1)


def test_rules_are_checked():
    with pytest.raises(UsageError, match="bridge_m=-1"):
        Rules(bridge_m=-1)
    with pytest.raises(UsageError, match="max_width_m=0"):
        Rules(max_width_m=0)


def test_degrees_give_the_same_streets_as_metres():
    """At 60 degrees north a pixel of equal degrees is twice as high as wide."""
    down = GSD / 111_412
    grid = Grid((150, 300), Affine(down, 0, 38.0, 0, -2 * down * 0.5 * 2, 60.0), "EPSG:4326")
    across_m, down_m = (
        np.hypot(*np.diff(Metric(grid).to_metres(np.array(pair, float)), axis=0)[0])
        for pair in ([(100, 50), (101, 50)], [(100, 50), (100, 51)])
    )
    labels = np.zeros(grid.shape, np.uint8)
    high, wide = round(8 / down_m), round(8 / across_m)
    labels[60 : 60 + high, :] = 2
    labels[:, 100 : 100 + wide] = 2
    planes = ArrayPlanes(labels, grid, CLASSES)
    network = find_streets(planes, 2, Metric(grid), Rules(min_spur_m=5))
    assert sorted(network.degree) == [1, 1, 1, 1, 4]
    level = np.abs(np.diff(shapely.bounds(network.lines)[:, [1, 3]])[:, 0]) < 2
    assert network.width_m[level] == pytest.approx(high * down_m, abs=0.35)
    assert network.width_m[~level] == pytest.approx(wide * across_m, abs=0.35)


@pytest.fixture(scope="module")
def city():
    return make_city(1200, seed=3)


def test_the_network_does_not_depend_on_the_cut(city):
    whole = find_streets(city.planes, 2, city.metric)
    assert len(whole.lines) > 20
    for tile in (333, 700):
        cut = find_streets(city.planes, 2, city.metric, tile=tile)
        assert shapely.to_wkb(whole.lines).tolist() == shapely.to_wkb(cut.lines).tolist()
        for name in ("width_m", "width_p10", "prob", "from_node", "to_node", "bridged", "nodes", "degree"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(cut, name))


def test_a_network_can_be_routed(city):
    network = find_streets(city.planes, 2, city.metric)
    ends = np.stack([shapely.get_coordinates(shapely.get_point(network.lines, k)) for k in (0, -1)])
    np.testing.assert_allclose(network.nodes[network.from_node], ends[0], atol=1e-9)
    np.testing.assert_allclose(network.nodes[network.to_node], ends[1], atol=1e-9)
    size = len(network.nodes)
    graph = coo_array((network.length_m, (network.from_node, network.to_node)), shape=(size, size)).tocsr()
    part = connected_components(graph, directed=False)[1]
    largest = np.flatnonzero(part == np.bincount(part).argmax())
    assert len(largest) > 0.7 * size
    far = dijkstra(graph, directed=False, indices=largest[0])[largest]
    straight = np.hypot(*(network.nodes[largest] - network.nodes[largest[0]]).T)
    assert (far >= straight - 1e-6).all()
    assert np.isfinite(far).all()


def test_most_of_a_city_is_found_with_its_widths(city):
    network = find_streets(city.planes, 2, city.metric)
    truth = shapely.union_all(city.roads)
    found = shapely.union_all(network.lines)
    assert shapely.length(shapely.intersection(truth, found.buffer(3))) > 0.93 * truth.length
    assert shapely.length(shapely.intersection(found, truth.buffer(3))) > 0.93 * found.length
    labels = ArrayPlanes(city.planes.values, city.planes.grid, city.planes.classes)
    alone = shapely.union_all(find_streets(labels, 2, city.metric).lines)
    assert shapely.length(shapely.intersection(truth, alone.buffer(3))) > 0.93 * truth.length
