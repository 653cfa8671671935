"""Writing: archives of one pool, claimed in pieces, recorded only behind a good flush, in the order the rules ask for.

The mover has flushed when it says Written; then one transaction records copies, the volume's end and the dead extents;
then the mover is told. A file that could not be written is nobody's copy. What the mover finds behind the catalog's end
is adopted first, and an index ends it. What is claimed, and which files share a tape file, is `supplying`'s to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import fullindexes, mounts, queues, recalls, replicas, tapeindex, volumes
from catalog.database import CACHE, EVENTS, PLANNER, QUEUES
from catalog.errors import Retry, TapeError
from catalog.queues import DeadExtent
from catalog.states import VolumeState
from catalog.written import record_end
from tapeserver import frames
from tapeserver.adopting import Adopting
from tapeserver.format.objects import VOLUME_LABEL_OBJECTS
from tapeserver.frames import (
    Committed,
    Drop,
    Flush,
    Found,
    FromMover,
    Idle,
    IndexFailed,
    IndexWritten,
    Loaded,
    Progress,
    WriteFailed,
    Written,
)
from tapeserver.handover import Out, Outstanding
from tapeserver.indexing import record_index, record_missing, send_index
from tapeserver.library import DriveFault, Fenced, HardwareError, MediumError, NotReady, VolumeOverflow, WriteError
from tapeserver.mountcontext import MountContext
from tapeserver.outcomes import CACHE_AWAY
from tapeserver.supplying import Supply
from tapeserver.turns import Turn

log = structlog.get_logger(__name__)

WHO = "capstan"
#: the answers of a drive, as opposed to what is wrong with one file or with the cache
DRIVE_CODES = frozenset(
    error.code
    for error in (TapeError, DriveFault, MediumError, WriteError, HardwareError, VolumeOverflow, NotReady, Fenced)
)
#: what the mover says of an index that no mount could write either
NO_ROOM = "volume_full"
#: failures that are the cache's, after which the drive is given back
CACHE_FAILURES_MAX = 50
#: archives that go back to the queue in one transaction
RELEASED_MAX = 50_000
#: volumes that are mounted to be given their last index, and nothing else
ENDED = frozenset({VolumeState.FULL.value, VolumeState.CLOSED.value})


class WriteTurn(Turn):
    purpose: ClassVar[Literal["recall", "archive"]] = "archive"

    def __init__(self, context: MountContext, *, seconds_min: float) -> None:
        """`seconds_min`: so long it writes before it gives way to recalls of its volume that wait.

        On a volume that is full or closed it writes nothing but the last index, if that is missing.
        """
        super().__init__(context)
        self._seconds_min = seconds_min
        self._began_at = context.now
        self._out = Outstanding()
        self._supply = Supply(context, self._out)
        self._remaining_bytes: int | None = None
        self._cache_failures = 0
        self._adopting = Adopting(context)
        self._index_answer: IndexWritten | IndexFailed | None = None
        #: the volume takes nothing more
        self.closed = context.work.volume_state in ENDED
        #: what the drive said when it could not write
        self.medium_failure: str | None = None

    async def found(self, message: Found) -> None:
        await self._labelled()
        await self._adopting.found(message)

    async def _labelled(self) -> None:
        """A volume that the catalog takes for blank bears its new label now, before anything counts as being on it.

        Of a catalog that was restored from an older backup more than the label may be there already.
        """
        work, generation = self.context.work, self.context.work.generation + 1
        if work.volume_state != VolumeState.BLANK:
            return

        async def record(connection: AsyncConnection) -> None:
            await recalls.fence(connection, work.epoch)
            await volumes.labelled(
                connection, work.volume, generation=generation, end_block=VOLUME_LABEL_OBJECTS, pool=work.pool
            )

        await self.context.commit(record)
        self._moved(
            generation=generation,
            tape_files=0,
            end_block=VOLUME_LABEL_OBJECTS,
            written_bytes=0,
            index_block=0,
            volume_state=VolumeState.ACTIVE.value,
        )

    async def loaded(self, message: Loaded) -> None:
        await self._labelled()
        work = self.context.work
        # Those before the last that was adopted are in the catalog with it.
        dead = _dead([one for one in message.dead if one.tape_file > work.tape_files])

        async def record(connection: AsyncConnection) -> None:
            await recalls.fence(connection, work.epoch)
            if self.closed:
                await fullindexes.started(connection, work.volume)
            await record_end(
                connection,
                work.epoch,
                work.volume,
                tape_files=message.tape_files,
                end_block=message.end_block,
                written_bytes=work.written_bytes,
                dead=dead,
            )

        await self.context.commit(record)
        self._moved(tape_files=message.tape_files, end_block=message.end_block)
        self._remaining_bytes = message.remaining_bytes

    def _moved(self, **changed: Any) -> None:
        """The same mount, with the volume's end where it is now."""
        self.context.work = dataclasses.replace(self.context.work, **changed)

    def outstanding(self) -> int:
        return len(self._out)

    def give_way(self) -> bool:
        return self.closed or (self.context.recalls_wait and self.context.now - self._began_at > self._seconds_min)

    def waiting(self) -> bool:
        return len(self._supply.gathering) > 0

    async def top_up(self) -> None:
        if await self._supply.top_up(room_bytes=self._remaining_bytes):
            self._idle_since = None

    def heard(self, message: Progress | Idle) -> None:
        self._out.heard(message)

    async def handle(self, message: FromMover) -> None:
        match message:
            case Written():
                await self._written(message)
            case WriteFailed():
                await self._failed(message)
            case IndexWritten():
                total = await record_index(self.context, message)
                self._moved(
                    tape_files=message.tape_files,
                    end_block=message.end_block,
                    written_bytes=total,
                    index_block=message.index_block,
                )
                self._index_answer = message
            case IndexFailed():
                log.warning("index not written", epoch=self.context.work.epoch, code=message.code, why=message.text)
                self._index_answer = message

    # -- the end of the turn

    async def finish(self) -> None:
        """An index, if this is the end of the mount's writing. Whatever prevents it, the volume is valid without."""
        context = self.context
        going = context.stop_why is None and not self.closed and self.give_way()
        if going or context.closing.is_set() or self.problem is not None or self.medium_failure is not None:
            return
        epoch, closed = context.work.epoch, self.closed
        if await context.commit(lambda connection: tapeindex.may_write(connection, epoch)):
            await self._drain()
        if self._out or not self.working():
            return
        wanted = await send_index(context, full=True if closed else None)
        failed = await self._index_failed() if wanted is not None else None
        if wanted is None or not wanted.full or failed is None or not self.working() or failed.code in DRIVE_CODES:
            return  # what the drive's word is followed by may not have been heard yet
        if failed.code == NO_ROOM:
            await record_missing(context, failed.text)
        # What is new since the last index is less, if there was one; together they tell as much.
        if wanted.previous_index and await send_index(context, full=False) is not None:
            await self._index_failed()

    async def _index_failed(self) -> IndexFailed | None:
        """Wait for the mover's word on the index that it has; what was in the way of it, if it has said so."""
        context = self.context
        self._index_answer = None
        deadline = context.now + context.config.index_seconds_max
        while self._index_answer is None and self.working() and not context.closing.is_set() and context.now < deadline:
            await self.take_in(0.1)
        return self._index_answer if isinstance(self._index_answer, IndexFailed) else None

    async def _drain(self) -> None:
        """What the mover has not begun goes back; wait until all the rest is reported."""
        context = self.context
        ahead = self._out.ahead_archive_ids
        if ahead and not self.closed:
            self._out.drop(ahead)
            await context.link.send(Drop(archive_ids=ahead))
        await context.link.send(Flush(last=True))
        deadline = context.now + context.stop_seconds
        while self._out and not self._out.idle and self.working() and not context.closing.is_set():
            if context.now > deadline:
                return
            await self.take_in(0.1)
        if self._out.idle:
            # Everything is reported but what was dropped before it was begun.
            await self.give_back()

    async def _written(self, message: Written) -> None:
        work = self.context.work
        total = work.written_bytes + message.written_bytes
        written = [
            queues.Written(
                archive_id=one.archive_id,
                tape_file=one.tape_file,
                first_block=one.first_block,
                byte_offset=one.byte_offset,
                length=one.length,
            )
            for one in message.items
        ]

        async def record(connection: AsyncConnection) -> None:
            # Repeated when the answer of its commit was lost: of the counts only the mount's would grow twice.
            repeated = (await volumes.volume_at(connection, work.volume)).tape_files >= message.tape_files
            await queues.commit_written(
                connection,
                work.epoch,
                written,
                tape_files=message.tape_files,
                end_block=message.end_block,
                written_bytes=total,
                dead=_dead(message.dead),
            )
            length = sum(one.length for one in written)
            if repeated:
                return
            await mounts.add_progress(connection, work.epoch, files=len(written), bytes=length)

        await self.context.commit(record)
        self._moved(tape_files=message.tape_files, end_block=message.end_block, written_bytes=total)
        self.files += len(written)
        if self._remaining_bytes is not None:
            self._remaining_bytes = max(0, self._remaining_bytes - message.written_bytes)
        for one in written:
            self._out.forget(one.archive_id)
        for channel in (QUEUES, EVENTS, CACHE):
            self.context.database.wake(channel)
        await self.context.link.send(Committed(batch=message.batch))

    async def _failed(self, message: WriteFailed) -> None:
        mine = {id: out for id in message.archive_ids if (out := self._out.forget(id)) is not None}
        if not mine:
            return
        if message.volume_full:
            await self._close_volume(list(mine))
        elif message.code in DRIVE_CODES:
            # The medium's or the drive's, never the files': it hits all that was not flushed at once.
            self.medium_failure = f"{message.code}: {message.text}"
            await self._release(list(mine))
        elif message.code == "dropped" or message.retry == Retry.LATER.value:
            self._cache_failures += message.code != "dropped"
            if message.code != "dropped" and (self._cache_failures > CACHE_FAILURES_MAX or not self._out):
                self.problem = f"{CACHE_AWAY} give files: {message.text}"
            await self._release(list(mine))
        else:
            await self._files_failed(mine, message)
        for channel in (PLANNER, CACHE):
            self.context.database.wake(channel)

    async def _files_failed(self, mine: dict[int, Out], message: WriteFailed) -> None:
        work, config = self.context.work, self.context.config

        async def fail(connection: AsyncConnection) -> None:
            if message.code == "replica_damaged":
                for one in mine.values():
                    await replicas.quarantine(connection, one.replica_id, message.text)
            await queues.fail_archives(
                connection,
                list(mine),
                work.epoch,
                why=f"{message.code}: {message.text}",
                attempts_max=config.attempts_max,
                backoff_seconds=config.backoff_seconds,
            )

        await self.context.commit(fail)

    async def _close_volume(self, archive_ids: Collection[int]) -> None:
        work = self.context.work
        self.closed = True

        async def close(connection: AsyncConnection) -> None:
            await recalls.fence(connection, work.epoch)
            await queues.release_archives(connection, work.epoch, archive_ids)
            volume = await volumes.volume_at(connection, work.volume)
            if volume.state is VolumeState.ACTIVE:
                await volumes.set_state(
                    connection, "volume", work.volume, VolumeState.FULL.value, who=WHO, reason="it is full"
                )

        await self.context.commit(close)
        self.context.database.wake(PLANNER)

    async def record(self, *, now: bool = False) -> None:
        """Nothing waits: a batch is committed when it is reported, because the mover waits for the answer."""

    async def give_back(self) -> None:
        left = self._out.archive_ids + self._supply.gathering.archive_ids
        self._out.clear()
        self._supply.gathering.clear()
        await self._release(left)

    async def _release(self, archive_ids: Sequence[int]) -> None:
        """Back to the queue, without blame; page by page, because all of a lost flush may be millions."""
        epoch = self.context.work.epoch
        for at in range(0, len(archive_ids), RELEASED_MAX):
            page = archive_ids[at : at + RELEASED_MAX]
            await self.context.commit(partial(queues.release_archives, epoch=epoch, archive_ids=page))


def _dead(found: list[frames.DeadExtent]) -> list[DeadExtent]:
    return [
        DeadExtent(tape_file=one.tape_file, first_block=one.first_block, blocks=one.blocks, why=one.why)
        for one in found
    ]
