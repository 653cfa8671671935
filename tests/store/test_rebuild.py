"""A catalog made of what scans tell: names, places and the recycle bin, in whatever order the volumes came."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from catalog import rebuild, rebuilding
from catalog.database import Database
from catalog.errors import Refused
from catalog.indexentry import IndexDead, IndexEntry
from catalog.journalformat import Entry, Head
from tests.catalog_world import World
from tests.waiting import somebody_waits

CATALOG = "0f8c1d2e"


def entry(file: int, path: str, **changes: Any) -> IndexEntry:
    fields = {
        "tape_file": file, "first_block": 10 * file, "offset": 1536, "file_id": file, "copy_number": 1, "size": file,
        "adler32": f"{file:08x}", "digests": {}, "path": path, "mtime_ns": file, "mode": 420, "owner": "ann",
        "group": "hall", "storage_class": "one", "collocation": "", "node": None, "parent": None,
        "created": 1_700_000_000_000_000, "epoch": 5,
    }  # fmt: skip
    return IndexEntry(**{**fields, **changes})


class Stage:
    """Volumes as scans tell them; a step for each, so that tests can choose the order."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.volumes: dict[str, Any] = {}

    async def begin(self) -> bool:
        async with self.database.transaction() as connection:
            known = await rebuild.begin(connection)
            if not known:
                world = World(connection)
                for library in ("east", "west"):
                    await world.run("insert into library (name, kind, spec) values (:l, 'virtual', '{}')", l=library)
            return known

    async def volume(
        self, vid: str, entries: list[IndexEntry], *, told_by: int = 0, epoch: int = 0, library: str = "east",
        dead: tuple[IndexDead, ...] = (), **changes: Any,
    ) -> None:  # fmt: skip
        async with self.database.transaction() as connection:
            await rebuild.add_volumes(connection, library, [vid])
            await rebuild.start_volume(connection, vid)
            await rebuild.add_copies(connection, vid, 1, told_by=told_by, epoch=epoch, entries=entries)
            await rebuild.add_dead(connection, vid, 1, told_by=told_by, extents=dead)
            facts = {
                "state": "scanned", "catalog_id": CATALOG.upper(), "generation": 1, "pool": library, "tape_files": 9,
                "end_block": 999, "files": -1, "epoch": 5, "capacity_bytes": 10**9,
            }  # fmt: skip
            await rebuild.end_volume(connection, rebuild.Volume(vid=vid, **{**facts, **changes}))

    async def journal(
        self, *entries: Entry, number: int = 1, previous: int = 0, incarnation: str = "a", catalog_id: str = CATALOG
    ) -> None:
        head = Head(
            catalog_id=catalog_id, incarnation=incarnation, number=number, previous=previous,
            first_seq=entries[0].seq, last_seq=entries[-1].seq,
        )  # fmt: skip
        async with self.database.transaction() as connection:
            await rebuild.add_segment(connection, head, list(entries), bytes=1, adler32="00000001", path="")

    async def finish(self, **options: Any) -> rebuilding.Outcome:
        async with self.database.transaction() as connection:
            return await rebuilding.finish(connection, **options)


@pytest.fixture
async def stage(database: Database) -> Stage:
    made = Stage(database)
    await made.begin()
    return made


def node(seq: int, id: int, parent: int | None, name: str, kind: str = "file") -> Entry:
    fields = {"parent": parent, "name": name, "kind": kind}
    return Entry(seq=seq, kind="node", id=id, entry=msgspec.Raw(msgspec.json.encode(fields)))


def told(seq: int, id: int, node: int | None, state: str = "live", **changes: Any) -> Entry:
    fields = {
        "node": node, "state": state, "owner": "bob", "grp": "hall", "mode": 384, "mtime_ns": 77,
        "storage_class": "one", "collocation": "", "deleted_at": None, "deleted_path": None, "deleted_by": None,
    }  # fmt: skip
    return Entry(seq=seq, kind="file", id=id, entry=msgspec.Raw(msgspec.json.encode({**fields, **changes})))


