"""`geoseg evaluate`: score a prediction against a reference."""

import json
from pathlib import Path
from typing import Any

import click

from geoseg.cli.options import READABLE, GeosegCommand, json_option, log_options, name_list, overwrite_option

NO = 3
"""Exit code of the answer "no"."""


class _WindowType(click.ParamType):
    """COL,ROW,WIDTH,HEIGHT as a Window."""

    name = "COL,ROW,WIDTH,HEIGHT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Four whole numbers, the last two at least 1."""
        from geoseg.windows import Window

        if isinstance(value, Window):
            return value
        try:
            col, row, width, height = map(int, value.split(","))
        except ValueError:
            self.fail(
                f"{value!r} is not COL,ROW,WIDTH,HEIGHT. Expected four whole numbers: 3072,0,1024,2048.", param, ctx
            )
        if min(col, row) < 0 or min(width, height) < 1:
            self.fail(
                f"{value!r} is empty or starts before the first pixel. Expected for example 0,0,512,512.", param, ctx
            )
        return Window(row=row, col=col, height=height, width=width)


class _Bound(click.ParamType):
    """0.5 for the mean, or building=0.5 for one class: (class or None, bound)."""

    def __init__(self, figure: str) -> None:
        self.figure = figure
        self.name = f"[CLASS=]{figure.upper()}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A number in [0, 1], with or without a class."""
        if isinstance(value, tuple):
            return value
        name, _, bound = value.rpartition("=")
        try:
            number = float(bound)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1:
            self.fail(
                f"{value!r}: expected an {self.figure} from 0 to 1, or CLASS={self.figure.upper()}, for example "
                "building=0.5.",
                param,
                ctx,
            )
        return name or None, number


@click.command(cls=GeosegCommand, short_help="Score a prediction against a reference.")
@click.argument("predicted", type=READABLE)
@click.argument("reference", type=READABLE)
@click.option(
    "--classes",
    callback=name_list,
    metavar="NAMES",
    help="Classes to score: building,road. By default those that the reference has. If PREDICTED does not name its "
    "classes: the names of its values 1, 2, ...",
)
@click.option("--class-field", metavar="NAME", help="Field of a vector reference that holds class names.")
@click.option("--layer", metavar="NAME", help="Layer of a vector reference.  [default: all]")
@click.option("--line-width-m", type=float, metavar="METRES", help="How wide lines of a vector reference are.")
@click.option("--width-field", metavar="NAME", help="Field of a vector reference that holds the widths of lines.")
@click.option(
    "--invalid-geometry",
    type=click.Choice(["error", "fix", "skip"]),
    default="error",
    show_default=True,
    help="What to do with invalid polygons of a vector reference.",
)
@click.option(
    "--labelled-area", "--aoi", type=READABLE, metavar="FILE", help="Polygons outside of which nothing is known."
)
@click.option("--window", type=_WindowType(), help="Score only these pixels of the predicted raster.")
@click.option(
    "--min-iou",
    type=_Bound("IoU"),
    multiple=True,
    help="Exit with 3 if the mean IoU, or the IoU of a class, is lower or cannot be had: the class is not scored, or "
    "not in REFERENCE. May be repeated.",
)
@click.option(
    "--min-f1",
    type=_Bound("F1"),
    multiple=True,
    help="The same of F1: of pixels, of objects, or of metres of road.",
)
@click.option(
    "--errors",
    type=READABLE,
    metavar="FILE",
    help="GeoPackage to write what is wrong with polygons and lines to, the worst first: miss, false_alarm, split, "
    "merge, boundary.",
)
@overwrite_option
@json_option
@log_options
@click.pass_context
def evaluate(ctx: click.Context, as_json: bool, **options: Any) -> None:
    """Score PREDICTED, a class raster, against REFERENCE: a class raster on the same pixels, or polygons.

    One confusion matrix of all pixels gives IoU, F1 (Dice), precision, recall and specificity for each class, overall
    and balanced accuracy, and kappa. Classes that the reference does not have are listed, and in no mean.

    A raster of values (one band of floating numbers) is scored against another raster of values: RMSE, MAE, bias and
    R2. One with a band of 0 and 1 for each label is scored against another such: each label by itself.

    Polygons and lines (a GeoPackage of geoseg, or any vector file) are scored against a vector file: polygons object by
    object with their outlines, lines of roads metre by metre and as a network, all in metres on the ground.

    Example: geoseg evaluate scene.gpkg buildings.geojson --errors errors.gpkg --min-f1 building=0.9
    """
    bounds = {"iou": options.pop("min_iou"), "f1": options.pop("min_f1")}
    bounded = [name for figure in bounds.values() for name, _ in figure]
    evaluation = _evaluated(options.pop("predicted"), options.pop("reference"), {**options, "bounded": bounded})
    missed = [
        line
        for figure, some in bounds.items()
        for name, bound in some
        if (line := evaluation.shortfall(bound, name, figure))
    ]
    click.echo(json.dumps(evaluation.to_dict(), indent=2) if as_json else evaluation.table())
    for line in missed:
        click.echo(line, err=True)
    if missed:
        ctx.exit(NO)


def _evaluated(predicted: Path, reference: Path, options: dict[str, Any]) -> Any:
    """By what the prediction is: of pixels, or of polygons and lines."""
    from geoseg.errors import UsageError
    from geoseg.evaluate import evaluate_prediction, evaluate_vectors
    from geoseg.targets import is_vector_file

    if not predicted.is_dir() and is_vector_file(predicted):
        if options.pop("window") is not None:
            raise UsageError(
                f"--window is of pixels, and {predicted} holds polygons or lines. Expected polygons: --labelled-area."
            )
        return evaluate_vectors(predicted, reference, **options)
    if options.pop("errors") is not None:
        raise UsageError(
            f"--errors is of polygons and lines, and {predicted} holds pixels. Outline them first: geoseg vectorize "
            f"{predicted}."
        )
    del options["overwrite"]
    return evaluate_prediction(predicted, reference, **options)
