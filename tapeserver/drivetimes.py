"""When drives come free in a run forward, and who may have them: by kind of drive, and by the limits of drives. Pure.

It gives the next drive to whoever it is told to; whose turn it is, is `tapeserver.estimates`' to say. Who may not begin
yet, because all the drives that he may have are in use, takes the drive that comes free for him, and leaves those that
are free before that to the others.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tapeserver.compatibility import can
from tapeserver.planner.fits import Fits, doing
from tapeserver.planner.picture import Picture
from tapeserver.planner.policy import Policy


class Turn(NamedTuple):
    """A drive, from when, and how it is given back."""

    at: float
    #: of drives of one kind
    kind: list[float]
    #: of the limits that it counts against
    limits: Sequence[list[float]]

    def until(self, end: float) -> None:
        insort(self.kind, end)
        for limit in self.limits:
            heapq.heapreplace(limit, end)


class DriveTimes:
    """Of the drives that work. Times on the picture's clock."""

    def __init__(self, picture: Picture, policy: Policy, fits: Fits, now: float, free_at: Mapping[str, float]) -> None:
        """`free_at`: by drive that works, when it has done what it does now."""
        self._picture, self._fits, self._now = picture, fits, now
        self._kinds: dict[str, list[float]] = {}
        for name, at in free_at.items():
            # One that has been taken away since: for the rest of this run its kind is not known.
            drive = None if fits.all else picture.drives.get(name)
            kind = drive.model if drive is not None else ""
            insort(self._kinds.setdefault(kind, []), at)
        self._able: dict[tuple[str, str], list[list[float]]] = {}
        #: kinds of drives that anything waits for
        self._wanted = list(self._kinds.values())
        self._in_all: dict[str, list[float]] = {}
        self._of_groups: dict[tuple[str, str], list[float]] = {}
        most = {"recall": policy.reading_drives_max, "archive": policy.writing_drives_max}
        for purpose, number in most.items():
            if number is not None:
                self._in_all[purpose] = self._slots(number, purpose, None, free_at)
        for group, limit in picture.limits.items():
            for purpose, number in (("recall", limit.reading), ("archive", limit.writing)):
                if number is not None:
                    self._of_groups[purpose, group] = self._slots(number, purpose, group, free_at)
        #: purposes for which groups matter
        self._grouped = {purpose for purpose, _ in self._of_groups}
        self._limited = bool(self._in_all or self._of_groups)

    def _slots(self, number: int, purpose: str, group: str | None, free_at: Mapping[str, float]) -> list[float]:
        """When each of so many drives at once may be had, as a heap."""
        used = [
            free_at.get(mount.drive, np.inf)
            for mount in self._picture.mounts.values()
            if mount.purpose == purpose and group in (None, mount.group)
        ]
        slots = heapq.nlargest(number, used + [self._now] * number)
        heapq.heapify(slots)
        return slots

    def __len__(self) -> int:
        return sum(len(kind) for kind in self._kinds.values())

    def look_at(self, media: Iterable[tuple[str, str]]) -> None:
        """These, as (purpose, medium), are all that wait: drives that can have none of them come free for nobody."""
        if self._fits.all:
            return
        wanted = {id(kind): kind for purpose, medium in media for kind in self._kinds_for(purpose, medium)}
        self._wanted = list(wanted.values()) or list(self._kinds.values())

    @property
    def first(self) -> float:
        """When the next drive comes free for anybody who waits."""
        wanted = self._wanted
        return wanted[0][0] if len(wanted) == 1 else min(kind[0] for kind in wanted)

    def take(self, purpose: str, medium: str, slot: int | None, groups: Sequence[str] = ()) -> Turn | None:
        """The next drive to read volume `slot`, or for these groups; it is to be given back. None: it may have none,
        ever."""
        kinds = self._kinds_for(purpose, medium)
        if not kinds:
            return None
        kind = kinds[0] if len(kinds) == 1 else min(kinds, key=_first)
        limits = self._limits(purpose, slot, groups) if self._limited else ()
        if not limits:
            return Turn(kind.pop(0), kind, limits)
        allowed = max(limit[0] if limit else np.inf for limit in limits)
        if allowed == np.inf:
            return None
        place = 0
        if allowed > kind[0]:
            # The last of those that are free by then: mostly the one that this limit waited for.
            kind = max(kinds, key=lambda one: one[bisect_right(one, allowed) - 1] if one[0] <= allowed else -np.inf)
            place = bisect_right(kind, allowed) - 1
        return Turn(max(kind.pop(place), allowed), kind, limits)

    def fits(self, turn: Turn, purpose: str, medium: str) -> bool:
        """Whether drives like this one can do that."""
        return any(kind is turn.kind for kind in self._kinds_for(purpose, medium))

    def idle_seconds(self, purpose: str, medium: str, until: float) -> float:
        """Of all drives that can do this, what they could do for others until then."""
        return sum(max(0.0, until - at) for kind in self._kinds_for(purpose, medium) for at in kind)

    def _limits(self, purpose: str, slot: int | None, groups: Sequence[str]) -> list[list[float]]:
        limits = [self._in_all[purpose]] if purpose in self._in_all else []
        if purpose in self._grouped:
            whose = groups if slot is None else self._groups_of(slot)
            slots = [self._of_groups.get((purpose, group)) for group in whose]
            known = [one for one in slots if one is not None]
            # It counts against the first that has room; one without a limit always has.
            if known and len(known) == len(slots):
                limits.append(min(known, key=lambda one: one[0] if one else np.inf))
        return limits

    def _groups_of(self, slot: int) -> list[str]:
        shares, demand = self._picture.shares, self._picture.demand
        return list(dict.fromkeys(shares[int(demand.share[row])].group for row in demand.rows_of(slot)))

    def _kinds_for(self, purpose: str, medium: str) -> list[list[float]]:
        """Of drives that can do that, first those that can do least else."""
        if self._fits.all:
            return self._wanted
        does = doing(purpose)
        found = self._able.get((does, medium))
        if found is None:
            media = self._picture.volumes.media
            breadth = {model: sum(can(does, model, other) for other in media) for model in self._kinds}
            models = sorted((model for model in self._kinds if can(does, model, medium)), key=breadth.__getitem__)
            found = self._able[does, medium] = [self._kinds[model] for model in models]
        return found


def _first(kind: list[float]) -> float:
    return kind[0]