def directory(seq: int, id: int, owner: str = "bob") -> Entry:
    fields = {"owner": owner, "grp": "hall", "mode": 448, "mtime_ns": 5, "storage_class": None}
    return Entry(seq=seq, kind="directory", id=id, entry=msgspec.Raw(msgspec.json.encode(fields)))


def gone(seq: int, kind: str, id: int) -> Entry:
    return Entry(seq=seq, kind=kind, id=id, removed=True)


async def names(database: Database) -> dict[str, int]:
    """path -> file id of every live file."""
    async with database.connection() as connection:
        rows = await connection.execute(sa.text("select node_path(node) as path, id from file where state = 'live'"))
        return {row.path: row.id for row in rows}


async def bin_of(database: Database) -> dict[int, str]:
    """file id -> the path it was removed from."""
    async with database.connection() as connection:
        rows = await connection.execute(sa.text("select id, deleted_path from file where state <> 'live'"))
        return {row.id: row.deleted_path for row in rows}


async def everything(database: Database) -> dict[str, Any]:
    """All that a rebuild makes, without what depends on when it was made."""
    found: dict[str, Any] = {}
    async with database.connection() as connection:
        for table, columns in (
            ("node", "id, parent, name, kind"),
            ("directory", "node, owner, grp, mode, storage_class"),
            ("file", "id, node, state, size, adler32, digests::text, mtime_ns, mode, owner, grp, storage_class"),
            ("file", "stored_path, collocation, created_at, deleted_path, deleted_by"),
            ("copy", "file, copy_number, volume, generation, tape_file, first_block, byte_offset, length, epoch"),
            ("volume", "vid, library, pool, state, reason, generation, tape_files, end_block, written_bytes"),
            ("pool", "name, library"), ("storage_class", "name, copies, pools"),
            ("dead_extent", "volume, tape_file, first_block, blocks, why"), ("catalog_identity", "id"),
        ):  # fmt: skip
            rows = await connection.execute(sa.text(f"select {columns} from {table}"))
            found.setdefault(table, []).append(sorted(tuple(map(repr, row)) for row in rows))
        for sequence in ("node_id_seq", "file_id_seq", "mount_epoch_seq"):
            found[sequence] = await connection.scalar(sa.text(f"select last_value from {sequence}"))
    return found


async def test_without_index_and_journal_files_are_where_they_were_stored(stage: Stage, database: Database) -> None:
    await stage.volume("E00001", [entry(1, "/a"), entry(2, "/exp/run 1/b"), entry(3, "/exp/c")])
    outcome = await stage.finish()
    assert await names(database) == {"/a": 1, "/exp/run 1/b": 2, "/exp/c": 3}
    assert (outcome.files, outcome.deleted, outcome.copies, outcome.catalog_id) == (3, 0, 3, CATALOG)
    async with database.connection() as connection:
        assert await connection.scalar(sa.text("select id from catalog_identity")) == CATALOG
        row = (await connection.execute(sa.text("select * from copy where file = 2"))).one()
        assert (row.volume, row.generation, row.first_block, row.byte_offset, row.length) == ("E00001", 1, 20, 1536, 2)
        assert await connection.scalar(sa.text("select file_is_safe(2)"))
        assert await connection.scalar(sa.text("select to_regclass('rebuild.volume')")) is None


async def test_the_highest_file_id_owns_a_name_and_the_others_are_in_the_recycle_bin(
    stage: Stage, database: Database
) -> None:
    await stage.volume("E00001", [entry(5, "/exp/f")])
    await stage.volume("E00002", [entry(4, "/exp/f"), entry(6, "/exp/g")])
    await stage.volume("E00003", [entry(7, "/exp/g/below")])
    await stage.finish()
    assert await names(database) == {"/exp/f": 5, "/exp/g/below": 7}
    assert await bin_of(database) == {4: "/exp/f", 6: "/exp/g"}


