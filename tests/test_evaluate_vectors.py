"""evaluate_vectors(): files, classes, CRS, labelled area, error layers."""

import json
import logging
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from shapely import LineString, Point, Polygon, box
from shapely.affinity import translate

from geoseg.errors import LabelsError, OutputExistsError, UsageError
from geoseg.evaluate import evaluate_prediction, evaluate_vectors
from geoseg.evaluate.error_layers import error_style

UTM = "EPSG:32633"
EAST, NORTH = 500_000, 5_000_000


def town() -> list[Polygon]:
    """Nine houses 10 m wide, 20 m apart."""
    return [box(x, y, x + 10, y + 10) for x in (0, 20, 40) for y in (0, 20, 40)]


def roads() -> list[LineString]:
    return [LineString([(-5, 15), (55, 15)]), LineString([(15, 15), (15, 55)])]


def write(path: Path, shapes, layer=None, crs=UTM, **columns) -> Path:
    """Shapes in metres about one place, in any CRS."""
    frame = gpd.GeoDataFrame(columns, geometry=[translate(shape, EAST, NORTH) for shape in shapes], crs=UTM)
    frame = frame.to_crs(crs) if crs else frame.set_crs(None, allow_override=True)
    pyogrio.write_dataframe(frame, path, layer=layer or path.stem, append=path.exists() and path.suffix == ".gpkg")
    return path


def write_geoseg(path: Path, houses=None, lines=None, widths=(6.0, 4.0)) -> Path:
    """As geoseg writes it: a layer for each class, pixel values in `class` and names in `name`."""
    if houses is not None:
        size = len(houses)
        write(path, houses, "buildings", id=range(size), **{"class": [1] * size, "name": ["building"] * size})
    if lines is not None:
        size = len(lines)
        more = {"class": [2] * size, "name": ["road"] * size, "width_m": widths[:size]}
        write(path, lines, "roads", id=range(size), **more)
        write(path, [Point(15, 15)], "road_nodes", degree=[3])
    return path


@pytest.mark.parametrize(
    ("crs", "ending"),
    [(UTM, ".shp"), ("EPSG:4326", ".geojson"), ("EPSG:3857", ".fgb"), ("EPSG:2263", ".gpkg"), (None, ".gpkg")],
)
def test_identity_is_perfect_in_any_crs_and_format(tmp_path, crs, ending):
    predicted = write(tmp_path / "p.gpkg", town(), crs=crs)
    reference = write(tmp_path / f"r{ending}", town(), crs=crs)
    scores = evaluate_vectors(predicted, reference, classes=["building"]).scores["building"].objects
    assert (scores.f1, scores.reference) == (1, 9)
    assert scores.polis_m == pytest.approx(0, abs=0.05)
    assert scores.area_iou == pytest.approx(1, abs=1e-3)
    assert scores.vertex_ratio == 1


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_metres_are_metres_on_the_ground(tmp_path, crs):
    """2 m on the ground are 2.8 of web mercator here."""
    predicted = write(tmp_path / "p.gpkg", [box(0, 0, 12, 10)], crs=crs)
    reference = write(tmp_path / "r.gpkg", [box(0, 0, 10, 10)], crs=UTM)
    scores = evaluate_vectors(predicted, reference, classes=["building"]).scores["building"].objects
    assert scores.hausdorff_m == pytest.approx(2, rel=1e-3)
    assert scores.area_bias == pytest.approx(0.2, rel=1e-3)


def test_layers_and_classes_of_geoseg(tmp_path):
    predicted = write_geoseg(tmp_path / "p.gpkg", town()[1:], roads())
    reference = write_geoseg(tmp_path / "r.gpkg", town(), roads(), widths=(6.5, 4.5))
    result = evaluate_vectors(predicted, reference)
    assert list(result.scores) == ["building", "road"]
    building, road = result.scores["building"], result.scores["road"]
    assert building.objects.recall == pytest.approx(8 / 9)
    assert building.lines is None
    assert road.objects is None
    assert (road.lines.f1, road.lines.apls, road.lines.junction_f1) == (1, 1, 1)
    assert road.lines.width_error_m == pytest.approx(0.5)
    assert road.lines.width_bias_m == pytest.approx(-0.5)
    assert result.mean_f1 == pytest.approx((16 / 17 + 1) / 2)
    assert result.left == ()
    only = evaluate_vectors(predicted, reference, classes=["road"])
    assert (list(only.scores), only.left) == (["road"], ("building",))
    assert "not scored: building" in only.table()


