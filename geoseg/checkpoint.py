"""The checkpoint: one `.safetensors` file whose JSON header holds all that is needed to use a network. Its only owner.

The file is read as bytes and never executed: no pickle, no archive, no code. Whatever another program wrote is refused
by what it is. A sha256 over tensors and header is stored and checked, so that a flipped bit is noticed.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from pydantic import ValidationError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from geoseg import __version__
from geoseg.builtin import builtin_models, resolve_model
from geoseg.errors import CheckpointError, OutputError, UsageError
from geoseg.header import ClassInfo, GroundSampling, Head, Header
from geoseg.models import build_model

__all__ = [
    "Checkpoint",
    "ClassInfo",
    "GroundSampling",
    "Head",
    "Header",
    "builtin_models",
    "load_checkpoint",
    "resolve_model",
    "save_checkpoint",
]

_KEY = "geoseg"
_MAX_HEADER = 16 << 20
_MAX_FILE = 4 << 30
_KINDS = (
    (b"PK", "a zip archive, such as PyTorch's .pt"),
    (b"\x80", "a pickle"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
    (b"<", "HTML or XML"),
    (b"\x89HDF", "HDF5"),
    (b"GGUF", "GGUF"),
    (b"\x08", "perhaps ONNX"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint in memory, checked."""

    header: Header
    """What it says of itself."""
    state_dict: dict[str, Tensor]
    """The network's parameters and statistics; floats as float32."""

    @property
    def margin(self) -> int:
        """Pixels by which the network's logits are smaller than its image, on each side."""
        with torch.device("meta"):
            return int(getattr(_build(self.header), "margin", 0))

    def build(self) -> nn.Module:
        """The network with its parameters, in evaluation mode, float32, on the CPU."""
        model = _build(self.header)
        model.load_state_dict(self.state_dict)
        return model.eval()


