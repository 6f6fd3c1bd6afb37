"""LOSSES by name, the module round a loss function, and weighted mixtures written as text."""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geoseg.errors import UsageError, nearest
from geoseg.losses.boundary import boundary, planes_of
from geoseg.losses.entropy import bce, cross_entropy, focal
from geoseg.losses.inputs import TASKS, Task, check_choice, check_range
from geoseg.losses.lovasz import lovasz, lovasz_hinge, lovasz_sort
from geoseg.losses.overlap import dice, focal_tversky, generalized_dice, jaccard, tversky
from geoseg.losses.regression import huber, log_cosh, mae, mse, rmse, smooth_l1
from geoseg.losses.skeleton import cldice
from geoseg.losses.weights import RULES, class_weights_from

LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": bce,
    "focal": focal,
    "dice": dice,
    "generalized_dice": generalized_dice,
    "jaccard": jaccard,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
    "lovasz": lovasz,
    "lovasz_hinge": lovasz_hinge,
    "lovasz_sort": lovasz_sort,
    "boundary": boundary,
    "cldice": cldice,
    "mse": mse,
    "rmse": rmse,
    "mae": mae,
    "huber": huber,
    "smooth_l1": smooth_l1,
    "log_cosh": log_cosh,
}
"""Name -> function of (logits, target) and keyword options."""

REGRESSION = frozenset({"mse", "rmse", "mae", "huber", "smooth_l1", "log_cosh"})
"""Names of the losses of a number; the others are of classes."""

_NOT_WRITTEN = ("logits", "target", "distances", "valid")
"""Parameters that are tensors: no options of a mixture."""
_PER_CLASS = ("class_weights", "alpha")
_TERM = re.compile(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*(?::\s*([^\s,()]+))?\s*")
_OPTION = re.compile(r"\s*(\w+)\s*=\s*(\[[^\[\]]*\]|[^,\[\]]+?)\s*(?:,|$)")


def loss_options(name: str) -> dict[str, Any]:
    """The options of a loss and their defaults, without its tensors.

    Raises:
        UsageError: If there is no such loss.
    """
    if name not in LOSSES:
        raise UsageError(f"loss={name!r} is unknown.{nearest(name, LOSSES)} Expected one of: {', '.join(LOSSES)}.")
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.name not in _NOT_WRITTEN}


