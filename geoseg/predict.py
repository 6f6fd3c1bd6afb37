"""A model on a device: precision, memory layout, one forward pass per tile, and what is kept of it."""

import contextlib
import ctypes
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.batches import Tile, to_batch
from geoseg.errors import CheckpointError, DeviceError, UsageError
from geoseg.models.fold import fold_batchnorm

log = logging.getLogger(__name__)

NODATA = 255
"""The value of invalid pixels in every uint8 output."""
PROBABILITY_SCALE = 254
"""Probabilities are stored as round(254 p), so that 127 is exactly one half and 255 is left for nodata."""

_ROWS = 64
"""Rows of logits that are made labels of at a time."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What is kept of one cell: (h, w) labels and what else was asked for, all uint8, 255 = nodata."""

    labels: np.ndarray
    """(h, w) class indices."""
    confidence: np.ndarray | None = None
    """(h, w) probability of the chosen class, 0..254."""
    probabilities: np.ndarray | None = None
    """(K, h, w) probability per class, 0..254."""

    @classmethod
    def nodata(cls, shape: tuple[int, int], *, classes: int, confidence: bool, probabilities: bool) -> "Scores":
        """Scores of a cell without a valid pixel."""
        return cls(
            labels=np.full(shape, NODATA, np.uint8),
            confidence=np.full(shape, NODATA, np.uint8) if confidence else None,
            probabilities=np.full((classes, *shape), NODATA, np.uint8) if probabilities else None,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, without those that were not asked for."""
        named = {"labels": self.labels, "confidence": self.confidence, "probabilities": self.probabilities}
        return {name: array for name, array in named.items() if array is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how the forward pass runs: all of it decides bytes, and is recorded."""

    device: str
    """A torch device, never "auto"."""
    precision: str
    """A key of PRECISIONS, never "auto"."""
    batch_size: int = 1
    """Tiles in one forward pass."""

    @classmethod
    def resolve(cls, device: str = "auto", precision: str = "auto", batch_size: int | None = None) -> "Placement":
        """What `auto` means on this machine.

        Args:
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            precision: `auto`, `float32`, `bfloat16` or `float16`.
            batch_size: Tiles per pass; by default one on the CPU and four elsewhere (cells are large).

        Raises:
            DeviceError: If this machine does not have it.
            UsageError: If the batch is empty.
        """
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"--batch-size {batch_size} leaves nothing to compute. Expected at least 1, or auto.")
        where = resolve_device(device)
        size = batch_size or (1 if where.type == "cpu" else 4)
        return cls(device=str(where), precision=resolve_precision(precision, where), batch_size=size)


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


def _is_out_of_memory(err: RuntimeError) -> bool:
    """CUDA says it by type, the CPU's allocator only in words."""
    return isinstance(err, torch.OutOfMemoryError) or "can't allocate memory" in str(err)


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


