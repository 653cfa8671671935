"""The picture of one library that the planner decides on, kept by increments and never read again as a whole. Pure.

Whoever keeps it tells what came and went; each call is a matter of microseconds. `deciding.plan` and
`explaining.explanations` look at it and change nothing that can be seen. What was counted wrong stays wrong: production
makes a new picture at long intervals, and compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tapeserver.planner.demand import Demand
from tapeserver.planner.policy import HOUR, Policy
from tapeserver.planner.usage import Allotment, Usage
from tapeserver.planner.views import (
    ArchiveNeed,
    CacheAway,
    DriveLimit,
    DriveView,
    EndView,
    MediaNeed,
    MountView,
    Share,
    VolumeView,
)
from tapeserver.planner.volumes import Volumes

INITIAL_SHARES = 64


class Picture:
    """One library. Times are on one clock; it does not matter where that begins."""

    def __init__(self, library: str = "", *, usage_half_life_seconds: float = 24 * HOUR) -> None:
        self.library = library
        self.library_state = "up"
        self.library_reason = ""
        self.volumes = Volumes()
        self.demand = Demand()
        self.usage = Usage()
        self.usage_half_life_seconds = usage_half_life_seconds
        #: by name
        self.drives: dict[str, DriveView] = {}
        #: by drive
        self.mounts: dict[str, MountView] = {}
        #: by pool
        self.archives: dict[str, ArchiveNeed] = {}
        #: by pool: arrival of the newest that was to be written there, as far as it was told
        self.newest_archives: dict[str, float] = {}
        #: by volume and purpose, the oldest first
        self.media: dict[tuple[str, str], MediaNeed] = {}
        #: volume -> drives in which it failed, as far as that still counts
        self.suspects: dict[str, frozenset[str]] = {}
        #: volume -> the end of its last mount, when it did not end well
        self.troubles: dict[str, EndView] = {}
        #: volumes that an operator wants now
        self.hurried: set[str] = set()
        #: by group
        self.limits: dict[str, DriveLimit] = {}
        #: what reads may still bring to the cache: free now, or by evicting; unknown is none
        self.cache_room_bytes: float = 0
        #: for one file, on the cache server with most; None: as much as there is in all
        self.cache_file_bytes: float | None = None
        #: nothing that needs the cache is mounted for so long; None: it can be reached, as far as is known
        self.cache_away: CacheAway | None = None
        self.shares: list[Share] = []
        #: by share: its principal, its priority
        self.principals = np.zeros(INITIAL_SHARES, dtype=np.int64)
        self.priorities = np.zeros(INITIAL_SHARES, dtype=np.int64)
        self._weights: tuple[Policy, list[float]] | None = None
        self._number_of: dict[Share, int] = {}
        self._mounted: dict[str, MountView] = {}

    # ------------------------------------------------------------------ what waits to be read

    def want(self, volume: str, share: Share, cohort: int, files: int, bytes: int, at: float) -> None:
        """`files` more, of `bytes` in all, wait on `volume` since `at` (later than now: from then on).

        `cohort` is the stage request whose files are wanted together; 0: each for itself.
        """
        if files <= 0:
            return
        slot = self.volumes.slot(volume)
        parts = self.demand.add(slot, self.share_number(share), cohort, files, bytes, at)
        self.volumes.change(slot, files, bytes, parts)
        self.volumes.came(slot, at)

    def unwant(self, volume: str, share: Share, cohort: int, files: int, bytes: int, at_sum: float) -> bool:
        """`files` wait no longer; `at_sum` is the sum of their arrivals. False: less was there, the picture drifts."""
        slot, number = self.volumes.find(volume), self._number_of.get(share)
        if slot is None or number is None:
            return files <= 0
        gone = self.demand.take(slot, number, cohort, files, bytes, at_sum)
        self.volumes.change(slot, -gone.files, -gone.bytes, -gone.parts)
        self.volumes.oldest[slot] = self.demand.oldest_of(slot)
        return gone.files == files

    def pause(self, volume: str, until: float) -> None:
        """All that waits there now waits for a pause to end; what comes later, or goes, ends it before."""
        self.volumes.oldest[self.volumes.slot(volume)] = until

    def share_number(self, share: Share) -> int:
        number = self._number_of.get(share)
        if number is None:
            number = self._number_of[share] = len(self.shares)
            self.shares.append(share)
            if number == len(self.principals):
                self.principals = np.concatenate([self.principals, np.zeros_like(self.principals)])
                self.priorities = np.concatenate([self.priorities, np.zeros_like(self.priorities)])
            self.priorities[number] = share.priority
            self.principals[number] = self.usage.number(share.group, share.owner)
        return number

    def rule_weights(self, policy: Policy) -> list[float]:
        """By share, as the policy's rules say."""
        if self._weights is None or self._weights[0] is not policy:
            self._weights = (policy, [])
        weights = self._weights[1]
        weights.extend(policy.weight(share) for share in self.shares[len(weights) :])
        return weights

    # ------------------------------------------------------------------ volumes, drives and mounts

    def set_volume(self, view: VolumeView) -> None:
        self.volumes.set_view(view)

    def set_drives(self, views: Iterable[DriveView]) -> None:
        """All drives of the library."""
        self.drives = {view.name: view for view in views}

    def mount_began(self, mount: MountView) -> None:
        """A mount was planned, or has changed."""
        self.mounts[mount.drive] = mount
        self._mounted[mount.volume] = mount
        slot = self.volumes.slot(mount.volume)
        if mount.purpose == "recall":
            self.volumes.begin(slot, mount.began_at)
        self.demand.hold(slot)

    def mount_ended(self, volume: str, end: EndView | None) -> None:
        """It is out of the drive; `end` None: as if it had never been."""
        mount = self._mounted.pop(volume, None)
        if mount is not None and self.mounts.get(mount.drive) is mount:
            del self.mounts[mount.drive]
        slot = self.volumes.slot(volume)
        self.demand.release(slot)
        read_at: float | None = None
        if mount is not None and end is not None and end.kind == "well":
            # What it stayed for in vain is no part of the pass.
            read_at = mount.idle_since if mount.idle_since is not None else end.at - self.volumes.unload_seconds(slot)
        self.volumes.end(slot, read_at)
        if end is not None:
            self.set_end(volume, end)

    def set_end(self, volume: str, end: EndView) -> None:
        """How the last mount of a volume ended, for a picture that is begun."""
        if end.kind == "well":
            self.troubles.pop(volume, None)
        else:
            self.troubles[volume] = end
        self.volumes.ended[self.volumes.slot(volume)] = end.at

    def mount_of(self, volume: str) -> MountView | None:
        return self._mounted.get(volume)

    def works(self, drive: str) -> bool:
        """As `DriveView.works`; not, of a drive that is not there."""
        found = self.drives.get(drive)
        return found is not None and found.works

    @property
    def working_drives(self) -> int:
        return sum(drive.works for drive in self.drives.values())

    @property
    def free_drives(self) -> list[str]:
        """Those that work and have no mount, by name."""
        return sorted(one.name for one in self.drives.values() if one.works and one.name not in self.mounts)

    def is_leaving(self, mount: MountView) -> bool:
        """On its way out. A volume that its drive keeps is not: the drive is down then."""
        return mount.ending and self.works(mount.drive)

    @property
    def mounted(self) -> Mapping[str, MountView]:
        """By volume."""
        return self._mounted

    # ------------------------------------------------------------------ the rest

    def set_archives(self, need: ArchiveNeed) -> None:
        """What waits for one pool now; nothing: it is forgotten."""
        if need.newest_at is not None:
            self.newest_archives[need.pool] = need.newest_at
        if need.files > 0:
            self.archives[need.pool] = need
        else:
            self.archives.pop(need.pool, None)

    def set_media(self, needs: Iterable[MediaNeed]) -> None:
        """All volumes that want a mount for their own sake, the oldest first."""
        self.media = {(need.volume, need.purpose): need for need in needs}

    def allot(self, group: str, owner: str, allotment: Allotment) -> None:
        """Of an owner inside his group; with no owner: of the group among groups."""
        self.usage.allot(group, owner, allotment)

    def charge(self, share: Share, drive_seconds: float, at: float) -> None:
        """So much drive time has gone to this share."""
        half_life = self.usage_half_life_seconds
        self.usage.charge(share.group, share.owner, drive_seconds, at=at, half_life_seconds=half_life)
