"""APLS: hand-made networks with known answers, and paths measured in another way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csgraph
from shapely import LineString, Point, box

from geoseg.metrics import apls as module
from geoseg.metrics.apls import Apls, apls
from geoseg.metrics.network import Network

ROAD = LineString([(-50, 0), (150, 0)])
DETOUR = LineString([(0, 0), (0, 100), (100, 100), (100, 0)])


def network(*lines) -> Network:
    return Network.of(np.array(lines, object))


@pytest.mark.parametrize(
    "lines", [(ROAD,), (ROAD, DETOUR), (box(0, 0, 90, 70).exterior,), (ROAD, LineString([(0, 30), (9, 80), (40, 44)]))]
)
def test_identity_is_perfect(lines):
    assert apls(network(*lines), network(*lines)) == Apls(1, 1, 1)


def test_a_gap():
    """The middle of 100 m lies in a gap of 10: no path of the reference is left, both predicted ones are right."""
    reference = network(LineString([(0, 0), (100, 0)]))
    predicted = network(LineString([(0, 0), (45, 0)]), LineString([(55, 0), (100, 0)]))
    assert apls(predicted, reference) == Apls(0, 0, 1)


def test_a_small_gap():
    """The middle is 2 m from the near end: 0-50 is 48 long, a penalty of 0.04; the two other paths are missing."""
    reference = network(LineString([(0, 0), (100, 0)]))
    predicted = network(LineString([(0, 0), (48, 0)]), LineString([(52.5, 0), (100, 0)]))
    found = apls(predicted, reference)
    forth = (1 - 0.04) / 3
    assert found.of_reference == pytest.approx(forth)
    assert found.of_predicted == 1
    assert found.score == pytest.approx(2 * forth / (1 + forth))


def test_a_detour_instead_of_the_road():
    """Of S -50- A -100- B -50- T and a way round of 300, the 100 are missing.

    Penalties of the reference's paths: SA 0, BT 0, AB 300 for 100: 1, SB and AT 350 for 150: 1, ST 400 for 200: 1.
    The other way the only path is 400 long and 200 in the reference: 0.5.
    """
    reference = network(ROAD, DETOUR)
    predicted = network(LineString([(-50, 0), (0, 0)]), DETOUR, LineString([(100, 0), (150, 0)]))
    found = apls(predicted, reference, spacing_m=1000)
    assert found.of_reference == pytest.approx(2 / 6)
    assert found.of_predicted == pytest.approx(0.5)
    assert found.score == pytest.approx(0.4)


def test_too_far_to_snap():
    shifted = network(LineString([(-50, 4.01), (150, 4.01)]))
    assert apls(shifted, network(ROAD)).score == 0
    assert apls(shifted, network(ROAD), snap_m=4.02).score == pytest.approx(1)


def test_networks_without_a_path():
    nothing = network()
    assert apls(nothing, network(ROAD)) == Apls(0, 0, None)
    assert apls(network(ROAD), nothing) == Apls(None, None, 0)
    assert apls(nothing, nothing) == Apls(None, None, None)


def test_drawing_from_many_is_near_to_all_and_always_the_same(monkeypatch):
    lines = [LineString([(0, 40 * i), (400, 40 * i + 7)]) for i in range(10)]
    lines += [LineString([(40 * i, -5), (40 * i + 9, 405)]) for i in range(10)]
    reference, predicted = network(*lines), network(*lines[:7], *lines[8:])
    everything = apls(predicted, reference, sources=10**6)
    drawn = apls(predicted, reference, sources=30)
    assert drawn == apls(predicted, reference, sources=30)
    assert drawn != everything
    assert drawn.score == pytest.approx(everything.score, abs=0.01)
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    assert apls(predicted, reference, sources=30).score == pytest.approx(drawn.score, rel=1e-12)


lattice = st.lists(
    st.tuples(*[st.integers(0, 4)] * 4).filter(lambda e: e[:2] != e[2:]), min_size=1, max_size=6
)  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True)
@given(first=lattice, second=lattice)
def test_against_paths_measured_in_another_way(first, second):
    reference, predicted = (
        network(*[LineString([(x * 30, y * 30), (u * 30, v * 30)]) for x, y, u, v in ends]) for ends in (first, second)
    )
    found = apls(predicted, reference)
    assert found.of_reference == pytest.approx(similarity(reference, predicted), abs=1e-6)
    assert found.of_predicted == pytest.approx(similarity(predicted, reference), abs=1e-6)


def similarity(truth: Network, other: Network) -> float:
    """The equation, path by path, with lengths by way of the ends of edges."""
    points = [Point(xy) for xy in truth.nodes]
    for edge, length, (tail, head) in zip(truth.edges, truth.lengths, truth.ends, strict=True):
        pieces = max(int(np.ceil(length / 50)), 3 if tail == head else 1)
        points += [edge.interpolate(length * i / pieces) for i in range(1, pieces)]
    own, theirs = [place(point, truth) for point in points], [place(point, other) for point in points]
    between, elsewhere = between_nodes(truth), between_nodes(other)
    penalties = []
    for i in range(len(points)):
        for j in range(i):
            length = way(truth, between, own[i], own[j])
            if np.isfinite(length):
                there = way(other, elsewhere, theirs[i], theirs[j])
                penalties.append(min(1, abs(length - there) / length))
    return 1 - sum(penalties) / len(penalties)


def place(point: Point, net: Network) -> tuple[int, float] | None:
    distances = [edge.distance(point) for edge in net.edges]
    edge = int(np.argmin(distances))
    return (edge, net.edges[edge].project(point)) if distances[edge] <= 4 else None


def between_nodes(net: Network) -> np.ndarray:
    lengths = np.full((len(net.nodes),) * 2, np.inf)
    for (tail, head), length in zip(net.ends, net.lengths, strict=True):
        lengths[tail, head] = lengths[head, tail] = min(length, lengths[tail, head])
    np.fill_diagonal(lengths, 0)
    return csgraph.floyd_warshall(lengths, directed=False)


def way(net: Network, between: np.ndarray, start, end) -> float:
    if start is None or end is None:
        return np.inf
    options = [abs(start[1] - end[1])] if start[0] == end[0] else []
    for tail, out in zip(net.ends[start[0]], (start[1], net.lengths[start[0]] - start[1]), strict=True):
        for head, back in zip(net.ends[end[0]], (end[1], net.lengths[end[0]] - end[1]), strict=True):
            options.append(out + between[tail, head] + back)
    return min(options)
