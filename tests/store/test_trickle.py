"""Promises of production against a trickle: a request a minute for one volume is not a mount a minute.

The planner of production on its catalog, whose clock the test moves. Mounts are made up: they read what waits when the
planner has spoken, at once or a step later, say that they are idle, and end when they are asked to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import mounts, queues
from catalog.database import Database
from catalog.states import MountState
from tapeserver.config import Config
from tests.store.media import make_copies, make_files, two_libraries, wait_for
from tests.store.test_libraryplanner import At

SetClock = Callable[[datetime | None], Awaitable[None]]
BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
CONFIG = Config(name="ts", lease_seconds=100_000.0, drive_silence_seconds=100_000.0)


class Site(At):
    """A trickle on E00001, and other volumes of `east`; `mounted_times` says how often each was in a drive."""

    async def begin(self, *, drives: int, others: int) -> None:
        self.number = 0
        self.mounted_times: Counter[str] = Counter()
        self.longest_wait_seconds = 0.0
        self.waiting: dict[str, list[tuple[datetime, int]]] = {}
        async with self.database.transaction() as connection:
            await two_libraries(connection, volumes_each=1 + others, drives_each=drives)
            self.files = await make_files(connection, 60 + others, on_disk=False)
            await make_copies(connection, self.files[others:], "E00001")
            for number in range(others):
                await make_copies(connection, [self.files.pop(0)], f"E{number + 2:05}")
            await connection.execute(sa.text("update drive set tapeserver = 'ts', heartbeat_at = capstan_now()"))
            rows = await connection.execute(sa.text("select volume, file from copy where volume <> 'E00001'"))
            for volume, file in rows.all():
                await self._ask(connection, volume, file, BEGIN)

    async def _ask(self, connection: AsyncConnection, volume: str, file: int, now: datetime) -> None:
        await wait_for(connection, [file])
        await queues.request_recalls(connection, [file], owner="ann", group="cms")
        self.waiting.setdefault(volume, []).append((now, file))

    async def step(self, now: datetime, wanted: int, *, rounds: int) -> None:
        """So many files of E00001 are asked for; then planner and mounts have their say in turn."""
        async with self.database.transaction() as connection:
            for _ in range(wanted):
                await self._ask(connection, "E00001", self.files.pop(0), now)
        for _ in range(rounds):
            async with self.database.connection() as connection:
                live = await mounts.list_mounts(connection)
            for one in live:
                await self._work(one, now)
            await self.planner.decide()
            self.planner._surround_at = 0.0
            await self.planner.learn()
            await self.planner.decide()

    async def _work(self, one: mounts.Mount, now: datetime) -> None:
        if one.stop_wanted is not None:
            await self.end(one.volume, f"stopped: {one.stop_wanted}")
            return
        served = self.waiting.pop(one.volume, [])
        async with self.database.transaction() as connection:
            if one.state is MountState.PLANNED:
                self.mounted_times[one.volume] += 1
                await mounts.take(connection, one.epoch, "ts")
                await mounts.advance(connection, one.epoch, MountState.RUNNING)
            await queues.drop_recalls(connection, [file for _, file in served])
            if served:
                await mounts.say_idle(connection, one.epoch, idle=False)
            await mounts.say_idle(connection, one.epoch, idle=True)
        if served and one.volume == "E00001":
            self.longest_wait_seconds = max(self.longest_wait_seconds, (now - served[0][0]).total_seconds())


async def run(
    database: Database,
    set_clock: SetClock,
    *,
    steps: int,
    minutes: int = 1,
    rounds: int = 1,
    drives: int = 2,
    others: int = 0,
) -> Site:
    await set_clock(BEGIN)
    site = Site(database, CONFIG, [])
    await site.begin(drives=drives, others=others)
    for number in range(steps):
        now = BEGIN + timedelta(minutes=minutes * number)
        await set_clock(now)
        await site.step(now, minutes, rounds=rounds)
    return site


async def test_with_a_drive_to_spare_the_volume_stays_where_it_is(database: Database, set_clock: SetClock) -> None:
    site = await run(database, set_clock, steps=12)
    assert site.mounted_times["E00001"] <= 2
    assert site.longest_wait_seconds <= 120


async def test_a_library_that_mounts_in_no_time_need_not_mount_for_each_of_them(
    database: Database, set_clock: SetClock
) -> None:
    site = await run(database, set_clock, steps=8, rounds=3)
    assert site.mounted_times["E00001"] <= 2


async def test_when_others_want_the_drive_it_rests_between_its_mounts(database: Database, set_clock: SetClock) -> None:
    site = await run(database, set_clock, steps=18, minutes=2, drives=1, others=20)
    # Four an hour.
    assert site.mounted_times["E00001"] <= 3
    assert sum(site.mounted_times.values()) >= 6
    assert site.longest_wait_seconds <= 1200