async def test_the_journal_tells_moves_removals_and_owners(stage: Stage, database: Database) -> None:
    await stage.journal(
        node(1, 1, None, "", "directory"), directory(2, 1), node(3, 2, 1, "exp", "directory"), directory(4, 2),
        node(5, 3, 1, "old", "directory"), directory(6, 3), node(7, 10, 2, "a"), told(8, 1, 10), node(9, 11, 2, "b"),
        told(10, 2, 11), node(11, 12, 2, "c"), told(12, 3, 12), node(13, 2, 1, "moved", "directory"),
        node(14, 10, 3, "renamed"), told(15, 2, None, "deleted", deleted_path="/exp/b", deleted_by="bob",
        deleted_at="2026-01-01T00:00:00+00:00"), gone(16, "node", 11), told(17, 3, 12, "live", owner="eve"),
        gone(18, "file", 4),
    )  # fmt: skip
    files = [entry(number, f"/exp/{letter}") for number, letter in ((1, "a"), (2, "b"), (3, "c"), (4, "d"))]
    await stage.volume("E00001", files)
    outcome = await stage.finish()
    assert await names(database) == {"/old/renamed": 1, "/moved/c": 3}
    assert await bin_of(database) == {2: "/exp/b", 4: "/exp/d"}
    async with database.connection() as connection:
        row = (await connection.execute(sa.text("select owner, mode, node from file where id = 3"))).one()
        assert tuple(row) == ("eve", 384, 12)
        assert await connection.scalar(sa.text("select owner from directory where node = 2")) == "bob"
        assert await connection.scalar(sa.text("select max(number) from journal_segment")) == 1
        # What the journal told needs not be told again.
        assert await connection.scalar(sa.text("select count(*) from journal where id <> 1")) == 1
    assert outcome.not_on_tape == 0


async def test_an_index_tells_ids_and_removals_where_the_journal_does_not(stage: Stage, database: Database) -> None:
    await stage.journal(
        node(1, 1, None, "", "directory"), node(2, 2, 1, "exp", "directory"), node(3, 2, 1, "moved", "directory")
    )
    await stage.volume(
        "E00001",
        [entry(1, "/exp/a", node=10, parent=2), entry(2, "/exp/b"), entry(3, "/x/c", node=12, parent=99)],
        told_by=9, epoch=6,
    )  # fmt: skip
    await stage.finish()
    assert await names(database) == {"/moved/a": 1, "/x/c": 3}
    assert await bin_of(database) == {2: "/exp/b"}
    async with database.connection() as connection:
        assert (await connection.scalars(sa.text("select node from file where id in (1, 3) order by id"))).all() == [
            10, 12,
        ]  # fmt: skip


async def test_of_two_copies_the_latest_index_knows_what_became_of_the_file(stage: Stage, database: Database) -> None:
    await stage.volume("E00001", [entry(1, "/a", node=5, parent=1)], told_by=9, epoch=6)
    await stage.volume("W00001", [entry(1, "/a", copy_number=2)], told_by=9, epoch=8, library="west")
    await stage.finish()
    assert (await names(database), await bin_of(database)) == ({}, {1: "/a"})
    async with database.connection() as connection:
        row = (await connection.execute(sa.text("select copies, pools from storage_class"))).one()
    assert tuple(row) == (2, ["east", "west"])


async def test_a_put_over_a_name_that_the_journal_has_not_told_yet_wins(stage: Stage, database: Database) -> None:
    await stage.journal(node(1, 1, None, "", "directory"), node(2, 10, 1, "f"), told(3, 1, 10))
    await stage.volume("E00001", [entry(1, "/f", node=10, parent=1)], told_by=3, epoch=6)
    await stage.volume("E00002", [entry(2, "/f")])
    await stage.finish()
    assert (await names(database), await bin_of(database)) == ({"/f": 2}, {1: "/f"})


async def test_segments_of_a_life_that_a_restore_ended_do_not_count(stage: Stage, database: Database) -> None:
    await stage.journal(node(1, 1, None, "", "directory"), node(2, 10, 1, "first"), told(3, 1, 10), number=1)
    await stage.journal(node(4, 10, 1, "ended"), number=2, previous=1)
    await stage.journal(node(4, 10, 1, "second"), number=3, previous=1, incarnation="b")
    await stage.volume("E00001", [entry(1, "/f")])
    await stage.finish()
    assert await names(database) == {"/second": 1}


