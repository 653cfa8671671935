"""Promises of a reclaim towards backups: restored from the newest one, nothing points at what was given up."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import endings, failures, fullindexes, maintenance, mounts, queues, repacks, restoring, volumes
from catalog.audits import Limits
from catalog.database import Database
from catalog.errors import NotReclaimable
from catalog.reclaiming import in_the_way
from catalog.states import MountState
from tests.store.media import mounted, two_libraries
from tests.store.test_volume_life import backup, count, delete, move, on_tape, reclaim

LIMITS = Limits(files_ahead=100, bytes_ahead=10**9)


@pytest.fixture
async def media(database: Database) -> Database:
    async with database.transaction() as connection:
        await two_libraries(connection)
        await connection.execute(sa.text("update cache_server set heartbeat_at = capstan_now()"))
    return database


async def write_all(connection: AsyncConnection, volume: str = "E00002") -> int:
    """A whole mount that writes what is queued for pool east; how many copies."""
    epoch = await mounted(connection, volume, "east1", "archive")
    assert await mounts.take(connection, epoch, "ts")
    await mounts.advance(connection, epoch, MountState.RUNNING)
    claimed = await queues.claim_archives(connection, "east", epoch, 100, 10**9)
    written = [
        queues.Written(
            archive_id=one.archive_id, tape_file=at, first_block=10 * at, byte_offset=0, length=one.file.size
        )
        for at, one in enumerate(claimed, 1)
    ]
    await queues.commit_written(connection, epoch, written, tape_files=50, end_block=5000, written_bytes=5)
    await endings.end_mount(connection, epoch, "done")
    return len(claimed)


async def repacked(database: Database) -> int:
    """E00001, of which a backup was made, with its three files on E00002 now; the repack's id, not yet ended."""
    async with database.transaction() as connection:
        await on_tape(connection, 3, "E00001", on_disk=True)
        await move(connection, "E00001", "closed")
        await backup(connection)
        repack = await maintenance.begin(connection, "repack", "E00001", who="ann", reason="test")
    for _ in range(2):
        async with database.transaction() as connection:
            await repacks.step(connection, repack, LIMITS)
    async with database.transaction() as connection:
        assert await write_all(connection) == 3
        assert await count(connection, "copy where volume = 'E00001'") == 0
    return repack


async def test_a_cancelled_repack_asks_for_a_newer_backup_too(media: Database) -> None:
    repack = await repacked(media)
    async with media.transaction() as connection:
        await maintenance.cancel(connection, repack, who="ann", reason="test")
    async with media.transaction() as connection:
        with pytest.raises(NotReclaimable, match="backup"):
            await reclaim(connection)
        await backup(connection)
        await reclaim(connection)


async def test_a_repack_whose_record_is_gone_asks_for_a_newer_backup_still(media: Database) -> None:
    repack = await repacked(media)
    for _ in range(4):
        async with media.transaction() as connection:
            await repacks.step(connection, repack, LIMITS)
    async with media.transaction() as connection:
        await connection.execute(sa.text("delete from maintenance"))
    async with media.transaction() as connection:
        with pytest.raises(NotReclaimable, match="backup"):
            await reclaim(connection)


async def test_copies_that_broke_and_were_made_again_elsewhere_ask_for_a_newer_backup(media: Database) -> None:
    async with media.transaction() as connection:
        files = await on_tape(connection, 3, "E00001", on_disk=True)
        await move(connection, "E00001", "closed")
        await backup(connection)
    async with media.transaction() as connection:
        await failures.break_copies(connection, "E00001", [(file, "test") for file in files])
        assert await write_all(connection) == 3
    async with media.transaction() as connection:
        with pytest.raises(NotReclaimable, match="backup"):
            await reclaim(connection)


async def test_a_volume_whose_end_nobody_has_looked_at_since_a_restore_is_not_given_up(media: Database) -> None:
    async with media.transaction() as connection:
        await delete(connection, await on_tape(connection, 1, "E00001"), days_ago=20)
        await backup(connection, days_ago=1)
        await restoring.begin_new_life(connection, source="x.dump")
    async with media.transaction() as connection:
        with pytest.raises(NotReclaimable, match="restored"):
            # Labelled and empty, as far as the backup knows.
            await volumes.relabel(connection, "E00002", who="ann", reason="test")
        await move(connection, "E00001", "closed")
        with pytest.raises(NotReclaimable, match="restored"):
            await reclaim(connection)
        assert (await in_the_way(connection, "E00001") or "").count("restored") == 1


async def test_every_volume_of_a_restored_catalog_is_mounted_once_to_find_its_end(media: Database) -> None:
    async with media.transaction() as connection:
        await on_tape(connection, 1, "E00001")
        await move(connection, "E00001", "full")
        assert await fullindexes.carry_on(connection) == ["E00001"]
        await restoring.begin_new_life(connection, source="x.dump")
    async with media.transaction() as connection:
        due = await fullindexes.carry_on(connection)
        # E00001 waits already.
        assert due == ["E00002", "E00003", "W00001", "W00002", "W00003"]
        await connection.execute(sa.text("update volume set end_verified = true where vid <> 'W00003'"))
        assert await fullindexes.carry_on(connection) == []
        assert await count(connection, "maintenance where kind = 'index' and state = 'queued'") == 2
