"""A model on a device: precision, memory layout, one forward pass per tile."""

import contextlib
import ctypes
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.batches import Tile, to_batch
from geoseg.errors import DeviceError, UsageError
from geoseg.layers import LABELS_ONLY, Keep, layers_of
from geoseg.models.fold import fold_batchnorm
from geoseg.models.layout import channels_last
from geoseg.scores import Decision, MeanLogits, Scores

log = logging.getLogger(__name__)

VIEWS = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))
"""What test-time augmentation shows a network of a tile: quarter turns, and whether it is mirrored after them."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how the forward pass runs: all of it decides bytes, and is recorded."""

    device: str
    """A torch device, never "auto"."""
    precision: str
    """A key of PRECISIONS, never "auto"."""
    batch_size: int = 1
    """Tiles in one forward pass."""
    tta: bool = False
    """Whether each tile is seen in all `VIEWS`."""

    @classmethod
    def resolve(
        cls, device: str = "auto", precision: str = "auto", batch_size: int | None = None, *, tta: bool = False
    ) -> "Placement":
        """What `auto` means on this machine.

        Args:
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            precision: `auto`, `float32`, `bfloat16` or `float16`.
            batch_size: Tiles per pass; by default one on the CPU and four elsewhere (cells are large).
            tta: Whether each tile is seen in all `VIEWS`.

        Raises:
            DeviceError: If this machine does not have it.
            UsageError: If the batch is empty.
        """
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"--batch-size {batch_size} leaves nothing to compute. Expected at least 1, or auto.")
        where = resolve_device(device)
        size = batch_size or (1 if where.type == "cpu" else 4)
        return cls(device=str(where), precision=resolve_precision(precision, where), batch_size=size, tta=tta)


def resolve_device(name: str = "auto") -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        DeviceError: If this machine does not have it, or the name is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise DeviceError(f"device={name!r} is no device. Expected auto, cpu, cuda, cuda:N or mps.") from err
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device={name!r} is not on this machine ({torch.cuda.device_count()} CUDA devices). Try cpu."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device='mps' is not on this machine. Try cpu.")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise DeviceError(f"device={name!r} is not supported. Expected auto, cpu, cuda, cuda:N or mps.")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """The floating type for `auto`: bfloat16 where the hardware multiplies it, else float32 (float16 on older GPUs).

    Raises:
        DeviceError: If the name is none.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        return "bfloat16" if device.type == "cpu" and _cpu_multiplies_bfloat16() else "float32"
    if name not in PRECISIONS:
        raise DeviceError(f"precision={name!r} is unknown. Expected auto, {', '.join(PRECISIONS)}.")
    return name


def _cpu_multiplies_bfloat16() -> bool:
    """Whether bfloat16 products are instructions here (AVX512-BF16, AMX); emulated they are slower than float32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(probe() for name in probes if (probe := getattr(torch.cpu, name, None)))


def is_out_of_memory(err: RuntimeError) -> bool:
    """CUDA says it by type, other devices and libraries only in words."""
    said = str(err)
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(err, torch.OutOfMemoryError) or any(word in said for word in words)


def tune_malloc() -> None:
    """Keep freed activations mapped (glibc only; a no-op elsewhere). For entry points, never on import.

    glibc gives every block above a threshold fresh pages and hands them back when freed, so that each layer of each
    forward pass pays its page faults again: up to half of the whole time.
    """
    m_mmap_threshold, m_trim_threshold, m_arena_max = -3, -1, -8
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  other C libraries know other parameters
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
        libc.mallopt(m_arena_max, 1)


def tune_worker() -> None:
    """What a worker process does before its first task."""
    tune_malloc()
    torch.set_num_threads(1)


