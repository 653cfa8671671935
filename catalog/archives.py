"""Archives: the one write to tape of one copy of one file. Which pool, who takes them, what becomes of them.

A row lives from the put until its copy is recorded by `commit_written`, the one place where copies come from. When an
archive is worth a mount is the planner's to say; what bytes are where on the tape is the mover's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import events
from catalog.errors import StaleEpoch
from catalog.model import FileRecord
from catalog.recalls import HEARTBEAT_SECONDS_MAX, fence
from catalog.sql import load
from catalog.states import GOOD_VOLUME_STATES, VolumeState

_SQL = {name: sa.text(statement) for name, statement in load("queues").items()}
_CLAIM = _SQL["archives_claim"].columns(digests=JSONB)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedArchive:
    archive_id: int
    file: FileRecord
    copy_number: int
    attempts: int
    #: where its bytes are read from: a replica on a live cache server
    replica_id: int
    cache_server: str
    cache_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One archive that lies on the tape behind a good flush."""

    archive_id: int
    tape_file: int
    first_block: int
    byte_offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadExtent:
    """Tape files on a volume that the catalog refers to with nothing."""

    tape_file: int
    first_block: int
    blocks: int
    why: str


async def enqueue_archives(connection: AsyncConnection, file_ids: Collection[int], *, urgent: bool = False) -> int:
    """An archive for every required copy that is missing and not queued yet, of files that are on disk; how many.

    Safe to repeat. Never two copies in one library.
    """
    if not file_ids:
        return 0
    arguments = {"files": sorted(set(file_ids)), "urgent": urgent}
    return int(await connection.scalar(_SQL["archives_enqueue"], arguments) or 0)


async def make_urgent(connection: AsyncConnection, file_ids: Collection[int]) -> int:
    """Somebody waits for these files to be safe: their pools are eligible at once."""
    if not file_ids:
        return 0
    arguments = {"files": sorted(set(file_ids))}
    return int(await connection.scalar(_SQL["archives_make_urgent"], arguments) or 0)


async def claim_archives(
    connection: AsyncConnection, pool: str, epoch: int, files_max: int, bytes_max: int
) -> list[ClaimedArchive]:
    """Take archives of `pool`: urgent ones first, then by age; at most so many files and bytes, but at least one.

    Raises StaleEpoch.
    """
    await fence(connection, epoch)
    arguments = {
        "pool": pool,
        "epoch": epoch,
        "files_max": files_max,
        "bytes_max": bytes_max,
        "heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX,
    }
    rows = await connection.execute(_CLAIM, arguments)
    return [
        ClaimedArchive(
            archive_id=row.archive_id,
            copy_number=row.copy_number,
            attempts=row.attempts,
            replica_id=row.replica_id,
            cache_server=row.cache_server,
            cache_url=row.cache_url,
            file=FileRecord(
                file_id=row.file_id,
                path=row.path,
                size=row.size,
                adler32=row.adler32,
                mtime_ns=row.mtime_ns,
                mode=row.mode,
                owner=row.owner,
                group=row.grp,
                storage_class=row.storage_class,
                digests=row.digests,
            ),
        )
        for row in rows
    ]


async def commit_written(
    connection: AsyncConnection,
    epoch: int,
    written: Sequence[Written],
    *,
    tape_files: int,
    end_block: int,
    written_bytes: int,
    dead: Sequence[DeadExtent] = (),
) -> list[int]:
    """Record what lies behind a good flush: copies, the end of the volume, dead extents; the files that are safe now.

    `tape_files`, `end_block` and `written_bytes` are the volume's totals after the flush. One transaction (the
    caller's); safe to repeat with the same arguments when its outcome is unknown. Raises StaleEpoch: nothing is
    recorded under a mount that is over.
    """
    volume = await fence(connection, epoch)
    arguments = {
        "epoch": epoch,
        "volume": volume,
        "archives": [one.archive_id for one in written],
        "tape_files": [one.tape_file for one in written],
        "first_blocks": [one.first_block for one in written],
        "byte_offsets": [one.byte_offset for one in written],
        "lengths": [one.length for one in written],
    }
    files = list((await connection.scalars(_SQL["archives_written"], arguments)).all()) if written else []
    state = await record_end(
        connection,
        epoch,
        volume,
        tape_files=tape_files,
        end_block=end_block,
        written_bytes=written_bytes,
        dead=dead,
    )
    if state not in GOOD_VOLUME_STATES:
        # The volume was taken out of use while this mount had the archives: these copies do not count.
        await enqueue_archives(connection, files)
    safe = (await connection.execute(_SQL["became_safe"], {"files": files})).all() if files else []
    await events.emit_many(connection, [("file.safe", row.stored_path, {"file_id": row.id}) for row in safe])
    return [row.id for row in safe]


