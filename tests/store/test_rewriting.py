"""Promises of rewriting: the copy on a volume under repacking goes only when, and as soon as, its successor counts."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import namespace, queues
from catalog.database import Database
from catalog.queues import Written
from tests.store.media import claim_first, drop_replicas, make_copies, make_files, mounted, wait_for
from tests.waiting import somebody_waits


async def repacking(connection: AsyncConnection, count: int) -> list[int]:
    """Files with a copy on E00001, which is being repacked, and their bytes on disk."""
    files = await make_files(connection, count)
    await make_copies(connection, files, "E00001")
    await connection.execute(sa.text("update volume set state = 'full' where vid = 'E00001'"))
    await connection.execute(sa.text("update volume set state = 'repacking' where vid = 'E00001'"))
    return files


async def write(connection: AsyncConnection, epoch: int, *, first: int = 1) -> list[int]:
    claimed = await queues.claim_archives(connection, "east", epoch, 100, 10**9)
    written = [
        Written(archive_id=one.archive_id, tape_file=number, first_block=10 * number, byte_offset=512, length=100)
        for number, one in enumerate(claimed, first)
    ]
    return await queues.commit_written(
        connection, epoch, written, tape_files=99, end_block=5000 + first, written_bytes=1
    )


async def places(connection: AsyncConnection) -> list[tuple[int, str]]:
    rows = await connection.execute(sa.text("select file, volume from copy order by file, volume"))
    return [(row.file, row.volume) for row in rows]


async def test_a_rewritten_copy_replaces_the_one_under_repacking_in_one_step(media: Database) -> None:
    async with media.transaction() as connection:
        files = await repacking(connection, 3)
        assert await queues.enqueue_rewrites(connection, files, "E00001") == 3
        assert await queues.enqueue_rewrites(connection, files, "E00001") == 0
        safe = await write(connection, await mounted(connection, "E00002", "east1", "archive"))
        assert safe == files
        assert await places(connection) == [(file, "E00002") for file in files]
        assert await queues.drift(connection) == []


async def test_only_what_counts_there_and_is_on_disk_is_rewritten(media: Database) -> None:
    async with media.transaction() as connection:
        files = await repacking(connection, 4)
        await drop_replicas(connection, files[:1])
        await connection.execute(sa.text("update copy set broken_at = now() where file = :f"), {"f": files[1]})
        await namespace.remove_file(connection, files[2], by="ann")
        assert await queues.enqueue_rewrites(connection, files, "E00001") == 1


async def test_a_successor_that_does_not_count_replaces_nothing(media: Database) -> None:
    async with media.transaction() as connection:
        files = await repacking(connection, 2)
        await queues.enqueue_rewrites(connection, files, "E00001")
        epoch = await mounted(connection, "E00002", "east1", "archive")
        claimed = await queues.claim_archives(connection, "east", epoch, 100, 10**9)
        await connection.execute(sa.text("update volume set state = 'suspect' where vid = 'E00002'"))
        written = [
            Written(archive_id=one.archive_id, tape_file=number, first_block=10 * number, byte_offset=512, length=100)
            for number, one in enumerate(claimed, 1)
        ]
        await queues.commit_written(connection, epoch, written, tape_files=9, end_block=900, written_bytes=1)
        assert [place for place in await places(connection) if place[1] == "E00001"] == [(f, "E00001") for f in files]


async def test_a_recall_that_waits_for_the_old_copy_finds_the_new_one(media: Database) -> None:
    async with media.transaction() as connection:
        files = await repacking(connection, 3)
        await queues.enqueue_rewrites(connection, files, "E00001")
        epoch = await mounted(connection, "E00002", "east1", "archive")
        claimed = await queues.claim_archives(connection, "east", epoch, 100, 10**9)
        await drop_replicas(connection, files)
        await wait_for(connection, files)
        await queues.request_recalls(connection, files, owner="ann", group="g")
        # One of them is being read from the old volume.
        reader = await mounted(connection, "E00001", "east2")
        [reading] = await claim_first(connection, "E00001", reader, 1)
        written = [
            Written(archive_id=one.archive_id, tape_file=number, first_block=10 * number, byte_offset=512, length=100)
            for number, one in enumerate(claimed, 1)
        ]
        await queues.commit_written(connection, epoch, written, tape_files=9, end_block=900, written_bytes=1)
        wanted = {one.key: one.files for one in await queues.backlog(connection) if one.kind == "recall"}
        assert wanted == {"E00002": 2}
        assert await queues.drift(connection) == []
        again = await claim_first(connection, "E00002", epoch, 10)
        assert {one.file_id for one in again} == set(files) - {reading.file_id}


async def test_a_recall_asked_for_while_copies_change_places_is_never_stranded(media: Database) -> None:
    async with media.transaction() as connection:
        files = await repacking(connection, 1)
        await queues.enqueue_rewrites(connection, files, "E00001")
        epoch = await mounted(connection, "E00002", "east1", "archive")
    asked = asyncio.Event()

    async def ask() -> None:
        async with media.transaction() as other:
            await drop_replicas(other, files)
            await wait_for(other, files)
            asked.set()
            await queues.request_recalls(other, files, owner="ann", group="g")

    async with media.transaction() as connection:
        await write(connection, epoch)
        asking = asyncio.create_task(ask())
        await asked.wait()
        await somebody_waits(media)
    await asking
    async with media.transaction() as connection:
        assert {one.key: one.files for one in await queues.backlog(connection)} == {"E00002": 1}
        assert await queues.drift(connection) == []


async def test_a_file_that_is_being_removed_gets_no_archive(media: Database) -> None:
    async with media.transaction() as connection:
        [file] = await make_files(connection, 1)
    async with media.transaction() as connection:
        await namespace.remove_file(connection, file, by="ann")

        async def repair() -> int:
            async with media.transaction() as other:
                return await queues.enqueue_archives(other, [file])

        repairing = asyncio.create_task(repair())
        await somebody_waits(media)
    assert await repairing == 0
    async with media.connection() as reader:
        assert await reader.scalar(sa.text("select count(*) from archive")) == 0
