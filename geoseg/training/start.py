"""Where a run starts from: another run's checkpoint, also one of other bands, classes or heads.

The architecture and its arguments must be the same; what the rest of the network knows is taken over as it is.

**Bands** go by name and date; without names by their place, where there are as many. A band that the checkpoint knows
keeps its kernels, at a date that it does not know those of the same name at another date, shared between the dates. New
bands share the kernels of those that are gone: none gone, they begin at zero, and the network answers at first as it
did without them. Without new bands, those that stay share them. So the sum over the bands stays what it was, and with
it the answer to an image with one value in every band, as in `adapt_first_conv`.

**Normalisation** stays the checkpoint's in the bands it knows: its weights and running statistics were learnt in these
units, and the run's own mean would shift every feature. A new band has the run's own. Where the values are of another
kind (another sensor, digital numbers for reflectances), the checkpoint's would send them far off, so that the run's own
wins in all bands: it is taken when the mean of a known band lies more than 4 of the checkpoint's deviations off, or the
deviations differ by more than a factor of 4.

**Classes** go by name within their head; first classes, the background, go together whatever they are called. Heads go
by name; else a head takes the checkpoint's only one of the same task. What the checkpoint does not know has fresh
weights; what the run does not know is dropped. Values of a regression that is known keep the checkpoint's scale.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geoseg.checkpoint import Checkpoint, Head, Header, load_checkpoint, resolve_model
from geoseg.config import TrainConfig
from geoseg.errors import UsageError
from geoseg.models import MODELS, build_model
from geoseg.training.heads import heads_of
from geoseg.training.origins import Origins, match_bands, match_channels, match_heads
from geoseg.training.samples import Statistics

log = logging.getLogger(__name__)

_FAR = 4.0
"""Deviations between two means, and factor between two deviations, beyond which values are of another kind."""
_COUNTS = ("dates", "output")
"""Arguments that say how many bands and channels there are; the weights are asked whether they may differ."""


class Start(NamedTuple):
    """What a run begins with."""

    state_dict: dict[str, Tensor]
    """Of the run's network, on the CPU."""
    normalisation: Statistics
    """Of its input."""
    heads: dict[str, Head]
    """In the order of the channels."""
    whole: bool
    """Whether bands, classes, and so all weights, are the checkpoint's."""


def start(
    init: str | Path,
    config: TrainConfig,
    bands: Sequence[str],
    own: Statistics,
    heads: Mapping[str, Head] | None = None,
) -> Start:
    """Begin from a checkpoint, by the rules above; what is not taken over as it is, is said in one line.

    Args:
        init: Built-in model or path of a checkpoint.
        config: The run.
        bands: Names of the run's bands, in the order of its data; date-major if there are dates.
        own: Statistics of the run's training ground, a value for each band.
        heads: As `heads_of(config, grounds)` has them; without it, new values are learnt as they are.

    Returns:
        The same for the same arguments: fresh weights come from `config.seed`.

    Raises:
        UsageError: If the architecture or its arguments differ, or there is no such model.
        CheckpointError: If the checkpoint is damaged.
    """
    given = load_checkpoint(resolve_model(init))
    _check_fit(given.header, config, str(init))
    heads = dict(heads or heads_of(config))
    from_bands = match_bands(given.header.bands, bands)
    partners = match_heads(given.header.heads, heads)
    from_channels = match_channels(given.header.heads, heads, partners)
    state = _transplant(given, config, (len(bands), len(from_channels)), from_bands, from_channels, str(init))
    normalisation, renewed = _normalisation(given.header, own, from_bands)
    for name, partner in partners.items():
        if heads[name].task == "regression":
            theirs = given.header.heads[partner]
            heads[name] = heads[name].model_copy(update={"scale": theirs.scale, "offset": theirs.offset})
    differences = [
        *_said("band", bands, given.header.bands, from_bands),
        *_said("class", _labels(heads), _labels(given.header.heads), from_channels),
        *(["values of another kind: normalised by the run's own mean and deviation"] if renewed else []),
    ]
    log.log(
        logging.WARNING if differences else logging.INFO,
        "init=%s: %s.",
        init,
        "; ".join(differences) or "all bands, classes and weights are taken over",
    )
    return Start(state, normalisation, heads, not differences)


