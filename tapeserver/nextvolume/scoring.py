"""How much each volume is worth a mount for reading: weights, deadlines, one index. Pure, and vectors throughout.

The index of volume v is the sum over bundles b that wait for it of

    w_b / m_b^p x (c + (wait_b / tau) + ...) / (change + pass seconds of v)

see `WAIT_TERMS` (p: `demand.WORTH_POWER`). It wins the mean of the waits and loses their tail, so a deadline stands
above it. tau and the deadline are multiples of the *drain time*: how long the drives would need for all that a share
has waiting, at the part of the drives that is its own. That is about what its youngest would wait if the oldest
always went first; so the deadline says "this much worse than oldest first, no more", whatever the load, the trace and
the drives. Above that stands one absolute age, which bounds every wait whatever arrives (`deciding.plan`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapeserver.nextvolume.picture import Picture
from tapeserver.nextvolume.policy import Policy

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

#: of 1, wait / tau and (wait / tau) ** 2 in the index
WAIT_TERMS = (0.0, 1.0, 0.0)
#: the deadline of who may not be served now
FAR_SECONDS = 1e15


@dataclass(frozen=True, slots=True)
class Scores:
    """By slot of volume; what nothing waits for that counts now has an index of 0."""

    index: Floats
    #: the longest wait over its deadline; above 1: overdue
    lateness: Floats
    #: of the whole queue, all drives together
    drain_seconds: float


def score(picture: Picture, policy: Policy, now: float, eligible: Booleans, drives: int) -> Scores:
    """`eligible`: the volumes, by slot, whose work counts as runnable; `drives`: those that could work."""
    count, demand = len(picture.volumes), picture.demand
    rows, shares = demand.rows, len(picture.shares)
    if count == 0 or rows == 0:
        return Scores(np.zeros(count), np.zeros(count), 0.0)
    volume, share = demand.volume[:rows], demand.share[:rows]
    principal = picture.principals[:shares]
    #: drive-seconds a byte of each volume; a row has its part of the mount by its bytes
    rate = np.where(eligible, picture.volumes.costs() / np.maximum(picture.volumes.bytes[:count], 1.0), 0.0)
    seconds = np.bincount(share, weights=demand.bytes[:rows] * rate[volume], minlength=shares)
    backlog = np.bincount(principal, weights=seconds, minlength=len(picture.usage.principals))
    standing = picture.usage.standing(backlog > 0, policy, now)
    # Nobody is told to wait longer because he has used much: his part is his by right.
    own = (backlog / np.maximum(standing.part, 1e-9) / max(drives, 1))[principal]
    tau = np.maximum(policy.ageing_factor * own, policy.ageing_seconds_min)
    deadline = np.maximum(policy.deadline_factor * own, policy.deadline_seconds_min)
    weight = standing.correction[principal] * picture.rule_weights(policy)
    blocked = full_groups(picture)
    if blocked:
        free = np.array([one.group not in blocked for one in picture.shares])
        weight, deadline = weight * free, np.where(free, deadline, FAR_SECONDS)
    index, lateness = _by_volume(picture, now, weight, tau, deadline)
    return Scores(index, lateness, float(seconds.sum()) / max(drives, 1))


def _by_volume(
    picture: Picture, now: float, weight: Floats, tau: Floats, deadline: Floats
) -> tuple[Floats, Floats]:  # fmt: skip
    count, demand = len(picture.volumes), picture.demand
    rows = demand.rows
    volume, share = demand.volume[:rows], demand.share[:rows]
    age = now - (demand.origin or 0.0)
    counts, first, second = demand.count[:rows], demand.first[:rows], demand.second[:rows]
    constant, linear, square = WAIT_TERMS
    worth = (linear * weight / tau)[share] * (age * counts - first)
    if constant:
        worth += (constant * weight)[share] * counts
    if square:
        worth += (square * weight / tau**2)[share] * (age * (age * counts - 2 * first) + second)
    index = np.bincount(volume, weights=worth, minlength=count) / np.maximum(picture.volumes.costs(), 1e-3)
    lateness = np.full(count, -np.inf)
    np.maximum.at(lateness, volume, (now - demand.oldest[:rows]) / deadline[share])
    return np.maximum(index, 0.0), lateness


def background(picture: Picture, policy: Policy, wait: Floats) -> Booleans | None:
    """Volumes that only Capstan itself waits for, and not for too long yet; None: none can be."""
    own = picture.priorities[: len(picture.shares)] <= policy.background_priority_max
    return None if not own.any() else ~_files_of(picture, ~own) & (wait < policy.background_seconds_max)


def limited(picture: Picture) -> Booleans | None:
    """Volumes where all that waits is of groups with all the drives they may have; None: there is no such group."""
    blocked = full_groups(picture)
    if not blocked:
        return None
    return ~_files_of(picture, np.array([one.group not in blocked for one in picture.shares], dtype=bool))


def _files_of(picture: Picture, shares: Booleans) -> Booleans:
    """Volumes where anything waits for one of these shares."""
    count, demand = len(picture.volumes), picture.demand
    mine = demand.files[: demand.rows] * shares[demand.share[: demand.rows]] if len(shares) else np.zeros(0)
    some: Booleans = np.bincount(demand.volume[: demand.rows], weights=mine, minlength=count) > 0
    return some


def full_groups(picture: Picture) -> frozenset[str]:
    """Groups that read with as many drives as they may."""
    reading: dict[str, int] = {}
    for mount in picture.mounts.values():
        if mount.purpose == "recall":
            reading[mount.group] = reading.get(mount.group, 0) + 1
    return frozenset(
        group
        for group, limit in picture.limits.items()
        if limit.reading is not None and reading.get(group, 0) >= limit.reading
    )
