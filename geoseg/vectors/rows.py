"""Rows: what happens between two rows of a class raster, to the chains of `rings` and to the patches of `runs`.

A chain is carried on for each crack of the last row. Eight corners without a crack are skipped in one step.

`carried` is (3, W + 1) int64: at every crack between two pixels of the last row the end of the chain of the pixel to
the left, of that to the right, and the label of the run that begins there.
"""

# numba keeps compiled code as long as the file of the function called from Python does not change: after a change in
# rings.py or runs.py, clear __pycache__/*.nb*.

import numpy as np

from geoseg.vectors.kernels import inlined, kernel
from geoseg.vectors.rings import (
    BOTTOM,
    CLOSED,
    COL,
    FREED,
    INTO,
    LABEL,
    LEFT,
    OUT,
    RIGHT,
    ROW,
    SCALE,
    TOP,
    USED,
    crossing,
    extend,
    meet,
)
from geoseg.vectors.runs import (
    LABELS,
    VACANT,
    count_run,
    new_label,
    settle,
    unite,
)


@kernel
def trace_rows(  # type: ignore[no-untyped-def]
    how, chosen, plane, nodes, closed, state, runs, chances, histograms, given, carried, corner, strip, words, planes
):
    """Trace between the rows of a strip until it ends, or room for what another row might bring runs out.

    Args:
        how: (4,) int64: sub-pixel or not, with junctions or not, row of the strip in the raster, index of the first row
            to trace, from 1; the last is moved on to the next row to trace: 1 + h when the strip is done.
        chosen: (256,) bool: labels to trace.
        plane: (256,) int64 index of each label's probabilities, or -1.
        nodes: Vertices, as `rings` has it.
        closed: Rings that are closed, likewise.
        state: Of both.
        runs: Run labels, as `runs` has it.
        chances: Their probabilities.
        histograms: Of the patches under way.
        given: How many there are of all these.
        carried: Chains and run labels at the cracks of the last row.
        corner: Scratch, as `rings` has it.
        strip: (1 + h, P) uint8: the row above the strip, then the strip; P is a multiple of 8, larger than the width.
            Beyond the width, and above and below the raster, there is one label that is not chosen.
        words: The same memory as (1 + h, P / 8) uint64.
        planes: (K, 1 + h, width) uint8 probabilities of the same rows, or (1, 1, 0) where not known.
    """
    width = carried.shape[1] - 1
    while how[3] < len(strip):
        row, line = how[2] + how[3] - 1, how[3]
        if len(nodes) - state[USED] + state[FREED] < 12 * (width + 1) or len(closed) - state[CLOSED] < 2 * (width + 1):
            return
        if len(runs) - given[LABELS] < width + 1:
            return
        if planes.shape[2] > 0 and given[VACANT] < width + 1:
            settle(runs, chances, histograms, given, row)
        _trace_row(
            how[0] > 0,
            how[1] > 0,
            chosen,
            plane,
            nodes,
            closed,
            state,
            runs,
            chances,
            histograms,
            given,
            carried,
            corner,
            strip,
            words,
            planes,
            row,
            line,
        )
        how[3] += 1


