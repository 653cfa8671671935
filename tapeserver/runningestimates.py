"""When will the mounts that are under way be through? Pure: what they have to do still, when their drives come free.

What comes after them is `tapeserver.estimates`' to run forward.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from catalog.model import InHand
from tapeserver.expectedtimes import Estimates
from tapeserver.pace import IN_LIFE, Pace
from tapeserver.planner.picture import Picture
from tapeserver.planner.views import MountView
from tapeserver.planner.volumes import MOVED_BYTES_TYPICAL
from tapeserver.poolestimates import geometry_to_write, writing_time

#: of a volume that is read so many files count as in the mover's hand, when nobody has counted them: late arrivals come
#: behind these
HANDED_OUT_FILES = 16
#: reads that a mover is given take no longer together, as far as is known of the medium
HAND_SECONDS_MAX = 300.0


class Running:
    """The mounts that are under way: what they have to do still, and when their drives come free of it."""

    def __init__(self, picture: Picture, now: float, found: Estimates, pace: Pace = IN_LIFE) -> None:
        self._picture, self._now, self._found, self._pace = picture, now, found, pace
        #: by drive: the volume is ready, and it has done what is left
        self._ready: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._drives = [one.name for one in picture.drives.values() if one.works]
        self._mounts = [picture.mounts[name] for name in self._drives if name in picture.mounts]

    def read(self, in_hand: Mapping[str, InHand] | None) -> None:
        """What is mounted gets its times."""
        volumes, found, pace = self._picture.volumes, self._found, self._pace
        slots = [volumes.slot(mount.volume) for mount in self._mounts]
        passes = pace.reading(volumes, np.array(slots, dtype=np.int64)).passes.tolist()
        for mount, slot, whole in zip(self._mounts, slots, passes, strict=True):
            geometry = volumes.geometry(slot)
            ready = max(self._now, mount.began_at + pace.ready_seconds(geometry))
            files = float(volumes.files[slot])
            # As before it was mounted: nobody is to be told something else only because it begins.
            seconds = whole if files else 0.0
            if in_hand is None:
                handed = min(float(HANDED_OUT_FILES), files)
                hand_seconds = seconds * handed / files if files else 0.0
                files, seconds = files - handed, seconds - hand_seconds
            else:
                hand = in_hand.get(mount.volume, InHand())
                handed, hand_seconds = float(hand.files_read), 0.0
                if handed:
                    searched = 1 + volumes.scatter * (handed - 1)
                    taken = pace.pass_seconds(geometry, handed, searched, hand.bytes_read)
                    hand_seconds = min(taken, HAND_SECONDS_MAX)
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
                self._pace.writing_seconds(geometry, hand.files_written, hand.bytes_written)
                for hand, geometry in zip(hands, geometries, strict=True)
            ]
            whole = 0.0
            if need is not None and need.oldest_at is not None:
                whole = self._pace.writing_seconds(geometries[0], need.files, need.bytes) / len(mounts)
            for mount, seconds in zip(mounts, mine, strict=True):
                self._done[mount.drive] += seconds + whole
            if whole or any(mine):
                begins = min(self._ready[mount.drive] for mount in mounts)
                self._found.pools[pool] = writing_time(need, begins, sum(mine) / len(mine), whole)
        return set(filling)

    def cut(self, mount_seconds_max: float, wanted_seconds: float) -> dict[int, tuple[float, float]]:
        """Volumes whose mounts will have had their drives for too long while others wait: slot -> when each gives way,
        and how long what is left takes then. `wanted_seconds`: all that drives are wanted for by others."""
        found: dict[int, tuple[float, float]] = {}
        free = self.free_at()
        for mount in self._mounts:
            slot = self._picture.volumes.slot(mount.volume)
            in_hand_at = self._ready[mount.drive] + float(self._found.in_hand[slot])
            at = max(self._now, in_hand_at, mount.began_at + mount_seconds_max)
            left = self._done[mount.drive] - at
            if mount.purpose != "recall" or mount.ending or left <= 0:
                continue
            if wanted_seconds > sum(max(0.0, at - one) for name, one in free.items() if name != mount.drive):
                self._done[mount.drive] = at
                found[slot] = at, left
        return found

    def free_at(self) -> dict[str, float]:
        """When each drive that works comes free."""
        return {name: self._free_of(name) for name in self._drives}

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
        slot = volumes.slot(mount.volume)
        written = float(volumes.written[slot])
        moved = min(written, MOVED_BYTES_TYPICAL)
        return self._done[drive] + self._pace.unload_seconds(volumes.geometry(slot), moved, written)