def check_start(init: str | Path, config: TrainConfig) -> None:
    """Refuse a checkpoint that a run cannot start from, before any data is read.

    Raises:
        UsageError: If the architecture or its arguments differ, or there is no such model.
        CheckpointError: If the checkpoint is damaged.
    """
    _check_fit(load_checkpoint(resolve_model(init)).header, config, str(init))


def checkpoint_keys(init: str | Path) -> dict[str, Any]:
    """Architecture and classes of a built-in model or a checkpoint, by key of the configuration."""
    header = load_checkpoint(resolve_model(init)).header
    classes = [{"name": item.name, "color": item.color} for item in header.classes]
    keys = {"arch": header.arch, "arch_args": dict(header.arch_args)}
    if list(header.heads) == ["main"] and header.heads["main"].exclusive:
        return keys | {"classes": classes, "task": header.heads["main"].task}
    said = {
        name: {"task": head.task, "classes": [item.model_dump() for item in head.classes], "unit": head.unit}
        for name, head in header.heads.items()
    }
    return keys | {"heads": said}


def _check_fit(header: Header, config: TrainConfig, init: str) -> None:
    way_out = f"Expected the same. Leave them out: --init {init} brings its own."
    if header.arch != config.arch:
        raise UsageError(f"init={init} is of architecture {header.arch!r}, the run of {config.arch!r}. {way_out}")
    theirs, ours = (_arguments(config.arch, args) for args in (header.arch_args, config.arch_args))
    for name in sorted(theirs.keys() | ours.keys()):
        if name not in _COUNTS and theirs.get(name) != ours.get(name):
            raise UsageError(
                f"init={init} is a {header.arch} with {name}={theirs.get(name)}, the run's has "
                f"{name}={ours.get(name)}. {way_out}"
            )