async def test_a_segment_of_another_catalog_does_not_stand_in_the_way_of_one_of_the_same_number(
    stage: Stage, database: Database
) -> None:
    ours = [node(1, 1, None, "", "directory"), node(2, 10, 1, "ours"), told(3, 1, 10)]
    await stage.journal(node(8, 10, 1, "theirs"), told(9, 1, 10), catalog_id="ffffffff")
    await stage.journal(*ours)
    await stage.journal(node(18, 10, 1, "theirs"), told(19, 1, 10), catalog_id="ffffffff")
    await stage.volume("E00001", [entry(1, "/f")])
    await stage.finish()
    assert await names(database) == {"/ours": 1}


async def test_behind_a_missing_segment_the_same_life_is_believed_and_it_is_said(
    stage: Stage, database: Database
) -> None:
    await stage.journal(node(1, 1, None, "", "directory"), node(2, 10, 1, "first"), told(3, 1, 10), number=1)
    await stage.journal(node(9, 11, 1, "g"), told(10, 2, 11), number=3, previous=2)
    await stage.volume("E00001", [entry(1, "/f"), entry(2, "/x")])
    outcome = await stage.finish()
    assert await names(database) == {"/first": 1, "/g": 2}
    assert ["segment 2 is missing" in what for _, what in outcome.problems] == [True]


VOLUMES: list[tuple[str, list[IndexEntry], dict[str, Any]]] = [
    ("E00001", [entry(1, "/a/f"), entry(2, "/a/g"), entry(9, "/b")], {}),
    ("E00002", [entry(3, "/a/f"), entry(4, "/b/c", epoch=9)], {"told_by": 0}),
    ("W00001", [entry(1, "/a/f", copy_number=2, node=50, parent=3), entry(2, "/a/g", copy_number=2)],
     {"told_by": 7, "epoch": 8, "library": "west"}),
    ("W00002", [entry(3, "/a/f", copy_number=2, node=50, parent=3), entry(4, "/b/c", size=99, epoch=2)],
     {"told_by": 7, "epoch": 9, "library": "west", "dead": (IndexDead(tape_file=8, first_block=5, blocks=9, why=""),)}),
]  # fmt: skip


async def test_volumes_in_any_order_give_the_same_catalog(database: Database) -> None:
    found = []
    for order in list(itertools.permutations(VOLUMES))[::3]:
        stage = Stage(database)
        await stage.begin()
        for vid, entries, options in order:
            await stage.volume(vid, entries, **options)
        # Rolled back in the end, so that each order finds an empty catalog.
        found.append(await _rehearsed(database))
        async with database.transaction() as connection:
            await connection.execute(sa.text("drop schema rebuild cascade"))
            await connection.execute(sa.text("delete from library"))
    assert all(one == found[0] for one in found)
    assert found[0]["file"]


async def _rehearsed(database: Database) -> dict[str, Any]:
    class Rehearsal(Exception):
        pass

    result: dict[str, Any] = {}

    class Same:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def connection(self) -> Any:
            return contextlib.nullcontext(self._connection)

    try:
        async with database.transaction() as connection:
            await rebuilding.finish(connection)
            result = await everything(Same(connection))  # type: ignore[arg-type]
            raise Rehearsal
    except Rehearsal:
        for sequence in ("node_id_seq", "file_id_seq", "mount_epoch_seq"):
            del result[sequence]  # not taken back
        return result


async def test_a_rebuild_that_was_broken_off_goes_on_and_counts_nothing_twice(stage: Stage, database: Database) -> None:
    await stage.volume("E00001", [entry(1, "/a")])
    async with database.transaction() as connection:
        await rebuild.add_volumes(connection, "east", ["E00001", "E00002", "E00003"])
        await rebuild.start_volume(connection, "E00002")
        await rebuild.add_copies(connection, "E00002", 1, told_by=0, epoch=0, entries=[entry(2, "/b"), entry(3, "/c")])
        await rebuild.add_problem(connection, "E00002", "half")
    assert await stage.begin(), "it is known"
    async with database.connection() as connection:
        assert await rebuild.to_scan(connection, "east") == ["E00002", "E00003"]
    await stage.volume("E00002", [entry(2, "/b")])
    outcome = await stage.finish()
    assert await names(database) == {"/a": 1, "/b": 2}
    assert (outcome.copies, outcome.problems, outcome.volumes) == (2, [], 2)


