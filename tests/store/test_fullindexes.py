"""Promises about the full index of a volume that was closed without a mount: wanted once, tried rarely, then left."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import fullindexes, maintenance, mounts, volumes
from catalog.database import Database
from tests.store.media import make_copies, make_files, mounted, two_libraries


@pytest.fixture
async def closed(database: Database) -> Database:
    """E00001 is closed, and no index tells of what is on it."""
    async with database.transaction() as connection:
        await two_libraries(connection)
        await make_copies(connection, await make_files(connection, 2), "E00001")
        await set_state(connection, "closed")
    return database


async def set_state(connection: AsyncConnection, state: str) -> None:
    await volumes.set_state(connection, "volume", "E00001", state, who="ann", reason="test")


async def indexed(connection: AsyncConnection) -> None:
    await connection.execute(sa.text("update volume set index_block = 5, indexed_tape_files = tape_files"))


async def waiting(connection: AsyncConnection) -> list[tuple[str, str]]:
    return [(one.kind, one.volume) for one in await maintenance.volumes_waiting(connection, "east")]


async def states(connection: AsyncConnection) -> list[str]:
    return [one.state.value for one in reversed(await maintenance.listed(connection, kind="index"))]


async def test_a_closed_volume_without_its_index_wants_one_once(closed: Database) -> None:
    async with closed.transaction() as connection:
        assert await fullindexes.carry_on(connection) == ["E00001"]
        assert await fullindexes.carry_on(connection) == []
        assert await waiting(connection) == [("index", "E00001")]
        await indexed(connection)
        assert await waiting(connection) == []
        assert await fullindexes.carry_on(connection) == []
        assert await states(connection) == ["done"]


async def test_an_index_that_mounts_do_not_bring_is_given_up_until_the_volume_is_closed_anew(closed: Database) -> None:
    async with closed.transaction() as connection:
        await fullindexes.carry_on(connection)
        for _ in range(fullindexes.STARTS_MAX):
            assert await waiting(connection) == [("index", "E00001")]
            await fullindexes.started(connection, "E00001")
        assert await waiting(connection) == []
        assert await fullindexes.carry_on(connection) == []
        assert await states(connection) == ["failed"]
        assert await fullindexes.carry_on(connection) == []
        await set_state(connection, "active")
        await set_state(connection, "closed")
        assert await fullindexes.carry_on(connection) == ["E00001"]


@pytest.mark.parametrize("why", ["mounted", "empty", "indexed", "active", "emptied by a repack"])
async def test_no_index_is_wanted_of_a_volume_that(closed: Database, why: str) -> None:
    async with closed.transaction() as connection:
        if why == "mounted":
            await mounted(connection, "E00001", "east1")
        if why == "empty":
            await connection.execute(sa.text("delete from copy"))
        if why == "indexed":
            await indexed(connection)
        if why == "active":
            await set_state(connection, "active")
        if why == "emptied by a repack":
            made = await maintenance.begin(connection, "repack", "E00001", who="ann", reason="old")
            for state in ("running", "done"):
                await connection.execute(
                    sa.text("update maintenance set state = :s where id = :id"), {"id": made, "s": state}
                )
            await set_state(connection, "closed")
        assert await fullindexes.carry_on(connection) == []


async def test_an_index_that_is_wanted_outlives_a_disabled_volume_and_not_an_open_one(closed: Database) -> None:
    async with closed.transaction() as connection:
        await fullindexes.carry_on(connection)
        await set_state(connection, "disabled")
        await fullindexes.carry_on(connection)
        await set_state(connection, "enabled")
        assert await states(connection) == ["queued"]
        await set_state(connection, "active")
        await fullindexes.carry_on(connection)
        assert await states(connection) == ["cancelled"]


async def test_a_mount_that_began_on_a_closed_volume_goes_on_and_one_that_wrote_before_is_stopped(
    closed: Database,
) -> None:
    async with closed.transaction() as connection:
        late = await mounted(connection, "E00001", "east1", "archive")
        early = await mounted(connection, "E00002", "east2", "archive")
        await volumes.set_state(connection, "volume", "E00002", "closed", who="ann", reason="test")
        reasons = await mounts.reasons_to_stop(connection, [late, early])
        assert reasons == {late: None, early: "volume closed: test"}
