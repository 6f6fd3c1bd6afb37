"""Lines with a width: true metres on the ground in every CRS, widths from fields, and every refusal."""

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from pyproj import Geod, Transformer
from shapely import LineString

from geoseg.errors import LabelsError, UsageError
from geoseg.grid import Grid
from geoseg.targets import read_labels

CLASSES = ("background", "building", "road")
UTM = "EPSG:32637"
SIDE = 300


def grid_at(crs: str, east: float, north: float, metres: float, angle: float = 0) -> Grid:
    """SIDE x SIDE pixels of about `metres` in a CRS, the middle at a place given in degrees."""
    to_crs = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = to_crs.transform(east, north)
    lon, _, _ = Geod(ellps="WGS84").fwd(east, north, 90, metres)
    _, lat, _ = Geod(ellps="WGS84").fwd(east, north, 0, metres)
    right, up = to_crs.transform(lon, north)[0] - x, to_crs.transform(east, lat)[1] - y
    place = Affine.translation(x, y) @ Affine.rotation(angle) @ Affine.scale(right, -up)
    return Grid((SIDE, SIDE), place @ Affine.translation(-SIDE / 2, -SIDE / 2), crs)


def write(path, lines, crs=UTM, layer=None, **columns):
    pyogrio.write_dataframe(gpd.GeoDataFrame(columns, geometry=list(lines), crs=crs), path, layer=layer)
    return path


def ground(grid: Grid, *points) -> LineString:
    return LineString([grid.transform @ point for point in points])


def geodesic_distance(grid: Grid, line: LineString) -> np.ndarray:
    """The oracle: metres on the ellipsoid from every seventh pixel's centre to the nearest of many points of a line."""
    to_degrees = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    along = shapely.get_coordinates(shapely.segmentize(line, line.length / 400))
    lon, lat = to_degrees.transform(*along.T)
    rows, cols = np.mgrid[3:SIDE:7, 3:SIDE:7] + 0.5
    x, y = grid.transform @ (cols.ravel(), rows.ravel())
    at_lon, at_lat = to_degrees.transform(x, y)
    found = [Geod(ellps="WGS84").inv(np.full(len(lon), a), np.full(len(lat), b), lon, lat)[2].min()
             for a, b in zip(at_lon, at_lat, strict=True)]  # fmt: skip
    return np.array(found).reshape(rows.shape)


@pytest.mark.parametrize(
    ("crs", "east", "north", "angle"),
    [
        ("EPSG:32637", 39.0, 55.0, 0),
        ("EPSG:4326", 25.0, 65.0, 0),
        ("EPSG:3857", 25.0, 65.0, 0),
        ("EPSG:3857", -70.0, -53.0, 30),
        ("EPSG:2263", -74.0, 40.7, 0),
        ("EPSG:27700", -2.0, 54.0, 0),
    ],
)
def test_roads_are_as_wide_as_they_are_said_to_be(tmp_path, crs, east, north, angle):
    grid = grid_at(crs, east, north, 0.5, angle)
    line = ground(grid, (30, 60), (150, 90), (240, 260))
    path = write(tmp_path / "roads.gpkg", [line], crs=crs)
    labels = read_labels(path, grid=grid, class_names=("background", "road"), line_width_m=12)
    target = labels.target(grid.window)[3::7, 3::7]
    away = geodesic_distance(grid, line)
    clear = np.abs(away - 6) > 0.25  # half a pixel: points along the line are as far apart
    assert (target[clear] == (away[clear] < 6)).all()
    assert 100 < target.sum() < 400


def test_a_long_straight_line_stays_straight_where_another_crs_would_bend_it(tmp_path):
    """A parallel of 42 km: its geodesic leaves it by 75 m, and so would the buffer of its two ends."""
    grid = grid_at("EPSG:3857", 25.0, 65.0, 0.5)
    x, y = grid.transform @ (SIDE / 2, SIDE / 2)
    path = write(tmp_path / "road.gpkg", [LineString([(x - 50_000, y), (x + 50_000, y)])], crs="EPSG:3857")
    target = read_labels(path, grid=grid, class_names=("background", "road"), line_width_m=10).target(grid.window)
    rows = np.flatnonzero(target.any(axis=1))
    assert target[rows].all()
    assert (rows.min(), rows.max()) == (SIDE / 2 - 10, SIDE / 2 + 9)


