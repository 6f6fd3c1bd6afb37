"""What a network answers, in a configuration: classes, and heads of classes, labels or values."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from geoseg.config.fields import Positive, Strict
from geoseg.errors import UsageError

PALETTE = (
    "#1a1a1a", "#e6194b", "#ffe119", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#9a6324",
    "#bfef45", "#fabed4", "#469990", "#dcbeff", "#808000", "#800000", "#aaffc3", "#ffd8b1", "#000075", "#a9a9a9",
)  # fmt: skip
"""Colours of classes that name none, in order."""


class ClassConfig(Strict):
    """One class; its index is its place in the list."""

    name: Annotated[str, Field(pattern=r"^[^\s,:][^,:]*$", description="a name without commas and colons")]
    """Free of commas and colons, which separate names on the command line."""
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", description="a colour such as '#e6194b'")] | None = None
    """`#rrggbb`; None takes the next colour of `PALETTE`."""


def check_class_names(names: Iterable[str], where: str) -> None:
    """Refuse what no configuration takes for a class's name.

    Raises:
        UsageError: Begins with `where`.
    """
    for name in names:
        try:
            ClassConfig(name=name)
        except ValidationError as err:
            rule = ClassConfig.model_fields["name"].description
            raise UsageError(f"{where}: class {name!r} has the wrong form. Expected {rule}.") from err


HeadName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$",
        description="names of letters, digits, hyphens and underscores",
    ),
]
"""What the files of a head's results are called by."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class HeadConfig(Strict):
    """One of several outputs that share a network."""

    task: Literal["multiclass", "binary", "multilabel", "regression"] = "multiclass"
    """multiclass, binary: one of the classes, the first of which is the background. multilabel: any number of them.
    regression: a value."""
    classes: Annotated[
        tuple[Annotated[ClassConfig, BeforeValidator(_named, json_schema_input_type=str | ClassConfig)], ...],
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
