"""`python -m tests.benchmarks.losses`: forward and backward of every loss, against torch's own cross-entropy.

Logits 8x2x512x512 and a target of which one pixel in fifty is ignored; one thread, CPU time, medians of interleaved
runs. Exits with 1 when a loss costs more than its bound; `boundary`, `cldice` and `lovasz_sort`, which sorts, have
none.
"""

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from geoseg.losses import LOSSES, REGRESSION, distance_maps

BOUND = 1.5
UNBOUND = ("boundary", "cldice", "lovasz_sort")


def inputs(images: int, side: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    # Blobs, as buildings are: skeletons and distance maps of noise are another matter.
    blobs = torch.nn.functional.avg_pool2d(torch.randn(images, 1, side, side), 15, 1, 7)[:, 0]
    target = (blobs > 0.05).long()
    target[torch.rand(target.shape) < 0.02] = 255
    return torch.randn(images, 2, side, side), target


def subjects(logits: Tensor, target: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    heights = torch.where(target == 255, torch.nan, target + torch.rand(target.shape))
    maps = distance_maps(logits.shape, target)
    found: dict[str, Callable[[Tensor], Tensor]] = {"torch": lambda z: cross_entropy(z, target, ignore_index=255)}
    for name, function in LOSSES.items():
        if name in REGRESSION:
            found[name] = lambda z, function=function: function(z, heights)
        else:
            found[name] = lambda z, function=function: function(z, target)
    return found | {"boundary, cached": lambda z: LOSSES["boundary"](z, target, maps)}


def milliseconds(loss: Callable[[Tensor], Tensor], logits: Tensor) -> float:
    leaf = logits.clone().requires_grad_()
    begun = time.process_time()
    loss(leaf).backward()
    return (time.process_time() - begun) * 1000


def tune_malloc() -> None:
    """As the trainer does: else what is measured is the price of fresh pages."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**30)
        libc.mallopt(-1, 2**31 - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="losses (default: all)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--plain-malloc", action="store_true", help="leave malloc as it is")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.plain_malloc:
        tune_malloc()
    logits, target = inputs(options.images, options.side)
    chosen = {
        name: loss
        for name, loss in subjects(logits, target).items()
        if name == "torch" or not options.names or name in options.names
    }
    runs: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(options.rounds):
        for name, loss in chosen.items():
            if name.startswith(UNBOUND) and turn >= max(1, options.rounds // 3):
                continue
            runs[name].append(milliseconds(loss, logits[:, :1] if name in REGRESSION else logits))
    medians = {name: statistics.median(times) for name, times in runs.items()}
    missed = []
    print(f"{'loss':<18} {'ms':>8} {'ratio':>7}   goal")
    for name, median in medians.items():
        ratio = median / medians["torch"]
        goal = "" if name.startswith(UNBOUND) or name == "torch" else "ok" if ratio <= BOUND else "MISSED"
        missed += [name] if goal == "MISSED" else []
        print(f"{name:<18} {median:8.1f} {ratio:7.2f}   {f'<= {BOUND} {goal}' if goal else ''}".rstrip())
    sys.exit(f"missed: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
