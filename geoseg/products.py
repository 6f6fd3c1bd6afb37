"""Products: the files a prediction writes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from geoseg.endings import check_raster_ending, check_vector_ending
from geoseg.errors import UsageError
from geoseg.layers import Keep, Layer
from geoseg.outputs import check_place


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """The files a prediction writes. Text is made a Path: see `paths`.

    Of a network with several heads each raster is one per head: `<name>_<head>.tif`.
    """

    labels: str | Path
    """Class raster: uint8, 255 = nodata. Of a multilabel head a band of 0 and 1 per class; of a regression head the
    values: float32, NaN = nodata."""
    vectors: str | Path | None = None
    """Buildings, streets and areas, in the format of the name's ending: a GeoPackage, or another."""
    confidence: str | Path | None = None
    """Probability of the chosen class: uint8, 0..254 = p * 254, 255 = nodata."""
    probabilities: str | Path | None = None
    """The same for every class, one band each."""
    attention: str | Path | None = None
    """The maps of the network's attention gates, stored as probabilities are."""
    review: int | None = None
    """A further layer `review` in `vectors`: so many features, and cells, that the model is least certain of."""

    _NAMES: ClassVar = ("labels", "vectors", "confidence", "probabilities", "attention")

    def __post_init__(self) -> None:
        for name in self._NAMES:
            value = getattr(self, name)
            if isinstance(value, str | Path):
                object.__setattr__(self, name, Path(value))
            elif value is not None or name == "labels":
                raise UsageError(f"{name}={value!r} is no path. Expected text or a Path.")
        if self.review is not None and self.vectors is None:
            raise UsageError(
                f"review={self.review} without vectors: there is nothing it could be a layer of. Expected "
                "--vectors FILE.gpkg."
            )

    @classmethod
    def beside_caller(
        cls, scene: str, models: Sequence[str], labels: str | Path | None = None, **others: Any
    ) -> "Products":
        """With `<scene>_<model>.tif` in the working directory where no class raster is named."""
        named = "_".join(Path(model).stem for model in models)
        return cls(labels=labels or Path(f"{Path(scene).stem}_{named}.tif"), **others)

    def paths(self) -> dict[str, Path]:
        """As asked for, by name, the class raster first."""
        named = {name: getattr(self, name) for name in self._NAMES}
        return {name: path for name, path in named.items() if path is not None}

    def check(self) -> None:
        """Refuse names that no model's results could be written to. What exists is left to `Outputs`.

        Raises:
            UsageError: If the ending of a name is not that of a format it can be written in.
            OutputExistsError: If a name is a folder's, or of something else that is no file.
            OutputError: If a folder is missing or not writable.
        """
        for path in self.paths().values():
            check_place(path)
        for name, path in self.paths().items():
            (check_vector_ending if name == "vectors" else check_raster_ending)(path)

    @property
    def keep(self) -> Keep:
        """What the cells must hold for these files: vectors follow the probabilities."""
        kept = {name: getattr(self, name) is not None for name in ("confidence", "probabilities", "attention")}
        return Keep(**kept | {"probabilities": kept["probabilities"] or self.vectors is not None})

    def rasters(self, layers: Mapping[str, Layer]) -> dict[str, Path]:
        """The file of each layer, by the layer's name.

        Raises:
            UsageError: If a file was asked for that the network has nothing for.
        """
        kinds = {layer.kind for layer in layers.values()}
        for name in ("confidence", "probabilities"):
            if getattr(self, name) is not None and name not in kinds:
                raise UsageError(f"--{name}: the model has no classes. Expected a model that tells classes apart.")
        several = len({layer.head for layer in layers.values() if layer.head}) > 1
        found = {}
        for name, layer in layers.items():
            path = self.paths().get("labels" if layer.kind == "values" else layer.kind)
            if path is None:  # kept for the vectors alone
                continue
            with_head = several and layer.head
            found[name] = path.with_name(f"{path.stem}_{layer.head}{path.suffix}") if with_head else path
        return found

    def disk_needs(self, layers: Mapping[str, Layer]) -> Iterator[tuple[Path, float]]:
        """Folder and bytes per pixel of all that is written, as measured on noise-like results.

        Counted are the spool, the raster before it is put in a COG's order, and the raster itself, with overviews.
        Classes take half a byte; probabilities, which hardly compress, two and a half; floats twelve. Polygons of small
        patches take half a byte.
        """
        spool, rasters = 0.0, self.rasters(layers)
        for name, layer in layers.items():
            bands = len(layer.bands or ("",))
            cell, raster = {"labels": (0.14, 0.36), "values": (3.6, 9.0)}.get(layer.kind, (0.7, 1.8))
            spool += cell * bands
            if name in rasters:
                yield rasters[name].parent, raster * bands
        yield self.paths()["labels"].parent, spool
        if self.vectors is not None:
            yield Path(self.vectors).parent, 0.5
