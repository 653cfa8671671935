"""The loops behind `tapeserver.ordering`, compiled by numba: costs, neighbours, constructions. Pure.

Imported by `ordering.warm_up` alone: importing needs numba, and a first call compiles for tens of seconds where no
cache of an earlier process is found. It decides nothing, and improves nothing: see `tapeserver.ordersearch`.

Nodes: 0 is the head where it stands now, 1..n the files, n + 1 the end behind the last file, which costs nothing to go
to, or the way back to the begin of the tape. `ends` and `starts` hold for each node where it ends and starts: (bytes,
wrap, seconds along the tape, half, band). A tour is the nodes in order, from 0 to n + 1.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from tapeserver.ordernodes import BACK, BAND, BASE, DIRECTION, GAP, HALF, HOME, LEAST, WRAP

Floats = NDArray[np.float64]
Nodes = NDArray[np.int32]
F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile `function` at its first call, into a cache beside this file where that can be written."""
    try:
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # nowhere to keep a cache: an installation that may not be written
        return cast(F, numba.njit(nogil=True)(function))


@kernel
def cost(ends: Floats, starts: Floats, terms: Floats, i: int, j: int) -> float:
    """Seconds of locate from the end of node i to the start of node j, as `Geometry.locate_seconds`."""
    if j == starts.shape[0] - 1:
        return float(ends[i, 2] * terms[HOME])
    ahead = starts[j, 0] - ends[i, 0]
    if ahead == 0.0:
        return 0.0
    seconds = terms[BASE] + abs(starts[j, 2] - ends[i, 2])
    if ends[i, 3] != starts[j, 3]:
        seconds += terms[HALF]
    change = starts[j, 1] - ends[i, 1]
    if change == 0.0:
        if ahead < 0.0:
            return float(max(terms[LEAST], seconds + terms[BACK]))
        return float(min(ahead * terms[GAP], max(terms[LEAST], seconds)))
    seconds += terms[WRAP]
    if ends[i, 4] != starts[j, 4]:
        seconds += terms[BAND]
    if change % 2.0 != 0.0:
        seconds += terms[DIRECTION]
    return float(max(terms[LEAST], seconds))


@kernel
def neighbours(ends: Floats, starts: Floats, terms: Floats, width: int) -> tuple[Nodes, Floats, Nodes, Floats]:
    """The `width` cheapest successors and predecessors of each node with their costs, cheapest first; -1: no more.

    The end is everyone's first successor, whatever it costs.
    """
    n = ends.shape[0] - 1
    after = np.full((n + 2, width + 1), -1, np.int32)
    after_cost = np.full((n + 2, width + 1), np.inf)
    before = np.full((n + 2, width), -1, np.int32)
    before_cost = np.full((n + 2, width), np.inf)
    for i in range(n + 1):
        after[i, 0] = n + 1
        after_cost[i, 0] = cost(ends, starts, terms, i, n + 1)
        for j in range(1, n + 2):
            if i == j:
                continue
            seconds = cost(ends, starts, terms, i, j)
            if j <= n and seconds < after_cost[i, width]:
                place = width
                while place > 1 and after_cost[i, place - 1] > seconds:
                    after_cost[i, place] = after_cost[i, place - 1]
                    after[i, place] = after[i, place - 1]
                    place -= 1
                after_cost[i, place] = seconds
                after[i, place] = j
            if seconds < before_cost[j, width - 1]:
                place = width - 1
                while place > 0 and before_cost[j, place - 1] > seconds:
                    before_cost[j, place] = before_cost[j, place - 1]
                    before[j, place] = before[j, place - 1]
                    place -= 1
                before_cost[j, place] = seconds
                before[j, place] = i
    return after, after_cost, before, before_cost


