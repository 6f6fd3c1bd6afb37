"""Walls placed together: errors that go on round a corner are told from the walls' places."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.metrics.boundary import polis
from geoseg.vectors.patches import trace
from geoseg.vectors.walls import fit_walls
from geoseg.vectors.walls.building import fit_ring
from geoseg.vectors.walls.fit import TUNING
from tests.buildings import draw_buildings, in_metres, metric_of, placed
from tests.city import make_city

ALONE = TUNING._replace(reach=0.0)


def outline(width: float, depth: float, degrees: float, error: np.ndarray | None = None) -> np.ndarray:
    """(n, 2) vertices of a rectangle, a pixel apart, each as far outward as `error` says of its place (in turn)."""
    along, up = np.arange(0.5, width), np.arange(0.5, depth)
    sides = [
        (along, 0 * along, (0, -1)), (0 * up + width, up, (1, 0)),
        (along[::-1], 0 * along + depth, (0, 1)), (0 * up, up[::-1], (-1, 0)),
    ]  # fmt: skip
    xy = np.concatenate([np.column_stack([x, y]) for x, y, _ in sides])
    outward = np.concatenate([np.tile(way, (len(x), 1)) for x, _, way in sides])
    xy = xy + (0 if error is None else error[: len(xy), None]) * outward
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (xy - (width / 2, depth / 2)) @ np.array([[c, s], [-s, c]])


def truth(width: float, depth: float, degrees: float) -> shapely.Polygon:
    box = shapely.box(-width / 2, -depth / 2, width / 2, depth / 2)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return shapely.transform(box, lambda xy: xy @ np.array([[c, s], [-s, c]]))


def fitted(xy: np.ndarray, degrees: float, tuning=TUNING) -> tuple[shapely.Polygon, float]:
    corners, direction, _ = fit_ring(xy[:, 0].copy(), xy[:, 1].copy(), np.radians(degrees), (0.0, 0.0), tuning)
    return shapely.Polygon(corners), np.degrees(direction)


@given(st.floats(16, 60), st.floats(16, 40), st.floats(0, 89), st.floats(-4, 4))
@settings(max_examples=25, deadline=None)
def test_an_outline_without_errors_is_met_exactly(width, depth, degrees, off):
    width, depth = round(width), round(depth)
    found, direction = fitted(outline(width, depth, degrees), degrees + off)
    assert len(found.exterior.coords) == 5
    assert found.symmetric_difference(truth(width, depth, degrees)).area < 1e-3 * width * depth
    turned = (direction - degrees) % 90
    assert min(turned, 90 - turned) < 0.1


def test_errors_that_go_on_round_corners_do_less_harm():
    rng = np.random.default_rng(0)
    rest = outline(36, 28, 0)
    apart = np.hypot(*(rest[:, None] - rest[None]).transpose(2, 0, 1))
    alike = np.linalg.cholesky(np.exp(-((apart / 20) ** 1.5)))  # another process than the one that is fitted
    lost = []
    for _ in range(150):
        degrees = rng.uniform(0, 90)
        xy = outline(36, 28, degrees, 0.4 * alike @ rng.standard_normal(len(rest)))
        pair = np.array([fitted(xy, degrees, tuning)[0] for tuning in (TUNING, ALONE)])
        lost.append(polis(pair, np.array([truth(36, 28, degrees)] * 2)))
    together, alone = np.mean(lost, axis=0)
    assert together < 0.87 * alone


def test_rectangles_stay_rectangles():
    rng = np.random.default_rng(1)
    for _ in range(30):
        xy = outline(30, 22, 33, np.cumsum(rng.normal(0, 0.2, 104)) * 0.5)
        found, direction = fitted(xy, 33)
        step = np.diff(shapely.get_coordinates(found), axis=0)
        off = (np.degrees(np.arctan2(step[:, 1], step[:, 0])) - direction) % 90
        if len(step) == 4:
            np.testing.assert_allclose(np.minimum(off, 90 - off), 0, atol=1e-6)


def test_a_settled_direction_stays():
    xy = outline(30, 22, 33, np.sin(np.arange(104) / 9))
    corners, direction, _ = fit_ring(xy[:, 0].copy(), xy[:, 1].copy(), np.radians(30), (np.inf, 0.0), TUNING)
    assert np.degrees(direction) == pytest.approx(30, abs=1e-4)
    assert len(corners) >= 4


def test_a_dent_does_not_push_the_other_walls():
    error = np.zeros(128)
    error[14:22] = -5.0  # a crown over the middle of the lower wall
    found, _ = fitted(outline(36, 28, 0, error), 0)
    kept = shapely.clip_by_rect(found, -30, 0, 30, 30)
    assert kept.symmetric_difference(shapely.box(-18, 0, 18, 14)).area < 12


def test_one_mistaken_wall_does_not_drag_those_beside_it():
    error = np.zeros(128)
    error[:36] = 2.0  # a shadow along the lower wall: no error of a network that goes on round corners
    found, _ = fitted(outline(36, 28, 0, error), 0)
    left, low, right, high = found.bounds
    assert (left, right, high) == pytest.approx((-18, 18, 14), abs=0.6)
    assert low == pytest.approx(-16, abs=0.6)


@pytest.mark.parametrize("degrees", [0, 28])
def test_walls_of_any_direction_are_placed_too(degrees):
    shape = placed([(0, 0), (80, 0), (62, 50), (0, 50)], degrees)
    planes = draw_buildings([shape])
    found = fit_walls(trace(planes, [1], subpixel=True), metric_of(planes)).shapes[0]
    assert len(found.exterior.coords) - 1 == 4
    goal = in_metres(shape, metric_of(planes))
    assert found.intersection(goal).area / found.union(goal).area > 0.97


def test_city_is_met_better_than_wall_by_wall():
    city = make_city(900, seed=5, noise=0.875)
    patches = trace(city.planes, [1], subpixel=True, min_pixels=80)
    lost = []
    for tuning in (TUNING, ALONE):
        shapes = fit_walls(patches, city.metric, tuning=tuning).shapes
        of, which = shapely.STRtree(shapes).query(city.buildings, "intersects")
        common = shapely.area(shapely.intersection(city.buildings[of], shapes[which]))
        iou = common / (shapely.area(city.buildings[of]) + shapely.area(shapes[which]) - common)
        found = iou > 0.5
        lost.append(polis(shapes[which[found]], city.buildings[of[found]]).mean())
    assert lost[0] < 0.95 * lost[1]
