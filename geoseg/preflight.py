"""Does this scene fit this model, and how is it cut? Everything here is decided before the first pixel is predicted."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from geoseg.errors import NOTE, BandError, SceneError, UsageError
from geoseg.header import Header
from geoseg.scene import Scene
from geoseg.scene.bands import undated
from geoseg.scene.opening import driver_for, is_remote
from geoseg.scene.resampled import SLACK, Resampled, factor_for
from geoseg.scene.stack import Stack
from geoseg.windows import Window

log = logging.getLogger(__name__)

_SAMPLE = 64
"""Side of the nine windows in which values are looked at: few pixels, as a scene may have hundreds of bands."""
_ABOVE, _BELOW = 2.0, 1 / 64
"""Share of the model's highest value that nearly all values of the scene stay below, or one reaches, at least."""


def agreed(models: Mapping[str, Header]) -> Header:
    """What a scene is opened and cut for: the header of the only model, or what the members of an ensemble agree on.

    Raises:
        UsageError: If they differ in bands or heads.
    """
    (first, header), *others = models.items()
    for name, other in others:
        for what, ours, theirs in (
            ("bands", header.bands, other.bands),
            ("heads", _outline(header), _outline(other)),
            ("thresholds", header.thresholds, other.thresholds),
        ):
            if ours != theirs:
                raise UsageError(
                    f"{first} and {name} differ in their {what}: {ours} and {theirs}. Expected models of the same "
                    "bands, tasks and classes. Predict with one at a time."
                )
    if not others:
        return header
    headers = list(models.values())
    radii = [item.receptive_radius for item in headers]
    stride = math.lcm(*(item.stride for item in headers))
    return header.model_copy(
        update={
            "arch": "+".join(item.arch for item in headers),
            "sha256": "+".join(item.sha256 for item in headers),
            "licence": "; ".join(dict.fromkeys(item.licence for item in headers if item.licence)),
            "origin": "; ".join(dict.fromkeys(item.origin for item in headers if item.origin)),
            "stride": stride,
            "cell_side": -(-header.cell_side // stride) * stride,
            "receptive_radius": None if None in radii else max(radius for radius in radii if radius is not None),
        }
    )


def _outline(header: Header) -> list[str]:
    return [
        f"{name}: {head.task} {', '.join(item.name for item in head.classes)}{head.unit}".strip()
        for name, head in header.heads.items()
    ]


def check_files(paths: Sequence[str | Path]) -> None:
    """Refuse files that are missing, or of no accepted format, without opening them; URLs pass.

    Raises:
        SceneError: Names the first that cannot be read.
    """
    for path in map(str, paths):
        if not is_remote(path):
            driver_for(path)


def open_scene(path: str | Path, header: Header, bands: Sequence[str | int] | None, nodata: float | None) -> Scene:
    """The scene with the bands the model wants, in its order.

    Without `bands` they are matched by name where the scene names them; otherwise a scene of exactly as many bands is
    taken in the file's order.

    Raises:
        SceneError: If the scene cannot be opened.
        BandError: If the bands do not fit the model.
        UsageError: If no pixel of the scene's type can have the value `nodata`.
    """
    return _open(path, header.bands, f"the model was trained on {_count(header.bands)}", bands, nodata)


def open_stack(
    paths: Sequence[str | Path], header: Header, bands: Sequence[str | int] | None, nodata: float | None
) -> Stack:
    """Scenes on one grid as one, each with its share of the bands the model wants.

    The model's bands are taken to be date-major: all of the first date, then all of the second. Each file gives as many
    as any other. `bands` is chosen from every file; without it they are matched file by file as `open_scene` does, a
    date in the names of the model's bands left aside.

    Raises:
        SceneError: If a file cannot be opened, or two differ in size, CRS, transform or type.
        BandError: If the number of files, or the bands of one, do not fit the model.
        UsageError: If no file is given, or no pixel of a file's type can have the value `nodata`.
    """
    scenes = []
    with ExitStack() as opened:
        for path, wanted in zip(paths, _shares(header.bands, len(paths)), strict=True):
            says = f"the model takes {_count(wanted)} of it, one of {len(paths)} scenes"
            scenes.append(opened.enter_context(_open(path, wanted, says, bands, nodata)))
        stack = Stack(scenes)
        opened.pop_all()
        return stack


def resampled(scene: Scene | Stack, header: Header, given: float | None = None) -> Scene | Stack | Resampled:
    """The scene at a ground sample distance that the model knows, which a line says; itself where it is at one.

    `given` are metres per pixel where no CRS tells them. What control points alone place stays as it is: its outlines
    and areas of interest count its own pixels.

    Raises:
        SceneError: If all of the scene is smaller than one pixel that the model knows.
    """
    gsd, seen = scene.grid.gsd or given, header.gsd
    if scene.grid.gsd is None and (scene.gcps or scene.rpcs):
        return scene
    if gsd is None or seen is None or not (factor := factor_for(gsd, seen.min, seen.max, seen.best)):
        return scene
    if factor.shrink > max(scene.grid.shape):
        raise SceneError(
            f"{scene.path} has {scene.grid.width} x {scene.grid.height} pixels of {gsd:.3g} m: all of it is smaller "
            f"than one of {seen.best:.3g} m, which the model is best at. Expected larger pixels. Correct its "
            "georeference or --gsd, or leave them as they are by --no-resample."
        )
    how = f"{factor.shrink} x {factor.shrink} pixels are averaged"
    if factor.grow > 1:
        how = f"each pixel is made into {factor.grow} x {factor.grow}"
    log.log(
        NOTE,
        "%s has %.3g m per pixel, the model knows %.3g to %.3g m: %s, and the output has %.3g m",
        scene.path,
        gsd,
        seen.min,
        seen.max,
        how,
        gsd * factor.pixels,
    )
    return Resampled(scene, factor)


def _shares(bands: Sequence[str], scenes: int) -> list[tuple[str, ...]]:
    """Names of the bands that each of several scenes gives, in order and without dates."""
    if not scenes:
        raise UsageError("no scene is given. Expected at least one.")
    share, rest = divmod(len(bands), scenes)
    names = tuple(undated(name) for name in bands)
    period = next(n for n in range(1, len(names) + 1) if names == names[:n] * (len(names) // n))
    if period < len(names) and (rest or share % period):
        raise BandError(
            f"{scenes} scenes are stacked; the model was trained on {_count(names[:period])} of each of "
            f"{len(names) // period} dates. Expected a scene for each date."
        )
    if rest or not share:
        raise BandError(
            f"{scenes} scenes are stacked; the model was trained on {_count(bands)}. "
            "Expected a number of scenes that shares them out evenly."
        )
    # Names that only count go on counting from date to date, which no file does.
    names = tuple(f"band_{i % share + 1}" if name == f"band_{i + 1}" else name for i, name in enumerate(names))
    return [names[start : start + share] for start in range(0, len(names), share)]


def _open(
    path: str | Path, wanted: Sequence[str], says: str, bands: Sequence[str | int] | None, nodata: float | None
) -> Scene:
    """The scene with the bands of the names `wanted`; `says` is what a message has of the model."""
    if bands is None:
        with Scene.open(path, nodata=nodata) as scene:
            bands = _match(str(path), scene, wanted, says)
    if len(bands) != len(wanted):
        raise BandError(f"{path}: {len(bands)} bands chosen; {says}. Expected as many.")
    scene = Scene.open(path, bands=bands, nodata=nodata)
    try:
        _check_nodata(str(path), scene.dtype, nodata)
    except UsageError:
        scene.close()
        raise
    return scene


def _check_nodata(path: str, dtype: np.dtype, nodata: float | None) -> None:
    if nodata is None or not math.isfinite(nodata) or dtype.kind not in "iu":
        return
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if not (low <= nodata <= high and nodata == int(nodata)):
        raise UsageError(
            f"--nodata {nodata:g} cannot occur in {path}, which is {dtype}. Expected a whole number from {low} to "
            f"{high}, or nan where all pixels are data."
        )


def _match(path: str, scene: Scene, wanted: Sequence[str], says: str) -> list[str | int]:
    bands = scene.bands
    names = [band.name.lower() for band in bands]
    lowered = [name.lower() for name in wanted]
    if len(set(lowered)) == len(lowered) and all(names.count(name) == 1 for name in lowered):
        return [bands[names.index(name)].index for name in lowered]
    if len(bands) != len(wanted):
        if len(bands) < len(wanted):
            colors = [name if name in ("red", "green", "blue", "nir") else "undefined" for name in names]
            colors.insert((scene.alpha or 1) - 1, "undefined")
            way_out = (
                "Bands or dates in files of their own are read as one scene with --stack, in the model's order."
                if scene.alpha is None
                else f"Its band {scene.alpha} is marked as alpha, which says what is opaque and is no data. If it is "
                f"data, say so: rio edit-info --colorinterp {','.join(colors)} {path}."
            )
            raise BandError(f"{path} has {_count(names)}; {says}. Expected all of them. {way_out}")
        raise BandError(
            f"{path} has {_count(names)}; {says}. "
            f"Choose them with --bands, for example --bands {','.join(str(b.index) for b in bands[: len(wanted)])}."
        )
    unknown = [name for name in names if name.startswith("band_")]
    if not unknown:
        said = ", ".join(band.name for band in bands)
        log.warning("%s: bands %s taken for %s, in this order", path, said, ", ".join(wanted))
    return [band.index for band in bands]


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} band{'' if len(names) == 1 else 's'} ({', '.join(names)})"


def warn_of_differences(
    path: str, scene: Scene | Stack | Resampled, headers: Sequence[Header], given: float | None = None
) -> None:
    """One line on stderr for each way in which the scene is unlike what the models learnt from, but still usable.

    `given` are metres per pixel where no CRS tells them.
    """
    for header in {header.dtype: header for header in headers}.values():
        if str(scene.dtype) != header.dtype:
            log.warning(
                "%s is %s; the model was trained on %s: %s", path, scene.dtype, header.dtype, _odds(scene, header)
            )
    for part in scene.parts:
        for remark in part.remarks():
            log.warning("%s %s", part.path, remark)
    gsd = scene.grid.gsd or given
    if gsd is None:
        why = "has no CRS: the output is in pixels, and areas are in square pixels"
        if scene.grid.crs is not None:
            why = "has a CRS that tells no place on Earth: lengths and areas are in pixels"
        log.warning("%s %s; --gsd METRES would say how large one is", path, why)
        return
    for seen in dict.fromkeys(header.gsd for header in headers):
        if seen and not seen.min / SLACK <= gsd <= seen.max * SLACK:
            log.warning(
                "%s has %.3g m per pixel; the model was trained on %.3g to %.3g m: expect a worse result",
                path,
                gsd,
                seen.min,
                seen.max,
            )


def _odds(scene: Scene | Stack | Resampled, header: Header) -> str:
    """What to expect of values of another type: a look at some of them tells."""
    low, high = _values(scene)
    most = max(abs(value) for ends in header.value_range for value in ends)
    if high is None or most * _BELOW <= high <= most * _ABOVE:
        return "expect a worse result, or rescale it first"
    way = f": gdal_translate -ot Byte -scale {low:.6g} {high:.6g} 1 255 IN OUT" if header.dtype == "uint8" else ""
    return (
        f"its values are about {low:.6g} to {high:.6g}, the model's go to {most:.6g}: nothing useful will come out. "
        f"Rescale it first{way}"
    )


def _values(scene: Scene | Stack | Resampled) -> tuple[float | None, float | None]:
    """The 2nd and the 98th percentile in nine windows spread over the scene; None where there is no data."""
    grid, found = scene.grid, []
    height, width = min(_SAMPLE, grid.height), min(_SAMPLE, grid.width)
    for row in {(grid.height - height) * k // 2 for k in range(3)}:
        for col in {(grid.width - width) * k // 2 for k in range(3)}:
            tile = scene.read(Window(row=row, col=col, height=height, width=width))
            found.append(tile.data[:, tile.valid].ravel())
    values = np.concatenate(found)
    if not len(values):
        return None, None
    low, high = np.percentile(values, (2, 98)).tolist()
    return low, high
