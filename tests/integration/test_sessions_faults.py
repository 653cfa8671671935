"""Promises of sessions when a part fails: stuck movers and drives, full cache, catalog and library away, bad media."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from catalog.database import Database
from catalog.embedded import EmbeddedPostgres
from catalog.errors import CatalogUnreachable
from catalog.migrate import upgrade
from tapeserver.fleet import MoverLink
from tapeserver.library import faults
from tapeserver.timelimits import PhaseSeconds
from tests.integration.onesite import (
    Site,
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
EAST = ("east",)


async def on_tape_only(site: Site, count: int, size: int, *, prefix: str = "/d") -> list[str]:
    paths = await put_many(site, count, size, prefix=prefix)
    await eventually(lambda: all_safe(site))
    await eventually(lambda: quiet(site))
    await drop_all(site, prefix)
    return paths


async def there_is(site: Site, what: str, **values: object) -> Any:
    """Wait until a row is there: `what` is a table and a condition; its number of rows."""
    return await eventually(lambda: site.scalar(f"select count(*) from {what}", **values), seconds=30)


async def bytes_are_right(site: Site, paths: list[str], size: int) -> None:
    await site.stage(*paths)
    await eventually(lambda: quiet(site), seconds=40)
    for number, path in enumerate(paths):
        assert await site.get(path) == content(number, size)


async def test_a_mover_that_is_stopped_is_killed_and_nothing_is_lost(database: Database, memory_path: Path) -> None:
    async with running_site(
        database, memory_path, libraries=EAST, drives=1, flush_files=5, mover_silence_seconds=5.0
    ) as site:
        paths = await put_many(site, 30, 300_000)
        await there_is(site, "copy")
        site.signal_movers(signal.SIGSTOP)
        await eventually(lambda: all_safe(site), seconds=40)
        assert await site.scalar("select count(*) from mount_history where outcome = 'the mover died'") == 1
        assert await site.scalar("select state from drive") == "up"
        await eventually(lambda: quiet(site))
        await drop_all(site)
        await bytes_are_right(site, paths, 300_000)
        assert await no_drift(site)


@pytest.mark.parametrize("phase", ["write", "flush"])
async def test_a_drive_that_does_not_move_goes_down_with_the_reason_and_its_work_goes_on_elsewhere(
    database: Database, memory_path: Path, phase: Literal["write", "flush"]
) -> None:
    async with running_site(
        database, memory_path, libraries=EAST, cartridges=1, dismount_delay_seconds=60.0, cooldown_seconds=2.0,
        phase_seconds={"any": PhaseSeconds(**{phase: 0.5})},
    ) as site:  # fmt: skip
        await put_many(site, 1, 1000)
        await eventually(lambda: all_safe(site))
        drive = await eventually(lambda: site.scalar("select drive from mount"))
        faults.inject(memory_path / "east", faults.Fault("hang", drive=drive, at=phase))
        await site.put("/e/f", b"next")
        await there_is(site, "drive where state = 'down'")
        await eventually(lambda: all_safe(site), seconds=40)
        reason = await site.scalar("select reason from drive where state = 'down'")
        assert reason.startswith(f"drive stuck: Drive {drive} has not moved for ")
        assert f" s in {phase}" in reason
        assert await site.scalar("select drive from mount") not in (None, drive)
        assert await site.scalar("select count(*) from mount_history where outcome like 'drive stuck: %'") == 1
        assert await site.scalar("select state from volume") == "active"
        assert await site.scalar("select drive from failure where kind = 'stuck'") == drive


@pytest.mark.parametrize("at", ["load", "read"])
async def test_a_drive_that_does_not_load_in_time_goes_down_and_another_takes_the_volume(
    database: Database, memory_path: Path, at: Literal["load", "read"]
) -> None:
    async with running_site(
        database, memory_path, libraries=EAST, cartridges=1, phase_seconds={"any": PhaseSeconds(load=2.0)}
    ) as site:
        paths = await on_tape_only(site, 2, 10_000)
        faults.inject(memory_path / "east", faults.Fault("hang", drive="east-0", at=at))
        await site.stage(*paths)
        await eventually(lambda: quiet(site), seconds=40)
        reason = await site.scalar("select reason from drive where name = 'east-0' and state = 'down'")
        assert reason.startswith("drive stuck: Drive east-0 has not moved for 2.")
        assert reason.endswith(" s in load.")
        assert [await site.get(path) for path in paths] == [content(number, 10_000) for number in range(2)]
        faults.clear(memory_path / "east")


@pytest.mark.parametrize("phase", ["locate", "read"])
async def test_a_recall_whose_drive_gets_stuck_comes_from_another_drive(
    database: Database, memory_path: Path, phase: Literal["locate", "read"]
) -> None:
    async with running_site(
        database, memory_path, libraries=EAST, cartridges=1, dismount_delay_seconds=60.0,
        phase_seconds={"any": PhaseSeconds(**{phase: 0.5})},
    ) as site:  # fmt: skip
        paths = await put_many(site, 2, 10_000)
        await eventually(lambda: all_safe(site))
        await drop_all(site)
        await site.stage(paths[0])
        await eventually(lambda: site.get(paths[0]))
        # The mount stays, with its label checked: what hangs now is the reading itself.
        drive = await site.scalar("select drive from mount")
        faults.inject(memory_path / "east", faults.Fault("hang", drive=drive, at=phase))
        await site.stage(paths[1])
        await there_is(site, "drive where state = 'down'")
        assert await eventually(lambda: site.get(paths[1]), seconds=40) == content(1, 10_000)
        reason = await site.scalar("select reason from drive where state = 'down'")
        assert reason.startswith(f"drive stuck: Drive {drive} has not moved for ")
        assert f" s in {phase}" in reason


async def test_a_dead_drive_goes_down_by_the_librarys_word_and_its_volume_is_not_blamed(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, libraries=EAST, cartridges=1, cooldown_seconds=0.1) as site:
        paths = await on_tape_only(site, 2, 10_000)
        faults.inject(memory_path / "east", faults.Fault("dead", drive="east-0", text="power supply"))
        await site.stage(*paths)
        await eventually(lambda: quiet(site), seconds=40)
        await there_is(site, "alert where code = 'drive_failed' and drive = 'east-0'")
        if await site.scalar("select count(*) from drive where state = 'down'"):
            assert "power supply" in await site.scalar("select reason from drive where state = 'down'")
        assert await site.scalar("select count(*) from failure") == 0
        assert await site.scalar("select state from volume") == "active"
        assert [await site.get(path) for path in paths] == [content(number, 10_000) for number in range(2)]


async def test_a_jammed_changer_is_waited_for_and_neither_drive_nor_volume_is_blamed(
    database: Database, memory_path: Path
) -> None:
    async with running_site(
        database, memory_path, libraries=EAST, drives=1, cartridges=1, cooldown_seconds=0.1, dismount_delay_seconds=60.0
    ) as site:
        await put_many(site, 1, 1000)
        await eventually(lambda: all_safe(site))
        volume = await eventually(lambda: site.scalar("select volume from mount"))
        faults.inject(memory_path / "east", faults.Fault("jam", text="arm lost"))
        await site.set_state("volumes", volume, "disabled")
        await there_is(site, "mount where state = 'unloading'")
        await there_is(site, "alert where code = 'changer_jam'")
        await site.set_state("volumes", volume, "enabled")
        faults.clear(memory_path / "east")
        await site.put("/e/f", b"next")
        await eventually(lambda: all_safe(site), seconds=40)
        assert await site.scalar("select count(*) from drive where state = 'up'") == 1
        assert await site.scalar("select state from volume") == "active"
        assert await site.scalar("select count(*) from failure") == 0


async def test_a_swapped_cartridge_is_found_by_its_label_and_its_files_go_elsewhere(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, libraries=EAST, drives=1, cartridges=2) as site:
        faults.inject(memory_path / "east", faults.Fault("swapped", volume="E00001", image="E00002"))
        await put_many(site, 2, 1000)
        await eventually(lambda: all_safe(site), seconds=40)
        assert await site.scalar("select state from volume where vid = 'E00001'") == "suspect"
        assert "wrong_label" in await site.scalar("select reason from volume where vid = 'E00001'")
        assert await site.scalar("select distinct volume from copy") == "E00002"


@pytest.mark.parametrize("at", ["mark", "flush"])
async def test_a_drive_that_loses_its_power_costs_only_what_was_not_flushed(
    database: Database, memory_path: Path, at: Literal["mark", "flush"]
) -> None:
    async with running_site(database, memory_path, libraries=EAST, cooldown_seconds=0.1) as site:
        faults.inject(memory_path / "east", faults.Fault("power_loss", at=at, after_blocks=4, keep="some", seed=3))
        paths = await put_many(site, 8, 300_000)
        await eventually(lambda: all_safe(site), seconds=40)
        await eventually(lambda: quiet(site))
        assert await site.scalar("select count(*) from failure where kind = 'write'") == 1
        assert await site.scalar("select count(*) from volume where state <> 'active'") == 0
        await drop_all(site)
        await bytes_are_right(site, paths, 300_000)
        assert await no_drift(site)


async def test_a_copy_that_two_drives_cannot_read_is_made_again_from_the_other_one(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, cooldown_seconds=0.1) as site:
        await site.put("/d/f", content(0, 10_000), storage_class="two")
        await eventually(lambda: all_safe(site))
        await eventually(lambda: quiet(site))
        await drop_all(site)
        place = "(select first_block + 4 from copy where volume like 'E%' order by first_block limit 1)"
        block = await site.scalar(f"select {place}")
        volume = await site.scalar("select volume from copy where volume like 'E%'")
        faults.inject(memory_path / "east", faults.Fault("unreadable", volume=volume, block=block))
        await site.set_state("libraries", "west", "down")
        await site.stage("/d/f")
        # The only copy that can be reached breaks; nobody is told of a failure, because the other one is only away.
        await there_is(site, "copy where broken_at is not null")
        assert await site.scalar("select count(distinct drive) from failure where file is not null") == 2
        assert await site.scalar("select count(*) from stage_item where state = 'failed'") == 0
        assert not await all_safe(site)
        await site.set_state("libraries", "west", "up")
        await eventually(lambda: quiet(site), seconds=40)
        assert await site.get("/d/f") == content(0, 10_000)
        assert await all_safe(site)
        assert await site.scalar("select count(*) from copy where broken_at is null") == 2
        assert await site.scalar("select count(*) from volume where state <> 'active'") == 0
        assert await no_drift(site)


async def test_what_a_drive_reports_is_kept_once(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, libraries=EAST, drives=1, cartridges=1) as site:
        library = memory_path / "east"
        faults.inject(library, faults.Fault("alert", drive="east-0", code="clean_now", severity="critical"))
        faults.inject(library, faults.Fault("alert", volume="E00001", code="media_life"))
        for number in range(2):
            await site.put(f"/d/f{number}", b"x")
            await eventually(lambda: all_safe(site))
            await eventually(lambda: quiet(site))
        assert await site.scalar("select count(*) from mount_history") >= 2
        assert await site.scalar("select count(*) from alert") == 2
        assert await site.scalar("select drive from alert where code = 'clean_now' and volume is null") == "east-0"
        assert await site.scalar("select volume from alert where code = 'media_life' and drive is null") == "E00001"


async def mover_pid(site: Site, drive: str) -> int | None:
    """As the tape server's heartbeat tells it, which comes every two seconds."""
    found = "select cast(detail #>> array['movers', cast(:drive as text), 'pid'] as integer) from server"
    return await site.scalar(found, drive=drive)


