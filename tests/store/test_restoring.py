"""Promises about a catalog that goes on from a backup: nothing is given out twice, nothing is believed unseen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from capstan.sitecatalog import for_all_rows
from catalog import (
    adoption,
    backups,
    events,
    journal,
    lostfiles,
    mounts,
    namespace,
    queues,
    recycle,
    replicas,
    restoring,
)
from catalog.cacheservers import WrongRoot
from catalog.database import Database
from catalog.errors import Damaged, Refused
from catalog.journalformat import Entry, counting, decode_segment
from catalog.lostfiles import LostLife
from catalog.model import Action, Grant, Principal
from catalog.postgresql_programs import database_name, plain_connection, url_of
from catalog.states import MountState
from tapeserver.config import Config
from tapeserver.journaling import write_segment
from tests.store.media import claim_first, make_copies, make_files, mounted, two_libraries, wait_for


async def scalar(database: Database, statement: str, **values: Any) -> Any:
    async with database.connection() as connection:
        return await connection.scalar(sa.text(statement), values)


async def busy_catalog(database: Database) -> None:
    """Recalls and archives queued and claimed under live mounts, reservations, waiting requests."""
    async with database.transaction() as connection:
        await two_libraries(connection)
        on_tape = await make_files(connection, 20, on_disk=False)
        await make_copies(connection, on_tape, "E00001")
        fresh = await make_files(connection, 10)
        await queues.enqueue_archives(connection, fresh)
        await queues.request_recalls(connection, on_tape, owner="o", group="g", activity="", priority=50)
        await wait_for(connection, on_tape)
        epochs = [
            await mounted(connection, volume, drive, purpose)
            for drive, volume, purpose in (("east1", "E00001", "recall"), ("east2", "E00002", "archive"))
        ]
        for epoch in epochs:
            await mounts.take(connection, epoch, "ts")
            await mounts.advance(connection, epoch, MountState.RUNNING)
        assert epochs[0] is not None
        assert epochs[1] is not None
        claimed = await claim_first(connection, "E00001", epochs[0], 5)
        await replicas.reserve_recalls(connection, [(one.file_id, 100) for one in claimed], epochs[0], 600)
        await replicas.reserve(connection, bytes=100, kind="put", path="/x", lifetime_seconds=600)
        assert await queues.claim_archives(connection, "east", epochs[1], 5, 10**9)


async def new_life(database: Database, **floors: int) -> restoring.NewLife:
    async with database.transaction() as connection:
        return await restoring.begin_new_life(connection, source="x.dump", **floors)


async def test_what_was_under_way_goes_back_to_the_queues(database: Database) -> None:
    await busy_catalog(database)
    waiting = await scalar(database, "select count(*) from stage_item where state in ('submitted', 'started')")
    life = await new_life(database)
    assert life.mounts_ended == 2
    assert await scalar(database, "select count(*) from mount") == 0
    assert await scalar(database, "select count(*) from recall where state = 'queued' and epoch is null") == 20
    assert await scalar(database, "select count(*) from archive where state = 'queued' and epoch is null") == 10
    assert await scalar(database, "select count(*) from reservation") == 0
    now_waiting = await scalar(database, "select count(*) from stage_item where state in ('submitted', 'started')")
    assert now_waiting == waiting == 20
    async with database.transaction() as connection:
        assert await queues.drift(connection) == []
        assert (await replicas.recount(connection, "cache")).taken_bytes == 0
    assert await scalar(database, "select bool_and(expires_at <= capstan_now()) from lease") in (True, None)


async def test_nothing_is_believed_before_it_was_looked_at(database: Database) -> None:
    await busy_catalog(database)
    await new_life(database)
    assert not await scalar(database, "select bool_or(end_verified) from volume")
    assert not await scalar(database, "select bool_or(checked) from replica")
    async with database.connection() as connection:
        assert await replicas.live_servers(connection) == []
    assert await scalar(database, "select count(*) from server") == 0
    assert await scalar(database, "select count(*) from audit where action = 'catalog.restored'") == 1


async def test_no_identity_comes_again(database: Database) -> None:
    await busy_catalog(database)
    before = {
        name: await scalar(database, f"select coalesce(max({key}), 0) from {name}")
        for name, key in (("file", "id"), ("node", "id"), ("copy", "id"), ("replica", "id"), ("journal", "seq"))
    }
    await new_life(database, epoch_floor=5_000_000, segment_floor=77)
    async with database.transaction() as connection:
        [file] = await make_files(connection, 1)
        await make_copies(connection, [file], "E00001")
        await connection.execute(sa.text("update cache_server set heartbeat_at = capstan_now()"))
        put = await replicas.reserve(connection, bytes=1, kind="put", path="/y", lifetime_seconds=9)
        [epoch] = await mounts.next_epochs(connection, 1)
        number = await journal.draw_number(connection)
        node = await connection.scalar(
            sa.text(
                "insert into node (parent, name, kind) select id, 'n', 'file' from node where parent is null"
                " returning id"
            )
        )
    found = {
        "file": file, "node": node, "replica": put.id, "copy": await scalar(database, "select max(id) from copy"),
        "journal": await scalar(database, "select max(seq) from journal"),
    }  # fmt: skip
    for name, last in before.items():
        assert found[name] > last + 2**40, name
        # Six decades of restores fit, and a client that holds numbers as doubles can still tell them apart.
        assert found[name] < 2**53
    assert 6_000_000 < epoch < 10**12
    assert number > 1_000_077


async def test_two_lives_from_one_backup_share_no_file_ids(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
    firsts = []
    for _ in range(2):
        async with database.connection() as connection:
            before = await connection.scalar(sa.text("select coalesce(max(id), 0) from file"))
        await new_life(database)
        async with database.transaction() as connection:
            firsts.append((await make_files(connection, 1))[0] - int(before or 0))
    assert abs(firsts[0] - firsts[1]) >= 2**27


async def test_old_positions_of_events_are_of_another_life(database: Database) -> None:
    async with database.transaction() as connection:
        await events.emit(connection, "a.b", "s")
    async with database.connection() as connection:
        position = await events.present(connection)
    await new_life(database)
    async with database.connection() as connection:
        found = await events.read_after(connection, position)
    assert [event.kind for event in found] == ["catalog.restored"]


@asynccontextmanager
async def dropped_in_the_end(*urls: str) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for url in urls:
            await restoring.drop(url)


async def test_a_catalog_is_set_aside_and_never_overwritten(database: Database, tmp_path: Path) -> None:
    await busy_catalog(database)
    url = database.url
    dump = (await backups.make_backup(database, tmp_path, keep=1)).path
    with pytest.raises(Refused, match="in use"):
        await restoring.check_place(url, replace=True)
    async with database.transaction() as connection:
        later = await make_files(connection, 1)
    await database.close()
    with pytest.raises(Refused, match="not empty"):
        await restoring.check_place(url, replace=False)
    await restoring.check_place(url, replace=True)
    restored = await restoring.restored_database(url, dump)
    async with Database(restored) as copy:
        await new_life(copy)
    aside = await restoring.take_place(url, restored)
    assert aside is not None
    async with dropped_in_the_end(url_of(url, aside)), Database(url) as found, Database(url_of(url, aside)) as old:
        assert await scalar(found, "select count(*) from file") == 30
        assert await scalar(old, "select count(*) from file where id = :id", id=later[0]) == 1
        async with found.connection() as connection:
            assert await queues.drift(connection) == []
        assert await scalar(found, "select count(*) from journal") > 0


async def test_no_limit_of_time_ends_a_step_that_is_as_long_as_the_catalog_is_large(database: Database) -> None:
    async with (
        for_all_rows(database.url, "capstan db restore", connections_max=1) as alone,
        alone.connection() as found,
    ):
        assert await found.scalar(sa.text("show idle_in_transaction_session_timeout")) == "0"
        raw = (await found.get_raw_connection()).driver_connection
        assert raw is not None
        assert raw._config.command_timeout is None


async def test_what_fails_leaves_nothing_behind(database: Database, tmp_path: Path) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
    dump = (await backups.make_backup(database, tmp_path, keep=1)).path
    data = dump.read_bytes()
    dump.write_bytes(data[: len(data) // 2])
    with pytest.raises(Damaged, match="sha256"):
        await restoring.restored_database(database.url, dump)
    Path(f"{dump}.sha256").unlink()
    with pytest.raises(Refused):
        await restoring.restored_database(database.url, dump)
    async with plain_connection(database.url) as connection:
        left = await connection.fetchval(
            "select count(*) from pg_database where starts_with(datname, $1)", database_name(database.url) + "_new"
        )
    assert left == 0


async def test_the_journal_goes_on_and_the_lost_life_s_segments_do_not_count(
    database: Database, tmp_path: Path
) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        await make_files(connection, 3)
    kept = await write_segment(database, tmp_path, Config(), now=True)
    assert kept is not None
    async with database.transaction() as connection:
        [file] = await make_files(connection, 1)
        await make_copies(connection, [file], "E00001")
        await connection.execute(
            sa.text("update journal_segment set file = :file where number = :number"),
            {"file": file, "number": kept.number},
        )
    told = await scalar(database, "select max(seq) from journal")
    # Of the same place in the lost life: its file stays in the directory.
    lost = await write_segment(database, tmp_path, Config(), now=True)
    assert lost is not None
    await new_life(database, segment_floor=lost.number)
    now = await write_segment(database, tmp_path, Config(), now=True)
    assert now is not None
    segments = [decode_segment(path.read_bytes()) for path in tmp_path.glob("*.jsonl.gz")]
    assert list(counting({head.number: head for head, _ in segments})) == [now.number, kept.number]
    [entries] = [entries for head, entries in segments if head.number == now.number]
    assert told in [one.seq for one in entries]


def change(seq: int, of: str, id: int, /, **fields: Any) -> Entry:
    return Entry(seq=seq, kind=of, id=id, removed=not fields, entry=msgspec.Raw(msgspec.json.encode(fields)))


def put(seq: int, file: int, node: int, parent: int, name: str, **changed: Any) -> list[Entry]:
    """As the triggers tell of a put."""
    attributes = {"state": "live", "owner": "ann", "grp": "hall", "mode": 420, "mtime_ns": 7, "storage_class": "one"}
    return [
        change(seq, "node", node, parent=parent, name=name, kind="file"),
        change(seq + 1, "file", file, **{**attributes, "node": node, **changed}),
        change(
            seq + 2, "replica", file + 5000, file=file, cache_server="cache", size=3, adler32="024d0127", digests={}
        ),
    ]


async def root_of(database: Database) -> int:
    return int(await scalar(database, "select id from node where parent is null"))


async def lived_on(database: Database, *entries: Entry) -> restoring.NewLife:
    """A new life from a backup behind which the journal told this."""
    lost = LostLife()
    lost.hear(reversed(entries))
    async with database.transaction() as connection:
        return await restoring.begin_new_life(connection, source="x.dump", lost=lost)


async def test_what_was_put_after_the_backup_and_is_on_no_tape_has_its_name_again(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        await make_files(connection, 1)
    root = await root_of(database)
    old, new = 1000, 1001
    life = await lived_on(
        database,
        change(1, "node", old, parent=root, name="new", kind="directory"),
        change(2, "node", new, parent=old, name="deep", kind="directory"),
        *put(10, 501, 601, new, "f"),
        *put(20, 502, 602, root, "g"),
        change(30, "node", 602, parent=new, name="moved", kind="file"),
    )
    assert life.files_back == 2
    assert await scalar(database, "select node_path(node) from file where id = 501") == "/new/deep/f"
    assert await scalar(database, "select node_path(node) from file where id = 502") == "/new/deep/moved"
    async with database.connection() as connection:
        rows = (await connection.execute(sa.text(
            "select id, file, state, checked, size, origin from replica where file > 500 order by id"
        ))).all()  # fmt: skip
    assert [tuple(row) for row in rows] == [
        (5501, 501, "on_disk", False, 3, "put"), (5502, 502, "on_disk", False, 3, "put"),
    ]  # fmt: skip
    assert await scalar(database, "select count(*) from archive where file > 500 and state = 'queued'") == 2
    assert await scalar(database, "select count(*) from file where file_is_safe(id)") == 0
    async with database.transaction() as connection:
        assert (await replicas.recount(connection, "cache")).taken_bytes == 0
        assert await queues.drift(connection) == []


async def test_what_the_lost_life_removed_or_evicted_or_the_backup_knows_is_not_made_again(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        [known] = await make_files(connection, 1)
    root = await root_of(database)
    life = await lived_on(
        database,
        *put(10, known, 600, root, "known"),
        *put(20, 501, 601, root, "removed"), change(29, "file", 501), change(29, "node", 601),
        *put(30, 502, 602, root, "evicted"), change(39, "replica", 5502),
        *put(40, 503, 603, root, "own", storage_class="system"),
        *put(50, 504, 604, 99_999, "nowhere"),
        *put(60, 505, 605, root, "binned", state="deleted"),
    )  # fmt: skip
    assert life.files_back == 0
    assert await scalar(database, "select count(*) from file") == 1


async def test_a_name_that_is_taken_sends_a_file_of_the_lost_life_to_the_recycle_bin(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
    root = await root_of(database)
    await lived_on(database, *put(10, 501, 601, root, "f"), *put(20, 502, 602, root, "f"))
    assert await scalar(database, "select node_path(node) from file where id = 502") == "/f"
    assert await scalar(database, "select state || deleted_path from file where id = 501") == "deleted/f"
    async with database.transaction() as connection:
        await recycle.purge(connection, who="ann", reason="not wanted", file_ids=[501])
    assert await scalar(database, "select state from replica where file = 501") == "evicting", "its bytes go too"


async def test_what_overwrote_a_file_that_the_backup_knows_can_be_had_from_the_recycle_bin(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        [known] = await make_files(connection, 1)
        node = await connection.scalar(sa.text(
            "insert into node (parent, name, kind) select id, 'f', 'file' from node where parent is null returning id"
        ))  # fmt: skip
        await connection.execute(sa.text("update file set node = :node where id = :id"), {"node": node, "id": known})
    # A put that replaces a file takes its node over: of that nothing is told.
    [_, *told] = put(10, 501, node, 0, "f")
    life = await lived_on(database, change(9, "file", known, state="purged"), *told)
    assert life.files_back == 1
    assert await scalar(database, "select node_path(node) from file where id = :id", id=known) == "/f"
    ann = Principal(token_id=0, owner="ann", groups=("hall",), grants=(Grant(action=Action.MODIFY, prefix="/"),))
    async with database.transaction() as connection:
        back = await recycle.restore(connection, principal=ann, path="/f", to="/f.newer")
    assert (back.file_id, back.queued) == (501, 1)
    assert await scalar(database, "select count(*) from replica where file = 501 and state = 'on_disk'") == 1


async def test_a_directory_that_the_backup_knows_is_where_the_backup_has_it(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        run = (await namespace.make_directory(
            connection, ("old",), owner="ann", group="hall", mode=0o755, mtime_ns=0
        )).id  # fmt: skip
    root = await root_of(database)
    await lived_on(
        database,
        change(5, "node", run, parent=root, name="new", kind="directory"),
        change(6, "node", 1000, parent=run, name="deep", kind="directory"),
        *put(10, 501, 601, 1000, "f"),
    )
    assert await scalar(database, "select node_path(node) from file where id = 501") == "/old/deep/f"


async def test_files_of_a_life_that_leapt_further_come_back_and_their_ids_are_passed(database: Database) -> None:
    """The second restore of one backup: the life between the two leapt too, perhaps by more."""
    async with database.transaction() as connection:
        await two_libraries(connection)
    far = 2**50
    life = await lived_on(database, *put(10, far, 601, await root_of(database), "f"))
    assert life.files_back == 1
    async with database.transaction() as connection:
        [later] = await make_files(connection, 1)
        assert later > far + 2**40, "what that life stored and did not tell has its ids for itself"
        assert await adoption.make_unknown(connection, []) == []
        assert await scalar(database, "select count(*) from lost_life where :id between first_file and last_file",
                            id=far + 1000) == 1  # fmt: skip


async def test_a_put_that_was_under_way_at_the_backup_is_of_the_lost_life(database: Database) -> None:
    """Its id is drawn, and its row is not in the snapshot."""
    async with database.transaction() as connection:
        await two_libraries(connection)
        await make_files(connection, 2)
        [removed] = await make_files(connection, 1, on_disk=False)
        await connection.execute(sa.text("delete from file where id = :id"), {"id": removed})
        under_way = int(await connection.scalar(sa.text("select nextval('file_id_seq')")) or 0)
        await make_files(connection, 1)
    root = await root_of(database)
    life = await lived_on(
        database, *put(10**6, under_way, 601, root, "under-way"), *put(10**6 + 10, removed, 602, root, "removed")
    )
    assert life.files_back == 1
    assert await scalar(database, "select node_path(node) from file where id = :id", id=under_way) == "/under-way"


async def test_files_on_a_cache_server_that_registered_after_the_backup_come_back_with_it(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
    [*told, replica] = put(10, 501, 601, await root_of(database), "f")
    fields = msgspec.json.decode(replica.entry)
    life = await lived_on(database, *told, change(12, "replica", 5501, **{**fields, "cache_server": "later"}))
    assert life.files_back == 1
    async with database.transaction() as connection:
        register = partial(
            replicas.register_server, connection, name="later", url="http://127.0.0.1:2", host="h", root="/later",
            capacity_bytes=10**9, high=0.9, low=0.8,
        )  # fmt: skip
        await register(root_id="of-its-disk")
        with pytest.raises(WrongRoot):
            await register(root_id="of-another")
        assert (await replicas.recount(connection, "later")).taken_bytes == 0
        assert [one.id for one in await replicas.catalogued(connection, "later", after=0, limit=9)] == [5501]


async def test_what_three_lives_have_lost_comes_back_in_the_fourth(database: Database) -> None:
    """Ranges of lost ids do not hide each other, whatever was under way at which backup."""
    async with database.transaction() as connection:
        await two_libraries(connection)
    lost = []
    for _ in range(3):
        async with database.transaction() as connection:
            for _ in range(2):
                await make_files(connection, 1)
                lost.append(int(await connection.scalar(sa.text("select nextval('file_id_seq')")) or 0))
            await make_files(connection, 1)
        last = int(await scalar(database, "select pg_sequence_last_value('file_id_seq')") or 0)
        await new_life(database)
        lost += [
            last + 1,
            last + 2**18,
            int(await scalar(database, "select pg_sequence_last_value('file_id_seq')") or 0),
        ]
    root = await root_of(database)
    told = [put(2**60 + 10 * at, id, 10**6 + at, root, f"f{at}") for at, id in enumerate(lost)]
    life = await lived_on(database, *(one for entries in told for one in entries))
    assert life.files_back == len(lost) == 15


async def test_the_highest_id_has_a_name_however_many_files_there_are(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lostfiles, "FILES_A_STEP", 1)
    async with database.transaction() as connection:
        await two_libraries(connection)
    root = await root_of(database)
    await lived_on(database, *put(10, 501, 601, root, "f"), *put(20, 502, 602, root, "f"))
    assert await scalar(database, "select node_path(node) from file where id = 502") == "/f"


async def test_the_journal_tells_of_the_replicas_of_puts_and_of_no_others(database: Database) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        [file, recalled] = await make_files(connection, 2)
        await connection.execute(sa.text("update replica set origin = 'recall' where file = :file"), {"file": recalled})
        await connection.execute(sa.text("delete from journal where removed or kind = 'replica' and id in "
                                         "(select id from replica where origin = 'recall')"))  # fmt: skip
        await connection.execute(sa.text("update replica set state = 'evicting'"))
        await connection.execute(sa.text("delete from replica"))
        rows = (await connection.execute(sa.text(
            "select removed, entry->>'file', entry->>'cache_server', entry->>'adler32' from journal"
            " where kind = 'replica' order by seq"
        ))).all()  # fmt: skip
    assert [(row[0], row[1]) for row in rows] == [(False, str(file)), (True, None)]
    assert rows[0][2] == "cache"
    assert len(rows[0][3]) == 8
