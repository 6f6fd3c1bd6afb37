"""evaluate_vectors(): polygons and lines against a reference, object by object and metre by metre."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from shapely import Geometry

from geoseg.errors import LabelsError, UsageError
from geoseg.evaluate.error_layers import write_errors
from geoseg.evaluate.features import Features
from geoseg.evaluate.sides import ReferenceOptions, Side, Sides, extent, read_area, read_sides
from geoseg.evaluate.vector_evaluation import ShapeScores, VectorEvaluation
from geoseg.metrics.faults import KINDS, Fault, object_faults, road_faults
from geoseg.metrics.objects import Objects, SurfaceScores, score_surfaces
from geoseg.metrics.roads import RoadScores, score_roads
from geoseg.outputs import Outputs
from geoseg.targets import InvalidGeometry, is_vector_file

log = logging.getLogger(__name__)


def evaluate_vectors(
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
    bounded: Iterable[str | None] = (),
    errors: str | Path | None = None,
    overwrite: bool = False,
) -> VectorEvaluation:
    """Score predicted polygons and lines against a vector reference, in metres on the ground whatever the CRS.

    Polygons are scored as objects against polygons, lines as roads against lines; polygons against lines alone as
    surfaces, if the lines have widths. Files without any CRS are taken to be in metres.

    Args:
        predicted: GeoPackage of `geoseg vectorize` or another vector file. A feature's class is told by `name` beside a
            numeric `class`, by `class`, or by the layer's name; failing that polygons are buildings and lines roads.
        reference: GeoPackage, GeoJSON, FlatGeobuf, Shapefile or GeoParquet in any CRS; classes as in
            `geoseg.targets.read_labels`.
        classes: The classes to score; by default those that both have.
        class_field: Field of the reference that holds class names.
        layer: Layer of the reference.
        line_width_m: Metres on the ground that lines of the reference are wide, where no field says it.
        width_field: Field of the reference that holds the widths of lines; by default width_m or width, if there.
        invalid_geometry: What to do with invalid polygons of the reference. Those of the prediction are counted.
        labelled_area: Polygons outside of which the reference knows nothing. Objects that its border cuts are neither
            right nor wrong, lines are cut off there.
        bounded: Classes that will be asked for, None for the mean: refused if there is no such class.
        errors: GeoPackage to write what is wrong to, the worst first: miss, false_alarm, split, merge, boundary.
        overwrite: Replace `errors` if it exists.

    Raises:
        UsageError: If a class, a field or the layer is not there, or `errors` exists.
        LabelsError: If a file cannot be read, lies elsewhere, or has nothing to compare.
        OutputError: If `errors` cannot be written.
    """
    predicted, reference = Path(predicted), Path(reference)
    if not is_vector_file(reference):
        raise LabelsError(
            f"{reference} is no vector file; {predicted} holds polygons or lines. Expected polygons or lines, too."
        )
    options = ReferenceOptions(layer, class_field, line_width_m, width_field, invalid_geometry)
    with ExitStack() as stack:
        inputs = [predicted, reference, *([labelled_area] if labelled_area else [])]
        outputs = stack.enter_context(_outputs(Path(errors), inputs, overwrite)) if errors is not None else None
        sides = read_sides(predicted, reference, classes, tuple(bounded), options, whole=labelled_area is None)
        area = _area(Path(labelled_area), sides) if labelled_area else None
        found = {name: _score(name, side, sides, area) for name, side in sides.classes.items()}
        found = {name: scored for name, scored in found.items() if scored.scores.to_dict()}
        if not found:
            raise LabelsError(
                f"{reference} and {predicted} have nothing to compare. Expected polygons in both, or lines in both."
            )
        faults = _write(outputs, found, sides, area) if outputs is not None else None
    return VectorEvaluation(
        predicted=str(predicted),
        reference=str(reference),
        scores={name: scored.scores for name, scored in found.items()},
        left=(*sides.left, *(name for name in sides.classes if name not in found)),
        faults=faults,
        errors=None if errors is None else Path(errors),
    )


def _area(path: Path, sides: Sides) -> Geometry:
    """The labelled area in metres; refused where neither file has anything near."""
    area = read_area(path, sides.plane)
    parts = [
        part.shapes
        for side in sides.classes.values()
        for part in (side.predicted, side.predicted_lines, side.reference, side.reference_lines)
    ]
    bounds = shapely.total_bounds(np.concatenate(parts))
    if not area.intersects(shapely.box(*bounds)):
        raise LabelsError(
            f"{path} lies outside {sides.predicted} and {sides.reference}: it spans {extent(np.array(area.bounds))}, "
            f"these {extent(bounds)} (left, bottom, right, top in metres about the reference). Expected the same "
            "place. Check the CRS."
        )
    return area


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """One class, and what its faults are looked for in."""

    side: Side
    scores: ShapeScores
    objects: Objects | None


def _score(name: str, side: Side, sides: Sides, area: Geometry | None) -> _Scored:
    """What can be compared: polygons with polygons, lines with lines, polygons with lines of a known width."""
    ours, our_lines, theirs, their_lines = side.predicted, side.predicted_lines, side.reference, side.reference_lines
    objects, lines, surface = None, None, None
    if len(theirs.shapes) and (len(ours.shapes) or not len(our_lines.shapes)):
        objects = Objects.matched(ours.shapes, theirs.shapes, area=area)
    if len(their_lines.shapes) and (len(our_lines.shapes) or not len(ours.shapes)):
        lines = _lines(our_lines, their_lines, area)
    if objects is None and len(their_lines.shapes) and len(ours.shapes):
        surface = _surface(ours, their_lines, area)
        if surface is None and lines is None:
            raise LabelsError(
                f"{sides.reference} holds {len(their_lines.shapes)} lines of {name}, {sides.predicted} polygons: how "
                "wide the lines are on the ground is unknown. Expected a width in metres: --line-width-m, or a field "
                "that holds it, --width-field."
            )
    scores = ShapeScores(None if objects is None else objects.scores(), lines, surface)
    if not scores.to_dict():
        log.warning("%s is not scored: %s holds lines of it, %s polygons", name, sides.predicted, sides.reference)
    return _Scored(side, scores, objects)


def _lines(ours: Features, theirs: Features, area: Geometry | None) -> RoadScores:
    return score_roads(
        ours.shapes, theirs.shapes, predicted_width_m=ours.width_m, reference_width_m=theirs.width_m, area=area
    )


def _surface(polygons: Features, lines: Features, area: Geometry | None) -> SurfaceScores | None:
    """Against the ground of lines; None if the width of one is not known."""
    if np.isnan(lines.width_m).any():
        return None
    return score_surfaces(polygons.shapes, shapely.buffer(lines.shapes, lines.width_m / 2), area=area)


def _write(outputs: Outputs, found: dict[str, _Scored], sides: Sides, area: Geometry | None) -> dict[str, int]:
    """Write the faults; how many there are of each kind."""
    polygons: dict[str, tuple[Sequence[Fault], Features, Features]] = {}
    lines: dict[str, tuple[Sequence[Fault], Features, Features]] = {}
    for name, scored in found.items():
        side = scored.side
        if scored.objects is not None:
            polygons[name] = object_faults(scored.objects), side.predicted, side.reference
        if scored.scores.lines is not None:
            ours, theirs = side.predicted_lines, side.reference_lines
            lines[name] = road_faults(ours.shapes, theirs.shapes, area=area), ours, theirs
    if not (polygons or lines):
        raise UsageError("errors are of objects and of lines, and there are none. Leave --errors out.")
    write_errors(outputs.staged("errors"), polygons or None, lines or None, sides.plane)
    outputs.commit()
    told = Counter(fault.kind for faults, _, _ in (*polygons.values(), *lines.values()) for fault in faults)
    return {kind: told[kind] for kind in KINDS if told[kind]}


def _outputs(errors: Path, inputs: Sequence[str | Path], overwrite: bool) -> Outputs:
    if errors.suffix.lower() != ".gpkg":
        raise UsageError(f"{errors} is to hold a GeoPackage. Expected a name ending in .gpkg. Try {errors.stem}.gpkg.")
    return Outputs({"errors": errors}, inputs=inputs, overwrite=overwrite)
