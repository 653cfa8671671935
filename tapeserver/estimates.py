"""When will what waits be on disk, or safe on tape? Pure: the planner's picture in, expected times out; nothing is
decided or changed.

The planner's own order is run forward: drives come free when their mounts have done what is left, the best volume or
pool by the planner's keys *at that moment* is next, and so on until nothing waits. Which drives can, how many a group
may have, and that a long pass gives way are as in the planner. What will arrive later is not known, and neither is what
fails: both make it later than said, so that a number is an expectation and no promise.

Nothing is said of what nobody knows: while the cache is away, and of volumes for which it has no room now, because
that comes when pins end.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from catalog.model import InHand
from tapeserver.drivetimes import DriveTimes
from tapeserver.expectedtimes import Booleans, Estimates, Floats
from tapeserver.pace import IN_LIFE, Pace
from tapeserver.planner.deciding import cache_room
from tapeserver.planner.fits import Fits
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.resting import cache_pause, rest_seconds
from tapeserver.planner.wishes import Recalls, judge_recalls
from tapeserver.poolestimates import Pools, PoolTurn
from tapeserver.runforward import Forward
from tapeserver.runningestimates import Running

Integers = NDArray[np.int64]

#: the keys are looked at anew when this part of what is left has been given its time, or so many a drive
ROUND_PART, ROUND_PER_DRIVE = 0.25, 2
#: and after so many rounds the rest keeps the order it has
ROUNDS_MAX = 16
#: so many get their times before others have a turn
PART = 200
NOTHING_IN_HAND: Mapping[str, InHand] = {}


def estimate(
    picture: Picture,
    policy: Policy,
    now: float,
    in_hand: Mapping[str, InHand] = NOTHING_IN_HAND,
    *,
    claimed_waits: bool = True,
    pace: Pace = IN_LIFE,
) -> Estimates:
    """For every volume and pool that something waits for. 20,000 volumes: an eighth of a second, with limits half."""
    *_, found = estimating(picture, policy, now, in_hand, claimed_waits=claimed_waits, pace=pace)
    return found


def estimating(
    picture: Picture,
    policy: Policy,
    now: float,
    in_hand: Mapping[str, InHand] = NOTHING_IN_HAND,
    *,
    claimed_waits: bool = True,
    pace: Pace = IN_LIFE,
) -> Iterator[Estimates]:
    """The same in parts of some milliseconds: the last one counts. The picture may change between them.

    `in_hand`: by volume, what movers have; the picture does not count it as waiting. `claimed_waits`: but what they
    have to read, it does, and nobody has counted it apart. `pace`: what its drives take.
    """
    found = Estimates.nothing(picture, now)
    running = Running(picture, now, found, pace)
    running.read(None if claimed_waits else in_hand)
    yield found
    writing = running.write(in_hand)
    yield found
    if not running.free_at() or picture.library_state != "up" or cache_pause(picture, policy, now) is not None:
        return
    planned, fits = _without_limits(picture), Fits(picture)
    judged = judge_recalls(planned, policy, now, fits=fits)
    yield found
    slots = _left_to_read(picture, policy, found, fits, judged)
    left = {name: need for name, need in picture.archives.items() if name not in writing}
    pools = Pools(planned, policy, fits, left, running.pool_free_at(), pace)
    reading = float(picture.volumes.costs()[slots].sum()) / (pace.speed or np.inf)
    cut = running.cut(policy.mount_seconds_max, reading + pools.seconds())
    yield found
    forward = Forward(picture, policy, found, slots, _not_before(picture, policy, slots, now), cut, pace)
    yield found
    forward.begin(DriveTimes(picture, policy, fits, now, running.free_at()))
    yield found
    for some in _in_order(planned, policy, fits, forward, pools):
        for first in range(0, len(some), PART):
            forward.come(some[first : first + PART])
            yield found
    yield found


def _in_order(
    picture: Picture, policy: Policy, fits: Fits, forward: Forward, pools: Pools
) -> Iterator[Sequence[int | PoolTurn]]:
    """Volumes, and pools, as the planner would take them, some at a time; time moves on between them."""
    left = forward.slots
    for number in itertools.count():
        left = np.concatenate([left, forward.again])
        pools.come_again(forward.pools_again)
        if not len(left) and not pools:
            if not forward.waits:
                return
            forward.come_at_last()
            continue
        at = forward.first(left, pools.media())
        judged = judge_recalls(picture, policy, at, fits=fits)
        turns = pools.turns(at, judged.drain_seconds)
        forward.writing_seconds = sum(one.seconds for one in turns)
        # What was mounted just now comes behind all others, as long as there are any.
        keys = np.concatenate([judged.key[left], [one.key for one in turns]])
        resting = np.concatenate([judged.resting[left], np.zeros(len(turns), dtype=bool)])
        order, volumes = np.lexsort((-keys, resting)), len(left)
        most = len(order)
        if number < ROUNDS_MAX - 1:
            most = max(ROUND_PER_DRIVE * forward.drives, int(ROUND_PART * len(order)))
        some, rest = order[:most], order[most:]
        pools.taken(turns[one - volumes] for one in some[some >= volumes].tolist())
        yield [int(left[one]) if one < volumes else turns[one - volumes] for one in some.tolist()]
        left = left[rest[rest < volumes]]


def _without_limits(picture: Picture) -> Picture:
    """Those whose groups have all their drives now are judged as if they had not: one comes free for them later."""
    if not picture.limits:
        return picture
    planned = copy.copy(picture)
    planned.limits = {}
    return planned


def _left_to_read(picture: Picture, policy: Policy, found: Estimates, fits: Fits, judged: Recalls) -> Integers:
    """Volumes that something waits for, that are in no drive, that one could read, and for which the cache has room."""
    volumes, count = picture.volumes, len(found.begins)
    left: Booleans = (volumes.files[:count] > 0) & volumes.readable[:count] & np.isinf(found.begins)
    fitting = fits.readable()
    if fitting is not None:
        left &= fitting[:count]
    size = volumes.bytes[:count]
    # What is late begins with the room that there is.
    least = np.where(
        judged.wait[:count] > judged.deadline_seconds,
        size / np.maximum(volumes.files[:count], 1.0),
        np.minimum(size, policy.cache_mount_bytes),
    )
    return np.flatnonzero(left & (least <= cache_room(picture, policy)))


def _not_before(picture: Picture, policy: Policy, slots: Integers, now: float) -> Floats:
    """When each is worth a mount at the latest, if nothing more comes for it; no sooner than its pause is over."""
    volumes, oldest = picture.volumes, picture.volumes.oldest[slots]
    worth = (volumes.files[slots] >= policy.recall_files) | (volumes.bytes[slots] >= policy.recall_bytes)
    hurried = [volumes.find(name) for name in picture.hurried]
    if hurried:
        worth |= np.isin(slots, [slot for slot in hurried if slot is not None])
    latest = np.minimum(volumes.newest[slots] + policy.recall_quiet_seconds, oldest + policy.recall_age_seconds)
    at: Floats = np.maximum(np.where(worth, -np.inf, latest), oldest)
    for volume, end in picture.troubles.items():
        seconds = rest_seconds(end, picture, policy, now)
        slot = volumes.find(volume)
        if seconds is not None and slot is not None:
            at[slots == slot] = np.maximum(at[slots == slot], end.at + seconds)
    return at
