"""QGIS styles as text. No QGIS needed to write them."""

from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_FILL_ALPHA = 120  # of 255: what lies beneath stays visible
_OUTLINE_SHADE = 0.6


def polygon_style(color: str) -> str:
    """QML of a polygon layer: a translucent fill in the class's colour with a darker outline, no labels.

    Args:
        color: "#rrggbb".

    Returns:
        QML text, for the table `layer_styles` of a GeoPackage or a `.qml` file.
    """
    red, green, blue = _rgb(color)
    dark = [round(channel * _OUTLINE_SHADE) for channel in (red, green, blue)]
    options = {
        "color": f"{red},{green},{blue},{_FILL_ALPHA}",
        "style": "solid",
        "outline_color": f"{dark[0]},{dark[1]},{dark[2]},255",
        "outline_style": "solid",
        "outline_width": "0.26",
        "outline_width_unit": "MM",
        "joinstyle": "miter",
    }
    lines = [f'<Option type="QString" name="{name}" value="{value}"/>' for name, value in options.items()]
    return (
        f'{_HEAD}<qgis version="3.22" styleCategories="Symbology|Labeling" labelsEnabled="0">\n'
        '<renderer-v2 type="singleSymbol" symbollevels="0" enableorderby="0" forceraster="0">\n'
        '<symbols><symbol type="fill" name="0" alpha="1" clip_to_extent="1" force_rhr="0">\n'
        '<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">\n'
        + "\n".join(lines)
        + "\n</Option></layer></symbol></symbols>\n</renderer-v2>\n<blendMode>0</blendMode>\n</qgis>\n"
    )


def class_raster_style(classes: Mapping[int, tuple[str, str]]) -> str:
    """QML of a class raster: a colour and a name for each class, nodata transparent.

    Args:
        classes: (name, "#rrggbb") by pixel value.

    Returns:
        QML text, for a `.qml` file beside the raster.
    """
    entries = [
        f'<paletteEntry value="{value}" color={quoteattr(color)} alpha="255" label={quoteattr(name)}/>'
        for value, (name, color) in classes.items()
    ]
    return (
        f'{_HEAD}<qgis version="3.22" styleCategories="Symbology">\n<pipe>\n'
        '<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">\n<colorPalette>\n'
        + "\n".join(entries)
        + "\n</colorPalette>\n</rasterrenderer>\n</pipe>\n<blendMode>0</blendMode>\n</qgis>\n"
    )


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
