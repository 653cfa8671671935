"""Promises of the planning loops' bells: who hears of what, and what they do then. The net below them is off here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from catalog import endings, mounts, queues
from catalog.database import PLANNER, QUEUES, Database
from tapeserver.config import Config
from tapeserver.planning import PLANNING_CHANNELS, PlanningLoop
from tests.store.media import mounted, twenty_on_tape, two_libraries

NEVER_SECONDS = 3600.0
WAIT_SECONDS = 20.0


@pytest.fixture
async def files(database: Database) -> list[int]:
    """Twenty, ten each on E00001 and E00002, in a library with two drives that a tape server has."""
    async with database.transaction() as connection:
        return await twenty_on_tape(connection)


@asynccontextmanager
async def planning(database: Database) -> AsyncIterator[PlanningLoop]:
    """At work, and told what is heard, until it is left; it looks at nothing by itself."""
    config = Config(name="ts", planning_interval_seconds=NEVER_SECONDS, drive_silence_seconds=NEVER_SECONDS)
    closing = asyncio.Event()
    loop = PlanningLoop(database, config, closing=closing)

    async def ring() -> None:
        async with database.listen(PLANNING_CHANNELS) as wakeups:
            while True:
                loop.heard(await wakeups.wait(PLANNING_CHANNELS, NEVER_SECONDS))

    tasks = [asyncio.create_task(loop.run()), asyncio.create_task(ring())]
    try:
        yield loop
    finally:
        closing.set()
        loop.bell.set()
        await tasks[0]
        tasks[1].cancel()
        with suppress(asyncio.CancelledError):
            await tasks[1]


async def ask(database: Database, files: list[int]) -> None:
    async with database.transaction() as connection:
        await queues.request_recalls(connection, files, owner="ann", group="cms")


async def until_mounted(database: Database, volumes: set[str]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            async with database.connection() as connection:
                if {one.volume for one in await mounts.list_mounts(connection)} == volumes:
                    return
            await asyncio.sleep(0.01)


async def test_what_waits_is_mounted_in_a_free_drive_though_only_the_queues_were_told_of(
    database: Database, files: list[int]
) -> None:
    await ask(database, files[:3])
    async with planning(database):
        # The listener is there: whoever has just connected is told once.
        await until_mounted(database, {"E00001"})
        await ask(database, files[10:])
        database.wake(QUEUES)
        await until_mounted(database, {"E00001", "E00002"})


async def test_what_waits_is_no_reason_to_decide_before_it_is_learnt_of(database: Database, files: list[int]) -> None:
    async with planning(database) as loop:
        await ask(database, files[:3])
        database.wake(QUEUES)
        await until_mounted(database, {"E00001"})
        [planner] = [one for one in loop._planners.values() if one.library == "east"]
        planner.deciding.clear()
        planner.learning.clear()
        loop.heard(frozenset({QUEUES}))
        assert (planner.deciding.is_set(), planner.learning.is_set()) == (False, True)
        assert not loop.bell.is_set()


async def test_the_end_of_a_mount_wakes_planners_with_its_commit_and_not_before(database: Database) -> None:
    async with database.listen([PLANNER]) as wakeups:
        assert await wakeups.wait(PLANNER, WAIT_SECONDS)
        async with database.transaction() as connection:
            await two_libraries(connection)
            epoch = await mounted(connection, "E00001", "east1")
        async with database.transaction() as connection:
            assert await endings.end_mount(connection, epoch, "done")
            assert not await wakeups.wait(PLANNER, 0.05)
        assert await wakeups.wait(PLANNER, WAIT_SECONDS)
        async with database.transaction() as connection:
            assert not await endings.end_mount(connection, epoch, "again")
        assert not await wakeups.wait(PLANNER, 0.05)
