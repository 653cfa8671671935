"""Promises about space, pins and eviction, at the level of the catalog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import cacheservers, queues, replicas
from catalog.database import Database
from catalog.errors import NoSpace, WrongState
from catalog.replicas import Recalled, WrongRoot
from tests.store.media import make_copies, make_files, two_libraries, wait_for
from tests.waiting import somebody_waits

ROOT = {
    "url": "http://127.0.0.1:2",
    "root_id": "r",
    "host": "h",
    "root": "/r",
    "capacity_bytes": 1000,
    "high": 0.9,
    "low": 0.5,
}


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction of the test's own, in a catalog with two libraries and the server `cache` of 1000 bytes."""
    async with database.transaction() as opened:
        await two_libraries(opened)
        await replicas.register_server(opened, name="cache", **ROOT)
        yield opened


async def numbers(connection: AsyncConnection, server: str = "cache") -> tuple[int, int]:
    found = next(found for found in await replicas.servers(connection) if found.name == server)
    return found.used_bytes, found.reserved_bytes


async def no_drift(connection: AsyncConnection) -> None:
    drift = await replicas.recount(connection, "cache")
    assert drift.taken_bytes == 0


async def recalled(connection: AsyncConnection, files: list[int], *, size: int = 100) -> list[int]:
    """The files come to disk as a mover would bring them; their replica ids."""
    reserved = await replicas.reserve_recalls(connection, [(file, size) for file in files], 1, 60)
    assert len(reserved) == len(files)
    arrivals = [Recalled(reservation_id=one.id, file_id=file) for one, file in zip(reserved, files, strict=True)]
    assert await replicas.commit_recalled(connection, arrivals) == sorted(files)
    return [one.id for one in reserved]


async def safe_files(connection: AsyncConnection, count: int) -> tuple[list[int], list[int]]:
    files = await make_files(connection, count, on_disk=False)
    await make_copies(connection, files, "E00001")
    return files, await recalled(connection, files)


async def test_a_server_with_another_disk_is_refused(connection: AsyncConnection) -> None:
    with pytest.raises(WrongRoot, match="another disk"):
        await replicas.register_server(connection, name="cache", **{**ROOT, "root_id": "other"})


async def test_space_is_promised_to_the_last_byte_and_never_beyond(connection: AsyncConnection) -> None:
    first = await replicas.reserve(connection, bytes=600, kind="put", path="/f", lifetime_seconds=60)
    assert (first.cache_server, first.url) == ("cache", "http://127.0.0.1:2")
    second = await replicas.reserve(connection, bytes=400, kind="put", path="/g", lifetime_seconds=60)
    with pytest.raises(NoSpace) as caught:
        await replicas.reserve(connection, bytes=1, kind="put", path="/h", lifetime_seconds=60)
    assert caught.value.http_status == 507
    assert await numbers(connection) == (0, 1000)
    await replicas.release_reservation(connection, [first.id, second.id])
    await replicas.release_reservation(connection, [first.id])
    assert await numbers(connection) == (0, 0)
    await no_drift(connection)


