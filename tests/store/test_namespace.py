"""Promises of the namespace: names, directories, moves, removal, and what a listing says."""

from __future__ import annotations

import asyncio

import pytest

from catalog import events, listing, namespace
from catalog.database import Database
from catalog.errors import (
    Exists,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    ParentMissing,
    Refused,
    UnknownStorageClass,
)
from catalog.model import parse_path
from tests.catalog_world import World


async def test_a_path_resolves_to_its_node_and_the_root_to_itself(world: World) -> None:
    made = await world.directory("/a/b/c")
    assert await namespace.resolve(world.connection, ("a", "b", "c")) == made
    root = await namespace.resolve(world.connection, ())
    assert root is not None
    assert root.parent is None
    assert await namespace.resolve(world.connection, ("a", "x")) is None


async def test_many_paths_resolve_at_once_in_their_order(world: World) -> None:
    file_id = await world.file("/a/f", size=7)
    found = await namespace.resolve_many(world.connection, ["/a/f", "/nothing", "/a", "/", "/a/f/below", "/a/f"])
    assert [target.kind for target in found] == ["file", None, "directory", "directory", None, "file"]
    assert (found[0].file_id, found[0].size) == (file_id, 7)


async def test_a_file_is_found_and_what_is_no_file_is_told(world: World) -> None:
    file_id = await world.file("/a/f")
    assert (await namespace.file_at(world.connection, ("a", "f"))).file_id == file_id
    with pytest.raises(IsADirectory):
        await namespace.file_at(world.connection, ("a",))
    with pytest.raises(NotFound):
        await namespace.file_at(world.connection, ("a", "g"))
    with pytest.raises(NotADirectory, match="/a/f is a file"):
        await namespace.file_at(world.connection, ("a", "f", "x"))


async def test_a_directory_needs_its_parent_unless_parents_are_wanted(world: World) -> None:
    keywords = {"owner": "ann", "group": "users", "mode": 0o755, "mtime_ns": 1}
    with pytest.raises(ParentMissing):
        await namespace.make_directory(world.connection, ("a", "b"), **keywords)
    await namespace.make_directory(world.connection, ("a", "b"), parents=True, **keywords)
    await namespace.make_directory(world.connection, ("a", "b"), parents=True, **keywords)
    with pytest.raises(Exists):
        await namespace.make_directory(world.connection, ("a", "b"), **keywords)
    with pytest.raises(Exists):
        await namespace.make_directory(world.connection, (), **keywords)
    await world.file("/a/f")
    with pytest.raises(Exists):
        await namespace.make_directory(world.connection, ("a", "f"), **keywords)
    with pytest.raises(NotADirectory):
        await namespace.make_directory(world.connection, ("a", "f", "x"), parents=True, **keywords)


async def test_only_an_empty_directory_can_be_removed(world: World) -> None:
    await world.directory("/a/b")
    with pytest.raises(NotEmpty):
        await namespace.remove(world.connection, ("a",), by="ann")
    await namespace.remove(world.connection, ("a", "b"), by="ann")
    await namespace.remove(world.connection, ("a",), by="ann")
    assert await namespace.resolve(world.connection, ("a",)) is None
    with pytest.raises(Refused):
        await namespace.remove(world.connection, (), by="ann")


async def test_removing_a_file_frees_its_name_its_disk_and_its_pins_and_keeps_its_copies(world: World) -> None:
    file_id = await world.file("/a/f", on_disk=True, volumes=("E00001",))
    await world.run("insert into pin (file, owner, expires_at) values (:f, 'x', capstan_now() + '1 h')", f=file_id)
    gone = await namespace.remove(world.connection, ("a", "f"), by="ann")
    assert gone == namespace.Removed(file_id=file_id, recycled=True)
    assert await namespace.resolve(world.connection, ("a", "f")) is None
    assert (await world.run("select state from file where id = :f", f=file_id)).scalar_one() == "deleted"
    assert (await world.run("select state from replica where file = :f", f=file_id)).scalar_one() == "evicting"
    assert (await world.run("select count(*) from pin")).scalar_one() == 0
    assert (await world.run("select count(*) from copy where file = :f", f=file_id)).scalar_one() == 1
    assert not await namespace.remove_file(world.connection, file_id, by="ann")