@inlined
def _trace_row(  # type: ignore[no-untyped-def]
    subpixel,
    junctions,
    chosen,
    plane,
    nodes,
    closed,
    state,
    runs,
    chances,
    histograms,
    given,
    carried,
    corner,
    strip,
    words,
    planes,
    row,
    line,
):
    """Trace between two rows."""
    width = carried.shape[1] - 1
    outside = strip[line, width]
    behind_upper = behind_lower = np.uint64(outside)
    run_upper, run_lower, start = np.int64(-1), np.int64(-1), np.int64(0)
    for word in range(words.shape[1]):
        above, below = words[line - 1, word], words[line, word]
        cracks = above ^ (above << np.uint64(8) | behind_upper)
        cracks |= below ^ (below << np.uint64(8) | behind_lower) | above ^ below
        behind_upper, behind_lower = above >> np.uint64(56), below >> np.uint64(56)
        if cracks == 0:
            continue
        for col in range(8 * word, min(8 * word + 8, width + 1)):
            ur, dr = strip[line - 1, col], strip[line, col]
            ul, dl = outside, outside
            if col > 0:
                ul, dl = strip[line - 1, col - 1], strip[line, col - 1]
            if ul == ur and dl == dr:
                if subpixel and ul != dl:
                    _along(nodes, state, corner, chosen, plane, planes, row, line, col, ur, dr)
                continue
            run_right = carried[2, col] if ul != ur else run_upper
            if ul == dl and ur == dr:
                if subpixel:
                    _down(nodes, state, carried, chosen, plane, planes, row, line, col, dl, dr)
            else:
                corner[LABEL, TOP], corner[LABEL, RIGHT], corner[LABEL, BOTTOM], corner[LABEL, LEFT] = ur, dr, dl, ul
                corner[INTO, TOP], corner[OUT, TOP] = carried[0, col], carried[1, col]
                if subpixel:
                    _place(corner, plane, planes, row, line, col, junctions)
                meet(nodes, closed, state, corner, chosen, row, col, subpixel, junctions, run_upper, run_right)
                corner[INTO, LEFT], corner[OUT, LEFT] = corner[OUT, RIGHT], corner[INTO, RIGHT]
                carried[0, col], carried[1, col] = corner[OUT, BOTTOM], corner[INTO, BOTTOM]
            if dl != dr:
                if chosen[dl]:
                    if run_lower < 0:
                        known = planes.shape[2] > 0 and plane[dl] >= 0
                        run_lower = new_label(runs, chances, histograms, given, row, start, dl, known)
                    count_run(runs, histograms, run_lower, row, start, col, planes, plane[dl], line)
                    carried[2, start] = run_lower
                start, run_lower = np.int64(col), np.int64(-1)
            run_upper = run_right
            if ur == dr and chosen[ur]:
                if run_lower < 0:
                    run_lower = run_upper
                elif run_lower != run_upper:
                    run_lower = unite(runs, histograms, given, run_upper, run_lower)


@inlined
def _along(nodes, state, corner, chosen, plane, planes, row, line, col, above, below):  # type: ignore[no-untyped-def]
    """Lead the chains on both sides of a crack straight on to the right."""
    moved = np.int64(0)
    if planes.shape[2] > 0:
        moved = crossing(planes, plane, line - 1, col, np.int64(1), np.int64(0), above, below)
    x, y = col * SCALE + SCALE // 2, row * SCALE + moved
    if chosen[above]:
        corner[OUT, LEFT] = extend(nodes, state, corner[OUT, LEFT], x, y, False)
    if chosen[below]:
        corner[INTO, LEFT] = extend(nodes, state, corner[INTO, LEFT], x, y, True)


@inlined
def _down(nodes, state, carried, chosen, plane, planes, row, line, col, left, right):  # type: ignore[no-untyped-def]
    """Lead the chains on both sides of a crack straight on to the row below."""
    moved = np.int64(0)
    if planes.shape[2] > 0:
        moved = crossing(planes, plane, line, col - 1, np.int64(0), np.int64(1), left, right)
    x, y = col * SCALE + moved, row * SCALE + SCALE // 2
    if chosen[left]:
        carried[0, col] = extend(nodes, state, carried[0, col], x, y, True)
    if chosen[right]:
        carried[1, col] = extend(nodes, state, carried[1, col], x, y, False)


@inlined
def _place(corner, plane, planes, row, line, col, junctions):  # type: ignore[no-untyped-def]
    """Set where the vertices of the corner's edges lie: in the middle of a crack, moved along its normal.

    Those of the top and the left edge have been led through before; only a junction needs to know them.
    """
    known = planes.shape[2] > 0
    x, y, half = col * SCALE, row * SCALE, SCALE // 2
    ur, dr, dl, ul = corner[LABEL, TOP], corner[LABEL, RIGHT], corner[LABEL, BOTTOM], corner[LABEL, LEFT]
    for edge in range(4):
        if not junctions and (edge in (TOP, LEFT)):
            continue
        flat = edge in (RIGHT, LEFT)
        one = (ur if edge == RIGHT else ul) if flat else (dl if edge == BOTTOM else ul)
        two = (dr if edge == RIGHT else dl) if flat else (dr if edge == BOTTOM else ur)
        moved = np.int64(0)
        if known and one != two:
            first_line, first_col = line - (edge != BOTTOM), col - (edge != RIGHT)
            moved = crossing(planes, plane, first_line, first_col, np.int64(flat), np.int64(not flat), one, two)
        away = half if edge in (RIGHT, BOTTOM) else -half
        corner[COL, edge] = x + (away if flat else moved)
        corner[ROW, edge] = y + (moved if flat else away)
