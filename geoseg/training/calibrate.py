"""Calibration: the temperature and the thresholds that validation pixels ask for, and how reliable they leave it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from geoseg.checkpoint import Head, Header
from geoseg.metrics import IGNORE, Reliability

_COLDEST, _HOTTEST = 0.1, 10.0
"""Temperatures that are looked at: where validation holds no error, the coldest would be 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Pixels whose logits say which of some classes each has."""

    head: str
    """The head they are of."""
    names: tuple[str | None, ...]
    """What the classes are called in figures; None for the no of a label."""
    logits: Tensor
    """(K, n) float32."""
    target: Tensor
    """(n,) int64 in [0, K), without pixels of which nothing is known."""
    known: tuple[int, ...]
    """The classes told apart; a target that is none of them means any of the others, unless there is but one other."""
    decides: str | None = None
    """The class, by its own name, that a threshold on the second of two logits takes or not."""

    @property
    def others(self) -> list[int]:
        """The classes that are not told apart; empty where that leaves at most one open."""
        others = [index for index in range(len(self.logits)) if index not in self.known]
        return others if len(others) > 1 else []

    def likelihood(self, temperature: float) -> float:
        """Negative log-likelihood of the targets, summed over the pixels."""
        log_p = (self.logits / temperature).log_softmax(0)
        if others := self.others:
            log_p[others] = log_p[others].logsumexp(0)
        return -float(log_p.gather(0, self.target[None]).sum(dtype=torch.float64))

    def count(self, reliability: Reliability, temperature: float) -> None:
        """Take the pixels into the histogram of every class that the labels tell apart."""
        p = (self.logits / temperature).softmax(0).numpy()
        target, others = self.target.numpy(), self.others
        for index, name in enumerate(self.names):
            if name is not None and index not in others:
                reliability.update(reliability.classes.index(name), p[index], target == index)


def choices(
    z: np.ndarray,
    target: np.ndarray,
    further: Mapping[str, np.ndarray],
    heads: Mapping[str, Head],
    main: str | None,
    known: Sequence[int],
) -> Iterator[Choice]:
    """What the logits of some pixels say of every class, and what is true; nothing of values.

    Args:
        z: (C, h, w) logits of all heads.
        target: (h, w) uint8 of the main head, 255 where unknown.
        further: (bands, h, w) targets of the others, NaN where unknown.
        heads: Each has the next channels.
        main: Name of the head that `target` is of; None without one.
        known: The classes of it that the labels tell apart.
    """
    start = 0
    for name, head in heads.items():
        logits, start = torch.from_numpy(z[start : start + head.channels]).flatten(1), start + head.channels
        if head.task == "regression":
            continue
        names = figure_names(name, head, main)
        truth = target[None] if name == main else np.nan_to_num(further[name], nan=IGNORE)
        answers = torch.from_numpy(truth.reshape(len(truth), -1).astype(np.int64))
        told = tuple(known) if name == main else tuple(range(len(head.classes)))
        if head.task == "multiclass":
            yield _chosen(name, names, logits, answers[0], told)
        elif head.task == "binary":
            yield _chosen(name, names, _with_zero(logits), answers[0], told, head.classes[1].name)
        else:
            for item, label, own, answer in zip(head.classes, names, logits, answers, strict=True):
                yield _chosen(name, (None, label), _with_zero(own[None]), answer, (0, 1), item.name)


def figure_names(name: str, head: Head, main: str | None) -> tuple[str, ...]:
    """What the classes of a head are called in figures: those of the main head by their own name."""
    return tuple(item.name if name == main else f"{name}.{item.name}" for item in head.classes)


def _with_zero(logit: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(logit), logit])


def _chosen(
    head: str,
    names: tuple[str | None, ...],
    logits: Tensor,
    target: Tensor,
    known: tuple[int, ...],
    decides: str | None = None,
) -> Choice:
    there = target != IGNORE
    target = target[there]
    others = [index for index in range(len(logits)) if index not in known]
    if len(others) == 1:  # what is none of the known ones can only be this
        target = torch.where(torch.isin(target, torch.tensor(known)), target, others[0])
    return Choice(head, names, logits[:, there], target, known, decides)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What validation ground says of a network's probabilities."""

    temperature: float
    """Divides the logits. Source: Guo et al. 2017, arXiv:1706.04599, section 4.2."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Probability at that temperature from which a class of a binary or multilabel head is taken, where another than
    one half gives a higher F1 (and so IoU: the one grows with the other)."""
    nll_before: float = 0.0
    """Mean negative log-likelihood of a pixel's target, at temperature 1."""
    nll_after: float = 0.0
    """The same at `temperature`."""
    ece_before: dict[str, float | None] = field(default_factory=dict)
    """Calibration error of each class at temperature 1, see `Reliability`; None for one that is nowhere probable."""
    ece_after: dict[str, float | None] = field(default_factory=dict)
    """The same at `temperature`."""
    pixels: int = 0
    """How many they were found on; each label of a pixel counts."""

    def to_dict(self) -> dict[str, Any]:
        """For the checkpoint's metrics."""
        return asdict(self)

    def applied(self, header: Header) -> Header:
        """The header with temperature and thresholds, by which the network predicts from then on; figures beside."""
        metrics = header.metrics | {"calibration": self.to_dict()}
        found = {"temperature": self.temperature, "thresholds": self.thresholds, "metrics": metrics}
        return header.model_copy(update=found)