class Runner:
    """A network ready to predict: tiles in, Scores out. Safe to call from several threads."""

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        classes: int,
        temperature: float = 1.0,
        placement: "Placement | None" = None,
    ) -> None:
        """Prepare a folded copy of `model` in the placement's precision.

        Args:
            model: (N, C, H, W) float -> (N, K, H, W) logits, or smaller by `model.margin` on each side;
                `model.stride` is its deepest level's factor, `model.bounded` whether its context is.
            mean: Training mean per channel.
            std: Training standard deviation per channel.
            classes: K, at most 255.
            temperature: Divides the logits before the softmax; labels do not depend on it.
            placement: Where and how it runs; by default whatever this machine does best.
        """
        self.placement = placement or Placement.resolve()
        self.device, self.dtype = torch.device(self.placement.device), PRECISIONS[self.placement.precision]
        self.mean, self.std, self.classes, self.temperature = tuple(mean), tuple(std), classes, temperature
        self.stride = int(getattr(model, "stride"))  # noqa: B009  an attribute every model has
        self.bounded, self.margin = bool(getattr(model, "bounded", True)), int(getattr(model, "margin", 0))
        model = fold_batchnorm(model.eval()).to(self.device, self.dtype)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model.requires_grad_(False)
        # One forward pass at a time on an accelerator, while other threads read and prepare; on the CPU each thread
        # runs its own pass on one core.
        cpu = self.device.type == "cpu"
        self._turn: contextlib.AbstractContextManager = contextlib.nullcontext() if cpu else threading.Lock()
        # On the CPU a batch is no faster than its tiles one by one, and so the bytes do not depend on it.
        self.step = 1 if cpu else self.placement.batch_size
        """Tiles in one forward pass."""

    def __call__(
        self,
        tiles: Sequence[Tile],
        valid: Sequence[np.ndarray],
        *,
        halo: int,
        confidence: bool = False,
        probabilities: bool = False,
    ) -> list[Scores]:
        """Scores of the cells inside `tiles`, in order.

        Args:
            tiles: All of one shape, sides multiples of the model's stride.
            valid: (h, w) bool for each cell, which begins `halo` pixels inside its tile; False becomes nodata.
            halo: Context to crop from each side.
            confidence: Keep the chosen class's probability.
            probabilities: Keep every class's probability.

        Raises:
            CheckpointError: If the network returns non-finite logits.
            DeviceError: If not even a tile of one stride fits into memory.
        """
        scores: list[Scores] = []
        for start in range(0, len(tiles), self.step):
            part = slice(start, start + self.step)
            with torch.inference_mode():
                batch = self._batch(tiles[part])
                with self._turn:
                    for z, ok in zip(self._pass(batch, halo), valid[part], strict=False):  # without the batch's padding
                        scores.append(self.keep(z, ok, confidence=confidence, probabilities=probabilities))
        return scores

    def logits(self, tiles: Sequence[Tile]) -> list[Tensor]:
        """Logits (K, H, W) of whole tiles, on the device; at most `step` tiles, all of one shape.

        Raises:
            DeviceError: If a tile does not fit into memory. It is not cut: a network of unbounded context would answer
                otherwise.
        """
        if not tiles:
            return []
        with torch.inference_mode():
            batch = self._batch(tiles)
            with self._turn:
                return list(self._pass(batch, None)[: len(tiles)])

    def _batch(self, tiles: Sequence[Tile]) -> Tensor:
        """Filled up to the batch size: kernels are chosen by shape, and other kernels round otherwise."""
        batch = to_batch(tiles, self.mean, self.std, self.dtype)
        missing = self.step - len(batch)
        if missing <= 0:
            return batch
        padded = torch.cat([batch, batch.new_zeros((missing, *batch.shape[1:]))])
        return padded.contiguous(memory_format=torch.channels_last)

    def _pass(self, batch: Tensor, halo: int | None) -> Tensor:
        """Logits (N, K, H - 2 halo, W - 2 halo) of tiles that are cropped; of whole ones where `halo` is None."""
        if self.margin > (halo or 0):
            raise UsageError(
                f"the network answers for pixels {self.margin} and more from the edge of what it sees. Expected tiles "
                f"that overlap by at least {2 * self.margin}, cropped. Try --overlap auto."
            )
        return self._forward(batch.to(self.device, non_blocking=True), halo)

    def _forward(self, batch: Tensor, halo: int | None) -> Tensor:
        """As `_pass`. Out of memory halves the batch, then the tile, with the same halo."""
        try:
            logits = self.model(batch)
            crop = (halo or 0) - self.margin
            return logits[..., crop : logits.shape[-2] - crop, crop : logits.shape[-1] - crop]
        except RuntimeError as err:
            if not _is_out_of_memory(err):
                raise
        # Outside the except block, where the failed pass's activations are still referenced by the traceback.
        return self._forward_halves(batch, halo)

    def _forward_halves(self, batch: Tensor, halo: int | None) -> Tensor:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        count, _, *sides = batch.shape
        if count > 1:
            log.warning("out of memory with %d tiles in a batch: halved", count)
            return torch.cat([self._forward(half, halo) for half in batch.split(-(-count // 2))])
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
        return torch.cat([self._forward(half, halo) for half in (first, second)], dim=dim)

    def keep(self, z: Tensor, valid: np.ndarray, *, confidence: bool = False, probabilities: bool = False) -> Scores:
        """What is kept of a cell's logits, on the CPU.

        Args:
            z: (K, H, W) logits, at least as large as `valid`; what lies below and to the right of it is dropped.
            valid: (h, w) bool; False becomes nodata.
            confidence: Keep the chosen class's probability.
            probabilities: Keep every class's probability.

        Raises:
            CheckpointError: If a logit is not finite.
        """
        wanted = {"confidence": confidence, "probabilities": probabilities}
        height, width = valid.shape
        scores = Scores.nodata(valid.shape, classes=self.classes, **wanted)
        # On the CPU a few rows at a time stay in the processor's cache, and no second copy of the logits is made.
        step = _ROWS if self.device.type == "cpu" else height
        for row in range(0, height, step):
            rows = slice(row, min(row + step, height))
            for name, found in self._decide(z[:, rows, :width], **wanted).items():
                array = getattr(scores, name)[..., rows, :]
                np.copyto(array, found.cpu().numpy(), where=valid[rows])
        return scores

    def _decide(self, z: Tensor, *, confidence: bool, probabilities: bool) -> dict[str, Tensor]:
        """What is kept of some rows of logits, by name."""
        planes = z.contiguous(memory_format=torch.contiguous_format)
        labels, best = argmax_planes(planes)
        # NaN and infinity in any plane come up in the maximum.
        if not torch.isfinite(best.sum(dtype=torch.float32)):
            raise CheckpointError(
                f"the network returned non-finite logits in {self.placement.precision}. Expected finite numbers. "
                "Try --precision float32; if that fails too, the checkpoint is broken."
            )
        kept = {"labels": labels}
        if confidence or probabilities:
            # exp(z - best) is 1 for the chosen class: its probability is one over the sum.
            scaled = ((planes.float() - best.float()) / self.temperature).exp_()
            total = scaled.sum(0)
            if confidence:
                kept["confidence"] = _quantize(total.reciprocal())
            if probabilities:
                kept["probabilities"] = _quantize(scaled / total)
        return kept


def argmax_planes(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Index and value of the largest of K planes, the first of equals; several times faster than `argmax(dim=0)`.

    Args:
        planes: (K, h, w), contiguous, 1 <= K <= 255.

    Returns:
        (h, w) uint8 indices and (h, w) values.
    """
    best = planes[0]
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=planes.device)
    for index, plane in enumerate(planes[1:], start=1):
        # Indices rise, so the last plane to be larger than all before it is the maximum of these.
        labels = torch.maximum(labels, (plane > best).view(torch.uint8).mul_(index))
        best = torch.maximum(best, plane)
    return labels, best


def _quantize(probability: Tensor) -> Tensor:
    return probability.mul(PROBABILITY_SCALE).round_().to(torch.uint8)
