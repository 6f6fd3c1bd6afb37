"""Heads of a run: from the configuration to the checkpoint's heads, and the loss of each."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from geoseg.checkpoint import ClassInfo, Head
from geoseg.config import PALETTE, HeadConfig, TrainConfig
from geoseg.errors import UsageError
from geoseg.losses import Mixture, parse_mixture
from geoseg.losses.mixture import Loss, loss_options
from geoseg.metrics import IGNORE
from geoseg.training.ground import Ground, summary_of
from geoseg.training.samples import FURTHER
from geoseg.training.summary import Values

_LOSSES = {"multilabel": "bce:1,dice:1", "regression": "huber:1"}
"""Of heads that name none."""
_CONSTANT = 1e-6
"""A deviation of less than this share of the mean is none."""


def heads_of(config: TrainConfig, grounds: Sequence[Ground] = ()) -> dict[str, Head]:
    """The checkpoint's heads, in the order of their channels.

    The values of a regression are learnt in standard deviations from their mean over the training ground.

    Args:
        config: The run.
        grounds: Training ground; without it, values are learnt as they are.
    """
    found = {name: _head(head, name, grounds) for name, head in config.further_heads.items()}
    if config.main_head:
        pairs = zip(config.class_names, config.class_colors, strict=True)
        classes = tuple(ClassInfo(name=name, color=color) for name, color in pairs)
        found[config.main_head] = Head(task=config.task, classes=classes)
    return dict(sorted(found.items()))


def _head(head: HeadConfig, name: str, grounds: Sequence[Ground]) -> Head:
    colors = [item.color or PALETTE[index % len(PALETTE)] for index, item in enumerate(head.classes)]
    classes = tuple(ClassInfo(name=item.name, color=color) for item, color in zip(head.classes, colors, strict=True))
    if head.task != "regression":
        return Head(task=head.task, classes=classes)
    values = [summary_of(ground).further[name] for ground in grounds]
    count = sum(one.count for one in values)
    if not count:
        return Head(task="regression", unit=head.unit)
    mean, square = (sum(getattr(one, of) * one.count for one in values) / count for of in ("mean", "square"))
    deviation = math.sqrt(max(square - mean**2, 0.0))
    scale = deviation if deviation > _CONSTANT * abs(mean) else 1.0
    return Head(task="regression", scale=scale, offset=mean, unit=head.unit)


def check_losses(mixture: Mixture, task: str, classes: int, said: str) -> None:
    """Refuse losses of values for a head of classes, the other way round, and options that do not fit.

    Raises:
        UsageError: If they do not fit.
    """
    values = any(getattr(loss, "task", None) == "regression" for loss in mixture.losses.values())
    if values != (task == "regression"):
        kinds = ("classes", "values") if values else ("values", "classes")
        raise UsageError(f"{said} is of {kinds[1]}; the head has {kinds[0]}. Expected losses of {kinds[0]}.")
    if not values:
        mixture.check(classes)


def weigh(mixture: Mixture, config: TrainConfig) -> None:
    """Give the run's class weights to every loss of the classes that takes some and names none."""
    given = config.class_weights
    for loss in mixture.losses.values():
        assert isinstance(loss, Loss)  # noqa: S101  for the type checker
        if given is None or "class_weights" not in loss_options(loss.name) or "class_weights" in loss.options:
            continue
        if isinstance(given, str):
            loss.rule = given
        loss.options["class_weights"] = given if isinstance(given, str) else _numbers(given, config)


def _numbers(given: Mapping[str, float], config: TrainConfig) -> list[float]:
    return [given.get(name, 1.0) for name in config.class_names]


class HeadLosses(nn.Module):
    """The losses of the further heads of a run: of all but the one that the sources' `labels` are of."""

    def __init__(self, config: TrainConfig, heads: Mapping[str, Head]) -> None:
        """Read the losses of every head but the one of exclusive classes.

        Raises:
            UsageError: If one cannot be read, or does not fit its head.
        """
        super().__init__()
        self.heads = dict(heads)
        self.main = config.main_head
        self.weights = {name: head.weight for name, head in config.further_heads.items()}
        self.mixtures = nn.ModuleDict()
        for name, head in config.further_heads.items():
            text = head.loss or _LOSSES.get(head.task, config.loss)
            mixture = parse_mixture(text, task="multiclass" if head.task == "regression" else head.task)
            check_losses(mixture, head.task, len(head.classes), f"heads.{name}.loss={text!r}")
            self.mixtures[name] = mixture

    def named_terms(self) -> list[str]:
        """What `terms` gives, by name."""
        return [
            f"{name}.{loss}"
            for name, mixture in self.mixtures.items()
            if isinstance(mixture, Mixture)
            for loss in mixture.factors
        ]

    def split(self, logits: Tensor) -> dict[str, Tensor]:
        """Each head's channels of (N, K, H, W) logits."""
        parts = logits.split([head.channels for head in self.heads.values()], 1)
        return dict(zip(self.heads, parts, strict=True))

    def terms(self, logits: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms of each further head's loss, as `<head>.<loss>`."""
        found: dict[str, Tensor] = {}
        for name, mixture in self.mixtures.items():
            assert isinstance(mixture, Mixture)  # noqa: S101  for the type checker
            target = self.target(name, batch[f"{FURTHER}{name}"])
            found |= {f"{name}.{loss}": value for loss, value in mixture.terms(logits[name].float(), target).items()}
        return found

    def target(self, name: str, values: Tensor) -> Tensor:
        """What a head's logits are to become, from (N, bands, H, W) with NaN where nothing is known.

        Returns:
            (N, H, W) class indices or 255; of labels (N, K, H, W) 0, 1 or 255; of values (N, 1, H, W) in standard
            deviations, NaN where unknown.
        """
        head = self.heads[name]
        if head.task == "regression":
            return (values - head.offset) / head.scale
        known = torch.where(values.isnan(), torch.full_like(values, IGNORE), values).long()
        return known[:, 0] if head.exclusive else known

    def gradient_shares(self, terms: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> dict[str, float]:
        """What each term of what `terms` gave has of its head's gradient, by the same names."""
        found: dict[str, float] = {}
        for name, mixture in self.mixtures.items():
            assert isinstance(mixture, Mixture)  # noqa: S101
            own = {loss: terms[f"{name}.{loss}"] for loss in mixture.factors}
            found |= {f"{name}.{loss}": share for loss, share in mixture.gradient_shares(own, logits[name]).items()}
        return found

    def count(self, grounds: Sequence[Ground]) -> None:
        """Tell losses with class weights by a rule how many pixels have each label."""
        for name, mixture in self.mixtures.items():
            assert isinstance(mixture, Mixture)  # noqa: S101
            if mixture.needs_counts:
                mixture.count(_pixels([summary_of(ground).further[name] for ground in grounds], self.heads[name]))

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `terms` gave, over all heads."""
        sums = []
        for name, mixture in self.mixtures.items():
            assert isinstance(mixture, Mixture)  # noqa: S101
            own = {loss: terms[f"{name}.{loss}"] for loss in mixture.factors}
            sums.append(self.weights[name] * mixture.total(own))
        return torch.stack(sums).sum()


def _pixels(targets: Sequence[Values], head: Head) -> list[int]:
    """How many pixels have each class, or each label."""
    places = [(0, value) if head.exclusive else (value, 1) for value in range(len(head.classes))]
    return [sum(target.counts[band][value] for target in targets) for band, value in places]
