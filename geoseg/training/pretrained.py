"""Weights of others to begin training from: published ones, those of an installed package, or a file.

Files are read without running what they hold (`weights_only`).
"""

import hashlib
import pickle
import zipfile
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from geoseg.errors import CheckpointError, UsageError
from geoseg.models.encoders import Encoder, adapt_first_conv
from geoseg.training.published import check_digest, fetch_weights

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
        source: True for public ImageNet weights, torchvision's (downloaded once) or those of an installed package;
            False for none; or the path of a file.

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
        check_digest(path.name, partial(_sha256, path), str(path), _AGAIN)
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
        f"{type(model).__name__} has no encoder with weights of its own. Expected a network on VGG, ResNet or "
        "EfficientNet-Lite0, such as fcn8s, segnet, deeplabv3plus, or unet with encoder=resnet34."
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(err: Exception) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0]
