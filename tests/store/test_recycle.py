"""Promises of the recycle bin: what comes in, who gets it back, what is gone for good, and who wins a race."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from catalog import namespace, recycle
from catalog.database import Database
from catalog.errors import BadRequest, Denied, Exists, NotFound, ParentMissing, ReasonRequired, Refused
from catalog.model import Action, Grant, parse_path
from tests.catalog_world import World
from tests.waiting import somebody_waits


async def removed(world: World, path: str, *, volumes: tuple[str, ...] = ("E00001",), on_disk: bool = False) -> int:
    file_id = await world.file(path, volumes=volumes, on_disk=on_disk)
    await namespace.remove(world.connection, parse_path(path), by="ann")
    return file_id


async def test_what_was_on_tape_is_listed_with_where_it_was_and_who_removed_it(world: World) -> None:
    file_id = await world.file("/a/f", volumes=("E00001",))
    await namespace.move(world.connection, ("a", "f"), ("a", "g"))
    gone = await namespace.remove(world.connection, ("a", "g"), by="bob")
    assert gone == namespace.Removed(file_id=file_id, recycled=True)
    [found] = await recycle.listed(world.connection)
    assert (found.file_id, found.path, found.deleted_by, found.size, found.copies) == (file_id, "/a/g", "bob", 10, 1)
    assert await recycle.deleted_at(world.connection, file_id) == found


async def test_what_was_never_on_tape_is_gone_for_good_and_its_row_after_its_time(world: World) -> None:
    file_id = await world.file("/a/f", on_disk=True)
    gone = await namespace.remove(world.connection, ("a", "f"), by="ann")
    assert gone == namespace.Removed(file_id=file_id, recycled=False)
    assert await recycle.listed(world.connection) == []
    await world.run("update file set deleted_at = capstan_now() - interval '31 days'")
    assert await recycle.forget(world.connection) == 0, "its replica is still on a disk"
    await world.run("delete from replica")
    assert await recycle.forget(world.connection) == 1
    assert (await world.run("select count(*) from file")).scalar_one() == 0


async def test_the_list_pages_by_path_below_whole_components(world: World) -> None:
    for path in ("/a/f", "/a/g", "/ab/f", "/a", "/a/" + "x" * 250):
        await removed(world, path) if path != "/a" else None
    twice = [await removed(world, "/a/f"), await removed(world, "/a/f")]
    whole = await recycle.listed(world.connection, prefix="/a")
    assert [one.path for one in whole] == ["/a/f", "/a/f", "/a/f", "/a/g", "/a/" + "x" * 250]
    assert [one.file_id for one in whole][1:3] == twice
    paged, after = [], ("", 0)
    while page := await recycle.listed(world.connection, prefix="/a", after=after, limit=2):
        paged += page
        after = (page[-1].path, page[-1].file_id)
    assert paged == whole


async def test_a_restored_file_is_live_under_its_name_and_of_several_it_is_the_newest(world: World) -> None:
    ann = await world.principal()
    await removed(world, "/a/f")
    newest = await removed(world, "/a/f")
    done = await recycle.restore(world.connection, principal=ann, path="/a/f")
    assert done == recycle.Restored(file_id=newest, path="/a/f", queued=0)
    assert (await namespace.file_at(world.connection, ("a", "f"))).file_id == newest
    assert len(await recycle.listed(world.connection)) == 1


async def test_a_name_that_is_taken_or_has_no_parent_refuses_and_another_name_serves(world: World) -> None:
    ann = await world.principal()
    first, second = await removed(world, "/a/f"), await removed(world, "/a/f")
    await recycle.restore(world.connection, principal=ann, file_id=first)
    with pytest.raises(Exists):
        await recycle.restore(world.connection, principal=ann, file_id=second)
    with pytest.raises(ParentMissing):
        await recycle.restore(world.connection, principal=ann, file_id=second, to="/new/deep/f")
    done = await recycle.restore(world.connection, principal=ann, file_id=second, to="/new/deep/f", parents=True)
    assert done.path == "/new/deep/f"
    with pytest.raises(NotFound):
        await recycle.restore(world.connection, principal=ann, file_id=second)
    with pytest.raises(NotFound):
        await recycle.restore(world.connection, principal=ann, path="/a/f")
    with pytest.raises(BadRequest):
        await recycle.restore(world.connection, principal=ann)


async def test_restoring_needs_the_right_on_both_names(world: World) -> None:
    file_id = await removed(world, "/a/f")
    eve = await world.principal("eve", (Grant(action=Action.MODIFY, prefix="/eve"),))
    for to in (None, "/eve/f"):
        with pytest.raises(Denied):
            await recycle.restore(world.connection, principal=eve, file_id=file_id, to=to)
    with pytest.raises(Denied):
        await recycle.restore(world.connection, principal=eve, path="/a/f")


async def test_copies_that_a_class_wants_are_queued_again_when_the_bytes_are_on_disk(world: World) -> None:
    file_id = await world.file("/a/f", storage_class="two", volumes=("E00001",))
    await namespace.remove(world.connection, ("a", "f"), by="ann")
    await world.run(
        "insert into replica (id, file, cache_server, size, origin) values (77, :f, 'cache1', 10, 'recall')", f=file_id
    )
    done = await recycle.restore(world.connection, principal=await world.principal(), file_id=file_id)
    assert done.queued == 1
    assert (await world.run("select pool from archive")).scalar_one() == "west"


async def test_what_was_removed_before_all_its_copies_were_made_gets_them_from_tape(
    world: World,
) -> None:
    ann = await world.principal()
    wanted = "select i.file from stage_item i join stage_request r on r.id = i.request where r.origin = 'repair'"
    # A class of one copy lacks nothing, one of two copies the second.
    await removed(world, "/a/f")
    await recycle.restore(world.connection, principal=ann, path="/a/f")
    assert (await world.run(wanted)).all() == []
    await world.run("update storage_class set copies = 2")
    file_id = await removed(world, "/a/g")
    done = await recycle.restore(world.connection, principal=ann, path="/a/g")
    assert done.queued == 0
    assert (await world.run(wanted)).scalars().all() == [file_id]
    assert (await world.run("select file from recall")).scalars().all() == [file_id]


async def test_a_purge_needs_a_choice_and_a_reason_and_cannot_be_undone(world: World) -> None:
    kept, old = await removed(world, "/keep/f"), await removed(world, "/a/f")
    await world.run("update file set deleted_at = deleted_at - interval '9 days' where id = :f", f=old)
    with pytest.raises(BadRequest):
        await recycle.purge(world.connection, who="op", reason="space")
    with pytest.raises(ReasonRequired):
        await recycle.purge(world.connection, who="op", reason=" ", file_ids=[old])
    nothing = await recycle.purge(world.connection, who="op", reason="space", prefix="/keep", older_than_seconds=86400)
    assert nothing.files == 0
    done = await recycle.purge(world.connection, who="op", reason="space", older_than_seconds=8 * 86400)
    assert done == recycle.Purged(files=1, bytes=10)
    assert [one.file_id for one in await recycle.listed(world.connection)] == [kept]
    with pytest.raises(NotFound):
        await recycle.restore(world.connection, principal=await world.principal(), file_id=old)
    audited = (await world.run("select who, reason, detail from audit")).one()
    assert (audited.who, audited.reason, audited.detail["files"]) == ("op", "space", 1)


async def test_what_lost_its_copies_with_a_volume_cannot_be_restored(world: World) -> None:
    file_id = await removed(world, "/a/f")
    await world.run("delete from copy")
    with pytest.raises(Refused, match="given up"):
        await recycle.restore(world.connection, principal=await world.principal(), file_id=file_id)


async def test_a_restore_waits_for_a_reclaim_that_is_under_way_and_then_finds_nothing(database: Database) -> None:
    async with database.transaction() as connection:
        world = World(connection)
        await world.media()
        file_id = await removed(world, "/a/f")
        ann = await world.principal()
    async with database.transaction() as reclaiming:
        await reclaiming.execute(sa.text("select from volume where vid = 'E00001' for no key update"))
        restoring = asyncio.create_task(
            database.run(lambda connection: recycle.restore(connection, principal=ann, file_id=file_id))
        )
        await somebody_waits(database)
        await reclaiming.execute(sa.text("delete from copy where volume = 'E00001'"))
        await reclaiming.execute(sa.text("update file set state = 'purged' where id = :f"), {"f": file_id})
    with pytest.raises(NotFound):
        await restoring


async def test_of_a_restore_and_a_purge_at_once_the_restore_wins(database: Database) -> None:
    async with database.transaction() as connection:
        world = World(connection)
        await world.media()
        file_id = await removed(world, "/a/f")
        ann = await world.principal()
    async with database.transaction() as connection:
        await recycle.restore(connection, principal=ann, file_id=file_id)
        purged = await database.run(lambda other: recycle.purge(other, who="op", reason="r", file_ids=[file_id]))
        assert purged.files == 0
    async with database.connection() as connection:
        assert (await namespace.file_at(connection, ("a", "f"))).file_id == file_id
