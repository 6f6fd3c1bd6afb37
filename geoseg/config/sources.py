"""What a configuration may say of where labelled ground comes from."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from geoseg.config.fields import Box, FilePath, Positive, Range, Strict

TRAINING_SEEDS = 1_000_000
"""Synthetic towns for training have seeds below this; those of `geoseg demo` and of tests lie above it."""


class _Source(Strict):
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
    targets: dict[str, str] = Field(default_factory=dict)
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
