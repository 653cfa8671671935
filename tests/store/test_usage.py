"""Promises of the accounts: who is charged for a mount, that the sums come out right, and how a planner hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import endings, mounts, queues, replicas, usage
from catalog.database import Database
from catalog.errors import BadRequest
from catalog.replicas import Recalled
from catalog.states import MountState
from catalog.usage import Charge, Meter
from catalog.written import Written
from tests.store.media import claim_first, make_copies, make_files, mounted, two_libraries, wait_for

NOON = datetime(2030, 1, 10, 12, tzinfo=UTC)
DAY = 86400.0


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction of the test's own, in which it is noon."""
    async with database.transaction() as opened:
        await two_libraries(opened)
        await clock(opened, NOON)
        yield opened


async def clock(connection: AsyncConnection, now: datetime) -> None:
    await connection.execute(sa.text("select set_config('capstan.now', :now, true)"), {"now": now.isoformat()})
    await connection.execute(sa.text("update cache_server set heartbeat_at = capstan_now()"))


async def loaded(connection: AsyncConnection, volume: str, drive: str = "east1", purpose: str = "recall") -> int:
    epoch = await mounted(connection, volume, drive, purpose)
    await mounts.advance(connection, epoch, MountState.LOADING)
    return epoch


async def asked_for(connection: AsyncConnection, volume: str, count: int, *, owner: str, size: int = 100) -> None:
    files = await make_files(connection, count, size=size, on_disk=False)
    await make_copies(connection, files, volume)
    await wait_for(connection, files)
    await queues.request_recalls(connection, files, owner=owner, group=f"group of {owner}")


async def read_all(connection: AsyncConnection, volume: str, epoch: int, limit: int = 100) -> None:
    claimed = await claim_first(connection, volume, epoch, limit)
    sizes = [(one.file_id, one.size) for one in claimed]
    reserved = await replicas.reserve_recalls(connection, sizes, epoch, 60)
    arrivals = [Recalled(reservation_id=one.id, file_id=file) for one, (file, _) in zip(reserved, sizes, strict=True)]
    assert len(await replicas.commit_recalled(connection, arrivals, epoch=epoch)) == len(claimed)


async def by_user(connection: AsyncConnection) -> dict[str | None, tuple[float, float, int, int]]:
    found = await usage.usage_of(connection, since_seconds=0)
    return {one.owner: (one.mounts, one.drive_seconds, one.files_read, one.bytes_read) for one in found}


async def test_a_mount_that_served_two_is_parted_by_their_bytes(connection: AsyncConnection) -> None:
    epoch = await loaded(connection, "E00001")
    await asked_for(connection, "E00001", 3, owner="ann")
    await asked_for(connection, "E00001", 1, owner="bob")
    for _ in range(2):
        await read_all(connection, "E00001", epoch, 2)
    await clock(connection, NOON + timedelta(seconds=200))
    expected = {"ann": (0.75, 150.0, 3, 300), "bob": (0.25, 50.0, 1, 100)}
    # While it goes on as when it is over: an end changes nothing but where it stands.
    assert await by_user(connection) == expected
    (mount,) = await mounts.list_mounts(connection)
    assert (mount.files, mount.bytes) == (4, 400)
    assert await endings.end_mount(connection, epoch, "done")
    assert await by_user(connection) == expected
    assert await connection.scalar(sa.text("select count(*) from mount_served")) == 0


async def test_a_mount_of_empty_files_is_parted_by_their_number(connection: AsyncConnection) -> None:
    epoch = await loaded(connection, "E00001")
    await asked_for(connection, "E00001", 1, owner="ann", size=0)
    await asked_for(connection, "E00001", 3, owner="bob", size=0)
    await read_all(connection, "E00001", epoch)
    await clock(connection, NOON + timedelta(seconds=100))
    await endings.end_mount(connection, epoch, "done")
    assert await by_user(connection) == {"ann": (0.25, 25.0, 1, 0), "bob": (0.75, 75.0, 3, 0)}


async def test_what_was_written_is_charged_to_the_files_owners_once(connection: AsyncConnection) -> None:
    files = await make_files(connection, 4)
    await queues.enqueue_archives(connection, files)
    epoch = await loaded(connection, "E00001", purpose="archive")
    claimed = await queues.claim_archives(connection, "east", epoch, 10, 10**9)
    written = [
        Written(archive_id=one.archive_id, tape_file=n, first_block=2 + n * 10, byte_offset=512, length=100)
        for n, one in enumerate(claimed, 1)
    ]
    for _ in range(2):  # the outcome of a commit may be unknown: it is repeated
        await queues.commit_written(connection, epoch, written, tape_files=4, end_block=50, written_bytes=400)
    await endings.end_mount(connection, epoch, "done")
    found = await usage.usage_of(connection, since_seconds=0)
    assert {one.owner: (one.files_written, one.bytes_written) for one in found} == {
        "o0": (1, 100), "o1": (2, 200), "o2": (1, 100)
    }  # fmt: skip
    assert sum(one.mounts for one in found) == pytest.approx(1)


