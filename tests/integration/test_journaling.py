"""The journal on its way to tape: put like any file, once, whatever breaks in between; and backups on time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa

from catalog import journal, namespace, volumes
from catalog.database import Database
from catalog.errors import Unavailable
from catalog.journalformat import decode_segment, segment_name
from tapeserver import backing_up
from tapeserver.config import Config
from tapeserver.journaling import archive_segments, journal_forever, write_segment
from tests.integration.cache_site import Site, make_site, running
from tests.store.media import make_copies, make_files
from tests.waiting import eventually


@pytest.fixture
async def site(database: Database, tmp_path: Path) -> AsyncIterator[Site]:
    made = await make_site(database, tmp_path / "cache")
    async with database.transaction() as connection:
        for library in ("east", "west"):
            await volumes.create_pool(connection, name=f"system-{library}", library=library)
        await volumes.create_storage_class(
            connection, name=journal.STORAGE_CLASS, copies=2, pools=["system-east", "system-west"]
        )
    async with running(made):
        yield made


async def files_of_the_journal(site: Site) -> dict[str, bytes]:
    async with site.database.connection() as connection:
        rows = await connection.execute(
            sa.text(
                "select f.stored_path, r.id from file f join replica r on r.file = f.id where storage_class = 'system'"
            )
        )
        return {row.stored_path: site.path_of(row.id).read_bytes() for row in rows}


async def segment_of(site: Site, directory: Path, name: str) -> journal.Segment:
    async with site.database.transaction() as connection:
        await namespace.make_directory(connection, (name,), owner="o", group="g", mode=0o755, mtime_ns=1)
    written = await write_segment(site.database, directory, Config(), now=True)
    assert written is not None
    return written


async def test_a_closed_segment_becomes_a_file_with_an_archive_a_library(site: Site, tmp_path: Path) -> None:
    assert site.http is not None
    written = await segment_of(site, tmp_path, "a")
    assert await archive_segments(site.database, tmp_path, site.http) == 1
    on_disk = (tmp_path / segment_name(written.number)).read_bytes()
    assert await files_of_the_journal(site) == {f"/.capstan/journal/{segment_name(written.number)}": on_disk}
    async with site.database.connection() as connection:
        pools = (await connection.execute(sa.text("select pool from archive order by pool"))).scalars().all()
    assert pools == ["system-east", "system-west"]
    assert await archive_segments(site.database, tmp_path, site.http) == 0
    assert await write_segment(site.database, tmp_path, Config(), now=True) is None, "its own put is no news"


async def test_a_put_whose_record_was_lost_is_found_not_repeated(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site.http is not None
    await segment_of(site, tmp_path, "a")

    async def crash(*_: Any) -> bool:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "archived", crash)
        with pytest.raises(RuntimeError):
            await archive_segments(site.database, tmp_path, site.http)
    assert await archive_segments(site.database, tmp_path, site.http) == 1
    assert len(await files_of_the_journal(site)) == 1


async def test_a_segment_whose_file_another_host_has_is_made_again_from_its_rows(site: Site, tmp_path: Path) -> None:
    assert site.http is not None
    written = await segment_of(site, tmp_path / "there", "a")
    bytes_there = (tmp_path / "there" / segment_name(written.number)).read_bytes()
    (tmp_path / "there").rename(tmp_path / "on another host")
    assert await archive_segments(site.database, tmp_path / "here", site.http) == 1
    assert list((await files_of_the_journal(site)).values()) == [bytes_there]
    assert (tmp_path / "here" / segment_name(written.number)).read_bytes() == bytes_there


async def test_a_segment_that_nobody_has_any_more_does_not_hold_the_others_up(site: Site, tmp_path: Path) -> None:
    assert site.http is not None
    missing = await segment_of(site, tmp_path, "a")
    (tmp_path / segment_name(missing.number)).unlink()
    async with site.database.transaction() as connection:
        await connection.execute(sa.text("delete from journal"))
    await segment_of(site, tmp_path, "b")
    assert await archive_segments(site.database, tmp_path, site.http) == 1


async def test_a_put_that_fails_gives_its_space_back_and_is_tried_again(site: Site, tmp_path: Path) -> None:
    assert site.http is not None
    await segment_of(site, tmp_path, "a")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as broken:

        def refuse(*_: Any, **__: Any) -> Any:
            raise aiohttp.ClientConnectionError("no way")

        broken.put = refuse  # type: ignore[method-assign]  # the wire is cut
        with pytest.raises(Unavailable, match="no way"):
            await archive_segments(site.database, tmp_path, broken)
    await site.sweep()
    assert (await site.space())[1] == 0
    assert await archive_segments(site.database, tmp_path, site.http) == 1


async def test_the_loop_writes_puts_and_ends(site: Site, tmp_path: Path) -> None:
    async with site.database.transaction() as connection:
        await namespace.make_directory(connection, ("a",), owner="o", group="g", mode=0o755, mtime_ns=1)
    config = Config(name="ts", journal_dir=str(tmp_path / "j"), journal_seconds=0.05, journal_archive_seconds=0.2)
    closing = asyncio.Event()
    loop = asyncio.create_task(journal_forever(site.database, config, closing))

    async def put() -> bool:
        return bool(await files_of_the_journal(site))

    await eventually(put, seconds=15.0)
    closing.set()
    await loop
    [head] = {decode_segment(path.read_bytes())[0].number for path in (tmp_path / "j").iterdir()}
    assert await files_of_the_journal(site) == {
        f"/.capstan/journal/{segment_name(head)}": (tmp_path / "j" / segment_name(head)).read_bytes()
    }


async def test_the_first_backup_comes_by_itself_once_something_is_on_tape(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backing_up, "ROUND_SECONDS", 0.05)
    config = Config(name="ts", backup_dir=str(tmp_path / "b"))
    closing = asyncio.Event()
    loop = asyncio.create_task(backing_up.backup_forever(site.database, config, closing))
    async with site.database.transaction() as connection:
        await make_copies(connection, await make_files(connection, 1, on_disk=False), "E00001")

    async def made() -> bool:
        async with site.database.connection() as connection:
            found = await connection.scalar(
                sa.text("select count(*) from catalog_backup where verified_at is not null")
            )
        return found == 1

    await eventually(made, seconds=15.0)
    closing.set()
    await loop
    assert len(list((tmp_path / "b").glob("capstan-*.dump"))) == 1
