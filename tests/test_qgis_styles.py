"""Styles as text: well-formed, with the class's colours and names whatever they contain."""

from xml.etree import ElementTree as ET

import pytest

from geoseg.qgis import class_raster_style, layer_style, line_style, point_style, polygon_style


def test_polygon_style_has_the_class_colour():
    tree = ET.fromstring(polygon_style("#e34a33"))
    options = {option.get("name"): option.get("value") for option in tree.iter("Option")}
    red, green, blue, alpha = map(int, options["color"].split(","))
    assert (red, green, blue) == (0xE3, 0x4A, 0x33)
    assert 0 < alpha < 255
    outline = list(map(int, options["outline_color"].split(",")))
    assert all(dark < light for dark, light in zip(outline, (red, green, blue), strict=False))
    assert tree.get("labelsEnabled") == "0"


def options(layer):
    return {option.get("name"): option.get("value") for option in layer.findall("Option/Option")}


def test_lines_are_as_wide_as_the_field_says_with_a_casing_below():
    tree = ET.fromstring(line_style("#5a5a5a", width="width_m"))
    casing, line = tree.iter("layer")
    assert tree.find("renderer-v2").get("symbollevels") == "1"
    assert (casing.get("pass"), line.get("pass")) == ("0", "1")
    assert options(line)["line_color"] == "90,90,90,255"
    assert options(casing)["line_color"] == "27,27,27,255"
    assert {options(layer)["line_width_unit"] for layer in (casing, line)} == {"RenderMetersInMapUnits"}
    found = [
        layer.find(".//Option[@name='outlineWidth']/Option[@name='expression']").get("value")
        for layer in (casing, line)
    ]
    assert found == ['coalesce("width_m", 3) + 1.2', 'coalesce("width_m", 3)']


def test_widths_without_metres_are_in_units_of_the_map():
    tree = ET.fromstring(layer_style("roads", "#5a5a5a", width="width_px"))
    assert {options(layer)["line_width_unit"] for layer in tree.iter("layer")} == {"MapUnit"}
    assert 'coalesce("width_px", 3)' in {option.get("value") for option in tree.iter("Option")}


def test_points_are_left_out_at_small_scales():
    tree = ET.fromstring(point_style("#5a5a5a"))
    assert (tree.get("hasScaleBasedVisibilityFlag"), tree.get("minScale"), tree.get("maxScale")) == ("1", "5000", "0")
    assert "Rendering" in tree.get("styleCategories")


@pytest.mark.parametrize(
    ("layer", "symbol"),
    [
        ("buildings", "fill"),
        ("road_surfaces", "fill"),
        ("water & ice", "fill"),
        ("roads", "line"),
        ("road_nodes", "marker"),
    ],
)
def test_every_layer_has_a_style(layer, symbol):
    tree = ET.fromstring(layer_style(layer, "#e34a33"))
    assert [found.get("type") for found in tree.iter("symbol")] == [symbol]
    assert (tree.get("labelsEnabled"), tree.get("hasScaleBasedVisibilityFlag") == "1") == ("0", layer == "road_nodes")


def test_surfaces_let_more_through_than_buildings():
    alphas = [
        int(options(ET.fromstring(layer_style(layer, "#e34a33")).find(".//layer"))["color"].split(",")[3])
        for layer in ("road_surfaces", "buildings")
    ]
    assert alphas[0] < alphas[1]


def test_class_raster_style_lists_the_classes():
    name = 'gravel & <"sand">'
    tree = ET.fromstring(class_raster_style({0: ("background", "#000000"), 2: (name, "#aabbcc")}))
    entries = [(e.get("value"), e.get("color"), e.get("label")) for e in tree.iter("paletteEntry")]
    assert entries == [("0", "#000000", "background"), ("2", "#aabbcc", name)]
