"""Promises about backups: of one moment, read back before they count, and the old ones go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from catalog import backups
from catalog.database import Database
from catalog.errors import Damaged, Refused
from catalog.postgresql_programs import ProgramFailed, plain_connection
from tests.store.media import make_copies, make_files, two_libraries


async def with_files(database: Database, count: int = 20) -> list[int]:
    async with database.transaction() as connection:
        await two_libraries(connection)
        files = await make_files(connection, count)
        await make_copies(connection, files, "E00001")
    return files


async def rows_of_backups(database: Database) -> list[sa.Row[Any]]:
    async with database.connection() as connection:
        return list((await connection.execute(sa.text("select * from catalog_backup order by id"))).all())


async def scratch_databases(database: Database) -> list[str]:
    async with plain_connection(database.url) as connection:
        rows = await connection.fetch(
            "select datname from pg_database where starts_with(datname, 'capstan_verify_' ||"
            " (select oid from pg_database where datname = current_database()))"
        )
    return [row["datname"] for row in rows]


@pytest.fixture
def read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backups verify well without being restored, which takes seconds."""

    async def well(*_: Any) -> str:
        return "read"

    monkeypatch.setattr(backups, "verify", well)


async def test_a_backup_is_verified_by_restoring_it_and_leaves_no_scratch(database: Database, tmp_path: Path) -> None:
    await with_files(database)
    made = await backups.make_backup(database, tmp_path, keep=3)
    assert (made.how, made.path.parent) == ("restored", tmp_path)
    assert made.rows > 40
    [row] = await rows_of_backups(database)
    assert (row.path, row.bytes, row.sha256) == (str(made.path), made.path.stat().st_size, made.sha256)
    assert row.verified_at is not None
    await backups.check_sum(made.path)
    assert {path.name for path in tmp_path.iterdir()} == {made.path.name, made.path.name + ".sha256"}
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert await scratch_databases(database) == []


async def test_a_backup_that_does_not_read_back_does_not_count(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_files(database)
    counted = backups.row_counts

    async def one_row_less(connection: Any) -> dict[str, int]:
        found = await counted(connection)
        if "verify" in str(await connection.fetchval("select current_database()")):
            found["public.copy"] -= 1
        return found

    monkeypatch.setattr(backups, "row_counts", one_row_less)
    with pytest.raises(Damaged, match=r"public\.copy"):
        await backups.make_backup(database, tmp_path, keep=3)
    [row] = await rows_of_backups(database)
    assert row.verified_at is None
    async with database.connection() as connection:
        assert await backups.newest_verified(connection) is None
        assert await backups.is_due(connection, hours=24)


async def test_a_backup_is_of_one_moment_while_the_catalog_is_written(database: Database, tmp_path: Path) -> None:
    await with_files(database)
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            async with database.transaction() as connection:
                await make_files(connection, 5, on_disk=False)

    writer = asyncio.create_task(write())
    try:
        assert (await backups.make_backup(database, tmp_path, keep=3)).how == "restored"
    finally:
        stop.set()
        await writer


async def test_began_is_before_whatever_the_backup_may_lack(database: Database, tmp_path: Path) -> None:
    await with_files(database, 1)
    async with database.transaction() as open_writer:
        changed_at: datetime = (
            await open_writer.execute(
                sa.text(
                    "update file set state = 'deleted', deleted_at = capstan_now(), node = null returning deleted_at"
                )
            )
        ).scalar_one()
        made = await backups.make_backup(database, tmp_path, keep=3)
    assert made.began_at <= changed_at


async def test_the_oldest_go_and_the_newest_that_counts_stays(
    database: Database, tmp_path: Path, read_back: None
) -> None:
    await with_files(database, 1)
    made = [await backups.make_backup(database, tmp_path, keep=2) for _ in range(3)]
    assert [one.path.exists() for one in made] == [False, True, True]
    assert [row.removed_at is not None for row in await rows_of_backups(database)] == [True, False, False]
    async with database.connection() as connection:
        newest = await backups.newest_verified(connection)
        assert newest is not None
        assert newest.path == str(made[-1].path)
        assert not await backups.is_due(connection, hours=1)
        assert await backups.is_due(connection, hours=0)


async def test_a_clock_that_was_ahead_delays_no_backup_and_removes_no_newer_one(
    database: Database, tmp_path: Path, read_back: None
) -> None:
    await with_files(database, 1)
    for _ in range(2):
        await backups.make_backup(database, tmp_path, keep=2)
    async with database.transaction() as connection:
        await connection.execute(sa.text("update catalog_backup set began_at = began_at + interval '1 year'"))
    async with database.connection() as connection:
        assert await backups.is_due(connection, hours=24)
    made = await backups.make_backup(database, tmp_path, keep=2)
    assert made.path.exists()
    assert [row.removed_at is not None for row in await rows_of_backups(database)] == [True, False, False]
    async with database.connection() as connection:
        assert not await backups.is_due(connection, hours=24)


async def test_none_is_due_before_anything_is_on_tape(database: Database) -> None:
    async with database.connection() as connection:
        assert not await backups.is_due(connection, hours=24)


async def test_two_at_once_are_refused_and_so_is_a_full_disk(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with plain_connection(database.url) as other:
        await other.fetchval("select pg_advisory_lock($1)", backups._LOCK)
        with pytest.raises(Refused, match="another backup"):
            await backups.make_backup(database, tmp_path, keep=2)

    def full(_: Path) -> Any:
        return type("usage", (), {"free": 10})

    monkeypatch.setattr(backups.shutil, "disk_usage", full)
    with pytest.raises(Refused, match="has 10 B free"):
        await backups.make_backup(database, tmp_path, keep=2)
    assert list(tmp_path.iterdir()) == []


async def test_where_no_scratch_database_may_be_made_it_is_read_to_its_end(database: Database, tmp_path: Path) -> None:
    await with_files(database, 1)
    made = await backups.make_backup(database, tmp_path, keep=2)
    await backups.read_through(made.path)
    data = bytearray(made.path.read_bytes())
    made.path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(Damaged, match="sha256"):
        await backups.check_sum(made.path)
    counts: Mapping[str, int] = {}
    with pytest.raises(ProgramFailed):
        await backups.verify(database.url, made.path, counts)


async def test_no_dump_is_left_behind_by_a_run_that_was_killed_whenever_that_was(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(unfinished: Path, path: Path) -> None:
        # As kill -9 would: nothing is cleaned up.
        unfinished.rename(tmp_path / f"{path.name}.new.kept")
        raise Killed

    await with_files(database)
    with monkeypatch.context() as patched:
        patched.setattr(backups, "_publish", killed)
        with pytest.raises(Killed):
            await backups.make_backup(database, tmp_path, keep=1)
    [kept] = tmp_path.glob("*.kept")
    kept.rename(kept.with_suffix(""))
    [row] = await rows_of_backups(database)
    made = await backups.make_backup(database, tmp_path, keep=1)
    assert made.path != Path(row.path)
    assert {path.name for path in tmp_path.iterdir()} == {made.path.name, made.path.name + ".sha256"}
    assert [row.removed_at is None for row in await rows_of_backups(database)] == [False, True]
