"""Promises that hold across the nouns: what is pinned, unsafe or half done stays somebody's business (design 7a)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import mounts, replicas
from catalog.database import Database
from catalog.replicas import Recalled
from tests.store.media import make_copies, make_files, two_libraries


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    async with database.transaction() as opened:
        await two_libraries(opened)
        yield opened


async def mounted(connection: AsyncConnection, volume: str, drive: str, purpose: str) -> int:
    epoch = await mounts.plan_mount(
        connection, mounts.NewMount(drive=drive, volume=volume, purpose=purpose, reason_code="test")
    )
    assert epoch is not None
    return epoch


async def arrive(connection: AsyncConnection, files: list[int]) -> None:
    """The files come to disk as a mover would bring them."""
    reserved = await replicas.reserve_recalls(connection, [(file, 100) for file in files], 1, 60)
    arrivals = [Recalled(reservation_id=one.id, file_id=file) for one, file in zip(reserved, files, strict=True)]
    assert await replicas.commit_recalled(connection, arrivals) == files


async def archives_of(connection: AsyncConnection, files: list[int]) -> list[int]:
    statement = sa.text("select file from archive where file = any(:files) order by file")
    return list((await connection.scalars(statement, {"files": files})).all())


async def test_a_pin_taken_before_the_file_is_on_disk_holds_from_its_arrival_on(connection: AsyncConnection) -> None:
    files = await make_files(connection, 2, on_disk=False)
    await make_copies(connection, files, "E00001")
    # A job pins all its inputs and then has them staged; the request's own pins end before the job does.
    assert await replicas.pin(connection, owner="job:1", files=[*files, 999_999], lifetime_seconds=60) == []
    await arrive(connection, files)
    eviction = await replicas.evict(connection, file_ids=files)
    assert eviction.evicted == []
    assert {why for _, why in eviction.kept} == {"pinned"}
    assert await replicas.unpin(connection, owner="job:1") == 2
    assert len((await replicas.evict(connection, file_ids=files)).evicted) == 2


async def test_a_removed_file_cannot_be_pinned(connection: AsyncConnection) -> None:
    [file] = await make_files(connection, 1, on_disk=False)
    await connection.execute(sa.text("update file set state = 'deleted', deleted_at = capstan_now()"))
    assert await replicas.pin(connection, owner="job:1", files=[file], lifetime_seconds=60) == []
    assert await replicas.unpin(connection, owner="job:1") == 0
