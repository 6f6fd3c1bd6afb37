"""The class of each feature: from a field, from the layer's name, or the only one there is."""

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import geopandas as gpd
import numpy as np

from geoseg.errors import LabelsError, UsageError, listed, nearest
from geoseg.targets.files import are_lines

log = logging.getLogger(__name__)

CLASS_FIELDS = ("class", "kind", "label", "type", "name")
"""Fields looked at for class names, in this order, when none is named."""
_NEARLY = 0.8
"""Of `difflib`: so alike are a word and its misspelling; "house" and "hose" are, "road" and "roof" are not."""
_MOST_CLASSES = 255
"""A field of more values does not hold classes."""


def class_codes(
    frame: gpd.GeoDataFrame,
    path: Path,
    names: tuple[str, ...],
    *,
    class_field: str | None,
    default_class: str | None,
    drawn: tuple[str, ...],
) -> np.ndarray:
    """(N,) uint8 class index of each feature of a layer; 0, the background, where its field names no class.

    Args:
        frame: Features of one layer.
        path: For messages.
        names: All classes, the background first.
        class_field: The field that holds class names; None looks for one.
        default_class: The class of features that no field or layer name tells.
        drawn: The classes that features may be of, in `names`; the contact class, for one, is nobody's.

    Raises:
        LabelsError: If the field names no class at all, or nothing tells which class the features are of.
        UsageError: If the layer has no field `class_field`.
    """
    column = _class_column(frame, path, _code_of(names), class_field)
    if column is not None:
        return _codes_of_column(frame, column, path, names)
    named = _layer_code(frame, names)
    if named is not None or default_class is not None:
        return np.full(len(frame), named if named is not None else names.index(default_class or ""), np.uint8)
    codes = np.zeros(len(frame), np.uint8)
    lines = are_lines(frame)
    for kind, chosen in (("road", lines), ("building", ~lines)):
        if chosen.any():
            codes[chosen] = names.index(_only_class(path, drawn, kind))
    return codes


def check_layers(frames: Sequence[gpd.GeoDataFrame], path: Path, names: tuple[str, ...]) -> None:
    """Refuse layers of polygons that tell no class beside others that do: areas, notes and the like are no buildings.

    Raises:
        LabelsError: With their names.
    """
    told = {
        frame.attrs["layer"]: _layer_code(frame, names) is not None
        or _class_column(frame, path, _code_of(names), None) is not None
        for frame in frames
        if not are_lines(frame).all()
    }
    silent = [layer for layer, says in told.items() if not says]
    if silent and len(silent) < len(told):
        others = listed(layer for layer, says in told.items() if says)
        raise LabelsError(
            f"{path} layer {silent[0]!r} does not say the classes of its features, as {others} does. Expected the name "
            "of a class in a field or as the layer's. Choose one layer with --layer, or layer in a configuration."
        )
    if len(silent) > 1:
        log.warning("%s: all its layers are read (%s); --layer chooses one", path, ", ".join(silent))


def class_values(frame: gpd.GeoDataFrame, class_field: str | None) -> list[str]:
    """What a layer may say of the classes of its features: the values of a field, or of all the usual ones."""
    found: list[str] = []
    for field in (class_field,) if class_field else CLASS_FIELDS:
        column = column_named(frame, field)
        if column is not None and frame[column].dtype.kind not in "biuf":
            found += sorted(set(frame[column].dropna().astype(str).str.strip()))
    return found


def column_named(frame: gpd.GeoDataFrame, field: str) -> str | None:
    """A frame's column of that name, whatever its case, or None. A column spelt the same comes first."""
    columns = [str(name) for name in frame.columns if name != frame.geometry.name]
    return next((name for name in columns if name == field), None) or next(
        (name for name in columns if name.casefold() == field.casefold()), None
    )


def no_column(frame: gpd.GeoDataFrame, what: str, field: str, path: Path) -> UsageError:
    """What to raise for a field that is not there."""
    fields = [str(name) for name in frame.columns if name != frame.geometry.name]
    return UsageError(
        f"{what}={field!r} is not in {path.name}.{nearest(field, fields)} Its fields: {', '.join(fields) or 'none'}."
    )


def _code_of(names: tuple[str, ...]) -> dict[str, int]:
    return {name.casefold(): code for code, name in enumerate(names)}


def _layer_code(frame: gpd.GeoDataFrame, names: tuple[str, ...]) -> int | None:
    """The class that the layer is named after."""
    layer = frame.attrs["layer"].casefold()
    return next((code for name, code in _code_of(names).items() if layer in (name, f"{name}s")), None)


def _codes_of_column(frame: gpd.GeoDataFrame, column: str, path: Path, names: tuple[str, ...]) -> np.ndarray:
    code_of = _code_of(names)
    values = frame[column].astype(str).str.strip()
    codes = values.str.casefold().map(code_of)
    if unknown := sorted(set(values[codes.isna()])):
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        count = int(codes.isna().sum())
        _check_typos(path, column, unknown, [name for name in names[1:] if code_of[name.casefold()] not in set(codes)])
        if count == len(frame):
            raise LabelsError(
                f"{path} field {column!r} holds {shown}. Expected names of classes ({', '.join(names)}). "
                "Choose the field with --class-field."
            )
        log.warning("%s: %d features of other classes (%s) count as %s", path, count, shown, names[0])
    return codes.fillna(0).to_numpy(np.uint8)


def _class_column(frame: gpd.GeoDataFrame, path: Path, code_of: dict[str, int], class_field: str | None) -> str | None:
    """The column that holds class names."""
    if class_field is not None:
        column = column_named(frame, class_field)
        if column is None:
            raise no_column(frame, "class field", class_field, path)
        return column
    for wanted in CLASS_FIELDS:
        column = column_named(frame, wanted)
        if column is not None and frame[column].astype(str).str.strip().str.casefold().isin(code_of).any():
            return column
    for wanted in CLASS_FIELDS:  # a field of something else is passed over, one that means the same is not
        column = column_named(frame, wanted)
        values = class_values(frame, wanted)
        if column is not None and len(values) <= _MOST_CLASSES and wanted != "name":  # which may be a name of anything
            _check_typos(path, column, values, list(code_of)[1:])
    return None


def _check_typos(path: Path, column: str, values: list[str], names: list[str]) -> None:
    """Refuse a class that no feature has, where some have one of nearly the same name: no plural, no "building 1".

    Raises:
        UsageError: With the values of the field.
    """
    for name in names:
        near = get_close_matches(name.casefold(), [value.casefold() for value in values], n=1, cutoff=_NEARLY)
        one, two = name.casefold(), near[0] if near else ""
        # Of two words one of which begins or ends with the other, each has a meaning of its own: unpaved, buildings.
        if near and not any(a.startswith(b) or a.endswith(b) for a, b in ((one, two), (two, one))):
            shown = listed(values[:10]) + (", ..." if len(values) > 10 else "")
            raise UsageError(
                f"class={name!r} is not in {path}, whose field {column!r} holds {shown}.{nearest(name, values)} "
                "Expected its names. Choose them with --classes."
            )


def _only_class(path: Path, drawn: tuple[str, ...], kind: str) -> str:
    """The class of features that say nothing of it: of lines "road", of polygons "building"."""
    if len(drawn) == 1:
        return drawn[0]
    if kind not in drawn:
        raise LabelsError(
            f"{path} does not say of its features whether they are {' or '.join(drawn)}. "
            "Expected a field with class names. Name it with --class-field."
        )
    log.warning("%s does not say the classes of its features: all are taken for %s", path, kind)
    return kind
