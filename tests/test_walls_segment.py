"""The pieces of the fit by themselves: exact where they claim to be."""

from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from geoseg.vectors.walls.breaks import MOST, candidates, farthest
from geoseg.vectors.walls.direction import leanings, vote
from geoseg.vectors.walls.lines import turn_of
from geoseg.vectors.walls.segment import FREE, prefix_sums, segment
from geoseg.vectors.walls.shapes import fit_circle, fit_rectangle, moments, squares_to

seeds = st.integers(0, 2**32 - 1)


def wobbly(rng, n):
    """A ring of n points round a rectangle, not quite on it."""
    t = np.arange(n) / n * 4
    side, at = t.astype(int), t % 1
    u = np.choose(side, [at, np.ones(n), 1 - at, np.zeros(n)]) * 14
    v = np.choose(side, [np.zeros(n), at, np.ones(n), 1 - at]) * 9
    return u + rng.normal(0, 0.7, n), v + rng.normal(0, 0.7, n)


def squares(u, v, state):
    """Squared distances to the best line in a state."""
    scatter = np.cov(np.stack([u, v]), bias=True) * len(u)
    if state == FREE:
        return np.linalg.eigvalsh(scatter)[0]
    angle = [0, np.pi / 2, np.pi / 4, 3 * np.pi / 4][state]
    normal = np.array([-np.sin(angle), np.cos(angle)])
    return normal @ scatter @ normal


@given(seeds, st.floats(0.5, 20))
@settings(max_examples=25, deadline=None)
def test_segmentation_is_the_best_of_all(seed, wall):
    rng = np.random.default_rng(seed)
    n = 24
    u, v = wobbly(rng, n)
    at = np.concatenate([[0], np.sort(rng.choice(np.arange(2, n - 1), 4, replace=False))])
    penalty = np.array([wall, wall, 1.3 * wall, 1.3 * wall, 1.7 * wall])
    best = np.inf
    for count in range(5):
        for inner in combinations(at[1:], count):
            begins = [0, *inner]
            ends = [*inner, n]
            points = [(np.arange(a, b + 1) % n) for a, b in zip(begins, ends, strict=True)]
            costs = [[squares(u[p], v[p], s) + penalty[s] for s in range(5)] for p in points]
            for states in product(range(5), repeat=count + 1):
                if all(a != b or a == FREE for a, b in pairwise(states)):
                    best = min(best, sum(cost[s] for cost, s in zip(costs, states, strict=True)))
    begins, states, cost = segment(prefix_sums(u, v), at, penalty, 0)
    assert cost == pytest.approx(best, rel=1e-9)
    assert begins[0] == 0
    assert set(begins) <= set(at)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_turn_is_where_squares_are_least(seed):
    rng = np.random.default_rng(seed)
    u, v = wobbly(rng, 40)
    turned = rng.uniform(-0.2, 0.2)
    u, v = np.cos(turned) * u - np.sin(turned) * v, np.sin(turned) * u + np.cos(turned) * v
    begins, states = np.array([0, 10, 20, 30]), np.array([0, 1, 0, 1])
    cosine, sine = turn_of(prefix_sums(u, v), begins, states, 0)

    def total(t):
        a, b = np.cos(t) * u + np.sin(t) * v, np.cos(t) * v - np.sin(t) * u
        runs = [np.arange(k, k + 11) % 40 for k in begins]
        return sum(squares(a[p], b[p], s) for p, s in zip(runs, states, strict=True))

    least = minimize_scalar(total, bounds=(-0.6, 0.6), method="bounded").x
    assert 0.5 * np.arctan2(sine, cosine) == pytest.approx(least, abs=1e-3)


