"""LOSSES by name, the module round a loss function, and weighted mixtures written as text."""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from geoseg.errors import UsageError
from geoseg.losses.entropy import cross_entropy, focal
from geoseg.losses.inputs import check_range
from geoseg.losses.lovasz import lovasz, lovasz_sort
from geoseg.losses.overlap import dice, tversky

LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "dice": dice,
    "tversky": tversky,
    "lovasz": lovasz,
    "lovasz_sort": lovasz_sort,
}
"""Name -> function of (logits, target) and keyword options."""

_TERM = re.compile(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*(?::\s*([^\s,()]+))?\s*")
_OPTION = re.compile(r"\s*(\w+)\s*=\s*(\[[^\[\]]*\]|[^,\[\]]+?)\s*(?:,|$)")


class Loss(nn.Module):
    """A loss function with its options, as a module."""

    def __init__(self, name: str, **options: Any) -> None:
        """Choose a function and check its options.

        Args:
            name: A key of LOSSES.
            options: The function's keyword arguments.

        Raises:
            UsageError: If there is no such loss, it has no such option, or the option's value is out of range.
        """
        super().__init__()
        if name not in LOSSES:
            near = get_close_matches(name, LOSSES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"loss={name!r} is unknown.{hint} Expected one of: {', '.join(LOSSES)}.")
        self.name, self.function, self.options = name, LOSSES[name], options
        known = list(inspect.signature(self.function).parameters)[2:]
        if unknown := [option for option in options if option not in known]:
            raise UsageError(f"loss {name} has no option {unknown[0]!r}. Expected some of: {', '.join(known)}.")
        # One pixel is enough for the function to refuse a value; better now than in the first step.
        classes = max(torch.as_tensor(options.get("class_weights", 0)).numel(), 2)
        self(torch.zeros(1, classes, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar: logits (N, K, H, W), target (N, H, W)."""
        return self.function(logits, target, **self.options)

    def extra_repr(self) -> str:
        """Name and options, as `parse_mixture` reads them."""
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}({options})" if options else self.name


class Mixture(nn.Module):
    """A weighted sum of losses."""

    def __init__(self, terms: Sequence[tuple[Loss, float]]) -> None:
        """A mixture of (loss, factor) pairs.

        Raises:
            UsageError: If there is no term, one occurs twice, or a factor is not from 1e-6 to 1e6.
        """
        super().__init__()
        names = [loss.name for loss, _ in terms]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"loss mixture of {names or 'nothing'}. Expected at least one term, each loss once.")
        for name, factor in zip(names, (factor for _, factor in terms), strict=True):
            check_range(f"the factor of {name}", factor, 1e-6, 1e6)
        self.losses = nn.ModuleDict({loss.name: loss for loss, _ in terms})
        self.factors = {loss.name: float(factor) for loss, factor in terms}

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Each loss by name, before its factor; scalars that can be back-propagated."""
        return {name: loss(logits, target) for name, loss in self.losses.items()}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `terms` gave."""
        return torch.stack([self.factors[name] * value for name, value in terms.items()]).sum()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The weighted sum, a scalar: logits (N, K, H, W), target (N, H, W)."""
        return self.total(self.terms(logits, target))


def parse_mixture(text: str) -> Mixture:
    """A mixture written as `focal:1,tversky(alpha=0.3,beta=0.7):1,lovasz:0.5`.

    Terms are separated by commas; a term is a loss's name, its options in brackets if any, and its factor after a colon
    (1 if left out). An option's value is a number, or numbers in square brackets: `class_weights=[1,2,5]`.

    Raises:
        UsageError: If the text is not of that form, or names a loss or option that is not there or out of range.
    """
    terms, at = [], 0
    while True:
        match = _TERM.match(text, at)
        if not match or text[match.end() : match.end() + 1] not in ("", ","):
            raise UsageError(
                f"loss={text!r} cannot be read from {text[at : at + 20]!r} on. "
                "Expected terms such as focal:1,tversky(alpha=0.3,beta=0.7):1."
            )
        name, options, factor = match.groups()
        terms.append((Loss(name, **_options(name, options or "")), _value(name, factor or "1")))
        at = match.end() + 1
        if at > len(text):
            return Mixture(terms)


def _options(name: str, text: str) -> dict[str, Any]:
    options, at = {}, 0
    while at < len(text) and not text[at:].isspace():
        match = _OPTION.match(text, at)
        if not match or match[1] in options:
            raise UsageError(f"loss {name}: {text[at:]!r} is no option. Expected name=number, each name once.")
        options[match[1]] = _value(f"{name}: {match[1]}", match[2])
        at = match.end()
    return options


def _value(what: str, text: str) -> Any:
    """A number or a list of numbers."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    numbers = value if isinstance(value, list) else [value]
    if not all(type(number) in (int, float) for number in numbers):
        raise UsageError(f"loss {what}={text} is no number. Expected a number, or numbers in square brackets.")
    return value
