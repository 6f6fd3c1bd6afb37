"""Scores: what is kept of one cell. Logits in, arrays as they are stored out, head by head."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from geoseg.checkpoint import Head
from geoseg.errors import CheckpointError
from geoseg.layers import LABELS_ONLY, Keep, layers_of
from geoseg.pixels import PROBABILITY_SCALE

_ROWS, _ROWS_ELSEWHERE = 64, 1024
"""Rows of logits that are made labels of at a time, on the CPU and on an accelerator."""

Scores = dict[str, np.ndarray]
"""Name of a layer -> (h, w) or (bands, h, w) pixels of one cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How logits become what is kept."""

    heads: Mapping[str, Head]
    """Each has the next channels of the logits."""
    temperature: float = 1.0
    """Divides the logits of classes before they become probabilities; the largest stays the largest."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Probability from which a class of a binary or multilabel head is taken; half where none is named."""

    @property
    def channels(self) -> int:
        """Of the logits, all heads together."""
        return sum(head.channels for head in self.heads.values())

    def parts(self, z: Tensor) -> Iterator[tuple[str, Head, Tensor]]:
        """Each head's name, the head, and its channels of `z`."""
        start = 0
        for name, head in self.heads.items():
            yield name, head, z[start : start + head.channels]
            start += head.channels

    def scores(self, z: Tensor, valid: np.ndarray, keep: Keep = LABELS_ONLY, *, attention_maps: int = 0) -> Scores:
        """What is kept of a cell, on the CPU.

        Args:
            z: (C, H, W) logits of all heads, and after them the attention maps if they are kept; at least as large as
                `valid`, what lies below and to the right of it is dropped.
            valid: (h, w) bool; False becomes nodata.
            keep: What to keep beside the labels.
            attention_maps: How many of the channels are no logits.

        Raises:
            CheckpointError: If a logit is not finite.
        """
        layers = layers_of(self.heads, keep, attention_maps=attention_maps)
        scores = {name: layer.empty(valid.shape) for name, layer in layers.items()}
        height, width = valid.shape
        # On the CPU a few rows at a time stay in the processor's cache, and no second copy of the logits is made.
        step = _ROWS if z.device.type == "cpu" else _ROWS_ELSEWHERE
        for row in range(0, height, step):
            rows = slice(row, min(row + step, height))
            found = self._decide(z[:, rows, :width].contiguous(memory_format=torch.contiguous_format), keep)
            for name, layer in layers.items():
                part = found[layer.head, layer.kind].cpu().numpy()
                np.copyto(scores[name][..., rows, :], part, where=valid[rows])
        return scores

    def _decide(self, z: Tensor, keep: Keep) -> dict[tuple[str, str], Tensor]:
        """What is kept of some rows of logits, by head and kind."""
        kept: dict[tuple[str, str], Tensor] = {}
        for name, head, planes in self.parts(z):
            if head.task == "multiclass":
                found = self._of_classes(planes, keep)
            elif head.task == "regression":
                found = {"values": planes[0].float() * head.scale + head.offset}
                _check_finite(found["values"].sum(dtype=torch.float64))
            else:
                found = self._of_labels(planes, head, keep)
            kept |= {(name, kind): tensor for kind, tensor in found.items()}
        if keep.attention:
            kept["", "attention"] = _quantize(z[self.channels :].float().clamp(0, 1))
        return kept

    def _of_classes(self, planes: Tensor, keep: Keep) -> dict[str, Tensor]:
        labels, best = argmax_planes(planes)
        _check_finite(best.sum(dtype=torch.float32))  # what matters of NaN and infinity comes up here
        kept = {"labels": labels}
        if keep.confidence or keep.probabilities:
            # exp(z - best) is 1 for the chosen class: its probability is one over the sum.
            scaled = ((planes.float() - best.float()) / self.temperature).exp_()
            total = scaled.sum(0)
            if keep.confidence:
                kept["confidence"] = _quantize(total.reciprocal())
            if keep.probabilities:
                kept["probabilities"] = _quantize(scaled / total)
        return kept

    def _of_labels(self, planes: Tensor, head: Head, keep: Keep) -> dict[str, Tensor]:
        """Logits that each say yes or no: of all classes, or of the second of two."""
        _check_finite(planes.sum(dtype=torch.float32))
        binary = head.task == "binary"
        names = [item.name for item in head.classes[1 if binary else 0 :]]
        bounds = [_logit(self.thresholds.get(name, 0.5)) * self.temperature for name in names]
        yes = planes.float() > torch.tensor(bounds, device=planes.device).view(-1, 1, 1)
        kept = {"labels": yes[0].byte() if binary else yes.byte()}
        if keep.confidence or keep.probabilities:
            p = (planes.float() / self.temperature).sigmoid()
            chosen = _quantize(torch.where(yes, p, 1 - p))
            kept["confidence"] = chosen[0] if binary else chosen
            kept["probabilities"] = _quantize(torch.cat([1 - p, p]) if binary else p)
        return kept


class MeanLogits:
    """Logits whose probabilities are the mean of those of several networks; of a regression, the mean value.

    No more than the sum is kept of the answers.
    """

    def __init__(self) -> None:
        """Of none so far."""
        self._sums: list[Tensor] = []
        self._heads: list[Head] = []
        self._count = 0

    def add(self, z: Tensor, decision: Decision) -> None:
        """Count in one network's answer.

        Args:
            z: (K, h, w) logits.
            decision: Of the network, with equal heads as the others' but for scale and offset.

        Raises:
            CheckpointError: If a logit is not finite.
        """
        answers = []
        for _, head, planes in decision.parts(z.float()):
            if head.task == "regression":
                answers.append(planes * head.scale + head.offset)
            elif head.task == "multiclass":
                answers.append((planes / decision.temperature).log_softmax(0))
            else:  # the logarithms of yes and of no
                _check_finite(planes.sum(dtype=torch.float32))  # which would be finite
                own = planes / decision.temperature
                answers.append(torch.stack([logsigmoid(own), logsigmoid(-own)]))
        self._heads = list(decision.heads.values())
        if self._count:
            for head, total, answer in zip(self._heads, self._sums, answers, strict=True):
                (torch.add if head.task == "regression" else torch.logaddexp)(total, answer, out=total)
        else:
            self._sums = answers
        self._count += 1

    def logits(self) -> Tensor:
        """(K, h, w) float32 for a decision of temperature 1, scale 1 and offset 0."""
        means: list[Tensor] = []
        for head, total in zip(self._heads, self._sums, strict=True):
            if head.task == "regression":
                means.append(total / self._count)
            elif head.task == "multiclass":
                means.append(total - math.log(self._count))
            else:
                means.append(total[0] - total[1])
        return torch.cat(means)


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


def _logit(p: float) -> float:
    return math.log(p / (1 - p)) if 0 < p < 1 else math.copysign(math.inf, p - 0.5)


def _quantize(probability: Tensor) -> Tensor:
    return probability.mul(PROBABILITY_SCALE).round_().to(torch.uint8)


def _check_finite(total: Tensor) -> None:
    if not torch.isfinite(total):
        raise CheckpointError(
            "the network returned non-finite logits. Expected finite numbers. Try --precision float32; if that fails "
            "too, the checkpoint is broken."
        )