@given(st.floats(-40, 40), st.integers(16, 60), st.integers(16, 60))
@settings(max_examples=25, deadline=None)
def test_vote_is_for_the_walls(degrees, width, depth):
    corners = np.array([(0, 0), (width, 0), (width, depth), (0, depth), (0, 0)], float)
    side = np.concatenate([np.linspace(a, b, int(np.hypot(*(b - a))), endpoint=False) for a, b in pairwise(corners)])
    turn = np.radians(degrees)
    x, y = np.cos(turn) * side[:, 0] - np.sin(turn) * side[:, 1], np.sin(turn) * side[:, 0] + np.cos(turn) * side[:, 1]
    assert np.degrees(np.angle(complex(*vote(x, y, (3, 5, 8)))) / 4) == pytest.approx(degrees, abs=2)


def test_neighbours_agree_or_not():
    centres = np.array([[0, 0], [10, 0], [20, 0], [500, 0]], float)
    votes = np.exp(4j * np.radians([10, 20, 20, 70]))
    agreed = leanings(votes, centres, 60)
    assert np.degrees(np.angle(agreed[0])) / 4 == pytest.approx(20)
    assert abs(agreed[0]) == pytest.approx(1)
    assert agreed[3] == 0
    crossed = leanings(np.exp(4j * np.radians([0, 0, 45])), np.array([[0, 0], [10, 0], [-10, 0]], float), 60)
    assert abs(crossed[0]) < 1e-9
    assert leanings(votes[:1], centres[:1], 60) == [0]


@given(seeds, st.integers(3, MOST))
@settings(max_examples=40, deadline=None)
def test_ring_is_near_its_candidates(seed, n):
    u, v = wobbly(np.random.default_rng(seed), n)
    at = candidates(u, v, 0.5)
    assert at[0] == 0
    assert (np.diff(at) > 0).all()
    for first, last in pairwise([*at, n]):
        along = np.array([u[last % n] - u[first], v[last % n] - v[first]])
        off = np.stack([u[first:last] - u[first], v[first:last] - v[first]])
        assert (np.abs(along[0] * off[1] - along[1] * off[0]) <= 0.5 * np.hypot(*along) + 1e-9).all()


@given(seeds, st.integers(MOST + 1, 900))
@settings(max_examples=20, deadline=None)
def test_candidates_are_few(seed, n):
    rng = np.random.default_rng(seed)
    at = candidates(rng.uniform(0, 100, n), rng.uniform(0, 100, n), 0.1)
    assert 2 <= len(at) <= MOST


def test_farthest_point_is_a_corner():
    x, y = np.array([0.0, 4, 9, 5, 0]), np.array([0.0, 0, 0, 3, 3])
    assert farthest(x, y) == 2


@given(st.floats(2, 30), st.floats(2, 30), st.floats(0, 1.5), st.floats(-1e5, 1e5))
@settings(max_examples=40, deadline=None)
def test_rectangle_of_the_moments_of_a_rectangle_is_itself(width, depth, turn, far):
    box = np.array([(-width, -depth), (width, -depth), (width, depth), (-width, depth)]) / 2
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    ring = box @ spin + far
    found = fit_rectangle(ring[:, 0], ring[:, 1], turn)
    np.testing.assert_allclose(found, ring, atol=1e-4)
    area, x, y, *_ = moments(ring[:, 0], ring[:, 1])
    assert (area, x, y) == pytest.approx((width * depth, far, far), rel=1e-6, abs=1e-4)


def test_circle_of_points_on_one():
    angle = np.linspace(0, 2 * np.pi, 30)[:-1]
    x, y, radius, off = fit_circle(3 + 5 * np.cos(angle), -2 + 5 * np.sin(angle))
    assert (x, y, radius) == pytest.approx((3, -2, 5))
    assert off == pytest.approx(0, abs=1e-18)
    assert fit_circle(np.arange(5.0), np.arange(5.0))[3] == np.inf


def test_squares_to_a_box():
    x, y = np.array([1.0, 3.0, -1.0, 1.0]), np.array([0.0, 3.0, -2.0, 1.0])
    box = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    assert squares_to(x, y, box) == pytest.approx(0 + 2 + 5 + 1)