def test_a_reference_of_one_class_scores_that_one(tmp_path, caplog):
    predicted = write_geoseg(tmp_path / "p.gpkg", town(), roads())
    houses = write(tmp_path / "buildings.geojson", town())
    result = evaluate_vectors(predicted, houses)
    assert (list(result.scores), result.left) == (["building"], ("road",))
    lines = write(tmp_path / "osm.geojson", roads(), highway=["primary", "path"])
    with caplog.at_level(logging.WARNING):
        result = evaluate_vectors(predicted, lines)
    assert list(result.scores) == ["road"]
    assert result.scores["road"].lines.width_error_m is None
    assert "does not say the classes of its features" in caplog.text


def test_classes_by_field(tmp_path):
    predicted = write(tmp_path / "p.gpkg", town(), **{"class": ["hut"] * 8 + ["Barn"]})
    reference = write(tmp_path / "r.gpkg", town(), use=["hut"] * 7 + ["barn"] * 2)
    result = evaluate_vectors(predicted, reference, classes=["hut", "barn"], class_field="use")
    assert (result.scores["hut"].objects.precision, result.scores["barn"].objects.recall) == (7 / 8, 0.5)
    with pytest.raises(UsageError, match=r"class field='us' is not in r.gpkg"):
        evaluate_vectors(predicted, reference, class_field="us")
    with pytest.raises(UsageError, match=r"class='hat' is not in .* Did you mean 'hut'"):
        evaluate_vectors(predicted, reference, class_field="use", bounded=["hat"])


def test_surfaces_against_lines_of_a_width(tmp_path):
    surfaces = [shapely.buffer(line, 3) for line in roads()]
    predicted = write(tmp_path / "p.gpkg", surfaces, "road_surfaces", **{"class": [2, 2], "name": ["road", "road"]})
    reference = write(tmp_path / "r.gpkg", roads(), "roads")
    with pytest.raises(LabelsError, match=r"holds 2 lines of road, .* polygons: .* Expected a width in metres"):
        evaluate_vectors(predicted, reference)
    result = evaluate_vectors(predicted, reference, line_width_m=6)
    assert result.scores["road"].surface.iou == pytest.approx(1, abs=1e-3)
    assert "surface" in result.table()
    narrower = evaluate_vectors(predicted, reference, line_width_m=3).scores["road"].surface
    assert narrower.recall == pytest.approx(1, abs=1e-3)
    assert narrower.precision == pytest.approx(0.48, abs=0.02)
    said = write(tmp_path / "w.gpkg", roads(), "roads", breadth=["6 m", "6,0"])
    assert evaluate_vectors(predicted, said, width_field="breadth").scores["road"].surface.iou > 0.999
    with pytest.raises(UsageError, match=r"width field='bread' is not in w.gpkg"):
        evaluate_vectors(predicted, said, width_field="bread")


def test_lines_against_polygons_alone_cannot_be_compared(tmp_path):
    predicted = write(tmp_path / "p.gpkg", roads(), "roads")
    reference = write(tmp_path / "r.gpkg", [shapely.buffer(line, 3) for line in roads()], "road")
    with pytest.raises(LabelsError, match=r"nothing to compare. Expected polygons in both, or lines in both"):
        evaluate_vectors(predicted, reference)


