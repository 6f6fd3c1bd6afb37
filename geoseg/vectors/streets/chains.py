"""Chains: the pixels of a skeleton linked into a graph of junctions, ends and the lines between them."""

from dataclasses import dataclass

import numpy as np
from numba import njit

from geoseg.vectors.streets.skeleton import Skeleton


@dataclass(frozen=True, slots=True, eq=False)
class Chains:
    """Lines of pixels between nodes; a ring without a node begins and ends at its first pixel."""

    pixel: np.ndarray
    """(p,) int32 index of each chain's pixels into the skeleton, those of its two nodes included."""
    start: np.ndarray
    """(c + 1,) int64: chain k is `pixel[start[k]:start[k + 1]]`."""
    node: np.ndarray
    """(n,) int32 of each pixel of the skeleton: which node it is part of, -1 if of none. Numbered in reading order."""


def chain(skeleton: Skeleton) -> Chains:
    """Link a skeleton. Diagonal neighbours are linked only where no third pixel joins them by its sides."""
    count = len(skeleton.row)
    if not count:
        return Chains(np.empty(0, np.int32), np.zeros(1, np.int64), np.empty(0, np.int32))
    links = _links(skeleton.row, skeleton.col, skeleton.shape[0])
    node = _nodes(links)
    pixel, start = _traced(links, node)
    return Chains(pixel, start, node)


@njit(cache=True, nogil=True)
def _links(row: np.ndarray, col: np.ndarray, height: int) -> np.ndarray:
    """(n, 8) int32 linked pixels by direction (E, S, W, N, SE, SW, NW, NE); -1 for none."""
    count = len(row)
    first = np.searchsorted(row, np.arange(height + 1))
    links = np.full((count, 8), -1, np.int32)
    below = 0
    for k in range(count):
        if k + 1 < count and row[k + 1] == row[k] and col[k + 1] == col[k] + 1:
            links[k, 0], links[k + 1, 2] = k + 1, k
        if row[k] + 1 >= height:
            continue
        if below < first[row[k] + 1] or k == first[row[k]]:
            below = first[row[k] + 1]
        stop = first[row[k] + 2] if row[k] + 2 <= height else count
        while below < stop and col[below] < col[k] - 1:
            below += 1
        for at in range(below, min(below + 3, stop)):
            if col[at] == col[k]:
                links[k, 1], links[at, 3] = at, k
            elif col[at] == col[k] - 1:
                links[k, 5], links[at, 7] = at, k
            elif col[at] == col[k] + 1:
                links[k, 4], links[at, 6] = at, k
    for k in range(count):
        for way in range(4):  # SE lies between E and S, SW between S and W, ...
            if links[k, 4 + way] >= 0 and (links[k, way] >= 0 or links[k, (way + 1) % 4] >= 0):
                links[k, 4 + way] = -1
    return links


@njit(cache=True, nogil=True)
def _nodes(links: np.ndarray) -> np.ndarray:
    """(n,) int32 node of each pixel: one for each end, one for each group of linked junction pixels, -1 elsewhere."""
    count = len(links)
    degree = np.zeros(count, np.uint8)
    for k in range(count):
        for way in range(8):
            degree[k] += links[k, way] >= 0
    node = np.full(count, -1, np.int32)
    stack = np.empty(count, np.int32)
    nodes = 0
    for k in range(count):
        if degree[k] == 2 or node[k] >= 0:
            continue
        node[k], stack[0], size = nodes, k, 1
        while size:
            size -= 1
            at = stack[size]
            if degree[at] < 3:
                continue
            for way in range(8):
                to = links[at, way]
                if to >= 0 and degree[to] >= 3 and node[to] < 0:
                    node[to], stack[size] = nodes, to
                    size += 1
        nodes += 1
    return node


@njit(cache=True, nogil=True)
def _traced(links: np.ndarray, node: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of all chains, and where each chain starts. Chains of one node come first, rings last."""
    count = len(links)
    pixel = np.empty(2 * count + 16, np.int32)
    start = np.empty(4 * count + 2, np.int64)
    done = np.zeros(count, np.uint8)
    size, chains = 0, 0
    start[0] = 0
    for ring in range(2):
        for k in range(count):
            if (ring == 0) != (node[k] >= 0) or done[k]:
                continue
            if ring:
                node[k] = node.max() + 1
            for way in range(8):
                at = links[k, way]
                if at < 0 or done[at] or (node[at] >= 0 and (node[at] == node[k] or at < k)):
                    continue
                if size + count + 2 > len(pixel):
                    pixel = np.concatenate((pixel, np.empty(len(pixel), np.int32)))
                pixel[size], size, last = k, size + 1, k
                while node[at] < 0:
                    done[at] = 1
                    pixel[size], size = at, size + 1
                    ahead = -1
                    for turn in range(8):
                        to = links[at, turn]
                        if to >= 0 and to != last:
                            ahead = to
                    last, at = at, ahead
                pixel[size], size = at, size + 1
                chains += 1
                start[chains] = size
    return pixel[:size].copy(), start[: chains + 1].copy()
