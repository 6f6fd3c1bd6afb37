"""Losses of the overlap between prediction and truth, summed over the whole batch: Tversky and Dice."""

import torch
from torch import Tensor

from geoseg.losses.inputs import check_range, one_hot, prepare


def tversky(
    logits: Tensor, target: Tensor, *, alpha: float = 0.3, beta: float = 0.7, ignore_index: int = 255
) -> Tensor:
    """Tversky loss: one minus overlap, with false positives and false negatives weighted apart.

    TP, FP and FN of a class are sums of probabilities over the batch; the loss is the mean of 1 - TP / (TP + alpha FP +
    beta FN) over the classes that occur in the target. A class that does not occur has no overlap to measure: its false
    positives are misses of the classes that do, and are punished there. So background predicted as building costs 1.

    alpha = beta = 0.5 is the Dice loss. An all-ignored batch gives 0 with a zero gradient.

    Args:
        logits: (N, K, H, W) float, before softmax; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`.
        alpha: Weight of false positives, 0 to 1000.
        beta: Weight of false negatives, 0 to 1000.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ShapeError: If `target` is not (N, H, W) of `logits`.
        LabelsError: If a class index is out of range.
        UsageError: If an option is out of range.

    Source: Salehi et al. 2017, arXiv:1706.05721, eq. 3.
    """
    check_range("alpha", alpha, 0, 1000)
    check_range("beta", beta, 0, 1000)
    logits, target, valid = prepare(logits, target, ignore_index)
    probs = logits.softmax(1)
    truth = one_hot(target, valid, logits.shape[1])
    actual = truth.sum((0, 2, 3))
    hit = (probs * truth).sum((0, 2, 3))
    predicted = (probs * valid[:, None]).sum((0, 2, 3))
    # Only with beta = 0 and a class that is nowhere predicted is the denominator near 0.
    overlap = hit / (hit + alpha * (predicted - hit) + beta * (actual - hit)).clamp_min(1e-6)
    present = actual > 0
    return torch.where(present, 1 - overlap, 0).sum() / present.sum().clamp_min(1)


def dice(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Dice loss: one minus the F1 score of probabilities, averaged over the classes that occur in the target.

    The Tversky loss with alpha = beta = 0.5; see there for classes that do not occur.

    Args:
        logits: (N, K, H, W) float, before softmax; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32 in [0, 1].

    Raises:
        ShapeError: If `target` is not (N, H, W) of `logits`.
        LabelsError: If a class index is out of range.

    Source: Milletari et al. 2016, arXiv:1606.04797, section 3, without the squares in the denominator.
    """
    return tversky(logits, target, alpha=0.5, beta=0.5, ignore_index=ignore_index)
