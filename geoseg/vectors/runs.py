"""Runs: pixels of one label side by side in a row, joined to patches from row to row, and what is counted of them.

Patches are found by union-find over the runs of two rows at a time. The smaller run label wins, and they are given in
reading order: the order of patches is that of their first pixels.

`runs` is (n, 9) int64, a run label a row; only that of a patch's root label counts:
    `PARENT`: towards the root;
    `PIXELS`: number of pixels;
    `VALUE`: their label;
    `FIRST_ROW`, `FIRST_COL`: the first pixel;
    `START`, `STOP`: leftmost column, one past the rightmost;
    `LAST_ROW`: the lowest row;
    `SLOT`: its histogram while it is under way and probabilities are known, else -1.
`chances` is (n, 2) float64: mean and 10th percentile of the probability, 0 to 1, NaN where not known.
`histograms` is (m, 257) int64, of patches under way: how many pixels have each probability, and the label + 1 (or 0).
`given` is (2 + m,) int64: how many run labels there are, how many histograms are vacant, and which.
"""

import numpy as np
from numba import njit

from geoseg.vectors.kernels import inlined, kernel

PARENT, PIXELS, VALUE, FIRST_ROW, FIRST_COL, START, STOP, LAST_ROW, SLOT = range(9)
LABELS, VACANT, STACK = range(3)
OWNER = 256
PERCENTILE = 10


@inlined
def root_of(runs, label):  # type: ignore[no-untyped-def]
    """The label of a label's patch."""
    while runs[label, PARENT] != label:
        runs[label, PARENT] = runs[runs[label, PARENT], PARENT]
        label = runs[label, PARENT]
    return label


@inlined
def new_label(runs, chances, histograms, given, row, col, value, known):  # type: ignore[no-untyped-def]
    """A patch that begins with this pixel."""
    label = given[LABELS]
    given[LABELS] += 1
    runs[label, PARENT] = label
    runs[label, PIXELS] = 0
    runs[label, VALUE] = value
    runs[label, FIRST_ROW] = runs[label, LAST_ROW] = row
    runs[label, FIRST_COL] = runs[label, START] = runs[label, STOP] = col
    runs[label, SLOT] = -1
    chances[label, 0] = chances[label, 1] = np.nan
    if known:
        given[VACANT] -= 1
        slot = given[STACK + given[VACANT]]
        runs[label, SLOT] = slot
        histograms[slot, OWNER] = label + 1
    return label


@inlined
def unite(runs, histograms, given, one, two):  # type: ignore[no-untyped-def]
    """Make one patch of two; returns its label."""
    one, two = root_of(runs, one), root_of(runs, two)
    if one == two:
        return one
    one, two = min(one, two), max(one, two)
    runs[two, PARENT] = one
    runs[one, PIXELS] += runs[two, PIXELS]
    runs[one, START] = min(runs[one, START], runs[two, START])
    runs[one, STOP] = max(runs[one, STOP], runs[two, STOP])
    runs[one, LAST_ROW] = max(runs[one, LAST_ROW], runs[two, LAST_ROW])
    slot, other = runs[one, SLOT], runs[two, SLOT]
    if other >= 0:
        for value in range(OWNER):
            histograms[slot, value] += histograms[other, value]
        _vacate(histograms, given, other)
    return one


@inlined
def count_run(runs, histograms, label, row, start, stop, probabilities, plane, line):  # type: ignore[no-untyped-def]
    """Count a run of the patch: columns `start` to `stop` of a row, which is this line of its probabilities."""
    label = root_of(runs, label)
    runs[label, PIXELS] += stop - start
    runs[label, START] = min(runs[label, START], start)
    runs[label, STOP] = max(runs[label, STOP], stop)
    runs[label, LAST_ROW] = row
    slot = runs[label, SLOT]
    if slot >= 0:
        for col in range(start, stop):
            histograms[slot, probabilities[plane, line, col]] += 1


@kernel
def settle(runs, chances, histograms, given, row):  # type: ignore[no-untyped-def]
    """Work out the probabilities of the patches that have no pixel in the row before this one; frees histograms."""
    for slot in range(len(histograms)):
        label = histograms[slot, OWNER] - 1
        if label < 0 or runs[label, LAST_ROW] >= row - 1:
            continue
        count, total = np.int64(0), np.int64(0)
        for value in range(255):
            count += histograms[slot, value]
            total += histograms[slot, value] * value
        if count > 0:
            chances[label, 0] = total / (254 * count)
            value, seen = 0, histograms[slot, 0]
            while seen * 100 < count * PERCENTILE:
                value += 1
                seen += histograms[slot, value]
            chances[label, 1] = value / 254
        _vacate(histograms, given, slot)
        runs[label, SLOT] = -1


@kernel
def _vacate(histograms, given, slot):  # type: ignore[no-untyped-def]
    """Clear a histogram for the next patch."""
    for value in range(OWNER):
        histograms[slot, value] = 0
    histograms[slot, OWNER] = 0
    given[STACK + given[VACANT]] = slot
    given[VACANT] += 1


@njit(cache=True, nogil=True)
def compact(runs, chances, histograms, given, row, min_pixels):  # type: ignore[no-untyped-def]
    """Forget the labels that are no patch's root, and patches that are finished and smaller than wanted.

    They must be settled.

    Returns:
        (labels,) int32 the new label of every old one, or -1 where its patch is gone.
    """
    renamed = np.empty(given[LABELS], np.int32)
    kept = 0
    for label in range(given[LABELS]):
        parent = runs[label, PARENT]
        if parent != label:  # it comes first, and keeps its new name where its old one was
            renamed[label] = renamed[parent]
        elif runs[label, LAST_ROW] < row - 1 and runs[label, PIXELS] < min_pixels:
            renamed[label] = -1
        else:
            renamed[label] = kept
            for field in range(runs.shape[1]):
                runs[kept, field] = runs[label, field]
            runs[kept, PARENT] = kept
            chances[kept, 0] = chances[label, 0]
            chances[kept, 1] = chances[label, 1]
            if runs[kept, SLOT] >= 0:
                histograms[runs[kept, SLOT], OWNER] = kept + 1
            kept += 1
    given[LABELS] = kept
    return renamed
