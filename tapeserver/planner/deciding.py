"""Which volume next, in which drive: `plan`. Pure: a picture in, a decision out, the same one for the same picture.

It looks at the whole picture: every free drive, reads, writes and what volumes want for their own sake by one number
(`wishes.Tier`), room in the cache, limits of groups. A volume in a drive costs nothing to change to: its session takes
what arrives, and it stays while nobody else wants the drive. What is not mounted is explained apart (`explaining`).

**No starvation.** Let a volume be readable, its group below its limit, the cache with room, n drives working that fit
it. Whatever arrives, if V volumes and pools are wanted meanwhile, it is mounted before it has waited

    max(deadline_seconds_max, remount_seconds) + (ceil(V / n) + 1) * mount

"mount" being the longest one with its change: mount_seconds_max and what a session takes to end when asked. For from
the absolute deadline on only older ones come first, and each of these is mounted once: what it wants afterwards is
younger. What an operator wants now, and volumes whose own mounts fail or gave way, are outside of it. Of a group at its
limit the same holds among its own, n being that limit: one of its mounts that is idle, or long, ends for the others.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from tapeserver.planner.demand import Integers
from tapeserver.planner.fits import Fits, doing
from tapeserver.planner.givingway import could_end, give_way
from tapeserver.planner.outcome import Limit, Outcome
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.resting import rests
from tapeserver.planner.scoring import Booleans, full_groups, limited
from tapeserver.planner.views import Decision, Explanation, PlannedMount
from tapeserver.planner.wishes import Tier, Wish, judge_archive, judge_media, judge_recalls, recall_wish

#: so many of the best are looked at for each free drive before all are put in order
LOOK_AHEAD, LOOK_AHEAD_MIN = 2, 32
#: so many in a row are refused for want of room or by a limit before the others like them are passed over together
REFUSED_MAX = 32


def plan(picture: Picture, policy: Policy, now: float) -> Decision:
    """The mounts to begin now, and those that are to end."""
    outcome = decide(picture, policy, now)
    return Decision(mounts=outcome.mounts, give_way=outcome.give_way)


def decide(picture: Picture, policy: Policy, now: float) -> Outcome:
    """As `plan`, with what it was based on."""
    free = picture.free_drives
    fits = Fits(picture)
    recalls = judge_recalls(picture, policy, now, ranked=bool(free), fits=fits)
    wishes, explained = _others(picture, policy, now, recalls.drain_seconds, fits)
    outcome = Outcome(recalls, fits, wishes, explained, free=free)
    outcome.room_bytes = cache_room(picture, policy)
    if picture.library_state == "up":
        _Giving(picture, policy, now, outcome).give()
        outcome.give_way = give_way(outcome, picture, policy, now)
    return outcome


def cache_room(picture: Picture, policy: Policy) -> float:
    """What is not yet promised to the volumes that are being read: not those in drives that nobody serves."""
    volumes = picture.volumes
    promised = sum(
        min(float(volumes.bytes[volumes.slot(mount.volume)]), policy.cache_mount_bytes)
        for mount in picture.mounts.values()
        if not mount.ending and picture.works(mount.drive)
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
        self._picture, self._policy, self._now, self._outcome = picture, policy, now, outcome
        self._fits = outcome.fits
        #: drives that are free by model, and volumes that found none by medium and what they are wanted for
        self._free = self._fits.models(outcome.free)
        self._in_vain: Counter[tuple[str, str]] = Counter()
        #: volume -> the pool that it is to be written for; None: for none
        self._taken: dict[str, str | None] = {}
        #: drives by (purpose, group), and by purpose
        self._drives: Counter[tuple[str, str]] = Counter()
        self._drives_in_all: Counter[str] = Counter()
        #: more that wait change nothing: so many mounts could end for them
        self._enough = 1 + sum(could_end(mount, policy, now) for mount in picture.mounts.values())
        for mount in picture.mounts.values():
            self._count(mount.purpose, mount.group)
        #: pools that are being filled
        self._filling = {
            mount.pool
            for mount in picture.mounts.values()
            if mount.purpose == "archive" and not mount.full and not mount.ending
        }
        #: nobody gives way to what is looked at now
        self._patient = False
        #: wishes that found too little room, or no drive that a limit left
        self._refused = 0

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
            outcome.resting = self._some_of(resting)
        # A drive that is free in vain now (a limit, a mount that ends) is not idle.
        if outcome.free:
            self._serve_all((wish for wish in outcome.wishes if wish.tier is Tier.IDLE), patient=True)
        outcome.full_groups = self._full_groups()
        if recalls.held.any():
            self._hold_of_groups(recalls.held)

    def _serve_all(self, wishes: Iterable[Wish], *, patient: bool = False) -> None:
        """`patient`: nobody gives way to these."""
        self._patient = patient
        for wish in wishes:
            if not self._enough_wait(wish) and not self._serve(wish) and not patient and not self._is_more(wish):
                self._outcome.waiting.setdefault(wish.volume, wish)
            if not self._outcome.free and (patient or (self._fits.all and len(self._outcome.waiting) >= self._enough)):
                return

    def _enough_wait(self, wish: Wish) -> bool:
        """As many wait in vain for the same drives as could come free: one more changes nothing."""
        if self._fits.all or self._outcome.free:
            return False
        return self._in_vain[self._fits.medium(wish.volume), doing(wish.purpose)] >= self._enough

    def _is_more(self, wish: Wish) -> bool:
        """Another volume for a pool that is being filled: no reason to interrupt anybody."""
        return wish.kind == "pool" and (wish.pool in self._filling or wish.name in self._outcome.filled)

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
        for part in (near, far):
            left = slots[part]
            if part is far and self._refused:
                left, part = left[may := self._may_begin(left)], part[may]
            left, refused = left[np.lexsort((rank[left], keys[part]))], self._refused
            while len(left):
                if self._in_vain[medium, "read"] >= self._enough and not self._fits.any_of(self._free, medium):
                    return
                if self._none_can(least):
                    return
                if self._refused >= refused + REFUSED_MAX:
                    # The room that is left, or what groups may have, is too little for most: these need not be asked.
                    left, refused = left[self._may_begin(left)], self._refused
                    continue
                one, left = int(left[0]), left[1:]
                yield recall_wish(self._picture, recalls, self._policy, one)

    def _none_can(self, least: float) -> bool:
        """Nothing more may be mounted to read, not even the smallest: twenty thousand need not be asked one by one."""
        outcome, most = self._outcome, self._policy.reading_drives_max
        if most is not None and self._drives_in_all["recall"] >= most:
            outcome.unread = "limited"
            self._hold(Limit("recall", frozenset()))
        elif outcome.room_bytes <= 0 < least:
            outcome.unread = "short"
        else:
            return False
        return True

    def _may_begin(self, slots: Integers) -> Booleans:
        """Which of these the room that is left, and the limits of groups, would let begin: both only get less."""
        self._outcome.passed_over = True
        may = self._find_room(slots)
        full = limited(self._picture, self._full_groups())
        return may if full is None else may & ~full[slots]

    def _find_room(self, slots: Integers) -> Booleans:
        outcome, recalls = self._outcome, self._outcome.recalls
        sizes = np.minimum(self._picture.volumes.bytes[slots], self._policy.cache_mount_bytes)
        may: Booleans = sizes <= max(outcome.room_bytes, 0.0)
        if outcome.room_bytes > 0:
            # Who is late begins with less, or keeps the others from the room.
            may |= recalls.wait[slots] > recalls.deadline_seconds
        return may

    def _serve(self, wish: Wish) -> bool:
        """False when it could be served if only there were a drive."""
        outcome, named = self._outcome, (wish.kind, wish.name)
        if wish.volume in self._taken:
            if wish.kind != "pool" or self._taken[wish.volume] == wish.pool:
                # A volume of a pool that is wanted for reading as well: the one mount serves both.
                return True
            # Another pool has taken this blank volume, or it is only read.
            another = self._another(wish)
            if another is None:
                self._explain_in_use(wish)
                return True
            wish = another
        # What is late begins with a part: waiting for room for all of it would hold up others as long as pins last.
        least = min(wish.file_bytes, wish.cache_bytes) if wish.late else wish.cache_bytes
        if wish.purpose == "recall" and least > max(outcome.room_bytes, 0.0):
            outcome.short[named] = least - max(outcome.room_bytes, 0.0)
            self._refused += 1
            if wish.late:
                # Others must not take the room from under it for ever.
                outcome.room_bytes -= wish.cache_bytes
            return True
        served, group = self._with_room(wish)
        if group is None:
            self._limited(wish)
            return True
        drive = self._pick_drive(wish.volume, served.purpose)
        if drive is None and served is not wish:
            # Those that are free may still do what is asked for first.
            served, group = wish, self._group_with_room(wish.purpose, wish.groups)
            drive = None if group is None else self._pick_drive(wish.volume, wish.purpose)
        if drive is None and (another := self._another(wish, fits_free=True)) is not None:
            served = wish = another
            drive = self._pick_drive(wish.volume, wish.purpose)
        if drive is None or group is None:
            self._in_vain[self._fits.medium(wish.volume), doing(wish.purpose)] += 1
            return False
        self._mount(wish, served, drive, group)
        return True

    def _mount(self, wish: Wish, served: Wish, drive: str, group: str) -> None:
        """`wish` is served, by a mount as `served` wants it."""
        self._taken[wish.volume] = served.pool if served.kind == "pool" else None
        if served.kind == "pool":
            self._outcome.filled.setdefault(served.name, drive)
        self._outcome.room_bytes -= wish.cache_bytes
        self._count(served.purpose, group)
        self._outcome.mounts.append(
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

    def _another(self, wish: Wish, *, fits_free: bool = False) -> Wish | None:
        """The same of another volume of the pool that nobody has, or wishes for; `fits_free`: for a drive that is free.
        None: there is none, or an operator named this one."""
        need = self._picture.archives.get(wish.pool or "")
        if wish.kind != "pool" or need is None or wish.tier is Tier.NOW or (fits_free and not self._outcome.free):
            return None
        wished = {one.volume for one in self._outcome.wishes if one.name == wish.name and one.kind == "pool"}
        for volume in need.writable:
            if volume in self._taken or volume in wished or volume in self._picture.mounted:
                continue
            if rests(volume, self._picture, self._policy, self._now) or self._fits.why_none(volume, "archive"):
                continue
            if not fits_free or self._fits.best(self._outcome.free, volume, "archive"):
                return replace(wish, volume=volume)
        return None

    def _explain_in_use(self, wish: Wish) -> None:
        if wish.name not in self._outcome.filled:
            one = Explanation(kind="pool", key=wish.name, code="volumes_in_use", arguments={"pool": wish.name})
            self._outcome.explained["pool", wish.name] = one

    def _limited(self, wish: Wish) -> None:
        """A limit of drives keeps it; whoever has one of these drives may have to make room."""
        outcome, most = self._outcome, self._most(wish.purpose)
        all_in_use = most is not None and self._drives_in_all[wish.purpose] >= most
        limit = Limit(wish.purpose, frozenset() if all_in_use else frozenset(wish.groups))
        outcome.limited[wish.kind, wish.name] = limit
        self._refused += 1
        if not self._is_more(wish):
            self._hold(limit)

    def _hold(self, limit: Limit) -> None:
        if not self._patient:
            self._outcome.held.add(limit)

    def _hold_of_groups(self, held: Booleans) -> None:
        """Of these volumes those that nothing but the limits of their groups keeps."""
        slots = np.flatnonzero(held)
        held = np.zeros_like(held)
        held[slots[self._find_room(slots)]] = True
        demand, shares = self._picture.demand, self._picture.shares
        rows = held[demand.volume[: demand.rows]] & (demand.files[: demand.rows] > 0)
        for share in np.unique(demand.share[: demand.rows][rows]).tolist():
            self._outcome.held.add(Limit("recall", frozenset({shares[share].group})))

    def _some_of(self, which: Booleans) -> list[str]:
        """Of each medium as many as there are mounts: no more could end for them."""
        names, most = self._picture.volumes.names, len(self._picture.mounts)
        return [names[slot] for _, some in self._fits.parts(which) for slot in np.flatnonzero(some)[:most].tolist()]

    def _full_groups(self) -> frozenset[str]:
        """Groups that read with as many drives as they may, with what is decided."""
        reading = {group: number for (purpose, group), number in self._drives.items() if purpose == "recall"}
        return full_groups(self._picture, reading)

    def _most(self, purpose: str) -> int | None:
        return {"recall": self._policy.reading_drives_max, "archive": self._policy.writing_drives_max}.get(purpose)

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
        most = self._most(purpose)
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
