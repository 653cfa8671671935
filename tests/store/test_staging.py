"""Promises of stage requests: accepted as text, resolved in chunks, ended per file, pinned in the same transaction."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from catalog import namespace, queues, replicas, staging
from catalog.database import Database
from catalog.errors import NotFound, NotInRequest
from catalog.model import Action, Grant, Principal
from tests.catalog_world import World


async def states(world: World, request: int) -> dict[str, str]:
    return {item.path: item.error_code or item.state async for item in staging.items_of(world.connection, request)}


async def submitted(world: World, principal: Principal, *paths: str) -> int:
    request = await staging.create_request(world.connection, principal, [(path, 60.0) for path in paths])
    assert await staging.resolve_chunk(world.connection, request) is None
    return request


async def test_a_request_holds_each_path_once_and_starts_unresolved(world: World) -> None:
    ann = await world.principal()
    request = await staging.create_request(world.connection, ann, [("/a", 1.0), ("/b", 2.0), ("/a", 5.0)])
    found = await staging.request_at(world.connection, request)
    assert (found.owner, found.state, found.items, found.items_live) == ("ann", "submitted", 2, 2)
    assert await states(world, request) == {"/a": "submitted", "/b": "submitted"}
    assert await staging.next_unresolved(world.connection) == request


async def test_every_file_of_a_request_gets_its_own_answer(world: World) -> None:
    ann = await world.principal(grants=(Grant(action=Action.STAGE, prefix="/d"),))
    await world.file("/d/disk", on_disk=True)
    await world.file("/d/tape", volumes=("E00001",))
    await world.file("/d/lost")
    await world.file("/other/f", on_disk=True)
    request = await submitted(world, ann, "/d/disk", "/d/tape", "/d/lost", "/d", "/d/none", "/other/f", "/d/../x", "d")
    assert await states(world, request) == {
        "/d/disk": "completed",
        "/d/tape": "started",
        "/d/lost": "lost",
        "/d": "is_a_directory",
        "/d/none": "not_found",
        "/other/f": "denied",
        "/d/../x": "bad_path",
        "d": "bad_path",
    }
    found = await staging.request_at(world.connection, request)
    assert (found.state, found.items_live) == ("started", 1)
    assert await staging.next_unresolved(world.connection) is None
    assert (await world.run("select owner from pin")).scalars().all() == [f"request:{request}"]


async def test_a_request_without_live_items_has_ended(world: World) -> None:
    ann = await world.principal()
    await world.file("/d/f", on_disk=True)
    request = await submitted(world, ann, "/d/f", "/d/none")
    found = await staging.request_at(world.connection, request)
    assert found.state == "ended"
    assert found.completed_at is not None
    kinds = (await world.run("select kind from event")).scalars().all()
    assert kinds == ["request.ended"]


async def test_chunks_go_on_where_the_last_one_ended_and_after_a_restart_from_the_beginning(world: World) -> None:
    ann = await world.principal()
    for number in range(5):
        await world.file(f"/d/{number}", on_disk=True)
    request = await staging.create_request(world.connection, ann, [(f"/d/{number}", 60.0) for number in range(5)])
    assert await staging.resolve_chunk(world.connection, request, limit=2) == 2
    assert await staging.next_unresolved(world.connection) == request
    assert await staging.resolve_chunk(world.connection, request, limit=2) == 4
    assert await staging.resolve_chunk(world.connection, request, after=4, limit=2) is None
    assert Counter((await states(world, request)).values()) == {"completed": 5}


async def test_an_arrival_completes_and_pins_for_everybody_who_waits(world: World) -> None:
    file_id = await world.file("/d/f", volumes=("E00001",))
    first = await submitted(world, await world.principal("ann"), "/d/f")
    second = await submitted(world, await world.principal("bob"), "/d/f", "/d/f/")
    assert await staging.complete_items(world.connection, [file_id]) == 3
    assert await staging.complete_items(world.connection, [file_id]) == 0
    for request in (first, second):
        assert (await staging.request_at(world.connection, request)).state == "ended"
    owners = (await world.run("select owner from pin order by owner")).scalars().all()
    assert owners == sorted([f"request:{first}", f"request:{second}"])


async def test_a_failure_is_told_to_everybody_who_waits(world: World) -> None:
    file_id = await world.file("/d/f", volumes=("E00001",))
    request = await submitted(world, await world.principal(), "/d/f")
    assert await staging.fail_items(world.connection, [(file_id, "damaged", "The tape broke.")]) == 1
    [item] = [item async for item in staging.items_of(world.connection, request)]
    assert (item.state, item.error_code, item.error) == ("failed", "damaged", "The tape broke.")


async def test_removing_a_file_fails_the_items_that_wait_for_it(world: World) -> None:
    await world.file("/d/f", volumes=("E00001",))
    request = await submitted(world, await world.principal(), "/d/f")
    await namespace.remove(world.connection, ("d", "f"), by="ann")
    assert await states(world, request) == {"/d/f": "not_found"}
    assert (await world.run("select count(*) from recall")).scalar_one() == 0
    assert (await world.run("select count(*) from demand")).scalar_one() == 0


async def test_cancelling_takes_one_waiter_away_and_the_last_one_ends_the_recall(world: World) -> None:
    await world.file("/d/f", volumes=("E00001",))
    first = await submitted(world, await world.principal("ann"), "/d/f")
    second = await submitted(world, await world.principal("bob"), "/d/f")
    assert await staging.cancel(world.connection, first, ["/d/f"]) == 1
    assert await staging.cancel(world.connection, first, ["/d/f"]) == 0
    assert (await world.run("select count(*) from recall")).scalar_one() == 1
    assert await staging.abandon_all(world.connection, second) == 1
    assert (await world.run("select count(*) from recall")).scalar_one() == 0
    assert (await staging.request_at(world.connection, first)).state == "ended"


async def test_cancelling_a_foreign_path_does_nothing_at_all(world: World) -> None:
    await world.file("/d/f", volumes=("E00001",))
    request = await submitted(world, await world.principal(), "/d/f")
    with pytest.raises(NotInRequest, match="No modification has been made"):
        await staging.cancel(world.connection, request, ["/d/f", "/d/g"])
    assert await states(world, request) == {"/d/f": "started"}


async def test_cancelling_before_anything_was_resolved_ends_the_request(world: World) -> None:
    request = await staging.create_request(world.connection, await world.principal(), [("/a", 1.0), ("/b", 1.0)])
    assert await staging.cancel(world.connection, request, ["/a"]) == 1
    assert await staging.resolve_chunk(world.connection, request) is None
    assert await states(world, request) == {"/a": "cancelled", "/b": "not_found"}


async def test_a_deleted_request_is_gone_with_its_pins(world: World) -> None:
    await world.file("/d/f", on_disk=True)
    request = await submitted(world, await world.principal(), "/d/f")
    await staging.delete(world.connection, request)
    with pytest.raises(NotFound):
        await staging.request_at(world.connection, request)
    assert (await world.run("select count(*) from pin")).scalar_one() == 0


async def test_release_drops_the_requests_pins_or_with_no_id_ones_own(world: World) -> None:
    for name in ("f", "g"):
        await world.file(f"/d/{name}", on_disk=True)
    ann, bob = await world.principal("ann"), await world.principal("bob")
    first = await submitted(world, ann, "/d/f", "/d/g")
    await submitted(world, bob, "/d/f")
    assert await staging.release(world.connection, ann, first, ["/d/f", "/not/there"]) == 1
    assert await staging.release(world.connection, ann, None, ["/d/f"]) == 0
    assert await staging.release(world.connection, ann, None, ["/d/g", "bad"]) == 1
    assert (await world.run("select count(*) from pin")).scalar_one() == 1


async def test_repeated_gets_of_one_owner_share_one_live_request(database: Database) -> None:
    async with database.transaction() as connection:
        world = World(connection)
        await world.media()
        file_id = await world.file("/d/f", volumes=("E00001",))
        ann, bob = await world.principal("ann"), await world.principal("bob")

    async def get(principal: Principal) -> int:
        async with database.transaction() as connection:
            return await staging.request_for_get(
                connection, principal, file_id=file_id, path="/d/f", lifetime_seconds=60
            )

    first, second, third = await asyncio.gather(get(ann), get(ann), get(bob))
    assert first == second != third


async def test_items_whose_recall_vanished_are_helped(world: World) -> None:
    disk = await world.file("/d/disk", volumes=("E00001",))
    tape = await world.file("/d/tape", volumes=("E00001",))
    lost = await world.file("/d/lost", volumes=("E00002",))
    request = await submitted(world, await world.principal(), "/d/disk", "/d/tape", "/d/lost")
    await queues.drop_recalls(world.connection, [disk, tape, lost])
    await world.run("insert into replica (id, file, cache_server, size, origin) values (1, :f, 'cache1', 10, 'recall')",
                    f=disk)  # fmt: skip
    await world.run("update volume set state = 'broken' where vid = 'E00002'")
    assert await staging.reconcile(world.connection) is None
    assert await states(world, request) == {"/d/disk": "completed", "/d/tape": "started", "/d/lost": "lost"}
    assert (await world.run("select file from recall")).scalars().all() == [tape]


async def test_ten_thousand_files_are_accepted_fast_and_resolved_set_based(database: Database) -> None:
    async with database.transaction() as connection:
        world = World(connection)
        await world.media()
        ann = await world.principal()
        node = await world.directory("/d")
        await world.many_files(node, 10_000, volume="E00001")
    started = time.monotonic()
    async with database.transaction() as connection:
        request = await staging.create_request(connection, ann, [(f"/d/f{i}", 60.0) for i in range(1, 10_001)])
    accepted = time.monotonic() - started
    async with database.transaction() as connection:
        assert await staging.resolve_chunk(connection, request, after=0) == 10_000
    async with database.transaction() as connection:
        assert await staging.resolve_chunk(connection, request, after=10_000) is None
    assert accepted < 2
    async with database.connection() as connection:
        assert (await staging.request_at(connection, request)).items_live == 10_000


async def test_cancels_and_arrivals_of_the_same_files_do_not_meet_in_a_deadlock(database: Database) -> None:
    async with database.transaction() as connection:
        world = World(connection)
        await world.media()
        ann = await world.principal()
        await world.many_files(await world.directory("/d"), 12, volume="E00001")
        paths = [f"/d/f{number}" for number in range(1, 13)]
        requests = [await submitted(world, ann, *paths) for _ in range(3)]
        files = [target.file_id for target in await namespace.resolve_many(connection, paths)]
        reserved = (
            "insert into reservation (cache_server, bytes, kind, file, expires_at) values ('cache1', 10, 'recall',"
        )
        ids = [
            (await world.run(reserved + " :f, capstan_now() + '1 h') returning id", f=file)).scalar_one()
            for file in files
        ]
        await world.run("update cache_server set taken_bytes = 120")

    async def cancel(request: int) -> None:
        for path in paths:
            async with database.transaction() as connection:
                await staging.cancel(connection, request, [path])

    async def arrive() -> None:
        for reservation, file in reversed(list(zip(ids, files, strict=True))):
            async with database.transaction() as connection:
                arrival = replicas.Recalled(reservation_id=reservation, file_id=file)  # type: ignore[arg-type]
                await replicas.commit_recalled(connection, [arrival])

    # No retry here: a deadlock would be an error.
    await asyncio.gather(arrive(), *(cancel(request) for request in requests))
    async with database.connection() as connection:
        for request in requests:
            assert (await staging.request_at(connection, request)).state == "ended"