class Loss(nn.Module):
    """A loss function with its options, as a module."""

    def __init__(self, name: str, **options: Any) -> None:
        """Choose a function and check its options.

        Args:
            name: A key of LOSSES.
            options: The function's keyword arguments. `class_weights` may be a rule of `class_weights_from`: then the
                loss must be told the pixels of each class by `count` before it is called.

        Raises:
            UsageError: If there is no such loss, it has no such option, or the option's value is out of range.
        """
        super().__init__()
        known = loss_options(name)
        self.name, self.function, self.options = name, LOSSES[name], options
        if unknown := [option for option in options if option not in known]:
            hint = nearest(unknown[0], known)
            raise UsageError(f"loss {name} has no option {unknown[0]!r}.{hint} Expected some of: {', '.join(known)}.")
        self.rule = options.get("class_weights") if isinstance(options.get("class_weights"), str) else None
        if self.rule is not None:
            check_choice(f"loss {name}: class_weights", self.rule, RULES)
        # One pixel is enough for the function to refuse a value; better now than in the first step.
        sizes = (torch.as_tensor(options[key]).numel() for key in _PER_CLASS if _is_list(options.get(key)))
        self.check(max((1 if self.task == "multilabel" else 2, *sizes)))

    @property
    def task(self) -> str:
        """`regression`, or the task of its options."""
        return "regression" if self.name in REGRESSION else self.options.get("task", "multiclass")

    def check(self, classes: int) -> None:
        """Refuse options that do not fit a head of so many classes (labels, of a multilabel head).

        Raises:
            UsageError: If a list has another number of entries.
        """
        shape = (1, 1 if self.task in ("binary", "regression") else classes, 1, 1)
        target = torch.zeros(shape if self.task == "multilabel" else (1, 1, 1), dtype=torch.int64)
        options = self.options if self.rule is None else self.options | {"class_weights": None}
        self.function(torch.zeros(shape), target, **options)

    def count(self, counts: Sequence[int]) -> None:
        """Take the pixels of each class, which a rule of class weights asks for."""
        if self.rule is not None:
            self.options["class_weights"] = class_weights_from(counts, self.rule)

    def forward(
        self, logits: Tensor, target: Tensor, known: Sequence[int] | None = None, distances: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (N, K, H, W).
            target: (N, H, W), or what the task has.
            known: The classes whose logits come first, when the last one stands for all others: options of one number
                a class are picked, the last is the mean of the others'.
            distances: (N, P, H, W) of `distance_maps` or `outline_distances`, for `boundary` alone; planes after those
                that it needs are of samples with more classes.
        """
        options = dict(self.options)
        for key in _PER_CLASS:
            if known is not None and _is_list(options.get(key)):
                options[key] = _picked(torch.as_tensor(options[key]).tolist(), known)
        if distances is not None and self.name == "boundary":
            # Two planes are both of a pair: `outline_distances` gives one of two classes, and three of three.
            enough = (
                2 if distances.shape[1] == 2 else planes_of(logits.shape[1], self.options.get("task", "multiclass"))
            )
            options["distances"] = distances[:, :enough]
        value: Tensor = self.function(logits, target, **options)
        return value

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
        tasks = {loss.task: loss.name for loss, _ in terms}
        if len(tasks) > 1:
            raise UsageError(
                f"loss mixture of {' and '.join(f'{name} ({task})' for task, name in tasks.items())}. Expected "
                "losses of one kind in a head: its logits are either classes or a number. Give each its own head."
            )
        for name, factor in zip(names, (factor for _, factor in terms), strict=True):
            check_range(f"the factor of {name}", factor, 1e-6, 1e6)
        self.losses = nn.ModuleDict({loss.name: loss for loss, _ in terms})
        self.factors = {loss.name: float(factor) for loss, factor in terms}

    @property
    def _each(self) -> list[Loss]:
        return [loss for loss in self.losses.values() if isinstance(loss, Loss)]

    def check(self, classes: int) -> None:
        """Refuse options that do not fit a head of so many classes.

        Raises:
            UsageError: If a list has another number of entries.
        """
        for loss in self._each:
            loss.check(classes)

    @property
    def task(self) -> str:
        """`multiclass`, `binary`, `multilabel` or `regression`: the same of all terms."""
        return self._each[0].task

    @property
    def wants_distances(self) -> bool:
        """Whether a term is `boundary`, whose distances are better kept with the ground than computed each time."""
        return "boundary" in self.losses

    @property
    def needs_counts(self) -> bool:
        """Whether a term has class weights by a rule, and `count` must be called before the first step."""
        return any(loss.rule is not None for loss in self._each)

    def count(self, counts: Sequence[int]) -> None:
        """Take the pixels of each class in the training data, which rules of class weights ask for."""
        for loss in self._each:
            loss.count(counts)

    def terms(
        self, logits: Tensor, target: Tensor, *, known: Sequence[int] | None = None, distances: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Each loss by name, before its factor; scalars that can be back-propagated.

        `known` and `distances` as in `Loss.forward`. What `wants_distances` is not given is computed each time.
        """
        return {loss.name: loss(logits, target, known, distances) for loss in self._each}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `terms` gave."""
        return torch.stack([self.factors[name] * value for name, value in terms.items()]).sum()

    def gradient_shares(self, terms: Mapping[str, Tensor], logits: Tensor) -> dict[str, float]:
        """What each term, times its factor, has of the sum of the norms of all terms' gradients by the logits.

        A term near 1 is the only one that is heard. Costs one pass back through each loss, and none through the
        network; the graph is kept, so that it can be called before `backward`.

        Args:
            terms: What `terms` gave.
            logits: What the losses were computed from; it must require a gradient.

        Returns:
            Shares from 0 to 1 that sum to 1; all 0 when no term has a gradient.
        """
        norms = {}
        for name, value in terms.items():
            slope = None
            if value.requires_grad:
                (slope,) = torch.autograd.grad(value, logits, retain_graph=True, allow_unused=True)
            norms[name] = 0.0 if slope is None else self.factors[name] * float(slope.float().norm())
        total = sum(norms.values())
        return {name: norm / total if total else 0.0 for name, norm in norms.items()}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The weighted sum, a scalar: logits (N, K, H, W), target (N, H, W)."""
        return self.total(self.terms(logits, target))


def parse_mixture(text: str, *, task: Task = "multiclass") -> Mixture:
    """A mixture written as `focal:1,tversky(alpha=0.3,beta=0.7):1,lovasz:0.5`.

    Terms are separated by commas; a term is a loss's name, its options in brackets if any, and its factor after a colon
    (1 if left out). An option's value is a number, numbers in square brackets (`class_weights=[1,2,5]`), a word
    (`average=micro`, `class_weights=inverse`), or true or false.

    Args:
        text: The mixture.
        task: Of the head, for terms that do not name one.

    Raises:
        UsageError: If the text is not of that form, names a loss or option that is not there or out of range, or mixes
            losses of classes and of numbers.
    """
    check_choice("task", task, TASKS)
    terms, at = [], 0
    while True:
        match = _TERM.match(text, at)
        if not match or text[match.end() : match.end() + 1] not in ("", ","):
            raise UsageError(
                f"loss={text!r} cannot be read from {text[at : at + 20]!r} on. "
                "Expected terms such as focal:1,tversky(alpha=0.3,beta=0.7):1."
            )
        name, options, factor = match.groups()
        given = _options(name, options or "")
        if task != "multiclass" and name not in REGRESSION:
            given = {"task": task} | given
        terms.append((Loss(name, **given), _value(name, factor or "1")))
        at = match.end() + 1
        if at > len(text):
            return Mixture(terms)


def _options(name: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    defaults, at = loss_options(name), 0
    while at < len(text) and not text[at:].isspace():
        match = _OPTION.match(text, at)
        if not match or match[1] in options:
            raise UsageError(f"loss {name}: {text[at:]!r} is no option. Expected name=value, each name once.")
        option, value = match.groups()
        if isinstance(defaults.get(option), bool) and value in ("true", "false"):
            options[option] = value == "true"
        elif isinstance(defaults.get(option), str) or (option == "class_weights" and value[:1].isalpha()):
            options[option] = value
        else:
            options[option] = _value(f"{name}: {option}", value)
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


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | Tensor) and not isinstance(value, str)


def _picked(values: Sequence[float], known: Sequence[int]) -> list[float]:
    """The values of the known classes and the mean of the others'; all as they are, when there is one other or none."""
    others = [value for index, value in enumerate(values) if index not in known]
    if len(others) < 2:
        return list(values)
    return [*(values[index] for index in known), sum(others) / len(others)]
