"""What a mount has still to read of its volume, and what comes next. Knows neither mover nor catalog.

The session brings all that is wanted of the volume, again and again; what it has taken is gone from here, and stays as
it was taken. The rest, with late arrivals ahead of the head and behind it, is put in the order that
`tapeserver.ordering` finds, which ends near the begin of the tape while others want the drive; a few that arrive while
many wait join the order that there is. Of a medium whose locates cost nothing known it is read by position, from the
head on and then from the front: so the tape is passed over once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from catalog.queues import WantedRecall
from tapeserver.drivemodel import LOCATE_SECONDS_MIN, Geometry
from tapeserver.format.objects import locate_member
from tapeserver.ordering import EXACT_MAX, insert_reads, order_reads, warm_up

#: so many are looked at together; of more the volume is read in windows of position
WANTED_MAX = 20_000
#: above so many, arrivals are put where they cost least until they are one in so many: an order of all anew takes a
#: hundred times longer, and is less than one per cent better
INSERT_ABOVE, INSERT_SHARE = 512, 50

Place = tuple[int, int]


class Segment(NamedTuple):
    """Files that are read in one go, and where they lie: what a drive puts in order."""

    files: list[int]
    first_block: int
    blocks: int


@cache
def _warm_up_once() -> None:
    """The first orders are numpy's, those behind the compilation the best. A daemon: no end waits for a compiler."""
    threading.Thread(target=warm_up, name="ordering", daemon=True).start()


class ReadingList:
    """One mount's. `geometry` None: nothing is known of the medium."""

    def __init__(self, geometry: Geometry | None, block_size: int) -> None:
        self._geometry, self._block_size = geometry, block_size
        #: the next one last, where it is taken off
        self._rest: list[WantedRecall] = []
        #: joined the order since all was put in order
        self._inserted = 0
        #: where the head is after what was taken: (block, byte offset), and in bytes from the begin of the tape
        self.head: Place = (0, 0)
        self._head_byte = 0

    def __len__(self) -> int:
        return len(self._rest)

    def has_arrivals(self, wanted: Sequence[WantedRecall]) -> bool:
        """Whether anything of it is new, and the model is to put it in order."""
        return self._geometry is not None and bool(self._arrived(wanted))

    def refresh(self, wanted: Sequence[WantedRecall], *, home: bool = False) -> bool:
        """All that is wanted now, in the place of what was here. Arrivals may take seconds: call it in a thread.

        `home`: others wait for the drive, so that the rewind behind the last counts as well.

        True: all was put in order by the model, which a drive may know better.
        """
        still = {one.file_id for one in wanted}
        rest = [one for one in reversed(self._rest) if one.file_id in still]
        arrived = self._arrived(wanted)
        anew = False
        if self._geometry is not None:
            rest, anew = self._with(rest, arrived, self._geometry, home)
        elif arrived:
            by_place = sorted([*rest, *arrived], key=_by_place)
            ahead = [one for one in by_place if (one.first_block, one.byte_offset) >= self.head]
            rest = [*ahead, *by_place[: len(by_place) - len(ahead)]]
        self._rest = rest[::-1]
        return anew

    def take(self, files_max: int, bytes_max: int, seconds_max: float = float("inf")) -> dict[int, float]:
        """The next files in their order, and what reading each takes as far as is known; no more than given.

        The first comes however large it is. Not in place: a copy of this list may have to begin again from here.
        """
        taken: dict[int, float] = {}
        room, left = bytes_max, seconds_max
        for one in reversed(self._rest):
            seconds = self._seconds_of(one)
            if len(taken) >= files_max or (taken and (one.bytes > room or seconds > left)):
                break
            room, left = room - one.bytes, left - seconds
            taken[one.file_id] = seconds
            self.head, self._head_byte = (one.first_block, one.byte_offset + 1), self._end_byte(one)
        if taken:
            self._rest = self._rest[: -len(taken)]
        return taken

    def segments(self) -> list[Segment]:
        """The rest in its present order, for the drive; of a medium of which nothing is known, nothing."""
        if self._geometry is None:
            return []
        block_size, found = self._block_size, []
        for piece in self._joined(self._rest[::-1], self._geometry):
            first, end = self._first_byte(piece[0]) // block_size, -(-self._end_byte(piece[-1]) // block_size)
            found.append(Segment([one.file_id for one in piece], first, end - first))
        return found

    def rearrange(self, segments: Sequence[Segment], order: Sequence[int]) -> None:
        """Read `segments`, as they were given, in this order; what has been taken since is passed over.

        What has come since stays behind them. An order that does not name each once is no order: nothing is done.
        """
        if sorted(order) != list(range(len(segments))):
            return
        waiting = {one.file_id: one for one in reversed(self._rest)}
        told = [waiting.pop(file_id) for index in order for file_id in segments[index].files if file_id in waiting]
        self._rest = [*told, *waiting.values()][::-1]

    def _arrived(self, wanted: Sequence[WantedRecall]) -> list[WantedRecall]:
        known = {one.file_id for one in self._rest}
        return [one for one in wanted if one.file_id not in known]

    def _seconds_of(self, one: WantedRecall) -> float:
        if self._geometry is None:
            return 0.0
        way = self._geometry.locate_seconds(self._head_byte, self._first_byte(one))
        return way + self._geometry.transfer_seconds(one.bytes)

    def _with(
        self, rest: list[WantedRecall], arrived: Sequence[WantedRecall], geometry: Geometry, home: bool
    ) -> tuple[list[WantedRecall], bool]:
        """In their order; and whether that is a new one."""
        if not arrived:
            return rest, False
        self._inserted += len(arrived)
        if len(rest) <= max(INSERT_ABOVE, self._inserted * INSERT_SHARE):
            self._inserted = 0
            return self._ordered(sorted([*rest, *arrived], key=_by_place), geometry, home), True
        files = [*rest, *sorted(arrived, key=_by_place)]
        starts = [self._first_byte(one) for one in files]
        order = insert_reads(geometry, starts, [one.bytes for one in files], len(rest), head=self._head_byte)
        return [files[index] for index in order.tolist()], False

    def _ordered(self, by_place: Sequence[WantedRecall], geometry: Geometry, home: bool) -> list[WantedRecall]:
        pieces = self._joined(by_place, geometry)
        starts = np.array([self._first_byte(piece[0]) for piece in pieces], dtype=np.int64)
        ends = np.array([self._end_byte(piece[-1]) for piece in pieces], dtype=np.int64)
        if len(pieces) > EXACT_MAX:
            _warm_up_once()
        order = order_reads(geometry, starts, np.maximum(ends - starts, 0), head=self._head_byte, home=home)
        return [one for index in order.indices.tolist() for one in pieces[index]]

    def _joined(self, files: Sequence[WantedRecall], geometry: Geometry) -> list[list[WantedRecall]]:
        """Files that it is cheaper to read on to than to search for are one piece."""
        pieces = [[one] for one in files[:1]]
        for before, one in pairwise(files):
            gap = self._first_byte(one) - self._end_byte(before)
            if 0 <= gap <= LOCATE_SECONDS_MIN / geometry.gap_seconds_per_byte:
                pieces[-1].append(one)
            else:
                pieces.append([one])
        return pieces

    def _first_byte(self, one: WantedRecall) -> int:
        block, within = locate_member(one.first_block, one.byte_offset, self._block_size)
        return block * self._block_size + within

    def _end_byte(self, one: WantedRecall) -> int:
        return self._first_byte(one) + one.bytes


def _by_place(one: WantedRecall) -> tuple[int, int, int]:
    return one.first_block, one.byte_offset, one.file_id