async def test_what_an_index_told_is_taken_back(stage: Stage, database: Database) -> None:
    async with database.transaction() as connection:
        await rebuild.add_copies(connection, "E00001", 1, told_by=5, epoch=6, entries=[entry(1, "/a"), entry(2, "/b")])
        await rebuild.withdraw(connection, "E00001", 5)
    await stage.volume("E00001", [entry(1, "/a")])
    await stage.finish()
    assert await names(database) == {"/a": 1}


async def test_a_catalog_that_is_not_empty_is_refused(database: Database) -> None:
    async with database.transaction() as connection:
        await World(connection).media()
    with pytest.raises(Refused, match="not empty"):
        await Stage(database).begin()


async def test_a_running_tape_server_is_named(database: Database) -> None:
    async with database.transaction() as connection:
        await World(connection).run(
            "insert into server (kind, name, url, host, pid) values ('tapeserver', 'tape-1', 'u', 'h', 1)"
        )
    with pytest.raises(Refused, match="tape-1 runs"):
        await Stage(database).begin()


async def test_volumes_of_another_catalog_are_refused_and_told(stage: Stage, database: Database) -> None:
    await stage.volume("E00001", [entry(1, "/a")])
    await stage.volume("E00002", [entry(2, "/b")], catalog_id="FFFFFFFF")
    with pytest.raises(Refused, match=r"0f8c1d2e \(1 volumes\), ffffffff \(1 volumes\)"):
        await stage.finish()
    outcome = await stage.finish(catalog_id=CATALOG.upper())
    assert await names(database) == {"/a": 1}
    assert [(vid, state) for vid, state, _ in outcome.refused] == [("E00002", "foreign")]
    async with database.connection() as connection:
        row = (await connection.execute(sa.text("select state, reason from volume where vid = 'E00002'"))).one()
    assert tuple(row) == ("disabled", "it belongs to the catalog ffffffff")


async def test_what_comes_after_has_new_ids_and_a_second_rebuild_decides_the_same(
    stage: Stage, database: Database
) -> None:
    await stage.volume("E00001", [entry(7, "/exp/f"), entry(5, "/exp/f")])
    await stage.finish()
    async with database.transaction() as connection:
        ids = (await connection.execute(sa.text(
            "select nextval('node_id_seq'), nextval('file_id_seq'), nextval('mount_epoch_seq')"
        ))).one()  # fmt: skip
        used = (await connection.execute(sa.text("select max(id), (select max(id) from file) from node"))).one()
        rows = (await connection.execute(sa.text(
            "select kind, id, entry->>'state' as state from journal where seq > 1000 order by seq"
        ))).all()  # fmt: skip
    assert ids[0] > used[0] + 1000
    assert ids[1] > 7 + 1000
    assert ids[2] > 5
    assert [(row.kind, row.state) for row in rows] == [
        ("node", None), ("node", None), ("directory", None), ("file", "deleted"), ("file", "live"),
    ]  # fmt: skip


async def test_a_full_volume_takes_no_more_and_others_are_verified_before_a_write(
    stage: Stage, database: Database
) -> None:
    await stage.volume("E00001", [entry(1, "/a")], is_full=True)
    await stage.volume("E00002", [entry(2, "/b")], pool="")
    await stage.volume("E00003", [], state="blank", catalog_id=None, tape_files=0)
    await stage.finish()
    async with database.connection() as connection:
        rows = (await connection.execute(sa.text(
            "select state, pool, end_verified, tape_files from volume order by vid"
        ))).all()  # fmt: skip
    assert [tuple(row) for row in rows] == [
        ("full", "east", False, 9), ("active", "east", False, 9), ("blank", None, True, 0),
    ]  # fmt: skip


async def test_one_segment_read_in_two_libraries_at_once_is_staged_once(stage: Stage) -> None:
    entries = (node(1, 1, None, "", "directory"), node(2, 10, 1, "f"))
    head = Head(catalog_id=CATALOG, incarnation="a", number=1, previous=0, first_seq=1, last_seq=2)
    async with stage.database.transaction() as connection:
        assert await rebuild.add_segment(connection, head, list(entries), bytes=1, adler32="00000001", path="")
        other = asyncio.create_task(stage.journal(*entries))
        await somebody_waits(stage.database)
    await other
    async with stage.database.connection() as connection:
        assert await connection.scalar(sa.text("select count(*) from rebuild.segment")) == 1
        assert await connection.scalar(sa.text("select count(*) from rebuild.journal")) == 2


