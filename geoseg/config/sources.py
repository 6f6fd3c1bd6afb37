"""What a configuration may say of where labelled ground comes from."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from geoseg.config.fields import Box, FilePath, NoSwitch, Positive, Range, Strict

TRAINING_SEEDS = 1_000_000
"""Synthetic towns for training have seeds below this; those of `geoseg demo` and of tests lie above it."""


class _Source(Strict):
    known: tuple[str, ...] | None = None
    """Classes these labels tell apart; where none of them is drawn lies any of the others. None: all classes."""
    values: Annotated[dict[int, str], Field(description="class names by pixel value, such as {1: building}")] | None = (
        None
    )
    """Value in a label raster -> class; values not listed are ignored. None: values are class indices, 255 ignored."""
    colors: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")], str],
            Field(description="class names by colour, such as {'#3C1098': building}"),
        ]
        | None
    ) = None
    """Colour in a label raster of three bands, or in its palette -> class; colours not listed are ignored. None: the
    colours of `classes`, where a raster has those."""
    gsd: Positive | None = None
    """Metres per pixel where the files do not tell."""
    zoom: Range | None = None
    """Overrides `augmentation.zoom` for this source."""
    targets: dict[str, str] = Field(default_factory=dict)
    """Label rasters of the further heads: head -> path, or glob pattern in a folder. One band of class indices, 255 is
    unknown; multilabel: a band for each class of 0 and 1, 255 is unknown; regression: one band of values."""
    weight: Annotated[float, Field(ge=0), NoSwitch] = 1.0
    """How often windows are drawn here, relative to the other sources; 0 leaves the source out."""


class SceneSource(_Source):
    """A georeferenced scene with a vector layer, or with a label raster of the same size."""

    scene: FilePath | Annotated[tuple[FilePath, ...], Field(min_length=1)]
    """Path of the raster; of several, the dates of one stack: all bands of the first, then all of the second."""
    labels: FilePath | None = None
    """Path of the vector layer or the label raster; only left out where `add` is given, or no head has
    exclusive classes."""
    add: Annotated[tuple[FilePath, ...], Field(min_length=1)] | None = None
    """Paths of GeoPackages of `geoseg vectorize --review` in which verdicts were written: what was judged is labelled
    so, whatever `labels` say, also outside `labelled_area`; of several the later win. Without `labels` nothing else is
    known."""
    layer: str | None = None
    """Layer of the vector file. None: all with polygons."""
    class_field: str | None = None
    """Attribute that names a feature's class. None: class, kind, label, type or name, if one holds names of classes."""
    class_name: Annotated[str | None, Field(alias="class")] = None
    """Class of features that no attribute and no layer's name tells. None: the only one there is, else building for
    polygons and road for lines."""
    line_width_m: Positive | None = None
    """Width of lines, such as roads, in metres on the ground where no attribute has it."""
    width_field: str | None = None
    """Attribute with a line's width in metres. None: `width_m` or `width`, if there is one."""
    contact: str | None = None
    """Class painted where two buildings touch, or nearly."""
    invalid_geometry: Literal["error", "fix", "skip"] = "error"
    """What happens to polygons that cross themselves."""
    labelled_area: FilePath | None = None
    """Polygons outside which nothing is known."""
    shift: tuple[float, float] | None = None
    """Pixels, right and down, by which vector labels are moved that were drawn on other imagery."""
    bands: tuple[int | str, ...] | None = None
    """Numbers from 1, or names. None: every band but alpha."""
    train: tuple[Box, ...] | None = None
    """Windows to learn from. None: the whole scene, less the validation windows."""
    val: tuple[Box, ...] | None = None
    """Windows to validate on; nothing is learnt there, nor in `data.gap` round them, also where a training window
    overlaps them. None: as `data.split` says if `train` is not given either, else none."""

    model_config = ConfigDict(populate_by_name=True)

    @property
    def scenes(self) -> tuple[str, ...]:
        """The raster, or the dates of a stack."""
        return (self.scene,) if isinstance(self.scene, str) else self.scene


class FolderSource(_Source):
    """A folder of images, each with a label raster of the same size.

    Without patterns the content tells: manifest.csv as `geoseg tile` writes it, PASCAL VOC, Cityscapes, folders train
    and val, images/ and labels/ (or masks/), images with their masks (`_mask`) beside them.
    """

    folder: FilePath
    """Path the patterns start from."""
    images: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Glob pattern of the images. Several: files of bands, or of dates, that belong together where their `*` stand for
    the same. None: as the content tells, else `images/*`."""
    labels: str | None = None
    """Glob pattern of an image's label raster; {stem} is the image's name without ending (with several patterns: what
    their last `*` stands for), {parent} its folder. None: as the content tells, else `labels/{stem}.*`."""
    split: Literal["train", "val"] | None = None
    """What all images here are for. None: as `data.split` says."""
    bands: tuple[int | str, ...] | None = None
    """Numbers from 1, or names. None: every band but alpha."""


class TownSource(_Source):
    """Synthetic towns, drawn when training starts."""

    synthetic: Annotated[int, Field(ge=1, le=1000), NoSwitch]
    """How many."""
    size: Annotated[int, Field(ge=64, le=4096), NoSwitch] = 768
    """Side in pixels."""
    gsd_range: Range = (0.15, 0.6)
    """Metres per pixel, drawn evenly in the logarithm."""
    seed: Annotated[int, Field(ge=0, lt=TRAINING_SEEDS), NoSwitch] = 0
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
