"""What a mount has still to read of its volume, and what comes next. Pure; knows neither mover nor catalog.

The session brings all that is wanted of the volume, again and again; what it has taken is gone from here. By position
from the head on, then from the front: so the tape is passed over once, late arrivals ahead of the head are met on the
way, and those behind it come after the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from catalog.queues import WantedRecall

#: so many are looked at together; of more the volume is read in windows of position
WANTED_MAX = 20_000

Place = tuple[int, int]


class ReadingList:
    def __init__(self) -> None:
        self._rest: list[WantedRecall] = []
        #: where the head is after what was taken: (block, byte offset)
        self.head: Place = (0, 0)

    def __len__(self) -> int:
        return len(self._rest)

    def refresh(self, wanted: Sequence[WantedRecall]) -> None:
        """All that is wanted now, in the place of what was here."""
        by_place = sorted(wanted, key=lambda one: (one.first_block, one.byte_offset, one.file_id))
        ahead = [one for one in by_place if (one.first_block, one.byte_offset) >= self.head]
        # The next one last, where it is taken off.
        self._rest = [*by_place[: len(by_place) - len(ahead)][::-1], *ahead[::-1]]

    def take(self, files_max: int, bytes_max: int) -> list[WantedRecall]:
        """The next ones, no more than given, but the first however large it is."""
        taken: list[WantedRecall] = []
        room = bytes_max
        for one in reversed(self._rest):
            if len(taken) >= files_max or (taken and one.bytes > room):
                break
            room -= one.bytes
            taken.append(one)
        if taken:
            # Not in place: a copy of this list may have to begin again from here.
            self._rest = self._rest[: -len(taken)]
            self.head = (taken[-1].first_block, taken[-1].byte_offset + 1)
        return taken