async def test_many_at_once_never_promise_more_than_there_is(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        await replicas.register_server(connection, name="cache", **ROOT)

    async def one() -> bool:
        try:
            async with database.transaction() as connection:
                await replicas.reserve(connection, bytes=90, kind="put", lifetime_seconds=60)
        except NoSpace as refusal:
            await replicas.report_refusal(database, refusal)
            return False
        return True

    assert sum(await asyncio.gather(*(one() for _ in range(20)))) == 11
    async with database.transaction() as connection:
        assert await numbers(connection) == (0, 990)
        assert await replicas.take_wanted(connection, "cache") == 90
        assert await replicas.take_wanted(connection, "cache") == 0


async def test_the_emptiest_live_server_is_chosen(connection: AsyncConnection) -> None:
    await replicas.register_server(connection, name="larger", **{**ROOT, "capacity_bytes": 5000})
    chosen = await replicas.reserve(connection, bytes=10, kind="put", lifetime_seconds=60)
    assert chosen.cache_server == "larger"
    await connection.execute(
        sa.text("update cache_server set heartbeat_at = capstan_now() - interval '20 s' where name = 'larger'")
    )
    assert [server.name for server in await replicas.live_servers(connection)] == ["cache"]
    chosen = await replicas.reserve(connection, bytes=10, kind="put", lifetime_seconds=60)
    assert chosen.cache_server == "cache"
    with pytest.raises(NoSpace, match="largest holds 1000"):
        await replicas.reserve(connection, bytes=4000, kind="put", lifetime_seconds=60)


async def test_recalls_get_the_longest_prefix_that_fits_and_the_rest_is_wished_for(connection: AsyncConnection) -> None:
    files = await make_files(connection, 5, on_disk=False)
    wanted = list(zip(files, [300, 400, 500, 10, 10], strict=True))
    given = await replicas.reserve_recalls(connection, wanted, 7, 60)
    assert [(one.file_id, one.bytes) for one in given] == wanted[:2]
    assert await replicas.take_wanted(connection, "cache") == 500
    assert [one.file_id for one in await replicas.reservations_of(connection, "cache", epoch=7)] == files[:2]
    assert await replicas.reserve_recalls(connection, [(files[2], 500)], 7, 60) == []


async def test_recalls_go_for_a_while_to_others_than_a_server_that_movers_do_not_reach(
    connection: AsyncConnection,
) -> None:
    async def chosen(bytes: int = 10) -> str:
        [file] = await make_files(connection, 1, on_disk=False)
        return (await replicas.reserve_recalls(connection, [(file, bytes)], 7, 60))[0].cache_server

    await replicas.register_server(connection, name="far", **{**ROOT, "capacity_bytes": 5000})
    assert await chosen() == "far"
    assert await replicas.unreached(connection, "far")
    assert not await replicas.unreached(connection, "far")
    assert [await chosen(), await chosen(2000)] == ["cache", "far"]
    await connection.execute(sa.text("update cache_server set unreached_at = unreached_at - interval '301 s'"))
    assert await chosen() == "far"
    assert await replicas.unreached(connection, "far")
    await replicas.register_server(connection, name="far", **{**ROOT, "capacity_bytes": 5000})
    assert await chosen() == "far"


async def test_a_reservation_grows_while_there_is_room(connection: AsyncConnection) -> None:
    one = await replicas.reserve(connection, bytes=100, kind="put", lifetime_seconds=60)
    assert await replicas.grow_reservation(connection, one.id, bytes=900) == 1000
    with pytest.raises(NoSpace):
        await replicas.grow_reservation(connection, one.id, bytes=1)
    assert await numbers(connection) == (0, 1000)
    with pytest.raises(WrongState):
        await replicas.grow_reservation(connection, one.id + 99, bytes=1)


async def test_an_expired_reservation_is_found_and_an_extended_one_is_not(
    database: Database, set_clock: Callable[[datetime | None], Awaitable[None]]
) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        old = await replicas.reserve(connection, bytes=1, kind="put", path="/f", lifetime_seconds=60)
        kept = await replicas.reserve(connection, bytes=1, kind="put", path="/f", lifetime_seconds=60)
        assert await replicas.extend_reservation(connection, [kept.id, 999], lifetime_seconds=3600) == {kept.id}
    await set_clock(datetime.now(UTC) + timedelta(seconds=100))
    async with database.transaction() as connection:
        assert await replicas.expired_reservations(connection, "cache", limit=10) == [old.id]


async def test_an_arrival_is_on_disk_pinned_for_its_request_and_told(connection: AsyncConnection) -> None:
    files = await make_files(connection, 3, on_disk=False)
    await make_copies(connection, files, "E00001")
    request = await wait_for(connection, files)
    await queues.request_recalls(connection, files, owner="o", group="g")
    ids = await recalled(connection, files)
    assert [one.id for one in await replicas.replicas_by_id(connection, "cache", ids)] == ids
    assert await numbers(connection) == (300, 0)
    await no_drift(connection)
    assert await connection.scalar(sa.text("select count(*) from recall")) == 0
    assert await connection.scalar(sa.text("select state from stage_request where id = :r"), {"r": request}) == "ended"
    eviction = await replicas.evict(connection, server="cache")
    assert eviction.evicted == []
    assert [why for _, why in eviction.kept] == ["pinned"] * 3


async def test_an_arrival_whose_reservation_is_gone_is_not_counted_in(connection: AsyncConnection) -> None:
    [file] = await make_files(connection, 1, on_disk=False)
    [reserved] = await replicas.reserve_recalls(connection, [(file, 100)], 1, 60)
    await replicas.release_reservation(connection, [reserved.id])
    arrival = Recalled(reservation_id=reserved.id, file_id=file)
    assert await replicas.commit_recalled(connection, [arrival]) == []
    assert await replicas.replica_for_read(connection, file) is None


async def test_an_abandoned_reservation_keeps_its_space_takes_no_arrival_and_is_its_servers_to_end(
    connection: AsyncConnection,
) -> None:
    [file] = await make_files(connection, 1, size=100, on_disk=False)
    [reserved] = await replicas.reserve_recalls(connection, [(file, 100)], 7, 3600)
    await replicas.abandon(connection, [reserved.id])
    await replicas.abandon(connection, [reserved.id])
    assert await replicas.commit_recalled(connection, [Recalled(reservation_id=reserved.id, file_id=file)]) == []
    assert await replicas.reservations_of(connection, "cache", epoch=7) == []
    assert await replicas.extend_reservation(connection, [reserved.id], lifetime_seconds=3600) == frozenset()
    assert await replicas.expired_reservations(connection, "cache", limit=10) == [reserved.id]
    assert await replicas.release_reservation(connection, [reserved.id]) == [reserved.id]


async def test_what_arrives_for_a_file_removed_meanwhile_goes_at_once(connection: AsyncConnection) -> None:
    [file] = await make_files(connection, 1, on_disk=False)
    [reserved] = await replicas.reserve_recalls(connection, [(file, 100)], 1, 60)
    await connection.execute(sa.text("update file set state = 'deleted', deleted_at = capstan_now()"))
    await replicas.commit_recalled(connection, [Recalled(reservation_id=reserved.id, file_id=file)])
    assert await replicas.evicting(connection, "cache", limit=9) == [reserved.id]
    await replicas.forget_evicted(connection, [reserved.id])
    assert await numbers(connection) == (0, 0)


async def test_an_unsafe_replica_is_never_evicted(connection: AsyncConnection) -> None:
    files, _ = await safe_files(connection, 2)
    await connection.execute(sa.text("update volume set state = 'suspect' where vid = 'E00001'"))
    eviction = await replicas.evict(connection, file_ids=files)
    assert eviction.evicted == []
    assert {why for _, why in eviction.kept} == {"not yet safe"}


async def test_the_longest_unused_go_first_and_their_space_is_free_when_they_are_unlinked(
    connection: AsyncConnection,
) -> None:
    files, ids = await safe_files(connection, 3)
    await connection.execute(
        sa.text("update replica set last_used_at = capstan_now() - interval '1 hour' where id = :id"), {"id": ids[1]}
    )
    candidates = await replicas.eviction_candidates(connection, "cache", limit=10)
    assert candidates[0].id == ids[1]
    eviction = await replicas.evict(connection, replica_ids=[ids[1]])
    assert [one.file_id for one in eviction.evicted] == [files[1]]
    assert eviction.kept == []
    assert await numbers(connection) == (300, 0)
    assert await replicas.evicting(connection, "cache", limit=9) == [ids[1]]
    await replicas.forget_evicted(connection, [ids[1], ids[0]])
    assert await numbers(connection) == (200, 0)
    assert await replicas.replica_for_read(connection, files[1]) is None
    assert await replicas.replica_for_read(connection, files[0]) is not None
    await no_drift(connection)


async def test_whatever_the_order_a_pinned_file_is_not_evicted(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        files, _ = await safe_files(connection, 1)

    async def pinner() -> list[int]:
        async with database.transaction() as connection:
            return await replicas.pin(connection, owner="job:1", files=files, lifetime_seconds=60)

    async with database.transaction() as evictor:
        assert len((await replicas.evict(evictor, file_ids=files)).evicted) == 1
        waiting = asyncio.create_task(pinner())
        await somebody_waits(database)
        assert not waiting.done()
    assert await waiting == []


async def test_a_pin_that_is_not_committed_yet_holds_off_the_evictor(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        files, _ = await safe_files(connection, 1)
    async with database.transaction() as pinner, database.transaction() as evictor:
        assert await replicas.pin(pinner, owner="job:1", files=files, lifetime_seconds=60) == files
        assert (await replicas.evict(evictor, file_ids=files)).evicted == []


async def test_pins_are_leases(database: Database, set_clock: Callable[[datetime | None], Awaitable[None]]) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        files, _ = await safe_files(connection, 2)
        assert await replicas.pin(connection, owner="job:1", files=[*files, 999], lifetime_seconds=60) == files
        assert await replicas.renew(connection, owner="job:1", lifetime_seconds=600, files=files[:1]) == files[:1]
    await set_clock(datetime.now(UTC) + timedelta(seconds=100))
    async with database.transaction() as connection:
        assert await replicas.renew(connection, owner="job:1", lifetime_seconds=600) == files[:1]
        eviction = await replicas.evict(connection, file_ids=files)
        assert [one.file_id for one in eviction.evicted] == files[1:]
        assert await replicas.expire_pins(connection, limit=10) == 1
        assert await replicas.unpin(connection, owner="job:1") == 1


async def test_a_safe_replica_that_is_absent_can_be_recalled_again(connection: AsyncConnection) -> None:
    [file], [id] = await safe_files(connection, 1)
    assert await replicas.mark_absent(connection, id, "not there") is False
    assert await replicas.replica_for_read(connection, file) is None
    assert await numbers(connection) == (0, 0)
    await recalled(connection, [file])


async def test_an_unsafe_replica_that_is_absent_is_lost_with_an_alarm_and_its_row_stays(
    connection: AsyncConnection,
) -> None:
    [file] = await make_files(connection, 1, on_disk=False)
    [id] = await recalled(connection, [file])
    assert await replicas.mark_absent(connection, id, "not there") is True
    assert [one.state for one in await replicas.replicas_by_id(connection, "cache", [id])] == ["lost"]
    assert await connection.scalar(sa.text("select count(*) from audit where action = 'replica.lost'")) == 1
    assert await connection.scalar(sa.text("select count(*) from event where kind = 'replica.lost'")) == 1
    assert await replicas.found_again(connection, id) is True
    assert await numbers(connection) == (100, 0)
    await no_drift(connection)


async def test_a_lost_row_makes_way_for_the_bytes_from_tape(connection: AsyncConnection) -> None:
    [file] = await make_files(connection, 1, on_disk=False)
    [id] = await recalled(connection, [file])
    await replicas.mark_absent(connection, id, "not there")
    await recalled(connection, [file])
    assert await replicas.replica_for_read(connection, file) is not None


async def test_a_quarantined_replica_is_not_served_and_keeps_its_space(connection: AsyncConnection) -> None:
    [file], [id] = await safe_files(connection, 1)
    assert await replicas.quarantine(connection, id, "checksum") is True
    assert await replicas.quarantine(connection, id, "checksum") is False
    assert await replicas.replica_for_read(connection, file) is None
    assert await numbers(connection) == (100, 0)
    await no_drift(connection)


async def test_a_recount_finds_what_was_wrong(connection: AsyncConnection) -> None:
    await safe_files(connection, 2)
    await connection.execute(sa.text("update cache_server set taken_bytes = 5"))
    drift = await replicas.recount(connection, "cache")
    assert drift.taken_bytes == 195
    await no_drift(connection)


def test_replicas_lie_in_two_levels_that_fill_evenly() -> None:
    assert replicas.path_in_root(0x12345) == "replicas/01/23/74565"
    assert len({replicas.path_in_root(id).rpartition("/")[0] for id in range(0, 1 << 24, 256)}) == 65536
    assert len({replicas.path_in_root(id).rpartition("/")[0] for id in range(512, 768)}) == 1


async def test_what_could_go_is_told_page_by_page_and_is_what_the_evictor_would_take(
    connection: AsyncConnection,
) -> None:
    files, ids = await safe_files(connection, 6)
    await replicas.pin(connection, owner="job:1", files=files[:1], lifetime_seconds=60)
    await connection.execute(
        sa.text("update copy set broken_at = capstan_now() where file = :file"), {"file": files[1]}
    )
    await replicas.evict(connection, replica_ids=[ids[2]])
    pages = [await cacheservers.evictable_page(connection, "cache", after=0, limit=4)]
    while (last := pages[-1].last) is not None:
        pages.append(await cacheservers.evictable_page(connection, "cache", after=last, limit=4))
    assert [page.bytes for page in pages] == [200, 200, 0]
    candidates = await replicas.eviction_candidates(connection, "cache", limit=10)
    leaving = await replicas.evicting(connection, "cache", limit=10)
    assert sum(page.bytes for page in pages) == sum(one.size for one in candidates) + 100 * len(leaving)
    assert await replicas.forget_evicted(connection, leaving) == {ids[2]: 100}


async def test_what_could_go_is_known_by_the_heartbeat(connection: AsyncConnection) -> None:
    for told in (None, 300, None):
        assert await replicas.heartbeat_server(connection, "cache", evictable_bytes=told)
        [server] = await replicas.servers(connection)
        assert server.evictable_bytes == told


async def test_a_file_out_of_reach_is_degraded_and_stays_unless_its_class_lets_it_go(
    connection: AsyncConnection,
) -> None:
    files, _ = await safe_files(connection, 1)

    async def found() -> tuple[bool, bool, int]:
        query = sa.text("select file_is_degraded(:file) as degraded, file_is_evictable(:file) as evictable")
        row = (await connection.execute(query, {"file": files[0]})).one()
        page = await cacheservers.evictable_page(connection, "cache", after=0, limit=4)
        return row.degraded, row.evictable, page.bytes

    assert await found() == (False, True, 100)
    await connection.execute(sa.text("update library set state = 'down', reason = 'x' where name = 'east'"))
    assert await found() == (True, False, 0)
    await connection.execute(sa.text("update storage_class set evict_degraded = true"))
    assert await found() == (True, True, 100)