def test_widths_come_from_a_field_and_the_option_fills_its_gaps(tmp_path):
    grid = grid_at(UTM, 39.0, 55.0, 0.5)
    lines = [ground(grid, (0, row), (SIDE, row)) for row in (40, 100, 160, 220, 280)]
    widths = ["4", "8 m", "6,0", "wide", None]
    path = write(tmp_path / "roads.gpkg", lines, Lanes=widths)
    labels = read_labels(path, grid=grid, class_names=("background", "road"), width_field="lanes", line_width_m=2)
    column = labels.target(grid.window)[:, SIDE // 2]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], column])))
    assert [int(b - a) for a, b in zip(edges[::2], edges[1::2], strict=True)] == [8, 16, 12, 4, 4]
    with pytest.raises(LabelsError, match=r"field 'Lanes' says no width above 0 of 2 lines \(feature 4, 5\)"):
        read_labels(path, grid=grid, class_names=("background", "road"), width_field="lanes")
    with pytest.raises(UsageError, match=r"width field='breadth'.*Its fields: Lanes"):
        read_labels(path, grid=grid, class_names=("background", "road"), width_field="breadth")


def test_a_field_called_width_is_found_unless_a_width_is_given(tmp_path):
    grid = grid_at(UTM, 39.0, 55.0, 0.5)
    path = write(tmp_path / "roads.gpkg", [ground(grid, (0, 100), (SIDE, 100))], width_m=[5.0])
    names = ("background", "road")
    assert read_labels(path, grid=grid, class_names=names).target(grid.window)[:, 150].sum() == 10
    assert read_labels(path, grid=grid, class_names=names, line_width_m=3).target(grid.window)[:, 150].sum() == 6
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="line_width_m"):
            read_labels(path, grid=grid, class_names=names, line_width_m=wrong)


def test_lines_are_roads_and_polygons_buildings_where_nothing_says_it(tmp_path, warnings):
    grid = grid_at(UTM, 39.0, 55.0, 0.5)
    house = shapely.transform(shapely.box(10, 80, 40, 130), lambda xy: np.stack(grid.transform @ tuple(xy.T), axis=1))
    path = write(tmp_path / "all.gpkg", [ground(grid, (0, 100), (SIDE, 100)), house])
    labels = read_labels(path, grid=grid, class_names=CLASSES, line_width_m=4)
    target = labels.target(grid.window)
    assert labels.present == ("building", "road")
    assert target[100, 20] == 1  # a building over a road is a building
    assert target[100, 200] == 2
    assert len(warnings) == 2


def test_a_scene_without_a_crs_needs_metres_per_pixel(tmp_path):
    grid = Grid((50, 80), Affine.scale(2, -2), None)
    path = write(tmp_path / "roads.gpkg", [LineString([(10, -40), (150, -40)])], crs=UTM)
    with pytest.raises(UsageError, match=r"no CRS that says how long one is.*--gsd"):
        read_labels(path, grid=grid, class_names=("background", "road"), line_width_m=3)
    labels = read_labels(path, grid=grid, class_names=("background", "road"), line_width_m=3, gsd=0.25)
    assert labels.target(grid.window)[:, 40].sum() == 12


def test_lines_of_other_classes_need_no_width_and_empty_ones_are_dropped(tmp_path):
    grid = grid_at(UTM, 39.0, 55.0, 0.5)
    lines = [ground(grid, (0, 100), (SIDE, 100)), ground(grid, (0, 200), (SIDE, 200)), ground(grid, (9, 9), (9, 9))]
    path = write(tmp_path / "lines.gpkg", lines, kind=["road", "power line", "road"], w=[4, None, 4])
    labels = read_labels(path, grid=grid, class_names=("background", "road"), width_field="w")
    assert labels.target(grid.window)[:, 150].sum() == 8


def test_roads_far_from_the_scene_cost_and_change_nothing(tmp_path):
    grid = grid_at("EPSG:3857", 25.0, 65.0, 0.5)
    near = ground(grid, (0, 100), (SIDE, 100))
    far = LineString([(-2e7, -1.9e7), (2e7, -1.9e7)])
    both = write(tmp_path / "both.gpkg", [near, far], crs="EPSG:3857")
    one = write(tmp_path / "one.gpkg", [near], crs="EPSG:3857")
    targets = [read_labels(path, grid=grid, class_names=("background", "road"), line_width_m=5) for path in (both, one)]
    assert len(targets[0].polygons.polygons) == 1
    np.testing.assert_array_equal(*(labels.target(grid.window) for labels in targets))
