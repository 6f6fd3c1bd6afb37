"""Kinds of values that configurations share, and the strict model under all of them."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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


class Strict(BaseModel):
    """Frozen; unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