async def test_a_mover_that_cannot_even_be_killed_is_abandoned_and_its_volume_freed(
    database: Database, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_the_kernel(self: MoverLink) -> bool:
        return False

    async with running_site(
        database, memory_path, libraries=EAST, cartridges=1, flush_files=5, mover_silence_seconds=5.0
    ) as site:
        with monkeypatch.context() as patched:
            patched.setattr(MoverLink, "_kill", in_the_kernel)
            async with in_the_middle(site, 30, 300_000):
                drive = await site.scalar("select drive from mount")
                pid = await eventually(lambda: mover_pid(site, drive))
                os.kill(pid, signal.SIGSTOP)
            await there_is(site, "drive where state = 'down' and name = :drive", drive=drive)
            await eventually(lambda: all_safe(site), seconds=40)
            assert "does not end when it is killed" in await site.scalar(
                "select reason from drive where state = 'down'"
            )
            assert await site.scalar("select state from volume") == "active"
        # The process ends at last: an operator has the drive back.
        await site.set_state("drives", drive, "up")
        await there_is(site, "drive where name = :drive and heartbeat_at > capstan_now() - interval '1 s'", drive=drive)


async def test_a_recall_without_cache_space_gives_the_drive_back_says_why_and_goes_on_when_there_is_room(
    database: Database, memory_path: Path
) -> None:
    async with running_site(
        database, memory_path, libraries=EAST, drives=1, cache_bytes=1_000_000, space_wait_seconds=0.3
    ) as site:
        wanted = await on_tape_only(site, 2, 400_000)
        held = await put_many(site, 2, 400_000, prefix="/pinned")
        await eventually(lambda: all_safe(site))
        files = [int(await site.scalar("select id from file where stored_path = :path", path=path)) for path in held]
        await site.post("pins", owner="ann", files=files, lifetime_seconds=3600)
        await site.stage(*wanted)
        await there_is(site, "candidate where code = 'cache_full'")
        await there_is(site, "mount_history where outcome like 'no cache space%'")
        assert await site.scalar("select count(*) from recall where state = 'queued' and attempts = 0") == 2
        async with site.http.delete(f"{site.url}/api/capstan/v1/pins", json={"owner": "ann", "files": files}) as answer:
            assert answer.status in (200, 204)
        await eventually(lambda: quiet(site), seconds=40)
        assert [await site.get(path) for path in wanted] == [content(number, 400_000) for number in range(2)]


async def test_a_cache_server_that_cannot_be_reached_is_no_volumes_fault_and_opens_no_other_one(
    database: Database, memory_path: Path
) -> None:
    """Its heartbeat is heard all the while."""
    async with running_site(database, memory_path, libraries=EAST, cooldown_seconds=0.5) as site:

        async def cache_at(url: str) -> None:
            async with database.transaction() as connection:
                await connection.execute(sa.text("update cache_server set url = :url"), {"url": url})

        url = await site.scalar("select url from cache_server")
        await site.set_state("libraries", "east", "down")
        paths = await put_many(site, 2, 10_000)
        await cache_at("http://127.0.0.1:1")
        await site.set_state("libraries", "east", "up")
        await there_is(site, "candidate where code = 'cache_away' and kind = 'pool'")
        await eventually(lambda: site.scalar("select count(*) > 1 from mount_history"))
        await cache_at(url)
        await eventually(lambda: all_safe(site), seconds=40)
        assert await site.scalar("select count(distinct volume) from mount_history") == 1
        assert await site.scalar("select count(*) from mount_history where outcome like 'the cache does not give%'") > 1
        await eventually(lambda: quiet(site))
        await drop_all(site)
        await cache_at("http://127.0.0.1:1")
        await site.stage(*paths)
        await there_is(site, "candidate where code = 'cache_away' and kind = 'volume'")
        await cache_at(url)
        await eventually(lambda: quiet(site), seconds=40)
        assert [await site.get(path) for path in paths] == [content(number, 10_000) for number in range(2)]
        assert await site.scalar("select count(*) from failure") == 0
        assert await no_drift(site)


async def test_a_recall_waits_in_its_mount_for_what_can_be_evicted(database: Database, memory_path: Path) -> None:
    async with running_site(database, memory_path, libraries=EAST, drives=1, cache_bytes=1_000_000) as site:
        wanted = await on_tape_only(site, 2, 400_000)
        await put_many(site, 2, 400_000, prefix="/safe")
        await eventually(lambda: all_safe(site))
        await eventually(lambda: quiet(site))
        await bytes_are_right(site, wanted, 400_000)
        assert await site.scalar("select count(*) from mount_history where outcome <> 'done'") == 0


async def test_a_library_that_cannot_be_reached_is_said_to_be_and_all_goes_on_when_it_is_back(
    database: Database, memory_path: Path
) -> None:
    async with running_site(
        database, memory_path, libraries=EAST, drives=1, flush_files=5, unreachable_seconds=0.5
    ) as site:
        paths = await put_many(site, 30, 300_000)
        await there_is(site, "copy")
        (memory_path / "east").rename(memory_path / "away")
        await there_is(site, "library where state = 'unreachable'")
        # All of the former may have been written in time: there is something to explain only while something waits.
        await site.put("/d/later", content(len(paths), 300_000), storage_class="one")
        paths.append("/d/later")
        await there_is(site, "candidate where code = 'library_down'")
        (memory_path / "away").rename(memory_path / "east")
        await eventually(lambda: all_safe(site), seconds=40)
        assert await site.scalar("select state from library") == "up"
        assert await site.scalar("select count(*) from drive where state = 'up'") == 1
        assert await site.scalar("select max(attempts) from archive") is None
        await eventually(lambda: quiet(site))
        await drop_all(site)
        await bytes_are_right(site, paths, 300_000)


async def test_a_volume_that_cannot_be_read_is_not_mounted_in_a_loop_and_its_files_fail_with_the_reason(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, libraries=EAST, attempts_max=3) as site:
        paths = await on_tape_only(site, 3, 10_000)
        mounts_before = await site.scalar("select count(*) from mount_history")
        [*blocks] = range(3, 40)
        for block in blocks:
            faults.inject(memory_path / "east", faults.Fault(kind="unreadable", block=block))
        await site.stage(*paths)
        await eventually(lambda: quiet(site), seconds=40)
        assert await site.scalar("select count(*) from stage_item where error_code = 'medium_error'") == 3
        assert await site.scalar("select count(*) from mount_history") - mounts_before <= 3
        outcome = "select count(*) from mount_history where outcome like 'read failed: medium_error: %'"
        assert await site.scalar(outcome) >= 1
        assert await site.scalar("select state from volume where vid = 'E00001'") == "active"
        assert await no_drift(site)


async def test_a_volume_that_no_drive_can_read_is_disabled_and_its_recalls_wait_for_the_operator(
    database: Database, memory_path: Path
) -> None:
    async with running_site(
        database, memory_path, libraries=EAST, read_failures_max=2, cooldown_seconds=0.1, dismount_delay_seconds=0.0,
        backoff_seconds=0.05, attempts_max=100,
    ) as site:  # fmt: skip
        paths = await on_tape_only(site, 2, 10_000)
        # Not even its label: several drives say so.
        faults.inject(memory_path / "east", faults.Fault(kind="unreadable", volume="E00001"))
        await site.stage(*paths)
        await there_is(site, "candidate where code = 'volume_disabled'")
        assert "loading failed 2 times (drives east-0, east-1)" in await site.scalar(
            "select reason from volume where state = 'disabled'"
        )
        assert await site.scalar("select count(*) from stage_item where state = 'failed'") == 0
        faults.clear(memory_path / "east")
        await site.set_state("volumes", "E00001", "enabled")
        await site.post("queue/retry", kind="recalls", reason="the drives were cleaned")
        await eventually(lambda: quiet(site), seconds=40)
        assert [await site.get(path) for path in paths] == [content(number, 10_000) for number in range(2)]
        assert await no_drift(site)


async def test_a_mount_with_nothing_to_do_gives_its_drive_to_another_volume_and_comes_back(
    database: Database, memory_path: Path
) -> None:
    async with running_site(database, memory_path, libraries=EAST, drives=1, dismount_delay_seconds=60.0) as site:
        first = await put_many(site, 2, 1000)
        await eventually(lambda: all_safe(site))
        volume = await eventually(lambda: site.scalar("select volume from mount"))
        await site.set_state("volumes", volume, "disabled")
        await there_is(site, "mount_history")
        second = await put_many(site, 1, 1000, prefix="/e")
        await eventually(lambda: all_safe(site))
        await site.set_state("volumes", volume, "enabled")
        await drop_all(site, "/")
        # The mount of the second one would keep the only drive for a minute.
        assert await site.scalar("select volume from mount") != volume
        await site.stage(*first)
        await there_is(site, "mount where volume = :volume", volume=volume)
        ended = "select outcome from mount_history where volume <> :volume"
        assert await site.scalar(ended, volume=volume) == "done"
        await site.stage(*second)

        async def served() -> bool:
            return not await site.scalar("select count(*) from recall")

        await eventually(served, seconds=40)
        assert [await site.get(path) for path in (*first, *second)] == [content(n, 1000) for n in (0, 1, 0)]


@asynccontextmanager
async def own_catalog(directory: Path) -> AsyncIterator[tuple[EmbeddedPostgres, Database]]:
    """A PostgreSQL of this test's own, to be stopped and started."""
    server = EmbeddedPostgres(directory)
    try:
        url = await server.start()
        await upgrade(url)
        async with Database(url, application_name="test") as database:
            yield server, database
    finally:
        await server.remove()


async def test_a_catalog_that_crashes_in_the_middle_of_writing_loses_nothing_and_work_goes_on(
    server_directory: Path, memory_path: Path
) -> None:
    async with (
        own_catalog(server_directory) as (server, database),
        running_site(
            database, memory_path, cartridges=1, libraries=EAST, drives=1, flush_files=4, commit_retry_seconds=1.0,
            collecting_age_seconds=600.0,
        ) as site,
    ):  # fmt: skip
        paths = await put_many(site, 40, 20_000)
        with suppress(CatalogUnreachable):
            async with database.transaction() as connection:
                # Claims pass this lock; the commit of copies that were written and flushed does not.
                await connection.execute(sa.text("select from file for update"))
                await site.post("archive-wait", paths=paths)
                await there_is(site, "pg_stat_activity where wait_event_type = 'Lock'")
                await crash(connection)
        # Longer than the session is patient: the mount is given up with flushed files that no catalog knows of. The
        # next one finds them on the tape, adopts them, and writes behind them.
        with capture_logs() as said:
            await eventually(lambda: was_said(said, "catalog not told"))
        assert await server.start() == database.url
        await eventually(lambda: all_safe(site), seconds=60)
        await eventually(lambda: quiet(site), seconds=30)
        assert await site.scalar("select count(distinct (file, copy_number)) from copy") == 40
        assert await site.scalar("select count(*) from copy") == 40
        await drop_all(site)
        await bytes_are_right(site, paths, 20_000)
        assert await no_drift(site)


async def was_said(lines: Sequence[Mapping[str, Any]], event: str) -> bool:
    return any(line["event"] == event for line in lines)


async def crash(connection: AsyncConnection) -> None:
    """Of the whole server, as `pg_ctl stop -m immediate`: no checkpoint, no word to anybody."""
    backend = await connection.scalar(sa.text("select pg_backend_pid()"))
    # Behind the command's name in brackets, which may hold anything: state, parent.
    pid = int(Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(pid, signal.SIGQUIT)

    async def gone() -> bool:
        return not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]

    await eventually(gone)
