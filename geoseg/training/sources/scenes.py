"""Scenes with labels: a vector layer, or a raster of the same size."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from affine import Affine
from scipy.ndimage import binary_dilation

from geoseg.config import SceneSource, resolve_path
from geoseg.errors import LabelsError
from geoseg.grid import Grid
from geoseg.metrics import IGNORE
from geoseg.splits import Survey
from geoseg.targets import VectorLabels, is_vector_file, labelled_area, read_labels
from geoseg.targets.review import Judged, read_review
from geoseg.training.sources.context import Context
from geoseg.training.sources.masks import (
    check_raster,
    content_of,
    is_binary,
    named_in,
    raster_target,
    table_of,
    warn_of_nodata,
)
from geoseg.training.sources.units import (
    Boxes,
    Target,
    Unit,
    describe,
    describe_survey,
    described,
    reader,
    span,
    surveyed,
    usable_target,
    valid_pixels,
    window_of,
)
from geoseg.windows import Window

log = logging.getLogger(__name__)

_ROWS = 512  # that are looked at in one go
_DRAWN = 0.05  # share of a scene in which, or beside which, something is drawn: less is hardly all there is to draw


def read_scene(source: SceneSource, context: Context) -> Unit:
    """A scene, or several dates as one, with what is labelled on it.

    Raises:
        LabelsError: If nothing is labelled, or a window of the configuration sticks out.
    """
    return _Labelled(source, context).unit()


class _Labelled:
    """One scene and the files that label it."""

    def __init__(self, source: SceneSource, context: Context) -> None:
        self.source, self.context = source, context
        self.images = tuple(resolve_path(text) for text in source.scenes)
        targets = {name: resolve_path(text) for name, text in source.targets.items()}
        labels = None if source.labels is None else resolve_path(source.labels)
        if context.config.main_head is None and labels and not targets and len(context.config.further_heads) == 1:
            targets = dict.fromkeys(context.config.further_heads, labels)
        self.labels = labels if context.config.main_head else None
        self.area = None if source.labelled_area is None else resolve_path(source.labelled_area)
        self.reviews = tuple(resolve_path(text) for text in source.add or ())
        self.further = context.further(targets)
        said = [self.labels, self.area, *self.reviews, *targets.values()]
        self.paths = context.belonging((*self.images, *(path for path in said if path)))
        self.meanings = context.meanings(source)
        self._vectors: VectorLabels | None = None
        self._verdicts: tuple[Judged, ...] | None = None

    def unit(self) -> Unit:
        """The scene as a unit that can be cut into blocks."""
        source, config = self.source, self.context.config
        question = self.context.question(source)
        about = self.context.surveys.recall(question, self.paths, self._look)
        grid = described(about["grid"])
        survey = surveyed(about["survey"])
        self._say_undrawn(survey)
        target = self._target(grid, lambda: {int(code): index for code, index in about["table"].items()})
        return Unit(
            name=source.scenes[0],
            source=self.images[0].stem,
            group=source.scenes[0],
            grid=grid,
            bands=tuple(about["bands"]),
            dtype=np.dtype(about["dtype"]),
            known=tuple(about["known"]),
            counts=survey.counts.sum(axis=(0, 1)),
            read=reader(self.context.files, self.images, source.bands, target, self.further),
            files=self.paths,
            recipe=question,
            gsd=source.gsd or grid.gsd,
            zoom=source.zoom or config.augmentation.zoom,
            survey=survey,
            boxes=self._boxes(grid),
        )

    def _look(self) -> dict[str, Any]:
        """All that costs a look at every label: which classes there are, and where."""
        source = self.source
        scene = self.context.files.scene(self.images, source.bands)
        self.further.check(scene.grid)
        names = self.context.names
        table: dict[int, int] = {}
        if self.labels is None:
            known = tuple(at for at, name in enumerate(names) if name in (source.known or names))
        elif is_vector_file(self.labels):
            known = self.context.known(source.known, self._drawn(scene.grid).present, self.labels)
        else:
            table, present = self._table(scene.grid)
            known = self.context.known(source.known, names[1:] if present is None else present, self.labels)
        self._say_merged(known, scene.grid)
        target = self._target(scene.grid, lambda: table)
        survey = Survey.of(
            scene.grid.shape,
            usable_target(self.context.files, self.images, source.bands, target, self.further),
            len(names),
        )
        if survey is None:
            files = source.labels or " and ".join([*(source.add or ()), *source.targets.values()])
            if not self._has_data(scene.grid):
                raise LabelsError(
                    f"{source.scenes[0]} has no valid pixel: nothing can be learnt there. Expected pixels with data. "
                    "Leave it out, or correct its nodata value."
                )
            raise LabelsError(f"{files}: nothing is labelled in {source.scenes[0]}. Expected labelled pixels.")
        return {
            "grid": describe(scene.grid),
            "bands": [band.name for band in scene.bands],
            "dtype": scene.dtype.name,
            "known": known,
            "survey": describe_survey(survey),
            "table": table,
        }

    def _has_data(self, grid: Grid) -> bool:
        """Whether any pixel of the image is valid."""
        valid = valid_pixels(self.context.files, self.images, self.source.bands)
        for row in range(0, grid.height, _ROWS):
            strip = Window(row=row, col=0, height=min(_ROWS, grid.height - row), width=grid.width)
            if valid is None or valid(strip).any():
                return True
        return False

    def _target(self, grid: Grid, table: Callable[[], Mapping[int, int]]) -> Target | None:
        """How the target of a window is had; labels are read when the first is asked for."""
        drawn = self._from_labels(grid, table)
        if not self.reviews:
            return drawn

        def whole(window: Window) -> np.ndarray:
            found = np.full(window.shape, IGNORE, np.uint8) if drawn is None else drawn(window)
            for judged in self._judged(grid):
                found = judged.over(window, found)
            return found

        return whole

    def _from_labels(self, grid: Grid, table: Callable[[], Mapping[int, int]]) -> Target | None:
        """What the labels say of a window, within the labelled area."""
        if self.labels is None:
            return None
        whole: Target
        if is_vector_file(self.labels):
            whole = lambda window: self._drawn(grid).target(window)  # noqa: E731
        else:
            whole = raster_target(self.labels, self.meanings, table, self.context.files)
        if (path := self.area) is None:
            return whole
        area = cache(lambda: labelled_area(path, grid))
        return lambda window: np.where(area().valid(window), whole(window), np.uint8(IGNORE))

    def _drawn(self, grid: Grid) -> VectorLabels:
        """The vector layer, read once."""
        if self._vectors is None:
            assert self.labels is not None  # noqa: S101
            source = self.source
            right, down = source.shift or (0.0, 0.0)
            self._vectors = read_labels(
                self.labels,
                grid=replace(grid, transform=grid.transform @ Affine.translation(-right, -down)),
                class_names=self.context.names,
                class_field=source.class_field,
                default_class=source.class_name,
                layer=source.layer,
                invalid_geometry=source.invalid_geometry,
                line_width_m=source.line_width_m,
                width_field=source.width_field,
                contact=source.contact,
                gsd=source.gsd,
            )
        return self._vectors

    def _judged(self, grid: Grid) -> tuple[Judged, ...]:
        """What the verdicts say, read once."""
        if self._verdicts is None:
            names, how = self.context.names, self.source.invalid_geometry
            self._verdicts = tuple(read_review(path, grid, names, invalid_geometry=how) for path in self.reviews)
        return self._verdicts

    def _say_undrawn(self, survey: Survey) -> None:
        """Say that what is not drawn is background, where the drawn features keep to a small part of the scene."""
        if self.labels is None or not is_vector_file(self.labels) or self.area or self.source.train:
            return
        drawn = binary_dilation(survey.counts[:, :, 1:].any(axis=2), np.ones((5, 5), bool))
        share = np.count_nonzero(drawn) / np.count_nonzero(survey.counts.any(axis=2))
        if share < _DRAWN:
            log.warning(
                "%s: nothing is drawn on %.0f %% of %s, which so is all background. If it is only not drawn yet, say "
                "with polygons where everything is: --labelled-area FILE, labelled_area in a configuration.",
                self.source.labels,
                100 * (1 - share),
                self.source.scenes[0],
            )

    def _say_merged(self, known: tuple[int, ...], grid: Grid) -> None:
        """Say which verdicts name a class that the labels do not tell from the background."""
        found = {at for judged in self._judged(grid) for at in judged.present if at and at not in known}
        if lost := [self.context.names[at] for at in sorted(found)]:
            log.warning(
                "%s: %s is judged, but the labels do not tell it from %s: it is learnt as such. Give the scene "
                "a second time in data.sources, with add and without labels.",
                self.source.scenes[0],
                " and ".join(lost),
                self.context.names[0],
            )

    def _table(self, grid: Grid) -> tuple[dict[int, int], tuple[str, ...] | None]:
        """What the values or colours of the label raster mean, and the classes it names, if it does."""
        assert self.labels is not None  # noqa: S101
        scene = self.context.files.single(self.labels)
        check_raster(scene, self.labels, grid)
        content = content_of(scene, self.labels, self.meanings)
        binary = is_binary([content], self.meanings)
        if binary:
            log.warning("%s holds 0 and 255 only: 255 is taken for %s.", self.labels, self.context.names[1])
        table = table_of(content, self.meanings, binary=binary)
        warn_of_nodata(content, table, self.context.names)
        return table, named_in([content], self.meanings)

    def _boxes(self, grid: Grid) -> Boxes | None:
        """The windows that the configuration names, if it names any."""
        source = self.source
        if source.train is None and source.val is None:
            return None
        train = None if source.train is None else tuple(map(window_of, source.train))
        val = tuple(map(window_of, source.val or ()))
        for window in (*(train or ()), *val):
            if window != window.intersection(grid.window):
                raise LabelsError(
                    f"{source.scenes[0]} is {grid.width}x{grid.height}; window {span(window)} sticks out. "
                    "Expected windows inside the scene."
                )
        return Boxes(train, val)