async def test_behind_a_rebuild_the_schema_guards_every_row_as_it_did_before(stage: Stage, database: Database) -> None:
    guards = sa.text(
        "select conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid) || convalidated::text"
        " from pg_constraint where connamespace = 'public'::regnamespace"
        " union all select pg_get_indexdef(indexrelid) || indisvalid::text || indisprimary::text from pg_index"
        " join pg_class on pg_class.oid = indrelid where relnamespace = 'public'::regnamespace"
        " union all select tgrelid::regclass::text || tgname || tgenabled::text from pg_trigger where not tgisinternal"
        " union all select attrelid::regclass::text || attname || attidentity::text || attnotnull::text"
        " from pg_attribute"
        " join pg_class on pg_class.oid = attrelid where relnamespace = 'public'::regnamespace and attnum > 0"
    )
    async with database.connection() as connection:
        before = sorted((await connection.scalars(guards)).all())
    await stage.volume("E00001", [entry(5, "/exp/f")])
    await stage.finish()
    async with database.connection() as connection:
        assert sorted((await connection.scalars(guards)).all()) == before


async def test_copies_recorded_behind_a_rebuild_have_numbers_of_their_own(stage: Stage, database: Database) -> None:
    await stage.volume("E00001", [entry(id, f"/exp/{id}") for id in range(1, 40)])
    await stage.finish()
    async with database.transaction() as connection:
        highest = await connection.scalar(sa.text("select max(id) from copy"))
        assert highest >= 39
        assert await connection.scalar(sa.text("select nextval('copy_id_seq')")) > highest


async def test_a_last_step_that_was_refused_is_done_in_the_same_session(stage: Stage, database: Database) -> None:
    await stage.volume("E00001", [entry(5, "/exp/f")], pool="")
    async with database.transaction() as connection:
        with pytest.raises(Refused, match="no pool is known"):
            async with connection.begin_nested():
                await rebuilding.finish(connection)
        await connection.execute(sa.text("insert into pool (name, library) values ('east', 'east')"))
        assert (await rebuilding.finish(connection)).files == 1


def named(seq: int, kind: str, name: str, *, removed: bool = False, **said: str) -> Entry:
    fields = msgspec.Raw(msgspec.json.encode({"name": name, **said}))
    return Entry(seq=seq, kind=kind, id=0, removed=removed, entry=fields)


async def test_what_operators_said_of_drives_and_volumes_comes_back_with_the_journal(
    stage: Stage, database: Database
) -> None:
    await stage.journal(
        named(1, "volume", "E00001", medium="LTO-7"), named(2, "volume", "E00001", medium="LTO-8"),
        named(3, "volume", "E00002", medium="LTO-9"), named(4, "volume", "E00003", medium="LTO-9"),
        named(5, "volume", "E00003", removed=True), named(6, "volume", "W00009", medium="LTO-9"),
        named(7, "drive", "east-1", library="east", model="LTO-9"),
        named(8, "drive", "far-1", library="far", model="LTO-9"),
        named(9, "drive", "east-2", library="east", model="LTO-8"),
        named(10, "drive", "east-2", library="east", model=""),
    )  # fmt: skip
    for number, vid in enumerate(("E00001", "E00002", "E00003"), 1):
        await stage.volume(vid, [entry(number, f"/{vid}")])
    async with database.transaction() as connection:
        await World(connection).run("insert into drive (name, library) values ('east-1', 'east')")
    await stage.finish()
    async with database.connection() as connection:
        media = await connection.execute(sa.text("select vid, medium from volume order by vid"))
        assert [tuple(row) for row in media] == [("E00001", "LTO-8"), ("E00002", "LTO-9"), ("E00003", "")]
        drives = await connection.execute(sa.text("select name, model from drive order by name"))
        assert [tuple(row) for row in drives] == [("east-1", "LTO-9"), ("east-2", "")]