def calibrate(sample: Sequence[Choice], heads: Mapping[str, Head], main: str | None) -> Calibration | None:
    """Temperature and thresholds of a network.

    One temperature for all heads: the smallest sum over the heads of their mean negative log-likelihood.

    Args:
        sample: Validation pixels, from `choices`.
        heads: Of the network.
        main: Name of the head whose classes go by their own name.

    Returns:
        None where no class of any pixel is known.
    """
    known = _joined(sample)
    if not known:
        return None
    found = minimize_scalar(
        lambda log: _likelihood(known, float(np.exp(log))),
        bounds=(np.log(_COLDEST), np.log(_HOTTEST)),
        method="bounded",
        options={"xatol": 1e-3},
    )
    before, temperature, after = _likelihood(known, 1.0), float(np.exp(found.x)), float(found.fun)
    if after >= before:
        temperature, after = 1.0, before
    names = [name for head, one in heads.items() if one.classes for name in figure_names(head, one, main)]
    return Calibration(
        temperature=temperature,
        thresholds=_thresholds(known, heads, temperature),
        nll_before=before,
        nll_after=after,
        ece_before=reliability(known, names).errors(),
        ece_after=reliability(known, names, temperature).errors(),
        pixels=max(_pixels(known, name) for name in {choice.head for choice in known}),
    )


def _joined(sample: Sequence[Choice]) -> list[Choice]:
    """The same pixels in fewer parts: of a thousand tiles, each by itself would take longer than what is computed."""
    parts: dict[Any, list[Choice]] = {}
    for choice in sample:
        if choice.target.numel():
            parts.setdefault((choice.head, choice.names, choice.known), []).append(choice)
    return [
        replace(one[0], logits=torch.cat([c.logits for c in one], 1), target=torch.cat([c.target for c in one]))
        for one in parts.values()
    ]


def reliability(sample: Iterable[Choice], names: Sequence[str], temperature: float = 1.0) -> Reliability:
    """The histogram of some pixels."""
    histogram = Reliability(names)
    for choice in sample:
        choice.count(histogram, temperature)
    return histogram


def _pixels(sample: Iterable[Choice], head: str) -> int:
    return sum(choice.target.numel() for choice in sample if choice.head == head)


def _likelihood(sample: Sequence[Choice], temperature: float) -> float:
    """Sum over the heads of their mean per pixel and label."""
    sums: dict[str, float] = {}
    for choice in sample:
        sums[choice.head] = sums.get(choice.head, 0.0) + choice.likelihood(temperature)
    return sum(value / _pixels(sample, head) for head, value in sums.items())


def _thresholds(sample: Sequence[Choice], heads: Mapping[str, Head], temperature: float) -> dict[str, float]:
    """By class; one that stands in several heads has no threshold of its own in a checkpoint, and keeps one half."""
    taken = [name for head in heads.values() for name in head.switched]
    found = {}
    for head, one in heads.items():
        for name in one.switched:
            own = [choice for choice in sample if choice.head == head and choice.decides == name]
            if not own or taken.count(name) > 1:
                continue
            margin = torch.cat([c.logits[1] - c.logits[0] for c in own]).numpy()
            bound = best_threshold(margin, torch.cat([c.target for c in own]).numpy() == 1)
            if bound is not None:
                # As a probability of 1 it would never be reached, whatever the logit.
                found[name] = min(float(1 / (1 + np.exp(-bound / temperature))), float(np.nextafter(1, 0)))
    return found


def best_threshold(z: np.ndarray, yes: np.ndarray) -> float | None:
    """The logit above which taking a class gives it the highest F1.

    Args:
        z: (n,) floating logits.
        yes: (n,) bool, whether the pixel is of the class.

    Returns:
        Half-way between two logits that occur; None where nothing is better than 0, or no pixel is of the class.
    """
    if not yes.any():
        return None
    order = np.argsort(-z, kind="stable")
    ranked, hits = z[order].astype(np.float64), np.cumsum(yes[order])
    f1 = 2 * hits / (np.arange(1, z.size + 1) + hits[-1])
    last = np.flatnonzero(np.append(ranked[:-1] > ranked[1:], True))  # equal logits are taken together
    best = last[np.argmax(f1[last])]
    taken = z > 0
    if f1[best] <= 2 * (taken & yes).sum() / (taken.sum() + hits[-1]):
        return None
    below = ranked[best + 1] if best + 1 < z.size else ranked[best] - 1
    return float((ranked[best] + below) / 2)
