"""Orders of reads with numpy alone: exact for a few files, good for many. Pure.

What `tapeserver.ordering` uses where the compiled loops are not ready or not installed, and its simple constructions.
Time is bounded: O(n) array operations of length n for nearest first, O(n log n) steps for the greatest loss first, and
at most LOOKS_MAX array operations of at most MATRIX_MAX squared elements for the moves.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tapeserver.ordernodes import BACK, BAND, BASE, DIRECTION, GAP, HALF, HOME, LEAST, WRAP, Floats, Nodes

Indices = NDArray[np.int64]

NEIGHBOURS = 8
MATRIX_MAX = 300
"""Up to so many files the order is improved by moving segments."""

LOOKS_MAX = 400
"""Matrices of moves that are computed while it is improved: about a second at MATRIX_MAX files."""

_SEGMENTS = (1, 2, 3, 5, 8, 13, 21, 34, 50)


def good(nodes: Nodes, objective: str) -> Indices:
    """Node numbers from 1: the best of the constructions, improved where they are few."""
    found = [block_order(nodes), two_queue_scan(nodes), nearest_first(nodes), greatest_loss_first(nodes)]
    if objective == "completion":
        found += [heaviest_first(nodes), dearest_first(nodes)]
        return min(found, key=lambda order: weighted_seconds(nodes, order))
    best = min(found, key=lambda order: motion_seconds(nodes, order))
    return moved_segments(nodes, best) if len(best) <= MATRIX_MAX else best


def costs(nodes: Nodes, sources: Indices, targets: Indices) -> Floats:
    """Seconds of locate from the ends of `sources` (rows) to the starts of `targets` (columns)."""
    return pair_costs(nodes, np.asarray(sources)[:, None], np.asarray(targets)[None, :])


def pair_costs(nodes: Nodes, sources: Indices, targets: Indices) -> Floats:
    """As `costs`, pair by pair."""
    start, end, terms = nodes.starts[targets], nodes.ends[sources], nodes.terms
    ahead = start[..., 0] - end[..., 0]
    change = start[..., 1] - end[..., 1]
    same = change == 0
    seconds: Floats = terms[BASE] + np.abs(start[..., 2] - end[..., 2])
    seconds += terms[HALF] * (start[..., 3] != end[..., 3])
    seconds += terms[WRAP] * ~same + terms[BAND] * (start[..., 4] != end[..., 4])
    seconds += terms[DIRECTION] * (change % 2 != 0) + terms[BACK] * (same & (ahead < 0))
    seconds = np.maximum(seconds, terms[LEAST])
    seconds = np.where(same & (ahead >= 0), np.minimum(seconds, ahead * terms[GAP]), seconds)
    seconds[ahead == 0] = 0.0
    return seconds


def home_seconds(nodes: Nodes, last: Indices) -> Floats:
    """What the end costs behind each of these."""
    seconds: Floats = nodes.ends[last, 2] * nodes.terms[HOME]
    return seconds


def motion_seconds(nodes: Nodes, order: Indices) -> float:
    """Of all locates, and of the way to the end."""
    locates = pair_costs(nodes, np.concatenate(([0], order[:-1])), order).sum()
    return float(locates + home_seconds(nodes, order[-1:]).sum())


def weighted_seconds(nodes: Nodes, order: Indices) -> float:
    locates = pair_costs(nodes, np.concatenate(([0], order[:-1])), order)
    return float((np.cumsum(locates + nodes.transfer[order]) * nodes.weight[order]).sum())


def closed(order: Indices) -> NDArray[np.int32]:
    """The tour of the compiled loops: with the head before and the end behind."""
    return np.concatenate(([0], order, [len(order) + 1])).astype(np.int32)


def exact(nodes: Nodes, objective: str) -> Indices:
    """The best of all orders, by sets of files already read and the last of them (Held and Karp).

    Each second of an order delays all that is not yet read, so that weighted completion adds up over links too.
    """
    count = len(nodes.transfer) - 1
    step = costs(nodes, np.arange(count + 1), np.arange(1, count + 1))
    if objective == "completion":
        step = step + nodes.transfer[1:]
    weight, full = nodes.weight[1:], (1 << count) - 1
    least = np.full((1 << count, count), np.inf)
    came_from = np.zeros((1 << count, count), dtype=np.int64)
    for read in range(full):
        waiting = sum(weight[i] for i in range(count) if not read >> i & 1) if objective == "completion" else 1.0
        reached = step[0][None, :] * waiting if read == 0 else least[read][:, None] + step[1:] * waiting
        for j in range(count):
            if not read >> j & 1:
                came_from[read | 1 << j, j] = at = int(np.argmin(reached[:, j]))
                least[read | 1 << j, j] = reached[at, j]
    least[full] += home_seconds(nodes, np.arange(1, count + 1))
    order, read, last = [], full, int(np.argmin(least[full]))
    while read:
        order.append(last + 1)
        read, last = read & ~(1 << last), int(came_from[read, last])
    return np.array(order[::-1])


def block_order(nodes: Nodes) -> Indices:
    return np.argsort(nodes.starts[1:-1, 0], kind="stable") + 1


def two_queue_scan(nodes: Nodes) -> Indices:
    """One sweep along the tape over all wraps that run forward, one back over those that run backward."""
    order = block_order(nodes)
    backward = nodes.starts[order, 1] % 2 == 1
    along = nodes.starts[order, 2]
    return np.concatenate(
        (
            order[~backward][np.argsort(along[~backward], kind="stable")],
            order[backward][np.argsort(-along[backward], kind="stable")],
        )
    )


def heaviest_first(nodes: Nodes) -> Indices:
    return np.argsort(-nodes.weight[1:], kind="stable") + 1


def nearest_first(nodes: Nodes) -> Indices:
    return _greedy(nodes, lambda seconds, left: seconds)


def dearest_first(nodes: Nodes) -> Indices:
    """Always to the file with the greatest weight per second that it takes from here."""

    def worth(seconds: Floats, left: Indices) -> Floats:
        values: Floats = -nodes.weight[left] / np.maximum(seconds + nodes.transfer[left], 1e-6)
        return values

    return _greedy(nodes, worth)


def _greedy(nodes: Nodes, value: Callable[[Floats, Indices], Floats]) -> Indices:
    """From the head on always to the file whose value is least, the lowest number among equals."""
    left = np.arange(1, len(nodes.transfer))
    order, here = np.empty(len(left), dtype=np.int64), 0
    for place in range(len(order)):
        at = int(np.argmin(value(costs(nodes, np.array([here]), left)[0], left)))
        order[place] = here = left[at]
        left = np.delete(left, at)
    return order


def greatest_loss_first(nodes: Nodes) -> Indices:
    """LOSS (Hillyer and Silberschatz) over the nearest successors: fix next the link whose omission costs most.

    What is left in pieces when a file's nearest are all taken is joined from the head on, the nearest piece first.
    """
    count = len(nodes.transfer) - 1
    near, near_cost = _nearest(nodes)
    following, previous = [-1] * (count + 1), [-1] * (count + 1)
    #: of the first node of a piece its last, and the other way about
    other_end = list(range(count + 1))

    def regret(node: int) -> tuple[float, int]:
        best, best_cost = -1, 0.0
        for partner, seconds in zip(near[node], near_cost[node], strict=True):
            if previous[partner] >= 0 or other_end[node] == partner:
                continue
            if best >= 0:
                return seconds - best_cost, best
            best, best_cost = partner, seconds
        return (near_cost[node][-1] - best_cost + 1.0, best) if best >= 0 else (-1.0, -1)

    heap = [(-regret(node)[0], node) for node in range(count + 1)]
    heapq.heapify(heap)
    while heap:
        _, node = heapq.heappop(heap)
        loss, partner = regret(node)
        if partner < 0:
            continue
        if heap and -loss > heap[0][0]:
            heapq.heappush(heap, (-loss, node))
            continue
        following[node], previous[partner] = partner, node
        first, last = other_end[node], other_end[partner]
        other_end[first], other_end[last] = last, first
    return _joined(nodes, following, previous)


def _nearest(nodes: Nodes) -> tuple[list[list[int]], list[list[float]]]:
    """The nearest successors of each node, the nearest first, and their costs."""
    count = len(nodes.transfer) - 1
    width, targets = min(NEIGHBOURS, count - 1), np.arange(1, count + 1)
    near, near_cost = [], []
    for first in range(0, count + 1, 200):
        rows = np.arange(first, min(first + 200, count + 1))
        seconds = costs(nodes, rows, targets)
        own = rows >= 1
        seconds[own, rows[own] - 1] = np.inf
        kept = (
            np.argpartition(seconds, width - 1, axis=1)[:, :width] if width < count else np.argsort(seconds)[:, :width]
        )
        kept_cost = np.take_along_axis(seconds, kept, axis=1)
        order = np.lexsort((kept, kept_cost), axis=1)
        near += (np.take_along_axis(kept, order, axis=1) + 1).tolist()
        near_cost += np.take_along_axis(kept_cost, order, axis=1).tolist()
    return near, near_cost


def _joined(nodes: Nodes, following: list[int], previous: list[int]) -> Indices:
    firsts = np.array([node for node in range(1, len(following)) if previous[node] < 0], dtype=np.int64)
    order: list[int] = []
    node = 0
    while True:
        last = node
        while node >= 0:
            order.append(node)
            last, node = node, following[node]
        if not len(firsts):
            return np.array(order[1:], dtype=np.int64)
        at = int(np.argmin(costs(nodes, np.array([last]), firsts)[0]))
        node = int(firsts[at])
        firsts = np.delete(firsts, at)


def moved_segments(nodes: Nodes, order: Indices) -> Indices:
    """Or-opt: the segment and the place with the greatest gain, until there is none or LOOKS_MAX are through."""
    count = len(order)
    matrix = np.zeros((count + 1, count + 2))
    matrix[:, 1:-1] = costs(nodes, np.arange(count + 1), np.arange(1, count + 1))
    matrix[:, -1] = home_seconds(nodes, np.arange(count + 1))
    tour, looks, still = closed(order).astype(np.int64), 0, 0
    while still < len(_SEGMENTS) and looks < LOOKS_MAX:
        size = _SEGMENTS[looks % len(_SEGMENTS)]
        looks += 1
        still += 1
        if size >= count:
            continue
        firsts = np.arange(1, count - size + 2)
        lasts = firsts + size - 1
        links = matrix[tour[:-1], tour[1:]]
        saved = links[firsts - 1] + links[lasts] - matrix[tour[firsts - 1], tour[lasts + 1]]
        gaps = np.arange(count + 1)
        added = matrix[tour[gaps][:, None], tour[firsts]] + matrix[tour[lasts], tour[gaps + 1][:, None]]
        gain = saved - added + links[:, None]
        gain[(gaps[:, None] >= firsts - 1) & (gaps[:, None] <= lasts)] = -np.inf
        gap, which = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if gain[gap, which] > 1e-9:
            segment = tour[firsts[which] : lasts[which] + 1]
            rest = np.delete(tour, np.arange(firsts[which], lasts[which] + 1))
            place = int(gap) + 1 - (size if gap > lasts[which] else 0)
            tour = np.insert(rest, place, segment)
            still = 0
    return tour[1:-1]
