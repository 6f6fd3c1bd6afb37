"""The objective: what is made small, over all heads of a network and labels that tell only some classes apart."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from geoseg.checkpoint import Head
from geoseg.config import TrainConfig
from geoseg.losses import Mixture
from geoseg.metrics import IGNORE
from geoseg.training.ground import Ground
from geoseg.training.heads import HeadLosses
from geoseg.training.samples import FURTHER
from geoseg.windows import Window

_AUXILIARY = 0.4
"""What the loss of an auxiliary head counts for. Source: Zhao et al. 2017, arXiv:1612.01105, section 3.3."""

Known = Sequence[tuple[int, ...]]
"""For each sample, the classes that its labels tell apart."""


def merge_unknown(logits: Tensor, target: Tensor, known: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits and target of labels that tell only some classes apart.

    The other classes become one, last, "any of the others", whose probability is the sum of theirs: its logit is their
    logsumexp. So nothing is learnt about which of them a pixel is: a loss of the result does not change when
    probability moves between them. Does nothing when all classes but one, or all, are known.

    Args:
        logits: (N, K, H, W) float, before softmax.
        target: (N, H, W) int64 in [0, K) or 255; any class that is not known means "any of the others".
        known: Indices of the classes told apart, ascending.

    Returns:
        (N, len(known) + 1, H, W) logits and the target that indexes them; or both as they came.
    """
    classes = logits.shape[1]
    others = [index for index in range(classes) if index not in known]
    if len(others) < 2:
        return logits, target
    merged = torch.cat([logits[:, list(known)], logits[:, others].logsumexp(1, keepdim=True)], 1)
    place = torch.full((256,), len(known), dtype=torch.int64)
    place[list(known)] = torch.arange(len(known))
    place[IGNORE] = IGNORE
    return merged, place.to(target.device)[target]


class Objective(nn.Module):
    """The loss of all heads together."""

    def __init__(self, loss: Mixture, config: TrainConfig, heads: Mapping[str, Head]) -> None:
        """An objective for the heads of a checkpoint.

        Args:
            loss: Of the head of exclusive classes.
            config: The run; has the losses of the further heads, and what each head counts for.
            heads: In the order of the network's channels.
        """
        super().__init__()
        self.loss, self.main = loss, config.main_head
        self.heads = HeadLosses(config, heads)
        self.factor = config.heads[config.main_head].weight if config.heads and config.main_head else 1.0

    def forward(
        self, logits: Tensor, targets: Mapping[str, Tensor], known: Known, auxiliary: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its terms before their factors.

        Args:
            logits: (N, C, H, W) of all heads.
            targets: `target` (N, H, W) int64 of the head of exclusive classes, `distances` of it if there are any, and
                those of the further heads.
            known: For each sample, the classes that its labels tell apart.
            auxiliary: Logits of the network's auxiliary head, as long as it is trained.
        """
        parts = self.heads.split(logits)
        loss = logits.new_zeros((), dtype=torch.float32)
        terms: dict[str, Tensor] = {}
        if self.main:
            terms = self.partial_terms(parts[self.main], targets, known)
            loss = loss + self.factor * self.loss.total(terms)
        if self.heads.mixtures:
            further = self.heads.terms(parts, targets)
            loss, terms = loss + self.heads.total(further), terms | further
        if self.main and auxiliary is not None:
            beside = self.partial_terms(self.heads.split(auxiliary)[self.main], targets, known)
            terms["auxiliary"] = self.loss.total(beside)
            loss = loss + _AUXILIARY * terms["auxiliary"]
        return loss, terms

    def partial_terms(self, logits: Tensor, targets: Mapping[str, Tensor], known: Known) -> dict[str, Tensor]:
        """Each group of samples whose labels know the same classes has its own loss; groups count by their samples."""
        total = {name: logits.new_zeros((), dtype=torch.float32) for name in self.loss.factors}
        for group in sorted(set(known)):
            rows = torch.tensor([index for index, one in enumerate(known) if one == group], device=logits.device)
            merged = merge_unknown(logits[rows].float(), targets["target"][rows], group)
            distances = targets["distances"][rows] if "distances" in targets else None
            terms = self.loss.terms(*merged, known=group, distances=distances)
            total = {name: total[name] + value * (len(rows) / len(known)) for name, value in terms.items()}
        return total

    def gradient_shares(self, terms: Mapping[str, Tensor], logits: Tensor) -> dict[str, float]:
        """What each term has of its head's gradient, of what `forward` gave for these logits."""
        found: dict[str, float] = {}
        if self.main:
            found = self.loss.gradient_shares({name: terms[name] for name in self.loss.factors}, logits)
        return found | self.heads.gradient_shares(terms, dict.fromkeys(self.heads.heads, logits))

    @torch.no_grad()
    def of_each(self, logits: Tensor, targets: Mapping[str, Tensor], known: Known) -> Tensor:
        """(N,) The loss that each sample would have by itself."""
        each = []
        for at in range(len(known)):
            one = slice(at, at + 1)
            own = {name: target[one] for name, target in targets.items()}
            each.append(self(logits[one], own, known[one])[0])
        return torch.stack(each)

    @torch.no_grad()
    def of_window(self, logits: Tensor, ground: Ground, window: Window) -> Tensor:
        """The loss of (1, C, h, w) float32 logits of a window of validation ground, on the CPU."""
        targets = {"target": torch.from_numpy(ground.target[window.slices()].copy())[None].long()}
        for name, plane in ground.further.items():
            targets[f"{FURTHER}{name}"] = torch.from_numpy(plane[:, *window.slices()].copy())[None]
        loss: Tensor = self(logits, targets, [ground.known])[0]
        return loss
