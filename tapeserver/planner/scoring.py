"""How much each volume is worth a mount for reading: weights, one index, a deadline. Pure, and vectors throughout.

The index of volume v is the sum over the cohorts b that wait for it, m_b being the volumes that b still misses, of

    w_b / m_b^2 x (c + wait_b) / (change + pass seconds of v)

so it prefers what ends many jobs in little drive time, and ages. Waits count by themselves; 1 and their squares gave
the same mean of the jobs' waits, and a longer tail (docs/design/0014-which-volume-next.md). Fair share is in w.

The index wins the mean and loses the tail, so it grows by the fourth power of the oldest wait over a deadline, for long
passes as for short ones. The deadline is a multiple of the *drain time*, in which the drives would have read all that
waits now. That is about what the youngest would wait if the oldest always went first; so the deadline says "this much
worse than oldest first and hardly more", whatever the load, the trace and the drives. Where the oldest went first from
the deadline on, mean and p95 were longer.
Above that stands one absolute age, which bounds every wait whatever arrives (`deciding.plan`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy

#: of the wait over the deadline. With 2 the longest waits were a third longer; 8 is nearly a step, and p95 was longer
LATE_POWER = 4
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """By slot of volume; what nothing waits for that counts now has an index of 0."""

    index: Floats
    #: who has waited so long counts twice, and soon far more
    deadline_seconds: float
    #: of the whole queue, all drives together
    drain_seconds: float
    #: change and pass seconds over their mean where anything waits
    costs: Floats


def score(picture: Picture, policy: Policy, now: float, eligible: Booleans, drives: int) -> Scores:
    """`eligible`: the volumes, by slot, whose work counts as runnable; `drives`: those that could work."""
    count, demand, costs = len(picture.volumes), picture.demand, picture.volumes.costs()
    rows, shares = demand.rows, len(picture.shares)
    drain = float(costs[eligible].sum()) / max(drives, 1)
    deadline = deadline_seconds(policy, drain)
    if count == 0 or rows == 0:
        return Scores(np.zeros(count), deadline, drain, np.ones(count))
    volume, share = demand.volume[:rows], demand.share[:rows]
    weight = picture.rule_weights(policy) * _corrections(picture, policy, now, eligible, drain)
    blocked = full_groups(picture)
    if blocked:
        weight *= np.array([one.group not in blocked for one in picture.shares])
    age = now - (demand.origin or 0.0) + max(policy.ageing_factor * drain, policy.ageing_seconds_min)
    worth = weight[share] * (age * demand.count[:rows] - demand.first[:rows]) if shares else np.zeros(0)
    index = np.bincount(volume, weights=worth, minlength=count) / np.maximum(costs, 1e-3)
    runnable = max(int(np.count_nonzero(eligible)), 1)
    mean = drain * max(drives, 1) / runnable
    return Scores(np.maximum(index, 0.0), deadline, drain, costs / max(mean, 1e-3))


def deadline_seconds(policy: Policy, drain_seconds: float) -> float:
    return max(policy.deadline_factor * drain_seconds, policy.deadline_seconds_min)


def urgency(wait: Floats, deadline_seconds: float, cost: Floats) -> Floats:
    """How many times as much it counts for having waited so long; `cost` is what it costs over the mean of all.

    A long pass is late as soon as a short one: what lateness adds is not divided by what the pass costs.
    """
    late: Floats = (np.maximum(wait, 0.0) / deadline_seconds) ** LATE_POWER
    return 1.0 + late * np.maximum(cost, 1.0)


def _corrections(picture: Picture, policy: Policy, now: float, eligible: Booleans, drain_seconds: float) -> Floats:
    """By share: how much more or less it counts than its part, for what it has used."""
    shares, demand = len(picture.shares), picture.demand
    if not picture.usage.used:
        return np.ones(shares)
    rows = demand.rows
    waiting = eligible[demand.volume[:rows]] & (demand.files[:rows] > 0)
    runnable = np.zeros(len(picture.usage.principals), dtype=bool)
    runnable[picture.principals[_which(demand.share[:rows][waiting], shares)]] = True
    corrections: Floats = picture.usage.corrections(runnable, policy, now, drain_seconds)[picture.principals[:shares]]
    return corrections


def _which(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Those of 0 .. count - 1 that occur."""
    occurs = np.zeros(count, dtype=bool)
    occurs[numbers] = True
    return np.flatnonzero(occurs)


def background(picture: Picture, policy: Policy, wait: Floats) -> Booleans | None:
    """Volumes that only Capstan itself waits for, and not for too long yet; None: none can be."""
    own = picture.priorities[: len(picture.shares)] <= policy.background_priority_max
    return None if not own.any() else ~_files_of(picture, ~own) & (wait < policy.background_seconds_max)


def limited(picture: Picture, blocked: frozenset[str] | None = None) -> Booleans | None:
    """Volumes where all that waits is of groups with all the drives they may have; None: there is no such group."""
    blocked = full_groups(picture) if blocked is None else blocked
    if not blocked:
        return None
    return ~_files_of(picture, np.array([one.group not in blocked for one in picture.shares], dtype=bool))


def _files_of(picture: Picture, shares: Booleans) -> Booleans:
    """Volumes where anything waits for one of these shares."""
    count, demand = len(picture.volumes), picture.demand
    mine = demand.files[: demand.rows] * shares[demand.share[: demand.rows]] if len(shares) else np.zeros(0)
    some: Booleans = np.bincount(demand.volume[: demand.rows], weights=mine, minlength=count) > 0
    return some


def full_groups(picture: Picture, reading: Mapping[str, int] | None = None) -> frozenset[str]:
    """Groups that read with as many drives as they may. `reading`: drives by group; None: those of the mounts."""
    if reading is None:
        reading = Counter(mount.group for mount in picture.mounts.values() if mount.purpose == "recall")
    return frozenset(
        group
        for group, limit in picture.limits.items()
        if limit.reading is not None and reading.get(group, 0) >= limit.reading
    )
