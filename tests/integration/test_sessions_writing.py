"""Promises of writing sessions with real movers: what belongs together lies together, and an index tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from catalog.database import Database
from tapeserver.format.objects import HEADER_OBJECTS
from tapeserver.library import faults
from tests.integration.onesite import (
    all_safe,
    content,
    drop_all,
    in_the_middle,
    no_drift,
    put_many,
    quiet,
    running_site,
)
from tests.waiting import eventually

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


async def test_a_volume_that_fills_up_ends_with_its_full_index_and_the_rest_goes_to_the_next(
    database: Database, memory_path: Path
) -> None:
    async with running_site(
        database, memory_path, libraries=("east",), drives=1, cartridges=3, capacity_bytes=4_000_000
    ) as site:
        await site.set_state("libraries", "east", "down")
        paths = await put_many(site, 10, 600_000)
        await site.set_state("libraries", "east", "up")
        await eventually(lambda: all_safe(site), seconds=60)
        await eventually(lambda: quiet(site), seconds=60)
        async with database.connection() as connection:
            volumes = (
                await connection.execute(sa.text("select * from volume where tape_files > 0 order by vid"))
            ).all()
            last = await connection.scalar(
                sa.text("select max(first_block) from copy where volume = :vid"), {"vid": volumes[0].vid}
            )
        assert [one.state for one in volumes] == ["full", "active"]
        assert all(one.indexed_tape_files == one.tape_files and one.index_block > 0 for one in volumes)
        assert volumes[0].index_block > last
        assert await site.scalar("select count(*) from copy") == 10
        await drop_all(site)
        await site.stage(*paths)
        await eventually(lambda: quiet(site), seconds=60)
        for number, path in enumerate(paths):
            assert await site.get(path) == content(number, 600_000)
        assert await no_drift(site)


async def test_what_was_flushed_when_everything_died_before_the_commit_is_adopted_and_not_written_again(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1, cartridges=1) as site:
        async with in_the_middle(site, 4, 1000):
            [wrote] = [await site.scalar("select epoch from mount")]
            await site.crash_tapeserver()
        assert await site.scalar("select count(*) from copy") == 0
        await site.start_tapeserver()
        await eventually(lambda: all_safe(site), seconds=60)
        await eventually(lambda: quiet(site), seconds=60)
        assert await site.scalar("select count(*) from copy where epoch = :epoch", epoch=wrote) == 4
        assert await site.scalar("select count(*) from copy") == 4
        assert await site.scalar("select count(*) from dead_extent") == 0
        assert await no_drift(site)


@pytest.mark.parametrize("in_every_drive", [False, True])
async def test_what_one_drive_cannot_read_back_is_dead_only_when_another_one_cannot_either(
    database: Database, memory_path: Path, in_every_drive: bool
) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=2, cartridges=1) as site:
        async with in_the_middle(site, 4, 1000):
            [wrote] = [await site.scalar("select epoch from mount")]
            await site.crash_tapeserver()
        drive = None if in_every_drive else "east-1"
        fault = faults.Fault("unreadable", volume="E00001", block=2 + HEADER_OBJECTS, drive=drive)
        faults.inject(memory_path / "east", fault)
        await site.start_tapeserver()
        await site.set_state("drives", "east-0", "down")
        refused = "select array_agg(drive) from mount_history where outcome like 'read failed%cannot be read back%'"
        await eventually(lambda: site.scalar(refused), seconds=60)
        await site.set_state("drives", "east-0", "up")
        await eventually(lambda: all_safe(site), seconds=60)
        await eventually(lambda: quiet(site), seconds=60)
        assert len(set(await site.scalar(refused))) == 1, "the second drive's word is enough"
        adopted = 0 if in_every_drive else 4
        assert await site.scalar("select count(*) from copy where epoch = :epoch", epoch=wrote) == adopted
        assert await site.scalar("select count(*) from copy") == 4
        assert await site.scalar("select count(*) from dead_extent") == in_every_drive
        assert await site.scalar("select state from volume") == "active"
        assert await no_drift(site)


async def test_two_volumes_of_a_pool_that_are_filled_at_once_keep_groups_whole(
    database: Database, memory_path: Path
) -> None:
    async with running_site(
        database, memory_path, libraries=("east",), drives=2, cartridges=2,
        volumes_open_max=2, volumes_open_bytes=1, archives_files_max=5,
    ) as site:  # fmt: skip
        await site.set_state("libraries", "east", "down")
        for number in range(5):
            for directory in ("/a", "/b", "/c", "/d"):
                await site.put(f"{directory}/f{number}", content(number, 1000))
        async with site.database.transaction() as connection:
            # Until both have claimed: neither can commit, and so neither can claim all there is.
            await connection.execute(sa.text("select from file for update"))
            await site.set_state("libraries", "east", "up")
            claimed = "select count(distinct epoch) = 2 from archive where state = 'claimed'"
            await eventually(lambda: site.scalar(claimed), seconds=60)
        await eventually(lambda: all_safe(site), seconds=60)
        await eventually(lambda: quiet(site), seconds=60)
        async with database.connection() as connection:
            groups = await connection.execute(
                sa.text(
                    "select split_part(f.stored_path, '/', 2) as name, count(distinct c.volume) as volumes"
                    " from copy c join file f on f.id = c.file group by 1 order by 1"
                )
            )
            assert groups.all() == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]
        assert await site.scalar("select count(distinct volume) from copy") == 2
        assert await no_drift(site)


async def test_a_volume_that_was_closed_when_it_was_not_mounted_gets_its_full_index_in_an_idle_drive(
    database: Database, memory_path: Path
) -> None:
    async with running_site(
        database, memory_path, libraries=("east",), drives=1, cartridges=1, maintenance_seconds=0.2
    ) as site:
        await put_many(site, 2, 1000)
        await eventually(lambda: all_safe(site), seconds=60)
        await eventually(lambda: quiet(site), seconds=60)
        # As if the last mount had died before its index.
        async with database.transaction() as connection:
            await connection.execute(sa.text("update volume set index_block = 0, indexed_tape_files = 0"))
        await site.set_state("volumes", "E00001", "closed")
        done = "select count(*) = 1 from maintenance where kind = 'index' and state = 'done'"
        await eventually(lambda: site.scalar(done), seconds=60)
        await eventually(lambda: quiet(site), seconds=60)
        assert await site.scalar("select index_block > 0 and indexed_tape_files = tape_files from volume")
        assert await site.scalar("select count(*) from mount_history where reason_code = 'index'") == 1
        assert await site.scalar("select outcome from mount_history order by epoch desc limit 1") == "done"