class Predictor(ABC):
    """Tiles in, scores out. Safe to call from several threads."""

    decision: Decision
    """How logits become what is kept."""
    step: int
    """Tiles in one forward pass."""
    device: torch.device
    """Where the logits lie."""
    attention_maps: int = 0
    """Of the network."""

    @abstractmethod
    def logits(self, tiles: Sequence[Tile], *, halo: int | None, keep: Keep = LABELS_ONLY) -> list[Tensor]:
        """Logits (K, H - 2 halo, W - 2 halo) of at most `step` tiles, on the device; attention maps behind them.

        Args:
            tiles: All of one shape, sides multiples of the model's stride.
            halo: What to crop from each side; None leaves the tiles whole, and never cuts them for want of memory.
            keep: Whether attention maps are wanted.

        Raises:
            DeviceError: If not even a tile of one stride fits into memory.
            UsageError: If the halo is less than what the network itself cuts off.
        """

    def __call__(
        self, tiles: Sequence[Tile], valid: Sequence[np.ndarray], *, halo: int, keep: Keep = LABELS_ONLY
    ) -> list[Scores]:
        """Scores of the cells inside `tiles`, in order.

        Args:
            tiles: All of one shape, sides multiples of the model's stride.
            valid: (h, w) bool for each cell, which begins `halo` pixels inside its tile; False becomes nodata.
            halo: Context to crop from each side.
            keep: What to keep beside the labels.

        Raises:
            CheckpointError: If the network returns non-finite logits.
            DeviceError: If not even a tile of one stride fits into memory.
        """
        scores: list[Scores] = []
        for start in range(0, len(tiles), self.step):
            part = slice(start, start + self.step)
            for z, ok in zip(self.logits(tiles[part], halo=halo, keep=keep), valid[part], strict=True):
                scores.append(self.scores(z, ok, keep))
        return scores

    def nothing(self, shape: tuple[int, int], keep: Keep = LABELS_ONLY) -> Scores:
        """Scores of a cell without a valid pixel."""
        layers = layers_of(self.decision.heads, keep, attention_maps=self.attention_maps)
        return {name: layer.empty(shape) for name, layer in layers.items()}

    def scores(self, z: Tensor, valid: np.ndarray, keep: Keep = LABELS_ONLY) -> Scores:
        """Scores of a cell from what `logits` gave of it; see `Decision.scores`."""
        with torch.inference_mode():
            return self.decision.scores(z, valid, keep, attention_maps=self.attention_maps)

    def channels(self, keep: Keep = LABELS_ONLY) -> int:
        """Of what `logits` returns: the logits of all heads together, and the attention maps if they are kept."""
        return self.decision.channels + self.attention_maps * keep.attention


