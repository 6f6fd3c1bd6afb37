"""What `geoseg losses` says of each loss: formula and when to take it from here, the rest from the function itself."""

import inspect
import re
from dataclasses import dataclass
from typing import Any

from geoseg.losses.mixture import LOSSES, REGRESSION, loss_options

_ABOUT = {
    "cross_entropy": ("-log p_true", "the first choice; with class_weights or label_smoothing (noisy labels)"),
    "bce": ("-y log s - (1 - y) log(1 - s), s = sigmoid", "labels that overlap; each class by itself"),
    "focal": ("-(1 - p_true)^gamma log p_true", "imbalance: most pixels are easy; not with noisy labels"),
    "dice": ("1 - 2 TP / (2 TP + FP + FN)", "imbalance; beside cross_entropy the usual mixture"),
    "generalized_dice": ("1 - 2 sum(w TP) / sum(w (P + A)), w = 1/A^2", "many classes of very different size"),
    "jaccard": ("1 - TP / (TP + FP + FN)", "as dice, when IoU is the score"),
    "tversky": ("1 - TP / (TP + alpha FP + beta FN)", "a miss dearer than a false alarm (beta > alpha), or cheaper"),
    "focal_tversky": ("(1 - TP / (TP + alpha FP + beta FN))^(1/gamma)", "small buildings that dice leaves unlearnt"),
    "lovasz": ("sum of e_k (J_k - J_k-1), e = 1 - p_true sorted", "IoU itself; fine-tuning; small buildings"),
    "lovasz_hinge": ("the same, e = max(0, 1 - margin)", "IoU itself, in a binary or multilabel head"),
    "lovasz_sort": ("as lovasz, by sorting", "a reference to check lovasz by; slow"),
    "boundary": ("mean of distance x (p - y)", "ragged outlines; small factor (0.01) beside dice"),
    "cldice": ("(1 - alpha) dice + alpha (1 - 2 T S / (T + S))", "thin roads, where a gap is worse than a width; slow"),
    "mse": ("mean of e^2", "numbers with even, small noise"),
    "rmse": ("sqrt(mean of e^2)", "as mse, in the unit of the target"),
    "mae": ("mean of |e|", "wild targets: the median is learnt"),
    "huber": ("e^2/2 up to delta, then delta (|e| - delta/2)", "some wild targets, known scale of the others"),
    "smooth_l1": ("huber / delta", "as huber, slope 1"),
    "log_cosh": ("log cosh e", "as huber, without a scale to choose"),
}

ADVICE = (
    ("no idea yet", "cross_entropy:1,dice:1"),
    ("imbalance", "focal:1,dice:1"),
    ("thin roads", "cross_entropy:1,cldice:1"),
    ("small buildings", "cross_entropy:1,focal_tversky:1"),
    ("a miss dearer than a false alarm", "cross_entropy:1,tversky(alpha=0.3,beta=0.7):1"),
    ("noisy labels", "cross_entropy(label_smoothing=0.1):1,dice:0.5"),
    ("IoU is the score", "focal:1,tversky:1,lovasz:0.5"),
)
"""What is hard -> a mixture to begin with."""

_PAPER = re.compile(r"Source:\s*(.*?)\s*$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LossInfo:
    """What there is to know before a loss is chosen."""

    name: str
    kind: str
    """`classes` or `regression`."""
    summary: str
    """The first line of its documentation."""
    formula: str
    """TP, FP and FN are sums of probabilities, P of predicted and A of actual ones, e is an error."""
    source: str
    """Paper and equation."""
    options: dict[str, Any]
    """Defaults by name."""
    when: str
    """What it is for."""


def loss_info(name: str) -> LossInfo:
    """All about one loss.

    Raises:
        UsageError: If there is no such loss.
    """
    options = loss_options(name)
    text = inspect.getdoc(LOSSES[name]) or ""
    paper = _PAPER.search(text)
    formula, when = _ABOUT[name]
    return LossInfo(
        name=name,
        kind="regression" if name in REGRESSION else "classes",
        summary=text.partition("\n")[0],
        formula=formula,
        source=" ".join(paper[1].split()) if paper else "",
        options=options,
        when=when,
    )
