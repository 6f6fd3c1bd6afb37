"""Outlines of a prediction: its classes as vectors, from the cells in its spool."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from geoseg.checkpoint import Header
from geoseg.errors import UsageError
from geoseg.grid import Grid
from geoseg.layers import Layer
from geoseg.outputs import Outputs
from geoseg.spool import Spool
from geoseg.targets.files import REVIEW
from geoseg.vectors import (
    OutlineOptions,
    Outlining,
    SpoolPlanes,
    check_names,
    check_review,
    vector_files,
    write_features,
)
from geoseg.vectors.cleaning import Cleaning, clean
from geoseg.vectors.features import Feature
from geoseg.vectors.formats import VectorFiles
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import Planes
from geoseg.vectors.review import check_verdicts
from geoseg.windows import Plan


@dataclass(frozen=True, slots=True)
class Outlines:
    """What is outlined of a prediction, and the files it goes to."""

    of: Mapping[str, Outlining]
    """By layer of labels; of each head whose pixels have one class."""
    files: VectorFiles
    """Where the layers go."""
    review: int | None = None
    """A further layer of so many features, and so many cells, that are least certain."""

    @classmethod
    def prepare(
        cls,
        path: Path,
        header: Header,
        layers: Mapping[str, Layer],
        metric: Metric,
        others: Iterable[Path],
        review: int | None = None,
    ) -> "Outlines":
        """Refuse what cannot be outlined, before a pixel is predicted.

        Args:
            path: File to write.
            header: Of the model.
            layers: What the cells hold.
            metric: Of the pixels.
            others: Further files of the run.
            review: Features, and cells, of the layer of what is least certain; None for no such layer.

        Raises:
            UsageError: If there is nothing to outline, names do not fit, or the ending is unknown; if a review is asked
                for in a file that holds a single layer, or of several heads.
        """
        found = {}
        for name, layer in layers.items():
            if is_class_raster(layer):
                classes = header.heads[layer.head].classes
                chosen = {value: item.name for value, item in enumerate(classes) if value}
                colors = {item.name: item.color for item in classes}
                found[name] = Outlining(chosen, colors, OutlineOptions(gsd=metric.given_gsd))
        if not found:
            raise UsageError(
                "--vectors: no head of the model gives each pixel one class. Expected classes to outline. Leave it out."
            )
        names = [name for outlining in found.values() for name in outlining.layers]
        if review is not None:
            if len(found) > 1:
                raise UsageError(
                    f"--review: {len(found)} heads of the model give each pixel a class. Expected one, which verdicts "
                    "are of. Leave it out, and review each raster with geoseg vectorize --review."
                )
            check_review(review, path, names)
            names.append(REVIEW)
        check_names(names)
        check_verdicts(path)
        return cls(found, vector_files(path, names, crs=metric.grid.crs, others=others), review)

    @property
    def paths(self) -> dict[str, Path]:
        """The files that hold layers: `vectors`, or several `vectors_<layer>`."""
        files = self.files.layers
        if len(set(files.values())) == 1:
            return {"vectors": next(iter(files.values()))}
        return {f"vectors_{layer}": path for layer, path in files.items()}

    def write(self, outputs: Outputs, planes: Mapping[str, Planes]) -> dict[str, int]:
        """Outline all planes, by layer of labels, and write under temporary names; features by layer."""
        features: dict[str, Feature] = {}
        for name, outlining in self.of.items():
            features |= outlining.outline(planes[name], next(iter(self.files.paths.values())).parent)
            if self.review is not None:
                features[REVIEW] = outlining.review(features, planes[name], self.review)
        return write_features(self.files, features, outputs)


def planes_of(
    spool: Spool, plan: Plan, grid: Grid, header: Header, layers: Mapping[str, Layer], cleaning: Cleaning
) -> dict[str, Planes]:
    """The pixels of each head that gives them one class, cleaned, by layer of labels."""
    found: dict[str, Planes] = {}
    for name, layer in layers.items():
        if is_class_raster(layer):
            classes = {value: item.name for value, item in enumerate(header.heads[layer.head].classes)}
            probabilities = name.replace("labels", "probabilities", 1)
            planes = SpoolPlanes(
                spool,
                plan,
                grid,
                classes,
                name,
                probabilities if probabilities in layers else None,
                f"{header.arch} {header.sha256[:12]}",
            )
            found[name] = clean(planes, [value for value in classes if value], cleaning)
    return found


def is_class_raster(layer: Layer) -> bool:
    """Whether a layer's pixels have one class each."""
    return layer.kind == "labels" and layer.bands is None
