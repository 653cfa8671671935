"""Promises of writing sessions with real movers: what belongs together lies together, and an index tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from catalog.database import Database
from tests.integration.onesite import all_safe, content, drop_all, eventually, no_drift, put_many, quiet, running_site

pytestmark = pytest.mark.timeout(120)


async def test_small_files_share_tape_files_by_directory_and_an_index_tells_of_them(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1, bundle_files_max=8) as site:
        await site.set_state("libraries", "east", "down")
        # In turn, as several jobs would write them.
        for number in range(10):
            for directory in ("/a", "/b"):
                await site.put(f"{directory}/f{number}", content(number, 1000))
        await site.set_state("libraries", "east", "up")
        await eventually(lambda: all_safe(site), seconds=40)
        await eventually(lambda: quiet(site), seconds=40)
        async with database.connection() as connection:
            rows = await connection.execute(
                sa.text(
                    "select split_part(stored_path, '/', 2) as d from copy c join file f on f.id = c.file "
                    "order by c.first_block, c.byte_offset"
                )
            )
            assert "".join(row.d for row in rows) == "a" * 10 + "b" * 10
            assert await connection.scalar(sa.text("select count(distinct first_block) from copy")) < 20
            volume = (await connection.execute(sa.text("select * from volume where index_block > 0"))).one()
            # Nothing stands behind the index, and it is a tape file like others.
            assert volume.indexed_tape_files == volume.tape_files
            assert volume.end_block > volume.index_block
        await site.drop_from_cache("/b")
        await drop_all(site, "/a")
        await site.stage("/a/f3", "/a/f9")
        await eventually(lambda: quiet(site), seconds=40)
        assert await site.get("/a/f3") == content(3, 1000)
        assert await no_drift(site)


async def test_the_next_mount_goes_on_behind_the_index_and_names_it(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1) as site:
        for prefix in ("/d", "/e"):
            await put_many(site, 2, 1000, prefix=prefix)
            await eventually(lambda: all_safe(site), seconds=40)
            await eventually(lambda: quiet(site), seconds=40)
        assert (
            await site.scalar("select count(*) from volume where index_block > 0 and indexed_tape_files = tape_files")
            == 1
        )
        last = await site.scalar("select max(first_block) from copy")
        assert await site.scalar("select max(index_block) from volume") > last
        assert await site.scalar("select count(distinct outcome) from mount_history where outcome <> 'done'") == 0