def test_invalid_polygons_are_counted_in_the_prediction_and_refused_in_the_reference(tmp_path):
    bow_tie = Polygon([(100, 0), (110, 10), (110, 0), (100, 10)])
    broken = write(tmp_path / "p.gpkg", [*town(), bow_tie], "buildings")
    reference = write(tmp_path / "r.gpkg", town(), "buildings")
    scores = evaluate_vectors(broken, reference).scores["building"].objects
    assert (scores.invalid, scores.predicted) == (1, 10)
    with pytest.raises(LabelsError, match="holds 1 invalid polygons"):
        evaluate_vectors(reference, broken)
    assert evaluate_vectors(reference, broken, invalid_geometry="skip").scores["building"].objects.recall == 1
    assert evaluate_vectors(reference, broken, invalid_geometry="fix").scores["building"].objects.recall == 0.9


def test_an_empty_prediction_finds_nothing(tmp_path, caplog):
    reference = write_geoseg(tmp_path / "r.gpkg", town(), roads())
    empty = write_geoseg(tmp_path / "p.gpkg", [], [], widths=[])
    with caplog.at_level(logging.WARNING):
        result = evaluate_vectors(empty, reference)
    assert (result.scores["building"].objects.recall, result.scores["road"].lines.recall) == (0, 0)
    assert (result.scores["building"].objects.precision, result.mean_f1) == (None, 0)
    assert "holds no polygons and no lines" in caplog.text
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
def test_the_labelled_area(tmp_path, crs):
    """It cuts the last column of houses and the roads; the reference ends there."""
    area = box(-3, -5, 45, 60)
    cut = [shape for shape in (house.intersection(area) for house in town()) if not shape.is_empty]
    predicted = write_geoseg(tmp_path / "p.gpkg", town(), roads())
    reference = write_geoseg(tmp_path / "r.gpkg", cut, [road.intersection(area) for road in roads()])
    outline = write(tmp_path / "area.geojson", [area], crs=crs)
    result = evaluate_vectors(predicted, reference, labelled_area=outline)
    objects, lines = result.scores["building"].objects, result.scores["road"].lines
    assert (objects.f1, objects.reference, objects.predicted) == (1, 6, 6)
    assert (lines.f1, lines.dead_ends, lines.reference_dead_ends) == (1, 1, 1)
    assert evaluate_vectors(predicted, reference).scores["building"].objects.f1 < 1
    with pytest.raises(LabelsError, match=r"holds 2 lines. Expected the outlines of the labelled area"):
        evaluate_vectors(predicted, reference, labelled_area=write(tmp_path / "lines.gpkg", roads()))
    with pytest.raises(LabelsError, match=r"far.gpkg lies outside .*p.gpkg and .*r.gpkg: it spans"):
        evaluate_vectors(predicted, reference, labelled_area=write(tmp_path / "far.gpkg", [translate(area, 9000)]))


def test_what_cannot_be_compared_is_refused(tmp_path):
    predicted = write(tmp_path / "p.gpkg", town(), "buildings")
    elsewhere = write(tmp_path / "e.gpkg", [translate(house, 9000) for house in town()], "buildings")
    with pytest.raises(LabelsError, match=r"e.gpkg lies outside .*p.gpkg: it spans \(.*Check the CRS"):
        evaluate_vectors(predicted, elsewhere)
    raster = tmp_path / "r.tif"
    raster.write_bytes(b"II*\0")
    with pytest.raises(LabelsError, match=r"r.tif is no vector file"):
        evaluate_vectors(predicted, raster)
    with pytest.raises(LabelsError, match="does not exist"):
        evaluate_vectors(predicted, tmp_path / "none.gpkg")
    with pytest.raises(UsageError, match=r"layer='walls' is not in p.gpkg"):
        evaluate_vectors(elsewhere, predicted, layer="walls")
    damaged = tmp_path / "d.gpkg"
    damaged.write_bytes(predicted.read_bytes()[:5000])
    with pytest.raises(LabelsError, match=r"d.gpkg cannot be read"):
        evaluate_vectors(damaged, predicted)
    other = write(tmp_path / "o.gpkg", town(), "parks", **{"class": [4] * 9, "name": ["park"] * 9})
    with pytest.raises(LabelsError, match=r"field 'name' holds park|knows none of"):
        evaluate_vectors(predicted, other, class_field="name")


