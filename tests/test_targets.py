"""Vector labels on a grid: the pixel-centre rule, cuts, classes, and every refusal."""

import logging
import math
import sys
from itertools import pairwise
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import LineString, MultiPolygon, Point, Polygon, box

from geoseg.errors import LabelsError, UsageError
from geoseg.grid import Grid
from geoseg.targets import PixelPolygons, is_vector_file, labelled_area, read_labels
from geoseg.targets.burning import pixel_polygons
from geoseg.targets.files import layer_kinds
from geoseg.windows import Window

UTM = "EPSG:32637"
CLASSES = ("background", "building", "road")
ORIGIN = (500_000.0, -720_000.0)


def make_grid(height: int = 16, width: int = 24, gsd: float = 0.5, crs: str | None = UTM) -> Grid:
    return Grid((height, width), Affine.translation(*ORIGIN) @ Affine.scale(gsd, -gsd), crs)


def on_ground(grid: Grid, geometry):
    """Pixel coordinates to the grid's CRS."""
    return shapely.transform(geometry, lambda xy: np.stack(grid.transform @ tuple(xy.T), axis=1))


def write(path: Path, geometries, crs: str | None = UTM, layer: str | None = None, **columns) -> Path:
    frame = gpd.GeoDataFrame(columns, geometry=list(geometries), crs=crs)
    pyogrio.write_dataframe(frame, path, layer=layer)
    return path


