"""What lies on tape behind a good flush becomes true in the catalog: copies, the volume's end, dead extents, indexes.

`commit_written` and `catalog.adoption` are the only places where copies come from. Every statement is under the fence
of its mount; the order of locks is the mount, the files, the recalls, the archives. Nothing here knows what a tape is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import events
from catalog.archives import enqueue_archives
from catalog.errors import StaleEpoch
from catalog.recalls import fence, insert_demand
from catalog.sql import load
from catalog.states import GOOD_VOLUME_STATES, VolumeState

_SQL = {name: sa.text(statement) for name, statement in load("queues").items()}


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
    caller's); safe to repeat with the same arguments when its outcome is unknown. Copies of the same number on volumes
    that are being repacked go with it, and recalls that wait for those turn to the new ones. Raises StaleEpoch: nothing
    is recorded under a mount that is over.
    """
    volume = await fence(connection, epoch)
    files: list[int] = []
    rewritten: list[int] = []
    if written:
        rewritten = await _lock(connection, epoch, [one.archive_id for one in written])
        files = await _add_copies(connection, epoch, volume, written)
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
    elif rewritten:
        await _replace(connection, rewritten, volume)
    return await tell_safe(connection, files)


async def _lock(connection: AsyncConnection, epoch: int, archive_ids: Sequence[int]) -> list[int]:
    """Hold the files that these archives are of; those of them that are moved here from a volume under repacking."""
    arguments = {"epoch": epoch, "archives": list(archive_ids)}
    moving = (await connection.scalars(_SQL["written_rewrites"], arguments)).all()
    if moving:
        # Against a recall that is being asked for: it would wait for a copy that is about to go.
        await connection.execute(_SQL["files_lock"], {"files": list(moving)})
        await connection.execute(_SQL["recalls_lock"], {"files": list(moving)})
    await connection.execute(_SQL["written_hold"], arguments)
    return list(moving)


async def _add_copies(connection: AsyncConnection, epoch: int, volume: str, written: Sequence[Written]) -> list[int]:
    arguments = {
        "epoch": epoch,
        "volume": volume,
        "archives": [one.archive_id for one in written],
        "tape_files": [one.tape_file for one in written],
        "first_blocks": [one.first_block for one in written],
        "byte_offsets": [one.byte_offset for one in written],
        "lengths": [one.length for one in written],
        "home_age_seconds": HOME_REFRESH_SECONDS,
    }
    return list((await connection.scalars(_SQL["archives_written"], arguments)).all())


async def _replace(connection: AsyncConnection, files: Sequence[int], volume: str) -> None:
    """The copies that were rewritten on `volume` go; who waits for one of them waits for the new one."""
    gone = (await connection.scalars(_SQL["copies_replaced"], {"files": list(files), "volume": volume})).all()
    await insert_demand(connection, sorted(set(gone)))


async def tell_safe(connection: AsyncConnection, files: Collection[int]) -> list[int]:
    """Which of these files, whose copies were just recorded, are safe; an event for each."""
    safe = (await connection.execute(_SQL["became_safe"], {"files": list(files)})).all() if files else []
    await events.emit_many(connection, [("file.safe", row.stored_path, {"file_id": row.id}) for row in safe])
    return [row.id for row in safe]


#: where a group lies is written again after so long, so that it is not forgotten while it grows
HOME_REFRESH_SECONDS = 3600.0
#: where a group lies that nobody has added to for so long matters no more
HOME_KEEP_SECONDS = 30 * 86400.0


async def forget_homes(connection: AsyncConnection, *, seconds: float = HOME_KEEP_SECONDS, limit: int = 10_000) -> int:
    """Where groups that nobody has added to for so long lie matters no more; how many were forgotten."""
    arguments = {"seconds": seconds, "limit": limit}
    return (await connection.execute(_SQL["homes_forget"], arguments)).rowcount


async def record_end(
    connection: AsyncConnection,
    epoch: int,
    volume: str,
    *,
    tape_files: int,
    end_block: int,
    written_bytes: int,
    dead: Sequence[DeadExtent] = (),
    index_block: int | None = None,
    verified: bool = True,
) -> VolumeState:
    """The volume's end moves forward, and dead extents are kept. Raises StaleEpoch when it would move back.

    `verified`: this is the end that was found on the tape, or written there; False: there may be more behind it.

    `index_block`: the last tape file is an index, which begins there and tells of everything before it. The state of
    the volume, which does not change before the transaction ends.
    """
    arguments = {
        "volume": volume,
        "tape_files": tape_files,
        "end_block": end_block,
        "written_bytes": written_bytes,
        "index_block": index_block,
        "verified": verified,
    }
    row = (await connection.execute(_SQL["volume_end"], arguments)).one_or_none()
    if row is None:
        raise StaleEpoch(epoch=epoch)
    if dead:
        await connection.execute(
            _SQL["dead_extents"],
            {
                "volume": volume,
                "generation": row.generation,
                "tape_files": [extent.tape_file for extent in dead],
                "first_blocks": [extent.first_block for extent in dead],
                "blocks": [extent.blocks for extent in dead],
                "whys": [extent.why[:1000] for extent in dead],
            },
        )
    return VolumeState(row.state)
