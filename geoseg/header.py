"""Header: what a checkpoint says of itself, and what makes it right. Torch is not needed to know it."""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

_MAX_CHANNELS = 1024
"""Of the logits: what a cell of them takes must fit into memory."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable characters")
    return text


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
HeadName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]
"""A head's name becomes part of the name of a file."""
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=1 << 20)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ClassInfo(_Strict):
    """One class."""

    name: Name
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
    """#rrggbb."""


class Head(_Strict):
    """One output of the network: some channels of its logits."""

    task: Literal["multiclass", "binary", "multilabel", "regression"] = "multiclass"
    """multiclass: each pixel has one of the classes. binary: it is of the second class, or not, by a single logit.
    multilabel: it has any number of them. regression: it has a value."""
    classes: Annotated[tuple[ClassInfo, ...], Field(max_length=255)] = ()
    """By index in the logits; the first is the background where each pixel has one class. None for regression."""
    scale: Positive = 1.0
    """Of regression: the value is the logit times this, plus `offset`."""
    offset: float = 0.0
    """See `scale`."""
    unit: Annotated[str, Field(max_length=100), AfterValidator(_printable)] = ""
    """Of the values."""

    @model_validator(mode="after")
    def _classes_fit(self) -> Self:
        if len({item.name for item in self.classes}) < len(self.classes):
            raise ValueError("two classes have one name")
        least, most = {"multiclass": (2, 255), "binary": (2, 2), "multilabel": (1, 255), "regression": (0, 0)}[
            self.task
        ]
        if not least <= len(self.classes) <= most:
            raise ValueError(f"a {self.task} head with {len(self.classes)} classes; expected {least} to {most}")
        return self

    @property
    def channels(self) -> int:
        """Channels of the logits."""
        return len(self.classes) if self.task in ("multiclass", "multilabel") else 1

    @property
    def switched(self) -> tuple[str, ...]:
        """Names of the classes that are taken or not by a probability of their own."""
        if self.task == "regression" or self.task == "multiclass":
            return ()
        return tuple(item.name for item in self.classes[1 if self.task == "binary" else 0 :])

    @property
    def exclusive(self) -> bool:
        """Whether each pixel has one of the classes, the first of which is the background."""
        return self.task in ("multiclass", "binary")


def _by_name(heads: dict[str, Head]) -> dict[str, Head]:
    # JSON objects have no order: one that the channels depend on must not be left to the writer.
    return dict(sorted(heads.items()))


class GroundSampling(NamedTuple):
    """Metres per pixel of the training samples."""

    min: Positive
    """The finest."""
    max: Positive
    """The coarsest."""
    best: Positive
    """The most usual."""


class Header(_Strict):
    """What a checkpoint says of itself. Within format 1 an unknown key is an error."""

    format: Literal[1] = 1
    """Version of this layout."""
    arch: Name
    """A key of `geoseg.models.MODELS`."""
    arch_args: dict[str, bool | int | float | str] = {}
    """The architecture's own arguments."""
    bands: Annotated[tuple[Name, ...], Field(min_length=1, max_length=4096)]
    """Names of the input bands, in the network's order."""
    mean: tuple[float, ...]
    """Training mean per band, in the scene's units; also what invalid pixels are filled with."""
    std: tuple[Positive, ...]
    """Training standard deviation per band."""
    value_range: tuple[tuple[float, float], ...]
    """Lowest and highest training value per band."""
    dtype: Name
    """Pixel type of the training scenes, such as `uint8`."""
    gsd: GroundSampling | None = None
    """Metres per pixel seen in training; None where the training data had no georeference."""
    heads: Annotated[dict[HeadName, Head], Field(min_length=1, max_length=64), AfterValidator(_by_name)]
    """The network's outputs; the logits' channels are in the alphabetical order of their names."""
    cell_side: Annotated[int, Field(ge=1, le=1 << 15)]
    """Side of a cell in pixels, a multiple of `stride`; where the context is unbounded, of what the network sees."""
    stride: Count
    """The factor the network's deepest level is downsampled by."""
    receptive_radius: Annotated[int, Field(ge=0, le=1 << 13)] | None
    """Pixels on each side of a pixel that its logits depend on; None where that is unbounded."""
    temperature: Positive = 1.0
    """Divides the logits before the softmax, so that probabilities are calibrated."""
    thresholds: dict[Name, Annotated[float, Field(ge=0, le=1)]] = {}
    """Probability above which a class of a binary or multilabel head is taken, by the class's name; else one half."""
    licence: Annotated[str, Field(max_length=4000)] = ""
    """Of the training data."""
    origin: Annotated[str, Field(max_length=4000)] = ""
    """Whose training data it is."""
    card: Annotated[str, Field(max_length=40_000)] = ""
    """Markdown: what the model is for, what it learnt from, how good it is on unseen ground, where it fails."""
    metrics: dict[str, JsonValue] = {}
    """Scores on the held-out set."""
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of the tensors as stored and of the rest of this header; `save_checkpoint` fills it in."""
    geoseg_version: Annotated[str, Field(max_length=100)] = ""
    """The version that wrote the file; `save_checkpoint` fills it in."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        for name in ("mean", "std", "value_range"):
            if len(getattr(self, name)) != len(self.bands):
                raise ValueError(f"{len(self.bands)} bands, but {name} has {len(getattr(self, name))} entries")
        if any(low > high for low, high in self.value_range):
            raise ValueError("a value_range runs downwards")
        if self.gsd and not self.gsd.min <= self.gsd.best <= self.gsd.max:
            raise ValueError("gsd is not in the order min <= best <= max")
        takes = [name for head in self.heads.values() for name in head.switched]
        if wrong := [name for name in self.thresholds if takes.count(name) != 1]:
            raise ValueError(f"the threshold of {wrong[0]!r} is of no class, or of several, that is taken by itself")
        if len({name.casefold() for name in self.heads}) < len(self.heads):
            raise ValueError("two heads have names that differ in their case alone")
        if self.channels > _MAX_CHANNELS:
            raise ValueError(f"the heads have {self.channels} channels; expected at most {_MAX_CHANNELS}")
        if self.cell_side % self.stride:
            raise ValueError(f"cell_side {self.cell_side} is no multiple of stride {self.stride}")
        return self

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Classes of the first head that has any, by index."""
        return next((head.classes for head in self.heads.values() if head.classes), ())

    @property
    def channels(self) -> int:
        """Of the logits, all heads together."""
        return sum(head.channels for head in self.heads.values())
