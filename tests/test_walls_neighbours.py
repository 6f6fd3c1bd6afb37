"""Neighbours agree on the wall between them, and nothing overlaps."""

import numpy as np
import shapely
import shapely.affinity
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.vectors.walls.neighbours import Border, part, settle

BORDER = Border(0, 1, np.column_stack([np.full(9, 10.0), np.linspace(0, 8, 9)]))


def shapes_of(*shapes: shapely.Polygon) -> np.ndarray:
    found = np.empty(len(shapes), dtype=object)
    found[:] = shapes
    return found


def test_gap_and_overlap_become_one_wall():
    for off in (-0.4, 0.4):
        shapes = shapes_of(shapely.box(0, 0, 10 + off, 8), shapely.box(10 - off / 2, 0, 22, 8))
        one, two = settle(shapes, np.zeros(2), [BORDER], 0.3)
        assert one.equals(shapely.box(0, 0, 10, 8))
        assert two.equals(shapely.box(10, 0, 22, 8))


def test_slanted_side_stays_slanted():
    one = shapely.Polygon([(0, 0), (9.5, 0), (9.5, 8), (2, 8)])
    found = settle(shapes_of(one, shapely.box(10.2, 0, 22, 8)), np.zeros(2), [BORDER], 0.3)[0]
    assert found.equals(shapely.Polygon([(0, 0), (10, 0), (10, 8), (2, 8)]))


def test_wall_that_is_far_away_is_left_alone():
    shapes = shapes_of(shapely.box(0, 0, 7, 8), shapely.box(13, 0, 22, 8))
    found = settle(shapes, np.zeros(2), [BORDER], 0.3)
    assert all(a.equals(b) for a, b in zip(found, shapes, strict=True))


def test_holes_survive():
    ring = shapely.box(0, 0, 10.4, 8).difference(shapely.box(3, 3, 6, 6))
    found = settle(shapes_of(ring, shapely.box(10, 0, 22, 8)), np.zeros(2), [BORDER], 0.3)[0]
    assert len(found.interiors) == 1


def test_larger_gives_way():
    large, small = part(shapes_of(shapely.box(0, 0, 10, 10), shapely.box(9, 4, 12, 6)))
    assert small.equals(shapely.box(9, 4, 12, 6))
    assert large.area == 98


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_nothing_overlaps(seed):
    rng = np.random.default_rng(seed)
    at, size = rng.uniform(0, 30, (12, 2)), rng.uniform(1, 9, (12, 2))
    shapes = shapes_of(*(shapely.box(*a, *(a + b)) for a, b in zip(at, size, strict=True)))
    found = part(shapes)
    assert shapely.is_valid(found).all()
    one, two = np.triu_indices(12, 1)
    covered = shapely.covers(shapes[one], shapes[two]) | shapely.covers(shapes[two], shapes[one])
    over = shapely.area(shapely.intersection(found[one], found[two]))
    assert (over[~covered] < 1e-6).all()


def test_what_was_cut_stays_valid_in_other_coordinates():
    rng = np.random.default_rng(0)
    for _ in range(20):
        at, size, turn = rng.uniform(0, 25, (14, 2)), rng.uniform(2, 9, (14, 2)), rng.uniform(0, 90, 14)
        shapes = shapes_of(
            *(
                shapely.affinity.rotate(shapely.box(*a, *(a + b)), angle)
                for a, b, angle in zip(at, size, turn, strict=True)
            )
        )
        found = settle(shapes, turn, [], 0.3)
        assert shapely.is_valid(found).all()
        there = shapely.transform(found, lambda xy: xy @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + (4e6, 5e5))
        assert shapely.is_valid(there).all()
