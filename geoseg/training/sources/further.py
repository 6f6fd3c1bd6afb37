"""Targets of the heads beside the main one: a raster each, on the image's pixels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from geoseg.config import HeadConfig
from geoseg.errors import LabelsError
from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.training.sources.files import OpenFiles, check_place
from geoseg.windows import Window


class Further:
    """The further heads of a run, and how the targets of one image are had."""

    def __init__(self, heads: Mapping[str, HeadConfig], paths: Mapping[str, Path], files: OpenFiles) -> None:
        """Targets from `paths`; of heads that have none, nothing is known."""
        self.heads, self.paths, self.files = heads, dict(paths), files
        self.counts = {name: len(head.classes) if head.task == "multilabel" else 1 for name, head in heads.items()}

    def check(self, image: Grid) -> None:
        """Refuse rasters that do not fit.

        Raises:
            ShapeError: If one is not of the image's size.
            LabelsError: If one lies elsewhere, or has another number of bands than its head wants.
        """
        for name, path in self.paths.items():
            scene = self.files.single(path)
            check_place(path, scene.grid, image)
            if len(scene.bands) != self.counts[name]:
                raise LabelsError(
                    f"{path} has {len(scene.bands)} bands. Expected {self.counts[name]}: head {name!r} is "
                    f"{self.heads[name].task}{', a band for each class' if self.counts[name] > 1 else ''}."
                )

    def read(self, window: Window) -> dict[str, np.ndarray]:
        """(bands, h, w) float32 targets by head, NaN where nothing is known.

        Raises:
            LabelsError: If a raster of classes holds anything else.
        """
        found = {name: np.full((count, *window.shape), np.nan, np.float32) for name, count in self.counts.items()}
        for name, path in self.paths.items():
            tile = self.files.single(path).read(window)
            values = tile.data.astype(np.float32)
            values[:, ~tile.valid] = np.nan
            head = self.heads[name]
            if head.classes:
                values[values == IGNORE] = np.nan
                most = len(head.classes) - 1 if head.exclusive else 1
                if (odd := values[~np.isin(values, range(most + 1)) & ~np.isnan(values)]).size:
                    raise LabelsError(f"{path} has the value {odd[0]:g}. Expected 0 to {most}, or 255 for unknown.")
            found[name] = values
        return found


def somewhere(further: Mapping[str, np.ndarray], window: Window) -> np.ndarray:
    """A target that says no more than where any of the further heads knows something: 0 there, 255 elsewhere."""
    known = np.zeros(window.shape, bool)
    for plane in further.values():
        known |= ~np.isnan(plane).any(0)
    return np.where(known, np.uint8(0), np.uint8(IGNORE))
