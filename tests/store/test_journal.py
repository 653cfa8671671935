"""Promises about the journal: nothing is skipped, nothing is journalled for ever, and a crash anywhere is harmless."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from catalog import hardware, journal, namespace
from catalog.database import Database
from catalog.journalformat import BadSegment, Entry, Head, counting, decode_segment, segment_name
from tapeserver.config import Config
from tapeserver.journaling import trim, write_segment
from tests.store.media import make_copies, make_files, two_libraries


def config(**changed: Any) -> Config:
    return Config(**{"journal_entries_max": 1000, "journal_archive_seconds": 3600.0, **changed})


async def make_directory(database: Database, *names: str) -> int:
    async with database.transaction() as connection:
        made = await namespace.make_directory(
            connection, names, owner="o", group="g", mode=0o755, mtime_ns=1, parents=True
        )
    return made.id


def on_disk(directory: Path) -> dict[int, tuple[Head, list[Entry]]]:
    found = [decode_segment(path.read_bytes()) for path in sorted(directory.glob("*.jsonl.gz"))]
    return {head.number: (head, entries) for head, entries in found}


def told(directory: Path) -> dict[tuple[str, int], dict[str, object] | None]:
    """What is true of each object by all segments that count; None: it is gone."""
    segments = on_disk(directory)
    entries = [
        entry for number in counting({n: head for n, (head, _) in segments.items()}) for entry in segments[number][1]
    ]
    last = {(one.kind, one.id): one for one in sorted(entries, key=lambda one: one.seq)}
    return {key: None if one.removed else one.fields() for key, one in last.items()}


async def journal_table(database: Database) -> list[int]:
    async with database.connection() as connection:
        return list((await connection.execute(sa.text("select seq from journal order by seq"))).scalars())


async def test_a_segment_tells_what_became_of_every_object(database: Database, tmp_path: Path) -> None:
    a = await make_directory(database, "a")
    b = await make_directory(database, "b")
    async with database.transaction() as connection:
        await namespace.move(connection, ("a",), ("c",))
        await namespace.remove(connection, ("b",), by="o")
    assert await write_segment(database, tmp_path, config()) is not None
    facts = told(tmp_path)
    moved = facts["node", a]
    assert moved is not None
    assert moved["name"] == "c"
    assert moved["kind"] == "directory"
    assert facts["node", b] is None
    directory = facts["directory", a]
    assert directory is not None
    assert directory["owner"] == "o"


async def test_the_growing_segment_is_written_anew_and_closed_when_it_is_full(
    database: Database, tmp_path: Path
) -> None:
    await write_segment(database, tmp_path, config(), now=True)
    await make_directory(database, "a")
    first = await write_segment(database, tmp_path, config())
    await make_directory(database, "b")
    second = await write_segment(database, tmp_path, config())
    assert first is not None
    assert second is not None
    assert (first.number, first.closed) == (second.number, False)
    assert second.entries > first.entries
    await make_directory(database, "c")
    third = await write_segment(database, tmp_path, config(journal_entries_max=second.entries + 1))
    assert third is not None
    assert third.closed
    assert third.number == first.number
    fourth = await write_segment(database, tmp_path, config())
    assert fourth is not None
    assert fourth.number > third.number
    heads = {number: head for number, (head, _) in on_disk(tmp_path).items()}
    assert heads[fourth.number].previous == third.number
    assert (fourth.first_seq, third.last_seq + 1) == (heads[fourth.number].first_seq, fourth.first_seq)


async def test_an_old_segment_is_closed_without_news(database: Database, tmp_path: Path) -> None:
    await make_directory(database, "a")
    grown = await write_segment(database, tmp_path, config())
    assert grown is not None
    assert not grown.closed
    before = (tmp_path / segment_name(grown.number)).read_bytes()
    closed = await write_segment(database, tmp_path, config(journal_archive_seconds=0.0))
    assert closed is not None
    assert closed.closed
    assert closed.number == grown.number
    assert (tmp_path / segment_name(grown.number)).read_bytes() == before
    assert await write_segment(database, tmp_path, config(journal_archive_seconds=0.0)) is None


async def test_what_commits_late_is_not_skipped(database: Database, tmp_path: Path) -> None:
    """A lower seq, and even an older transaction, that commits after higher ones were there."""
    await write_segment(database, tmp_path, config(), now=True)
    async with database.transaction() as early:
        await early.execute(sa.text("select pg_current_xact_id()"))
        async with database.transaction() as late:
            held = await namespace.make_directory(late, ("held",), owner="o", group="g", mode=0o755, mtime_ns=1)
            # The older transaction, with the higher seq, comes after a younger one that is still open.
            old = await namespace.make_directory(early, ("old",), owner="o", group="g", mode=0o755, mtime_ns=1)
            free = await make_directory(database, "free")
            assert await write_segment(database, tmp_path, config(), now=True) is None
        assert await write_segment(database, tmp_path, config(), now=True) is None
    assert await write_segment(database, tmp_path, config(), now=True) is not None
    assert {("node", held.id), ("node", old.id), ("node", free)} <= told(tmp_path).keys()


async def test_a_crash_between_the_file_and_its_record_loses_and_doubles_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await make_directory(database, "a")

    async def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "record", crash)
        with pytest.raises(RuntimeError):
            await write_segment(database, tmp_path, config(), now=True)
    assert len(on_disk(tmp_path)) == 1
    b = await make_directory(database, "b")
    assert await write_segment(database, tmp_path, config(), now=True) is not None
    assert {("node", a), ("node", b)} <= told(tmp_path).keys()


async def test_what_another_catalog_has_written_to_the_directory_is_not_overwritten(
    database: Database, tmp_path: Path
) -> None:
    """An empty catalog that was begun where the journal of a lost one lies must not destroy what that needs."""
    theirs = {tmp_path / segment_name(number): b"another catalog's" for number in (1, 2, 3)}
    for path, data in theirs.items():
        path.write_bytes(data)
    await make_directory(database, "a")
    written = await write_segment(database, tmp_path, config(), now=True)
    assert written is not None
    assert Path(written.path) not in theirs
    assert {path: path.read_bytes() for path in theirs} == theirs
    assert decode_segment(Path(written.path).read_bytes())[0].number == written.number


async def test_two_writers_at_once_write_one_after_the_other(database: Database, tmp_path: Path) -> None:
    await make_directory(database, "a")
    written = await asyncio.gather(*(write_segment(database, tmp_path, config(), now=True) for _ in range(3)))
    assert sum(one is not None for one in written) == 1


async def test_the_journal_s_own_files_are_no_news(database: Database, tmp_path: Path) -> None:
    await make_directory(database, "a")
    await write_segment(database, tmp_path, config(), now=True)
    await make_directory(database, *journal.DIRECTORY)
    async with database.transaction() as connection:
        await two_libraries(connection)
        await connection.execute(sa.text("update storage_class set name = 'system' where name = 'one'"))
        await make_files(connection, 2, storage_class="system")
        # A file's name below the journal's directory.
        await connection.execute(
            sa.text("insert into node (parent, name, kind) select id, 'x', 'file' from node where name = 'journal'")
        )
    assert await write_segment(database, tmp_path, config(), now=True) is None
    await make_directory(database, "b")
    assert await write_segment(database, tmp_path, config(), now=True) is not None


async def test_rows_stay_until_their_segment_is_safe_on_tape(database: Database, tmp_path: Path) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        one, two = await make_files(connection, 2)
    first = await write_segment(database, tmp_path, config(), now=True)
    await make_directory(database, "a")
    second = await write_segment(database, tmp_path, config(), now=True)
    await make_directory(database, "b")
    assert first is not None
    assert second is not None
    rows = await journal_table(database)
    assert await trim(database) == 0
    async with database.transaction() as connection:
        for number, file in ((first.number, one), (second.number, two)):
            await connection.execute(
                sa.text("update journal_segment set file = :file where number = :number"),
                {"number": number, "file": file},
            )
        await make_copies(connection, [two], "E00001")
    assert await trim(database) == 0, "the one before it is not safe yet"
    async with database.transaction() as connection:
        await make_copies(connection, [one], "W00001")
    assert await trim(database) == len([seq for seq in rows if seq <= second.last_seq])
    assert await trim(database) == 0
    third = await write_segment(database, tmp_path, config(), now=True)
    assert third is not None
    assert third.first_seq > second.last_seq


async def test_a_bulk_change_costs_one_journal_statement(database: Database, tmp_path: Path) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        files = await make_files(connection, 500)
        before = await connection.scalar(sa.text("select count(*) from journal"))
        await connection.execute(sa.text("update file set mtime_ns = mtime_ns"))
        assert await connection.scalar(sa.text("select count(*) from journal")) == before
        await connection.execute(sa.text("update file set owner = 'x' where id = any(:files)"), {"files": files[:3]})
        after = await connection.scalar(sa.text("select count(*) from journal"))
    assert after == (before or 0) + 3


async def test_what_operators_say_of_drives_and_volumes_is_told_and_nothing_else_of_them(
    database: Database, tmp_path: Path
) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        await connection.execute(sa.text("insert into drive (name, library) values ('east9', 'east')"))
        await connection.execute(sa.text("delete from journal"))
        await connection.execute(sa.text("update volume set written_bytes = 7, medium = medium"))
        assert await connection.scalar(sa.text("select count(*) from journal")) == 0
        for medium in ("LTO-8", "LTO-8", ""):
            await hardware.set_volume_medium(connection, "E00001", medium, who="root", reason="seen")
        await hardware.set_volume_medium(connection, "E00002", "LTO-9", who="root", reason="seen")
        await connection.execute(sa.text("delete from volume where vid in ('E00002', 'E00003')"))
        await hardware.set_drive_model(connection, "east9", "LTO-9", who="root", reason="seen")
    await write_segment(database, tmp_path, config())
    [(_, entries)] = on_disk(tmp_path).values()
    assert [(one.kind, one.id, one.removed, one.fields()) for one in entries] == [
        ("volume", 0, False, {"name": "E00001", "medium": "LTO-8"}),
        ("volume", 0, False, {"name": "E00001", "medium": ""}),
        ("volume", 0, False, {"name": "E00002", "medium": "LTO-9"}),
        ("volume", 0, True, {"name": "E00002"}),
        ("drive", 0, False, {"name": "east9", "library": "east", "model": "LTO-9"}),
    ]


def test_segments_of_a_life_that_a_restore_ended_do_not_count() -> None:
    def head(number: int, previous: int) -> Head:
        return Head(catalog_id="c", incarnation="i", number=number, previous=previous, first_seq=1, last_seq=2)

    heads = {one.number: one for one in (head(1, 0), head(2, 1), head(3, 2), head(1_000_002, 1))}
    assert list(counting(heads)) == [1_000_002, 1]
    del heads[1]
    with pytest.raises(BadSegment, match="1 is missing"):
        list(counting(heads))
