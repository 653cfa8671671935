"""The planning loops: one planner per library, by lease, which asks the pure planner and writes mount rows.

What is worth a mount is the planner's to say; here it is only carried out. A decision takes a look, a plan and one
transaction under the lease's guard; what has come and gone since is told to the picture beside that, and so is why the
others wait (`LibraryPlanner`). Many tape servers may run this for the same library: whoever holds the lease decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from catalog import volumes
from catalog.attempts import attempt
from catalog.database import PLANNER, QUEUES, Database
from catalog.errors import CapstanError
from tapeserver import garbage
from tapeserver.config import Config
from tapeserver.libraryplanner import LibraryPlanner

#: new libraries are found within so many rounds of the decisions' own net
LIBRARIES_ROUNDS = 5
#: what `heard` is to be told of
PLANNING_CHANNELS = (PLANNER, QUEUES)
_RELEASE_SECONDS_MAX = 0.5


class PlanningLoop:
    """All libraries whose lease this tape server gets. Run `run` as a task; ring `bell` when there may be news."""

    def __init__(self, database: Database, config: Config, *, closing: asyncio.Event) -> None:
        self._database, self._config, self._closing = database, config, closing
        self.bell = asyncio.Event()
        self._planners: dict[str, LibraryPlanner] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def planned_libraries(self) -> list[str]:
        """Libraries that this tape server decides about now."""
        return sorted(name for name, one in self._planners.items() if one.decides)

    def heard(self, channels: frozenset[str]) -> None:
        """News on these channels. What waits is only learnt of: a storm of requests does not ask for a decision with
        each wake-up, and who learns of them knows whether one is due."""
        if PLANNER in channels:
            self.bell.set()
        elif QUEUES in channels:
            for planner in self._planners.values():
                planner.learning.set()

    async def run(self) -> None:
        with garbage.left_to_us():
            try:
                await self._rounds()
            finally:
                await self._let_go()

    async def _rounds(self) -> None:
        look_at, loop = 0.0, asyncio.get_running_loop()
        sweep_at = loop.time() + garbage.SWEEP_SECONDS
        while not self._closing.is_set():
            if loop.time() >= look_at and await attempt("planning", self._find_libraries, step="libraries"):
                look_at = loop.time() + LIBRARIES_ROUNDS * self._config.planning_interval_seconds
            await self._rest()
            if loop.time() >= sweep_at:
                for planner in self._planners.values():
                    await planner.quiet()
                garbage.sweep()
                sweep_at = loop.time() + garbage.SWEEP_SECONDS

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._config.planning_interval_seconds):
                await self.bell.wait()
        except TimeoutError:
            pass
        self.bell.clear()
        for planner in self._planners.values():
            planner.ring()

    async def _find_libraries(self) -> None:
        async with self._database.connection() as connection:
            libraries = [one.name for one in await volumes.list_libraries(connection)]
        for name in libraries:
            if name not in self._planners:
                planner = self._planners[name] = LibraryPlanner(self._database, self._config, name)
                for work, what in ((planner.decide, "planning"), (planner.learn, "learning")):
                    bell = planner.deciding if work == planner.decide else planner.learning
                    self._tasks.append(asyncio.create_task(self._for_ever(what, bell, work), name=f"{what}-{name}"))

    async def _for_ever(self, what: str, bell: asyncio.Event, work: Callable[[], Awaitable[object]]) -> None:
        while not self._closing.is_set():
            bell.clear()
            await attempt("planning", work, step=what)
            try:
                async with asyncio.timeout(self._config.planning_interval_seconds):
                    await bell.wait()
            except TimeoutError:
                continue

    async def _let_go(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for planner in self._planners.values():
            try:
                async with asyncio.timeout(_RELEASE_SECONDS_MAX):
                    await planner.close()
            except (CapstanError, OSError, TimeoutError):
                # The lease runs out by itself.
                continue
