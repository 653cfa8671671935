"""Reading: recalls of one volume, claimed in the order of its reading list, each into space that was reserved for it.

Late arrivals join the list while the mount runs; in which order they are read is the list's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import ClassVar, Literal

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import endings, failures, mounts, queues, recalls, replicas
from catalog.database import CACHE, EVENTS, PLANNER, QUEUES
from catalog.errors import Retry
from catalog.queues import ClaimedRecall, WantedRecall
from catalog.replicas import Recalled, Reservation
from tapeserver.frames import Arrange, Arranged, Drop, FromMover, Loaded, Read, ReadDone, ReadFailed, ReadItem
from tapeserver.mountcontext import MountContext, geometry_in
from tapeserver.mover.bulkhttp import CacheStreamBroken
from tapeserver.outcomes import CACHE_AWAY, CACHE_FULL
from tapeserver.readinglist import WANTED_MAX, ReadingList, Segment
from tapeserver.turns import Turn

log = structlog.get_logger(__name__)

#: all that is wanted of the volume is looked at anew so often, or when the list runs short; and so much longer it is
#: left alone than the look took
LIST_SECONDS = 1.0
LIST_SHARE = 20.0
#: so few are put in order at once
ORDER_IN_THREAD = 16
#: tries for cache space while the mover has nothing to do
SPACE_TRY_SECONDS = 0.5
#: failures in a row that are the cache's, after which the drive is given back
CACHE_FAILURES_MAX = 50

#: what was claimed, the space for it, and what reading it takes as far as is known
_Given = tuple[ClaimedRecall, Reservation, float]


class ReadTurn(Turn):
    purpose: ClassVar[Literal["recall", "archive", "verify"]] = "recall"

    def __init__(self, context: MountContext, *, seconds_max: float | None, stays: bool = True) -> None:
        """`seconds_max`: after that it gives way, when writes wait; None: it never does. `stays`: see the method."""
        super().__init__(context)
        self._stays = stays
        self._seconds_max = seconds_max
        self._began_at = context.now
        #: what the mover has
        self._out: dict[int, _Given] = {}
        self._arrived: list[Recalled] = []
        self._arrived_at = 0.0
        self._list = ReadingList(geometry_in(context.work), context.work.block_size)
        self._look_at = 0.0
        #: whether the drive may have an order of its own; the last question after it
        self._drive_answers = True
        self._question = 0
        self._asked: list[Segment] = []
        self._space_since: float | None = None
        self._space_tried_at = -SPACE_TRY_SECONDS
        self._cache_failures = 0
        #: what the drive, or the copy, said when a file could not be read
        self.medium_failure: str | None = None
        #: files whose copies could not be read
        self.copies_failed = 0
        #: drives in which copies had failed that were read well here
        self.drives_to_blame: set[str] = set()
        #: copies on this volume that have failed lately: to read one well is news
        self._suspected: set[int] = set()

    async def loaded(self, message: Loaded) -> None:
        volume = self.context.work.volume
        self._suspected = await self.context.commit(lambda connection: failures.suspected_files(connection, volume))

    def outstanding(self) -> int:
        return len(self._out)

    def waiting(self) -> bool:
        return self._space_since is not None

    def stays(self) -> bool:
        return self._stays and not self.context.archives_wait

    def give_way(self) -> bool:
        return self._seconds_max is not None and self.context.now - self._began_at > self._seconds_max

    async def top_up(self) -> None:
        await self._drop_abandoned()
        config = self.context.config
        room = config.recalls_files_max - len(self._out)
        if room < config.recalls_files_max // 2:
            return
        room_bytes = config.recalls_bytes_max - sum(recall.size for recall, _, _ in self._out.values())
        if room_bytes < config.recalls_bytes_max // 2:
            return
        if self._space_since is not None and self.context.now - self._space_tried_at < SPACE_TRY_SECONDS:
            self._waited_for_space()
            return
        room_seconds = config.recalls_seconds_max - sum(seconds for _, _, seconds in self._out.values())
        if room_seconds < config.recalls_seconds_max / 2:
            return
        if len(self._list) < room or self.context.now >= self._look_at:
            await self._look()
        given, refused = await self._claim(room, room_bytes, room_seconds)
        if refused:
            self.context.database.wake(CACHE)
            self._space_tried_at = self.context.now
            if self._space_since is None:
                self._space_since = self.context.now
            self._waited_for_space()
        if given or not refused:
            self._space_since = None
        if given:
            self._idle_since = None
            await self._hand_over(given)

    async def _claim(self, room: int, room_bytes: int, room_seconds: float) -> tuple[list[_Given], int]:
        """Claims and space for them, in one transaction; and how many went back for want of space."""
        epoch, volume = self.context.work.epoch, self.context.work.volume
        attempt = copy(self._list)
        wanted = attempt.take(room, room_bytes, room_seconds)
        again = False

        async def claim(connection: AsyncConnection) -> tuple[list[_Given], list[int]]:
            nonlocal again
            if again:
                # What was claimed by a commit whose answer was lost would wait for the end of this mount.
                known = [*self._out, *(one.file_id for one in self._arrived)]
                await endings.unclaim_unknown(connection, epoch, known)
            again = True
            claimed = await queues.claim_recalls(connection, volume, epoch, list(wanted))
            sizes = [(one.file_id, one.size) for one in claimed]
            seconds = self.context.config.reservation_seconds
            reserved = await replicas.reserve_recalls(connection, sizes, epoch, seconds)
            spaces = {one.file_id: one for one in reserved}
            refused = [one.file_id for one in claimed if one.file_id not in spaces]
            await endings.unclaim_recalls(connection, epoch, refused)
            given = [(one, spaces[one.file_id], wanted[one.file_id]) for one in claimed if one.file_id in spaces]
            return given, refused

        given, refused = await self.context.commit(claim)
        if refused:
            # They keep their place in the order, and the head goes no further than it does.
            attempt = copy(self._list)
            attempt.take(list(wanted).index(refused[0]), room_bytes, room_seconds)
        self._list = attempt
        return given, len(refused)

    async def _look(self) -> None:
        """Bring the list up to date: late arrivals come, what was cancelled or read elsewhere goes."""
        volume, head, began_at = self.context.work.volume, self._list.head, self.context.now

        async def wanted_now(connection: AsyncConnection) -> tuple[list[WantedRecall], bool]:
            wanted = await queues.wanted_recalls(connection, volume, limit=WANTED_MAX)
            if len(wanted) == WANTED_MAX:
                # More than is looked at together: a window from the head on, if there is anything.
                wanted = await queues.wanted_recalls(connection, volume, limit=WANTED_MAX, after=head) or wanted
            # Asked only where it counts: where nothing waits for a drive, it goes through all that was said last.
            new = self._list.has_arrivals(wanted)
            return wanted, new and await mounts.drives_wanted(connection, self.context.work.library)

        wanted, home = await self.context.commit(wanted_now)
        if len(wanted) > ORDER_IN_THREAD:
            anew = await asyncio.to_thread(partial(self._list.refresh, wanted, home=home))
        else:
            anew = self._list.refresh(wanted, home=home)
        self._look_at = self.context.now + max(LIST_SECONDS, LIST_SHARE * (self.context.now - began_at))
        if anew and self._drive_answers:
            await self._ask_the_drive()

    async def _ask_the_drive(self) -> None:
        """It knows its tape better than any model: what is new is put in order by it, if it ever answers.

        Only then: it stands still while it thinks, and what is left of its last order is in order.
        """
        segments = await asyncio.to_thread(self._list.segments)
        known = {file_id for segment in self._asked for file_id in segment.files}
        if len(segments) > 2 and not known.issuperset(file_id for segment in segments for file_id in segment.files):
            self._question, self._asked = self._question + 1, segments
            places = [(segment.first_block, segment.blocks) for segment in segments]
            await self.context.link.send(Arrange(number=self._question, segments=places))

    async def _hand_over(self, given: Sequence[_Given]) -> None:
        items = []
        for recall, space, seconds in given:
            self._out[recall.file_id] = (recall, space, seconds)
            items.append(
                ReadItem(
                    file_id=recall.file_id,
                    reservation_id=space.id,
                    size=recall.size,
                    adler32=recall.adler32,
                    generation=recall.place.generation,
                    tape_file=recall.place.tape_file,
                    first_block=recall.place.first_block,
                    byte_offset=recall.place.byte_offset,
                    path=recall.path,
                    cache_url=await self.context.bulk_url(space.cache_server, space.url, "write"),
                )
            )
        await self.context.link.send(Read(items=items))

    def _waited_for_space(self) -> None:
        since = self._space_since
        if since is None or self._out or self.context.now - since < self.context.config.space_wait_seconds:
            return
        self.problem = f"{CACHE_FULL} for {self.context.now - since:.0f} s"

    async def _drop_abandoned(self) -> None:
        gone = [file_id for file_id in self.context.abandoned if file_id in self._out]
        self.context.abandoned = []
        if gone:
            await self.context.link.send(Drop(file_ids=gone))
            spaces = [self._out.pop(file_id)[1].id for file_id in gone]
            await self._unclaim(gone, spaces)

    async def handle(self, message: FromMover) -> None:
        if isinstance(message, ReadDone):
            over = [(file, reservation) for file, reservation in message.files if self._is_over(file, reservation)]
            if over:
                if not self._arrived:
                    self._arrived_at = self.context.now
                self._arrived += [Recalled(reservation_id=reservation, file_id=file) for file, reservation in over]
                self._cache_failures = 0
                await self.record()
        elif isinstance(message, Arranged):
            if message.order is None:
                self._drive_answers = False
            elif message.number == self._question:
                self._list.rearrange(self._asked, message.order)
        elif isinstance(message, ReadFailed):
            given = self._out.get(message.file_id)
            if given is not None and self._is_over(message.file_id, message.reservation_id):
                await self._failed(message, given[1].cache_server)

    def _is_over(self, file_id: int, reservation_id: int) -> bool:
        """Whether it speaks of what the mover has now: a file dropped and wanted again has a new reservation."""
        present = self._out.get(file_id)
        if present is None or present[1].id != reservation_id:
            return False
        del self._out[file_id]
        return True

    async def _failed(self, message: ReadFailed, server: str) -> None:
        if message.code == "dropped" or message.retry == Retry.LATER.value:
            # Not the copy's fault: no attempt is counted.
            self._cache_failures += 1
            if message.code == CacheStreamBroken.code:
                await self._unreached(server, message.text)
            if self._cache_failures > CACHE_FAILURES_MAX or not self._out:
                self.problem = f"{CACHE_AWAY} take files: {message.text}"
            await self._unclaim([message.file_id], [message.reservation_id])
            return
        self.medium_failure = f"{message.code}: {message.text}"
        # What another copy helps against is this copy's; else the drive gives up, and says so next.
        of_copy = message.retry == Retry.OTHER_COPY.value
        self.copies_failed += of_copy
        failure = endings.RecallFailure(file_id=message.file_id, code=message.code, text=message.text, of_copy=of_copy)
        work, config = self.context.work, self.context.config

        async def fail(connection: AsyncConnection) -> None:
            await replicas.abandon(connection, [message.reservation_id])
            await endings.fail_recalls(
                connection,
                work.epoch,
                [failure],
                volume=work.volume,
                attempts_max=config.attempts_max,
                backoff_seconds=config.backoff_seconds,
                lifetime_seconds=config.failure_hours * 3600.0,
            )

        await self.context.commit(fail)
        self._suspected.add(message.file_id)
        self.context.database.wake(PLANNER)

    async def _unreached(self, server: str, why: str) -> None:
        """What is claimed next goes to another cache server, if one has room."""
        if await self.context.commit(lambda connection: replicas.unreached(connection, server)):
            log.warning("cache server not reached", cache_server=server, epoch=self.context.work.epoch, why=why)

    async def record(self, *, now: bool = False) -> None:
        config = self.context.config
        full = len(self._arrived) >= config.commit_files_max
        # Nothing else is under way: there is nothing to gather it with.
        due = not self._out or self.context.now - self._arrived_at >= config.commit_seconds
        if not self._arrived or not (now or full or due):
            return
        batch, self._arrived = self._arrived, []
        epoch, drive, volume = self.context.work.epoch, self.context.work.drive, self.context.work.volume
        acquitted = self._suspected.intersection(one.file_id for one in batch)

        async def arrive(connection: AsyncConnection) -> set[int]:
            await recalls.fence(connection, epoch)
            arrived = set(await replicas.commit_recalled(connection, batch, epoch=epoch))
            drives = await failures.acquit_copies(connection, drive=drive, volume=volume, files=acquitted)
            self.drives_to_blame.update(drives)
            return arrived

        arrived = await self.context.commit(arrive)
        self._suspected -= acquitted
        self.files += len(arrived)
        # A reservation that ran out takes its arrival with it.
        await self._unclaim([one.file_id for one in batch if one.file_id not in arrived], [])
        for channel in (QUEUES, EVENTS):
            self.context.database.wake(channel)

    async def give_back(self) -> None:
        spaces = [space.id for _, space, _ in self._out.values()]
        files = list(self._out)
        self._out.clear()
        await self._unclaim(files, spaces)

    async def _unclaim(self, files: Sequence[int], spaces: Sequence[int]) -> None:
        if files:
            epoch = self.context.work.epoch
            await self.context.commit(lambda connection: endings.unclaim_recalls(connection, epoch, files, spaces))