def pixels_inside(polygon, shape: tuple[int, int]) -> np.ndarray:
    """The oracle: shapely's point in polygon at pixel centres."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return shapely.contains_xy(polygon, cols + 0.5, rows + 0.5)


# ---------------------------------------------------------------------------------------------------- burning


@st.composite
def polygons(draw, size: int = 24):
    """Star-shaped rings round any point, some with vertices on pixel centres and corners."""
    corner = st.integers(-6, 2 * size + 6).map(lambda half: half / 2) | st.floats(-3, size + 3)
    x, y = draw(corner), draw(corner)
    count = draw(st.integers(3, 8))
    radii = [draw(st.floats(0.3, 9)) for _ in range(count)]
    ring = [
        (x + r * math.cos(2 * math.pi * i / count), y + r * math.sin(2 * math.pi * i / count))
        for i, r in enumerate(radii)
    ]
    return Polygon([(round(2 * px) / 2, round(2 * py) / 2) for px, py in ring] if draw(st.booleans()) else ring)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(polygons(), min_size=1, max_size=6),
    data=st.data(),
    angle=st.sampled_from([0, 0, 30, 90]),
    south_up=st.booleans(),
)
def test_target_of_a_window_is_the_window_of_the_target(shapes, data, angle, south_up):
    transform = Affine.translation(*ORIGIN) @ Affine.rotation(angle) @ Affine.scale(0.3, 0.3 if south_up else -0.3)
    grid = Grid((23, 31), transform, UTM)
    values = np.array([1 + i % 3 for i in range(len(shapes))], np.uint8)
    ground = np.array([on_ground(grid, shape) for shape in shapes])
    burnt = PixelPolygons(*pixel_polygons(ground, values, grid))
    whole = burnt.burn(grid.window)
    row = data.draw(st.integers(0, 22))
    col = data.draw(st.integers(0, 30))
    window = Window(
        row=row, col=col, height=data.draw(st.integers(1, 23 - row)), width=data.draw(st.integers(1, 31 - col))
    )
    np.testing.assert_array_equal(burnt.burn(window), whole[window.slices()])


@settings(max_examples=60, deadline=None)
@given(shape=polygons())
def test_a_pixel_belongs_to_the_polygon_its_centre_lies_in(shape):
    grid = Grid((23, 31), Affine.identity(), None)
    burnt = PixelPolygons(*pixel_polygons(np.array([shape]), np.ones(1, np.uint8), grid)).burn(grid.window)
    rows, cols = np.mgrid[:23, :31]
    # Vertices are rounded to 1/256 pixel: centres nearer than that to the outline may go either way.
    clear = shapely.distance(shape.boundary, shapely.points(cols + 0.5, rows + 0.5)) > 1 / 128
    if not shape.is_valid:
        return
    np.testing.assert_array_equal(burnt[clear] == 1, pixels_inside(shape, (23, 31))[clear])


@settings(max_examples=40, deadline=None)
@given(
    cuts_x=st.lists(st.integers(1, 39), unique=True, max_size=4),
    cuts_y=st.lists(st.integers(1, 29), unique=True, max_size=4),
    clockwise=st.lists(st.booleans(), min_size=25, max_size=25),
)
def test_neighbours_sharing_walls_tile_the_plane(cuts_x, cuts_y, clockwise):
    """Walls on pixel centres (odd halves) included: each pixel belongs to exactly one of the boxes."""
    xs = [0, *(cut / 2 for cut in sorted(cuts_x)), 20]
    ys = [0, *(cut / 2 for cut in sorted(cuts_y)), 15]
    boxes = [box(x0, y0, x1, y1) for x0, x1 in pairwise(xs) for y0, y1 in pairwise(ys)]
    grid = Grid((15, 20), Affine.identity(), None)
    count = np.zeros(grid.shape, int)
    for shape, turn in zip(boxes, clockwise, strict=False):
        oriented = shape.reverse() if turn else shape
        count += PixelPolygons(*pixel_polygons(np.array([oriented]), np.ones(1, np.uint8), grid)).burn(grid.window)
    assert (count == 1).all()


def test_courtyards_stay_open_and_parts_add_up(tmp_path):
    grid = make_grid()
    ring = Polygon(box(1, 1, 9, 9).exterior.coords, [box(3, 3, 6, 6).exterior.coords])
    pair = MultiPolygon([box(12, 2, 14, 4), box(16, 2, 18, 4)])
    path = write(tmp_path / "labels.gpkg", [on_ground(grid, ring), on_ground(grid, pair)])
    target = read_labels(path, grid=grid, class_names=CLASSES[:2]).target(grid.window)
    expected = np.zeros(grid.shape, np.uint8)
    expected[1:9, 1:9] = 1
    expected[3:6, 3:6] = 0
    expected[2:4, 12:14] = expected[2:4, 16:18] = 1
    np.testing.assert_array_equal(target, expected)


# ---------------------------------------------------------------------------------------------------- classes


def test_building_wins_over_road_whatever_the_order(tmp_path):
    grid = make_grid()
    shapes = [on_ground(grid, box(0, 0, 8, 8)), on_ground(grid, box(4, 0, 24, 4)), on_ground(grid, box(0, 0, 24, 1))]
    path = write(tmp_path / "labels.gpkg", shapes, kind=["building", "Road ", "background"])
    labels = read_labels(path, grid=grid, class_names=CLASSES)
    target = labels.target(grid.window)
    assert labels.present == ("building", "road")
    assert (target[:8, :8] == 1).all()
    assert (target[:4, 8:] == 2).all()
    assert (target[4:, 8:] == 0).all()


def test_class_field_is_found_among_others(tmp_path, caplog):
    grid = make_grid()
    shapes = [on_ground(grid, box(i, 0, i + 1, 1)) for i in range(3)]
    path = write(
        tmp_path / "labels.gpkg", shapes, kind=["yes", "no", "x"], Type=["road", "building", "tree"], use=["road"] * 3
    )
    with caplog.at_level(logging.WARNING, "geoseg"):
        target = read_labels(path, grid=grid, class_names=CLASSES).target(grid.window)
    assert target[0, :4].tolist() == [2, 1, 0, 0]
    assert "1 features of other classes (tree)" in caplog.text
    named = read_labels(path, grid=grid, class_names=CLASSES, class_field="use").target(grid.window)
    assert named[0, :4].tolist() == [2, 2, 2, 0]
    with pytest.raises(UsageError, match=r"'colour'.*Its fields: kind, Type, use"):
        read_labels(path, grid=grid, class_names=CLASSES, class_field="colour")
    with pytest.raises(LabelsError, match=r"holds no, x, yes. Expected names of classes"):
        read_labels(path, grid=grid, class_names=CLASSES, class_field="kind")


def test_class_without_a_field(tmp_path, caplog):
    grid = make_grid()
    shape = [on_ground(grid, box(0, 0, 2, 2))]
    path = write(tmp_path / "unnamed.geojson", list(gpd.GeoSeries(shape, crs=UTM).to_crs(4326)), crs="EPSG:4326")
    assert read_labels(path, grid=grid, class_names=("other", "tree")).present == ("tree",)
    assert read_labels(path, grid=grid, class_names=CLASSES, default_class="road").present == ("road",)
    with caplog.at_level(logging.WARNING, "geoseg"):
        assert read_labels(path, grid=grid, class_names=CLASSES).present == ("building",)
    assert "all are taken for building" in caplog.text
    with pytest.raises(LabelsError, match="whether they are tree or water"):
        read_labels(path, grid=grid, class_names=("other", "tree", "water"))
    with pytest.raises(UsageError, match="default_class='hut'"):
        read_labels(path, grid=grid, class_names=CLASSES, default_class="hut")
    with pytest.raises(UsageError, match="2 to 255 names"):
        read_labels(path, grid=grid, class_names=("building",))


def test_layers_name_their_classes(tmp_path):
    grid = make_grid()
    path = tmp_path / "labels.gpkg"
    write(path, [on_ground(grid, box(0, 0, 2, 2))], layer="buildings")
    write(path, [on_ground(grid, box(4, 0, 6, 2))], layer="roads")
    pyogrio.write_dataframe(gpd.pd.DataFrame({"styleName": ["x"]}), path, layer="layer_styles")
    assert read_labels(path, grid=grid, class_names=CLASSES).present == ("building", "road")
    assert read_labels(path, grid=grid, class_names=CLASSES, layer="roads").present == ("road",)
    with pytest.raises(UsageError, match="Expected one of buildings, roads"):
        read_labels(path, grid=grid, class_names=CLASSES, layer="huts")


# ---------------------------------------------------------------------------------------------------- coordinates


def test_labels_in_another_crs_are_reprojected(tmp_path):
    grid = make_grid()
    shape = on_ground(grid, box(3, 2, 11, 9))
    whole = write(tmp_path / "utm.gpkg", [shape])
    degrees = write(tmp_path / "wgs84.geojson", gpd.GeoSeries([shape], crs=UTM).to_crs(4326), crs="EPSG:4326")
    mercator = write(tmp_path / "mercator.shp", gpd.GeoSeries([shape], crs=UTM).to_crs(3857), crs="EPSG:3857")
    targets = [
        read_labels(path, grid=grid, class_names=CLASSES[:2]).target(grid.window) for path in (whole, degrees, mercator)
    ]
    assert targets[0].sum() == 56
    np.testing.assert_array_equal(targets[0], targets[1])
    np.testing.assert_array_equal(targets[0], targets[2])


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_missing_crs_on_one_side_is_assumed_and_said(tmp_path, caplog):
    grid = make_grid()
    path = write(tmp_path / "labels.gpkg", [on_ground(grid, box(3, 2, 11, 9))], crs=None)
    with caplog.at_level(logging.WARNING, "geoseg"):
        assert read_labels(path, grid=grid, class_names=CLASSES[:2]).target(grid.window).sum() == 56
    assert [record.message for record in caplog.records] == [f"{path} has no CRS: the scene's is assumed"]
    caplog.clear()
    # A scene without georeference: GeoJSON declares degrees whatever it holds, here pixels.
    pixels = Grid((900, 900), Affine.identity(), None)
    path = write(tmp_path / "pixels.geojson", [box(500, 500, 510, 510)], crs="EPSG:4326")
    with caplog.at_level(logging.WARNING, "geoseg"):
        assert read_labels(path, grid=pixels, class_names=CLASSES[:2]).target(pixels.window).sum() == 100
    assert "the scene has no CRS" in caplog.text


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_labels_off_the_scene_are_refused_with_both_extents(tmp_path):
    grid = make_grid()
    far = write(tmp_path / "far.gpkg", [on_ground(grid, box(100, 100, 110, 110))])
    with pytest.raises(LabelsError, match=r"spans \(500050, -720055, 500055, -720050\), the scene \(500000, -720008, "):
        read_labels(far, grid=grid, class_names=CLASSES)
    no_crs = write(tmp_path / "nowhere.gpkg", [box(10, 10, 11, 11)], crs=None)
    with pytest.raises(LabelsError, match="outside the scene"):
        read_labels(no_crs, grid=grid, class_names=CLASSES)
    metres = write(tmp_path / "metres.gpkg", [on_ground(grid, box(3, 2, 11, 9))], crs="EPSG:4326")
    with pytest.raises(LabelsError, match=r"declares degrees \(WGS 84\) but spans \(500001.5, .*the scene spans"):
        read_labels(metres, grid=grid, class_names=CLASSES)
    degrees = write(tmp_path / "degrees.gpkg", [box(36.9, -1.3, 36.91, -1.29)], crs=UTM)
    with pytest.raises(LabelsError, match="outside the scene"):
        read_labels(degrees, grid=grid, class_names=CLASSES)
    pole = write(tmp_path / "pole.geojson", [box(10, 80, 20, 90)], crs="EPSG:4326")
    with pytest.raises(LabelsError, match=r"coordinates that the scene's CRS cannot express|outside the scene"):
        read_labels(pole, grid=Grid((9, 9), Affine.identity(), "EPSG:3857"), class_names=CLASSES)


# ---------------------------------------------------------------------------------------------------- bad input


def test_invalid_polygons_by_policy(tmp_path, caplog):
    grid = make_grid()
    bow_tie = Polygon([(0, 0), (8, 8), (8, 0), (0, 8)])
    spike = Polygon([(0, 12), (8, 12), (0, 12)])
    good = box(10, 0, 12, 2)
    path = write(tmp_path / "labels.gpkg", [on_ground(grid, shape) for shape in (good, bow_tie, spike)])
    with pytest.raises(LabelsError, match=r"2 invalid polygons \(feature 2, 3; the first: Self-intersection"):
        read_labels(path, grid=grid, class_names=CLASSES)
    with caplog.at_level(logging.WARNING, "geoseg"):
        skipped = read_labels(path, grid=grid, class_names=CLASSES[:2], invalid_geometry="skip")
        fixed = read_labels(path, grid=grid, class_names=CLASSES[:2], invalid_geometry="fix")
    assert "2 invalid polygons skipped" in caplog.text
    assert "2 invalid polygons fixed" in caplog.text
    assert skipped.target(grid.window).sum() == 4
    assert 4 + 24 <= fixed.target(grid.window).sum() <= 4 + 40


def test_open_rings_are_closed_and_said(tmp_path, caplog):
    path = tmp_path / "labels.geojson"
    path.write_text('{"type": "Polygon", "coordinates": [[[2, 2], [6, 2], [6, 5], [2, 5]]]}')
    grid = Grid((16, 24), Affine.identity(), None)
    with caplog.at_level(logging.WARNING, "geoseg"):
        assert read_labels(path, grid=grid, class_names=CLASSES[:2]).target(grid.window).sum() == 12
    assert "Non closed ring detected" in caplog.text


def test_empty_geometries_are_dropped(tmp_path):
    grid = make_grid()
    path = write(tmp_path / "labels.gpkg", [None, Polygon(), on_ground(grid, box(0, 0, 2, 2))])
    assert read_labels(path, grid=grid, class_names=CLASSES[:2]).target(grid.window).sum() == 4


def test_points_and_lines_of_unknown_width_are_refused(tmp_path):
    grid = make_grid()
    points = write(tmp_path / "points.gpkg", [on_ground(grid, Point(3, 3))])
    with pytest.raises(LabelsError, match=r"1 features that are no polygons and no lines \(Point\)"):
        read_labels(points, grid=grid, class_names=CLASSES)
    lines = write(tmp_path / "lines.gpkg", [on_ground(grid, LineString([(0, 0), (5, 5)]))])
    with pytest.raises(LabelsError, match=r"holds 1 lines: how wide they are on the ground is unknown.*--line-width-m"):
        read_labels(lines, grid=grid, class_names=CLASSES)
    with pytest.raises(LabelsError, match=r"holds 1 lines. Expected the outlines of the labelled area"):
        labelled_area(lines, grid)


def test_files_that_are_no_labels(tmp_path):
    grid = make_grid()
    empty = write(tmp_path / "empty.gpkg", [])
    nothing = write(tmp_path / "nothing.gpkg", [None])
    garbage = tmp_path / "labels.geojson"
    garbage.write_text('{"type": "FeatureCollection", "features": [')
    text = tmp_path / "labels.gpkg"
    text.write_text("<OGRVRTDataSource/>")
    database = tmp_path / "half.gpkg"
    database.write_bytes(empty.read_bytes()[:2000])
    for path, message in [
        (empty, "has no polygons"),
        (nothing, "has no polygons"),
        (garbage, "cannot be read"),
        (text, "no vector file of an accepted format"),
        (database, "cannot be read"),
        (tmp_path, "is not a file"),
        (tmp_path / "missing.gpkg", "does not exist"),
    ]:
        with pytest.raises(LabelsError, match=message):
            read_labels(path, grid=grid, class_names=CLASSES)


def test_vector_files_are_told_by_content(tmp_path):
    for name in ("a.gpkg", "a.geojson", "a.fgb", "a.shp"):
        assert is_vector_file(write(tmp_path / name, [box(0, 0, 1, 1)], crs="EPSG:4326"))
    raster = tmp_path / "raster.gpkg"
    raster.write_bytes(b"II*\0")
    assert not is_vector_file(raster)
    raster.write_bytes(b"neither")
    with pytest.raises(LabelsError, match=r"raster.gpkg is no vector file, whatever its ending .gpkg says"):
        is_vector_file(raster)


def test_geoparquet_is_read_as_any_other_format(tmp_path):
    pytest.importorskip("pyarrow")
    grid = make_grid()
    corner = Polygon([(0, 0, 7), (10, 0, 7), (10, 10, 7), (0, 0, 7)])
    shapes = [on_ground(grid, shape) for shape in (box(0, 0, 10, 10), corner)]
    columns = {"kind": ["road", "building"], "n": [1, 2]}
    path = write(tmp_path / "a.gpkg", shapes, **columns)
    frame = gpd.GeoDataFrame(columns, geometry=shapes, crs=UTM).set_index("kind").to_crs(4326)
    (tmp_path / "year=2020").mkdir()  # no field
    frame.to_parquet(tmp_path / "year=2020/a.parquet")
    frame.rename_geometry("shape").reset_index().to_parquet(tmp_path / "b.parquet")
    wanted = read_labels(path, grid=grid, class_names=CLASSES)
    for other in (tmp_path / "year=2020/a.parquet", tmp_path / "b.parquet"):
        assert is_vector_file(other)
        found = read_labels(other, grid=grid, class_names=CLASSES)
        assert found.present == wanted.present == ("building", "road")
        assert np.array_equal(found.target(grid.window), wanted.target(grid.window))
        assert np.array_equal(
            labelled_area(other, grid).valid(grid.window), labelled_area(path, grid).valid(grid.window)
        )
        assert list(layer_kinds(other)) == [other.stem]
        with pytest.raises(UsageError, match=r"layer='c' is not in .\.parquet"):
            read_labels(other, grid=grid, class_names=CLASSES, layer="c")


def test_parquet_that_cannot_be_read(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    grid = make_grid()
    frame = gpd.GeoDataFrame({"n": [1]}, geometry=[on_ground(grid, box(0, 0, 10, 10))], crs=UTM)
    frame.to_parquet(tmp_path / "a.parquet")
    pd.DataFrame({"n": [1]}).to_parquet(tmp_path / "table.parquet")
    (tmp_path / "half.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:900])
    for name, message in (("table", "it is no GeoParquet"), ("half", "half.parquet cannot be read")):
        with pytest.raises(LabelsError, match=message):
            labelled_area(tmp_path / f"{name}.parquet", grid)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"a.parquet needs pyarrow.*geoseg\[parquet\]"):
        labelled_area(tmp_path / "a.parquet", grid)


def test_labelled_area(tmp_path):
    grid = make_grid()
    path = write(tmp_path / "area.gpkg", [on_ground(grid, box(0, 0, 10, 10)), on_ground(grid, box(5, 5, 12, 12))])
    valid = labelled_area(path, grid).valid(grid.window)
    assert valid.dtype == bool
    assert valid.sum() == 100 + 49 - 25
    assert labelled_area(path, grid).valid(Window(row=14, col=20, height=2, width=2)).sum() == 0


def test_reading_touches_nothing_beside_the_file(tmp_path):
    grid = make_grid()
    path = write(tmp_path / "labels.gpkg", [on_ground(grid, box(0, 0, 10, 10))])
    before = path.read_bytes()
    read_labels(path, grid=grid, class_names=CLASSES[:2])
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.gpkg"]
    assert path.read_bytes() == before


def test_lines_beside_polygons_are_left_aside(tmp_path):
    box = gpd.GeoDataFrame(geometry=[shapely.box(1, 1, 4, 4)])
    line = gpd.GeoDataFrame(geometry=[shapely.LineString([(0, 0), (5, 5)])])
    path = tmp_path / "town.gpkg"
    box.to_file(path, layer="buildings")
    line.to_file(path, layer="centrelines")
    grid = Grid(shape=(6, 6), transform=Affine.identity(), crs=None)
    labels = read_labels(path, grid=grid, class_names=("background", "building"))
    assert labels.target(grid.window).sum() == 9
    with pytest.raises(LabelsError, match="how wide they are"):
        read_labels(path, grid=grid, class_names=("background", "building"), layer="centrelines")
    both = read_labels(path, grid=grid, class_names=CLASSES, line_width_m=1, gsd=1)
    assert both.present == ("building", "road")
    assert both.target(grid.window)[0, 0] == 2
    assert both.target(grid.window).max(where=both.target(grid.window) != 2, initial=0) == 1


def test_a_layer_that_tells_no_class_is_refused_beside_one_that_does(tmp_path, caplog):
    """Areas and notes in one file with the buildings are no buildings."""
    grid, path = make_grid(), tmp_path / "all.gpkg"
    write(path, [on_ground(grid, box(0, 0, 2, 2))], layer="buildings")
    write(path, [on_ground(grid, box(0, 0, 8, 6))], layer="area")
    for names in (CLASSES, CLASSES[:2]):
        with pytest.raises(LabelsError, match=r"layer 'area' does not say .* as buildings does.* --layer"):
            read_labels(path, grid=grid, class_names=names)
    assert read_labels(path, grid=grid, class_names=CLASSES, layer="buildings").present == ("building",)
    silent = tmp_path / "silent.gpkg"
    write(silent, [on_ground(grid, box(0, 0, 2, 2))], layer="north")
    write(silent, [on_ground(grid, box(4, 0, 6, 2))], layer="south")
    assert read_labels(silent, grid=grid, class_names=CLASSES[:2]).present == ("building",)
    assert "all its layers are read (north, south)" in caplog.text
