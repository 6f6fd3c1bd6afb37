"""QGIS styles as text. No QGIS needed to write them."""

from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_FILL_ALPHA = 120  # of 255: what lies beneath stays visible
_SURFACE_ALPHA = 70  # centrelines are drawn over it
_OUTLINE_SHADE = 0.6
_CASING_SHADE = 0.3
_LINE_OPACITY = 0.75
_CASING_M = 1.2  # both sides together
_LEAST_MM = (0.7, 0.3)  # casing and line, however small the scale
_NODES_SCALE = 5000  # one to this, and larger


def layer_style(layer: str, color: str, *, width: str = "width_m") -> str:
    """QML of a layer that geoseg writes, by the layer's name.

    Args:
        layer: "roads" for centrelines, "road_nodes" for their ends, "road_surfaces", or any other for polygons.
        color: "#rrggbb" of the class.
        width: Field of centrelines that holds the road's width: `width_m` in metres, any other in units of the CRS.

    Returns:
        QML text, for the table `layer_styles` of a GeoPackage or a `.qml` file.
    """
    if layer == "roads":
        return line_style(color, width=width)
    if layer == "road_nodes":
        return point_style(color)
    return polygon_style(color, alpha=_SURFACE_ALPHA if layer == "road_surfaces" else _FILL_ALPHA)


def polygon_style(color: str, *, alpha: int = _FILL_ALPHA) -> str:
    """QML of a polygon layer: a translucent fill in the class's colour with a darker outline, no labels.

    Args:
        color: "#rrggbb".
        alpha: Of the fill, 0 clear to 255 opaque.

    Returns:
        QML text, for the table `layer_styles` of a GeoPackage or a `.qml` file.
    """
    fill = {
        "color": _rgba(color, alpha=alpha),
        "style": "solid",
        "outline_color": _rgba(color, shade=_OUTLINE_SHADE),
        "outline_style": "solid",
        "outline_width": "0.26",
        "outline_width_unit": "MM",
        "joinstyle": "miter",
    }
    return _vector_style("fill", _symbol_layer("SimpleFill", fill))


def line_style(color: str, *, width: str) -> str:
    """QML of a line layer: lines as wide on the map as on the ground, cased in a darker shade, crossings open.

    Args:
        color: "#rrggbb".
        width: Field with the width: `width_m` in metres, whatever the unit of the CRS; any other in units of the CRS.
            A line without one is 3 wide.

    Returns:
        QML text, for the table `layer_styles` of a GeoPackage or a `.qml` file.
    """
    field = f'coalesce("{width}", 3)'
    widths = (f"{field} + {_CASING_M}", field)
    layers = [
        _symbol_layer(
            "SimpleLine",
            {
                "line_color": _rgba(color, shade=shade),
                "line_style": "solid",
                "line_width": "3",
                "line_width_unit": "RenderMetersInMapUnits" if width == "width_m" else "MapUnit",
                "width_map_unit_scale": f"3x:0,0,1,{least},0,0",
                "capstyle": "round",
                "joinstyle": "round",
            },
            level=level,
            properties={"outlineWidth": expression},
        )
        for level, (shade, least, expression) in enumerate(zip((_CASING_SHADE, 1), _LEAST_MM, widths, strict=True))
    ]
    return _vector_style("line", *layers, opacity=_LINE_OPACITY)


def point_style(color: str) -> str:
    """QML of a point layer: white dots with a dark rim in the class's colour, at 1 : 5 000 and larger only.

    Args:
        color: "#rrggbb".

    Returns:
        QML text, for the table `layer_styles` of a GeoPackage or a `.qml` file.
    """
    dot = {
        "name": "circle",
        "color": "255,255,255,255",
        "outline_color": _rgba(color, shade=_OUTLINE_SHADE),
        "outline_style": "solid",
        "outline_width": "0.3",
        "outline_width_unit": "MM",
        "size": "1.4",
        "size_unit": "MM",
    }
    return _vector_style("marker", _symbol_layer("SimpleMarker", dot), least_scale=_NODES_SCALE)


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


def _vector_style(kind: str, *layers: str, opacity: float = 1, least_scale: int | None = None) -> str:
    """One symbol for all features. Its layers are drawn one after the other through the whole map, not by feature."""
    scales = f' hasScaleBasedVisibilityFlag="1" minScale="{least_scale}" maxScale="0"' if least_scale else ""
    return (
        f'{_HEAD}<qgis version="3.22" styleCategories="Symbology|Labeling|Rendering" labelsEnabled="0"{scales}>\n'
        f'<renderer-v2 type="singleSymbol" symbollevels="{int(len(layers) > 1)}" enableorderby="0" forceraster="0">\n'
        f'<symbols><symbol type="{kind}" name="0" alpha="1" clip_to_extent="1" force_rhr="0">\n'
        + "".join(layers)
        + f"</symbol></symbols>\n</renderer-v2>\n<blendMode>0</blendMode>\n<layerOpacity>{opacity}</layerOpacity>\n"
        "</qgis>\n"
    )


def _symbol_layer(
    kind: str, options: Mapping[str, str], *, level: int = 0, properties: Mapping[str, str] | None = None
) -> str:
    """A layer of a symbol.

    Args:
        kind: QGIS's name of its class.
        options: What it looks like.
        level: When it is drawn, from 0.
        properties: Expressions, by what they decide in place of an option.
    """
    by_field = "".join(
        f'<Option type="Map" name="{name}"><Option type="bool" name="active" value="true"/>'
        f'<Option type="QString" name="expression" value={quoteattr(expression)}/>'
        '<Option type="int" name="type" value="3"/></Option>\n'
        for name, expression in (properties or {}).items()
    )
    return (
        f'<layer class="{kind}" enabled="1" locked="0" pass="{level}"><Option type="Map">\n'
        + "".join(f'<Option type="QString" name="{name}" value="{value}"/>\n' for name, value in options.items())
        + "</Option>\n"
        + (
            '<data_defined_properties><Option type="Map"><Option type="QString" name="name" value=""/>\n'
            f'<Option type="Map" name="properties">\n{by_field}</Option>\n'
            '<Option type="QString" name="type" value="collection"/></Option></data_defined_properties>\n'
            if by_field
            else ""
        )
        + "</layer>\n"
    )


def _rgba(color: str, *, shade: float = 1, alpha: int = 255) -> str:
    """A colour given as #rrggbb, darkened, as QGIS writes it."""
    red, green, blue = (round(int(color[start : start + 2], 16) * shade) for start in (1, 3, 5))
    return f"{red},{green},{blue},{alpha}"
