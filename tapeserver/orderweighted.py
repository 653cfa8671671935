"""Orders for the smallest sum of weighted completion times, compiled by numba: local search, and the linear case. Pure.

As `tapeserver.orderkernels`, where nodes and tours are explained, imported by `ordering.warm_up` alone.
"""

from __future__ import annotations

import numpy as np

from tapeserver.orderkernels import Floats, Nodes, cost, kernel
from tapeserver.ordersearch import GAIN_MIN, SEGMENT_MAX

PIECES_MAX = 128
"""Lines in a lower envelope of the linear recurrence; 29 were the most seen with 150 files."""


@kernel
def dearest_first(ends: Floats, starts: Floats, terms: Floats, transfer: Floats, weight: Floats) -> Nodes:
    """Always to the file with the greatest weight per second that it takes from here."""
    n = ends.shape[0] - 1
    tour = np.arange(n + 2).astype(np.int32)
    for place in range(1, n + 1):
        greatest, chosen = -1.0, place
        for k in range(place, n + 1):
            j = tour[k]
            seconds = cost(ends, starts, terms, tour[place - 1], j) + transfer[j]
            worth = weight[j] / max(seconds, 1e-6)
            if worth > greatest or (worth == greatest and j < tour[chosen]):
                greatest, chosen = worth, k
        tour[place], tour[chosen] = tour[chosen], tour[place]
    return tour


@kernel
def _sums(
    ends: Floats, starts: Floats, terms: Floats, transfer: Floats, weight: Floats,
    tour: Nodes, done: Floats, heavy: Floats, first: int,
) -> None:  # fmt: skip
    """From place `first` on: when each file is done, and the weight up to it."""
    for place in range(max(first, 1), tour.shape[0] - 1):
        node = tour[place]
        done[place] = done[place - 1] + cost(ends, starts, terms, tour[place - 1], node) + transfer[node]
        heavy[place] = heavy[place - 1] + weight[node]


@kernel
def _change(
    ends: Floats, starts: Floats, terms: Floats, tour: Nodes, done: Floats, heavy: Floats, transfer: Floats,
    a: int, b: int, c: int,
) -> float:  # fmt: skip
    """What the exchange of tour[a+1..b] and tour[b+1..c] adds to the weighted sum, from the sums over the tour."""
    n = tour.shape[0] - 2
    begin_front = done[a + 1] - transfer[tour[a + 1]]
    begin_back = done[b + 1] - transfer[tour[b + 1]]
    earlier = done[a] + cost(ends, starts, terms, tour[a], tour[b + 1])
    later = earlier + (done[c] - begin_back) + cost(ends, starts, terms, tour[c], tour[a + 1])
    change = (earlier - begin_back) * (heavy[c] - heavy[b]) + (later - begin_front) * (heavy[b] - heavy[a])
    if c < n:
        behind = later + (done[b] - begin_front) + cost(ends, starts, terms, tour[b], tour[c + 1])
        change += (behind - (done[c + 1] - transfer[tour[c + 1]])) * (heavy[n] - heavy[c])
    return float(change)


