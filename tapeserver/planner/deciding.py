"""Which volume next, in which drive: `plan`. Pure: a picture in, a decision out, the same one for the same picture.

It looks at the whole picture: every free drive, reads, writes and what volumes want for their own sake by one number
(`wishes.Tier`), room in the cache, limits of groups. A volume in a drive costs nothing to change to: its session takes
what arrives, and it stays while nobody else wants the drive. What is not mounted is explained apart (`explaining`).

**No starvation.** Let a volume be readable, its group below its limit, the cache with room, n drives working that fit
it. Whatever arrives, if V volumes and pools are wanted meanwhile, it is mounted before it has waited

    max(deadline_seconds_max, remount_seconds) + (ceil(V / n) + 1) * mount

"mount" being the longest one with its change: mount_seconds_max and what a session takes to end when asked. For from
the absolute deadline on only older ones come first, and each of these is mounted once: what it wants afterwards is
younger. What an operator wants now, and volumes whose own mounts fail or gave way, are outside of it.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tapeserver.planner.fits import Fits, doing
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.scoring import Booleans
from tapeserver.planner.views import Decision, Explanation, GiveWay, MountView, PlannedMount
from tapeserver.planner.wishes import (
    Recalls,
    Tier,
    Wish,
    is_leaving,
    judge_archive,
    judge_media,
    judge_recalls,
    recall_wish,
)

#: so many of the best are looked at for each free drive before all are put in order
LOOK_AHEAD, LOOK_AHEAD_MIN = 2, 32


@dataclass(slots=True)
class Outcome:
    """A decision with all that explains it."""

    recalls: Recalls
    fits: Fits
    wishes: Sequence[Wish]
    explained: dict[tuple[str, str], Explanation]
    mounts: list[PlannedMount] = field(default_factory=list)
    give_way: list[GiveWay] = field(default_factory=list)
    #: wishes that found no drive, by volume; of recalls only the first of them
    waiting: dict[str, Wish] = field(default_factory=dict)
    #: volumes that rest, and would be mounted if a drive were empty
    resting: int = 0
    #: (kind, name) -> bytes missing in the cache
    short: dict[tuple[str, str], float] = field(default_factory=dict)
    #: (kind, name) -> groups that have all the drives they may
    limited: dict[tuple[str, str], str] = field(default_factory=dict)
    #: bytes that reads may still bring to the cache
    room_bytes: float = 0.0
    #: why reads that were not looked at would have found nothing: no room, or all the drives that may read do
    unread: Literal["", "short", "limited"] = ""
    #: drives left free
    free: list[str] = field(default_factory=list)


def plan(picture: Picture, policy: Policy, now: float) -> Decision:
    """The mounts to begin now, and those that are to end."""
    outcome = decide(picture, policy, now)
    return Decision(mounts=outcome.mounts, give_way=outcome.give_way)


def decide(picture: Picture, policy: Policy, now: float) -> Outcome:
    """As `plan`, with what it was based on."""
    free = sorted(
        drive.name
        for drive in picture.drives.values()
        if drive.up and drive.attached and drive.name not in picture.mounts
    )
    fits = Fits(picture)
    recalls = judge_recalls(picture, policy, now, ranked=bool(free), fits=fits)
    wishes, explained = _others(picture, policy, now, recalls.drain_seconds, fits)
    outcome = Outcome(recalls, fits, wishes, explained, free=free)
    outcome.room_bytes = cache_room(picture, policy)
    if picture.library_state == "up":
        _Giving(picture, policy, now, outcome).give()
        outcome.give_way = _give_way(outcome, picture, policy, now)
    return outcome


def cache_room(picture: Picture, policy: Policy) -> float:
    """What is not yet promised to the volumes that are being read."""
    volumes = picture.volumes
    promised = sum(
        min(float(volumes.bytes[volumes.slot(mount.volume)]), policy.cache_mount_bytes)
        for mount in picture.mounts.values()
        if not mount.ending
    )
    return picture.cache_room_bytes - promised


def _others(
    picture: Picture, policy: Policy, now: float, drain_seconds: float, fits: Fits
) -> tuple[list[Wish], dict[tuple[str, str], Explanation]]:
    """Wishes that are not recalls, in order, and why there are no others."""
    wishes: list[Wish] = []
    explained: dict[tuple[str, str], Explanation] = {}
    for pool in sorted(picture.archives):
        for found in judge_archive(picture.archives[pool], picture, policy, now, drain_seconds, fits):
            if isinstance(found, Wish):
                wishes.append(found)
            else:
                explained[found.kind, found.key] = found
    verifying = sum(
        mount.purpose == "verify" or (mount.full and mount.purpose == "archive") for mount in picture.mounts.values()
    )
    for need in picture.media.values():
        one = judge_media(need, picture, policy, now, verifying, fits)
        if isinstance(one, Wish):
            verifying += one.tier is Tier.IDLE
            wishes.append(one)
        else:
            explained.setdefault((one.kind, one.key), one)
    wishes.sort(key=lambda wish: wish.order)
    return wishes, explained


class _Giving:
    """Gives the free drives away, the best wish first."""

    def __init__(self, picture: Picture, policy: Policy, now: float, outcome: Outcome) -> None:
        self._picture, self._policy, self._outcome = picture, policy, outcome
        self._fits = outcome.fits
        #: drives that are free by model, and volumes that found none by medium and what they are wanted for
        self._free = self._fits.models(outcome.free)
        self._in_vain: Counter[tuple[str, str]] = Counter()
        self._taken: set[str] = set()
        #: drives by (purpose, group), and by purpose
        self._drives: Counter[tuple[str, str]] = Counter()
        self._drives_in_all: Counter[str] = Counter()
        #: more that wait change nothing: so many mounts could end for them
        self._enough = 1 + sum(_could_end(mount, policy, now) for mount in picture.mounts.values())
        for mount in picture.mounts.values():
            self._count(mount.purpose, mount.group)

    def give(self) -> None:
        outcome = self._outcome
        recalls = outcome.recalls
        others = [wish for wish in outcome.wishes if wish.tier is not Tier.IDLE]
        self._serve_all(heapq.merge(self._recalls(recalls.worth & ~recalls.resting), others, key=_order))
        resting = recalls.worth & recalls.resting & ~recalls.asleep
        if outcome.free:
            # Nobody else wants these drives, or could use them: what was mounted just now may be mounted again.
            self._serve_all(self._recalls(resting), patient=True)
        elif not outcome.waiting:
            outcome.resting = int(resting.sum())
        # A drive that is free in vain now (a limit, a mount that ends) is not idle.
        if outcome.free:
            self._serve_all((wish for wish in outcome.wishes if wish.tier is Tier.IDLE), patient=True)

    def _serve_all(self, wishes: Iterable[Wish], *, patient: bool = False) -> None:
        """`patient`: nobody gives way to these."""
        for wish in wishes:
            if not self._enough_wait(wish) and not self._serve(wish) and not patient:
                self._outcome.waiting.setdefault(wish.volume, wish)
            if not self._outcome.free and (patient or (self._fits.all and len(self._outcome.waiting) >= self._enough)):
                return

    def _enough_wait(self, wish: Wish) -> bool:
        """As many wait in vain for the same drives as could come free: one more changes nothing."""
        if self._fits.all or self._outcome.free:
            return False
        return self._in_vain[self._fits.medium(wish.volume), doing(wish.purpose)] >= self._enough

    def _recalls(self, which: Booleans) -> Iterator[Wish]:
        """Wishes of these volumes, the best first. Of media for which no drive is free no more than can matter."""
        return heapq.merge(*(self._ranked(some, medium) for medium, some in self._fits.parts(which)), key=_order)

    def _ranked(self, which: Booleans, medium: str) -> Iterator[Wish]:
        """No more are put in order than are looked at."""
        recalls, rank = self._outcome.recalls, self._picture.volumes.rank()
        slots = np.flatnonzero(which)
        keys, sizes = -recalls.key[slots], self._picture.volumes.bytes[slots]
        least = float(sizes.min(initial=self._policy.cache_mount_bytes))
        ahead = LOOK_AHEAD * len(self._outcome.free) + self._enough + LOOK_AHEAD_MIN
        if len(slots) > ahead:
            bound = np.partition(keys, ahead)[ahead]
            near, far = np.flatnonzero(keys <= bound), np.flatnonzero(keys > bound)
        else:
            near, far = np.arange(len(slots)), np.arange(0)
        for some in (near, far):
            for one in slots[some[np.lexsort((rank[slots[some]], keys[some]))]].tolist():
                if self._in_vain[medium, "read"] >= self._enough and not self._fits.any_of(self._free, medium):
                    return
                if self._none_can(least):
                    return
                yield recall_wish(self._picture, recalls, self._policy, one)

    def _none_can(self, least: float) -> bool:
        """Nothing more may be mounted to read, not even the smallest: twenty thousand need not be asked one by one."""
        outcome, most = self._outcome, self._policy.reading_drives_max
        if most is not None and self._drives_in_all["recall"] >= most:
            outcome.unread = "limited"
        elif outcome.room_bytes <= 0 and outcome.room_bytes < least:
            outcome.unread = "short"
        else:
            return False
        return True

    def _serve(self, wish: Wish) -> bool:
        """False when it could be served if only there were a drive."""
        outcome, named = self._outcome, (wish.kind, wish.name)
        if wish.volume in self._taken:
            # A volume of a pool that is wanted for reading as well: the one mount serves both.
            return True
        # What is late begins with a part: waiting for room for all of it would hold up others as long as pins last.
        least = wish.file_bytes if wish.late else wish.cache_bytes
        if wish.purpose == "recall" and least > outcome.room_bytes:
            outcome.short[named] = wish.cache_bytes - max(outcome.room_bytes, 0.0)
            if wish.late:
                # Others must not take the room from under it for ever.
                outcome.room_bytes -= wish.cache_bytes
            return True
        served, group = self._with_room(wish)
        if group is None:
            outcome.limited[named] = wish.groups[0]
            return True
        drive = self._pick_drive(wish.volume, served.purpose)
        if drive is None and served is not wish:
            # Those that are free may still do what is asked for first.
            served, group = wish, self._group_with_room(wish.purpose, wish.groups)
            drive = None if group is None else self._pick_drive(wish.volume, wish.purpose)
        if drive is None or group is None:
            self._in_vain[self._fits.medium(wish.volume), doing(wish.purpose)] += 1
            return False
        self._taken.add(wish.volume)
        outcome.room_bytes -= wish.cache_bytes
        self._count(served.purpose, group)
        outcome.mounts.append(
            PlannedMount(
                drive=drive,
                volume=wish.volume,
                purpose=served.purpose,
                pool=served.pool,
                group=group,
                reason_code=wish.reason_code,
                reason_arguments=wish.reason_arguments,
            )
        )
        return True

    def _with_room(self, wish: Wish) -> tuple[Wish, str | None]:
        """As which wish it may be mounted, and for which group; None: the limits leave no drive for any.

        A volume that is wanted both ways is mounted to write: such a mount serves its recalls first. A label that is
        asked for by itself may have to be forced, which a mount to write never does.
        """
        both = [one for one in self._outcome.wishes if one.volume == wish.volume and one.purpose == "archive"]
        for served in [wish] if wish.purpose == "label" else [*both[:1], wish]:
            group = self._group_with_room(served.purpose, wish.groups)
            if group is not None:
                return served, group
        return wish, None

    def _pick_drive(self, volume: str, purpose: str) -> str | None:
        """Takes a free drive that can: another one than those in which the volume failed, if there is."""
        free, end = self._outcome.free, self._picture.troubles.get(volume)
        failed_in = self._picture.suspects.get(volume, frozenset())
        if end is not None and end.kind == "failed":
            failed_in |= {end.drive}
        able = self._fits.best(free, volume, purpose)
        drive = next((name for name in able if name not in failed_in), able[0] if able else None)
        if drive is not None:
            free.remove(drive)
            self._free -= self._fits.models([drive])
        return drive

    def _group_with_room(self, purpose: str, groups: Sequence[str]) -> str | None:
        most = {"recall": self._policy.reading_drives_max, "archive": self._policy.writing_drives_max}.get(purpose)
        if most is not None and self._drives_in_all[purpose] >= most:
            return None
        for group in groups:
            limit = self._picture.limits.get(group)
            allowed = {"recall": limit.reading, "archive": limit.writing}.get(purpose) if limit else None
            if allowed is None or self._drives[purpose, group] < allowed:
                return group
        return None

    def _count(self, purpose: str, group: str) -> None:
        self._drives[purpose, group] += 1
        self._drives_in_all[purpose] += 1


def _order(wish: Wish) -> tuple[float, str, str, str]:
    return wish.order


def _give_way(outcome: Outcome, picture: Picture, policy: Policy, now: float) -> list[GiveWay]:
    """Mounts that end: those at rest for long; and as many as others wait for drives that do not come free else."""
    live = [mount for mount in picture.mounts.values() if not mount.ending]
    filling = {mount.pool for mount in live if mount.purpose == "archive" and not mount.full}
    # Another volume for a pool that is being filled already is no reason to interrupt anybody.
    waiting = [wish for wish in outcome.waiting.values() if wish.purpose != "archive" or wish.pool not in filling]
    # A drive that keeps its volume, and is down for it, comes free for nobody.
    fits, leaving = outcome.fits, [one.drive for one in picture.mounts.values() if is_leaving(one, picture)]
    blocked = {
        name for (kind, name), one in outcome.explained.items() if kind == "pool" and one.code == "volumes_in_use"
    }
    found: dict[str, GiveWay] = {}

    def end(mount: MountView, why: Literal["rested", "idle", "verifies", "long"]) -> None:
        found.setdefault(
            mount.drive,
            GiveWay(
                epoch=mount.epoch,
                drive=mount.drive,
                volume=mount.volume,
                age_seconds=now - mount.began_at,
                why=why,
            ),
        )

    idle = sorted((one for one in live if _is_idle(one, picture, now)), key=lambda one: (one.idle_since, one.drive))
    verifying = sorted(
        (one for one in live if one.purpose == "verify"), key=lambda one: (one.pool not in blocked, one.drive)
    )
    long = sorted(
        (one for one in live if one.purpose != "verify" and now - one.began_at > policy.mount_seconds_max),
        key=lambda one: (one.began_at, one.drive),
    )
    missing = _spare(picture, policy) - len(outcome.free) - len(leaving)
    for mount in idle:
        if now - (mount.idle_since or now) >= policy.dismount_delay_seconds:
            end(mount, "rested")
    for mount in idle:
        # What nobody came back for is taken out before its drive is wanted: the next need not wait for that.
        if len(found) < missing and _is_forgotten(mount, picture, policy):
            end(mount, "rested")
    wanted_otherwise = {volume for volume, _ in picture.media}
    for mount in idle:
        # Wanted for what its session does not do, whatever drives are free; or in the way of what has just rested.
        otherwise = mount.volume in wanted_otherwise or (mount.pool in blocked and mount.purpose != "archive")
        if otherwise or len(found) < outcome.resting:
            end(mount, "idle")
    # A pool whose only volume with room is being verified waits for that volume, whatever drives are free.
    for mount in verifying:
        if mount.pool in blocked:
            end(mount, "verifies")
    ends: list[tuple[MountView, Literal["idle", "verifies", "long"]]] = [
        *((one, "idle") for one in idle), *((one, "verifies") for one in verifying), *((one, "long") for one in long)
    ]  # fmt: skip
    unserved = fits.without([(wish.volume, wish.purpose) for wish in waiting], [*leaving, *found])
    for mount, why in ends:
        if mount.drive not in found and fits.take(unserved, mount.drive):
            end(mount, why)
    return list(found.values())


def _newest(mount: MountView, picture: Picture) -> float:
    """Arrival of the newest that this mount could serve."""
    reads = float(picture.volumes.newest[picture.volumes.slot(mount.volume)])
    writes = mount.purpose == "archive" and not mount.full and mount.pool is not None
    return max(reads, picture.newest_archives.get(mount.pool or "", reads)) if writes else reads


def _is_forgotten(mount: MountView, picture: Picture, policy: Policy) -> bool:
    """Nothing has come for it since it was mounted, nor was it missed soon after its last time: then it had better have
    stayed in its drive."""
    ended = float(picture.volumes.ended[picture.volumes.slot(mount.volume)])
    missed = mount.began_at - ended < policy.dismount_delay_seconds
    return not missed and _newest(mount, picture) <= mount.began_at


def _spare(picture: Picture, policy: Policy) -> int:
    """So many drives are to be empty, for whoever comes next."""
    return math.ceil(policy.spare_part * sum(drive.up and drive.attached for drive in picture.drives.values()))


def _could_end(mount: MountView, policy: Policy, now: float) -> bool:
    return (
        mount.ending
        or mount.idle_since is not None
        or mount.purpose == "verify"
        or now - mount.began_at > policy.mount_seconds_max
    )


def _is_idle(mount: MountView, picture: Picture, now: float) -> bool:
    # What came in the meantime is taken by its session; what waits for a pause to end is not.
    volumes, slot = picture.volumes, picture.volumes.slot(mount.volume)
    return mount.idle_since is not None and (not volumes.files[slot] or bool(volumes.oldest[slot] > now))
