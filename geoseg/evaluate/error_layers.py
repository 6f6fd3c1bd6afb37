"""Error layers: faults as polygons and lines for QGIS, the worst first, each kind in its colour."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from geoseg.evaluate.features import Features, Plane
from geoseg.metrics.faults import KINDS, Fault, worst_first
from geoseg.vectors import write_layers

POLYGONS, LINES = "errors", "line_errors"
"""Names of the layers."""
_FINEST_M = 1e-3
_COLORS = dict(zip(KINDS, ("#d7191c", "#ff7f00", "#7b3294", "#2b5cd9", "#e6ab02"), strict=True))
_NAMES = {kind: kind.replace("_", " ") for kind in KINDS}


def write_errors(
    path: Path,
    polygons: Mapping[str, tuple[Sequence[Fault], Features, Features]] | None,
    lines: Mapping[str, tuple[Sequence[Fault], Features, Features]] | None,
    plane: Plane,
) -> None:
    """Write faults to a GeoPackage: layer `errors` of polygons, `line_errors` of lines, in the CRS of the plane.

    Args:
        path: A temporary name; see `geoseg.vectors.write_layers`.
        polygons: By class, the faults and the predicted and reference features that their rows are of; None for no
            layer of polygons.
        lines: The same of lines.
        plane: Where the faults' metres lie.

    Raises:
        OutputError: If the file cannot be written.
    """
    layers = {}
    if polygons is not None:
        layers[POLYGONS] = _frame(polygons, plane, "size_m2")
    if lines is not None:
        layers[LINES] = _frame(lines, plane, "length_m")
    write_layers(path, layers, styles={name: error_style("line" if name == LINES else "fill") for name in layers})


def _frame(
    faults: Mapping[str, tuple[Sequence[Fault], Features, Features]], plane: Plane, size: str
) -> gpd.GeoDataFrame:
    class_of = {id(fault): name for name, (found, _, _) in faults.items() for fault in found}
    ordered = worst_first([fault for found, _, _ in faults.values() for fault in found])
    names = [class_of[id(fault)] for fault in ordered]
    shapes = np.array([fault.geometry for fault in ordered], object)
    shapes = plane.back(_several(shapes) if size == "size_m2" else shapes)
    columns = {
        "id": np.arange(1, len(ordered) + 1),
        "kind": [fault.kind for fault in ordered],
        "class": names,
        size: np.array([round(fault.size, 3) for fault in ordered], np.float64),
        "predicted": [_ids(faults[name][1], fault.predicted) for name, fault in zip(names, ordered, strict=True)],
        "reference": [_ids(faults[name][2], fault.reference) for name, fault in zip(names, ordered, strict=True)],
    }
    if size == "size_m2":
        for name in ("iou", "distance_m"):
            values = [getattr(fault, name) for fault in ordered]
            columns[name] = np.array([np.nan if value is None else round(value, 4) for value in values], np.float64)
    frame = gpd.GeoDataFrame(columns, geometry=shapes, crs=plane.crs)
    return frame.astype(dict.fromkeys(("kind", "class", "predicted", "reference"), object))


def _several(shapes: np.ndarray) -> np.ndarray:
    """Multipolygons, whatever came in: a layer is of one type. Slivers thinner than a millimetre are rounding."""
    parts, owner = shapely.get_parts(shapely.set_precision(shapes, _FINEST_M), return_index=True)
    solid = shapely.get_dimensions(parts) == 2
    wholes = np.full(len(shapes), shapely.MultiPolygon(), object)
    shapely.multipolygons(parts[solid], indices=owner[solid], out=wholes)
    return wholes


def _ids(features: Features, rows: Sequence[int]) -> str:
    """Feature ids in the file, as text: "12, 13"."""
    return ", ".join(str(features.ids[row]) for row in rows)


def error_style(symbol: str) -> str:
    """QML of a layer of faults: a colour for each value of `kind`.

    Args:
        symbol: "fill" for polygons, "line" for lines.
    """
    kinds = KINDS if symbol == "fill" else ("miss", "false_alarm")
    categories = "\n".join(
        f'<category value="{kind}" label="{_NAMES[kind]}" symbol="{index}" render="true" type="string"/>'
        for index, kind in enumerate(kinds)
    )
    symbols = "\n".join(_symbol(symbol, index, _COLORS[kind]) for index, kind in enumerate(kinds))
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis version="3.22" styleCategories="Symbology|Labeling" labelsEnabled="0">\n'
        '<renderer-v2 type="categorizedSymbol" attr="kind" symbollevels="0" enableorderby="0" forceraster="0">\n'
        f"<categories>\n{categories}\n</categories>\n<symbols>\n{symbols}\n</symbols>\n</renderer-v2>\n"
        "<blendMode>0</blendMode>\n</qgis>\n"
    )


def _symbol(symbol: str, index: int, color: str) -> str:
    rgb = ",".join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))
    if symbol == "fill":
        options = {
            "color": f"{rgb},110", "style": "solid", "outline_color": f"{rgb},255", "outline_style": "solid",
            "outline_width": "0.5", "outline_width_unit": "MM", "joinstyle": "miter",
        }  # fmt: skip
    else:
        options = {
            "line_color": f"{rgb},255", "line_style": "solid", "line_width": "1", "line_width_unit": "MM",
            "capstyle": "round", "joinstyle": "round",
        }  # fmt: skip
    lines = "".join(f'<Option type="QString" name="{name}" value="{value}"/>' for name, value in options.items())
    kind = "SimpleFill" if symbol == "fill" else "SimpleLine"
    return (
        f'<symbol type="{symbol}" name="{index}" alpha="1" clip_to_extent="1" force_rhr="0">'
        f'<layer class="{kind}" enabled="1" locked="0" pass="0"><Option type="Map">{lines}</Option></layer></symbol>'
    )
