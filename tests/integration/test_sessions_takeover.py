"""Tape servers as processes of their own, two with the same drives: one dies or sleeps too long, the other goes on."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from capstan.demo.site import descendants
from catalog.database import Database
from tests.integration.onesite import (
    Site,
    all_safe,
    content,
    drop_all,
    in_the_middle,
    no_drift,
    quiet,
    running_site,
)
from tests.scenario.soak_tapes import RECORDED, missing_copies, recorded_by_library
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(400)

#: so long a tape server may be silent
SILENCE_SECONDS = 2.0
#: and so long after that the other has its drives: a round of its loops, and as much again for a busy machine
TAKEOVER_SECONDS = SILENCE_SECONDS + 8.0
SIZE = 100_000
#: heartbeats of one that woke up, after which all its loops have been round: whatever it would do it has done by then
ROUNDS_AWAKE = 5


@asynccontextmanager
async def two_tapeservers(database: Database, directory: Path, **config: object) -> AsyncIterator[Site]:
    """`ts` holds both drives and plans, `other` stands by; `site.url` is the door of `other`."""
    async with running_site(
        database,
        directory,
        libraries=("east",),
        own_process=True,
        drive_silence_seconds=SILENCE_SECONDS,
        lease_seconds=1.0,
        flush_files=2,
        **config,
    ) as site:
        await eventually(lambda: holds(site, "ts"))
        await site.spawn_tapeserver("other")
        yield site
        assert await no_drift(site)
        await images_are_right(site)


async def holds(site: Site, name: str) -> bool:
    """Whether it has both drives, attached, and the planner's lease."""
    return bool(
        await site.scalar(
            "select (select count(*) from drive where tapeserver = :name and state = 'up'"
            f" and heartbeat_at > capstan_now() - interval '{SILENCE_SECONDS} s') = 2"
            " and exists (select from lease where name = 'planner:east' and holder = :name"
            " and expires_at > capstan_now())",
            name=name,
        )
    )


async def images_are_right(site: Site) -> None:
    async with site.database.connection() as connection:
        rows = [tuple(row) for row in await connection.execute(sa.text(RECORDED))]
    for library, recorded in recorded_by_library(rows).items():
        assert missing_copies(site.directory / library, recorded) == []


def images(site: Site) -> dict[str, str]:
    """Every cartridge, bytes and records."""
    return {
        path.name: hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted((site.directory / "east" / "cartridges").iterdir())
    }


def signal_tapeserver(site: Site, name: str, number: signal.Signals, *, movers: bool) -> None:
    pid = site.processes[name].pid
    below = [child for child, line in descendants(pid).items() if "tapeserver.mover" in line] if movers else []
    for one in (pid, *below):
        os.kill(one, number)


async def settled(site: Site) -> None:
    # A dozen seconds, and ten times as many on a machine that is busy with other things.
    await eventually(lambda: all_safe(site), seconds=150)
    await eventually(lambda: quiet(site), seconds=60)


async def bytes_are_right(site: Site, paths: list[str]) -> None:
    for number, path in enumerate(paths):
        assert await site.get(path) == content(number, SIZE)


