"""The boundary loss: every wrong pixel costs its distance to the true outline."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from geoseg.errors import ShapeError
from geoseg.losses.inputs import Classes, Planes, Task, prepare, region_weights, regions

FAR = 64
"""Pixels from an outline beyond which `outline_distances` tells no difference."""
_BLOCK = 1024
"""Side of what distances are found in at a time."""


def boundary(
    logits: Tensor,
    target: Tensor,
    distances: Tensor | None = None,
    *,
    class_weights: Sequence[float] | Tensor | None = None,
    task: Task = "multiclass",
    ignore_index: int = 255,
) -> Tensor:
    """Boundary loss: the mean over the pixels of probability that is wrong, times its distance to the class's outline.

    In pixels, so it may be far above 1: give it a small factor beside an overlap loss. The paper's second integral, a
    constant, is left in, so that a perfect prediction costs 0. A mistake takes from one class and gives to another, and
    counts half in each. An all-ignored batch gives 0 with a zero gradient.

    Args:
        logits: (N, K, H, W) float, before softmax or sigmoid; computed in float32 whatever comes in.
        target: (N, H, W) whole numbers in [0, K), or `ignore_index`; or (N, K, H, W) one-hot. Other tasks: `prepare`.
        distances: What `distance_maps` gives for the target, if it is there already. Of two exclusive classes, the
            second's are enough: the first's are the same with the other sign.
        class_weights: One number a class (`binary`: no and yes; `multilabel`: one a label), 0 to a million: factors.
        task: `multiclass`, `binary` or `multilabel`.
        ignore_index: The value of pixels without a class.

    Returns:
        Scalar float32, at least 0, in pixels.

    Raises:
        ShapeError: If `target` or `distances` do not fit `logits`.
        LabelsError: If a class index is out of range, or a share is neither 0 nor 1.
        UsageError: If an option is out of range.

    Source: Kervadec et al. 2018, arXiv:1812.07032, section 2: the integral of the truth's signed distance times
        the prediction, less the same times the truth.
    """
    problem = prepare(logits, target, task=task, ignore_index=ignore_index, soft="boundary")
    weights = region_weights(class_weights, problem)
    probs, truth, known = regions(problem)
    signed = _maps(problem) if distances is None else distances
    count = planes_of(logits.shape[1], task)
    fits = (count, logits.shape[1]) if task == "multiclass" else (count,)
    if signed.ndim != 4 or signed.shape[1] not in fits or signed[:, 0].shape != logits[:, 0].shape:
        raise ShapeError(
            f"distances {tuple(signed.shape)} do not fit logits {tuple(logits.shape)} for task={task!r}. "
            f"Expected {(len(logits), count, *logits.shape[2:])}: what distance_maps gives for the target."
        )
    signed = signed.to(probs)
    if task == "multiclass" and signed.shape[1] < logits.shape[1]:
        signed = torch.cat([-signed, signed], 1)
    if task != "multiclass":
        signed = torch.stack([-signed, signed], 2).flatten(1, 2)
    wrong = torch.where(known, signed * (probs - truth), 0) * weights.view(1, -1, 1, 1)
    halves = 2 / known.shape[1] if task == "multiclass" else 1
    return wrong.sum() / (halves * known.sum()).clamp_min(1)


def distance_maps(
    logits_shape: Sequence[int], target: Tensor, *, task: Task = "multiclass", ignore_index: int = 255
) -> Tensor:
    """The signed distance of every pixel to the outline of each class: what `boundary` needs, to be kept by sample.

    Outlines run between pixels: the next pixel inside is at -0.5, the next outside at 0.5. Beyond a tile, and where
    nothing is known, a class that fills the tile is taken to end, and one that does not occur to begin.

    Args:
        logits_shape: (N, K, H, W).
        target: As `boundary` has it.
        task: As `boundary` has it.
        ignore_index: The value of pixels without a class.

    Returns:
        (N, K, H, W) float32 on the CPU (`binary`: (N, 1, H, W)): negative inside, positive outside, 0 where unknown.

    Raises:
        ShapeError: If `target` does not fit the shape.
        LabelsError: If a class index is out of range, or a share is neither 0 nor 1.
    """
    logits = torch.zeros(()).expand(*logits_shape).to(target.device)
    return _maps(prepare(logits, target, task=task, ignore_index=ignore_index, soft="boundary"))


def planes_of(classes: int, task: Task = "multiclass") -> int:
    """How many planes of distances `boundary` needs for so many logits: one for two exclusive classes."""
    return 1 if task == "binary" or (task == "multiclass" and classes == 2) else classes


def outline_distances(target: np.ndarray, known: Sequence[int], classes: int) -> np.ndarray:
    """The signed distances of whole ground, from which those of samples are cut instead of being computed each time.

    As `distance_maps` has them, with three differences: outlines beyond a sample's edge are seen; nothing is farther
    than `FAR`, nor is anything nearer where a class does not occur at all; of two classes only the second's are given.

    Args:
        target: (H, W) uint8 class indices, 255 where nothing is known.
        known: The classes that the labels tell apart, ascending. Two or more others are one class, the last.
        classes: Number of classes.

    Returns:
        (P, H, W) float16 in pixels; P is the number of classes told apart, or 1 of two. 0 where nothing is known.
    """
    place = np.arange(256, dtype=np.uint8)
    if classes - len(known) >= 2:
        place[:255] = len(known)
        place[list(known)] = np.arange(len(known))
        classes = len(known) + 1
    planes = range(1, 2) if classes == 2 else range(classes)
    out = np.zeros((len(planes), *target.shape), np.float16)
    for row in range(0, target.shape[0], _BLOCK):
        for col in range(0, target.shape[1], _BLOCK):
            first = max(row - FAR - 1, 0), max(col - FAR - 1, 0)
            near = place[target[first[0] : row + _BLOCK + FAR + 1, first[1] : col + _BLOCK + FAR + 1]]
            inner = tuple(slice(at - start, at - start + _BLOCK) for at, start in zip((row, col), first, strict=True))
            for index, plane in enumerate(planes):
                signed = _near_outline(near == plane, near != 255)[inner]
                out[index, row : row + _BLOCK, col : col + _BLOCK] = signed
    return out


def _near_outline(truth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W) signed distance to the outline of one class, at most `FAR`; 0 where unknown."""
    inside, outside = truth & known, ~truth & known
    if not (inside.any() and outside.any()):
        return np.where(inside, -FAR, np.where(outside, FAR, 0))
    return np.clip(_signed(truth, known), -FAR, FAR)


def _maps(problem: Classes | Planes) -> Tensor:
    if isinstance(problem, Classes):
        truth = problem.truth().cpu().numpy() > 0
        known = np.broadcast_to(problem.known[:, None].cpu().numpy(), truth.shape)
    else:
        code = problem.code.cpu().numpy()
        truth, known = code == 2, code > 0
    out = np.zeros(truth.shape, np.float32)
    for index in np.ndindex(truth.shape[:2]):
        out[index] = _signed(truth[index], known[index])
    if isinstance(problem, Planes) and problem.pair:
        out = np.concatenate([-out, out], 1)
    return torch.from_numpy(out)


def _signed(truth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W) signed distance to the outline of one class."""
    inside, outside = truth & known, ~truth & known
    if inside.any() and outside.any():
        to_inside, to_outside = distance_transform_edt(~inside), distance_transform_edt(~outside)
    else:
        to_inside = to_outside = distance_transform_edt(np.pad(known, 1))[1:-1, 1:-1]
    return np.where(inside, 0.5 - to_outside, np.where(outside, to_inside - 0.5, 0))
