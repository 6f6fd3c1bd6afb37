"""Values: a raster of predicted numbers against one of true numbers."""

import numpy as np

from geoseg.errors import LabelsError
from geoseg.evaluate.lattice import Placed, parts, place
from geoseg.metrics import ValueErrors, ValueScores
from geoseg.scene import Scene
from geoseg.targets import LabelledArea
from geoseg.windows import Window


def score_values(
    predicted: Placed, reference: str, scene: Scene, region: Window, area: LabelledArea | None
) -> ValueScores:
    """The errors of predicted values.

    Args:
        predicted: One band of floating numbers.
        reference: Path of the truth, for messages.
        scene: The truth: one band of numbers on the predicted raster's lattice.
        region: What is compared, of the predicted raster.
        area: Outside of it nothing is known.

    Raises:
        LabelsError: If the truth holds classes, has several bands, or lies elsewhere.
    """
    if scene.class_names or len(scene.bands) != 1:
        holds = f"classes ({', '.join(scene.class_names)})" if scene.class_names else f"{len(scene.bands)} bands"
        raise LabelsError(f"{reference} has {holds}; {predicted.path} holds values. Expected one band of numbers.")
    truth, errors = place(reference, scene, predicted), ValueErrors()
    for window in parts(region):
        target = _numbers(truth, window)
        if area is not None:
            target[~area.valid(window)] = np.nan
        errors.update(target, _numbers(predicted, window))
    return errors.scores()


def _numbers(raster: Placed, window: Window) -> np.ndarray:
    """(h, w) floats, NaN where nothing is known."""
    tile = raster.read(window)
    exact = np.float32 if tile.data.dtype == np.float32 else np.float64
    return np.where(tile.valid, tile.data[0].astype(exact), np.array(np.nan, exact))
