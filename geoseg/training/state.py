"""The state of a run between two epochs, in files without code: safetensors, whose metadata hold the rest as JSON.

Lightning's own checkpoints are not used: a pickle by default, and their counters, saved at the end of an epoch, lead
through that end a second time.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from geoseg.errors import OutputError, ResumeError

log = logging.getLogger(__name__)

FOLDER = "state"
"""Of a run folder, where the states are."""

_KEY, _SHA256 = "geoseg_state", "sha256"
_NAME = re.compile(r"epoch-(\d+)\.safetensors")
_KEPT = 2
_TENSOR, _PAIRS = "__tensor__", "__pairs__"


def save_state(run: Path, epoch: int, state: Mapping[str, Any]) -> Path:
    """Write the state after an epoch, all or nothing, and remove all but the two newest.

    Args:
        run: The run folder.
        epoch: From 1; becomes part of the name.
        state: Mappings, lists, numbers, texts, None and tensors, nested in any way.

    Raises:
        OutputError: If it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_flatten(state, "", tensors), allow_nan=False, separators=(",", ":"))
    content = dump_tensors(tensors, metadata={_KEY: text, _SHA256: _digest(text, tensors)})
    path = run / FOLDER / f"epoch-{epoch:04d}.safetensors"
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        for old in _states(run)[_KEPT:]:
            old.unlink()
    except OSError as err:
        raise OutputError(f"{path} cannot be written ({err.strerror or err}). Expected a folder with room.") from err
    finally:
        with contextlib.suppress(OSError):  # gone after the rename
            part.unlink()
    return path


def newest_state(run: Path) -> dict[str, Any] | None:
    """What was saved after the last epoch; None when nothing was. A damaged file is passed over with a warning.

    Raises:
        ResumeError: If there are files, and all are damaged.
    """
    paths = _states(run)
    for path in paths:
        try:
            return load_state(path)
        except ResumeError as err:
            log.warning("%s", err)
    if paths:
        raise ResumeError(f"{run / FOLDER} has no state that can be read. Expected one. Train again with --overwrite.")
    return None


def load_state(path: Path) -> dict[str, Any]:
    """Read one state back as it was saved, memory layout of the tensors included.

    Raises:
        ResumeError: If it cannot be read, or is damaged.
    """
    try:
        content = path.read_bytes()
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        text, tensors = metadata[_KEY], parse_tensors(content)
        sound = metadata[_SHA256] == _digest(text, tensors)
        found: dict[str, Any] = _restore(json.loads(text), tensors) if sound else {}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as err:
        raise ResumeError(f"{path} is damaged or cut short ({' '.join(str(err).split())}). {_BEFORE}") from err
    if not sound:
        raise ResumeError(f"{path} is damaged: its contents do not give the sha256 they were saved with. {_BEFORE}")
    return found


_BEFORE = "Expected it as it was written. The one before it is taken."


def _states(run: Path) -> list[Path]:
    """The newest first."""
    found = [path for path in (run / FOLDER).glob("epoch-*.safetensors") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: -int(path.name[6:-12]))


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    sha256 = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def _flatten(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """What JSON can hold of a value; its tensors are put aside by name, in the order their numbers lie in memory."""
    match value:
        case Tensor():
            tensor = value.detach().cpu()
            strides = tensor.stride()
            order = sorted(range(tensor.ndim), key=lambda axis: -strides[axis])
            tensors[where] = tensor.permute(order).contiguous().clone()
            return {_TENSOR: where, "order": order}
        case Mapping() if all(isinstance(key, str) for key in value):
            return {key: _flatten(item, f"{where}/{key}", tensors) for key, item in value.items()}
        case Mapping():
            return {_PAIRS: [[key, _flatten(item, f"{where}/{key}", tensors)] for key, item in value.items()]}
        case list() | tuple():
            return [_flatten(item, f"{where}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"__tensor__": name, "order": order}:
            back = sorted(range(len(order)), key=lambda axis: order[axis])
            return tensors[name].permute(back)
        case {"__pairs__": pairs}:
            return {key: _restore(item, tensors) for key, item in pairs}
        case dict():
            return {key: _restore(item, tensors) for key, item in value.items()}
        case list():
            return [_restore(item, tensors) for item in value]
    return value
