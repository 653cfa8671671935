"""Capstan's own planner as a policy of the simulation: the same `plan` over the same picture as in production. Pure.

It only tells the picture what happens, in its words, and the engine what was decided; it decides nothing itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from catalog.model import InHand
from tapeserver.estimates import estimate
from tapeserver.planner.deciding import plan
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.views import ArchiveNeed, DriveView, EndView, MountView, PlannedMount, VolumeView
from tapeserver.simulator.choice import Choice
from tapeserver.simulator.parts import Parts, parts_of
from tapeserver.simulator.policy import Listener
from tapeserver.simulator.trace import Trace
from tapeserver.simulator.waiting import Waiting

#: the cache is not simulated: there is room for all
ROOM_BYTES = 2**60
#: requests that belong to no cohort are one each, numbered behind the trace's own
OWN_COHORTS = 2**40


class Planned(Listener):
    """One simulation's picture and what is planned on it."""

    def __init__(self, trace: Trace, drives: int, policy: Policy | None = None, *, name: str = "capstan") -> None:
        self.name = name
        self.policy = policy or Policy()
        self.keep_seconds = self.policy.dismount_delay_seconds
        self.long_mount_seconds = self.policy.mount_seconds_max
        self.picture = Picture("simulated", usage_half_life_seconds=self.policy.usage_half_life_seconds)
        self.picture.cache_room_bytes = ROOM_BYTES
        self.picture.set_drives(DriveView(name=_drive(number), up=True, attached=True) for number in range(drives))
        for volume in trace.volumes:
            self.picture.set_volume(
                VolumeView(
                    name=volume.name,
                    state="active",
                    pool=volume.pool or None,
                    medium=volume.medium,
                    capacity_bytes=volume.capacity_bytes,
                    written_bytes=volume.written_bytes,
                )
            )
        self._numbers = {volume.name: number for number, volume in enumerate(trace.volumes)}
        self._pool_names = list(trace.pools)
        self._pools = {name: number for number, name in enumerate(trace.pools)}
        self._names = [volume.name for volume in trace.volumes]
        self._shares = trace.who
        self._parts: Parts = parts_of(trace)
        self._times = trace.request_times.tolist()
        self._who = trace.request_who.tolist()
        own = [OWN_COHORTS + number for number in range(trace.requests)]
        self._cohorts = [cohort or mine for cohort, mine in zip(trace.request_cohorts.tolist(), own, strict=True)]
        self._drives = {_drive(number): number for number in range(drives)}
        self._epoch = 0
        #: by volume: files and bytes that were last taken to be written to it, when, and until when
        self._written: dict[str, tuple[int, int, float, float]] = {}
        #: by drive: files read for each share in the mount under way, by which its drive-seconds are charged
        self._read: list[dict[int, int]] = [{} for _ in range(drives)]

    def choose(self, waiting: Waiting, free: Sequence[int], now: float) -> Choice:
        decision = plan(self.picture, self.policy, now)
        for one in decision.give_way:
            self._change(one.drive, ending=True)
        return Choice(
            mounts=[(self._drives[one.drive], self._need(one)) for one in decision.mounts],
            give_way=[self._drives[one.drive] for one in decision.give_way],
        )

    def _need(self, mount: PlannedMount) -> int:
        """A pool's volume is the first that can be written, for the planner and for the engine."""
        writes = mount.purpose == "archive" and mount.pool is not None
        return len(self._names) + self._pools[mount.pool or ""] if writes else self._numbers[mount.volume]

    def collects(self, pool: int, waiting: Waiting, writable: Sequence[int]) -> None:
        need = len(self._names) + pool
        files = int(waiting.files[need])
        self.picture.set_archives(
            ArchiveNeed(
                pool=self._pool_names[pool],
                files=files,
                bytes=int(waiting.bytes[need]),
                urgent=0,
                oldest_at=float(waiting.oldest[need]) if files else None,
                newest_at=float(waiting.newest[need]) if files else None,
                writable=[self._names[volume] for volume in writable],
            )
        )

    def wanted(self, part: int, now: float) -> None:
        parts, request = self._parts, self._parts.requests[part]
        self.picture.want(
            self._names[parts.volumes[part]],
            self._shares[self._who[request]],
            self._cohorts[request],
            parts.files[part],
            parts.bytes[part],
            now,
        )

    def served(self, part: int, files: int, size: int, drive: int, now: float) -> None:
        request = self._parts.requests[part]
        name, who = self._names[self._parts.volumes[part]], self._who[request]
        self.picture.unwant(name, self._shares[who], self._cohorts[request], files, size, files * self._times[request])
        read = self._read[drive]
        read[who] = read.get(who, 0) + files

    def mounts(self, drive: int, volume: int, pool: int, now: float) -> None:
        self._epoch += 1
        self._read[drive] = {}
        self.picture.mount_began(
            MountView(
                volume=self._names[volume],
                drive=_drive(drive),
                pool=self._pool_names[pool] if pool >= 0 else None,
                purpose="archive" if pool >= 0 else "recall",
                began_at=now,
                epoch=self._epoch,
            )
        )

    def kept(self, drive: int, volume: int, now: float) -> None:
        self._change(_drive(drive), idle_since=now)

    def resumes(self, drive: int, volume: int, now: float) -> None:
        self._change(_drive(drive), idle_since=None)

    def dismounts(self, drive: int, volume: int, gave_way: bool, now: float) -> None:
        name = _drive(drive)
        mount = self.picture.mounts[name]
        read = self._read[drive]
        files = sum(read.values())
        for who, some in read.items():
            self.picture.charge(self._shares[who], (now - mount.began_at) * some / files, now)
        kind = "gave_way" if gave_way else "well"
        self.picture.mount_ended(
            self._names[volume],
            EndView(drive=name, kind=kind, why="", at=now),  # type: ignore[arg-type]  # one of two literals
        )

    def expected(self, request: int, now: float) -> float:
        parts, volumes = self._parts, self.picture.volumes
        mine = range(parts.offsets[request], parts.offsets[request + 1])
        found = estimate(self.picture, self.policy, now, self._in_hand(now))
        return found.all_done((volumes.slot(self._names[parts.volumes[part]]), parts.files[part]) for part in mine)

    def writes(self, volume: int, files: int, size: int, now: float, until: float) -> None:
        self._written[self._names[volume]] = (files, size, now, until)

    def expected_archive(self, pool: int, now: float) -> float:
        found = estimate(self.picture, self.policy, now, self._in_hand(now)).pools.get(self._pool_names[pool])
        if found is None:
            return math.nan
        at = found.safe(now, urgent=False)
        # Nothing waits: it has been taken already, the last of what has.
        return found.ends if at is None else at

    def _in_hand(self, now: float) -> dict[str, InHand]:
        """As much of what is being written as there is time left for."""
        hands = {}
        for mount in self.picture.mounts.values():
            files, size, began, until = self._written.get(mount.volume, (0, 0, now, now))
            left = (until - now) / (until - began) if until > now else 0.0
            hands[mount.volume] = InHand(files_written=round(files * left), bytes_written=round(size * left))
        return hands

    def _change(self, drive: str, **changes: object) -> None:
        mount = self.picture.mounts[drive]
        self.picture.mount_began(replace(mount, **changes))  # type: ignore[arg-type]  # fields of MountView


def _drive(number: int) -> str:
    return f"drive{number:04d}"