def test_a_raster_is_scored_by_the_other_function(tmp_path):
    path = write(tmp_path / "p.gpkg", town())
    with pytest.raises(UsageError, match=r"p.gpkg holds polygons or lines. Expected a raster"):
        evaluate_prediction(path, path)


def test_degrees_that_are_metres_are_refused(tmp_path):
    frame = gpd.GeoDataFrame(geometry=[translate(house, EAST, NORTH) for house in town()], crs="EPSG:4326")
    pyogrio.write_dataframe(frame, tmp_path / "r.gpkg")
    with pytest.raises(LabelsError, match="declares WGS 84 but spans"):
        evaluate_vectors(write(tmp_path / "p.gpkg", town()), tmp_path / "r.gpkg")


def test_one_side_without_a_crs_is_taken_for_the_others(tmp_path, caplog):
    plain, known = write(tmp_path / "a.gpkg", town(), crs=None), write(tmp_path / "b.gpkg", town())
    for paths in ((plain, known), (known, plain)):
        with caplog.at_level(logging.WARNING):
            result = evaluate_vectors(*paths, classes=["building"])
        assert result.scores["building"].objects.mean_iou == pytest.approx(1)
        assert "a.gpkg has no CRS: WGS 84 / UTM zone 33N is assumed" in caplog.text
    caplog.clear()
    evaluate_vectors(plain, plain, classes=["building"])
    assert "their units are taken for metres" in caplog.text


# ------------------------------------------------------------------------------------------------- --errors


def faulty(tmp_path: Path, crs=UTM) -> tuple[Path, Path]:
    """A miss, a false alarm, a split, a merge, a bad boundary; a missed and a false stretch of road."""
    true = [
        box(0, 0, 10, 10), box(20, 0, 30, 10), box(40, 0, 50, 10), box(51, 0, 58, 10), box(70, 0, 80, 10),
        box(90, 0, 99, 10),
    ]  # fmt: skip
    told = [
        box(0, 60, 11, 70), box(20, 0, 30, 6), box(20, 6.5, 30, 10), box(40, 0, 58, 10), box(70, 0, 82, 10),
        box(90, 0, 99, 10),
    ]  # fmt: skip
    lines = [LineString([(0, 30), (40, 30)]), LineString([(0, 50), (25, 50)])]
    predicted = write_geoseg(tmp_path / "p.gpkg", told, lines)
    reference = write_geoseg(tmp_path / "r.gpkg", true, [LineString([(0, 30), (73, 30)])])
    return predicted, reference


def test_errors_worst_first(tmp_path):
    predicted, reference = faulty(tmp_path)
    result = evaluate_vectors(predicted, reference, errors=tmp_path / "e.gpkg")
    assert result.faults == {"miss": 2, "false_alarm": 2, "split": 1, "merge": 1, "boundary": 1}
    frame = gpd.read_file(tmp_path / "e.gpkg", layer="errors")
    assert frame["kind"].tolist() == ["false_alarm", "miss", "merge", "split", "boundary"]
    assert frame["size_m2"].tolist() == pytest.approx([110, 100, 70, 35, 20], rel=2e-3)
    assert frame["id"].tolist() == [1, 2, 3, 4, 5]
    assert frame["predicted"].tolist() == ["1", "", "4", "2, 3", "5"]  # feature ids of the file
    assert frame["reference"].tolist() == ["", "1", "3, 4", "2", "5"]
    assert frame["class"].tolist() == ["building"] * 5
    assert frame["distance_m"].iloc[4] == pytest.approx(2, rel=1e-3)
    assert np.isnan(frame["iou"].iloc[0])
    assert frame.crs == UTM
    assert set(frame.geom_type) == {"MultiPolygon"}
    boundary = translate(box(80, 0, 82, 10), EAST, NORTH)
    assert frame.geometry.iloc[4].symmetric_difference(boundary).area < 0.01
    lines = gpd.read_file(tmp_path / "e.gpkg", layer="line_errors")
    assert lines["kind"].tolist() == ["miss", "false_alarm"]
    assert lines["length_m"].tolist() == pytest.approx([30, 25], abs=1)  # in pieces of a metre
    assert set(lines.geom_type) == {"LineString"}


