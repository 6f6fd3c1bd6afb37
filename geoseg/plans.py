"""How a scene is cut for a model: cropped cells where its context is bounded, blended ones where it is not."""

import logging
import math

from geoseg.checkpoint import Header
from geoseg.errors import UsageError
from geoseg.windows import Plan, TaperedPlan

log = logging.getLogger(__name__)

_WASTE = 4.0
"""Forward pixels per output pixel from which a tile size is worth a warning: as much as half-overlapping tiles cost."""
_TAPERED_BYTES = 160 << 20
"""Memory for the running sums of a cell of blended tiles: larger cells compute less twice."""
_LARGEST_TILE = 1 << 15
_BLOCK = 512
"""Side of a block of the rasters written."""


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
    taper = blend == "taper" or (blend == "auto" and header.receptive_radius is None)
    plan = (_tapered if taper else _cropped)(shape, header, tile_size, overlap)
    if plan.tile_size > _LARGEST_TILE:
        raise UsageError(
            f"--tile-size and --overlap give tiles of {plan.tile_size} pixels a side, which no memory holds. Expected "
            f"at most {_LARGEST_TILE}. Leave them to geoseg."
        )
    return plan


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
            f"Try {-(-given // unit) * unit}, or auto for {enough}."
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
