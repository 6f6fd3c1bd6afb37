"""Does this scene fit this model, and how is it cut? Everything here is decided before the first pixel is read."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from geoseg.checkpoint import Header
from geoseg.errors import BandError, UsageError
from geoseg.scene import Band, Scene
from geoseg.scene.stack import Stack
from geoseg.windows import Plan, TaperedPlan

log = logging.getLogger(__name__)

_GSD_SLACK = 1.5
"""Factor beyond the ground sample distances seen in training from which a scene is worth a warning."""
_WASTE = 4.0
"""Forward pixels per output pixel from which a tile size is worth a warning: as much as half-overlapping tiles cost."""
_TAPERED_BYTES = 160 << 20
"""Memory for the running sums of a cell of blended tiles: larger cells compute less twice."""
_BLOCK = 512
"""Side of a block of the rasters written."""
_DATE = re.compile(r"^(t\d+|\d{4}[\d-]*)[_ ]|[_ ](t\d+|\d{4}[\d-]*)$", re.IGNORECASE)
"""What a band's name may say of its date: t1_red, red_t1, 2024-07-01_red."""


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
                    f"{name} and {first} differ in their {what}: {theirs} and {ours}. Expected models of the same "
                    "bands and classes. Predict with one at a time."
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


def _shares(bands: Sequence[str], scenes: int) -> list[tuple[str, ...]]:
    """Names of the bands that each of several scenes gives, in order and without dates."""
    if not scenes:
        raise UsageError("no scene is given. Expected at least one.")
    share, rest = divmod(len(bands), scenes)
    names = tuple(_DATE.sub("", name) or name for name in bands)
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
            bands = _match(str(path), scene.bands, wanted, says)
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


def _match(path: str, bands: Sequence[Band], wanted: Sequence[str], says: str) -> list[str | int]:
    names = [band.name.lower() for band in bands]
    lowered = [name.lower() for name in wanted]
    if len(set(lowered)) == len(lowered) and all(names.count(name) == 1 for name in lowered):
        return [bands[names.index(name)].index for name in lowered]
    if len(bands) != len(wanted):
        if len(bands) < len(wanted):
            raise BandError(
                f"{path} has {_count(names)}; {says}. Expected all of them. Bands or dates in files of their own are "
                "read as one scene with --stack, in the model's order."
            )
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


def warn_of_differences(path: str, scene: Scene | Stack, headers: Sequence[Header]) -> None:
    """One line on stderr for each way in which the scene is unlike what the models learnt from, but still usable."""
    for dtype in dict.fromkeys(header.dtype for header in headers):
        if str(scene.dtype) != dtype:
            log.warning(
                "%s is %s; the model was trained on %s: expect a worse result, or rescale it first",
                path,
                scene.dtype,
                dtype,
            )
    for part in scene.parts:
        for remark in part.remarks():
            log.warning("%s %s", part.path, remark)
    grid = scene.grid
    if grid.crs is None:
        log.warning("%s has no CRS: the output is in pixels, and areas are in square pixels", path)
        return
    for seen in dict.fromkeys(header.gsd for header in headers):
        if grid.gsd is None or seen is None:
            continue
        if not seen.min / _GSD_SLACK <= grid.gsd <= seen.max * _GSD_SLACK:
            log.warning(
                "%s has %.3g m per pixel; the model was trained on %.3g to %.3g m: expect a worse result",
                path,
                grid.gsd,
                seen.min,
                seen.max,
            )


def plan_for(
    shape: tuple[int, int],
    header: Header,
    tile_size: int | None = None,
    overlap: int | None = None,
    blend: str = "auto",
) -> Plan:
    """How a scene of `shape` is cut for a model.

    Args:
        shape: (height, width) of the scene.
        header: Of the checkpoint: receptive radius, stride and cell side are the defaults.
        tile_size: Side of what the network sees; None takes the checkpoint's cell side and the halo.
        overlap: Pixels shared by neighbouring tiles; None takes twice the receptive radius, rounded up to the stride,
            or a quarter of the tile where the context is unbounded.
        blend: `crop` cuts each cell out of one tile, `taper` fades overlapping tiles into each other, `auto` crops
            where the context is bounded.

    Raises:
        UsageError: If tile size and overlap do not fit the model's stride, or `blend` is none of these.
    """
    if blend not in ("auto", "crop", "taper"):
        raise UsageError(f"blend={blend!r} is unknown. Expected auto, crop or taper.")
    if blend == "taper" or (blend == "auto" and header.receptive_radius is None):
        return _tapered(shape, header, tile_size, overlap)
    return _cropped(shape, header, tile_size, overlap)