def save_checkpoint(path: str | Path, header: Header, state_dict: Mapping[str, Tensor], *, half: bool = True) -> None:
    """Write a checkpoint, all or nothing; a file of that name is replaced. The same input gives the same bytes.

    Args:
        path: The file, in a folder that exists.
        header: Its `sha256` and `geoseg_version` are filled in.
        state_dict: Of the network the header describes, on any device.
        half: Store float16, except running statistics and tensors that float16 cannot hold, which stay float32.

    Raises:
        CheckpointError: If a tensor is not finite, or the tensors are not those of the header's architecture.
        OutputError: If the file cannot be written.
    """
    path = Path(path)
    tensors = {name: _stored(name, tensor.detach().cpu(), half) for name, tensor in state_dict.items()}
    _check_finite(path, tensors)
    fields = header.model_copy(update={"geoseg_version": __version__}).model_dump(mode="json")
    try:
        fields["sha256"] = _digest(fields, tensors)
        text = _canonical(fields)
        checked = Header.model_validate_json(text)
    except ValueError as err:
        raise CheckpointError(f"{path} cannot be saved: {_describe(err)}.") from err
    _check_fit(path, checked, tensors)
    _write(path, dump_tensors(tensors, metadata={_KEY: text}))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check a checkpoint: form, sha256, finite numbers, tensors that fit the architecture.

    Raises:
        CheckpointError: If it is missing, damaged or of another program, or holds non-finite numbers.
    """
    path = Path(path)
    content = _read(path)
    text = _header_text(path, content)
    header = _parse_header(path, text)
    try:
        tensors = parse_tensors(content)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as err:
        raise CheckpointError(f"{path} is damaged or cut short ({' '.join(str(err).split())}). {_AGAIN}") from err
    if _digest(json.loads(text), tensors) != header.sha256:
        raise CheckpointError(f"{path} is damaged: its contents do not give the sha256 they were saved with. {_AGAIN}")
    _check_finite(path, tensors)
    _check_fit(path, header, tensors)
    floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    return Checkpoint(header, floats)


_AGAIN = "Expected the file as geoseg wrote it. Fetch or train it again."
_OURS = "Expected a .safetensors file that geoseg train wrote."


def _stored(name: str, tensor: Tensor, half: bool) -> Tensor:
    """The tensor as it goes to disk: contiguous, its own memory."""
    if not tensor.is_floating_point():
        return tensor.contiguous().clone()
    full = tensor.to(torch.float32)
    short = full.to(torch.float16)
    # A variance of 1e-8 is 0 in float16, and the statistics are small.
    keep = not half or name.endswith(("running_mean", "running_var")) or not torch.isfinite(short).all()
    return (full if keep else short).contiguous().clone()


def _canonical(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _digest(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of a header without its own, and of name, dtype, shape and bytes of every tensor in sorted order."""
    rest = {key: value for key, value in fields.items() if key != "sha256"}
    sha256 = hashlib.sha256(_canonical(rest).encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha256.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity. Expected finite numbers. Train again.")


def _build(header: Header) -> nn.Module:
    return build_model(header.arch, header.arch_args, in_channels=len(header.bands), classes=header.channels)


def _check_fit(path: Path, header: Header, tensors: Mapping[str, Tensor]) -> None:
    """The tensors are those of the architecture, and so is the stride."""
    try:
        with torch.device("meta"):  # shapes without memory, whatever width the header claims
            model = _build(header)
    except UsageError as err:
        raise CheckpointError(f"{path}: {err}") from err
    wanted = {name: (tuple(t.shape), t.is_floating_point()) for name, t in model.state_dict().items()}
    given = {name: (tuple(t.shape), t.is_floating_point()) for name, t in tensors.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            has, needs = (f"shape {d[name][0]}" if name in d else "none" for d in (given, wanted))
            raise CheckpointError(f"{path}: tensor {name} has {has}, {header.arch} needs {needs}. {_AGAIN}")
    if header.stride != model.stride:
        raise CheckpointError(f"{path}: stride={header.stride}, but that of {header.arch} is {model.stride}. {_AGAIN}")
    radius, margin = header.receptive_radius, int(getattr(model, "margin", 0))
    if (radius is not None) != bool(model.bounded) or (radius is not None and radius < margin):
        raise CheckpointError(f"{path}: receptive_radius={radius} cannot be that of {header.arch}. {_AGAIN}")


def _read(path: Path) -> bytes:
    """The whole file, if it is one and not too large."""
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            inside = path / "model.safetensors"
            raise CheckpointError(f"{path} is a folder. {f'Try {inside}.' if inside.is_file() else _OURS}")
        if not stat.S_ISREG(info.st_mode):
            raise CheckpointError(f"{path} is not a regular file. {_OURS}")
        if info.st_size > _MAX_FILE:
            raise CheckpointError(f"{path} has {info.st_size >> 30} GiB. Expected at most {_MAX_FILE >> 30} GiB.")
        with path.open("rb") as file:
            # The header first: most of what is no checkpoint is refused without reading all of it.
            head = file.read(8)
            size = int.from_bytes(head, "little")
            if len(head) < 8 or size > min(_MAX_HEADER, info.st_size - 8):
                raise CheckpointError(_refusal(path, head + file.read(64)))
            return head + file.read()
    except (OSError, ValueError) as err:
        if isinstance(err, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read ({getattr(err, 'strerror', None) or err}). {_OURS}") from err


def _refusal(path: Path, start: bytes) -> str:
    """What the file is instead, by its first bytes."""
    if not start:
        return f"{path} is empty. {_OURS}"
    if start[8:10] == b'{"':
        return f"{path} is damaged or cut short. {_AGAIN}"
    kind = next((words for magic, words in _KINDS if start.startswith(magic)), "of an unknown kind")
    kind = "text" if kind == "of an unknown kind" and start.isascii() and b"\0" not in start else kind
    return f"{path} is no geoseg checkpoint ({kind}). {_OURS}"


def _header_text(path: Path, content: bytes) -> str:
    """Our JSON inside the safetensors header's metadata."""
    stop = 8 + int.from_bytes(content[:8], "little")
    try:
        metadata = json.loads(content[8:stop]).get("__metadata__") or {}
        text = metadata.get(_KEY)
    except (ValueError, AttributeError, RecursionError) as err:
        raise CheckpointError(_refusal(path, content[:72])) from err
    if not isinstance(text, str):
        raise CheckpointError(f"{path} is a safetensors file of another program: it has no geoseg header. {_OURS}")
    return text


def _parse_header(path: Path, text: str) -> Header:
    try:
        fields = json.loads(text)
        form = fields.get("format")
        _canonical(fields)  # no NaN, no 1e999, wherever they stand
    except (ValueError, AttributeError, RecursionError) as err:
        raise CheckpointError(f"{path}: the header is no JSON object ({_describe(err)}). {_AGAIN}") from err
    if type(form) is int and form > 1:
        raise CheckpointError(f"{path} is written in format {form}. Expected format 1. Update geoseg to read it.")
    try:
        return Header.model_validate_json(text)
    except ValueError as err:
        raise CheckpointError(f"{path}: the header is wrong: {_describe(err)}. {_AGAIN}") from err


def _describe(err: Exception) -> str:
    """The first thing wrong, in one line."""
    if not isinstance(err, ValidationError):
        return " ".join(str(err).split())
    first = err.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _write(path: Path, content: bytes) -> None:
    """Beside the target, to the disk, then by rename: the name never holds half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as err:
        raise OutputError(f"{path} cannot be written ({err.strerror}). Expected a writable folder with room.") from err
    finally:
        with contextlib.suppress(OSError):  # gone after the rename; the folder may never have been there
            part.unlink()
