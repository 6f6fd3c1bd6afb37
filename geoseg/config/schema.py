"""What a configuration may say: pydantic models, strict, unknown keys are errors."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from geoseg.errors import nearest

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
        raise ValueError("is empty")
    return box


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("runs downwards")
    return ends


# The descriptions are what errors say was expected, where the type alone does not tell.
Edge = Annotated[int, Field(ge=0)]
Box = Annotated[
    tuple[Edge, Edge, Edge, Edge],
    AfterValidator(_not_empty),
    Field(description="a window [left, top, right, bottom]: whole numbers from 0, with left < right and top < bottom"),
]
"""A window as people write it: left, top, right, bottom in pixels, right and bottom excluded."""
Range = Annotated[
    tuple[Positive, Positive],
    AfterValidator(_rising),
    Field(description="two numbers above 0, [low, high] with low <= high"),
]
FilePath = Annotated[str, Field(description="a path")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ClassConfig(_Strict):
    """One class; its index is its place in the list."""

    name: Annotated[str, Field(pattern=r"^[^\s,:][^,:]*$", description="a name without commas and colons")]
    """Free of commas and colons, which separate names on the command line."""
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", description="a colour such as '#e6194b'")] | None = None
    """`#rrggbb`; None takes the next colour of `PALETTE`."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class HeadConfig(_Strict):
    """One of several outputs that share a network."""

    task: Literal["multiclass", "binary", "multilabel", "regression"] = "multiclass"
    """multiclass, binary: one of the classes, the first of which is the background. multilabel: any number of them.
    regression: a value."""
    classes: Annotated[
        tuple[Annotated[ClassConfig, BeforeValidator(_named)], ...],
        Field(description="a list of classes, each a name or a name and a color"),
    ] = ()
    """By index; none for regression."""
    loss: str | None = None
    """Weighted mixture of losses. None: `bce:1,dice:1` for multilabel, `huber:1` for regression, else `loss`."""
    weight: Positive = 1.0
    """What the head's loss counts for beside the others'."""
    unit: str = ""
    """Of the values of a regression."""

    @model_validator(mode="after")
    def _classes_fit(self) -> Self:
        least, most = {"multiclass": (2, 254), "binary": (2, 2), "multilabel": (1, 254), "regression": (0, 0)}[
            self.task
        ]
        if not least <= len(self.classes) <= most:
            raise ValueError(f"has {len(self.classes)} classes; {self.task} takes {least} to {most}")
        if len({item.name for item in self.classes}) < len(self.classes):
            raise ValueError("has one class twice")
        return self

    @property
    def exclusive(self) -> bool:
        """Whether each pixel has one of the classes."""
        return self.task in ("multiclass", "binary")


class _Source(_Strict):
    known: tuple[str, ...] | None = None
    """Classes these labels tell apart; where none of them is drawn lies any of the others. None: all classes."""
    values: Annotated[dict[int, str], Field(description="class names by pixel value, such as {1: building}")] | None = (
        None
    )
    """Value in a label raster -> class; values not listed are ignored. None: values are class indices, 255 ignored."""
    gsd: Positive | None = None
    """Metres per pixel where the files do not tell."""
    zoom: Range | None = None
    """Overrides `augmentation.zoom` for this source."""
    targets: dict[str, str] = {}
    """Label rasters of the further heads: head -> path, or glob pattern in a folder. One band of class indices, 255 is
    unknown; multilabel: a band for each class of 0 and 1, 255 is unknown; regression: one band of values."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """How often windows are drawn here, relative to the other sources; 0 leaves the source out."""


class SceneSource(_Source):
    """A georeferenced scene with a vector layer, or with a label raster of the same size."""

    scene: FilePath | Annotated[tuple[FilePath, ...], Field(min_length=1)]
    """Path of the raster; of several, the dates of one stack: all bands of the first, then all of the second."""
    labels: FilePath | None = None
    """Path of the vector layer or the label raster; only left out where no head has exclusive classes."""
    class_field: str | None = None
    """Attribute that names a feature's class. None: every feature is of class `class`."""
    class_name: Annotated[str | None, Field(alias="class")] = None
    """Class of every feature. None: the first class after the background."""
    labelled_area: FilePath | None = None
    """Polygons outside which nothing is known."""
    bands: tuple[int | str, ...] | None = None
    """Numbers from 1, or names. None: every band but alpha."""
    train: tuple[Box, ...] | None = None
    """Windows to learn from. None: the whole scene, less the validation windows."""
    val: tuple[Box, ...] | None = None
    """Windows to validate on; nothing is learnt there, also where a training window overlaps them."""

    model_config = ConfigDict(populate_by_name=True)

    @property
    def scenes(self) -> tuple[str, ...]:
        """The raster, or the dates of a stack."""
        return (self.scene,) if isinstance(self.scene, str) else self.scene


