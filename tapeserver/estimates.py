"""When will what waits be on disk? Pure: the planner's picture in, expected times out; nothing is decided or changed.

The planner's own order is run forward: drives come free when their mounts have read what is left, the best volume by
the planner's keys *at that moment* is next, and so on until nothing waits. What will arrive later is not known, and
neither is what fails: both make it later than said, so that a number is an expectation and no promise.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalog.model import ReadingTime
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.volumes import MOVED_BYTES_TYPICAL
from tapeserver.planner.wishes import judge_recalls

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

#: the keys are looked at anew when this part of what is left has been given its time, or so many a drive
ROUND_PART, ROUND_PER_DRIVE = 0.25, 2
#: and after so many rounds the rest keeps the order it has
ROUNDS_MAX = 16
#: a volume's turn comes so much later than by what waits now, for what arrives meanwhile and comes first (measured in
#: the simulation at eight tenths of the drives' time, `python -m bench --only simulator`)
LATER_ARRIVALS = 1.15


@dataclass(frozen=True, slots=True)
class Estimates:
    """By slot of the picture's volumes; inf: no drive can, or it may not be read."""

    now: float
    #: when the first file may come from it: it is in a drive and ready
    begins: Floats
    #: what reading all that waits for it takes from there
    reading: Floats
    files: Floats
    #: it is being read
    mounted: Booleans

    def of(self, slot: int) -> ReadingTime:
        return ReadingTime(
            float(self.begins[slot]), float(self.reading[slot]), float(self.files[slot]), bool(self.mounted[slot])
        )

    def done(self, slot: int, files: int) -> float:
        """When the last of `files` of those that wait there is expected to be read."""
        return self.of(slot).done(files)

    def all_done(self, wanted: Iterable[tuple[int, int]]) -> float:
        """When files on several volumes, as (slot, files), are expected to be there, all of them."""
        return max((self.done(slot, files) for slot, files in wanted), default=self.now)


def estimate(picture: Picture, policy: Policy, now: float) -> Estimates:
    """For every volume that something waits for. A tenth of a second for 20,000 volumes."""
    *_, found = estimating(picture, policy, now)
    return found


def estimating(picture: Picture, policy: Policy, now: float) -> Iterator[Estimates]:
    """The same in parts of some milliseconds: the last one counts. The picture may change between them."""
    volumes, count = picture.volumes, len(picture.volumes)
    begins = np.full(count, np.inf)
    reading = np.zeros(count)
    waiting = volumes.files[:count] > 0
    free = _running(picture, now, begins, reading)
    found = Estimates(now, begins, reading, volumes.files[:count].copy(), np.isfinite(begins))
    yield found
    if not free:
        return
    left = waiting & volumes.readable[:count] & np.isinf(begins)
    slots = np.flatnonzero(left)
    costs, loads, passes = _costs(picture, slots)
    reading[slots] = passes
    collected = _collected(picture, policy, slots)
    place = np.empty(count, dtype=np.int64)
    place[slots] = np.arange(len(slots))
    yield found
    for some in _in_order(picture, policy, slots, free):
        for slot in some:
            row = place[slot]
            at = max(free[0], collected[row])
            begins[slot] = now + LATER_ARRIVALS * (at - now) + loads[row]
            heapq.heapreplace(free, at + costs[row])
        yield found


def _in_order(picture: Picture, policy: Policy, slots: Integers, free: list[float]) -> Iterable[list[int]]:
    """The volumes as the planner would take them, some at a time; `free` moves on between them."""
    left = slots
    for number in range(ROUNDS_MAX):
        if not len(left):
            return
        judged = judge_recalls(picture, policy, free[0])
        # What was mounted just now comes behind all others, as long as there are any.
        order = left[np.lexsort((-judged.key[left], judged.resting[left]))]
        some = max(ROUND_PER_DRIVE * len(free), int(ROUND_PART * len(left)))
        if number == ROUNDS_MAX - 1:
            some = len(left)
        yield order[:some].tolist()
        left = order[some:]


def _running(picture: Picture, now: float, begins: Floats, reading: Floats) -> list[float]:
    """When each drive that works comes free, as a heap; what is mounted gets its times."""
    volumes = picture.volumes
    free = []
    for drive in picture.drives.values():
        if not (drive.up and drive.attached):
            continue
        mount = picture.mounts.get(drive.name)
        if mount is None:
            free.append(now)
            continue
        slot = volumes.slot(mount.volume)
        geometry = volumes.geometry(slot)
        ready = max(now, mount.began_at + geometry.model.robot_seconds + geometry.load_seconds())
        files, size = float(volumes.files[slot]), float(volumes.bytes[slot])
        seconds = geometry.pass_seconds(files, size) if files else 0.0
        if files and not mount.ending:
            begins[slot], reading[slot] = ready, seconds
        free.append(ready + seconds + geometry.unload_seconds(MOVED_BYTES_TYPICAL, geometry.capacity_bytes / 2))
    heapq.heapify(free)
    return free


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
    """When each is worth a mount at the latest, if nothing more comes for it."""
    volumes = picture.volumes
    worth = (volumes.files[slots] >= policy.recall_files) | (volumes.bytes[slots] >= policy.recall_bytes)
    quiet = volumes.newest[slots] + policy.recall_quiet_seconds
    at: list[float] = np.where(worth, -np.inf, quiet).tolist()
    return at
