"""The Lightning task: a batch of samples to a loss, partial labels included; the running average of the parameters."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from geoseg.checkpoint import Head
from geoseg.config import TrainConfig
from geoseg.errors import TrainingError
from geoseg.losses import Mixture
from geoseg.models.layout import channels_last
from geoseg.training.augment import change_light, turn_batch
from geoseg.training.heads import HeadLosses, heads_of
from geoseg.training.samples import IGNORED, Ground, Statistics, file_list

_AUXILIARY = 0.4
"""What the loss of an auxiliary head counts for. Source: Zhao et al. 2017, arXiv:1612.01105, section 3.3."""


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
    place[IGNORED] = IGNORED
    return merged, place.to(target.device)[target]


class Average:
    """A running average of a network's parameters and statistics, smoother than any single step's."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Begin at the network as it is."""
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards `network` by 1 - decay; further in the first steps, when the average is still young."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))
        own, new = self.network.state_dict(), network.state_dict()
        floats = [key for key, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[key] for key in floats], [new[key] for key in floats], 1 - decay)
        for key in own.keys() - floats:
            own[key].copy_(new[key])


class Segmentation(LightningModule):
    """Trains a network on batches of `Samples`."""

    low: Tensor
    span: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        loss: Mixture,
        config: TrainConfig,
        grounds: Sequence[Ground],
        normalisation: Statistics,
        heads: Mapping[str, Head] | None = None,
    ) -> None:
        """A task for `network`.

        Args:
            network: (N, C, H, W) -> (N, K, H, W) logits.
            loss: What is made small, of the head of exclusive classes.
            config: The run.
            grounds: What the samples are cut from.
            normalisation: Of the training pixels.
            heads: The checkpoint's; by default as the configuration has them.
        """
        super().__init__()
        self.network = channels_last(network)
        self.loss, self.config, self.grounds = loss, config, list(grounds)
        self.heads = HeadLosses(config, heads or heads_of(config))
        self.factor = config.heads[config.main_head].weight if config.heads and config.main_head else 1.0
        self.shares: dict[str, float] = {}
        """What each term had of its head's gradient in the first batch of the epoch."""
        self.average = Average(network, config.optimizer.ema)
        self.chance = Generator()
        low, high = torch.tensor(normalisation.value_range).T
        span = (high - low).clamp_min(1e-6)
        self._plane("low", low)
        self._plane("span", span)
        self._plane("mean", (torch.tensor(normalisation.mean) - low) / span)
        self._plane("std", torch.tensor(normalisation.std) / span)

    def _plane(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.float().view(1, -1, 1, 1), persistent=False)

    def prepare(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Change the samples at random and normalise them.

        Returns:
            (N, C, H, W) float32 channels_last, and the targets: `target` (N, H, W) int64, the further heads' as they
            came.
        """
        names = [name for name in batch if name != "ground"]
        planes = [batch[name] for name in names]
        if self.config.augmentation.flips:
            planes = turn_batch(planes, self.chance)
        turned = dict(zip(names, planes, strict=True))
        image, valid = turned.pop("image"), turned.pop("valid")
        image = image.to(torch.float32).sub_(self.low).div_(self.span)
        image = change_light(image, self.config.augmentation, self.chance)
        image = image.sub_(self.mean).div_(self.std).masked_fill_(~valid[:, None], 0.0)
        turned["target"] = turned["target"].long()
        return image.contiguous(memory_format=torch.channels_last), turned

    def training_step(self, batch: dict[str, Tensor], index: int) -> dict[str, Tensor]:
        """The loss of one batch, as `loss`, and its terms by name.

        Raises:
            TrainingError: If it is not finite; names the files the batch was cut from.
        """
        self.chance.manual_seed(self.config.seed * 1_000_003 + self.global_step)
        image, targets = self.prepare(batch)
        logits, auxiliary = self._answers(image)
        if margin := int(getattr(self.network, "margin", 0)):  # without padding, the edge of a sample is context only
            targets = {name: target[..., margin:-margin, margin:-margin] for name, target in targets.items()}
        heads = self.heads.split(logits)
        terms: dict[str, Tensor] = {}
        loss = logits.new_zeros((), dtype=torch.float32)
        if main := self.config.main_head:
            terms = self.partial_terms(heads[main], targets["target"], batch["ground"])
            loss = loss + self.factor * self.loss.total(terms)
            if index == 0:
                self.shares = self.loss.gradient_shares(terms, heads[main])
            if auxiliary is not None:
                beside = self.partial_terms(self.heads.split(auxiliary)[main], targets["target"], batch["ground"])
                terms["auxiliary"] = self.loss.total(beside)
                loss = loss + _AUXILIARY * terms["auxiliary"]
        if self.heads.mixtures:
            further = self.heads.terms(heads, targets)
            if index == 0:
                self.shares |= self.heads.gradient_shares(further, heads)
            loss, terms = loss + self.heads.total(further), terms | further
        if not torch.isfinite(loss):
            files = file_list(self.grounds[index] for index in batch["ground"].tolist())
            raise TrainingError(
                f"loss={float(loss.detach())} in step {self.global_step + 1} (samples of {files}). Expected a finite "
                f"number. Lower the learning rate (now {self.config.optimizer.lr:g}), or look at these files."
            )
        return {"loss": loss} | {name: value.detach() for name, value in terms.items()}

    def _answers(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and those of the network's auxiliary head if it has one."""
        if getattr(self.network, "aux_classifier", None) is None:
            return self.network(image), None
        logits, auxiliary = cast(Any, self.network).forward_with_auxiliary(image)
        return logits, auxiliary

    def partial_terms(self, logits: Tensor, target: Tensor, grounds: Tensor) -> dict[str, Tensor]:
        """Each group of samples whose labels know the same classes has its own loss; groups count by their samples."""
        known = [self.grounds[index].known for index in grounds.tolist()]
        total = {name: logits.new_zeros((), dtype=torch.float32) for name in self.loss.factors}
        for group in sorted(set(known)):
            rows = torch.tensor([index for index, one in enumerate(known) if one == group], device=logits.device)
            terms = self.loss.terms(*merge_unknown(logits[rows].float(), target[rows], group), known=group)
            total = {name: total[name] + value * (len(rows) / len(known)) for name, value in terms.items()}
        return total

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take the step into the running average."""
        self.average.update(self.network)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; the rate climbs in a line, then falls along a cosine."""
        settings = self.config.optimizer
        # Biases and normalisation scales are not pulled to zero: it costs accuracy and gains nothing.
        groups = [
            {"params": [p for p in self.network.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in self.network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": LambdaLR(optimizer, lambda step: rate(step, self.config.steps, settings.warmup)),
                "interval": "step",
            },
        }


def rate(step: int, steps: int, warmup: float) -> float:
    """The share of the highest learning rate at a step: a line up over the first `warmup`, then a cosine down."""
    climb = max(1, round(steps * warmup))
    if step < climb:
        return (step + 1) / climb
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - climb) / max(1, steps - climb))))