async def test_a_move_takes_everything_below_along(world: World) -> None:
    file_id = await world.file("/a/b/f")
    await world.directory("/c")
    await namespace.move(world.connection, ("a", "b"), ("c", "d"))
    assert (await namespace.file_at(world.connection, ("c", "d", "f"))).file_id == file_id
    assert await namespace.resolve(world.connection, ("a", "b")) is None


async def test_a_move_never_overwrites_makes_no_cycle_and_needs_the_parent(world: World) -> None:
    await world.file("/a/f")
    await world.file("/a/g")
    with pytest.raises(Exists):
        await namespace.move(world.connection, ("a", "f"), ("a", "g"))
    with pytest.raises(Refused, match="lies below"):
        await namespace.move(world.connection, ("a",), ("a", "b"))
    with pytest.raises(ParentMissing):
        await namespace.move(world.connection, ("a", "f"), ("nowhere", "f"))
    with pytest.raises(NotADirectory):
        await namespace.move(world.connection, ("a", "f"), ("a", "g", "f"))
    with pytest.raises(NotFound):
        await namespace.move(world.connection, ("a", "x"), ("a", "y"))
    await namespace.move(world.connection, ("a", "f"), ("a", "f"))


async def test_two_directory_moves_into_each_other_do_not_make_a_cycle(database: Database) -> None:
    async with database.transaction() as connection:
        world = World(connection)
        await world.media()
        await world.directory("/a")
        await world.directory("/b")

    async def move(source: str, target: str) -> str:
        try:
            async with database.transaction() as connection:
                await namespace.move(connection, parse_path(source), parse_path(target))
        except (Refused, NotFound) as error:
            return error.code
        return "moved"

    outcomes = await asyncio.gather(move("/a", "/b/a"), move("/b", "/a/b"))
    assert sorted(outcomes).count("moved") == 1


async def test_a_directory_made_in_the_moment_of_its_parents_removal_wins_or_loses_cleanly(database: Database) -> None:
    async with database.transaction() as connection:
        world = World(connection)
        await world.directory("/a")

    async def make() -> str:
        try:
            async with database.transaction() as connection:
                await namespace.make_directory(
                    connection, ("a", "b"), owner="ann", group="users", mode=0o755, mtime_ns=0
                )
        except ParentMissing as error:
            return error.code
        return "made"

    async def remove() -> str:
        try:
            async with database.transaction() as connection:
                await namespace.remove(connection, ("a",), by="ann")
        except NotEmpty as error:
            return error.code
        return "removed"

    assert sorted(await asyncio.gather(make(), remove())) in (["made", "not_empty"], ["parent_missing", "removed"])


async def test_the_storage_class_is_the_wanted_one_else_the_nearest_directorys_else_the_default(world: World) -> None:
    top = await world.directory("/a", storage_class="two")
    below = await world.directory("/a/b/c")
    other = await world.directory("/x")
    assert await namespace.storage_class_for(world.connection, below.id, None) == "two"
    assert await namespace.storage_class_for(world.connection, top.id, "one") == "one"
    assert await namespace.storage_class_for(world.connection, other.id, None) == "one"
    with pytest.raises(UnknownStorageClass, match="one"):
        await namespace.storage_class_for(world.connection, other.id, "three")


async def test_a_listing_pages_by_name_in_byte_order(world: World) -> None:
    for name in ("b", "a", "Z", "ä", "c c"):
        await world.file(f"/d/{name}")
    node = await world.directory("/d")
    everything = [entry.name for entry in await listing.list_directory(world.connection, node)]
    assert everything == ["Z", "a", "b", "c c", "ä"]
    first = await listing.list_directory(world.connection, node, limit=2)
    second = await listing.list_directory(world.connection, node, after=first[-1].name, limit=9)
    assert [entry.name for entry in first + second] == everything


