"""What was claimed and is not handed to the mover yet: small files wait a little, so that they make a bundle. Pure.

A bundle goes when it is full, or when its oldest file has waited so long since it was queued. What somebody waits for,
and what is large, never waits. It neither claims nor knows the mover; time comes in as an argument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

from catalog.archives import ClaimedArchive
from tapeserver import bundling
from tapeserver.bundling import Limits, tape_files


class Gathering:
    """Of one writing turn. `seconds`: the age at which a small file waits no longer for others."""

    def __init__(self, limits: Limits, *, seconds: float) -> None:
        self._limits, self._seconds = limits, seconds
        self._waiting: list[ClaimedArchive] = []
        #: archive -> when it waits no longer
        self._until: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def archive_ids(self) -> list[int]:
        return [one.archive_id for one in self._waiting]

    @property
    def bytes(self) -> int:
        return sum(one.file.size for one in self._waiting)

    def add(self, claimed: Iterable[ClaimedArchive], now: float) -> None:
        """These were claimed just now, in the order of writing."""
        for one in claimed:
            self._waiting.append(one)
            self._until[one.archive_id] = now + self._seconds - max(0.0, one.age_seconds)

    def hurry(self, archive_ids: Collection[int]) -> None:
        """Somebody waits for these of them, since they were claimed."""
        wanted = set(archive_ids)
        self._waiting = [
            dataclasses.replace(one, urgent=True) if one.archive_id in wanted else one for one in self._waiting
        ]

    def take(self, now: float) -> list[list[ClaimedArchive]]:
        """The tape files that are to be written now, in their order; the rest goes on waiting."""
        everything = _in_order(self._waiting)
        small = [one for one in everything if not one.urgent and one.file.size < self._limits.member_bytes_max]
        if any(self._until[one.archive_id] <= now for one in small):
            left: list[ClaimedArchive] = []
            ready = list(tape_files(everything, self._limits))
        elif not bundling.fills(small, self._limits):
            left, waits = small, {one.archive_id for one in small}
            ready = list(tape_files((one for one in everything if one.archive_id not in waits), self._limits))
        else:
            ready = list(tape_files(everything, self._limits))
            left = [] if _goes(ready[-1], self._limits) else ready.pop()
        self._waiting = left
        self._until = {one.archive_id: self._until[one.archive_id] for one in left}
        return ready

    def clear(self) -> None:
        self._waiting, self._until = [], {}


def _goes(last: list[ClaimedArchive], limits: Limits) -> bool:
    """Whether the last of a row of tape files need not be left open for more."""
    return last[0].urgent or last[0].file.size >= limits.member_bytes_max or bundling.fills(last, limits)


def _in_order(waiting: Iterable[ClaimedArchive]) -> list[ClaimedArchive]:
    """As one claim would have given them: what is urgent first, then group by group in the order of their first."""
    first: dict[str, int] = {}
    for one in waiting:
        first.setdefault(one.collocation, len(first))
    return sorted(waiting, key=lambda one: (not one.urgent, first[one.collocation]))
