"""Local search over tours behind `tapeserver.ordering`, compiled by numba. Pure.

As `tapeserver.orderkernels`, where nodes, costs and tours are explained, imported by `ordering.warm_up` alone. How many
steps a search gets is the caller's; chance comes from a seed.

`at` says where in a tour each node is. All moves exchange two neighbouring segments of the tour: with a < b < c,
tour[a+1..b] and tour[b+1..c] change places; nothing is reversed. That is Or-opt with segments of any length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tapeserver.orderkernels import Floats, Nodes, cost, kernel

GAIN_MIN = 1e-9
"""Seconds below which a move gains nothing: otherwise rounding could turn in circles."""

SEGMENT_MAX = 50
"""The longest segment that a perturbation moves, and that Or-opt on weighted completion does."""

LOG_MAX = 4096
"""Moves that one step of `perturbed` may take back; a step with more is kept or improved as it is."""


@kernel
def exchange(tour: Nodes, at: Nodes, room: Nodes, a: int, b: int, c: int) -> None:
    """Let tour[a+1..b] and tour[b+1..c] change places, and keep `at` true."""
    front, back = b - a, c - b
    if front <= back:
        room[:front] = tour[a + 1 : b + 1]
        for k in range(back):
            tour[a + 1 + k] = tour[b + 1 + k]
        tour[a + 1 + back : c + 1] = room[:front]
    else:
        room[:back] = tour[b + 1 : c + 1]
        for k in range(front - 1, -1, -1):
            tour[a + 1 + back + k] = tour[a + 1 + k]
        tour[a + 1 : a + 1 + back] = room[:back]
    for k in range(a + 1, c + 1):
        at[tour[k]] = k


@kernel
def best_exchange(
    ends: Floats, starts: Floats, terms: Floats,
    after: Nodes, after_cost: Floats, before: Nodes, before_cost: Floats,
    tour: Nodes, at: Nodes, i: int,
) -> tuple[float, int, int, int]:  # fmt: skip
    """The exchange that gains most among those that take out the link behind place i: (gain, a, b, c).

    Its first new link goes from tour[i] to a neighbour w; the second to or from a neighbour too; partial sums of gains
    stay positive (Lin and Kernighan), which loses no improving exchange when every i is tried.
    """
    best, best_a, best_b, best_c = GAIN_MIN, -1, -1, -1
    u, v = tour[i], tour[i + 1]
    removed = cost(ends, starts, terms, u, v)
    for k in range(after.shape[1]):
        w = after[u, k]
        gain_1 = removed - after_cost[u, k]
        if w < 0 or gain_1 <= GAIN_MIN:
            if k == 0:  # the end, which is not in the order of costs
                continue
            break
        q = at[w]
        if w == v or q == 0:
            continue
        x = tour[q - 1]
        gain_2 = gain_1 + cost(ends, starts, terms, x, w)
        for m in range(after.shape[1]):  # the second new link leaves x, to y; the third goes from z, before y, to v
            y = after[x, m]
            if y < 0 or gain_2 - after_cost[x, m] <= GAIN_MIN:
                if m == 0:
                    continue
                break
            p = at[y]
            a, b, c = _order_of_cuts(i, q - 1, p - 1)
            if a < 0:
                continue
            z = tour[p - 1]
            gain = gain_2 - after_cost[x, m] + cost(ends, starts, terms, z, y) - cost(ends, starts, terms, z, v)
            if gain > best:
                best, best_a, best_b, best_c = gain, a, b, c
        for m in range(before.shape[1]):  # the second new link goes from z to v; the third from x to y, behind z
            z = before[v, m]
            if z < 0 or gain_2 - before_cost[v, m] <= GAIN_MIN:
                break
            p = at[z] + 1
            a, b, c = _order_of_cuts(i, q - 1, p - 1)
            if a < 0:
                continue
            y = tour[p]
            gain = gain_2 - before_cost[v, m] + cost(ends, starts, terms, z, y) - cost(ends, starts, terms, x, y)
            if gain > best:
                best, best_a, best_b, best_c = gain, a, b, c
    return best, best_a, best_b, best_c


@kernel
def _order_of_cuts(i: int, j: int, k: int) -> tuple[int, int, int]:
    """The links behind places i, j, k are taken out, i joined to j + 1, j to k + 1, k to i + 1: as a < b < c.

    That gives one tour when they follow each other round in the order i, j, k; otherwise it falls apart: (-1, -1, -1).
    """
    if i < j < k:
        return i, j, k
    if j < k < i:
        return j, k, i
    if k < i < j:
        return k, i, j
    return -1, -1, -1


@kernel
def length(ends: Floats, starts: Floats, terms: Floats, tour: Nodes) -> float:
    """Seconds of locates along the tour."""
    seconds = 0.0
    for place in range(tour.shape[0] - 1):
        seconds += cost(ends, starts, terms, tour[place], tour[place + 1])
    return seconds


@kernel
def descend(
    ends: Floats, starts: Floats, terms: Floats,
    after: Nodes, after_cost: Floats, before: Nodes, before_cost: Floats,
    tour: Nodes, at: Nodes, room: Nodes, queue: Nodes, queued: NDArray[np.bool_], waiting: int, log: Nodes,
) -> tuple[float, int]:  # fmt: skip
    """Exchange until no node in the queue can gain by it; returns (seconds gained, moves written to `log`).

    `queue` is a ring with the `waiting` nodes to look at in its first places; both ends of each new link join it.
    """
    gained, moves, first, size = 0.0, 0, 0, queue.shape[0]
    while waiting > 0:
        node = queue[first]
        first = (first + 1) % size
        waiting -= 1
        queued[node] = False
        while True:
            i = at[node]
            if i == tour.shape[0] - 1:
                break
            gain, a, b, c = best_exchange(ends, starts, terms, after, after_cost, before, before_cost, tour, at, i)
            if a < 0:
                break
            exchange(tour, at, room, a, b, c)
            gained += gain
            if moves < log.shape[0]:
                log[moves, 0], log[moves, 1], log[moves, 2] = a, b, c
            moves += 1
            middle = a + (c - b)
            for place in (a, a + 1, middle, middle + 1, c, c + 1):
                touched = tour[place]
                if not queued[touched]:
                    queue[(first + waiting) % size] = touched
                    waiting += 1
                    queued[touched] = True
    return gained, moves


@kernel
def _draw_cuts(state: np.uint64, n: int, longest: int, cuts: NDArray[np.int64]) -> np.uint64:
    """Four places somewhere in a tour of n files, at most `longest` apart; returns the next state of the generator."""
    for k in range(4):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        drawn = np.int64(state >> np.uint64(33))
        cuts[k] = drawn % (n - 2) if k == 0 else cuts[k - 1] + 1 + drawn % longest
    if cuts[3] > n:
        cuts[3] = n
    return state


@kernel
def improved(
    ends: Floats, starts: Floats, terms: Floats,
    after: Nodes, after_cost: Floats, before: Nodes, before_cost: Floats,
    tour: Nodes, steps: int, seed: int,
) -> Nodes:  # fmt: skip
    """The tour after a descent, then `steps` times: cut somewhere in four, join anew, descend, take back what is worse.

    The perturbation takes three segments that follow each other in the order 3, 2, 1 (a double bridge within a short
    stretch), which no single exchange makes undone.
    """
    nodes = tour.shape[0]
    n = nodes - 2
    tour = tour.copy()
    at, room = np.empty(nodes, np.int32), np.empty(nodes, np.int32)
    at[tour] = np.arange(nodes).astype(np.int32)
    queue, queued = np.empty(nodes, np.int32), np.zeros(nodes, np.bool_)
    log = np.empty((LOG_MAX, 3), np.int32)
    queue[:] = tour
    queued[:] = True
    descend(ends, starts, terms, after, after_cost, before, before_cost, tour, at, room, queue, queued, nodes, log)
    if n < 4:
        return tour
    state = np.uint64(seed * 2 + 1)
    longest = max(1, min(SEGMENT_MAX, n // 3))
    cuts = np.empty(4, np.int64)
    for _ in range(steps):
        state = _draw_cuts(state, n, longest, cuts)
        a, b, c, d = cuts[0], cuts[1], cuts[2], cuts[3]
        if c >= d:
            continue
        change = 0.0
        for place in (a, b, c, d):
            change += cost(ends, starts, terms, tour[place], tour[place + 1])
        # 1 2 3 -> 3 2 1: first 1 and 2 behind 3, then 1 behind 2.
        exchange(tour, at, room, a, c, d)
        exchange(tour, at, room, a + (d - c), a + (d - c) + (b - a), d)
        waiting = 0
        for place in (a, a + (d - c), a + (d - b), d):
            change -= cost(ends, starts, terms, tour[place], tour[place + 1])
            for touched in (tour[place], tour[place + 1]):
                if not queued[touched]:
                    queue[waiting] = touched
                    queued[touched] = True
                    waiting += 1
        gained, moves = descend(
            ends, starts, terms, after, after_cost, before, before_cost,
            tour, at, room, queue, queued, waiting, log,
        )  # fmt: skip
        if change + gained < 0.0 and moves <= LOG_MAX:
            for move in range(moves - 1, -1, -1):
                exchange(tour, at, room, log[move, 0], log[move, 0] + log[move, 2] - log[move, 1], log[move, 2])
            exchange(tour, at, room, a + (d - c), a + (d - c) + (c - b), d)
            exchange(tour, at, room, a, a + (d - c), d)
    return tour


@kernel
def exact(
    ends: Floats, starts: Floats, terms: Floats, transfer: Floats, weight: Floats, by_completion: bool
) -> Nodes:  # fmt: skip
    """The best of all orders of a few files, as `orderplain.exact`: by sets of files read and the last of them."""
    n = ends.shape[0] - 1
    full = (1 << n) - 1
    least = np.full((full + 1, n), np.inf)
    came_from = np.zeros((full + 1, n), np.int32)
    link = np.empty((n + 1, n))
    for i in range(n + 1):
        for j in range(n):
            link[i, j] = cost(ends, starts, terms, i, j + 1) + (transfer[j + 1] if by_completion else 0.0)
    for read in range(full):
        waiting = 1.0
        if by_completion:
            waiting = 0.0
            for j in range(n):
                if not read >> j & 1:
                    waiting += weight[j + 1]
        for j in range(n):
            if read >> j & 1:
                continue
            now = read | 1 << j
            if read == 0:
                least[now, j] = link[0, j] * waiting
                continue
            for last in range(n):
                if read >> last & 1 and least[read, last] + link[last + 1, j] * waiting < least[now, j]:
                    least[now, j], came_from[now, j] = least[read, last] + link[last + 1, j] * waiting, last
    for last in range(n):
        least[full, last] += cost(ends, starts, terms, last + 1, n + 1)
    order = np.empty(n, np.int32)
    last = int(np.argmin(least[full]))
    read = full
    for place in range(n - 1, -1, -1):
        order[place] = last + 1
        before = came_from[read, last]
        read &= ~(1 << last)
        last = int(before)
    return order