async def record_end(
    connection: AsyncConnection,
    epoch: int,
    volume: str,
    *,
    tape_files: int,
    end_block: int,
    written_bytes: int,
    dead: Sequence[DeadExtent] = (),
) -> VolumeState:
    """The volume's end moves forward, and dead extents are kept. Raises StaleEpoch when it would move back.

    The state of the volume, which does not change before the transaction ends.
    """
    rows = await connection.execute(
        _VOLUME_END,
        {"volume": volume, "tape_files": tape_files, "end_block": end_block, "written_bytes": written_bytes},
    )
    row = rows.one_or_none()
    if row is None:
        raise StaleEpoch(epoch=epoch)
    for extent in dead:
        await connection.execute(
            _DEAD_EXTENT,
            {
                "volume": volume,
                "generation": row.generation,
                "tape_file": extent.tape_file,
                "first_block": extent.first_block,
                "blocks": extent.blocks,
                "why": extent.why,
            },
        )
    return VolumeState(row.state)


_VOLUME_END = sa.text(
    "update volume set tape_files = :tape_files, end_block = :end_block, written_bytes = :written_bytes, "
    "end_verified = true where vid = :volume and end_block <= :end_block and tape_files <= :tape_files "
    "returning generation, state"
)
_DEAD_EXTENT = sa.text(
    "insert into dead_extent (volume, generation, tape_file, first_block, blocks, why) "
    "values (:volume, :generation, :tape_file, :first_block, :blocks, :why) on conflict do nothing"
)


async def fail_archives(
    connection: AsyncConnection,
    archive_ids: Collection[int],
    epoch: int,
    *,
    why: str,
    attempts_max: int,
    backoff_seconds: float,
) -> list[int]:
    """These could not be written: tried again after a pause, or HELD when tried too often; the held ones."""
    if not archive_ids:
        return []
    rows = await connection.execute(
        _SQL["archives_fail"],
        {
            "archives": sorted(archive_ids),
            "epoch": epoch,
            "why": why[:1000],
            "attempts_max": attempts_max,
            "backoff_seconds": backoff_seconds,
        },
    )
    return [row.id for row in rows if row.state == "held"]


async def release_archives(connection: AsyncConnection, epoch: int, archive_ids: Collection[int] | None = None) -> int:
    """What a mount had taken (or only `archive_ids` of it) goes back in the queue, no blame; how many."""
    arguments = {"epoch": epoch, "archives": None if archive_ids is None else sorted(archive_ids)}
    return int(await connection.scalar(_SQL["archives_release"], arguments) or 0)


async def drop_archives(connection: AsyncConnection, file_ids: Collection[int]) -> int:
    """The files were removed: nothing is to be written any more."""
    if not file_ids:
        return 0
    return int(await connection.scalar(_SQL["archives_remove"], {"files": sorted(set(file_ids))}) or 0)


async def retry_archives(connection: AsyncConnection) -> int:
    """Held archives are queued anew, those in back-off tried at once; how many."""
    return int(await connection.scalar(_SQL["archives_retry"]) or 0)


async def fail_over_archives(connection: AsyncConnection, *, failover_after_seconds: float, limit: int = 10_000) -> int:
    """Archives whose library has been away too long move to the next pool of their class; how many. Never back."""
    arguments = {"failover_after_seconds": failover_after_seconds, "limit": limit}
    return int(await connection.scalar(_SQL["archives_fail_over"], arguments) or 0)


async def repair_copies_of(connection: AsyncConnection, volume: str, *, chunk: int = 10_000) -> int:
    """Copies on `volume` stopped counting: archives for the files that are still on disk; how many."""
    queued, after = 0, 0
    while True:
        arguments = {"volume": volume, "after": after, "limit": chunk}
        files = list((await connection.scalars(_SQL["archives_repair"], arguments)).all())
        queued += await enqueue_archives(connection, files)
        if len(files) < chunk:
            return queued
        after = files[-1]


async def repair_arrivals(connection: AsyncConnection, file_ids: Collection[int]) -> int:
    """These came from tape to disk: archives for those that lack a copy, which could not be made without the bytes."""
    if not file_ids:
        return 0
    lacking = await connection.scalars(_SQL["lacking_copies"], {"files": sorted(set(file_ids))})
    return await enqueue_archives(connection, lacking.all())
