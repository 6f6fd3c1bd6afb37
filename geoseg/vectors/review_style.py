"""How QGIS shows what is to be reviewed: outlines by verdict, and a list to choose the verdict from."""

from collections.abc import Iterable
from xml.sax.saxutils import quoteattr

_RULES = {
    "not looked at": ("coalesce(trim(\"verdict\"), '') = ''", "255,127,0,255"),
    "yes": ("lower(trim(\"verdict\")) = 'yes'", "51,160,44,255"),
    "no": ("lower(trim(\"verdict\")) = 'no'", "227,26,28,255"),
    "a class": ("ELSE", "31,120,180,255"),
}
"""Filter and outline by what the legend says."""


def review_style(classes: Iterable[str]) -> str:
    """QML of the layer `review`.

    Args:
        classes: Names that a verdict may be, beside yes and no.

    Returns:
        QML text, for the table `layer_styles` of a GeoPackage.
    """
    rules = "".join(
        f'<rule key="{{rule-{at}}}" symbol="{at}" filter={quoteattr(expression)} label={quoteattr(said)}/>\n'
        for at, (said, (expression, _)) in enumerate(_RULES.items())
    )
    symbols = "".join(_symbol(at, color) for at, (_, color) in enumerate(_RULES.values()))
    choices = "".join(
        f'<Option type="Map"><Option type="QString" name={quoteattr(said)} value={quoteattr(value)}/></Option>\n'
        for said, value in {"not looked at": "", "yes": "yes", "no": "no", **{name: name for name in classes}}.items()
    )
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis version="3.22" styleCategories="Symbology|Labeling|Fields|Rendering" labelsEnabled="0">\n'
        f'<renderer-v2 type="RuleRenderer" symbollevels="0" enableorderby="0" forceraster="0">\n'
        f'<rules key="{{root}}">\n{rules}</rules>\n<symbols>\n{symbols}</symbols>\n</renderer-v2>\n'
        '<blendMode>0</blendMode>\n<layerOpacity>1</layerOpacity>\n<fieldConfiguration>\n<field name="verdict">'
        '<editWidget type="ValueMap"><config><Option type="Map"><Option type="List" name="map">\n'
        f"{choices}</Option></Option></config></editWidget></field>\n</fieldConfiguration>\n</qgis>\n"
    )


def _symbol(name: int, color: str) -> str:
    options = {
        "style": "no",
        "outline_color": color,
        "outline_style": "solid",
        "outline_width": "0.6",
        "outline_width_unit": "MM",
        "joinstyle": "miter",
    }
    return (
        f'<symbol type="fill" name="{name}" alpha="1" clip_to_extent="1" force_rhr="0">'
        '<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">\n'
        + "".join(f'<Option type="QString" name="{key}" value="{value}"/>\n' for key, value in options.items())
        + "</Option></layer></symbol>\n"
    )
