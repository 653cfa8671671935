"""Promises of tape servers as processes of their own: killed in the middle of a mount, another takes up the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.database import Database
from tests.integration.onesite import (
    Site,
    all_safe,
    content,
    drop_all,
    eventually,
    in_the_middle,
    no_drift,
    quiet,
    running_site,
)

pytestmark = pytest.mark.timeout(120)


async def read_back(site: Site, paths: list[str], size: int) -> None:
    await eventually(lambda: all_safe(site), seconds=60)
    await eventually(lambda: quiet(site), seconds=30)
    await drop_all(site)
    await site.stage(*paths)
    await eventually(lambda: quiet(site), seconds=60)
    for number, path in enumerate(paths):
        assert await site.get(path) == content(number, size)
    assert await no_drift(site)


async def test_a_killed_tape_server_is_taken_up_by_a_new_one_of_its_name(database: Database, memory_path: Path) -> None:
    async with running_site(
        database, memory_path, libraries=("east",), drives=1, flush_files=2, own_process=True
    ) as site:
        async with in_the_middle(site, 60, 100_000) as paths:
            await site.kill_tapeserver("ts")
        await site.spawn_tapeserver("ts")
        await read_back(site, paths, 100_000)
        outcome = "select count(*) from mount_history where outcome = 'the tape server was restarted'"
        assert await site.scalar(outcome) == 1


async def test_a_standby_leaves_drives_alone_until_their_holder_is_silent_and_then_takes_lease_and_mount(
    database: Database, memory_path: Path
) -> None:
    async with running_site(
        database, memory_path, libraries=("east",), drives=1, flush_files=2, own_process=True, lease_seconds=1.0
    ) as site:
        first = site.url
        await site.spawn_tapeserver("standby")
        site.url = first
        async with in_the_middle(site, 60, 100_000) as paths:
            drive = await site.scalar("select drive from mount")
            assert await site.scalar("select tapeserver from drive") == "ts"
            assert await site.scalar("select tapeserver from mount") == "ts"
            epoch = await site.scalar("select epoch from mount")
            await site.kill_tapeserver("ts")
        # The time that a holder may be silent has passed, by the only clock that counts.
        async with database.transaction() as connection:
            await connection.exec_driver_sql("update drive set heartbeat_at = heartbeat_at - interval '1 minute'")
        await site.spawn_tapeserver("other")
        await read_back(site, paths, 100_000)
        assert await site.scalar("select tapeserver from drive where name = :drive", drive=drive) != "ts"
        holder = await site.scalar("select holder from lease where name = 'planner:east'")
        assert holder in ("standby", "other")
        assert await site.scalar("select count(*) from mount_history where epoch = :epoch", epoch=epoch) == 1
        assert await site.scalar("select count(*) from mount_history where outcome like 'stopped:%'") == 0
