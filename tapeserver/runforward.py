"""Gives the drives of a run forward to who comes next, and notes when that is. Pure.

Who comes next is told (`tapeserver.estimates`); which drives come free when is asked (`tapeserver.drivetimes`). What
still collects, or pauses, comes later, and no drive is kept for it. What takes longer than mounts may last while others
wait gives way, and comes again.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tapeserver.drivetimes import DriveTimes, Turn
from tapeserver.expectedtimes import Estimates, Floats
from tapeserver.pace import IN_LIFE, Pace
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.poolestimates import LATER_ARRIVALS, PoolTurn, writing_time

Integers = NDArray[np.int64]

#: what is left of a pass that gave way so often is taken to be read in one go
CUTS_MAX = 8
#: with mounts that may last no longer than this, none is taken to give way: they hardly read anything
CUT_SECONDS_MIN = 300.0
#: slot -> when its mount gives way, and how long what is left takes then
Cut = Mapping[int, tuple[float, float]]


class Forward:
    """`slots` are to be read, and behind them what is left of mounts that are under way and give way."""

    def __init__(
        self,
        picture: Picture,
        policy: Policy,
        found: Estimates,
        slots: Integers,
        not_before: Floats,
        cut: Cut,
        pace: Pace = IN_LIFE,
    ) -> None:
        self._picture, self._policy, self._found = picture, policy, found
        self.slots: Integers = np.concatenate([slots, np.fromiter(cut, dtype=np.int64, count=len(cut))])
        times = pace.reading(picture.volumes, self.slots)
        found.reading[slots] = times.passes[: len(slots)]
        self._row = {slot: row for row, slot in enumerate(self.slots.tolist())}
        self._loads, self._left = times.ready.tolist(), times.passes.tolist()
        self._changes = (times.ready + times.unload).tolist()
        self._not_before = not_before.tolist()
        for (at, left), row in zip(cut.values(), range(len(slots), len(self.slots)), strict=True):
            self._left[row] = left
            self._not_before.append(at + policy.remount_seconds)
        volumes = picture.volumes
        self._media = [volumes.media[number] for number in volumes.medium[self.slots].tolist()]
        self._cuts = Counter[int | str]()
        #: seconds of drives that are still wanted, by medium to read and in all to write
        self._reading_seconds = Counter[str]()
        for medium, change, seconds in zip(self._media, self._changes, self._left, strict=True):
            self._reading_seconds[medium] += change + seconds
        self.writing_seconds = 0.0
        #: when they are to come, in the order in which it was their turn
        self._early: list[tuple[float, int, int | PoolTurn]] = []
        self._number = 0
        self._again: list[int] = []
        self._pools_again: list[PoolTurn] = []

    def begin(self, times: DriveTimes) -> None:
        self._times = times
        self.drives = len(times)

    def first(self, left: Integers, pools: Iterable[str]) -> float:
        """When the next drive comes free for any of these."""
        volumes = self._picture.volumes
        reads = {("recall", volumes.media[number]) for number in np.unique(volumes.medium[left]).tolist()}
        self._times.look_at(reads | {("archive", medium) for medium in pools})
        return self._times.first

    @property
    def waits(self) -> bool:
        """Whether anybody came too early."""
        return bool(self._early)

    @property
    def again(self) -> Integers:
        """Volumes that gave way since this was asked last."""
        again, self._again = np.array(self._again, dtype=np.int64), []
        return again

    @property
    def pools_again(self) -> list[PoolTurn]:
        again, self._pools_again = self._pools_again, []
        return again

    def come(self, some: Sequence[int | PoolTurn]) -> None:
        """It is their turn, in this order."""
        early, times = self._early, self._times
        for one in some:
            at = one.worth_at if isinstance(one, PoolTurn) else self._not_before[self._row[one]]
            if at > times.first:
                self._number += 1
                heapq.heappush(early, (at, self._number, one))
            else:
                self._serve(one)
            while early and early[0][0] <= times.first:
                self._serve(heapq.heappop(early)[-1])

    def come_at_last(self) -> None:
        while self._early:
            self._serve(heapq.heappop(self._early)[-1])

    def _serve(self, one: int | PoolTurn) -> None:
        if isinstance(one, PoolTurn):
            self._write(one)
        else:
            self._read(one)

    def _read(self, slot: int) -> None:
        found, row = self._found, self._row[slot]
        medium, change, load, left = self._media[row], self._changes[row], self._loads[row], self._left[row]
        self._reading_seconds[medium] -= change + left
        drive = self._times.take("recall", medium, slot)
        if drive is None:
            return
        collected = self._not_before[row]
        start = max(drive.at, collected)
        begins = max(self._later(drive.at), collected) + load
        some = left
        if load + left > self._policy.mount_seconds_max and self._gives_way(drive, "recall", medium, slot, start):
            some = self._policy.mount_seconds_max - load
            self._left[row] = left - some
            self._not_before[row] = start + self._policy.mount_seconds_max + self._policy.remount_seconds
            self._reading_seconds[medium] += change + left - some
            self._again.append(slot)
        drive.until(start + change + some)
        if np.isinf(found.begins[slot]):
            found.begins[slot] = begins
        else:
            # It was read in parts: all of it, with what lies between them.
            found.reading[slot] = begins + left - found.begins[slot] - found.in_hand[slot]

    def _write(self, one: PoolTurn) -> None:
        """The next drives are its own."""
        writing, begins, rest = one.writing_seconds, one.begins, 0.0
        for number in range(one.volumes):
            drive = self._times.take("archive", one.medium, None, one.need.groups)
            if drive is None:
                return
            start = max(drive.at, one.worth_at)
            if not number:
                at = max(self._later(drive.at), one.worth_at) + one.load_seconds
                begins = at if begins is None else begins
                long = one.load_seconds + writing > self._policy.mount_seconds_max
                if long and self._gives_way(drive, "archive", one.medium, one.need.pool, start):
                    writing = self._policy.mount_seconds_max - one.load_seconds
                    rest = one.writing_seconds - writing
                    gave_way = start + self._policy.mount_seconds_max
                    self._pools_again.append(replace(one, writing_seconds=rest, worth_at=gave_way, begins=begins))
            drive.until(start + one.change_seconds + writing)
        if begins is not None:
            self._found.pools[one.need.pool] = writing_time(one.need, begins, 0.0, at + writing + rest - begins)

    def _later(self, at: float) -> float:
        return self._found.now + LATER_ARRIVALS * (at - self._found.now)

    def _gives_way(self, drive: Turn, purpose: str, medium: str, who: int | str, start: float) -> bool:
        """Whether others will wait for its drive when it has had it for as long as it may."""
        at = start + self._policy.mount_seconds_max
        if self._cuts[who] >= CUTS_MAX or self._policy.mount_seconds_max <= CUT_SECONDS_MIN:
            return False
        wanted = self.writing_seconds + sum(
            seconds for other, seconds in self._reading_seconds.items() if self._times.fits(drive, "recall", other)
        )
        if wanted <= self._times.idle_seconds(purpose, medium, at):
            return False
        self._cuts[who] += 1
        return True
