"""Writing: archives of one pool, claimed in batches, recorded only behind a good flush, in the order the rules ask for.

The mover has flushed when it says Written; then one transaction records copies, the volume's end and the dead extents;
then the mover is told. A file that could not be written is nobody's copy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import ClassVar, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import mounts, queues, recalls, replicas, volumes
from catalog.written import record_end
from catalog.database import CACHE, EVENTS, PLANNER
from catalog.errors import Retry, TapeError
from catalog.queues import ClaimedArchive, DeadExtent
from catalog.states import VolumeState
from tapeserver import frames
from tapeserver.frames import Committed, FromMover, Loaded, Write, WriteFailed, WriteItem, Written
from tapeserver.library import DriveFault, Fenced, HardwareError, MediumError, NotReady, VolumeOverflow, WriteError
from tapeserver.mountcontext import MountContext
from tapeserver.turns import Turn

WHO = "capstan"
#: the answers of a drive, as opposed to what is wrong with one file or with the cache
DRIVE_CODES = frozenset(
    error.code
    for error in (TapeError, DriveFault, MediumError, WriteError, HardwareError, VolumeOverflow, NotReady, Fenced)
)
#: failures that are the cache's, after which the drive is given back
CACHE_FAILURES_MAX = 50


class WriteTurn(Turn):
    purpose: ClassVar[Literal["recall", "archive"]] = "archive"

    def __init__(self, context: MountContext, *, seconds_min: float) -> None:
        """`seconds_min`: so long it writes before it gives way to recalls of its volume that wait."""
        super().__init__(context)
        self._seconds_min = seconds_min
        self._began_at = context.now
        self._out: dict[int, ClaimedArchive] = {}
        self._remaining_bytes: int | None = None
        self._cache_failures = 0
        #: the volume takes nothing more
        self.closed = False
        #: what the drive said when it could not write
        self.medium_failure: str | None = None

    async def loaded(self, message: Loaded) -> None:
        work = self.context.work
        blank = work.generation == 0
        dead = _dead(message.dead)

        async def record(connection: AsyncConnection) -> None:
            await recalls.fence(connection, work.epoch)
            if blank:
                await volumes.labelled(
                    connection, work.volume, generation=1, end_block=message.end_block, pool=work.pool
                )
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
        work = self.context.work = _moved(
            self.context.work, message.tape_files, message.end_block, generation=work.generation or 1
        )
        self._remaining_bytes = message.remaining_bytes

    def outstanding(self) -> int:
        return len(self._out)

    def give_way(self) -> bool:
        return self.closed or (self.context.recalls_wait and self.context.now - self._began_at > self._seconds_min)

    async def top_up(self) -> None:
        config, work = self.context.config, self.context.work
        if len(self._out) > config.archives_files_max // 2 or work.pool is None:
            return
        bytes_max = config.archives_bytes_max
        if self._remaining_bytes is not None:
            bytes_max = min(bytes_max, self._remaining_bytes)
        pool = work.pool
        claimed = await self.context.commit(
            lambda connection: queues.claim_archives(
                connection, pool, work.epoch, config.archives_files_max - len(self._out), bytes_max
            )
        )
        if not claimed:
            return
        self._idle_since = None
        items = []
        for one in claimed:
            self._out[one.archive_id] = one
            url = await self.context.bulk_url(one.cache_server, one.cache_url, "read")
            items.append(
                WriteItem(
                    archive_id=one.archive_id,
                    copy_number=one.copy_number,
                    replica_id=one.replica_id,
                    record=one.file,
                    cache_url=url,
                    pool=pool,
                )
            )
        await self.context.link.send(Write(items=items))

    async def handle(self, message: FromMover) -> None:
        if isinstance(message, Written):
            await self._written(message)
        elif isinstance(message, WriteFailed):
            await self._failed(message)

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
            await mounts.add_progress(connection, work.epoch, files=len(written), bytes=length)

        await self.context.commit(record)
        self.context.work = _moved(work, message.tape_files, message.end_block, written_bytes=total)
        self.files += len(written)
        if self._remaining_bytes is not None:
            self._remaining_bytes = max(0, self._remaining_bytes - message.written_bytes)
        for one in written:
            self._out.pop(one.archive_id, None)
        for channel in (PLANNER, EVENTS, CACHE):
            self.context.database.wake(channel)
        await self.context.link.send(Committed(batch=message.batch))

    async def _failed(self, message: WriteFailed) -> None:
        mine = {id: self._out.pop(id) for id in message.archive_ids if id in self._out}
        if not mine:
            return
        work = self.context.work
        if message.volume_full:
            await self._close_volume(list(mine))
        elif message.code in DRIVE_CODES:
            # The medium's or the drive's, never the files': it hits all that was not flushed at once.
            self.medium_failure = f"{message.code}: {message.text}"
            await self.context.commit(lambda connection: queues.release_archives(connection, work.epoch, list(mine)))
        elif message.code == "dropped" or message.retry == Retry.LATER.value:
            self._cache_failures += 1
            if self._cache_failures > CACHE_FAILURES_MAX or not self._out:
                self.problem = f"the cache does not give files: {message.text}"
            await self.context.commit(lambda connection: queues.release_archives(connection, work.epoch, list(mine)))
        else:
            await self._files_failed(mine, message)
        for channel in (PLANNER, CACHE):
            self.context.database.wake(channel)

    async def _files_failed(self, mine: dict[int, ClaimedArchive], message: WriteFailed) -> None:
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
        left = list(self._out)
        self._out.clear()
        if left:
            epoch = self.context.work.epoch
            await self.context.commit(lambda connection: queues.release_archives(connection, epoch, left))


def _dead(found: list[frames.DeadExtent]) -> list[DeadExtent]:
    return [
        DeadExtent(tape_file=one.tape_file, first_block=one.first_block, blocks=one.blocks, why=one.why)
        for one in found
    ]


def _moved(
    work: mounts.MountWork,
    tape_files: int,
    end_block: int,
    *,
    written_bytes: int | None = None,
    generation: int | None = None,
) -> mounts.MountWork:
    """The same mount, with the volume's end where it is now."""
    return dataclasses.replace(
        work,
        tape_files=tape_files,
        end_block=end_block,
        written_bytes=work.written_bytes if written_bytes is None else written_bytes,
        generation=work.generation if generation is None else generation,
    )
