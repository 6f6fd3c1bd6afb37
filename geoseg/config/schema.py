"""What a configuration may say: pydantic models, strict, unknown keys are errors."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from geoseg.config.fields import Count, Positive, Range, Share, Strict
from geoseg.config.sources import TRAINING_SEEDS, SceneSource, Source, TownSource
from geoseg.errors import nearest

PALETTE = ("#1a1a1a", "#e6194b", "#ffe119", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#9a6324")
"""Colours of classes that name none, in order."""


class ClassConfig(Strict):
    """One class; its index is its place in the list."""

    name: Annotated[str, Field(pattern=r"^[^\s,:][^,:]*$", description="a name without commas and colons")]
    """Free of commas and colons, which separate names on the command line."""
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", description="a colour such as '#e6194b'")] | None = None
    """`#rrggbb`; None takes the next colour of `PALETTE`."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class HeadConfig(Strict):
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


class DataConfig(Strict):
    """What is learnt from, and how samples are drawn."""

    sources: tuple[Source, ...] = ()
    """At least one when training starts."""
    val: Share = 0.2
    """Share of the labelled ground kept for validation, of sources that do not say it themselves."""
    split: Literal["blocks", "scene", "manifest", "random"] | None = None
    """How that share is chosen. blocks: squares of ground, with a gap around them. scene: whole scenes, or folders of
    images. manifest: as the column `split` of the folder's manifest.csv says. random: tile by tile, although neighbours
    show the same ground. None: manifest where there is one, else blocks."""
    gap: Annotated[int, Field(ge=0)] | None = None
    """Pixels round validation blocks in which nothing is learnt. None: half a `tile_size`."""
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the samples that are cut round a pixel of a class, all classes as likely; the others lie anywhere."""
    hard: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the samples that are cut where the loss was high in the epochs before."""
    cache: str | None = None
    """Folder where decoded pixels are kept between runs. None: `geoseg` in the user's cache folder."""
    cache_gb: Positive = 20.0
    """What the folder may take on the disk; what was used longest ago goes first."""


class OptimizerConfig(Strict):
    """Steps and their size."""

    lr: Positive = 1e-3
    """Highest learning rate."""
    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """sgd: with Nesterov's momentum."""
    schedule: Literal["cosine", "one_cycle", "poly", "constant"] = "cosine"
    """What the rate does after the warm-up. cosine: down to zero. poly: down to zero by (1 - progress)^0.9. constant:
    nothing. one_cycle: up from lr/25 in a cosine over the first 30 % of the steps, then down; `warmup` has no say."""
    warmup: Share = 0.05
    """Share of all steps in which the rate climbs to `lr`."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled with adamw, else added to the gradient; never of biases and normalisation."""
    momentum: Share = 0.9
    """Of sgd."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    accumulate: Count = 1
    """Batches whose gradients make one step."""
    ema: Share = 0.998
    """Decay per step of the running average of the parameters, which is what is validated and saved. 0: no average."""
    encoder_lr: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate of the encoder."""
    freeze_encoder: Annotated[int, Field(ge=0)] = 0
    """Epochs at the start in which the encoder stays as it is."""


class AugmentationConfig(Strict):
    """Random changes to each sample. Strengths of 0 switch a change off."""

    flips: bool = True
    """Flip left-right and top-bottom, and turn by quarters."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest further turn, in degrees; corners are mirrored, with nothing to learn."""
    zoom: Range = (0.7, 1.5)
    """Range of the factor on the ground sample distance (GSD jitter), drawn evenly in the logarithm."""
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
    coarsen: Share = 0.0
    """Share of samples whose image is made up to twice as coarse, as by a poorer sensor."""
    channel_dropout: Share = 0.0
    """Share of samples of which one band is set to its mean."""


class TrainConfig(Strict):
    """Everything that decides a training run; `config.yaml` of a run folder holds one."""

    arch: str = "unet"
    """Name of an architecture."""
    arch_args: dict[str, int | float | bool | str] = Field(default_factory=dict)
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
    heads: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")], HeadConfig] = Field(
        default_factory=dict
    )
    """Several outputs instead of one, such as {surface: {classes: [background, building]}, height: {task: regression}}.
    The first head of exclusive classes, by name, takes the place of `classes` and `task`, and its labels are the
    sources' `labels`; those of the others are their `targets`."""
    task: Literal["multiclass", "binary"] = "multiclass"
    """multiclass: a logit for each class. binary: a single logit says whether a pixel is of the second of two."""
    data: DataConfig = DataConfig()
    """Where the samples come from."""
    loss: str = "cross_entropy:1,dice:1"
    """Weighted mixture of losses."""
    class_weights: Annotated[
        Literal["inverse", "sqrt_inverse", "effective"] | dict[str, Annotated[float, Field(ge=0)]] | None,
        Field(description="a rule (inverse, sqrt_inverse, effective), or numbers by class such as {road: 2}"),
    ] = None
    """Of the losses of `classes` that take class weights and name none: a rule over the training pixels, or factors by
    class; a class that is not named counts 1."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW with warm-up and cosine."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes to the samples."""
    metric: str = "score"
    """Which column of metrics.csv says what epoch is the best: score (the mean over the heads), iou_mean, iou_building,
    val_loss, height.rmse, ...; of losses and errors the lowest, else the highest."""
    patience: Count | None = None
    """Epochs without a better `metric` after which training stops early. None: never."""
    epochs: Count = 20
    """Validations and chances to be the best."""
    steps_per_epoch: Count = 100
    """Batches between two validations."""
    batch_size: Count = 8
    """Samples a step."""
    tile_size: Annotated[int, Field(ge=32, le=4096)] = 256
    """Side of a sample in pixels."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the forward pass. auto: bfloat16 where the device multiplies it, else float32."""
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