class FolderSource(_Source):
    """A folder of images, each with a label raster of the same size."""

    folder: FilePath
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
    gsd_range: Range = (0.15, 0.6)
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
        custom_error_message="names no source",
    ),
    Field(description="one of the keys scene, folder, synthetic, and what goes with it"),
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
    zoom: Range = (0.7, 1.5)
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
    pretrained: Annotated[bool | str | None, Field(description="true, or the path of a PyTorch file")] = None
    """What the encoder, VGG or ResNet, begins with. true: torchvision's ImageNet weights, downloaded once. A path: a
    file of the same names. None or false: fresh weights."""
    classes: Annotated[
        tuple[ClassConfig, ...],
        Field(
            min_length=2,
            max_length=254,
            description="a list of 2 to 254 classes, each with a name, the background first",
        ),
    ] = (
        ClassConfig(name="background", color="#1a1a1a"),
        ClassConfig(name="building", color="#e6194b"),
        ClassConfig(name="road", color="#ffe119"),
    )
    """By index; the first is the background."""
    heads: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")], HeadConfig] = {}
    """Several outputs instead of one, such as {surface: {classes: [background, building]}, height: {task: regression}}.
    The first head of exclusive classes, by name, takes the place of `classes` and `task`, and its labels are the
    sources' `labels`; those of the others are their `targets`."""
    task: Literal["multiclass", "binary"] = "multiclass"
    """multiclass: a logit for each class. binary: a single logit says whether a pixel is of the second of two."""
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

    @model_validator(mode="before")
    @classmethod
    def _take_main_head(cls, given: Any) -> Any:
        heads = given.get("heads") if isinstance(given, Mapping) else None
        if not isinstance(heads, Mapping):
            return given
        parsed = {name: HeadConfig.model_validate(head) for name, head in sorted(heads.items())}
        main = [head for head in parsed.values() if head.exclusive]
        if not main:
            return given
        own = {"classes": main[0].classes, "task": main[0].task}
        return {**given, **own, **({"loss": main[0].loss} if main[0].loss else {})}

    @field_validator("task")
    @classmethod
    def _two_classes(cls, task: str, info: ValidationInfo) -> str:
        if task == "binary" and len(info.data.get("classes", ())) != 2:
            raise ValueError("is for two classes, the background and another; choose them with 'classes'")
        return task

    @field_validator("classes")
    @classmethod
    def _names_differ(cls, classes: tuple[ClassConfig, ...]) -> tuple[ClassConfig, ...]:
        names = [item.name for item in classes]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"has the name {twice[0]!r} twice")
        return classes

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = self.class_names
        for index, source in enumerate(self.data.sources):
            if isinstance(source, SceneSource) and self.main_head and source.labels is None:
                raise ValueError(f"data.sources[{index}].labels is missing. Expected a path")
            said = [*(source.known or ()), *(source.values or {}).values()]
            said += [source.class_name] if isinstance(source, SceneSource) and source.class_name else []
            if unknown := [name for name in said if name not in names]:
                raise ValueError(
                    f"data.sources[{index}] names class {unknown[0]!r}.{nearest(unknown[0], names)} "
                    f"Expected one of {', '.join(names)}"
                )
            further = self.further_heads
            if unknown := [name for name in source.targets if name not in further]:
                raise ValueError(
                    f"data.sources[{index}].targets names head {unknown[0]!r}.{nearest(unknown[0], further)} "
                    f"Expected one of {', '.join(further) or 'none: there is only one head'}"
                )
            if isinstance(source, TownSource) and source.seed + source.synthetic > TRAINING_SEEDS:
                raise ValueError(
                    f"seeds of data.sources[{index}] go up to {TRAINING_SEEDS}. Expected fewer, or lower ones"
                )
        return self

    @property
    def main_head(self) -> str | None:
        """Name of the head that the sources' `labels` are of: the first of exclusive classes, None without any."""
        heads = sorted(self.heads.items())
        return next((name for name, head in heads if head.exclusive), None if heads else "main")

    @property
    def further_heads(self) -> dict[str, HeadConfig]:
        """The other heads, by name."""
        return {name: head for name, head in sorted(self.heads.items()) if name != self.main_head}

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
