"""How QGIS shows footprints: coloured by what a tile is for."""

_COLORS = {"train": "67,99,216", "val": "245,130,49", "none": "128,128,128"}


def footprint_style() -> str:
    """QML of the layer of footprints: train blue, val orange, none grey; outlines with a faint fill."""
    entries = "\n".join(
        f'<category value="{split}" symbol="{index}" label="{split}" render="true"/>'
        for index, split in enumerate(_COLORS)
    )
    symbols = "\n".join(_symbol(index, color) for index, color in enumerate(_COLORS.values()))
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis version="3.22" styleCategories="Symbology|Labeling" labelsEnabled="0">\n'
        '<renderer-v2 type="categorizedSymbol" attr="split" symbollevels="0" enableorderby="0" forceraster="0">\n'
        f"<categories>\n{entries}\n</categories>\n<symbols>\n{symbols}\n</symbols>\n</renderer-v2>\n"
        "<blendMode>0</blendMode>\n</qgis>\n"
    )


def _symbol(index: int, color: str) -> str:
    options = {
        "color": f"{color},60",
        "style": "solid",
        "outline_color": f"{color},255",
        "outline_style": "solid",
        "outline_width": "0.4",
        "outline_width_unit": "MM",
    }
    lines = "".join(f'<Option type="QString" name="{name}" value="{value}"/>' for name, value in options.items())
    return (
        f'<symbol type="fill" name="{index}" alpha="1" clip_to_extent="1" force_rhr="0">'
        f'<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">{lines}</Option>'
        "</layer></symbol>"
    )