@pytest.mark.parametrize("page", [1, 2, 3, 100])
async def test_a_walk_gives_the_whole_tree_in_path_order_whatever_the_page(world: World, page: int) -> None:
    for path in ("/d/a/x", "/d/a/y", "/d/a.b", "/d/b/c/e", "/d/f", "/d/b/c/d/g"):
        await world.file(path)
    await world.directory("/d/empty")
    node = await world.directory("/d")
    found: list[str] = []
    while True:
        entries = await listing.walk(world.connection, node, after=found[-1] if found else "", limit=page)
        found += [entry.path for entry in entries]
        if len(entries) < page:
            break
    expected = ["a", "a/x", "a/y", "a.b", "b", "b/c", "b/c/d", "b/c/d/g", "b/c/e", "empty", "f"]
    assert found == sorted(expected, key=lambda path: path.split("/"))


async def test_a_walk_goes_on_behind_a_name_that_is_gone(world: World) -> None:
    for path in ("/d/a/x", "/d/b/y"):
        await world.file(path)
    node = await world.directory("/d")
    assert [entry.path for entry in await listing.walk(world.connection, node, after="a/zz/q")] == ["b", "b/y"]


async def test_a_listing_says_where_the_bytes_are(world: World) -> None:
    await world.file("/d/disk", on_disk=True)
    await world.file("/d/both", on_disk=True, volumes=("E00001",))
    await world.file("/d/tape", volumes=("E00001",))
    await world.file("/d/half", on_disk=True, volumes=("E00001",), storage_class="two")
    await world.file("/d/degraded", volumes=("E00001", "W00001"), storage_class="two")
    await world.file("/d/away", volumes=("W00001",))
    await world.file("/d/lost")
    await world.file("/d/broken", volumes=("E00002",))
    await world.run("update library set state = 'down' where name = 'west'")
    await world.run("update volume set state = 'broken' where vid = 'E00002'")
    node = await world.directory("/d")
    entries = {entry.name: entry.places for entry in await listing.list_directory(world.connection, node)}
    assert {name: (places.label, str(places.locality)) for name, places in entries.items() if places} == {
        "disk": ("disk", "DISK"),
        "both": ("disk+tape", "DISK_AND_TAPE"),
        "tape": ("tape", "TAPE"),
        "half": ("disk", "DISK_AND_TAPE"),
        "degraded": ("degraded", "TAPE"),
        "away": ("degraded", "UNAVAILABLE"),
        "lost": ("lost", "LOST"),
        "broken": ("lost", "LOST"),
    }


async def test_a_replica_on_a_silent_server_is_not_on_disk(world: World) -> None:
    file_id = await world.file("/d/f", on_disk=True, volumes=("E00001",))
    await world.run("update cache_server set heartbeat_at = capstan_now() - interval '1 min'")
    node = await namespace.resolve(world.connection, ("d", "f"))
    assert node is not None
    entry = await listing.entry_of(world.connection, node, "/d/f")
    assert entry is not None
    assert entry.file_id == file_id
    assert entry.places is not None
    assert entry.places.label == "tape"


async def test_events_are_read_in_order_and_never_past_an_open_writer(database: Database) -> None:
    async with database.connection() as reader:
        start = await events.present(reader)
        async with database.transaction() as open_writer:
            await events.emit(open_writer, "first", "a")
            async with database.transaction() as connection:
                await events.emit_many(connection, [("second", "b", {"n": 1}), ("third", "c", {})])
            assert await events.read_after(reader, start) == []
        found = await events.read_after(reader, start)
        assert [event.kind for event in found] == ["first", "second", "third"]
        assert [event.kind for event in await events.read_after(reader, found[1].position)] == ["third"]
        assert events.Position.parse(str(found[1].position)) == found[1].position
        assert await events.read_after(reader, found[2].position) == []


async def test_a_position_of_another_incarnation_reads_from_the_beginning(database: Database) -> None:
    async with database.transaction() as connection:
        await events.emit(connection, "kept", "a")
    async with database.connection() as reader:
        foreign = events.Position(transaction=2**40, id=1, incarnation="another")
        assert [event.kind for event in await events.read_after(reader, foreign)] == ["kept"]
