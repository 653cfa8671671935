"""The keeper of one library's picture: what the catalog tells goes in, increment by increment. No clock, no I/O.

Everything that the picture knows comes through the methods here, and each takes what can be written down and told
again: a recording of the calls makes the same picture, and the same decisions (`tapeserver.planningrecord`). Reading
the catalog is `tapeserver.picturesource`'s, deciding the planner's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from catalog.counters import Change
from catalog.shares import Settings
from catalog.shares import Share as AllottedShare
from catalog.situations import SeenEnd, SeenPool, Situation
from catalog.usage import Charge
from tapeserver.outcomes import end_kind, is_fruitless
from tapeserver.planner import (
    Allotment,
    ArchiveNeed,
    CacheAway,
    DriveLimit,
    EndView,
    MediaNeed,
    MountView,
    Picture,
    Policy,
    Share,
    VolumeView,
)
from tapeserver.planner.resting import longest_rest
from tapeserver.planner.volumes import UNKNOWN_STATE

#: what moves files of these mounts is a cache; a volume is verified without
CACHE_PURPOSES = frozenset({"recall", "archive"})
#: a mount to read needs no more room in the cache than this part of all of it
CACHE_MOUNT_PART = 8
#: a volume in which nothing was found, though the counters spoke of something, is left alone so long
EMPTY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What changes less often than drives and mounts, and is looked at beside the decisions."""

    #: those that are written to now, with the volumes that could take it, best first
    pools: Sequence[tuple[SeenPool, Sequence[str]]]
    media: Sequence[MediaNeed]
    #: volume and drive that failed together, as far as it counts
    suspects: Sequence[tuple[str, str]]
    #: new or changed
    volumes: Sequence[VolumeView] = ()
    hurried: Sequence[str] = ()
    #: of live cache servers: all their room, what of it is free, and that of the emptiest
    cache_capacity_bytes: int = 0
    cache_free_bytes: int = 0
    #: of what is not free the part that could be evicted; None: not all servers know
    cache_evictable_bytes: int | None = None
    cache_file_bytes: int = 0
    #: volume -> when the next of its recalls may be read, of those that were asked about; None: nothing is there
    ripe: Mapping[str, float | None] = field(default_factory=dict)
    #: drive time that has been used since the last look
    charges: Sequence[Charge] = ()
    #: what operators say of shares and weights, when it has changed
    settings: Settings | None = None


