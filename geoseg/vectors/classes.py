"""Class rasters as vectors read them: what is one, strip by strip, and which classes it has."""

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from geoseg.errors import SceneError, UsageError
from geoseg.pixels import NODATA, PROBABILITY_SCALE
from geoseg.vectors.kinds import is_background

log = logging.getLogger(__name__)

_MOST_UNNAMED = 64
"""A raster with more values than this, and no names for them, is a picture."""
_COUNTED = 1 << 18  # pixels in one go
_CONVERTED = 1 << 22  # pixels in one go, of other types than uint8
_LATTICES, _PLACE = (4, 16), 32  # places across where probabilities are looked at, and pixels of their sides
_CACHE = 128 << 20  # bytes: blocks are decoded once, to 60 000 pixels of width; no need of a share of the memory
_COLORS = ("#e34a33", "#636363", "#31a354", "#3182bd", "#756bb1", "#fd8d3c", "#dd1c77", "#a6761d")


@contextmanager
def open_class_raster(path: str | Path, types: Sequence[str] = ("uint", "int", "float")) -> Iterator[DatasetReader]:
    """Open a class raster for reading, and refuse what is none.

    Args:
        path: A GeoTIFF of one band.
        types: How the names of the types begin that its pixels may have; whether they are whole numbers, `read_labels`
            sees.

    Yields:
        The open dataset; read errors inside the block are translated too.

    Raises:
        SceneError: If the file is missing, is no GeoTIFF, is not one band of such a type, or a block cannot be read.
    """
    with _opened(path, "a class raster") as dataset:
        if dataset.count != 1 or not dataset.dtypes[0].startswith(tuple(types)):
            expected = "whole numbers" if len(types) > 1 else types[0]
            raise SceneError(
                f"{path} has {_kind(dataset)}: no class raster. Expected one band of {expected}, as 'geoseg predict' "
                "writes it."
            )
        yield dataset


@contextmanager
def open_probabilities(path: str | Path) -> Iterator[DatasetReader]:
    """Open a raster of probabilities for reading: a uint8 band for each class, 254 certain, 255 without data.

    Yields:
        The open dataset; read errors inside the block are translated too.

    Raises:
        SceneError: If the file is missing, is no GeoTIFF, is not of uint8, is a class raster, or a block cannot be
            read.
    """
    with _opened(path, "a raster of probabilities") as dataset:
        if set(dataset.dtypes) != {"uint8"} or dataset.count == 1:
            raise SceneError(
                f"{path} has {_kind(dataset)}: no probabilities of classes. Expected a uint8 band for each, as "
                "'geoseg predict --probabilities' writes them."
            )
        yield dataset


def check_shares(path: str | Path, dataset: DatasetReader) -> None:
    """Refuse bands that are no probabilities of classes: they must sum to 254 at most pixels, each rounded.

    Looked at are places spread over the raster; closer ones, if none of them has data.

    Raises:
        SceneError: If they do not, or a block cannot be read.
    """
    for across in _LATTICES:
        known = right = 0
        for y, x in product(range(1, 2 * across, 2), repeat=2):
            row, col = y * dataset.height // (2 * across), x * dataset.width // (2 * across)
            height, width = min(_PLACE, dataset.height - row), min(_PLACE, dataset.width - col)
            shares = read_window(path, dataset, None, Window(col, row, width, height))
            off = np.abs(shares.sum(axis=0, dtype=np.int64) - PROBABILITY_SCALE)
            there = (shares != NODATA).any(axis=0)
            known += int(np.count_nonzero(there))
            right += int(np.count_nonzero(there & (off <= dataset.count)))
        if 2 * right < known:
            raise SceneError(
                f"{path} holds no probabilities of classes: its bands do not sum to {PROBABILITY_SCALE} (certain) at "
                f"{1 - right / known:.0%} of the pixels. Expected what 'geoseg predict --probabilities' writes."
            )
        if known:
            return


