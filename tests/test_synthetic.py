"""Synthetic towns: exact labels, true metres, the same bytes for the same seed."""

import hashlib

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from geoseg.config import TRAINING_SEEDS
from geoseg.errors import UsageError
from geoseg.metrics import IGNORE
from geoseg.synthetic import CLASSES, DEMO_SEED, Town, draw_town, shapes, town
from geoseg.synthetic.scan import cover, edges_of_polygons, edges_of_rings, inside
from geoseg.synthetic.shapes import Shape
from geoseg.windows import Window

SIDE = 240
GSD = 0.6
SEEDS = (2, 5, 11)
CRSS = ("EPSG:32637", "EPSG:4326", "EPSG:3857")


@pytest.fixture(scope="module", params=SEEDS)
def drawn(request: pytest.FixtureRequest) -> Town:
    return draw_town((SIDE, SIDE + 31), GSD, request.param)


@pytest.fixture(scope="module")
def many() -> list[Town]:
    """Enough towns to hold every kind of building."""
    return [draw_town((SIDE, SIDE), 1.0, seed) for seed in range(12)]


def digest(drawn: Town) -> str:
    parts = [drawn.image.tobytes(), drawn.valid.tobytes(), drawn.target().tobytes()]
    parts += [layer.to_json().encode() for layer in (drawn.buildings, drawn.roads, drawn.centrelines)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


# The picture and its target ------------------------------------------------------------------------------------------


def test_shapes_and_types(drawn: Town) -> None:
    assert drawn.image.shape == (3, SIDE, SIDE + 31)
    assert drawn.image.dtype == np.uint8
    assert drawn.valid.shape == drawn.grid.shape == drawn.target().shape == (SIDE, SIDE + 31)
    assert drawn.valid.dtype == bool
    assert drawn.target().dtype == np.uint8
    assert set(np.unique(drawn.target())) == {0, 1, 2, IGNORE}
    assert CLASSES == ("background", "building", "road")


def test_target_is_what_lies_under_each_pixel_centre(drawn: Town) -> None:
    rng = np.random.default_rng(0)
    rows, cols = rng.integers(0, SIDE, 4000), rng.integers(0, SIDE + 31, 4000)
    xs, ys = drawn.grid.transform @ (cols + 0.5, rows + 0.5)
    points = shapely.points(xs, ys)
    expected = np.zeros(len(points), np.uint8)
    for index, layer in ((2, drawn.roads), (1, drawn.buildings)):
        expected[layer.sindex.query(points, predicate="intersects")[0]] = index
    expected[~drawn.valid[rows, cols]] = IGNORE
    assert (drawn.target()[rows, cols] == expected).all()


def test_collar_is_invalid_and_black_and_nothing_else_is(drawn: Town) -> None:
    assert 0.02 < (~drawn.valid).mean() < 0.4
    assert (drawn.valid == (drawn.image != 0).any(axis=0)).all()
    assert (drawn.image[:, drawn.valid] > 0).all()
    assert ((drawn.target() == IGNORE) == ~drawn.valid).all()


def test_no_collar() -> None:
    assert draw_town((40, 50), GSD, 3, collar=False).valid.all()


def test_target_is_a_copy(drawn: Town) -> None:
    drawn.target()[:] = 7
    assert (drawn.target() != 7).all()


def test_picture_shows_what_the_labels_say(many: list[Town]) -> None:
    """Roofs differ from the ground beside them: the labels fit the picture and are not shifted or mirrored."""
    edges, inner = [], []
    for drawn in many:
        grey = drawn.image.astype(float).mean(axis=0)
        step = np.hypot(*np.gradient(grey))
        building = drawn.target() == 1
        rim = building & ~(np.roll(building, 1, 0) & np.roll(building, 1, 1) & np.roll(building, -1, 1))
        edges.append(step[rim & drawn.valid].mean())
        inner.append(step[drawn.valid & ~building].mean())
    assert np.mean(edges) > 1.5 * np.mean(inner)


# Vectors -------------------------------------------------------------------------------------------------------------


def test_buildings_are_valid_and_touch_at_most(many: list[Town]) -> None:
    touching = 0
    for drawn in many:
        buildings = drawn.buildings.geometry.to_numpy()
        assert (shapely.get_type_id(buildings) == shapely.GeometryType.POLYGON).all()
        assert shapely.is_valid(buildings).all()
        first, second = drawn.buildings.sindex.query(buildings, predicate="intersects")
        pairs = first < second
        shared = shapely.intersection(buildings[first[pairs]], buildings[second[pairs]])
        assert shapely.area(shared).max(initial=0) < 1e-4
        touching += int((shapely.length(shared) > 4).sum())
    assert touching > 50  # walls of terraces and annexes


def test_buildings_keep_off_the_roads(many: list[Town]) -> None:
    for drawn in many:
        first, second = drawn.roads.sindex.query(drawn.buildings.geometry, predicate="intersects")
        assert not len(first), second


def test_there_are_courts_halls_and_corners(many: list[Town]) -> None:
    buildings = np.concatenate([drawn.buildings.geometry.to_numpy() for drawn in many])
    corners = shapely.get_num_coordinates(shapely.get_exterior_ring(buildings)) - 1
    assert (shapely.get_num_interior_rings(buildings) > 0).any()
    assert shapely.area(buildings).max() > 1000
    assert shapely.area(buildings).min() < 15
    assert {4, 6, 8} == set(corners)


def test_fields(drawn: Town) -> None:
    assert set(drawn.buildings["class"]) == {"building"}
    assert set(drawn.roads["class"]) == set(drawn.centrelines["class"]) == {"road"}
    assert (drawn.buildings["height_m"] > 1).all()
    assert drawn.buildings.crs == drawn.roads.crs == drawn.centrelines.crs == "EPSG:32637"


def test_roads_are_their_centrelines_with_their_widths(drawn: Town) -> None:
    lines, roads = drawn.centrelines, drawn.roads.union_all()
    frame = shapely.box(*drawn.grid.bounds)
    assert lines.width_m.between(2, 20).all()
    band = lines.geometry.buffer(lines.width_m / 2).union_all().intersection(frame)
    # Streets just outside the picture reach into it without their centrelines: a little more road than band.
    assert band.difference(roads.buffer(0.05)).area < 1e-3 * band.area
    assert roads.difference(band.buffer(0.05)).area < 0.05 * band.area


def test_centrelines_meet_at_their_ends_only(many: list[Town]) -> None:
    ways = 0
    for drawn in many:
        lines = drawn.centrelines.geometry.to_numpy()
        first, second = drawn.centrelines.sindex.query(lines, predicate="crosses")
        assert not (first != second).any()
        ends = np.round(shapely.get_coordinates(shapely.boundary(lines)), 1)
        ways = max(ways, np.unique(ends, axis=0, return_counts=True)[1].max())
    assert ways >= 4


def test_streets_run_in_many_directions(many: list[Town]) -> None:
    angles = []
    for drawn in many:
        for line in drawn.centrelines.geometry:
            (x0, y0), (x1, y1) = line.coords[0], line.coords[-1]
            angles.append(np.degrees(np.arctan2(y1 - y0, x1 - x0)) % 90)
    assert (np.histogram(angles, bins=9, range=(0, 90))[0] > 0).all()


# Metres --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crs", [*CRSS, "EPSG:2263", "EPSG:3395"])
def test_pixels_measure_the_gsd_on_the_ground_in_both_directions(crs: str) -> None:
    grid = draw_town((30, 50), 0.3, 4, crs=crs).grid
    assert grid.gsd == pytest.approx(0.3, rel=1e-3)
    for ahead in ((50, 0), (0, 30)):
        lons, lats = grid._to_degrees.transform(*zip(grid.transform @ (0, 0), grid.transform @ ahead, strict=True))
        assert Geod(ellps="WGS84").line_length(lons, lats) == pytest.approx(0.3 * max(ahead), rel=1e-3)


@pytest.mark.parametrize("crs", CRSS)
def test_areas_are_the_same_ground_in_every_crs(crs: str) -> None:
    plain = draw_town((SIDE, SIDE), GSD, 5)
    other = draw_town((SIDE, SIDE), GSD, 5, crs=crs)
    geod = Geod(ellps="WGS84")
    true = [abs(geod.geometry_area_perimeter(b)[0]) for b in other.buildings.to_crs("EPSG:4326").geometry]
    assert sum(true) == pytest.approx(plain.buildings.area.sum(), rel=2e-3)
    assert (other.image == plain.image).all()
    assert (other.target() == plain.target()).all()


def test_round_pixel_size_in_a_metric_crs() -> None:
    assert draw_town((8, 8), 0.3, 0).grid.transform[:6:4] == (0.3, -0.3)


def test_the_town_lies_where_its_crs_is_meant_for() -> None:
    grid = draw_town((8, 8), 0.5, 0, crs="EPSG:2056").grid  # Switzerland
    lon, lat = grid._to_degrees.transform(*grid.transform @ (4, 4))
    assert 5.9 < lon < 10.5
    assert 45.8 < lat < 47.9


# Seeds ---------------------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_and_other_seed_other_town() -> None:
    digests = [digest(draw_town((70, 90), GSD, seed)) for seed in (8, 8, 9, DEMO_SEED)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw_town((150, 97), GSD, 6).image
    monkeypatch.setattr(town, "_STRIP_PIXELS", 97 * 41)
    assert (draw_town((150, 97), GSD, 6).image == whole).all()


def test_towns_differ_widely_in_colour(many: list[Town]) -> None:
    means = np.array([drawn.image[:, drawn.valid].mean(axis=1) for drawn in many])
    assert np.ptp(means.mean(axis=1)) > 40
    assert np.ptp(means[:, 0] - means[:, 2]) > 20


def test_seeds_of_demos_are_no_seeds_for_training() -> None:
    assert DEMO_SEED >= TRAINING_SEEDS


@pytest.mark.parametrize("bad", [{"shape": (0, 5)}, {"gsd": 0}, {"gsd": float("nan")}, {"seed": -1}])
def test_refuses_what_cannot_be_drawn(bad: dict) -> None:
    with pytest.raises(UsageError, match="cannot be drawn"):
        draw_town(**{"shape": (8, 8), **bad})


@pytest.mark.parametrize("crs", ["EPSG:4978", "EPSG:99999", "nonsense"])
def test_refuses_a_crs_without_a_plane(crs: str) -> None:
    with pytest.raises(UsageError, match="crs="):
        draw_town((8, 8), crs=crs)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
def test_smallest_pictures(shape: tuple[int, int]) -> None:
    drawn = draw_town(shape, 0.5, 3)
    assert drawn.image.shape == (3, *shape)
    assert drawn.target().shape == shape


# Roofs and scan conversion -------------------------------------------------------------------------------------------

SHAPES = {
    "level": shapes.level(shapes.rectangle(9, 7)),
    "shed": shapes.shed(shapes.rectangle(9, 7)),
    "gable": shapes.gable(shapes.rectangle(9, 7)),
    "hip": shapes.hip(shapes.rectangle(7, 12)),
    "pyramid": shapes.hip(shapes.rectangle(8, 8)),
    "L": shapes.winged(14, 8, [(4.0, 6.0, 5.0)]),
    "T": shapes.winged(14, 8, [(1.0, 5.0, 4.0)]),
    "U": shapes.winged(16, 7, [(5.5, 5.0, 4.0), (-5.5, 5.0, 4.0)]),
    "court": shapes.courtyard(20, 24, 6),
    "flat court": shapes.courtyard(20, 24, 6, flat=True),
    "hall": shapes.ridges(30, 20, 3),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_roof_faces_cover_the_footprint_once(name: str, angle: float) -> None:
    shape: Shape = SHAPES[name].placed(np.array([30.0, -4.0]), angle)
    footprint = shapely.Polygon(shape.ring, None if shape.hole is None else [shape.hole])
    faces = [shapely.Polygon(face.ring) for face in shape.faces]
    assert footprint.is_valid
    assert sum(face.area for face in faces) == pytest.approx(footprint.area)
    assert shapely.union_all(faces).symmetric_difference(footprint).area < 1e-6
    assert all(np.hypot(*face.fall) == pytest.approx(1) for face in shape.faces)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-4, 24), st.floats(-4, 18)), min_size=3, max_size=8, unique=True),
    st.booleans(),
)
def test_scan_conversion_equals_shapely(points: list[tuple[float, float]], reverse: bool) -> None:
    hull = shapely.MultiPoint(points).convex_hull
    if hull.geom_type != "Polygon":
        return
    hole = hull.buffer(-1.5)
    shape = hull.difference(hole) if hole.geom_type == "Polygon" and not hole.is_empty else hull
    polygon = shapely.reverse(shape) if reverse else shape
    window = Window(row=-2, col=3, height=15, width=17)
    edges = edges_of_polygons([polygon])
    rows, cols = np.mgrid[-2:13, 3:20]
    points_ = shapely.points(cols + 0.5, rows + 0.5)
    clear = shapely.distance(points_, shapely.boundary(polygon)) > 1e-9
    assert (inside(edges, window) == shapely.contains(polygon, points_))[clear].all()
    pixels = shapely.box(cols, rows, cols + 1, rows + 1)
    share = shapely.area(shapely.intersection(polygon, pixels))
    covered = cover(edges, np.array([[1.0], [5.0]]), window)
    assert np.abs(covered[0] - share).max() < 0.26  # four scan lines a row
    assert covered[0].sum() == pytest.approx(share.sum(), abs=2.0)
    assert np.abs(covered[1] - 5 * covered[0]).max() < 1e-4


def test_empty_polygons_among_others_leave_no_trace() -> None:
    window = Window(row=0, col=0, height=9, width=12)
    square, other = shapes.rectangle(4, 4, 4, 4), shapes.rectangle(2, 5, 9, 4)
    edges = edges_of_rings([square, np.zeros((0, 2)), other])
    assert cover(edges, np.array([[1.0, 50.0, 2.0]]), window).sum() == pytest.approx(16 + 20)
    edges = edges_of_polygons([shapely.Polygon(), shapely.Polygon(square), shapely.Polygon(), shapely.Polygon(other)])
    assert cover(edges, np.array([[50.0, 1.0, 50.0, 2.0]]), window).sum() == pytest.approx(16 + 20)
    assert inside(edges, window).sum() == 16 + 10


def test_scan_conversion_of_nothing() -> None:
    window = Window(row=0, col=0, height=3, width=4)
    for edges in (edges_of_rings([]), edges_of_polygons([]), edges_of_polygons([shapely.Polygon()])):
        assert not inside(edges, window).any()
        assert not cover(edges, np.zeros((2, 1)), window).any()