def test_errors_are_valid_shapes(tmp_path):
    """What differs between outlines that share a side is full of slivers."""
    predicted = write(tmp_path / "p.gpkg", [box(0, 30, 10, 35)], **{"class": ["building"]})
    reference = write(tmp_path / "r.gpkg", [*town(), box(0, 30, 10, 40)], **{"class": ["building"] * 10})
    for crs in (UTM, "EPSG:4326"):
        near, far = (
            gpd.read_file(path).to_crs(crs).to_file(tmp_path / f"{path.stem}_{crs[-4:]}.gpkg")
            or tmp_path / f"{path.stem}_{crs[-4:]}.gpkg"
            for path in (predicted, reference)
        )
        evaluate_vectors(near, far, errors=tmp_path / f"e_{crs[-4:]}.gpkg")
        assert gpd.read_file(tmp_path / f"e_{crs[-4:]}.gpkg", layer="errors").is_valid.all()


def test_errors_are_styled_and_the_same_bytes(tmp_path):
    paths = faulty(tmp_path)
    for name in ("a.gpkg", "b.gpkg"):
        evaluate_vectors(*paths, errors=tmp_path / name)
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    styles = pyogrio.read_dataframe(tmp_path / "a.gpkg", layer="layer_styles")
    assert styles["f_table_name"].tolist() == ["errors", "line_errors"]
    assert styles["styleQML"].tolist() == [error_style("fill"), error_style("line")]
    assert 'attr="kind"' in styles["styleQML"][0]


def test_errors_of_a_perfect_prediction_are_empty_layers(tmp_path):
    path = write_geoseg(tmp_path / "p.gpkg", town(), roads())
    result = evaluate_vectors(path, path, errors=tmp_path / "e.gpkg")
    assert result.faults == {}
    assert "errors in" in result.table()
    for layer in ("errors", "line_errors"):
        assert len(gpd.read_file(tmp_path / "e.gpkg", layer=layer)) == 0


def test_errors_are_all_or_nothing(tmp_path):
    path = write_geoseg(tmp_path / "p.gpkg", town())
    errors = tmp_path / "e.gpkg"
    errors.write_text("mine")
    with pytest.raises(OutputExistsError):
        evaluate_vectors(path, path, errors=errors)
    assert errors.read_text() == "mine"
    evaluate_vectors(path, path, errors=errors, overwrite=True)
    assert len(gpd.read_file(errors, layer="errors")) == 0
    with pytest.raises(UsageError):
        evaluate_vectors(path, path, errors=path, overwrite=True)
    with pytest.raises(UsageError, match=r"Expected a name ending in .gpkg. Try e.gpkg"):
        evaluate_vectors(path, path, errors=tmp_path / "e.json")
    with pytest.raises(LabelsError):
        evaluate_vectors(path, tmp_path / "none.gpkg", errors=tmp_path / "new.gpkg")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["e.gpkg", "p.gpkg"]


def test_a_reference_far_wider_than_the_prediction_is_told(tmp_path, caplog):
    predicted = write_geoseg(tmp_path / "p.gpkg", town()[:3])
    reference = write(tmp_path / "r.gpkg", town())
    area = write(tmp_path / "area.gpkg", [box(-1, -1, 11, 51)])
    with caplog.at_level(logging.WARNING):
        assert evaluate_vectors(predicted, reference, labelled_area=area).mean_f1 == 1
        assert "lie outside of what" not in caplog.text
        evaluate_vectors(predicted, reference)
    assert f"6 of the 9 features of {reference} lie outside of what {predicted} covers" in caplog.text
    assert "say with --aoi what was" in caplog.text