class Runner(Predictor):
    """A network on its device."""

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        decision: Decision,
        placement: "Placement | None" = None,
    ) -> None:
        """Prepare a folded copy of `model` in the placement's precision.

        Args:
            model: (N, C, H, W) float -> (N, K, H, W) logits, or smaller by `model.margin` on each side;
                `model.stride` is its deepest level's factor, `model.bounded` whether its context is. For attention it
                has `attention_maps`, their number, and `forward_with_attention`.
            mean: Training mean per channel.
            std: Training standard deviation per channel.
            decision: How its logits become what is kept.
            placement: Where and how it runs; by default whatever this machine does best.
        """
        self.placement = placement or Placement.resolve()
        self.device, self.dtype = torch.device(self.placement.device), PRECISIONS[self.placement.precision]
        self.mean, self.std, self.decision = tuple(mean), tuple(std), decision
        self.stride = int(getattr(model, "stride"))  # noqa: B009  an attribute every model has
        self.bounded, self.margin = bool(getattr(model, "bounded", True)), int(getattr(model, "margin", 0))
        self.attention_maps = int(getattr(model, "attention_maps", 0))
        model = fold_batchnorm(model.eval()).to(self.device, self.dtype)
        self.model = channels_last(model).requires_grad_(False)
        # One forward pass at a time on an accelerator, while other threads read and prepare; on the CPU each thread
        # runs its own pass on one core.
        cpu = self.device.type == "cpu"
        self.turn: contextlib.AbstractContextManager = contextlib.nullcontext() if cpu else threading.Lock()
        # On the CPU a batch is no faster than its tiles one by one, and so the bytes do not depend on it.
        self.step = 1 if cpu else self.placement.batch_size

    def logits(self, tiles: Sequence[Tile], *, halo: int | None, keep: Keep = LABELS_ONLY) -> list[Tensor]:
        """As `Predictor.logits`."""
        if self.margin > (halo or 0):
            raise UsageError(
                f"the network answers for pixels {self.margin} and more from the edge of what it sees. Expected tiles "
                f"that overlap by at least {2 * self.margin}, cropped. Try --overlap auto."
            )
        if not tiles:
            return []
        with torch.inference_mode():
            batch = to_batch(tiles, self.mean, self.std, self.dtype)
            if missing := self.step - len(batch):
                # Kernels are chosen by shape, and other kernels round otherwise.
                batch = torch.cat([batch, batch.new_zeros((missing, *batch.shape[1:]))])
                batch = batch.contiguous(memory_format=torch.channels_last)
            with self.turn:
                return list(self._forward(batch, halo, keep)[: len(tiles)])

    def _forward(self, batch: Tensor, halo: int | None, keep: Keep) -> Tensor:
        """As `logits`. Out of memory halves the batch, then the tile, with the same halo."""
        try:
            logits = self._answer(batch.to(self.device, non_blocking=True), keep)
            crop = (halo or 0) - self.margin
            return logits[..., crop : logits.shape[-2] - crop, crop : logits.shape[-1] - crop]
        except RuntimeError as err:
            if not is_out_of_memory(err):
                raise
        # Outside the except block, where the failed pass's activations are still referenced by the traceback.
        return self._forward_halves(batch, halo, keep)

    def _answer(self, batch: Tensor, keep: Keep) -> Tensor:
        if not keep.attention:
            answer: Tensor = self.model(batch)
            return answer
        logits, maps = cast(Any, self.model).forward_with_attention(batch)
        return torch.cat([logits, *maps], 1)

    def _forward_halves(self, batch: Tensor, halo: int | None, keep: Keep) -> Tensor:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        count, _, *sides = batch.shape
        if count > 1:
            log.warning("out of memory with %d tiles in a batch: halved", count)
            return torch.cat([self._forward(half, halo, keep) for half in batch.split(-(-count // 2))])
        longest = max(sides)
        dim = 2 + sides.index(longest)
        # A part would not answer as the whole where the context is unbounded, or no halo is there to repeat.
        halo = halo if self.bounded else None
        steps = 0 if halo is None else (longest - 2 * halo) // self.stride
        if halo is None or steps < 2:
            raise DeviceError(
                f"a tile of {sides[1]}x{sides[0]} pixels does not fit into the memory of {self.device}. "
                "Expected room for one. Try another --device, or a smaller --tile-size."
            )
        log.warning("out of memory with a tile of %dx%d: cut in two, with the same halo", sides[1], sides[0])
        middle = steps // 2 * self.stride
        first = batch.narrow(dim, 0, middle + 2 * halo)
        second = batch.narrow(dim, middle, longest - middle)
        return torch.cat([self._forward(half, halo, keep) for half in (first, second)], dim=dim)


class View(Predictor):
    """A network that is shown its tiles turned and mirrored; its answers lie as the tiles did."""

    def __init__(self, runner: Runner, turns: int, mirrored: bool) -> None:
        """Put a runner behind one of `VIEWS`."""
        self.runner, self.turns, self.mirrored = runner, turns, mirrored
        self.decision, self.step, self.device = runner.decision, runner.step, runner.device

    def logits(self, tiles: Sequence[Tile], *, halo: int | None, keep: Keep = LABELS_ONLY) -> list[Tensor]:
        """As `Predictor.logits`."""
        answers = self.runner.logits([self._seen(tile) for tile in tiles], halo=halo, keep=keep)
        return [torch.rot90(z.flip(2) if self.mirrored else z, -self.turns, (1, 2)) for z in answers]

    def _seen(self, tile: Tile) -> Tile:
        data, valid = (np.rot90(pixels, self.turns, (-2, -1)) for pixels in (tile.data, tile.valid))
        if self.mirrored:
            data, valid = data[..., ::-1], valid[..., ::-1]
        return Tile(data=np.ascontiguousarray(data), valid=np.ascontiguousarray(valid))


class Ensemble(Predictor):
    """Several networks with the same heads: the mean of their probabilities, and of the values of a regression."""

    def __init__(self, members: Sequence[Predictor]) -> None:
        """Put together at least one member; all with the same heads, on one device, and taking turns there."""
        self.members = members
        first = members[0]
        self.step, self.device = first.step, first.device
        heads = {
            name: head.model_copy(update={"scale": 1.0, "offset": 0.0}) for name, head in first.decision.heads.items()
        }
        self.decision = Decision(heads=heads, thresholds=first.decision.thresholds)

    def logits(self, tiles: Sequence[Tile], *, halo: int | None, keep: Keep = LABELS_ONLY) -> list[Tensor]:
        """As `Predictor.logits`: logits whose probabilities are the mean of the members'."""
        means = [MeanLogits() for _ in tiles]
        with torch.inference_mode():
            for member in self.members:
                for mean, z in zip(means, member.logits(tiles, halo=halo, keep=keep), strict=True):
                    mean.add(z, member.decision)
            return [mean.logits() for mean in means]