class Users:
    """Commands with both doors in CAPSTAN_URL, one after the other until left; each must end well."""

    def __init__(self, site: Site, directory: Path) -> None:
        self.env = os.environ | {"CAPSTAN_URL": ",".join(site.doors.values()), "CAPSTAN_TOKEN": site.token}
        self.directory = directory
        self.rounds = 0
        self.stop = asyncio.Event()

    async def run(self) -> None:
        while not self.stop.is_set():
            sent, got = self.directory / "sent", self.directory / "got"
            sent.write_bytes(content(self.rounds, 5000))
            path = f"/users/f{self.rounds}"
            await self.command("tput", str(sent), path)
            got.unlink(missing_ok=True)
            await self.command("tget", path, str(got))
            assert got.read_bytes() == sent.read_bytes()
            assert f"f{self.rounds}" in await self.command("tls", "/users")
            self.rounds += 1

    async def command(self, *argv: str) -> str:
        program = str(Path(sys.executable).parent / argv[0])
        process = await asyncio.create_subprocess_exec(
            program, *argv[1:], env=self.env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        told, why = await process.communicate()
        assert process.returncode == 0, f"{argv}: exit code {process.returncode}: {why.decode()}"
        return told.decode()


async def test_killed_while_it_writes_and_while_it_reads_the_other_or_a_new_one_takes_drives_lease_and_work(
    database: Database, memory_path: Path, tmp_path: Path
) -> None:
    async with two_tapeservers(database, memory_path) as site:
        users = Users(site, tmp_path)
        async with asyncio.TaskGroup() as group:
            group.create_task(users.run())
            async with in_the_middle(site, 60, SIZE) as paths:
                await eventually(lambda: async_true(users.rounds >= 1))
                before = users.rounds
                await site.kill_tapeserver("ts")
            await eventually(lambda: holds(site, "other"), seconds=TAKEOVER_SECONDS)
            await eventually(lambda: async_true(users.rounds >= before + 2), seconds=60)
            users.stop.set()
        await settled(site)
        # Now the other way round: the one that is left reads, and a new one of the old name takes over.
        await site.drop_from_cache("/users")
        await drop_all(site)
        await site.spawn_tapeserver("ts")
        await site.stage(*paths)
        await eventually(lambda: site.scalar("select count(*) from mount where purpose = 'recall'"))
        await site.kill_tapeserver("other")
        await eventually(lambda: holds(site, "ts"), seconds=TAKEOVER_SECONDS)
        await settled(site)
        await bytes_are_right(site, paths)
        assert await site.scalar("select count(*) from stage_item where state <> 'completed'") == 0
        # Nobody else is there: a new one of its name takes up what it left, at once.
        async with in_the_middle(site, 20, SIZE, prefix="/alone"):
            await site.kill_tapeserver("ts")
        await site.spawn_tapeserver("ts")
        await settled(site)
        outcome = "select count(*) from mount_history where outcome = 'the tape server was restarted'"
        assert await site.scalar(outcome) == 1


async def test_one_that_slept_too_long_writes_nothing_when_it_wakes_and_stands_by(
    database: Database, memory_path: Path
) -> None:
    async with two_tapeservers(database, memory_path) as site:
        # Its movers go on; and the other way round, the one that stood by takes over, and the movers sleep too.
        for sleeper, heir, movers in (("ts", "other", False), ("other", "ts", True)):
            site.url = site.doors[heir]
            paths = await slept_too_long(site, sleeper, heir, movers=movers)
        await site.drop_from_cache("/ts")
        await drop_all(site, "/other")
        await site.stage(*paths)
        await settled(site)
        await bytes_are_right(site, paths)


async def slept_too_long(site: Site, sleeper: str, heir: str, *, movers: bool) -> list[str]:
    """The files that were being written meanwhile."""
    async with in_the_middle(site, 60, SIZE, prefix=f"/{sleeper}") as paths:
        epoch = await site.scalar("select max(epoch) from mount")
        signal_tapeserver(site, sleeper, signal.SIGSTOP, movers=movers)
        # The database still executes what it had sent when this block lets go of its lock; and then it has locks
        # itself, in a transaction that does not end.
    await eventually(lambda: holds(site, heir), seconds=TAKEOVER_SECONDS)
    await settled(site)
    outcome = await site.scalar("select outcome from mount_history where epoch = :epoch", epoch=epoch)
    before, dead = images(site), await site.scalar("select count(*) from dead_extent")
    signal_tapeserver(site, sleeper, signal.SIGCONT, movers=True)
    beaten = "select heartbeat_at from server where name = :name"
    for _ in range(ROUNDS_AWAKE):
        last = await site.scalar(beaten, name=sleeper)
        await eventually(lambda last=last: site.scalar(f"{beaten} and heartbeat_at > :last", name=sleeper, last=last))
    assert await holds(site, heir)
    assert images(site) == before
    assert await site.scalar("select count(*) from dead_extent") == dead
    assert await site.scalar("select outcome from mount_history where epoch = :epoch", epoch=epoch) == outcome
    assert await site.scalar("select count(*) from volume where state not in ('active', 'blank')") == 0
    assert site.processes[sleeper].returncode is None
    return paths


async def test_one_that_wakes_while_the_other_writes_the_same_volume_in_the_same_drive_does_no_harm(
    database: Database, memory_path: Path
) -> None:
    async with two_tapeservers(database, memory_path, cooldown_seconds=0.0) as site:
        async with in_the_middle(site, 60, SIZE):
            volume, drive = await site.scalar("select volume from mount"), await site.scalar("select drive from mount")
            # Only this drive, so that it is the same again.
            await site.set_state("drives", *[one for one in ("east-0", "east-1") if one != drive], "down")
            signal_tapeserver(site, "ts", signal.SIGSTOP, movers=True)
        mounted = "select count(*) from mount where tapeserver = 'other' and state = 'running'"
        await eventually(lambda: site.scalar(mounted), seconds=TAKEOVER_SECONDS + 10)
        assert await site.scalar("select volume from mount") == volume
        signal_tapeserver(site, "ts", signal.SIGCONT, movers=True)
        await settled(site)
        await drop_all(site)
        paths = [f"/d/f{number}" for number in range(60)]
        await site.stage(*paths)
        await settled(site)
        await bytes_are_right(site, paths)
        assert await site.scalar("select state from drive where name = :drive", drive=drive) == "up"
        assert await site.scalar("select count(*) from volume where state not in ('active', 'blank')") == 0


async def async_true(value: bool) -> bool:
    return value
