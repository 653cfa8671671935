"""Promises about two who want the same rows: one waits for the other, and nobody is met in a deadlock.

The order of locks: file, stage request, recall, archive. Each test holds what one of the two takes first, lets the
other run into it, and then goes on.
"""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import failures, namespace, queues, staging, volumes
from catalog.database import Database
from tests.store.media import make_copies, make_files, wait_for
from tests.waiting import somebody_waits


async def recalled_file(connection: AsyncConnection) -> tuple[int, int]:
    """A file that a request waits for, with its bytes on a disk that does not answer; the file, the request."""
    [file] = await make_files(connection, 1)
    await make_copies(connection, [file], "E00001")
    request = await wait_for(connection, [file])
    await connection.execute(sa.text("update stage_item set state = 'started'"))
    await connection.execute(sa.text("update cache_server set heartbeat_at = capstan_now() - interval '1 day'"))
    await queues.request_recalls(connection, [file], owner="o", group="g")
    return file, request


async def test_a_copy_that_breaks_while_its_file_is_removed(media: Database) -> None:
    async with media.transaction() as connection:
        file, _ = await recalled_file(connection)

    async def breaks() -> None:
        async with media.transaction() as connection:
            await failures.break_copies(connection, "E00001", [(file, "block 7")])

    async with media.transaction() as connection:
        await connection.execute(sa.text("select id from file where id = :file for update"), {"file": file})
        breaking = asyncio.create_task(breaks())
        await somebody_waits(media)
        assert await namespace.remove_file(connection, file, by="ann") is not None
    await breaking
    async with media.transaction() as connection:
        assert await queues.drift(connection) == []
        # Nothing is brought back or written for a file that nobody can ask for.
        assert await connection.scalar(sa.text("select count(*) from recall")) == 0
        assert await connection.scalar(sa.text("select count(*) from archive")) == 0


async def test_a_volume_that_breaks_while_the_last_waiter_is_cancelled(media: Database) -> None:
    async with media.transaction() as connection:
        _, request = await recalled_file(connection)

    async def breaks() -> None:
        async with media.transaction() as connection:
            await volumes.set_state(connection, "volume", "E00001", "broken", who="ann", reason="torn")

    async with media.transaction() as connection:
        await connection.execute(sa.text("select id from stage_request for update"))
        breaking = asyncio.create_task(breaks())
        await somebody_waits(media)
        await staging.delete(connection, request)
    await breaking
    async with media.transaction() as connection:
        assert await queues.drift(connection) == []
        assert await connection.scalar(sa.text("select count(*) from recall")) == 0