async def test_a_mount_that_served_nobody_is_our_own_and_one_that_never_began_used_no_drive(
    connection: AsyncConnection,
) -> None:
    failed = await loaded(connection, "E00001")
    never = await mounted(connection, "E00002", "east2")
    await clock(connection, NOON + timedelta(seconds=60))
    await endings.end_mount(connection, failed, "drive stuck")
    await endings.end_mount(connection, never, "drive down")
    assert await by_user(connection) == {"capstan": (1.0, 60.0, 0, 0)}


async def test_mounts_that_end_at_once_for_the_same_users_wait_for_each_other_and_lose_nothing(
    database: Database,
) -> None:
    mounted = (("east1", "E00001"), ("east2", "E00002"), ("west1", "W00001"), ("west2", "W00002"))
    async with database.transaction() as connection:
        await two_libraries(connection)
        epochs = [await loaded(connection, volume, drive) for drive, volume in mounted]
        for epoch, (_, volume) in zip(epochs, mounted, strict=True):
            for owner in ("ann", "bob", "eve"):
                await asked_for(connection, volume, 1, owner=owner)
            await read_all(connection, volume, epoch)

    async def end(epoch: int) -> None:
        async with database.transaction() as connection:
            await endings.end_mount(connection, epoch, "done")

    await asyncio.gather(*map(end, epochs))
    async with database.connection() as connection:
        found = await usage.usage_of(connection, since_seconds=0)
    assert {one.owner: (round(one.mounts, 9), one.files_read) for one in found} == {
        owner: (round(4 / 3, 9), 4) for owner in ("ann", "bob", "eve")
    }


async def used(connection: AsyncConnection, owner: str, at: datetime, seconds: float, volume: str = "E00001") -> None:
    """A mount for `owner` that ended at `at`."""
    await clock(connection, at - timedelta(seconds=seconds))
    epoch = await loaded(connection, volume)
    await asked_for(connection, volume, 1, owner=owner)
    await read_all(connection, volume, epoch)
    await clock(connection, at)
    await endings.end_mount(connection, epoch, "done")


async def test_usage_is_told_by_user_group_and_day_as_far_back_as_is_asked(connection: AsyncConnection) -> None:
    await used(connection, "ann", NOON - timedelta(days=3), 100)
    await used(connection, "ann", NOON, 40)
    await used(connection, "bob", NOON, 60)
    by_day = await usage.usage_of(connection, since_seconds=30 * DAY, by="day")
    assert [(str(one.day), one.drive_seconds, one.owner) for one in by_day] == [
        ("2030-01-10", 100.0, None), ("2030-01-07", 100.0, None)
    ]  # fmt: skip
    by_group = await usage.usage_of(connection, since_seconds=30 * DAY, by="group")
    assert [(one.group, one.drive_seconds) for one in by_group] == [("group of ann", 140.0), ("group of bob", 60.0)]
    assert [one.owner for one in await usage.usage_of(connection, since_seconds=DAY)] == ["bob", "ann"]
    assert [one.owner for one in await usage.usage_of(connection, since_seconds=DAY, owner="ann")] == ["ann"]
    assert await usage.usage_of(connection, since_seconds=DAY, by="group", groups=["none"]) == []
    with pytest.raises(BadRequest):
        await usage.usage_of(connection, since_seconds=DAY, by="planet")
    with pytest.raises(BadRequest):
        await usage.usage_of(connection, since_seconds=float("nan"))


async def test_what_was_used_counts_half_after_a_half_life_and_only_in_its_library(connection: AsyncConnection) -> None:
    await used(connection, "ann", NOON - timedelta(days=2) + timedelta(seconds=50), 100)
    await used(connection, "ann", NOON + timedelta(seconds=50), 100)
    await clock(connection, NOON)
    (charge,) = await usage.decayed(connection, "east", 2 * DAY)
    assert (charge.owner, charge.group) == ("ann", "group of ann")
    assert charge.drive_seconds == pytest.approx(150)
    assert charge.mounts == pytest.approx(1.5)
    assert await usage.decayed(connection, "west", 2 * DAY) == []
    assert (await usage.decayed(connection, "east", 60.0))[0].drive_seconds == pytest.approx(100)


async def test_a_meter_tells_everything_first_and_then_what_has_come_live_mounts_included(
    connection: AsyncConnection,
) -> None:
    await used(connection, "ann", NOON, 100)
    meter = Meter("east", half_life_seconds=DAY)
    (first,) = await meter.charges(connection)
    assert first.drive_seconds == pytest.approx(100, rel=0.01)
    assert await meter.charges(connection) == []

    epoch = await loaded(connection, "E00002")
    await asked_for(connection, "E00002", 2, owner="ann")
    await read_all(connection, "E00002", epoch, 1)
    await clock(connection, NOON + timedelta(seconds=30))
    assert await meter.charges(connection) == [
        Charge(group="group of ann", owner="ann", mounts=1.0, drive_seconds=30.0)
    ]
    # It serves another too, and ends on the next day: what is told is what has come, whatever the table.
    await asked_for(connection, "E00002", 2, owner="bob")
    await read_all(connection, "E00002", epoch)
    await clock(connection, NOON + timedelta(days=1))
    await endings.end_mount(connection, epoch, "done")
    told = {one.owner: (one.mounts, one.drive_seconds) for one in await meter.charges(connection)}
    assert told == {"ann": (-0.5, DAY / 2 - 30), "bob": (0.5, DAY / 2)}
    await clock(connection, NOON + timedelta(days=5))
    assert await meter.charges(connection) == []