class PictureKeeper:
    """Keeps `picture`; `policy` is what to decide by."""

    def __init__(self, library: str, policy: Policy) -> None:
        self.library = library
        self.policy = self._wanted_policy = policy
        self.picture = Picture(library, usage_half_life_seconds=policy.usage_half_life_seconds)
        #: volumes with demand that nothing else is known of yet
        self.strangers: set[str] = set()
        #: by pool, by group: files, bytes, urgent
        self._archives: dict[str, dict[str, list[int]]] = {}
        self._pools: dict[str, tuple[SeenPool, Sequence[str]]] = {}
        self._newest_archive: dict[str, float] = {}
        #: volume -> mounts in a row that brought nothing
        self._fruitless: dict[str, int] = {}
        #: pauses in a row because the cache could not be reached
        self._pauses = 0
        #: None: not looked at yet
        self._cache_capacity_bytes: int | None = None
        self._surrounded: object = None
        self._said: Sequence[AllottedShare] = ()
        #: since the last look at the surroundings, which may be older: pairs that failed, volumes that got a mount
        self._failed_since: list[tuple[str, str]] = []
        self._planned_since: set[str] = set()
        self._now = 0.0

    # ------------------------------------------------------------------ what waits

    def fold(self, changes: Sequence[Change]) -> bool:
        """What has come and gone. False: more went than was there; the picture is wrong from here on."""
        exact = True
        for one in changes:
            if one.kind == "recall":
                exact &= self._recalls(one)
            else:
                self._archived(one)
        return exact

    def _recalls(self, one: Change) -> bool:
        share = Share(one.owner, one.group, one.activity, one.priority)
        if one.came_files:
            if self.view_of(one.key) is None:
                self.strangers.add(one.key)
            at = one.came_asked / one.came_files
            self.picture.want(one.key, share, one.cohort, one.came_files, one.came_bytes, at)
        gone = one.came_files - one.files
        if not gone:
            return True
        at_sum = float(one.came_asked - one.asked)
        return self.picture.unwant(one.key, share, one.cohort, gone, one.came_bytes - one.bytes, at_sum)

    def _archived(self, one: Change) -> None:
        groups = self._archives.setdefault(one.key, {})
        counts = groups.setdefault(one.group, [0, 0, 0])
        for place, more in enumerate((one.files, one.bytes, one.urgent)):
            counts[place] += more
        if not any(counts):
            del groups[one.group]
        if not groups:
            del self._archives[one.key]
        if one.came_files:
            self._newest_archive[one.key] = self._now
        self._need(one.key)

    @property
    def pools(self) -> list[str]:
        """Pools to which anything is to be written."""
        return sorted(self._archives)

    def _need(self, pool: str) -> None:
        groups = self._archives.get(pool, {})
        counts = [sum(some) for some in zip(*groups.values(), strict=True)] or [0, 0, 0]
        seen, writable = self._pools.get(pool, (None, ()))
        self.picture.set_archives(
            ArchiveNeed(
                pool=pool,
                files=counts[0],
                bytes=counts[1],
                urgent=counts[2],
                # Before it was looked at, nothing is known to be ripe.
                oldest_at=None if seen is None else seen.oldest_at,
                newest_at=self._newest_archive.get(pool),
                writable=writable,
                volumes_open_max=None if seen is None else seen.volumes_open_max,
                groups=sorted(groups, key=lambda group: (-groups[group][1], group)) or ("",),
            )
        )

    # ------------------------------------------------------------------ drives and mounts

    def see(self, situation: Situation) -> None:
        """Drives and mounts as they are now, and how mounts have ended."""
        picture = self.picture
        if not self._now:
            # When the newest came, of what was there before, nobody has told: quiet is counted from here.
            self._newest_archive = dict.fromkeys(self._newest_archive, situation.now)
        self._now = situation.now
        picture.library_state, picture.library_reason = situation.library_state, situation.library_reason
        picture.set_drives(situation.drives)
        live, ends = {one.drive: one for one in situation.mounts}, {one.epoch: one for one in situation.ends}
        over = [
            (ends.get(mount.epoch), mount)
            for mount in picture.mounts.values()
            if mount.drive not in live or live[mount.drive].epoch != mount.epoch
        ]
        # What the last of them found counts.
        for end, mount in sorted(over, key=lambda one: one[0].at if one[0] else 0.0):
            picture.mount_ended(mount.volume, None if end is None else self._end(end, mount.purpose))
            if end is not None and end.pair_failed:
                # At once: the next drive for this volume is chosen before the matrix is looked at again.
                failed_in = picture.suspects.get(end.volume, frozenset())
                picture.suspects[end.volume] = failed_in | {end.drive}
                self._failed_since.append((end.volume, end.drive))
        for one in situation.mounts:
            if picture.mounts.get(one.drive) != one:
                picture.mount_began(one)

    def planned(self, mounts: Sequence[MountView]) -> None:
        """Rows of these have been written."""
        for one in mounts:
            self.picture.mount_began(one)
            self.picture.hurried.discard(one.volume)
            self._planned_since.add(one.volume)

    def ended_before(self, ends: Sequence[SeenEnd], fruitless: Mapping[str, int]) -> None:
        """How the last mounts ended, for a picture that is begun."""
        self._fruitless = dict(fruitless)
        for one in sorted(ends, key=lambda end: end.at):
            self.picture.set_end(one.volume, self._end_view(one))

    def _end(self, one: SeenEnd, purpose: str) -> EndView:
        fruitless = self._fruitless.get(one.volume, 0)
        if one.files:
            fruitless = 0
        elif is_fruitless(one.outcome):
            fruitless += 1
        self._fruitless[one.volume] = fruitless
        return self._end_view(one, used_cache=bool(one.files) and purpose in CACHE_PURPOSES)

    def _end_view(self, one: SeenEnd, *, used_cache: bool = False) -> EndView:
        end = EndView(
            drive=one.drive,
            kind=end_kind(one.outcome),
            why=one.outcome,
            at=one.at,
            fruitless=self._fruitless.get(one.volume, 0),
        )
        if end.kind == "cache_away":
            self._pause(end, used_cache)
        elif used_cache:
            self._cache_is_back()
        return end

    def _pause(self, end: EndView, used_cache: bool) -> None:
        """What one mount found, the others would: the cache is their own no more than the volume's. One that did move
        files found a cache that is there for some of them: its pause is the shortest."""
        away, policy = self.picture.cache_away, self.policy
        if away is not None and end.at < away.at + away.seconds:
            # It was begun before the pause, and says nothing new.
            return
        self._pauses = 0 if used_cache else self._pauses
        seconds = min(policy.cooldown_seconds * 2 ** min(self._pauses, 30), longest_rest(policy))
        self._pauses += 1
        self.picture.cache_away = CacheAway(at=end.at, seconds=seconds, why=end.why)

    def _cache_is_back(self) -> None:
        self._pauses, self.picture.cache_away = 0, None

    @property
    def free_drives(self) -> bool:
        """Whether a drive that could be used has no mount."""
        return bool(self.picture.free_drives)

    @property
    def epochs(self) -> list[int]:
        """Mounts that it takes for live."""
        return [mount.epoch for mount in self.picture.mounts.values()]

    # ------------------------------------------------------------------ the rest

    def view_of(self, volume: str) -> VolumeView | None:
        """What is known of it; None: nothing yet."""
        slot = self.picture.volumes.find(volume)
        view = None if slot is None else self.picture.volumes.views[slot]
        return None if view is None or view.state == UNKNOWN_STATE else view

    def surround(self, seen: Surroundings) -> bool:
        """What else there is; whether it may lead to another decision."""
        picture = self.picture
        present = (
            [(one, list(writable)) for one, writable in seen.pools], [(one.volume, one.purpose) for one in seen.media],
            list(seen.suspects), list(seen.hurried), seen.cache_capacity_bytes,
        )  # fmt: skip
        news = present != self._surrounded or bool(seen.volumes) or bool(seen.ripe) or seen.settings is not None
        self._surrounded = present
        for view in seen.volumes:
            picture.set_volume(view)
            self.strangers.discard(view.name)
        self._pools = {one.name: (one, writable) for one, writable in seen.pools}
        for pool in {*self._archives, *picture.archives}:
            self._need(pool)
        picture.set_media(seen.media)
        suspects: dict[str, set[str]] = {}
        for volume, drive in (*seen.suspects, *self._failed_since):
            suspects.setdefault(volume, set()).add(drive)
        picture.suspects = {volume: frozenset(drives) for volume, drives in suspects.items()}
        picture.hurried = set(seen.hurried) - self._planned_since
        self._failed_since.clear()
        self._planned_since.clear()
        self._room(seen)
        self.ripen(seen.ripe)
        for one in seen.charges:
            seconds = one.drive_seconds + one.mounts * self.policy.mount_charge_seconds
            picture.charge(Share(owner=one.owner, group=one.group), seconds, self._now)
        if seen.settings is not None:
            self._settle(seen.settings)
        return news

    def _room(self, seen: Surroundings) -> None:
        # What can be evicted is room too. A server that has not looked at all it has does not know how much that is:
        # then all counts as room. Until a mount has found that there is none; then, for a while, only what is free.
        longest = self._wanted_policy.cooldown_seconds_max
        troubles = self.picture.troubles.values()
        full = any(end.kind == "cache_full" and self._now - end.at < longest for end in troubles)
        room = seen.cache_capacity_bytes
        if full or seen.cache_evictable_bytes is not None:
            room = seen.cache_free_bytes + (0 if full else seen.cache_evictable_bytes or 0)
        self.picture.cache_room_bytes = room
        self.picture.cache_file_bytes = seen.cache_file_bytes
        before, self._cache_capacity_bytes = self._cache_capacity_bytes, seen.cache_capacity_bytes
        if before is not None and seen.cache_capacity_bytes > before:
            # A server has come back: those that missed it need not wait any longer.
            self._cache_is_back()
            for volume in [name for name, end in self.picture.troubles.items() if end.kind == "cache_away"]:
                del self.picture.troubles[volume]
        most = min(self._wanted_policy.cache_mount_bytes, seen.cache_capacity_bytes // CACHE_MOUNT_PART)
        if most != self.policy.cache_mount_bytes:
            self.policy = replace(self._wanted_policy, cache_mount_bytes=most)

    def ripen(self, ripe: Mapping[str, float | None]) -> bool:
        """Volumes of which all that waits is tried again only later, or where nothing was found. False: some of them
        could be read now."""
        paused = {volume: at for volume, at in ripe.items() if at is None or at > self._now}
        for volume, at in paused.items():
            self.picture.pause(volume, self._now + EMPTY_SECONDS if at is None else at)
        return len(paused) == len(ripe)

    def _settle(self, settings: Settings) -> None:
        picture = self.picture
        for one in self._said:
            # What is not said any more: as if nothing ever had been.
            picture.allot(one.group, one.owner, Allotment())
        self._said = settings.shares
        picture.limits = {}
        for one in settings.shares:
            picture.allot(one.group, one.owner, Allotment(weight=one.weight, seconds=one.drive_seconds))
            if not one.owner:
                picture.limits[one.group] = DriveLimit(reading=one.reading_drives, writing=one.writing_drives)
        self._wanted_policy = replace(self._wanted_policy, rules=settings.rules)
        self.policy = replace(self.policy, rules=settings.rules)

    @property
    def doubtful(self) -> list[str]:
        """Volumes in drives whose sessions find nothing to do, though something waits there."""
        volumes = self.picture.volumes
        return [
            mount.volume
            for mount in self.picture.mounts.values()
            if mount.idle_since is not None and volumes.files[volumes.slot(mount.volume)]
        ]
