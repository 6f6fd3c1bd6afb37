"""What is wrong with a configuration, in one line: the key as the user wrote it, how it is wrong, what was expected.

What was expected is read off the JSON schema of the pydantic models: it is said in one place, theirs.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from geoseg.config.schema import TrainConfig
from geoseg.errors import nearest

Schema = dict[str, Any]
Parts = list[str | int]

_HOW = {
    "greater_than": "is out of range",
    "greater_than_equal": "is out of range",
    "less_than": "is out of range",
    "less_than_equal": "is out of range",
    "finite_number": "is not finite",
    "string_pattern_mismatch": "has the wrong form",
    "missing": "is missing",
}
_SHOWN = 60
"""Characters of a value that are repeated."""


def describe(err: ValidationError, tree: Mapping[str, Any], path: Path | None, typed: Mapping[str, str]) -> str:
    """The first thing wrong, in one line.

    Args:
        err: What `TrainConfig` has to say of `tree`.
        tree: The configuration.
        path: The file it was read from, if any.
        typed: What stands on the command line for a key, such as "--lr -1" for "optimizer.lr": said in its place.
    """
    first = err.errors(include_url=False)[0]
    loc, own = first["loc"], first["msg"].removeprefix("Value error, ")
    file = f"{path}: " if path else ""
    if not loc:  # of several keys
        return f"{file}{own}."
    if first["type"] in ("extra_forbidden", "invalid_key"):
        parts, schema = _walk(loc[:-1])
        key, shown, wrong = _key([*parts, str(loc[-1])]), "", _unknown(parts, str(loc[-1]), schema)
    else:
        named = loc[-1] == "[key]"
        parts, schema = _walk(loc[:-2] if named else loc)
        value, key = _value(tree, parts), _key(parts)
        if named and "propertyNames" in schema:
            rule = _rule(schema["propertyNames"])
            return f"{file}{key} has the key {str(loc[-2])!r}, which is of the wrong form. Expected {rule}."
        shown = f"={value!r}" if len(repr(value)) < _SHOWN and (value is not None or first["type"] != "missing") else ""
        wrong = f"{_how(first['type'], own, value)}. Expected {_rule(schema)}."
    if key in typed:
        return f"{typed[key]} {wrong}"
    # A change of a key above it, or of one that cannot be below it.
    near = [name for name in typed if key.startswith((f"{name}.", f"{name}[")) or name.startswith(f"{key}.")]
    return f"{typed[max(near, key=len)] + ': ' if near else file}{key}{shown} {wrong}"


def _how(kind: str, own: str, value: Any) -> str:
    if kind in ("value_error", "source_kind"):  # these are our own words
        return own
    if isinstance(value, list) and kind in ("too_short", "too_long", "missing"):
        return f"has {len(value)} {'entry' if len(value) == 1 else 'entries'}"
    return _HOW.get(kind, "is of the wrong kind")


def _unknown(parts: Parts, name: str, schema: Schema) -> str:
    known = list(next(one for one in (schema, *schema.get("anyOf", ())) if "properties" in one)["properties"])
    hint = nearest(name, known)
    if hint and parts:
        hint = nearest(_key([*parts, name]), [_key([*parts, key]) for key in known])
    if not hint:  # it may belong further down
        hint = next((f" Did you mean {key!r}?" for key in _keys(_schema()) if key.endswith(f".{name}")), "")
    return f"is no key that geoseg knows.{hint} Expected one of {', '.join(known)}."


def _rule(schema: Schema) -> str:
    """What belongs there, in plain words."""
    kind = schema.get("type")
    if "properties" in schema:
        return f"the keys {', '.join(schema['properties'])}"
    if "description" in schema:
        return str(schema["description"])
    if options := schema.get("anyOf"):
        return " or ".join(map(_rule, options))
    if options := schema.get("enum"):
        return " or ".join([", ".join(map(str, options[:-1])), str(options[-1])])
    if kind in ("number", "integer"):
        return ("a number" if kind == "number" else "a whole number") + _bounds(schema)
    if kind == "array":
        return "a list"
    return {"string": "text", "boolean": "true or false", "object": "keys and values"}.get(str(kind), "another value")


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if schema["type"] == "integer" and below is not None:
        high, below = below - 1, None
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None and below is not None:
        return f" from {low} to below {below}"
    if above is not None:
        return f" above {above}" + (f", up to {high}" if high is not None else "")
    return "" if low is None else f" of at least {low}"


def _key(parts: Parts) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _value(tree: Any, parts: Parts) -> Any:
    """What stands at a key; None if nothing does."""
    try:
        for part in parts:
            tree = tree[part]
    except (KeyError, IndexError, TypeError):
        return None
    return tree


def _walk(loc: tuple[str | int, ...]) -> tuple[Parts, Schema]:
    """From the place that pydantic names to the key of the file, and what belongs there.

    Which member of a union was tried is part of pydantic's place and not of the file. A window or a range is one value.
    """
    parts: Parts = []
    schema = _schema()
    for part in loc:
        if "prefixItems" in schema:
            break
        if (below := _below(schema, part)) is not None:
            parts.append(part)
            schema = below
        else:
            schema = next((one for one in schema.get("oneOf", ()) if part in one["required"]), schema)
    return parts, schema


def _below(schema: Schema, part: str | int) -> Schema | None:
    inside = schema.get("properties", {}).get(part, schema.get("additionalProperties"))
    found = schema.get("items") if isinstance(part, int) else inside
    if isinstance(found, dict):
        return found
    # Of a union, keys by name only: pydantic's place names the member that was tried, too.
    return next((one["properties"][part] for one in schema.get("anyOf", ()) if part in one.get("properties", ())), None)


def _keys(schema: Schema, prefix: str = "") -> Iterator[str]:
    """Every key that is not in a list, with dots between its levels."""
    for name, below in schema.get("properties", {}).items():
        yield prefix + name
        yield from _keys(below, f"{prefix}{name}.")


def _schema() -> Schema:
    whole = TrainConfig.model_json_schema()
    return _plain(whole, whole["$defs"])


def _plain(schema: Schema, models: Mapping[str, Schema]) -> Schema:
    """Without references, and without the null of keys that may be left out."""
    if "$ref" in schema:
        return _plain(models[schema["$ref"].rpartition("/")[2]], models)
    if "allOf" in schema:  # how older releases of pydantic refer
        return _plain(schema["allOf"][0], models)
    schema = dict(schema)
    for name in ("anyOf", "oneOf", "prefixItems"):
        if name in schema:
            schema[name] = [_plain(one, models) for one in schema[name] if one.get("type") != "null"]
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            schema[name] = _plain(schema[name], models)
    for one in schema.pop("patternProperties", {}).values():
        schema["additionalProperties"] = _plain(one, models)
    if "properties" in schema:
        schema["properties"] = {name: _plain(one, models) for name, one in schema["properties"].items()}
    return schema["anyOf"][0] if len(schema.get("anyOf", ())) == 1 else schema
