"""Styles as text: well-formed, with the class's colours and names whatever they contain."""

from xml.etree import ElementTree as ET

from geoseg.qgis import class_raster_style, polygon_style


def test_polygon_style_has_the_class_colour():
    tree = ET.fromstring(polygon_style("#e34a33"))
    options = {option.get("name"): option.get("value") for option in tree.iter("Option")}
    red, green, blue, alpha = map(int, options["color"].split(","))
    assert (red, green, blue) == (0xE3, 0x4A, 0x33)
    assert 0 < alpha < 255
    outline = list(map(int, options["outline_color"].split(",")))
    assert all(dark < light for dark, light in zip(outline, (red, green, blue), strict=False))
    assert tree.get("labelsEnabled") == "0"


def test_class_raster_style_lists_the_classes():
    name = 'gravel & <"sand">'
    tree = ET.fromstring(class_raster_style({0: ("background", "#000000"), 2: (name, "#aabbcc")}))
    entries = [(e.get("value"), e.get("color"), e.get("label")) for e in tree.iter("paletteEntry")]
    assert entries == [("0", "#000000", "background"), ("2", "#aabbcc", name)]