@contextmanager
def _opened(path: str | Path, what: str) -> Iterator[DatasetReader]:
    if not Path(path).is_file():
        raise SceneError(f"{path} is not a file. Expected {what} (GeoTIFF).")
    try:
        quiet = warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning)
        with quiet, rasterio.Env(GDAL_CACHEMAX=_CACHE), rasterio.open(Path(path).absolute(), driver="GTiff") as dataset:
            yield dataset
    except (RasterioError, CPLE_BaseError) as err:
        raise SceneError(f"{path} cannot be read ({err}). Expected {what} (GeoTIFF).") from err


def read_window(path: str | Path, dataset: DatasetReader, bands: int | None, window: Window) -> np.ndarray:
    """The pixels of a window, of one band or of all.

    Raises:
        SceneError: If a block under it cannot be read; names the rows.
    """
    try:
        found: np.ndarray = dataset.read(bands, window=window)
    except (RasterioError, CPLE_BaseError) as err:
        # rasterio says "Read failed. See previous exception for details."; what GDAL said is its cause.
        words = " ".join(str(err.__cause__ or err).split()).rstrip(".")
        rows = f"{window.row_off}-{window.row_off + window.height - 1}"
        raise SceneError(
            f"{path} cannot be read at rows {rows} ({words}). Expected a complete, undamaged file."
        ) from err
    return found


def read_labels(path: str | Path, dataset: DatasetReader, window: Window) -> np.ndarray:
    """The classes of a window of a class raster of any type.

    Returns:
        (h, w) uint8: 0 to 254; 255 of 255, of the file's nodata value, and of NaN.

    Raises:
        SceneError: If a block cannot be read, or a value is none of these.
    """
    return _labels(path, dataset, window)[0]


