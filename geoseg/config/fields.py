"""Kinds of values that configurations share, and the strict model under all of them."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):  # `patience: yes` would be 1
        raise ValueError("is no number")
    return value


NoSwitch = BeforeValidator(_no_switch)
"""Beside a number's bounds: true and false are none."""
Share = Annotated[float, Field(ge=0, lt=1), NoSwitch]
Positive = Annotated[float, Field(gt=0), NoSwitch]
Count = Annotated[int, Field(ge=1), NoSwitch]


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
Edge = Annotated[int, Field(ge=0), NoSwitch]
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


class Strict(BaseModel):
    """Frozen; unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
