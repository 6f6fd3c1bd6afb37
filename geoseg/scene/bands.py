"""Bands by name or number."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from geoseg.errors import BandError, SceneError

_SHOWN = 12
_DATE = re.compile(r"^(t\d+|\d{4}[\d-]*)[_ ]|[_ ](t\d+|\d{4}[\d-]*)$", re.IGNORECASE)
"""What a band's name may say of its date: t1_red, red_t1, 2024-07-01_red."""


@dataclass(frozen=True, slots=True)
class Band:
    """One band of a scene, on disk."""

    index: int
    """Number in the file, from 1."""
    name: str
    """The colour (red, green, blue, nir, ...), else the band's description, else "band_3"."""


def _names(dataset: DatasetReader) -> list[str]:
    unnamed = (ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette)
    return [
        color.name.lower() if color not in unnamed else description or f"band_{index}"
        for index, (color, description) in enumerate(
            zip(dataset.colorinterp, dataset.descriptions, strict=True), start=1
        )
    ]


def undated(name: str) -> str:
    """A band's name without its date."""
    return _DATE.sub("", name) or name


def choose_bands(path: str, dataset: DatasetReader, wanted: Sequence[int | str] | None) -> tuple[Band, ...]:
    """The bands to read, in order.

    Args:
        path: For messages.
        dataset: The open file.
        wanted: Numbers from 1, or names; None: all but alpha.

    Raises:
        BandError: If a band is not there, or the bands have several types.
        SceneError: If they hold complex numbers.
    """
    names = _names(dataset)
    if wanted is None:
        chosen = [i for i, color in enumerate(dataset.colorinterp, start=1) if color is not ColorInterp.alpha]
    else:
        chosen = [_index(path, names, band) for band in wanted]
    if not chosen:
        raise BandError(f"{path}: no band chosen of {_listed(names)}. Expected at least one.")
    types = sorted({dataset.dtypes[index - 1] for index in chosen})
    if any("complex" in dtype for dtype in types):
        raise SceneError(f"{path} holds complex numbers ({', '.join(types)}). Expected real ones, such as amplitudes.")
    if len(types) > 1:
        raise BandError(f"{path}: the bands are of types {', '.join(types)}. Expected one type. Choose with --bands.")
    return tuple(Band(index, names[index - 1]) for index in chosen)


def _index(path: str, names: list[str], band: int | str) -> int:
    if isinstance(band, int):
        if 1 <= band <= len(names):
            return band
        raise BandError(f"band={band} is not in {path}, which has {_listed(names)}. Expected 1 to {len(names)}.")
    found = [i for i, name in enumerate(names, start=1) if name.lower() == band.lower()]
    if len(found) == 1:
        return found[0]
    problem = f"stands for bands {', '.join(map(str, found))}" if found else "is no band"
    raise BandError(f"band={band!r} {problem} of {path}, which has {_listed(names)}. Expected a name or a number.")


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} band{'' if len(names) == 1 else 's'} ({', '.join(names[:_SHOWN])}{more})"