def _arguments(arch: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """An architecture's arguments, those that were left out included."""
    known = inspect.signature(MODELS[arch]).parameters.values()
    return {one.name: one.default for one in known if one.default is not one.empty} | dict(given)


def _transplant(
    given: Checkpoint,
    config: TrainConfig,
    counts: tuple[int, int],
    from_bands: Origins,
    from_channels: Origins,
    init: str,
) -> dict[str, Tensor]:
    """The checkpoint's tensors with the run's bands and channels; fresh where nothing is known."""
    bands, channels = counts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        fresh = build_model(config.arch, config.arch_args, in_channels=bands, classes=channels).state_dict()
    axes = _axes(config)
    square = int(config.arch_args.get("shuffle", 1)) ** 2  # channels that a band, or a class, has for its pixels
    state = {}
    for name, own in fresh.items():
        old, (band_axes, class_axes) = given.state_dict.get(name), axes[name]
        free = {*band_axes, *class_axes}
        if old is None or [n for a, n in enumerate(old.shape) if a not in free] != [
            n for a, n in enumerate(own.shape) if a not in free
        ]:
            raise UsageError(
                f"init={init} does not fit: tensor {name} has shape {() if old is None else tuple(old.shape)}, the "
                f"run's {tuple(own.shape)} ({', '.join(f'{key}={value}' for key, value in config.arch_args.items())}). "
                "Expected the checkpoint's own arguments. Leave arch_args out."
            )
        tensor = old
        for axis in band_axes:
            squares = tensor.unflatten(axis, (-1, square))
            tensor = _spread(squares, axis, from_bands[: own.shape[axis] // square]).flatten(axis, axis + 1)
        for axis in class_axes:
            squares, new = (one.unflatten(axis, (-1, square)) for one in (tensor, own))
            tensor = _choose(squares, new, axis, from_channels[: new.shape[axis]]).flatten(axis, axis + 1)
        state[name] = tensor.contiguous()
    return state


def _spread(tensor: Tensor, axis: int, origins: Origins) -> Tensor:
    """Along an axis of bands: what is known keeps its kernels, what is new gets those of the bands that are gone."""
    before = tensor.shape[axis]
    places = [at if at is None else at % before for at in origins]
    gone = [at for at in range(before) if at not in places]
    rest = tensor.index_select(axis, torch.tensor(gone, dtype=torch.int64)).sum(axis, keepdim=True)
    heirs = [at is None or None not in places for at in places]
    parts = []
    for at, heir in zip(places, heirs, strict=True):
        own = torch.zeros_like(rest) if at is None else tensor.narrow(axis, at, 1) / places.count(at)
        parts.append(own + rest / sum(heirs) if heir else own)
    return torch.cat(parts, axis)


def _choose(tensor: Tensor, fresh: Tensor, axis: int, origin: Origins) -> Tensor:
    """Along an axis of channels: those known, fresh ones for the others."""
    before = tensor.shape[axis]
    parts = [
        fresh.narrow(axis, index, 1) if at is None else tensor.narrow(axis, at % before, 1)
        for index, at in enumerate(origin)
    ]
    return torch.cat(parts, axis)


def _axes(config: TrainConfig) -> dict[str, tuple[list[int], list[int]]]:
    """Of each tensor, the axes that grow with the number of bands, and with that of channels."""
    dates = int(config.arch_args.get("dates", 1))

    def shapes(bands: int, channels: int) -> dict[str, torch.Size]:
        with torch.device("meta"):
            network = build_model(config.arch, config.arch_args, in_channels=bands * dates, classes=channels * dates)
        return {name: tensor.shape for name, tensor in network.state_dict().items()}

    def grown(before: torch.Size, after: torch.Size) -> list[int]:
        return [axis for axis, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]

    few, more_bands, more_channels = shapes(2, 2), shapes(3, 2), shapes(2, 3)
    return {name: (grown(one, more_bands[name]), grown(one, more_channels[name])) for name, one in few.items()}


def _normalisation(header: Header, own: Statistics, origin: Origins) -> tuple[Statistics, bool]:
    """What the input is normalised by, and whether the checkpoint's does not fit the values."""
    mean, std = list(own.mean), list(own.std)
    for index, at in enumerate(origin):
        if at is None:
            continue
        shift = abs(own.mean[index] - header.mean[at]) / header.std[at]
        if shift > _FAR or not 1 / _FAR <= own.std[index] / header.std[at] <= _FAR:
            return own, True
        mean[index], std[index] = header.mean[at], header.std[at]
    return Statistics(tuple(mean), tuple(std), own.value_range), False


def _labels(heads: Mapping[str, Head]) -> list[str]:
    """A name for each channel."""
    found = []
    for name, head in heads.items():
        classes = [item.name for item in head.classes][1 if head.task == "binary" else 0 :]
        found += [one if len(heads) == 1 else f"{name}.{one}" for one in classes] or [name]
    return found


def _said(what: str, ours: Sequence[str], theirs: Sequence[str], origin: Origins) -> Iterator[str]:
    """What became of bands or classes, unless all are as they were."""
    new = [name for name, at in zip(ours, origin, strict=True) if at is None]
    kept = [name for name, at in zip(ours, origin, strict=True) if at is not None]
    dropped = [name for index, name in enumerate(theirs) if index not in origin]
    if new or dropped or len(ours) != len(theirs):
        parts = ((kept, "kept"), (new, "new"), (dropped, "dropped"))
        many = "bands" if what == "band" else "classes"
        yield f"{many} " + ", ".join(f"{_few(names)} {verb}" for names, verb in parts if names)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
