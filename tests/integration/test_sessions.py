"""Promises of sessions, with real movers, virtual tape and a real cache server: to tape and back, whoever dies."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from catalog.database import Database
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


async def test_files_go_to_tape_by_age_and_come_back_with_their_bytes(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1) as site:
        paths = await put_many(site, 10, 300_000)
        await eventually(lambda: all_safe(site))
        await eventually(lambda: quiet(site))
        await drop_all(site)
        await site.stage(*paths)
        await eventually(lambda: quiet(site))
        for number, path in enumerate(paths):
            assert await site.get(path) == content(number, 300_000)
        assert await no_drift(site)
        assert await site.scalar("select count(distinct outcome) from mount_history where outcome <> 'done'") == 0


async def test_two_copies_lie_in_two_libraries_and_the_one_that_is_up_serves(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, drives=1) as site:
        paths = await put_many(site, 5, 10_000, storage_class="two")
        await eventually(lambda: all_safe(site))
        await eventually(lambda: quiet(site))
        assert await site.scalar("select count(distinct v.library) from copy c join volume v on v.vid = c.volume") == 2
        await drop_all(site)
        await site.set_state("libraries", "east", "down")
        await site.stage(*paths)
        await eventually(lambda: quiet(site))
        assert await site.get(paths[0]) == content(0, 10_000)


async def test_a_killed_mover_loses_nothing_and_holds_nothing_up(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, libraries=("east",), flush_files=5) as site:
        async with in_the_middle(site, 40, 400_000) as paths:
            assert len(site.signal_movers()) == 2
        await eventually(lambda: all_safe(site), seconds=40)
        await eventually(lambda: quiet(site))
        await drop_all(site)
        await site.stage(*paths)

        async def reading() -> bool:
            return bool(await site.scalar("select count(*) from replica"))

        await eventually(reading)
        site.signal_movers()
        await eventually(lambda: quiet(site), seconds=40)
        for number, path in enumerate(paths):
            assert await site.get(path) == content(number, 400_000)
        assert await no_drift(site)
        assert await site.scalar("select count(*) from mount_history where outcome like 'the mover died%'") >= 1
        assert await site.scalar("select count(*) from reservation") == 0


async def test_a_tape_server_that_is_stopped_in_the_middle_goes_on_where_it_was(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1, flush_files=3) as site:
        await put_many(site, 20, 400_000)

        async def writing() -> bool:
            return bool(await site.scalar("select count(*) from copy"))

        await eventually(writing)
        await site.stop_tapeserver()
        await site.start_tapeserver()
        await eventually(lambda: all_safe(site), seconds=40)
        await eventually(lambda: quiet(site))
        assert await no_drift(site)


async def test_a_full_volume_is_closed_and_the_rest_goes_on_the_next(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1, capacity_bytes=20_000_000) as site:
        await put_many(site, 5, 6_000_000)
        await eventually(lambda: all_safe(site), seconds=60)
        assert await site.scalar("select count(*) from volume where state = 'full'") >= 1
        assert await site.scalar("select count(distinct volume) from copy") >= 2
        assert await site.scalar("select count(*) from volume where written_bytes > capacity_bytes") == 0
        assert await site.scalar("select max(attempts) from archive") is None


async def test_a_drive_put_down_lets_go_within_a_second_and_the_other_takes_over(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, libraries=("east",), dismount_delay_seconds=30.0) as site:
        await put_many(site, 1, 1000)
        await eventually(lambda: all_safe(site))
        drive = await eventually(lambda: site.scalar("select drive from mount"))
        await site.set_state("drives", drive, "down")

        async def let_go() -> bool:
            return not await site.scalar("select count(*) from mount")

        await eventually(let_go, seconds=10)
        await put_many(site, 1, 1000, prefix="/e")
        await eventually(lambda: all_safe(site))
        assert await site.scalar("select drive from mount") != drive


async def test_a_single_copy_waits_for_its_library_and_says_so(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, drives=1) as site:
        paths = await put_many(site, 1, 1000)
        await eventually(lambda: all_safe(site))
        await eventually(lambda: quiet(site))
        await drop_all(site)
        library = await site.scalar("select v.library from copy c join volume v on v.vid = c.volume")
        await site.set_state("libraries", library, "down")
        await site.stage(*paths)

        async def explained() -> bool:
            return bool(await site.scalar("select count(*) from candidate where code = 'library_down'"))

        await eventually(explained)
        await site.set_state("libraries", library, "up")
        await eventually(lambda: quiet(site))
        assert await site.get(paths[0]) == content(0, 1000)


async def test_archives_of_a_library_that_stays_away_move_to_the_other(database: Database, memory_path: Path) -> None:
    async with running_site(
        database, memory_path, drives=1, failover_after_seconds=1.0, collecting_age_seconds=3.0
    ) as site:
        await put_many(site, 2, 1000)
        pool = await site.scalar("select min(pool) from archive")
        await site.set_state("libraries", pool, "down")
        await eventually(lambda: all_safe(site), seconds=30)
        assert (
            await site.scalar("select count(*) from copy c join volume v on v.vid = c.volume where v.pool = :p", p=pool)
            == 0
        )


async def test_a_tape_server_that_dies_in_the_middle_is_cleaned_up_after(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1, flush_files=3) as site:
        await put_many(site, 20, 400_000)

        async def writing() -> bool:
            return bool(await site.scalar("select count(*) from copy"))

        await eventually(writing)
        await site.crash_tapeserver()
        await site.start_tapeserver()
        await eventually(lambda: all_safe(site), seconds=40)
        await eventually(lambda: quiet(site))
        assert await no_drift(site)


async def test_a_copy_that_cannot_be_read_gives_way_to_the_other(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, drives=1) as site:
        paths = await put_many(site, 3, 10_000, storage_class="two")
        await eventually(lambda: all_safe(site))
        await eventually(lambda: quiet(site))
        await drop_all(site)
        volume = await site.scalar("select volume from copy where volume like 'E%' limit 1")
        faults.inject(memory_path / "east", faults.Fault(kind="unreadable", volume=volume))
        await site.stage(*paths)
        await eventually(lambda: quiet(site), seconds=40)
        assert [await site.get(path) for path in paths] == [content(number, 10_000) for number in range(3)]


async def test_a_copy_that_nobody_can_read_is_given_up_with_its_reason(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1, attempts_max=2) as site:
        paths = await put_many(site, 1, 10_000)
        await eventually(lambda: all_safe(site))
        await eventually(lambda: quiet(site))
        await drop_all(site)
        block = await site.scalar("select first_block + 4 from copy")
        faults.inject(memory_path / "east", faults.Fault(kind="unreadable", block=block))
        await site.stage(*paths)
        await eventually(lambda: quiet(site), seconds=40)
        assert await site.scalar("select error_code from stage_item where state = 'failed'") == "medium_error"


async def test_a_volume_that_cannot_be_written_is_closed_and_the_files_go_elsewhere(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1) as site:
        faults.inject(memory_path / "east", faults.Fault(kind="write_error", volume="E00001", after_blocks=5))
        await put_many(site, 3, 400_000)
        await eventually(lambda: all_safe(site), seconds=40)
        await eventually(lambda: quiet(site))
        assert await site.scalar("select max(attempts) from archive") is None
        assert await no_drift(site)


async def test_a_volume_with_a_wrong_label_is_suspect_and_says_why(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1) as site:
        async with database.transaction() as connection:
            await connection.exec_driver_sql("update volume set generation = 7 where vid = 'E00001'")
        await put_many(site, 1, 1000)
        await eventually(lambda: all_safe(site))
        assert await site.scalar("select state from volume where vid = 'E00001'") == "suspect"
        assert "wrong_label" in await site.scalar("select reason from volume where vid = 'E00001'")


async def test_what_lay_on_a_volume_that_bears_another_label_is_written_again(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1) as site:
        await site.put("/d/f", b"once")
        await eventually(lambda: all_safe(site))
        await eventually(lambda: quiet(site))
        volume = await site.scalar("select volume from copy")
        async with database.transaction() as connection:
            # As a catalog restored from a backup older than the last relabelling believes.
            await connection.exec_driver_sql("update copy set generation = 7")
            await connection.execute(
                sa.text("update volume set generation = 7, state = 'full' where vid = :vid"), {"vid": volume}
            )
        assert await all_safe(site)
        await site.post(f"volumes/{volume}/verify", reason="restored")
        await eventually(lambda: site.scalar("select count(*) = 1 from good_copy where volume <> :vid", vid=volume))
        assert await site.scalar("select state from volume where vid = :vid", vid=volume) == "suspect"
        assert await site.scalar("select state from maintenance where kind = 'verify'") == "failed"


async def test_a_tape_that_ends_before_the_catalogs_end_is_suspect(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, libraries=("east",), drives=1) as site:
        async with database.transaction() as connection:
            await connection.exec_driver_sql(
                "update volume set tape_files = 3, end_block = 50, written_bytes = 9 where vid = 'E00001'"
            )
        await put_many(site, 1, 1000)
        await eventually(lambda: all_safe(site))
        assert await site.scalar("select state from volume where vid = 'E00001'") == "suspect"