@kernel
def nearest_first(ends: Floats, starts: Floats, terms: Floats, after: Nodes) -> Nodes:
    """Always to the cheapest file left, the lowest number among equals."""
    n = ends.shape[0] - 1
    tour = np.empty(n + 2, np.int32)
    tour[0], tour[n + 1] = 0, n + 1
    left = np.ones(n + 1, np.bool_)
    for place in range(1, n + 1):
        here = tour[place - 1]
        found = -1
        for k in range(1, after.shape[1]):
            if after[here, k] >= 0 and left[after[here, k]]:
                found = after[here, k]
                break
        if found < 0:
            least = np.inf
            for j in range(1, n + 1):
                if left[j]:
                    seconds = cost(ends, starts, terms, here, j)
                    if seconds < least:
                        least, found = seconds, j
        tour[place] = found
        left[found] = False
    return tour


@kernel
def _regret(
    node: int, forward: bool, near: Nodes, near_cost: Floats, following: Nodes, previous: Nodes, other_end: Nodes
) -> tuple[float, int]:
    """How much is lost when the best free partner of `node` is not taken, and the partner; -1: none in its list."""
    best, best_cost, width = -1, 0.0, near.shape[1]
    for k in range(1 if forward else 0, width):
        partner = near[node, k]
        if partner < 0:
            break
        taken = previous[partner] >= 0 if forward else following[partner] >= 0
        if taken or other_end[node] == partner:
            continue
        if best >= 0:
            return near_cost[node, k] - best_cost, best
        best, best_cost = partner, near_cost[node, k]
    if best < 0:
        return -1.0, -1
    return near_cost[node, width - 1] - best_cost + 1.0 if near[node, width - 1] >= 0 else 1.0, best


@kernel
def greatest_loss_first(
    ends: Floats, starts: Floats, terms: Floats,
    after: Nodes, after_cost: Floats, before: Nodes, before_cost: Floats,
) -> Nodes:  # fmt: skip
    """LOSS (Hillyer and Silberschatz): fix next the link whose omission costs most, within the lists of neighbours.

    What is left in pieces when the lists are exhausted is joined from the head on, the nearest piece first.
    """
    n = ends.shape[0] - 1
    following, previous = np.full(n + 2, -1, np.int32), np.full(n + 2, -1, np.int32)
    #: of the first node of a piece its last, and the other way about
    other_end = np.arange(n + 2).astype(np.int32)
    previous[0] = 0
    heap = [(0.0, 0, False)]
    heap.pop()
    for node in range(n + 1):
        for forward in (True, False):
            near, near_cost = (after, after_cost) if forward else (before, before_cost)
            regret, partner = _regret(node, forward, near, near_cost, following, previous, other_end)
            if partner >= 0 and (forward or node > 0):
                heapq.heappush(heap, (-regret, node, forward))
    while len(heap) > 0:
        stored, node, forward = heapq.heappop(heap)
        if (following[node] if forward else previous[node]) >= 0:
            continue
        near, near_cost = (after, after_cost) if forward else (before, before_cost)
        regret, partner = _regret(node, forward, near, near_cost, following, previous, other_end)
        if partner < 0:
            continue
        if regret != -stored and len(heap) > 0 and -regret > heap[0][0]:
            heapq.heappush(heap, (-regret, node, forward))
            continue
        i, j = (node, partner) if forward else (partner, node)
        following[i], previous[j] = j, i
        first, last = other_end[i], other_end[j]
        other_end[first], other_end[last] = last, first
    return _joined(ends, starts, terms, following, previous, other_end)


@kernel
def _joined(ends: Floats, starts: Floats, terms: Floats, following: Nodes, previous: Nodes, other_end: Nodes) -> Nodes:
    n = ends.shape[0] - 1
    firsts = np.empty(n + 1, np.int32)
    count = 0
    for node in range(1, n + 1):
        if previous[node] < 0:
            firsts[count] = node
            count += 1
    tour = np.empty(n + 2, np.int32)
    place, node = 0, 0
    while True:
        while node >= 0:
            tour[place] = node
            place += 1
            node = following[node]
        if count == 0:
            break
        least, chosen = np.inf, 0
        for k in range(count):
            seconds = cost(ends, starts, terms, tour[place - 1], firsts[k])
            if seconds < least:
                least, chosen = seconds, k
        node = firsts[chosen]
        count -= 1
        firsts[chosen] = firsts[count]
    tour[n + 1] = n + 1
    return tour