def _cropped(shape: tuple[int, int], header: Header, tile_size: int | None, overlap: int | None) -> Plan:
    stride = header.stride
    enough = _enough(header, header.cell_side if tile_size is None else tile_size)
    overlap = _overlap(overlap, enough, 2 * stride)
    halo = overlap // 2
    if header.receptive_radius is None:
        log.warning("the network's context is unbounded: without a taper, tile edges show")
    elif overlap < enough:
        log.warning("overlap %d is less than the %d this model needs: tile edges may show", overlap, enough)
    if tile_size is None:
        cell_side = header.cell_side if header.receptive_radius is not None else header.cell_side - overlap
        return Plan(shape=shape, cell_side=cell_side, halo=halo, stride=stride)
    cell_side = _beside(tile_size, overlap, header)
    if (waste := (tile_size / cell_side) ** 2) > _WASTE and max(shape) > cell_side:
        log.warning(
            "tile size %d with overlap %d computes %.0f pixels for each pixel of the output; "
            "larger tiles, or auto, are faster",
            tile_size,
            overlap,
            waste,
        )
    return Plan(shape=shape, cell_side=cell_side, halo=halo, stride=stride)


def _tapered(shape: tuple[int, int], header: Header, tile_size: int | None, overlap: int | None) -> TaperedPlan:
    stride = header.stride
    enough = _enough(header, header.cell_side if tile_size is None else tile_size)
    fade = _overlap(overlap, enough, stride)
    bounded = header.receptive_radius is not None
    step = _beside(header.cell_side + bounded * fade if tile_size is None else tile_size, fade, header)
    if fade > step:
        raise UsageError(
            f"--overlap {fade} is more than half of the tile size {step + fade}: three tiles would lie over one pixel. "
            f"Expected at most {(step + fade) // 2 // stride * stride}."
        )
    # As many steps as the memory allows, and if possible a whole number of the raster's blocks.
    most = max(math.isqrt(_TAPERED_BYTES // (4 * header.channels)) // step, 1)
    unit = _BLOCK // math.gcd(step, _BLOCK)
    steps = max(most // unit * unit, 1) if most >= unit else most
    return TaperedPlan(shape=shape, cell_side=steps * step, stride=stride, step=step, fade=fade)


def _enough(header: Header, tile_size: int) -> int:
    """The overlap a model needs: twice the halo, or, where no halo is enough, a quarter of the tile."""
    stride = header.stride
    if header.receptive_radius is None:
        # A quarter, cut down where the tile is hardly larger than the stride.
        return max(min(tile_size // 4 // (2 * stride) * 2 * stride or 2 * stride, tile_size // 2 // stride * stride), 0)
    return -(-header.receptive_radius // stride) * stride * 2


def _overlap(given: int | None, enough: int, unit: int) -> int:
    if given is None:
        return enough
    if given % unit:
        raise UsageError(
            f"--overlap {given} does not fit the model. Expected a multiple of {unit}. "
            f"Try {round(given / unit) * unit}, or auto for {enough}."
        )
    return given


def _beside(tile_size: int, overlap: int, header: Header) -> int:
    """What a tile answers for beside its overlap."""
    stride, rest = header.stride, tile_size - overlap
    if rest < stride or rest % stride:
        auto = header.cell_side + (0 if header.receptive_radius is None else overlap)
        raise UsageError(
            f"--tile-size {tile_size} does not fit the model. Expected the overlap {overlap} and a multiple of the "
            f"stride {stride} beside it. Try {overlap + max(round(rest / stride), 1) * stride}, or auto for {auto}."
        )
    return rest
