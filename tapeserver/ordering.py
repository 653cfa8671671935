"""In which order the wanted files of one volume are read, and what that takes. Pure: positions in, an order out.

Two objectives: "total", the time until all are read, and "completion", the sum of the files' weighted completion times
(jobs, ages and priorities as weights). It plans nothing else: which volume, which drive and when is the planner's.

What is found is never worse than the order of blocks, nor than nearest first (up to NODES_MAX files). Up to EXACT_MAX
files it is the best there is; above, constructions are improved by local search with a number of steps fixed by the
number of files: the same input gives the same order. The loops are compiled by numba, where that is installed, once
`warm_up` has been called, which takes tens of seconds the first time on a machine and a second later: a process calls
it at its start, in a thread. Until then, and without numba, numpy finds an order in bounded time that is a good one
(see `tapeserver.orderplain`): at 10,000 files some seconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tapeserver import orderplain
from tapeserver.drivemodel import MODELS, Geometry
from tapeserver.ordernodes import Floats, Nodes, nodes_of

Indices = NDArray[np.int64]
Objective = Literal["total", "completion"]

EXACT_MAX = 7
"""Up to so many files every order is weighed."""

NODES_MAX = 12_000
"""Above, files next to each other are taken together, the smallest gaps first, until so many pieces are left."""

NEIGHBOURS = 10
"""Successors and predecessors of a file that the local search tries."""

STEPS_PER_FILE, STEPS_MAX = 50, 20_000
"""Perturbations of the local search at effort 1."""

LOOKS_MAX = 40_000_000
"""Moves that Or-opt on weighted completion looks at, at effort 1: some seconds."""

REACH = 400
"""How many places a segment is moved by Or-opt on weighted completion."""

LINEAR_MAX = 150
"""Up to so many files on a linear medium the recurrence is solved."""

SEED = 20_000_101


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """`indices` into what was asked, in the order to read; seconds from the head's place until the last is read, of
    which `locate_seconds` are motion; `weighted_seconds` is the sum of weight x completion time."""

    indices: Indices
    seconds: float
    locate_seconds: float
    weighted_seconds: float


class _Compiled:
    """The modules that need numba; empty until `warm_up` is through."""

    kernels: Any = None
    search: Any = None
    weighted: Any = None


def warm_up() -> bool:
    """Compile the loops, or load them from the cache of an earlier process; True when they are ready.

    May be called in a thread, and again. False without numba: then orders stay those of numpy.
    """
    if compiled():
        return True
    try:
        kernels, search, weighted = (
            importlib.import_module(f"tapeserver.{name}") for name in ("orderkernels", "ordersearch", "orderweighted")
        )
    except ImportError:
        return False
    ready = _Compiled()
    ready.kernels, ready.search, ready.weighted = kernels, search, weighted
    for medium_wraps in (1, 4):
        small = _tiny(medium_wraps)
        _exact(ready, small, "total")
        _serpentine(ready, small, effort=1.0)
        _by_completion(ready, small, linear=medium_wraps == 1, effort=1.0)
    _Compiled.kernels, _Compiled.search, _Compiled.weighted = kernels, search, weighted
    return True


def compiled() -> bool:
    """Whether `warm_up` is through and the compiled loops are in use."""
    return _Compiled.weighted is not None


def order_reads(
    geometry: Geometry,
    starts: ArrayLike,
    lengths: ArrayLike,
    *,
    head: int = 0,
    weights: ArrayLike | None = None,
    objective: Objective = "total",
    effort: float = 1.0,
    plain: bool = False,
    home: bool = False,
) -> Order:
    """The order in which to read files that start at `starts` and are `lengths` long (bytes), from `head`.

    `home`: the volume is taken out behind the last, so the rewind from there counts in the objective "total"; it is
    in no figure of the answer. `effort` scales the steps of the search (0: constructions and one descent). `plain`: as
    without numba.
    Raises ValueError when the arrays do not fit each other.
    """
    start, length = np.asarray(starts, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
    weight = None if weights is None else np.asarray(weights, dtype=np.float64)
    if start.ndim != 1 or start.shape != length.shape or (weight is not None and weight.shape != start.shape):
        raise ValueError(f"starts, lengths and weights differ: {start.shape}, {length.shape}")
    if objective not in ("total", "completion"):
        raise ValueError(f"there is no objective {objective!r}: it is total or completion")
    home &= objective == "total"
    pieces = list(_pieces(geometry, start, length))
    if len(pieces) < len(start):
        firsts = np.array([piece[0] for piece in pieces])
        ends = np.array([(start[piece] + length[piece]).max() for piece in pieces])
        summed = np.array([float(len(piece)) if weight is None else weight[piece].sum() for piece in pieces])
        nodes = nodes_of(geometry, start[firsts], ends - start[firsts], head, summed, home=home)
    else:
        nodes = nodes_of(geometry, start, length, head, weight, home=home)
    tour = _tour(nodes, objective, linear=geometry.model.wraps == 1, effort=effort, plain=plain)
    indices = np.concatenate([pieces[node - 1] for node in tour]) if len(tour) else np.empty(0, np.int64)
    return _measured(geometry, start, length, head, weight, indices)


def insert_reads(geometry: Geometry, starts: ArrayLike, lengths: ArrayLike, standing: int, *, head: int = 0) -> Indices:
    """The first `standing` reads stay in the order in which they are given; each other is put, one after the other,
    where it costs least motion. Positions and lengths in bytes as for `order_reads`; indices in the order to read.

    One costs a pass over all: for a few among many it is far cheaper than a new order, and hardly worse.
    """
    start = np.asarray(starts, dtype=np.int64)
    end = start + np.asarray(lengths, dtype=np.int64)
    order = np.arange(standing)
    #: where the head comes from before each read, and at last; where it goes then, and what that way costs
    sources, targets = np.concatenate(([head], end[:standing])), start[:standing]
    ways = geometry.locate_many(sources[:-1], targets)
    for read in range(standing, len(start)):
        there = geometry.locate_many(sources, start[read])
        onward = geometry.locate_many(end[read], targets)
        added = there.copy()
        added[:-1] += onward - ways
        place = int(np.argmin(added))
        order = np.insert(order, place, read)
        sources, targets = np.insert(sources, place + 1, end[read]), np.insert(targets, place, start[read])
        ways[place : place + 1] = onward[place : place + 1]
        ways = np.insert(ways, place, there[place])
    return order


def _tour(nodes: Nodes, objective: Objective, *, linear: bool, effort: float, plain: bool) -> Indices:
    """Node numbers from 1 in the order to read."""
    count = len(nodes.transfer) - 1
    if count <= 1:
        return np.arange(1, count + 1)
    if plain or not compiled():
        return orderplain.exact(nodes, objective) if count <= EXACT_MAX else orderplain.good(nodes, objective)
    if count <= EXACT_MAX:
        return _exact(_Compiled(), nodes, objective)
    if objective == "completion":
        return _by_completion(_Compiled(), nodes, linear=linear, effort=effort)
    return _serpentine(_Compiled(), nodes, effort=effort)


def _exact(use: _Compiled, nodes: Nodes, objective: Objective) -> Indices:
    parts = (nodes.ends, nodes.starts, nodes.terms, nodes.transfer, nodes.weight)
    found: Indices = use.search.exact(*parts, objective == "completion").astype(np.int64)
    return found


def _serpentine(use: _Compiled, nodes: Nodes, *, effort: float) -> Indices:
    """The best of the constructions and of the search from the best two."""
    parts = (nodes.ends, nodes.starts, nodes.terms)
    count = len(nodes.transfer) - 1
    near = use.kernels.neighbours(*parts, min(NEIGHBOURS, count))
    tours = [
        orderplain.closed(orderplain.block_order(nodes)),
        orderplain.closed(orderplain.two_queue_scan(nodes)),
        use.kernels.nearest_first(*parts, near[0]),
        use.kernels.greatest_loss_first(*parts, *near),
    ]
    tours.sort(key=lambda tour: use.search.length(*parts, tour))
    steps = round(effort * min(STEPS_PER_FILE * count, STEPS_MAX))
    # The second best often leads to another valley; one of them is worth the many steps.
    second = use.search.improved(*parts, *near, tours[1], 0, SEED)
    first = use.search.improved(*parts, *near, tours[0], 0, SEED)
    better = min((first, second), key=lambda tour: use.search.length(*parts, tour))
    found: Indices = use.search.improved(*parts, *near, better, steps, SEED)[1:-1].astype(np.int64)
    return found


def _by_completion(use: _Compiled, nodes: Nodes, *, linear: bool, effort: float) -> Indices:
    parts = (nodes.ends, nodes.starts, nodes.terms)
    count = len(nodes.transfer) - 1
    near = use.kernels.neighbours(*parts, min(NEIGHBOURS, count))
    tours = [
        orderplain.closed(orderplain.block_order(nodes)),
        orderplain.closed(orderplain.two_queue_scan(nodes)),
        orderplain.closed(orderplain.heaviest_first(nodes)),
        use.kernels.nearest_first(*parts, near[0]),
        use.weighted.dearest_first(*parts, nodes.transfer, nodes.weight),
        orderplain.closed(_serpentine(use, nodes, effort=0.0)),
    ]
    if linear and count <= LINEAR_MAX:
        tours += [orderplain.closed(order) for order in _linear(use, nodes)]
    tours.sort(key=lambda tour: orderplain.weighted_seconds(nodes, tour[1:-1]))
    looks = max(1, round(effort * LOOKS_MAX / 3))
    found = [
        use.weighted.weighted_descent(*parts, nodes.transfer, nodes.weight, tour, REACH, looks) for tour in tours[:3]
    ]
    best: Indices = min((tour[1:-1] for tour in found), key=lambda tour: orderplain.weighted_seconds(nodes, tour))
    return best.astype(np.int64)


def _linear(use: _Compiled, nodes: Nodes) -> Iterator[Indices]:
    """From the recurrence, which takes the head to be behind all files: all of them so, or only those behind it."""
    place, ends = nodes.starts[1:-1, 2], nodes.ends[1:, 2]
    by_place = np.argsort(place, kind="stable")

    def solved(which: Indices) -> Indices:
        if not len(which):
            return which
        reading = nodes.transfer[which + 1] + nodes.terms[0]
        order: Indices = use.weighted.linear_order(place[which], ends[which], reading, nodes.weight[which + 1])
        return which[order]

    ahead = place[by_place] >= nodes.ends[0, 2]
    yield solved(by_place) + 1
    yield np.concatenate((by_place[ahead], solved(by_place[~ahead]))) + 1
    yield np.concatenate((solved(by_place[~ahead]), by_place[ahead])) + 1


def _pieces(geometry: Geometry, start: Indices, length: Indices) -> Iterator[Indices]:
    """One piece for each file; above NODES_MAX neighbours on a wrap are taken together, the smallest gaps first."""
    count = len(start)
    if count <= NODES_MAX:
        yield from np.arange(count).reshape(count, 1)
        return
    by_place = np.lexsort((np.arange(count), start))
    gaps = start[by_place[1:]] - (start + length)[by_place[:-1]]
    wraps, _ = geometry.places(start[by_place])
    gaps = np.where(wraps[1:] == wraps[:-1], gaps, np.iinfo(np.int64).max)
    cut = np.ones(count - 1, dtype=np.bool_)
    cut[np.argsort(gaps, kind="stable")[: count - NODES_MAX]] = False
    yield from np.split(by_place, np.flatnonzero(cut) + 1)


def _measured(
    geometry: Geometry, start: Indices, length: Indices, head: int, weight: Floats | None, indices: Indices
) -> Order:
    came_from = np.concatenate(([head], (start + length)[indices][:-1])) if len(indices) else np.empty(0)
    locates = geometry.locate_many(came_from, start[indices])
    done = np.cumsum(locates + length[indices] / geometry.model.native_rate)
    weights = 1.0 if weight is None else weight[indices]
    seconds = float(done[-1]) if len(done) else 0.0
    return Order(indices, seconds, float(locates.sum()), float((done * weights).sum()))


def _tiny(wraps: int) -> Nodes:
    """Enough for every loop to be run once."""
    geometry = Geometry(replace(MODELS["LTO-7"], wraps=wraps, bands=1, capacity_bytes=1000))
    starts = np.array([900, 10, 400, 300, 620, 55, 700, 130, 810])
    return nodes_of(geometry, starts, np.full(9, 5), 0, None)
