"""The YAML files of `configs/` as pydantic models: strict, and every refusal names file, key and what was expected."""

import os
import re
from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from geoseg.errors import ConfigError

TRAINING_SEEDS = 1_000_000
"""Synthetic towns for training have seeds below this; those of `geoseg demo` and of tests lie above it."""

PALETTE = ("#1a1a1a", "#e6194b", "#ffe119", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#9a6324")
"""Colours of classes that name none, in order."""

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _not_empty(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise ValueError("a window [left, top, right, bottom] with left < right and top < bottom")
    return box


Edge = Annotated[int, Field(ge=0)]
Box = Annotated[tuple[Edge, Edge, Edge, Edge], AfterValidator(_not_empty)]
"""A window as people write it: left, top, right, bottom in pixels, right and bottom excluded."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ClassConfig(_Strict):
    """One class; its index is its place in the list."""

    name: Annotated[str, Field(pattern=r"^[^\s,:][^,:]*$")]
    """Free of commas and colons, which separate names on the command line."""
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None
    """`#rrggbb`; None takes the next colour of `PALETTE`."""


class _Source(_Strict):
    known: tuple[str, ...] | None = None
    """Classes these labels tell apart; where none of them is drawn lies any of the others. None: all classes."""
    values: dict[int, str] | None = None
    """Value in a label raster -> class; values not listed are ignored. None: values are class indices, 255 ignored."""
    gsd: Positive | None = None
    """Metres per pixel where the files do not tell."""
    zoom: tuple[Positive, Positive] | None = None
    """Overrides `augmentation.zoom` for this source."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """How often windows are drawn here, relative to the other sources; 0 leaves the source out."""


class SceneSource(_Source):
    """A georeferenced scene with a vector layer, or with a label raster of the same size."""

    scene: str
    """Path of the raster."""
    labels: str
    """Path of the vector layer or the label raster."""
    class_field: str | None = None
    """Attribute that names a feature's class. None: every feature is of class `class`."""
    class_name: Annotated[str | None, Field(alias="class")] = None
    """Class of every feature. None: the first class after the background."""
    labelled_area: str | None = None
    """Polygons outside which nothing is known."""
    bands: tuple[int | str, ...] | None = None
    """Numbers from 1, or names. None: every band but alpha."""
    train: tuple[Box, ...] | None = None
    """Windows to learn from. None: the whole scene, less the validation windows."""
    val: tuple[Box, ...] | None = None
    """Windows to validate on; nothing is learnt there, also where a training window overlaps them."""

    model_config = ConfigDict(populate_by_name=True)


class FolderSource(_Source):
    """A folder of images, each with a label raster of the same size."""

    folder: str
    """Path the two patterns start from."""
    images: str = "images/*"
    """Glob pattern of the images."""
    labels: str = "labels/{stem}.*"
    """Glob pattern of an image's label raster; {stem} is the image's name without ending, {parent} its folder."""
    split: Literal["train", "val"] | None = None
    """What all images here are for. None: the last `data.val` share, in order of name, is for validation."""
    bands: tuple[int | str, ...] | None = None
    """Numbers from 1, or names. None: every band but alpha."""


class TownSource(_Source):
    """Synthetic towns, drawn when training starts."""

    synthetic: Annotated[int, Field(ge=1, le=1000)]
    """How many."""
    size: Annotated[int, Field(ge=64, le=4096)] = 768
    """Side in pixels."""
    gsd_range: tuple[Positive, Positive] = (0.15, 0.6)
    """Metres per pixel, drawn evenly in the logarithm."""
    seed: Annotated[int, Field(ge=0, lt=TRAINING_SEEDS)] = 0
    """Of the first town; the next one has the next seed."""
    split: Literal["train", "val"] = "train"
    """What these towns are for."""


def _kind(value: Any) -> str | None:
    given = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    return next((key for key in ("scene", "folder", "synthetic") if key in given), None)


Source = Annotated[
    Annotated[SceneSource, Tag("scene")]
    | Annotated[FolderSource, Tag("folder")]
    | Annotated[TownSource, Tag("synthetic")],
    Discriminator(
        _kind,
        custom_error_type="source_kind",
        custom_error_message="a source has one of the keys scene, folder, synthetic",
    ),
]


class DataConfig(_Strict):
    """What is learnt from."""

    sources: tuple[Source, ...] = ()
    """At least one when training starts."""
    val: Share = 0.2
    """Share kept for validation of a source without a split of its own: its lower or right edge, its last tiles."""


class OptimizerConfig(_Strict):
    """AdamW."""

    lr: Positive = 1e-3
    """Highest learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled weight decay."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    warmup: Share = 0.05
    """Share of all steps in which the rate climbs to `lr`; then it follows a cosine down to zero."""
    ema: Share = 0.998
    """Decay per step of the running average of the parameters, which is what is validated and saved. 0: no average."""


class AugmentationConfig(_Strict):
    """Random changes to each sample. Strengths of 0 switch a change off."""

    flips: bool = True
    """Flip left-right and top-bottom, and turn by quarters."""
    zoom: tuple[Positive, Positive] = (0.7, 1.5)
    """Range of the factor on the ground sample distance, drawn evenly in the logarithm."""
    brightness: Share = 0.15
    """Largest shift, as a share of the value range."""
    contrast: Share = 0.25
    """Largest relative change."""
    gamma: Share = 0.25
    """Largest change of the exponent, in the logarithm."""
    color: Share = 0.08
    """Largest shift of one band against the others, as a share of the value range."""
    noise: Share = 0.03
    """Largest standard deviation of noise, as a share of the value range."""
    blur: Share = 0.25
    """Share of samples that are blurred."""


class TrainConfig(_Strict):
    """Everything that decides a training run; `config.yaml` of a run folder holds one."""

    arch: str = "unet"
    """Name of an architecture."""
    arch_args: dict[str, int | float | bool | str] = {}
    """Its arguments."""
    classes: Annotated[tuple[ClassConfig, ...], Field(min_length=2, max_length=254)] = (
        ClassConfig(name="background", color="#1a1a1a"),
        ClassConfig(name="building", color="#e6194b"),
        ClassConfig(name="road", color="#ffe119"),
    )
    """By index; the first is the background."""
    data: DataConfig = DataConfig()
    """Where the samples come from."""
    loss: str = "cross_entropy:1,dice:1"
    """Weighted mixture of losses."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW with warm-up and cosine."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes to the samples."""
    epochs: Count = 20
    """Validations and chances to be the best."""
    steps_per_epoch: Count = 100
    """Batches between two validations."""
    batch_size: Count = 8
    """Samples a step."""
    tile_size: Annotated[int, Field(ge=32, le=4096)] = 256
    """Side of a sample in pixels."""
    cell_side: Annotated[int, Field(ge=16, le=8192)] = 1536
    """Side of a prediction cell, stored in the checkpoint."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the initial parameters, the samples and their changes."""
    licence: str = ""
    """Of the data, for the checkpoint."""
    origin: str = ""
    """Whose data it is: attribution, for the checkpoint."""

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = self.class_names
        if len(set(names)) < len(names):
            raise ValueError(f"classes has a name twice. Expected different names, got {', '.join(names)}")
        for index, source in enumerate(self.data.sources):
            said = [*(source.known or ()), *(source.values or {}).values()]
            said += [source.class_name] if isinstance(source, SceneSource) and source.class_name else []
            if unknown := [name for name in said if name not in names]:
                raise ValueError(
                    f"data.sources[{index}] names class {unknown[0]!r}. Expected one of {', '.join(names)}"
                )
            if isinstance(source, TownSource) and source.seed + source.synthetic > TRAINING_SEEDS:
                raise ValueError(
                    f"seeds of data.sources[{index}] go up to {TRAINING_SEEDS}. Expected fewer, or lower ones"
                )
        if any(low > high for low, high in self._ranges()):
            raise ValueError("a range runs downwards. Expected [low, high] with low <= high")
        return self

    def _ranges(self) -> list[tuple[float, float]]:
        towns = [source.gsd_range for source in self.data.sources if isinstance(source, TownSource)]
        return [self.augmentation.zoom, *(s.zoom for s in self.data.sources if s.zoom), *towns]

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.epochs * self.steps_per_epoch

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by index."""
        return tuple(item.name for item in self.classes)

    @property
    def class_colors(self) -> tuple[str, ...]:
        """Colours by index."""
        return tuple(item.color or PALETTE[index % len(PALETTE)] for index, item in enumerate(self.classes))


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
