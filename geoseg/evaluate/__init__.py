"""evaluate_prediction(): a raster against a reference, in windows: memory depends on neither's size.

evaluate_vectors(): polygons and lines against a vector reference.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from geoseg import targets
from geoseg.errors import LabelsError, UsageError
from geoseg.evaluate.classes import ClassRaster, Reference, VectorReference, check_known, class_names, score_classes
from geoseg.evaluate.evaluation import Evaluation
from geoseg.evaluate.labels import score_labels
from geoseg.evaluate.lattice import Placed, place, region
from geoseg.evaluate.values import score_values
from geoseg.evaluate.vector_evaluation import VectorEvaluation
from geoseg.evaluate.vectors import evaluate_vectors
from geoseg.metrics import LabelScores, Scores, ValueScores
from geoseg.scene import Scene
from geoseg.targets import InvalidGeometry, LabelledArea
from geoseg.windows import Window

__all__ = ["Evaluation", "VectorEvaluation", "evaluate_prediction", "evaluate_vectors"]


def evaluate_prediction(
    predicted: str | Path,
    reference: str | Path,
    *,
    classes: Sequence[str] | None = None,
    class_field: str | None = None,
    layer: str | None = None,
    line_width_m: float | None = None,
    width_field: str | None = None,
    invalid_geometry: InvalidGeometry = "error",
    labelled_area: str | Path | None = None,
    window: Window | None = None,
    bounded: Iterable[str | None] = (),
) -> Evaluation:
    """Score a class raster against a raster or vector reference, labels or values against a raster of the same kind.

    Only classes that the reference knows are told apart: where it has buildings alone, a predicted road is no more than
    background, neither right nor wrong about roads. A raster reference knows the classes it names (all of the predicted
    raster's if it names none), a vector reference those that its features have.

    Args:
        predicted: Class raster, values = class indices, nodata where there is no prediction. Or several bands of 0 and
            1, each a label. Or a band of floating numbers: values.
        reference: Raster of the same kind on the same pixel lattice (a whole-pixel offset is fine); for a class raster
            also polygons, or lines of a known width, in any CRS.
        classes: The classes to score, besides the first; by default those that the reference knows. If the predicted
            raster names no classes, the names of its values 1, 2, ...; 0 is the background. Labels: all to score.
        class_field: Field of a vector reference that holds class names.
        layer: Layer of a vector reference.
        line_width_m: Metres on the ground that lines of a vector reference are wide, where no field says it.
        width_field: Field of a vector reference that holds the widths of lines.
        invalid_geometry: What to do with invalid polygons of a vector reference.
        labelled_area: Polygons outside of which the reference knows nothing.
        window: The part of the predicted raster to score; all by default.
        bounded: Classes whose IoU will be asked for, None for the mean: refused, before a pixel is read, if there is no
            such class, or no IoU.

    Raises:
        UsageError: If the window sticks out of the raster, or `classes` or `bounded` names one that is not there.
        SceneError: If a raster cannot be read.
        LabelsError: If the reference cannot be read, lies elsewhere, or holds what is no class.
    """
    if Path(predicted).is_file() and targets.is_vector_file(predicted):
        raise UsageError(f"{predicted} holds polygons or lines. Expected a raster. Score it with evaluate_vectors().")
    with Scene.open(predicted) as scene, ExitStack() as stack:
        raster = Placed(str(predicted), scene)
        task = _Task(
            raster, str(reference), region(raster, window), classes,
            targets.labelled_area(labelled_area, scene.grid) if labelled_area else None, tuple(bounded),
        )  # fmt: skip
        if not targets.is_vector_file(reference):
            return task.against_raster(stack.enter_context(Scene.open(reference)))
        if (kind := _kind(scene)) != "classes":
            raise LabelsError(f"{reference} holds polygons; {predicted} holds {kind}. Expected a raster of {kind}.")
        names = class_names(scene, raster.path, classes)
        labels = targets.read_labels(
            reference,
            grid=scene.grid,
            class_names=names,
            class_field=class_field,
            layer=layer,
            line_width_m=line_width_m,
            width_field=width_field,
            invalid_geometry=invalid_geometry,
        )
        return task.of_classes(ClassRaster(raster, names), VectorReference(labels))


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What is to be scored, and against what."""

    raster: Placed
    reference: str
    region: Window
    classes: Sequence[str] | None
    area: LabelledArea | None
    bounded: tuple[str | None, ...]

    def against_raster(self, scene: Scene) -> Evaluation:
        """By what the predicted raster holds."""
        kind = _kind(self.raster.scene)
        if kind == "labels":
            where = self.region, self.area
            bounded = [name for name in self.bounded if name is not None]
            return self._done(*score_labels(self.raster, self.reference, scene, *where, self.classes, bounded))
        if kind == "values":
            if self.classes or self.bounded:
                raise UsageError(
                    f"{self.raster.path} holds values, which have no classes. Leave classes and bounds out."
                )
            return self._done(score_values(self.raster, self.reference, scene, self.region, self.area))
        names = class_names(self.raster.scene, self.raster.path, self.classes)
        indices = ClassRaster(self.raster, names)
        truth = ClassRaster(place(self.reference, scene, self.raster), tuple(scene.class_names or names))
        return self.of_classes(indices, truth)

    def of_classes(self, indices: ClassRaster, truth: Reference) -> Evaluation:
        """A class raster against a truth of any kind."""
        known = dict.fromkeys([*indices.known, *truth.known])
        for name in self.bounded:
            if name is not None:
                check_known(name, known, f"{self.raster.path} or {self.reference}")
        return self._done(*score_classes(indices, self.reference, truth, self.region, self.area, self.classes))

    def _done(self, scores: Scores | LabelScores | ValueScores, merged: tuple[str, ...] = ()) -> Evaluation:
        return Evaluation(self.raster.path, self.reference, self.region, scores, merged)


def _kind(scene: Scene) -> str:
    """What a raster holds: values are floating, labels have a band each."""
    if len(scene.bands) == 1 and scene.dtype.kind == "f":
        return "values"
    return "labels" if len(scene.bands) > 1 and scene.dtype.kind in "iu" else "classes"
