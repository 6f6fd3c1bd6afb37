"""Folders of images, each with a label raster of the same size."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.config import FolderSource, resolve_path
from geoseg.errors import LabelsError
from geoseg.grid import Grid
from geoseg.splits import Survey
from geoseg.training.sources.context import Context
from geoseg.training.sources.layouts import read_folder
from geoseg.training.sources.masks import (
    Content,
    check_raster,
    content_of,
    is_binary,
    named_in,
    raster_target,
    table_of,
    warn_of_nodata,
)
from geoseg.training.sources.pairs import Item
from geoseg.training.sources.units import (
    Target,
    Unit,
    describe,
    describe_survey,
    described,
    reader,
    surveyed,
    usable_target,
    valid_pixels,
)

log = logging.getLogger(__name__)


def read_tiles(source: FolderSource, context: Context) -> list[Unit]:
    """The images of a folder.

    Raises:
        LabelsError: If images or label rasters are missing, do not match, or hold what is no class.
        ShapeError: If a label raster is not of its image's size.
    """
    folder = resolve_path(source.folder)
    items = [_with_target(item, context) for item in read_folder(folder, source, context.config)]
    if not items[0].labels and not items[0].targets:
        raise LabelsError(f"data={source.folder} names no targets. Expected a pattern for at least one head.")
    return _Tiles(source, context, items).units()


def _with_target(item: Item, context: Context) -> Item:
    """Where no head has exclusive classes, labels that are found are the targets of the only head."""
    if context.config.main_head is not None:
        return item
    heads = context.config.further_heads
    if item.labels and not item.targets and len(heads) == 1:
        return replace(item, labels=None, targets=dict.fromkeys(heads, item.labels))
    return replace(item, labels=None)


class _Tiles:
    """The images of one folder."""

    def __init__(self, source: FolderSource, context: Context, items: Sequence[Item]) -> None:
        self.source, self.context, self.items = source, context, items
        self.question = context.question(source)
        self.meanings = [context.meanings(source, item.values) for item in items]

    def units(self) -> list[Unit]:
        """Each image as a unit; a single one can be cut into blocks."""
        files = [self.context.belonging(_paths(item)) for item in self.items]
        question = self.question | {"items": [[str(path.absolute()) for path in own] for own in files]}
        # What Cityscapes' values mean follows from the class names, which are in the question.
        about = self.context.surveys.recall(question, [path for own in files for path in own], self._look)
        present = about.get("present")
        if self.source.known or present is not None:
            known = self.context.known(self.source.known, present or (), self.source.folder)
        else:
            known = tuple(range(len(self.context.names)))
        return [self._unit(at, about, files[at], known) for at in range(len(self.items))]

    def _unit(self, at: int, about: Mapping[str, Any], files: tuple[Path, ...], known: tuple[int, ...]) -> Unit:
        source, item, one = self.source, self.items[at], about["tiles"][at]
        grid = described(one | {"crs": about["crs"][one["crs"]]})
        table = {int(code): index for code, index in about["tables"][one["table"]].items()}
        further = self.context.further(item.targets)
        return Unit(
            name=str(item.images[0]),
            source=Path(source.folder).name,
            group=item.group,
            grid=grid,
            bands=tuple(one["bands"]),
            dtype=np.dtype(one["dtype"]),
            known=known,
            counts=np.array(one["counts"], np.int64),
            read=reader(self.context.files, item.images, source.bands, self._target(at, table), further),
            files=files,
            recipe=self.question | {"table": sorted(table.items())},
            gsd=source.gsd or grid.gsd,
            zoom=source.zoom or self.context.config.augmentation.zoom,
            survey=surveyed(about["survey"]) if about["survey"] else None,
            split=source.split,
            listed=item.split,
        )

    def _target(self, at: int, table: Mapping[int, int]) -> Target | None:
        labels = self.items[at].labels
        return raster_target(labels, self.meanings[at], lambda: table, self.context.files) if labels else None

    def _look(self) -> dict[str, Any]:
        """All that costs a look at every image: its grid, and what its labels hold."""
        tiles, contents = [], []
        crs: dict[str | None, int] = {}
        for at, item in enumerate(self.items):
            scene = self.context.files.scene(item.images, self.source.bands)
            about = describe(scene.grid)
            about |= {"crs": crs.setdefault(about["crs"], len(crs)), "dtype": scene.dtype.name}
            tiles.append(about | {"bands": [band.name for band in scene.bands]})
            self.context.further(item.targets).check(scene.grid)
            contents.append(self._content(at, item.labels, scene.grid) if item.labels else None)
        labelled = [content for content in contents if content]
        present = named_in(labelled, self.meanings[0])
        binary = bool(labelled) and is_binary(labelled, self.meanings[0])
        if binary:
            names = self.source.folder, self.context.names[1]
            log.warning("The label rasters of %s hold 0 and 255 only: 255 is taken for %s.", *names)
        tables: dict[str, tuple[int, dict[int, int]]] = {}
        warned = False
        for at, content in enumerate(contents):
            table = table_of(content, self.meanings[at], binary=binary) if content else {}
            if content and not warned:  # a thousand tiles have been written alike
                warned = warn_of_nodata(content, table, self.context.names)
            place = tables.setdefault(repr(sorted(table.items())), (len(tables), table))
            tiles[at] |= {"table": place[0], "counts": self._counts(content, table, tiles[at]["shape"])}
        survey = self._survey(tables) if len(tiles) == 1 else None
        about = {"tiles": tiles, "crs": list(crs), "tables": [table for _, table in tables.values()]}
        return about | {"survey": survey, "present": present}

    def _content(self, at: int, labels: Path, grid: Grid) -> Content:
        raster, item = self.context.files.single(labels), self.items[at]
        check_raster(raster, labels, grid)
        usable = valid_pixels(self.context.files, item.images, self.source.bands)
        return content_of(raster, labels, self.meanings[at], usable)

    def _counts(self, content: Content | None, table: Mapping[int, int], shape: Sequence[int]) -> list[int]:
        counts = [0] * len(self.context.names)
        if content is None:  # of further heads only; where they know nothing is not looked for
            counts[0] = shape[0] * shape[1]
            return counts
        for code, count in content.codes.items():
            if code in table:
                counts[table[code]] += count
        return counts

    def _survey(self, tables: Mapping[str, tuple[int, dict[int, int]]]) -> dict[str, Any] | None:
        """Where on the only image which classes are labelled."""
        item, files = self.items[0], self.context.files
        shape = files.scene(item.images, self.source.bands).grid.shape
        target = self._target(0, next(iter(tables.values()))[1])
        usable = usable_target(files, item.images, self.source.bands, target, self.context.further(item.targets))
        survey = Survey.of(shape, usable, len(self.context.names))
        return describe_survey(survey) if survey else None


def _paths(item: Item) -> tuple[Path, ...]:
    return (*item.images, *((item.labels,) if item.labels else ()), *item.targets.values())
