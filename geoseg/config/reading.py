"""Configurations as YAML files: read strictly, changed by key, refused by file, key and what was expected."""

import os
import re
from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from geoseg.config.schema import ClassConfig, FolderSource, SceneSource, TownSource, TrainConfig
from geoseg.errors import ConfigError


def load_config(path: Path | None, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """The configuration of a file, with changes on top.

    Args:
        path: A YAML file, or None for the defaults. Relative paths in it start from its folder; `${NAME}` stands for
            an environment variable and is kept as text until a file is opened (`resolve_path`).
        changes: By key, with dots between its levels: `optimizer.lr`.

    Raises:
        ConfigError: If the file cannot be read or is no strict YAML, or a key or value is wrong.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read(path)
        _anchor(tree, path.resolve().parent)
    for key, value in (changes or {}).items():
        _change(tree, key, value)
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as err:
        raise ConfigError(f"{path or 'settings'}: {_describe(err)}") from err


def parse_change(text: str) -> tuple[str, Any]:
    """Key and value of `key=value`; the value is YAML.

    Raises:
        ConfigError: If it is no such pair.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is no change. Expected key=value, for example optimizer.lr=1e-3.")
    return key.strip(), _parse(value, f"--set {text!r}")


def dump_config(config: TrainConfig) -> str:
    """The configuration as YAML that `load_config` reads back to an equal one."""
    tree = config.model_dump(mode="json", exclude_none=True, by_alias=True)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def resolve_path(text: str) -> Path:
    """A path of a configuration with its `${NAME}` filled from the environment.

    Raises:
        ConfigError: If such a variable is not set.
    """

    def fill(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if not value:
            raise ConfigError(f"path={text!r} needs the environment variable {match[1]}, which is not set. Set it.")
        return value

    return Path(re.sub(r"\$\{(\w+)\}", fill, text))


class _Loader(yaml.SafeLoader):
    """SafeLoader without what makes YAML surprising or expensive: duplicate keys and aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError(f"line {self.peek_event().start_mark.line + 1} has an alias (*). Write the value out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1} has the key {key!r} a second time.")
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where 1e-3 is a string; people who write learning rates mean a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a stricter SafeLoader
    except ConfigError as err:
        raise ConfigError(f"{where}: {err}") from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise ConfigError(f"{where} is no YAML: {' '.join(str(err).split())}") from err


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"config={path} is not a file. Expected a YAML file.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"config={path} cannot be read: {err}. Expected a YAML file in UTF-8.") from err
    tree = _parse(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}. Expected keys and values at the top level.")
    return tree


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    """Make the relative paths of the sources absolute, so that the configuration can be stored elsewhere."""
    data = tree.get("data")
    sources = data.get("sources") if isinstance(data, dict) else None
    for source in sources if isinstance(sources, list) else []:
        # The labels of a folder are a pattern inside it.
        names = ("folder",) if isinstance(source, dict) and "folder" in source else ("scene", "labels", "labelled_area")
        for name in names:
            value = source.get(name) if isinstance(source, dict) else None
            if isinstance(value, str) and not value.startswith("${"):
                source[name] = str(folder / value)


def _change(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    at = tree
    for name in parents:
        below = at.setdefault(name, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{key}: {name} has no keys of its own. Expected the keys of a configuration.")
        at = below
    at[last] = value


def _describe(err: ValidationError) -> str:
    """The first thing wrong, in one line."""
    first = err.errors(include_url=False)[0]
    # The tag of a union ("scene", "folder") is part of pydantic's location and not of the file.
    parts = [p for i, p in enumerate(first["loc"]) if not (i == 3 and first["loc"][:2] == ("data", "sources"))]
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")
    if first["type"] == "extra_forbidden":
        known = _siblings(first["loc"])
        near = get_close_matches(str(parts[-1]), known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{key} is no key that geoseg knows.{hint} Expected one of {', '.join(known)}."
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"{message}."
    given = "" if isinstance(first["input"], dict | list) else f"={first['input']!r}"
    return f"{key}{given} is wrong. Expected: {message[:1].lower()}{message[1:]}."


def _siblings(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that could stand where the unknown one does."""
    model: Any = TrainConfig
    if loc[:2] == ("data", "sources"):
        model = {"scene": SceneSource, "folder": FolderSource, "synthetic": TownSource}[str(loc[3])]
        loc = loc[3:]
    elif loc[0] == "classes":
        model = ClassConfig
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return [field.alias or name for name, field in model.model_fields.items()]
