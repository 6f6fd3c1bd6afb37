"""Buildings with straight walls: shapes come back with their corners, whatever is done to them stays honest."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.vectors import threads
from geoseg.vectors.patches import Patches, trace
from geoseg.vectors.walls import METHODS, Footprints, fit, fit_walls
from tests.buildings import draw_buildings, in_metres, iou, metric_of, placed, planes_of
from tests.city import make_city

RECTANGLE = [(0, 0), (50, 0), (50, 30), (0, 30)]
SHAPES = {
    "rectangle": RECTANGLE,
    "L": [(0, 0), (60, 0), (60, 25), (30, 25), (30, 55), (0, 55)],
    "T": [(0, 0), (70, 0), (70, 25), (48, 25), (48, 55), (22, 55), (22, 25), (0, 25)],
    "U": [(0, 0), (70, 0), (70, 60), (50, 60), (50, 22), (20, 22), (20, 60), (0, 60)],
    "Z": [(0, 0), (40, 0), (40, 20), (65, 20), (65, 50), (25, 50), (25, 30), (0, 30)],
    "cut corner": [(0, 0), (60, 0), (60, 30), (40, 50), (0, 50)],
    "trapezium": [(0, 0), (80, 0), (62, 50), (0, 50)],
    "triangle": [(0, 0), (70, 0), (20, 60)],
}


def fitted(planes, **options) -> tuple[Footprints, Patches]:
    patches = trace(planes, [1], subpixel=True)
    return fit_walls(patches, metric_of(planes), **options), patches


def corners(shape: shapely.Polygon) -> int:
    return len(shape.exterior.coords) - 1


def headings(shape: shapely.Polygon) -> np.ndarray:
    """Degrees, 0 to 180, of all walls."""
    step = np.diff(shapely.get_coordinates(shape.exterior), axis=0)
    return np.degrees(np.arctan2(step[:, 1], step[:, 0])) % 180


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("degrees", [0, 17, 45, 71])
def test_shape_comes_back_with_its_corners(name, degrees):
    truth = placed(SHAPES[name], degrees)
    planes = draw_buildings([truth])
    found, _ = fitted(planes)
    (shape,) = found.shapes
    assert METHODS[found.method[0]] == "walls"
    assert corners(shape) == len(SHAPES[name])
    assert iou(shape, in_metres(truth, metric_of(planes))) > 0.96


@given(st.floats(0, 180), st.floats(14, 70), st.floats(14, 40), st.floats(-0.5, 0.5))
@settings(max_examples=15, deadline=None)
def test_any_rectangle_comes_back_in_its_direction(degrees, width, depth, shift):
    truth = placed([(0, 0), (width, 0), (width, depth), (0, depth)], degrees, (64 + shift, 64 - shift))
    planes = draw_buildings([truth])
    found, _ = fitted(planes)
    assert corners(found.shapes[0]) == 4
    assert iou(found.shapes[0], in_metres(truth, metric_of(planes))) > 0.93
    off = (found.angle[0] + degrees) % 90  # rows run down, metres up
    assert min(off, 90 - off) < 3
    assert abs(found.shapes[0].area / (width * depth * 0.09) - 1) < 0.05


def test_circle_competes():
    truth = shapely.Point(64, 64).buffer(20, quad_segs=32)
    planes = draw_buildings([truth])
    found, _ = fitted(planes)
    assert METHODS[found.method[0]] == "circle"
    assert found.shapes[0].area == pytest.approx(np.pi * 400 * 0.09, rel=0.02)
    assert iou(found.shapes[0], in_metres(truth, metric_of(planes))) > 0.97


@pytest.mark.parametrize("degrees", [0, 30])
def test_courtyard_shares_the_direction(degrees):
    outline, yard = placed([(0, 0), (80, 0), (80, 60), (0, 60)], degrees), placed(RECTANGLE, degrees)
    planes = draw_buildings([outline.difference(yard)])
    found, _ = fitted(planes)
    (shape,) = found.shapes
    assert len(shape.interiors) == 1
    hole = shapely.Polygon(shape.interiors[0])
    assert (corners(shape), corners(hole)) == (4, 4)
    apart = (headings(shape)[:, None] - headings(hole)) % 90
    np.testing.assert_allclose(np.minimum(apart, 90 - apart), 0, atol=1e-6)
    assert iou(shape, in_metres(outline.difference(yard), metric_of(planes))) > 0.95


def test_small_hole_is_filled():
    planes = draw_buildings([placed(RECTANGLE, 10).difference(shapely.Point(64, 64).buffer(3))])
    assert len(fitted(planes)[0].shapes[0].interiors) == 0
    assert len(fitted(planes, min_hole_m2=0.5)[0].shapes[0].interiors) == 1


@pytest.mark.parametrize(("angles", "step"), [("ortho", 90), ("ortho45", 45)])
@pytest.mark.parametrize("name", ["cut corner", "trapezium", "L"])
def test_only_the_angles_asked_for(name, angles, step):
    found, _ = fitted(draw_buildings([placed(SHAPES[name], 20)]), angles=angles)
    assert METHODS[found.method[0]] == "walls"
    off = (headings(found.shapes[0]) - found.angle[0]) % step
    np.testing.assert_allclose(np.minimum(off, step - off), 0, atol=1e-6)


def test_walls_have_a_length():
    truth = placed([(0, 0), (60, 0), (60, 30), (30, 30), (30, 38), (0, 38)], 25)  # a step of 2.4 m
    assert corners(fitted(draw_buildings([truth]), min_wall_m=1.5)[0].shapes[0]) == 6
    assert corners(fitted(draw_buildings([truth]), min_wall_m=5)[0].shapes[0]) == 4


def test_class_raster_alone_is_about_as_good():
    truth = placed(SHAPES["L"], 33)
    planes = draw_buildings([truth])
    found, _ = fitted(planes_of(planes.values))
    assert corners(found.shapes[0]) == 6
    assert iou(found.shapes[0], in_metres(truth, metric_of(planes))) > 0.95


def test_small_building_leans_towards_its_street():
    street = [placed(RECTANGLE, 25, (40 + 60 * k, 40)) for k in range(4)]
    hut = placed([(0, 0), (5, 0), (5, 5), (0, 5)], 60, (130, 85))
    found, _ = fitted(draw_buildings([*street, hut], 256))
    off = (found.angle[np.argmin(shapely.area(found.shapes))] + 25) % 90
    assert METHODS[found.method[np.argmin(shapely.area(found.shapes))]] == "rectangle"
    assert min(off, 90 - off) < 10


def test_what_has_no_walls_is_said_to_have_none():
    rng = np.random.default_rng(3)
    angles = np.linspace(0, 2 * np.pi, 24)[:-1]
    star = np.where(np.arange(23) % 2, 52, 12) + rng.uniform(-2, 2, 23)
    truth = shapely.Polygon(np.column_stack([np.cos(angles), np.sin(angles)]) * star[:, None] + 64)
    found, patches = fitted(draw_buildings([truth]))
    raw = shapely.transform(patches.polygons(), metric_of(draw_buildings([])).to_metres)
    for shape, outline, method in zip(found.shapes, raw, found.method, strict=True):
        assert shape.is_valid
        assert METHODS[method] in ("simplified", "raw") or iou(shape, outline) >= fit.LEAST_IOU


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((9, 9), np.uint8),
        np.ones((9, 9), np.uint8),
        np.full((9, 9), 255, np.uint8),
        np.eye(9, dtype=np.uint8),
        np.ones((1, 40), np.uint8),
        np.ones((1, 1), np.uint8),
        np.indices((12, 12)).sum(axis=0).astype(np.uint8) % 2,
    ],
    ids=["none", "all", "nodata", "diagonal", "row", "pixel", "checkerboard"],
)
def test_degenerate_rasters(labels):
    found, patches = fitted(planes_of(labels))
    assert len(found.shapes) == len(found.method) == len(found.angle) == len(patches)
    assert shapely.is_valid(found.shapes).all()
    assert (shapely.area(found.shapes) > 0).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.4, 0.65))
@settings(max_examples=15, deadline=None)
def test_noise_gives_valid_shapes_that_do_not_overlap(seed, share):
    labels = (np.random.default_rng(seed).random((48, 48)) < share).astype(np.uint8)
    found, _ = fitted(planes_of(labels), min_hole_m2=0.1)
    assert shapely.is_valid(found.shapes).all()
    assert (shapely.get_type_id(found.shapes) == 3).all()
    one, two = shapely.STRtree(found.shapes).query(found.shapes, predicate="intersects")
    one, two = one[one < two], two[one < two]
    assert (shapely.area(shapely.intersection(found.shapes[one], found.shapes[two])) < 1e-6).all()


@pytest.mark.parametrize("count", [1, 3])
def test_result_does_not_depend_on_batches_nor_threads(count, monkeypatch):
    rng = np.random.default_rng(0)
    shapes = [
        placed(SHAPES[name], rng.uniform(0, 90), (50 + 90 * (k % 4), 50 + 90 * (k // 4)))
        for k, name in enumerate(list(SHAPES) * 2)
    ]
    planes = draw_buildings(shapes, 400)
    whole, _ = fitted(planes)
    monkeypatch.setattr(fit, "_VERTICES", 300)
    monkeypatch.setattr(threads, "cores", lambda: count)
    parts, _ = fitted(planes)
    assert shapely.to_wkb(whole.shapes).tolist() == shapely.to_wkb(parts.shapes).tolist()
    np.testing.assert_array_equal(whole.angle, parts.angle)
    np.testing.assert_array_equal(whole.method, parts.method)


def test_a_sliver_keeps_its_area():
    labels = np.zeros((40, 220), np.uint8)
    labels[20, 10:210] = 1
    found, _ = fitted(planes_of(labels))
    assert METHODS[found.method[0]] == "raw"
    assert found.shapes[0].area == pytest.approx(200 * 0.09, rel=0.05)


def test_no_sharp_corner_shoots_far_beyond_its_outline():
    city = make_city(500, seed=6, noise=2.0)
    patches = trace(city.planes, [1], subpixel=True, min_pixels=20)
    found = fit_walls(patches, city.metric)
    raw = shapely.transform(patches.polygons(), city.metric.to_metres)
    corners, of = shapely.get_coordinates(found.shapes, return_index=True)
    far = shapely.distance(shapely.points(corners), shapely.boundary(raw)[of])
    assert far.max() <= 8 * 0.3


def test_a_right_angle_may_be_rounded_off_widely():
    outline = placed([(0, 0), (80, 0), (80, 60), (0, 60)], 20).buffer(-18).buffer(18, quad_segs=16)
    found, patches = fitted(draw_buildings([outline]))
    raw = shapely.transform(patches.polygons(), metric_of(draw_buildings([])).to_metres)
    shape = found.shapes[0]
    assert METHODS[found.method[0]] == "walls"
    assert shapely.distance(shapely.points(shapely.get_coordinates(shape)), raw[0].boundary).max() > fit.FARTHEST * 0.3


def test_a_fit_that_came_to_nothing_gives_way_to_its_outline():
    square = shapely.box(0, 0, 10, 10)
    empty = shapely.Polygon()
    for fits in ([square, empty], [empty, square], [empty]):
        shapes, raw = np.array(fits, dtype=object), np.array([square] * len(fits), dtype=object)
        method = fit._guarded(shapes, raw, np.zeros(len(fits), np.uint8), np.zeros(len(fits)), 0.3, 1.0)
        assert all(shape.equals(square) for shape in shapes)
        assert (method == METHODS.index("simplified")).tolist() == [shape.is_empty for shape in fits]
