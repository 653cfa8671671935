"""When will what waits be on disk, or safe on tape? Pure: the planner's picture in, expected times out; nothing is
decided or changed.

The planner's own order is run forward: drives come free when their mounts have done what is left, the best volume or
pool by the planner's keys *at that moment* is next, and so on until nothing waits. What will arrive later is not known,
and neither is what fails: both make it later than said, so that a number is an expectation and no promise. Limits of
drives for groups, and for writing, are not looked at: whom they hold up waits longer than is said.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from catalog.model import InHand, ReadingTime, WritingTime
from tapeserver.planner.fits import Fits
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.views import MountView
from tapeserver.planner.volumes import MOVED_BYTES_TYPICAL, change_seconds
from tapeserver.planner.wishes import judge_recalls
from tapeserver.poolestimates import LATER_ARRIVALS, Pools, PoolTurn, geometry_to_write, writing_seconds, writing_time

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

#: the keys are looked at anew when this part of what is left has been given its time, or so many a drive
ROUND_PART, ROUND_PER_DRIVE = 0.25, 2
#: and after so many rounds the rest keeps the order it has
ROUNDS_MAX = 16
#: of a volume that is read so many files count as in the mover's hand, when nobody has counted them: late arrivals come
#: behind these
HANDED_OUT_FILES = 16
#: reads that a mover is given take no longer together, as far as is known of the medium
HAND_SECONDS_MAX = 300.0
NOTHING_IN_HAND: Mapping[str, InHand] = {}


@dataclass(frozen=True, slots=True)
class Estimates:
    """By slot of the picture's volumes; inf: no drive can, or it may not be read. Archives by pool; those that are
    missing cannot be written now, or nobody knows when."""

    now: float
    #: when the first file may come from it: it is in a drive and ready
    begins: Floats
    #: what reading all that waits for it takes from there, behind what is in hand
    reading: Floats
    files: Floats
    #: it is being read
    mounted: Booleans
    #: what its mover has: seconds, and files
    in_hand: Floats
    in_hand_files: Floats
    pools: dict[str, WritingTime] = field(default_factory=dict)

    def of(self, slot: int) -> ReadingTime:
        return ReadingTime(
            float(self.begins[slot]),
            float(self.reading[slot]),
            float(self.files[slot]),
            bool(self.mounted[slot]),
            float(self.in_hand[slot]),
            float(self.in_hand_files[slot]),
        )

    def done(self, slot: int, files: int) -> float:
        """When the last of `files` of those that wait there is expected to be read."""
        return self.of(slot).done(files)

    def all_done(self, wanted: Iterable[tuple[int, int]]) -> float:
        """When files on several volumes, as (slot, files), are expected to be there, all of them."""
        return max((self.done(slot, files) for slot, files in wanted), default=self.now)


def estimate(
    picture: Picture,
    policy: Policy,
    now: float,
    in_hand: Mapping[str, InHand] = NOTHING_IN_HAND,
    *,
    claimed_waits: bool = True,
) -> Estimates:
    """For every volume and pool that something waits for. A tenth of a second for 20,000 volumes."""
    *_, found = estimating(picture, policy, now, in_hand, claimed_waits=claimed_waits)
    return found


def estimating(
    picture: Picture,
    policy: Policy,
    now: float,
    in_hand: Mapping[str, InHand] = NOTHING_IN_HAND,
    *,
    claimed_waits: bool = True,
) -> Iterator[Estimates]:
    """The same in parts of some milliseconds: the last one counts. The picture may change between them.

    `in_hand`: by volume, what movers have; the picture does not count it as waiting. `claimed_waits`: but what they
    have to read, it does, and nobody has counted it apart.
    """
    volumes, count = picture.volumes, len(picture.volumes)
    found = Estimates(
        now=now,
        begins=np.full(count, np.inf),
        reading=np.zeros(count),
        files=volumes.files[:count].copy(),
        mounted=np.zeros(count, dtype=bool),
        in_hand=np.zeros(count),
        in_hand_files=np.zeros(count),
    )
    running = _Running(picture, now, found)
    running.read(None if claimed_waits else in_hand)
    writing = running.write(in_hand)
    free, pool_free_at = running.free_at(), running.pool_free_at()
    yield found
    if not free or picture.library_state != "up":
        return
    slots = _left_to_read(picture, found)
    turns = _Turns(picture, policy, slots, found, free)
    left = {name: need for name, need in picture.archives.items() if name not in writing}
    pools = Pools(picture, policy, left, pool_free_at)
    yield found
    for some in _in_order(picture, policy, slots, pools, free):
        turns.come(some)
        yield found
    turns.come_at_last()
    yield found


class _Turns:
    """Gives the drives to who comes next; what still collects, or pauses, then comes later: no drive is kept for it."""

    def __init__(self, picture: Picture, policy: Policy, slots: Integers, found: Estimates, free: list[float]) -> None:
        self._found, self._free = found, free
        self._costs, self._loads, passes = _costs(picture, slots)
        found.reading[slots] = passes
        self._collected = _collected(picture, policy, slots)
        self._place = np.empty(len(found.begins), dtype=np.int64)
        self._place[slots] = np.arange(len(slots))
        #: when they are to come, in the order in which it was their turn
        self._early: list[tuple[float, int, int | PoolTurn]] = []
        self._number = 0

    def come(self, some: Sequence[int | PoolTurn]) -> None:
        free, early, collected, place = self._free, self._early, self._collected, self._place
        for one in some:
            at = one.worth_at if isinstance(one, PoolTurn) else collected[place[one]]
            if at > free[0]:
                self._number += 1
                heapq.heappush(early, (at, self._number, one))
            else:
                self._serve(one)
            while early and early[0][0] <= free[0]:
                self._serve(heapq.heappop(early)[-1])

    def come_at_last(self) -> None:
        while self._early:
            self._serve(heapq.heappop(self._early)[-1])

    def _serve(self, one: int | PoolTurn) -> None:
        found, free = self._found, self._free
        if isinstance(one, PoolTurn):
            found.pools[one.need.pool] = one.times(found.now, free)
            return
        row, at = self._place[one], free[0]
        collected = self._collected[row]
        found.begins[one] = max(found.now + LATER_ARRIVALS * (at - found.now), collected) + self._loads[row]
        heapq.heapreplace(free, max(at, collected) + self._costs[row])


def _in_order(
    picture: Picture, policy: Policy, slots: Integers, pools: Pools, free: list[float]
) -> Iterator[Sequence[int | PoolTurn]]:
    """Volumes, and pools, as the planner would take them, some at a time; `free` moves on between them."""
    left = slots
    for number in range(ROUNDS_MAX):
        if not len(left) and not pools:
            return
        judged = judge_recalls(picture, policy, free[0])
        turns = pools.turns(free[0], judged.drain_seconds)
        # What was mounted just now comes behind all others, as long as there are any.
        keys = np.concatenate([judged.key[left], [one.key for one in turns]])
        resting = np.concatenate([judged.resting[left], np.zeros(len(turns), dtype=bool)])
        order, volumes = np.lexsort((-keys, resting)), len(left)
        most = len(order)
        if number < ROUNDS_MAX - 1:
            most = max(ROUND_PER_DRIVE * len(free), int(ROUND_PART * len(order)))
        some, rest = order[:most], order[most:]
        yield [int(left[one]) if one < volumes else turns[one - volumes] for one in some.tolist()]
        pools.taken(turns[one - volumes] for one in some[some >= volumes].tolist())
        left = left[rest[rest < volumes]]


# ------------------------------------------------------------------ what is mounted


class _Running:
    """The mounts that are under way: what they have to do still, and when their drives come free of it."""

    def __init__(self, picture: Picture, now: float, found: Estimates) -> None:
        self._picture, self._now, self._found = picture, now, found
        #: by drive: the volume is ready, and it has done what is left
        self._ready: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._drives = [one.name for one in picture.drives.values() if one.up and one.attached]
        self._mounts = [picture.mounts[name] for name in self._drives if name in picture.mounts]

    def read(self, in_hand: Mapping[str, InHand] | None) -> None:
        """What is mounted gets its times."""
        volumes, found = self._picture.volumes, self._found
        for mount in self._mounts:
            slot = volumes.slot(mount.volume)
            geometry = volumes.geometry(slot)
            ready = max(self._now, mount.began_at + geometry.model.robot_seconds + geometry.load_seconds())
            files = float(volumes.files[slot])
            # As before it was mounted: nobody is to be told something else only because it begins.
            seconds = float(volumes.costs()[slot]) - change_seconds(geometry) if files else 0.0
            if in_hand is None:
                handed = min(float(HANDED_OUT_FILES), files)
                hand_seconds = seconds * handed / files if files else 0.0
                files, seconds = files - handed, seconds - hand_seconds
            else:
                hand = in_hand.get(mount.volume, InHand())
                handed, hand_seconds = float(hand.files_read), 0.0
                if handed:
                    searched = 1 + volumes.scatter * (handed - 1)
                    hand_seconds = min(geometry.pass_seconds(searched, hand.bytes_read), HAND_SECONDS_MAX)
            if (files or handed) and not mount.ending:
                found.begins[slot], found.reading[slot], found.files[slot] = ready, seconds, files
                found.in_hand[slot], found.in_hand_files[slot] = hand_seconds, handed
                found.mounted[slot] = True
            # What is on its way out reads no more than its mover has: the rest waits for another mount.
            more = 0.0 if mount.ending else seconds
            self._ready[mount.drive], self._done[mount.drive] = ready, ready + hand_seconds + more

    def write(self, in_hand: Mapping[str, InHand]) -> set[str]:
        """Pools that are being filled get their times; which they are."""
        picture = self._picture
        filling: dict[str, list[MountView]] = {}
        for mount in self._mounts:
            if mount.purpose == "archive" and mount.pool is not None and not mount.ending and not mount.full:
                filling.setdefault(mount.pool, []).append(mount)
        for pool, mounts in filling.items():
            need = picture.archives.get(pool)
            hands = [in_hand.get(mount.volume, InHand()) for mount in mounts]
            geometries = [geometry_to_write(picture, mount.volume) for mount in mounts]
            mine = [
                writing_seconds(geometry, hand.files_written, hand.bytes_written)
                for hand, geometry in zip(hands, geometries, strict=True)
            ]
            whole = 0.0
            if need is not None and need.oldest_at is not None:
                whole = writing_seconds(geometries[0], need.files, need.bytes) / len(mounts)
            for mount, seconds in zip(mounts, mine, strict=True):
                self._done[mount.drive] += seconds + whole
            if whole or any(mine):
                begins = min(self._ready[mount.drive] for mount in mounts)
                self._found.pools[pool] = writing_time(need, begins, sum(mine) / len(mine), whole)
        return set(filling)

    def free_at(self) -> list[float]:
        """When each drive that works comes free, as a heap."""
        free = [self._free_of(name) for name in self._drives]
        heapq.heapify(free)
        return free

    def pool_free_at(self) -> dict[str, float]:
        """By pool, of which a volume is in a drive and takes nothing: when the first of these is out of it."""
        found: dict[str, float] = {}
        for mount in self._mounts:
            if mount.pool is not None:
                found[mount.pool] = min(self._free_of(mount.drive), found.get(mount.pool, np.inf))
        return found

    def _free_of(self, drive: str) -> float:
        mount = self._picture.mounts.get(drive)
        if mount is None or drive not in self._done:
            return self._now
        volumes = self._picture.volumes
        return self._done[drive] + volumes.unload_seconds(volumes.slot(mount.volume))


# ------------------------------------------------------------------ what is to be read


def _left_to_read(picture: Picture, found: Estimates) -> Integers:
    """Volumes that something waits for, that are in no drive, and that one could read."""
    volumes, count = picture.volumes, len(found.begins)
    left = (volumes.files[:count] > 0) & volumes.readable[:count] & np.isinf(found.begins)
    fitting = Fits(picture).readable()
    return np.flatnonzero(left if fitting is None else left & fitting[:count])


def _costs(picture: Picture, slots: Integers) -> tuple[list[float], list[float], Floats]:
    """Of each: seconds of the whole mount, until it is ready, and of its pass."""
    volumes = picture.volumes
    costs = volumes.costs()[slots]
    loads, changes = np.zeros(len(slots)), np.zeros(len(slots))
    numbers = np.array([id(volumes.geometry(int(slot))) for slot in slots])
    for number in np.unique(numbers).tolist():
        some = numbers == number
        geometry = volumes.geometry(int(slots[some][0]))
        loads[some] = geometry.model.robot_seconds + geometry.load_seconds()
        changes[some] = geometry.change_seconds(MOVED_BYTES_TYPICAL, geometry.capacity_bytes / 2)
    return costs.tolist(), loads.tolist(), costs - changes


def _collected(picture: Picture, policy: Policy, slots: Integers) -> list[float]:
    """When each is worth a mount at the latest, if nothing more comes for it; no sooner than its pause is over."""
    volumes, oldest = picture.volumes, picture.volumes.oldest[slots]
    worth = (volumes.files[slots] >= policy.recall_files) | (volumes.bytes[slots] >= policy.recall_bytes)
    latest = np.minimum(volumes.newest[slots] + policy.recall_quiet_seconds, oldest + policy.recall_age_seconds)
    at: list[float] = np.maximum(np.where(worth, -np.inf, latest), oldest).tolist()
    return at
