"""Archives: the one write to tape of one copy of one file. Which pool, who takes them, what becomes of them.

A row lives from the put until its copy is recorded (`catalog.written`). What has the same collocation key is claimed
together, so that it lies together. When an archive is worth a mount is the planner's to say; what bytes are where on
the tape is the mover's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import tables
from catalog.model import FileRecord
from catalog.recalls import HEARTBEAT_SECONDS_MAX, fence
from catalog.records import record_of
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("queues").items()}
_CLAIM = _SQL["archives_claim"].columns(digests=JSONB)
#: so long a group is left to the volume on which it began
HOME_SECONDS = 60.0


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
    #: what has the same key is read together
    collocation: str = ""
    #: somebody waits for it to be safe
    urgent: bool = False
    #: since it was queued
    age_seconds: float = 0.0


async def enqueue_archives(connection: AsyncConnection, file_ids: Collection[int], *, urgent: bool = False) -> int:
    """An archive for every required copy that is missing and not queued yet, of files that are on disk; how many.

    Safe to repeat. Never two copies in one library.
    """
    if not file_ids:
        return 0
    arguments = {"files": sorted(set(file_ids)), "urgent": urgent}
    return int(await connection.scalar(_SQL["archives_enqueue"], arguments) or 0)


async def enqueue_rewrites(connection: AsyncConnection, file_ids: Collection[int], volume: str) -> int:
    """An archive for each copy on `volume` of these files, which are on disk: into that volume's pool; how many.

    For repacking: when the new copy is recorded, the old one goes (`catalog.written`). Safe to repeat.
    """
    if not file_ids:
        return 0
    arguments = {"files": sorted(set(file_ids)), "volume": volume}
    return int(await connection.scalar(_SQL["archives_enqueue_rewrites"], arguments) or 0)


async def drop_rewrites(connection: AsyncConnection, volume: str) -> int:
    """The copies on `volume` stay where they are: what was queued to replace them, and is not taken, goes; how many."""
    return int(await connection.scalar(_SQL["archives_drop_rewrites"], {"volume": volume}) or 0)


async def make_urgent(connection: AsyncConnection, file_ids: Collection[int]) -> int:
    """Somebody waits for these files to be safe: their pools are eligible at once."""
    if not file_ids:
        return 0
    arguments = {"files": sorted(set(file_ids))}
    return int(await connection.scalar(_SQL["archives_make_urgent"], arguments) or 0)


async def any_wait(connection: AsyncConnection, pool: str | None) -> bool:
    """Whether an archive that may be tried now waits for `pool`."""
    statement = sa.text(
        "select exists (select from archive where pool = :pool and state = 'queued' and not_before <= capstan_now())"
    )
    return bool(await connection.scalar(statement, {"pool": pool}))


async def urgent_archives(connection: AsyncConnection, epoch: int, *, limit: int = 1000) -> set[int]:
    """Archives that this mount has and somebody waits for, at most so many."""
    return set((await connection.scalars(_SQL["archives_urgent"], {"epoch": epoch, "limit": limit})).all())


async def claim_archives(
    connection: AsyncConnection,
    pool: str,
    epoch: int,
    files_max: int,
    bytes_max: int,
    *,
    going_on: str = "",
    home_seconds: float = HOME_SECONDS,
) -> list[ClaimedArchive]:
    """Take archives of `pool`, at most so many files and bytes, but at least one; in the order of writing.

    Urgent ones first; then the rest of the group `going_on`, which the last claim may not have taken whole; then the
    collocation group of the oldest, all of it, then that of the next oldest. A group that has begun on another volume
    which is mounted for writing is left to that one for `home_seconds`. Nothing for a volume that was closed meanwhile.
    Raises StaleEpoch.
    """
    volume = await fence(connection, epoch)
    arguments = {
        "pool": pool,
        "epoch": epoch,
        "volume": volume,
        "files_max": files_max,
        "bytes_max": bytes_max,
        "going_on": going_on,
        "home_seconds": home_seconds,
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
            collocation=row.key,
            urgent=row.urgent,
            age_seconds=row.age_seconds,
            file=record_of(row, row.stored_path),
        )
        for row in rows
    ]


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


async def release_unknown(connection: AsyncConnection, epoch: int, known: Collection[int]) -> int:
    """What a mount has and does not know of goes back: the answer of the claim's commit was lost; how many."""
    archive = tables.archive
    wanted = sa.select(archive.c.id).where(archive.c.epoch == epoch, archive.c.state == "claimed")
    taken = set((await connection.scalars(wanted)).all()) - set(known)
    return await release_archives(connection, epoch, taken) if taken else 0


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