@kernel
def weighted_descent(
    ends: Floats, starts: Floats, terms: Floats, transfer: Floats, weight: Floats,
    tour: Nodes, reach: int, looks_max: int,
) -> Nodes:  # fmt: skip
    """Or-opt on the weighted sum: segments up to SEGMENT_MAX, moved by at most `reach` places either way.

    Ends in a local optimum, or after `looks_max` looked-at moves.
    """
    n = tour.shape[0] - 2
    tour = tour.copy()
    done, heavy, room = np.zeros(n + 2), np.zeros(n + 2), np.empty(n + 2, np.int32)
    _sums(ends, starts, terms, transfer, weight, tour, done, heavy, 1)
    looks, still = 0, 0
    a = 0
    while still < n and looks < looks_max:
        best, best_b, best_c = -GAIN_MIN * max(1.0, heavy[n]), -1, -1
        short = 1
        while short <= min(SEGMENT_MAX, n - a - 1):
            for far in range(1, min(reach, n - a - short) + 1):
                change = _change(ends, starts, terms, tour, done, heavy, transfer, a, a + short, a + short + far)
                if change < best:
                    best, best_b, best_c = change, a + short, a + short + far
                if far > SEGMENT_MAX:
                    change = _change(ends, starts, terms, tour, done, heavy, transfer, a, a + far, a + short + far)
                    if change < best:
                        best, best_b, best_c = change, a + far, a + short + far
                looks += 2
            short += 1 + short // 4
        if best_b >= 0:
            front, back = best_b - a, best_c - best_b
            room[:front] = tour[a + 1 : best_b + 1]
            for k in range(back):
                tour[a + 1 + k] = tour[best_b + 1 + k]
            tour[a + 1 + back : best_c + 1] = room[:front]
            _sums(ends, starts, terms, transfer, weight, tour, done, heavy, a + 1)
            still = 0
        else:
            still += 1
            a = (a + 1) % n
    return tour


@kernel
def _value(slopes: Floats, offsets: Floats, count: int, k: float) -> float:
    least = np.inf
    for piece in range(count):
        least = min(least, slopes[piece] * k + offsets[piece])
    return least


@kernel
def _envelope(
    slopes: Floats, offsets: Floats, count: int, k_max: float, out_slopes: Floats, out_offsets: Floats
) -> int:
    """The lines that are somewhere in 0 <= k <= k_max the lowest, by growing k; returns how many.

    Beyond PIECES_MAX the rest is left out: what remains is an upper bound, and the order that comes of it a good one.
    """
    pieces, lowest = 0, 0
    for line in range(1, count):
        if offsets[line] < offsets[lowest] or (offsets[line] == offsets[lowest] and slopes[line] < slopes[lowest]):
            lowest = line
    while True:
        out_slopes[pieces], out_offsets[pieces] = slopes[lowest], offsets[lowest]
        pieces += 1
        crossing, following = k_max, -1
        for line in range(count):
            if slopes[line] < slopes[lowest]:
                meet = (offsets[line] - offsets[lowest]) / (slopes[lowest] - slopes[line])
                if meet < crossing or (meet == crossing and following >= 0 and slopes[line] < slopes[following]):
                    crossing, following = meet, line
        if following < 0 or pieces == PIECES_MAX:
            return pieces
        lowest = following


@kernel
def _sum_of(
    slopes_1: Floats, offsets_1: Floats, count_1: int, slopes_2: Floats, offsets_2: Floats, count_2: int,
    slope: float, offset: float, slopes: Floats, offsets: Floats, count: int,
) -> int:  # fmt: skip
    """Append the lines of the sum of two envelopes plus slope k + offset; returns the new number of lines."""
    i, j = 0, 0
    while True:
        slopes[count] = slopes_1[i] + slopes_2[j] + slope
        offsets[count] = offsets_1[i] + offsets_2[j] + offset
        count += 1
        next_1, next_2 = np.inf, np.inf
        if i + 1 < count_1:
            next_1 = (offsets_1[i + 1] - offsets_1[i]) / (slopes_1[i] - slopes_1[i + 1])
        if j + 1 < count_2:
            next_2 = (offsets_2[j + 1] - offsets_2[j]) / (slopes_2[j] - slopes_2[j + 1])
        if next_1 == np.inf and next_2 == np.inf:
            return count
        if next_1 <= next_2:
            i += 1
        else:
            j += 1


