"""Configurations as YAML files: read strictly, changed by key, refused by file, key and what was expected."""

import os
import re
from collections.abc import Hashable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from geoseg.config.refusal import describe
from geoseg.config.schema import TrainConfig
from geoseg.errors import ConfigError


def load_config(
    path: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    typed: Mapping[str, str] | None = None,
) -> TrainConfig:
    """The configuration of a file, with changes on top.

    Args:
        path: A YAML file, or None for the defaults. Relative paths in it start from its folder; `${NAME}` stands for
            an environment variable and is kept as text until a file is opened (`resolve_path`).
        changes: By key, with dots between its levels: `optimizer.lr`.
        defaults: Keys of the top level, for what neither the file nor a change says. Where one of the two says
            `classes` or `heads`, the defaults of `classes`, `heads` and `task` are left out.
        typed: What the user typed for a change, by its key, such as "--lr -1": an error begins with it.

    Raises:
        ConfigError: If the file cannot be read or is no strict YAML, or a key or value is wrong.
    """
    tree: dict[str, Any] = {}
    path = None if path is None else Path(path)
    if path is not None:
        tree = _read(path)
        _anchor(tree, path.resolve().parent)
    own = {"classes", "heads"} & (tree.keys() | (changes or {}).keys())
    for key, value in (defaults or {}).items():
        if not own or key not in ("classes", "heads", "task"):
            tree.setdefault(key, deepcopy(value))  # changes go into it
    for key, value in (changes or {}).items():
        _change(tree, key, value, (typed or {}).get(key, key))
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as err:
        raise ConfigError(describe(err, tree, path, typed or {})) from err


def parse_change(text: str) -> tuple[str, Any]:
    """Key and value of `key=value`; the value is YAML.

    Raises:
        ConfigError: If it is no such pair.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is no change. Expected key=value, for example optimizer.lr=1e-3.")
    found = _parse(value, f"--set {text!r}")
    if isinstance(found, dict) and (glued := next((name for name in found if ":" in str(name)), None)):
        name, _, inside = str(glued).partition(":")
        raise ConfigError(
            f"--set {text!r}: {glued!r} is no key and value. Expected a space after the colon. "
            f"Try --set {key.strip()}.{name}={inside}."
        )
    return key.strip(), found


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
    """Make relative paths absolute, so that the configuration can be stored elsewhere."""

    def start(at: Any, *names: str) -> None:
        for name in names if isinstance(at, dict) else ():
            value = at.get(name)
            if isinstance(value, str) and not value.startswith("${"):
                at[name] = str(folder / value)
            elif isinstance(value, list):  # the dates of a stack
                at[name] = [str(folder / one) if isinstance(one, str) and one[:2] != "${" else one for one in value]

    start(tree, "pretrained")
    data = tree.get("data")
    start(data, "cache")
    sources = data.get("sources") if isinstance(data, dict) else None
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, dict) and "folder" in source:
            start(source, "folder")  # its labels and targets are patterns inside it
        elif isinstance(source, dict):
            start(source, "scene", "labels", "labelled_area", "add")
            targets = source.get("targets")
            start(targets, *(targets if isinstance(targets, dict) else ()))


def _change(tree: dict[str, Any], key: str, value: Any, typed: str) -> None:
    *parents, last = key.split(".")
    at = tree
    for name in parents:
        below = at.setdefault(name, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{typed}: {name} has no keys of its own. Expected the keys of a configuration.")
        at = below
    at[last] = value
