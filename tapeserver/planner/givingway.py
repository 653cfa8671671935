"""Which mounts end: those that rest for long, and as many as others wait for. Pure.

Who waits was found out by `deciding`; nothing here gives a drive away.
"""

from __future__ import annotations

import math
from typing import Literal

from tapeserver.planner.outcome import Limit, Outcome
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy
from tapeserver.planner.views import GiveWay, MountView

Why = Literal["rested", "idle", "verifies", "long"]


def give_way(outcome: Outcome, picture: Picture, policy: Policy, now: float) -> list[GiveWay]:
    """Mounts that end: those at rest for long; and as many as others wait for drives that do not come free else."""
    ending = _Ending(outcome, picture, policy, now)
    ending.rested()
    ending.in_the_way()
    ending.for_drives()
    ending.for_limits()
    return list(ending.found.values())


class _Ending:
    """One decision's; each method adds what ends for its reason."""

    def __init__(self, outcome: Outcome, picture: Picture, policy: Policy, now: float) -> None:
        self._outcome, self._picture, self._policy, self._now = outcome, picture, policy, now
        #: by drive
        self.found: dict[str, GiveWay] = {}
        live = [mount for mount in picture.mounts.values() if not mount.ending]
        # A drive that keeps its volume, and is down for it, comes free for nobody.
        self._leaving = [one.drive for one in picture.mounts.values() if picture.is_leaving(one)]
        #: pools whose volumes are all in use
        self._blocked = {
            name for (kind, name), one in outcome.explained.items() if kind == "pool" and one.code == "volumes_in_use"
        }
        self._idle = sorted(
            (one for one in live if _is_idle(one, picture, now)), key=lambda one: (one.idle_since, one.drive)
        )
        self._verifying = sorted(
            (one for one in live if one.purpose == "verify"), key=lambda one: (one.pool not in self._blocked, one.drive)
        )
        self._long = sorted(
            (one for one in live if one.purpose != "verify" and now - one.began_at > policy.mount_seconds_max),
            key=lambda one: (one.began_at, one.drive),
        )

    def rested(self) -> None:
        policy = self._policy
        spare = math.ceil(policy.spare_part * self._picture.working_drives)
        missing = spare - len(self._outcome.free) - len(self._leaving)
        for mount in self._idle:
            if self._now - (mount.idle_since or self._now) >= policy.dismount_delay_seconds:
                self._end(mount, "rested")
        for mount in self._idle:
            # What nobody came back for is taken out before its drive is wanted: the next need not wait for that.
            if len(self.found) < missing and _is_forgotten(mount, self._picture, policy):
                self._end(mount, "rested")

    def in_the_way(self) -> None:
        """Of what has just rested; or, whatever drives are free, of what their sessions do not do."""
        fits = self._outcome.fits
        resting = fits.without([(volume, "recall") for volume in self._outcome.resting], self._over())
        for mount in self._idle:
            if mount.drive not in self.found and (self._is_wanted_otherwise(mount) or fits.take(resting, mount.drive)):
                self._end(mount, "idle")
        # A pool whose only volume with room is being verified, or read for long, waits for that volume.
        for mount in self._verifying:
            if mount.pool in self._blocked:
                self._end(mount, "verifies")
        for mount in self._long:
            if mount.pool in self._blocked and mount.purpose != "archive":
                self._end(mount, "long")

    def for_drives(self) -> None:
        fits = self._outcome.fits
        waiting = [(wish.volume, wish.purpose) for wish in self._outcome.waiting.values()]
        unserved = fits.without(waiting, self._over())
        for mount, why in self._ends():
            if mount.drive not in self.found and fits.take(unserved, mount.drive):
                self._end(mount, why)

    def for_limits(self) -> None:
        """One at a time: while that one is on its way out its drive still counts."""
        for held in sorted(self._outcome.held, key=lambda one: (one.purpose, sorted(one.groups))):
            over = self._over()
            if any(one.drive in over and _counts(one, held) for one in self._picture.mounts.values()):
                continue
            first = next(((one, why) for one, why in self._ends() if _counts(one, held)), None)
            if first is not None:
                self._end(*first)

    def _ends(self) -> list[tuple[MountView, Why]]:
        """Who may end at all, in this order."""
        return [
            *((one, "idle") for one in self._idle),
            *((one, "verifies") for one in self._verifying),
            *((one, "long") for one in self._long),
        ]

    def _over(self) -> list[str]:
        """Drives that come free."""
        return [*self._leaving, *self.found]

    def _end(self, mount: MountView, why: Why) -> None:
        self.found.setdefault(
            mount.drive,
            GiveWay(
                epoch=mount.epoch,
                drive=mount.drive,
                volume=mount.volume,
                age_seconds=self._now - mount.began_at,
                why=why,
            ),
        )

    def _is_wanted_otherwise(self, mount: MountView) -> bool:
        media, picture = self._picture.media, self._picture
        if mount.pool in self._blocked and mount.purpose != "archive":
            return True
        if (mount.volume, "index") in media or (mount.volume, "label") in media:
            return True
        # Nobody waits for a verify: it comes when it is its turn, and when nobody comes back for the volume.
        if (mount.volume, "verify") not in media or not _is_forgotten(mount, picture, self._policy):
            return False
        return sum(one.purpose == "verify" for one in picture.mounts.values()) < self._policy.verify_drives_max


def _counts(mount: MountView, held: Limit) -> bool:
    """Against this limit."""
    return mount.purpose == held.purpose and (not held.groups or mount.group in held.groups)


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


def could_end(mount: MountView, policy: Policy, now: float) -> bool:
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