@kernel
def linear_order(left: Floats, right: Floats, reading: Floats, weight: Floats) -> Nodes:
    """The order of reads on one track, all to the left of the head, with the least sum of weighted completion times.

    Files by growing position: left and right end in seconds of travel, seconds of reading, weight. The recurrence of
    the linear tape scheduling problem over detours [a, b], T[a, b, k] with k the weight that waits to the right, kept
    as the lower envelope of lines in k. Exact where reading is as fast as travelling (reading = right - left);
    otherwise the best among orders of nested detours that pass no unread file twice.
    """
    n = left.shape[0]
    slopes, offsets = np.empty((n, n, PIECES_MAX)), np.empty((n, n, PIECES_MAX))
    counts = np.zeros((n, n), np.int32)
    before, total = np.zeros(n + 1), np.sum(weight)
    for i in range(n):
        before[i + 1] = before[i] + weight[i]
    line_slopes, line_offsets = np.empty(2 * PIECES_MAX * (n + 1)), np.empty(2 * PIECES_MAX * (n + 1))
    for b in range(n):
        k_max = total - before[b + 1]
        for a in range(b, -1, -1):
            count = 0
            if a == b:
                detour = right[a] - left[a] + reading[a]
                slopes[a, a, 0], offsets[a, a, 0], counts[a, a] = detour, detour * before[a], 1
                continue
            longer = 2 * (left[b] - right[b - 1]) + right[b] - left[b] + reading[b]
            for piece in range(counts[a, b - 1]):
                slope = slopes[a, b - 1, piece]
                line_slopes[count] = slope + longer
                line_offsets[count] = (
                    offsets[a, b - 1, piece] + slope * weight[b] + longer * before[a]
                    + 2 * (left[b] - right[b - 1]) * weight[b]
                )  # fmt: skip
                count += 1
            for c in range(a + 1, b + 1):
                way = 2 * (right[b] - right[c - 1])
                count = _sum_of(
                    slopes[a, c - 1], offsets[a, c - 1], counts[a, c - 1],
                    slopes[c, b], offsets[c, b], counts[c, b],
                    way, way * before[a], line_slopes, line_offsets, count,
                )  # fmt: skip
            counts[a, b] = _envelope(line_slopes, line_offsets, count, k_max, slopes[a, b], offsets[a, b])
    return _unfolded(left, right, reading, weight, before, slopes, offsets, counts)


@kernel
def _unfolded(
    left: Floats, right: Floats, reading: Floats, weight: Floats, before: Floats,
    slopes: Floats, offsets: Floats, counts: Nodes,
) -> Nodes:  # fmt: skip
    """The order that T[0, n - 1, 0] stands for: the detour of each file that begins one, its skipped files with it."""
    n = left.shape[0]
    order, place = np.empty(n, np.int32), 0
    stack = [(0, n - 1, 0.0)]
    #: the detour in which each file is read: that begun at this file
    detour = np.full(n, -1, np.int32)
    while len(stack) > 0:
        a, b, k = stack.pop()
        detour[a] = a
        if a == b:
            continue
        longer = 2 * (left[b] - right[b - 1]) + right[b] - left[b] + reading[b]
        least = (
            _value(slopes[a, b - 1], offsets[a, b - 1], counts[a, b - 1], k + weight[b])
            + longer * (k + before[a]) + 2 * (left[b] - right[b - 1]) * weight[b]
        )  # fmt: skip
        chosen = -1
        for c in range(a + 1, b + 1):
            value = (
                _value(slopes[a, c - 1], offsets[a, c - 1], counts[a, c - 1], k)
                + _value(slopes[c, b], offsets[c, b], counts[c, b], k)
                + 2 * (right[b] - right[c - 1]) * (k + before[a])
            )
            if value < least:
                least, chosen = value, c
        if chosen < 0:
            detour[b] = a
            stack.append((a, b - 1, k + weight[b]))
        else:
            stack.append((chosen, b, k))
            stack.append((a, chosen - 1, k))
    for a in range(n - 1, -1, -1):
        if detour[a] == a:
            for i in range(a, n):
                if detour[i] == a:
                    order[place] = i
                    place += 1
    return order