def _labels(path: str | Path, dataset: DatasetReader, window: Window) -> tuple[np.ndarray, int]:
    """The classes, and how many pixels have no data by another value than 255."""
    if dataset.dtypes[0] == "uint8" and dataset.nodata in (None, NODATA):
        return read_window(path, dataset, 1, window), 0
    labels, replaced = np.empty((window.height, window.width), np.uint8), 0
    # Beside each other: a block is as wide as the file, or one of many.
    step = max(dataset.block_shapes[0][1], _CONVERTED // window.height)
    for col in range(0, window.width, step):
        width = min(step, window.width - col)
        found = read_window(path, dataset, 1, Window(window.col_off + col, window.row_off, width, window.height))
        missing = np.isnan(found) if found.dtype.kind == "f" else np.zeros(found.shape, np.bool_)
        if dataset.nodata is not None:
            missing |= found == dataset.nodata
        with np.errstate(invalid="ignore"):
            part = found.astype(np.uint8)
        if (wrong := (part != found) & ~missing).any():
            raise SceneError(_no_class(path, found[wrong][0]))
        replaced += int(np.count_nonzero(missing & (found != NODATA)))
        part[missing] = NODATA
        labels[:, col : col + width] = part
    return labels, replaced


def _no_class(path: str | Path, value: np.generic) -> str:
    return (
        f"{path} has the value {value}, which is no class. Expected whole numbers from 0 to 254, and 255 or the nodata "
        "value that the file states where there is no data. --values cannot rename it: reclassify the raster, or state "
        "what has no data (gdal_edit.py -a_nodata VALUE FILE)."
    )


def _kind(dataset: DatasetReader) -> str:
    return f"{dataset.count} band{'s' if dataset.count > 1 else ''} of {dataset.dtypes[0]}"


def strips(dataset: DatasetReader) -> Iterator[Window]:
    """Full-width windows as high as a block of the file (16 to 1024 rows): every block is decoded once."""
    step = min(max(16, dataset.block_shapes[0][0]), 1024)
    for row in range(0, dataset.height, step):
        yield Window(0, row, dataset.width, min(step, dataset.height - row))


def read_classes(
    path: str | Path, names: Sequence[str] = (), values: Mapping[int, str] | None = None
) -> dict[int, tuple[str, str]]:
    """The classes of a class raster.

    Args:
        path: A class raster, of geoseg or of another program.
        names: What its values 0, 1, ... are called, where that is known. Otherwise every value that occurs is a class.
        values: What some of its values are called, instead of `names`.

    Returns:
        (name, "#rrggbb") by pixel value, 0 (the background) included. The colours are those of the raster's colour
        table, where it has one.

    Raises:
        SceneError: If it is no class raster, has a value that is no class or that `names` has no name for, or pixels of
            value 255 beside such of another nodata value.
        UsageError: If two values have one name, or one is beyond 255.
    """
    values = dict(values or {})
    names = () if values else names
    with open_class_raster(path) as dataset:
        if dataset.scales[0] != 1:
            raise SceneError(f"{path} holds probabilities. Expected the class raster of the same run.")
        present, nodata = _values(path, dataset)
        try:
            palette = dataset.colormap(1)
        except ValueError:  # none
            palette = {}
    if names and present[-1:] >= [len(names)]:
        raise SceneError(
            f"{path} has pixels of value {present[-1]}, but names {len(names)} classes ({', '.join(names)}). "
            "Expected every value to be named. Was it changed by another program?"
        )
    if not (names or values) and len(present) > _MOST_UNNAMED:
        raise SceneError(
            f"{path} has {len(present)} different values and no class names: no class raster. Expected one as 'geoseg "
            f"predict' writes it, or at most {_MOST_UNNAMED} values. Name those to outline with --values 1=building."
        )
    if NODATA in present and nodata is not None:
        raise SceneError(
            f"{path} has pixels of value 255 beside those of its nodata value {nodata:.10g}. Expected 255 to be what "
            "has no data. Take the statement back (gdal_edit.py -unsetnodata), or give those of value 255 another one."
        )
    if not names and set(present) - {0, NODATA}:  # not the mask of another program
        present = [value for value in present if value != NODATA]
    named = dict(enumerate(names)) or {value: f"class_{value}" if value else "background" for value in [0, *present]}
    if values:
        _check_values(path, values, named, present)
        named = dict(sorted((named | values).items()))
    return {value: (name, _color(value, palette)) for value, name in named.items()}


def _check_values(
    path: str | Path, values: Mapping[int, str], named: Mapping[int, str], present: Collection[int]
) -> None:
    """Refuse names of values that cannot stand together; those that no pixel has are said."""
    for value, name in values.items():
        if not 0 <= value < 256:
            raise UsageError(f"--values {value}={name}: no class raster has such a value. Expected 0 to 255.")
        if twice := [other for other, its in {**named, **values}.items() if its == name and other != value]:
            raise UsageError(f"--values {value}={name}: {twice[0]} is called so, too. Expected different names.")
        if value not in present and (value or not is_background(name)):
            log.warning("%s has no pixel of value %d (%s).", path, value, name)


def _values(path: str | Path, dataset: DatasetReader) -> tuple[list[int], float | None]:
    """The values that occur, ascending, without nodata; and nodata, if it occurs and is not 255."""
    count, replaced = np.zeros(256, np.int64), 0
    for window in strips(dataset):
        pixels, more = _labels(path, dataset, window)
        replaced += more
        for start in range(0, pixels.size, _COUNTED):  # numpy makes eight bytes of each
            count += np.bincount(pixels.ravel()[start : start + _COUNTED], minlength=256)
    count[NODATA] = 0 if dataset.nodata == NODATA else count[NODATA] - replaced
    nodata = np.nan if dataset.nodata is None else dataset.nodata
    return np.flatnonzero(count).tolist(), nodata if replaced else None


def _color(value: int, palette: dict[int, tuple[int, ...]]) -> str:
    if not palette:
        return _COLORS[(value - 1) % len(_COLORS)]
    red, green, blue, *_ = palette.get(value, (0, 0, 0))
    return f"#{red:02x}{green:02x}{blue:02x}"
